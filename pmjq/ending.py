"""How an attempt is over: from what its status says to its state and its reason.

Pure: statuses in, ``Over`` or ``Return`` out.
"""

from __future__ import annotations

import errno
import signal
from typing import TYPE_CHECKING

from pmjq import directives, infofile
from pmjq.plan import MEMORY, OUTPUT, TIME, Over, Return
from pmjq.state import State

if TYPE_CHECKING:
    from pmjq.job import Attempt, Spec, Status

MISFITS = frozenset(
    {
        errno.ENOEXEC,
        errno.ENOENT,
        errno.ENOTDIR,
        errno.EACCES,
        errno.EPERM,
        errno.ELOOP,
        errno.EINVAL,
        errno.E2BIG,
        errno.ELIBBAD,
        errno.EISDIR,
    }
)
"""Errors of execve that are the job's own fault; after any other it is returned."""


def outcome(
    attempt: Attempt,
    status: Status,
    now: float = 0.0,
    *,
    told: bool = False,
    limit: str = "",
    why: str = "",
) -> Over:
    """Return how an attempt is over whose process has ended, or is gone without a trace.

    ``told``: this daemon told it to stop; ``limit``: since it was over that one of its own.
    ``why``: the reason if it is lost.
    """
    state, reason = _judged(status, told=told)
    if state is State.LOST and why:
        reason = why
    elif limit and state in (State.FAILED, State.CANCELLED):
        reason = _limited(attempt.spec, limit)
        return Over(attempt, status, State.FAILED, reason, since=now, limit=limit)
    return Over(attempt, status, state, reason, since=now)


def _judged(status: Status, *, told: bool) -> tuple[State, str]:
    code = status.code
    if code is None:
        return State.LOST, _lost(status)
    if code == 0:
        return State.DONE, ""
    if told:
        return State.CANCELLED, "ended by the daemon, which was told to stop its jobs"
    if code < 0:
        return State.FAILED, f"ended by signal {-code} ({signal_name(-code)})"
    return State.FAILED, f"exit code {code}"


def unexecuted(
    attempt: Attempt,
    status: Status,
    head: bytes,
    *,
    interpreter: bool,
    permitted: bool = True,
    native: bytes = b"",
) -> Over | Return:
    """Return what becomes of an attempt whose execve failed.

    It is rejected if that is its own fault, else returned. The others as in
    ``directives.refusal``.
    """
    number = status.error or 0
    code = errno.errorcode.get(number, str(number))
    if number in MISFITS:
        if attempt.spec.argv:
            return Over(
                attempt, status, State.REJECTED, infofile.refusal(code, attempt.spec.argv[0])
            )
        reason = directives.refusal(
            code, head, interpreter=interpreter, permitted=permitted, native=native
        )
        return Over(attempt, status, State.REJECTED, reason)
    if number == errno.ETXTBSY:
        return Return(attempt, "still open for writing when it was to be executed", stopped=True)
    return Return(attempt, f"could not be executed for now ({code})", stopped=True, pause=True)


def exceeded(attempt: Attempt, status: Status) -> str:
    """Return which of its limits an attempt was stopped for, as its status tells; empty: none.

    Of what an earlier daemon had adopted the status tells only when it ended, and by which signal.
    """
    limit = attempt.spec.time
    if status.limit or limit is None or status.code not in (-signal.SIGTERM, -signal.SIGKILL):
        return status.limit
    if status.started is None or status.ended is None:
        return ""
    return TIME if status.ended - status.started >= limit else ""


def _limited(spec: Spec, limit: str) -> str:
    if limit == OUTPUT:
        return f"ended, since it wrote more than its output-limit of {spec.output_limit} bytes"
    if limit == MEMORY:
        return f"ended, since it used more than its memory of {spec.memory} bytes"
    return f"ended, since its time of {spec.time or 0.0:g} s was over"


def stopped_unseen(attempt: Attempt, status: Status) -> bool:
    """Tell whether a job that ended while no daemon looked may run again.

    A node that is shut down, or that is cut off from the spool, ends its restartable jobs so.
    """
    stopped = status.told and status.code != 0
    ended = stopped or status.code in (-signal.SIGTERM, -signal.SIGKILL)
    return attempt.spec.restartable and ended and not exceeded(attempt, status)


def signal_name(number: int) -> str:
    """Return the name of a signal as people write it: TERM, KILL, or its number."""
    try:
        return signal.Signals(number).name.removeprefix("SIG")
    except ValueError:
        return str(number)


def _lost(status: Status) -> str:
    if status.started is None:
        return "its node stopped while it was being started; whether it ran is not known"
    return "its node or its keeper stopped while it ran; how it ended is not known"
