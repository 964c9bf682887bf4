"""The load gate under real work: 200 jobs that compute for 10 s each, under -C 4.

The load average is read every second. The CPUs count as busy while jobs are queued: what the last
ones do alone is no matter of the gate. Takes 17 minutes on two CPUs, so it is measured only when it
is named, and wants a machine that does nothing else.
"""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path

from .place import Place
from .report import Bench, NotMeasuredError, Row
from .running import Daemon, running

LIMIT = 4
SECONDS = 10
EVERY = 1.0
"""Seconds between two readings of the load average."""

PROGRAM = "import time\nwhile time.process_time() < {seconds}: pass"


def gate(bench: Bench) -> list[Row]:
    """Run the jobs, and tell how high the load went and how busy the CPUs were."""
    jobs = bench.pick(200, 30)
    place = Place(bench.root / "gate").make()
    program = shlex.quote(PROGRAM.format(seconds=SECONDS))
    for number in range(jobs):
        place.drop(
            f"job-{number}", f"#!/bin/sh\nexec {shlex.quote(sys.executable)} -Ic {program}\n"
        )
    bench.say(f"gate: {jobs} jobs of {SECONDS} s under -C {LIMIT}")
    with running(bench, place, "-C", str(LIMIT)) as daemon:
        before = _cpu()
        loads, after = _watched(daemon, lambda: any(Path(place.spool).glob("job-*")))
        more, _ = _watched(daemon, lambda: place.ended() < jobs)
    place.check()
    total, idle = (new - old for new, old in zip(after, before, strict=True))
    if not total:
        raise NotMeasuredError("the jobs were over before anything could be measured")
    note = f"{jobs} jobs of {SECONDS} s, -C {LIMIT}"
    return [
        Row("highest load average", (max(loads + more),), "", "<= 5", note),
        Row("CPUs busy while jobs are queued", (100 * (1 - idle / total),), "%", "> 94"),
    ]


def _watched(daemon: Daemon, goes_on: Callable[[], bool]) -> tuple[list[float], tuple[int, int]]:
    """Return the load averages for as long as something holds, and the last look at the CPUs."""
    loads, cpu = [os.getloadavg()[0]], _cpu()
    while goes_on():
        daemon.check_alive()
        cpu = _cpu()
        time.sleep(EVERY)
        loads.append(os.getloadavg()[0])
    return loads, cpu


def _cpu() -> tuple[int, int]:
    """Return the ticks of all CPUs together, and those that they did nothing in; see proc(5)."""
    with open("/proc/stat", "rb") as file:
        ticks = [int(field) for field in file.readline().split()[1:9]]
    return sum(ticks), ticks[3] + ticks[4]
