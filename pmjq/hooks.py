"""Commands of the node's owner: run when a job has ended, the queue is idle, a gate stays shut.

They are run one after another by a thread of its own, each in a session of its own, without input,
for ``PATIENCE`` seconds at most. What they say goes to a piece of memory that takes no more than
``MOST_SAID`` of it, and to the log where they fail: nothing that they write can fill a disk, and
what they leave in the background can write on. None of them can delay a turn: one that hangs delays
the other hooks, and the log tells what was left out for it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import select
import signal
import subprocess
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

PATIENCE = 60.0
"""Seconds that a hook may take; then it is ended, with all of its process group."""

GRACE = 2.0
"""Seconds between TERM and KILL for a hook."""

STEP = 0.05
"""Seconds between two looks whether a hook that was told to end has done so."""

MOST_AHEAD = 10_000
"""How many hooks may stand in line; of more than that the log tells how many were left out."""

MOST_SAID = 1 << 24
"""Bytes that a hook can write to its output; what goes beyond fails."""

MOST_TOLD = 2000
"""Bytes of what a failing hook said that go to the log: the last ones."""


class Hook(NamedTuple):
    """One call of a command: what for, the text for /bin/sh, and its environment."""

    occasion: str
    command: str
    environment: Mapping[str, str]


class Hooks:
    """The line of hooks of one daemon; ``wake`` is called when the last of them has ended."""

    def __init__(
        self,
        log: Any,  # noqa: ANN401  # structlog's
        wake: Callable[[], None] = lambda: None,
        patience: float = PATIENCE,
    ) -> None:
        """Run nothing yet."""
        self._log = log
        self._wake = wake
        self._patience = patience
        self._files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._line: deque[Hook] = deque()
        self._changed = threading.Condition()
        self._busy = False
        self._closed = False
        self._left_out = 0

    @property
    def busy(self) -> bool:
        """Tell whether a hook runs or is still to run."""
        return self._busy

    def call(self, hook: Hook) -> None:
        """Have a hook run as soon as those before it have ended; never waits."""
        with self._changed:
            if self._closed or len(self._line) >= MOST_AHEAD:
                self._leave_out(1)
                return
            self._line.append(hook)
            if self._busy:
                return
            self._busy = True
            try:
                threading.Thread(target=self._serve, name="hooks", daemon=True).start()
            except RuntimeError as error:
                # No more threads: what waits is run with the next one that is called.
                self._busy = False
                self._log.error("hook.failed", occasion=hook.occasion, reason=str(error))

    def close(self, patience: float) -> None:
        """Run no more than what runs, and wait for that, so many seconds at most."""
        with self._changed:
            self._closed = True
            self._leave_out(len(self._line))
            self._line.clear()
            self._changed.wait_for(lambda: not self._busy, patience)
            self._tell_left_out()

    def _leave_out(self, hooks: int) -> None:
        self._left_out += hooks
        if hooks and self._left_out == hooks and not self._closed:
            self._log.error("hooks.late", waiting=len(self._line))

    def _tell_left_out(self) -> None:
        if self._left_out:
            self._log.error("hooks.left_out", hooks=self._left_out)
            self._left_out = 0

    def _serve(self) -> None:
        """Run what stands in line; the thread ends with it, and the next call starts another."""
        while True:
            with self._changed:
                if not self._line:
                    self._tell_left_out()
                    self._busy = False
                    self._changed.notify_all()
                    break
                hook = self._line.popleft()
            try:
                self._run(hook)
            except Exception as error:  # noqa: BLE001  # nothing that a hook is given may end this
                self._log.error("hook.failed", occasion=hook.occasion, reason=str(error))
        self._wake()

    def _run(self, hook: Hook) -> None:
        begin = time.monotonic()
        said = _paper()
        try:
            process = subprocess.Popen(  # what the node's owner has asked for
                ["/bin/sh", "-c", hook.command],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                cwd="/",
                env={name: os.fsencode(value) for name, value in hook.environment.items()},
                start_new_session=True,
            )
            with contextlib.suppress(OSError, ValueError):
                # The daemon has more than is usual, and what uses select(2) may not have.
                hard = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)[1]
                resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (self._files, hard))
            late = not _ended(process, self._patience)
            if late:
                _end(process)
            written = os.lseek(said, 0, os.SEEK_CUR)
            told = min(written, MOST_TOLD)
            text = os.pread(said, told, written - told)
        finally:
            os.close(said)
        keys: dict[str, Any] = {
            "occasion": hook.occasion,
            "seconds": round(time.monotonic() - begin, 3),
        }
        shown = text.decode("utf-8", "backslashreplace").strip()
        if late:
            reason = f"took longer than {self._patience:g} s and was ended"
            self._log.error("hook.failed", **keys, reason=reason, said=shown)
        elif process.returncode:
            self._log.error("hook.failed", **keys, exit_code=process.returncode, said=shown)
        else:
            self._log.info("hook.ended", **keys)


def _paper() -> int:
    """Return a file in memory that does not grow beyond MOST_SAID."""
    fd = os.memfd_create("pmjq-hook", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, MOST_SAID)
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
