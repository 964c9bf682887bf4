"""What the kernel tells about this machine and its processes.

The only module that reads the load average and /proc. psutil reads what it knows to read; the
number of runnable threads, a pid namespace, the type of a file system and whose job a process
belongs to it does not.
"""

from __future__ import annotations

import functools
import os
import platform
import re
import resource
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from pmjq.keeper import RLIMIT_LOCKS, mark
from pmjq.node import Machine, Reading

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

NETWORK = frozenset(
    {
        "nfs",
        "nfs4",
        "cifs",
        "smb3",
        "smbfs",
        "ceph",
        "glusterfs",
        "lustre",
        "gpfs",
        "beegfs",
        "afs",
        "9p",
        "virtiofs",
        "ocfs2",
        "gfs2",
        "orangefs",
        "panfs",
        "davfs",
    }
)
"""File systems that other machines may write.

On these the kernel cannot tell whether a file is still open.
"""

DEEPEST_TREE = 256
"""Generations of processes looked through: parents may change while they are read."""

START_FIELD = 19
"""Index of the start time in /proc/PID/stat behind the name; field 22 in proc(5)."""


def reading() -> Reading:
    """Look at the machine."""
    return Reading(load=psutil.getloadavg()[0], runnable=_runnable(), cpus=_cpus())


@functools.cache
def usable_cpus() -> int:
    """Return how many CPUs this process may use: affinity, and the quota of its control group."""
    allowed = len(os.sched_getaffinity(0))
    quota = _quota()
    return max(1, min(allowed, quota)) if quota else allowed


def cpu_numbers() -> tuple[int, ...]:
    """Return the numbers of the CPUs that this process may use."""
    return tuple(sorted(os.sched_getaffinity(0)))


def gpus(devices: str = "/dev", driver: str = "/proc/driver/nvidia/gpus") -> int:
    """Return how many GPUs there are, as the device files and the driver of one maker tell."""
    files = [name for name in _names(devices) if re.fullmatch(r"nvidia\d+", name)]
    return max(len(files), len(_names(driver)))


def memory() -> int:
    """Return the bytes of memory of this machine."""
    return int(psutil.virtual_memory().total)


def machine() -> Machine:
    """Return what tells this machine, boot and process from all others."""
    pid = os.getpid()
    return Machine(
        machine=_text("/etc/machine-id") or _text("/var/lib/dbus/machine-id") or platform.node(),
        boot=_text("/proc/sys/kernel/random/boot_id") or "unknown",
        space=_link("/proc/self/ns/pid"),
        pid=pid,
        start=start_time(pid),
        host=platform.node(),
        booted=time.time() - time.clock_gettime(time.CLOCK_BOOTTIME),
    )


