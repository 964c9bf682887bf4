"""The rules of what to do now: a view in, the whole list of actions out."""

from __future__ import annotations

import signal
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pmjq.directives import Refusal
from pmjq.job import Spec, Status, record
from pmjq.plan import (
    ENDS_IN_A_SYNC,
    LONGEST_AHEAD,
    LONGEST_UNSYNCED,
    MOST_UNFILED,
    SHORTEST_GRACE,
    Candidate,
    Claim,
    Claimed,
    End,
    File,
    Intent,
    LineUp,
    Over,
    Pace,
    Recall,
    Return,
    Run,
    Start,
    Stop,
    View,
    plan,
    wanted,
)
from pmjq.state import State
from values import FakeStat, attempt

if TYPE_CHECKING:
    from pmjq.job import Attempt, Record

A, B, C = attempt(id="a"), attempt(id="b"), attempt(id="c")
STOPPING = [Intent.LEAVE, Intent.WAIT, Intent.KILL]


def job(name: str) -> Candidate:
    """Return an entry that can be run."""
    return Candidate(name, FakeStat(), Spec())


def bad(name: str) -> Candidate:
    """Return an entry that can never be run."""
    return Candidate(name, FakeStat(), Refusal("a FIFO"))


def found(*attempts: Attempt) -> tuple[Claimed, ...]:
    """Return claims that were found, not made just now."""
    return tuple(Claimed(each) for each in attempts)


def over(one: Attempt, since: float = 0.0) -> Over:
    """Return an attempt that ended well."""
    return Over(one, Status(code=0), State.DONE, since=since)


def run(one: Attempt, told: float | None = None) -> Run:
    """Return an attempt that runs."""
    return Run(one, pid=7, at=0.0, since=0.0, told=told)


def filed(one: Attempt) -> Record:
    """Return the record of an attempt that ended well."""
    return record(one, Status(code=0), State.DONE, 0.0)


# --- starts and claims


def test_nothing_to_do() -> None:
    """A view in which nothing is to be done has no actions."""
    assert plan(View(now=0.0)) == []
    assert plan(View(now=0.0, room=8)) == []


def test_claims_for_the_room_there_is() -> None:
    """As many jobs are claimed as the gates let start, oldest first."""
    candidates = (job("x"), job("y"), job("z"))
    assert plan(View(now=0.0, room=2, candidates=candidates)) == [Claim(job("x")), Claim(job("y"))]
    assert plan(View(now=0.0, room=0, candidates=candidates)) == []


def test_claimed_jobs_start_and_use_the_room() -> None:
    """What is claimed starts before more is claimed."""
    view = View(now=0.0, room=3, claimed=found(A, B), candidates=(job("x"), job("y")))
    assert plan(view) == [Start(A), Start(B), Claim(job("x"))]


def test_claimed_jobs_stay_while_there_is_no_room() -> None:
    """A claimed job that was found keeps its claim until there is room."""
    assert plan(View(now=9e9, room=1, claimed=found(A, B))) == [Start(A)]
    assert plan(View(now=9e9, room=0, claimed=found(A, B))) == []


def test_nothing_starts_before_its_pause_is_over() -> None:
    """After a start that failed the claimed jobs stay, and their room is not given to others."""
    view = View(now=4.9, room=2, claimed=found(A), candidates=(job("x"), job("y")), start_after=5.0)
    assert plan(view) == [Claim(job("x"))]
    assert plan(View(now=5.0, room=1, claimed=found(A), start_after=5.0)) == [Start(A)]


def test_nothing_is_claimed_before_its_pause_is_over() -> None:
    """After a claim that failed nothing is claimed, not even to be rejected."""
    candidates = (job("x"), bad("y"))
    view = View(now=4.9, room=2, claimed=found(A), candidates=candidates, claim_after=5.0)
    assert plan(view) == [Start(A)]
    view = View(now=5.0, room=1, candidates=candidates, claim_after=5.0)
    assert plan(view) == [Claim(job("x")), Claim(bad("y"))]


def test_bad_entries_need_no_room() -> None:
    """What is rejected runs nothing, so a closed gate does not hold it up and it takes no slot."""
    view = View(now=0.0, room=1, candidates=(bad("x"), job("y"), bad("z"), job("late")))
    assert plan(view) == [Claim(bad("x")), Claim(job("y")), Claim(bad("z"))]
    assert plan(View(now=0.0, candidates=(bad("x"),))) == [Claim(bad("x"))]


