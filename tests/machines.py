"""Machines in a simulation: time, threads of control, keepers with their jobs, and daemons.

``Sim`` is time and who goes next. Each daemon has three threads of control (its turns, its heart,
its guard), each keeper one for whatever it does; all of them are greenlets. Every call of a
``Mount`` gives the others a chance, and nothing else does. A ``Server`` does what
``pmjq.daemon.Daemon`` does, with the real ``Turn`` and the real ``Heart``; a ``Box`` does what
``pmjq.keeper`` does.
"""

from __future__ import annotations

import errno
import heapq
import itertools
import random
import re
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import greenlet
import msgspec

from doubles import (
    UID,
    Clock,
    Crash,
    FakeProcesses,
    Inode,
    Keeper,
    Lines,
    Process,
    Script,
    World,
    life_of,
    reading,
)
from mounts import Actor, Mount, Odds
from pmjq.daemon import AGAIN, LISTEN
from pmjq.disk import GONE
from pmjq.errors import PmjqError
from pmjq.gates import Limits
from pmjq.job import Usage
from pmjq.lease import KEEPING, Heart
from pmjq.lives import GUARDS, Ground, Lives
from pmjq.node import Machine
from pmjq.outside import Settings
from pmjq.packing import Capacity
from pmjq.process import Ended, Order, Report, Started, Unstarted, Vanished
from pmjq.ready import Rules
from pmjq.turn import Turn

if TYPE_CHECKING:
    from cluster import Cluster

ROOT = "/srv/spool"
ARCHIVE = "/srv/archive"
PAPERWORK = f"{ROOT}/.pmjq/job"
UUID = "0b0e7d1e-0000-4000-8000-000000000000"

OWNERS = (UID, UID + 1, UID + 2)
"""Whose jobs there are."""

BEGINNING = 1000.0
"""When a simulation begins."""

AHEAD = 1.7e9
"""What the time of day is ahead of the time of the simulation."""

SPINS = 200
"""Turns in a row that may ask for another at once."""


# -- the scheduler


class Task:
    """One thread of control, and when it goes on."""

    __slots__ = ("actor", "greenlet", "number")

    def __init__(self, actor: Actor, run: greenlet.greenlet) -> None:
        self.actor = actor
        self.greenlet = run
        self.number = -1


