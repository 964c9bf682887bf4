"""A machine made of dictionaries: disk, keeper, processes and clock.

Whole lives of a daemon take milliseconds on it.

``MemDisk`` is a file system with the operations of ``pmjq.disk.Disk`` and the errors of Linux.
``Faulty`` stands between the daemon and a disk, counts the daemon's operations and spoils the one
that ``Faults`` names. ``World`` is the machine: it carries out what a keeper and the jobs do, on
the disk itself, so those operations are not counted as the daemon's, and it outlives daemons.

The model of a power cut is a journalling file system with ordered metadata. Changes of names are
written to a journal, one per device, in the order in which they were made; any fsync or fdatasync
on the device makes all of them durable that came before it. At the cut, of the later ones a
prefix of any length is there. What a file holds is durable after its own fsync or fdatasync only;
what was written later may be there, may be missing (the file is as it was at its last sync, empty
if it never was), or may be torn. Modes and owners count as part of the file's making.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import signal
import stat as modes
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeVar

from pmjq.directives import HEAD
from pmjq.disk import GONE, Disk
from pmjq.gates import Limits
from pmjq.job import Usage, moment
from pmjq.lives import Ground, Lives
from pmjq.node import Life, Machine, Reading
from pmjq.outside import Settings
from pmjq.packing import Capacity
from pmjq.process import Ended, Key, Order, Report, Started, Unkept, Unstarted, Vanished
from pmjq.ready import INFO_FILES, Inside, Look, Rules
from pmjq.turn import Turn

T = TypeVar("T")

NEAR = 1
FAR = 2
"""Devices: of the spool, and of whatever is mounted."""

UID = 1000


class Clock:
    """Time that passes when it is told to."""

    def __init__(self, now: float = 1000.0, ahead: float = 1.7e9) -> None:
        self._now = now
        self._ahead = ahead

    def now(self) -> float:
        """Return the monotonic time."""
        return self._now

    def wall(self) -> float:
        """Return the time of day."""
        return self._now + self._ahead

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self._now += seconds


class Inode:
    """A file, a directory (``children``), a link (``target``), or what else its mode says."""

    __slots__ = (
        "children",
        "ctime",
        "data",
        "device",
        "mode",
        "mtime",
        "nlink",
        "number",
        "synced",
        "target",
        "uid",
    )

    def __init__(self, number: int, device: int, mode: int, uid: int, at: int) -> None:
        self.number = number
        self.device = device
        self.mode = mode
        self.uid = uid
        self.mtime = self.ctime = at
        self.nlink = 1
        self.data = self.synced = b""
        self.target = ""
        self.children: dict[str, Inode] | None = {} if modes.S_ISDIR(mode) else None


Change = tuple[Inode, str, Inode | None]
"""In a directory, a name is given to an inode, or taken away."""


class Unsynced(StrEnum):
    """What a power cut leaves of what was written to a file since its last sync."""

    KEPT = "kept"
    MISSING = "missing"
    TORN = "torn"


class MemDisk(Disk):
    """A file system in memory.

    Paths are absolute; only a path's last name may be a symbolic link. ``uid`` owns what is made
    here, by a process of ``me``; ``widened`` are bits that each mode gets whatever was asked for.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.me = self.uid = UID
        self.widened = 0
        self.full: set[int] = set()
        self.denied: set[str] = set()
        self.writers: set[int] = set()
        self.leases = True
        self._numbers = itertools.count(2)
        self.root = Inode(1, NEAR, modes.S_IFDIR | 0o755, 0, self._at())
        self._durable: dict[int, dict[str, Inode]] = {}
        self._journal: list[tuple[Change, ...]] = []

    # -- set-up, and what only tests do

    def tree(self, path: str) -> None:
        """Make a directory and those above it."""
        done = ""
        for part in path.strip("/").split("/"):
            done += f"/{part}"
            if self.stat(done) is None:
                self.mkdir(done)

    def mount(self, path: str, device: int) -> None:
        """Put an empty file system at a directory."""
        parent, name = self._place(path)
        mounted = self._make(parent, modes.S_IFDIR | 0o755)
        mounted.device = device
        self._change((parent, name, mounted))

    def put(self, path: str, data: bytes, mode: int = 0o755, *, synced: bool = True) -> None:
        """Put a file in its place, complete."""
        self.write(path, data)
        inode = self._find(path)
        inode.mode = modes.S_IFREG | mode
        if synced:
            self.sync(path)

    def append(self, path: str, data: bytes) -> None:
        """Append to a file that must be there, as a keeper does."""
        self.grow(self._find(path), data, path)

    def grow(self, inode: Inode, data: bytes, path: str = "") -> None:
        """Append to an open file."""
        if inode.device in self.full:
            raise _error(errno.ENOSPC, path)
        inode.data += data
        inode.mtime = inode.ctime = self._at()

    def inode(self, path: str) -> Inode | None:
        """Return what a path leads to."""
        try:
            return self._find(path)
        except OSError:
            return None

    def create_in(self, directory: Inode, name: str, data: bytes) -> None:
        """Make a file in an open directory, wherever that has been moved to, as a job does."""
        if directory.nlink and directory.children is not None and name not in directory.children:
            made = self._make(directory, modes.S_IFREG | 0o644)
            made.data = data
            self._change((directory, name, made))

    def paths(self, below: str = "") -> list[str]:
        """Return every path below a directory, sorted."""
        found: list[str] = []
        top = self.inode(below) if below else self.root
        stack = [(below, top)] if top else []
        while stack:
            path, inode = stack.pop()
            for name, child in (inode.children or {}).items():
                found.append(f"{path}/{name}")
                stack.append((f"{path}/{name}", child))
        return sorted(found)

    # -- the power cut

    def settle(self) -> None:
        """Make everything durable, as a disk is that has been left alone for a minute."""
        for device in {change[0].device for entry in self._journal for change in entry}:
            self._commit(device)
        stack = [self.root]
        while stack:
            inode = stack.pop()
            inode.synced = inode.data
            stack += (inode.children or {}).values()

    def unsynced(self) -> dict[int, int]:
        """Return how many operations are not durable, by device."""
        return dict(Counter(entry[0][0].device for entry in self._journal))

    def power_cut(
        self, prefix: int | Mapping[int, int], data: Unsynced, clock: Clock | None = None
    ) -> MemDisk:
        """Return the disk after a power cut.

        Of the operations that are not durable the first ``prefix`` are there.

        ``prefix`` may differ by device. This disk is left as it is.
        """
        names = {number: dict(children) for number, children in self._durable.items()}
        passed: Counter[int] = Counter()
        for entry in self._journal:
            device = entry[0][0].device
            most = prefix if isinstance(prefix, int) else prefix.get(device, 0)
            if passed[device] < most:
                _apply(names, entry)
            passed[device] += 1
        after = MemDisk(clock or self.clock)
        after.leases = self.leases
        after.me, after.uid, after.widened = self.me, self.uid, self.widened
        after._numbers = itertools.count(10_000_000 + next(self._numbers))
        after.root = _copied(self.root, names, data, {})
        after.settle()
        after._durable = {}
        after._remember(after.root)
        return after

    def _remember(self, inode: Inode) -> None:
        if inode.children is not None:
            self._durable[inode.number] = dict(inode.children)
            for child in inode.children.values():
                self._remember(child)

    # -- the operations of Disk

    def user(self) -> int:
        return self.me

    def made(self, path: str) -> os.stat_result:
        parent, _ = self._free(path)
        return _stat(self._make(parent, modes.S_IFREG | 0o755))

    def names(self, path: str) -> list[str]:
        inode = self._find(path)
        if inode.children is None:
            raise _error(errno.ENOTDIR, path)
        return list(inode.children)

    def stat(self, path: str) -> os.stat_result | None:
        try:
            inode = self._find(path)
        except OSError as error:
            if error.errno in GONE:
                return None
            raise
        return _stat(inode)

    def look(self, path: str) -> Look | None:
        try:
            inode = self._find(path)
        except OSError as error:
            if error.errno in GONE:
                return None
            raise
        stat = _stat(inode)
        if modes.S_ISDIR(inode.mode):
            return Look(stat, None, None, *self._inside(path))
        if not modes.S_ISREG(inode.mode):
            return Look(stat, None, None)
        busy = inode.number in self.writers if self.leases else None
        return Look(stat, busy, inode.data[:HEAD])

    def peek(self, path: str) -> Look | None:
        look = self.look(path)
        return look and look._replace(busy=None, inside=None)

    def _inside(self, path: str) -> tuple[tuple[str, bytes] | None, Inside | None]:
        """Return the info file of a directory, and what is in it; nothing without one."""
        name = next((name for name in INFO_FILES if self.inode(f"{path}/{name}")), None)
        if name is None:
            return None, None
        inodes = [self._find(one) for one in self.paths(f"{path}/")]
        newest = max(inode.ctime for inode in inodes)
        size = sum(len(inode.data) for inode in inodes)
        info = (name, self._find(f"{path}/{name}").data)
        return info, Inside(len(inodes), size, newest)

    def read(self, path: str, last: int = 0) -> bytes | None:
        try:
            inode = self._followed(path)
        except OSError as error:
            if error.errno in GONE:
                return None
            raise
        if inode.children is not None:
            raise _error(errno.EISDIR, path)
        return inode.data[-last:] if last else inode.data

    def write(self, path: str, data: bytes, *, exclusive: bool = False) -> None:
        inode = self._opened(path, create=True, exclusive=exclusive)
        if inode.device in self.full and len(data) > len(inode.data):
            raise _error(errno.ENOSPC, path)
        inode.data = data
        inode.mtime = inode.ctime = self._at()

    def write_at(self, path: str, offset: int, data: bytes, *, create: bool = False) -> None:
        inode = self._opened(path, create=create)
        if inode.device in self.full and offset + len(data) > len(inode.data):
            raise _error(errno.ENOSPC, path)
        before = inode.data[:offset].ljust(offset, b"\0")
        inode.data = before + data + inode.data[offset + len(data) :]
        inode.mtime = inode.ctime = self._at()
        inode.synced = inode.data
        self._commit(inode.device)

    def readable(self, path: str) -> bool:
        return self.stat(path) is not None and path not in self.denied

    def writable(self, path: str) -> bool:
        stat = self.stat(path)
        return stat is not None and modes.S_ISDIR(stat.st_mode) and path not in self.denied

    def create(self, files: list[tuple[str, bytes, int]]) -> None:
        for path, data, mode in files:
            self.write(path, data, exclusive=True)
            self._find(path).mode = modes.S_IFREG | mode
        for path, _, _ in files:
            self.sync(path)

    def size(self, path: str) -> int:
        return len(self.read(path) or b"")

    def read_part(self, path: str, offset: int, size: int) -> bytes:
        return (self.read(path) or b"")[offset : offset + size]

    def tail(self, path: str, size: int) -> bytes:
        return (self.read(path) or b"")[-size:]

    def stats(self, path: str) -> Iterator[tuple[str, os.stat_result]]:
        found = ((name, self.stat(f"{path}/{name}")) for name in self.names(path))
        return ((name, stat) for name, stat in found if stat is not None)

    def touch(self, path: str) -> None:
        inode = self._find(path)
        inode.mtime = inode.ctime = self._at()

    def mkdir(self, path: str) -> None:
        parent, name = self._free(path)
        self._change((parent, name, self._make(parent, modes.S_IFDIR | 0o755)))

    def symlink(self, target: str, path: str) -> None:
        parent, name = self._free(path)
        inode = self._make(parent, modes.S_IFLNK | 0o777)
        inode.target = target
        self._change((parent, name, inode))

    def link(self, source: str, path: str) -> None:
        inode = self._find(source)
        if inode.children is not None:
            raise _error(errno.EPERM, source, path)
        parent, name = self._free(path)
        if parent.device != inode.device:
            raise _error(errno.EXDEV, source, path)
        inode.nlink += 1
        inode.ctime = self._at()
        self._change((parent, name, inode))

    def rename(self, source: str, target: str) -> None:
        parent, name = self._place(source)
        inode = self._find(source)
        home, new = self._place(target)
        self._allowed(source, parent)
        self._allowed(target, home)
        if parent.device != home.device or inode.device != parent.device:
            raise _error(errno.EXDEV, source, target)
        if inode.children is not None and f"{target}/".startswith(f"{source}/"):
            raise _error(errno.EINVAL, source, target)
        if inode.children is not None and parent is not home and not inode.mode & modes.S_IWUSR:
            # Its ".." cannot be written.
            raise _error(errno.EACCES, source, target)
        there = (home.children or {}).get(new)
        if there is inode:
            # rename(2): two names of one file both stay.
            return
        if there is not None:
            self._make_way(inode, there, source, target)
        elif parent is not home and home.device in self.full:
            raise _error(errno.ENOSPC, source, target)
        inode.ctime = self._at()
        self._change((parent, name, None), (home, new, inode))

    def rename_new(self, source: str, target: str) -> None:
        self._find(source)
        if self.stat(target) is not None:
            raise _error(errno.EEXIST, source, target)
        self.rename(source, target)

    def unlink(self, path: str) -> None:
        try:
            parent, name = self._place(path)
            inode = self._find(path)
        except OSError as error:
            if error.errno in GONE:
                return
            raise
        if inode.children is not None:
            raise _error(errno.EISDIR, path)
        self._allowed(path, parent)
        inode.nlink -= 1
        inode.ctime = self._at()
        self._change((parent, name, None))

    def rmdir(self, path: str) -> bool:
        try:
            parent, name = self._place(path)
            inode = self._find(path)
        except OSError as error:
            if error.errno in GONE:
                return True
            raise
        if inode.children is None:
            return True
        if inode.device != parent.device:
            raise _error(errno.EBUSY, path)
        if inode.children:
            return False
        self._allowed(path, parent)
        inode.nlink = 0
        self._change((parent, name, None))
        return True

    def sync(self, path: str) -> None:
        inode = self._followed(path)
        inode.synced = inode.data
        self._commit(inode.device)

    def copy(self, source: str, target: str) -> None:
        inode = self._find(source)
        self.unlink(target)
        parent, name = self._free(target)
        made = self._make(parent, inode.mode)
        made.uid = inode.uid
        made.target = inode.target
        self._change((parent, name, made))
        if modes.S_ISREG(inode.mode):
            if inode.data and parent.device in self.full:
                raise _error(errno.ENOSPC, source, target)
            made.data = made.synced = inode.data
            self._commit(made.device)

    def chmod(self, path: str, mode: int) -> None:
        inode = self._find(path)
        inode.mode = modes.S_IFMT(inode.mode) | mode
        inode.ctime = self._at()

    def remove_tree(self, path: str) -> None:
        remove_tree(self, path)

    def copy_tree(self, source: str, target: str) -> None:
        copy_tree(self, source, target)

    def try_write(self, path: str, size: int) -> None:
        self._free(path)

    # -- below

    def _at(self) -> int:
        return int(self.clock.wall() * 1e9)

    def _find(self, path: str) -> Inode:
        inode = self.root
        for part in path.split("/"):
            if not part:
                continue
            if inode.children is None:
                raise _error(errno.ENOTDIR, path)
            found = inode.children.get(part)
            if found is None:
                raise _error(_missing(part), path)
            inode = found
        return inode

    def _followed(self, path: str) -> Inode:
        inode = self._find(path)
        for _ in range(8):
            if not modes.S_ISLNK(inode.mode):
                return inode
            base = "" if inode.target.startswith("/") else path.rpartition("/")[0]
            path = f"{base}/{inode.target}"
            inode = self._find(path)
        raise _error(errno.ELOOP, path)

    def _place(self, path: str) -> tuple[Inode, str]:
        directory, _, name = path.rpartition("/")
        parent = self._find(directory)
        if parent.children is None:
            raise _error(errno.ENOTDIR, path)
        if _missing(name) == errno.ENAMETOOLONG:
            raise _error(errno.ENAMETOOLONG, path)
        return parent, name

    def _free(self, path: str) -> tuple[Inode, str]:
        parent, name = self._place(path)
        if name in (parent.children or {}):
            raise _error(errno.EEXIST, path)
        self._allowed(path, parent)
        if parent.device in self.full:
            raise _error(errno.ENOSPC, path)
        return parent, name

    def _allowed(self, path: str, parent: Inode) -> None:
        denied = bool(self.denied) and path.rpartition("/")[0] in self.denied
        if denied or not parent.mode & modes.S_IWUSR:
            raise _error(errno.EACCES, path)

    def _opened(self, path: str, *, create: bool, exclusive: bool = False) -> Inode:
        try:
            inode = self._followed(path)
        except FileNotFoundError:
            if not create:
                raise
        else:
            if exclusive:
                raise _error(errno.EEXIST, path)
            if inode.children is not None:
                raise _error(errno.EISDIR, path)
            return inode
        parent, name = self._free(path)
        made = self._make(parent, modes.S_IFREG | 0o644)
        self._change((parent, name, made))
        return made

    def _make(self, parent: Inode, mode: int) -> Inode:
        mode |= self.widened
        return Inode(next(self._numbers), parent.device, mode, self.uid, self._at())

    def _make_way(self, inode: Inode, there: Inode, source: str, target: str) -> None:
        if there.children is None:
            if inode.children is not None:
                raise _error(errno.ENOTDIR, source, target)
            there.nlink -= 1
            return
        if inode.children is None:
            raise _error(errno.EISDIR, source, target)
        if there.children:
            raise _error(errno.ENOTEMPTY, source, target)
        there.nlink = 0

    def _change(self, *changes: Change) -> None:
        for directory, name, inode in changes:
            children = directory.children
            if children is None:
                raise AssertionError(name)
            if inode is None:
                children.pop(name, None)
            else:
                children[name] = inode
            directory.mtime = directory.ctime = self._at()
        self._journal.append(changes)

    def _commit(self, device: int) -> None:
        rest: list[tuple[Change, ...]] = []
        for entry in self._journal:
            if entry[0][0].device == device:
                _apply(self._durable, entry)
            else:
                rest.append(entry)
        self._journal = rest


