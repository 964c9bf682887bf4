"""Jobs as processes: start them through a keeper, hear of their ends, adopt and signal them.

The keeper (``pmjq.keeper``) is a child of the daemon and the parent of the jobs. A daemon always
starts a keeper of its own and never talks to that of an earlier one, so there is no socket to
find, to squat on or to clean up: jobs that are adopted are watched through a pidfd, and their
keeper writes their status where it belongs, on disk.

``Processes`` shows one descriptor to wait for. ``reports`` then tells what happened; nothing here
touches the spool.
"""

from __future__ import annotations

import contextlib
import errno
import marshal
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import threading
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pmjq import cgroups, probe
from pmjq.confines import Tree
from pmjq.job import Usage
from pmjq.keeper import LONGEST_MESSAGE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pmjq.becoming import Terms

PACKAGES = str(Path(__file__).parent.parent)
KEEPER = f"import sys; sys.path.append({PACKAGES!r}); from pmjq.keeper import main; main()"
"""What a keeper is: it finds its two modules, and the standard library before them."""

TOLD_IN_A_MESSAGE = 1000
"""A key is some 60 bytes."""

SLACK = 100
"""Owners of jobs that may be gone before they are forgotten."""

Key = tuple[str, int]
"""Id and number of an attempt."""

ORDERS_IN_A_MESSAGE = 16
"""The keeper reports between two messages. An order is some 2 kB, with long paths up to 40 kB."""


class Order(NamedTuple):
    """What the keeper needs to know to start one attempt.

    ``nicer``: niceness to add. ``terms``: as whom and within which limits (``pmjq.becoming``).
    """

    key: Key
    path: str
    argv: list[str]
    work: str
    out: str
    status: str
    environment: dict[str, str]
    nicer: int = 0
    terms: Terms | None = None


@dataclass(frozen=True, slots=True)
class Started:
    """An attempt's process runs."""

    key: Key
    pid: int
    at: float


@dataclass(frozen=True, slots=True)
class Unstarted:
    """An attempt was not executed.

    ``tried``: its status says so, so it can never start any more.
    """

    key: Key
    error: int
    tried: bool


@dataclass(frozen=True, slots=True)
class Ended:
    """An attempt's process has ended.

    ``code`` is negative for a signal. ``alone``: it left no process behind. ``limit``: the kernel
    ended it for this one of its own; ``enforced``: by what it was held to them, as in its status.
    """

    key: Key
    code: int
    at: float
    usage: Usage
    alone: bool
    limit: str = ""
    enforced: str = ""


@dataclass(frozen=True, slots=True)
class Vanished:
    """An adopted process is gone; its status tells the rest."""

    key: Key


@dataclass(frozen=True, slots=True)
class Unkept:
    """The keeper is gone: how these attempts stand, only their status tells."""

    keys: frozenset[Key]


Report = Started | Unstarted | Ended | Vanished | Unkept


