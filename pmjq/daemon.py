"""The daemon: nudge, look, plan, act, sleep until the next nudge or deadline.

Turns are taken in a thread of their own, which sleeps between them until a nudge (the watch, the
keeper, a signal, the filing thread) or the deadline that the last turn gave. The event loop has
the signals and the watchdog, so a disk that hangs stalls neither.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import sys
import time
import traceback
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

import pmjq
from pmjq import account, errors, job, lock, node, probe, recovery, service
from pmjq.archive import Archive
from pmjq.disk import Disk
from pmjq.filing import Filing
from pmjq.lease import Heart
from pmjq.node import Life, Machine
from pmjq.outside import Outside, Settings
from pmjq.plan import Intent
from pmjq.process import Processes
from pmjq.spool import Spool
from pmjq.turn import Turn
from pmjq.watch import Watch

if TYPE_CHECKING:
    from pmjq.gates import Limits
    from pmjq.log import Log
    from pmjq.ready import Rules

PUBLISH = 5.0
"""Seconds between two writings of node.json at least, and twelve times that at most."""

LEAVE_PATIENCE = 5.0
"""Seconds to wait for a turn that hangs in a disk call before leaving without it."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says."""

    spool: str
    node: str
    limits: Limits
    rules: Rules
    archive: str | None = None
    errors: str | None = None
    grace: float = 10.0
    on_stop: Intent = Intent.LEAVE
    once: bool = False
    kind: str = ""


@dataclass(slots=True)
class _Stopping:
    """What the daemon remembers of itself: signals, its life, what it published last."""

    signals: int = 0
    fenced: bool = False
    trouble: str = ""
    published: float = field(default=-1e9)
    last: tuple[object, ...] = ()


