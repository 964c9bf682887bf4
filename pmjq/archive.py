"""Ended jobs to the archive or the error directory, never overwriting, across file systems too.

One job is filed in steps, each repeatable because the record holds the archived name: output,
what is left of the working directory, the record; then the job file itself, and that rename is
the commit. Only then is its paperwork removed. On another file system every step is copy to a
hidden name, fsync, rename, and the source goes last.

A destination that cannot be written (full, gone, not permitted, another file system mounted
there) is an OSError: the job stays in ``ended/``, is filed later and never run again.
"""

from __future__ import annotations

import errno
import os
import stat as modes
from copy import copy
from typing import TYPE_CHECKING

import msgspec

from pmjq import job
from pmjq.errors import CannotCreateError
from pmjq.job import Record
from pmjq.state import TO_ERROR_DIRECTORY
from pmjq.tree import decoded

if TYPE_CHECKING:
    from pmjq.disk import Disk
    from pmjq.spool import Spool


class Destination:
    """One directory that ended jobs go to."""

    def __init__(self, disk: Disk, path: str, device: int) -> None:
        """Take a directory that exists on the file system numbered ``device``."""
        self.disk = disk
        self.path = path
        self.device = device

    def check(self) -> None:
        """Raise OSError unless the directory is there, on the file system it was on at the start.

        A missing one is not made again: what is missing may be a mount, and the files would be
        hidden below it.
        """
        stat = self.disk.stat(self.path)
        if stat is None:
            raise FileNotFoundError(errno.ENOENT, "is gone; mount it or make it again", self.path)
        if stat.st_dev != self.device:
            raise OSError(
                errno.EXDEV,
                "is on another file system than at the start; mount it or start again",
                self.path,
            )


class Archive:
    """Where the ended jobs of one spool go."""

    def __init__(self, spool: Spool, done: str | None, failed: str | None) -> None:
        """``done``: ``-o``, else the spool's own. ``failed``: ``-e``, else where the others go."""
        self.spool = spool
        self.disk = spool.disk
        self._device = self._device_of(spool.own)
        self.made: list[str] = []
        self.done = self._destination(done or spool.done_path())
        self.failed = self._destination(failed) if failed else self.done

    def of(self, spool: Spool) -> Archive:
        """Return the same archive for another life of this daemon, whose spool that is."""
        other = copy(self)
        other.spool, other.disk, other.made = spool, spool.disk, []
        return other

    def destination(self, record: Record) -> Destination:
        """Return where a job goes: what was decided when it ended, if every node finds that."""
        if not record.near:
            return self._own(record)
        told = job.real_name(record.archive, record.archive_hex)
        path = os.path.normpath(f"{self.spool.root}/{told}")
        for home in (self.done, self.failed):
            if home.path == path:
                return home
        return Destination(self.disk, path, self._device)

    def addressed(self, record: Record) -> Record:
        """Return a record that tells where its job goes."""
        home = self._own(record)
        near = home.device == self._device
        path = os.path.relpath(home.path, self.spool.root) if near else home.path
        return msgspec.structs.replace(record, archive=job.shown(path), archive_hex=job.exact(path))

    def _own(self, record: Record) -> Destination:
        return self.failed if record.state in TO_ERROR_DIRECTORY else self.done

    def near(self, record: Record) -> bool:
        """Tell whether a job's destination is on the spool's own file system.

        There, filing only renames.
        """
        return self.destination(record).device == self._device

    def stem(self, record: Record) -> str:
        """Return the path that an archived job has; what belongs to it has a suffix more."""
        stem = job.real_name(record.stem, record.stem_hex)
        return f"{self.destination(record).path}/{stem}"

    def file(self, record: Record) -> bool:
        """File an ended job; repeatable after any failure.

        False: another node has taken it meanwhile. Raises OSError if it cannot be filed yet.
        """
        spool, home, stem = self.spool, self.destination(record), self.stem(record)
        near = home.device == self._device
        self._move(spool.out_path(record), f"{stem}.out", near=near)
        if spool.left_files(record):
            self._move(spool.work_path(record), f"{stem}.d", near=near)
        self._move(spool.record_path(record), f"{stem}.json", near=near)
        moved = self._move(spool.ended_path(record), stem, near=near)
        return moved or self.disk.stat(stem) is not None

    def mend(self, record: Record) -> bool:
        """Write the record of an archived job again if a power cut has left none; True if so.

        Filing on the spool's own file system syncs nothing: the event has the outcome.
        """
        stem = self.stem(record)
        if self.disk.stat(stem) is None:
            return False
        if decoded(self.disk.read(f"{stem}.json") or b"", Record) is not None:
            return False
        hidden = _hidden(f"{stem}.json")
        self.disk.write(hidden, msgspec.json.encode(record) + b"\n")
        self.disk.sync(hidden)
        self.disk.rename(hidden, f"{stem}.json")
        return True

    def _destination(self, path: str) -> Destination:
        return Destination(self.disk, path, self._device_of(path))

    def _device_of(self, path: str) -> int:
        stat = self.disk.stat(path)
        if stat is None:
            parent = os.path.dirname(path)
            if parent and parent != path:
                self._device_of(parent)
            try:
                self.disk.mkdir(path)
                self.made.append(path)
            except OSError as error:
                if self.disk.stat(path) is None:
                    raise CannotCreateError(
                        f"{job.shown(path)}: cannot be made: {error.strerror}; "
                        "make it or name another"
                    ) from error
            stat = self.disk.stat(path)
        if stat is None:
            raise CannotCreateError(f"{job.shown(path)}: vanished as soon as it was made")
        return stat.st_dev

    def _move(self, source: str, target: str, *, near: bool) -> bool:
        """Move a file or a tree.

        False: it is not there any more, so it was moved before.
        """
        if near:
            try:
                self.disk.rename(source, target)
            except OSError as error:
                if self.disk.stat(source) is None:
                    return False
                if error.errno != errno.EXDEV:
                    raise
            else:
                return True
        if self.disk.stat(source) is None:
            return False
        hidden = _hidden(target)
        there = self.disk.stat(target)
        # A directory under its final name is complete, and its source may not be any more.
        if there is None or not modes.S_ISDIR(there.st_mode):
            self._copy(source, hidden)
            self.disk.rename(hidden, target)
            self.disk.sync(os.path.dirname(target))
        self.spool.remove(source)
        return True

    def _copy(self, source: str, target: str) -> None:
        stat = self.disk.stat(source)
        if stat is None:
            return
        if not modes.S_ISDIR(stat.st_mode):
            self.disk.copy(source, target)
            return
        self.spool.remove(target)
        self.disk.mkdir(target)
        for name in self.disk.names(source):
            self._copy(f"{source}/{name}", f"{target}/{name}")
        self.disk.sync(target)


def _hidden(path: str) -> str:
    directory, _, name = path.rpartition("/")
    return f"{directory}/.{name}.part"