def test_refused_claims_end_as_rejected() -> None:
    """A job that was claimed to be rejected ends with its reason and is never started."""
    refused = attempt(id="r", refused="a FIFO")
    rejected = End(Over(refused, Status(), State.REJECTED, "a FIFO"))
    assert plan(View(now=0.0, room=1, claimed=found(refused, A))) == [Start(A), rejected]
    assert plan(View(now=0.0, intent=Intent.LEAVE, claimed=found(refused))) == [rejected]


def test_refused_claims_take_no_room() -> None:
    """A job that is rejected holds no other up."""
    refused = attempt(id="r", refused="a FIFO")
    view = View(now=0.0, room=1, claimed=found(refused), candidates=(job("x"),))
    assert Claim(job("x")) in plan(view)


# --- ahead


def many(count: int, refused: str = "") -> tuple[Claimed, ...]:
    """Return so many claims."""
    return found(*(attempt(id=f"{refused}{number}", refused=refused) for number in range(count)))


@pytest.mark.parametrize(
    ("room", "ahead", "claimed", "expected"),
    [
        (0, 0, 0, 0),
        (4, 0, 0, 4),
        (4, 0, 4, 0),
        (4, 2, 4, 2),
        (0, 8, 0, 8),
        (0, 8, 4, 4),
        (0, 8, 5, -5),
        (0, 1, 1, -1),
        (2, 8, 6, 4),
        (3, 8, 1, 10),
    ],
)
def test_wanted(room: int, ahead: int, claimed: int, expected: int) -> None:
    """Room is filled at once; what is claimed ahead is filled up when half of it is used."""
    assert wanted(room, ahead, many(claimed)) == expected


def test_wanted_passes_over_what_is_refused() -> None:
    """A claim that is only to be rejected is in nobody's place, in the room or ahead."""
    claims = (*many(4), *many(9, refused="a FIFO"))
    assert wanted(6, 0, claims) == wanted(6, 0, many(4)) == 2
    assert wanted(0, 8, claims) == wanted(0, 8, many(4)) == 4


@given(st.integers(0, 20), st.integers(0, 20), st.integers(0, 60))
def test_never_more_than_room_and_ahead(room: int, ahead: int, claimed: int) -> None:
    """Room and what may be claimed ahead are never exceeded by a claim."""
    more = wanted(room, ahead, many(claimed))
    assert more <= 0 or claimed + more <= room + ahead
    assert more >= room - claimed


def test_claims_ahead_where_jobs_are_short() -> None:
    """Without room for any, as many are claimed as ended just now."""
    candidates = tuple(job(name) for name in "xyz")
    assert plan(View(now=0.0, ahead=2, candidates=candidates)) == [Claim(job("x")), Claim(job("y"))]
    line = (Claimed(A, 0.0), Claimed(B, 0.0))
    assert plan(View(now=0.0, ahead=2, line=line, candidates=candidates)) == []


# --- the line


def test_what_is_claimed_ahead_lines_up() -> None:
    """The keeper starts it as soon as a slot becomes free, without waiting for the daemon."""
    claimed = (Claimed(A, 0.0), Claimed(B, 0.0), Claimed(C, 0.0))
    view = View(now=0.0, room=1, ahead=2, executing=3, claimed=claimed)
    assert plan(view) == [Start(A), LineUp(B), LineUp(C), Pace(4)]


def test_line_is_no_longer_than_what_may_be_ahead() -> None:
    """The rest stays claimed."""
    view = View(
        now=0.0, ahead=2, line=(Claimed(A, 0.0),), claimed=(Claimed(B, 0.0), Claimed(C, 0.0))
    )
    assert plan(view) == [LineUp(B)]


def test_room_goes_to_the_line_first() -> None:
    """The keeper fills it; only what is left over is for those that stand behind."""
    line, claimed = (Claimed(A, 0.0),), (Claimed(B, 0.0), Claimed(C, 0.0))
    view = View(now=0.0, room=2, executing=2, most=2, line=line, claimed=claimed)
    assert plan(view) == [Start(B), Pace(4)]


def test_what_the_keeper_may_be_starting_counts_once() -> None:
    """A slot that the line is allowed is not room for others, and the keeper is not told again."""
    line = (Claimed(A, 0.0), Claimed(B, 0.0))
    view = View(now=0.0, ahead=4, executing=3, allowed=1, most=4, line=line, candidates=(job("x"),))
    assert plan(view) == [Claim(job("x"))]


def test_line_stands_still_where_nothing_may_be_replaced() -> None:
    """A load that is too high closes the line as well."""
    view = View(now=0.0, executing=4, most=4, replace=False, line=(Claimed(A, 0.0),))
    assert plan(view) == [Pace(0)]
    assert plan(replace(view, most=0)) == []


