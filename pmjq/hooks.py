"""Commands of the node's owner: run when a job has ended, the queue is idle, a gate stays shut.

They are run one after another by a thread of its own, each in a session of its own, without input,
for ``PATIENCE`` seconds at most. What they say is cut off and goes to the log where they fail.
None of them can delay a turn: one that hangs delays the other hooks, and what they are late for is
told of in the log.
"""

from __future__ import annotations

import contextlib
import os
import queue
import select
import signal
import subprocess
import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

PATIENCE = 60.0
"""Seconds that a hook may take; then it is ended with all of its session's group."""

GRACE = 2.0
"""Seconds between TERM and KILL for a hook."""

MOST_AHEAD = 1000
"""How many hooks may stand in line; of more than that the log tells how many were left out."""

MOST_SAID = 2000
"""Bytes of what a failing hook says that go to the log."""

STEP = 0.02
"""Seconds between two looks whether a hook has ended that says nothing."""


class Hook(NamedTuple):
    """One call of a command: what for, the text for /bin/sh, and its environment."""

    occasion: str
    command: str
    environment: Mapping[str, str]


class Hooks:
    """The line of hooks of one daemon."""

    def __init__(self, log: Any, patience: float = PATIENCE) -> None:  # noqa: ANN401  # structlog's
        """Run nothing yet."""
        self._log = log
        self._patience = patience
        self._line: queue.Queue[Hook] = queue.Queue(MOST_AHEAD)
        self._left_out = 0
        self._idle = threading.Event()
        self._idle.set()
        self._thread: threading.Thread | None = None

    def call(self, hook: Hook) -> None:
        """Have a hook run as soon as those before it have ended; never waits."""
        self._idle.clear()
        try:
            self._line.put_nowait(hook)
        except queue.Full:
            self._left_out += 1
            if self._left_out == 1:
                self._log.error("hooks.late", occasion=hook.occasion, waiting=MOST_AHEAD)
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name="hooks", daemon=True)
            self._thread.start()

    def close(self, patience: float) -> bool:
        """Wait until all hooks have ended, so many seconds at most; tell whether they have."""
        return self._idle.wait(patience)

    def _serve(self) -> None:
        while True:
            hook = self._line.get()
            try:
                self._run(hook)
            except OSError as error:
                reason = error.strerror or str(error)
                self._log.error("hook.failed", occasion=hook.occasion, reason=reason)
            if self._line.empty():
                if self._left_out:
                    self._log.error("hooks.left_out", hooks=self._left_out)
                    self._left_out = 0
                self._idle.set()

    def _run(self, hook: Hook) -> None:
        begin = time.monotonic()
        said, wrote = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            with contextlib.closing(_Descriptor(wrote)):
                os.set_blocking(wrote, True)
                process = subprocess.Popen(  # what the node's owner has asked for
                    ["/bin/sh", "-c", hook.command],
                    stdin=subprocess.DEVNULL,
                    stdout=wrote,
                    stderr=wrote,
                    cwd="/",
                    env=dict(hook.environment),
                    start_new_session=True,
                )
            text, late = self._attend(process, said, begin + self._patience)
        finally:
            os.close(said)
        seconds = round(time.monotonic() - begin, 3)
        keys = {"occasion": hook.occasion, "seconds": seconds}
        if late:
            reason = f"took longer than {self._patience:g} s and was ended"
            self._log.error("hook.failed", **keys, reason=reason)
        elif process.returncode:
            shown = text.decode("utf-8", "backslashreplace").strip()
            keys["exit_code"] = process.returncode
            self._log.error("hook.failed", **keys, said=shown)
        else:
            self._log.info("hook.ended", **keys)

    def _attend(
        self, process: subprocess.Popen[bytes], said: int, until: float
    ) -> tuple[bytes, bool]:
        """Return what a hook says first, and whether it took too long; all it says is read."""
        text, late, open_ = b"", False, True
        poll = select.poll()
        poll.register(said, select.POLLIN)
        while process.poll() is None:
            now = time.monotonic()
            if now >= until:
                _signal(process, signal.SIGKILL if late else signal.SIGTERM)
                late, until = True, now + GRACE
            if len(text) == MOST_SAID:
                # Who floods is read slowly.
                time.sleep(STEP)
            if open_ and poll.poll(STEP * 1000):
                part = _read(said)
                text, open_ = (text + part)[:MOST_SAID], part != b""
            elif not open_:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(STEP)
        return (text + (_read(said) if open_ else b""))[:MOST_SAID], late


class _Descriptor:
    def __init__(self, fd: int) -> None:
        self._fd = fd

    def close(self) -> None:
        os.close(self._fd)


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, 1 << 16)
    except BlockingIOError:
        return b""


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)
