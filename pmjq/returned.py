"""What is remembered of jobs that were executed and are back in the queue, and what they wrote.

Written before such a job returns, by the life that has it; read by whoever claims it next, and then
removed. It is known by the name of the entry, and by size and time of the file: another file of
the same name is another job.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
from typing import TYPE_CHECKING

import msgspec

from pmjq import naming, ready
from pmjq.job import Again
from pmjq.tree import Tree

if TYPE_CHECKING:
    from pmjq.disk import Disk
    from pmjq.job import Attempt
    from pmjq.ready import Stat


class Returned(Tree):
    """What one life of a node keeps, reads and forgets of returned jobs."""

    def __init__(self, disk: Disk, root: str, token: str = "", *, local: bool = True) -> None:
        """Name the tree; nothing is touched."""
        super().__init__(disk, root, token, local=local)
        self._again = f"{self.own}/again"
        self._tried = f"{self.own}/tried"
        self._numbers = itertools.count(1)

    def again_names(self) -> list[str]:
        """Return the names of the jobs that are back in the queue and of which more is known."""
        return self._list(self._again)

    def again(self, name: str, stat: Stat, *, known: bool = True) -> Again | None:
        """Return what is remembered of an entry of the queue, None if that was another job's.

        OSError if it cannot be read and is ``known`` to be there.
        """
        path = f"{self._again}/{name}"
        found = self._decode(path, Again)
        if found is None and not known:
            return None
        if found is None:
            raise OSError(errno.ENODATA, "it is torn or gone", path)
        return found if _same(found, stat) else None

    def agains(self) -> list[Again]:
        """Return what is remembered of all jobs that are back in the queue."""
        found = [self._decode(f"{self._again}/{name}", Again) for name in self.again_names()]
        return [one for one in found if one is not None]

    def remember(self, name: str, stat: Stat, again: Again, building: str = "") -> None:
        """Remember for whoever claims a job that goes back to the queue.

        ``building``: under which name it is made in ``tmp/``, where that is not a life's.
        """
        size, mtime = _print(stat)
        again = msgspec.structs.replace(again, size=size, mtime=mtime)
        self._mkdir(self._again)
        data = msgspec.json.encode(again) + b"\n"
        # Durable, and whole or not at all: without it a job that failed would be tried too often.
        building = f"{self._tmp}/{building}" if building else self._new_tmp()
        try:
            self.disk.write_at(building, 0, data, create=True)
            self._keep_private(building, stat.st_uid)
            self.disk.rename(building, f"{self._again}/{name}")
        except OSError:
            with contextlib.suppress(OSError):
                self.disk.unlink(building)
            raise

    def forget(self, name: str) -> None:
        """Remember no more of a job: it is claimed, or gone."""
        self.disk.unlink(f"{self._again}/{name}")

    def keep_output(self, attempt: Attempt, again: Again) -> None:
        """Keep what a job has written until it is tried again, and say where an attempt ended."""
        out = self.attempt_out(attempt)
        written = self.disk.stat(out)
        if not again.earlier or written is None or not written.st_size:
            return
        last = again.earlier[-1]
        if last.id == attempt.id:
            text = f"pmjq: attempt {last.attempt} on node {last.node}: {last.reason}\n".encode()
            # Its owner may keep it to himself, by a lease: he does without that line.
            with contextlib.suppress(BlockingIOError):
                tail = self.disk.tail(out, len(text))
                # What of it was written before, by a life that died here, is not written again.
                there = next((n for n in range(len(text), 0, -1) if tail.endswith(text[:n])), 0)
                self.disk.write_at(out, written.st_size - there, text)
        self._mkdir(self._tried)
        self.disk.rename(out, self.tried_out(again))

    def come_back(self, attempt: Attempt) -> None:
        """Have an attempt write on where the one before it ended, and forget that there was one.

        Repeatable.
        """
        name = naming.real_name(attempt.name, attempt.name_hex)
        known = self._decode(f"{self._again}/{name}", Again)
        if known is not None and known.earlier == attempt.earlier:
            self.forget(name)
        self.take_output(attempt)

    def take_output(self, attempt: Attempt) -> None:
        """Move what the attempts before this one wrote to where it will write; repeatable."""
        if attempt.earlier:
            self._moved(self.tried_path(attempt.earlier[-1].id), self.attempt_out(attempt))

    def tried_out(self, again: Again) -> str:
        """Return where the output of a job lies that is back in the queue."""
        return self.tried_path(again.earlier[-1].id)

    def tried_path(self, job_id: str) -> str:
        """Return where the output of an attempt is kept for the next."""
        return f"{self._tried}/{job_id}"

    def tried(self) -> list[str]:
        """Return the ids of the attempts whose output is kept for the next."""
        return self._list(self._tried)

    def output_path(self, job_id: str, number: int) -> str:
        """Return the same of a job of which only id and attempt are known."""
        return f"{self._job}/{job_id}/out.{number}"

    def attempt_out(self, attempt: Attempt) -> str:
        """Return where the output of an attempt lies until it is archived."""
        return f"{self._job}/{attempt.id}/out.{attempt.attempt}"

    def out_stat(self, attempt: Attempt) -> Stat | None:
        """Return the lstat of the output of an attempt that is in hand."""
        return self.disk.stat(self.attempt_out(attempt))

    def _new_tmp(self) -> str:
        return f"{self._tmp}/{self.token}.{next(self._numbers)}"


def _same(again: Again, stat: Stat) -> bool:
    return (again.size, again.mtime) == _print(stat)


def _print(stat: Stat) -> tuple[int, int]:
    """Return what tells a job of a name from another; a directory changes while it waits."""
    if ready.is_directory(stat):
        return -1, 0
    return stat.st_size, stat.st_mtime_ns // 1_000_000_000
