"""The heartbeat of this life: its beat, rewritten in place from a thread of its own.

Others judge by content whether this node lives; nobody compares clocks. The beat is written in
place and never created a second time: a life that was buried finds it gone, and then knows. The
thread does nothing else, so that no slow disk call of the daemon can make a living node look
dead.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from pmjq.disk import Disk

BEAT = 15.0
"""Seconds between two beats."""

LEASE = 8 * BEAT
"""Seconds of silence after which a life counts as dead."""

WIDTH = 20
"""Digits of the counter: fixed, so that a beat rewritten in place never changes its length."""


class Heart:
    """The beat of one life; ``fenced`` is called once if it is found gone."""

    def __init__(self, disk: Disk, path: str, fenced: Callable[[], None]) -> None:
        """Take the beat that the life has made."""
        self.disk = disk
        self.path = path
        self.fenced = fenced
        self.count = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heart", daemon=True)

    def start(self) -> None:
        """Begin to beat."""
        self._thread.start()

    def stop(self) -> None:
        """Stop beating."""
        self._stop.set()

    def beat(self) -> bool:
        """Beat once; False if the beat is gone, so this life has been buried.

        Other failures count as silence.
        """
        self.count += 1
        try:
            self.disk.write_at(self.path, 0, f"{self.count:0{WIDTH}}\n".encode())
        except FileNotFoundError:
            return False
        except OSError:
            return True
        return True

    def _run(self) -> None:
        while not self._stop.wait(BEAT):
            if not self.beat():
                self.fenced()
                return


class Silence:
    """For how long other lives have been silent, judged by the content of their beats.

    Silence is counted over this observer's own looks and on its own clock only.
    """

    def __init__(self, read: Callable[[str], bytes | None], tokens: list[str]) -> None:
        """Take how to read the beat of a life, and the lives to judge."""
        self._read = read
        self._heard: dict[str, tuple[bytes | None, float]] = {}
        self.tokens = list(tokens)
        self._next = 0.0

    def dead(self, now: float) -> list[str]:
        """Return the lives whose beat has stood still for the lease; each is told of once."""
        if not self.tokens or now < self._next:
            return []
        self._next = now + BEAT
        silent: list[str] = []
        for token in list(self.tokens):
            try:
                beat = self._read(token)
            except OSError:
                # No look at this one; what it says next is compared with what it said before.
                continue
            before, since = self._heard.get(token, (None, now))
            if token not in self._heard or beat != before:
                self._heard[token] = (beat, now)
            elif now - since >= LEASE:
                self.tokens.remove(token)
                silent.append(token)
        return silent
