"""The lives of one daemon at one spool, one after another.

A life begins under a token of its own, makes itself known, and takes up what earlier ones of its
node left. It is over when its beat is gone: another node has buried it, or the spool is not there
any more. Then the next one begins, and takes up like any other what the one before had.

There are no threads, no signals and no event loop here: the daemon has those and calls ``begin``,
``renew`` and ``guard``. So the simulated cluster of the tests plays the very code that runs.
"""

from __future__ import annotations

import contextlib
import errno
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pmjq import errors, infofile, job, naming, node, recovery
from pmjq.archive import Archive
from pmjq.filing import Filing
from pmjq.late import Late
from pmjq.lease import BEATS, KEEPING, Heart
from pmjq.outside import Outside
from pmjq.spool import Spool
from pmjq.turn import Turn

if TYPE_CHECKING:
    from collections.abc import Callable

    from pmjq.directives import Refusal
    from pmjq.disk import Disk
    from pmjq.job import Record, Spec
    from pmjq.node import Life, Reading
    from pmjq.outside import Logger, Logins, Runner, Settings, Verifier
    from pmjq.post import Post
    from pmjq.ready import Look

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
"""Errors of a full disk, which may be less full soon."""

GUARDS = 48
"""How many times in a lease it is looked whether the own heartbeat gets through."""

MOMENT = 0.001
"""Seconds that are not worth listening any longer."""

PAUSED = 3
"""Looks that were missed in a row tell that the machine or the daemon was stopped."""

SAID = 3
"""Beats that did not get through before people are told."""

NAMESAKE_BEATS = 2.5
"""For how many beats a life elsewhere that has this node's name is listened to."""


