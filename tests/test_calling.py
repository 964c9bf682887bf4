"""Which node of several calls a hook of the whole spool, and how often."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import SimpleNamespace
from typing import Any

import pytest

from pmjq.calling import DEFERENCE, OFTEN, Calling, Commands
from pmjq.plan import Intent

AFTER = 10.0


@dataclass
class Life:
    """What a node tells of itself to the others."""

    hooks: Mapping[str, datetime | None]
    stopping: str = ""


@dataclass
class Spool:
    """What the nodes see of each other; ``moved``: when a job was claimed or ended last."""

    now: float = 1000.0
    moved: float = 0.0
    nodes: dict[str, Node] = field(default_factory=dict)
    calls: list[tuple[float, str]] = field(default_factory=list)

    def pass_by(self, seconds: float) -> list[str]:
        """Let time go by, in which all look as often as they like; return who has called."""
        before, end = len(self.calls), self.now + seconds
        while self.now < end:
            for node in self.nodes.values():
                node.look()
            self.now += 1.0
        return [token for _, token in self.calls[before:]]


class Node:
    """A node of the spool, which is idle unless it is told otherwise."""

    def __init__(self, spool: Spool, token: str) -> None:
        self.spool, self.token, self.idle = spool, token, True
        hooks: Any = SimpleNamespace(call=lambda _: spool.calls.append((spool.now, token)))
        reading: Any = SimpleNamespace(load=0.0)
        commands = Commands(on_idle="x", idle_after=AFTER, one_node=True)
        self.calling = Calling(
            commands, hooks, {}, lambda: spool.now, lambda: spool.now, lambda: reading
        )
        spool.nodes[token] = self

    def beating(self) -> dict[str, Life]:
        """Return what the others tell."""
        others = self.spool.nodes.items()
        return {token: Life(one.calling.called) for token, one in others if one is not self}

    def look(self) -> None:
        """Look once, as after a turn."""
        spool = SimpleNamespace(
            token=self.token,
            root="/srv/spool",
            beating=self.beating,
            quiet_for=lambda wall: wall - self.spool.moved,
        )
        turn: Any = SimpleNamespace(
            intent=Intent.RUN,
            idle=lambda: self.idle,
            spool=spool,
            backlog=[],
            desk=SimpleNamespace(executing=lambda: 0),
            outside=SimpleNamespace(settings=SimpleNamespace(node=self.token)),
        )
        self.calling.look(turn)


@pytest.fixture
def spool() -> Spool:
    """Return a spool with three nodes."""
    made = Spool()
    for token in ("c", "a", "b"):
        Node(made, token)
    return made


def test_first_one_calls(spool: Spool) -> None:
    """Once, for all, however long it goes on."""
    assert spool.pass_by(5000) == ["a"]
    assert spool.calls[0][0] == pytest.approx(1000 + AFTER, abs=1)


def test_job_of_a_node_that_the_first_one_does_not_see(spool: Spool) -> None:
    """The next one calls where the first one takes itself to have told of it, and nobody twice."""
    assert spool.pass_by(100) == ["a"]
    spool.nodes["b"].idle = False
    spool.pass_by(100)
    spool.nodes["b"].idle, spool.moved = True, spool.now
    ended = spool.now
    assert spool.pass_by(5000) == ["b"]
    assert ended + AFTER <= spool.calls[-1][0] <= ended + AFTER + DEFERENCE + OFTEN


def test_idle_elsewhere_for_less(spool: Spool) -> None:
    """A job that another node has had meanwhile puts it off."""
    spool.moved = spool.now + 8
    assert spool.pass_by(16) == []
    assert spool.pass_by(5000) == ["a"]


def test_first_one_is_gone(spool: Spool) -> None:
    """Whoever comes next then is the one."""
    spool.pass_by(5)
    del spool.nodes["a"]
    assert spool.pass_by(5000) == ["b"]


def test_one_that_begins_later(spool: Spool) -> None:
    """What was called since it has begun is not called again."""
    del spool.nodes["a"]
    spool.pass_by(5)
    Node(spool, "a")
    spool.moved = spool.now
    assert len(spool.pass_by(5000)) == 1
