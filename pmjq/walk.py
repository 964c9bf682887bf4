"""Trees as jobs leave them: looked through, emptied and copied, whatever their depth and modes.

A job may nest directories deeper than Python calls functions, than a path may be long, and than a
process may have files open. So a walk holds one descriptor, that of the directory in which it is.
It goes down by name, never through a link and never onto another file system, which may be
mounted there and be anybody's. It goes up by ``..``, where it must find what it came from.

Whoever owns a tree may change it meanwhile, and put what is another's in a place that was looked
at. So whose a file is, and what it is, tells the descriptor by which it is read.

A directory that is this user's own and shut to him is opened first; where the tree is to stay, it
has its mode again as soon as the walk has left it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat as modes
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterator

CHUNK = 1 << 20
"""Bytes that are copied at once."""

MOST_NAMED = 8
"""Directories of a deep path that an error names."""

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_MADE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

_LISTED = modes.S_IRUSR | modes.S_IXUSR
"""The rights that looking into a directory takes."""


def empty(path: str) -> None:
    """Remove all that is in a directory; repeatable.

    Raises the first error after everything else was removed.
    """
    refused: list[OSError] = []
    with _Walk(path, modes.S_IRWXU) as walk:
        while True:
            level = walk.levels[-1]
            if level.rest:
                name, is_directory = level.rest.pop()
                with _noted(refused, walk):
                    if is_directory:
                        walk.down(name)
                    else:
                        os.unlink(name, dir_fd=walk.fd)
            elif len(walk.levels) > 1:
                os.close(walk.up())
                with _noted(refused, walk):
                    os.rmdir(level.name, dir_fd=walk.fd)
            else:
                break
    if refused:
        raise refused[0]


def below(path: str, most: int) -> Iterator[tuple[str, os.stat_result]]:
    """Return names and lstats of what is below a directory, of each one in it so many at most.

    What this user may not look into, is gone or is moved away meanwhile is left out.
    """
    with contextlib.suppress(OSError), _Walk(path, 0, most=most) as walk:
        while True:
            level = walk.levels[-1]
            if level.rest:
                name, is_directory = level.rest.pop()
                with contextlib.suppress(OSError):
                    stat = os.stat(name, dir_fd=walk.fd, follow_symlinks=False)
                    yield "/".join([*(one.name for one in walk.levels[1:]), name]), stat
                    if is_directory:
                        walk.down(name)
            elif len(walk.levels) > 1:
                os.close(walk.up())
            else:
                return


def copy_tree(source: str, target: str) -> None:
    """Copy a directory to a name that is free, durably, with modes, times and owners.

    What vanishes meanwhile is left out. OSError: what was copied by then is there.
    """
    os.mkdir(target, modes.S_IRWXU)
    with _Walk(source, _LISTED, stays=True) as here, _Walk(target, modes.S_IRWXU) as there:
        while True:
            level = here.levels[-1]
            if level.rest:
                with here.named():
                    _copy_next(here, there, level.rest.pop())
            elif len(here.levels) > 1:
                # Only from above: the mode may be one that lets nobody up.
                with _closed(there.up()) as copied:
                    _finish(here.fd, copied, level.before)
                os.close(here.up())
            else:
                _finish(here.fd, there.fd, level.before)
                return


def copy_entry(
    source: str,
    target: str,
    stat: os.stat_result,
    here: int | None = None,
    there: int | None = None,
) -> None:
    """Copy what is no directory to a name that is free, durably.

    ``stat`` is its lstat; ``here`` and ``there`` are the directories of the two names.
    """
    if modes.S_ISLNK(stat.st_mode):
        os.symlink(os.readlink(source, dir_fd=here), target, dir_fd=there)
        _keep_owner(target, stat, there)
    elif modes.S_ISREG(stat.st_mode):
        fd, found = _readable(source, here)
        with _closed(fd) as read:
            if not modes.S_ISREG(found.st_mode):
                raise OSError(errno.ESTALE, "was replaced while it was copied", source)
            made = os.open(target, _MADE, modes.S_IRUSR | modes.S_IWUSR, dir_fd=there)
            with _closed(made) as written:
                _copy_data(read, written)
                _finish(read, written, found)
    else:
        os.mknod(target, stat.st_mode, stat.st_rdev, dir_fd=there)
        _keep_owner(target, stat, there)
        # mknod(2) has heeded the umask.
        os.chmod(target, modes.S_IMODE(stat.st_mode) & 0o1777, dir_fd=there)


@dataclass(slots=True)
class _Level:
    """A directory on the way down: what it was before, and what is still to be visited in it."""

    name: str
    before: os.stat_result
    rest: list[tuple[str, bool]]


class _Walk:
    """Where a walk is, and the way by which it came."""

    def __init__(
        self, path: str, needs: int, *, stays: bool = False, most: int | None = None
    ) -> None:
        """Begin in a directory.

        ``needs``: the rights of the owner that are given where they lack. ``stays``: and taken
        again. ``most``: of how much in each directory is taken note.
        """
        self.path = path
        self.needs = needs
        self.stays = stays
        self.most = most
        self.levels: list[_Level] = []
        self.fd = self._enter(path, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Go up to the top, for the modes' sake, and let go of it."""
        with contextlib.suppress(OSError):
            while self.stays and len(self.levels) > 1:
                os.close(self.up())
        if len(self.levels) == 1:
            self._shut()
        os.close(self.fd)

    def down(self, name: str) -> None:
        """Go into a directory that is in this one; OSError: the walk is where it was."""
        fd = self._enter(name, self.fd)
        os.close(self.fd)
        self.fd = fd

    def up(self) -> int:
        """Go up; return the descriptor of what was left, which the caller closes."""
        above = self.levels[-2].before
        fd = os.open("..", _DIRECTORY, dir_fd=self.fd)
        found = os.fstat(fd)
        if (found.st_dev, found.st_ino) != (above.st_dev, above.st_ino):
            os.close(fd)
            raise OSError(errno.ESTALE, "was moved while it was walked through", self.where())
        self._shut()
        self.levels.pop()
        left, self.fd = self.fd, fd
        return left

    def where(self, name: str = "") -> str:
        """Return the path of what is in this directory, shortened if it is deep."""
        names = [level.name for level in self.levels[1:]]
        if len(names) > MOST_NAMED:
            names[MOST_NAMED:] = ["..."]
        return "/".join([self.path, *names, *([name] if name else [])])

    @contextlib.contextmanager
    def named(self) -> Iterator[None]:
        """Give an error the path of what it is about: calls here know the last name at most."""
        try:
            yield
        except OSError as error:
            error.filename = self.where(str(error.filename or ""))
            raise

    def _enter(self, name: str, above: int | None) -> int:
        fd, before = _opened(name, above, _DIRECTORY, self.needs)
        try:
            self._must_be_here(name, before)
            if _lacks(before, self.needs):
                with contextlib.suppress(PermissionError):
                    os.fchmod(fd, modes.S_IMODE(before.st_mode) | self.needs)
            with os.scandir(fd) as found:
                some = islice(found, self.most)
                rest = [(each.name, each.is_dir(follow_symlinks=False)) for each in some]
        except BaseException:
            os.close(fd)
            raise
        self.levels.append(_Level(name, before, rest))
        return fd

    def _must_be_here(self, name: str, stat: os.stat_result) -> None:
        if self.levels and stat.st_dev != self.levels[0].before.st_dev:
            raise OSError(errno.EXDEV, "is another file system", name)

    def _shut(self) -> None:
        """Give the directory in which the walk is the mode that it had."""
        before = self.levels[-1].before
        if self.stays and _lacks(before, self.needs):
            with contextlib.suppress(OSError):
                os.fchmod(self.fd, modes.S_IMODE(before.st_mode))


