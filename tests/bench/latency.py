"""Seconds from a drop to the job's first instruction, on a daemon that has nothing else to do.

The clock runs from just before the rename into the spool until the byte that the job's first
instruction wrote has arrived here. The same executable started by the bench itself, without any
daemon, gives the part that fork, exec, /bin/sh and the wake-up of the bench take.
"""

from __future__ import annotations

import os
import random
import subprocess
import time

from .place import Bell, Place
from .report import Bench, Row, percentile
from .running import Daemon, running

INTERVAL = (0.3, 1.5)
QUIET = 10.0
WITHIN = 30.0
MS = 1000


def latency(bench: Bench) -> list[Row]:
    """Measure drops at random intervals, drops after a silence, and the start without a daemon."""
    drops, quiet = bench.pick(40, 10), bench.pick(4, 1)
    place = Place(bench.root / "latency").make()
    bell = Bell(place.root / "bell")
    try:
        direct = [_direct(place, bell, number) for number in range(bench.pick(20, 10))]
        with running(bench, place, "-j", "2") as daemon:
            daemon.warm()
            bench.say(f"latency: {drops} drops at random intervals")
            chance = random.Random(1)  # the same intervals in every run
            pauses = [chance.uniform(*INTERVAL) for _ in range(drops)]
            usual = [_dropped(daemon, bell, f"usual-{n}", pause) for n, pause in enumerate(pauses)]
            bench.say(f"latency: {quiet} drops after {QUIET:.0f} s of quiet")
            late = [_dropped(daemon, bell, f"quiet-{n}", QUIET) for n in range(quiet)]
    finally:
        bell.close()
    intervals = f"{drops} drops every {INTERVAL[0]}..{INTERVAL[1]} s"
    return [
        Row("drop to first instruction", tuple(usual), "ms", "< 50", intervals),
        Row("drop to first instruction, p90", (percentile(usual, 90),), "ms"),
        Row(f"after {QUIET:.0f} s of quiet", tuple(late), "ms", "< 50"),
        Row(
            "started without a daemon", tuple(direct), "ms", "", "fork, exec, sh: part of the above"
        ),
    ]


def _dropped(daemon: Daemon, bell: Bell, name: str, pause: float) -> float:
    time.sleep(pause)
    bell.silence()
    begin = daemon.place.drop(name, bell.job)
    return (bell.wait(WITHIN) - begin) * MS


def _direct(place: Place, bell: Bell, number: int) -> float:
    path = place.write(f"direct-{number}", bell.job)
    time.sleep(0.05)
    begin = time.monotonic()
    with subprocess.Popen([os.fspath(path)]):
        return (bell.wait(WITHIN) - begin) * MS
