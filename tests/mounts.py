"""One file system in memory and the mounts through which several machines see it.

``SharedDisk`` is the server: what it does is exact and at once. A ``Mount`` is one client of it.
Each of its operations is one system call, takes time, in which the others go on, and may show
what was true a while ago: what real file systems were measured to do, by ``Kind``. Exact on all
of them stays exact: a rename decides, O_EXCL decides, nothing gets into a removed directory, and
the open of a removed file fails.

``Mount`` also spoils operations: an error without the deed, the deed with an error, an answer
that takes seconds, the death of the daemon before, after, or with its operation still under way.
"""

from __future__ import annotations

import errno
import os
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol, TypeVar

from doubles import Change, Clock, Crash, Inode, MemDisk, _error, copy_tree, remove_tree
from pmjq.disk import GONE, Disk
from pmjq.ready import Look

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of file system: for how many seconds at most what is seen may be out of date.

    ``negative``: a name looked up in vain is not found; ``positive``: one that is gone is;
    ``listing``, ``content``: those are old. ``delay``: what a call takes as a rule.
    """

    name: str
    delay: float
    negative: float = 0.0
    positive: float = 0.0
    listing: float = 0.0
    content: float = 0.0
    local: bool = False
    settle: float = 0.5

    @property
    def exact(self) -> bool:
        """Tell whether nothing is ever out of date."""
        return not (self.negative or self.positive or self.listing or self.content)


KINDS = (
    Kind("local", 1e-5, local=True, settle=0.0),
    Kind("moose", 1e-3),
    Kind("gluster", 4e-3, negative=0.01, positive=1.0, content=1.0),
    Kind("nfs", 0.01, negative=30.0, positive=30.0),
    Kind("sshfs", 3e-3, positive=20.0, listing=20.0),
    Kind("worst", 0.02, negative=30.0, positive=30.0, listing=30.0, content=30.0),
)
"""As measured, and one that has every fault of the others."""

BEAT_LATE = 1.0
"""Seconds by which the content of a beat is late at most, on any file system that was measured."""

LOOKS = frozenset({"names", "stat", "look", "read", "sync", "find"})
"""Operations that change nothing; whether they were carried out makes no difference."""

LOOK_ERRORS = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT)
FAIL_ERRORS = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EPERM, errno.ENODATA)
LOST_ERRORS = {
    "rename": (errno.ENOENT, errno.ENOENT, errno.EIO, errno.ESTALE, errno.ENODATA),
    "mkdir": (errno.EEXIST, errno.EIO),
    "symlink": (errno.EEXIST, errno.EIO),
    "link": (errno.EEXIST, errno.EIO),
    "create": (errno.EEXIST, errno.EIO),
    "unlink": (errno.ENOENT, errno.EIO),
    "rmdir": (errno.ENOENT, errno.EIO),
}
"""What a call reports whose reply was lost: that of its repetition, or that it failed."""


@dataclass(frozen=True, slots=True)
class Odds:
    """How often one operation in one is spoilt."""

    fails: float = 0.0
    lost: float = 0.0
    slow: float = 0.0
    kills: float = 0.0

    @property
    def any(self) -> float:
        """Return how often anything happens."""
        return self.fails + self.lost + self.slow + self.kills


class Actor:
    """Whoever calls: a daemon, or a machine with its keepers."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.dead = False
        self.frozen = 0.0

    def stopped(self) -> float:
        """Return until when this one does nothing."""
        return self.frozen

    def die(self) -> None:
        """Take note that it was killed."""
        self.dead = True


class Clockwork(Protocol):
    """What a mount needs of the simulation."""

    rng: random.Random
    now: float
    steps: int
    faults: Counter[str]
    odds: Odds

    @property
    def actor(self) -> Actor:
        """Return who is at work."""

    def sleep(self, until: float) -> None:
        """Let the others go on until some time; Crash if whoever sleeps is dead then."""

    def later(self, at: float, call: Callable[[], None]) -> None:
        """Have something done at some time."""

    def tell(self, operation: str, paths: tuple[str, ...], how: str) -> None:
        """Write an operation down, if anybody wants to read it."""

    def beaten(self, path: str) -> None:
        """Take note that a beat got through."""


Changed = tuple[Inode, str, Inode | None, Inode | None]
"""In a directory, what a name led to and what it leads to after a call."""


