"""The rules of the transition table."""

from __future__ import annotations

import pytest

from pmjq.state import ENDED, TO_ERROR_DIRECTORY, TRANSITIONS, State, Transition

IN_SPOOL = {State.QUEUED, State.HELD}
IN_HAND = {State.CLAIMED, State.RUNNING}


def test_states_are_the_words_that_people_see() -> None:
    """A state reads the same in records, logs and listings."""
    words = "incoming held queued claimed running done failed cancelled rejected lost"
    assert [str(state) for state in State] == words.split()


def test_table_is_exactly_this() -> None:
    """A transition that is not in the table does not exist."""
    assert {row.name: (row.source, row.target) for row in TRANSITIONS.values()} == {
        "submit": (None, IN_SPOOL),
        "withdraw": (IN_SPOOL, None),
        "cancel": (IN_SPOOL, {State.CANCELLED}),
        "hold": ({State.QUEUED}, {State.HELD}),
        "release": ({State.HELD}, {State.QUEUED}),
        "claim": ({State.QUEUED}, {State.CLAIMED}),
        "start": ({State.CLAIMED}, {State.RUNNING}),
        "return": (IN_HAND, {State.QUEUED}),
        "end": (IN_HAND, ENDED),
        "archive": (ENDED, ENDED),
        "take over": (IN_HAND, IN_HAND),
    }


def test_rows_stand_under_their_names() -> None:
    """The key of a row is its name."""
    assert all(name == row.name for name, row in TRANSITIONS.items())


@pytest.mark.parametrize("row", TRANSITIONS.values(), ids=lambda row: row.name)
def test_commit_is_one_call(row: Transition) -> None:
    """One transition is one system call: one verb, and the names it works on."""
    verb, _, names = row.commit.partition(" ")
    assert verb in {"rename", "unlink", "chmod", "create"}
    assert names
    assert (" -> " in row.commit) == (verb == "rename")


def test_what_ended_stays_ended() -> None:
    """Only archiving touches an ended job, and it changes no state."""
    leaving = [row for row in TRANSITIONS.values() if row.source and row.source & ENDED]
    assert [row.name for row in leaving] == ["archive"]
    assert leaving[0].target == ENDED


def test_every_state_but_incoming_is_reached() -> None:
    """Nothing is named that cannot happen; incoming is what a copy looks like on its way in."""
    reached = frozenset[State]().union(*(row.target or () for row in TRANSITIONS.values()))
    assert reached == set(State) - {State.INCOMING}


def test_every_state_has_a_way_on() -> None:
    """A job is stuck in no state before its end."""
    left = frozenset[State]().union(*(row.source or () for row in TRANSITIONS.values()))
    assert left >= set(State) - ENDED - {State.INCOMING}


def test_all_but_done_go_to_the_error_directory() -> None:
    """``-e`` takes whatever did not end well."""
    assert {"failed", "cancelled", "rejected", "lost"} == TO_ERROR_DIRECTORY
    assert {State.DONE} | TO_ERROR_DIRECTORY == ENDED