def remove_tree(disk: Disk, path: str) -> None:
    """Remove a tree as ``Disk.remove_tree`` does, call by call."""
    refused: OSError | None = None
    try:
        disk.unlink(path)
    except OSError:
        stat = disk.stat(path)
        if stat is None:
            return
        if not modes.S_ISDIR(stat.st_mode):
            raise
        if stat.st_mode & modes.S_IRWXU != modes.S_IRWXU:
            disk.chmod(path, modes.S_IMODE(stat.st_mode) | modes.S_IRWXU)
        for name in disk.names(path):
            try:
                remove_tree(disk, f"{path}/{name}")
            except OSError as error:
                refused = refused or error
        if refused is not None:
            raise refused from None
        if not disk.rmdir(path):
            raise _error(errno.ENOTEMPTY, path) from None


def copy_tree(disk: Disk, source: str, target: str) -> None:
    """Copy a directory as ``Disk.copy_tree`` does, call by call."""
    disk.remove_tree(target)
    disk.mkdir(target)
    for name in disk.names(source):
        stat = disk.stat(f"{source}/{name}")
        if stat is not None:
            copy = disk.copy_tree if modes.S_ISDIR(stat.st_mode) else disk.copy
            copy(f"{source}/{name}", f"{target}/{name}")
    stat = disk.stat(source)
    if stat is not None:
        disk.chmod(target, modes.S_IMODE(stat.st_mode))
    disk.sync(target)


