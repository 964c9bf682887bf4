"""When ``node.json`` is written."""

from __future__ import annotations

import msgspec
import pytest

from doubles import Clock, Daemon, MemDisk, Place, World
from pmjq.gates import Limits
from pmjq.publish import EVERY, Publisher

ROOT = "/srv/spool"


class Told(Daemon):
    """A daemon that starts nothing, and what it tells of itself."""

    def __init__(self) -> None:
        disk = MemDisk(Clock())
        disk.tree(ROOT)
        super().__init__(World(disk), Place(spool=ROOT, slots=0))
        self.clock = self.world.clock
        me = self.turn.outside.settings.machine
        self.publisher = Publisher(self.turn, Limits(slots=0), me, self.clock.now)
        self.turn_once()

    def drop(self, name: str) -> None:
        self.world.disk.create([(f"{ROOT}/{name}", b"#!/bin/sh\n", 0o755)])
        self.turn.nudge(name)
        self.turn_once()

    @property
    def queued(self) -> int:
        """Return how many queued jobs ``node.json`` tells of."""
        spool = self.turn.spool
        text = self.disk.read(f"{spool.own}/node/{spool.token}/node.json")
        return int(msgspec.json.decode(text or b"")["queued"])


@pytest.fixture
def daemon() -> Told:
    """Return a daemon without jobs."""
    return Told()


def test_what_is_new(daemon: Told) -> None:
    """It is written at once if the last time was some seconds ago, else as soon as it is."""
    first = daemon.clock.now()
    daemon.drop("one")
    assert daemon.publisher.publish() == first + EVERY
    assert daemon.queued == 1
    daemon.clock.advance(EVERY / 2)
    daemon.drop("two")
    assert daemon.publisher.publish() == first + EVERY
    assert daemon.queued == 1
    daemon.clock.advance(EVERY / 2)
    assert daemon.publisher.publish() == first + 2 * EVERY
    assert daemon.queued == 2


def test_nothing_is_new(daemon: Told) -> None:
    """It is written seldom, for those who wonder whether there is still somebody."""
    first = daemon.clock.now()
    daemon.publisher.publish()
    for _ in range(3):
        daemon.clock.advance(EVERY)
        assert daemon.publisher.publish() == first + 12 * EVERY
    daemon.clock.advance(9 * EVERY)
    assert daemon.publisher.publish() == first + 13 * EVERY
