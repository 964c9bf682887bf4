"""When letters are tried: in the order in which they came, and after a growing pause once more.

A letter that nobody takes is left alone by itself, so that it holds no other up; where nothing can
be sent at all, all are. Those that never failed go first.

Pure: the time is an argument, in seconds on a monotonic clock.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

FIRST_PAUSE = 60.0
LONGEST_PAUSE = 3600.0
"""Seconds between two tries: doubled each time, from the first to the longest."""

MOST_DOUBLED = 10

GIVEN_UP = 5 * 86400.0
"""Seconds after which a letter is given up that could not be sent: RFC 5321 has 4 to 5 days."""


def pause(tries: int) -> float:
    """Return for how long is waited after so many tries in vain, at least one."""
    return min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(tries - 1, MOST_DOUBLED))


@dataclass(slots=True)
class _Failed:
    tries: int = 0
    until: float = 0.0
    reason: str = ""

    def again(self, now: float, reason: str) -> bool:
        """Take note of another failure; tell whether it has another reason."""
        news, self.reason = reason != self.reason, reason
        self.tries += 1
        self.until = now + pause(self.tries)
        return news


class Line:
    """The letters that wait, by their names."""

    def __init__(self) -> None:
        """Nothing waits."""
        self._fresh: dict[str, None] = {}
        self._failed: dict[str, _Failed] = {}
        self._again: list[tuple[float, str]] = []
        self._away = _Failed()

    def __len__(self) -> int:
        return len(self._fresh) + len(self._failed)

    def __contains__(self, name: object) -> bool:
        return name in self._fresh or name in self._failed

    def names(self) -> list[str]:
        """Return all that wait."""
        return [*self._fresh, *self._failed]

    def add(self, name: str) -> None:
        """Have a letter wait, unless it does."""
        if name not in self._failed:
            self._fresh[name] = None

    def drop(self, name: str) -> None:
        """Forget a letter."""
        self._fresh.pop(name, None)
        self._failed.pop(name, None)

    def due(self, now: float) -> str | None:
        """Return the letter that is to be tried now, if there is one."""
        if self._away.until > now:
            return None
        for name in self._fresh:
            return name
        self._tidy()
        return self._again[0][1] if self._again and self._again[0][0] <= now else None

    def next(self) -> float | None:
        """Return when one is due; None where none waits."""
        self._tidy()
        if self._fresh:
            return self._away.until
        return max(self._away.until, self._again[0][0]) if self._again else None

    def failed(self, name: str, now: float, reason: str) -> bool:
        """Leave one letter alone for a while; tell whether it has another reason than before."""
        self._fresh.pop(name, None)
        one = self._failed.setdefault(name, _Failed())
        news = one.again(now, reason)
        heapq.heappush(self._again, (one.until, name))
        return news

    def away(self, now: float, reason: str) -> bool:
        """Leave all alone for a while, since nothing can be sent; tell as ``failed``."""
        return self._away.again(now, reason)

    def works(self) -> bool:
        """Take note that something could be sent; tell whether that is news."""
        news, self._away = self._away.tries > 0, _Failed()
        return news

    @property
    def again_in(self) -> float:
        """Return the length of the pause of all."""
        return pause(self._away.tries) if self._away.tries else 0.0

    def reason(self) -> str:
        """Return why letters cannot be sent, if there is a letter that cannot."""
        if not len(self):
            return ""
        return self._away.reason or next((one.reason for one in self._failed.values()), "")

    def _tidy(self) -> None:
        """Remove from the top what was sent, forgotten, or tried since."""
        while self._again:
            until, name = self._again[0]
            one = self._failed.get(name)
            if one is not None and one.until == until:
                return
            heapq.heappop(self._again)
