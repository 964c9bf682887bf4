"""What a daemon costs that has nothing to do: CPU, wake-ups, memory; its keeper beside it.

Some jobs have run before, so that everything is loaded, and some seconds have passed. A keeper that
has ended by itself by then costs nothing and says so.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from . import process
from .place import Place
from .report import Bench, Row
from .running import Daemon, running


def idle(bench: Bench) -> list[Row]:
    """Measure one daemon over half a minute."""
    settle, seconds = bench.pick(10, 5), bench.pick(30, 10)
    place = Place(bench.root / "idle").make()
    with running(bench, place, "-j", "4") as daemon:
        daemon.warm(20)
        bench.say(f"idle: {settle} + {seconds} s")
        time.sleep(settle)
        return _rows(daemon, seconds)


def _rows(daemon: Daemon, seconds: float) -> list[Row]:
    parties: dict[str, Iterable[int]] = {"daemon": [daemon.pid], "keeper": sorted(daemon.keepers())}
    pids = [pid for group in parties.values() for pid in group]
    cpu, switches, begin = process.cpu_of(pids), _switches(pids), time.monotonic()
    time.sleep(seconds)
    elapsed = time.monotonic() - begin
    cpu_after, switches_after = process.cpu_of(pids), _switches(pids)
    spent = {pid: 100 * (cpu_after[pid] - cpu[pid]) / elapsed for pid in pids}
    woken = {pid: (switches_after[pid] - switches[pid]) / elapsed for pid in pids}
    rows = []
    for name, group in parties.items():
        rows += [
            Row(f"CPU, {name}", (_sum(spent.__getitem__, group),), "% of one", "", _none(group)),
            Row(f"voluntary switches, {name}", (_sum(woken.__getitem__, group),), "per s"),
            Row(f"RSS, {name}", (_sum(_rss_mib, group),), "MiB"),
        ]
    rows += [
        Row("CPU, together", (_sum(spent.__getitem__, pids),), "% of one", "< 0.5"),
        Row("RSS, together", (_sum(_rss_mib, pids),), "MiB", "< 45", "shared pages twice"),
        Row("PSS, together", (process.proportional(pids) / process.MIB,), "MiB", "", "shared once"),
    ]
    return rows


def _switches(pids: Iterable[int]) -> dict[int, int]:
    return {pid: process.switches(pid) for pid in pids}


def _sum(figure: Callable[[int], float], pids: Iterable[int]) -> float:
    return sum(figure(pid) for pid in pids)


def _rss_mib(pid: int) -> float:
    return process.memory(pid).rss / process.MIB


def _none(group: Iterable[int]) -> str:
    return "" if list(group) else "none is running"