@dataclass(frozen=True, slots=True)
class Ground:
    """What all lives of one daemon stand on; everything outside of them is handed in here.

    ``now`` is monotonic, ``boottime`` goes on while the machine is suspended, ``wall`` is the time
    of day; all in seconds. ``chance`` makes up a UUID. ``wake`` nudges the daemon from a thread of
    the filing's; without it there is no such thread. ``filed`` hears of each job that was filed,
    and in which spool. ``logins``: each job is run as its owner; ``signers``: only what one of
    these has signed. ``shared``: others than this user can write the spool; ``private``: what
    becomes of a job is for its owner alone. ``post`` has the letters about jobs.
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
    filed: Callable[[Record, str], None] | None = None
    logins: Logins | None = None
    signers: Verifier | None = None
    shared: bool = False
    private: bool = False
    asked: Callable[[Look], Spec | Refusal] = infofile.asked
    post: Post | None = None


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
        self._heard: dict[str, tuple[bytes, float]] = {}
        self._archive: Archive | None = None
        self._guarded = ground.boottime()
        self._silence_said = False

    def prepare(self) -> str:
        """Make the spool's tree if there is none; return its uuid. Errors as ``Spool.prepare``."""
        self._uuid = self._spool().prepare(self.ground.chance()).uuid
        return self._uuid

    def listen(self) -> float:
        """Return for how many seconds it is to be heard yet whether this node's name is in use.

        To be asked again until it is 0. TryLaterError if a life elsewhere beats under this name.
        """
        ground, settings, spool = self.ground, self.ground.settings, self._spool()
        unseen = recovery.unseen(spool.lives(), settings.node, settings.machine, local=ground.local)
        now, left = ground.now(), 0.0
        for token, life in unseen.items():
            beat = spool.beat(token)
            if beat is None:
                continue
            before, since = self._heard.setdefault(token, (beat, now))
            if beat != before:
                self._heard.clear()
                raise errors.TryLaterError(_in_use(settings.node, life))
            lease = life.lease if life is not None else settings.lease
            left = max(left, since + NAMESAKE_BEATS / BEATS * lease - now)
        if left < MOMENT:
            self._heard.clear()
            return 0.0
        return left

    def begin(self) -> None:
        """Begin a life: make it known, and take up what earlier ones left.

        OSError or PmjqError if it cannot begin; what it made by then is taken up by the next.
        """
        ground, settings = self.ground, self.ground.settings
        lives = self._spool().lives()
        self._refuse_unknown(lives)
        former = recovery.former_lives(lives, settings.node, settings.machine, ground.alive)
        spool = self._spool(node.token(settings.node, settings.machine.boot, ground.chance()))
        spool.identify()
        archive = self._filed_to(spool)
        self._begin_on_disk(spool)
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
                ground.filed,
                ground.logins,
                ground.asked,
                ground.post,
                ground.signers,
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
        self._trouble = ""

    def wait_for_room(self, error: OSError) -> bool:
        """Take note that the first life cannot begin; False unless the disk is full.

        Then it is to be tried again. What has ended here and goes to another file system is filed
        first: that may be what makes room, and is done by a life as a rule.
        """
        if error.errno not in FULL:
            return False
        self._say_failed(error)
        if self._uuid:
            # Whatever cannot be filed now is filed by the life.
            with contextlib.suppress(OSError, errors.PmjqError):
                self._make_room()
        return True

    def _make_room(self) -> None:
        spool, name = self._spool(), self.ground.settings.node
        archive = self._filed_to(spool)
        for key in spool.ended():
            record = spool.record(*key)
            if record is not None and record.node == name and not archive.near(record):
                archive.file(record)
                spool.remove(spool.record_path(record).rpartition("/")[0])

    def _begin_on_disk(self, spool: Spool) -> None:
        """Make the directories of a life; if that fails leave none, or each try would add some."""
        try:
            spool.begin()
        except OSError:
            with contextlib.suppress(OSError):
                spool.remove(spool.beat_path().rpartition("/")[0])
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
            if left := self.listen():
                raise errors.TryLaterError(
                    f"listening for {left:.0f} s whether another machine uses this node's name"
                )
            self.begin()
        except (OSError, errors.PmjqError) as error:
            self.turn, self.heart, self.fenced = old, heart, True
            self._say_failed(error)
            return
        self.turn.intent = old.intent
        self.turn.desk.inherit(old.desk, ground.now())
        ground.log.warning("life.begun", token=self.turn.spool.token, instead_of=old.spool.token)

    def _say_failed(self, error: OSError | errors.PmjqError) -> None:
        """Log that a life could not begin, once per kind of reason."""
        kind = type(error).__name__ + str(getattr(error, "errno", ""))
        if kind != self._trouble:
            # A line for people; where it failed says less than why.
            self.ground.log.error("life.failed", reason=str(error))
        self._trouble = kind

    def leave(self) -> None:
        """Leave jobs running: their keeper goes on with the heartbeat, so that they stay ours."""
        heart = self.heart
        heart.stop()
        try:
            self.ground.processes.go_on_beating(heart.path, heart.count, heart.every)
        except OSError as error:
            self.ground.log.error("heartbeat.ends", reason=str(error))  # noqa: TRY400  # for people

    def guard(self) -> None:
        """Stop what others may start again before they may, if our heartbeat does not get through.

        Called ``GUARDS`` times in a lease, apart from the turns, which may hang in a disk call for
        as long as its server does.
        """
        ground, lease = self.ground, self.ground.settings.lease
        silent, looked = self.heart.silent(), ground.boottime()
        paused, self._guarded = looked - self._guarded > PAUSED * lease / GUARDS, looked
        self._say_silence(silent, lease)
        if silent < KEEPING * lease:
            self._told.clear()
            return
        if paused:
            # The machine, or this process, was stopped for a while: the beat has its turn first. If
            # somebody has buried this life meanwhile, it finds that out.
            self.heart.hurry()
            return
        now, desk, told = ground.now(), self.turn.desk, self._told
        grace = min(ground.settings.grace, lease / BEATS)
        runs = desk.restartable()
        first = {job_id: pid for job_id, pid in runs.items() if job_id not in told}
        late = {job_id: pid for job_id, pid in runs.items() if now - told.get(job_id, now) >= grace}
        if first:
            reason = f"heartbeat has not got through for {silent:.0f} s (lease {lease:g} s)"
            ground.log.warning("jobs.silenced", jobs=len(first), reason=reason)
            desk.silence(set(first))
            told |= dict.fromkeys(first, now)
            with contextlib.suppress(OSError):
                ground.processes.recall()
            ground.processes.signal(first, signal.SIGTERM, {})
        if late:
            ground.processes.signal(late, signal.SIGKILL, {})

    def _say_silence(self, silent: float, lease: float) -> None:
        """Log that the heartbeat does not get through, once, and that it does again."""
        log = self.ground.log
        if silent < 2 * lease / BEATS:
            if self._silence_said:
                log.info("heartbeat.works_again")
            self._silence_said = False
        elif silent >= SAID * lease / BEATS and not self._silence_said:
            self._silence_said = True
            reason = self.heart.trouble or "the file system does not answer"
            log.error("heartbeat.failed", reason=reason, silent=round(silent, 1), lease=lease)

    def _refuse_unknown(self, lives: dict[str, Life | None]) -> None:
        """Raise ConfigurationError for a life of a format that is not known here."""
        spool = self._spool()
        for token, life in lives.items():
            unknown = spool.unknown_life(token) if life is None else 0
            if unknown:
                raise errors.ConfigurationError(
                    f"node {node.name_of(token)} here has format {unknown}, this pmjq knows format "
                    f"{job.FORMAT}; install the same version on all nodes"
                )

    def _filed_to(self, spool: Spool) -> Archive:
        """Return the archive of a life: that of the first one, wherever its directories are now.

        What is missing then may be a mount, and is not made again.
        """
        if self._archive is None:
            archive = Archive(spool, self.ground.archive, self.ground.errors)
            for path in archive.made:
                self.ground.log.info("archive.made", archive=naming.shown(path))
        else:
            archive = self._archive.of(spool)
        self._archive = archive
        return archive

    def _spool(self, token: str = "") -> Spool:
        ground = self.ground
        spool = Spool(ground.disk, ground.root, token, local=ground.local)
        spool.private = ground.private
        spool.group_of = None if ground.logins is None else ground.logins.group
        spool.open_to_requests = ground.shared
        return spool


def _in_use(name: str, life: Life | None) -> str:
    where = "elsewhere" if life is None else f"on {life.host or life.machine} as process {life.pid}"
    return f"node {name} is running {where}; stop that one or give this one another --node"
