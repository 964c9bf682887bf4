"""The rules of how a life begins: what it leaves where it cannot, and what is done meanwhile."""

from __future__ import annotations

import contextlib
import errno
import os

import pytest

from doubles import FAR, NEAR, Clock, Crash, Daemon, Faults, How, MemDisk, Place, Script, World

ROOT = "/srv/spool"
OWN = f"{ROOT}/.pmjq"
ELSEWHERE = "/mnt/archive"
PLACE = Place(archive=ELSEWHERE)
PROGRAM = b"#!/bin/sh\n:\n"


def machine(*names: str) -> World:
    """Return a machine with jobs submitted, and another file system."""
    disk = MemDisk(Clock())
    disk.tree(ROOT)
    disk.tree("/mnt")
    disk.mount(ELSEWHERE, FAR)
    world = World(disk)
    for name in names:
        world.scripts[name] = Script(0.1)
        disk.put(f"{ROOT}/{name}", PROGRAM)
    disk.clock.advance(60)
    return world


def with_ended(world: World) -> list[str]:
    """Have jobs end that cannot be archived, and the daemon be killed; return their ids."""
    world.disk.full.add(FAR)
    daemon = Daemon(world, PLACE)
    daemon.run(lambda: len(world.disk.names(f"{OWN}/ended")) == len(world.scripts), within=60.0)
    daemon.stop()
    world.disk.full.clear()
    return [name.partition(".")[0] for name in world.disk.names(f"{OWN}/ended")]


def cannot_begin(daemon: Daemon, number: int = errno.ENOSPC) -> OSError:
    """Have a daemon try to begin, and return why it could not."""
    with pytest.raises(OSError, match=os.strerror(number)) as failed:
        daemon.lives.begin()
    return failed.value


def test_full_disk_is_waited_for() -> None:
    """A life that has no room is tried again, says so once, and begins when it has."""
    world = machine("job")
    Daemon(world, PLACE).stop()
    before = world.disk.paths(OWN)
    daemon = Daemon(world, PLACE, begin=False)
    daemon.lives.prepare()
    world.disk.full.add(NEAR)
    for _ in range(5):
        assert daemon.lives.wait_for_room(cannot_begin(daemon))
    assert daemon.log.events() == ["life.failed"]
    assert world.disk.paths(OWN) == before
    world.disk.full.clear()
    daemon.begin()
    assert daemon.run(lambda: bool(world.disk.names(ELSEWHERE)), within=10.0)


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT])
def test_life_that_is_half_begun_leaves_nothing(error: int) -> None:
    """Where the directories find room and the beat does not, each try would add a life."""
    world = machine()
    Daemon(world, PLACE).stop()
    before = world.disk.paths(f"{OWN}/node")
    beat = Faults(
        at=1, how=How.FAIL, error=error, matching=lambda name, paths: paths[0].endswith("/beat")
    )
    daemon = Daemon(world, PLACE, beat, begin=False)
    daemon.lives.prepare()
    assert daemon.lives.wait_for_room(cannot_begin(daemon, error))
    assert world.disk.paths(f"{OWN}/node") == before


@pytest.mark.parametrize("error", [errno.EIO, errno.EACCES, errno.EROFS])
def test_other_errors_are_not_waited_for(error: int) -> None:
    """What a person has to mend is told at once."""
    daemon = Daemon(machine(), PLACE, begin=False)
    assert not daemon.lives.wait_for_room(OSError(error, "no"))
    assert daemon.log.lines == []


def test_spool_without_room_for_its_tree() -> None:
    """The first daemon at a full spool leaves nothing of what it could not finish."""
    world = machine()
    tree = Faults(
        at=4, how=How.FAIL, error=errno.ENOSPC, matching=lambda name, paths: name == "mkdir"
    )
    daemon = Daemon(world, PLACE, tree, begin=False)
    with pytest.raises(OSError, match="No space") as failed:
        daemon.lives.prepare()
    assert daemon.lives.wait_for_room(failed.value)
    assert world.disk.names(ROOT) == []
    daemon.begin()


def test_what_ended_is_filed_elsewhere_to_make_room() -> None:
    """A spool that is full of ended jobs is freed before a life can begin in it."""
    world = machine("one", "two")
    ids = with_ended(world)
    daemon = Daemon(world, PLACE, begin=False)
    daemon.lives.prepare()
    world.disk.full.add(NEAR)
    assert daemon.lives.wait_for_room(cannot_begin(daemon))
    stems = [name for name in world.disk.names(ELSEWHERE) if name.endswith(("-one", "-two"))]
    assert len(stems) == 2
    assert {world.disk.read(f"{ELSEWHERE}/{stem}.out") for stem in stems} == {b"said\n"}
    assert not [path for path in world.disk.paths(OWN) if any(job_id in path for job_id in ids)]
    world.disk.full.clear()
    daemon.begin()
    daemon.run(lambda: False, within=10.0)
    assert sorted(world.executions.values()) == [1, 1]
    assert len(world.disk.names(ELSEWHERE)) == 6


@pytest.mark.parametrize("at", range(1, 30))
@pytest.mark.parametrize("how", [How.CRASH_BEFORE, How.CRASH_AFTER, How.FAIL])
def test_room_is_made_a_step_at_a_time(at: int, how: How) -> None:
    """Wherever that ends, the next try or the life goes on with it, and nothing is lost."""
    world = machine("one")
    with_ended(world)
    faults = Faults(how=how)
    daemon = Daemon(world, PLACE, faults, begin=False)
    daemon.lives.prepare()
    faults.at = faults.count + at
    with contextlib.suppress(Crash):
        daemon.lives.wait_for_room(OSError(errno.ENOSPC, "full"))
    daemon.stop()
    second = Daemon(world, PLACE)
    second.run(lambda: second.turn.idle() and not second.turn.desk.filing, within=60.0)
    names = world.disk.names(ELSEWHERE)
    assert len([name for name in names if name.endswith("-one")]) == 1
    assert sorted(
        name.rpartition(".")[2] for name in names if name.endswith((".out", ".json"))
    ) == [
        "json",
        "out",
    ]
    assert world.executions == {"one": 1}
    assert (world.disk.names(f"{OWN}/job"), world.disk.names(f"{OWN}/ended")) == ([], [])
