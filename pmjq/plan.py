"""What to do next: ``plan(view)`` returns the actions, and nothing else decides.

Pure. The view holds everything a decision may use; what is not in it cannot influence the plan.
Actions are frozen values named by verbs; carrying one out may fail, which is no error: the next
look sees the truth.

A view never holds the backlog, only its head, as long as the gate leaves room: the cost of a
launch does not depend on how many jobs are queued.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from pmjq.directives import Refusal
from pmjq.job import Status
from pmjq.state import State

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from pmjq.job import Again, Attempt, Record, Spec
    from pmjq.ready import Stat
    from pmjq.signing import Proof


TIME = "time"
OUTPUT = "output-limit"
"""The keys of limits for which a job that runs is stopped."""

MEMORY = "memory"
"""The key of one for which the kernel ends it."""


class Intent(StrEnum):
    """What the daemon is up to: RUN, or how it stops."""

    RUN = "run"
    LEAVE = "leave"
    WAIT = "wait"
    KILL = "kill"


@dataclass(frozen=True, slots=True)
class Candidate:
    """An entry at the head of the queue, settled and examined.

    Or one that can never be run, with the reason. ``again``: what is remembered of one that is
    back in the queue; ``torn``: that cannot be read any more. ``proof``: who signed it.
    """

    name: str
    stat: Stat
    verdict: Spec | Refusal
    again: Again | None = None
    torn: bool = False
    proof: Proof | None = None


@dataclass(frozen=True, slots=True)
class Over:
    """An attempt that is over.

    How it went, why, whether its outcome is durable already, and since when we know. ``sure``: no
    process can start it any more. ``written``: its record, if somebody has written one that no
    event tells of. ``limit``: which of its own limits it was ended for.
    """

    attempt: Attempt
    status: Status
    state: State
    reason: str = ""
    durable: Record | None = None
    since: float = 0.0
    sure: bool = False
    written: Record | None = None
    limit: str = ""


@dataclass(frozen=True, slots=True)
class Run:
    """An attempt that runs.

    ``since`` is on the monotonic clock; ``told``: when it was last told to stop. ``limit``: which
    of its own limits it is ended for: TIME or OUTPUT. ``flooding``: it has written more than it
    may; ``killed``: it was told by KILL.
    """

    attempt: Attempt
    pid: int
    at: float
    since: float
    told: float | None = None
    limit: str = ""
    flooding: bool = False
    killed: bool = False


@dataclass(frozen=True, slots=True)
class Claimed:
    """A job that is claimed and not started.

    ``since``: when it was claimed; None: it was found so.
    """

    attempt: Attempt
    since: float | None = None


@dataclass(frozen=True, slots=True)
class Return:
    """Give a job back to the queue: not executed, or stopped and restartable, or to be retried.

    ``stopped``: its status says that it is over. Else it must be kept from starting first.
    ``over``: how an attempt failed after which the job asks for another. ``again``: what is
    remembered of it stays so. ``status``: how far a stopped one had got. ``pause``: it is not to be
    claimed again at once.
    """

    attempt: Attempt
    reason: str
    stopped: bool = False
    over: Over | None = None
    again: Again | None = None
    status: Status | None = None
    pause: bool = False


@dataclass(frozen=True, slots=True)
class View:
    """What a decision may use.

    ``room``: how many jobs the gates let start now, beside those that run (``executing``) and
    those in line that may be starting (``allowed``). ``replace``: whether the gates let another
    start when one ends; ``ahead``: how many may then be claimed and stand in line for it.
    ``most``: how many may run as the keeper was told. ``busy``: something runs. ``running``: only
    while the daemon stops by killing. ``unwanted``: what runs here and may run again elsewhere.
    ``cancelling``: what runs and is asked to end; ``asked``: who asked for the end of which job.
    ``exceeding``: what runs beyond a limit of its own.
    ``*_after``: not before this time, since it failed.
    """

    now: float
    intent: Intent = Intent.RUN
    grace: float = 10.0
    room: int = 0
    candidates: tuple[Candidate, ...] = ()
    ahead: int = 0
    replace: bool = True
    executing: int = 0
    allowed: int = 0
    most: int = 0
    busy: bool = False
    line: tuple[Claimed, ...] = ()
    claimed: tuple[Claimed, ...] = ()
    returning: tuple[Return, ...] = ()
    over: tuple[Over, ...] = ()
    filing: tuple[Record, ...] = ()
    running: tuple[Run, ...] = ()
    unwanted: tuple[Run, ...] = ()
    cancelling: tuple[Run, ...] = ()
    exceeding: tuple[Run, ...] = ()
    asked: Mapping[str, str] = field(default_factory=dict)
    claim_after: float = 0.0
    start_after: float = 0.0
    end_after: float = 0.0
    return_after: float = 0.0


@dataclass(frozen=True, slots=True)
class Claim:
    """Move a queued job to this node."""

    candidate: Candidate


@dataclass(frozen=True, slots=True)
class Start:
    """Execute a claimed job."""

    attempt: Attempt


@dataclass(frozen=True, slots=True)
class LineUp:
    """Have a claimed job executed as soon as another ends."""

    attempt: Attempt


@dataclass(frozen=True, slots=True)
class Pace:
    """Have jobs in line executed while fewer than ``most`` run."""

    most: int


@dataclass(frozen=True, slots=True)
class Recall:
    """Have none of the jobs in line executed any more."""


@dataclass(frozen=True, slots=True)
class End:
    """Make an outcome durable and move the job to the ended ones."""

    over: Over


@dataclass(frozen=True, slots=True)
class File:
    """Move an ended job to its archive."""

    record: Record


@dataclass(frozen=True, slots=True)
class Stop:
    """Send a signal to the trees of running jobs."""

    runs: tuple[Run, ...]
    signal: int


Action = Claim | Start | LineUp | Pace | Recall | Return | End | File | Stop


MOST_UNFILED = 32
"""How many ended jobs may lie unfiled for the sake of starting others."""

SHORTEST_GRACE = 0.1
"""Seconds between TERM and KILL at least, whatever was asked for.

