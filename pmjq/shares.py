"""How many CPUs each owner has running over all living nodes: by that the next job is chosen.

What this node has is in memory. What the others have, their ``run/`` tells: a listing, and the
claim of each job that was not there before, which says whose it is and what it asks for. A
``node.json`` would be cheaper to read and is seconds old, in which two nodes give both their slots
to the same owner. It is looked up only when there is something to choose: while several owners have
jobs queued, before jobs are claimed, and not more often than ``FRESH`` says.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from itertools import chain
from typing import TYPE_CHECKING

from pmjq import packing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pmjq.desk import Desk
    from pmjq.job import Attempt
    from pmjq.outside import Outside

FRESH = 0.01
FRESH_SHARED = 0.1
"""Seconds for which what the other nodes have is taken to be as it was seen."""

MOST_READ = 500
MOST_READ_SHARED = 20
"""How many claims are read in one look; the others count when they have been."""


def attempts(desk: Desk) -> Iterator[Attempt]:
    """Return the attempts that hold what they ask for on this node."""
    for claimed in chain(desk.claimed.values(), desk.line.values()):
        yield claimed.attempt
    yield from desk.starting.values()
    runs = chain(desk.running.values(), desk.strays.values(), desk.stray_remains.values())
    for run in runs:
        yield run.attempt
    for remains in desk.remains.values():
        yield remains.run.attempt
    for doubt in desk.doubts.values():
        yield doubt.attempt


def here(desk: Desk) -> Counter[int]:
    """Return the CPUs of each owner's jobs on this node, by user number."""
    counts: Counter[int] = Counter()
    for attempt in attempts(desk):
        counts[attempt.uid] += packing.counted(attempt.spec, desk.packing.capacity)
    return counts


class Shares:
    """The shares as one life of a node sees them."""

    def __init__(self, outside: Outside, desk: Desk) -> None:
        """Nothing is known of other nodes yet."""
        self.outside = outside
        self.desk = desk
        self._others: dict[str, dict[str, tuple[int, int]]] = {}
        self._again = 0.0

    def all(self, now: float) -> Counter[int]:
        """Return the CPUs of each owner over all living nodes, by user number."""
        counts = here(self.desk)
        if self.desk.living:
            self._look(now)
        for jobs in self._others.values():
            for uid, cpus in jobs.values():
                counts[uid] += cpus
        return counts

    def _look(self, now: float) -> None:
        """Look what the other nodes have; of one that cannot be asked, what was seen last."""
        if now < self._again:
            return
        local = self.outside.spool.local
        left = MOST_READ if local else MOST_READ_SHARED
        seen: dict[str, dict[str, tuple[int, int]]] = {}
        for token in self.desk.living:
            known = self._others.get(token, {})
            seen[token] = known
            with contextlib.suppress(OSError):
                ids = self.outside.spool.run_of(token)
                seen[token] = {job_id: known[job_id] for job_id in ids if job_id in known}
                for job_id in [job_id for job_id in ids if job_id not in known][:left]:
                    left -= 1
                    self._read(job_id, seen[token])
        self._others = seen
        self._again = self.outside.now() + (FRESH if local else FRESH_SHARED)

    def _read(self, job_id: str, jobs: dict[str, tuple[int, int]]) -> None:
        """Read whose a job is; one without a claim has ended."""
        attempt = self.outside.spool.attempt(job_id)
        if attempt is not None:
            capacity = self.desk.packing.capacity
            jobs[job_id] = (attempt.uid, packing.counted(attempt.spec, capacity))
