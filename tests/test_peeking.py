"""The rules of looking for priorities: what is read, when, and how often."""

from __future__ import annotations

import errno

import pytest

from doubles import Clock, Daemon, Faults, How, MemDisk, Place, Script, World
from pmjq.peeking import FLOOD, WITH_LAUNCH, priority
from pmjq.ready import Look
from values import FakeStat

ROOT = "/srv/spool"


def machine() -> World:
    """Return a machine with a spool."""
    disk = MemDisk(Clock())
    disk.tree(ROOT)
    disk.tree("/srv/archive")
    return World(disk)


def submit(world: World, name: str, words: str = "", seconds: float = 1.0) -> None:
    """Put a job into the spool, by a rename."""
    world.scripts[name] = Script(seconds)
    content = f"#!/bin/sh\n#PMJQ {words}\n:\n" if words else "#!/bin/sh\n:\n"
    world.disk.put(f"{ROOT}/.{name}.tmp", content.encode())
    world.disk.rename(f"{ROOT}/.{name}.tmp", f"{ROOT}/{name}")


def counting() -> Faults:
    """Return faults that never strike and count what is opened."""

    def matching(operation: str, paths: tuple[str, ...]) -> bool:
        return operation == "look" and paths[0].startswith(f"{ROOT}/j")

    return Faults(at=10**9, how=How.FAIL, matching=matching)


def executed(world: World, daemon: Daemon, count: int) -> list[str]:
    """Let so many jobs run, and return them in the order in which they began."""
    assert daemon.run(lambda: sum(world.executions.values()) >= count)
    return list(world.executions)


@pytest.mark.parametrize(
    ("look", "expected"),
    [
        (Look(FakeStat(), None, b"#!/bin/sh\n#PMJQ priority=7\n"), 7),
        (Look(FakeStat(), None, b"#!/bin/sh\n#PMJQ cpus=7\n"), 0),
        (Look(FakeStat(), None, b"#!/bin/sh\n#PMJQ priority=often\n"), 0),
        (Look(FakeStat(), None, None), 0),
        (Look(FakeStat(), None, None, ("job.toml", b'script = "x"\npriority = -2\n')), -2),
        (Look(FakeStat(), None, None, ("job.toml", b'script = "x"\n')), 0),
    ],
)
def test_priority(look: Look, expected: int) -> None:
    """It stands in the head of a file, or in the info file of a directory."""
    assert priority(look) == expected


def test_where_all_are_examined_nothing_is_read_before() -> None:
    """Jobs for which there is room are opened once."""
    world = machine()
    faults = counting()
    daemon = Daemon(world, Place(slots=4), faults)
    for number in range(3):
        submit(world, f"j{number}")
        daemon.turn.nudge(f"j{number}")
    executed(world, daemon, 3)
    assert faults.count == 3


def test_one_that_comes_is_read_at_once() -> None:
    """However many are queued whose priority is not known."""
    world = machine()
    for number in range(500):
        submit(world, f"j{number:03}")
    daemon = Daemon(world, Place())
    executed(world, daemon, 1)
    submit(world, "urgent", "priority=1")
    daemon.turn.nudge("urgent")
    assert executed(world, daemon, 2)[1] == "urgent"


def test_those_that_were_there_are_read_bit_by_bit() -> None:
    """A few with each launch while jobs are short, and all of them while one takes its time."""
    world = machine()
    for number in range(500):
        submit(world, f"j{number:03}", seconds=0.01)
    faults = counting()
    daemon = Daemon(world, Place(), faults)
    executed(world, daemon, 20)
    assert faults.count <= 25 * (1 + WITH_LAUNCH)
    assert daemon.turn.desk.unread > FLOOD


def test_urgent_one_among_many_that_were_there() -> None:
    """It is found while the first job runs."""
    world = machine()
    for number in range(500):
        submit(world, f"j{number:03}", "priority=3" * (number == 321), seconds=60.0)
    daemon = Daemon(world, Place())
    assert executed(world, daemon, 2) == ["j000", "j321"]
    assert daemon.turn.desk.unread == 0


def test_one_that_asks_for_less_than_was_thought_waits_for_others() -> None:
    """Nobody knows it before it is opened; then it is the last."""
    world = machine()
    submit(world, "j1", "priority=-1")
    submit(world, "j2")
    daemon = Daemon(world, Place())
    assert executed(world, daemon, 2) == ["j2", "j1"]


def test_alone_the_lowest_is_run_at_once() -> None:
    """Without a wait for another look."""
    world = machine()
    submit(world, "j1", "priority=-1")
    daemon = Daemon(world, Place())
    before = world.clock.now()
    executed(world, daemon, 1)
    assert world.clock.now() - before < 0.1


def test_what_cannot_be_read_is_found_out_later() -> None:
    """It keeps no other from being read."""
    world = machine()
    for name, words in (("j1", ""), ("j2", ""), ("j3", "priority=1")):
        submit(world, name, words)

    def matching(operation: str, paths: tuple[str, ...]) -> bool:
        return operation == "look" and paths[0] == f"{ROOT}/j2"

    faults = Faults(at=1, how=How.FAIL, error=errno.EIO, matching=matching)
    daemon = Daemon(world, Place(), faults)
    assert executed(world, daemon, 3) == ["j3", "j1", "j2"]


def test_more_than_there_is_of_hundreds_blocks_nobody() -> None:
    """Those behind them are looked at in the same moment."""
    world = machine()
    for number in range(300):
        submit(world, f"j{number:03}", "not-before=2100-01-01T00:00:00Z")
    submit(world, "small")
    daemon = Daemon(world, Place())
    before = world.clock.now()
    assert executed(world, daemon, 1) == ["small"]
    assert world.clock.now() - before < 1.0
