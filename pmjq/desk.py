"""The jobs that this life of the node has, by state: memory of what the disk says.

An attempt is in exactly one of these places, as its job file is in exactly one place on disk. All of it can be thrown away and
read again from the spool (``pmjq.recovery``); nothing is true because it stands here.

The load gate's view of our own jobs is kept beside them, since it changes with the same events.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pmjq import plan
from pmjq.gates import Contention, Forecast
from pmjq.job import Status
from pmjq.plan import Over, Return, Run

if TYPE_CHECKING:
    from pmjq.job import Attempt, Record


@dataclass(slots=True)
class Doubt:
    """An attempt of which only its status on disk tells how it stands; ``again``: when to read it next."""

    attempt: Attempt
    since: float
    again: float
    rebooted: bool = False
    told: bool = False


class Desk:
    """The attempts in hand, by id."""

    def __init__(self) -> None:
        """Start with nothing in hand."""
        self.claimed: dict[str, Attempt] = {}
        self.fresh: set[str] = set()
        self.starting: dict[str, Attempt] = {}
        self.running: dict[str, Run] = {}
        self.doubts: dict[str, Doubt] = {}
        self.over: dict[str, Over] = {}
        self.returning: dict[str, Return] = {}
        self.filing: dict[str, Record] = {}
        self.forecast = Forecast()
        self.contention = Contention()

    def __contains__(self, job_id: str) -> bool:
        """Tell whether an attempt of this job is in hand, ended ones that are to be filed left out."""
        return any(job_id in place for place in self._places())

    def in_hand(self) -> set[str]:
        """Return the ids of the jobs whose file is in this life's ``run/``."""
        return set().union(*self._places())

    def busy(self) -> int:
        """Return how many slots are taken: what runs, is about to, or may."""
        return len(self.running) + len(self.starting) + len(self.doubts) + len(self.fresh)

    def attempt(self, job_id: str) -> Attempt | None:
        """Return the attempt that is starting or running, if it is."""
        run = self.running.get(job_id)
        return run.attempt if run else self.starting.get(job_id)

    def claim(self, attempt: Attempt) -> None:
        """Take note of a claim that the gates let in."""
        self.claimed[attempt.id] = attempt
        if not attempt.refused:
            self.fresh.add(attempt.id)

    def launch(self, attempt: Attempt, now: float) -> None:
        """Take note that the keeper was told to start an attempt."""
        self.claimed.pop(attempt.id, None)
        self.fresh.discard(attempt.id)
        self.starting[attempt.id] = attempt
        self.forecast = self.forecast.started(now)

    def started(self, job_id: str, pid: int, at: float, now: float) -> None:
        """Take note that an attempt runs."""
        attempt = self.starting.pop(job_id, None)
        if attempt is not None:
            self.running[job_id] = Run(attempt, pid, at, now)

    def unstarted(self, job_id: str, now: float) -> Attempt | None:
        """Take note that an attempt was not started; it is claimed as before."""
        attempt = self.starting.pop(job_id, None)
        if attempt is not None:
            self.forecast = self.forecast.ended(now, 0.0, None, 1.0)
        return attempt

    def adopt(self, attempt: Attempt, status: Status, now: float, wall: float) -> None:
        """Take note of a process that was found running."""
        age = max(0.0, wall - (status.started or wall))
        self.running[attempt.id] = Run(attempt, status.pid, status.started or wall, now - age)
        self.forecast = self.forecast.adopted(now, age)

    def ended(self, job_id: str, status: Status, now: float) -> None:
        """Take note that the process of an attempt has ended, or that nobody knows how it did."""
        run = self.running.pop(job_id, None)
        attempt = run.attempt if run else self.starting.pop(job_id, None)
        if attempt is None:
            return
        duration = now - run.since if run else 0.0
        usage = status.usage
        cpu = usage.user_cpu + usage.system_cpu if usage else None
        self.forecast = self.forecast.ended(now, duration, cpu, self.contention.factor)
        self.settle(attempt, status, told=run is not None and run.told is not None)

    def settle(self, attempt: Attempt, status: Status, *, told: bool = False) -> None:
        """Decide what becomes of an attempt that is over."""
        over = plan.outcome(attempt, status, told=told)
        if told and attempt.spec.restartable and over.state is not plan.State.DONE:
            self.returning[attempt.id] = Return(attempt, "stopped with the daemon; it is restartable")
        else:
            self.over[attempt.id] = over

    def doubt(self, job_id: str, now: float, *, told: bool = False) -> None:
        """Set aside an attempt that starts or runs until its status has been read."""
        run = self.running.pop(job_id, None)
        attempt = run.attempt if run else self.starting.pop(job_id, None)
        if attempt is None:
            return
        duration = now - run.since if run else 0.0
        self.forecast = self.forecast.ended(now, duration, None, 1.0)
        told = told or (run is not None and run.told is not None)
        self.doubts[job_id] = Doubt(attempt, now, now, told=told)

    def drop(self, job_id: str) -> None:
        """Forget an attempt that is another's now."""
        for place in self._places():
            place.pop(job_id, None)
        self.fresh.discard(job_id)

    def _places(self) -> tuple[dict[str, Any], ...]:
        return (
            self.running, self.starting, self.claimed, self.doubts, self.over, self.returning
        )  # fmt: skip
