"""The rules of the queue as it is listed: the order in which it is to be run."""

from __future__ import annotations

from pmjq.listing import in_order
from pmjq.seen import Seen
from pmjq.state import State


def seen(name: str, words: str = "", uid: int = 1000, state: State = State.QUEUED) -> Seen:
    """Return a job."""
    return Seen(name=name, uid=uid, state=state, directives=tuple(words.split()))


def names(queued: list[Seen], claimed: list[Seen] | None = None, opened: int = 99) -> str:
    """Return the order."""
    return " ".join(one.name for one in in_order(queued, claimed or [], opened))


def test_by_age() -> None:
    """As they are where nobody asks for anything else."""
    assert names([seen("b"), seen("a"), seen("c", "cpus=2")]) == "b a c"
    assert names([]) == ""


def test_by_priority() -> None:
    """Higher ones first, the lower ones last."""
    jobs = [seen("low", "priority=-1"), seen("b"), seen("a"), seen("high", "priority=1")]
    assert names(jobs) == "high b a low"


def test_in_turns_among_owners() -> None:
    """By what they have, what runs included."""
    jobs = [seen(f"a{n}") for n in range(3)] + [seen(f"b{n}", uid=1001) for n in range(3)]
    assert names(jobs) == "a0 b0 a1 b1 a2 b2"
    running = [seen("x", "cpus=2", state=State.RUNNING)]
    assert names(jobs, running) == "b0 b1 a0 b2 a1 a2"


def test_what_does_not_run_takes_no_turn() -> None:
    """A held one stands where it would, and counts for nothing."""
    jobs = [seen("a0", state=State.HELD), seen("a1"), seen("b0", uid=1001)]
    assert names(jobs) == "a0 a1 b0"


def test_what_was_not_opened_follows() -> None:
    """By age, since nothing more is known."""
    jobs = [seen("a"), seen("b", "priority=1"), seen("c", uid=1001), seen("d", "priority=9")]
    assert names(jobs, opened=2) == "b a c d"


def test_directives_that_are_not_understood() -> None:
    """They are somebody else's to refuse."""
    assert names([seen("a", "what=ever"), seen("b", "priority=1")]) == "b a"
