"""The rules of gates: slots, the load average, its forecast, and a machine simulated under them."""

from __future__ import annotations

import heapq
import math
import random
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pmjq.gates import AGAIN, OPEN, SIGHT, Contention, Forecast, Limits, beyond, room, verdict
from pmjq.job import Spec
from pmjq.node import Reading

CPUS = 2
LIMIT = 4.0
IDLE = Reading(load=0.0, runnable=1, cpus=CPUS)


def reading(load: float = 0.0, runnable: int = 1) -> Reading:
    """Return a reading of the two-CPU machine."""
    return Reading(load=load, runnable=runnable, cpus=CPUS)


def forecast_of(jobs: int, now: float = 0.0) -> Forecast:
    """Return the forecast just after so many launches."""
    forecast = Forecast()
    for _ in range(jobs):
        forecast = forecast.started(now)
    return forecast


# --- what a node has not


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        (Spec(), ""),
        (Spec(cpus=2, memory=1000, gpus=1), ""),
        (Spec(cpus=3), "needs 3 CPUs, and there are 2"),
        (Spec(memory=2048), "needs 2 kB of memory, and there are 1 kB"),
        (Spec(gpus=2), "needs 2 GPUs, and there are 1"),
    ],
)
def test_beyond(spec: Spec, reason: str) -> None:
    """What a job asks for that the node has not; where nobody knows that it is nothing."""
    assert beyond(spec, 2, 1024, 1) == reason
    assert beyond(spec, None, None, None) == ""
    assert beyond(Spec(gpus=1), 2, 1024, 0) == "needs 1 GPU, and this node gives none (--gpus)"


# --- slots


def test_no_limits_are_always_open() -> None:
    """Without -C and -j nothing holds a launch back."""
    assert verdict(Limits(), reading(load=900), forecast_of(50), 50, 0.0) == OPEN
    assert room(Limits(), reading(load=900), forecast_of(50), 50, 0.0, 7) == (7, OPEN)


def test_slots_are_always_enforced() -> None:
    """The last slot is the last launch, and only a job's end makes asking again worth while."""
    closed = verdict(Limits(slots=4), IDLE, forecast_of(4), 4, 0.0)
    assert (closed.open, closed.reason, closed.again) == (False, "4 of 4 slots are taken", None)
    assert room(Limits(slots=4), IDLE, forecast_of(1), 1, 0.0, 10) == (3, closed)


def test_no_slots_start_nothing() -> None:
    """-j 0 never starts a job, not even on an idle machine."""
    count, closed = room(Limits(load=4, slots=0), IDLE, Forecast(), 0, 0.0, 10)
    assert (count, closed.open, closed.reason) == (0, False, "-j 0: no slots")


# --- the load average


def test_load_average_above_the_limit_closes() -> None:
    """Nothing is launched above the limit, even where nothing runs."""
    closed = verdict(Limits(load=4), reading(load=4.31), Forecast(), 0, 0.0)
    assert (closed.open, closed.reason, closed.again) == (
        False,
        "load average 4.31 is above -C 4",
        AGAIN,
    )


def test_load_average_equal_to_the_limit_launches_one() -> None:
    """Equal launches: the queue does not stand still while nothing of ours runs."""
    count, closed = room(Limits(load=4), reading(load=4.0), Forecast(), 0, 0.0, 10)
    assert (count, closed.open) == (1, False)


def test_limit_zero_runs_one_at_a_time_on_an_idle_machine() -> None:
    """A limit that no job fits below still lets one go when the load is not above it."""
    assert room(Limits(load=0), IDLE, Forecast(), 0, 0.0, 10)[0] == 1


def test_large_job_starts_on_an_idle_machine() -> None:
    """A job of more CPUs than the limit goes when nothing of ours runs, and only then."""
    assert verdict(Limits(load=4), IDLE, Forecast(), 0, 0.0, cpus=16).open
    assert not verdict(Limits(load=4), IDLE, forecast_of(1), 1, 0.0, cpus=16).open


# --- the forecast


def test_backlog_on_an_idle_machine_fills_the_limit_and_no_more() -> None:
    """What just started counts although the load average does not show it."""
    count, closed = room(Limits(load=4), IDLE, Forecast(), 0, 0.0, 200)
    assert count == 4
    assert closed.reason == (
        "forecast 4.00 leaves no room under -C 4: "
        "4.00 of it just started and is not yet in the load average"
    )


