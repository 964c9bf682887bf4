"""Several nodes on one spool: whatever the order of calls and whatever goes wrong.

Every job is claimed by one, executed as often as it may be, and recorded once. The simulation is
``cluster``, its disk ``mounts``. It must be able to fail: each of ``MUTANTS`` breaks one rule of
the protocol in pmjq, and some seed finds it.
"""

from __future__ import annotations

import errno
import random
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

import cluster
from doubles import Clock
from machines import Sim
from mounts import KINDS, Actor, Kind, Mount, Odds, SharedDisk
from pmjq import look, plan
from pmjq.job import Record, Status
from pmjq.lease import Heart, Silence
from pmjq.spool import Spool
from pmjq.tree import Tree

HERE = Path(__file__).parent

SEEDS = 600

NFS = next(kind for kind in KINDS if kind.name == "nfs")
WORST = next(kind for kind in KINDS if kind.name == "worst")


# -- the cluster


def test_every_seed_comes_to_rest_with_every_job_accounted_for(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Hundreds of seeds: no job lost, none recorded twice, none started more often than it may."""
    command = [sys.executable, str(HERE / "seeds.py"), "--seeds", str(SEEDS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    with capsys.disabled():
        print(f"\n{done.stdout.rpartition('...')[0] or done.stdout}", end="")
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-5_000:]
    injected = dict(
        re.findall(r"([a-z][a-z -]+) (\d+)(?:,|\n|$)", done.stdout.partition("faults:")[2])
    )
    for what in {*cluster.TROUBLES, "failed", "reply lost", "slow", "killed in a call"}:
        assert int(injected[what]) > SEEDS / 100, what
    for what in ("taken over", "lost", "of them ended late", "executed beside a lost node"):
        found = re.search(rf"(\d+) {what}", done.stdout)
        assert found, what
        assert int(found[1]) > SEEDS / 200, what


def test_a_seed_replays() -> None:
    """The same seed does the same, operation by operation."""
    for seed in (3, 4, 5):
        first, second = (cluster.played(seed, history=True)[0].sim for _ in range(2))
        assert first.history == second.history
        assert len(first.history or ()) > 50


def test_nodes_share_the_jobs_and_seldom_lose_a_claim() -> None:
    """Where nothing goes wrong, less than one claim in five is lost to another node."""
    won = contended = 0
    for seed in _calm_seeds(20):
        played, figures = cluster.played(seed)
        assert not played.sim.broken
        won, contended = won + figures.won, contended + figures.contended
    assert contended < 0.2 * won


def _calm_seeds(count: int) -> Iterator[int]:
    seed = 0
    while count:
        seed += 1
        if cluster.planned(random.Random(seed)).calm:
            count -= 1
            yield seed


# -- what the cluster finds


def _believes_an_error(patch: pytest.MonkeyPatch) -> None:
    """Take a rename that reports an error for not carried out, and do not look."""

    def moved(self: Tree, source: str, target: str) -> bool:
        try:
            self.disk.rename(source, target)
        except OSError:
            return False
        return True

    patch.setattr(Tree, "_moved", moved)


def _publishes_what_it_lost(patch: pytest.MonkeyPatch) -> None:
    """File a job although its file was another node's when it ended, and its beat was not heard."""
    patch.setattr(look.Look, "_cut_off", lambda self: False)
    end = Spool.end

    def ended(self: Spool, record: Record) -> bool:
        end(self, record)
        return True

    patch.setattr(Spool, "end", ended)


def _judges_early(patch: pytest.MonkeyPatch) -> None:
    """Bury a life that was silent for a quarter of its lease."""

    def dead(self: Silence, now: float, own: float = 0.0) -> list[str]:
        judged(self, now, own)
        return [token for token, one in self._heard.items() if one.silent >= one.lease / 4]

    judged = Silence.dead
    patch.setattr(Silence, "dead", dead)


def _judges_while_cut_off(patch: pytest.MonkeyPatch) -> None:
    """Count the silence of a life by the time since its beat changed, looked at or not."""

    def dead(self: Silence, now: float, own: float = 0.0) -> list[str]:
        judged(self, now, own)
        return [token for token, one in self._heard.items() if now - one.at >= one.lease / 3]

    judged = Silence.dead
    patch.setattr(Silence, "dead", dead)


def _heeds_no_fence(patch: pytest.MonkeyPatch) -> None:
    """Go on with a life whose beat is gone."""
    beat = Heart.beat

    def beaten(self: Heart) -> bool:
        beat(self)
        return True

    patch.setattr(Heart, "beat", beaten)


def _returns_what_may_have_run(patch: pytest.MonkeyPatch) -> None:
    """Return a job of a dead node to the queue, restartable or not."""

    def interrupted(self: look.Look, doubt: object, status: Status, now: float) -> None:
        attempt = doubt.attempt  # type: ignore[attr-defined]
        self.desk.resolved(attempt)
        self.desk.returning[attempt.id] = plan.Return(attempt, "mutant", stopped=True)

    patch.setattr(look.Look, "_interrupted", interrupted)


def _leaves_the_burial_half_done(patch: pytest.MonkeyPatch) -> None:
    """Bury a life and take nothing over."""
    patch.setattr(Spool, "take_over", lambda self, other, job_id: False)


def _lets_jobs_run_on(patch: pytest.MonkeyPatch) -> None:
    """Do not look how long a job has run."""
    patch.setattr(look.Look, "_see_limits", lambda self, now, files=True: None)


MUTANTS: dict[Callable[[pytest.MonkeyPatch], None], tuple[str, int]] = {
    _believes_an_error: ("no record", 37),
    _publishes_what_it_lost: ("two records", 54),
    _judges_early: ("which was silent for", 5),
    _judges_while_cut_off: ("which was silent for", 471),
    _heeds_no_fence: ("does not come to rest", 13),
    _returns_what_may_have_run: ("executed for the 2. time", 15),
    _leaves_the_burial_half_done: ("does not come to rest", 3),
    _lets_jobs_run_on: ("s and took", 98),
}
"""What breaks a rule, what is said of it, and the seed that found it last: it is played first."""

SILENCES = ("daemon frozen", "mount hung", "cut off")
"""Troubles in which a node falls silent and lives."""

MOST_SEEDS = 4000
"""In so many seeds each mutant is found."""


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda each: str(each.__name__).strip("_"))
def test_a_broken_rule_is_found(mutant: Callable[[pytest.MonkeyPatch], None]) -> None:
    """The simulation can fail: some seed finds each rule of the protocol that is broken."""
    (said, last), found = MUTANTS[mutant], 0
    with pytest.MonkeyPatch.context() as patch:
        mutant(patch)
        for seed in (last, *range(1, MOST_SEEDS + 1)):
            played, _ = cluster.played(seed, troubles=SILENCES)
            if any(said in wrong for wrong in played.sim.broken):
                found = seed
                break
    assert found, f"not found in {MOST_SEEDS} seeds"
    print(f"found in seed {found}" + ("" if found == last else f", no longer in {last}"))
    played, _ = cluster.played(found, troubles=SILENCES)
    assert not played.sim.broken, f"seed {found} is broken without it"


