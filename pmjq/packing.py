"""What jobs ask for, beside one another on one node: CPUs, memory and GPUs.

A job holds what it asks for from its claim until nothing is left of it. The sums never exceed what
the node has. A job that does not fit waits, and smaller ones pass it; once it has waited for
``PATIENCE`` nothing is started that would keep it waiting, so that room for it comes free.

Pure: specs, clocks and counts in, names and reasons out.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from pmjq import naming, render
from pmjq.keys import ALL_CPUS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pmjq.job import Spec

PATIENCE = 60.0
"""Seconds for which smaller jobs pass one that does not fit."""

MOST_WAITING = 1000
"""Jobs that wait for room; while there are so many no more entries are looked at."""


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


def held(many: Iterable[Needs]) -> Held:
    """Return what several jobs hold."""
    total = Held()
    for each in many:
        total = total.plus(each)
    return total


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


@dataclass(slots=True)
class Packing:
    """What the jobs of one node hold, and those that wait for room, in the order of their coming.

    Where no job asks for anything it adds up nothing and refuses nothing: the slots do.
    """

    capacity: Capacity = field(default_factory=Capacity)
    _asking: dict[str, Needs] = field(default_factory=dict)
    _waiting: dict[str, tuple[Needs, float]] = field(default_factory=dict)
    _taken: Held = field(default_factory=Held)
    _kept: str = ""
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
        self.asking(here)
        usual = self.capacity.usual
        special = held(self._asking.values())
        self._taken = replace(
            special,
            jobs=jobs,
            cpus=special.cpus + usual * max(0, jobs - special.jobs),
            gpus=max(gpus, special.gpus),
        )
        first = next(iter(self._waiting.items()), None)
        self._kept = first[0] if first and now >= first[1][1] + PATIENCE else ""

    def place(self, name: str, spec: Spec, now: float) -> str:
        """Return why a job is not to start beside those in hand and those placed before it.

        Empty: it is placed. One that is not waits, and is told by ``woken`` when there is room.
        """
        wanted = needs(spec, self.capacity)
        self._woken_for = None
        reason = self._reason(name, spec, wanted)
        if reason:
            self._waiting.setdefault(name, (wanted, now))
        else:
            self._taken = self._taken.plus(wanted)
            self._waiting.pop(name, None)
        return reason

    def _reason(self, name: str, spec: Spec, wanted: Needs) -> str:
        if _plain(spec) and not self._asking and not self._taken.alone and not self._kept:
            return ""
        reason = lacking(wanted, self._taken, self.capacity)
        if reason or not self._kept or name == self._kept:
            return reason
        kept = self._waiting[self._kept][0]
        if kept.alone or lacking(wanted, self._taken.plus(kept), self.capacity):
            return f"room is kept for {naming.shown(self._kept)}, which has waited for long"
        return ""

    def woken(self, jobs: int, now: float, here: Callable[[str], bool], gpus: int = 0) -> list[str]:
        """Return the names of those that waited and fit by now, in order; some at a time."""
        if not self._waiting:
            return []
        self.begin(jobs, now, here, gpus)
        if self._taken == self._woken_for:
            return []
        self._woken_for = taken = self._taken
        found: list[str] = []
        for name, (wanted, _) in islice(self._waiting.items(), MOST_WAITING):
            if not lacking(wanted, taken, self.capacity):
                found.append(name)
                taken = taken.plus(wanted)
            elif name == self._kept:
                # Nothing passes it any more.
                break
        return found

    def forget(self, is_there: Callable[[str], bool]) -> None:
        """Forget those that wait and are not there any more."""
        for name in [name for name in self._waiting if not is_there(name)]:
            del self._waiting[name]

    def next(self, now: float) -> float | None:
        """Return when the first of those that wait will have waited for long; None: it has."""
        first = next(iter(self._waiting.values()), None)
        at = first[1] + PATIENCE if first else 0.0
        return at if at > now else None
