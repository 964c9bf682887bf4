"""One job as anybody sees it who may read the spool.

A value: what a listing of the queue, a record or a claim tells of a job, in one shape.
"""

from __future__ import annotations

import posixpath
from datetime import datetime
from typing import Protocol

from msgspec import Struct

from pmjq import naming
from pmjq.job import Record, Try
from pmjq.state import State


class Filed(Protocol):
    """The part of a record that tells where its job was filed."""

    @property
    def archive(self) -> str:
        """The directory, as ``Record`` has it."""

    @property
    def archive_hex(self) -> str:
        """Its bytes where the text is not exact."""

    @property
    def near(self) -> bool:
        """Tell whether that is on the spool's own file system."""


class Seen(Struct, frozen=True, kw_only=True):
    """One job as it is seen from here: a line of ``pmjq list --json`` and of ``show``.

    Times are UTC. ``reason``: why it does not run, or how it ended. ``archived`` and ``output`` are
    paths as the node names them that filed it. What is not known is None or empty. ``name_hex``:
    the bytes of the name where ``name`` is not exact, and ``archived_hex`` likewise. ``is_job``:
    false for an entry of the spool that is left alone, as a directory without an info file.
    ``signer``: who signed a job that a node has or had.
    """

    name: str
    name_hex: str = ""
    state: State
    reason: str = ""
    id: str = ""
    attempt: int | None = None
    owner: str = ""
    uid: int | None = None
    node: str = ""
    queued: datetime | None = None
    claimed: datetime | None = None
    started: datetime | None = None
    ended: datetime | None = None
    exit_code: int | None = None
    signal: int | None = None
    user_cpu: float | None = None
    system_cpu: float | None = None
    max_rss: int | None = None
    gpus: tuple[str, ...] = ()
    cpus: tuple[int, ...] = ()
    enforced: dict[str, str] = {}
    directives: tuple[str, ...] = ()
    token: str = ""
    archived: str = ""
    archived_hex: str = ""
    output: str = ""
    late: bool = False
    is_job: bool = True
    earlier: tuple[Try, ...] = ()
    signer: str = ""

    @property
    def file_name(self) -> str:
        """Return the exact name of its file."""
        return naming.real_name(self.name, self.name_hex)

    @property
    def archived_path(self) -> str:
        """Return the exact path that it was filed to."""
        return naming.real_name(self.archived, self.archived_hex)

    @property
    def ids(self) -> tuple[str, ...]:
        """Return its id, and those of its attempts before."""
        earlier = tuple(one.id for one in self.earlier)
        return (self.id, *earlier) if self.id else earlier

    @property
    def living(self) -> bool:
        """Tell whether it has not ended."""
        return self.state in (
            State.INCOMING,
            State.HELD,
            State.QUEUED,
            State.CLAIMED,
            State.RUNNING,
        )


def archive_of(record: Filed, root: str) -> str:
    """Return the directory that a job was filed to, as its node names it; ``root``: the spool."""
    archive = naming.real_name(record.archive, record.archive_hex)
    return posixpath.normpath(f"{root}/{archive}") if record.near else archive


def _wrote(record: Record) -> bool:
    """Tell whether a job has left output: not one that was cancelled before it was started."""
    started = record.started or any(one.started for one in record.earlier)
    return record.state is not State.CANCELLED or bool(started)


def of_record(record: Record, root: str, reason: str = "") -> Seen:
    """Return a job that has ended as its record has it; ``root``: the spool."""
    stem, archive = naming.real_name(record.stem, record.stem_hex), archive_of(record, root)
    archived = f"{archive}/{stem}" if archive else ""
    return Seen(
        name=record.name,
        name_hex=record.name_hex,
        state=record.state,
        reason=reason or record.reason,
        id=record.id,
        attempt=record.attempt,
        owner=record.owner,
        uid=record.uid,
        node=record.node,
        queued=record.queued,
        claimed=record.claimed,
        started=record.started,
        ended=record.ended,
        exit_code=record.exit_code,
        signal=record.signal,
        user_cpu=record.user_cpu,
        system_cpu=record.system_cpu,
        max_rss=record.max_rss,
        gpus=record.gpus,
        cpus=record.cpus,
        enforced=record.enforced,
        directives=record.directives,
        archived=naming.shown(archived),
        archived_hex=naming.exact(archived),
        output=naming.shown(f"{archived}.out") if archived and _wrote(record) else "",
        late=record.late,
        earlier=record.earlier,
        signer=record.signer,
    )
