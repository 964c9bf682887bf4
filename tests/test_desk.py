"""The rules of the desk: every attempt in one place, and the gate's view of our own jobs."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pmjq import plan
from pmjq.desk import JUST_NOW, MOST_AHEAD, OUTPUT_PAUSE, REMAINS_PAUSE, SHORT, Desk, Doubt, Remains
from pmjq.gates import Verdict
from pmjq.job import Spec, Status, Usage
from pmjq.packing import Capacity
from pmjq.plan import Claimed, Intent, Over, Return, Run
from pmjq.ready import Kind, Rules, Standing
from pmjq.state import State
from values import FakeStat, attempt

A = attempt(id="a")
RESTARTABLE = attempt(id="a", spec=Spec(restartable=True))
PLACES = ["claimed", "line", "starting", "running", "remains", "doubts", "over", "returning"]
GRACE = 10.0


@pytest.fixture
def desk() -> Desk:
    """Return a desk with nothing in hand."""
    return Desk(Rules(uids=None))


def places(desk: Desk, job_id: str = "a") -> list[str]:
    """Return where on the desk a job is."""
    return [name for name in PLACES if job_id in getattr(desk, name)]


def running(desk: Desk, one: plan.Run | None = None) -> Desk:
    """Return the desk with an attempt that runs since the second 10."""
    desk.claim(A, 9.0)
    desk.launch(A, 9.5)
    desk.started("a", 7, 1000.0, 10.0)
    if one is not None:
        desk.running["a"] = one
    return desk


# --- devices


@pytest.mark.parametrize("place", [*PLACES, "strays", "stray_remains"])
def test_gpus_are_held_wherever_a_job_is(place: str) -> None:
    """In doubt, told to stop, ended and not moved yet, another's now: only who is gone has none."""
    desk = Desk(Rules(uids=None), Capacity(gpus=("0", "1")))
    desk.hold(attempt(id="a", spec=Spec(gpus=1), gpus=("1",)))
    getattr(desk, place)["a"] = None
    desk.spare()
    assert desk.devices.gpus.free() == ["0"]
    getattr(desk, place).clear()
    desk.spare()
    assert desk.devices.gpus.free() == ["0", "1"]


def test_gpus_of_a_job_that_is_anothers_now() -> None:
    """It runs on here, so they are given to nobody until its process has ended."""
    desk = Desk(Rules(uids=None), Capacity(gpus=("0", "1")))
    one = attempt(id="a", spec=Spec(gpus=1), gpus=("0",))
    desk.claim(one, 9.0)
    desk.launch(one, 9.5)
    desk.started("a", 7, 1000.0, 10.0)
    desk.drop("a")
    desk.spare()
    assert desk.devices.gpus.free() == ["1"]
    desk.ended("a", Status(code=0), 21.0)
    desk.spare()
    assert desk.devices.gpus.free() == ["0", "1"]


def test_gpus_of_an_earlier_life() -> None:
    """What it gave, and what is left of that, is not given by the next one."""
    old, new = (Desk(Rules(uids=None), Capacity(gpus=("0", "1"))) for _ in "on")
    one = attempt(id="a", spec=Spec(gpus=1), gpus=("0",))
    old.claim(one, 9.0)
    old.launch(one, 9.5)
    old.started("a", 7, 1000.0, 10.0)
    new.inherit(old, 20.0)
    new.spare()
    assert (list(new.strays), new.devices.gpus.free()) == (["a"], ["1"])
    new.ended("a", Status(code=0), 21.0)
    new.spare()
    assert new.devices.gpus.free() == ["0", "1"]


# --- from place to place


def test_nothing_in_hand(desk: Desk) -> None:
    """A new desk is empty, and everything is still to be looked at."""
    assert (desk.in_hand(), desk.busy(), desk.ahead(0.0)) == (set(), 0, 0)
    assert "a" not in desk
    assert not desk.scanned
    assert desk.deadlines(5.0, GRACE) == [0.0]


