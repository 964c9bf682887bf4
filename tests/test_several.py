"""Several daemons on one local spool: real processes, killed, stopped and continued at random.

What must hold, whatever happens to daemons: every job is recorded once, by one of them. One that
is not restartable is never executed twice. It is executed exactly once if every daemon is heard
within its lease, or comes back within it. Else those that a silent node had in hand end as lost:
executed once or not at all, and if once, their records are completed when that is known.
Restartable ones are executed again.

Each job appends its name to one file, so a second execution is seen whatever the records say.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import msgspec
import pytest

from conftest import Say
from doubles import life_of
from live import Filed, Live, eventually
from pmjq.disk import Disk
from pmjq.job import Record
from pmjq.lease import Heart
from pmjq.node import Machine, token
from pmjq.spool import Spool
from pmjq.state import State

SEED = 20261124

RESTARTABLE = "#!/bin/sh\n#PMJQ restartable\n"
PLAIN = "#!/bin/sh\n"

BESIDE = (".json", ".out", ".d")
"""What stands beside an archived job and is not the job."""


KILLED = 1 / 4
"""How many of those that are sent away are killed: to start again is half a second of CPU time."""


class Fleet:
    """Daemons on one spool, each a node of its own: n1, n2 and so on."""

    def __init__(self, root: Path, count: int, *options: str) -> None:
        self.root = root
        self.spool = root / "spool"
        self.archive = root / "archive"
        self.nodes = {
            name: Live(
                root / name, "-o", str(self.archive), "--node", name, *options, spool=self.spool
            )
            for name in (f"n{number}" for number in range(1, count + 1))
        }
        self.first = next(iter(self.nodes.values()))
        self._staged: list[Path] = []
        (root / "staging").mkdir()

    def __enter__(self) -> Self:
        try:
            # One makes the spool; that several may is a test of its own.
            return self.start("n1").start(*(name for name in self.nodes if name != "n1"))
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        for live in self.nodes.values():
            live.close()

    def start(self, *names: str) -> Self:
        """Start some of them, all at once."""
        for name in names:
            self.nodes[name].start(ready=False)
        for name in names:
            self.nodes[name].wait_ready()
        return self

    def stop(self) -> None:
        """Tell all of them to stop, and see that they do."""
        for live in self.nodes.values():
            live.tell(signal.SIGTERM)
        assert [live.wait() for live in self.nodes.values()] == [0] * len(self.nodes)

    # -- jobs

    def append(self, name: str) -> str:
        """Return shell text that appends a name to the one file of all jobs."""
        return f"echo {name} >>'{self.root / 'lines'}'\n"

    def stage(self, name: str, content: str) -> None:
        """Write a job beside the spool, to be dropped later."""
        path = self.root / "staging" / name
        path.write_text(content)
        path.chmod(0o755)
        self._staged.append(path)

    def feed(self, most: int | None = None) -> bool:
        """Drop the next of the staged jobs, or all; False if there is none left."""
        now, self._staged = self._staged[:most], self._staged[len(self._staged[:most]) :]
        for path in now:
            path.rename(self.spool / path.name)
        return bool(now)

    # -- results

    def lines(self) -> Counter[str]:
        """Return how often each job was executed."""
        path = self.root / "lines"
        return Counter(path.read_text().split()) if path.exists() else Counter()

    def filed(self) -> list[Filed]:
        """Return every filed job."""
        return self.first.filed()

    def count(self) -> int:
        """Return how many jobs are filed, at the cost of a listing."""
        return sum(not name.endswith(BESIDE) for name in self._archived())

    def shares(self) -> dict[str, int]:
        """Return how many of the filed jobs each node ran."""
        return dict(sorted(Counter(one.record.node for one in self.filed()).items()))

    def _archived(self) -> list[str]:
        names = os.listdir(self.archive) if self.archive.exists() else []
        return [name for name in names if not name.startswith(".")]

    def check_each_recorded_once(self, names: list[str]) -> dict[str, Filed]:
        """Return the filed jobs by name; each has one file, one record, and its own name in it."""
        filed = self.filed()
        assert Counter(one.record.name for one in filed) == Counter(dict.fromkeys(names, 1))
        stems = {name.removesuffix(".json") for name in self._archived() if name[-5:] == ".json"}
        assert stems == {one.path.name for one in filed} == {one.record.stem for one in filed}
        assert self.count() == len(names)
        return {one.record.name: one for one in filed}


class Chaos:
    """Kills, stops and continues the daemons of a fleet at random; each comes back after a while.

    ``away``: the seconds that one may be away. ``pause``: those between two at most.
    """

    def __init__(self, fleet: Fleet, away: tuple[float, ...], pause: float) -> None:
        self.fleet = fleet
        self.kills = self.stops = 0
        self._away = away
        self._pause = pause
        self._chance = random.Random(SEED)
        self._back: dict[str, tuple[float, Callable[[], object]]] = {}

    def step(self) -> None:
        """Bring back who has been away long enough, send another away, let a moment pass."""
        now, chance = time.monotonic(), self._chance
        for name in [name for name, (at, _) in self._back.items() if at <= now]:
            self._bring_back(name)
        name = chance.choice(list(self.fleet.nodes))
        at = now + chance.choice(self._away)
        if chance.random() < KILLED:
            self._kill(name, at)
        elif name not in self._back:
            self.stops += 1
            live = self.fleet.nodes[name]
            live.tell(signal.SIGSTOP)
            self._back[name] = at, partial(live.tell, signal.SIGCONT)
        _pass(chance.uniform(0.0, self._pause))

    def until(self, condition: Callable[[], bool], within: float = 300.0) -> None:
        """Go on until a condition holds."""

        def holds() -> bool:
            self.step()
            return condition()

        eventually(holds, within=within)

    def end(self) -> None:
        """Bring everybody back."""
        for name in list(self._back):
            self._bring_back(name)
        for live in self.fleet.nodes.values():
            live.wait_ready()

    def _kill(self, name: str, at: float) -> None:
        """Kill -9 a daemon, running, stopped or just starting."""
        live = self.fleet.nodes[name]
        if live.alive():
            self.kills += 1
            live.kill()
            self._back[name] = at, partial(live.start, ready=False)

    def _bring_back(self, name: str) -> None:
        _, back = self._back.pop(name)
        back()


def _pass(seconds: float) -> None:
    """Let time pass: the moment is the random input here, nothing is waited for."""
    time.sleep(seconds)


def _repeated(lines: Counter[str]) -> int:
    return sum(lines.values()) - len(lines)


def test_five_thousand_jobs_whatever_happens_to_eight_daemons(tmp_path: Path, say: Say) -> None:
    """Of daemons that come back within their lease every job is executed and recorded once."""
    fleet = Fleet(tmp_path, 8, "-j", "4")
    names = [f"job{number:04}" for number in range(5000)]
    for number, name in enumerate(names):
        head = PLAIN if number % 10 else RESTARTABLE
        fleet.stage(name, head + fleet.append(name))
    fleet.feed(2000)
    began = time.monotonic()
    with fleet:
        chaos = Chaos(fleet, away=(0.0, 0.0, 0.05, 0.2, 0.5, 1.0), pause=0.2)
        chaos.until(lambda: not fleet.feed(50))
        chaos.until(lambda: fleet.count() >= len(names))
        chaos.end()
        lines, seconds = fleet.lines(), time.monotonic() - began
        say(
            f"{len(names)} jobs, {len(fleet.nodes)} daemons, {chaos.kills} kills -9, "
            f"{chaos.stops} stops: {_repeated(lines)} executed twice, {seconds:.0f} s, "
            f"{fleet.shares()}"
        )
        filed = fleet.check_each_recorded_once(names)
        assert lines == Counter(dict.fromkeys(names, 1))
        assert {one.record.state for one in filed.values()} == {State.DONE}
        assert fleet.shares().keys() == fleet.nodes.keys()
        fleet.stop()
        assert fleet.first.leftovers() == []
        assert fleet.count() == len(names)
    assert chaos.kills >= 10
    assert chaos.stops >= 20


def test_daemons_that_stay_away_past_their_lease(tmp_path: Path, say: Say) -> None:
    """No job is executed twice but restartable ones; what a silent node had in hand is lost.

    Of the lost ones those that ended after all are known to have.
    """
    fleet = Fleet(tmp_path, 4, "-j", "4", "--lease", "1")
    gate = fleet.first.gate("silent")
    begins = PLAIN + fleet.first.side_effect("silent")
    fleet.stage("silent", begins + gate.wait + fleet.append("silent"))
    names = [f"job{number:04}" for number in range(400)]
    again = set(names[::3])
    chance = random.Random(SEED)
    for name in names:
        # The line is the last that a job does: who has written it also ends with 0.
        rest = f"sleep {chance.choice([0, 0, 0, 0.05, 0.05, 0.2, 0.2, 2, 3])}\n"
        fleet.stage(name, (RESTARTABLE if name in again else PLAIN) + rest + fleet.append(name))
    names.append("silent")
    with fleet:
        # One is lost, whatever comes of chance.
        fleet.feed(1)
        eventually(lambda: fleet.first.runs("silent"))
        (baton,) = (fleet.spool / ".pmjq" / "node").glob("*/run/*")
        silent = fleet.nodes[baton.parent.parent.name.partition(".")[0]]
        silent.tell(signal.SIGSTOP)
        eventually(lambda: fleet.count() == 1)
        silent.tell(signal.SIGCONT)
        gate.open()
        chaos = Chaos(fleet, away=(0.0, 0.5, 1.5, 2.5), pause=0.5)
        chaos.until(lambda: not fleet.feed(10))
        chaos.end()
        eventually(lambda: fleet.count() >= len(names), within=180)
        fleet.check_each_recorded_once(names)
        lost = [one for one in fleet.filed() if one.record.state is State.LOST]

        def completed() -> bool:
            late = {one.record.name for one in lost if _again(one).late}
            return late == {one.record.name for one in lost} & set(fleet.lines())

        # Each looks for lost jobs that have ended when it begins, and every 15 s.
        eventually(lambda: not fleet.first.jobs())
        fleet.stop()
        fleet.start(*fleet.nodes)
        eventually(lambda: completed() and not fleet.first.jobs(), within=90)
        fleet.stop()
        lines = fleet.lines()
        late = [one for one in lost if _again(one).late]
        say(
            f"{len(names)} jobs, {len(fleet.nodes)} daemons, {chaos.kills} kills -9, "
            f"{chaos.stops} stops: {len(lost)} lost, {len(late)} of them ended late, "
            f"{_repeated(lines)} restartable ones executed again"
        )
        filed = fleet.check_each_recorded_once(names)
        assert "silent" in {one.record.name for one in lost}
        for name in names:
            record, runs = _again(filed[name]), lines[name]
            if name in again:
                assert record.state is State.DONE
                assert runs >= 1
            elif record.state is State.LOST:
                assert runs <= 1
                assert (record.late, record.exit_code) == ((True, 0) if runs else (False, None))
            else:
                assert (record.state, record.late, runs) == (State.DONE, False, 1)
        kept = {f"job/{one.record.id}" for one in lost if not _again(one).late}
        assert set(fleet.first.leftovers()) <= kept


def _again(filed: Filed) -> Record:
    """Return the record as it stands by now."""
    path = filed.path.with_name(f"{filed.path.name}.json")
    return msgspec.json.decode(path.read_bytes(), type=Record)


def test_daemons_that_start_at_once_on_a_new_spool(tmp_path: Path) -> None:
    """One of them makes the spool's own tree, and all of them serve it."""
    fleet = Fleet(tmp_path, 8, "-j", "1")
    try:
        fleet.start(*fleet.nodes)
        assert os.listdir(fleet.spool) == [".pmjq"]
        lives = os.listdir(fleet.spool / ".pmjq/node")
        assert sorted(life.partition(".")[0] for life in lives) == sorted(fleet.nodes)
    finally:
        fleet.__exit__()


