"""One run of a program for the daemon itself: a hook, or the program that sends mail.

It runs in a session of its own and in ``/``, for so many seconds at most; then it is ended with all
of its process group. What it says goes to a piece of memory that takes no more than ``MOST_SAID``
of it: nothing that it writes can fill a disk, and what it leaves in the background can write on.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import select
import signal
import subprocess
import time
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

GRACE = 2.0
"""Seconds between TERM and KILL."""

STEP = 0.05
"""Seconds between two looks whether what was told to end has done so."""

MOST_SAID = 1 << 24
"""Bytes that can be written to its output; what goes beyond fails."""

MOST_TOLD = 2000
"""Bytes of what it said that are told: the last ones."""


class Result(NamedTuple):
    """How it ended: ``code`` as ``subprocess`` has it, None if it was late; what it said."""

    code: int | None
    said: str


def run(
    words: Sequence[str],
    environment: Mapping[str, str],
    patience: float,
    files: int,
    given: bytes = b"",
) -> Result:
    """Run a program to its end; ``given`` is its input, ``files`` how many it may have open.

    OSError or ValueError if it cannot be run.
    """
    said = _paper(MOST_SAID)
    source = subprocess.DEVNULL
    try:
        if given:
            source = os.memfd_create("pmjq-given", os.MFD_CLOEXEC)
            with open(os.dup(source), "wb") as file:
                file.write(given)
            os.lseek(source, 0, os.SEEK_SET)
        process = subprocess.Popen(  # what the node's owner has asked for
            words,
            stdin=source,
            stdout=said,
            stderr=said,
            cwd="/",
            env={name: os.fsencode(value) for name, value in environment.items()},
            start_new_session=True,
        )
        with contextlib.suppress(OSError, ValueError):
            # The daemon has more than is usual, and what uses select(2) may not have.
            hard = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)[1]
            resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (files, hard))
        late = not _ended(process, patience)
        if late:
            _end(process)
        written = os.lseek(said, 0, os.SEEK_CUR)
        told = min(written, MOST_TOLD)
        text = os.pread(said, told, written - told)
    finally:
        os.close(said)
        if source >= 0:
            os.close(source)
    shown = text.decode("utf-8", "backslashreplace").strip()
    return Result(None if late else process.returncode, shown)


def _paper(size: int) -> int:
    """Return a file in memory that does not grow beyond so many bytes."""
    fd = os.memfd_create("pmjq-said", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK)
    return fd


def _ended(process: subprocess.Popen[bytes], patience: float) -> bool:
    """Wait for the end of a process, so many seconds at most; tell whether it has come."""
    pidfd = os.pidfd_open(process.pid)
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        poll.poll(patience * 1000)
    finally:
        os.close(pidfd)
    return process.poll() is not None


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and its group: its shell may be the first to go."""
    until = time.monotonic() + GRACE
    left = _signalled(process.pid, signal.SIGTERM)
    while left and time.monotonic() < until:
        time.sleep(STEP)
        process.poll()
        left = _signalled(process.pid, 0)
    _signalled(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(GRACE)


def _signalled(group: int, number: int) -> bool:
    """Send a signal to a process group; False if nothing is left of it."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