def test_claim(desk: Desk) -> None:
    """A claim takes no slot and is not in the forecast."""
    desk.claim(A, 9.0)
    assert desk.claimed == {"a": Claimed(A, 9.0)}
    assert (desk.in_hand(), desk.busy(), desk.forecast.running) == ({"a"}, 0, 0)
    desk.claim(attempt(id="b"))
    assert desk.claimed["b"] == Claimed(attempt(id="b"), None)


def test_launch_takes_a_slot(desk: Desk) -> None:
    """From the order on a job counts as running, for the slots and for the forecast."""
    desk.claim(A, 9.0)
    desk.launch(A, 9.5)
    assert places(desk) == ["starting"]
    assert (desk.busy(), desk.starting) == (1, {"a": A})
    assert (desk.forecast.running, desk.forecast.launched, desk.forecast.young) == (1, 9.5, 1.0)


def lined(desk: Desk, most: int = 1) -> Desk:
    """Return the desk with A in the keeper's line."""
    desk.claim(A, 9.0)
    desk.line_up(A)
    desk.most = most
    return desk


def test_line_up_takes_the_slot_that_the_keeper_may_give_it(desk: Desk) -> None:
    """What stands in line takes a slot only where the keeper may start it, and is not forecast."""
    lined(desk, most=0)
    assert (places(desk), desk.busy(), desk.forecast.running) == (["line"], 0, 0)
    assert desk.deadlines(5.0, GRACE) == [0.0, 9.0 + plan.LONGEST_AHEAD]
    desk.most = 3
    assert (desk.allowed(), desk.busy(), desk.executing()) == (1, 1, 0)


def test_line_moves_on_by_the_keepers_reports(desk: Desk) -> None:
    """A report of an attempt in line tells that the keeper has come to it."""
    lined(desk).started("a", 7, 1000.0, 10.0)
    assert (places(desk), desk.busy(), desk.forecast.running) == (["running"], 1, 1)


def test_line_is_in_doubt_when_its_keeper_is_gone(desk: Desk) -> None:
    """The keeper may have come to it."""
    lined(desk).doubt("a", 10.0)
    assert (places(desk), desk.forecast.running) == (["doubts"], 0)


def test_recalled_until_the_line_is_empty(desk: Desk) -> None:
    """What the keeper gives back is claimed as before, since when it was; one may have started."""
    lined(desk)
    other = attempt(id="b")
    desk.claim(other, 9.1)
    desk.line_up(other)
    desk.recall()
    assert (desk.allowed(), desk.recalled) == (0, True)
    desk.started("a", 7, 1000.0, 10.0)
    assert desk.recalled
    desk.unlined("b")
    assert (places(desk, "b"), desk.claimed, desk.recalled) == (
        ["claimed"],
        {"b": Claimed(other, 9.1)},
        False,
    )
    desk.unlined("b")
    assert places(desk, "b") == ["claimed"]


def test_started(desk: Desk) -> None:
    """What has started runs, and is counted once."""
    running(desk)
    assert places(desk) == ["running"]
    assert desk.running == {"a": Run(A, 7, 1000.0, 10.0)}
    assert (desk.busy(), desk.running["a"].attempt, desk.forecast.running) == (1, A, 1)


def test_report_of_a_stranger_changes_nothing(desk: Desk) -> None:
    """A report about a job that is not in hand any more is passed over."""
    desk.started("x", 7, 1000.0, 10.0)
    desk.ended("x", Status(code=0), 10.0)
    desk.doubt("x", 10.0)
    desk.drop("x")
    desk.resolved(attempt(id="x"))
    assert desk.unstarted("x", 10.0) is None
    assert (desk.in_hand(), desk.forecast.running, desk.ahead(10.0)) == (set(), 0, 0)


def test_unstarted(desk: Desk) -> None:
    """What was not started is handed back to whoever knows why, and has left the forecast."""
    desk.launch(A, 9.5)
    assert desk.unstarted("a", 10.0) == A
    assert (places(desk), desk.busy()) == ([], 0)
    assert (desk.forecast.running, desk.forecast.unseen, desk.forecast.ends) == (0, 0.0, 0)


