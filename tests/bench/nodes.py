"""Several daemons on one spool: 1, 2, 4 and 8 on a local disk, or one on each mount of a share.

Every job appends its name to a local file, so an execution too many is seen whatever the records
say. A job is over when its daemon has logged its end, after its outcome was made durable: a listing
of the archive through another mount may be 20 s old. Jobs are written before the clock starts and
renamed into the spool inside it, through the first mount.

Claims won and lost are what the daemons publish in ``node.json``, the warm-up included. File
operations are counted twice where they can be: the system calls of daemons and keepers that reach
the spool, and what of all that came to the file server, the renames that submit included.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lab.hosts import HOSTS
from lab.shared import Share

from . import strace
from .peers import SLOTS
from .place import Place
from .report import Bench, NotMeasuredError, Row
from .running import Daemon, running
from .strace import CALL, FILES, OWN_PROGRAM, Trace

COUNTS = (1, 2, 4, 8)

AIM = "14"
"""File operations per job on the spool."""

LOOK = 0.02
"""Seconds between two looks at the daemons' logs, which are local."""

PATIENCE = 300.0
"""Seconds for one round."""

SEEN_WITHIN = 60.0
"""Seconds after which everything must be seen through every mount."""

WARM = 16
"""Jobs per daemon before the clock starts."""

ENDED = b'"job.ended"'
STARTED = b'"daemon.started"'


@dataclass(frozen=True)
class Seat(Place):
    """What one of several daemons has: a log of its own below ``root``, and the shared spool.

    ``shared``: the directory with spool and archive as this daemon sees it.
    """

    shared: Path

    @property
    def spool(self) -> Path:
        """Return the spool."""
        return self.shared / "spool"

    @property
    def archive(self) -> Path:
        """Return the archive."""
        return self.shared / "archive"

    @property
    def staging(self) -> Path:
        """Return where drops are written."""
        return self.shared / "staging"


class Team:
    """Daemons that run on one spool, and what their jobs leave."""

    def __init__(self, root: Path, daemons: Sequence[Daemon], share: Share) -> None:
        """Take daemons that were started just now on a share, and a local directory."""
        self.daemons = daemons
        self.served = Counter[str]()
        self._share = share
        self.seat = daemons[0].place
        self._lines = root / "lines"
        self._names: list[str] = []

    def wait_started(self) -> None:
        """Wait until all serve the spool."""
        self._wait("daemon.started", lambda: self._logged(STARTED), len(self.daemons))

    def warm(self) -> None:
        """Have all of them run some jobs."""
        self.wait_started()
        self.run(WARM * len(self.daemons))

    def run(self, jobs: int) -> float:
        """Run jobs and return the seconds from the first drop to the last end.

        ``served`` has then what the file server did in that time, if that is known.
        """
        names = [f"job-{len(self._names) + number}" for number in range(jobs)]
        for name in names:
            self.seat.write(name, f"#!/bin/sh\necho {name} >>'{self._lines}'\n")
        self._names += names
        os.sync()
        self._serve()
        begin = time.monotonic()
        for name in names:
            (self.seat.staging / name).rename(self.seat.spool / name)
        self._wait("jobs that ended", lambda: self._logged(ENDED), len(self._names))
        seconds = time.monotonic() - begin
        self.served = self._serve()
        return seconds

    def duplicates(self) -> int:
        """Return how many executions were too many; raise if a job is missing or went wrong."""
        lines = self._lines.read_text().split()
        if missing := set(self._names) - set(lines):
            raise NotMeasuredError(f"{len(missing)} jobs were recorded and not executed")
        self._wait("archived jobs", self.seat.ended, len(self._names), SEEN_WITHIN)
        self.seat.check()
        return len(lines) - len(self._names)

    def contention(self) -> float:
        """Return how many claims were lost to another node for each that was won.

        An entry that is held makes every daemon publish what it counted.
        """
        (self.seat.spool / "held").touch(mode=0o644)
        self._wait("claims won", lambda: self._published("won"), len(self._names), SEEN_WITHIN)
        return self._published("contended") / self._published("won")

    def _serve(self) -> Counter[str]:
        """Return the operations of the file server since it was asked."""
        return self._share.calls() if self._share.calls else Counter()

    def _published(self, key: str) -> int:
        return sum(int(life.get(key, 0)) for life in self._lives())

    def _lives(self) -> Iterator[dict[str, Any]]:
        for path in (self.seat.spool / ".pmjq" / "node").glob("*/node.json"):
            with contextlib.suppress(OSError, ValueError):
                yield json.loads(path.read_bytes())

    def _logged(self, event: bytes) -> int:
        return sum(daemon.place.log.read_bytes().count(event) for daemon in self.daemons)

    def _wait(
        self, what: str, reached: Callable[[], int], count: int, within: float = PATIENCE
    ) -> None:
        deadline = time.monotonic() + within
        while (now := reached()) < count:
            for daemon in self.daemons:
                daemon.check_alive()
            if time.monotonic() > deadline:
                raise NotMeasuredError(f"{what}: {now} of {count} within {within:.0f} s")
            time.sleep(LOOK)


def nodes(bench: Bench) -> list[Row]:
    """Measure teams of every size on a local disk."""
    jobs, rounds = bench.pick(2000, 500), bench.pick(3, 1)
    rows: list[Row] = []
    local = bench.root / "nodes"
    for count in (COUNTS[0], COUNTS[-1]) if bench.quick else COUNTS:
        bench.say(f"nodes: {count} on a local disk")
        share = Share("local", (local,) * count, local)
        rows += team_rows(bench, f"{count} daemon{'s' * (count > 1)}", share, jobs, rounds)
    return rows


