"""One daemon per node, spool and machine: a lock on the local disk.

Never on the spool: locks are shared by three winners on some network file systems
(pmjq-spool(5)). And never in a place that depends on the environment, or a daemon started by cron
and one started from a login would not meet: root's locks are in /run/pmjq, everybody else's in
/tmp/pmjq-UID. The kernel gives the lock back however the daemon ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import stat
from pathlib import Path

from pmjq.errors import ConfigurationError, TryLaterError


def place() -> Path:
    """Return the directory of this user's locks."""
    uid = os.geteuid()
    return Path("/run/pmjq") if uid == 0 else Path(f"/tmp/pmjq-{uid}")  # noqa: S108  # checked below


def acquire(spool_uuid: str, node: str) -> int:
    """Take the lock and return its descriptor; TryLaterError if another daemon has it.

    Raises ConfigurationError if the directory of the locks is somebody else's.
    """
    directory = place()
    with contextlib.suppress(FileExistsError):
        directory.mkdir(mode=0o700)
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise ConfigurationError(
            f"{directory}: must be a directory that only this user can write; "
            "remove it and start again"
        )
    digest = hashlib.sha256(f"{spool_uuid}/{node}".encode()).hexdigest()[:32]
    path = directory / f"{digest}.lock"
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.read(fd, 32).decode("ascii", "replace").strip() or "unknown"
        os.close(fd)
        raise TryLaterError(
            f"node {node} is running here already as process {holder};"
            " stop that one or give this one another --node"
        ) from error
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    return fd
