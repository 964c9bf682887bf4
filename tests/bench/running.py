"""The one thing that runs the daemon, and ends it whatever happened meanwhile.

Every daemon gets an environment variable with a value of its own. What it starts for itself
inherits that, jobs do not, so its keeper is found again even after the daemon is gone. ``stop``
sends TERM to the daemon by its pid, leaves the keeper the time to end by itself, and only then
ends what is left.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from uuid import uuid4

import psutil

from . import process
from .place import NO_OP, Place
from .report import Bench, NotMeasuredError

MARK = "PMJQ_BENCH_MARK"

STOP_WITHIN = 30.0
"""Seconds a daemon may take to stop, with 1,000,000 entries in its index."""

KEEPER_WITHIN = 10.0
"""Seconds the keeper may outlive its last job."""

LOOK = 0.05
"""Seconds between two looks at the archive.

Listing it takes a millisecond in which nothing can be moved there: looking more often would slow
the daemon. The end itself is read from the archive's mtime, to the kernel's tick (4 ms).
"""


class Daemon:
    """A running daemon on a place."""

    def __init__(self, bench: Bench, place: Place, *options: str) -> None:
        """Start it; it is not ready yet."""
        self.place = place
        self._value = uuid4().hex
        self._named = 0
        command = [*bench.command, *options, "-o", str(place.archive), "--log-format", "json"]
        with place.log.open("ab") as log:
            self.begin = time.monotonic()
            self._process = subprocess.Popen(
                [*command, str(place.spool)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | {MARK: self._value},
            )

    @property
    def pid(self) -> int:
        """Return the process id of the daemon."""
        return self._process.pid

    def keepers(self) -> set[int]:
        """Return the process ids of what the daemon runs for itself."""
        return process.steady(self.pid, MARK, self._value)

    def wait_ended(self, count: int, within: float = 120.0) -> float:
        """Wait until the archive holds ``count`` jobs; return when it last changed (monotonic)."""
        deadline = time.monotonic() + within
        while (ended := self.place.ended()) < count:
            self.check_alive()
            if time.monotonic() > deadline:
                reason = f"{ended} of {count} jobs ended within {within:.0f} s"
                raise NotMeasuredError(reason + self._last_words())
            time.sleep(LOOK)
        ago = time.time() - self.place.archive.stat().st_mtime
        return time.monotonic() - ago

    def warm(self, count: int = 8) -> None:
        """Run a few jobs, so that what is made at the first one is there."""
        before = self.place.ended()
        for number in range(count):
            self.place.drop(f"warm-{self._named + number}", NO_OP)
        self._named += count
        self.wait_ended(before + count)

    def check_alive(self) -> None:
        """Raise when the daemon has ended."""
        if self._process.poll() is not None:
            reason = f"the daemon ended with {self._process.returncode}"
            raise NotMeasuredError(reason + self._last_words())

    def stop(self) -> None:
        """End the daemon and what it left behind."""
        self._process.terminate()
        try:
            self._process.wait(STOP_WITHIN)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        deadline = time.monotonic() + KEEPER_WITHIN
        while (left := process.marked(MARK, self._value)) and time.monotonic() < deadline:
            time.sleep(LOOK)
        for other in left:
            with contextlib.suppress(psutil.Error):
                other.kill()
        psutil.wait_procs(left, timeout=1)

    def _last_words(self) -> str:
        lines = self.place.log.read_text(errors="replace").splitlines()
        return f": {lines[-1][:300]}" if lines else ""


@contextlib.contextmanager
def running(bench: Bench, place: Place, *options: str) -> Iterator[Daemon]:
    """Run a daemon for the length of a ``with`` block."""
    daemon = Daemon(bench, place, *options)
    try:
        yield daemon
    finally:
        daemon.stop()
