"""What jobs ask for, beside one another on one node: CPUs, memory and GPUs.

A job holds what it asks for from its claim until nothing is left of it. The sums never exceed what
the node has. A job that does not fit waits, and smaller ones pass it; once it has waited for
``PATIENCE`` nothing is started that would keep it waiting, so that room for it comes free.

Pure: specs, clocks and counts in, names and reasons out.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

from pmjq import naming, render
from pmjq.keys import ALL_CPUS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from pmjq.job import Spec

PATIENCE = 60.0
"""Seconds for which smaller jobs pass one that does not fit."""

LONGEST_PATIENCE = 10 * PATIENCE
"""Seconds for which one does that whose owner has more than others."""

MOST_WAITING = 1000
"""Jobs of one owner that wait for room; while there are so many no more are looked at."""


class Needs(NamedTuple):
    """What one job holds: CPUs, bytes of memory, whether it is to be alone on the node, GPUs."""

    cpus: int = 0
    memory: int = 0
    alone: bool = False
    gpus: int = 0


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a node has for jobs; None: nobody knows, and nothing is added up.

    ``usual``: the CPUs of a job that does not say. None where only the load average decides how
    many of those run. ``gpus``: the names of those that are assigned; ``numbers``: the CPUs that
    are, where only that holds jobs to what they ask for.
    """

    cpus: int | None = None
    memory: int | None = None
    usual: int = 1
    gpus: tuple[str, ...] = ()
    numbers: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Held:
    """What jobs hold together."""

    jobs: int = 0
    cpus: int = 0
    memory: int = 0
    alone: bool = False
    gpus: int = 0

    def plus(self, needs: Needs) -> Held:
        """Return it with one more job."""
        return Held(
            self.jobs + 1,
            self.cpus + needs.cpus,
            self.memory + needs.memory,
            self.alone or needs.alone,
            self.gpus + needs.gpus,
        )


def needs(spec: Spec, capacity: Capacity) -> Needs:
    """Return what a job holds on a node."""
    memory, gpus = spec.memory or 0, spec.gpus or 0
    if spec.cpus == ALL_CPUS:
        return Needs(capacity.cpus or 0, memory, alone=True, gpus=gpus)
    return Needs(capacity.usual if spec.cpus is None else spec.cpus, memory, gpus=gpus)


def counted(spec: Spec, capacity: Capacity) -> int:
    """Return on how many CPUs a job stands, for fairness and the load average: at least one."""
    return max(1, needs(spec, capacity).cpus)


def held(many: Iterable[Needs]) -> Held:
    """Return what several jobs hold."""
    total = Held()
    for each in many:
        total = total.plus(each)
    return total


def shortfall(wanted: Needs, cpus: int | None, memory: int | None) -> float:
    """Return how much of what a job needs is not free on a node; 0: it fits.

    ``cpus`` and ``memory`` are free there; None: nobody knows.
    """
    lack = max(0, wanted.cpus - cpus) / wanted.cpus if wanted.cpus and cpus is not None else 0.0
    if wanted.memory and memory is not None:
        lack += max(0, wanted.memory - memory) / wanted.memory
    return lack


def lacking(wanted: Needs, taken: Held, capacity: Capacity) -> str:
    """Return why a job does not fit beside others now; empty: it does."""
    if taken.alone:
        return "another job has all CPUs (cpus=all)"
    if wanted.alone and taken.jobs:
        return f"needs all CPUs, and other jobs run (cpus=all): {taken.jobs}"
    cpus, memory = capacity.cpus, capacity.memory
    if cpus is not None and wanted.cpus and taken.cpus + wanted.cpus > cpus:
        free = max(0, cpus - taken.cpus)
        return f"needs {wanted.cpus} CPUs, and {free} of {cpus} are free"
    if memory is not None and wanted.memory and taken.memory + wanted.memory > memory:
        left, whole = render.size(max(0, memory - taken.memory)), render.size(memory)
        return f"needs {render.size(wanted.memory)} of memory, and {left} of {whole} are free"
    gpus = len(capacity.gpus)
    if wanted.gpus and taken.gpus + wanted.gpus > gpus:
        free = max(0, gpus - taken.gpus)
        return f"needs {wanted.gpus} GPUs, and {free} of {gpus} are free"
    return ""


def _plain(spec: Spec) -> bool:
    """Tell whether a job asks for nothing."""
    return spec.cpus is None and not spec.memory and not spec.gpus


class Waiting(NamedTuple):
    """A job that waits for room: what it needs, since when, whose it is and of which priority.

    ``gated``: it would fit, and the load average is too high for it.
    """

    needs: Needs
    since: float
    owner: int = 0
    priority: int = 0
    gated: bool = False


