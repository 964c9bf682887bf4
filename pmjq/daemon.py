"""The daemon: nudge, look, plan, act, sleep until the next nudge or deadline.

Turns are taken in a thread of their own, which sleeps between them until a nudge (the watch, the
keeper, a signal, the filing thread) or the deadline that the last turn gave. The event loop has
the signals and the watchdog, so a disk that hangs stalls neither. Neither goes on without the
other: where one fails in a way that nobody thought of, the daemon ends and its jobs go on.
"""

from __future__ import annotations

import contextlib
import math
import os
import resource
import select
import signal
import time
import traceback
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import anyio
import anyio.to_thread

from pmjq import account, infofile, lease, lock, naming, probe, service
from pmjq.calling import OFTEN, Calling, Commands
from pmjq.confines import Tree
from pmjq.disk import Disk
from pmjq.hooks import Hooks
from pmjq.lease import LEASE, Heart
from pmjq.lives import GUARDS, Ground, Lives
from pmjq.node import Machine
from pmjq.outside import Settings
from pmjq.packing import Capacity
from pmjq.plan import Intent
from pmjq.post import Post
from pmjq.process import Processes
from pmjq.publish import Publisher
from pmjq.reader import Reader
from pmjq.version import VERSION
from pmjq.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Callable

    from anyio.abc import TaskStatus

    from pmjq.gates import Limits
    from pmjq.log import Log
    from pmjq.mail import Via
    from pmjq.ready import Rules
    from pmjq.signers import Signers
    from pmjq.turn import Turn

T = TypeVar("T")

LISTEN = 0.5
"""Seconds between two looks whether another machine uses this node's name."""

LEAVE_PATIENCE = 5.0
"""Seconds to wait for a turn that hangs in a disk call before leaving without it."""

PARTING = 1.0
"""Seconds that a daemon which leaves waits for the hooks that it has called."""

POSTING = 5.0
"""The same for letters, of a daemon that waits for its jobs: those of the last are just written."""

FAILED = 1
"""Exit code of a daemon that failed in a way that nobody thought of."""


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
    commands: Commands = field(default_factory=Commands)
    via: Via | None = None
    sender: str = ""
    cpus: int | None = None
    memory: int | None = None
    owners: account.Owners | None = None
    signers: Signers | None = None
    shared: bool = False
    private: bool = False
    confined: bool = True
    gpus: tuple[str, ...] = ()
    tree: Tree = field(default_factory=Tree)


