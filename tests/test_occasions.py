"""The rules of when hooks are due: what was seen and when in, due or not out."""

from __future__ import annotations

from pmjq.occasions import BACKOFF, LONGEST_BACKOFF, Idle, Kept


def test_idle_is_told_of_once() -> None:
    """Once for each time that it is idle for long enough."""
    idle = Idle(60.0)
    assert idle.next() is None
    due = [idle.seen(now, idle=True) for now in (100.0, 159.9, 160.0, 161.0, 1e6)]
    assert due == [False, False, True, False, False]
    assert idle.next() is None
    assert not idle.seen(2e6, idle=False)
    assert [idle.seen(now, idle=True) for now in (3e6, 3e6 + 59, 3e6 + 60)] == [False, False, True]


def test_idle_begins_anew() -> None:
    """What is busy in between has not been idle for long."""
    idle = Idle(60.0)
    for now in (0.0, 100.0, 200.0):
        assert not idle.seen(now, idle=True)
        assert idle.next() == now + 60.0
        assert not idle.seen(now + 50.0, idle=False)
        assert idle.next() is None


def test_idle_at_once() -> None:
    """It may be told of as soon as it is seen."""
    idle = Idle(0.0)
    assert [idle.seen(now, idle=True) for now in (0.0, 1.0)] == [True, False]


def test_kept_is_told_of_again_after_growing_pauses() -> None:
    """A gate that stays closed is told of less and less often."""
    kept = Kept(10.0)
    due = [now for now in range(0, 10 * int(BACKOFF), 10) if kept.seen(float(now), kept=True)]
    assert due == [10, 10 + BACKOFF, 10 + 3 * BACKOFF, 10 + 7 * BACKOFF]
    assert kept.next() == 10 + 15 * BACKOFF


def test_kept_that_flaps() -> None:
    """A gate that opens for a moment is not told of more often for it."""
    kept, due = Kept(10.0), []
    for now in range(0, int(3 * BACKOFF), 20):
        assert not kept.seen(float(now), kept=False)
        due += [at for at in (now + 1, now + 11) if kept.seen(float(at), kept=True)]
    assert len(due) == 2


def test_kept_after_it_was_open_for_long() -> None:
    """Then it is told of as if for the first time."""
    kept = Kept(10.0)
    kept.seen(0.0, kept=True)
    assert kept.seen(10.0, kept=True)
    assert not kept.seen(20.0, kept=False)
    later = 20.0 + 10 * BACKOFF
    assert not kept.seen(later, kept=True)
    assert kept.next() == later + 10.0
    assert kept.seen(later + 10.0, kept=True)
    assert kept.next() == later + 10.0 + BACKOFF


def test_kept_pauses_do_not_grow_for_ever() -> None:
    """A day is the longest."""
    kept, now = Kept(0.0), 0.0
    pauses: list[float] = []
    for _ in range(20):
        assert kept.seen(now, kept=True)
        at = kept.next()
        assert at is not None
        pauses.append(at - now)
        now = at
    assert pauses[:3] == [BACKOFF, 2 * BACKOFF, 4 * BACKOFF]
    assert pauses[-1] == max(pauses) == LONGEST_BACKOFF
