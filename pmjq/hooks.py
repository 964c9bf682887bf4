"""Commands of the node's owner: run when a job has ended, the queue is idle, a gate stays shut.

They are run one after another by a thread of its own, each in a session of its own, without input,
for ``PATIENCE`` seconds at most. What they say goes to the log where they fail. None of them can
delay a turn: one that hangs delays the other hooks, and the log tells what was left out for it.
"""

from __future__ import annotations

import resource
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from pmjq import errand

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

PATIENCE = 60.0
"""Seconds that a hook may take; then it is ended, with all of its process group."""

MOST_AHEAD = 10_000
"""How many hooks may stand in line; of more than that the log tells how many were left out."""


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
        words = ["/bin/sh", "-c", hook.command]
        code, said = errand.run(words, hook.environment, self._patience, self._files)
        keys: dict[str, Any] = {
            "occasion": hook.occasion,
            "seconds": round(time.monotonic() - begin, 3),
        }
        if code is None:
            reason = f"took longer than {self._patience:g} s and was ended"
            self._log.error("hook.failed", **keys, reason=reason, said=said)
        elif code:
            self._log.error("hook.failed", **keys, exit_code=code, said=said)
        else:
            self._log.info("hook.ended", **keys)
