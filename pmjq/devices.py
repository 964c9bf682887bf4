"""Which GPUs and CPUs of the node each job in hand has.

Whole ones are assigned, when a job is claimed; they stand in its claim, so that whoever adopts the
job knows them. A GPU is never given to two jobs: it is free when its job has left the node's hands
and nothing of it is left. CPUs are assigned where nothing else holds a job to their number, and
distinct ones as far as they reach: with more slots than CPUs several jobs share one.

Pure: attempts in, names and numbers out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

from pmjq.keys import ALL_CPUS

if TYPE_CHECKING:
    from collections.abc import Callable

    from pmjq.job import Attempt, Spec
    from pmjq.packing import Capacity

T = TypeVar("T", str, int)


@dataclass(slots=True)
class Stock(Generic[T]):
    """Devices of one kind, and which of them each job has."""

    devices: tuple[T, ...] = ()
    held: dict[str, tuple[T, ...]] = field(default_factory=dict)

    def taken(self) -> int:
        """Return how many are not free."""
        taken = {device for devices in self.held.values() for device in devices}
        return len(taken.intersection(self.devices))

    def free(self) -> list[T]:
        """Return those that no job has, in order."""
        taken = {device for devices in self.held.values() for device in devices}
        return [device for device in self.devices if device not in taken]

    def by_use(self) -> list[T]:
        """Return all, those first that the fewest jobs have."""
        given = [device for devices in self.held.values() for device in devices]
        return sorted(self.devices, key=given.count)

    def hold(self, job_id: str, devices: tuple[T, ...]) -> None:
        """Take note of what a job has."""
        if devices:
            self.held[job_id] = devices

    def forget(self, here: Callable[[str], bool]) -> None:
        """Take back what those have that are not here any more."""
        for job_id in [job_id for job_id in self.held if not here(job_id)]:
            del self.held[job_id]


class Devices:
    """The GPUs and CPUs of one node."""

    def __init__(self, capacity: Capacity) -> None:
        """Nothing is assigned yet."""
        self.gpus = Stock(capacity.gpus)
        self.cpus = Stock(capacity.numbers)

    def assign(self, job_id: str, spec: Spec) -> tuple[tuple[str, ...], tuple[int, ...]] | None:
        """Return the GPUs and CPUs that a job is to have; None: so many GPUs are not free."""
        wanted, free = spec.gpus or 0, self.gpus.free() if spec.gpus else []
        if self.gpus.devices and wanted > len(free):
            return None
        gpus = tuple(free[:wanted])
        count = 0 if spec.cpus in (None, ALL_CPUS) else spec.cpus or 0
        cpus = tuple(sorted(self.cpus.by_use()[:count])) if count else ()
        self.gpus.hold(job_id, gpus)
        self.cpus.hold(job_id, cpus)
        return gpus, cpus

    def hold(self, attempt: Attempt) -> None:
        """Take note of what a job in hand has."""
        self.gpus.hold(attempt.id, attempt.gpus)
        self.cpus.hold(attempt.id, attempt.cpus)

    def forget(self, here: Callable[[str], bool]) -> None:
        """Take back what those have of which nothing is here any more."""
        self.gpus.forget(here)
        self.cpus.forget(here)

    def inherit(self, old: Devices) -> None:
        """Take note of what an earlier life of this daemon has given, and may still be in use."""
        self.gpus.held = {**old.gpus.held, **self.gpus.held}
        self.cpus.held = {**old.cpus.held, **self.cpus.held}
