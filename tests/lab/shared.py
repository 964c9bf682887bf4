"""What any shared file system must pass: three daemons, each on a mount of its own.

Every job appends its name and its node to one file on the local disk, which all daemons of a test
can write, so that an execution too many shows. What became of the jobs is read where it really
lies (``Share.truth``), not through a mount.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self

import msgspec

from lab.hosts import HOSTS, Hosts
from live import Live, eventually
from pmjq.job import Record
from pmjq.state import State

if TYPE_CHECKING:
    from conftest import Say

LEASE = 6.0
RESTARTABLE = "#PMJQ restartable\n"

PATIENT = """
import os, signal, sys, time

def say(word):
    fd = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND)
    os.write(fd, f"{word} {os.environ['PMJQ_NAME']} {os.environ['PMJQ_NODE']}\\n".encode())
    os.close(fd)

def stopped(*_):
    say("stopped")
    sys.exit(1)

signal.signal(signal.SIGTERM, stopped)
say("begun")
while not os.path.exists(sys.argv[2]):
    time.sleep(0.2)
"""
"""A job that goes on where its mount is cut off. A shell would not: each of its children hangs when
it closes the output that it inherited."""


@dataclass(frozen=True)
class Share:
    """One file system: its mounts, one for each host, and where it really lies.

    ``hosts`` is None where nobody can be cut off; ``calls`` tells of the operations since it was
    asked last, where that is known.
    """

    kind: str
    mounts: tuple[Path, ...]
    truth: Path
    hosts: Hosts | None = None
    calls: Callable[[], Counter[str]] | None = None


@dataclass
class Nodes:
    """Three daemons on the mounts of a share, in a fresh directory there.

    ``far``: they share an archive beside the spool; else each has one on the local disk.
    """

    share: Share
    local: Path
    options: tuple[str, ...] = ()
    far: bool = True
    lives: list[Live] = field(default_factory=list)

    def __enter__(self) -> Self:
        self.name = f"{self.local.name}-{os.getpid()}-{time.monotonic_ns()}"
        self.ledger = self.local / "ledger"
        self.ledger.touch()
        self._staged = 0
        for number, mount in enumerate(self.share.mounts):
            root, own = mount / self.name, self.local / f"archive{number}"
            hosts = self.share.hosts
            live = Live(
                root,
                *("--node", f"n{number + 1}", "--log-format", "json"),
                *("-o", str(root / "archive" if self.far else own)),
                *self.options,
                before=hosts.inside(HOSTS[number]) if hosts else (),
            )
            live.log = self.local / f"n{number + 1}.log"
            self.lives.append(live)
        return self

    def __exit__(self, *_: object) -> None:
        for live in self.lives:
            live.close()

    def start(self) -> None:
        """Start all daemons."""
        for live in self.lives:
            live.start()

    # -- jobs in

    def text(self, *, restartable: bool = False, gate: str = "") -> str:
        """Return a job that writes into the ledger, and with a gate runs until that is there."""
        head = f"#!/bin/sh\n{RESTARTABLE if restartable else ''}"
        if not gate:
            return f'{head}echo "begun $PMJQ_NAME $PMJQ_NODE" >>{self.ledger}\n'
        program = self.local / "patient.py"
        program.write_text(PATIENT)
        return f"{head}exec {sys.executable} -I -S {program} {self.ledger} {self.local / gate}\n"

    def open(self, gate: str) -> None:
        """Let the jobs that wait go on."""
        (self.local / gate).touch()

    def stage(self, names: Iterable[str], text: str, by: int = 0) -> list[Path]:
        """Write jobs beside the spool, so that one rename submits each."""
        self._staged += 1
        place = self.lives[by].root / "drop" / str(self._staged)
        place.mkdir()
        paths = [place / name for name in names]
        for path in paths:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o755)
            try:
                os.write(fd, text.encode())
            finally:
                os.close(fd)
        return paths

    def submit(self, names: Iterable[str], text: str, by: int = 0) -> None:
        """Put jobs into the spool."""
        for path in self.stage(names, text, by):
            path.rename(self.lives[by].spool / path.name)

    # -- what became of them

    def lines(self) -> list[list[str]]:
        """Return the ledger: what, which job, which node, in the order of time."""
        return [line.split() for line in self.ledger.read_text().splitlines()]

    def begun(self) -> Counter[str]:
        """Return how often each job was started."""
        return Counter(name for word, name, _ in self.lines() if word == "begun")

    def on(self, node: str) -> set[str]:
        """Return the jobs that were started on a node."""
        return {name for word, name, where in self.lines() if (word, where) == ("begun", node)}

    def archives(self) -> list[Path]:
        """Return the archives as they really are."""
        if self.far:
            return [self.share.truth / self.name / "archive"]
        return [live.archive for live in self.lives]

    def filed(self) -> Counter[str]:
        """Return how often each job is in an archive."""
        names: Counter[str] = Counter()
        for archive in self.archives():
            if not archive.exists():
                continue
            found = set(os.listdir(archive))
            stems = {name.removesuffix(".json") for name in found if name.endswith(".json")}
            names.update(stem.partition("Z-")[2][37:] for stem in stems & found)
        return names

    def records(self) -> dict[str, Record]:
        """Return the records by the jobs' names; AssertionError if a job has several."""
        found: dict[str, Record] = {}
        for archive in self.archives():
            for path in archive.glob("*.json"):
                record = msgspec.json.decode(path.read_bytes(), type=Record)
                assert record.name not in found, f"{record.name} has two records"
                found[record.name] = record
        return found

    def all_filed(self, names: Iterable[str], within: float) -> None:
        """Wait until all these jobs and no others are filed, each once."""
        wanted = Counter(names)

        def done() -> bool:
            # The ledger is cheaper to look at than a listing.
            return len(self.begun()) >= 0.9 * len(wanted) and self.filed() >= wanted

        try:
            eventually(done, within=within)
        except AssertionError as error:
            missing = sorted((wanted - self.filed()).elements())
            raise AssertionError(
                f"{len(missing)} of {len(wanted)} are not filed: {missing[:5]}"
            ) from error
        assert self.filed() == wanted

    def at_rest(self, within: float = 60.0) -> None:
        """Wait until nothing is left in the spool, in hand or unfiled.

        Spares stay in tmp/, and in job/ the papers of the lost, who may end yet.
        """
        spool = self.share.truth / self.name / "spool"
        own = spool / ".pmjq"

        def left() -> list[str]:
            found = [name for name in os.listdir(spool) if name != ".pmjq"]
            found += [f"ended/{name}" for name in os.listdir(own / "ended")]
            return found + [str(path) for path in own.glob("node/*/run/*")]

        try:
            eventually(lambda: not left(), within=within)
        except AssertionError as error:
            raise AssertionError(f"left in the spool: {left()[:9]}") from error

    def papers(self) -> int:
        """Return of how many jobs there is still paperwork."""
        return len(os.listdir(self.share.truth / self.name / "spool" / ".pmjq" / "job"))

    def sane(self) -> None:
        """Check that the daemons had no trouble that nobody thought of."""
        for live in self.lives:
            assert live.events("turn.failed") == []

    def claims(self) -> tuple[int, int]:
        """Return how many claims were won, and how many lost to another node."""
        won = contended = 0
        for path in (self.share.truth / self.name / "spool" / ".pmjq").glob("node/*/node.json"):
            life = json.loads(path.read_bytes())
            won, contended = won + life["won"], contended + life["contended"]
        return won, contended

    def shares(self) -> dict[str, int]:
        """Return how many jobs each node started."""
        return dict(sorted(Counter(where for word, _, where in self.lines()).items()))


