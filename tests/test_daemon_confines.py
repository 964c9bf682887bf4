"""Jobs that take more than they may, beside others that must not notice: real processes."""

from __future__ import annotations

import errno
import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import Say
from live import Live, eventually
from pmjq import probe
from pmjq.process import Ended, Order, Processes, Report
from pmjq.state import State
from values import ID

TOOK = "import mmap; data = [b'x' * (1 << 20) for _ in range({})]; print('took', len(data))"


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """Return a daemon that most tests of this module share."""
    root = tmp_path_factory.mktemp("shared")
    with Live(root, "-j", "8", "--cpus", "8", "--memory", "8G") as daemon:
        if not daemon.said("daemon.started")["cgroup"].startswith("none: "):
            pytest.skip("a control group is delegated here: lab/test_cgroups tests that")
        yield daemon


def job(live: Live, name: str, words: str, text: str) -> None:
    """Drop a job that asks for something."""
    live.drop(name, f"#!/bin/sh\n#PMJQ {words}\n{live.side_effect(name)}{text}")


def test_memory_hog(live: Live) -> None:
    """It gets no more than it asked for, and is told so; its neighbour goes on."""
    gate = live.gate("neighbour")
    job(live, "neighbour", "memory=200M", f'{gate.wait}exec python3 -c "{TOOK.format(20)}"\n')
    eventually(lambda: live.runs("neighbour"))
    job(live, "hog", "memory=200M", f'exec python3 -c "{TOOK.format(1000)}"\n')
    hog = live.ended("hog")
    assert (hog.record.state, hog.record.enforced) == (State.FAILED, {"memory": "rlimit"})
    assert "MemoryError" in hog.text
    assert hog.record.max_rss is not None
    assert hog.record.max_rss < 250 << 20
    gate.open()
    assert live.ended("neighbour").text == "took 20\n"


def test_memory_that_is_reserved_only(live: Live) -> None:
    """Addresses are not memory: what runtimes reserve and do not use does not count."""
    reserve = "import mmap; mmap.mmap(-1, 8 << 30, mmap.MAP_PRIVATE, 0); print('reserved')"
    job(live, "reserves", "memory=200M", f'exec python3 -c "{reserve}"\n')
    assert live.ended("reserves").text == "reserved\n"


def test_cpus(live: Live) -> None:
    """A job stays on the CPUs that it was given, and its record names them."""
    job(live, "one", "cpus=1", "exec python3 -c 'import os; print(*os.sched_getaffinity(0))'\n")
    record = live.ended("one").record
    assert record.enforced == {"cpus": "affinity"}
    assert live.ended("one").text.split() == [str(number) for number in record.cpus]
    assert len(record.cpus) == 1
    assert set(record.cpus) <= set(probe.cpu_numbers())


@pytest.mark.skipif(len(probe.cpu_numbers()) < 2, reason="there is one CPU only")
def test_cpus_are_distinct(tmp_path: Path) -> None:
    """Two jobs of one CPU each have one each, also when another daemon starts the second."""
    with Live(tmp_path, "-j", "2") as live:
        gates = [live.gate(name) for name in ("a", "b")]
        for number, name in enumerate(("a", "b")):
            job(live, name, "cpus=1", gates[number].wait)
            eventually(lambda name=name: live.runs(name))  # type: ignore[misc]  # bound at once
            live.kill()
            live.start()
        for gate in gates:
            gate.open()
        assert {*live.ended("a").record.cpus} & {*live.ended("b").record.cpus} == set()


def test_time_hog(live: Live) -> None:
    """It computes on every CPU, and is ended with all that it started."""
    job(live, "busy", "time=1", "for i in 1 2 3; do (while :; do :; done) & done; wait\n")
    assert live.ended("busy").record.reason == "ended, since its time of 1 s was over"
    assert not live.jobs()


@pytest.mark.parametrize("writer", ["cat /dev/zero", "dd if=/dev/zero bs=1M count=10240"])
def test_ten_gigabytes_of_output(live: Live, writer: str, say: Say) -> None:
    """Who writes them is ended within a second, before the disk is full of it."""
    most = 100 << 20
    name = writer.split(maxsplit=1)[0]
    full = live.side / f"full.{name}"
    text = f"head -c {most} /dev/zero; date +%s.%N >'{full}'; exec {writer}\n"
    job(live, name, "output-limit=100M", text)
    filed = live.ended(name, within=60)
    over = filed.record.ended.timestamp() - float(full.read_text())
    size = filed.path.with_name(filed.path.name + ".out").stat().st_size
    say(f"{writer}: ended {over:.2f} s after it was full, {size >> 20} MB written")
    assert filed.record.reason.startswith("ended, since it wrote more than its output-limit")
    assert filed.record.signal == signal.SIGKILL
    # A second on a machine that has time for it.
    assert over < 3
    assert most < size < 10 << 30
    filed.path.with_name(filed.path.name + ".out").unlink()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")
def test_fork_bomb_of_a_user(tmp_path: Path) -> None:
    """It has as many processes as a login of that user may have, and no more; root is not held."""
    # Nobody else's: all processes of a user count, and nobody has some in tests beside this one.
    uid, most = 1 << 30 | os.getpid(), 20
    bomb = "n=0; while [ $n -lt 200 ]; do sleep 30 & n=$((n + 1)); done"
    order = Order(
        (ID, 1),
        "/bin/sh",
        ["/bin/sh", "-c", bomb],
        "/",
        str(tmp_path / "out"),
        str(tmp_path / "status"),
        {"PATH": os.defpath, "PMJQ_ID": ID},
        0,
        {
            "limits": [(resource.RLIMIT_NPROC, most, most)],
            "uid": uid,
            "gid": uid,
            "groups": [],
            "enforced": "",
        },
    )
    processes, reports = Processes(), list[Report]()

    def heard() -> bool:
        reports.extend(processes.reports())
        return any(isinstance(each, Ended) for each in reports)

    try:
        processes.start([order], [], 1)
        eventually(heard)
        assert "ork" in (tmp_path / "out").read_text()
        members = processes._members({ID})[ID]
        assert 10 <= len(members) <= 20
        assert os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0)[1] == 0
    finally:
        processes.signal({ID: 0}, signal.SIGKILL, {})
        eventually(lambda: not processes.left({ID: 0}))
        processes.close()


def test_control_group_that_is_gone(tmp_path: Path) -> None:
    """It is not the job's own fault: the job can be tried again."""
    (tmp_path / "group").mkdir()
    (tmp_path / "group" / "cgroup.procs").mkdir()
    order = Order(
        (ID, 1),
        "/bin/true",
        ["true"],
        "/",
        str(tmp_path / "out"),
        str(tmp_path / "status"),
        {},
        0,
        {"cgroup": str(tmp_path / "group"), "files": {"memory.oom.group": "1"}, "enforced": "x=y"},
    )
    processes = Processes()
    try:
        processes.start([order], [], 1)
        status = tmp_path / "status"
        eventually(lambda: status.exists() and "noexec" in status.read_text())
        assert f"noexec {errno.EAGAIN} " in status.read_text()
        assert " x=y\n" in status.read_text()
    finally:
        processes.close()
