"""When a job that failed is tried again, and what its next attempt is to know.

A job that asks for retries returns to the queue when an attempt has failed, and any node takes it
up once its pause is over. So does, without a pause, one that is restartable and was interrupted.
What the next attempt is to know goes with it: how many there were, and how each ended.

Pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from pmjq import job
from pmjq.job import Again, Spec, Status
from pmjq.plan import OUTPUT, Return
from pmjq.state import State

if TYPE_CHECKING:
    from pmjq.directives import Refusal
    from pmjq.plan import Over

FIRST_BACKOFF = 10.0
"""Seconds before the first retry of a job that does not say."""

LONGEST_BACKOFF = 3600.0
"""Seconds before any retry at most, unless a job asks for longer ones from the beginning."""

MOST_DOUBLED = 40
"""After so many doublings any pause is the longest."""

INTERRUPTED = "interrupted"
"""The state of an attempt that nobody let end."""


def fate(over: Over) -> Over | Return:
    """Return what becomes of a job whose attempt is over: it ends, or is tried again."""
    attempt = over.attempt
    retries = attempt.spec.retries
    if over.state is not State.FAILED or attempt.tries >= retries:
        return over
    if over.limit == OUTPUT:
        # It would only do it again, into the same output.
        return over
    pause = backoff(attempt.spec, attempt.tries)
    following = f"retry {attempt.tries + 1} of {retries} in {pause:g} s"
    return Return(attempt, f"{over.reason}; {following}", stopped=True, over=over)


def backoff(spec: Spec, tries: int) -> float:
    """Return the seconds between a failed attempt and the next: twice as many each time."""
    first = FIRST_BACKOFF if spec.backoff is None else spec.backoff
    return min(max(first, LONGEST_BACKOFF), first * 2.0 ** min(tries, MOST_DOUBLED))


def following(back: Return, wall: float) -> Again:
    """Return what whoever claims a returned job is to know; ``wall``: the time of day."""
    attempt, over = back.attempt, back.over
    if back.again is not None:
        return back.again
    if not back.stopped:
        # What was not executed is the same attempt when it is claimed again.
        return Again(attempt.attempt, tries=attempt.tries, earlier=attempt.earlier)
    if over is None:
        record = job.record(attempt, Status(), State.LOST, wall, back.reason)
        tried = msgspec.structs.replace(job.attempted(record), state=INTERRUPTED)
    else:
        tried = job.attempted(job.record(attempt, over.status, over.state, wall, over.reason))
    pause = backoff(attempt.spec, attempt.tries)
    return Again(
        attempt.attempt + 1,
        tries=attempt.tries + (over is not None),
        earlier=(*attempt.earlier, tried),
        not_before=None if over is None else job.moment(wall + pause),
    )


def may_come_back(verdict: Spec | Refusal) -> bool:
    """Tell whether a job may have been executed before, and be in the queue again."""
    return isinstance(verdict, Spec) and bool(verdict.retries or verdict.restartable)


def pause(again: Again, spec: Spec, now: float, age: float = 0.0) -> float:
    """Return for how many seconds a job is not to be tried again yet.

    ``now``: the time of day. ``age``: for how many seconds it has been in the queue at least;
    whatever the clock says of the node where it failed, it is no longer than its pause.
    """
    if again.not_before is None:
        return 0.0
    most = backoff(spec, max(0, again.tries - 1)) - age
    return min(again.not_before.timestamp() - now, most)


def reason(again: Again) -> str:
    """Return why a job that is back in the queue does not run yet."""
    at = f"{again.not_before:%Y-%m-%d %H:%M:%S}Z" if again.not_before else ""
    last = again.earlier[-1].reason if again.earlier else ""
    return f"attempt {again.attempt} not before {at}" + (f": {last}" if last else "")