A process must get to see the first.
"""

ENDS_IN_A_SYNC = 8

LONGEST_UNSYNCED = 0.005
"""Seconds that an outcome is kept for others to share its sync, while other jobs run."""

LONGEST_AHEAD = 1.0
"""Seconds that a job claimed ahead is kept from other nodes, and from its owner's rm, at most."""


def plan(view: View) -> list[Action]:
    """Return what to do now, in the order in which it is best done: starts first, filing last."""
    # Those in line come first, and the keeper starts them.
    free = view.room + view.allowed
    room = max(0, free - len(view.line))
    lined = len(view.line)
    starts: list[Action] = []
    others: list[Action] = []
    returns: list[Return] = []
    for claimed in view.claimed:
        attempt = claimed.attempt
        if attempt.refused:
            if view.now >= view.end_after:
                state = State.CANCELLED if attempt.cancelled else State.REJECTED
                others.append(End(Over(attempt, Status(), state, attempt.refused)))
        elif attempt.id in view.asked:
            returns.append(Return(attempt, ""))
        elif view.intent is not Intent.RUN:
            returns.append(Return(attempt, "the daemon stops"))
        elif room > 0:
            room -= 1
            if view.now >= view.start_after:
                starts.append(Start(attempt))
        elif _late(claimed, view.now):
            returns.append(Return(attempt, "claimed ahead, and no room came free"))
        elif (
            lined < view.ahead
            and claimed.since is not None
            and view.now >= view.start_after
            and not _to_recall(view)
        ):
            lined += 1
            starts.append(LineUp(attempt))
    starts += _paced(view, lined, view.executing + free)
    if view.intent is Intent.KILL:
        starts += _stops(view, view.running)
    starts += _stops(view, view.unwanted)
    if view.intent is not Intent.KILL:
        starts += _stops(view, view.cancelling)
        starts += _stops(view, view.exceeding)
    claims = _claims(view)
    if view.now >= view.end_after and (claims or _worth_a_sync(view)):
        others += [End(over) for over in view.over]
    for back in (*returns, *view.returning):
        if back.attempt.id in view.asked:
            others += _cancelled(view, back)
        elif view.now >= view.return_after:
            others.append(back)
    # What was claimed now is started with the next plan, and a free slot is worth more than a
    # tidy desk.
    filing = view.filing if not claims or len(view.filing) > MOST_UNFILED else ()
    return [*starts, *claims, *others, *(File(record) for record in filing)]