def test_adopt(desk: Desk) -> None:
    """A process that was found has the age that the kernel tells, for the forecast too."""
    desk.adopt(A, Status(started=940.0, pid=7), now=100.0, age=60.0)
    assert desk.running == {"a": Run(A, 7, 940.0, 40.0)}
    assert desk.forecast.running == 1
    assert desk.forecast.young == pytest.approx(0.3679, abs=1e-4)


@pytest.mark.parametrize(
    ("code", "state"), [(0, State.DONE), (1, State.FAILED), (None, State.LOST)]
)
def test_ended(desk: Desk, code: int | None, state: State) -> None:
    """What has ended is over, as its code says, and its slot is free."""
    running(desk).ended("a", Status(started=1000.0, code=code), 12.0)
    assert places(desk) == ["over"]
    assert (desk.over["a"].state, desk.over["a"].since) == (state, 12.0)
    assert (desk.busy(), desk.forecast.running) == (0, 0)
    assert desk.in_hand() == {"a"}


def test_ended_before_it_was_known_to_start(desk: Desk) -> None:
    """A report of a start may be lost; that of the end is enough."""
    desk.launch(A, 9.5)
    desk.ended("a", Status(code=0), 12.0)
    assert places(desk) == ["over"]
    assert desk.forecast.running == 0


def test_ended_teaches_the_forecast(desk: Desk) -> None:
    """CPU time over duration, scaled by the contention, is a job's share."""
    running(desk).ended("a", Status(code=0, usage=Usage(3.0, 2.0, 1)), 20.0)
    assert desk.forecast.ends == 1
    assert desk.forecast.share == pytest.approx(0.75)


def test_ended_without_usage_teaches_nothing(desk: Desk) -> None:
    """A job whose status was lost was like the others."""
    running(desk).ended("a", Status(code=None), 20.0)
    assert (desk.forecast.ends, desk.forecast.share) == (0, 1.0)


# --- limits of its own

LIMITED = attempt(id="a", spec=Spec(time=60.0, output_limit=1000, restartable=True))


def limited(desk: Desk, **how: object) -> Run:
    """Return a job with limits that runs since the second 10, told or over one of them."""
    desk.launch(LIMITED, 9.5)
    desk.started("a", 7, 1000.0, 10.0)
    desk.running["a"] = replace(desk.running["a"], **how)  # type: ignore[arg-type]  # its fields
    return desk.running["a"]


def test_only_what_has_limits_is_watched(desk: Desk) -> None:
    """However many others run; and no longer than it is here."""
    running(desk)
    assert desk.limited() == []
    desk.drop("a")
    run = limited(desk)
    assert desk.limited() == [run]
    assert desk.deadlines(12.0, GRACE)[1:] == [70.0, 12.0 + OUTPUT_PAUSE]
    desk.ended("a", Status(started=1000.0, code=0), 12.0)
    assert desk.limited() == []


def test_what_is_adopted_is_watched(desk: Desk) -> None:
    """Since when it has run is what counts."""
    desk.adopt(LIMITED, Status(started=940.0, pid=7), now=100.0, age=50.0)
    assert desk.deadlines(100.0, GRACE)[1] == 110.0


def test_over_its_time(desk: Desk) -> None:
    """It is ended for that, and does not run again."""
    desk.exceed(limited(desk), plan.TIME)
    (run,) = desk.exceeding()
    assert (run.limit, run.flooding) == (plan.TIME, False)
    desk.tell(run, 70.0)
    desk.ended("a", Status(started=1000.0, ended=1061.0, code=-15), 71.0)
    assert desk.unwanted() == ()
    desk.gone("a", 72.0)
    assert (places(desk), desk.over["a"].limit) == (["over"], plan.TIME)


