"""The examination of a file system: what it does here, and whether pmjq can rely on it.

Each question is one finding with a verdict (``pmjq.diagnosis``). What only needs reading is looked
at first. The rest is done in a directory of its own, in ``.pmjq/tmp`` or, where that cannot be
written, hidden in the spool: no daemon takes either for a job or for its own. It is removed at the
end, also after an interruption or an error.

A rename that exactly one of several processes wins is all that pmjq relies on, so it is tried with
real processes, through two mounts where another is named. What a call returns is not believed: who
has a file is read from listings.
"""

from __future__ import annotations

import contextlib
import errno
import os
import posixpath
import signal
import stat as modes
import subprocess
import threading
import time
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pmjq import contest, diagnosis, naming, node, nodes, probe, ready
from pmjq.contest import SOURCES, TARGETS
from pmjq.diagnosis import Finding, Verdict
from pmjq.errors import (
    CannotCreateError,
    NotFoundError,
    NotPermittedError,
    PmjqError,
    TryLaterError,
)
from pmjq.lease import WIDTH
from pmjq.naming import OWN
from pmjq.tree import Tree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pmjq.disk import Disk

RIVALS = 6
"""Processes that contend: more than run at once on two cores, on each of two mounts."""

FILES = 150
"""Files that they contend for: 10 s on the slowest file system that was measured (SMB)."""

TIMES = 20
"""How often each call is timed."""

LATE_PATIENCE = 60.0
"""Seconds to wait for another mount: twice the longest that was measured (NFS, 31 s)."""

CLEAR_PATIENCE = 60.0
"""Seconds for which it is tried to remove everything, since listings may be old."""

EXEC_PATIENCE = 60.0
EXIT_CODE = 7
"""With which a program ends that was executed; no shell or loader uses it for a failure."""

REMEDIES = {errno.EROFS: "mount it writable", errno.ENOSPC: "make room", errno.EDQUOT: "make room"}


