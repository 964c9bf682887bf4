"""Which of several nodes keeps room: the one that lacks least, if it may start anything."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from doubles import Clock, Daemon, MemDisk, Place, World, life_of
from pmjq.job import Spec
from pmjq.keys import ALL_CPUS
from pmjq.neighbours import EVERY
from pmjq.node import Machine
from pmjq.packing import PATIENCE, Capacity

OTHER = "b.boot0002.00000000"
ME = Machine("other", "boot0002", "space", 1, 1)


def waiting(wanted: Spec) -> Daemon:
    """Return a node with four CPUs, of which two are taken, where a job has waited for long."""
    disk = MemDisk(Clock())
    disk.tree("/srv/spool")
    disk.tree("/srv/archive")
    daemon = Daemon(World(disk), Place(capacity=Capacity(4, 1000)))
    packing = daemon.turn.desk.packing
    packing.begin(2, 0.0, lambda _: True)
    assert packing.place("big", wanted, 0.0)
    return daemon


def nearer(daemon: Daemon, now: float = PATIENCE, **told: Any) -> str:  # noqa: ANN401  # each has a type of its own
    """Return for which job another node keeps room, which tells so much of itself."""
    turn = daemon.turn
    turn.desk.living = [OTHER]
    daemon.world.disk.tree(f"/srv/spool/.pmjq/node/{OTHER}")
    life = msgspec.structs.replace(life_of(OTHER, ME, 0.0), **told)
    path = f"/srv/spool/.pmjq/node/{OTHER}/node.json"
    daemon.world.disk.write(path, msgspec.json.encode(life))
    return turn._look._entries._examination._neighbours.nearer(now)


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({"cpus": 4, "free_cpus": 3}, "big"),
        ({"cpus": 4, "free_cpus": 1}, ""),
        ({"cpus": 8, "free_cpus": 2}, ""),
        ({"cpus": 3, "free_cpus": 3}, ""),
        ({"cpus": 4, "free_cpus": 3, "stopping": "wait"}, ""),
        ({"cpus": 4, "free_cpus": 3, "outage": "claim: no space"}, ""),
        ({"cpus": 4, "free_cpus": 3, "reason": "drained by ann; pmjq resume"}, ""),
        ({"cpus": 4, "free_cpus": 3, "reason": "4 of 4 slots are taken"}, "big"),
    ],
)
def test_who_lacks_least(told: dict[str, Any], expected: str) -> None:
    """Of two that lack as much, the first by name; one that never fits keeps nothing."""
    assert nearer(waiting(Spec(cpus=4)), **told) == expected


def test_all_cpus_are_those_of_each_node() -> None:
    """The one of which the smaller part is taken."""
    assert nearer(waiting(Spec(cpus=ALL_CPUS)), cpus=16, free_cpus=12) == "big"
    assert nearer(waiting(Spec(cpus=ALL_CPUS)), cpus=16, free_cpus=4) == ""


def test_nothing_is_read_before_it_has_waited_for_long() -> None:
    """Nor again at once."""
    daemon = waiting(Spec(cpus=4))
    assert nearer(daemon, PATIENCE - 1, cpus=4, free_cpus=4) == ""
    assert nearer(daemon, PATIENCE, cpus=4, free_cpus=4) == "big"
    assert nearer(daemon, PATIENCE + EVERY - 1, cpus=4, free_cpus=0) == "big"
    assert nearer(daemon, PATIENCE + EVERY, cpus=4, free_cpus=0) == ""
