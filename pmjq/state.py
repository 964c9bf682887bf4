"""Job states and the one table of transitions.

A job's state is which names exist on disk; nothing else is true. Every transition is one system
call, the commit: what comes before it prepares and what comes after it cleans, and both may be
lost or repeated. ``TRANSITIONS`` lists them all, pmjq-spool(5) says the same in prose, and a test
compares the two. A transition that is not in the table does not exist.

The words are those that people see: ``State.LOST`` is ``"lost"`` in records, logs and listings.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class State(StrEnum):
    """What a person is told about an entry of the spool."""

    INCOMING = "incoming"
    HELD = "held"
    QUEUED = "queued"
    CLAIMED = "claimed"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    REJECTED = "rejected"
    LOST = "lost"


ENDED = frozenset({State.DONE, State.FAILED, State.CANCELLED, State.REJECTED, State.LOST})
"""States that do not change any more; each has exactly one record."""

TO_ERROR_DIRECTORY = ENDED - {State.DONE}
"""Where ``-e`` is given, jobs that ended so go there."""


class Transition(NamedTuple):
    """One row of the table: ``commit`` is the single system call that makes it so."""

    name: str
    source: frozenset[State] | None
    target: frozenset[State] | None
    commit: str


def _states(*states: State) -> frozenset[State]:
    return frozenset(states)


TRANSITIONS: dict[str, Transition] = {
    row.name: row
    for row in (
        Transition("submit", None, _states(State.QUEUED, State.HELD), "rename .pmjq/tmp/X -> NAME"),
        Transition("withdraw", _states(State.QUEUED, State.HELD), None, "unlink NAME"),
        Transition(
            "cancel",
            _states(State.QUEUED, State.HELD),
            _states(State.CANCELLED),
            "rename NAME -> ended/ID.N",
        ),
        Transition("hold", _states(State.QUEUED), _states(State.HELD), "chmod a-x NAME"),
        Transition("release", _states(State.HELD), _states(State.QUEUED), "chmod u+x NAME"),
        Transition(
            "claim",
            _states(State.QUEUED),
            _states(State.CLAIMED),
            "rename NAME -> node/TOKEN/run/ID",
        ),
        Transition(
            "start", _states(State.CLAIMED), _states(State.RUNNING), "create job/ID/status.N"
        ),
        Transition(
            "return",
            _states(State.CLAIMED, State.RUNNING),
            _states(State.QUEUED),
            "rename node/TOKEN/run/ID -> NAME",
        ),
        Transition(
            "end",
            _states(State.CLAIMED, State.RUNNING),
            ENDED,
            "rename node/TOKEN/run/ID -> ended/ID.N",
        ),
        Transition("archive", ENDED, ENDED, "rename ended/ID.N -> ARCHIVE/STEM"),
        Transition(
            "take over",
            _states(State.CLAIMED, State.RUNNING),
            _states(State.CLAIMED, State.RUNNING),
            "rename node/OTHER/run/ID -> node/TOKEN/run/ID",
        ),
    )
}
"""The transitions by name; a name here is the word for it everywhere."""