@dataclass(slots=True)
class Doctor:
    """One examination of the spool at ``root``, for the node ``name``.

    ``other``: the same spool by another mount. ``now`` is monotonic, ``wall`` the time of day.
    """

    disk: Disk
    root: str
    name: str
    other: str | None = None
    now: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    pause: Callable[[float], None] = time.sleep
    _place: str = field(default="", init=False)

    def examine(self, say: Callable[[Finding], None]) -> None:
        """Hand every finding to ``say`` as it is made.

        Raises NotFoundError, NotPermittedError or CannotCreateError where there is nothing to
        examine, TryLaterError if what was made cannot be removed, and KeyboardInterrupt on INT,
        TERM and HUP, when all is removed.
        """
        for path in filter(None, (self.root, self.other)):
            _check_directory(path)
        say(self._answer("spool", self._spool))
        say(self._answer("file system", self._file_system))
        say(self._answer("space", self._space))
        say(self._answer("node name", self._node))
        with self._workplace():
            say(self._answer("owner", self._owner))
            say(self._answer("clock", self._clock))
            say(self._answer("exec", self._exec))
            for finding in self._latencies():
                say(finding)
            mounts = [self._place]
            if self.other is not None:
                for finding in self._latenesses():
                    say(finding)
                    if finding.check == "other mount" and finding.verdict is Verdict.OK:
                        mounts.append(self._by_other(self._place))
            say(self._answer("rename", lambda: self._rename(mounts)))

    def _answer(self, check: str, look: Callable[[], Finding]) -> Finding:
        try:
            return look()
        except OSError as error:
            return diagnosis.failed(check, error)

    # -- what can be known without writing

    def _spool(self) -> Finding:
        check, tree = "spool", self.disk.stat(f"{self.root}/{OWN}")
        if tree is None:
            return Finding(check, Verdict.OK, "no daemon has served it yet")
        if tree.st_dev != os.stat(self.root).st_dev:
            found = f"{OWN} is on another file system than the spool, so no job can be claimed"
            return Finding(check, Verdict.BAD, found, f"let {OWN} be a plain directory in it")
        try:
            identity = nodes.opened(self.disk, self.root).identify()
        except PmjqError as error:
            return Finding(check, Verdict.BAD, str(error))
        found = f"format {identity.format}, uuid {identity.uuid}"
        return Finding(check, Verdict.OK, found, figures={"uuid": identity.uuid})

    def _file_system(self) -> Finding:
        kind = probe.file_system(self.root)
        return diagnosis.kind(kind, shared=probe.shared(kind))

    def _space(self) -> Finding:
        """Tell what is left; root may use what is kept back for it."""
        stat, root = os.statvfs(self.root), os.geteuid() == 0
        free = (stat.f_bfree if root else stat.f_bavail) * stat.f_frsize
        inodes = stat.f_ffree if root else stat.f_favail
        return diagnosis.space(free, inodes if stat.f_files else None)

    def _node(self) -> Finding:
        if not node.is_name(self.name):
            found = f"{naming.shown(self.name)} cannot name a node"
            return Finding("node name", Verdict.BAD, found, "give the daemon a --node name")
        lives: list[nodes.Seen] = []
        # Of a spool that is none, or none that we know, another finding speaks.
        with contextlib.suppress(PmjqError):
            spool = nodes.opened(self.disk, self.root)
            lives = nodes.look(spool, probe.machine(), self.wall)
        return diagnosis.name_free(self.name, [seen for seen in lives if seen.name == self.name])

    # -- the place where things are tried

    @contextlib.contextmanager
    def _workplace(self) -> Iterator[None]:
        """Make a directory of our own, and remove it whatever happens."""
        with _interruptible() as leaving:
            try:
                self._make()
                yield
            finally:
                leaving.set()
                self._clear()

    def _make(self) -> None:
        chance = uuid.uuid4().hex[:12]
        hidden = f"{self.root}/{OWN}-doctor-{chance}"
        inside = f"{self.root}/{OWN}/tmp"  # noqa: S108  # a directory of the spool
        places = [hidden]
        if _there(self.disk, inside):
            places = [f"{inside}/doctor-{chance}", hidden]
        shown = naming.shown(self.root)
        if os.geteuid() == 0:
            for place in places:
                _refuse_trap(posixpath.dirname(place))
        for self._place in places:
            try:
                self.disk.mkdir(self._place)
            except PermissionError:
                continue
            except OSError as error:
                remedy = REMEDIES.get(error.errno or 0, "look after its file system")
                raise CannotCreateError(
                    f"{shown}: nothing can be made in it ({error.strerror}), so only what can be "
                    f"read was examined; {remedy}"
                ) from error
            return
        raise NotPermittedError(
            f"{shown}: this user may not write it, so only what can be read was examined; "
            "run as its owner"
        )

    def _by_other(self, path: str) -> str:
        return (self.other or self.root) + path.removeprefix(self.root)

    def _clear(self) -> None:
        """Remove the place, through the other mount too: each may have an old listing of it."""
        tree, end = Tree(self.disk, self.root), self.now() + CLEAR_PATIENCE
        while _there(self.disk, self._place):
            if self.now() > end:
                raise TryLaterError(f"{naming.shown(self._place)}: could not be removed; remove it")
            for path in dict.fromkeys((self._place, self._by_other(self._place))):
                with contextlib.suppress(OSError):
                    tree.remove(path)
            if _there(self.disk, self._place):
                self.pause(0.2)

    # -- what is tried

    def _owner(self) -> Finding:
        path, uid = f"{self._place}/owner", os.geteuid()
        self.disk.write(path, b"")
        stat = self.disk.stat(path)
        return diagnosis.owner(uid, uid if stat is None else stat.st_uid)

    def _clock(self) -> Finding:
        path, before = f"{self._place}/clock", self.wall()
        self.disk.write(path, b"now\n")
        self.disk.sync(path)
        after, stat = self.wall(), os.stat(path)
        return diagnosis.clock(before, stat.st_mtime_ns / 1e9, after)

    def _exec(self) -> Finding:
        path = f"{self._place}/exec"
        self.disk.write(path, f"#!/bin/sh\nexit {EXIT_CODE}\n".encode())
        os.chmod(path, 0o755)  # noqa: S103  # the mode of a job
        quiet = subprocess.DEVNULL
        try:
            code: int | str = subprocess.run(
                [path], stdin=quiet, stdout=quiet, stderr=quiet, timeout=EXEC_PATIENCE, check=False
            ).returncode
        except OSError as error:
            found = f"a program here cannot be executed: {error.strerror}"
            return Finding("exec", Verdict.BAD, found, "mount it with exec, not noexec")
        except subprocess.TimeoutExpired:
            code = "no exit code"
        if code != EXIT_CODE:
            found = f"a program here ended with {code} instead of {EXIT_CODE}"
            return Finding("exec", Verdict.BAD, found, "look whether /bin/sh can read it")
        return Finding("exec", Verdict.OK, "programs can be executed")

    def _latencies(self) -> Iterator[Finding]:
        """Time each call; those behind one that fails would fail too."""
        disk, place = self.disk, self._place
        beat = f"{place}/beat"
        calls: dict[str, Callable[[int], object]] = {
            "create": lambda n: disk.write(f"{place}/a{n}", b"x" * 512),
            "sync": lambda n: disk.sync(f"{place}/a{n}"),
            "beat": lambda n: disk.write_at(beat, 0, _beat(n), create=True),
            "read": lambda n: disk.read(f"{place}/a{n}"),
            "stat": lambda n: disk.stat(f"{place}/a{n}"),
            "list": lambda _: disk.names(place),
            "rename": lambda n: disk.rename(f"{place}/a{n}", f"{place}/b{n}"),
            "unlink": lambda n: disk.unlink(f"{place}/b{n}"),
            "mkdir": lambda n: disk.mkdir(f"{place}/d{n}"),
            "rmdir": lambda n: disk.rmdir(f"{place}/d{n}"),
        }
        for name, call in calls.items():
            check = f"latency of {name}"
            try:
                times = [self._timed(call, number) for number in range(TIMES)]
            except OSError as error:
                yield diagnosis.failed(check, error)
                return
            yield diagnosis.latency(check, times)

    def _timed(self, call: Callable[[int], object], number: int) -> float:
        begun = self.now()
        call(number)
        return self.now() - begun

    def _latenesses(self) -> Iterator[Finding]:
        """Tell how late the other mount sees a name, a change in place, and that a name is gone.

        It lists and reads before each change, so that what it remembers is old.
        """
        disk, here, check = self.disk, f"{self._place}/seen", "other mount"
        there = self._by_other(here)
        written, read = f"{here}/beat", f"{there}/beat"
        try:
            disk.mkdir(here)
            if self._until(lambda: "seen" in disk.names(self._by_other(self._place))) is None:
                found = f"shows nothing of what was made here {LATE_PATIENCE:.0f} s ago"
                remedy = "--other wants another mount of the same directory"
                yield Finding(check, Verdict.BAD, found, remedy)
                return
            yield Finding(check, Verdict.OK, "is of the same directory")
            disk.names(there)
            disk.write_at(written, 0, _beat(1), create=True)
            yield self._late("new name", lambda: "beat" in disk.names(there))
            self._until(lambda: disk.read(read) == _beat(1))
            disk.write_at(written, 0, _beat(2))
            yield self._late("changed beat", lambda: disk.read(read) == _beat(2))
            disk.unlink(written)
            yield self._late("removed name", lambda: "beat" not in disk.names(there))
        except OSError as error:
            yield diagnosis.failed(check, error)

    def _late(self, check: str, condition: Callable[[], bool]) -> Finding:
        return diagnosis.lateness(check, self._until(condition), LATE_PATIENCE)

    def _until(self, condition: Callable[[], bool]) -> float | None:
        """Return after how many seconds a condition holds, None if it did not in time."""
        begun, pause = self.now(), 0.0005
        while self.now() - begun < LATE_PATIENCE:
            with contextlib.suppress(OSError):
                if condition():
                    return self.now() - begun
            self.pause(pause)
            pause = min(0.1, pause * 1.5)
        return None

    def _rename(self, mounts: list[str]) -> Finding:
        disk, sources, targets = self.disk, f"{self._place}/{SOURCES}", f"{self._place}/{TARGETS}"
        disk.mkdir(sources)
        disk.mkdir(targets)
        for number in range(FILES):
            disk.write(f"{sources}/{number}", b"")
        other = mounts[-1]
        self._until(lambda: len(disk.names(f"{other}/{SOURCES}")) == FILES)
        self._until(lambda: disk.names(f"{other}/{TARGETS}") == [])
        rivals = [mounts[number % len(mounts)] for number in range(RIVALS)]
        told, error = contest.compete(rivals, FILES)
        # Until a listing is not older than the contest.
        self._until(lambda: len(disk.names(sources)) + len(disk.names(targets)) == FILES)
        left, won = disk.names(sources), disk.names(targets)
        return diagnosis.rename(FILES, told, left, won, len(mounts), error)


