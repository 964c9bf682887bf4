"""Which entries this node takes next: by priority, fairness and age, and dealt out among nodes.

The next is of the highest priority, then of the owner with the fewest CPUs over all living nodes,
what was chosen just before included, then the oldest. Of several nodes each takes first those of
the owner's entries that are dealt to it (``pmjq.share``). Where none of those whose turn it is are,
it keeps a slot for one of them and waits until the nodes before it have had their chance: what
comes later, of lower priority or of an owner who has more, does not get that slot.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pmjq import order, packing, share
from pmjq.job import Spec
from pmjq.order import Head
from pmjq.shares import Shares

if TYPE_CHECKING:
    from collections import Counter

    from pmjq.desk import Desk
    from pmjq.examination import Examination
    from pmjq.outside import Outside
    from pmjq.plan import Candidate

WINDOW = 64
"""How many entries of the head of the queue per living node are looked through for this node's."""

HESITATION = 0.1
"""Seconds that each node before this one gets for an entry that is dealt to it."""

HESITATION_SHARED = 0.5
"""The same on a shared file system, which each node lists at a time of its own."""


@dataclass(slots=True)
class _Pile:
    """Entries of one owner and one priority that were taken off the queue.

    ``own`` are dealt to this node; ``others`` have been left to their nodes for long enough, and
    ``unripe`` have not.
    """

    behind: int
    seen: int = 0
    own: deque[Head] = field(default_factory=deque)
    others: deque[Head] = field(default_factory=deque)
    unripe: deque[Head] = field(default_factory=deque)

    def first(self) -> Head | None:
        """Return the entry that is next of those that are here."""
        return next((names[0] for names in (self.own, self.others, self.unripe) if names), None)


class Choice:
    """The choosing of one life of a node."""

    def __init__(self, outside: Outside, desk: Desk, examination: Examination) -> None:
        """Take what is looked at, and what opens an entry."""
        self.outside = outside
        self.desk = desk
        self._examination = examination
        self._shares = Shares(outside, desk)
        self._hesitating: dict[str, float] = {}
        self._piles: dict[int, _Pile] = {}
        self._left: dict[str, None] = {}
        self._taken: list[str] = []
        self._nodes, self._rank = 1, 0

    def candidates(self, wanted: int, now: float) -> list[Candidate]:
        """Return entries to claim, as many as are wanted and as there are."""
        desk, backlog = self.desk, self.desk.backlog
        desk.hesitates = desk.unfinished = False
        if wanted <= 0 or not len(backlog):
            self._examination.begin(now, None)
            return []
        self._nodes = 1 + len(desk.living)
        self._rank = sum(other < self.outside.spool.token for other in desk.living)
        shares = self._shares.all(now) if backlog.several() else None
        self._examination.begin(now, shares)
        try:
            return self._choose(wanted, now, shares)
        finally:
            # Whatever came of it: what is neither put aside nor gone has its place again.
            for name in self._taken:
                backlog.put_back(name)
            if self._nodes > 1 and self._taken:
                since = self._hesitating
                self._hesitating = {name: since.get(name, now) for name in self._left}
            self._piles, self._left, self._taken = {}, {}, []

    def _choose(self, wanted: int, now: float, shares: Counter[int] | None) -> list[Candidate]:
        desk = self.desk
        window = WINDOW * self._nodes
        heads = desk.backlog.heads()
        passed = desk.packing.crowded()
        found: list[Candidate] = []
        by_load = self.outside.settings.limits.load is not None
        while wanted > 0:
            if len(self._taken) >= window:
                desk.unfinished = not desk.hesitates and not found
                break
            owner = order.next_owner(heads, shares or {}, self._rank, passed)
            if owner is None:
                break
            name = self._next(owner, now)
            if name is not None:
                candidate = self._examination.candidate(name, now)
                if candidate is not None:
                    found.append(candidate)
                    cpus = self._cpus(candidate)
                    wanted -= cpus if by_load else 1
                    _count(shares, owner, cpus)
            elif (pile := self._piles.pop(owner, None)) is not None and pile.unripe:
                # Its slot is kept until its node, or this one, takes it.
                pile.unripe.popleft()
                self._piles[owner] = pile
                desk.hesitates = True
                wanted -= 1
                _count(shares, owner, 1)
            self._renew(heads, owner)
        return found

    def _cpus(self, candidate: Candidate) -> int:
        if not isinstance(candidate.verdict, Spec):
            return 1
        return packing.counted(candidate.verdict, self.desk.packing.capacity)

    def _renew(self, heads: dict[int, Head], owner: int) -> None:
        """Find out which entry of an owner is next."""
        pile, head = self._piles.get(owner), self.desk.backlog.head(owner)
        first = pile.first() if pile is not None else None
        following = first or head
        if following is None:
            heads.pop(owner, None)
        else:
            heads[owner] = following

    def _next(self, owner: int, now: float) -> str | None:
        """Return the next entry of an owner for this node; None: only others' are left for now."""
        backlog = self.desk.backlog
        pile = self._piles.get(owner)
        if pile is None:
            head = backlog.head(owner)
            if head is None:
                return None
            pile = self._piles[owner] = _Pile(head.behind)
        while not pile.own and pile.seen < WINDOW * self._nodes:
            taken = backlog.take_of(owner, self._nodes, -pile.behind)
            if not taken:
                break
            pile.seen += len(taken)
            self._deal(pile, taken, now)
        for names in (pile.own, pile.others):
            if names:
                name = names.popleft().name
                self._left.pop(name, None)
                return name
        return None

    def _deal(self, pile: _Pile, entries: list[Head], now: float) -> None:
        """Divide entries into this node's own, and those of others."""
        self._taken += [entry.name for entry in entries]
        if self._nodes == 1:
            pile.own.extend(entries)
            return
        pause = HESITATION if self.outside.spool.local else HESITATION_SHARED
        for entry in entries:
            away = share.distance(entry.name, self._rank, self._nodes)
            if away == 0:
                pile.own.append(entry)
                continue
            self._left[entry.name] = None
            ripe = now - self._hesitating.get(entry.name, now) >= away * pause
            (pile.others if ripe else pile.unripe).append(entry)


def _count(shares: Counter[int] | None, owner: int, cpus: int) -> None:
    if shares is not None:
        shares[owner] += cpus
