"""Ended jobs to the archive or the error directory, never overwriting, across file systems too.

One job is filed in steps, each repeatable because the record holds the archived name: output,
what is left of the working directory, the record; then the job file itself, and that rename is
the commit. Only then is its paperwork removed. On another file system every step is copy to a
hidden name, fsync, rename, and the source goes last. A copy that fails is removed.

A job may leave what its owner may not read, or a directory that he may not write: that is opened
for as long as it takes and archived with the mode that it had. A kill in that moment costs the
mode.

A destination that cannot be written (full, gone, not permitted, another file system mounted
there) and a job that cannot be filed are an OSError: the job stays in ``ended/``, is filed later
and never run again.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat as modes
from copy import copy as duplicate
from typing import TYPE_CHECKING

import msgspec

from pmjq import naming
from pmjq.errors import CannotCreateError
from pmjq.job import Record
from pmjq.state import TO_ERROR_DIRECTORY, State
from pmjq.tree import decoded, hidden_name

if TYPE_CHECKING:
    from pmjq.disk import Disk
    from pmjq.spool import Spool


TRIAL = 1 << 14
"""Bytes that have to fit for a destination to count as well: what a job takes that says a line."""


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

    def try_write(self) -> None:
        """Raise OSError unless a small job could be filed there."""
        try:
            self.disk.try_write(f"{self.path}/.pmjq.{os.getpid()}.part", TRIAL)
        except OSError as error:
            error.filename = self.path
            raise


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
        other = duplicate(self)
        other.spool, other.disk, other.made = spool, spool.disk, []
        return other

    def destination(self, record: Record) -> Destination:
        """Return where a job goes: what was decided when it ended, if every node finds that."""
        if not record.near:
            return self._own(record)
        told = naming.real_name(record.archive, record.archive_hex)
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
        return msgspec.structs.replace(
            record, archive=naming.shown(path), archive_hex=naming.exact(path)
        )

    def _own(self, record: Record) -> Destination:
        return self.failed if record.state in TO_ERROR_DIRECTORY else self.done

    def near(self, record: Record) -> bool:
        """Tell whether a job's destination is on the spool's own file system.

        There, filing only renames.
        """
        return self.destination(record).device == self._device

    def stem(self, record: Record) -> str:
        """Return the path that an archived job has; what belongs to it has a suffix more."""
        stem = naming.real_name(record.stem, record.stem_hex)
        return f"{self.destination(record).path}/{stem}"

    def file(self, record: Record) -> bool:
        """File an ended job; repeatable after any failure.

        False: another node has taken it meanwhile. Raises OSError if it cannot be filed yet.
        """
        spool, stem, near = self.spool, self.stem(record), self.near(record)
        self._move_papers(spool.out_path(record), f"{stem}.out", near=near)
        if spool.left_files(record):
            self._move_papers(spool.work_path(record), f"{stem}.d", near=near)
        if record.signer or record.state is State.REJECTED:
            self._move_papers(spool.signature_path(record), f"{stem}.sig", near=near)
        self._move_papers(spool.record_path(record), f"{stem}.json", near=near)
        return self._move_job(spool.ended_path(record), stem, near=near)

    def mend(self, record: Record) -> bool:
        """Write the record of an archived job again if a power cut has left none; True if so.

        Filing on the spool's own file system syncs nothing: the event has the outcome.
        """
        stem = self.stem(record)
        if self.disk.stat(stem) is None:
            return False
        if decoded(self.disk.read(f"{stem}.json") or b"", Record) is not None:
            return False
        self.spool.replace(f"{stem}.json", msgspec.json.encode(record) + b"\n", record.uid)
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
                        f"{naming.shown(path)}: cannot be made: {error.strerror}; "
                        "make it or name another"
                    ) from error
            stat = self.disk.stat(path)
        if stat is None:
            raise CannotCreateError(f"{naming.shown(path)}: vanished as soon as it was made")
        return stat.st_dev

    def _move_papers(self, source: str, target: str, *, near: bool) -> None:
        """Move a file or a tree, unless it was moved before.

        What stays of the source when it has been copied goes with the paperwork.
        """
        if near and self._renamed(source, target):
            return
        if self.disk.stat(source) is not None:
            self._copy(source, target)
            with contextlib.suppress(OSError):
                self.disk.remove_tree(source)

    def _move_job(self, source: str, target: str, *, near: bool) -> bool:
        """Move the job file, unless it was moved before; False if it is in neither place."""
        if near and self._renamed(source, target):
            return True
        if self.disk.stat(source) is None:
            if self.disk.stat(target) is not None:
                return True
            # Nothing is in a spool that is not mounted, and it may have come back meanwhile.
            self.spool.check_present()
            if self.disk.stat(source) is None:
                return False
        self._copy(source, target)
        self.disk.remove_tree(source)
        return True

    def _renamed(self, source: str, target: str) -> bool:
        """Rename; False if the source is not there, or the target on another file system."""
        try:
            self._rename(source, target)
        except OSError as error:
            if self.disk.stat(source) is not None and error.errno != errno.EXDEV:
                raise
            return False
        return True

    def _rename(self, source: str, target: str) -> None:
        try:
            self.disk.rename(source, target)
        except OSError:
            stat = self.disk.stat(source)
            if stat is None or not modes.S_ISDIR(stat.st_mode) or stat.st_mode & modes.S_IWUSR:
                raise
            # What its owner may not write does not go into another directory.
            mode = modes.S_IMODE(stat.st_mode)
            self.disk.chmod(source, mode | modes.S_IWUSR)
            try:
                self.disk.rename(source, target)
            finally:
                for path in (source, target):
                    with contextlib.suppress(OSError):
                        self.disk.chmod(path, mode)

    def _copy(self, source: str, target: str) -> None:
        """Copy a file or a tree to its final name, durably."""
        there = self.disk.stat(target)
        # A directory under its final name is complete, and its source may not be any more.
        if there is None or not modes.S_ISDIR(there.st_mode):
            self._copy_anew(source, target)
        self.disk.sync(os.path.dirname(target))

    def _copy_anew(self, source: str, target: str) -> None:
        stat, hidden = self.disk.stat(source), hidden_name(target)
        is_directory = stat is not None and modes.S_ISDIR(stat.st_mode)
        copy = self.disk.copy_tree if is_directory else self.disk.copy
        try:
            copy(source, hidden)
            self.disk.rename(hidden, target)
        except Exception:
            # It would keep others from the space that there is.
            with contextlib.suppress(OSError):
                self.disk.remove_tree(hidden)
            raise
