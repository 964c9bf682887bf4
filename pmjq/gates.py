"""Readings of the machine to open or closed, with the reason in words.

The one-minute load average (``-C``) sees for a minute neither that a job has started nor that one
has ended. Compared with a limit alone it starts a whole backlog at once, then nothing for minutes.
So launches obey three numbers:

* the load average itself, which must not be above the limit: the promise of ``-C``;
* a forecast of it: less what the ended jobs left in it (ghosts), plus what the running ones will
  still add (unseen). It needs a job's share, the part of its time in which it stands on a run
  queue, and takes that of the jobs that ended before;
* the threads runnable at this instant, asked only where the forecast trusts a share below 1,
  because the next job may be unlike the last ones: jobs that slept, then a hundred that compute.

`Forecast` and `Contention` are values: each method returns the next one, at a cost that does not
depend on how many jobs run. Clock, readings and counts are arguments, and nothing here looks at the
machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, inf
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from pmjq import render

if TYPE_CHECKING:
    from pmjq.job import Spec
    from pmjq.node import Reading

# Linux's CALC_LOAD keeps exp(-5 / 60) of the load per 5 s. Because all sums fade alike, each is one
# number, however many jobs are in it.
FADE = 60.0
# What one end weighs in the share at least: 20 ends are several rounds of a few slots.
LEAST_WEIGHT = 0.05
# A launch may end half a job above the limit, or half below it: rounding. A whole job above raises
# the load over the limit, where nothing may start: CPUs run dry (2-15 % of the time, simulated).
ROUNDING = 0.5
# Long enough for a process just launched to stand in the run queue, short enough for 80 launches a
# second at -C 4.
SIGHT = 0.05
# How often to ask a gate that the load average closed; the kernel itself reckons every 5 s.
AGAIN = 1.0
# Below this the run-time sums are what remains of an old burst, and their quotient is noise.
LEAST_RUN = 1e-6


def beyond(spec: Spec, cpus: int | None, memory: int | None, gpus: int | None = None) -> str:
    """Return what a job asks for that a node has not, which has so much; None: nobody knows."""
    if cpus is not None and spec.cpus is not None and spec.cpus > cpus:
        return f"needs {spec.cpus} CPUs, and there are {cpus}"
    if memory is not None and spec.memory is not None and spec.memory > memory:
        return f"needs {render.size(spec.memory)} of memory, and there are {render.size(memory)}"
    if gpus is not None and spec.gpus is not None and spec.gpus > gpus:
        there = f"there are {gpus}" if gpus else "this node gives none (--gpus)"
        return f"needs {spec.gpus} GPU{'s' * (spec.gpus > 1)}, and {there}"
    return ""


@dataclass(frozen=True, slots=True)
class Limits:
    """What the user allowed: ``load`` is -C, ``slots`` is -j; None where there is no such limit."""

    load: float | None = None
    slots: int | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """Open, or closed for a reason.

    ``again``: in how many seconds asking again makes sense; None: at a job's end, not before.
    """

    open: bool
    reason: str = ""
    again: float | None = None


OPEN = Verdict(open=True)


class Contention(Struct, frozen=True):
    """How many times longer the jobs of this machine stand on a run queue than they run.

    CPU time over duration is too small a share where jobs queue for CPUs, and a single count of
    runnable threads is noise. This is the quotient of two fading integrals over the samples:
    runnable threads, over those of them that have a CPU. Idle time is in neither, so that jobs
    which compute by turns count right. A sample holds until the next: feed one after each launch
    and each end.
    """

    at: float = 0.0
    runnable: int = 0
    cpus: int = 1
    stood: float = 0.0
    ran: float = 0.0

    def sampled(self, now: float, reading: Reading) -> Contention:
        """Return it with the time since the last sample counted, and this reading from here on."""
        kept = _kept(now - self.at)
        held = FADE * (1 - kept)
        return Contention(
            at=max(now, self.at),
            runnable=_others(reading),
            cpus=reading.cpus,
            stood=self.stood * kept + self.runnable * held,
            ran=self.ran * kept + min(self.runnable, self.cpus) * held,
        )

    @property
    def factor(self) -> float:
        """Time on a run queue per time on a CPU, at least 1."""
        if self.ran < LEAST_RUN:
            return max(1.0, self.runnable / self.cpus)
        return max(1.0, self.stood / self.ran)


class Forecast(Struct, frozen=True):
    """What the load average does not tell of our own jobs, as of ``at``.

    ``young`` is the sum of cpus * exp(-age / 60) over the ``running`` jobs, ``ghosts`` that of
    u * (1 - exp(-duration / 60)) * exp(-since / 60) over the ended ones, u being the CPUs that one
    stood on or queued for. ``share`` is the moving average of u per CPU; until jobs have ended, a
    job computes all the time. All instants are of one monotonic clock.
    """

    at: float = 0.0
    running: int = 0
    young: float = 0.0
    ghosts: float = 0.0
    share: float = 1.0
    ends: int = 0
    launched: float = -inf

    def on(self, now: float) -> Forecast:
        """Return it faded to ``now``; a clock that stands or steps back fades nothing."""
        kept = _kept(now - self.at)
        return replace(
            self, at=max(now, self.at), young=self.young * kept, ghosts=self.ghosts * kept
        )

    @property
    def unseen(self) -> float:
        """What the running jobs will still add to the load average."""
        return self.share * self.young

    def seen(self, load: float) -> float:
        """Return the part of ``load`` that is still on the machine."""
        return max(0.0, load - self.ghosts)

    def load(self, load: float) -> float:
        """Return what a load average of ``load`` is on its way to."""
        return self.seen(load) + self.unseen

    def started(self, now: float, cpus: float = 1.0) -> Forecast:
        """Count a job launched at ``now``."""
        return replace(self.adopted(now, 0.0, cpus), launched=now)

    def adopted(self, now: float, age: float, cpus: float = 1.0) -> Forecast:
        """Count a job found running, launched ``age`` seconds before by an earlier daemon."""
        faded = self.on(now)
        return replace(faded, running=faded.running + 1, young=faded.young + cpus * _kept(age))

    def ended(
        self,
        now: float,
        duration: float,
        cpu_seconds: float | None,
        contention: float,
        cpus: float = 1.0,
    ) -> Forecast:
        """Count the end of a job that ran for ``duration``, from its start to ``now``.

        ``cpu_seconds`` is its user and system time, None where its status was lost: then it was
        like the others and teaches nothing. ``contention`` is `Contention.factor`.
        """
        faded = self.on(now)
        used = (
            faded.share * cpus
            if cpu_seconds is None
            else _used(duration, cpu_seconds * contention, cpus)
        )
        # The value that share starts from weighs as much as one end.
        weight = 0.0 if cpu_seconds is None else max(LEAST_WEIGHT, 1 / (faded.ends + 2))
        running = max(0, faded.running - 1)
        return replace(
            faded,
            running=running,
            # Nothing runs: exactly nothing is unseen, whatever rounding left.
            young=max(0.0, faded.young - cpus * _kept(duration)) if running else 0.0,
            ghosts=faded.ghosts + used * (1 - _kept(duration)),
            share=faded.share + weight * (used / cpus - faded.share),
            ends=faded.ends + (cpu_seconds is not None),
        )


def verdict(
    limits: Limits,
    reading: Reading,
    forecast: Forecast,
    running: int,
    now: float,
    *,
    cpus: float = 1.0,
    granted: float = 0.0,
) -> Verdict:
    """Say whether one more job of ``cpus`` may be launched at ``now`` beside ``running`` others.

    ``granted``: the CPUs of those among them that are not in the forecast yet.
    """
    return (
        _slots(limits, running)
        or _load(limits, reading, forecast.on(now), running, _Next(now, cpus, granted))
        or OPEN
    )


def room(
    limits: Limits,
    reading: Reading,
    forecast: Forecast,
    running: int,
    now: float,
    most: int,
    *,
    granted: int = 0,
) -> tuple[int, Verdict]:
    """Return how many single-CPU jobs may be launched at ``now``, and the verdict on the next one.

    The verdict is open where ``most`` was the only limit. ``granted`` of the ``running`` were let
    in before and are not in the forecast yet, because they are claimed and not launched.
    """
    faded = forecast.on(now)
    for count in range(most):
        beside = running + count
        closed = _slots(limits, beside) or _load(
            limits, reading, faded, beside, _Next(now, fresh=float(granted + count))
        )
        if closed:
            return count, closed
    return most, OPEN


@dataclass(frozen=True, slots=True)
class _Next:
    """The job in question, and the CPUs granted to others that the forecast does not know."""

    now: float
    cpus: float = 1.0
    fresh: float = 0.0


def _slots(limits: Limits, running: int) -> Verdict | None:
    if limits.slots is None or running < limits.slots:
        return None
    if limits.slots == 0:
        return Verdict(open=False, reason="-j 0: no slots")
    return Verdict(open=False, reason=f"{running} of {limits.slots} slots are taken")


def _load(
    limits: Limits, reading: Reading, forecast: Forecast, running: int, job: _Next
) -> Verdict | None:
    limit = limits.load
    if limit is None:
        return None
    if reading.load > limit:
        return _closed(f"load average {reading.load:.2f} is above -C {limit:g}")
    if running == 0:
        # Whatever the forecast and the job's size: no queue stands still below its limit.
        return None
    seen, young = forecast.seen(reading.load), forecast.young + job.fresh
    unseen, rounding = forecast.share * young, ROUNDING * job.cpus
    if seen + unseen + forecast.share * rounding > limit:
        return _closed(
            f"forecast {seen + unseen:.2f} leaves no room under -C {limit:g}: "
            f"{unseen:.2f} of it just started and is not yet in the load average"
        )
    if seen + young + rounding <= limit:
        # Room enough even if this job and all the young ones compute all the time.
        return None
    return _sight(limit, reading, forecast, job)


def _sight(limit: float, reading: Reading, forecast: Forecast, job: _Next) -> Verdict | None:
    """Judge a launch that is right only if the job is like the ended ones: few at a time."""
    early = SIGHT - (job.now - forecast.launched)
    if early > 0:
        # The next look is never so near that rounding makes it this same instant.
        again = max(early, SIGHT / 10)
        return _closed(
            f"jobs started less than {SIGHT:g} s ago: looking what they use first (-C {limit:g})",
            again,
        )
    runnable = _others(reading) + job.fresh
    if runnable + ROUNDING * job.cpus > limit:
        return _closed(
            f"{runnable:.0f} threads running or just started leave no room under -C {limit:g}",
            SIGHT,
        )
    return None


def _closed(reason: str, again: float = AGAIN) -> Verdict:
    return Verdict(open=False, reason=reason, again=again)


def _others(reading: Reading) -> int:
    """Return the runnable threads without the one that read."""
    return max(0, reading.runnable - 1)


def _used(duration: float, stood: float, cpus: float) -> float:
    """Return the CPUs a job stood on or queued for; of an instant nothing is known: all of them."""
    return min(cpus, max(0.0, stood) / duration) if duration > 0 else cpus


def _kept(seconds: float) -> float:
    """Return what remains after ``seconds``; time never runs backwards."""
    return exp(-max(0.0, seconds) / FADE)