# -- its disk


def _mounts(kind: Kind, count: int) -> tuple[Sim, SharedDisk, list[Mount]]:
    sim, disk = Sim(1), SharedDisk(Clock())
    disk.tree("/srv")
    return sim, disk, [Mount(sim, disk, kind, "/srv") for _ in range(count)]


def _all(sim: Sim, calls: list[Callable[[], object]]) -> list[object]:
    """Have each call made by somebody of its own, at the same time; return the answers."""
    answers: list[object] = []

    def made(call: Callable[[], object]) -> None:
        try:
            answers.append(call() or "ok")
        except OSError as error:
            answers.append(errno.errorcode[error.errno or 0])

    for number, call in enumerate(calls):
        sim.spawn(Actor(str(number)), partial(made, call))
    sim.run(sim.now + 1000)
    assert not sim.broken
    return answers


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_of_many_renames_of_one_source_one_wins(kind: Kind) -> None:
    """Exact on every kind of file system, whatever their caches show."""
    sim, disk, mounts = _mounts(kind, 5)
    disk.put("/srv/job", b"x")
    answers = _all(
        sim, [partial(each.rename, "/srv/job", f"/srv/{n}") for n, each in enumerate(mounts)]
    )
    assert Counter(answers) == {"ok": 1, "ENOENT": 4}
    assert len(disk.names("/srv")) == 1


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_of_many_that_create_exclusively_one_wins(kind: Kind) -> None:
    """Exact on every kind of file system."""
    sim, _, mounts = _mounts(kind, 5)
    answers = _all(
        sim, [partial(each.open, "/srv/new", create=True, exclusive=True) for each in mounts]
    )
    assert [each for each in answers if isinstance(each, str)] == ["EEXIST"] * 4
    assert len(answers) == 5


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_nothing_gets_into_a_removed_directory(kind: Kind) -> None:
    """Neither a rename into it nor the write of a beat that was removed with it."""
    sim, disk, (one, other) = _mounts(kind, 2)
    disk.tree("/srv/life/run")
    disk.put("/srv/life/beat", b"0")
    disk.put("/srv/job", b"x")

    def bury() -> None:
        one.unlink("/srv/life/beat")
        one.rmdir("/srv/life/run")

    assert _all(sim, [lambda: other.stat("/srv/life/beat"), lambda: other.names("/srv/life/run")])
    assert _all(sim, [bury]) == ["ok"]
    assert _all(
        sim,
        [
            lambda: other.write_at("/srv/life/beat", 0, b"1"),
            lambda: other.rename("/srv/job", "/srv/life/run/job"),
        ],
    ) == ["ENOENT", "ENOENT"]
    assert disk.stat("/srv/job")