class Processes:
    """The processes of one daemon."""

    def __init__(
        self, descriptors: tuple[int, int] | None = None, tree: Tree | None = None
    ) -> None:
        """Start nothing yet.

        ``descriptors``: RLIMIT_NOFILE, soft and hard, of the keeper and so of the jobs. ``tree``:
        the control group that jobs have groups of their own in.
        """
        self._descriptors = descriptors
        self._tree = tree or Tree()
        self._epoll = select.epoll()
        self._socket: socket.socket | None = None
        self._keeper: subprocess.Popen[bytes] | None = None
        self._kept: set[Key] = set()
        self._owners: dict[str, int] = {}
        self._most = 0
        self._adopted: dict[int, Key] = {}
        self._watched: dict[int, tuple[int, int]] = {}
        self._former: list[subprocess.Popen[bytes]] = []
        # The guard of the lease tells the keeper things too, while the turns may hang.
        self._sending = threading.Lock()
        self._unsent: deque[tuple[bytes, frozenset[Key]]] = deque()

    def fileno(self) -> int:
        """Return the descriptor that is readable when there is something to report."""
        return self._epoll.fileno()

    def start(self, now: list[Order], line: list[Order], most: int) -> None:
        """Hand attempts to the keeper; how it went is reported.

        Those in ``line`` start one after another, whenever fewer than ``most`` jobs run; jobs of
        earlier keepers count. Raises OSError if there is no keeper to be had.
        """
        size = ORDERS_IN_A_MESSAGE
        # Also where there is no order: how many may run has changed.
        for first in range(0, len(now) + len(line), size) or [0]:
            behind = max(0, first - len(now)), max(0, first + size - len(now))
            self._send(now[first : first + size], line[slice(*behind)], most)

    def recall(self) -> None:
        """Have the keeper start nothing more of the line.

        What stood in it is reported as not started, with ECANCELED.
        """
        self._most = 0
        if self._socket is not None:
            self._tell(0, recall=True)

    def go_on_beating(self, path: str, count: int, every: float) -> None:
        """Have the keeper go on with a heartbeat when this daemon is gone, while its jobs run.

        ``count``: the last beat; ``every``: seconds. Raises OSError if no keeper is to be had, or
        it does not listen.
        """
        others = [one for one in self._watched.values() if probe.alive(*one)]
        if self._kept or others:
            self._tell(0, recall=True, heart=(path, count, every, others))
            if self._unsent:
                raise BlockingIOError(errno.EAGAIN, "the keeper does not listen")

    def _pace(self) -> None:
        """Tell the keeper anew how many of its jobs may run beside the adopted ones."""
        if self._most and self._socket is not None:
            # A keeper that is gone tells so by itself.
            with contextlib.suppress(OSError):
                self._send([], [], self._most)

    def _send(self, now: list[Order], line: list[Order], most: int) -> None:
        orders = [*now, *line]
        self._most = most
        own = max(0, most - len(self._adopted))
        try:
            self._tell(own, now=now, line=line)
        except OSError as error:
            # A keeper that died just now: they are looked at again.
            if error.errno != errno.EMSGSIZE or len(orders) < 2:  # noqa: PLR2004
                raise
            half = len(orders) // 2
            self._send(now[:half], line[: max(0, half - len(now))], most)
            self._send(now[half:], line[max(0, half - len(now)) :], most)
        else:
            self._kept.update(order.key for order in orders)
            self._note_owners(orders)

    def _note_owners(self, orders: list[Order]) -> None:
        """Remember who has what is executed as another user."""
        if len(self._owners) > 2 * (len(self._kept) + len(self._adopted)) + SLACK:
            here = {key[0] for key in (*self._kept, *self._adopted.values())}
            self._owners = {job_id: uid for job_id, uid in self._owners.items() if job_id in here}
        for order in orders:
            if order.terms and "uid" in order.terms:
                self._owners[order.key[0]] = order.terms["uid"]

    def _tell(
        self,
        most: int,
        *,
        recall: bool = False,
        now: Sequence[Order] = (),
        line: Sequence[Order] = (),
        told: Sequence[tuple[str, int, str]] = (),
        heart: tuple[str, int, float, list[tuple[int, int]]] | None = None,
    ) -> None:
        """Send one message to the keeper, which is started if there is none.

        One that it does not take now, since it is stopped, is sent when it does. EMSGSIZE if the
        message is too long for it.
        """
        orders = [[(*order[:-1], order.terms or {}) for order in orders] for orders in (now, line)]
        message = marshal.dumps((most, recall, *orders, list(told), heart))
        if len(message) > LONGEST_MESSAGE:
            raise OSError(errno.EMSGSIZE, os.strerror(errno.EMSGSIZE))
        with self._sending:
            keeper = self._socket or self._start_keeper()
            if self._unsent or not _sent(keeper, message):
                self._unsent.append((message, frozenset(order.key for order in (*now, *line))))
                self._epoll.modify(keeper.fileno(), select.EPOLLIN | select.EPOLLOUT)

    def _send_on(self, keeper: socket.socket, reports: list[Report]) -> None:
        """Send what had to wait; the keeper takes messages again."""
        with self._sending:
            while self._unsent:
                message, keys = self._unsent[0]
                try:
                    if not _sent(keeper, message):
                        return
                except OSError as error:
                    # A keeper that is gone tells so by itself.
                    if error.errno != errno.EMSGSIZE:
                        return
                    self._kept -= keys
                    reports += [Unstarted(key, errno.EMSGSIZE, tried=False) for key in keys]
                self._unsent.popleft()
            self._epoll.modify(keeper.fileno(), select.EPOLLIN)

    def reports(self) -> list[Report]:
        """Return what has happened since the last call, without blocking."""
        reports: list[Report] = []
        for fd, happened in self._epoll.poll(0):
            if self._socket is not None and fd == self._socket.fileno():
                if happened & select.EPOLLOUT:
                    self._send_on(self._socket, reports)
                if happened & ~select.EPOLLOUT:
                    self._listen(self._socket, reports)
            elif fd in self._adopted:
                reports.append(Vanished(self._adopted.pop(fd)))
                self._watched.pop(fd, None)
                self._epoll.unregister(fd)
                os.close(fd)
                self._pace()
        self._former = [keeper for keeper in self._former if keeper.poll() is None]
        return reports

    def age(self, start: int) -> float:
        """Return for how many seconds a process is there that started then, in ticks since boot."""
        return probe.age(start)

    def adopt(self, key: Key, pid: int, start: int, uid: int = 0) -> bool:
        """Watch a process of an earlier life; False if it is gone.

        ``uid``: who runs it, if that is another user. What it is by now does not tell: sudo is
        root's.
        """
        try:
            fd = os.pidfd_open(pid)
        except OSError:
            return False
        if not probe.alive(pid, start):
            os.close(fd)
            return False
        self._adopted[fd] = key
        if uid:
            self._owners[key[0]] = uid
        self._watched[fd] = (pid, start)
        self._epoll.register(fd, select.EPOLLIN)
        self._pace()
        return True

    def keeps(self, key: Key, pid: int, start: int) -> bool:
        """Tell whether a keeper is still there and may write how an attempt ended.

        Ours has told of it then; an earlier one is there for as long as it has something to write.
        """
        if self._socket is not None and self._keeper is not None and pid == self._keeper.pid:
            return key in self._kept
        return probe.alive(pid, start)

    def find(self, job_id: str, uid: int = 0) -> tuple[int, int] | None:
        """Return pid and start time of the eldest process with this job's id in its environment.

        ``uid``: who runs it, if that is another user; others may have the id too.
        """
        if uid:
            self._owners[job_id] = uid
        found = self._members({job_id}).get(job_id, [])
        pairs = sorted((probe.start_time(pid), pid) for pid in found)
        return next(((pid, start) for start, pid in pairs if start), None)

    def left(self, jobs: Mapping[str, int]) -> set[str]:
        """Return the jobs of whose trees a process is left; zombies do not count."""
        members = self._members(set(jobs), jobs)
        return {job_id for job_id, pids in members.items() if any(map(probe.start_time, pids))}

    def signal(self, jobs: Mapping[str, int], number: int, limits: Mapping[str, str]) -> None:
        """Send a signal to the whole tree of each job.

        ``jobs``: the pids of their first processes, by id; 0 where that is not known. What a tree
        is, ``probe.members`` tells. ``limits``: which of its own each is over, of those that are.
        """
        told = [(*key, limits.get(key[0], "")) for key in list(self._kept) if key[0] in jobs]
        own = max(0, self._most - len(self._adopted))
        for first in range(0, len(told), TOLD_IN_A_MESSAGE):
            # A keeper that is gone writes nothing any more.
            with contextlib.suppress(OSError):
                if self._socket is not None:
                    self._tell(own, told=told[first : first + TOLD_IN_A_MESSAGE])
        if number == signal.SIGKILL:
            cgroups.kill(self._tree, jobs)
        for pids in self._members(set(jobs), jobs).values():
            for pid in pids:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, number)

    def close(self) -> None:
        """Let go of the keeper; it ends with its last job."""
        if self._socket is not None:
            self._socket.close()
        if self._keeper is not None:
            # Meant to outlive us: without this subprocess warns of it.
            self._keeper.returncode = 0
        for fd in self._adopted:
            os.close(fd)
        self._adopted.clear()
        self._epoll.close()

    def _members(
        self, ids: set[str], leaders: Mapping[str, int] | None = None
    ) -> dict[str, list[int]]:
        """Return the processes of jobs by id."""
        keepers = [*self._former, *([self._keeper] if self._keeper else [])]
        pids = {keeper.pid for keeper in keepers}
        owners = {job_id: self._owners[job_id] for job_id in ids if job_id in self._owners}
        found = probe.members(ids, leaders or {}, pids, owners)
        for job_id, inside in cgroups.members(self._tree, ids).items():
            found[job_id] += [pid for pid in inside if pid not in found[job_id]]
        return found

    def _start_keeper(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            # The longest message must fit, whatever this machine's usual size is.
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * LONGEST_MESSAGE)
            self._keeper = subprocess.Popen(  # our own file, by our own interpreter
                [sys.executable, "-I", "-S", "-c", KEEPER, str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                start_new_session=True,
            )
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        if self._descriptors:
            resource.prlimit(self._keeper.pid, resource.RLIMIT_NOFILE, self._descriptors)
        self._epoll.register(ours.fileno(), select.EPOLLIN)
        self._socket = ours
        return ours

    def _listen(self, line: socket.socket, reports: list[Report]) -> None:
        while True:
            try:
                message = line.recv(1 << 18, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError:
                message = b""
            if not message:
                reports.append(self._lost_keeper(line))
                return
            for values in marshal.loads(message):  # noqa: S302  # from our own child
                report = _report(values)
                if not isinstance(report, Started):
                    self._kept.discard(report.key)
                reports.append(report)

    def _lost_keeper(self, line: socket.socket) -> Unkept:
        with self._sending:
            self._epoll.unregister(line.fileno())
            line.close()
            self._socket = None
            self._unsent.clear()
        if self._keeper is not None:
            self._former.append(self._keeper)
        keys, self._kept = frozenset(self._kept), set()
        return Unkept(keys)


def _sent(line: socket.socket, message: bytes) -> bool:
    """Send a message; False if there is no room for it now."""
    try:
        line.send(message, socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    return True


def _report(values: tuple[Any, ...]) -> Started | Unstarted | Ended:
    match values:
        case ("started", key, pid, at):
            return Started(key, pid, at)
        case ("unstarted", key, error, tried):
            return Unstarted(key, error, tried)
        case ("ended", key, code, at, user, system, rss, alone, *held):
            return Ended(key, code, at, Usage(user, system, rss), alone, *held)
    raise AssertionError(f"the keeper reported {values!r}")