def test_line_is_recalled_in_time() -> None:
    """What stood in line too long is to be had back, so that it can be given back."""
    line = (Claimed(A, 10.0), Claimed(B, 10.5))
    assert plan(View(now=10.0 + LONGEST_AHEAD - 0.01, line=line)) == []
    assert plan(View(now=10.0 + LONGEST_AHEAD, line=line)) == [Recall()]


@pytest.mark.parametrize("intent", STOPPING)
def test_line_is_recalled_when_the_daemon_stops(intent: Intent) -> None:
    """Nothing more is started."""
    view = View(now=0.0, intent=intent, executing=4, most=4, line=(Claimed(A, 0.0),))
    assert plan(view) == [Recall()]
    assert plan(replace(view, start_after=1.0)) == []


def test_nothing_lines_up_behind_what_is_recalled() -> None:
    """The keeper tells what stood in its line when it was recalled: what came after would stay."""
    line, claimed = (Claimed(A, 10.0),), (Claimed(B, 10.9),)
    view = View(now=10.0 + LONGEST_AHEAD, line=line, claimed=claimed, ahead=4)
    assert plan(view) == [Recall()]
    before = replace(view, now=10.95)
    assert LineUp(B) in plan(before)


def test_what_has_been_claimed_for_long_does_not_line_up() -> None:
    """It would be recalled at once; and of what was found nobody knows for how long it waits."""
    claimed = (Claimed(A, 0.0), *found(B))
    (back,) = plan(View(now=LONGEST_AHEAD, ahead=4, claimed=claimed))
    assert isinstance(back, Return)
    assert back.attempt == A


def test_claimed_ahead_is_given_back_in_time() -> None:
    """What was claimed ahead and finds no room is another node's chance again, and its owner's."""
    ahead = (Claimed(A, 10.0), Claimed(B, 10.5))
    assert plan(View(now=10.0 + LONGEST_AHEAD - 0.01, claimed=ahead)) == []
    (only,) = plan(View(now=10.0 + LONGEST_AHEAD, claimed=ahead))
    assert isinstance(only, Return)
    assert (only.attempt, only.stopped) == (A, False)
    assert "claimed ahead" in only.reason


def test_claimed_ahead_starts_however_late() -> None:
    """With room a job is started, not given back."""
    assert plan(View(now=99.0, room=1, claimed=(Claimed(A, 0.0),))) == [Start(A)]


def test_claimed_to_be_rejected_is_not_given_back() -> None:
    """However long ago it was claimed, it ends."""
    refused = attempt(id="r", refused="a FIFO")
    view = View(now=99.0, claimed=(Claimed(refused, 0.0),))
    assert plan(view) == [End(Over(refused, Status(), State.REJECTED, "a FIFO"))]


def test_oldest_claims_start_and_the_rest_is_given_back() -> None:
    """Room goes to the first, and only what is too old and finds none is given back."""
    ahead = (Claimed(A, 0.0), Claimed(B, 0.0), Claimed(C, 98.5))
    start, back = plan(View(now=99.0, room=1, claimed=ahead))
    assert start == Start(A)
    assert isinstance(back, Return)
    assert back.attempt == B


# --- ends


def test_ends_alone_are_made_durable_at_once() -> None:
    """While nothing runs there is nobody to share a sync with."""
    assert plan(View(now=0.0, over=(over(A), over(B)))) == [End(over(A)), End(over(B))]


def test_ends_share_a_sync_while_others_run() -> None:
    """Beside running jobs an end is kept for a few milliseconds, counted from the first."""
    both = (over(A, since=1.0), over(B, since=1.004))
    assert plan(View(now=1.004, busy=True, over=both)) == []
    assert plan(View(now=1.0 + LONGEST_UNSYNCED, busy=True, over=both)) == [
        End(over(A, since=1.0)),
        End(over(B, since=1.004)),
    ]


def test_enough_ends_are_worth_a_sync() -> None:
    """A number of ends waits for no more."""
    many = tuple(over(attempt(id=str(number)), since=1.0) for number in range(ENDS_IN_A_SYNC))
    assert plan(View(now=1.0, busy=True, over=many[1:])) == []
    assert plan(View(now=1.0, busy=True, over=many)) == [End(each) for each in many]


def test_old_end_takes_the_others_along() -> None:
    """One sync makes all durable, also the outcome that came a moment ago."""
    now = 1.0 + LONGEST_UNSYNCED
    both = (over(A, since=1.0), over(B, since=now))
    assert plan(View(now=now, busy=True, over=both)) == [End(each) for each in both]
    assert plan(View(now=now, busy=True, over=both[1:])) == []