@pytest.mark.parametrize("why", ["told", "asked", "silenced"])
def test_over_its_time_when_it_is_to_end_anyway(desk: Desk, why: str) -> None:
    """Who ends for another reason does not end for that, and may run again."""
    run = limited(desk, told=11.0 if why == "told" else None)
    if why == "asked":
        desk.asked["a"] = "ann"
    elif why == "silenced":
        desk.silence({"a"})
    assert not desk.undisturbed(run)
    desk.exceed(run, plan.TIME)
    assert desk.running["a"].limit == ""
    desk.ended("a", Status(started=1000.0, ended=1061.0, code=-15, told=True), 71.0)
    if why != "asked":
        desk.gone("a", 72.0)
        assert places(desk) == ["returning"]


def test_writing_too_much_when_it_is_to_end_anyway(desk: Desk) -> None:
    """It is killed at once nevertheless, and still ends for the other reason."""
    desk.exceed(limited(desk, told=11.0), plan.OUTPUT)
    (run,) = desk.exceeding()
    assert (run.limit, run.flooding) == ("", True)
    desk.tell(run, 12.0, killed=True)
    assert desk.running["a"].killed
    desk.ended("a", Status(started=1000.0, code=-9), 12.5)
    desk.gone("a", 13.0)
    assert places(desk) == ["returning"]


def test_stray_that_is_over_its_time_is_unwanted(desk: Desk) -> None:
    """Another node runs the job by now, for whatever reason this one was ending it."""
    desk.strays["a"] = Run(LIMITED, 7, 0.0, 0.0, told=1.0, limit=plan.TIME)
    assert len(desk.unwanted()) == 1


# --- told to stop

TOLD = Run(A, 7, 1000.0, 10.0, told=11.0)


def test_tell(desk: Desk) -> None:
    """A job that was told to stop runs on; when it was told last is kept."""
    running(desk)
    before = desk.running["a"]
    desk.tell(before, 11.0)
    assert desk.running == {"a": replace(before, told=11.0)}
    desk.tell(before, 12.0)
    assert desk.running == {"a": replace(before, told=12.0)}


def test_tell_remains(desk: Desk) -> None:
    """KILL to what is left of a job is remembered as well, or it would be sent at every turn."""
    running(desk, TOLD).ended("a", Status(code=-15), 12.0)
    desk.tell(TOLD, 21.0)
    assert desk.remains == {"a": Remains(replace(TOLD, told=21.0), Status(code=-15))}


@pytest.mark.parametrize("place", ["over", "claimed", "doubts", "starting"])
def test_tell_what_is_over_changes_nothing(desk: Desk, place: str) -> None:
    """Between the plan and the signal a job may have ended."""
    getattr(desk, place)["a"] = None
    desk.tell(TOLD, 12.0)
    assert places(desk) == [place]
    assert getattr(desk, place) == {"a": None}


def test_told_to_stop_is_not_over_with_its_first_process(desk: Desk) -> None:
    """While a process of its tree may be left, a job keeps its slot, and its file stays in run/."""
    status = Status(started=1000.0, code=-15, usage=Usage(1.0, 0.5, 1))
    running(desk, TOLD).ended("a", status, 12.0)
    assert places(desk) == ["remains"]
    assert desk.remains == {"a": Remains(TOLD, status)}
    assert (desk.in_hand(), desk.busy()) == ({"a"}, 1)
    assert (desk.forecast.running, desk.forecast.ends) == (0, 1)
    assert not desk.running


@pytest.mark.parametrize(
    ("code", "state"),
    [
        (-15, State.CANCELLED),
        (1, State.CANCELLED),
        (0, State.DONE),
        (None, State.LOST),
    ],
)
def test_told_to_stop_is_cancelled(desk: Desk, code: int | None, state: State) -> None:
    """What this daemon told to stop was cancelled, unless it ended well all the same."""
    running(desk, TOLD).ended("a", Status(code=code), 12.0)
    desk.gone("a", 13.0)
    assert places(desk) == ["over"]
    over = desk.over["a"]
    assert (over.attempt, over.status.code, over.state, over.since) == (A, code, state, 13.0)
    assert desk.busy() == 0


