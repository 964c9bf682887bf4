"""Nudges from the file system: watchfiles tells that something happened to a name in the spool.

A nudge means "look at this name again", or with None "look at everything again"; nothing is
decided from it, so a lost, doubled or overflowed event does no harm: the slow rescan finds what
was missed.

watchfiles wakes every ``step`` ms to see whether its Rust side has events, and needs two steps to
report one. So the step adapts: short while things happen, longer when they do not, which keeps an
idle daemon cheap and a drop quick.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from watchfiles._rust_notify import RustNotify, WatchfilesRustInternalError

if TYPE_CHECKING:
    from collections.abc import Callable

STEP_BUSY = 5
STEP_IDLE = 22
"""ms. Two steps and the start of a process make the time from a drop to its start."""

STEP_RELAXED = 50
"""While jobs are queued a new one is in no hurry: it goes to the end of the queue."""

BUSY_FOR = 2.0
"""Seconds after an event for which more are expected."""

RETRY = 0.5
"""Seconds until a directory that cannot be watched is tried again."""

AFRESH = 0.1
"""Seconds until a watch is made anew: names that are not UTF-8 may come in floods."""

CALL = 1000
"""ms that one call to the Rust side takes at most, so that the thread can be stopped."""


class Watch:
    """Watch one directory, not what is below it, from a thread of its own."""

    def __init__(
        self,
        path: str,
        nudge: Callable[[set[str] | None], None],
        trouble: Callable[[str], object],
    ) -> None:
        """Nothing is watched before ``start``.

        ``trouble`` is called with the reason if the kernel does not watch for us, and with nothing
        when it does again.
        """
        self.path = path
        self.nudge = nudge
        self.trouble = trouble
        self.relaxed = False
        self._failed = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def stop(self) -> None:
        """Stop watching."""
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.is_set():
            pause = RETRY
            # Whatever goes wrong: try again.
            try:
                self._watch()
                pause = AFRESH
            except FileNotFoundError:
                # Whoever lists the spool says so.
                pass
            except Exception as error:  # noqa: BLE001  # watchfiles has a dozen of them
                if not self._failed:
                    self.trouble(str(error))
                self._failed = True
            self._stop.wait(pause)

    def _watch(self) -> None:
        """Watch until there is a reason to begin afresh, or to stop."""
        prefix = self.path.rstrip("/") + "/"
        notify = RustNotify(
            watch_paths=[self.path],
            debug=False,
            force_polling=False,
            poll_delay_ms=0,
            recursive=False,
            ignore_permission_denied=False,
        )
        if self._failed:
            self.trouble("")
        self._failed = False
        # What happened while nothing was watched.
        self.nudge(None)
        quiet = 0.0
        try:
            while not self._stop.is_set():
                idle = STEP_BUSY if quiet < BUSY_FOR else STEP_IDLE
                step = STEP_RELAXED if self.relaxed else idle
                changes = notify.watch(step, step, CALL, self._stop)
                if isinstance(changes, set):
                    quiet = 0.0
                    paths = {path for _, path in changes}
                    inside = {path for path in paths if path.startswith(prefix)}
                    if inside:
                        self.nudge({path.removeprefix(prefix) for path in inside})
                    if paths != inside:
                        # The directory itself: removed or replaced, and the old one is watched.
                        return
                elif changes == "timeout":
                    quiet += CALL / 1000
        except (UnicodeError, WatchfilesRustInternalError):
            # A name that is not UTF-8. From then on every call raises the same, so another watch is
            # needed; the events are lost, the names are still there.
            return
        finally:
            notify.close()
