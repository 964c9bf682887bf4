"""The rules of retries: what is tried again, when, and what the next attempt knows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pmjq import retries
from pmjq.job import Again, Spec, Status, Try
from pmjq.keys import LONGEST, MOST_RETRIES
from pmjq.plan import Over, Return
from pmjq.retries import FIRST_BACKOFF, INTERRUPTED, LONGEST_BACKOFF, backoff, fate, following
from pmjq.state import ENDED, State
from values import CLAIMED, ID, attempt

WALL = CLAIMED.timestamp() + 100

FAILED = Status(started=WALL - 5, ended=WALL - 1, code=3)


def over(state: State = State.FAILED, tries: int = 0, reason: str = "", **spec: Any) -> Over:  # noqa: ANN401  # as fields
    """Return an attempt that is over."""
    return Over(attempt(spec=Spec(**spec), tries=tries), FAILED, state, reason)


# --- whether


@pytest.mark.parametrize("state", sorted(ENDED))
def test_only_what_failed_is_tried_again(state: State) -> None:
    """What was cancelled or rejected would be so again; what is lost may still run."""
    given = over(state, retries=3)
    assert isinstance(fate(given), Return) == (state is State.FAILED)
    if state is not State.FAILED:
        assert fate(given) is given


def test_without_retries_it_ends() -> None:
    """Nobody asked for another attempt."""
    assert isinstance(fate(over()), Over)
    assert isinstance(fate(over(backoff=5.0)), Over)


@pytest.mark.parametrize(("tries", "again"), [(0, True), (1, True), (2, False), (3, False)])
def test_as_often_as_was_asked_for(tries: int, again: bool) -> None:  # noqa: FBT001  # as parametrised
    """N retries are N + 1 attempts."""
    assert isinstance(fate(over(tries=tries, retries=2)), Return) == again


def test_return_says_what_was_and_what_comes() -> None:
    """The log tells why it failed, the how many-th retry comes, and when."""
    given = over(reason="exit 3", retries=4, tries=1, backoff=5.0)
    assert fate(given) == Return(
        given.attempt, "exit 3; retry 2 of 4 in 10 s", stopped=True, over=given
    )


# --- when


@pytest.mark.parametrize(
    ("first", "pauses"),
    [
        (None, [10, 20, 40, 80, 160, 320, 640, 1280, 2560, 3600, 3600]),
        (1.5, [1.5, 3, 6]),
        (0.0, [0, 0, 0]),
        (3600.0, [3600, 3600]),
        (7200.0, [7200, 7200, 7200]),
    ],
)
def test_each_pause_is_twice_the_one_before(first: float | None, pauses: list[float]) -> None:
    """Up to an hour, or to the first where that is longer."""
    assert (FIRST_BACKOFF, LONGEST_BACKOFF) == (10, 3600)
    spec = Spec(retries=20, backoff=first)
    assert [backoff(spec, n) for n in range(len(pauses))] == pauses


@pytest.mark.parametrize("first", [None, 0.0, 1e-300, 1.0, 1e9, LONGEST])
def test_pause_of_the_last_retry(first: float | None) -> None:
    """A thousand doublings are no number any more; the longest pause is."""
    spec = Spec(retries=MOST_RETRIES, backoff=first)
    pause = backoff(spec, MOST_RETRIES)
    assert 0 <= pause <= max(first or 0, LONGEST_BACKOFF)


# --- what the next attempt knows


def test_following_a_failure() -> None:
    """Its number, its tries, how each ended, and when it may begin."""
    given = over(reason="exit 3", retries=2, backoff=5.0)
    back = fate(given)
    assert isinstance(back, Return)
    again = following(back, WALL)
    tried = Try(
        id=ID,
        attempt=1,
        node="a",
        state="failed",
        started=datetime.fromtimestamp(WALL - 5, UTC),
        ended=datetime.fromtimestamp(WALL - 1, UTC),
        exit_code=3,
        reason="exit 3",
    )
    moment = datetime.fromtimestamp(WALL, UTC) + timedelta(seconds=5)
    assert again == Again(2, tries=1, earlier=(tried,), not_before=moment)


def test_earlier_attempts_add_up() -> None:
    """All are remembered, in order."""
    first = Try(id="x", attempt=1, node="b", state="failed", exit_code=1)
    given = Over(
        attempt(attempt=2, spec=Spec(retries=5), tries=1, earlier=(first,)), FAILED, State.FAILED
    )
    back = fate(given)
    assert isinstance(back, Return)
    again = following(back, WALL)
    assert (again.attempt, again.tries) == (3, 2)
    assert again.earlier[0] == first
    assert [one.attempt for one in again.earlier] == [1, 2]
    assert again.not_before == datetime.fromtimestamp(WALL + 20, UTC)


def test_following_a_signal() -> None:
    """A signal is remembered as a signal."""
    given = Over(attempt(spec=Spec(retries=1)), Status(code=-9), State.FAILED, "SIGKILL")
    back = fate(given)
    assert isinstance(back, Return)
    (tried,) = following(back, WALL).earlier
    assert (tried.signal, tried.exit_code) == (9, None)


def test_following_an_interruption() -> None:
    """What was stopped in the middle is another attempt, at once, and no retry is used up."""
    back = Return(attempt(spec=Spec(restartable=True, retries=3), tries=1), "stopped", stopped=True)
    again = following(back, WALL)
    assert (again.attempt, again.tries, again.not_before) == (2, 1, None)
    assert [(one.state, one.reason) for one in again.earlier] == [(INTERRUPTED, "stopped")]


def test_following_what_was_not_executed() -> None:
    """A claim that came to nothing is the same attempt when it is made again."""
    first = Try(id="x", attempt=1, node="b", state="failed")
    back = Return(attempt(attempt=2, tries=1, earlier=(first,)), "changed")
    assert following(back, WALL) == Again(2, tries=1, earlier=(first,))


def test_longest_pause() -> None:
    """The longest that a job can ask for is still in the calendar."""
    given = over(retries=1, backoff=LONGEST)
    back = fate(given)
    assert isinstance(back, Return)
    again = following(back, WALL)
    assert retries.pause(again, given.attempt.spec, WALL) == pytest.approx(LONGEST)
    assert retries.reason(again)


# --- until then


def test_pause() -> None:
    """Seconds until it is tried again, at most 0 where nothing keeps it."""
    again = Again(2, not_before=datetime.fromtimestamp(WALL + 5, UTC))
    spec = Spec(backoff=30.0)
    assert retries.pause(again, spec, WALL) == pytest.approx(5)
    assert retries.pause(again, spec, WALL + 6) == pytest.approx(-1)
    assert retries.pause(Again(2), spec, WALL) == 0


def test_pause_by_a_wrong_clock() -> None:
    """Whatever time it is on the node where it failed, it is no longer than the pause."""
    again = Again(3, tries=2, not_before=datetime.fromtimestamp(WALL + 4000, UTC))
    spec = Spec(backoff=30.0)
    assert retries.pause(again, spec, WALL) == pytest.approx(60)
    assert retries.pause(again, spec, WALL, 50.0) == pytest.approx(10)


def test_reason() -> None:
    """A person reads which attempt it is, when, and why the last one failed."""
    at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    tried = Try(id=ID, attempt=1, node="a", state="failed", reason="exit 3")
    again = Again(2, earlier=(tried,), not_before=at)
    assert retries.reason(again) == "attempt 2 not before 2026-01-02 03:04:05Z: exit 3"
    assert retries.reason(Again(2, not_before=at)) == "attempt 2 not before 2026-01-02 03:04:05Z"
