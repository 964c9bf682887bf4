"""Several nodes on one spool, simulated: one seed decides everything.

Each node is the real ``Turn`` with all that is below it, and the real ``Heart``; only disk, clock
and processes are doubles. Every call of every node, of its heart, of its guard and of its keepers
is a switch point (``greenlet``), and takes a random time in which the others go on. The plan of a
seed (``Plan``) says how many nodes, which jobs, which kind of file system, and what goes wrong
when. Then everything is set right again, and the cluster must come to rest.

What must hold is watched at every change of a name and once more at rest
(``Cluster.verify``). The same seed does the same under the same PYTHONHASHSEED: ``seeds.py``.
"""

from __future__ import annotations

import errno
import random
import re
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from unittest import mock

import msgspec

from doubles import Inode, Keeper, Process, Script
from machines import (
    ARCHIVE,
    BEGINNING,
    OWNERS,
    ROOT,
    UUID,
    Box,
    Job,
    Node,
    Processes,
    Server,
    ServerClock,
    Sim,
    number_of,
)
from mounts import KINDS, Actor, Changed, Kind, Odds, SharedDisk
from pmjq import claims, node
from pmjq.errors import PmjqError
from pmjq.job import Record
from pmjq.jobs import Look
from pmjq.naming import SUBMITTED
from pmjq.packing import Capacity
from pmjq.spool import Spool
from pmjq.state import State
from pmjq.steering import Steering
from pmjq.turn import Turn

OWN = f"{ROOT}/.pmjq"

STRANGE = {
    f"{ROOT}/README": b"what people put here",
    f"{ROOT}/.hidden": b"\0\1",
    f"{ROOT}/data/table.csv": b"1,2\n",
    f"{OWN}/NOTES": b"who wrote this?",
    f"{OWN}/ended/strange": b"ended",
    f"{OWN}/job/strange": b"job",
    f"{OWN}/node/README": b"node",
    f"{OWN}/events/strange.txt": b"{not json\n",
    f"{OWN}/done/strange.json": b"{}",
    f"{OWN}/tmp/strange": b"tmp",
}
"""Files that are not pmjq's, which nobody may touch."""

STEPS = 120_000
"""Operations of one seed at most: a cluster that does not come to rest is broken."""

PATIENCE = 4000.0
"""Seconds in which a cluster comes to rest after everything was set right."""


# -- what a seed decides


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something that goes wrong at some time, with a node or its machine, for a while."""

    at: float
    what: str
    node: int
    seconds: float


TROUBLES = (
    "daemon killed",
    "daemon killed",
    "keeper killed",
    "machine rebooted",
    "daemon frozen",
    "daemon frozen",
    "machine frozen",
    "mount hung",
    "cut off",
    "unmounted",
    "read-only",
    "disk full",
    "clock set",
)

ERRORS = (errno.EIO, errno.ETIMEDOUT, errno.EACCES, errno.ESTALE)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a seed decides at once; all the rest follows from its random numbers."""

    kind: Kind
    lease: float
    poll: float | None
    slots: tuple[int, ...]
    together: bool
    jobs: tuple[Job, ...]
    odds: Odds
    troubles: tuple[Trouble, ...]
    seconds: float
    capacities: tuple[Capacity, ...] = ()

    @property
    def calm(self) -> bool:
        """Tell whether nothing goes wrong."""
        return not self.troubles and not self.odds.any

    def __str__(self) -> str:
        where = "one machine" if self.together else "a machine each"
        jobs = ", ".join(
            f"{job.name}{'r' * job.restartable}{'s' * job.stubborn}{'t' * job.retries}"
            f" {job.script.seconds:g} s"
            + f" of {job.limit:g} s" * (job.limit > 0)
            + f" of {job.owner}" * (job.owner != OWNERS[0])
            + f" cpus {job.cpus}" * (job.cpus > 0)
            + f" memory {job.memory}" * (job.memory > 0)
            + f" priority {job.priority}" * (job.priority != 0)
            for job in self.jobs
        )
        nodes = f"{len(self.slots)} nodes with slots {self.slots}, {where}, {self.kind.name}"
        lines = [
            f"{nodes}, lease {self.lease:g} s, poll {self.poll}, {self.odds}",
            f"jobs: {jobs}",
            *(
                f"{each.at:9.3f} s: {each.what}, node {'abcdefgh'[each.node]}, {each.seconds:g} s"
                for each in self.troubles
            ),
        ]
        return "\n".join(lines)


