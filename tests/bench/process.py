"""Figures of other processes: CPU time, memory, context switches, and who belongs to a daemon."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

MIB = 2**20

STEADY = 0.05
"""Seconds between two looks at the processes: a child between fork and exec is only seen once."""


@dataclass(frozen=True)
class Memory:
    """Bytes in memory and their highest value so far."""

    rss: float
    peak: float


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process with all its threads, also ended ones, without its children.

    The clock is that of clock_getcpuclockid(3), which Python does not offer for another process;
    its number is part of the kernel's interface. /proc counts in steps of 10 ms, a tenth of what
    an idle daemon uses in half a minute.
    """
    return time.clock_gettime((~pid << 3) | 2)


def cpu_of(pids: Iterable[int]) -> dict[int, float]:
    """Return the CPU time of each process that lives."""
    times = {}
    for pid in pids:
        with contextlib.suppress(OSError):
            times[pid] = cpu_seconds(pid)
    return times


def used(before: dict[int, float], after: dict[int, float]) -> float:
    """Return the CPU time between two readings, over the processes that lived at both."""
    return sum(after[pid] - before[pid] for pid in after if pid in before)


def memory(pid: int) -> Memory:
    """Return what a process holds in memory."""
    fields = _fields(Path(f"/proc/{pid}/status"))
    return Memory(rss=fields["VmRSS"] * 1024, peak=fields["VmHWM"] * 1024)


def proportional(pids: Iterable[int]) -> float:
    """Return the memory of processes together, with each shared page counted once (PSS)."""
    return 1024 * sum(_fields(Path(f"/proc/{pid}/smaps_rollup"))["Pss"] for pid in pids)


def switches(pid: int) -> int:
    """Return the voluntary context switches of a process, over all its living threads."""
    threads = Path(f"/proc/{pid}/task").glob("*/status")
    return sum(_fields(thread)["voluntary_ctxt_switches"] for thread in threads)


def threads(pid: int) -> set[int]:
    """Return the thread ids of a process."""
    with contextlib.suppress(OSError):
        return {int(path.name) for path in Path(f"/proc/{pid}/task").iterdir()}
    return set()


def marked(variable: str, value: str) -> set[psutil.Process]:
    """Return the processes that were started with this environment variable."""
    found = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(variable) == value:
                found.add(process)
    return found


def steady(daemon: int, variable: str, value: str) -> set[int]:
    """Return the daemon's lasting processes that run the same program: the keeper, no job."""
    return _relatives(daemon, variable, value) & _later(daemon, variable, value)


def _later(daemon: int, variable: str, value: str) -> set[int]:
    time.sleep(STEADY)
    return _relatives(daemon, variable, value)


def _relatives(daemon: int, variable: str, value: str) -> set[int]:
    origin = psutil.Process(daemon)
    program = origin.exe()
    found = set()
    for process in {*origin.children(recursive=True), *marked(variable, value)} - {origin}:
        with contextlib.suppress(psutil.Error):
            if process.exe() == program:
                found.add(process.pid)
    return found


def _fields(path: Path) -> dict[str, int]:
    """Return the numbers of a ``Name: number`` file of /proc."""
    pairs = (line.partition(":") for line in path.read_text().splitlines())
    numbers = ((name, value.split()) for name, _, value in pairs)
    return {name: int(words[0]) for name, words in numbers if words and words[0].isdigit()}