def team_rows(bench: Bench, name: str, share: Share, jobs: int, rounds: int) -> list[Row]:
    """Measure one daemon on each mount of a share."""
    rates: list[float] = []
    lost: list[float] = []
    served = Counter[str]()
    twice = 0
    for _ in range(rounds):
        with _working(bench, share) as team:
            team.warm()
            rates.append(jobs / team.run(jobs))
            served += team.served
            twice += team.duplicates()
            lost.append(team.contention())
    ran = jobs * rounds
    rows = [
        Row(name, tuple(rates), "jobs/s"),
        Row(f"{name}: executed twice", (float(twice),), f"of {ran}", "0"),
        Row(f"{name}: claims lost", tuple(lost), "per claim won", "< 0.2"),
        *_calls(bench, name, share, bench.pick(200, 100)),
    ]
    if served:
        at = f"{name}: file operations at the server"
        rows.append(Row(at, (served.total() / ran,), "per job", AIM, _leading(served, ran)))
    return rows


def _leading(counts: Counter[str], jobs: int) -> str:
    trace = Trace()
    trace.counts.update({("all", name.lower()): count for name, count in counts.items()})
    return trace.leading(jobs, 0.2)


def _calls(bench: Bench, name: str, share: Share, jobs: int) -> list[Row]:
    if shutil.which("strace") is None:
        bench.missing.append(f"{name}: file operations: strace is not installed (Debian: strace)")
        return []
    with _working(bench, share) as team:
        team.warm()
        with _counting(team) as trace:
            team.run(jobs)
        team.duplicates()
    row = f"{name}: file operations on the spool"
    return [Row(row, (trace.total() / jobs,), "per job", AIM, trace.leading(jobs, 0.2))]


@contextlib.contextmanager
def _working(bench: Bench, share: Share) -> Iterator[Team]:
    """Run one daemon on each mount, in a fresh directory of the share, for a ``with`` block."""
    turn = 1 + len(list(bench.root.glob("nodes-*")))
    root = bench.root / f"nodes-{turn}"
    root.mkdir()
    below = [mount / str(turn) for mount in share.mounts]
    _make(below)
    with contextlib.ExitStack() as stack:
        daemons = []
        for number, shared in enumerate(below, 1):
            seat = Seat(root / f"n{number}", shared)
            seat.root.mkdir()
            before = share.hosts.inside(HOSTS[number - 1]) if share.hosts else ()
            there = replace(bench, command=(*before, *bench.command))
            # A drop is a rename: there is nothing to wait for.
            options = ("-j", str(SLOTS), "--node", f"n{number}", "--settle", "0")
            daemons.append(stack.enter_context(running(there, seat, *options)))
            if number == 1:
                # It makes the spool; the others find it.
                Team(root, daemons, share).wait_started()
        yield Team(root, daemons, share)


def _make(below: Sequence[Path]) -> None:
    """Make the directories through one mount, and wait until they are seen through all."""
    for name in ("spool", "archive", "staging"):
        (below[0] / name).mkdir(parents=True)
    deadline = time.monotonic() + SEEN_WITHIN
    while not all((share / "staging").is_dir() for share in below):
        if time.monotonic() > deadline:
            raise NotMeasuredError(f"{below[0]} is not seen through every mount")
        time.sleep(LOOK)


@contextlib.contextmanager
def _counting(team: Team) -> Iterator[Trace]:
    """Count the calls of all daemons, and of their keepers, that reach the shared directory."""
    daemons = team.daemons
    pids = [pid for daemon in daemons for pid in (daemon.pid, *sorted(daemon.keepers()))]
    log = daemons[0].place.root / "strace.log"
    # -y: a call on an open file tells which.
    command = ["strace", "-f", "-y", "-qq", "-s", "256", "-e", "signal=none", "-e"]
    command += [f"trace={FILES}", "-o", str(log), *(f"--attach={pid}" for pid in pids)]
    tracer = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    trace = Trace()
    try:
        deadline = time.monotonic() + strace.ATTACH_WITHIN
        while not all(strace._traced(pid) for pid in pids):
            if tracer.poll() is not None or time.monotonic() > deadline:
                raise NotMeasuredError("strace cannot attach (see kernel.yama.ptrace_scope)")
            time.sleep(LOOK)
        yield trace
    finally:
        # As in ``strace.tracing``: INT would detach one by one.
        tracer.kill()
        tracer.communicate()
    trace.counts.update(_counted(log, [str(daemon.place.spool.parent) for daemon in daemons]))
    log.unlink()


def _counted(log: Path, shared: Sequence[str]) -> Counter[tuple[str, str]]:
    """Return the calls in a log of strace that name a path below a shared directory."""
    marks = {f"{before}{path}/" for path in shared for before in '"<'}
    counts: Counter[tuple[str, str]] = Counter()
    jobs: set[int] = set()
    with log.open(errors="replace") as lines:
        for line in lines:
            match = CALL.match(line)
            if not match or int(match[1]) in jobs:
                continue
            if any(mark in match[3] for mark in marks):
                counts["all", match[2]] += 1
            if match[2].startswith("execve") and not OWN_PROGRAM.match(match[3]):
                jobs.add(int(match[1]))
    return counts