def _apply(names: dict[int, dict[str, Inode]], entry: tuple[Change, ...]) -> None:
    for directory, name, inode in entry:
        children = names.setdefault(directory.number, {})
        if inode is None:
            children.pop(name, None)
        else:
            children[name] = inode


def _copied(
    inode: Inode, names: dict[int, dict[str, Inode]], data: Unsynced, made: dict[int, Inode]
) -> Inode:
    if inode.number in made:
        made[inode.number].nlink += 1
        return made[inode.number]
    copy = Inode(inode.number, inode.device, inode.mode, inode.uid, inode.ctime)
    copy.mtime, copy.target = inode.mtime, inode.target
    made[inode.number] = copy
    if copy.children is not None:
        for name, child in names.get(inode.number, {}).items():
            copy.children[name] = _copied(child, names, data, made)
    elif data is Unsynced.KEPT:
        copy.data = inode.data
    elif data is Unsynced.MISSING:
        copy.data = inode.synced
    elif inode.data != inode.synced:
        half = len(inode.data) // 2
        copy.data = inode.data[:half] + inode.synced[half:]
    else:
        copy.data = inode.data
    return copy


def _missing(name: str) -> int:
    if len(name) > 60 and len(os.fsencode(name)) > 255:
        return errno.ENAMETOOLONG
    return errno.ENOENT