@dataclass(slots=True)
class Packing:
    """What the jobs of one node hold, and those that wait for room, in the order of their coming.

    Where no job asks for anything it adds up nothing and refuses nothing: the slots do.

    ``shares``: the CPUs that owners have over all nodes, where it matters. ``elsewhere``: the job
    for which another node keeps room.
    """

    capacity: Capacity = field(default_factory=Capacity)
    shares: Mapping[int, int] = field(default_factory=dict)
    elsewhere: str = ""
    _asking: dict[str, Needs] = field(default_factory=dict)
    _waiting: dict[str, Waiting] = field(default_factory=dict)
    _taken: Held = field(default_factory=Held)
    _kept: str = ""
    _adds_up: bool = False
    _ranked: bool = False
    _now: float = 0.0
    _woken_for: Held | None = None

    def __len__(self) -> int:
        """Return how many wait."""
        return len(self._waiting)

    def hold(self, job_id: str, spec: Spec) -> None:
        """Take note of a job in hand."""
        if not _plain(spec):
            self._asking[job_id] = needs(spec, self.capacity)

    def inherit(self, old: Packing) -> None:
        """Take note of what an earlier life of this daemon has, and may still run."""
        self._asking |= old._asking

    def asking(self, here: Callable[[str], bool]) -> bool:
        """Tell whether any job in hand asks for something; ``here``: which are in hand."""
        for job_id in [job_id for job_id in self._asking if not here(job_id)]:
            del self._asking[job_id]
        return bool(self._asking)

    def begin(self, jobs: int, now: float, here: Callable[[str], bool], gpus: int = 0) -> None:
        """Begin to place jobs beside ``jobs`` that are in hand; so many ``gpus`` are not free."""
        self._adds_up = self.asking(here)
        usual = self.capacity.usual
        special = held(self._asking.values())
        self._taken = replace(
            special,
            jobs=jobs,
            cpus=special.cpus + usual * max(0, jobs - special.jobs),
            gpus=max(gpus, special.gpus),
        )
        self._now = now
        name = self.patient(now)
        self._kept = name if name != self.elsewhere else ""

    def patient(self, now: float) -> str:
        """Return the job for which room is to be kept, empty if none has waited for so long.

        It is the first one of the highest priority.
        """
        best, behind = "", 0
        for name, waiting in self._waiting.items():
            if now < waiting.since + PATIENCE:
                break
            if not best or waiting.priority > behind:
                best, behind = name, waiting.priority
            if not self._ranked:
                break
        return best

    def wants(self, name: str) -> Needs | None:
        """Return what a job needs that waits."""
        waiting = self._waiting.get(name)
        return waiting.needs if waiting is not None else None

    def free(self) -> tuple[int | None, int | None]:
        """Return the CPUs and the memory that nothing holds; None: nobody knows."""
        cpus, memory = self.capacity.cpus, self.capacity.memory
        return (
            None if cpus is None else max(0, cpus - self._taken.cpus),
            None if memory is None else max(0, memory - self._taken.memory),
        )

    def crowded(self) -> set[int]:
        """Return the owners of whom so many wait that no more are looked at."""
        if len(self._waiting) < MOST_WAITING:
            return set()
        counts = Counter(waiting.owner for waiting in self._waiting.values())
        return {owner for owner, count in counts.items() if count >= MOST_WAITING}

    def place(self, name: str, spec: Spec, now: float, owner: int = 0, gate: str = "") -> str:
        """Return why a job is not to start beside those in hand and those placed before it.

        Empty: it is placed. One that is not waits, and is told by ``woken`` when there is room.
        ``gate``: why it may not start even if it fits.
        """
        wanted = needs(spec, self.capacity)
        self._woken_for = None
        lacks = self._reason(name, spec, wanted, owner)
        reason = lacks or gate
        if reason:
            before = self._waiting.get(name)
            since = now if before is None else before.since
            gated = bool(gate) and not lacks
            self._ranked = self._ranked or spec.priority != 0
            self._waiting[name] = Waiting(wanted, since, owner, spec.priority, gated)
        else:
            self._taken = self._taken.plus(wanted)
            self._adds_up = self._adds_up or not _plain(spec)
            self._waiting.pop(name, None)
            if name == self._kept:
                self._kept = ""
        return reason

    def _reason(self, name: str, spec: Spec, wanted: Needs, owner: int) -> str:
        if _plain(spec) and not self._adds_up and not self._kept:
            return ""
        reason = lacking(wanted, self._taken, self.capacity)
        if reason or not self._kept or name == self._kept:
            return reason
        kept = self._waiting[self._kept]
        if self._passes(owner, spec.priority, kept):
            return ""
        beside = self._taken.plus(kept.needs)
        if kept.gated or kept.needs.alone or lacking(wanted, beside, self.capacity):
            return f"room is kept for {naming.shown(self._kept)}, which has waited for long"
        return ""

    def _passes(self, owner: int, priority: int, kept: Waiting) -> bool:
        """Tell whether a job comes before the one for which room is kept."""
        if priority > kept.priority:
            return True
        fewer = self.shares.get(owner, 0) < self.shares.get(kept.owner, 0)
        return fewer and self._now < kept.since + LONGEST_PATIENCE

    def woken(self, jobs: int, now: float, here: Callable[[str], bool], gpus: int = 0) -> list[str]:
        """Return the names of those that waited and fit by now, in order; some at a time."""
        if not self._waiting:
            return []
        self.begin(jobs, now, here, gpus)
        if self._taken == self._woken_for:
            return []
        self._woken_for = self._taken
        kept: Waiting | None = None
        # Who of them comes first is for the queue to say, so each owner's are told.
        taken: dict[tuple[int, int], Held] = {}
        found: list[str] = []
        for name, waiting in self._waiting.items():
            turn = (waiting.owner, waiting.priority)
            if kept is not None and not self._passes(*turn, kept):
                continue
            beside = taken.get(turn, self._taken)
            if not waiting.gated and not lacking(waiting.needs, beside, self.capacity):
                found.append(name)
                taken[turn] = beside.plus(waiting.needs)
            elif name == self._kept:
                kept = waiting
        return found

    def forget(self, is_there: Callable[[str], bool]) -> None:
        """Forget those that wait and are not there any more."""
        for name in [name for name in self._waiting if not is_there(name)]:
            del self._waiting[name]
            # Another node may have been quicker with the one that was told of room.
            self._woken_for = None

    def next(self, now: float) -> float | None:
        """Return when the first of those that wait will have waited for long; None: it has."""
        first = next(iter(self._waiting.values()), None)
        at = first.since + PATIENCE if first else 0.0
        return at if at > now else None