def many(share: Share, local: Path, say: Say, jobs: int = 1000, within: float = 600.0) -> None:
    """Each of many jobs is run and recorded once, and every node runs its part."""
    with Nodes(share, local, ("-j", "8", "--lease", "30")) as nodes:
        nodes.start()
        names = [f"job{number}" for number in range(jobs)]
        staged = nodes.stage(names, nodes.text())
        if share.calls:
            share.calls()
        began = time.monotonic()
        for path in staged:
            path.rename(nodes.lives[0].spool / path.name)
        put = time.monotonic() - began
        nodes.all_filed(names, within)
        seconds = time.monotonic() - began
        calls = share.calls() if share.calls else Counter[str]()
        nodes.at_rest()
        assert nodes.begun() == Counter(names)
        assert {record.state for record in nodes.records().values()} == {State.DONE}
        eventually(lambda: nodes.claims()[0] >= jobs, within=30, what="the claims are published")
        won, lost = nodes.claims()
        nodes.sane()
        say(
            f"{share.kind}: {jobs} jobs in {seconds:.1f} s ({put:.1f} s to submit), "
            f"{lost / won:.2f} lost claims per won one, {nodes.shares()}, 0 duplicates"
        )
        if calls:
            most = ", ".join(f"{name} {count / jobs:.1f}" for name, count in calls.most_common(12))
            say(f"{share.kind}: {calls.total() / jobs:.1f} operations per job: {most}")
        assert min(nodes.shares().values()) * len(nodes.lives) * 2 >= jobs


def local_archives(share: Share, local: Path, say: Say, jobs: int = 150) -> None:
    """Nodes that archive on disks of their own file each job once, on one of them."""
    with Nodes(share, local, ("-j", "4", "--settle", "0"), far=False) as nodes:
        nodes.start()
        names = [f"job{number}" for number in range(jobs)]
        began = time.monotonic()
        nodes.submit(names, nodes.text(), by=1)
        nodes.all_filed(names, within=120)
        seconds = time.monotonic() - began
        nodes.at_rest()
        assert nodes.begun() == Counter(names)
        assert set(nodes.records()) == set(names)
        nodes.sane()
        say(f"{share.kind}, archives local: {jobs} jobs in {seconds:.1f} s, 0 duplicates")


