"""Waiting for jobs: for their ends, and for what they write.

Events wake a wait, and now and then it looks for itself. A job is followed wherever it goes: to
another node, back into the queue, into the archive.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pmjq import history
from pmjq.errors import NotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pmjq.disk import Disk
    from pmjq.jobs import Look
    from pmjq.seen import Seen
    from pmjq.spool import Spool

SOON, LATE = 0.05, 1.0
"""Seconds between two looks while waiting: the first, and the longest."""

SLOWER = 1.2

GONE_FOR = 3.0
"""Seconds after which a job that is nowhere was withdrawn: a node may be moving it."""

CHUNK = 1 << 16


@dataclass(slots=True)
class Waiting:
    """A wait for some jobs; ``look`` looks anew, ``heard`` is told how many of them have ended."""

    look: Callable[[], Look]
    jobs: list[Seen]
    heard: Callable[[int, int], None]
    _gone: dict[int, float] = field(default_factory=dict)

    def run(self, timeout: float | None) -> list[Seen]:
        """Wait until all have ended, or so many seconds; NotFoundError if one was withdrawn."""
        # The news begin before the look: what ends in between is in one of both.
        news = history.News(self.look().spool)
        deadline = None if timeout is None else time.monotonic() + timeout
        pause = 0.0
        while True:
            if pause >= LATE or not pause or news.events():
                self._look()
                pause = SOON
                self.heard(sum(not one.living for one in self.jobs), len(self.jobs))
            if not any(one.living for one in self.jobs):
                return self.jobs
            left = LATE if deadline is None else deadline - time.monotonic()
            if left <= 0:
                return self.jobs
            time.sleep(min(pause, left))
            pause = min(LATE, pause * SLOWER)

    def _look(self) -> None:
        numbers = [number for number, one in enumerate(self.jobs) if one.living]
        now = self.look().again([self.jobs[number] for number in numbers])
        for number, one in zip(numbers, now, strict=True):
            if one is not None:
                self.jobs[number] = one
                self._gone.pop(number, None)
            elif time.monotonic() > self._gone.setdefault(number, time.monotonic()) + GONE_FOR:
                self.jobs[number] = _claimed_as(self.look(), self.jobs[number])
                del self._gone[number]


def output(look: Callable[[], Look], seen: Seen, *, follow: bool) -> Iterator[bytes]:
    """Return what a job wrote in pieces, wherever its output has gone meanwhile."""
    spool = look().spool
    reading, pause = _Reading(spool.disk), SOON
    while True:
        ended = not seen.living
        more = False
        for path in _outputs(spool, seen):
            for part in reading.parts(path):
                more = True
                yield part
        if not follow or ended:
            return
        pause = SOON if more else min(LATE, pause * SLOWER)
        time.sleep(pause)
        seen = _again(look, seen)


def _outputs(spool: Spool, seen: Seen) -> list[str]:
    """Return where the output of a job may be, in the order in which it is moved.

    Kept from one attempt for the next, then with the paperwork, then in the archive. What is read
    on from one to the next is all of it, whenever it is moved.
    """
    kept = [spool.tried_path(job_id) for job_id in seen.ids]
    papers = [spool.output_path(seen.id, seen.attempt or 1)] if seen.id else []
    archived = [f"{seen.archived_path}.out"] if seen.archived else []
    return [*kept, *papers, *archived]


def _again(look: Callable[[], Look], seen: Seen) -> Seen:
    """Return how a job stands now; NotFoundError if it was withdrawn."""
    deadline = time.monotonic() + GONE_FOR
    while (now := look().again([seen])[0]) is None:
        if time.monotonic() > deadline:
            return _claimed_as(look(), seen)
        time.sleep(SOON)
    return now


def _claimed_as(look: Look, seen: Seen) -> Seen:
    """Return what became of a job that is not to be found; NotFoundError if it was withdrawn."""
    found = look.claimed_as(seen)
    if found is None:
        raise NotFoundError(f"{seen.name}: was withdrawn by its owner")
    return found


class _Reading:
    """The output of a job, read on from where it was read to, also when it has been moved."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._offset = 0

    def parts(self, path: str) -> Iterator[bytes]:
        while path and (part := self._disk.read_part(path, self._offset, CHUNK)):
            self._offset += len(part)
            yield part
