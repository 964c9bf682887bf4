"""Which node keeps room for a job that has waited for long: the one that lacks least for it.

If all did, much would stand idle for one job. What the others have free, their ``node.json`` tells.
It is some seconds old, so that for a moment two nodes may keep room, or none; and it is read only
while a job has waited for so long.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from pmjq import packing

if TYPE_CHECKING:
    from pmjq.desk import Desk
    from pmjq.node import Life
    from pmjq.outside import Outside
    from pmjq.packing import Needs

EVERY = 5.0
"""Seconds between two looks, as often as others tell."""

IDLE = ("drained", "heartbeat")
"""How the reason of a gate begins that lets nothing start whatever becomes free."""


class Neighbours:
    """The other nodes as one life of a node sees them."""

    def __init__(self, outside: Outside, desk: Desk) -> None:
        """Nothing is known of them yet."""
        self.outside = outside
        self.desk = desk
        self._lives: list[Life] = []
        self._again = 0.0

    def nearer(self, now: float) -> str:
        """Return the job that has waited for long, if another node keeps room for it."""
        name = self.desk.packing.patient(now) if self.desk.living else ""
        wanted = self.desk.packing.wants(name) if name else None
        if wanted is None:
            return ""
        self._look(now)
        free = self.desk.packing.free()
        own = (packing.shortfall(wanted, *free), self.outside.spool.token)
        for life in self._lives:
            short = _lack(wanted, life)
            if short is not None and (short, life.token) < own:
                return name
        return ""

    def _look(self, now: float) -> None:
        if now < self._again:
            return
        self._again = now + EVERY
        spool = self.outside.spool
        with contextlib.suppress(OSError):
            lives = [spool.life(token) for token in self.desk.living]
            self._lives = [life for life in lives if life is not None]


def _lack(wanted: Needs, life: Life) -> float | None:
    """Return how much of what a job needs is not free on another node; None: it never will be."""
    if life.stopping or life.outage or life.reason.startswith(IDLE):
        return None
    cpus = (life.cpus or 0) if wanted.alone else wanted.cpus
    if (life.cpus is not None and cpus > life.cpus) or (
        life.memory is not None and wanted.memory > life.memory
    ):
        return None
    return packing.shortfall(wanted._replace(cpus=cpus), life.free_cpus, life.free_memory)