def test_ends_go_with_a_claim() -> None:
    """A claim takes a sync of its own, and ends share it."""
    view = View(now=1.0, busy=True, room=1, over=(over(A, since=1.0),), candidates=(job("x"),))
    assert plan(view) == [Claim(job("x")), End(over(A, since=1.0))]


@pytest.mark.parametrize("intent", STOPPING)
def test_ends_are_not_kept_while_stopping(intent: Intent) -> None:
    """A daemon that stops writes down at once what it knows."""
    view = View(now=1.0, busy=True, intent=intent, over=(over(A, since=1.0),))
    assert plan(view) == [End(over(A, since=1.0))]


def test_nothing_ends_before_its_pause_is_over() -> None:
    """After an end that failed, on a full disk, nothing is tried before its time."""
    assert plan(View(now=4.9, over=(over(A),), end_after=5.0)) == []
    assert plan(View(now=5.0, over=(over(A),), end_after=5.0)) == [End(over(A))]


def test_nothing_is_rejected_before_the_pause_of_ends_is_over() -> None:
    """A rejection is an end like any other."""
    refused = attempt(id="r", refused="a FIFO")
    assert plan(View(now=4.9, claimed=found(refused), end_after=5.0)) == []


# --- giving back


def test_returns_are_carried_out() -> None:
    """What is to be given back is, once its pause is over."""
    back = Return(A, "was interrupted; it is restartable", stopped=True)
    assert plan(View(now=5.0, returning=(back,), return_after=5.0)) == [back]
    assert plan(View(now=4.9, returning=(back,), return_after=5.0)) == []


@pytest.mark.parametrize("status", [None, Status(started=1000.0, ended=1001.0, code=-15)])
def test_stopped_and_cancelled_before_it_is_given_back(status: Status | None) -> None:
    """What was asked for while it was to be returned is an end, which tells how far it had got."""
    back = Return(A, "was interrupted; it is restartable", stopped=True, status=status)
    view = View(now=5.0, returning=(back,), asked={"a": "ann"}, end_after=5.0)
    reason = "cancelled by ann"
    expected = Over(A, status or Status(), State.CANCELLED, reason, sure=True)
    assert plan(view) == [End(expected)]
    assert plan(replace(view, now=4.9)) == []


def test_claimed_ahead_is_not_given_back_before_its_pause_is_over() -> None:
    """Where returning failed, it is not tried again and again."""
    assert plan(View(now=4.9, claimed=(Claimed(A, 0.0),), return_after=5.0)) == []


@pytest.mark.parametrize("intent", STOPPING)
def test_claimed_jobs_are_not_given_back_before_their_pause_is_over(intent: Intent) -> None:
    """Nor while the daemon stops."""
    view = View(now=4.9, intent=intent, claimed=found(A), return_after=5.0)
    assert plan(view) == []


# --- filing


def test_ended_jobs_are_filed_last() -> None:
    """A free slot is worth more than a tidy desk."""
    back = Return(B, "was interrupted; it is restartable")
    view = View(
        now=0.0,
        room=1,
        claimed=found(C),
        returning=(back,),
        over=(over(A),),
        filing=(filed(A), filed(B)),
    )
    assert plan(view) == [Start(C), End(over(A)), back, File(filed(A)), File(filed(B))]


def test_nothing_is_filed_beside_a_claim_unless_much_is_unfiled() -> None:
    """What was claimed is started with the next plan first, but ended jobs do not pile up."""
    some = tuple(filed(attempt(id=str(number))) for number in range(MOST_UNFILED + 1))
    view = View(now=0.0, room=1, candidates=(job("x"),), filing=some[1:])
    assert plan(view) == [Claim(job("x"))]
    view = View(now=0.0, room=1, candidates=(job("x"),), filing=some)
    assert plan(view) == [Claim(job("x")), *(File(each) for each in some)]


# --- stopping


@pytest.mark.parametrize("intent", STOPPING)
def test_stopping_starts_and_claims_nothing(intent: Intent) -> None:
    """A daemon that stops gives its claims back, and takes no bad entry either."""
    view = View(
        now=9.0, intent=intent, room=8, ahead=8, claimed=found(A), candidates=(job("x"), bad("y"))
    )
    (only,) = plan(view)
    assert isinstance(only, Return)
    assert (only.attempt, only.stopped) == (A, False)
    assert "stops" in only.reason


@pytest.mark.parametrize("intent", [Intent.RUN, Intent.LEAVE, Intent.WAIT])
def test_running_jobs_are_left_alone(intent: Intent) -> None:
    """Only stopping by killing signals running jobs."""
    assert plan(View(now=0.0, intent=intent, busy=True, running=(run(A),))) == []