class Daemon:
    """One daemon at one spool."""

    def __init__(self, options: Options, log: Log) -> None:
        """Take the options; nothing is touched before ``run``."""
        self.options = options
        self.log = log
        self.disk = Disk()
        self.machine: Machine = probe.machine()
        # Several thousand adopted jobs need a descriptor each; jobs get the limit that the
        # daemon was started with.
        descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.processes = Processes(descriptors)
        self.state = _Stopping()
        self._eventfd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll = select.epoll()
        self._epoll.register(self._eventfd, select.EPOLLIN)
        self._epoll.register(self.processes.fileno(), select.EPOLLIN)
        self.heart: Heart | None = None

    def run(self) -> int:
        """Serve the spool until told to stop; return the exit code.

        Raises PmjqError if it cannot begin.
        """
        options = self.options
        spool = Spool(self.disk, options.spool, local=not probe.shared(options.kind))
        self.uuid = spool.prepare(str(uuid.uuid4())).uuid
        held = lock.acquire(self.uuid, options.node)
        # A lease broken by a writer tells so with SIGIO, whose default is to end the process.
        signal.signal(signal.SIGIO, signal.SIG_IGN)
        _raise_descriptors()
        try:
            self.turn = self._begin(spool)
            anyio.run(self._serve)
        finally:
            self.processes.close()
            os.close(held)
        return 1 if self.options.once and self.turn.desk.filing else 0

    def _begin(self, spool: Spool) -> Turn:
        """Begin a life: make it known, take up what earlier ones left."""
        options = self.options
        lives = spool.lives()
        former = recovery.former_lives(lives, options.node, self.machine, probe.alive)
        spool.token = node.token(options.node, self.machine.boot, uuid.uuid4().hex)
        spool = Spool(self.disk, spool.root, spool.token, local=spool.local)
        spool.identify()
        spool.begin()
        self.heart = Heart(self.disk, spool.beat_path(), self._fenced)
        archive = Archive(spool, options.archive, options.errors)
        for path in archive.made:
            self.log.logger.info("archive.made", archive=job.shown(path))
        settings = Settings(
            node=options.node,
            machine=self.machine,
            limits=options.limits,
            rules=options.rules,
            grace=options.grace,
            environment=account.login_environment(),
        )
        turn = Turn(
            Outside(
                settings,
                spool,
                Filing(archive, self.log.logger, time.monotonic, self.wake),
                self.processes,
                self.log.logger,
                time.monotonic,
                time.time,
                probe.reading,
                account.owner_name,
            )
        )
        self.turn = turn
        self._publish(force=True)
        turn.begin(former, recovery.strangers(lives, options.node, self.machine))
        self.heart.start()
        return turn

    def wake(self) -> None:
        """Nudge the main loop; may be called from any thread."""
        with contextlib.suppress(OSError):
            os.eventfd_write(self._eventfd, 1)

    def _nudged(self, names: set[str] | None) -> None:
        if names is None:
            self.turn.nudge()
        else:
            for name in names:
                self.turn.nudge(name)
        self.wake()

    def _fenced(self) -> None:
        self.state.fenced = True
        self.wake()

    async def _serve(self) -> None:
        turn, log = self.turn, self.log.logger
        self.watch = Watch(turn.spool.root, self._nudged)
        self.watch.start()
        log.info(
            "daemon.started",
            spool=job.shown(turn.spool.root),
            node=self.options.node,
            version=pmjq.__version__,
            pid=os.getpid(),
            file_system=self.options.kind,
        )
        async with anyio.create_task_group() as group:
            group.start_soon(self._signals)
            group.start_soon(self._feed_watchdog)
            service.notify(READY=1, STATUS="started")
            await anyio.to_thread.run_sync(self._turns, abandon_on_cancel=True)
            group.cancel_scope.cancel()
        service.notify(STOPPING=1)
        # Another life may have begun meanwhile.
        turn = self.turn
        self.watch.stop()
        if self.heart is not None:
            self.heart.stop()
        turn.filing.close()
        left = turn.desk.executing()
        if not turn.desk.in_hand():
            # A life that has nothing leaves nothing; one with jobs is buried by the next.
            with contextlib.suppress(OSError):
                turn.spool.bury(turn.spool.token)
        if turn.desk.filing:
            log.warning(
                "archive.left", jobs=len(turn.desk.filing), reason="the next daemon files them"
            )
        log.info("daemon.stopped", jobs_left_running=left)

    def _turns(self) -> None:
        """Take turns until told to stop, in a thread of their own.

        The thread sleeps between them until a nudge or a deadline.
        """
        while True:
            if self.state.fenced:
                self._new_life()
            wake = self._one_turn()
            if self.state.fenced:
                wake = min(wake, time.monotonic() + AGAIN)
            self._publish()
            if self._finished():
                return
            self.watch.relaxed = len(self.turn.backlog) > 0
            self._epoll.poll(max(0.0, wake - time.monotonic()))
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._eventfd)

    def _one_turn(self) -> float:
        """Take a turn; an error that nobody thought of costs a line in the log and a second."""
        try:
            return self.turn.turn()
        except Exception:  # nothing that users can cause may stop the daemon
            self.log.logger.exception("turn.failed", traceback=traceback.format_exc())
            self.turn.desk.doubtful = True
            return time.monotonic() + 1.0

    def _new_life(self) -> None:
        """Begin again after the beat of this life was found gone.

        It was buried by another, or its spool is not there. What is still here is taken up like
        any former life's; another spool in the same place is not touched.
        """
        state, log, old = self.state, self.log.logger, self.turn
        spool = Spool(self.disk, old.spool.root, local=old.spool.local)
        try:
            if spool.identify().uuid != self.uuid:
                raise errors.ConfigurationError("another spool is in its place")
            self.turn = self._begin(spool)
        except (OSError, errors.PmjqError) as error:
            self.turn = old
            if str(error) != state.trouble:
                # A line for people; where it failed says less than why.
                log.error("life.failed", reason=str(error))  # noqa: TRY400
            state.trouble = str(error)
            return
        self.turn.intent = old.intent
        state.fenced, state.trouble = False, ""
        log.warning("life.begun", token=self.turn.spool.token, instead_of=old.spool.token)

    def _finished(self) -> bool:
        turn = self.turn
        match turn.intent:
            case Intent.RUN:
                return self.options.once and turn.idle()
            case Intent.LEAVE:
                return not turn.desk.line
            case _:
                return turn.quiet()

    async def _signals(self) -> None:
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            async for number in signals:
                if number == signal.SIGHUP:
                    self.log.reopen()
                    self.log.logger.info("daemon.looks_again")
                    self.turn.nudge()
                else:
                    self._stop(number)
                self.wake()

    def _stop(self, number: signal.Signals) -> None:
        state, turn = self.state, self.turn
        state.signals += 1
        if state.signals == 1:
            terminal = number == signal.SIGINT and sys.stdin.isatty()
            asked = self.options.on_stop
            patient = asked is Intent.LEAVE and (terminal or self.options.once)
            turn.intent = Intent.WAIT if patient else asked
        elif turn.intent is Intent.WAIT:
            turn.intent = Intent.KILL
        else:
            turn.intent = Intent.LEAVE
        what = {
            Intent.LEAVE: "running jobs go on, and the next daemon of this node takes them up",
            Intent.WAIT: "no more jobs are started; once more kills those that run",
            Intent.KILL: "running jobs are told to end",
        }
        running = turn.desk.executing()
        self.log.logger.info(
            "daemon.stopping",
            signal=number.name,
            on_stop=str(turn.intent),
            running=running,
            meaning=what[turn.intent],
        )
        service.notify(STOPPING=1, STATUS=f"stopping, {running} jobs running")
        if turn.intent is Intent.LEAVE:
            _leave_if_stuck()

    async def _feed_watchdog(self) -> None:
        every = service.watchdog()
        if every is None:
            return
        while True:
            service.notify(WATCHDOG=1)
            await anyio.sleep(every / 2)

    def _publish(self, *, force: bool = False) -> None:
        """Write node.json if it would say something new, now and then."""
        now, state, turn = time.monotonic(), self.state, self.turn
        if not force and now - state.published < PUBLISH:
            return
        verdict, desk = turn.verdict, turn.desk
        running = desk.executing()
        aside = self._aside()
        backlog, filing = len(turn.backlog), len(desk.filing)
        said = (verdict.open, verdict.reason, running, backlog, str(turn.intent), filing, aside)
        if not force and said == state.last and now - state.published < 12 * PUBLISH:
            return
        state.published, state.last = now, said
        with contextlib.suppress(OSError):
            turn.spool.publish(self._life(aside))
        service.notify(
            STATUS=(
                f"{running} running, {len(turn.backlog)} queued, "
                f"gate {_gate(verdict.open, verdict.reason)}"
            )
        )

    def _aside(self) -> dict[str, str]:
        """Return what does not run or is not filed, with the reasons; the first hundred."""
        turn = self.turn
        aside = dict(turn.filing.reasons())
        for name, standing in turn.backlog.aside():
            if len(aside) >= MOST_ASIDE:
                break
            aside[job.shown(name)] = standing.reason
        return aside

    def _life(self, aside: dict[str, str]) -> Life:
        turn, limits, me = self.turn, self.options.limits, self.machine
        reading = probe.reading()
        return Life(
            name=self.options.node,
            token=turn.spool.token,
            machine=me.machine,
            boot=me.boot,
            space=me.space,
            pid=me.pid,
            start=me.start,
            host=me.host,
            version=pmjq.__version__,
            began=job.moment(BEGAN),
            at=job.moment(time.time()),
            limit=limits.load,
            slots=limits.slots,
            load=reading.load,
            running=turn.desk.executing(),
            queued=len(turn.backlog),
            gate="open" if turn.verdict.open else "closed",
            reason=turn.verdict.reason,
            stopping="" if turn.intent is Intent.RUN else str(turn.intent),
            aside=aside,
            unfiled=len(turn.desk.filing),
        )


BEGAN = time.time()

AGAIN = 1.0
"""Seconds until a new life is tried again."""

MOST_ASIDE = 100
"""How many entries that are not queued node.json names."""


def _raise_descriptors() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _leave_if_stuck() -> None:
    """Leave even if a turn hangs in the kernel; nothing is lost by that, as by any kill."""
    signal.signal(signal.SIGALRM, lambda *_: os._exit(0))
    signal.setitimer(signal.ITIMER_REAL, LEAVE_PATIENCE)


def _gate(is_open: bool, reason: str) -> str:  # noqa: FBT001
    return "open" if is_open else f"closed: {reason}"
