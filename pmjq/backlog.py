"""What is in the spool and has not been claimed, in the order in which it is to be run.

By priority as far as it is known, then in turns among owners, then oldest first by the time an
entry appeared (ctime: ``cp -p`` must not jump the queue), then by name; ``pmjq.order`` has the
places. Entries that are not queued are kept apart with their reasons and the time of their next
look.

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
from pmjq.order import SLACK, Head, Order
from pmjq.ready import Inside, Kind, Print, Rules, Standing, Stat

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


@dataclass(frozen=True, slots=True)
class Aside:
    """An entry that is not queued: what it is, and since when it has been seen just so."""

    standing: Standing
    seen: Print
    since: float


@dataclass(frozen=True, slots=True)
class Refused:
    """An entry that could not be moved: what it is for that, until when, and how long that is.

    ``won``: how many claims of others had been made by then.
    """

    standing: Standing
    seen: Print
    until: float
    pause: float
    won: int


FIRST_PAUSE = 1.0
LONGEST_PAUSE = 60.0
"""Seconds until an entry that could not be moved is tried again, doubled while it is the same."""


class Backlog:
    """The entries of the spool by name; ``rules`` say which of them are jobs."""

    def __init__(self, rules: Rules) -> None:
        """Start with nothing seen."""
        self.rules = rules
        self.unread: list[str] = []
        self._queued = Order()
        self._taken: dict[str, tuple[int, int]] = {}
        self._aside: dict[str, Aside] = {}
        self._looks: list[tuple[float, str]] = []
        self._look_at: dict[str, float] = {}
        self._refused: dict[str, Refused] = {}
        self._since: dict[str, tuple[Print, float]] = {}
        self._inside: dict[str, Inside] = {}
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
        if self._stays_aside(name, stat):
            return
        refused = self._refused.get(name)
        if refused is not None and now < refused.until and refused.seen == ready.print_of(stat):
            standing = refused.standing._replace(again=refused.until - now)
            self.put_aside(name, stat, standing, now)
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
                self._look_at.pop(name, None)
            if self._queued.add(name, stat.st_ctime_ns, stat.st_uid):
                self.unread.append(name)
        else:
            self.put_aside(name, stat, standing, now)

    def _stays_aside(self, name: str, stat: Stat) -> bool:
        """Tell whether an entry was examined that an lstat would take for queued, and is the same.

        A directory without an info file, or a job that is deferred, until its time has come.
        """
        aside = self._aside.get(name)
        if aside is None or aside.seen != ready.print_of(stat):
            return False
        if aside.standing.kind is Kind.DEFERRED:
            return aside.standing.again is None or name in self._look_at
        return aside.standing.kind is Kind.LEFT and ready.is_directory(stat)

    def wake(self, name: str) -> None:
        """Have the next look at a deferred entry examine it, whatever its time."""
        self._look_at.pop(name, None)

    def put_aside(self, name: str, stat: Stat, standing: Standing, now: float) -> None:
        """Keep an entry out of the queue, with its reason.

        It stays out until ``standing.again`` or until it changes.
        """
        seen = ready.print_of(stat)
        age = self._age(name, seen, now)
        self._queued.remove(name)
        self._taken.pop(name, None)
        self._aside[name] = Aside(standing, seen, now - age)
        if standing.kind is Kind.BAD:
            self._bad[name] = None
        else:
            self._bad.pop(name, None)
        self._since.pop(name, None)
        self._look_again(name, None if standing.again is None else now + standing.again)

    def refuse(self, name: str, stat: Stat, standing: Standing, now: float, won: int) -> None:
        """Put an entry aside that could not be moved, for longer each time it is found the same.

        A look before that time finds it refused: the next try costs as much as a claim. Where
        ``standing`` says when to look again, then.
        """
        seen, before = ready.print_of(stat), self._refused.get(name)
        pause = FIRST_PAUSE
        if before is not None and before.seen == seen:
            pause = min(LONGEST_PAUSE, 2 * before.pause)
        if standing.again is not None:
            pause = standing.again
        standing = standing._replace(again=pause)
        self._refused[name] = Refused(standing, seen, now + pause, pause, won)
        self.put_aside(name, stat, standing, now)

    def outdone(self, name: str, stat: Stat, won: int) -> bool:
        """Tell whether others were claimed since an entry could not be moved for the first time."""
        before = self._refused.get(name)
        if before is None or before.seen != ready.print_of(stat):
            return False
        return before.standing.kind is Kind.LEFT or before.won < won

    def refusals(self) -> int:
        """Return how many entries could not be moved when that was tried last."""
        return len(self._refused)

    def forgive(self) -> list[str]:
        """Return the names that could not be moved, for another try at once."""
        names = list(self._refused)
        self._refused.clear()
        return names

    def age(self, name: str, stat: Stat, now: float, inside: Inside | None = None) -> float:
        """Return for how many seconds an entry has been seen just as it is.

        That it was seen now is remembered. ``inside``: what is in a directory.
        """
        seen = ready.print_of(stat)
        age = self._age(name, seen, now)
        if inside is not None:
            if self._inside.get(name) != inside:
                age = 0.0
            self._inside[name] = inside
        self._since[name] = (seen, now - age)
        return age

    def forget(self, name: str) -> None:
        """Drop an entry that is gone or claimed."""
        self._queued.forget(name)
        self._taken.pop(name, None)
        self._aside.pop(name, None)
        self._since.pop(name, None)
        self._bad.pop(name, None)
        self._look_at.pop(name, None)
        self._refused.pop(name, None)
        self._inside.pop(name, None)

    def several(self) -> bool:
        """Tell whether more than one owner may have something queued."""
        return self._queued.several()

    def heads(self) -> dict[int, Head]:
        """Return the first entry of each owner that has any."""
        queued = self._queued
        heads = {owner: queued.head(owner) for owner in queued.owners()}
        return {owner: head for owner, head in heads.items() if head is not None}

    def head(self, owner: int) -> Head | None:
        """Return the first entry of an owner, None if nothing of his is queued."""
        return self._queued.head(owner)

    def take_of(self, owner: int, most: int, priority: int | None = None) -> list[Head]:
        """Take up to ``most`` names of an owner off the queue, all of one priority.

        Each is then claimed, put aside or put back.
        """
        heads: list[Head] = []
        while len(heads) < most and (head := self._queued.head(owner)) is not None:
            if priority is not None and head.priority != priority:
                break
            priority = head.priority
            self._queued.take(owner, head)
            self._taken[head.name] = (head.appeared, owner)
            heads.append(head)
        return heads

    def put_back(self, name: str) -> None:
        """Return a name that was taken to its place in the queue."""
        taken = self._taken.pop(name, None)
        if taken is not None:
            self._queued.add(name, *taken)

    def is_queued(self, name: str) -> bool:
        """Tell whether an entry is queued."""
        return name in self._queued

    def priority(self, name: str, stat: Stat) -> int:
        """Return the priority of an entry as far as it is known, else 0."""
        return self._queued.priority(name, stat.st_ctime_ns)

    def prioritize(self, name: str, stat: Stat, priority: int) -> None:
        """Take note of the priority of an entry: one that is queued goes to its place by it."""
        self._queued.prioritize(name, stat.st_ctime_ns, stat.st_uid, priority)

    def due(self, now: float) -> list[str]:
        """Return the names whose next look has come, each once."""
        names: list[str] = []
        while (at := self.next_look()) is not None and at <= now:
            name = heapq.heappop(self._looks)[1]
            del self._look_at[name]
            names.append(name)
        return names

    def next_look(self) -> float | None:
        """Return when the next entry is to be looked at again."""
        looks = self._looks
        while looks and self._look_at.get(looks[0][1]) != looks[0][0]:
            heapq.heappop(looks)
        return looks[0][0] if looks else None

    def just_so(self, name: str, stat: Stat) -> bool:
        """Tell whether an entry that was put aside is as it was seen last."""
        aside = self._aside.get(name)
        return aside is not None and aside.seen == ready.print_of(stat)

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

    def kept_aside(self) -> int:
        """Return how many entries are not queued."""
        return len(self._aside)

    def settling(self) -> bool:
        """Tell whether any entry is on its way in and will be ready or bad by itself."""
        return bool(self._bad) or any(
            aside.standing.kind is Kind.INCOMING
            or (aside.standing.kind is Kind.DEFERRED and aside.standing.again is not None)
            for aside in self._aside.values()
        )

    def _look_again(self, name: str, at: float | None) -> None:
        """Look at an entry again at a time and at no other; None: when something tells of it."""
        if at is None:
            self._look_at.pop(name, None)
        elif self._look_at.get(name) != at:
            self._look_at[name] = at
            heapq.heappush(self._looks, (at, name))
            if len(self._looks) > 2 * len(self._look_at) + SLACK:
                self._looks = [(at, name) for name, at in self._look_at.items()]
                heapq.heapify(self._looks)

    def _age(self, name: str, seen: Print, now: float) -> float:
        aside = self._aside.get(name)
        before, since = (aside.seen, aside.since) if aside else self._since.get(name, (seen, now))
        return now - since if before == seen else 0.0