def start_time(pid: int) -> int:
    """Return when a process started, in clock ticks since boot; 0 if there is none.

    A zombie counts as none.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b") ")[2].split()
    except OSError:
        return 0
    if len(fields) <= START_FIELD or fields[0] in (b"Z", b"X"):
        return 0
    return int(fields[START_FIELD])


def age(start: int) -> float:
    """Return for how many seconds a process is there that started then, in clock ticks since boot.

    Whatever has been done to the time of day since.
    """
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - start / os.sysconf("SC_CLK_TCK"))


def alive(pid: int, start: int) -> bool:
    """Tell whether a process is still there: a pid alone may have been given to another."""
    return pid > 0 and start > 0 and start_time(pid) == start


def user(pid: int) -> int:
    """Return the real user of a process, 0 if that is not to be known."""
    for line in _text(f"/proc/{pid}/status").splitlines():
        if line.startswith("Uid:"):
            return int(line.split()[1])
    return 0


def in_disk_sleep(thread: int) -> bool:
    """Tell whether a thread of this process waits in the kernel as only a disk lets it."""
    fields = _text(f"/proc/self/task/{thread}/stat").rpartition(") ")[2].split()
    return fields[:1] == ["D"]


def members(
    ids: set[str],
    leaders: Mapping[str, int],
    keepers: Collection[int] = (),
    owners: Mapping[str, int] | None = None,
) -> dict[str, list[int]]:
    """Return the processes of jobs by id, in one pass over /proc.

    Those of a job are its session, whoever has its mark or its PMJQ_ID, and the descendants of
    all these. ``leaders``: the pids of their first processes, by id; 0 where that is not known.
    ``keepers`` belong to no job: one that is just starting a job has its mark for that moment.
    ``owners``: whose the jobs are, by id, of those that another user runs: his processes alone can
    have their marks and ids, which anybody may give to his own.
    """
    by_session = {pid: job_id for job_id, pid in leaders.items() if pid}
    by_mark = {mark(job_id): job_id for job_id in ids}
    by_mark.pop(0, None)
    strangers = {os.getpid(), *keepers}
    parents: dict[int, int] = {}
    owner: dict[int, str] = {}
    for process in psutil.process_iter(["ppid"]):
        pid = process.pid
        parents[pid] = process.info["ppid"] or 0
        if pid in strangers:
            continue
        job_id = by_session.get(_session(pid)) or ""
        if not job_id:
            job_id = by_mark.get(_mark(pid)) or _environment_id(pid)
            if owners and job_id in owners and user(pid) != owners[job_id]:
                continue
        if job_id in ids:
            owner[pid] = job_id
    for pid in parents:
        line: int = pid
        seen: list[int] = []
        while line and line not in owner and line not in strangers and len(seen) < DEEPEST_TREE:
            seen.append(line)
            line = parents.get(line, 0)
        if line in owner:
            owner.update(dict.fromkeys(seen, owner[line]))
    found: dict[str, list[int]] = {job_id: [] for job_id in ids}
    for pid, job_id in owner.items():
        found[job_id].append(pid)
    return found


def file_system(path: str) -> str:
    """Return the type of the file system that a path is on; empty if unknown.

    Types are named as in /proc/mounts.
    """
    real = os.path.realpath(path)
    device = os.stat(real).st_dev
    best, found = "", ""
    for mount in psutil.disk_partitions(all=True):
        point = mount.mountpoint
        below = real == point or real.startswith(point.rstrip("/") + "/")
        if below and len(point) >= len(best) and _same_device(point, device):
            best, found = point, mount.fstype
    return found


def shared(kind: str) -> bool:
    """Tell whether a type of file system may be written by other machines; FUSE ones often are."""
    return kind in NETWORK or kind.startswith(("fuse.", "nfs")) or kind == "fuse"


def _same_device(path: str, device: int) -> bool:
    try:
        return os.stat(path).st_dev == device
    except OSError:
        return False


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except OSError:
        return 0


def _mark(pid: int) -> int:
    """Return the soft limit of file locks of a process; 0 if that is not to be known."""
    try:
        return resource.prlimit(pid, RLIMIT_LOCKS)[0]
    except PermissionError:
        # Of another user, which a program that is set-user-id makes a job's process.
        for line in _text(f"/proc/{pid}/limits").splitlines():
            if line.startswith("Max file locks"):
                soft = line.split()[3]
                return int(soft) if soft.isdigit() else 0
    except OSError:
        pass
    return 0


def _environment_id(pid: int) -> str:
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return ""
    _, _, rest = (b"\0" + environment).partition(b"\0PMJQ_ID=")
    return rest.partition(b"\0")[0].decode("ascii", "replace")


def _runnable() -> int:
    try:
        with open("/proc/loadavg", "rb") as file:  # once per turn, Path costs twice the read
            return int(file.read().split()[3].partition(b"/")[0])
    except (OSError, IndexError, ValueError):
        return 1


@functools.cache
def _cpus() -> int:
    return psutil.cpu_count() or 1


def _quota() -> int:
    match _text("/sys/fs/cgroup/cpu.max").split():
        case [quota, period] if quota.isdigit():
            return -(-int(quota) // int(period))
    return 0


def _names(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except OSError:
        return []


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""