def test_jobs_let_in_and_not_launched_take_room() -> None:
    """A claim that is on its way to its launch is not granted twice."""
    assert room(Limits(load=4), IDLE, Forecast(), 3, 0.0, 200, granted=3)[0] == 1
    assert room(Limits(load=4), IDLE, SLEEPERS, 53, 0.0, 200, granted=3)[0] == 1


def test_ended_jobs_make_room_at_once() -> None:
    """What ended still stands in the load average and is taken out of the forecast."""
    forecast = forecast_of(4)
    for _ in range(4):
        forecast = forecast.ended(120.0, 120.0, 60.0, contention=2.0)
    load = 4 * (1 - math.exp(-2))
    assert forecast.load(load) == pytest.approx(0.0)
    assert room(Limits(load=4), reading(load=load), forecast, 0, 120.0, 200)[0] == 4


def test_job_just_started_is_unseen_and_an_old_one_is_seen() -> None:
    """A running job moves from the forecast into the load average within minutes."""
    assert forecast_of(3).unseen == 3.0
    assert forecast_of(3).on(60.0).unseen == pytest.approx(3 / math.e)
    assert Forecast().adopted(7.0, age=3600.0).unseen < 1e-20


def test_computing_jobs_keep_the_share_at_one() -> None:
    """CPU time scaled by the contention gives the time on the run queue."""
    forecast = forecast_of(4).ended(10.0, 10.0, 5.0, contention=2.0)
    assert forecast.share == 1.0


def test_sleeping_jobs_lower_the_share() -> None:
    """The first ends teach fast, the start value weighs as one of them."""
    forecast = forecast_of(4)
    for _ in range(4):
        forecast = forecast.ended(10.0, 10.0, 0.0, contention=1.0)
    assert forecast.share == pytest.approx(1 / 5)


def test_share_never_exceeds_a_jobs_cpus() -> None:
    """Contention measured on other jobs cannot make more of one than its CPUs."""
    assert (
        Forecast().started(0.0, cpus=2).ended(10.0, 10.0, 15.0, contention=9.0, cpus=2).share == 1.0
    )
    assert Forecast().started(0.0).ended(0.0, 0.0, 0.0, contention=1.0).share == 1.0


def test_lost_status_teaches_nothing() -> None:
    """A job whose CPU time is unknown was like the others."""
    before = forecast_of(2).ended(10.0, 10.0, 5.0, contention=1.0)
    after = before.ended(10.0, 10.0, None, contention=1.0)
    assert (after.share, after.ends, after.running) == (before.share, before.ends, 0)
    assert after.ghosts == pytest.approx(before.ghosts + before.share * (1 - math.exp(-1 / 6)))


# --- sight


SLEEPERS = Forecast(running=50, young=40.0, share=0.0, ends=100)


def test_trusting_a_low_share_launches_few_at_a_time() -> None:
    """Sleepers before do not let a hundred others go at once: the limit's worth, then a look."""
    count, closed = room(Limits(load=4), IDLE, SLEEPERS, 50, 0.0, 100)
    assert (count, closed.again) == (4, SIGHT)
    assert closed.reason == "4 threads running or just started leave no room under -C 4"


def test_trusting_a_low_share_looks_between_launches() -> None:
    """A process just launched may not stand in the run queue yet."""
    forecast = SLEEPERS.started(0.0)
    early = verdict(Limits(load=4), IDLE, forecast, 51, SIGHT / 2)
    assert not early.open
    assert early.again == pytest.approx(SIGHT / 2)
    assert verdict(Limits(load=4), IDLE, forecast, 51, SIGHT).open
    assert (verdict(Limits(load=4), IDLE, forecast, 51, SIGHT - 1e-12).again or 0) >= SIGHT / 10


def test_trusting_a_low_share_ends_when_the_jobs_compute() -> None:
    """Runnable threads at the limit close the gate long before the load average shows them."""
    assert verdict(Limits(load=4), reading(runnable=4), SLEEPERS, 50, 0.0).open
    assert not verdict(Limits(load=4), reading(runnable=5), SLEEPERS, 50, 0.0).open


def test_wide_job_is_gated_with_all_its_cpus() -> None:
    """And those granted just before count, which the forecast does not know yet."""
    limits, forecast = Limits(load=4), forecast_of(1)
    assert verdict(limits, IDLE, forecast, 1, 0.0, cpus=4).open
    assert not verdict(limits, IDLE, forecast, 1, 0.0, cpus=8).open
    assert not verdict(limits, IDLE, forecast, 1, 0.0, cpus=4, granted=2).open
    assert verdict(limits, IDLE, Forecast(), 0, 0.0, cpus=64).open


