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
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

import pmjq
from pmjq import account, errors, job, lock, node, probe, recovery, service
from pmjq.archive import Archive
from pmjq.disk import Disk
from pmjq.filing import Filing
from pmjq.late import Late
from pmjq.lease import BEATS, KEEPING, LEASE, Heart
from pmjq.node import Machine
from pmjq.outside import Outside, Settings
from pmjq.plan import Intent
from pmjq.process import Processes
from pmjq.publish import Publisher
from pmjq.spool import Spool
from pmjq.turn import Turn
from pmjq.watch import Watch

if TYPE_CHECKING:
    from anyio.abc import TaskStatus

    from pmjq.gates import Limits
    from pmjq.log import Log
    from pmjq.ready import Rules

NAMESAKE_BEATS = 2.5
"""For how many beats a life on another machine that has this node's name is listened to."""

LISTEN = 0.25
"""Seconds between two looks at its beat."""

GUARDS = 48
"""How many times in a lease it is looked whether the own heartbeat gets through."""

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
    lease: float = LEASE
    poll: float | None = None


@dataclass(slots=True)
class _Stopping:
    """What the daemon remembers of itself: signals, and its life."""

    signals: int = 0
    fenced: bool = False
    trouble: str = ""


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
            self._refuse_namesake(spool)
            self.turn = self._begin(spool)
            anyio.run(self._serve)
        finally:
            self.processes.close()
            os.close(held)
        return 1 if self.options.once and self.turn.desk.filing else 0

    def _refuse_namesake(self, spool: Spool) -> None:
        """Raise TryLaterError if a life on another machine uses this node's name and beats."""
        others = recovery.namesakes(spool.lives(), self.options.node, self.machine)
        beats = {token: spool.beat(token) for token in others}
        if not beats:
            return
        name = self.options.node
        patience = NAMESAKE_BEATS / BEATS * max(life.lease for life in others.values())
        self.log.logger.info("daemon.listens", node=name, at_most=patience)
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            for token, life in others.items():
                beat = spool.beat(token)
                if beat is not None and beat != beats[token]:
                    raise errors.TryLaterError(
                        f"node {name} is running on {life.host or life.machine} as process "
                        f"{life.pid}; stop that one or give this one another --node"
                    )
            time.sleep(LISTEN)

    def _begin(self, spool: Spool) -> Turn:
        """Begin a life: make it known, take up what earlier ones left."""
        options = self.options
        lives = spool.lives()
        former = recovery.former_lives(lives, options.node, self.machine, probe.alive)
        spool.token = node.token(options.node, self.machine.boot, uuid.uuid4().hex)
        spool = Spool(self.disk, spool.root, spool.token, local=spool.local)
        spool.identify()
        spool.begin()
        self.heart = Heart(self.disk, spool.beat_path(), self._fenced, options.lease)
        archive = Archive(spool, options.archive, options.errors)
        for path in archive.made:
            self.log.logger.info("archive.made", archive=job.shown(path))
        settings = Settings(
            node=options.node,
            machine=self.machine,
            limits=options.limits,
            rules=options.rules,
            grace=options.grace,
            lease=options.lease,
            poll=options.poll,
            environment=account.login_environment(),
        )
        filing = Filing(archive, self.log.logger, time.monotonic, self.wake)
        filing.late = Late(spool, options.node, self.log.logger, time.time)
        turn = Turn(
            Outside(
                settings,
                spool,
                filing,
                self.processes,
                self.log.logger,
                time.monotonic,
                time.time,
                probe.reading,
                account.owner_name,
                self.heart.silent,
            )
        )
        self.turn = turn
        self._publisher = Publisher(turn, options.limits, self.machine)
        self._publisher.publish(force=True)
        self.heart.start()
        try:
            turn.begin(former)
        except BaseException:
            self.heart.stop()
            raise
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
        async with anyio.create_task_group() as group:
            # From here on a signal is heard, and only then anybody is told that we are there.
            await group.start(self._signals)
            log.info(
                "daemon.started",
                spool=job.shown(turn.spool.root),
                node=self.options.node,
                version=pmjq.__version__,
                pid=os.getpid(),
                file_system=self.options.kind,
            )
            group.start_soon(self._feed_watchdog)
            group.start_soon(self._guard)
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
            self._publisher.publish()
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
        # Before it begins: it may be buried as well before it has.
        state.fenced = False
        try:
            if spool.identify().uuid != self.uuid:
                raise errors.ConfigurationError("another spool is in its place")
            self.turn = self._begin(spool)
        except (OSError, errors.PmjqError) as error:
            self.turn, state.fenced = old, True
            if str(error) != state.trouble:
                # A line for people; where it failed says less than why.
                log.error("life.failed", reason=str(error))  # noqa: TRY400
            state.trouble = str(error)
            return
        self.turn.intent = old.intent
        self.turn.desk.inherit(old.desk, time.monotonic())
        state.trouble = ""
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

    async def _signals(self, *, task_status: TaskStatus[None]) -> None:
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            task_status.started()
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

    async def _guard(self) -> None:
        """Stop what others may start again before they may, if our heartbeat does not get through.

        Here, since a turn may hang in a disk call for as long as its server does.
        """
        lease, grace = self.options.lease, min(self.options.grace, self.options.lease / BEATS)
        told: dict[str, float] = {}
        while True:
            await anyio.sleep(lease / GUARDS)
            silent = self.heart.silent() if self.heart else 0.0
            if silent < KEEPING * lease:
                told.clear()
                continue
            now, desk = time.monotonic(), self.turn.desk
            runs = {run.attempt.id: run for run in desk.restartable()}
            first = {job_id: run.pid for job_id, run in runs.items() if job_id not in told}
            late = {
                job_id: run.pid
                for job_id, run in runs.items()
                if now - told.get(job_id, now) >= grace
            }
            if first:
                reason = f"heartbeat has not got through for {silent:.0f} s (lease {lease:g} s)"
                self.log.logger.warning("jobs.silenced", jobs=len(first), reason=reason)
                desk.silence(set(first))
                told |= dict.fromkeys(first, now)
                self.processes.signal(first, signal.SIGTERM)
            if late:
                self.processes.signal(late, signal.SIGKILL)

    async def _feed_watchdog(self) -> None:
        every = service.watchdog()
        if every is None:
            return
        while True:
            service.notify(WATCHDOG=1)
            await anyio.sleep(every / 2)


AGAIN = 1.0
"""Seconds until a new life is tried again."""


def _raise_descriptors() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _leave_if_stuck() -> None:
    """Leave even if a turn hangs in the kernel; nothing is lost by that, as by any kill."""
    signal.signal(signal.SIGALRM, lambda *_: os._exit(0))
    signal.setitimer(signal.ITIMER_REAL, LEAVE_PATIENCE)
