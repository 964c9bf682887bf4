"""Control groups, version 2: the part of their tree that was delegated to this daemon.

What holds a job to its memory and CPUs is a group of its own, ``job-ID.N``. In a group that has
such children there may be no processes, so the daemon moves into a child, ``pmjq``, before it
turns controllers on; its keepers, and jobs that ask for nothing, are in there with it. Several
daemons of one user may share all that.

Where the daemon's group is not its own to divide it is left as it is: other processes are in it,
we may not write it, or it belongs to a service that would start the next daemon right there, where
none can be any more while a job goes on. ``DelegateSubgroup=pmjq`` of systemd starts it in the
child instead, and then all is well.

The only module that knows the tree; what is written for a job, ``pmjq.confines`` says.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from pmjq.becoming import removed
from pmjq.confines import CONTROLLERS, Tree, job_of

if TYPE_CHECKING:
    from collections.abc import Collection

LEAF = "pmjq"
"""The child that the daemon is in."""

SHARE = 2
"""No job may have more than this part of all the processes that there may be: one half."""


def take(me: str = "/proc/self", kernel: str = "/proc/sys/kernel") -> Tree:
    """Take the control group that this process is in, to divide it among jobs.

    A tree without a path tells why there is none.
    """
    own = _own(me)
    if own is None:
        return Tree(reason="no control groups, version 2, are mounted")
    path = own.parent if own.name == LEAF else own
    offered = set(_words(path / "cgroup.controllers")) & set(CONTROLLERS)
    if reason := _not_ours(own, path, offered):
        return Tree(reason=reason)
    try:
        _move(path / LEAF)
    except OSError as error:
        return Tree(reason=f"{path / LEAF}: {error.strerror}")
    for controller in sorted(offered):
        with contextlib.suppress(OSError):
            (path / "cgroup.subtree_control").write_text(f"+{controller}", encoding="ascii")
    on = frozenset(offered.intersection(_words(path / "cgroup.subtree_control", strip="+")))
    if not on:
        with contextlib.suppress(OSError):
            _move(own)
            (path / LEAF).rmdir()
        return Tree(reason=f"{path}: none of {' '.join(sorted(offered))} can be turned on")
    sweep(str(path))
    return Tree(str(path), on, processes=_processes(path, Path(kernel)))


def sweep(path: str) -> None:
    """Remove the groups of jobs that nothing is left of: their keeper is gone, too."""
    for name in _names(path):
        if job_of(name):
            removed(f"{path}/{name}")


def members(tree: Tree, jobs: Collection[str]) -> dict[str, list[int]]:
    """Return the processes in the groups of jobs, by id."""
    found: dict[str, list[int]] = {}
    for name in _names(tree.path):
        if (job_id := job_of(name)) in jobs:
            for word in _words(Path(tree.path, name, "cgroup.procs")):
                found.setdefault(job_id, []).append(int(word))
    return found


def kill(tree: Tree, jobs: Collection[str]) -> None:
    """Kill all that is in the groups of jobs, at once; before Linux 5.14 there is no such call."""
    for name in _names(tree.path):
        if job_of(name) in jobs:
            path = Path(tree.path, name, "cgroup.kill")
            with contextlib.suppress(OSError):
                path.write_text("1", encoding="ascii")


def _own(me: str) -> Path | None:
    """Return the directory of the control group that this process is in."""
    lines = _text(Path(me, "cgroup")).splitlines()
    group = next((line[3:] for line in lines if line.startswith("0::")), None)
    for line in _text(Path(me, "mountinfo")).splitlines():
        fields, _, rest = line.partition(" - ")
        if group is None or not rest.startswith("cgroup2 "):
            continue
        # In a container its own group may be mounted where elsewhere the whole tree is.
        root, point = fields.split()[3:5]
        below = group.removeprefix("" if root == "/" else root)
        path = Path(point, below.lstrip("/"))
        if path.is_dir():
            return path
    return None


def _not_ours(own: Path, path: Path, offered: set[str]) -> str:
    """Return why a group is not to be divided."""
    if not offered:
        return f"{path}: offers none of {' '.join(CONTROLLERS)}"
    if own == path and path.suffix == ".service":
        return f"{path}: the service has no DelegateSubgroup={LEAF}"
    if path.suffix == ".scope" and not _delegated(path):
        return f"{path}: is not delegated"
    needed = (path, path / "cgroup.procs", path / "cgroup.subtree_control")
    if not all(os.access(each, os.W_OK) for each in needed):
        return f"{path}: this user may not write it"
    others = set(_words(path / "cgroup.procs")) - {str(os.getpid())}
    # In the root of the whole tree, which has no type, processes do no harm.
    if others and (path / "cgroup.type").exists():
        return f"{path}: other processes are in it"
    return ""


def _delegated(path: Path) -> bool:
    """Tell whether systemd says of a group that it leaves it alone."""
    for attribute in ("trusted.delegate", "user.delegate"):
        with contextlib.suppress(OSError):
            if os.getxattr(path, attribute) == b"1":
                return True
    return os.geteuid() != 0


def _move(path: Path) -> None:
    path.mkdir(exist_ok=True)
    (path / "cgroup.procs").write_text("0", encoding="ascii")


def _processes(path: Path, kernel: Path) -> int:
    """Return how many processes one job may have, so that others can have some as well."""
    files = (path / "pids.max", kernel / "pid_max", kernel / "threads-max")
    most = [int(word) for file in files for word in _words(file) if word.isdigit()]
    return max(1, min(most, default=1 << 15) // SHARE)


def _names(path: str) -> list[str]:
    if not path:
        return []
    with contextlib.suppress(OSError):
        return os.listdir(path)
    return []


def _words(path: Path, strip: str = "") -> list[str]:
    return [word.strip(strip) if strip else word for word in _text(path).split()]


def _text(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text(encoding="utf-8", errors="replace")
    return ""