def test_told_to_stop_is_returned_if_restartable(desk: Desk) -> None:
    """A restartable job that was stopped with the daemon is queued again; it is surely stopped."""
    status = Status(started=1000.0, ended=1001.0, code=-15)
    running(desk, replace(TOLD, attempt=RESTARTABLE)).ended("a", status, 12.0)
    assert places(desk) == ["remains"]
    desk.gone("a", 13.0)
    assert places(desk) == ["returning"]
    back = desk.returning["a"]
    assert (back.attempt, back.stopped, back.status) == (RESTARTABLE, True, status)
    assert "restartable" in back.reason
    assert desk.busy() == 0


def test_restartable_that_was_told_to_stop_and_ended_well_is_over(desk: Desk) -> None:
    """A job that is done is not run again."""
    running(desk, replace(TOLD, attempt=RESTARTABLE)).ended("a", Status(code=0), 12.0)
    desk.gone("a", 13.0)
    assert places(desk) == ["over"]
    assert desk.over["a"].state is State.DONE


@pytest.mark.parametrize("code", [0, -15, 1])
def test_restartable_that_ended_by_itself_is_over(desk: Desk, code: int) -> None:
    """Restartable means after an interruption, not after a failure or a success."""
    running(desk, Run(RESTARTABLE, 7, 1000.0, 10.0)).ended("a", Status(code=code), 12.0)
    assert places(desk) == ["over"]


def test_stopping_is_what_runs_and_what_remains(desk: Desk) -> None:
    """A daemon that stops by killing signals every tree that may be left, and nothing else."""
    other = Run(attempt(id="b"), 8, 0.0, 0.0)
    running(desk, TOLD).ended("a", Status(code=-15), 12.0)
    desk.running["b"] = other
    desk.claim(attempt(id="c"))
    desk.launch(attempt(id="d"), 12.0)
    desk.over["e"] = Over(attempt(id="e"), Status(code=0), State.DONE)
    assert desk.stopping() == (other, TOLD)
    desk.gone("a", 13.0)
    assert desk.stopping() == (other,)


@pytest.mark.parametrize("told", [None, TOLD])
def test_finish_is_for_what_was_in_doubt(desk: Desk, told: Run | None) -> None:
    """An end that was read from disk waits for the tree as well, if the job was told to stop."""
    desk.finish(A, Status(code=-15), 12.0, told)
    assert places(desk) == (["over"] if told is None else ["remains"])


def test_interrupted_job_is_returned_when_nothing_of_it_is_left(desk: Desk) -> None:
    """What its first process left running has to end before the job runs again, and is ended."""
    status = Status(started=1000.0, pid=7)
    desk.clear_away(RESTARTABLE, status, 12.0, "was interrupted")
    assert (places(desk), desk.busy()) == (["remains"], 1)
    # Nobody knows whose number its first process's is by now.
    assert desk.left_over() == {"a": 0}
    (run,) = desk.unwanted()
    assert (run.attempt, run.told) == (RESTARTABLE, None)
    desk.tell(run, 13.0)
    assert desk.deadlines(13.0, 10.0)[1:] == [13.0 + REMAINS_PAUSE, 23.0]
    desk.gone("a", 14.0)
    assert places(desk) == ["returning"]
    back = Return(RESTARTABLE, "was interrupted", stopped=True, status=status)
    assert desk.returning["a"] == back
    assert (desk.unwanted(), desk.left_over(), desk.busy()) == ((), {}, 0)


def test_remains_are_signalled_once_when_the_daemon_kills(desk: Desk) -> None:
    """What is left of a restartable job is stopped with all others then, and not beside them."""
    desk.clear_away(RESTARTABLE, Status(), 12.0, "was interrupted")
    assert len(desk.unwanted()) == 1
    desk.intent = Intent.KILL
    assert desk.unwanted() == ()
    assert [run.attempt for run in desk.stopping()] == [RESTARTABLE]


def test_remains_of_a_job_that_may_run_elsewhere_are_stopped_in_time(desk: Desk) -> None:
    """Whoever is cut off ends what is left of restartable jobs as well."""
    desk.clear_away(RESTARTABLE, Status(), 12.0, "was interrupted")
    assert desk.restartable() == {"a": 0}


