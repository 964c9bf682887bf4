"""When a node's hooks are due: it has been idle for a while, or a gate has kept jobs for a while.

Pure: what was seen, and when, are arguments; times are seconds on a monotonic clock.
"""

from __future__ import annotations

from dataclasses import dataclass

BACKOFF = 600.0
"""Seconds before a hook is told again of a gate that stays closed; then twice as long each time."""

LONGEST_BACKOFF = 86400.0


@dataclass(slots=True)
class Idle:
    """Nothing queued and nothing running, for so many seconds: told of once, until that changes."""

    after: float
    _since: float | None = None
    _told: bool = False

    def see(self, now: float, *, idle: bool) -> None:
        """Take note of how it is."""
        if not idle:
            self._since, self._told = None, False
        elif self._since is None:
            self._since = now

    def busy_until(self, time: float) -> None:
        """Take note that it was not idle elsewhere until then."""
        if self._since is not None:
            self._since = max(self._since, time)

    def begun(self) -> float:
        """Return since when it is as it is now."""
        return self._since or 0.0

    def due(self) -> float | None:
        """Return when it is to be told of if nothing changes."""
        return None if self._told or self._since is None else self._since + self.after

    def tell(self, now: float) -> None:  # noqa: ARG002  # as another occasion takes it
        """Take note that it has been told of."""
        self._told = True


@dataclass(slots=True)
class Kept:
    """Jobs that wait before a closed gate, for so many seconds.

    Told of again only after a pause, longer each time, also where the gate was open meanwhile; a
    gate that has been open for as long as that pause begins anew.
    """

    after: float
    _since: float | None = None
    _not_before: float = 0.0
    _pause: float = 0.0

    def see(self, now: float, *, kept: bool) -> None:
        """Take note of how it is."""
        if not kept:
            self._since = None
        elif self._since is None:
            self._since = now
            if now >= self._not_before + self._pause:
                self._pause = 0.0

    def begun(self) -> float:
        """Return since when it is as it is now, or when it was told of last."""
        return max(self._since or 0.0, self._not_before - self._pause)

    def due(self) -> float | None:
        """Return when it is to be told of if nothing changes."""
        return None if self._since is None else max(self._since + self.after, self._not_before)

    def tell(self, now: float) -> None:
        """Take note that it has been told of."""
        self._pause = min(LONGEST_BACKOFF, self._pause * 2 or BACKOFF)
        self._not_before = now + self._pause