def test_kill_is_term_then_kill() -> None:
    """TERM first, KILL once the grace is over, each with all jobs that it is time for."""
    running = (run(A), run(B, told=90.0), run(C, told=90.1), run(attempt(id="d")))
    view = View(now=100.0, intent=Intent.KILL, grace=10.0, busy=True, running=running)
    assert plan(view) == [
        Stop((running[0], running[3]), signal.SIGTERM),
        Stop((running[1],), signal.SIGKILL),
    ]


def test_kill_leaves_its_grace() -> None:
    """Between TERM and KILL nothing is sent."""
    view = View(now=100.0, intent=Intent.KILL, grace=10.0, running=(run(A, told=90.1),))
    assert plan(view) == []


def test_kill_is_repeated_in_time_and_no_faster() -> None:
    """Without any grace a process still gets to see TERM, and KILL is not sent at every turn."""
    running = (run(A, told=100.0),)
    view = View(now=100.0, intent=Intent.KILL, grace=0.0, running=running)
    assert plan(view) == []
    view = View(now=100.0 + SHORTEST_GRACE, intent=Intent.KILL, grace=0.0, running=running)
    assert plan(view) == [Stop(running, signal.SIGKILL)]


def test_least_grace_is_no_more_than_that() -> None:
    """What was asked for counts as soon as it is longer."""
    running = (run(A, told=100.0),)
    for grace in (0.0, SHORTEST_GRACE / 2, SHORTEST_GRACE, 4 * SHORTEST_GRACE):
        end = 100.0 + max(grace, SHORTEST_GRACE)
        early = View(now=end - 0.01, intent=Intent.KILL, grace=grace, running=running)
        late = View(now=end, intent=Intent.KILL, grace=grace, running=running)
        assert (plan(early), plan(late)) == ([], [Stop(running, signal.SIGKILL)])


def test_kill_first_then_the_rest() -> None:
    """Signals go out before anything that touches the disk."""
    running, back = run(A), Return(B, "x", stopped=True)
    view = View(now=0.0, intent=Intent.KILL, running=(running,), returning=(back,), over=(over(C),))
    assert plan(view) == [Stop((running,), signal.SIGTERM), End(over(C)), back]


# --- whatever is in view

CLAIMS = st.builds(
    Claimed,
    st.builds(
        lambda id, refused: attempt(id=id, refused=refused),
        st.uuids().map(str),
        st.sampled_from(["", "bad"]),
    ),
    st.none() | st.floats(0, 10),
)
VIEWS = st.builds(
    View,
    now=st.floats(0, 10),
    intent=st.sampled_from(Intent),
    room=st.integers(0, 6),
    ahead=st.integers(0, 6),
    replace=st.booleans(),
    executing=st.integers(0, 6),
    most=st.integers(0, 6),
    line=st.lists(st.builds(Claimed, st.builds(attempt), st.floats(0, 10)), max_size=6).map(tuple),
    busy=st.booleans(),
    claimed=st.lists(CLAIMS, max_size=6).map(tuple),
    candidates=st.lists(
        st.builds(job, st.text(max_size=2)) | st.builds(bad, st.text(max_size=2)), max_size=6
    ).map(tuple),
    start_after=st.sampled_from([0.0, 5.0]),
    claim_after=st.sampled_from([0.0, 5.0]),
)


@given(VIEWS)
def test_room_is_never_exceeded(view: View) -> None:
    """Starts stay within the room, and a job has at most one action."""
    actions = plan(view)
    starts = [action.attempt.id for action in actions if isinstance(action, Start)]
    assert len(starts) <= view.room
    (most,) = [action.most for action in actions if isinstance(action, Pace)] or [view.most]
    lined = len(view.line) + sum(isinstance(action, LineUp) for action in actions)
    if most > view.most:
        assert most <= view.executing + view.room
        assert len(starts) <= max(0, view.room - len(view.line))
    assert lined <= max(view.ahead, len(view.line))
    ends = [action.over.attempt.id for action in actions if isinstance(action, End)]
    returns = [action.attempt.id for action in actions if isinstance(action, Return)]
    touched = [*starts, *ends, *returns]
    assert len(touched) == len(set(touched))
    assert set(ends) == {each.attempt.id for each in view.claimed if each.attempt.refused}


# --- actions


def test_actions_are_values() -> None:
    """Two plans are compared, and what was planned does not change."""
    assert Start(A) == Start(attempt(id="a"))
    with pytest.raises(AttributeError):
        Start(A).attempt = B  # type: ignore[misc]  # what is tested