def cancelled(who: str) -> str:
    """Return the reason of a job that was ended on request."""
    return f"cancelled by {who}"


def grace_of(run: Run, usual: float) -> float:
    """Return the seconds between TERM and KILL for a job: its own, or the node's."""
    own = run.attempt.spec.grace
    return max(usual if own is None else own, SHORTEST_GRACE)


def wanted(room: int, ahead: int, waiting: Collection[Claimed]) -> int:
    """Return how many jobs to claim beside those that are claimed and wait, in line or not.

    As many as there is room for, and more ahead once half of those ahead are used up.
    """
    count = sum(not one.attempt.refused for one in waiting)
    beyond = max(0, count - room)
    return room - count + (ahead if beyond <= ahead // 2 else 0)


def _paced(view: View, lined: int, most: int) -> list[Action]:
    """Return what to tell the keeper about its line: how many may run, or to forget it."""
    if not lined or view.now < view.start_after:
        return []
    if _to_recall(view):
        return [Recall()]
    most = most if view.replace else 0
    return [Pace(most)] if most != view.most else []


def _to_recall(view: View) -> bool:
    """Tell whether the line is to be given up: then nothing is added to it, or it would stay there.

    The keeper tells of what stood in it when it hears of that, not of what comes after.
    """
    return bool(view.line) and (view.intent is not Intent.RUN or _late(view.line[0], view.now))


def _late(claimed: Claimed, now: float) -> bool:
    """Tell whether a job that was claimed ahead has been kept from others for long enough."""
    return claimed.since is not None and now >= claimed.since + LONGEST_AHEAD


def _claims(view: View) -> list[Action]:
    if view.intent is not Intent.RUN or view.now < view.claim_after:
        return []
    room = wanted(view.room + view.allowed, view.ahead, (*view.line, *view.claimed))
    claims: list[Action] = []
    for candidate in view.candidates:
        if isinstance(candidate.verdict, Refusal):
            claims.append(Claim(candidate))
        elif room > 0:
            claims.append(Claim(candidate))
            room -= 1
    return claims


def _worth_a_sync(view: View) -> bool:
    """Tell whether outcomes are to be made durable now.

    A sync costs the same for one as for many.
    """
    return (
        len(view.over) >= ENDS_IN_A_SYNC
        or not view.busy
        or view.intent is not Intent.RUN
        or any(view.now >= over.since + LONGEST_UNSYNCED for over in view.over[:1])
    )


def _cancelled(view: View, back: Return) -> list[Action]:
    """Return the end of a job that nothing runs of and whose end is asked for."""
    if view.now < view.end_after:
        return []
    status = back.over.status if back.over is not None else back.status or Status()
    reason = cancelled(view.asked[back.attempt.id])
    return [End(Over(back.attempt, status, State.CANCELLED, reason, sure=back.stopped))]


def _stops(view: View, running: tuple[Run, ...]) -> list[Action]:
    """Return the signals to send: TERM first, KILL after the grace.

    KILL is sent again where it was not enough, and at once to what writes too much: whatever it
    still wrote would be too much as well.
    """
    first = tuple(run for run in running if run.told is None and not run.flooding)
    late = tuple(
        run
        for run in running
        if (run.flooding and not run.killed)
        or (run.told is not None and view.now >= run.told + grace_of(run, view.grace))
    )
    stops: list[Action] = []
    if first:
        stops.append(Stop(first, signal.SIGTERM))
    if late:
        stops.append(Stop(late, signal.SIGKILL))
    return stops