@pytest.mark.parametrize("heard", ["ended", "doubt"])
def test_what_a_stray_leaves_is_unwanted(desk: Desk, heard: str) -> None:
    """A job that is another life's and may run again there is not over with its first process."""
    stray = Run(RESTARTABLE, 7, 0.0, 0.0)
    desk.strays["a"] = stray
    if heard == "ended":
        desk.ended("a", Status(code=-15), 12.0)
    else:
        desk.doubt("a", 12.0)
    assert (desk.strays, desk.unwanted(), desk.left_over()) == ({}, (stray,), {"a": 7})
    assert desk.busy() == 1
    desk.tell(stray, 13.0)
    assert desk.unwanted() == (replace(stray, told=13.0),)
    assert 13.0 + REMAINS_PAUSE in desk.deadlines(13.0, 10.0)
    other = Desk(desk.backlog.rules)
    other.inherit(desk, 14.0)
    assert other.left_over() == {"a": 7}
    desk.gone("a", 15.0)
    assert (desk.unwanted(), desk.busy(), places(desk)) == ((), 0, [])


@pytest.mark.parametrize("told", ["", "why"])
def test_settle_is_for_what_was_in_no_other_place(desk: Desk, told: str) -> None:
    """An attempt whose status was read from disk is judged like one that was reported."""
    desk.settle(A, Status(code=-15), 12.0, told=told)
    assert places(desk) == ["over"]
    assert desk.over["a"].state is (State.CANCELLED if told else State.FAILED)
    assert desk.over["a"].since == 12.0


def test_doubt(desk: Desk) -> None:
    """An attempt in doubt keeps its slot and leaves the forecast, since it may be gone."""
    running(desk).doubt("a", 12.0)
    assert places(desk) == ["doubts"]
    assert desk.doubts == {"a": Doubt(A, since=12.0, again=12.0)}
    assert (desk.busy(), desk.forecast.running, desk.forecast.ends) == (1, 0, 0)
    desk.resolved(A)
    assert (places(desk), desk.busy()) == ([], 0)


def test_doubt_about_a_start(desk: Desk) -> None:
    """An order that nobody answers is in doubt as well."""
    desk.launch(A, 9.5)
    desk.doubt("a", 12.0)
    assert (places(desk), desk.forecast.running) == (["doubts"], 0)


@pytest.mark.parametrize("told", [None, 11.0])
def test_doubt_remembers_being_told_to_stop(desk: Desk, told: float | None) -> None:
    """What was told to stop stays told, whoever reads how it ended."""
    run = replace(TOLD, told=told)
    running(desk, run).doubt("a", 12.0)
    assert desk.doubts["a"] == Doubt(A, 12.0, 12.0, told=None if told is None else run)


@pytest.mark.parametrize("place", PLACES)
def test_drop_forgets_wherever_it_is(desk: Desk, place: str) -> None:
    """An attempt that is another's now is in none of the places."""
    getattr(desk, place)["a"] = None
    assert "a" in desk
    assert desk.in_hand() == {"a"}
    desk.drop("a")
    assert "a" not in desk
    assert desk.in_hand() == set()


@pytest.mark.parametrize("launched_only", [True, False])
def test_drop_leaves_nothing_in_the_forecast(desk: Desk, *, launched_only: bool) -> None:
    """A running job that another node has taken over is not counted for ever."""
    if launched_only:
        desk.launch(A, 9.5)
    else:
        running(desk)
    desk.drop("a")
    assert desk.forecast.running == 0


def test_ended_jobs_are_not_in_hand(desk: Desk) -> None:
    """What is only to be filed is not in ``run/`` any more."""
    desk.filing["a"] = None  # type: ignore[assignment]  # only its id counts
    assert "a" not in desk
    assert desk.in_hand() == set()


STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "claim",
                "start",
                "line",
                "unlined",
                "started",
                "unstarted",
                "tell",
                "ended",
                "gone",
                "doubt",
                "adopt",
                "drop",
            ]
        ),
        st.sampled_from("abc"),
    ),
    max_size=40,
)


