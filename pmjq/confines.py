"""What holds a job to the memory and the CPUs that it asks for: terms for the keeper.

Best a control group of its own, where one was delegated to the daemon: all processes of the job
count together, and it is ended as a whole. Else what the kernel has for single processes: each of
them may have so much data (RLIMIT_DATA), and the CPUs that were assigned to the job are the only
ones for all of them. Each limit is by itself: a control group may have only some controllers.

Not RLIMIT_AS, which counts addresses: runtimes such as those of Go, Java and CUDA reserve many
times what they use, and would fail. RLIMIT_DATA counts, since Linux 4.7, what is private and can be
written: heaps, stacks of threads, anonymous maps. What is shared between processes escapes it.

Pure: an attempt in, terms out.
"""

from __future__ import annotations

import resource
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pmjq.keys import ALL_CPUS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pmjq.job import Attempt

PERIOD = 100_000
"""Microseconds over which a share of CPU time is counted; the kernel's usual one."""

CONTROLLERS = ("cpu", "memory", "pids")
"""Those of a control group that are used here."""

CGROUP, RLIMIT, AFFINITY = "cgroup", "rlimit", "affinity"
"""What a limit is enforced by, as the record says it."""


@dataclass(frozen=True, slots=True)
class Tree:
    """The control group that was delegated to the daemon; an empty path: none, for this reason.

    ``processes``: how many one job may have at most there.
    """

    path: str = ""
    controllers: frozenset[str] = frozenset()
    reason: str = ""
    processes: int = 0

    def __str__(self) -> str:
        """Return it as the log tells of it."""
        if not self.path:
            return f"none: {self.reason}"
        return f"{self.path} ({' '.join(sorted(self.controllers))})"


def terms(attempt: Attempt, tree: Tree, *, alone: bool = False) -> dict[str, Any]:
    """Return within which limits an attempt is to run; empty: it asks for none.

    ``alone``: it gets a control group of its own, where there can be one, whatever it asks for.
    """
    memory, cpus = attempt.spec.memory, attempt.spec.cpus
    found: dict[str, Any] = {}
    files: dict[str, str] = {}
    by: dict[str, str] = {}
    if memory and "memory" in tree.controllers:
        by["memory"] = CGROUP
        files |= {
            "memory.max": str(memory),
            # What it may not have must not go to the disk instead, and slow all others down.
            "memory.swap.max": "0",
            "memory.oom.group": "1",
        }
    elif memory:
        by["memory"] = RLIMIT
        found["limits"] = [(resource.RLIMIT_DATA, memory, memory)]
    if cpus is not None and cpus != ALL_CPUS:
        if "cpu" in tree.controllers:
            by["cpus"] = CGROUP
            files["cpu.max"] = f"{cpus * PERIOD} {PERIOD}"
        elif attempt.cpus:
            by["cpus"] = AFFINITY
            found["cpus"] = list(attempt.cpus)
    if not by and not (alone and tree.path):
        return {}
    if tree.path:
        if "pids" in tree.controllers:
            files["pids.max"] = str(tree.processes)
        found["cgroup"] = f"{tree.path}/{group_name(attempt.id, attempt.attempt)}"
        found["files"] = files
    found["enforced"] = ",".join(f"{limit}={what}" for limit, what in by.items())
    return found


def group_name(job_id: str, number: int) -> str:
    """Return the name of the control group of an attempt."""
    return f"job-{job_id}.{number}"


def job_of(name: str) -> str:
    """Return the id of the job whose control group has this name; empty if it is none's."""
    return name.removeprefix("job-").rpartition(".")[0] if name.startswith("job-") else ""


def joined(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Return the terms of two sides together; of two limits for one thing the lower holds."""
    both = {**first, **second}
    if "limits" in both:
        both["limits"] = _lowest((*first.get("limits", ()), *second.get("limits", ())))
    return both


def _lowest(limits: Iterable[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    found: dict[int, tuple[int, int]] = {}
    for number, soft, hard in limits:
        other = found.get(number, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        found[number] = (_lower(soft, other[0]), _lower(hard, other[1]))
    return [(number, _lower(soft, hard), hard) for number, (soft, hard) in found.items()]


def _lower(one: int, other: int) -> int:
    """Return the lower limit; none at all is -1."""
    least = [limit for limit in (one, other) if limit != resource.RLIM_INFINITY]
    return min(least, default=resource.RLIM_INFINITY)