def planned(rng: random.Random, troubles_from: tuple[str, ...] = TROUBLES) -> Plan:
    """Return the plan of a seed, with troubles of some kinds only."""
    kind = rng.choice(KINDS)
    lease = rng.choice((4.0, 10.0, 10.0, 30.0, 120.0))
    nodes = rng.randint(2, 5)
    seconds = rng.uniform(5.0, 30.0 + 2 * lease)
    calm = rng.random() < 0.08
    odds = Odds(
        fails=rng.choice((0.0, 0.0, 0.002, 0.02)),
        lost=rng.choice((0.0, 0.002, 0.01, 0.03)),
        slow=rng.choice((0.0, 0.0, 0.003)),
        kills=rng.choice((0.0, 0.0, 0.001, 0.004)),
    )
    troubles = [
        Trouble(
            rng.uniform(0.0, seconds),
            rng.choice(troubles_from),
            rng.randrange(nodes),
            round(lease * rng.choice((0.01, 0.3, 0.8, 1.1, 1.5, 2.5)) * rng.uniform(0.9, 1.1), 3),
        )
        for _ in range(rng.choice((0, 1, 2, 3, 5)))
    ]
    return asking(
        Plan(
            kind,
            lease,
            rng.choice((None, None, None, 0.3, 2.0)),
            tuple(rng.choice((1, 1, 2, 4)) for _ in range(nodes)),
            together=kind.local,
            jobs=tuple(
                _a_job(rng, number, seconds, lease) for number in range(1, rng.randint(3, 13))
            ),
            odds=Odds() if calm else odds,
            troubles=() if calm else tuple(sorted(troubles, key=lambda each: each.at)),
            seconds=seconds,
        )
    )


def asking(plan: Plan) -> Plan:
    """Return a plan with several owners and with jobs that ask for something.

    By random numbers of its own, so that what goes wrong when does not depend on it. No job asks
    for more than each node has: any of them may be the last one that lives.
    """
    rng = random.Random(plan.seconds)
    capacities = tuple(Capacity(slots + rng.choice((0, 1, 2)), 1000) for slots in plan.slots)
    least = min(capacity.cpus or 1 for capacity in capacities)
    owners = OWNERS[: rng.randint(1, len(OWNERS))]
    for job in plan.jobs:
        job.owner = rng.choice(owners)
        if rng.random() < 0.3:
            job.cpus = rng.randint(1, least)
        if rng.random() < 0.2:
            job.memory = rng.choice((1, 300, 600, 1000))
        if rng.random() < 0.2:
            job.priority = rng.choice((-5, 1, 1, 7))
    return replace(plan, capacities=capacities)


def _a_job(rng: random.Random, number: int, seconds: float, lease: float) -> Job:
    lasts = rng.choice((0.0, 0.01, 0.2, 2.0, lease * 0.5, lease * 1.2, lease * 2.0))
    script = Script(
        seconds=round(lasts * rng.uniform(0.5, 1.0), 3),
        code=rng.choice((0, 0, 0, 3)),
        leaves=("left",) if rng.random() < 0.2 else (),
    )
    at = rng.uniform(0.0, seconds) if rng.random() < 0.5 else rng.uniform(0.0, 0.5)
    owner = rng.random()
    return Job(
        number,
        script,
        rng.random() < 0.5,
        at,
        stubborn=rng.random() < 0.2,
        withdrawn_at=rng.uniform(0.0, 2 * lease) if owner < 0.05 else 0.0,
        held_at=rng.uniform(0.0, lease) if owner > 0.95 else 0.0,
        retries=rng.choice((1, 2, 3)) if rng.random() < 0.3 else 0,
        limit=_a_limit(rng, script) if rng.random() < 0.2 else 0.0,
        # Half of them about when it is claimed, or ends.
        cancelled_at=rng.uniform(0.001, rng.choice((0.6, 1.5 * lease)))
        if 0.5 < owner < 0.65
        else 0.0,
    )


def _a_limit(rng: random.Random, script: Script) -> float:
    """Return how long a job may run: half of what it takes, or more than enough."""
    return round(max(0.1, script.seconds * rng.choice((0.5, 2.0))), 2)


# -- the cluster


@dataclass(slots=True)
class Beaten:
    """The beats of one life that got through: the last, and the longest pause between two."""

    name: str
    box: Box
    last: float
    longest: float = 0.0