def _beat(number: int) -> bytes:
    return f"{number:0{WIDTH}}\n".encode()


def _there(disk: Disk, path: str) -> bool:
    """Tell whether a path is in a listing; where none is allowed, whether it can be looked at."""
    directory, _, name = path.rpartition("/")
    try:
        return name in disk.names(directory)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return os.path.lexists(path)


def _check_directory(path: str) -> None:
    shown = naming.shown(path)
    try:
        os.stat(path)
    except PermissionError as error:
        raise NotPermittedError(
            f"{shown}: this user may not search the directories above it"
        ) from error
    except FileNotFoundError as error:
        raise NotFoundError(
            f"{shown}: no such directory; make it, or mount the share that it is on"
        ) from error
    if not os.path.isdir(path):
        raise NotFoundError(f"{shown}: not a directory; SPOOL is the directory of the jobs")


@contextlib.contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """Turn INT, TERM and HUP into one KeyboardInterrupt, none once the event is set."""
    leaving, former = threading.Event(), {}

    def interrupted(_number: int, _frame: object) -> None:
        if not leaving.is_set():
            leaving.set()
            raise KeyboardInterrupt

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:
                former[number] = signal.signal(number, interrupted)
    try:
        yield leaving
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _refuse_trap(above: str) -> None:
    """Refuse to execute, as root, what somebody else could put in the place of ours."""
    stat = os.stat(above)
    if stat.st_uid != 0 or (ready.exposed(stat) and not stat.st_mode & modes.S_ISVTX):
        raise NotPermittedError(
            f"{naming.shown(above)}: others than root can write it, and put a program of theirs "
            "where root tries whether any can be executed; run as its owner"
        )
