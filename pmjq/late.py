"""Lost jobs that end after all: their records are completed.

A job of another node that fell silent is recorded as lost, since nobody can tell how it stands.
But the node may only have been cut off, and its keeper writes how the job ended into the same
``status.N`` as ever. So the paperwork of such a job stays for a while, with a note where its
record went, and the node that wrote the record looks at the status now and then. The job stays
lost, as everybody has been told; how it ended is added, and that this came late.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import msgspec

from pmjq import job, naming
from pmjq.job import Event, Record
from pmjq.state import State
from pmjq.tree import decoded

if TYPE_CHECKING:
    from collections.abc import Callable

    from pmjq.job import Status
    from pmjq.spool import Spool

EVERY = 15.0
"""Seconds between two looks at the statuses of lost jobs."""

KEPT_FOR = 30 * 86400.0
"""Seconds after which a lost job is not expected to end any more."""


class Note(msgspec.Struct, frozen=True):
    """The content of ``late.N.json``: a record, the path it went to without suffix, and by whom."""

    record: Record
    stem: str
    node: str


class Late:
    """The lost jobs of other nodes that this node has recorded."""

    def __init__(
        self,
        spool: Spool,
        node: str,
        log: Any,  # noqa: ANN401  # as structlog has it
        wall: Callable[[], float],
    ) -> None:
        """Expect nothing yet; ``wall`` is the time of day."""
        self.spool = spool
        self.node = node
        self.log = log
        self.wall = wall
        self.expected: dict[str, Note] = {}
        self._told: set[str] = set()
        self._next = 0.0

    def may_end(self, record: Record) -> bool:
        """Tell whether a job that is recorded may still run elsewhere."""
        return record.state is State.LOST and record.node != self.node

    def expect(self, record: Record, stem: str) -> None:
        """Keep the paperwork of a job that is filed under ``stem``."""
        note = Note(record, stem, self.node)
        self.spool.write_late(record, msgspec.json.encode(note) + b"\n")
        self.expected[record.id] = note

    def load(self) -> None:
        """Take up what an earlier life of this node expected; what cannot be read waits."""
        for job_id in self.spool.paperwork():
            with contextlib.suppress(OSError):
                note = decoded(self.spool.late(job_id) or b"", Note)
                if note is not None and (note.node, note.record.id) == (self.node, job_id):
                    self.expected[job_id] = note

    def look(self, now: float) -> None:
        """Complete the records of those that have ended, now and then.

        OSError: the first failure, after all others were looked at; the next call tries again.
        """
        if now < self._next:
            return
        failed: OSError | None = None
        for job_id, note in list(self.expected.items()):
            try:
                self._look_at(job_id, note)
            except OSError as error:
                failed = failed or error
        if failed is not None:
            raise failed
        self._next = now + EVERY

    def _look_at(self, job_id: str, note: Note) -> None:
        status = self.spool.status(note.record)
        if status is not None and status.code is not None:
            self._complete(note, status)
        elif self.wall() - note.record.ended.timestamp() < KEPT_FOR:
            return
        self.spool.clear(job_id, note.record.attempt, _name(note.record))
        self._told.discard(job_id)
        del self.expected[job_id]

    def _complete(self, note: Note, status: Status) -> None:
        record = job.completed(note.record, status)
        if record.id not in self._told:
            # Once, however often what follows is tried.
            self.spool.append([Event("job.late", record.ended, record=record)])
            self._told.add(record.id)
        disk, path = self.spool.disk, f"{note.stem}.json"
        # A later version may have written what this one does not know.
        known = decoded(disk.read(path) or b"", dict) or {}
        data = msgspec.json.encode(known | msgspec.to_builtins(record)) + b"\n"
        self.spool.replace(path, data, record.uid)
        with contextlib.suppress(OSError):
            # What it left since then; where some is filed already, or far away, it stays behind.
            if self.spool.left_files(record):
                disk.rename_new(self.spool.work_path(record), f"{note.stem}.d")
        self.log.warning("job.ended_late", job=record.name, id=record.id, node=record.node)


def _name(record: Record) -> str:
    return naming.real_name(record.name, record.name_hex)