def test_work_is_shared_fairly(tmp_path: Path, say: Say) -> None:
    """On equal nodes and equal jobs no node runs fewer than half of its share."""
    fleet = Fleet(tmp_path, 4, "-j", "2")
    names = [f"job{number:03}" for number in range(240)]
    for name in names:
        fleet.stage(name, f"{PLAIN}sleep 0.05\n")
    with fleet:
        fleet.feed()
        eventually(lambda: fleet.count() >= len(names), within=180)
        shares = fleet.shares()
    say(f"{len(names)} jobs: {shares}")
    assert min(shares.get(name, 0) for name in fleet.nodes) >= len(names) / len(fleet.nodes) / 2


# -- a node that dies

LEASE = 2.0
RUNNING = 20


@dataclass(frozen=True)
class Bereaved:
    """A fleet whose n1 died with 20 running jobs, half of them restartable, and its records.

    ``seconds``: from its death until all were taken over; ``silent``: from its last beat;
    ``filed``: from its death until all were filed.
    """

    fleet: Fleet
    seconds: float
    silent: float
    filed: float
    plain: list[Filed]
    again: list[Filed]


def _add_unknown(path: Path) -> None:
    """Add to a file of JSON what a later version may write."""
    content: dict[str, Any] = msgspec.json.decode(path.read_bytes())
    content["later"] = {"version": 2}
    path.write_bytes(msgspec.json.encode(content))


