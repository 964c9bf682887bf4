"""A cluster in which nothing goes wrong, watched for how it shares itself among owners.

Several owners have more jobs queued than there is room for. Four times a second of the
simulation it is seen who runs how much, and what stands idle though something fits.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field

from cluster import Cluster, Plan
from doubles import Script
from machines import OWNERS, Job, Node
from mounts import KINDS, Kind, Odds
from pmjq.packing import PATIENCE, Capacity

EVERY = 0.25
"""Seconds between two looks."""

LOCAL = next(kind for kind in KINDS if kind.name == "local")
NFS = next(kind for kind in KINDS if kind.name == "nfs")


def plan_of(
    jobs: list[Job], slots: tuple[int, ...], kind: Kind = LOCAL, cpus: tuple[int, ...] | None = None
) -> Plan:
    """Return a plan in which nothing goes wrong."""
    capacities = tuple(Capacity(count, 1000) for count in cpus or slots)
    return Plan(
        kind,
        lease=120.0,
        poll=None,
        slots=slots,
        together=kind.local,
        jobs=tuple(jobs),
        odds=Odds(),
        troubles=(),
        seconds=1.0,
        capacities=capacities,
    )


def crowd(rng: random.Random, each: int, lasts: tuple[float, float]) -> list[Job]:
    """Return jobs of three owners, who come one after another, each with all of his."""
    jobs = []
    for number in range(each * len(OWNERS)):
        owner, at = OWNERS[number // each], 0.01 * (number // each) + 0.0001 * (number % each)
        script = Script(seconds=round(rng.uniform(*lasts), 3))
        jobs.append(Job(number + 1, script, restartable=False, at=at, owner=owner))
    return jobs


@dataclass(slots=True)
class Watched:
    """What was seen: for how long shares were apart by so much, and what stood idle for longest."""

    spreads: Counter[int] = field(default_factory=Counter)
    longest_apart: float = 0.0
    longest_idle: float = 0.0
    idle: str = ""


class Fair(Cluster):
    """A cluster that is watched."""

    def __init__(self, seed: int, plan: Plan) -> None:
        """Take a plan in the place of that of the seed."""
        self._planned = plan
        super().__init__(seed)
        self.watched = Watched()
        self.begun_in: list[int] = []
        self._apart_since = self._idle_since = -1.0

    def _plan(self, troubles: tuple[str, ...]) -> Plan:
        return self._planned

    def _begin(self) -> None:
        super()._begin()
        self.sim.later(self.sim.now + EVERY, self._watch)

    def _watch(self) -> None:
        if self.sim.over:
            return
        now, watched = self.sim.now, self.watched
        counts = Counter(dict.fromkeys(OWNERS, 0))
        for each in self.nodes:
            for job in self.runs_for(each.name):
                counts[job.owner] += job.cpus or 1
        queued = self._queued()
        spread = max(counts.values()) - min(counts.values())
        if {job.owner for job in queued} == set(OWNERS) and any(counts.values()):
            watched.spreads[spread] += 1
            self._apart_since = now if spread < 2 or self._apart_since < 0 else self._apart_since
            watched.longest_apart = max(watched.longest_apart, now - self._apart_since)
        else:
            self._apart_since = -1.0
        what = self._idle(queued)
        self._idle_since = now if not what or self._idle_since < 0 else self._idle_since
        if now - self._idle_since > watched.longest_idle:
            watched.longest_idle, watched.idle = now - self._idle_since, what
        self.sim.later(now + EVERY, self._watch)

    def _queued(self) -> list[Job]:
        """Return what is in the spool and could be run."""
        return [
            job
            for job in self.jobs.values()
            if job.submitted and any(self._roles[at][0] == "spool" for at, _ in job.places)
        ]

    def _idle(self, queued: list[Job]) -> str:
        """Tell what stands idle though something fits there, more than one slot of a node."""
        now = self.sim.now
        if any(now > job.submitted_at + PATIENCE for job in queued if job.cpus > 1):
            # Room may be kept for it.
            return ""
        for each in self.nodes:
            if each.server is None or not each.server.began:
                continue
            here = self.runs_for(each.name)
            free = (each.capacity.cpus or 0) - sum(job.cpus or 1 for job in here)
            memory = (each.capacity.memory or 0) - sum(job.memory for job in here)
            if min(each.slots - len(here), free) < 2:
                continue
            fits = [job for job in queued if (job.cpus or 1) < free and job.memory <= memory]
            if fits:
                return f"{each.name} has {free} CPUs idle, and {fits[0].name} fits"
        return ""

    def job_begun(self, job: Job, process: object, box: object) -> None:
        """Take note of the order."""
        self.begun_in.append(job.number)
        super().job_begun(job, process, box)  # type: ignore[arg-type]  # as it was handed in


def nodes_named(cluster: Cluster) -> dict[str, Node]:
    """Return the nodes by name."""
    return {each.name: each for each in cluster.nodes}
