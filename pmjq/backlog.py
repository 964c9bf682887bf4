"""What is in the spool and has not been claimed, in the order in which it is to be run.

Oldest first by the time an entry appeared (ctime: ``cp -p`` must not jump the queue), then by
name. The order is a heap of names, so that neither an arrival nor a launch costs more with a
million queued than with a thousand. Entries that are not queued are kept apart with their reasons
and the time of their next look.

Pure memory: the daemon fills it from what it sees, and it may be thrown away and filled again at
any time.
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from pmjq import ready
from pmjq.ready import Kind, Print, Rules, Standing, Stat

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


@dataclass(frozen=True, slots=True)
class Aside:
    """An entry that is not queued: what it is, and since when it has been seen just so."""

    standing: Standing
    seen: Print
    since: float


SLACK = 100
"""Places in the order that may be out of date before it is made anew."""


class Backlog:
    """The entries of the spool by name; ``rules`` say which of them are jobs."""

    def __init__(self, rules: Rules) -> None:
        """Start with nothing seen."""
        self.rules = rules
        self._queued: dict[str, int] = {}
        self._order: list[tuple[int, str]] = []
        self._taken: dict[str, int] = {}
        self._aside: dict[str, Aside] = {}
        self._looks: list[tuple[float, str]] = []
        self._since: dict[str, tuple[Print, float]] = {}
        self._bad: dict[str, None] = {}
        self._unvisited: deque[str] = deque()

    def __len__(self) -> int:
        """Return how many entries are queued."""
        return len(self._queued)

    def __contains__(self, name: str) -> bool:
        """Tell whether a name has been seen, queued or not."""
        return name in self._queued or name in self._aside

    def names(self) -> Iterator[str]:
        """Return all names that have been seen."""
        yield from self._queued
        yield from self._aside

    def see(self, name: str, stat: Stat | None, now: float) -> None:
        """Take note of what an lstat of an entry told; None: it is gone."""
        if stat is None:
            self.forget(name)
            return
        if name in self._since or name in self._aside:
            seen = ready.print_of(stat)
            age = self._age(name, seen, now)
        else:
            age = 0.0
        standing = ready.standing(name, stat, self.rules, age)
        if standing.kind is Kind.QUEUED:
            if self._aside.pop(name, None):
                self._since[name] = (ready.print_of(stat), now - age)
                self._bad.pop(name, None)
            self._enqueue(name, stat.st_ctime_ns)
        else:
            self.put_aside(name, stat, standing, now)

    def put_aside(self, name: str, stat: Stat, standing: Standing, now: float) -> None:
        """Keep an entry out of the queue, with its reason.

        It stays out until ``standing.again`` or until it changes.
        """
        seen = ready.print_of(stat)
        age = self._age(name, seen, now)
        self._queued.pop(name, None)
        self._taken.pop(name, None)
        self._aside[name] = Aside(standing, seen, now - age)
        if standing.kind is Kind.BAD:
            self._bad[name] = None
        else:
            self._bad.pop(name, None)
        self._since.pop(name, None)
        if standing.again is not None:
            heapq.heappush(self._looks, (now + standing.again, name))

    def age(self, name: str, stat: Stat, now: float) -> float:
        """Return for how many seconds an entry has been seen just as it is.

        That it was seen now is remembered.
        """
        seen = ready.print_of(stat)
        age = self._age(name, seen, now)
        self._since[name] = (seen, now - age)
        return age

    def forget(self, name: str) -> None:
        """Drop an entry that is gone or claimed."""
        self._queued.pop(name, None)
        self._taken.pop(name, None)
        self._aside.pop(name, None)
        self._since.pop(name, None)
        self._bad.pop(name, None)

    def take(self, most: int) -> list[str]:
        """Take up to ``most`` names off the head of the queue.

        Each is then claimed, put aside or put back.
        """
        head: list[str] = []
        while self._order and len(head) < most:
            appeared, name = heapq.heappop(self._order)
            if self._queued.get(name) == appeared:
                head.append(name)
                self._taken[name] = self._queued.pop(name)
        return head

    def put_back(self, name: str) -> None:
        """Return a name that was taken to its place in the queue."""
        appeared = self._taken.pop(name, None)
        if appeared is not None:
            self._enqueue(name, appeared)

    def due(self, now: float) -> list[str]:
        """Return the names whose next look has come, each once."""
        names: dict[str, None] = {}
        while self._looks and self._looks[0][0] <= now:
            names[heapq.heappop(self._looks)[1]] = None
        return [name for name in names if name in self._aside]

    def next_look(self) -> float | None:
        """Return when the next entry is to be looked at again."""
        return self._looks[0][0] if self._looks else None

    def bad(self, most: int) -> list[tuple[str, str]]:
        """Return up to ``most`` entries that can never be run, with their reasons."""
        return [(name, self._aside[name].standing.reason) for name in islice(self._bad, most)]

    def revisit(self, most: int) -> list[str]:
        """Return entries that are not queued, ``most`` at a time, all of them in turn."""
        if not self._unvisited:
            self._unvisited.extend(self._aside)
        return [self._unvisited.popleft() for _ in range(min(most, len(self._unvisited)))]

    def aside(self) -> Iterable[tuple[str, Standing]]:
        """Return what is not queued, with its reason."""
        return ((name, aside.standing) for name, aside in self._aside.items())

    def settling(self) -> bool:
        """Tell whether any entry is on its way in and will be ready or bad by itself."""
        return bool(self._bad) or any(
            aside.standing.kind is Kind.INCOMING for aside in self._aside.values()
        )

    def _enqueue(self, name: str, appeared: int) -> None:
        if self._queued.get(name) != appeared:
            self._queued[name] = appeared
            heapq.heappush(self._order, (appeared, name))
            if len(self._order) > 2 * len(self._queued) + SLACK:
                # Entries that changed or went have left their old places behind.
                self._order = [(appeared, name) for name, appeared in self._queued.items()]
                heapq.heapify(self._order)

    def _age(self, name: str, seen: Print, now: float) -> float:
        aside = self._aside.get(name)
        before, since = (aside.seen, aside.since) if aside else self._since.get(name, (seen, now))
        return now - since if before == seen else 0.0