def _copy_next(here: _Walk, there: _Walk, entry: tuple[str, bool]) -> None:
    name, is_directory = entry
    try:
        if is_directory:
            here.down(name)
        else:
            stat = os.stat(name, dir_fd=here.fd, follow_symlinks=False)
    except FileNotFoundError:
        return
    if is_directory:
        os.mkdir(name, modes.S_IRWXU, dir_fd=there.fd)
        there.down(name)
    else:
        copy_entry(name, name, stat, here.fd, there.fd)


def _lacks(stat: os.stat_result, needs: int) -> bool:
    """Tell whether an owner lacks rights, and is the one who may give them."""
    return stat.st_mode & needs != needs and stat.st_uid == os.geteuid()


def _opened(name: str, above: int | None, flags: int, needs: int) -> tuple[int, os.stat_result]:
    """Open what may be shut to its owner; return its descriptor, and what it was before."""
    try:
        fd = os.open(name, flags, dir_fd=above)
    except PermissionError:
        handle = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=above)
        with _closed(handle):
            before = os.fstat(handle)
            if not _lacks(before, needs):
                raise
            # chmod(2) would follow a link, and there is no fchmod(2) for such a handle.
            through = f"/proc/self/fd/{handle}"
            os.chmod(through, modes.S_IMODE(before.st_mode) | needs)
            return os.open(through, flags & ~os.O_NOFOLLOW), before
    return fd, os.fstat(fd)


