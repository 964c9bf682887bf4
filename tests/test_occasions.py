"""The rules of when hooks are due: what was seen and when in, when it is due out."""

from __future__ import annotations

from pmjq.occasions import BACKOFF, LONGEST_BACKOFF, Idle, Kept


def told(occasion: Idle | Kept, now: float) -> bool:
    """Tell of an occasion if it is due."""
    due = occasion.due()
    if due is None or due > now:
        return False
    occasion.tell(now)
    return True


def idle_at(idle: Idle, now: float) -> bool:
    """Have it be idle at a time; tell whether it was told of then."""
    idle.see(now, idle=True)
    return told(idle, now)


def kept_at(kept: Kept, now: float) -> bool:
    """Have jobs be kept at a time; tell whether it was told of then."""
    kept.see(now, kept=True)
    return told(kept, now)


def test_idle_is_told_of_once() -> None:
    """Once for each time that it is idle for long enough."""
    idle = Idle(60.0)
    assert idle.due() is None
    assert [idle_at(idle, now) for now in (100, 159.9, 160, 161, 1e6)] == [
        *(False, False, True, False, False)
    ]
    assert idle.due() is None
    idle.see(2e6, idle=False)
    assert [idle_at(idle, now) for now in (3e6, 3e6 + 59, 3e6 + 60)] == [False, False, True]


def test_idle_begins_anew() -> None:
    """What is busy in between has not been idle for long."""
    idle = Idle(60.0)
    for now in (0.0, 100.0, 200.0):
        assert not idle_at(idle, now)
        assert idle.due() == now + 60.0
        idle.see(now + 50.0, idle=False)
        assert idle.due() is None


def test_idle_that_is_not_told_of_stays_due() -> None:
    """Another node may have been the one to tell of it."""
    idle = Idle(60.0)
    for now in (0.0, 60.0, 100.0):
        idle.see(now, idle=True)
        assert idle.due() == 60.0


def test_idle_nowhere_else() -> None:
    """Another node that had a job until then was not idle, and an earlier one changes nothing."""
    idle = Idle(60.0)
    idle.busy_until(50.0)
    assert idle.due() is None
    idle.see(100.0, idle=True)
    assert (idle.begun(), idle.due()) == (100.0, 160.0)
    idle.busy_until(50.0)
    assert (idle.begun(), idle.due()) == (100.0, 160.0)
    idle.busy_until(130.0)
    assert (idle.begun(), idle.due()) == (130.0, 190.0)


def test_kept_since() -> None:
    """Its occasion begins with the jobs that wait, or where it was told of last."""
    kept = Kept(10.0)
    kept.see(100.0, kept=True)
    assert (kept.begun(), kept.due()) == (100.0, 110.0)
    kept.tell(110.0)
    assert (kept.begun(), kept.due()) == (110.0, 110.0 + BACKOFF)


def test_idle_at_once() -> None:
    """It may be told of as soon as it is seen."""
    idle = Idle(0.0)
    assert [idle_at(idle, now) for now in (0.0, 1.0)] == [True, False]


def test_kept_is_told_of_again_after_growing_pauses() -> None:
    """A gate that stays closed is told of less and less often."""
    kept = Kept(10.0)
    due = [now for now in range(0, 10 * int(BACKOFF), 10) if kept_at(kept, float(now))]
    assert due == [10, 10 + BACKOFF, 10 + 3 * BACKOFF, 10 + 7 * BACKOFF]
    assert kept.due() == 10 + 15 * BACKOFF


def test_kept_that_flaps() -> None:
    """A gate that opens for a moment is not told of more often for it."""
    kept, due = Kept(10.0), []
    for now in range(0, int(3 * BACKOFF), 20):
        kept.see(float(now), kept=False)
        due += [at for at in (now + 1, now + 11) if kept_at(kept, float(at))]
    assert len(due) == 2


def test_kept_after_it_was_open_for_long() -> None:
    """Then it is told of as if for the first time."""
    kept = Kept(10.0)
    kept.see(0.0, kept=True)
    assert kept_at(kept, 10.0)
    kept.see(20.0, kept=False)
    later = 20.0 + 10 * BACKOFF
    assert not kept_at(kept, later)
    assert kept.due() == later + 10.0
    assert kept_at(kept, later + 10.0)
    assert kept.due() == later + 10.0 + BACKOFF


def test_kept_pauses_do_not_grow_for_ever() -> None:
    """A day is the longest."""
    kept, now = Kept(0.0), 0.0
    pauses: list[float] = []
    for _ in range(20):
        assert kept_at(kept, now)
        at = kept.due()
        assert at is not None
        pauses.append(at - now)
        now = at
    assert pauses[:3] == [BACKOFF, 2 * BACKOFF, 4 * BACKOFF]
    assert pauses[-1] == max(pauses) == LONGEST_BACKOFF