class Cluster:
    """All of it: the disk, the machines, the nodes, the jobs, and what must hold."""

    def __init__(
        self, seed: int, *, history: bool = False, troubles: tuple[str, ...] = TROUBLES
    ) -> None:
        self.seed = seed
        self.sim = Sim(seed, history=history)
        self.sim.beats = self._beaten
        self.plan = self._plan(troubles)
        self.clock = ServerClock(self.sim)
        self.disk = SharedDisk(self.clock)
        self.disk.leases = self.plan.kind.local
        self.jobs = {job.number: job for job in self.plan.jobs}
        self.turns: list[Turn] = []
        self.lives: dict[str, Beaten] = {}
        self.excused: dict[str, float] = {}
        self.buried: set[str] = set()
        self.taken_over = 0
        self.beside = 0
        self.calmed = False
        self._by_inode: dict[int, Job] = {}
        self._processes: dict[tuple[str, int, int], Job] = {}
        self._runs_for: dict[tuple[str, int, int], str] = {}
        self._roles: dict[int, tuple[str, str]] = {}
        self._records: dict[int, set[str]] = {}
        self.nodes = self._nodes()

    def _plan(self, troubles: tuple[str, ...]) -> Plan:
        return planned(self.sim.rng, troubles)

    def _nodes(self) -> list[Node]:
        rng, plan = self.sim.rng, self.plan
        boxes: list[Box] = []
        nodes: list[Node] = []
        for number, slots in enumerate(plan.slots):
            name = "abcdefgh"[number]
            if not boxes or not plan.together:
                box = Box(self, name, 1.0 if plan.together else rng.uniform(0.995, 1.005))
                if not plan.together:
                    box.times.skew = rng.uniform(-300.0, 300.0)
                boxes.append(box)
            nodes.append(Node(name, boxes[-1], slots, plan.capacities[number]))
        return nodes

    # -- one seed

    def run(self) -> list[str]:
        """Play the seed; return what is wrong."""
        sim = self.sim
        # Ids decide in which order jobs are looked at.
        with mock.patch.object(claims, "uuid", Uuids(sim.rng)):
            try:
                self._play()
            finally:
                sim.close()
        return sim.broken

    def _play(self) -> None:
        sim = self.sim
        self._begin()
        sim.run(sim.now + self.plan.seconds)
        if not sim.broken:
            self._calm()
            self._rest()
        if not sim.broken and any(self._left_over()):
            # What could not be cleared away goes at the next start.
            self._start_all_again()
            self._rest()
        if not sim.broken:
            for wrong in self.verify():
                sim.fail(wrong)

    def _begin(self) -> None:
        sim, disk = self.sim, self.disk
        for path, data in STRANGE.items():
            if not path.startswith(OWN):
                disk.tree(path.rpartition("/")[0])
                disk.put(path, data, 0o644)
        disk.tree(ARCHIVE)
        self._assign(disk._find(ROOT), ("spool", ""))
        self._assign(disk._find(ARCHIVE), ("archive", ""))
        disk.changed = self._changed
        # The spool's own tree is there before: who makes it is another test's question.
        spool = Spool(disk, ROOT)
        spool.prepare(UUID)
        for path, data in STRANGE.items():
            if path.startswith(OWN):
                disk.put(path, data, 0o644)
        for each in self.nodes:
            sim.later(sim.now + sim.rng.uniform(0.0, 1.0), partial(self.start, each))
        for job in self.jobs.values():
            sim.later(sim.now + job.at, partial(self._submit, job))
        for trouble in self.plan.troubles:
            sim.later(sim.now + trouble.at, partial(self._strike, trouble))
        sim.odds = self.plan.odds

    def start(self, each: Node) -> None:
        """Start the daemon of a node, if it does not run."""
        if each.server is None and not self.sim.over:
            self.sim.note(f"{each.name}: starts")
            each.server = Server(self, each)

    def start_again(self, each: Node) -> None:
        """Have a node's daemon started again: soon, after its lease, or only in the end."""
        sim = self.sim
        pause = 1.0 if self.calmed else sim.rng.choice((0.05, 1.0, 5.0, 1.5 * self.plan.lease, 1e9))
        if pause < 1e9:
            sim.later(sim.now + pause, lambda: self.start(each))

    def _submit(self, job: Job) -> None:
        disk, sim = self.disk, self.sim
        hidden = f"{ROOT}/.{job.name}.tmp"
        try:
            disk.put(hidden, job.content)
            disk._find(hidden).uid = job.owner
        except OSError:
            sim.later(sim.now + 1.0, lambda: self._submit(job))
            return
        sim.later(sim.now + 0.01, lambda: self._move_in(job, hidden))

    def _move_in(self, job: Job, hidden: str) -> None:
        self._by_inode[self.disk._find(hidden).number] = job
        job.submitted, job.submitted_at = True, self.sim.now
        self.disk.rename(hidden, f"{ROOT}/{job.name}")
        self.sim.note(f"{job.name} is submitted")
        if job.withdrawn_at:
            self.sim.later(self.sim.now + job.withdrawn_at, lambda: self._withdraw(job))
        if job.held_at:
            self.sim.later(self.sim.now + job.held_at, lambda: self._hold(job))
        if job.cancelled_at:
            box = self.sim.rng.choice(self.nodes).box
            person = Actor(f"somebody on {box.name}")
            self.sim.spawn(person, partial(self._cancel, job, box), job.cancelled_at)
        for each in self.nodes if self.plan.kind.local else (self.sim.rng.choice(self.nodes),):
            # Where it was submitted, the kernel tells of it.
            if each.server is not None and each.server.turn is not None:
                each.server.turn.nudge(job.name)
                each.server.nudge()

    def _withdraw(self, job: Job) -> None:
        """Have the owner remove the job, if it is still in the spool."""
        if self.disk.inode(f"{ROOT}/{job.name}") is not None:
            job.withdrawn = True
            self.disk.unlink(f"{ROOT}/{job.name}")
            self.sim.note(f"{job.name} is withdrawn")

    def _cancel(self, job: Job, box: Box) -> None:
        """Have somebody cancel the job, wherever it is, and try again where that cannot be told."""
        sim = self.sim
        while not job.withdrawn:
            look = Look(Spool(box.mount, ROOT), [], str, box.times.wall())
            steering = Steering(
                look, "somebody", lambda: str(Uuids(sim.rng).uuid4()), box.times.wall
            )
            try:
                found = look.found(job.name)
                said = steering.cancel(found[0]) if found else None
            except (OSError, PmjqError) as error:
                sim.note(f"{job.name} cannot be cancelled: {error}")
            else:
                if said is None:
                    # Nowhere: it is just being moved, or an old view is all there is.
                    sim.note(f"{job.name} is not to be found")
                else:
                    sim.note(f"{job.name} is to be cancelled: {said.text}")
                    job.cancelled = job.cancelled or said.text == "cancelled"
                    job.asked = job.asked or said.done
                    sim.faults["cancelled"] += job.cancelled
                    sim.faults["asked to be cancelled"] += said.done and not job.cancelled
                    return
            sim.sleep(sim.now + 2.0)

    def _hold(self, job: Job) -> None:
        """Have the owner hold the job for a while, if it is still in the spool."""
        inode = self.disk.inode(f"{ROOT}/{job.name}")
        if inode is None:
            return

        def change(mode: int) -> None:
            inode.mode = inode.mode & ~0o777 | mode
            inode.ctime = self.disk._at()

        change(0o644)
        self.sim.note(f"{job.name} is held")
        self.sim.later(self.sim.now + 2.0, lambda: change(0o755))

    # -- troubles

    def _strike(self, trouble: Trouble) -> None:
        sim, each = self.sim, self.nodes[trouble.node]
        box, mount, until = each.box, each.box.mount, sim.now + trouble.seconds
        if self.calmed:
            return
        sim.faults[trouble.what] += 1
        sim.note(f"{each.name}: {trouble.what} for {trouble.seconds:g} s")
        match trouble.what:
            case "daemon killed" if each.server is not None:
                each.server.die()
            case "keeper killed":
                living = [keeper for keeper in box.keepers if box._lives(keeper)]
                if living:
                    self._kill_keeper(box, sim.rng.choice(living))
            case "machine rebooted":
                box.restart()
                for other in self.nodes:
                    if other.box is box:
                        self.start_again(other)
            case "daemon frozen" if each.server is not None:
                each.server.frozen = until
                self.excused[each.name] = until
            case "machine frozen":
                box.freeze(trouble.seconds)
                for other in self.nodes:
                    if other.box is box:
                        self.excused[other.name] = until
            case "mount hung":
                mount.hung = max(mount.hung, until)
            case "cut off":
                mount.outage = sim.rng.choice(ERRORS)
                sim.later(until, lambda: setattr(mount, "outage", 0))
            case "unmounted":
                mount.gone = True
                mount.forget_all()
                sim.later(until, mount.come_back)
            case "read-only":
                mount.read_only = True
                sim.later(until, lambda: setattr(mount, "read_only", False))
            case "disk full":
                self.disk.full.add(1)
                sim.later(until, self.disk.full.clear)
            case "clock set":
                skew = sim.rng.uniform(-4000.0, 4000.0)
                box.times.skew += skew
                if self.plan.together:
                    self.clock.skew += skew

    def _kill_keeper(self, box: Box, keeper: Keeper) -> None:
        daemon = keeper.daemon
        box.lose_keeper(keeper)
        if isinstance(daemon, Processes):
            daemon.server.nudge()

    def _calm(self) -> None:
        """Set everything right."""
        sim = self.sim
        sim.note("everything is set right")
        self.calmed = True
        sim.odds = Odds()
        self.disk.full.clear()
        for each in self.nodes:
            mount = each.box.mount
            mount.hung, mount.outage, mount.read_only = 0.0, 0, False
            if mount.gone:
                mount.come_back()
        stay_away = {each.name for each in self.nodes if sim.rng.random() < 0.3}
        running = {each.name for each in self.nodes if each.server is not None}
        for number, each in enumerate(self.nodes):
            if each.name not in stay_away or (number == 0 and not running):
                sim.later(sim.now + sim.rng.uniform(0.0, 3.0), partial(self.start, each))

    def _start_all_again(self) -> None:
        self.sim.note("all are started again")
        for each in self.nodes:
            if each.server is not None:
                each.server.end()
            self.sim.later(self.sim.now + 0.1, partial(self.start, each))

    def _rest(self) -> None:
        """Let everything go on until nothing is left to do."""
        sim = self.sim
        end = sim.now + PATIENCE
        sim.run(sim.now + 3.0)
        while not sim.broken and (what := self.unrest()):
            if sim.steps > STEPS or sim.now > end:
                sim.fail(f"does not come to rest: {what}")
                return
            sim.run(sim.now + 3.0)
        # What comes late comes now.
        lost = any("/late." in path for path in self.disk.paths(f"{OWN}/job"))
        sim.run(sim.now + self.plan.lease / 4 + (25.0 if lost else 5.0))

    def unrest(self) -> str:
        """Return what there is still to do."""
        for job in self.jobs.values():
            if not job.submitted:
                return f"{job.name} is not submitted"
            if job.withdrawn:
                continue
            if job.number not in self._records:
                return f"{job.name} has no record, it is at {self.where(job)}"
            if not self._filed(job):
                return f"{job.name} is not filed, it is at {self.where(job)}"
        if self._processes:
            return f"{len(self._processes)} jobs run"
        lives = set(self.disk.names(f"{OWN}/node")) & self.lives.keys()
        living: set[str] = set()
        for each in self.nodes:
            server = each.server
            if server is None:
                continue
            if server.turn is None or server.fenced or not server.began:
                return f"{each.name} begins"
            living.add(server.turn.spool.token)
            if not server.turn.quiet():
                return f"{each.name} is not quiet"
        if lives != living:
            return f"dead lives are not buried: {sorted(lives - living)}"
        return ""

    def where(self, job: Job) -> str:
        """Return the places of a job."""
        roles = [self._roles.get(directory, ("?", "")) for directory, _ in job.places]
        return ", ".join(" ".join(role).strip() for role in roles) or "no place"

    # -- what is told by those who do it

    def begun(self, token: str, server: Server) -> None:
        """Take note of a new life."""
        self.lives[token] = Beaten(server.name, server.box, self.sim.now)
        self.sim.note(f"{server.name}: begins life {token}")

    def ended(self, server: Server) -> None:
        """Take note that a daemon is gone."""
        self.excused[server.name] = self.sim.now

    def _beaten(self, path: str) -> None:
        life = self.lives.get(path.split("/")[-2])
        if life is not None:
            life.longest = max(life.longest, self.sim.now - life.last)
            life.last = self.sim.now

    def job_of(self, inode: Inode) -> Job | None:
        """Return which job a file is."""
        job = self._by_inode.get(inode.number)
        return job or self.jobs.get(number_of(inode.data) or -1)

    def job_begun(self, job: Job, process: Process, box: Box) -> None:
        """Check whether a job may be executed now."""
        sim = self.sim
        sim.note(f"{box.name}: {job.name} is executed as {process.pid}")
        job.executions += 1
        if job.cancelled:
            sim.fail(f"{job.name} is executed, and was cancelled before")
        # Only after an end that was a failure is it tried again; how often that was, nobody can
        # know for sure where both listings and names are old.
        blind = self.plan.kind.listing and self.plan.kind.negative
        most = job.ended if blind else min(job.retries, job.ended)
        if not job.restartable and job.executions > 1 + most:
            sim.fail(f"{job.name} is executed for the {job.executions}. time")
        for began in job.running.values():
            if job.taken < began:
                sim.fail(f"{job.name} is executed twice at once, and was not taken over")
            elif job.unexcused:
                sim.fail(f"{job.name} is executed twice at once: {job.unexcused}")
            else:
                self.beside += 1
        key = box.name, box.boots, process.pid
        self._processes[key] = job
        self._runs_for[key] = box.node_of.get(process.keeper.pid, "")
        job.running[box.name, process.pid] = sim.now
        self._must_fit(self._runs_for[key])

    def job_ended(self, process: Process, box: Box) -> None:
        """Take note that a job's process is gone."""
        key = box.name, box.boots, process.pid
        job = self._processes.pop(key, None)
        self._runs_for.pop(key, None)
        if job is not None:
            self.sim.note(f"{box.name}: {job.name} as {process.pid} is over")
            job.running.pop((box.name, process.pid), None)

    # -- what must hold at any time

    def runs_for(self, name: str) -> list[Job]:
        """Return what runs for a node, but for what another node has taken over meanwhile."""
        return [
            job
            for key, job in self._processes.items()
            if self._runs_for[key] == name and job.taken < job.running.get((key[0], key[2]), 0.0)
        ]

    def _must_fit(self, name: str) -> None:
        """Check that what runs for a node does not ask for more than it has."""
        node = next((each for each in self.nodes if each.name == name), None)
        if node is None:
            return
        here = self.runs_for(name)
        cpus, memory = sum(job.cpus or 1 for job in here), sum(job.memory for job in here)
        if len(here) > node.slots:
            self.sim.fail(f"{name} has {node.slots} slots and runs {len(here)} jobs")
        if cpus > (node.capacity.cpus or cpus) or memory > (node.capacity.memory or memory):
            self.sim.fail(f"{name} is over-committed: {cpus} CPUs and {memory} of {node.capacity}")

    def _assign(self, directory: Inode, role: tuple[str, str]) -> None:
        self._roles[directory.number] = role
        for name, child in (directory.children or {}).items():
            if child.children is not None and (below := _role(role, name)):
                self._assign(child, below)

    def _changed(self, changes: list[Changed]) -> None:
        touched: dict[int, Job] = {}
        left = came = ""
        for directory, name, old, new in changes:
            role = self._roles.get(directory.number)
            if role is None:
                continue
            if new is not None and new.children is not None and (below := _role(role, name)):
                self._assign(new, below)
            if role[0] not in ("spool", "run", "ended", "archive"):
                continue
            if old is not None and (job := self._by_inode.get(old.number)):
                job.places.discard((directory.number, name))
                touched[job.number] = job
                left = role[1]
            if new is not None and (job := self._by_inode.get(new.number)):
                job.places.add((directory.number, name))
                touched[job.number] = job
                came = role[1]
            if role[0] == "archive" and new is not None and not name.startswith("."):
                self._recorded(name)
        for job in touched.values():
            if len(job.places) != (not job.withdrawn):
                self.sim.fail(f"{job.name} is in {len(job.places)} places: {self.where(job)}")
            if left and came and left != came:
                self._taken_over(job, left, came)

    def _recorded(self, name: str) -> None:
        found = re.search(r"-job(\d+)(?:\.\d+)*\.json$", name)
        if found:
            names = self._records.setdefault(int(found[1]), set())
            names.add(name)
            if len(names) > 1:
                self.sim.fail(f"job{found[1]} has two records: {sorted(names)}")

    def _taken_over(self, job: Job, left: str, came: str) -> None:
        life = self.lives.get(left)
        if life is None or life.name == node.name_of(came):
            return
        sim = self.sim
        silent = max(life.longest, sim.now - life.last)
        sim.note(f"{job.name} is taken over from {left} by {came} after {silent:g} s of silence")
        job.taken = sim.now
        # One that was silent for the first time, neither frozen nor dead, had time to stop it.
        if life.longest < self.plan.lease and self.excused.get(life.name, 0.0) < life.last:
            job.unexcused = f"{life.name} was cut off, but not stopped"
        else:
            job.unexcused = ""
        self.taken_over += 1
        self.buried.add(left)
        late = 1.0 if self.plan.kind.content else 0.0
        if silent < 0.98 * self.plan.lease - late:
            sim.fail(f"{job.name} is taken over from {left}, which was silent for {silent:g} s")

    def _filed(self, job: Job) -> bool:
        return [self._roles.get(directory) for directory, _ in job.places] == [("archive", "")]

    # -- what must hold at rest

    def verify(self) -> Iterator[str]:
        """Tell what is wrong in the end."""
        disk = self.disk
        for path, data in STRANGE.items():
            inode = disk.inode(path)
            if inode is None or inode.data != data:
                yield f"{path}: {'gone' if inode is None else inode.data!r}, is not pmjq's"
        for job in self.jobs.values():
            if not job.withdrawn:
                yield from self._verified(job)
            elif job.number in self._records:
                yield f"{job.name} was withdrawn and has a record"
        yield from self._left_over()

    def _verified(self, job: Job) -> Iterator[str]:
        name = next(iter(self._records[job.number]))
        try:
            record = msgspec.json.decode(self.disk.read(f"{ARCHIVE}/{name}") or b"", type=Record)
        except msgspec.DecodeError as error:
            yield f"{name} cannot be read: {error}"
            return
        inode = self.disk.inode(f"{ARCHIVE}/{record.stem}")
        if f"{record.stem}.json" != name or inode is None or inode.data != job.content:
            yield f"{name} does not belong to a file that is {job.name}"
        right = State.FAILED if job.script.code else State.DONE
        over = record.state is State.FAILED and record.reason.startswith("ended, since its time")
        self.sim.faults["ended, since their time was over"] += over
        if over and job.limit:
            right = State.FAILED
        may = {right} if self.plan.calm else {right, State.LOST}
        if job.cancelled:
            may = {State.CANCELLED}
        elif job.cancelled_at:
            may.add(State.CANCELLED)
        if record.state not in may:
            yield f"{job.name} is recorded as {record.state}: {record.reason}"
        if record.state is State.FAILED and not job.asked:
            tries = sum(one.state == State.FAILED for one in record.earlier)
            if tries != job.retries and not (self.plan.kind.listing and self.plan.kind.negative):
                yield f"{job.name} was tried again {tries} times, not {job.retries}"
        numbers = [one.attempt for one in record.earlier]
        if not job.cancelled and numbers != [*range(1, record.attempt)][-len(numbers) :]:
            yield f"{job.name} has attempts {numbers} before {record.attempt}"
        # Within a second it may end before it is looked at; and a stubborn one within its grace.
        early = over and job.limit >= job.script.seconds
        late = not over and not job.stubborn and 0 < job.limit < job.script.seconds - 1.0
        if self.plan.calm and not job.cancelled_at and (early or late):
            yield f"{job.name} had {job.limit:g} s and took {job.script.seconds:g}: {record.reason}"
        codes = {job.script.code, None} if over else {job.script.code}
        if record.state is right and (not job.ended or record.exit_code not in codes):
            yield f"{job.name} is recorded as {record.state}, and ended {job.ended} times"

    def _left_over(self) -> Iterator[str]:
        disk = self.disk
        for place in ("ended", "tmp"):
            for name in disk.names(f"{OWN}/{place}"):
                if name == "strange" or name.startswith(SUBMITTED):
                    # What a person's command could not remove goes after an hour.
                    continue
                if not any(name.startswith(f"{life}.") for life in self.lives):
                    yield f"{place}/{name} is left over"
        living = {each.name for each in self.nodes if each.server is not None}
        for job_id in disk.names(f"{OWN}/job"):
            base = f"{OWN}/job/{job_id}"
            if base in STRANGE:
                continue
            names = disk.names(base)
            records = [json(disk.read(f"{base}/{name}")) for name in names if "record" in name]
            if any(record.get("node") == "" for record in records):
                continue
            note = next((name for name in names if name.startswith("late.")), "")
            if not note:
                # What a reboot tore before the claim goes when a node starts alone.
                if not any(json(disk.read(f"{base}/{name}")) for name in names if "claim" in name):
                    continue
                yield f"the paperwork of {job_id} is left over: {names}"
            elif json(disk.read(f"{base}/{note}")).get("node") in living and any(
                b"\nexit " in (disk.read(f"{base}/{name}") or b"")
                for name in names
                if name.startswith("status.") and not _is_link(disk, f"{base}/{name}")
            ):
                yield f"the record of {job_id}, which has ended, is not completed"
        for name in disk.names(ROOT):
            if name.startswith("job"):
                yield f"{name} is left in the spool"


