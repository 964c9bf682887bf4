"""What owners have over all nodes, and what the choice makes of it on one."""

from __future__ import annotations

from collections import Counter

import msgspec

from doubles import UID, Clock, Daemon, Faults, How, MemDisk, Place, Script, World
from pmjq.job import Attempt, Spec
from pmjq.packing import Capacity
from pmjq.shares import FRESH, Shares, here
from values import attempt

ROOT = "/srv/spool"
OTHER = "b.boot0002.00000000"
UIDS = frozenset({UID, UID + 1, UID + 2})


def machine() -> World:
    """Return a machine with a spool."""
    disk = MemDisk(Clock())
    disk.tree(ROOT)
    disk.tree("/srv/archive")
    return World(disk)


def submit(world: World, name: str, owner: int = UID, words: str = "") -> None:
    """Put a job of somebody into the spool, by a rename."""
    world.scripts[name] = Script(100.0)
    content = f"#!/bin/sh\n#PMJQ {words}\n" if words else "#!/bin/sh\n:\n"
    hidden = f"{ROOT}/.{name}.tmp"
    world.disk.put(hidden, content.encode())
    inode = world.disk.inode(hidden)
    assert inode is not None
    inode.uid = owner
    world.disk.rename(hidden, f"{ROOT}/{name}")


def have(world: World, number: int, uid: int, cpus: int | None = None) -> None:
    """Have another node run a job."""
    job_id = f"00000000-0000-4000-8000-{number:012}"
    one: Attempt = attempt(id=job_id, uid=uid, spec=Spec(cpus=cpus), token=OTHER)
    world.disk.tree(f"{ROOT}/.pmjq/node/{OTHER}/run")
    world.disk.tree(f"{ROOT}/.pmjq/job/{job_id}")
    world.disk.put(f"{ROOT}/.pmjq/node/{OTHER}/run/{job_id}", b"x")
    world.disk.put(f"{ROOT}/.pmjq/job/{job_id}/claim.1.json", msgspec.json.encode(one))


def counting() -> Faults:
    """Return faults that never strike and count the looks at another node."""

    def matching(operation: str, paths: tuple[str, ...]) -> bool:
        return paths[0].endswith(f"{OTHER}/run")

    return Faults(at=10**9, how=How.FAIL, matching=matching)


def test_what_runs_here_and_elsewhere() -> None:
    """By user, in CPUs; a job that asks for none counts as one."""
    world = machine()
    daemon = Daemon(world, Place(slots=4, uids=UIDS, capacity=Capacity(8, 1000)))
    submit(world, "one")
    submit(world, "wide", UID + 1, "cpus=3")
    assert daemon.run(lambda: len(world.running) == 2)
    assert here(daemon.turn.desk) == Counter({UID: 1, UID + 1: 3})
    have(world, 1, UID)
    have(world, 2, UID + 2, 4)
    daemon.turn.desk.living = [OTHER]
    shares = Shares(daemon.turn.outside, daemon.turn.desk)
    assert shares.all(world.clock.now()) == Counter({UID: 2, UID + 1: 3, UID + 2: 4})
    world.disk.unlink(f"{ROOT}/.pmjq/node/{OTHER}/run/00000000-0000-4000-8000-000000000002")
    assert shares.all(world.clock.now())[UID + 2] == 4
    assert shares.all(world.clock.now() + FRESH)[UID + 2] == 0


def test_the_one_who_has_less_elsewhere_comes_first() -> None:
    """Though his job is the younger one."""
    world = machine()
    daemon = Daemon(world, Place(uids=UIDS))
    have(world, 1, UID)
    submit(world, "ann")
    world.clock.advance(1)
    submit(world, "bob", UID + 1)
    world.disk.tree(f"{ROOT}/.pmjq/node/{OTHER}")
    world.disk.write(f"{ROOT}/.pmjq/node/{OTHER}/beat", b"1\n")
    assert daemon.run(lambda: bool(world.executions))
    assert list(world.executions) == ["bob"]


def test_one_owner_costs_nothing() -> None:
    """No other node is looked at for him, whoever has what there."""
    world = machine()
    faults = counting()
    daemon = Daemon(world, Place(slots=4), faults)
    have(world, 1, UID + 1)
    world.disk.write(f"{ROOT}/.pmjq/node/{OTHER}/beat", b"1\n")
    faults.count = 0
    for number in range(6):
        submit(world, f"j{number}")
    assert daemon.run(lambda: len(world.running) == 4, within=20.0)
    assert faults.count == 0


def test_wide_jobs_wait_for_the_load() -> None:
    """With -C a job is gated with its CPUs, and a smaller one passes it."""
    world = machine()
    place = Place(slots=None, load=4.0, capacity=Capacity(16, 1000, usual=0))
    daemon = Daemon(world, place)
    submit(world, "first")
    assert daemon.run(lambda: len(world.running) == 1)
    submit(world, "wide", words="cpus=12")
    world.clock.advance(0.01)
    submit(world, "small")
    assert daemon.run(lambda: len(world.running) == 2, within=20.0)
    assert {process.name for process in world.running.values()} == {"first", "small"}
    reasons = {name: told.reason for name, told in daemon.turn.backlog.aside()}
    assert reasons["wide"].startswith("forecast")