def _error(number: int, path: str, second: str | None = None) -> OSError:
    return OSError(number, os.strerror(number), path, None, second)


def _stat(inode: Inode) -> os.stat_result:
    size = len(inode.data) if inode.children is None else 4096
    seconds = (inode.mtime // 10**9, inode.mtime // 10**9, inode.ctime // 10**9)
    fields = (
        inode.mode, inode.number, inode.device, inode.nlink, inode.uid, inode.uid, size, *seconds
    )  # fmt: skip
    return os.stat_result(fields, {"st_mtime_ns": inode.mtime, "st_ctime_ns": inode.ctime})


# -- faults


class Crash(BaseException):
    """The daemon is killed here."""


class How(StrEnum):
    """What happens to an operation."""

    CRASH_BEFORE = "crash before"
    CRASH_WITHIN = "crash within"
    CRASH_AFTER = "crash after"
    FAIL = "fails"
    LOSE = "is carried out and fails"


CRASHES = (How.CRASH_BEFORE, How.CRASH_WITHIN, How.CRASH_AFTER)

SEVERAL_CALLS = frozenset({"write", "write_at", "copy", "create"})
"""Operations of several calls: a kill comes between them, a full disk stops them half-way."""


@dataclass(slots=True)
class Faults:
    """What goes wrong: at the ``at``-th operation (from 1), and if ``lasting`` at every later one.

    ``matching``: of the operations that satisfy it only. ``seen`` is called with each operation
    that was carried out.
    """

    at: int = 0
    how: How = How.CRASH_BEFORE
    error: int = errno.EIO
    lasting: bool = False
    matching: Callable[[str, tuple[str, ...]], bool] | None = None
    seen: Callable[[str], None] | None = None
    count: int = 0
    hit: str = ""

    def strikes(self, operation: str, paths: tuple[str, ...]) -> bool:
        """Count an operation and tell whether it goes wrong."""
        if self.matching is not None and not self.matching(operation, paths):
            return False
        self.count += 1
        if not self.at or self.count < self.at or (self.count > self.at and not self.lasting):
            return False
        self.hit = self.hit or f"n={self.count} {operation} {' -> '.join(paths)}"
        return True

    def lift(self) -> None:
        """End what lasts."""
        self.at = 0

    def __str__(self) -> str:
        name = "" if self.how in CRASHES else f" with {errno.errorcode[self.error]}"
        return f"{self.hit} {self.how}{name}{' from then on' * self.lasting}"


class Faulty(Disk):
    """A disk whose operations ``Faults`` count and spoil, with the answers that ``Disk`` gives."""

    def __init__(self, disk: Disk, faults: Faults) -> None:
        self.disk = disk
        self.faults = faults

    def user(self) -> int:
        return self.disk.user()

    def made(self, path: str) -> os.stat_result:
        return self._do("made", lambda: self.disk.made(path), path)

    def names(self, path: str) -> list[str]:
        return self._do("names", lambda: self.disk.names(path), path)

    def stat(self, path: str) -> os.stat_result | None:
        return self._gone(None, "stat", lambda: self.disk.stat(path), path)

    def look(self, path: str) -> Look | None:
        try:
            return self._gone(None, "look", lambda: self.disk.look(path), path)
        except PermissionError:
            stat = self.disk.stat(path)
            return Look(stat, None, None) if stat else None

    def peek(self, path: str) -> Look | None:
        return self._gone(None, "look", lambda: self.disk.peek(path), path)

    def read(self, path: str, last: int = 0) -> bytes | None:
        return self._gone(None, "read", lambda: self.disk.read(path, last), path)

    def write(self, path: str, data: bytes) -> None:
        def half() -> None:
            before = self.disk.read(path)
            if before is None:
                self.disk.write(path, b"")
            elif len(before) > len(data):
                self.disk.write(path, data + before[len(data) :])

        self._do("write", lambda: self.disk.write(path, data), path, half=half)

    def write_at(self, path: str, offset: int, data: bytes, *, create: bool = False) -> None:
        def half() -> None:
            self.disk.write_at(path, offset, data[: len(data) // 2], create=create)

        self._do(
            "write_at",
            lambda: self.disk.write_at(path, offset, data, create=create),
            path,
            half=half,
        )

    def readable(self, path: str) -> bool:
        return self.disk.readable(path)

    def writable(self, path: str) -> bool:
        return self._do("writable", lambda: self.disk.writable(path), path)

    def create(self, files: list[tuple[str, bytes, int]]) -> None:
        def half() -> None:
            whole = len(files) // 2
            self.disk.create(files[:whole])
            path, data, _ = files[whole]
            self.disk.write(path, data[: len(data) // 2])

        self._do("create", lambda: self.disk.create(files), files[0][0], half=half)

    def size(self, path: str) -> int:
        return self._gone(0, "size", lambda: self.disk.size(path), path)

    def read_part(self, path: str, offset: int, size: int) -> bytes:
        return self._gone(b"", "read_part", lambda: self.disk.read_part(path, offset, size), path)

    def tail(self, path: str, size: int) -> bytes:
        return self._gone(b"", "tail", lambda: self.disk.tail(path, size), path)

    def stats(self, path: str) -> Iterator[tuple[str, os.stat_result]]:
        return self._do("stats", lambda: self.disk.stats(path), path)

    def touch(self, path: str) -> None:
        self._do("touch", lambda: self.disk.touch(path), path)

    def mkdir(self, path: str) -> None:
        self._do("mkdir", lambda: self.disk.mkdir(path), path)

    def symlink(self, target: str, path: str) -> None:
        self._do("symlink", lambda: self.disk.symlink(target, path), path)

    def link(self, source: str, path: str) -> None:
        self._do("link", lambda: self.disk.link(source, path), source, path)

    def rename(self, source: str, target: str) -> None:
        self._do("rename", lambda: self.disk.rename(source, target), source, target)

    def rename_new(self, source: str, target: str) -> None:
        self._do("rename_new", lambda: self.disk.rename_new(source, target), source, target)

    def unlink(self, path: str) -> None:
        self._gone(None, "unlink", lambda: self.disk.unlink(path), path)

    def rmdir(self, path: str) -> bool:
        return self._gone(True, "rmdir", lambda: self.disk.rmdir(path), path)  # noqa: FBT003

    def sync(self, path: str) -> None:
        self._do("sync", lambda: self.disk.sync(path), path)

    def copy(self, source: str, target: str) -> None:
        def half() -> None:
            data = self.disk.read(source) or b""
            self.disk.write(target, data[: len(data) // 2])

        self._do("copy", lambda: self.disk.copy(source, target), source, target, half=half)

    def chmod(self, path: str, mode: int) -> None:
        self._do("chmod", lambda: self.disk.chmod(path, mode), path)

    def remove_tree(self, path: str) -> None:
        remove_tree(self, path)

    def copy_tree(self, source: str, target: str) -> None:
        copy_tree(self, source, target)

    def try_write(self, path: str, size: int) -> None:
        self._do("try_write", lambda: self.disk.try_write(path, size), path)

    def _gone(self, answer: T, operation: str, call: Callable[[], T], path: str) -> T:
        try:
            return self._do(operation, call, path)
        except OSError as error:
            if error.errno in GONE:
                return answer
            raise

    def _do(
        self,
        operation: str,
        call: Callable[[], T],
        *paths: str,
        half: Callable[[], None] | None = None,
    ) -> T:
        faults = self.faults
        if not faults.strikes(operation, paths):
            result = call()
            if faults.seen is not None:
                faults.seen(operation)
            return result
        match faults.how:
            case How.CRASH_BEFORE:
                raise Crash
            case How.CRASH_WITHIN:
                if half is not None:
                    half()
                raise Crash
            case How.CRASH_AFTER:
                with contextlib.suppress(OSError):
                    call()
                raise Crash
            case How.FAIL:
                if half is not None and faults.error == errno.ENOSPC:
                    half()
            case How.LOSE:
                call()
        raise _error(faults.error, paths[0], paths[1] if len(paths) > 1 else None)


# -- processes


@dataclass(frozen=True, slots=True)
class Script:
    """What a job does: how long it runs, its exit code, its output and the files it leaves.

    ``mode``: what it gives its working directory in the end.
    """

    seconds: float = 1.0
    code: int = 0
    output: bytes = b"said\n"
    leaves: tuple[str, ...] = ()
    mode: int | None = None


@dataclass(slots=True)
class Keeper:
    """A keeper process: the daemon it reports to, its line, and what it could not write yet."""

    pid: int
    daemon: FakeProcesses | None
    line: list[Order] = field(default_factory=list)
    most: int = 0
    unwritten: list[tuple[str, bytes]] = field(default_factory=list)
    lost: bool = False


@dataclass(slots=True)
class Process:
    """A job's process."""

    pid: int
    key: Key
    name: str
    status: str
    keeper: Keeper
    out: Inode
    work: Inode
    script: Script
    ends: float


class World:
    """One machine: its disk, its clock, and all processes, which live on when a daemon dies.

    ``leftovers``: the ids of jobs that leave a process behind which only KILL ends.
    """

    def __init__(self, disk: MemDisk) -> None:
        self.disk = disk
        self.clock = disk.clock
        self.boot = "boot0001-0000"
        self.scripts: dict[str, Script] = {}
        self.executions: Counter[str] = Counter()
        self.running: dict[int, Process] = {}
        self.daemons: set[int] = set()
        self.keepers: list[Keeper] = []
        self.holding = False
        self.held: list[tuple[Keeper, Order]] = []
        self.dies_in_start: set[str] = set()
        self.leftovers: set[str] = set()
        self.lined = self.recalled = self.most_running = 0
        self._pids = itertools.count(100)
        self._chance = itertools.count(1)

    def pid(self) -> int:
        """Return a pid that nobody had before."""
        return next(self._pids)

    def chance(self) -> str:
        """Return a UUID that nobody else has."""
        return f"{next(self._chance):08x}-0000-4000-8000-000000000000"

    def alive(self, pid: int, start: int) -> bool:
        """Tell whether a process is there; the start time of each follows from its pid."""
        there = pid in self.running or pid in self.daemons or any(
            keeper.pid == pid and self._lives(keeper) for keeper in self.keepers
        )  # fmt: skip
        return there and start == pid * 100

    def kill_daemon(self, processes: FakeProcesses) -> None:
        """End a daemon: its keeper and its jobs go on."""
        self.daemons.discard(processes.daemon)
        if processes.keeper is not None:
            processes.keeper.daemon = None
            processes.keeper.line.clear()
        processes.keeper = None

    def lose_keeper(self, keeper: Keeper) -> None:
        """End a keeper: its jobs go on, nobody writes how they end, and its orders are gone."""
        keeper.lost = True
        keeper.line.clear()
        self.held = [(other, order) for other, order in self.held if other is not keeper]
        daemon = keeper.daemon
        if daemon is not None:
            daemon.keeper = None
            daemon.said.append(Unkept(frozenset(daemon.kept)))
            daemon.kept.clear()

    def reboot(self, disk: MemDisk) -> World:
        """Return the machine after a power cut: its disk then, no processes, the same past."""
        after = World(disk)
        after.boot = f"boot{int(self.boot[4:8]) + 1:04}-0000"
        after.scripts = self.scripts
        after.executions = Counter(self.executions)
        after._pids = itertools.count(10_000 + next(self._pids))
        after._chance = itertools.count(1000 + next(self._chance))
        return after

    def advance(self, seconds: float) -> None:
        """Let time pass; jobs end in it."""
        until = self.clock.now() + seconds
        while self.running:
            process = min(self.running.values(), key=lambda each: each.ends)
            if process.ends > until:
                break
            self.clock.advance(max(0.0, process.ends - self.clock.now()))
            self.end(process)
        self.clock.advance(max(0.0, until - self.clock.now()))
        for keeper in self.keepers:
            unwritten, keeper.unwritten = keeper.unwritten, []
            for status, line in unwritten:
                self._write(keeper, status, line)

    def age(self, process: Process) -> float:
        """Return for how long a job has run."""
        return self.clock.now() - process.ends + process.script.seconds

    def next_end(self) -> float:
        """Return when the next job ends."""
        return min((process.ends for process in self.running.values()), default=1e18)

    def release(self) -> None:
        """Have the orders carried out that were held back."""
        self.holding = False
        held, self.held = self.held, []
        for keeper, order in held:
            self.carry_out(keeper, order)
            self.start_line(keeper)

    def start_line(self, keeper: Keeper) -> None:
        """Have a keeper start what stands in its line, as far as it may."""
        while keeper.line and not keeper.lost and not self.holding and self._room(keeper):
            self.carry_out(keeper, keeper.line.pop(0))

    def _room(self, keeper: Keeper) -> bool:
        return sum(each.keeper is keeper for each in self.running.values()) < keeper.most

    def carry_out(self, keeper: Keeper, order: Order) -> None:
        """Start a job, as a keeper and its child do."""
        disk, key = self.disk, order.key
        work = disk.inode(order.work)
        try:
            if work is None:
                raise _error(errno.ENOENT, order.work)
            out = disk._opened(order.out, create=True)
            disk.write(order.status, b"", exclusive=True)
        except OSError as error:
            tried = error.errno != errno.EEXIST and disk.stat(order.status) is not None
            self._say(keeper, Unstarted(key, error.errno or 0, tried))
            return
        name = order.environment["PMJQ_NAME"]
        program = order.argv[-1]
        at = self.clock.wall()
        content = disk.read(program)
        if content is None or content.startswith(b"\x7fELF"):
            number = errno.ENOENT if content is None else errno.ENOEXEC
            self._write(keeper, order.status, f"noexec {number} {at:.6f}\n".encode())
            self._say(keeper, Unstarted(key, number, tried=True))
            return
        script = self.scripts[name]
        self.executions[name] += 1
        pid = self.pid()
        ends = self.clock.now() + script.seconds
        process = Process(pid, key, name, order.status, keeper, out, work, script, ends)
        self.running[pid] = process
        self.most_running = max(self.most_running, len(self.running))
        out.data += script.output
        if name in self.dies_in_start:
            self.lose_keeper(keeper)
            return
        started = f"started {pid} {pid * 100} {at:.6f} {keeper.pid} {keeper.pid * 100}\n"
        self._write(keeper, order.status, started.encode())
        self._say(keeper, Started(key, pid, at))

    def end(self, process: Process, code: int | None = None) -> None:
        """Have a job end."""
        for left in process.script.leaves:
            self.disk.create_in(process.work, left, b"left")
        if process.script.mode is not None:
            process.work.mode = modes.S_IFDIR | process.script.mode
        del self.running[process.pid]
        self.start_line(process.keeper)
        code = process.script.code if code is None else code
        at = self.clock.wall()
        if not process.keeper.lost:
            line = f"exit {code} {at:.6f} 0.5 0.25 4096\n"
            self._write(process.keeper, process.status, line.encode())
            alone = len(self.running) == 0
            self._say(process.keeper, Ended(process.key, code, at, Usage(0.5, 0.25, 4096), alone))
        for daemon in {keeper.daemon for keeper in self.keepers if keeper.daemon}:
            if process.pid in daemon.adopted:
                daemon.said.append(Vanished(daemon.adopted.pop(process.pid)))

    def tell(self, process: Process, limit: str) -> None:
        """Have a keeper write down that its job is told to stop, and over which limit it is."""
        if not process.keeper.lost:
            line = " ".join(("told", *filter(None, [limit]))) + "\n"
            self._write(process.keeper, process.status, line.encode())

    def _lives(self, keeper: Keeper) -> bool:
        busy = any(process.keeper is keeper for process in self.running.values())
        held = any(other is keeper for other, _ in self.held)
        return not keeper.lost and bool(keeper.daemon or busy or held or keeper.unwritten)

    def _write(self, keeper: Keeper, status: str, line: bytes) -> None:
        if any(path == status for path, _ in keeper.unwritten):
            keeper.unwritten.append((status, line))
            return
        try:
            self.disk.append(status, line)
        except OSError as error:
            if error.errno not in GONE:
                keeper.unwritten.append((status, line))

    def _say(self, keeper: Keeper, report: Report) -> None:
        # A keeper that is gone says nothing more, whatever it had under way.
        if keeper.daemon is not None and not keeper.lost:
            if not isinstance(report, Started):
                keeper.daemon.kept.discard(_key(report))
            keeper.daemon.said.append(report)


def _key(report: Report) -> Key:
    if isinstance(report, Unkept):
        raise TypeError(report)
    return report.key


class FakeProcesses:
    """The processes of one daemon in a world, as a turn needs them."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.daemon = world.pid()
        world.daemons.add(self.daemon)
        self.keeper: Keeper | None = None
        self.kept: set[Key] = set()
        self.said: list[Report] = []
        self.adopted: dict[int, Key] = {}
        self.signals: list[tuple[int, dict[str, int]]] = []
        self.refuses = 0

    def start(self, now: list[Order], line: list[Order], most: int) -> None:
        if self.refuses:
            raise _error(self.refuses, "keeper")
        world = self.world
        if self.keeper is None:
            self.keeper = Keeper(world.pid(), self)
            world.keepers.append(self.keeper)
        keeper = self.keeper
        self.kept.update(order.key for order in (*now, *line))
        for order in now:
            if world.holding:
                world.held.append((keeper, order))
            elif not keeper.lost:
                world.carry_out(keeper, order)
        if not keeper.lost:
            world.lined += len(line)
            keeper.line += line
            keeper.most = most - len(self.adopted)
            world.start_line(keeper)

    def recall(self) -> None:
        if self.keeper is not None:
            self.world.recalled += len(self.keeper.line)
            for order in self.keeper.line:
                self.kept.discard(order.key)
                self.said.append(Unstarted(order.key, errno.ECANCELED, tried=False))
            self.keeper.line.clear()

    def reports(self) -> list[Report]:
        said, self.said = self.said, []
        return said

    def age(self, start: int) -> float:
        return self.world.age(self.world.running[start // 100])

    def adopt(self, key: Key, pid: int, start: int, uid: int = 0) -> bool:
        if pid not in self.world.running or start != pid * 100:
            return False
        if self.keeper is None:
            self.keeper = Keeper(self.world.pid(), self)
            self.world.keepers.append(self.keeper)
        self.adopted[pid] = key
        return True

    def keeps(self, key: Key, pid: int, start: int) -> bool:
        if self.keeper is not None and self.keeper.pid == pid:
            return key in self.kept
        return self.world.alive(pid, start)

    def find(self, job_id: str, uid: int = 0) -> tuple[int, int] | None:
        found = [pid for pid, each in self.world.running.items() if each.key[0] == job_id]
        return (min(found), min(found) * 100) if found else None

    def left(self, jobs: Mapping[str, int]) -> set[str]:
        running = {each.key[0] for each in self.world.running.values()}
        return (running | self.world.leftovers) & set(jobs)

    def signal(self, jobs: Mapping[str, int], number: int, limits: Mapping[str, str]) -> None:
        self.signals.append((number, dict(jobs)))
        for process in list(self.world.running.values()):
            if process.key[0] in jobs and process.keeper.daemon is self:
                self.world.tell(process, limits.get(process.key[0], ""))
        if number == signal.SIGKILL:
            self.world.leftovers -= set(jobs)
        for job_id in jobs:
            for process in list(self.world.running.values()):
                if process.key[0] == job_id:
                    self.world.end(process, -number)

    def go_on_beating(self, path: str, count: int, every: float) -> None:
        raise NotImplementedError("no double of a daemon leaves")

    def close(self) -> None:
        self.world.kill_daemon(self)


# -- a daemon


class Lines:
    """A log that is kept."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, dict[str, object]]] = []

    def info(self, event: str, **keys: object) -> None:
        self.lines.append(("info", event, keys))

    def warning(self, event: str, **keys: object) -> None:
        self.lines.append(("warning", event, keys))

    def error(self, event: str, **keys: object) -> None:
        self.lines.append(("error", event, keys))

    def events(self) -> list[str]:
        """Return the events, in order."""
        return [event for _, event, _ in self.lines]


@dataclass(frozen=True, slots=True)
class Place:
    """What a daemon is started with."""

    spool: str = "/srv/spool"
    archive: str | None = "/srv/archive"
    errors: str | None = None
    slots: int | None = 1
    node: str = "a"
    ordered: bool = True
    uids: frozenset[int] = frozenset({UID})
    load: float | None = None
    capacity: Capacity = field(default_factory=Capacity)


def reading() -> Reading:
    """Return the look at a machine with nothing to do."""
    return Reading(load=0.0, runnable=1, cpus=8)


MOST_HURRIED = 20
"""Turns in a row that may ask for another at once."""


class Daemon:
    """A daemon's life in a world: dies of ``Crash`` and leaves all the rest as it is."""

    def __init__(
        self, world: World, place: Place, faults: Faults | None = None, *, begin: bool = True
    ) -> None:
        """Begin as ``pmjq.daemon.Daemon`` does; may raise what that raises, or Crash.

        ``begin``: False if the test itself does that.
        """
        self.world = world
        self.faults = faults or Faults()
        self.disk = Faulty(world.disk, self.faults)
        self.log = Lines()
        self.spins = False
        self.silent = 0.0
        self.processes = FakeProcesses(world)
        pid = self.processes.daemon
        me = Machine("machine", world.boot, "space", pid, pid * 100)
        self.lives = Lives(self._ground(place, me), self._publish, lambda _: None)
        if begin:
            self.begin()

    def begin(self) -> None:
        """Begin the first life."""
        try:
            self.lives.prepare()
            self.lives.begin()
        except BaseException:
            self.world.kill_daemon(self.processes)
            raise
        self.turn = self.lives.turn
        self.turn.outside.silent = lambda: self.silent

    def _ground(self, place: Place, me: Machine) -> Ground:
        world, clock = self.world, self.world.clock
        return Ground(
            disk=self.disk,
            root=place.spool,
            local=True,
            settings=Settings(
                place.node,
                me,
                Limits(place.load, place.slots),
                Rules(place.uids),
                cpus=place.capacity.cpus,
                memory=place.capacity.memory,
                capacity=place.capacity,
            ),
            archive=place.archive,
            errors=place.errors,
            processes=self.processes,
            log=self.log,
            now=clock.now,
            wall=clock.wall,
            boottime=clock.now,
            reading=reading,
            owner=str,
            alive=world.alive,
            chance=world.chance,
        )

    def _publish(self, turn: Turn) -> None:
        settings = turn.outside.settings
        life = life_of(turn.spool.token, settings.machine, self.world.clock.wall())
        with contextlib.suppress(OSError):
            turn.spool.publish(life)

    def turn_once(self) -> float:
        """Take one turn; a crash ends the daemon and is passed on."""
        try:
            return self.turn.turn()
        except BaseException:
            self.world.kill_daemon(self.processes)
            raise

    def run(self, until: Callable[[], bool], *, within: float = 600.0, turns: int = 2000) -> bool:
        """Take turns and let time pass until a condition holds; False if it does not in time."""
        world, clock = self.world, self.world.clock
        end = clock.now() + within
        hurried = 0
        for _ in range(turns):
            wake = self.turn_once()
            # A turn that wants the next at once, over and over, keeps a CPU busy for nothing.
            hurried = hurried + 1 if wake <= clock.now() else 0
            self.spins = hurried > MOST_HURRIED
            if self.spins:
                return False
            if until():
                return True
            if clock.now() >= end:
                return False
            world.advance(max(0.0005, min(wake, world.next_end(), end) - clock.now()))
        return False

    def stop(self) -> None:
        """Kill the daemon."""
        self.world.kill_daemon(self.processes)


def life_of(token: str, me: Machine, at: float) -> Life:
    """Return what a daemon publishes of itself."""
    return Life(
        name=token.rpartition(".")[0].rpartition(".")[0],
        token=token,
        machine=me.machine,
        boot=me.boot,
        space=me.space,
        pid=me.pid,
        start=me.start,
        version="0",
        began=moment(at),
        at=moment(at),
    )
