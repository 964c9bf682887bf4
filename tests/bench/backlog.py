"""What a long queue costs: the first start, memory, and CPU time and system calls per launch.

The spool is filled once per length; then, in rounds that alternate between the lengths, a daemon
starts on it, launches some jobs while the rest stays queued, and is stopped; the spool is filled
up again. CPU time per launch is that of the daemon and its keeper, without their jobs, over
stretches after a first hundred jobs: what the start itself costs is not in it. The files are in
the page cache, as after writing them: a machine that has just booted reads them from disk first.

System calls are counted in a daemon's life of their own, as strace slows it down.
"""

from __future__ import annotations

import os
import shutil
import statistics
from dataclasses import dataclass, replace
from pathlib import Path

from . import process
from .place import Bell, Place, write_executable
from .report import Bench, NotMeasuredError, Row
from .running import Daemon, running
from .strace import ALL, tracing

SHORT, LONG, HUGE = 1_000, 100_000, 1_000_000
QUICK_LONG = 20_000

OPTIONS = ("-j", "2")
WARM = 100
STRETCH = 200
STRETCHES = 3

START_WITHIN = 600.0
"""Seconds until the first job's start, for 1,000,000 queued."""

MS = 1000


@dataclass(frozen=True)
class Life:
    """What one daemon's life on a backlog showed; seconds, bytes, CPU seconds per launch."""

    first_start: float
    rss: float
    peak: float
    keeper_rss: float
    cpu: float


Lives = dict[int, list[Life]]
"""By length."""

Calls = dict[int, float | None]
"""System calls per launch by length; nothing where they could not be counted."""


class Backlog:
    """A spool that is kept at a length."""

    def __init__(self, root: Path, length: int) -> None:
        """Make the place; it is empty."""
        self.place = Place(root).make()
        self.bell = Bell(root / "bell")
        self.length = length
        self._next = 0

    def fill(self) -> Place:
        """Fill the spool up to its length, with an archive that is empty, and return the place."""
        shutil.rmtree(self.place.archive)
        self.place.archive.mkdir()
        here = sum(1 for name in os.listdir(self.place.spool) if not name.startswith("."))
        for number in range(self._next, self._next + self.length - here):
            write_executable(self.place.spool / f"job-{number:07}", self.bell.job)
        self._next += self.length - here
        os.sync()
        self.bell.silence()
        return self.place

    def remove(self) -> None:
        """Remove everything."""
        self.bell.close()
        shutil.rmtree(self.place.root, ignore_errors=True)


def backlog(bench: Bench) -> list[Row]:
    """Measure each length in each round, then the system calls of each."""
    lengths = [SHORT, QUICK_LONG if bench.quick else LONG]
    lives, calls = _measure(bench, lengths, bench.pick(3, 2))
    rows = [row for length in lengths for row in _life_rows(length, lives[length], calls[length])]
    rows += _ratio_rows(lengths, lives, calls)
    if bench.large:
        lives, calls = _measure(bench, [HUGE], 1)
        rows += _life_rows(HUGE, lives[HUGE], calls[HUGE])
    else:
        bench.missing.append(f"{HUGE:,} queued: only with --large")
    return rows


def _measure(bench: Bench, lengths: list[int], rounds: int) -> tuple[Lives, Calls]:
    backlogs = [Backlog(bench.root / f"backlog-{length}", length) for length in lengths]
    lives: Lives = {length: [] for length in lengths}
    calls: Calls = {}
    try:
        for number in range(rounds):
            for each in backlogs:
                bench.say(f"backlog: {each.length:,} queued, round {number + 1} of {rounds}")
                lives[each.length].append(_live(bench, each))
        for each in backlogs:
            bench.say(f"backlog: {each.length:,} queued, system calls")
            calls[each.length] = _calls(bench, each)
    finally:
        for each in backlogs:
            each.remove()
    return lives, calls


def _live(bench: Bench, queue: Backlog) -> Life:
    place = queue.fill()
    with running(bench, place, *OPTIONS) as daemon:
        first = queue.bell.wait(START_WITHIN) - daemon.begin
        daemon.wait_ended(WARM)
        keepers = daemon.keepers()
        stretches = [_cpu_per_launch(daemon, {daemon.pid, *keepers}) for _ in range(STRETCHES)]
        memory = process.memory(daemon.pid)
        keeper_rss = sum(process.memory(pid).rss for pid in keepers)
    place.check()
    return Life(first, memory.rss, memory.peak, keeper_rss, statistics.median(stretches))


def _cpu_per_launch(daemon: Daemon, pids: set[int]) -> float:
    begun, before = daemon.place.ended(), process.cpu_of(pids)
    daemon.wait_ended(begun + STRETCH)
    return process.used(before, process.cpu_of(pids)) / (daemon.place.ended() - begun)


def _calls(bench: Bench, queue: Backlog) -> float | None:
    """Return system calls per launch, or nothing when they cannot be counted."""
    place = queue.fill()
    try:
        with running(bench, place, *OPTIONS) as daemon:
            queue.bell.wait(START_WITHIN)
            daemon.wait_ended(WARM // 2)
            with tracing(daemon, ALL) as trace:
                begun = place.ended()
                daemon.wait_ended(begun + STRETCH)
                launched = place.ended() - begun
        place.check()
        return trace.total() / launched
    except NotMeasuredError as reason:
        bench.missing.append(f"system calls with {queue.length:,} queued: {reason}")
        return None


def _life_rows(length: int, lives: list[Life], calls: float | None) -> list[Row]:
    limits = {LONG: ("< 5", "< 150")}.get(length, ("", ""))
    mib = process.MIB
    rows = [
        Row(
            "start to first job's start", tuple(life.first_start for life in lives), "s", limits[0]
        ),
        Row("RSS, daemon", tuple(life.rss / mib for life in lives), "MiB", limits[1]),
        Row("highest RSS, daemon", tuple(life.peak / mib for life in lives), "MiB"),
        Row("RSS, keeper", tuple(life.keeper_rss / mib for life in lives), "MiB"),
        Row("CPU per launch", tuple(life.cpu * MS for life in lives), "ms"),
    ]
    if calls is not None:
        rows.append(Row("system calls per launch", (calls,), "calls"))
    return [replace(row, measurement=f"{length:,} queued") for row in rows]


def _ratio_rows(lengths: list[int], lives: Lives, calls: Calls) -> list[Row]:
    short, long = lengths
    name = f"{long:,} / {short:,}"
    ratios = tuple(b.cpu / a.cpu for a, b in zip(lives[short], lives[long], strict=True))
    rows = [Row("CPU per launch", ratios, "ratio", "<= 1.3", measurement=name)]
    few, many = calls[short], calls[long]
    if few and many:
        ratio = (many / few,)
        rows.append(Row("system calls per launch", ratio, "ratio", "<= 1.3", measurement=name))
    return rows