def test_room_enough_for_computing_jobs_asks_no_sight() -> None:
    """Where even computing jobs fit, a burst of runnable threads holds nothing back."""
    assert verdict(Limits(load=4), reading(runnable=90), forecast_of(1), 1, 0.0).open


# --- contention


def sampled(*samples: tuple[float, int]) -> float:
    """Return the contention after samples of (now, runnable)."""
    contention = Contention()
    for now, runnable in samples:
        contention = contention.sampled(now, reading(runnable=runnable))
    return contention.factor


def test_contention_is_runnable_threads_per_cpu() -> None:
    """The reading thread is not counted; an idle machine has none."""
    assert sampled() == 1.0
    assert sampled((0, 1), (9, 1)) == 1.0
    assert sampled((0, 3), (9, 3)) == 1.0
    assert sampled((0, 5), (9, 5)) == 2.0
    assert sampled((0, 9)) == 4.0


def test_contention_ignores_idle_time() -> None:
    """Jobs that compute together and then idle together contended while they computed."""
    assert sampled((0, 5), (10, 1), (15, 5), (25, 1)) == pytest.approx(2.0)


def test_contention_forgets() -> None:
    """A burst of an hour ago does not scale the jobs of today."""
    assert sampled((0, 201), (60, 3), (3660, 3)) == pytest.approx(1.0)


# --- properties


@dataclass
class History:
    """The sums of the rule, over all jobs that ever were."""

    now: float = 0.0
    running: list[tuple[float, float]] = field(default_factory=list)  # start, cpus
    ended: list[tuple[float, float, float]] = field(default_factory=list)  # end, duration, u
    forecast: Forecast = field(default_factory=Forecast)

    def young(self) -> float:
        """Return what running jobs count at a share of 1."""
        return sum(cpus * math.exp(-(self.now - start) / 60) for start, cpus in self.running)

    def ghosts(self) -> float:
        """Return what ended jobs left."""
        return sum(
            u * (1 - math.exp(-d / 60)) * math.exp(-(self.now - end) / 60)
            for end, d, u in self.ended
        )


Step = tuple[float, str, float, float, float]
STEPS = st.tuples(
    st.floats(0, 300),
    st.sampled_from(["start", "adopt", "end", "end"]),
    st.floats(0, 500),
    st.floats(0.1, 8),
    st.floats(1, 9),
)


def replayed(steps: list[Step]) -> History:
    """Return the history that the steps tell, kept both ways."""
    past = History()
    for step, event, number, cpus, contention in steps:
        past.now += step
        if event == "start":
            past.running.append((past.now, cpus))
            past.forecast = past.forecast.started(past.now, cpus)
        elif event == "adopt":
            past.running.append((past.now - number, cpus))
            past.forecast = past.forecast.adopted(past.now, number, cpus)
        elif past.running:
            start, held = past.running.pop(int(number) % len(past.running))
            duration = past.now - start
            used = min(held, number / duration * contention) if duration > 0 else held
            past.ended.append((past.now, duration, used))
            past.forecast = past.forecast.ended(past.now, duration, number, contention, held)
        assert past.forecast.young >= 0
        assert past.forecast.ghosts >= 0
        assert 0 <= past.forecast.share <= 1
    return past


@given(st.lists(STEPS, max_size=60), st.floats(0, 300), st.floats(0, 100))
def test_forecast_equals_the_sums(steps: list[Step], later: float, load: float) -> None:
    """The constant-size value tells what sums over all jobs would."""
    past = replayed(steps)
    past.now += later
    forecast = past.forecast.on(past.now)
    assert forecast.running == len(past.running)
    assert forecast.young == pytest.approx(past.young(), abs=1e-9)
    assert forecast.ghosts == pytest.approx(past.ghosts(), abs=1e-9)
    expected = max(0.0, load - past.ghosts()) + forecast.share * past.young()
    assert forecast.load(load) == pytest.approx(expected, abs=1e-9)


@given(st.lists(STEPS, max_size=60))
def test_nothing_running_is_exactly_nothing_unseen(steps: list[Step]) -> None:
    """No rounding error remains for a daemon that runs a year."""
    past = replayed(steps)
    while past.running:
        start, cpus = past.running.pop()
        past.forecast = past.forecast.ended(past.now, past.now - start, 1.0, 1.0, cpus)
    assert past.forecast.unseen == 0.0


LOADS = st.floats(0, 50)
LIMITS = st.builds(Limits, load=st.none() | LOADS, slots=st.none() | st.integers(0, 40))


