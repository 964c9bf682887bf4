"""The rules of how an attempt is over: its status in, its state and its reason out."""

from __future__ import annotations

import errno

import pytest

from pmjq.ending import (
    MISFITS,
    exceeded,
    outcome,
    signal_name,
    stopped_unseen,
    unexecuted,
)
from pmjq.job import Spec, Status
from pmjq.plan import MEMORY, OUTPUT, TIME, Over, Return
from pmjq.state import State
from values import attempt

A = attempt(id="a")


@pytest.mark.parametrize(
    ("status", "told", "state", "words"),
    [
        (Status(started=1.0, code=0), False, State.DONE, []),
        (Status(started=1.0, code=0), True, State.DONE, []),
        (Status(started=1.0, code=3), False, State.FAILED, ["exit code 3"]),
        (
            Status(started=1.0, code=3),
            True,
            State.CANCELLED,
            ["ended by the daemon", "told to stop"],
        ),
        (Status(started=1.0, code=-11), False, State.FAILED, ["signal 11", "SEGV"]),
        (Status(started=1.0, code=-15), True, State.CANCELLED, ["ended by the daemon"]),
        (Status(started=1.0), False, State.LOST, ["while it ran", "not known"]),
        (Status(started=1.0), True, State.LOST, ["while it ran", "not known"]),
        (Status(), False, State.LOST, ["being started", "not known"]),
    ],
)
def test_outcome(status: Status, state: State, words: list[str], *, told: bool) -> None:
    """Exit code 0 is done; what nobody saw end is lost; the rest failed, or was cancelled by us."""
    result = outcome(A, status, 7.0, told=told)
    assert (result.attempt, result.status, result.state) == (A, status, state)
    assert (result.since, result.durable) == (7.0, None)
    assert [word for word in words if word not in result.reason] == []
    assert bool(result.reason) == bool(words)


@pytest.mark.parametrize("number", sorted(MISFITS))
def test_misfit_is_rejected(number: int) -> None:
    """An execve that fails by the job's own fault ends it, with what to do about it."""
    status = Status(error=number)
    result = unexecuted(A, status, b"#!/opt/x\n", interpreter=False)
    assert isinstance(result, Over)
    assert (result.attempt, result.status, result.state) == (A, status, State.REJECTED)
    assert result.reason


def test_misfit_reason_knows_the_first_bytes() -> None:
    """The reason is that of the directives."""
    result = unexecuted(A, Status(error=errno.ENOENT), b"#!/opt/x\n", interpreter=False)
    assert "interpreter /opt/x" in result.reason
    result = unexecuted(A, Status(error=errno.EACCES), b"#!/bin/sh\n", interpreter=True)
    assert "noexec" in result.reason


@pytest.mark.parametrize(
    ("number", "word"),
    [
        (errno.ETXTBSY, "open for writing"),
        (errno.ENOMEM, "ENOMEM"),
        (errno.EAGAIN, "EAGAIN"),
        (errno.EIO, "EIO"),
        (9999, "9999"),
        (None, "0"),
    ],
)
def test_what_is_not_its_fault_is_returned(number: int | None, word: str) -> None:
    """A job is not rejected for what the machine lacks, or for a writer that is not done."""
    result = unexecuted(A, Status(error=number), b"#!/bin/sh\n", interpreter=True)
    assert isinstance(result, Return)
    assert (result.attempt, result.stopped) == (A, True)
    assert word in result.reason


@pytest.mark.parametrize(
    ("number", "name"), [(15, "TERM"), (9, "KILL"), (11, "SEGV"), (0, "0"), (50, "50"), (99, "99")]
)
def test_signal_name(number: int, name: str) -> None:
    """Signals are named as people write them, and numbered where they have no name."""
    assert signal_name(number) == name


# --- limits of its own

TIMED = attempt(id="t", spec=Spec(time=60.0, output_limit=1000, memory=4096, restartable=True))
STARTED = 1000.0


def over_at(seconds: float, code: int | None, **more: object) -> Status:
    """Return how a job ended that ran for so many seconds."""
    status = {"started": STARTED, "ended": STARTED + seconds, "code": code, **more}
    return Status(**status)  # type: ignore[arg-type]  # fields of a status


@pytest.mark.parametrize(
    ("status", "limit"),
    [
        # Whoever told it to stop wrote why.
        (over_at(61, -15, told=True, limit=TIME), TIME),
        (over_at(1, 3, told=True, limit=OUTPUT), OUTPUT),
        (over_at(1, -9, limit=MEMORY), MEMORY),
        (over_at(61, -15), TIME),
        (over_at(60, -9), TIME),
        (over_at(59, -15), ""),
        (over_at(61, 3), ""),
        (over_at(61, -11), ""),
        (over_at(61, 0), ""),
        (over_at(61, None), ""),
        (Status(code=-15), ""),
    ],
)
def test_exceeded(status: Status, limit: str) -> None:
    """What was written down counts; else a signal that ended it when its time was over."""
    assert exceeded(TIMED, status) == limit
    assert exceeded(attempt(id="n"), over_at(1e6, -15)) == ""


@pytest.mark.parametrize(
    ("limit", "reason"),
    [
        (TIME, "ended, since its time of 60 s was over"),
        (OUTPUT, "ended, since it wrote more than its output-limit of 1000 bytes"),
        (MEMORY, "ended, since it used more than its memory of 4096 bytes"),
    ],
)
@pytest.mark.parametrize("code", [-15, -9, 1, 143])
def test_over_its_limit_it_has_failed(limit: str, reason: str, code: int) -> None:
    """It has failed for that reason, however it ended when it was told to stop."""
    result = outcome(TIMED, over_at(61, code), told=True, limit=limit)
    assert (result.state, result.reason) == (State.FAILED, reason)


def test_over_its_memory_while_nobody_looked() -> None:
    """A restartable job does not run again: it would only use as much."""
    assert stopped_unseen(TIMED, over_at(1, -9))
    assert not stopped_unseen(TIMED, over_at(1, -9, limit=MEMORY))


def test_over_its_limit_and_done() -> None:
    """One that ends well when it is told to stop, or by itself just then, is done."""
    assert outcome(TIMED, over_at(61, 0), told=True, limit=TIME).state is State.DONE


def test_over_its_limit_and_lost() -> None:
    """How it ended is not known, also when it had been told to stop."""
    assert outcome(TIMED, over_at(61, None), told=True, limit=TIME).state is State.LOST


def test_over_its_limit_it_does_not_run_again() -> None:
    """A restartable job is not run again for having run for too long."""
    assert not stopped_unseen(TIMED, over_at(61, -15, told=True, limit=TIME))
    assert stopped_unseen(TIMED, over_at(30, -15, told=True))