class SharedDisk(MemDisk):
    """The file system itself; ``changed`` is called after each call that changes names."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.changed: Callable[[list[Changed]], None] | None = None

    def rmdir(self, path: str) -> bool:
        for each in (path, path.rpartition("/")[0]):
            inode = self.inode(each)
            if inode is not None and inode.children is None:
                raise _error(errno.ENOTDIR, path)
        return super().rmdir(path)

    def _change(self, *changes: Change) -> None:
        before = [(directory.children or {}).get(name) for directory, name, _ in changes]
        super()._change(*changes)
        self._journal.clear()
        if self.changed is not None:
            both = zip(changes, before, strict=True)
            self.changed([(directory, name, old, new) for (directory, name, new), old in both])

    def _commit(self, device: int) -> None:
        """There is no power cut of the server."""


@dataclass(slots=True)
class _Cache:
    """What a client has seen, by path, each with the time until which it is believed."""

    stats: dict[str, tuple[float, os.stat_result | None]] = field(default_factory=dict)
    listings: dict[str, tuple[float, list[str]]] = field(default_factory=dict)
    contents: dict[str, tuple[float, bytes]] = field(default_factory=dict)


class Mount(Disk):
    """The shared disk as one machine sees it."""

    def __init__(self, sim: Clockwork, disk: SharedDisk, kind: Kind, root: str) -> None:
        self.sim = sim
        self.disk = disk
        self.kind = kind
        self.root = root
        self.hung = 0.0
        self.outage = 0
        self.gone = False
        self.read_only = False
        self.dirty: dict[int, Inode] = {}
        self._cache = _Cache()

    # -- what happens to it

    def forget_all(self) -> None:
        """Forget what was seen, as when it is mounted anew."""
        self._cache = _Cache()

    def come_back(self) -> None:
        """Be mounted again, with nothing known of what was seen before."""
        self.gone = False
        self.forget_all()

    def power_off(self, rng: random.Random) -> None:
        """Lose, or tear, what this machine wrote and did not sync, on its own disk.

        On a shared file system a close leaves nothing behind on the client.
        """
        for inode in self.dirty.values() if self.kind.local else ():
            how = rng.randrange(3)
            if how == 1:
                inode.data = inode.synced
            elif how == 2:
                half = len(inode.data) // 2
                inode.data = inode.data[:half] + inode.synced[half:]
        self.dirty.clear()
        self.forget_all()

    # -- the operations of Disk

    def user(self) -> int:
        return self.disk.user()

    def made(self, path: str) -> os.stat_result:
        return self._do("create", lambda: self.disk.made(path), path)

    def names(self, path: str) -> list[str]:
        known = self._cache.listings.get(path)
        if known is not None and self.sim.now < known[0]:
            return list(known[1])
        if self.gone and path == self.root:
            # What is below the mount: an empty directory.
            return []
        found = self._do("names", lambda: self.disk.names(path), path)
        if self.kind.listing:
            until = self.sim.now + self.sim.rng.uniform(0, self.kind.listing)
            self._cache.listings[path] = (until, list(found))
        return found

    def stat(self, path: str) -> os.stat_result | None:
        known = self._cache.stats.get(path)
        if known is not None and self.sim.now < known[0]:
            return known[1]
        found = self._gone(None, "stat", lambda: self.disk.stat(path), path)
        most = self.kind.positive if found is not None else self.kind.negative
        if most:
            self._cache.stats[path] = (self.sim.now + self.sim.rng.uniform(0, most), found)
        return found

    def look(self, path: str) -> Look | None:
        if self._in_vain(path):
            return None
        return self._gone(None, "look", lambda: self.disk.look(path), path)

    def peek(self, path: str) -> Look | None:
        if self._in_vain(path):
            return None
        return self._gone(None, "look", lambda: self.disk.peek(path), path)

    def read(self, path: str, last: int = 0) -> bytes | None:
        if self._in_vain(path):
            return None
        known = self._cache.contents.get(path)
        if known is not None and self.sim.now < known[0]:
            return known[1][-last:] if last else known[1]
        found = self._gone(None, "read", lambda: self.disk.read(path), path)
        if found is None:
            # A link that leads nowhere is there nevertheless.
            if self.kind.negative and self.disk.inode(path) is None:
                until = self.sim.now + self.sim.rng.uniform(0, self.kind.negative)
                self._cache.stats[path] = (until, None)
            return None
        if self.kind.content:
            most = min(self.kind.content, BEAT_LATE if path.endswith("/beat") else 30.0)
            until = self.sim.now + self.sim.rng.uniform(0, most)
            self._cache.contents[path] = (until, found)
        return found[-last:] if last else found

    def write(self, path: str, data: bytes) -> None:
        inode = self.open(path, create=True)
        self.fill(inode, data, path)

    def write_at(self, path: str, offset: int, data: bytes, *, create: bool = False) -> None:
        inode = self.open(path, create=create)

        def call() -> None:
            disk = self.disk
            if inode.device in disk.full and offset + len(data) > len(inode.data):
                raise _error(errno.ENOSPC, path)
            inode.data = inode.data[:offset].ljust(offset, b"\0") + data
            inode.mtime = inode.ctime = disk._at()
            inode.synced = inode.data
            self.dirty.pop(inode.number, None)
            if path.endswith("/beat") and inode.nlink:
                self.sim.beaten(path)

        self._do("write", call, path)
        self._forget(path)

    def create(self, files: list[tuple[str, bytes, int]]) -> None:
        for path, data, mode in files:
            self._do("create", partial(self.disk.create, [(path, data, mode)]), path)
            self._forget(path)

    def size(self, path: str) -> int:
        return self._gone(0, "stat", lambda: self.disk.size(path), path)

    def read_part(self, path: str, offset: int, size: int) -> bytes:
        return self._gone(b"", "read", lambda: self.disk.read_part(path, offset, size), path)

    def stats(self, path: str) -> Iterator[tuple[str, os.stat_result]]:
        return self._do("names", lambda: self.disk.stats(path), path)

    def touch(self, path: str) -> None:
        self._do("chmod", lambda: self.disk.touch(path), path)

    def writable(self, path: str) -> bool:
        return self.disk.writable(path)

    def mkdir(self, path: str) -> None:
        self._do("mkdir", lambda: self.disk.mkdir(path), path)

    def symlink(self, target: str, path: str) -> None:
        self._do("symlink", lambda: self.disk.symlink(target, path), path)

    def link(self, source: str, path: str) -> None:
        self._do("link", lambda: self.disk.link(source, path), source, path)

    def rename(self, source: str, target: str) -> None:
        if self._in_vain(source):
            # The client's own cache says so; the server is not asked.
            raise _error(errno.ENOENT, source, target)
        self._do("rename", lambda: self.disk.rename(source, target), source, target)

    def rename_new(self, source: str, target: str) -> None:
        if self.kind.local:
            self._do("rename", lambda: self.disk.rename_new(source, target), source, target)
            return
        if self.stat(target) is not None:
            raise _error(errno.EEXIST, target)
        self.rename(source, target)

    def unlink(self, path: str) -> None:
        self._gone(None, "unlink", lambda: self._unlinked(path), path)

    def rmdir(self, path: str) -> bool:
        try:
            return self._do("rmdir", lambda: self.disk.rmdir(path), path)
        except FileNotFoundError:
            return True

    def sync(self, path: str) -> None:
        def call() -> None:
            self.disk.sync(path)
            inode = self.disk.inode(path)
            if inode is not None:
                self.dirty.pop(inode.number, None)

        self._do("sync", call, path)

    def copy(self, source: str, target: str) -> None:
        self._do("copy", lambda: self.disk.copy(source, target), source, target)

    def chmod(self, path: str, mode: int) -> None:
        self._do("chmod", lambda: self.disk.chmod(path, mode), path)

    def remove_tree(self, path: str) -> None:
        remove_tree(self, path)

    def copy_tree(self, source: str, target: str) -> None:
        copy_tree(self, source, target)

    def try_write(self, path: str, size: int) -> None:
        self._do("try_write", lambda: self.disk.try_write(path, size), path)

    # -- what keepers do besides

    def open(self, path: str, *, create: bool, exclusive: bool = False) -> Inode:
        """Open a file for writing."""
        if not create and self._in_vain(path):
            raise _error(errno.ENOENT, path)
        return self._do(
            "create" if create else "open",
            lambda: self.disk._opened(path, create=create, exclusive=exclusive),
            path,
        )

    def fill(self, inode: Inode, data: bytes, path: str) -> None:
        """Write a whole file that is open."""

        def call() -> None:
            if inode.device in self.disk.full and len(data) > len(inode.data):
                raise _error(errno.ENOSPC, path)
            inode.data = data
            inode.mtime = inode.ctime = self.disk._at()
            self.dirty[inode.number] = inode

        self._do("write", call, path)
        self._forget(path)

    def append(self, path: str, data: bytes) -> None:
        """Append to a file that is there."""
        inode = self.open(path, create=False)

        def call() -> None:
            self.disk.grow(inode, data, path)
            self.dirty[inode.number] = inode

        self._do("write", call, path)
        self._forget(path)

    def inode(self, path: str) -> Inode | None:
        """Return what a path leads to, as one who opens it gets it."""
        return self._gone(None, "find", lambda: self.disk._find(path), path)

    # -- below

    def _unlinked(self, path: str) -> None:
        if self.disk.inode(path) is None:
            raise _error(errno.ENOENT, path)
        self.disk.unlink(path)

    def _in_vain(self, path: str) -> bool:
        known = self._cache.stats.get(path)
        return known is not None and known[1] is None and self.sim.now < known[0]

    def _forget(self, *paths: str, tree: bool = False) -> None:
        """Forget what was seen of names that this machine itself has changed."""
        if self.kind.exact:
            return
        cache = self._cache
        for path in paths:
            cache.stats.pop(path, None)
            cache.contents.pop(path, None)
            cache.listings.pop(path, None)
            cache.listings.pop(path.rpartition("/")[0], None)
            if tree:
                below = f"{path}/"
                for known in (cache.stats, cache.contents, cache.listings):
                    for name in [name for name in known if name.startswith(below)]:
                        del known[name]

    def _gone(self, answer: T, operation: str, call: Callable[[], T], path: str) -> T:
        try:
            return self._do(operation, call, path)
        except OSError as error:
            if error.errno in GONE:
                return answer
            raise

    def _do(self, operation: str, call: Callable[[], T], *paths: str) -> T:
        sim = self.sim
        sim.steps += 1
        delay = self.kind.delay
        rng = sim.rng
        draw = rng.random()
        sim.sleep(sim.now + (2 * delay * draw if draw < 0.97 else delay * rng.uniform(1, 60)))
        while sim.now < self.hung:
            sim.sleep(self.hung)
        looks = operation in LOOKS
        try:
            if self.gone or self.outage or self.read_only:
                self._refuse(paths, looks=looks)
            odds = sim.odds
            chance = rng.random()
            if chance < odds.any:
                return self._spoilt(operation, call, paths, chance)
            result = call()
            sim.tell(operation, paths, "")
            return result
        except OSError as error:
            sim.tell(operation, paths, errno.errorcode.get(error.errno or 0, "?"))
            raise
        finally:
            if not looks:
                self._forget(*paths, tree=operation in ("rename", "rmdir"))

    def _refuse(self, paths: tuple[str, ...], *, looks: bool) -> None:
        if self.outage:
            raise _error(self.outage, paths[0])
        if self.gone and any(path.startswith(f"{self.root}/") for path in paths):
            raise _error(errno.ENOENT, paths[0])
        if self.read_only and not looks:
            raise _error(errno.EROFS, paths[0])

    def _spoilt(
        self, operation: str, call: Callable[[], T], paths: tuple[str, ...], chance: float
    ) -> T:
        sim, rng, odds = self.sim, self.sim.rng, self.sim.odds
        looks = operation in LOOKS
        if chance < odds.fails:
            sim.faults["failed"] += 1
            raise self._said(LOOK_ERRORS if looks else FAIL_ERRORS, paths)
        if chance < odds.fails + odds.lost:
            sim.faults["reply lost"] += 1
            if looks:
                raise self._said(LOOK_ERRORS, paths)
            if call() is False:
                # A directory that is not empty: the repetition finds it so again.
                return False  # type: ignore[return-value]  # what a rmdir returns
            sim.tell(operation, paths, "reply lost")
            raise self._said(LOST_ERRORS.get(operation, (errno.EIO,)), paths)
        if chance < odds.fails + odds.lost + odds.slow:
            sim.faults["slow"] += 1
            before = rng.random() < 0.5
            if before:
                sim.sleep(sim.now + rng.expovariate(0.5))
            result = call()
            sim.tell(operation, paths, "slowly")
            if not before:
                sim.sleep(sim.now + rng.expovariate(0.5))
            return result
        return self._killed(operation, call, paths)

    def _said(self, errors: tuple[int, ...], paths: tuple[str, ...]) -> OSError:
        return _error(self.sim.rng.choice(errors), paths[0], paths[1] if len(paths) > 1 else None)

    def _killed(self, operation: str, call: Callable[[], T], paths: tuple[str, ...]) -> T:
        sim, rng = self.sim, self.sim.rng
        how = rng.randrange(3)

        def carry_out() -> None:
            try:
                call()
            except OSError:
                return
            sim.tell(operation, paths, "carried out after its death")

        if how == 1:
            result = call()
        sim.actor.die()
        if sim.actor.dead:
            sim.tell(operation, paths, ("killed before it", "killed after it", "killed in it")[how])
            sim.faults["killed in a call"] += 1
            if how == 2:
                sim.later(sim.now + rng.expovariate(2.0), carry_out)
            raise Crash
        return result if how == 1 else call()
