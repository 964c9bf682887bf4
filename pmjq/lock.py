"""One daemon per node, spool and machine: a lock on the local disk.

Never on the spool: locks are shared by three winners on some network file systems
(pmjq-spool(5)). And never in a place that depends on the environment, or a daemon started by cron
and one started from a login would not meet. Root's locks are in /run/pmjq. Everybody else has
/run/user/UID while he is logged in; /tmp/pmjq-UID, which a stranger may have made before him and
he cannot remove; and .cache/pmjq in his home.

A daemon takes the lock in each of these that there is, and makes the first it can of the last two,
which stay when he logs out. So two that start at once meet, unless a place has come or gone between
them. Those that do not meet at a lock meet in the spool: the first one's ``node.json`` names a
process of this machine that lives (``pmjq.recovery``).

The kernel gives the lock back however the daemon ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import pwd
import stat
from pathlib import Path

from pmjq.errors import ConfigurationError, TryLaterError


class _UnfitError(Exception):
    """Say why a directory cannot hold this user's locks."""


def passing() -> list[Path]:
    """Return the directories of this user's locks that may come and go."""
    uid = os.geteuid()
    return [] if uid == 0 else [Path(f"/run/user/{uid}/pmjq")]


def lasting() -> list[Path]:
    """Return the directories of this user's locks of which there is to be one, the best first."""
    uid = os.geteuid()
    if uid == 0:
        return [Path("/run/pmjq")]
    found = [Path(f"/tmp/pmjq-{uid}")]  # noqa: S108  # checked below
    with contextlib.suppress(KeyError):
        found.append(Path(pwd.getpwuid(uid).pw_dir).resolve() / ".cache" / "pmjq")
    return found


def acquire(spool_uuid: str, node: str) -> list[int]:
    """Take the lock and return its descriptors; TryLaterError if another daemon has it.

    Raises ConfigurationError if no directory can hold it.
    """
    name = hashlib.sha256(f"{spool_uuid}/{node}".encode()).hexdigest()[:32] + ".lock"
    held: list[int] = []
    try:
        reasons = _take(held, name, node)
    except BaseException:
        release(held)
        raise
    if not held:
        raise ConfigurationError(
            f"no place for the lock of node {node}: {'; '.join(reasons)}; "
            "have one of them mended or removed"
        )
    return held


def _take(held: list[int], name: str, node: str) -> list[str]:
    """Add to ``held`` the lock in each place; return what is wrong with the others."""
    reasons: list[str] = []
    stays = False
    for directory in (*passing(), *lasting()):
        lasts = directory not in passing()
        if stays and not os.path.lexists(directory):
            continue
        try:
            held.append(_taken(directory, name, node))
            stays = stays or lasts
        except _UnfitError as error:
            reasons.append(f"{directory} {error}")
    return reasons


def release(held: list[int]) -> None:
    """Give a lock back."""
    for fd in held:
        os.close(fd)


def _taken(directory: Path, name: str, node: str) -> int:
    """Take the lock in one directory; _UnfitError if that cannot hold it."""
    try:
        _make(directory)
        fd = os.open(directory / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise _UnfitError(f"cannot be used ({error.strerror})") from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(fd, 0)
        # A full disk keeps the pid out of it and the lock as good.
        with contextlib.suppress(OSError):
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    except BlockingIOError as error:
        holder = os.read(fd, 32).decode("ascii", "replace").strip() or "unknown"
        os.close(fd)
        raise TryLaterError(
            f"node {node} is running here already as process {holder};"
            " stop that one or give this one another --node"
        ) from error
    except OSError as error:
        os.close(fd)
        raise _UnfitError(f"knows no locks ({error.strerror})") from error
    return fd


def _make(directory: Path) -> None:
    """Make a directory if there is none; _UnfitError if somebody else may take locks away in it."""
    parent = directory.parent
    if parent.name == ".cache":
        # In a home that is another's, or everybody's, it would be no better than in /tmp.
        _own(parent.parent, stat.S_IWOTH)
        with contextlib.suppress(FileExistsError):
            parent.mkdir(mode=0o700)
        _own(parent, stat.S_IWOTH)
    with contextlib.suppress(FileExistsError):
        directory.mkdir(mode=0o700)
    _own(directory, stat.S_IWGRP | stat.S_IWOTH)


def _own(directory: Path, others: int) -> None:
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & others:
        raise _UnfitError("is not a directory that this user alone can write")
