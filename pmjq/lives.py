"""The lives of one daemon at one spool, one after another.

A life begins under a token of its own, makes itself known, and takes up what earlier ones of its
node left. It is over when its beat is gone: another node has buried it, or the spool is not there
any more. Then the next one begins, and takes up like any other what the one before had.

There are no threads, no signals and no event loop here: the daemon has those and calls ``begin``,
``renew`` and ``guard``. So the simulated cluster of the tests plays the very code that runs.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pmjq import errors, job, node, recovery
from pmjq.archive import Archive
from pmjq.filing import Filing
from pmjq.late import Late
from pmjq.lease import BEATS, KEEPING, Heart
from pmjq.outside import Outside
from pmjq.spool import Spool
from pmjq.turn import Turn

if TYPE_CHECKING:
    from collections.abc import Callable

    from pmjq.disk import Disk
    from pmjq.node import Life, Reading
    from pmjq.outside import Logger, Runner, Settings

GUARDS = 48
"""How many times in a lease it is looked whether the own heartbeat gets through."""


@dataclass(frozen=True, slots=True)
class Ground:
    """What all lives of one daemon stand on; everything outside of them is handed in here.

    ``now`` is monotonic, ``boottime`` goes on while the machine is suspended, ``wall`` is the time
    of day; all in seconds. ``chance`` makes up a UUID. ``wake`` nudges the daemon from a thread of
    the filing's; without it there is no such thread.
    """

    disk: Disk
    root: str
    local: bool
    settings: Settings
    archive: str | None
    errors: str | None
    processes: Runner
    log: Logger
    now: Callable[[], float]
    wall: Callable[[], float]
    boottime: Callable[[], float]
    reading: Callable[[], Reading]
    owner: Callable[[int], str]
    alive: Callable[[int, int], bool]
    chance: Callable[[], str]
    wake: Callable[[], None] | None = None


class Lives:
    """One daemon's lives; ``turn`` and ``heart`` are the present one's."""

    turn: Turn
    heart: Heart

    def __init__(
        self, ground: Ground, publish: Callable[[Turn], None], beat: Callable[[Heart], None]
    ) -> None:
        """Touch nothing yet.

        ``publish`` makes a new life known in its ``node.json``; ``beat`` has its heart go on by
        itself from then on.
        """
        self.ground = ground
        self.fenced = False
        self._publish = publish
        self._beat = beat
        self._uuid = ""
        self._trouble = ""
        self._told: dict[str, float] = {}

    def prepare(self) -> str:
        """Make the spool's tree if there is none; return its uuid. Errors as ``Spool.prepare``."""
        self._uuid = self._spool().prepare(self.ground.chance()).uuid
        return self._uuid

    def namesakes(self) -> dict[str, Life]:
        """Return the lives on other machines that use this node's name."""
        settings = self.ground.settings
        return recovery.namesakes(self._spool().lives(), settings.node, settings.machine)

    def beats(self, tokens: dict[str, Life]) -> dict[str, bytes | None]:
        """Return the beats of some lives."""
        spool = self._spool()
        return {token: spool.beat(token) for token in tokens}

    def begin(self) -> None:
        """Begin a life: make it known, and take up what earlier ones left.

        OSError or PmjqError if it cannot begin; what it made by then is taken up by the next.
        """
        ground, settings = self.ground, self.ground.settings
        former = recovery.former_lives(
            self._spool().lives(), settings.node, settings.machine, ground.alive
        )
        spool = self._spool(node.token(settings.node, settings.machine.boot, ground.chance()))
        spool.identify()
        archive = Archive(spool, ground.archive, ground.errors)
        for path in archive.made:
            ground.log.info("archive.made", archive=job.shown(path))
        spool.begin()
        heart = Heart(
            ground.disk, spool.beat_path(), self.fence, settings.lease, now=ground.boottime
        )
        filing = Filing(archive, ground.log, ground.now, ground.wake)
        filing.late = Late(spool, settings.node, ground.log, ground.wall)
        turn = Turn(
            Outside(
                settings,
                spool,
                filing,
                ground.processes,
                ground.log,
                ground.now,
                ground.wall,
                ground.reading,
                ground.owner,
                heart.silent,
            )
        )
        self._publish(turn)
        self.turn, self.heart = turn, heart
        self._beat(heart)
        try:
            turn.begin(former)
        except BaseException:
            heart.stop()
            raise

    def fence(self) -> None:
        """Take note that the present life is over; may be called from any thread."""
        self.fenced = True
        if self.ground.wake is not None:
            self.ground.wake()

    def renew(self) -> None:
        """Begin again after the present life's beat was found gone.

        What is still here is taken up like any former life's; another spool in the same place is
        not touched. If it cannot begin now, the old one stays and is still fenced.
        """
        ground, old, heart = self.ground, self.turn, self.heart
        # Before it begins: it may be buried in its turn before it has.
        self.fenced = False
        try:
            if self._spool().identify().uuid != self._uuid:
                raise errors.ConfigurationError("another spool is in its place")
            self.begin()
        except (OSError, errors.PmjqError) as error:
            self.turn, self.heart, self.fenced = old, heart, True
            if str(error) != self._trouble:
                # A line for people; where it failed says less than why.
                ground.log.error("life.failed", reason=str(error))  # noqa: TRY400
            self._trouble = str(error)
            return
        self.turn.intent = old.intent
        self.turn.desk.inherit(old.desk, ground.now())
        self._trouble = ""
        ground.log.warning("life.begun", token=self.turn.spool.token, instead_of=old.spool.token)

    def guard(self) -> None:
        """Stop what others may start again before they may, if our heartbeat does not get through.

        Called ``GUARDS`` times in a lease, apart from the turns, which may hang in a disk call for
        as long as its server does.
        """
        ground, lease = self.ground, self.ground.settings.lease
        silent = self.heart.silent()
        if silent < KEEPING * lease:
            self._told.clear()
            return
        now, desk, told = ground.now(), self.turn.desk, self._told
        grace = min(ground.settings.grace, lease / BEATS)
        runs = {run.attempt.id: run.pid for run in desk.restartable()}
        first = {job_id: pid for job_id, pid in runs.items() if job_id not in told}
        late = {job_id: pid for job_id, pid in runs.items() if now - told.get(job_id, now) >= grace}
        if first:
            reason = f"heartbeat has not got through for {silent:.0f} s (lease {lease:g} s)"
            ground.log.warning("jobs.silenced", jobs=len(first), reason=reason)
            desk.silence(set(first))
            told |= dict.fromkeys(first, now)
            ground.processes.signal(first, signal.SIGTERM)
        if late:
            ground.processes.signal(late, signal.SIGKILL)

    def _spool(self, token: str = "") -> Spool:
        ground = self.ground
        return Spool(ground.disk, ground.root, token, local=ground.local)