def _die(live: Live) -> float:
    """Have a machine die, its daemon, its keeper and its jobs at once; return when (monotonic)."""
    # The keeper before its jobs: it would tell how they end.
    family = [*live.keepers(), *live.jobs()]
    died = time.monotonic()
    live.kill()
    for pid in family:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    eventually(lambda: not list(live.family()))
    return died


@pytest.fixture(scope="module")
def bereaved(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bereaved]:
    """Let a node die, and wait until the others have taken over and filed all that it had."""
    fleet = Fleet(tmp_path_factory.mktemp("bereaved"), 3, "-j", str(RUNNING), "--lease", str(LEASE))
    gate, died = fleet.first.gate("never"), fleet.root / "died"
    plain, again = ([f"{kind}{n}" for n in range(RUNNING // 2)] for kind in ("plain", "again"))
    for name in (*plain, *again):
        head = RESTARTABLE if name in again else PLAIN
        wait = f"[ -e '{died}' ] || {gate.wait}"
        fleet.stage(name, f"{head}{fleet.append(name)}{wait}")
    try:
        fleet.start("n1")
        fleet.feed()
        eventually(lambda: len(fleet.lines()) == RUNNING, what="all run")
        fleet.start("n2", "n3")
        died_at = _die(fleet.first)
        dead = list((fleet.spool / ".pmjq/node").glob("n1.*"))
        beaten = max((path / "beat").stat().st_mtime for path in dead)
        died.touch()
        own = fleet.spool / ".pmjq"
        for path in (*own.glob("job/*/claim.1.json"), *own.glob("node/n1.*/node.json")):
            _add_unknown(path)
        eventually(lambda: not any(path.exists() for path in dead), within=60, what="n1 is buried")
        seconds, silent = time.monotonic() - died_at, time.time() - beaten
        eventually(lambda: fleet.count() >= RUNNING, what="all are filed")
        all_filed = time.monotonic() - died_at
        filed = fleet.check_each_recorded_once([*plain, *again])
        yield Bereaved(
            fleet,
            seconds,
            silent,
            all_filed,
            [filed[name] for name in plain],
            [filed[name] for name in again],
        )
    finally:
        fleet.__exit__()


def test_dead_nodes_jobs_are_taken_over_after_its_lease(bereaved: Bereaved, say: Say) -> None:
    """Not before its last beat is a whole lease old, and soon after it."""
    say(
        f"a node killed with {RUNNING} running jobs: all taken over {bereaved.seconds:.1f} s after "
        f"its death (lease {LEASE:g} s), {len(bereaved.plain)} lost, {len(bereaved.again)} run "
        f"again, all recorded {bereaved.filed:.1f} s after it, each once"
    )
    assert bereaved.silent >= LEASE
    assert bereaved.seconds <= LEASE + 5


def test_dead_nodes_jobs_are_each_ended_by_one_other(bereaved: Bereaved) -> None:
    """Of those that take over one tells of each job's end, and one filed it."""
    filed = [one.record.id for one in (*bereaved.plain, *bereaved.again)]

    def ends() -> list[str]:
        events = [one for live in bereaved.fleet.nodes.values() for one in live.events("job.ended")]
        return [event["id"] for event in events]

    eventually(lambda: len(ends()) >= len(filed))
    assert sorted(ends()) == sorted(filed)


def test_dead_nodes_jobs_are_lost(bereaved: Bereaved) -> None:
    """A job that is not restartable is lost, with node and times; unknown fields do no harm."""
    lines = bereaved.fleet.lines()
    for one in bereaved.plain:
        record = one.record
        assert (record.state, record.node, record.attempt) == (State.LOST, "n1", 1)
        assert (record.exit_code, record.signal, record.late) == (None, None, False)
        assert f"node n1 was silent for {LEASE:g} s until {record.ended:%Y-%m-%d}" in record.reason
        assert lines[record.name] == 1


def test_dead_nodes_restartable_jobs_run_again(bereaved: Bereaved) -> None:
    """A restartable job is executed once more, by another node, and is done."""
    lines = bereaved.fleet.lines()
    for one in bereaved.again:
        record = one.record
        assert (record.state, record.reason) == (State.DONE, "")
        assert record.node in {"n2", "n3"}
        assert lines[record.name] == 2


def test_node_that_comes_back_late_publishes_nothing_of_what_it_lost(tmp_path: Path) -> None:
    """It stops what may run elsewhere by then, lets the rest end, and begins a new life.

    A lost job that did end is completed, and unknown fields of its record are kept.
    """
    fleet = Fleet(tmp_path, 2, "-j", "2", "--lease", str(LEASE))
    late, other = fleet.nodes.values()
    gate, never, away = late.gate("plain"), late.gate("never"), tmp_path / "away"
    fleet.stage("plain", PLAIN + gate.wait + fleet.append("plain"))
    fleet.stage(
        "again",
        f"{RESTARTABLE}touch '{tmp_path}/runs'\n[ -e '{away}' ] || {never.wait}"
        + fleet.append("again"),
    )
    try:
        fleet.start("n1")
        fleet.feed()
        eventually(lambda: len(late.jobs()) == 2 and (tmp_path / "runs").exists())
        fleet.start("n2")
        late.tell(signal.SIGSTOP)
        away.touch()
        lost, again = other.ended("plain"), other.ended("again")
        assert (lost.record.state, lost.record.node) == (State.LOST, "n1")
        assert (again.record.state, again.record.node) == (State.DONE, "n2")
        _add_unknown(lost.path.with_name(f"{lost.path.name}.json"))
        late.tell(signal.SIGCONT)
        late.said("life.begun")
        eventually(lambda: len(late.jobs()) == 1, what="the restartable one is stopped")
        gate.open()
        eventually(lambda: not late.jobs(), what="the other one has ended")
        assert other.stop() == 0
        fleet.stage("next", PLAIN)
        fleet.feed()
        assert other.ended("next").record.node == "n1"
        assert [event["job"] for event in late.told("job.ended")] == ["next"]
        # It looks for lost jobs that have ended when it begins.
        fleet.start("n2")
        eventually(lambda: _again(lost).late)
        record = _again(lost)
        assert (record.state, record.exit_code) == (State.LOST, 0)
        assert record.reason.startswith(lost.record.reason)
        assert (
            b'"later":{"version":2}' in lost.path.with_name(f"{lost.path.name}.json").read_bytes()
        )
        assert fleet.lines() == Counter(["plain", "again"])
        fleet.stop()
        fleet.check_each_recorded_once(["plain", "again", "next"])
        assert late.leftovers() == []
    finally:
        fleet.__exit__()


# -- nodes that do not fit together

ELSEWHERE = Machine("another-machine", "anotherboot", "pid:[1]", 4711, 99, "far")


def _refused(live: Live) -> tuple[int, str]:
    done = subprocess.run(
        live.command, check=False, capture_output=True, text=True, env=live.environment, timeout=60
    )
    return done.returncode, done.stderr


def test_node_name_in_use_elsewhere_is_refused(tmp_path: Path) -> None:
    """While another machine's life of this name beats, 75 and both are named; not any longer."""
    live = Live(tmp_path, "--node", "twin")
    assert live.once() == 0
    spool = Spool(Disk(), str(live.spool), token("twin", ELSEWHERE.boot, uuid.uuid4().hex))
    spool.begin()
    life = life_of(spool.token, ELSEWHERE, time.time())
    spool.publish(msgspec.structs.replace(life, host=ELSEWHERE.host, lease=8 * LEASE))
    heart = Heart(spool.disk, spool.beat_path(), lambda: None, LEASE / 5)
    heart.start()
    try:
        code, told = _refused(live)
        assert code == 75
        assert "node twin is running on far as process 4711" in told
    finally:
        heart.stop()
    try:
        live.start()
        live.drop("served")
        assert live.ended("served").record.node == "twin"
        assert live.stop() == 0
    finally:
        live.close()


def _put_format(live: Live, number: int) -> None:
    """Replace the identity of the spool as one that upgrades it would."""
    path = live.spool / ".pmjq/spool.json"
    content: dict[str, Any] = msgspec.json.decode(path.read_bytes())
    hidden = path.with_name("spool.json.part")
    hidden.write_bytes(msgspec.json.encode(content | {"format": number}) + b"\n")
    hidden.rename(path)


def test_nodes_of_different_formats(tmp_path: Path) -> None:
    """A node refuses a spool of another format, with both numbers; one that runs starts nothing."""
    fleet = Fleet(tmp_path, 2, "-j", "1")
    old, late = fleet.nodes.values()
    try:
        fleet.start("n1")
        old.drop("before")
        old.ended("before")
        _put_format(old, 2)
        waits = old.drop("waits")
        old.said("spool.missing")
        code, told = _refused(late)
        assert code == 78
        assert "the spool has format 2, this pmjq knows format 1" in told
        assert waits.exists()
        _put_format(old, 1)
        old.drop("more")
        assert old.ended("waits").record.node == "n1"
        assert old.stop() == 0
    finally:
        fleet.__exit__()


@pytest.mark.parametrize("node", ["n1", "gone"])
def test_unknown_fields_of_records_are_kept(tmp_path: Path, node: str) -> None:
    """A record that a later version wrote is filed with all that is in it.

    Whether its own node files the job or, if that is gone, another.
    """
    live = Live(tmp_path, "--node", "n1")
    live.drop("kept", "echo said\n")
    assert live.once() == 0
    filed, own = live.ended("kept"), live.spool / ".pmjq"
    papers = own / "job" / filed.record.id
    papers.mkdir()
    record = msgspec.structs.replace(filed.record, node=node)
    (papers / "record.1.json").write_bytes(msgspec.json.encode(record))
    _add_unknown(papers / "record.1.json")
    for path in live.archive.iterdir():
        if path.name.endswith(".out"):
            path.rename(papers / "out.1")
        elif path == filed.path:
            path.rename(own / "ended" / f"{filed.record.id}.1")
        else:
            path.unlink()
    assert live.once() == 0
    assert filed.output == b"said\n"
    content = msgspec.json.decode(filed.path.with_name(f"{filed.path.name}.json").read_bytes())
    assert content["later"] == {"version": 2}
    assert msgspec.convert(content, Record) == record
    assert live.leftovers() == []


def test_daemon_that_leaves_its_jobs_running_is_not_taken_for_dead(tmp_path: Path) -> None:
    """Its keeper goes on beating, so no other node touches them; the next daemon records them."""
    lease = 4 * LEASE
    fleet = Fleet(tmp_path, 2, "-j", "2", "--lease", str(lease))
    leaving, other = fleet.nodes.values()
    gate = leaving.gate("plain")
    fleet.stage("again", RESTARTABLE + gate.wait + fleet.append("again"))
    fleet.stage("plain", PLAIN + gate.wait + fleet.append("plain"))
    try:
        fleet.start("n1")
        fleet.feed()
        eventually(lambda: len(leaving.jobs()) == 2)
        fleet.start("n2")
        assert leaving.stop() == 0
        beat = next((tmp_path / "spool/.pmjq/node").glob("n1.*/beat"))
        before = beat.read_bytes()
        began = time.monotonic()
        eventually(lambda: time.monotonic() - began > 1.5 * lease and beat.read_bytes() > before)
        assert other.events("node.silent") == []
        fleet.start("n1")
        gate.open()
        eventually(lambda: fleet.count() == 2)
        fleet.check_each_recorded_once(["again", "plain"])
        assert fleet.lines() == Counter(["again", "plain"])
    finally:
        fleet.__exit__()
