"""Kill -9 at random moments, under load: no job is lost, none runs twice, none is recorded twice.

Each job appends its name to a file of its own, so that a second execution would be seen, whatever
the records say. Three spools are driven side by side, since a start of the daemon is CPU time and
the rest is sleep. The moments come from a seed.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from live import Live, eventually
from pmjq.state import State

SEED = 20261122
SPOOLS = 3
KILLS = 68
"""Of each spool."""

JOBS_IN_A_LIFE = 4

OUTPUT_LINES = 60


class Load:
    """A load of short jobs on one spool, of which is known what each must come to."""

    def __init__(self, live: Live, seed: int) -> None:
        """Take a daemon that is not started yet."""
        self.live = live
        self.chance = random.Random(seed)
        self.expected: dict[str, int] = {}
        self.kills = 0

    def drop(self, count: int) -> None:
        """Drop jobs of up to half a second, with known exit codes and outputs."""
        for _ in range(count):
            name, code = f"job{len(self.expected):05}", self.chance.choice([0, 0, 0, 1, 7, 126])
            pause = self.chance.choice([0, 0, 0.02, 0.1, 0.3, 0.5])
            rest = f"sleep {pause}\n" if pause else ""
            lines = f"i=0; while [ $i -lt {OUTPUT_LINES} ]; do echo {name} $i; i=$((i + 1)); done\n"
            self.expected[name] = code
            self.live.drop(name, f"{self.live.side_effect(name)}{rest}{lines}exit {code}\n")

    def wait_at_random(self) -> None:
        """Let a random time pass: one kill in four comes while the daemon is starting."""
        if self.chance.random() < 0.25:
            _pass(self.chance.uniform(0.0, 0.5))
        else:
            self.live.wait_ready()
            _pass(self.chance.choice([0.005, 0.02, 0.1, 0.3]) * self.chance.random())

    def life(self) -> None:
        """Start a daemon, give it jobs, kill it."""
        self.live.start(ready=False)
        self.drop(JOBS_IN_A_LIFE)
        self.wait_at_random()
        self.live.kill()
        self.kills += 1

    def finish(self) -> None:
        """Run everything to its end with a daemon that nobody kills."""
        self.live.start()
        everything = len(self.expected)
        eventually(lambda: len(self.live.filed()) >= everything, within=180, what="all are filed")
        eventually(lambda: not self.live.jobs(), what="no job runs")
        assert self.live.stop() == 0


def _pass(seconds: float) -> None:
    """Let time pass: the moment of a kill is the random input here, nothing is waited for."""
    time.sleep(seconds)


def _side_by_side(works: list[Callable[[], None]]) -> None:
    failures: list[BaseException] = []

    def run(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001  # raised again below, in the test's own thread
            failures.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def _check_each_once(load: Load) -> None:
    live = load.live
    records = Counter(filed.record.name for filed in live.filed())
    assert records == Counter(dict.fromkeys(load.expected, 1))
    runs = {name: live.runs(name) for name in load.expected}
    assert runs == dict.fromkeys(load.expected, 1)


def test_killed_daemon_loses_nothing(tmp_path: Path) -> None:
    """Each job is executed once and recorded once with its true end, whenever the daemon dies."""
    loads = [
        Load(Live(tmp_path / f"n{n}", "-j", "8", "--node", f"n{n}"), SEED + n)
        for n in range(SPOOLS)
    ]

    def drive(load: Load) -> None:
        for _ in range(KILLS):
            load.life()
        load.finish()

    began = time.monotonic()
    try:
        _side_by_side([lambda load=load: drive(load) for load in loads])  # type: ignore[misc]  # a bound default
        for load in loads:
            _check_each_once(load)
            for filed in load.live.filed():
                name, record = filed.record.name, filed.record
                code = load.expected[name]
                assert (name, record.exit_code) == (name, code), record
                assert record.state is (State.DONE if code == 0 else State.FAILED)
                assert record.user_cpu is not None
                assert filed.text == "".join(f"{name} {n}\n" for n in range(OUTPUT_LINES))
            assert load.live.leftovers() == []
    finally:
        for load in loads:
            load.live.close()
    kills, jobs = sum(load.kills for load in loads), sum(len(load.expected) for load in loads)
    assert kills >= 200
    print(f"\n{kills} kills -9 of the daemon, {jobs} jobs, {time.monotonic() - began:.0f} s")


def test_killed_keeper_costs_a_status_and_no_more(tmp_path: Path) -> None:
    """With the keeper killed too a job is executed at most once; it is lost or truly recorded."""
    load = Load(Live(tmp_path, "-j", "8"), SEED)
    live = load.live
    keepers = 0
    try:
        for turn in range(20):
            load.live.start()
            load.drop(JOBS_IN_A_LIFE)
            _pass(load.chance.uniform(0.0, 0.3))
            if turn % 2:
                live.kill()
            for pid in live.keepers():
                # One without jobs ends with its daemon.
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    keepers += 1
            live.kill()
        load.finish()
        records = Counter(filed.record.name for filed in live.filed())
        assert records == Counter(dict.fromkeys(load.expected, 1))
        lost = 0
        for filed in live.filed():
            name, state = filed.record.name, filed.record.state
            if state is State.LOST:
                lost += 1
                assert live.runs(name) <= 1
            else:
                assert live.runs(name) == 1
                assert filed.record.exit_code == load.expected[name]
        assert live.leftovers() == []
    finally:
        live.close()
    print(f"\n{keepers} kills -9 of keepers, {len(load.expected)} jobs, {lost} of them lost")
