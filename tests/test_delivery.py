"""The rules of when letters are tried: each after its own pauses, and none before its turn."""

from __future__ import annotations

from pmjq.delivery import Line, pause


def line(*names: str) -> Line:
    """Return a line of letters."""
    made = Line()
    for name in names:
        made.add(name)
    return made


def test_pauses() -> None:
    """A minute, doubled to an hour."""
    minutes = [pause(tries) / 60 for tries in range(1, 9)]
    assert minutes == [1, 2, 4, 8, 16, 32, 60, 60]
    assert pause(100_000) == 3600


def test_in_the_order_in_which_they_came() -> None:
    """Those that never failed go first."""
    one = line("a", "b")
    assert (one.due(0.0), one.next(), len(one)) == ("a", 0.0, 2)
    assert one.failed("a", 0.0, "busy")
    assert one.due(0.0) == "b"
    one.drop("b")
    assert (one.due(59.9), one.next()) == (None, 60.0)
    one.add("c")
    assert one.due(60.0) == "c"
    one.drop("c")
    assert one.due(60.0) == "a"


def test_a_letter_that_fails_again_and_again() -> None:
    """It waits longer each time, and is news only with another reason."""
    one, now, times = line("a"), 0.0, []
    for _ in range(8):
        one.failed("a", now, "busy")
        due = one.next()
        assert due is not None
        times.append(round((due - now) / 60))
        now = due
        assert one.due(now) == "a"
    assert times == [1, 2, 4, 8, 16, 32, 60, 60]
    assert not one.failed("a", now, "busy")
    assert one.failed("a", now, "full")
    assert (len(one), one.reason()) == (1, "full")
    one.drop("a")
    assert (len(one), one.reason(), one.next(), one.due(1e9)) == (0, "", None, None)


def test_added_twice() -> None:
    """One that waits keeps its pause."""
    one = line("a", "a")
    one.failed("a", 0.0, "busy")
    one.add("a")
    assert (len(one), one.due(1.0), one.names()) == (1, None, ["a"])


def test_nothing_can_be_sent() -> None:
    """All wait, those that come meanwhile too, and the first that goes ends that."""
    one = line("a", "b")
    assert one.away(0.0, "gone")
    one.add("c")
    assert (one.due(59.0), one.next(), one.reason(), one.again_in) == (None, 60.0, "gone", 60.0)
    assert one.due(60.0) == "a"
    assert not one.away(60.0, "gone")
    assert (one.due(179.0), one.due(180.0)) == (None, "a")
    one.drop("a")
    assert one.works()
    assert not one.works()
    assert (one.due(180.0), one.reason()) == ("b", "")