@given(STEPS)
def test_one_place_at_a_time(steps: list[tuple[str, str]]) -> None:
    """Whatever is reported in whatever order, an attempt is in one place."""
    desk = Desk(Rules(uids=None))
    for now, (step, job_id) in enumerate(steps):
        one = attempt(id=job_id)
        match step:
            case "claim" if job_id not in desk:
                desk.claim(one, now)
            case "start" if job_id in desk.claimed:
                desk.launch(one, now)
            case "line" if job_id in desk.claimed:
                desk.line_up(one)
            case "unlined":
                desk.unlined(job_id)
            case "started":
                desk.started(job_id, 7, 0.0, now)
            case "unstarted":
                if desk.unstarted(job_id, now):
                    desk.claim(one)
            case "ended":
                desk.ended(job_id, Status(code=0), now)
            case "tell":
                for run in desk.stopping():
                    desk.tell(run, now)
            case "gone" if job_id in desk.remains:
                desk.gone(job_id, now)
            case "doubt":
                desk.doubt(job_id, now)
            case "adopt" if job_id in desk.doubts:
                desk.resolved(one)
                desk.adopt(one, Status(pid=7), now, 0.0)
            case "drop" if job_id in desk.over or job_id in desk.claimed:
                desk.drop(job_id)
        for each in "abc":
            assert len(places(desk, each)) == (each in desk)
        assert desk.forecast.running == len(desk.running) + len(desk.starting)
        taken = desk.forecast.running + len(desk.remains) + len(desk.doubts)
        assert desk.busy() == taken + desk.allowed()


# --- ahead


def test_ahead_is_how_many_ended_just_now(desk: Desk) -> None:
    """Where jobs are short, as many are claimed ahead as have just ended."""
    for number in range(3):
        desk.launch(attempt(id=str(number)), 0.0)
        desk.ended(str(number), Status(code=0), 10.0 + number * JUST_NOW / 2)
    assert desk.ahead(10.0) == 3
    assert desk.ahead(10.0 + 1.25 * JUST_NOW) == 2
    assert desk.ahead(10.0 + 3 * JUST_NOW) == 0


def test_ahead_has_a_limit(desk: Desk) -> None:
    """However many end at once, a few claims ahead are enough."""
    for number in range(2 * MOST_AHEAD):
        desk.launch(attempt(id=str(number)), 0.0)
        desk.ended(str(number), Status(code=0), 10.0)
    assert desk.ahead(10.0) == MOST_AHEAD


@pytest.mark.parametrize(("seconds", "ahead"), [(SHORT / 2, 1), (SHORT, 0), (60.0, 0)])
def test_long_jobs_are_not_claimed_ahead(desk: Desk, seconds: float, ahead: int) -> None:
    """The end of a job that took its time does not tell that the next one will be short."""
    running(desk).ended("a", Status(code=0), 10.0 + seconds)
    assert desk.ahead(10.0 + seconds) == ahead


# --- deadlines


def deadlines(desk: Desk, now: float = 100.0) -> list[float]:
    """Return the deadlines but that of the rescan."""
    first, *rest = desk.deadlines(now, GRACE)
    assert first == desk.rescan_at
    return rest


def test_deadline_of_the_rescan(desk: Desk) -> None:
    """Without anything in hand only the slow rescan is to come."""
    desk.rescan_at = 123.0
    assert desk.deadlines(100.0, GRACE) == [123.0]


def test_deadline_of_the_next_look(desk: Desk) -> None:
    """An entry that is on its way in is looked at when its time has come."""
    desk.backlog.put_aside("x", FakeStat(), Standing(Kind.INCOMING, "open", 0.5), 100.0)
    assert deadlines(desk) == [100.5]


def test_deadline_of_ends(desk: Desk) -> None:
    """The first outcome decides when all are made durable."""
    for job_id, since in (("a", 100.0), ("b", 100.003)):
        desk.over[job_id] = Over(attempt(id=job_id), Status(code=0), State.DONE, since=since)
    assert deadlines(desk) == [100.0 + plan.LONGEST_UNSYNCED]


