"""Leases: the heartbeat of this life, and the judgement on the others.

Others judge by content whether this node lives; nobody compares clocks. The beat is written in
place and never created a second time: a life that was buried finds it gone, and then knows. A
thread does nothing but beat, so that no slow disk call of the daemon can make a living node look
dead; and it knows how long its own beat has not got through, by which a node that is cut off
stops what others may take before they may.

Times are on CLOCK_BOOTTIME, which goes on while a machine is suspended.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from pmjq.disk import Disk
    from pmjq.node import Life

LEASE = 120.0
"""Seconds of silence after which a life counts as dead, unless it says otherwise."""

SHORTEST = 1.0
"""Seconds that any life may be silent, whatever it says."""

BEATS = 8
"""Beats in a lease."""

HURRY = 1.0
"""Seconds between two looks at the lives at least, however many claims are lost."""

WIDTH = 20
"""Digits of the counter: fixed, so that a beat rewritten in place never changes its length."""

CLAIMING = 1 / 2
"""Share of its lease for which a node whose beat does not get through goes on claiming."""

KEEPING = 2 / 3
"""Share of its lease after which it stops the jobs that others may start again."""


def clock() -> float:
    """Return seconds since boot, suspended or not."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Heart:
    """The beat of one life; ``fenced`` is called once if it is found gone."""

    def __init__(
        self,
        disk: Disk,
        path: str,
        fenced: Callable[[], None],
        lease: float = LEASE,
        now: Callable[[], float] = clock,
    ) -> None:
        """Take the beat that the life has just made."""
        self.disk = disk
        self.path = path
        self.fenced = fenced
        self.every = lease / BEATS
        self.count = 0
        self.trouble = ""
        self._now = now
        self._through = now()
        self._stop = threading.Event()
        self._now_or_stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heart", daemon=True)

    def start(self) -> None:
        """Begin to beat."""
        self._thread.start()

    def stop(self) -> None:
        """Stop beating."""
        self._stop.set()
        self._now_or_stop.set()

    def hurry(self) -> None:
        """Beat at once."""
        self._now_or_stop.set()

    def silent(self) -> float:
        """Return for how many seconds at most others have not heard this life."""
        return self._now() - self._through

    def beat(self) -> bool:
        """Beat once; False if the beat is gone, so this life has been buried.

        Other failures count as silence.
        """
        self.count += 1
        begun = self._now()
        try:
            self.disk.write_at(self.path, 0, f"{self.count:0{WIDTH}}\n".encode())
        except FileNotFoundError:
            return False
        except OSError as error:
            self.trouble = error.strerror or str(error)
            return True
        self._through, self.trouble = begun, ""
        return True

    def _run(self) -> None:
        while True:
            self._now_or_stop.wait(self.every)
            self._now_or_stop.clear()
            if self._stop.is_set():
                return
            if not self.beat():
                self.fenced()
                return


class Beats(Protocol):
    """What is read of the lives: ``pmjq.spool.Spool`` does it."""

    token: str

    def tokens(self) -> list[str]:
        """Return who lives or lived here."""

    def life(self, token: str) -> Life | None:
        """Return what a life says of itself."""

    def beat(self, token: str) -> bytes | None:
        """Return the beat of a life, None if it is gone."""


@dataclass(slots=True)
class _Heard:
    """One life as it was heard last: its beat, when, and for how long it has been the same.

    ``known``: whether its lease is; ``beaten``: whether a beat of it was ever seen.
    """

    lease: float
    beat: bytes | None
    at: float
    silent: float = 0.0
    known: bool = True
    beaten: bool = True

    @property
    def dead(self) -> bool:
        """Tell whether it has been silent for its lease.

        What was looked up in vain before it was there, NFS shows as missing for 30 s: a beat that
        was never seen says little.
        """
        return self.silent >= (self.lease if self.beaten else max(self.lease, LEASE))


class Silence:
    """For how long the other lives have been silent, judged by the content of their beats.

    Silence is counted over this observer's own looks, on its own clock, and only while its own
    beat gets through: who is cut off judges nobody. Between two looks it is at most twice as long
    as the looks are apart as a rule, so that an observer that was stopped or suspended itself
    looks a few times before it judges.
    """

    def __init__(
        self, spool: Beats, lease: float = LEASE, clock: Callable[[], float] | None = None
    ) -> None:
        """Take the lives to judge, all but that of ``spool.token``; looks follow ``lease``.

        ``clock`` tells when a beat had been read: an observer that was stopped in between must not
        count that time twice.
        """
        self._clock = clock
        self._spool = spool
        self._every = lease / BEATS
        self._heard: dict[str, _Heard] = {}
        self._next = self._looked = 0.0

    def dead(self, now: float, own: float = 0.0) -> list[str]:
        """Return the lives whose beat has stood still for their lease, again at every look.

        ``own``: for how long the observer's own beat has not got through. Raises OSError if the
        lives cannot be listed.
        """
        if now < self._next:
            return []
        self._next = now + self._every
        self._looked = now
        tokens = set(self._spool.tokens()) - {self._spool.token}
        self._heard = {token: one for token, one in self._heard.items() if token in tokens}
        for token in sorted(tokens):
            try:
                self._hear(token, now, counts=own < 2 * self._every)
            except OSError:
                # No look at this one; what it says next is compared with what it said before.
                continue
        return [token for token, one in self._heard.items() if one.dead]

    def hurry(self, now: float) -> None:
        """Look at the lives again soon: somebody seems to be there who was not."""
        self._next = min(self._next, max(now, self._looked + HURRY))

    def next(self) -> float | None:
        """Return when the other lives are to be looked at next, None where there are none."""
        return self._next if self._heard else None

    def living(self) -> list[str]:
        """Return the lives that have not been silent for long; a new one is taken to live."""
        return [token for token, one in sorted(self._heard.items()) if one.silent < one.lease / 2]

    def forget(self, token: str) -> None:
        """Forget a life that is buried."""
        self._heard.pop(token, None)

    def lease(self, token: str) -> float:
        """Return the lease of a life."""
        return self._heard[token].lease if token in self._heard else LEASE

    def _hear(self, token: str, now: float, *, counts: bool) -> None:
        beat, one = self._spool.beat(token), self._heard.get(token)
        read = max(now, self._clock()) if self._clock is not None else now
        if one is None or not one.known:
            # One that has not said yet what its lease is has the usual one, until it does.
            life = self._spool.life(token)
            lease = max(life.lease, SHORTEST) if life else LEASE
        if one is None:
            heard = _Heard(lease, beat, read, known=life is not None, beaten=beat is not None)
            self._heard[token] = heard
            return
        one.beaten = one.beaten or beat is not None
        if not one.known:
            one.lease, one.known = lease, life is not None
        if beat != one.beat:
            one.beat, one.silent = beat, 0.0
        elif counts:
            one.silent += min(max(0.0, now - one.at), 2 * self._every)
        one.at = read
