"""The rules of pauses: what failed is left alone, longer each time, and said once."""

from __future__ import annotations

import errno
import os

import pytest

from doubles import Clock, Lines
from pmjq.outside import FIRST_PAUSE, LONGEST_PAUSE, Pauses


@pytest.fixture
def clock() -> Clock:
    """Return a clock that is moved by hand."""
    return Clock()


@pytest.fixture
def lines() -> Lines:
    """Return a log that is kept."""
    return Lines()


@pytest.fixture
def pauses(clock: Clock, lines: Lines) -> Pauses:
    """Return pauses of which none has begun."""
    return Pauses(clock.now, lines)


def full(path: str = "/spool/x") -> OSError:
    """Return the error of a full disk."""
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)


def test_nothing_has_failed(pauses: Pauses, clock: Clock, lines: Lines) -> None:
    """What never failed may be done at once, and its success is no news."""
    pauses.worked("claim")
    assert (pauses.until("claim"), pauses.ends(clock.now()), lines.lines) == (0.0, [], [])


def test_pause_begins_with_the_failure(pauses: Pauses, clock: Clock) -> None:
    """The first pause is short, and ends."""
    now = clock.now()
    pauses.failed("claim", full())
    assert pauses.until("claim") == now + FIRST_PAUSE
    assert pauses.ends(now) == [now + FIRST_PAUSE]
    assert pauses.ends(now + FIRST_PAUSE) == []


def test_pauses_grow_to_the_longest(pauses: Pauses, clock: Clock) -> None:
    """Each failure doubles the pause, up to half a minute."""
    lengths = []
    for _ in range(10):
        pauses.failed("claim", full())
        lengths.append(pauses.until("claim") - clock.now())
        clock.advance(lengths[-1])
    assert lengths == [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]
    assert (lengths[0], lengths[-1]) == (FIRST_PAUSE, LONGEST_PAUSE)


def test_success_ends_the_pause(pauses: Pauses, clock: Clock, lines: Lines) -> None:
    """After a success nothing is held up; the next failure begins with a short pause again."""
    pauses.failed("claim", full())
    pauses.failed("claim", full())
    pauses.worked("claim")
    pauses.worked("claim")
    assert (pauses.until("claim"), pauses.ends(clock.now())) == (0.0, [])
    pauses.failed("claim", full())
    assert pauses.until("claim") == clock.now() + FIRST_PAUSE
    assert lines.events() == ["claim.failed", "claim.works_again", "claim.failed"]


def test_each_operation_has_its_own_pause(pauses: Pauses, clock: Clock) -> None:
    """A full archive does not keep jobs from starting."""
    pauses.failed("end", full())
    clock.advance(FIRST_PAUSE)
    now = clock.now()
    pauses.failed("claim", full())
    pauses.failed("end", full())
    assert pauses.until("start") == 0.0
    assert pauses.ends(now) == [now + 2 * FIRST_PAUSE, now + FIRST_PAUSE]
    pauses.worked("claim")
    assert pauses.ends(now) == [now + 2 * FIRST_PAUSE]


def test_failures_in_one_pause_are_one(pauses: Pauses, clock: Clock) -> None:
    """A turn in which every call fails costs no longer a pause than one failing call."""
    for _ in range(64):
        pauses.failed("claim", full())
    assert pauses.until("claim") == clock.now() + FIRST_PAUSE


def test_failure_is_one_line(pauses: Pauses, lines: Lines) -> None:
    """What fails in the same way is said once, with the reason, the path and the pause."""
    for number in range(5):
        pauses.failed("claim", full(f"/spool/{number}"))
    expected = {"reason": "No space left on device", "path": "/spool/0", "again_in": FIRST_PAUSE}
    assert lines.lines == [("error", "claim.failed", expected)]


def test_another_reason_is_another_line(pauses: Pauses, lines: Lines) -> None:
    """What fails in another way than before is news."""
    pauses.failed("claim", full())
    pauses.failed("claim", OSError(errno.EIO, "Input/output error", "/spool/x"))
    pauses.failed("claim", OSError(errno.EIO, "Input/output error", "/spool/y"))
    assert [keys["reason"] for _, _, keys in lines.lines] == [
        "No space left on device",
        "Input/output error",
    ]


def test_error_without_a_number_or_a_path(pauses: Pauses, lines: Lines) -> None:
    """An error that says little is said as it is."""
    pauses.failed("look", OSError("odd"))
    assert lines.lines == [
        ("error", "look.failed", {"reason": "odd", "path": "", "again_in": FIRST_PAUSE})
    ]


def test_path_that_is_no_text(pauses: Pauses, lines: Lines) -> None:
    """The path is shown as names are."""
    pauses.failed("look", full(os.fsdecode(b"/spool/\xff")))
    assert lines.lines[0][2]["path"] == "/spool/\\xff"
