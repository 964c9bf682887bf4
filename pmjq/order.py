"""The places of queued entries: by priority, then owner by owner, then by age.

Of each owner there is a heap of names by the time they appeared, so that neither an arrival nor a
launch costs more with a million queued than with a thousand. Most entries ask for no priority, and
what an entry asks for is not known before it is opened: only those of which another is known stand
in a second heap, which is ordered by it.

An entry that changes or goes leaves its old place behind, which is passed over when it is met.

Pure memory.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

SLACK = 100
"""Places that may be out of date before all are made anew."""

Plain = list[tuple[int, str]]
Ranked = list[tuple[int, int, str]]


class Head(NamedTuple):
    """The first entry of an owner; the smallest comes first."""

    behind: int
    appeared: int
    name: str

    @property
    def priority(self) -> int:
        """Return its priority."""
        return -self.behind


class Order:
    """The names that are queued, each with the time it appeared and its owner."""

    def __init__(self) -> None:
        """Start with nothing queued."""
        self._appeared: dict[str, int] = {}
        self._priority: dict[str, tuple[int, int]] = {}
        self._heaps: dict[int, tuple[Plain, Ranked]] = {}
        self._places = 0

    def __len__(self) -> int:
        """Return how many are queued."""
        return len(self._appeared)

    def __contains__(self, name: str) -> bool:
        """Tell whether a name is queued."""
        return name in self._appeared

    def __iter__(self) -> Iterator[str]:
        """Return the names, in no order."""
        return iter(self._appeared)

    def add(self, name: str, appeared: int, owner: int) -> bool:
        """Queue an entry; False if it is queued just so."""
        if self._appeared.get(name) == appeared:
            return False
        self._appeared[name] = appeared
        self._place(name, appeared, owner)
        return True

    def remove(self, name: str) -> int | None:
        """Take an entry out, if it is queued; return when it appeared. Its priority stays known."""
        return self._appeared.pop(name, None)

    def forget(self, name: str) -> None:
        """Take an entry out for good."""
        self._appeared.pop(name, None)
        self._priority.pop(name, None)

    def priority(self, name: str, appeared: int) -> int:
        """Return the priority of an entry as far as it is known, else 0."""
        known = self._priority.get(name)
        return known[1] if known is not None and known[0] == appeared else 0

    def prioritize(self, name: str, appeared: int, owner: int, priority: int) -> None:
        """Take note of the priority of an entry that appeared then, queued or not."""
        if self.priority(name, appeared) == priority:
            return
        if priority:
            self._priority[name] = (appeared, priority)
        else:
            del self._priority[name]
        if self._appeared.get(name) == appeared:
            self._place(name, appeared, owner)

    def several(self) -> bool:
        """Tell whether more than one owner may have something queued."""
        return len(self._heaps) > 1

    def owners(self) -> list[int]:
        """Return who may have something queued."""
        return list(self._heaps)

    def head(self, owner: int) -> Head | None:
        """Return the first entry of an owner, None if nothing of his is queued."""
        heaps = self._heaps.get(owner)
        if heaps is None:
            return None
        plain, ranked = heaps
        while plain and not self._is_plain(*plain[0]):
            heapq.heappop(plain)
            self._places -= 1
        while ranked and not self._is_ranked(*ranked[0]):
            heapq.heappop(ranked)
            self._places -= 1
        if ranked and (ranked[0][0] < 0 or not plain):
            return Head(*ranked[0])
        if plain:
            appeared, name = plain[0]
            return Head(0, appeared, name)
        del self._heaps[owner]
        return None

    def take(self, owner: int, head: Head) -> None:
        """Take the first entry of an owner out, which is this one."""
        plain, ranked = self._heaps[owner]
        if head.behind:
            heapq.heappop(ranked)
        else:
            heapq.heappop(plain)
        self._places -= 1
        del self._appeared[head.name]

    def _place(self, name: str, appeared: int, owner: int) -> None:
        heaps = self._heaps.get(owner)
        if heaps is None:
            heaps = self._heaps[owner] = [], []
        if self._priority and (priority := self.priority(name, appeared)):
            heapq.heappush(heaps[1], (-priority, appeared, name))
        else:
            heapq.heappush(heaps[0], (appeared, name))
        self._places += 1
        if self._places > 2 * len(self._appeared) + SLACK:
            self._tidy()

    def _tidy(self) -> None:
        """Drop the places that are out of date."""
        self._places = 0
        for owner, (plain, ranked) in list(self._heaps.items()):
            plain[:] = dict.fromkeys(one for one in plain if self._is_plain(*one))
            ranked[:] = dict.fromkeys(one for one in ranked if self._is_ranked(*one))
            heapq.heapify(plain)
            heapq.heapify(ranked)
            self._places += len(plain) + len(ranked)
            if not plain and not ranked:
                del self._heaps[owner]

    def _is_plain(self, appeared: int, name: str) -> bool:
        if self._appeared.get(name) != appeared:
            return False
        return not self._priority or not self.priority(name, appeared)

    def _is_ranked(self, behind: int, appeared: int, name: str) -> bool:
        known = self.priority(name, appeared)
        return self._appeared.get(name) == appeared and known == -behind != 0


def next_owner(
    heads: Mapping[int, Head],
    shares: Mapping[int, int],
    rank: int = 0,
    passed: Collection[int] = (),
) -> int | None:
    """Return whose entry is next.

    It is one of the highest priority, then of who has the fewest CPUs, then the oldest.
    ``shares``: the CPUs that owners have. ``rank``: how many nodes come before this one. Where
    several owners have as few, each node begins with another: those that choose at the same
    moment, not knowing of each other, would all choose the same.
    """
    open_to = heads
    if passed:
        open_to = {owner: head for owner, head in heads.items() if owner not in passed}
    if len(open_to) < 2:  # noqa: PLR2004  # nothing to choose
        return next(iter(open_to), None)
    keys = {owner: (head.behind, shares.get(owner, 0)) for owner, head in open_to.items()}
    best = min(keys.values())
    equal = sorted((head[1:], owner) for owner, head in open_to.items() if keys[owner] == best)
    return equal[rank % len(equal)][1]