@given(LIMITS, st.lists(STEPS, max_size=20), LOADS, LOADS, st.integers(1, 50))
def test_more_load_never_opens(
    limits: Limits, steps: list[Step], one: float, other: float, runnable: int
) -> None:
    """What is closed stays closed at a higher load or with more runnable threads."""
    past, low, high = replayed(steps), *sorted((one, other))
    rooms = [
        room(
            limits,
            reading(load=load, runnable=runnable + more),
            past.forecast,
            len(past.running),
            past.now,
            30,
        )[0]
        for load, more in ((low, 0), (high, 0), (high, 3))
    ]
    assert all(a >= b for a, b in pairwise(rooms))


@given(LIMITS, st.integers(0, 20), LOADS, st.integers(0, 40))
def test_room_is_what_single_launches_would_take(
    limits: Limits, jobs: int, load: float, most: int
) -> None:
    """While jobs are taken to compute, a batch is the same as one launch after the other."""
    forecast, count = forecast_of(jobs), 0
    while count < most and verdict(limits, reading(load), forecast, jobs + count, 0.0).open:
        forecast, count = forecast.started(0.0), count + 1
    launched, closed = room(limits, reading(load), forecast_of(jobs), jobs, 0.0, most)
    assert launched == count
    assert closed.open == (count == most)
    assert closed.open or closed.reason


# --- the simulated machine


COMPUTE, IDLES = True, False
Work = list[list[tuple[bool, float]]]
# Linux: every 5 s and one tick, in fixed point with 11 bits.
LOAD_EVERY, LOAD_KEPT = 5.004, 1884 / 2048
# From a job's end, or from a launch, to the daemon's next look.
LATENCY = 0.002
# What a process needs to come up.
START_UP = 0.003


class Result(NamedTuple):
    """What a machine made of a workload."""

    peak: float
    time: float
    busy: float


class Machine:
    """CPUs shared equally by what is runnable, and the kernel's load average, event by event."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.now = self.load = self.peak = self.busy = 0.0
        self.runnable = 0
        self.cpu_seconds = [
            sum(length for computes, length in phases if computes) for phases in work
        ]
        self.ended: list[int] = []
        # CPU time that each runnable job has got so far, one number for all: they share equally.
        self._served = 0.0
        self._computing: list[tuple[float, int, int]] = []
        self._idling: list[tuple[float, int, int]] = []
        self._load_at = LOAD_EVERY

    def launch(self, job: int) -> None:
        """Start a job."""
        self._enter(job, 0)

    def run(self, until: float) -> bool:
        """Run until then or until a job's end, and say whether one ended."""
        while not self.ended:
            rate = min(1.0, CPUS / self.runnable) if self.runnable else 1.0
            computed = (
                self.now + (self._computing[0][0] - self._served) / rate
                if self._computing
                else math.inf
            )
            idled = self._idling[0][0] if self._idling else math.inf
            then = max(self.now, min(computed, idled, self._load_at, until))
            self._served += (then - self.now) * rate
            self.busy += (then - self.now) * min(self.runnable, CPUS) / CPUS
            self.now = then
            if then >= computed:
                _, job, phase = heapq.heappop(self._computing)
                self.runnable -= 1
                self._enter(job, phase + 1)
            elif then >= idled:
                _, job, phase = heapq.heappop(self._idling)
                self._enter(job, phase + 1)
            elif then >= self._load_at:
                self.load = self.load * LOAD_KEPT + self.runnable * (1 - LOAD_KEPT)
                self.peak = max(self.peak, self.load)
                self._load_at += LOAD_EVERY
            else:
                return False
        return True

    def _enter(self, job: int, phase: int) -> None:
        if phase == len(self.work[job]):
            self.ended.append(job)
            return
        computes, length = self.work[job][phase]
        if computes:
            self.runnable += 1
            heapq.heappush(self._computing, (self._served + length, job, phase))
        else:
            heapq.heappush(self._idling, (self.now + length, job, phase))