def killed(share: Share, local: Path, say: Say, jobs: int = 60) -> None:
    """A machine dies: what may run again does, the rest is lost, each once."""
    options = ("-j", "8", "--lease", f"{LEASE:g}", "--settle", "0")
    with Nodes(share, local, options) as nodes:
        first = nodes.lives[2].start()
        lost, again = [f"lost{i}" for i in range(3)], [f"again{i}" for i in range(3)]
        nodes.submit(lost, nodes.text(gate="never"), by=2)
        nodes.submit(again, nodes.text(restartable=True, gate="later"), by=2)
        eventually(lambda: nodes.on("n3") == {*lost, *again}, within=60)
        for live in nodes.lives[:2]:
            live.start()
        names = [f"job{number}" for number in range(jobs)]
        nodes.submit(names, nodes.text())
        eventually(lambda: len(nodes.begun()) > len(lost) + len(again))
        first.close()
        died = time.monotonic()
        eventually(lambda: nodes.on("n1") | nodes.on("n2") >= set(again), within=10 * LEASE)
        seconds = time.monotonic() - died
        nodes.open("later")
        nodes.all_filed([*lost, *again, *names], within=120)
        nodes.at_rest()
        records = nodes.records()
        assert [records[name].state for name in again] == [State.DONE] * len(again)
        assert [records[name].state for name in lost] == [State.LOST] * len(lost)
        assert all("n3" in records[name].reason for name in lost)
        doubtful = {name for name in names if records[name].state is State.LOST}
        # A job is told of as started once it writes, so what n3 had claimed may have none.
        assert doubtful.isdisjoint(nodes.on("n1") | nodes.on("n2"))
        begun = nodes.begun()
        assert {begun[name] for name in again} == {2}
        assert all(begun[name] == 1 for name in [*lost, *names] if name not in doubtful)
        assert all(begun[name] <= 1 for name in doubtful)
        say(
            f"{share.kind}, a node killed: {len(records)} jobs, "
            f"{len(lost) + len(doubtful)} lost, {len(again)} run again {seconds:.1f} s after it "
            f"died (lease {LEASE:g} s), 0 duplicates"
        )


def cut_off(share: Share, local: Path, say: Say, jobs: int = 90) -> None:
    """A host is cut off for longer than its lease, with jobs that run, and comes back."""
    assert share.hosts is not None
    options = ("-j", "8", "--lease", f"{LEASE:g}", "--settle", "0")
    with Nodes(share, local, options) as nodes:
        away = nodes.lives[1].start()
        lost, again = [f"lost{i}" for i in range(3)], [f"again{i}" for i in range(3)]
        nodes.submit(lost, nodes.text(gate="later"), by=1)
        nodes.submit(again, nodes.text(restartable=True, gate="later"), by=1)
        eventually(lambda: nodes.on("n2") == {*lost, *again}, within=60)
        for live in (nodes.lives[0], nodes.lives[2]):
            live.start()
        names = [f"job{number}" for number in range(jobs)]
        nodes.submit(names, nodes.text())
        share.hosts.cut(HOSTS[1])
        began = time.monotonic()
        try:
            others = nodes.lives[0], nodes.lives[2]
            eventually(lambda: any(one.events("node.silent") for one in others), within=9 * LEASE)
            eventually(lambda: nodes.filed() >= Counter(lost), within=5 * LEASE)
            eventually(lambda: nodes.on("n1") | nodes.on("n3") >= set(again), within=5 * LEASE)
            seconds = time.monotonic() - began
        finally:
            share.hosts.join(HOSTS[1])
        away.said("life.begun", within=60)
        back = time.monotonic() - began
        more = [f"more{number}" for number in range(30)]
        nodes.submit(more, nodes.text())
        nodes.open("later")
        nodes.all_filed([*lost, *again, *names, *more], within=120)
        # Those that were lost and did end: their records are completed.
        eventually(lambda: all(nodes.records()[name].late for name in lost), within=60)
        nodes.at_rest()
        _judge_cut_off(nodes, lost, again, [*names, *more])
        records = nodes.records()
        gone = sum(record.state is State.LOST for record in records.values())
        say(
            f"{share.kind}, a host cut off: {len(records)} jobs, {gone} lost, {len(again)} run "
            f"again; taken over {seconds:.1f} s after the cut (lease {LEASE:g} s), "
            f"a new life at {back:.1f} s, 0 duplicates"
        )


def _judge_cut_off(nodes: Nodes, lost: list[str], again: list[str], rest: list[str]) -> None:
    records, begun, lines = nodes.records(), nodes.begun(), nodes.lines()
    assert [records[name].state for name in again] == [State.DONE] * len(again)
    assert [records[name].state for name in lost] == [State.LOST] * len(lost)
    assert all("n2" in records[name].reason for name in lost)
    for name in again:
        # Stopped by its own node before another one started it.
        story = [(word, node) for word, job, node in lines if job == name]
        assert story[:2] == [("begun", "n2"), ("stopped", "n2")], f"{name}: {story}"
        assert [word for word, _ in story[2:]] == ["begun"], f"{name}: {story}"
    for name in [*lost, *rest]:
        state = records[name].state
        assert begun[name] <= 1, f"{name} was run {begun[name]} times"
        assert state is State.LOST or (state is State.DONE and begun[name] == 1)
    nodes.sane()
