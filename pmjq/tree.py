"""The paths below SPOOL, and how to look where a file is when a call does not tell.

After a rename that failed or was interrupted nothing is believed: ``_moved`` looks where the file
is. The error's number is never branched on, since a lost race, a lost reply and a full disk
report what they like.
"""

from __future__ import annotations

import contextlib
import errno
from collections import deque
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import msgspec

from pmjq import naming
from pmjq.job import FORMAT
from pmjq.naming import OWN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pmjq.disk import Disk

T = TypeVar("T")


class Head(msgspec.Struct, frozen=True):
    """What is looked for in a record of any format."""

    format: int = 0
    version: str = ""


class Left(NamedTuple):
    """What could not be removed: of which job if that is known, where, and why."""

    id: str
    path: str
    reason: str


class Tree:
    """The tree of one spool as one life of a node names it."""

    looking = False
    """Whether somebody looks who runs nothing: what he may not read is not there for him."""

    private = False
    """Whether what is told of a job is for its owner alone."""

    group_of: Callable[[int], int | None] | None = None
    """Tells the group that is a user's alone, None if there is none."""

    def __init__(self, disk: Disk, root: str, token: str = "", *, local: bool = True) -> None:
        """Name the tree; nothing is touched. ``local``: an lstat tells the truth here."""
        self.disk = disk
        self.root = root
        self.token = token
        self.local = local
        self.own = f"{root}/{OWN}"
        self._job = f"{self.own}/job"
        self._tmp = f"{self.own}/tmp"  # noqa: S108  # a directory of the spool
        self._ended = f"{self.own}/ended"
        self._signed = f"{self.own}/signed"
        self._run = f"{self.own}/node/{token}/run"
        # The filing's thread removes too.
        self._left: deque[Left] = deque()

    def remove(self, path: str) -> None:
        """Remove a file or a tree; links are removed, not followed.

        What cannot be removed holds nobody up: it stays, and is told by ``left_behind``.
        """
        try:
            self.disk.remove_tree(path)
        except OSError as error:
            self._leave(path, error)

    def left_behind(self) -> Iterator[Left]:
        """Return what could not be removed since this was last asked for."""
        with contextlib.suppress(IndexError):
            while True:
                yield self._left.popleft()

    def _leave(self, path: str, error: OSError, job_id: str = "") -> None:
        path = naming.shown(str(error.filename or path))
        self._left.append(Left(job_id, path, error.strerror or str(error)))

    def replace(self, path: str, data: bytes, uid: int) -> None:
        """Write a file durably, in the place of what may be there, so that nobody sees half of it.

        ``uid``: whom it tells of.

        A copy that does not fit is removed: it would keep others from the space that there is.
        """
        hidden = hidden_name(path)
        try:
            self._begin_private(hidden, uid)
            self.disk.write(hidden, data)
            self.disk.sync(hidden)
            self.disk.rename(hidden, path)
        except OSError:
            with contextlib.suppress(OSError):
                self.disk.unlink(hidden)
            raise

    def _keep_private(self, path: str, uid: int) -> None:
        """Have only its owner see what is told of a job, where that is asked for."""
        if self.private:
            self.disk.grant(path, uid, self.group_of)

    def _begin_private(self, path: str, uid: int) -> None:
        """Make a file that is private before there is anything to be read in it.

        Whoever has it open by then reads what is written later.
        """
        if self.private:
            self.disk.unlink(path)
            self.disk.create([(path, b"", 0o600)])
            self.disk.grant(path, uid, self.group_of)

    def make(self, path: str) -> None:
        """Make a directory, if it is not there."""
        self._mkdir(path)

    def _mkdir(self, path: str) -> None:
        try:
            self.disk.mkdir(path)
        except OSError:
            if self.disk.stat(path) is None:
                raise

    def _moved(self, source: str, target: str) -> bool:
        try:
            self.disk.rename(source, target)
        except OSError:
            if self._there(target):
                return True
            if not self._gone(source):
                raise
            return False
        return True

    def present(self) -> bool:
        """Tell whether this is still the tree that was there at the start."""
        return self.disk.stat(self.own) is not None

    def check_present(self) -> None:
        """Raise FileNotFoundError if the tree is not there: what is not found may not be gone."""
        if not self.present():
            raise FileNotFoundError(errno.ENOENT, "is not there for now", self.root)

    def _gone(self, path: str) -> bool:
        """Tell whether a file is in its place no more; FileNotFoundError if the tree is not there.

        Nothing is in a spool that is not mounted, and it may come back while one looks.
        """
        if self._there(path):
            return False
        self.check_present()
        return self.disk.stat(path) is None

    def _there(self, path: str) -> bool:
        if self.local:
            return self.disk.stat(path) is not None
        directory, _, name = path.rpartition("/")
        return name in self._list(directory)

    def may_hear(self) -> bool:
        """Tell whether this user may read the events."""
        return self.disk.readable(f"{self.own}/events")

    def inside(self, path: str) -> list[str]:
        """Return the names in a directory, none where it is gone, or not for somebody who looks."""
        return self._list(path)

    def _list(self, path: str) -> list[str]:
        try:
            return self.disk.names(path)
        except (FileNotFoundError, NotADirectoryError):
            return []
        except PermissionError:
            if not self.looking:
                raise
            return []

    def unknown(self, path: str) -> int:
        """Return the format of a record that is of none that is known here, else 0."""
        head = decoded(self.disk.read(path) or b"", Head)
        return head.format if head is not None and head.format != FORMAT else 0

    def _decode(self, path: str, kind: type[T]) -> T | None:
        try:
            text = self.disk.read(path)
        except PermissionError:
            if not self.looking:
                raise
            return None
        return None if text is None else decoded(text, kind)


def hidden_name(path: str) -> str:
    """Return the path beside another under which that is made."""
    directory, _, name = path.rpartition("/")
    return f"{directory}/.{name}.part"


def decoded(text: bytes, kind: type[T]) -> T | None:
    """Return what JSON says, None if it is torn or strange."""
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