class Daemon:
    """One daemon at one spool."""

    def __init__(self, options: Options, log: Log) -> None:
        """Take the options; nothing is touched before ``run``."""
        self.options = options
        self.log = log
        self.machine: Machine = probe.machine()
        # Several thousand adopted jobs need a descriptor each; jobs get the limit that the
        # daemon was started with.
        descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.processes = Processes(descriptors, options.tree)
        self._signals_heard = 0
        self._progress = service.Progress()
        self.watch = Watch(options.spool, self._nudged, self._watch_troubled)
        self._eventfd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll = select.epoll()
        self._epoll.register(self._eventfd, select.EPOLLIN)
        self._epoll.register(self.processes.fileno(), select.EPOLLIN)
        self.reader = Reader()
        self.hooks = Hooks(log.logger, self.wake)
        self.calling = Calling(
            options.commands,
            self.hooks,
            account.login_environment(),
            time.monotonic,
            time.time,
            probe.reading,
        )
        self.post = Post(log.logger, options.via, options.sender, time.monotonic, time.time)
        self.lives = Lives(self._ground(), self._make_known, Heart.start)

    @property
    def turn(self) -> Turn:
        """Return the turns of the present life."""
        return self.lives.turn

    def run(self) -> int:
        """Serve the spool until told to stop; return the exit code.

        Raises PmjqError if it cannot begin.
        """
        failed = False
        held = lock.acquire(self._patiently(self.lives.prepare), self.options.node)
        # A lease broken by a writer tells so with SIGIO, whose default is to end the process.
        signal.signal(signal.SIGIO, signal.SIG_IGN)
        _raise_descriptors()
        try:
            self._listen()
            self._patiently(self.lives.begin)
            try:
                anyio.run(self._serve)
            except BaseException:
                failed = True
                self.log.logger.exception("daemon.failed", traceback=traceback.format_exc())
                self._end_turns()
            self._part()
        finally:
            self.hooks.close(PARTING)
            self.processes.close()
            self.reader.close()
            lock.release(held)
            self.log.flush()
        return FAILED if failed or (self.options.once and self.turn.desk.filing) else 0

    def _ground(self) -> Ground:
        options, slots = self.options, self.options.limits.slots
        cpus = options.cpus or probe.usable_cpus()
        memory = options.memory or probe.memory()
        together = options.cpus or max(cpus, slots or 0)
        # Where only the load average decides, it sees what they use.
        by_load = slots is None and options.cpus is None
        settings = Settings(
            cpus=cpus,
            memory=memory,
            capacity=Capacity(
                together,
                memory,
                usual=0 if by_load else 1,
                gpus=options.gpus,
                numbers=() if "cpu" in options.tree.controllers else probe.cpu_numbers(),
            ),
            tree=options.tree,
            node=options.node,
            machine=self.machine,
            limits=options.limits,
            rules=options.rules,
            grace=options.grace,
            lease=options.lease,
            poll=options.poll,
            environment=account.login_environment(),
            confined=options.confined,
            hooks=self.calling.called,
        )
        return Ground(
            disk=Disk(),
            root=options.spool,
            local=not probe.shared(options.kind),
            settings=settings,
            archive=options.archive,
            errors=options.errors,
            processes=self.processes,
            log=self.log.logger,
            now=time.monotonic,
            wall=time.time,
            boottime=lease.clock,
            reading=probe.reading,
            owner=account.owner_name,
            alive=probe.alive,
            chance=lambda: str(uuid.uuid4()),
            wake=self.wake,
            filed=self.calling.filed,
            logins=options.owners,
            signers=options.signers,
            shared=options.shared,
            private=options.private,
            asked=self.reader.asked if options.shared else infofile.asked,
            post=self.post,
        )

    def _listen(self) -> None:
        """Wait until it is known that no life elsewhere uses this node's name."""
        left = self.lives.listen()
        if left:
            self.log.logger.info("daemon.listens", node=self.options.node, at_most=round(left, 1))
        while left:
            time.sleep(min(LISTEN, left))
            left = self.lives.listen()

    def _patiently(self, call: Callable[[], T]) -> T:
        """Return what a call returns that begins on the spool; wait while there is no room for it.

        A signal ends the daemon meanwhile, as it does before anything has begun.
        """
        pause = AGAIN
        while True:
            try:
                return call()
            except OSError as error:
                if self.options.once or not self.lives.wait_for_room(error):
                    raise
                extension = int((pause + TRYING) * 1e6)
                service.notify(STATUS=f"waits: {error}", EXTEND_TIMEOUT_USEC=extension)
            time.sleep(pause)
            pause = min(LONGEST_PAUSE, 2 * pause)

    def _make_known(self, turn: Turn) -> None:
        self._publisher = Publisher(turn, self.options.limits, self.machine)
        self._publisher.publish(force=True)

    def wake(self) -> None:
        """Nudge the main loop; may be called from any thread."""
        with contextlib.suppress(OSError):
            os.eventfd_write(self._eventfd, 1)

    def _watch_troubled(self, reason: str) -> None:
        if reason:
            # New jobs are found by listing the spool, which takes seconds.
            self.log.logger.warning("watch.failed", reason=reason)
        else:
            self.log.logger.info("watch.works_again")

    def _nudged(self, names: set[str] | None) -> None:
        if names is None:
            self.turn.nudge()
        else:
            for name in names:
                self.turn.nudge(name)
        self.wake()

    async def _serve(self) -> None:
        turn, log = self.turn, self.log.logger
        self.watch.start()
        async with anyio.create_task_group() as group:
            # From here on a signal is heard, and only then anybody is told that we are there.
            await group.start(self._signals)
            log.info(
                "daemon.started",
                spool=naming.shown(turn.spool.root),
                node=self.options.node,
                version=VERSION,
                pid=os.getpid(),
                file_system=self.options.kind,
                cgroup=str(self.options.tree),
            )
            group.start_soon(self._feed_watchdog)
            group.start_soon(self._guard)
            service.notify(READY=1, STATUS="started")
            await anyio.to_thread.run_sync(self._turns, abandon_on_cancel=True)
            group.cancel_scope.cancel()

    def _end_turns(self) -> None:
        """End the turns after the loop has failed, so that no daemon goes on that nobody can stop.

        They end as if told to stop and leave the jobs. A turn that hangs is left behind with the
        process, by which nothing is lost, as by any kill.
        """
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        self.turn.intent = Intent.LEAVE
        self.wake()
        if not self._progress.over.wait(LEAVE_PATIENCE):
            self.log.flush()
            os._exit(FAILED)

    def _part(self) -> None:
        """Leave the spool, and the jobs that run to the next daemon, after the last turn."""
        log = self.log.logger
        service.notify(STOPPING=1)
        # Another life may have begun meanwhile.
        turn = self.turn
        self.watch.stop()
        self.lives.heart.stop()
        filed = turn.filing.close()
        patient = self.options.once or turn.intent is not Intent.LEAVE
        self.post.close(POSTING if patient else PARTING)
        left = turn.desk.executing()
        if filed and not turn.desk.in_hand() and not self.post.waiting:
            # A life that has nothing leaves nothing; one with jobs or letters, or whose filing is
            # still at its papers, is buried by the next.
            with contextlib.suppress(OSError):
                turn.spool.bury(turn.spool.token)
        if left:
            self.lives.leave()
        if turn.desk.filing:
            log.warning(
                "archive.left", jobs=len(turn.desk.filing), reason="the next daemon files them"
            )
        log.info("daemon.stopped", jobs_left_running=left)

    def _turns(self) -> None:
        """Take turns until told to stop, in a thread of their own.

        The thread sleeps between them until a nudge or a deadline.
        """
        with self._progress.watched():
            while True:
                with self._progress.at_work():
                    if self.lives.fenced:
                        self.lives.renew()
                    wake = self._one_turn()
                    if self.lives.fenced:
                        wake = min(wake, time.monotonic() + AGAIN)
                    wake = min(wake, self._publisher.publish(), self._call_hooks())
                    if self._finished():
                        # Its jobs may run on, and others ask what it is about to do.
                        self._publisher.publish(force=True)
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

    def _call_hooks(self) -> float:
        """Call the hooks that are due; return when to look again."""
        try:
            again = self.calling.look(self.turn)
        except Exception:  # as of a turn
            self.log.logger.exception("turn.failed", traceback=traceback.format_exc())
            return time.monotonic() + OFTEN
        return math.inf if again is None else again

    def _finished(self) -> bool:
        turn = self.turn
        match turn.intent:
            case Intent.RUN:
                return self.options.once and turn.idle() and not self.hooks.busy
            case Intent.LEAVE:
                return not turn.desk.line
            case Intent.WAIT:
                return turn.quiet() and not self.hooks.busy
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
        turn = self.turn
        self._signals_heard += 1
        if self._signals_heard == 1:
            terminal = number == signal.SIGINT and os.isatty(0)
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
        while True:
            await anyio.sleep(self.options.lease / GUARDS)
            self.lives.guard()

    async def _feed_watchdog(self) -> None:
        every = service.watchdog()
        if every is None:
            return
        while True:
            if self._progress.made(within=every):
                service.notify(WATCHDOG=1)
            await anyio.sleep(every / 2)


AGAIN = 1.0
"""Seconds until a new life is tried again."""

LONGEST_PAUSE = 30.0
"""Seconds until a first life is tried again for which there was no room, at last."""

TRYING = 60.0
"""Seconds that such a try may take; the service manager is told to wait for it."""


def _raise_descriptors() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _leave_if_stuck() -> None:
    """Leave even if a turn hangs in the kernel; nothing is lost by that, as by any kill."""
    signal.signal(signal.SIGALRM, lambda *_: os._exit(0))
    signal.setitimer(signal.ITIMER_REAL, LEAVE_PATIENCE)
