"""The rules of what the kernel tells: asked of the real one."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import threading
from pathlib import Path

import msgspec
import psutil
import pytest

from conftest import eventually
from pmjq import probe
from pmjq.keeper import RLIMIT_LOCKS, mark
from pmjq.node import Machine
from values import ID


def test_reading_is_the_kernels() -> None:
    """Load average, runnable threads and CPUs are those of the whole machine."""
    reading = probe.reading()
    assert reading.load >= 0
    assert reading.runnable >= 1
    assert reading.cpus == psutil.cpu_count()


def test_usable_cpus_are_some_of_those_online() -> None:
    """Affinity and quota can only take CPUs away, and never the last one."""
    assert 1 <= probe.usable_cpus() <= len(os.sched_getaffinity(0))


def test_usable_cpus_obey_affinity() -> None:
    """A daemon that may use one CPU has one slot."""
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from pmjq import probe; print(probe.usable_cpus())"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert found.stdout == "1\n"


@pytest.mark.parametrize(
    ("text", "cpus"),
    [
        ("max 100000", 0),
        ("150000 100000", 2),
        ("50000 100000", 1),
        ("400000 100000", 4),
        ("", 0),
        ("odd", 0),
        ("-1 100000", 0),
    ],
)
def test_quota_of_a_control_group(text: str, cpus: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container's quota is rounded up to whole CPUs; none is no limit."""
    monkeypatch.setattr(probe, "_text", lambda path: text)
    assert probe._quota() == cpus


def test_what_the_system_does_not_tell() -> None:
    """Files that are missing in /proc and /sys, as in a container, are empty."""
    assert (probe._text("/proc/nope"), probe._link("/proc/nope")) == ("", "")
    assert not probe._same_device("/proc/nope", 1)


def test_machine_is_this_one() -> None:
    """What tells machine, boot and pid namespace apart is all there."""
    me, again = probe.machine(), probe.machine()
    assert me == msgspec.structs.replace(again, booted=me.booted)
    # Two clocks are read one after the other.
    assert me.booted == pytest.approx(again.booted, abs=60)
    assert (me.pid, me.start) == (os.getpid(), probe.start_time(os.getpid()))
    assert me.boot == Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    assert me.space == os.readlink("/proc/self/ns/pid")
    assert me.machine
    assert isinstance(me, Machine)


def test_start_time_is_field_22() -> None:
    """Start times are clock ticks since boot, so no clock that is set changes them."""
    ticks = os.sysconf("SC_CLK_TCK")
    started = psutil.Process().create_time() - psutil.boot_time()
    assert probe.start_time(os.getpid()) / ticks == pytest.approx(started, abs=2)


@pytest.mark.parametrize("name", ["plain", "odd) Z 1 2", "sp ace", "new\nline"])
def test_start_time_whatever_the_name(tmp_path: Path, name: str) -> None:
    """A program's name may hold anything that a line of /proc/PID/stat is made of."""
    program = tmp_path / name
    program.symlink_to("/bin/sleep")
    with subprocess.Popen([program, "60"]) as process:
        assert probe.start_time(process.pid) >= probe.start_time(os.getpid()) > 0
        process.kill()


def test_alive_until_it_ends() -> None:
    """A process is alive until it ends, even where nobody has reaped it."""
    with subprocess.Popen(["/bin/sleep", "60"]) as process:
        start = probe.start_time(process.pid)
        assert probe.alive(process.pid, start)
        assert not probe.alive(process.pid, start + 1)
        assert not probe.alive(process.pid, 0)
        process.kill()
        assert eventually(lambda: not probe.alive(process.pid, start))
        assert psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE
    assert probe.start_time(process.pid) == 0


@pytest.mark.parametrize("pid", [0, -1, 2**22 + 1])
def test_no_process(pid: int) -> None:
    """A pid that names no process has no start and is not alive."""
    assert probe.start_time(pid) == 0
    assert not probe.alive(pid, 0)
    assert not probe.alive(pid, 5)


SLEEPS = ["/bin/sleep", "60"]


def test_members_are_told_by_session_mark_or_environment() -> None:
    """Any of these makes a process a job's, and so its descendants; nothing else does."""
    with (
        subprocess.Popen(SLEEPS, start_new_session=True) as led,
        subprocess.Popen(SLEEPS, env={}) as bare,
        subprocess.Popen(SLEEPS, env={"A": "1", "PMJQ_ID": ID}) as named,
        subprocess.Popen(SLEEPS, env={"PMJQ_ID": f"{ID}0"}) as other,
    ):
        resource.prlimit(bare.pid, RLIMIT_LOCKS, (mark(ID), resource.RLIM_INFINITY))
        leading = probe.members({ID}, {ID: led.pid})[ID]
        assert set(leading) == {led.pid, bare.pid, named.pid}
        assert set(probe.members({ID}, {})[ID]) == {bare.pid, named.pid}
        assert probe.members({ID}, {}, {bare.pid})[ID] == [named.pid]
        assert probe.members({"9"}, {}) == {"9": []}
        for process in (led, bare, named, other):
            process.kill()


def test_mark_of_a_process_that_may_not_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A set-user-id program's is read where everybody may read it; that of nobody is none."""

    def refuse(*_: object) -> None:
        raise PermissionError

    before = resource.getrlimit(RLIMIT_LOCKS)
    monkeypatch.setattr(resource, "prlimit", refuse)
    assert probe._mark(os.getpid()) == 0
    resource.setrlimit(RLIMIT_LOCKS, (mark(ID), before[1]))
    try:
        assert probe._mark(os.getpid()) == mark(ID)
    finally:
        resource.setrlimit(RLIMIT_LOCKS, before)
    assert probe._mark(2**22 + 1) == 0


def test_no_thread_that_runs_is_in_disk_sleep() -> None:
    """Nor is one that is not there."""
    assert not probe.in_disk_sleep(threading.get_native_id())
    assert not probe.in_disk_sleep(0)


@pytest.mark.parametrize(("state", "expected"), [("D", True), ("S", False), ("R", False)])
def test_disk_sleep_is_a_state(
    state: str, monkeypatch: pytest.MonkeyPatch, *, expected: bool
) -> None:
    """The kernel tells it, behind a name that may hold anything."""
    monkeypatch.setattr(probe, "_text", lambda _: f"7 (odd) D 1) {state} 1 2 3")
    assert probe.in_disk_sleep(7) is expected


def test_file_system_is_that_of_the_mount(tmp_path: Path) -> None:
    """The longest mount point above a path tells its file system, through symbolic links too."""
    link = tmp_path / "link"
    link.symlink_to("/proc/self")
    assert probe.file_system("/proc") == "proc"
    assert probe.file_system("/proc/sys/kernel") == "proc"
    assert probe.file_system(str(link)) == "proc"
    assert probe.file_system(str(tmp_path)) == probe.file_system(str(tmp_path) + "/.")
    assert probe.file_system(str(tmp_path)) not in {"", "proc"}


def test_file_system_of_nothing(tmp_path: Path) -> None:
    """Asking of a path that is not there is a mistake."""
    with pytest.raises(FileNotFoundError):
        probe.file_system(str(tmp_path / "missing"))


@pytest.mark.parametrize(
    "kind", ["nfs", "nfs4", "cifs", "smb3", "ceph", "9p", "fuse.sshfs", "fuse"]
)
def test_shared(kind: str) -> None:
    """On these another machine may be writing, and nothing tells."""
    assert probe.shared(kind)


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "tmpfs", "zfs", "overlay", "fuseblk", ""])
def test_not_shared(kind: str) -> None:
    """On these the kernel knows every writer."""
    assert not probe.shared(kind)