def _role(above: tuple[str, str], name: str) -> tuple[str, str] | None:
    """Return what a directory is for, by what the one above is for."""
    match above[0]:
        case "spool" if name == ".pmjq":
            return ("own", "")
        case "own" if name in ("node", "ended"):
            return (name, "")
        case "node":
            return ("life", name)
        case "life" if name == "run":
            return ("run", above[1])
    return None


def _is_link(disk: SharedDisk, path: str) -> bool:
    inode = disk.inode(path)
    return inode is not None and bool(inode.target)


def json(text: bytes | None) -> dict[str, object]:
    """Return an object that a file holds."""
    try:
        return msgspec.json.decode(text or b"", type=dict[str, object])
    except msgspec.DecodeError:
        return {}


class Uuids:
    """In the place of the module ``uuid``: ids that the seed decides."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def uuid4(self) -> uuid.UUID:
        """Return an id."""
        return uuid.UUID(int=self._rng.getrandbits(128), version=4)


# -- many seeds


@dataclass(slots=True)
class Figures:
    """What a number of seeds came to."""

    seeds: int = 0
    nodes: int = 0
    steps: int = 0
    seconds: float = 0.0
    jobs: int = 0
    executions: int = 0
    won: int = 0
    contended: int = 0
    lives: int = 0
    taken_over: int = 0
    beside: int = 0
    lost: int = 0
    late: int = 0
    faults: Counter[str] = field(default_factory=Counter)

    def add(self, other: Figures) -> None:
        """Add those of other seeds."""
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def __str__(self) -> str:
        faults = ", ".join(f"{name} {count}" for name, count in sorted(self.faults.items()))
        return (
            f"{self.seeds} seeds, {self.nodes} nodes, {self.steps} operations, "
            f"{self.seconds / 3600:.1f} h of their time\n"
            f"  {self.jobs} jobs, {self.executions} executions, {self.taken_over} taken over, "
            f"{self.beside} executed beside a lost node, "
            f"{self.lost} lost, {self.late} of them ended late; {self.lives} lives; "
            f"{self.contended / max(1, self.won):.3f} claims lost per won one "
            f"({self.contended} of {self.won})\n"
            f"  faults: {faults}"
        )


def played(
    seed: int, *, history: bool = False, troubles: tuple[str, ...] = TROUBLES
) -> tuple[Cluster, Figures]:
    """Play one seed; return the cluster as it is then, and the figures."""
    cluster = Cluster(seed, history=history, troubles=troubles)
    cluster.run()
    sim = cluster.sim
    states = [
        cluster.disk.read(f"{ARCHIVE}/{name}") or b""
        for names in cluster._records.values()
        for name in names
    ]
    figures = Figures(
        seeds=1,
        nodes=len(cluster.nodes),
        steps=sim.steps,
        seconds=sim.now - BEGINNING,
        jobs=len(cluster.jobs),
        executions=sum(job.executions for job in cluster.jobs.values()),
        won=sum(turn.desk.won for turn in cluster.turns),
        contended=sum(turn.desk.contended for turn in cluster.turns),
        lives=len(cluster.lives),
        taken_over=cluster.taken_over,
        beside=cluster.beside,
        lost=sum(b'"state":"lost"' in text for text in states),
        late=sum(b'"late":true' in text for text in states),
        faults=Counter(sim.faults),
    )
    return cluster, figures


def shown(seed: int) -> str:
    """Return what one seed did, and what is wrong with it."""
    cluster, figures = played(seed, history=True)
    return "\n".join(
        [
            f"seed {seed}: {cluster.plan}",
            *(cluster.sim.history or ()),
            str(figures),
            *(cluster.sim.broken or ["nothing is wrong"]),
            f"again: PYTHONHASHSEED=0 python tests/seeds.py --seeds 1 --first {seed} --show",
        ]
    )
