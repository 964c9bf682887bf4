"""What the kernel tells about this machine and its processes.

The only module that reads the load average and /proc. psutil reads what it knows to read; the
number of runnable threads, a pid namespace and the type of a file system it does not.
"""

from __future__ import annotations

import functools
import os
import platform
import time
from pathlib import Path

import psutil

from pmjq.node import Machine, Reading

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


def alive(pid: int, start: int) -> bool:
    """Tell whether a process is still there: a pid alone may have been given to another."""
    return pid > 0 and start > 0 and start_time(pid) == start


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