def test_what_was_looked_up_in_vain_is_not_found_for_a_while() -> None:
    """On NFS for up to 30 s; a listing shows it."""
    sim, disk, (one,) = _mounts(NFS, 1)
    seen: list[tuple[bool, bool]] = []

    def looks() -> None:
        for _ in range(200):
            seen.append((one.stat("/srv/new") is not None, "new" in one.names("/srv")))
            sim.sleep(sim.now + 0.2)

    sim.later(sim.now + 1.0, lambda: disk.put("/srv/new", b"x"))
    _all(sim, [looks])
    assert (False, True) in seen
    assert (True, True) in seen
    assert (True, False) not in seen


def test_what_others_changed_is_seen_late_and_what_one_changed_oneself_at_once() -> None:
    """Old listings, old contents and names that are gone, for 30 s at most."""
    sim, disk, (one, other) = _mounts(WORST, 2)
    disk.put("/srv/file", b"old")
    late = own = 0

    def looks() -> None:
        nonlocal late, own
        for number in range(20):
            one.names("/srv"), one.stat("/srv/file"), one.read("/srv/file")
            other.write("/srv/file", b"new")
            late += one.read("/srv/file") == b"old"
            sim.sleep(sim.now + 31)
            assert one.read("/srv/file") == b"new"
            one.write("/srv/file", b"old")
            one.mkdir(f"/srv/{number}")
            own += one.read("/srv/file") == b"old" and str(number) in one.names("/srv")

    assert _all(sim, [looks]) == ["ok"]
    assert late > 10
    assert own == 20


def test_a_lost_reply_and_a_failure_look_the_same() -> None:
    """An error tells nothing about whether the operation was carried out."""
    sim, disk, (one,) = _mounts(NFS, 1)
    sim.odds = Odds(fails=0.3, lost=0.3)
    seen: Counter[tuple[object, bool]] = Counter()

    def moves() -> None:
        for number in range(300):
            disk.put(f"/srv/{number}", b"")
            try:
                one.rename(f"/srv/{number}", f"/srv/to{number}")
                answer: object = "ok"
            except OSError as error:
                answer = error.errno
            seen[answer, disk.inode(f"/srv/to{number}") is not None] += 1

    assert _all(sim, [moves]) == ["ok"]
    assert seen["ok", False] == 0
    assert seen[errno.EIO, True] > 3
    assert seen[errno.EIO, False] > 3
    assert seen[errno.ENOENT, True] > 3