class Sim:
    """Time, and who goes next: whoever's time has come, and a random delay decides that."""

    def __init__(self, seed: int, *, history: bool = False) -> None:
        self.rng = random.Random(seed)
        self.now = BEGINNING
        self.steps = 0
        self.odds = Odds()
        self.faults: Counter[str] = Counter()
        self.broken: list[str] = []
        self.history: list[str] | None = [] if history else None
        self.over = False
        self.beats: Callable[[str], object] = str
        self._due: list[tuple[float, int, Task | Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._end = 0.0
        self._tasks: set[Task] = set()
        self._task: Task | None = None
        self._hub = greenlet.getcurrent()

    @property
    def actor(self) -> Actor:
        if self._task is None:
            raise AssertionError("nobody is at work")
        return self._task.actor

    def spawn(self, actor: Actor, call: Callable[[], None], delay: float = 0.0) -> Task:
        """Begin a thread of control."""

        def run() -> None:
            try:
                call()
            except Crash:
                pass
            except Exception as error:  # noqa: BLE001  # whatever it is, it is a finding
                self.fail(f"{actor.name}: {type(error).__name__}: {error}", error)
            self._tasks.discard(task)

        task = Task(actor, greenlet.greenlet(run, self._hub))
        self._tasks.add(task)
        self._push(self.now + delay, task)
        return task

    def fail(self, what: str, error: BaseException | None = None) -> None:
        """Take note that something is wrong."""
        if error is not None and self.history is not None:
            what += "\n" + "".join(traceback.format_exception(error))
        self.broken.append(f"{self.now - BEGINNING:.4f} s: {what}")
        self.note(f"BROKEN: {what}")

    def later(self, at: float, call: Callable[[], None]) -> None:
        heapq.heappush(self._due, (at, next(self._numbers), call))

    def wake(self, task: Task, at: float) -> None:
        """Let a thread that sleeps go on earlier."""
        self._push(max(self.now, at), task)

    def sleep(self, until: float) -> None:
        task = self._task
        if task is None:
            raise AssertionError("nobody is at work")
        self._must_live(task)
        frozen = task.actor.stopped()
        due = self._due
        if frozen <= self.now and until <= self._end and (not due or due[0][0] > until):
            if self.broken:
                self._push(until, task)
                self._hub.switch()
            self.now = max(self.now, until)
        else:
            self._push(max(until, frozen), task)
            self._hub.switch()
        self._must_live(task)

    def _must_live(self, task: Task) -> None:
        if task.actor.dead or self.over:
            raise Crash

    def beaten(self, path: str) -> None:
        self.beats(path)

    def tell(self, operation: str, paths: tuple[str, ...], how: str) -> None:
        if self.history is not None and (how or operation not in ("names", "stat", "read")):
            shown = " -> ".join(path.removeprefix(f"{ROOT}/") for path in paths)
            self.note(f"{self.actor.name if self._task else ''}: {operation} {shown} {how}")

    def note(self, text: str) -> None:
        """Write something down, if anybody wants to read it."""
        if self.history is not None:
            self.history.append(f"{self.now - BEGINNING:11.4f} {text}")

    def run(self, until: float) -> None:
        """Let everything happen up to some time, or until something is wrong."""
        self._end = until
        due = self._due
        while due and due[0][0] <= until and not self.broken:
            at, number, what = heapq.heappop(due)
            self.now = max(self.now, at)
            if not isinstance(what, Task):
                what()
            elif number == what.number:
                if what.actor.stopped() > self.now and not what.actor.dead:
                    self._push(what.actor.stopped(), what)
                else:
                    self._resume(what)
        if not self.broken:
            self.now = max(self.now, until)

    def close(self) -> None:
        """Unwind what still goes on."""
        self.over = True
        for task in list(self._tasks):
            self._task = task
            if task.greenlet:
                task.greenlet.throw(Crash)
        self._task = None

    def _resume(self, task: Task) -> None:
        self._task = task
        if task.actor.dead and not task.greenlet:
            self._tasks.discard(task)
        else:
            task.greenlet.switch()
        self._task = None

    def _push(self, at: float, task: Task) -> None:
        task.number = next(self._numbers)
        heapq.heappush(self._due, (at, task.number, task))


class ServerClock(Clock):
    """The clock of the file server: that of the simulation."""

    def __init__(self, sim: Sim) -> None:
        super().__init__()
        self.sim = sim
        self.skew = 0.0

    def now(self) -> float:
        return self.sim.now

    def wall(self) -> float:
        return self.sim.now + AHEAD + self.skew


class BoxClock(Clock):
    """The clocks of one machine: monotonic with a rate of its own, and one that people set."""

    def __init__(self, sim: Sim, rate: float) -> None:
        super().__init__()
        self.sim = sim
        self.rate = rate
        self.began = sim.now - 100.0
        self.skew = 0.0

    def now(self) -> float:
        return (self.sim.now - self.began) * self.rate

    def wall(self) -> float:
        return self.sim.now + AHEAD + self.skew

    def at(self, now: float) -> float:
        """Return the time of the simulation at a time of this clock."""
        return now / self.rate + self.began


# -- the jobs


@dataclass(slots=True)
class Job:
    """A job: what it does, and what became of it."""

    number: int
    script: Script
    restartable: bool
    at: float
    stubborn: bool = False
    withdrawn_at: float = 0.0
    held_at: float = 0.0
    retries: int = 0
    limit: float = 0.0
    cancelled_at: float = 0.0
    owner: int = UID
    cpus: int = 0
    memory: int = 0
    priority: int = 0
    submitted: bool = False
    submitted_at: float = 0.0
    cancelled: bool = False
    asked: bool = False
    withdrawn: bool = False
    places: set[tuple[int, str]] = field(default_factory=set)
    archived: int = 0
    executions: int = 0
    ended: int = 0
    running: dict[tuple[str, int], float] = field(default_factory=dict)
    taken: float = -1.0
    unexcused: str = ""

    @property
    def name(self) -> str:
        return f"job{self.number}"

    @property
    def content(self) -> bytes:
        more = b"#PMJQ restartable\n" if self.restartable else b""
        if self.retries:
            more += b"#PMJQ retries=%d backoff=0.7\n" % self.retries
        if self.limit:
            more += b"#PMJQ time=%g\n" % self.limit
        for key, value in (
            ("cpus", self.cpus),
            ("memory", self.memory),
            ("priority", self.priority),
        ):
            if value:
                more += f"#PMJQ {key}={value}\n".encode()
        return b"#!/bin/sh\n" + more + f": job {self.number}\n".encode()


_NUMBER = re.compile(rb": job (\d+)\n")


def number_of(content: bytes) -> int | None:
    """Return which job a program is, if it is one."""
    found = _NUMBER.search(content)
    return int(found[1]) if found else None


# -- the machines


class Processes(FakeProcesses):
    """The processes of one daemon, which is nudged by what they report."""

    def __init__(self, box: Box, server: Server) -> None:
        super().__init__(box)
        self.server = server


class Box(World):
    """One machine: a mount, clocks, keepers and jobs. What keepers do takes calls of its mount."""

    def __init__(self, cluster: Cluster, name: str, rate: float) -> None:
        super().__init__(cluster.disk)
        self.cluster = cluster
        self.name = name
        self.times = BoxClock(cluster.sim, rate)
        self.mount = Mount(cluster.sim, cluster.disk, cluster.plan.kind, ROOT)
        self.actor = Keepers(name)
        self.boots = 1
        self.boot = _boot(name, 1)
        self.under_way: Counter[int] = Counter()
        self.lines: dict[str, list[bytes]] = {}
        self.node_of: dict[int, str] = {}

    # -- what happens to it

    def freeze(self, seconds: float) -> None:
        """Stop the whole machine, jobs and all, as a hypervisor does."""
        until = self.cluster.sim.now + seconds
        self.actor.frozen = max(self.actor.frozen, until)

    def restart(self) -> None:
        """Boot: all processes are gone, and what was not synced may be."""
        self.actor.dead = True
        for each in self.cluster.nodes:
            if each.box is self and each.server is not None:
                each.server.end()
        for process in self.running.values():
            self.cluster.job_ended(process, self)
        self.running.clear()
        self.daemons.clear()
        self.keepers.clear()
        self.under_way.clear()
        self.lines.clear()
        self.mount.power_off(self.cluster.sim.rng)
        self.mount.hung = 0.0
        self.actor = Keepers(self.name)
        self.boots += 1
        self.boot = _boot(self.name, self.boots)
        self.times.began = self.cluster.sim.now - self.cluster.sim.rng.uniform(1, 30)

    # -- keepers

    def carry_out(self, keeper: Keeper, order: Order) -> None:
        self.under_way[keeper.pid] += 1
        if isinstance(keeper.daemon, Processes):
            self.node_of[keeper.pid] = keeper.daemon.server.name
        sim = self.cluster.sim
        delay = sim.rng.expovariate(20.0) if sim.rng.random() < 0.1 else 0.0
        sim.spawn(self.actor, lambda: self._execute(keeper, order), delay)

    def start_line(self, keeper: Keeper) -> None:
        while keeper.line and not keeper.lost and self._room(keeper):
            self.carry_out(keeper, keeper.line.pop(0))

    def _room(self, keeper: Keeper) -> bool:
        running = sum(each.keeper is keeper for each in self.running.values())
        return running + self.under_way[keeper.pid] < keeper.most

    def _execute(self, keeper: Keeper, order: Order) -> None:
        try:
            process = self._spawned(keeper, order)
        finally:
            self.under_way[keeper.pid] -= 1
        if process is not None:
            pid, at = process.pid, self.times.wall()
            started = f"started {pid} {pid * 100} {at:.6f} {keeper.pid} {keeper.pid * 100}\n"
            self._write(keeper, order.status, started.encode())
            self._say(keeper, Started(order.key, pid, at))

    def _spawned(self, keeper: Keeper, order: Order) -> Process | None:
        """Do what posix_spawn does, up to the execve."""
        mount = self.mount
        ours = False
        try:
            work = self._found(order.work)
            out = mount.open(order.out, create=True)
            mount.open(order.status, create=True, exclusive=True)
            ours = True
            program = self._found(order.argv[-1])
        except OSError as error:
            number = error.errno or errno.EIO
            if not ours and number != errno.EEXIST:
                ours = self._exists(order.status)
            if ours:
                line = f"noexec {number} {self.times.wall():.6f}\n"
                self._write(keeper, order.status, line.encode())
            self._say(keeper, Unstarted(order.key, number, ours))
            return None
        job = self.cluster.job_of(program)
        if job is None:
            self.cluster.sim.fail(f"{order.argv[-1]} is no job and is executed: {program.data!r}")
            return None
        return self._begun(keeper, order, job, out, work)

    def _found(self, path: str) -> Inode:
        inode = self.mount.inode(path)
        if inode is None:
            raise FileNotFoundError(errno.ENOENT, "gone", path)
        return inode

    def _exists(self, path: str) -> bool:
        try:
            return self.mount.stat(path) is not None
        except OSError:
            return False

    def _begun(self, keeper: Keeper, order: Order, job: Job, out: Inode, work: Inode) -> Process:
        now = self.cluster.sim.now
        script = job.script
        name = order.environment["PMJQ_NAME"]
        ends = now + script.seconds
        process = Process(
            self.pid(), order.key, name, order.status, keeper, out, work, script, ends
        )
        self.running[process.pid] = process
        out.data += script.output
        self.cluster.job_begun(job, process, self)
        self.cluster.sim.later(ends, lambda: self._time_is_up(process))
        return process

    def _time_is_up(self, process: Process) -> None:
        if self.running.get(process.pid) is not process:
            return
        if self.actor.frozen > self.cluster.sim.now:
            again = self.actor.frozen + 0.001
            self.cluster.sim.later(again, lambda: self._time_is_up(process))
        else:
            self.end(process)

    def age(self, process: Process) -> float:
        return self.cluster.sim.now - process.ends + process.script.seconds

    def end(self, process: Process, code: int | None = None) -> None:
        job = self.cluster.jobs[int(process.name.removeprefix("job").split(".")[0])]
        if code == -15 and job.stubborn:
            return
        for left in process.script.leaves:
            self.disk.create_in(process.work, left, b"left")
        del self.running[process.pid]
        self.cluster.job_ended(process, self)
        # Clocks of machines differ by half a percent.
        late = code is not None and job.limit > 0 and self.age(process) >= 0.99 * job.limit
        job.ended += code is None or late
        status = process.script.code if code is None else code
        keeper = process.keeper
        if not keeper.lost:
            self.under_way[keeper.pid] += 1
            self.cluster.sim.spawn(self.actor, lambda: self._report_end(process, status))
        for daemon in [each.daemon for each in self.keepers if each.daemon]:
            if process.pid in daemon.adopted:
                daemon.said.append(Vanished(daemon.adopted.pop(process.pid)))
                self._nudge(daemon)

    def _report_end(self, process: Process, code: int) -> None:
        keeper, at = process.keeper, self.times.wall()
        # It has a place of its own in the line again only when it is reaped.
        try:
            line = f"exit {code} {at:.6f} 0.5 0.25 4096\n"
            self._write(keeper, process.status, line.encode())
        finally:
            self.under_way[keeper.pid] -= 1
        self.start_line(keeper)
        alone = not self.running
        self._say(keeper, Ended(process.key, code, at, Usage(0.5, 0.25, 4096), alone))

    def _lives(self, keeper: Keeper) -> bool:
        return super()._lives(keeper) or bool(not keeper.lost and self.under_way[keeper.pid])

    def _write(self, keeper: Keeper, status: str, line: bytes) -> None:
        """Append to a status, in the order in which it was written, again if it fails."""
        if keeper.lost:
            return
        lines = self.lines.setdefault(status, [])
        lines.append(line)
        if len(lines) == 1 and not self._write_first(status):
            self.under_way[keeper.pid] += 1
            self.cluster.sim.spawn(self.actor, lambda: self._write_on(keeper, status), 1.0)

    def _write_first(self, status: str) -> bool:
        """Write the lines that there are; False if that has to wait."""
        lines = self.lines[status]
        while lines:
            try:
                self.mount.append(status, lines[0])
            except OSError as error:
                if error.errno not in GONE or not self._paperwork():
                    return False
            del lines[0]
        del self.lines[status]
        return True

    def _paperwork(self) -> bool:
        """Tell whether the share is there, of which a file is gone."""
        try:
            return self.mount.inode(PAPERWORK) is not None
        except OSError:
            return False

    def _write_on(self, keeper: Keeper, status: str) -> None:
        while not keeper.lost and not self._write_first(status):
            self.cluster.sim.sleep(self.cluster.sim.now + 1.0)
        self.under_way[keeper.pid] -= 1

    def _say(self, keeper: Keeper, report: Report) -> None:
        super()._say(keeper, report)
        if keeper.daemon is not None:
            self._nudge(keeper.daemon)

    def _nudge(self, daemon: FakeProcesses) -> None:
        if isinstance(daemon, Processes):
            daemon.server.nudge()


def _boot(name: str, number: int) -> str:
    return f"{name}oot{number:04}-0000"


class Keepers(Actor):
    """Whoever calls for the keepers of a machine: they are not killed by what hits daemons."""

    def die(self) -> None:
        return


# -- the daemons


@dataclass(slots=True)
class Node:
    """One node: its name, its machine, its slots, and its daemon if one runs."""

    name: str
    box: Box
    slots: int
    capacity: Capacity
    server: Server | None = None


class Server(Actor):
    """One daemon process, as ``pmjq.daemon`` is: turns, a heart, a guard."""

    def __init__(self, cluster: Cluster, of: Node) -> None:
        super().__init__(of.name)
        self.cluster = cluster
        self.sim = cluster.sim
        self.node = of
        self.box = of.box
        self.clock = of.box.times
        self.processes = Processes(of.box, self)
        pid = self.processes.daemon
        booted = self.clock.wall() - self.clock.now()
        self.me = Machine(
            f"machine-{of.box.name}", of.box.boot, "space", pid, pid * 100, booted=booted
        )
        self.log = Lines()
        self.lives = Lives(
            self._ground(),
            self._make_known,
            self._start,
        )
        self.asleep = False
        self.nudged = False
        self.began = False
        self.main = self.sim.spawn(self, self._run)

    @property
    def turn(self) -> Turn | None:
        return getattr(self.lives, "turn", None)

    @property
    def fenced(self) -> bool:
        return self.lives.fenced

    def stopped(self) -> float:
        return max(self.frozen, self.box.actor.frozen)

    def die(self) -> None:
        """Be killed: keepers and jobs go on, and somebody starts it again, or nobody does."""
        if not self.dead:
            self.end()
            self.cluster.start_again(self.node)

    def end(self) -> None:
        """Be gone."""
        self.dead = True
        self.sim.note(f"{self.name}: dies")
        self.cluster.ended(self)
        self.box.kill_daemon(self.processes)
        if self.node.server is self:
            self.node.server = None

    def nudge(self) -> None:
        """Have the next turn taken now."""
        self.nudged = True
        if self.asleep and not self.dead:
            self.sim.wake(self.main, self.sim.now)

    # -- as in pmjq.daemon

    def _run(self) -> None:
        try:
            self.lives.prepare()
            while left := self.lives.listen():
                self.sim.sleep(self.clock.at(self.clock.now() + min(left, LISTEN)))
            self.lives.begin()
        except (OSError, PmjqError) as error:
            self.sim.note(f"{self.name}: cannot begin: {error}")
            self.die()
            return
        self.began = True
        self.sim.spawn(self, self._guard)
        published, hurried = self.clock.now(), 0
        while True:
            if self.fenced:
                self.lives.renew()
            wake = self.lives.turn.turn()
            now = self.clock.now()
            hurried = hurried + 1 if wake <= now else 0
            if hurried > SPINS:
                self.sim.fail(f"{self.name} takes turn after turn")
                return
            if self.fenced:
                wake = min(wake, now + AGAIN)
            if now - published > 10:
                published = now
                self._publish(self.lives.turn)
            self._sleep(wake)

    def _sleep(self, wake: float) -> None:
        if not self.nudged:
            self.asleep = True
            self.sim.sleep(max(self.sim.now + 1e-4, self.clock.at(wake)))
            self.asleep = False
        self.nudged = False

    def _ground(self) -> Ground:
        plan = self.cluster.plan
        rules = Rules(
            frozenset(OWNERS),
            settle=plan.kind.settle,
            settle_moved=plan.kind.settle,
            kernel_tells=plan.kind.local,
        )
        settings = Settings(
            self.name,
            self.me,
            Limits(slots=self.node.slots),
            rules,
            lease=plan.lease,
            poll=plan.poll,
            cpus=self.node.capacity.cpus,
            memory=self.node.capacity.memory,
            capacity=self.node.capacity,
        )
        return Ground(
            disk=self.box.mount,
            root=ROOT,
            local=plan.kind.local,
            settings=settings,
            archive=ARCHIVE,
            errors=None,
            processes=self.processes,
            log=self.log,
            now=self.clock.now,
            wall=self.clock.wall,
            boottime=self.clock.now,
            reading=reading,
            owner=str,
            alive=self.box.alive,
            chance=self.box.chance,
        )

    def _make_known(self, turn: Turn) -> None:
        self.cluster.begun(turn.spool.token, self)
        self.cluster.turns.append(turn)
        self._publish(turn)

    def _publish(self, turn: Turn) -> None:
        life = life_of(turn.spool.token, self.me, self.clock.wall())
        cpus, memory = turn.desk.packing.free()
        life = msgspec.structs.replace(
            life,
            lease=self.cluster.plan.lease,
            cpus=self.node.capacity.cpus,
            memory=self.node.capacity.memory,
            free_cpus=cpus,
            free_memory=memory,
        )
        try:
            turn.spool.publish(life)
        except OSError:
            return

    def _start(self, heart: Heart) -> None:
        self.sim.spawn(self, lambda: self._beat(heart))

    def _beat(self, heart: Heart) -> None:
        while True:
            self.sim.sleep(self.clock.at(self.clock.now() + heart.every))
            if heart._stop.is_set():
                return
            if not heart.beat():
                self.sim.note(f"{self.name}: finds its beat gone")
                heart.fenced()
                self.nudge()
                return

    def _guard(self) -> None:
        lease = self.cluster.plan.lease
        pause = every = lease / GUARDS
        while True:
            self.sim.sleep(self.clock.at(self.clock.now() + pause))
            silent, silenced = self.lives.heart.silent(), set(self.lives.turn.desk.silenced)
            self.lives.guard()
            self.sim.faults["jobs silenced"] += len(self.lives.turn.desk.silenced - silenced)
            # Looks that cannot find anything are left out.
            pause = every * max(1, (KEEPING * lease - silent) // every)