def simulated(work: Work, *, gated: bool, limit: float = LIMIT) -> Result:
    """Run the work as the daemon would, from what it can observe; or with the plain comparison."""
    machine, limits = Machine(work), Limits(load=limit)
    forecast, contention = Forecast(), Contention()
    starts: list[float] = []
    done = running = 0
    turn = 0.0
    while done < len(work):
        if machine.run(until=turn):
            ended, machine.ended = machine.ended, []
            turn = min(turn, machine.now + LATENCY)
            # What ends until the daemon looks is seen in the same turn.
            while machine.run(until=turn):
                ended, machine.ended = ended + machine.ended, []
        else:
            ended = []
        now = machine.now
        seen = Reading(load=machine.load, runnable=machine.runnable + 1, cpus=CPUS)
        contention = contention.sampled(now, seen)
        for job in ended:
            forecast = forecast.ended(
                now, now - starts[job], machine.cpu_seconds[job], contention.factor
            )
        done, running = done + len(ended), running - len(ended)
        left = len(work) - len(starts)
        if gated:
            count, closed = room(limits, seen, forecast, running, now, left)
        else:
            count, closed = (left if machine.load <= limit else 0), OPEN
        for _ in range(count):
            machine.launch(len(starts))
            starts.append(now)
            forecast = forecast.started(now)
        running += count
        turn = now + (LATENCY if count else closed.again or AGAIN)
    return Result(machine.peak, machine.now, machine.busy / machine.now)


def jittered(work: Work) -> Work:
    """Return the work with each phase up to a tenth off: real jobs do not keep in step."""
    chance = random.Random(2)
    return [
        [(computes, length * chance.uniform(0.9, 1.1)) for computes, length in phases]
        for phases in work
    ]


def mixed() -> Work:
    """Return 300 jobs in random order: sleeping, computing for long and short, and by turns."""
    chance = random.Random(7)
    kinds = [
        lambda: [(COMPUTE, START_UP), (IDLES, chance.uniform(1, 20))],
        lambda: [(COMPUTE, chance.expovariate(1 / 18))],
        lambda: [(COMPUTE, half := chance.uniform(0.5, 7)), (IDLES, half), (COMPUTE, half)],
    ]
    return [chance.choice(kinds)() for _ in range(300)]


SLEEP: list[tuple[bool, float]] = [(COMPUTE, START_UP), (IDLES, 10.0)]
WORK: dict[str, Work] = {
    "200 x 10 s CPU": [[(COMPUTE, 10.0)]] * 200,
    "60 x 60 s CPU": [[(COMPUTE, 60.0)]] * 60,
    "200 x (5 s CPU, 5 s idle)": [[(COMPUTE, 5.0), (IDLES, 5.0)]] * 200,
    "2000 x 0.2 s CPU": [[(COMPUTE, 0.2)]] * 2000,
    "300 mixed": mixed(),
    "400 x 10 s sleep": [SLEEP] * 400,
    "200 x 5 x (1 s CPU, 1 s idle)": [[(COMPUTE, 1.0), (IDLES, 1.0)] * 5] * 200,
    "200 x 10 s sleep, 100 x 10 s CPU": [SLEEP] * 200 + [[(COMPUTE, 10.0)]] * 100,
    "200 x 10 s sleep, 40 x 60 s CPU": [SLEEP] * 200 + [[(COMPUTE, 60.0)]] * 40,
}
# Learning that sleepers sleep takes half a minute, in which nothing computes.
SLOWEST = {"200 x 10 s sleep, 100 x 10 s CPU": 1.08}


@cache
def results(name: str) -> tuple[Result, Result]:
    """Return what came of the plain comparison and of the gate."""
    work = jittered(WORK[name])
    return simulated(work, gated=False), simulated(work, gated=True)


@pytest.mark.parametrize("name", WORK)
def test_simulated_load_stays_low_and_cpus_busy(name: str) -> None:
    """Under -C 4 the load average stays below 5, and the work takes 6 % longer at most."""
    naive, gate = results(name)
    assert gate.peak <= 5
    if name == "400 x 10 s sleep":
        assert gate.time <= 60
    else:
        assert gate.time <= naive.time * SLOWEST.get(name, 1.06)


def test_simulated_contention_counts_the_queue_for_cpus() -> None:
    """Where eight jobs share a CPU, their CPU time alone would call them sleepers."""
    work = jittered(WORK["200 x 5 x (1 s CPU, 1 s idle)"])
    assert simulated(work, gated=True, limit=16).peak <= 17


def test_simulation_table(capsys: pytest.CaptureFixture[str]) -> None:
    """The table is shown with the tests."""
    heads = f"{'naive: peak load, time':>24}{'gate: peak load, time':>24}{'ratio':>7}{'busy':>7}"
    lines = ["", f"{'-C 4 on 2 CPUs, simulated':34}{heads}"]
    for name in WORK:
        naive, gate = results(name)
        figures = f"{naive.peak:14.1f}, {naive.time:6.0f} s{gate.peak:14.1f}, {gate.time:6.0f} s"
        lines.append(f"{name:34}{figures}{gate.time / naive.time:7.3f}{gate.busy:7.1%}")
    with capsys.disabled():
        print("\n".join(lines))
    assert len(lines) == len(WORK) + 2
