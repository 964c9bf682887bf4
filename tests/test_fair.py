"""How a cluster shares itself among owners, by priority and by what jobs ask for.

The simulation is ``fair``: real turns of several nodes, watched four times a second. It must be
able to fail: each of ``MUTANTS`` breaks one rule.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest

from doubles import Script
from fair import LOCAL, NFS, Fair, crowd, plan_of
from machines import OWNERS, Job
from mounts import Kind
from pmjq import choice, entries, order, packing
from pmjq.packing import Packing
from pmjq.shares import Shares

SOON = 0.5
"""Seconds in which a slot that became free has its next job, on a local file system."""

SOON_SHARED = 8.0
"""The same where files must stay unchanged for a while, and are listed now and then."""


def played(cluster: Fair) -> Fair:
    """Play it; nothing may be wrong in the end."""
    cluster.run()
    assert cluster.sim.broken == []
    return cluster


def many(seed: int, slots: tuple[int, ...] = (2, 2), kind: Kind = LOCAL) -> Fair:
    """Return a cluster with three owners who have 20 jobs each."""
    return Fair(seed, plan_of(crowd(random.Random(seed), 20, (1.0, 4.0)), slots, kind))


def mixed(seed: int) -> Fair:
    """Return a cluster whose jobs ask for CPUs, memory and priority."""
    rng = random.Random(seed)
    jobs = crowd(rng, 12, (0.5, 4.0))
    for job in jobs:
        job.cpus = rng.choice((0, 0, 1, 2, 4))
        job.memory = rng.choice((0, 0, 200, 1000))
        job.priority = rng.choice((0, 0, 0, 3, -3))
    return Fair(seed, plan_of(jobs, (4, 4), cpus=(4, 4)))


@pytest.mark.parametrize("slots", [(3, 3), (2, 2), (1, 2), (4, 3), (2, 2, 2, 2)])
def test_shares_are_within_one_job_while_all_have_work(slots: tuple[int, ...]) -> None:
    """Three owners on several nodes, whoever came first with all of his."""
    for seed in range(3):
        watched = played(many(seed, slots)).watched
        assert sum(watched.spreads.values()) > 30
        assert watched.longest_apart <= SOON
        assert watched.longest_idle <= SOON, watched.idle


def test_shares_on_a_shared_file_system() -> None:
    """Nodes that claim at the same moment do not see it of each other, until the next job ends."""
    within = apart = 0
    for seed in range(3):
        watched = played(many(seed, kind=NFS)).watched
        within += watched.spreads[0] + watched.spreads[1]
        apart += sum(count for spread, count in watched.spreads.items() if spread > 1)
        assert max(watched.spreads) <= 3
        assert watched.longest_idle <= SOON_SHARED, watched.idle
    assert within > 2 * apart


@pytest.mark.parametrize("seed", range(6))
def test_nothing_starves_nothing_is_over_committed_and_nothing_stands_idle(seed: int) -> None:
    """Whatever jobs ask for, all of them end."""
    watched = played(mixed(seed)).watched
    assert watched.longest_idle <= SOON, watched.idle


def test_priority_comes_first() -> None:
    """On one slot, whoever the owner is and however old the others are."""
    jobs = [Job(n, Script(seconds=1.0), restartable=False, at=0.001 * n) for n in range(1, 9)]
    for number, rank in ((3, -1), (6, 5), (7, 9)):
        jobs[number - 1].priority = rank
    cluster = played(Fair(1, plan_of(jobs, (1,))))
    before = cluster.begun_in[0]
    assert cluster.begun_in[1:] == [n for n in (7, 6, 1, 2, 4, 5, 8, 3) if n != before]


def test_urgent_one_that_comes_late_is_next() -> None:
    """Behind hundreds that were there before: it is read as soon as it comes."""
    jobs = [Job(n, Script(seconds=0.5), restartable=False, at=0.0001 * n) for n in range(1, 200)]
    late = Job(200, Script(seconds=0.5), restartable=False, at=10.0, owner=OWNERS[1], priority=1)
    cluster = Fair(1, replace(plan_of([*jobs, late], (1, 1)), seconds=11.5))
    cluster._begin()
    cluster.sim.run(cluster.sim.now + 11.2)
    begun = cluster.begun_in[:]
    cluster.sim.close()
    assert 30 < begun.index(200) < 42


# -- what it finds


def _counts_nothing(patch: pytest.MonkeyPatch) -> None:
    """Choose by age alone."""

    def oldest(heads: dict, *others: object) -> int | None:  # type: ignore[type-arg]  # any heads
        return min(heads, key=lambda owner: heads[owner][1:], default=None)

    patch.setattr(order, "next_owner", oldest)


def _is_blind_to_others(patch: pytest.MonkeyPatch) -> None:
    """Count what this node runs, and all begin with the same owner."""
    patch.setattr(Shares, "_look", lambda self, now: None)
    real = order.next_owner
    patch.setattr(order, "next_owner", lambda heads, shares, rank=0, passed=(): real(heads, shares))


def _adds_nothing_up(patch: pytest.MonkeyPatch) -> None:
    """Start what does not fit."""
    patch.setattr(packing, "lacking", lambda wanted, taken, capacity: "")


def _keeps_room_at_once(patch: pytest.MonkeyPatch) -> None:
    """Have no smaller job pass one that waits."""
    patch.setattr(packing, "PATIENCE", 0.0)


def _wakes_nobody(patch: pytest.MonkeyPatch) -> None:
    """Do not tell who fits when something has come free."""
    patch.setattr(Packing, "woken", lambda self, jobs, now, here, gpus=0: [])


def _looks_seldom(patch: pytest.MonkeyPatch) -> None:
    """Hesitate for long before another node's entry is taken."""
    patch.setattr(choice, "HESITATION", 30.0)
    patch.setattr(entries, "RESCAN", 30.0)


def _apart(cluster: Fair) -> bool:
    return cluster.watched.longest_apart > SOON


def _idle(cluster: Fair) -> bool:
    return cluster.watched.longest_idle > SOON


def _over_committed(cluster: Fair) -> bool:
    return any("over-committed" in wrong for wrong in cluster.sim.broken)


Made = Callable[[int], Fair]

MUTANTS: dict[Callable[[pytest.MonkeyPatch], None], tuple[Made, Callable[[Fair], bool]]] = {
    _counts_nothing: (many, _apart),
    _is_blind_to_others: (many, _apart),
    _adds_nothing_up: (mixed, _over_committed),
    _keeps_room_at_once: (mixed, _idle),
    _wakes_nobody: (mixed, _idle),
    _looks_seldom: (mixed, _idle),
}
"""What breaks a rule, in which cluster, and how it shows."""


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda each: str(each.__name__).strip("_"))
def test_a_broken_rule_is_found(mutant: Callable[[pytest.MonkeyPatch], None]) -> None:
    """The watching can fail: some seed finds each rule that is broken."""
    made, shows = MUTANTS[mutant]
    with pytest.MonkeyPatch.context() as patch:
        mutant(patch)
        for seed in range(12):
            cluster = made(seed)
            cluster.run()
            if shows(cluster):
                return
    raise AssertionError("not found in 12 seeds")