def _readable(name: str, above: int | None) -> tuple[int, os.stat_result]:
    """Open a file for reading, and leave it with the mode that it had; return what it was, too."""
    fd, before = _opened(name, above, _FILE, modes.S_IRUSR)
    if _lacks(before, modes.S_IRUSR):
        with contextlib.suppress(OSError):
            os.fchmod(fd, modes.S_IMODE(before.st_mode))
    return fd, before


def _copy_data(source: int, target: int) -> None:
    """Copy what a file holds at the beginning, and holes as holes."""
    size = os.fstat(source).st_size
    end = 0
    while end < size:
        start, end = _extent(source, end, size)
        while start < end and (part := os.pread(source, min(CHUNK, end - start), start)):
            start += os.pwrite(target, part, start)
    os.ftruncate(target, size)


def _extent(source: int, offset: int, size: int) -> tuple[int, int]:
    """Return where the next data of a file begins and ends, from an offset on."""
    try:
        start = os.lseek(source, offset, os.SEEK_DATA)
        return start, min(size, os.lseek(source, start, os.SEEK_HOLE))
    except OSError as error:
        if error.errno == errno.ENXIO:
            # Nothing but a hole.
            return size, size
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
            raise
        # This file system does not tell.
        return offset, size


def _finish(source: int, target: int, stat: os.stat_result) -> None:
    """Give a copy what its source has besides data, and make it durable.

    What the file system of the copy cannot keep, or this user may not give, it does without.
    """
    _keep_owner(target, stat)
    mode = modes.S_IMODE(stat.st_mode)
    if os.fstat(target).st_uid != stat.st_uid:
        # Not as somebody else's program: it would give that one's rights away.
        mode &= ~(modes.S_ISUID | modes.S_ISGID)
    with contextlib.suppress(OSError):
        for name in os.listxattr(source):
            with contextlib.suppress(OSError):
                os.setxattr(target, name, os.getxattr(source, name))
    with contextlib.suppress(PermissionError):
        os.fchmod(target, mode)
        os.utime(target, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    os.fsync(target)


def _keep_owner(path: str | int, stat: os.stat_result, above: int | None = None) -> None:
    with contextlib.suppress(PermissionError):
        if isinstance(path, int):
            os.fchown(path, stat.st_uid, stat.st_gid)
        else:
            os.chown(path, stat.st_uid, stat.st_gid, dir_fd=above, follow_symlinks=False)


@contextlib.contextmanager
def _closed(fd: int) -> Iterator[int]:
    """Close a descriptor in the end."""
    try:
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def _noted(refused: list[OSError], walk: _Walk) -> Iterator[None]:
    """Go on after an error, of which the first is kept; what is gone is as good as removed."""
    try:
        with walk.named():
            yield
    except FileNotFoundError:
        pass
    except OSError as error:
        if not refused:
            refused.append(error)
