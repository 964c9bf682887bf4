"""What a life tells of itself: ``node.json`` and the status line of its service."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from pmjq import job, naming, probe, service, shares
from pmjq.node import Life
from pmjq.plan import Intent
from pmjq.signing import VERIFIED, Fault
from pmjq.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Callable

    from pmjq.gates import Limits
    from pmjq.node import Machine
    from pmjq.turn import Turn

EVERY = 5.0
"""Seconds between two writings at least, and twelve times that at most."""

MOST_ASIDE = 100
"""How many entries that are not queued node.json names."""

BEGAN = time.time()


class Publisher:
    """Writes what one life sees and why it does not start more; ``now`` is monotonic."""

    def __init__(
        self,
        turn: Turn,
        limits: Limits,
        machine: Machine,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Nothing is published yet."""
        self.turn = turn
        self.limits = limits
        self.machine = machine
        self._now = now
        self._published = -1e9
        self._last: tuple[object, ...] = ()

    def publish(self, *, force: bool = False) -> float:
        """Write node.json now and then if that says something new; return when to look again."""
        now, turn = self._now(), self.turn
        if not force and now - self._published < EVERY:
            return self._published + EVERY
        verdict, desk = turn.verdict, turn.desk
        running, queued, aside = desk.executing(), len(turn.backlog), self._aside()
        said = (
            *(verdict.open, verdict.reason, running, queued, str(turn.intent)),
            *(len(desk.filing), aside, self._outage(), desk.won, desk.contended),
            *turn.outside.settings.hooks.values(),
            *self._mail(),
            self._signatures(),
        )
        if not force and said == self._last and now - self._published < 12 * EVERY:
            return self._published + 12 * EVERY
        self._published, self._last = now, said
        with contextlib.suppress(OSError):
            turn.spool.publish(self._life(aside))
        gate = "open" if verdict.open else f"closed: {verdict.reason}"
        service.notify(STATUS=f"{running} running, {queued} queued, gate {gate}")
        return now + EVERY

    def _outage(self) -> str:
        """Return what is wrong with the spool."""
        desk = self.turn.desk
        if desk.outage:
            return f"the spool {desk.outage}"
        return self.turn.outside.pauses.reasons()

    def _mail(self) -> tuple[int, str]:
        """Return how many letters wait, and why they are not sent if that is so."""
        post = self.turn.outside.post
        return (0, "") if post is None else (post.waiting, post.trouble)

    def _signatures(self) -> dict[str, int] | None:
        """Return how signatures were judged, None where none are asked for."""
        if self.turn.outside.signers is None:
            return None
        counted = self.turn.desk.signatures
        return {word: counted[word] for word in (VERIFIED, *map(str, Fault))}

    def _aside(self) -> dict[str, str]:
        """Return what does not run or is not filed, with the reasons; the first hundred."""
        turn = self.turn
        aside = dict(turn.filing.reasons())
        for name, standing in turn.backlog.aside():
            if len(aside) >= MOST_ASIDE:
                break
            if name.endswith(naming.SIGNATURE):
                # There may be one for each job that is queued.
                continue
            aside[naming.shown(name)] = standing.reason
        return aside

    def _life(self, aside: dict[str, str]) -> Life:
        turn, limits, me = self.turn, self.limits, self.machine
        settings, desk = turn.outside.settings, turn.desk
        letters, mail = self._mail()
        free_cpus, free_memory = desk.packing.free()
        return Life(
            name=settings.node,
            token=turn.spool.token,
            machine=me.machine,
            boot=me.boot,
            space=me.space,
            pid=me.pid,
            start=me.start,
            host=me.host,
            version=VERSION,
            began=job.moment(BEGAN),
            at=job.moment(time.time()),
            limit=limits.load,
            slots=limits.slots,
            load=probe.reading().load,
            running=desk.executing(),
            queued=len(turn.backlog),
            gate="open" if turn.verdict.open else "closed",
            reason=turn.verdict.reason,
            stopping="" if turn.intent is Intent.RUN else str(turn.intent),
            aside=aside,
            unfiled=len(desk.filing),
            lease=settings.lease,
            won=desk.won,
            contended=desk.contended,
            polled=round(desk.polled, 3),
            outage=self._outage(),
            cpus=settings.cpus,
            memory=settings.memory,
            gpus=settings.capacity.gpus,
            archive=naming.shown(turn.filing.archive.done.path),
            errors=naming.shown(turn.filing.archive.failed.path),
            hooks=dict(turn.outside.settings.hooks),
            letters=letters,
            mail=mail,
            owners={str(uid): cpus for uid, cpus in shares.here(desk).items()},
            free_cpus=free_cpus,
            free_memory=free_memory,
            signatures=self._signatures(),
        )