def test_deadline_of_doubts(desk: Desk) -> None:
    """Every attempt in doubt has its next reading."""
    desk.doubts["a"] = Doubt(A, 99.0, 100.1)
    desk.doubts["b"] = Doubt(attempt(id="b"), 99.0, 100.2)
    assert deadlines(desk) == [100.1, 100.2]


def test_deadline_of_the_gate(desk: Desk) -> None:
    """A closed gate is asked again only for somebody: a queued or a claimed job."""
    desk.verdict = Verdict(open=False, reason="load", again=1.0)
    assert deadlines(desk) == []
    desk.backlog.see("x", FakeStat(), 0.0)
    assert deadlines(desk) == [101.0]
    desk.backlog.forget("x")
    desk.claim(A)
    assert deadlines(desk) == [101.0]
    desk.verdict = Verdict(open=False, reason="slots")
    assert deadlines(desk) == []


def test_deadline_of_claims_ahead(desk: Desk) -> None:
    """What was claimed ahead is given back when its time is over; what was found is not."""
    desk.claim(A, 99.5)
    desk.claim(attempt(id="b"))
    assert deadlines(desk) == [99.5 + plan.LONGEST_AHEAD]


def test_deadline_of_the_grace(desk: Desk) -> None:
    """While the daemon stops by killing, each running job has its end of grace."""
    desk.running["a"] = Run(A, 7, 0.0, 0.0, told=95.0)
    desk.running["b"] = Run(attempt(id="b"), 8, 0.0, 0.0)
    assert deadlines(desk) == []
    desk.intent = Intent.KILL
    assert deadlines(desk) == [105.0, 110.0]


def test_deadline_of_remains(desk: Desk) -> None:
    """What is left of a job is looked for again soon, and has its end of grace as well."""
    running(desk, replace(TOLD, told=95.0)).ended("a", Status(code=-15), 99.0)
    assert deadlines(desk) == [100.0 + REMAINS_PAUSE]
    desk.intent = Intent.KILL
    assert deadlines(desk) == [105.0, 100.0 + REMAINS_PAUSE]


def test_deadlines_may_be_past(desk: Desk) -> None:
    """A deadline stays what it is; whoever asks knows what it has looked at."""
    desk.over["a"] = Over(A, Status(code=0), State.DONE, since=90.0)
    desk.over["b"] = Over(attempt(id="b"), Status(code=0), State.DONE, since=99.0)
    desk.claim(attempt(id="c"), 50.0)
    desk.doubts["d"] = Doubt(attempt(id="d"), 60.0, 70.0)
    past = [90.0 + plan.LONGEST_UNSYNCED, 70.0, 50.0 + plan.LONGEST_AHEAD]
    assert deadlines(desk, 100.0) == deadlines(desk, 200.0) == past


@pytest.mark.parametrize("grace", [0.0, plan.SHORTEST_GRACE / 2])
def test_deadline_of_the_shortest_grace(desk: Desk, grace: float) -> None:
    """Desk and plan agree on the shortest grace, or the daemon would spin in between."""
    desk.running["a"] = Run(A, 7, 0.0, 0.0, told=100.0)
    desk.intent = Intent.KILL
    (at,) = desk.deadlines(100.0, grace)[1:]
    view = plan.View(now=at, intent=Intent.KILL, grace=grace, running=desk.stopping())
    assert plan.plan(view) == [plan.Stop(desk.stopping(), 9)]


def test_deadline_of_no_grace(desk: Desk) -> None:
    """Without any grace the next turn is not at once."""
    desk.running["a"] = Run(A, 7, 0.0, 0.0, told=100.0)
    desk.intent = Intent.KILL
    assert desk.deadlines(100.0, 0.0)[1:] == [100.0 + plan.SHORTEST_GRACE]


def test_returns_are_values(desk: Desk) -> None:
    """What is to be returned has its reason, and is kept from starting unless it has stopped."""
    desk.returning["a"] = Return(A, "why")
    assert (desk.returning["a"].reason, desk.returning["a"].stopped) == ("why", False)
