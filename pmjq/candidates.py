"""The names of jobs and nodes that somebody may mean who has typed the beginning of one.

Only reads, and as little as it can: what ``pmjq.jobs`` tells of a job costs more than a press of
TAB is worth. A hundred thousand entries cost one listing. Whoever calls may stop listening at any
time, so what is found quickly comes first.
"""

from __future__ import annotations

import contextlib
import stat as modes
from functools import cache
from itertools import chain, islice
from typing import TYPE_CHECKING

from pmjq import history, naming, node, ready
from pmjq.disk import Disk
from pmjq.nodes import opened
from pmjq.ready import Kind, Rules
from pmjq.shells import MOST, few
from pmjq.state import ENDED, State

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from pmjq.spool import Spool

RECENT = 100
"""How many of the jobs that ended last are offered."""

IN_SPOOL = frozenset({State.INCOMING, State.HELD, State.QUEUED})

Named = tuple[str, str]
"""A name or an id, and what a person reads beside it."""


def jobs(root: str, beginning: str, states: Collection[State]) -> Iterator[Named]:
    """Return jobs in some states; CLAIMED means whatever a node has.

    ``root``: the spool. PmjqError or OSError if it cannot be read.
    """
    spool = opened(Disk(), root)
    if State.CLAIMED in states:
        yield from _claimed(spool, beginning)
    if IN_SPOOL & set(states):
        yield from _queued(spool, beginning, IN_SPOOL & set(states))
    if ENDED & set(states):
        yield from _ended(spool, beginning)


def nodes(root: str, beginning: str, *, drained: bool | None = None) -> Iterator[str]:
    """Return nodes: those that are drained, those that are not, or all. Errors as ``jobs``."""
    spool = opened(Disk(), root)
    closed = {name for name in spool.drained() if node.is_name(name)}
    known = {node.name_of(token) for token in spool.tokens()} | closed
    wanted = known if drained is None else closed if drained else known - closed
    yield from few([name for name in wanted if name.startswith(beginning)])


def _claimed(spool: Spool, beginning: str) -> Iterator[Named]:
    with contextlib.suppress(OSError):  # A node may leave meanwhile.
        for token in spool.tokens():
            for job_id in spool.run_of(token):
                attempt = spool.attempt(job_id)
                if attempt is not None:
                    name = naming.real_name(attempt.name, attempt.name_hex)
                    yield from _either(name, job_id, beginning, f"on {node.name_of(token)}")


def _queued(spool: Spool, beginning: str, states: Collection[State]) -> Iterator[Named]:
    names = [name for name in spool.names() if name.startswith(beginning)]
    names = few(names) if states == IN_SPOOL else sorted(names)

    @cache
    def state(name: str) -> State | None:
        return _state(spool, name)

    # The last comes first: whenever nobody listens any more, what was found has the same beginning
    # in common as all of it, as in ``few``.
    last = islice((name for name in reversed(names) if state(name) in states), 1)
    found = islice((name for name in names if state(name) in states), MOST)
    for name in chain(last, found):
        yield name, str(state(name))


def _state(spool: Spool, name: str) -> State | None:
    """Return how an entry stands as far as it tells without being opened; None: it is no job."""
    stat = None if ready.passed_over(name) else spool.stat(name)
    if stat is None:
        return None
    if modes.S_ISDIR(stat.st_mode):
        infos = (f"{spool.root}/{name}/{info}" for info in ready.INFO_FILES)
        return State.QUEUED if any(spool.disk.stat(info) is not None for info in infos) else None
    kind = ready.standing(name, stat, Rules(uids=None), 0.0).kind
    return {Kind.QUEUED: State.QUEUED, Kind.HELD: State.HELD}.get(kind, State.INCOMING)


def _ended(spool: Spool, beginning: str) -> Iterator[Named]:
    for record in islice(history.records(spool), RECENT):
        name = naming.real_name(record.name, record.name_hex)
        when = f"{record.ended.astimezone():%Y-%m-%d %H:%M}"
        yield from _either(name, record.id, beginning, f"{record.state} {when}")


def _either(name: str, job_id: str, beginning: str, said: str) -> Iterator[Named]:
    """Return a job by its name, or by its id if that is what was begun."""
    if name.startswith(beginning):
        yield name, said
    elif naming.begins_id(beginning) and job_id.startswith(beginning):
        yield job_id, f"{name}, {said}"
