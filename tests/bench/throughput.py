"""No-op jobs per second with four slots, beside the peers, in interleaved rounds.

pmjq is measured three times a round: dropped into a running daemon, the same with an open load
gate (its peer is ``parallel --load``), and dropped before the start, where the start of Python is
part of the figure. A drop is a file written and renamed in, inside the clock; a job is over when
its file is in the archive, after its record was made durable. Ended jobs are then checked to have
succeeded.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from .peers import GATE, PEERS, SLOTS
from .place import NO_OP, Place
from .report import Bench, Row
from .running import running

PLACES = "throughput"

RUNNING = "pmjq"
GATED = f"pmjq -C {GATE}"
BEFORE = "pmjq, dropped before start"

WANTED = {
    "xargs -P4": ">= 0.5",
    "task-spooler": ">= 1.1",
    "nq": ">= 2",
    "parallel --load": ">= 20",
}

Contestant = Callable[[Path, int], float]
"""Takes an empty directory and a number of jobs, returns jobs per second."""


def throughput(bench: Bench) -> list[Row]:
    """Measure all contestants, each round in another order."""
    jobs, rounds = bench.pick(1000, 200), bench.pick(5, 3)
    contestants = _contestants(bench)
    rates: dict[str, list[float]] = {name: [] for name in contestants}
    try:
        _race(bench, contestants, rates, jobs, rounds)
    finally:
        shutil.rmtree(bench.root / PLACES, ignore_errors=True)
    return _rows({name: rates[name] for name in contestants})


def _race(
    bench: Bench,
    contestants: dict[str, Contestant],
    rates: dict[str, list[float]],
    jobs: int,
    rounds: int,
) -> None:
    names = list(contestants)
    for number in range(rounds):
        bench.say(f"throughput: round {number + 1} of {rounds}")
        for name in names[number % len(names) :] + names[: number % len(names)]:
            if name in contestants:
                try:
                    rates[name].append(_round(bench, contestants[name], jobs))
                except subprocess.SubprocessError as reason:
                    bench.missing.append(f"{name}: {reason}")
                    del contestants[name]


def _round(bench: Bench, contestant: Contestant, jobs: int) -> float:
    """Measure in a directory of its own.

    All of them are removed after the last round: on a disk mounted with discard the removal of
    some thousand files slows whatever comes next down to a third for a good while.
    """
    places = bench.root / PLACES
    places.mkdir(exist_ok=True)
    root = places / str(len(os.listdir(places)))
    root.mkdir()
    return contestant(root, jobs)


def _contestants(bench: Bench) -> dict[str, Contestant]:
    peers = {peer.name: peer.rate for peer in PEERS if peer.installed()}
    bench.missing.extend(
        f"{peer.name}: {peer.program} is not installed (Debian: {peer.package})"
        for peer in PEERS
        if not peer.installed()
    )

    def dropped(root: Path, jobs: int) -> float:
        return _dropped(bench, root, jobs)

    def gated(root: Path, jobs: int) -> float:
        return _dropped(bench, root, jobs, "-C", str(GATE))

    def before(root: Path, jobs: int) -> float:
        return _before(bench, root, jobs)

    return {RUNNING: dropped, GATED: gated, BEFORE: before, **peers}


def _dropped(bench: Bench, root: Path, jobs: int, *options: str) -> float:
    place = Place(root).make()
    with running(bench, place, "-j", str(SLOTS), *options) as daemon:
        daemon.warm()
        done = place.ended()
        os.sync()
        begin = time.monotonic()
        _drop_all(place, jobs)
        seconds = daemon.wait_ended(done + jobs) - begin
    place.check()
    return jobs / seconds


def _before(bench: Bench, root: Path, jobs: int) -> float:
    place = Place(root).make()
    _drop_all(place, jobs)
    os.sync()
    with running(bench, place, "-j", str(SLOTS)) as daemon:
        seconds = daemon.wait_ended(jobs) - daemon.begin
    place.check()
    return jobs / seconds


def _drop_all(place: Place, jobs: int) -> None:
    for number in range(jobs):
        place.drop(f"job-{number}", NO_OP)


def _rows(rates: dict[str, list[float]]) -> list[Row]:
    rows = [Row(name, tuple(samples), "jobs/s") for name, samples in rates.items()]
    for peer in PEERS:
        if peer.name in rates:
            own = GATED if peer.name == "parallel --load" else RUNNING
            ratios = tuple(a / b for a, b in zip(rates[own], rates[peer.name], strict=True))
            rows.append(Row(f"{own} / {peer.name}", ratios, "ratio", WANTED.get(peer.name, "")))
    return rows
