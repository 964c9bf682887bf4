"""What is known of a job: its spec, its attempts, how an attempt ended, its record.

These are values. ``Attempt`` is the content of ``claim.N.json``, ``Record`` that of
``record.N.json`` and of the file next to the archived job; ``Status`` is what ``status.N`` tells.
They are frozen msgspec Structs, so what is read from disk is checked on the way in, and an
unknown format is refused instead of being guessed at.

A name that JSON cannot carry is in ``name`` for people and in ``name_hex`` for machines; see
``pmjq.naming``.

Times are UTC. Durations and CPU times are seconds, sizes are bytes.
"""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from typing import Any, Final, Literal

import msgspec

from pmjq import naming
from pmjq.state import State

FORMAT: Final = 1
"""The number of the on-disk format; one that is not known is refused with both numbers named."""


class Spec(msgspec.Struct, frozen=True, omit_defaults=True):
    """How the job is to be run, taken from the executable or its info file.

    ``shell``: text without ``#!``, run by ``/bin/sh`` as shells do. ``argv``: what is executed in a
    directory job. ``directives``: its words, as written. The other fields are those of
    ``pmjq.keys``: durations in seconds, sizes in bytes, None where nothing is asked for.
    """

    shell: bool = False
    restartable: bool = False
    directives: tuple[str, ...] = ()
    argv: tuple[str, ...] = ()
    name: str = ""
    directory: str = ""
    env: tuple[str, ...] = ()
    cpus: int | None = None
    memory: int | None = None
    gpus: int | None = None
    time: float | None = None
    grace: float | None = None
    output_limit: int | None = None
    priority: int = 0
    retries: int = 0
    backoff: float | None = None
    after: tuple[str, ...] = ()
    after_any: tuple[str, ...] = ()
    not_before: datetime | None = None
    nice: int | None = None
    mail: tuple[str, ...] = ()
    mail_on: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One claim of one job by one life of a node; the content of ``claim.N.json``.

    ``gpus`` and ``cpus``: those of its node that it was given. ``refused``: why it is not run.
    ``tries``: how often it was tried again by itself; ``earlier`` tells of the attempts before this
    one, those that people asked for as well. Of a signed job ``signer`` is who signed it,
    ``signed`` what, and ``owner`` and ``uid`` are those that it runs as, whoever owned its file.
    """

    format: Literal[1] = FORMAT
    id: str
    name: str
    name_hex: str = ""
    attempt: int
    owner: str
    uid: int
    node: str
    token: str
    queued: datetime
    claimed: datetime
    spec: Spec = Spec()
    gpus: tuple[str, ...] = ()
    cpus: tuple[int, ...] = ()
    refused: str = ""
    cancelled: bool = False
    tries: int = 0
    earlier: tuple[Try, ...] = ()
    signer: str = ""
    signed: Signed | None = None


class Signed(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a signature stands for, as it was verified.

    ``content``: the SHA-512 of the job's file; ``name``: what it was called then; ``mark``: what
    tells this job from any other that was ever signed for this spool.
    """

    content: str
    mark: str
    name: str
    name_hex: str = ""


class Try(msgspec.Struct, frozen=True, omit_defaults=True):
    """An earlier attempt of a job, as the record of a later one tells of it.

    ``state``: how it ended, or ``interrupted``.
    """

    id: str
    attempt: int
    node: str
    state: str
    started: datetime | None = None
    ended: datetime | None = None
    exit_code: int | None = None
    signal: int | None = None
    reason: str = ""


class Again(msgspec.Struct, frozen=True):
    """What is remembered of a job that is back in the queue; the content of ``again/NAME``.

    ``attempt``: the number of its next attempt. ``size`` and ``mtime`` (whole seconds) tell that
    the entry of that name is still the same job; inode numbers differ between clients. ``tries``
    and ``earlier`` as in ``Attempt``; it is not to be tried again before ``not_before``.
    ``signed_as``: the name that it was signed for, where that was taken when it returned.
    """

    attempt: int
    size: int = 0
    mtime: int = 0
    tries: int = 0
    earlier: tuple[Try, ...] = ()
    not_before: datetime | None = None
    format: Literal[1] = FORMAT
    signed_as: str = ""
    signed_as_hex: str = ""


FIRST = Again(1)
"""Nothing: the first attempt is next."""


class Usage(msgspec.Struct, frozen=True):
    """What a job used, as wait4(2) tells: CPU seconds, and bytes of its largest process."""

    user_cpu: float
    system_cpu: float
    max_rss: int


class Status(msgspec.Struct, frozen=True):
    """What ``status.N`` says: how far an attempt got, written by whoever carried it out.

    ``pid`` and ``start`` (clock ticks since boot, field 22 of /proc/PID/stat) name its process,
    ``keeper`` and ``keeper_start`` the process that waits for it. ``code`` is its exit code, or
    the negated number of the signal that ended it. ``error`` is the errno of an execve that
    failed. ``alone``, known only while the daemon lives, tells that it left no process behind;
    ``told`` that its node had told it to stop, ``limit`` that it was over this one of its own,
    ``enforced`` what held it to which of them.
    """

    started: float | None = None
    pid: int = 0
    start: int = 0
    keeper: int = 0
    keeper_start: int = 0
    ended: float | None = None
    code: int | None = None
    usage: Usage | None = None
    error: int | None = None
    void: bool = False
    alone: bool = False
    told: bool = False
    limit: str = ""
    enforced: dict[str, str] = {}


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of an attempt, next to the archived job as ``STEM.json``.

    ``stem`` is the archived name, chosen once, so that every step of archiving can be repeated.
    ``late``: the job was recorded as lost, and how it ended was added when it was known.
    ``archive``: the directory that it goes to: as its node names it, or, where that is on the
    spool's own file system, from the spool, so that any node can go on with filing it.
    ``gpus`` and ``cpus``: those of its node that it had, ``enforced``: what held it to which of its
    limits. ``earlier``: the attempts before. ``signer``: who signed the job.
    """

    format: Literal[1] = FORMAT
    id: str
    name: str
    name_hex: str = ""
    state: State
    stem: str
    stem_hex: str = ""
    owner: str
    uid: int
    node: str
    attempt: int
    queued: datetime
    claimed: datetime
    started: datetime | None = None
    ended: datetime
    exit_code: int | None = None
    signal: int | None = None
    user_cpu: float | None = None
    system_cpu: float | None = None
    max_rss: int | None = None
    directives: tuple[str, ...] = ()
    reason: str = ""
    late: bool = False
    archive: str = ""
    archive_hex: str = ""
    gpus: tuple[str, ...] = ()
    cpus: tuple[int, ...] = ()
    enforced: dict[str, str] = {}
    earlier: tuple[Try, ...] = ()
    signer: str = ""

    @property
    def near(self) -> bool:
        """Tell whether it goes to a directory that every node finds from the spool."""
        return self.archive != "" and not self.archive.startswith("/")


class Event(msgspec.Struct, frozen=True):
    """One line of ``events/TOKEN.jsonl``."""

    event: str
    at: datetime
    attempt: Attempt | None = None
    record: Record | None = None


LATEST = 1e11
"""Seconds since the epoch: no time of day is later than the year 5138."""


def moment(seconds: float) -> datetime:
    """Return a time of day in UTC from seconds since the epoch."""
    return datetime.fromtimestamp(seconds, UTC)


def record(
    attempt: Attempt, status: Status, state: State, ended: float, reason: str = ""
) -> Record:
    """Return the record of an attempt that is over.

    ``ended`` in seconds since the epoch is used where the status does not know when. A code or a
    usage that nobody saw stays out of the record.
    """
    when = moment(ended if status.ended is None else status.ended)
    name = naming.real_name(attempt.name, attempt.name_hex)
    archived = naming.stem(when, attempt.id, name)
    code, usage = status.code, status.usage
    ran = status.started is not None and not status.error
    return Record(
        id=attempt.id,
        name=attempt.name,
        name_hex=attempt.name_hex,
        state=state,
        stem=naming.shown(archived),
        stem_hex=naming.exact(archived),
        owner=attempt.owner,
        uid=attempt.uid,
        node=attempt.node,
        attempt=attempt.attempt,
        queued=attempt.queued,
        claimed=attempt.claimed,
        started=moment(status.started) if ran and status.started is not None else None,
        ended=when,
        exit_code=code if code is not None and code >= 0 else None,
        signal=-code if code is not None and code < 0 else None,
        user_cpu=round(usage.user_cpu, 6) if usage else None,
        system_cpu=round(usage.system_cpu, 6) if usage else None,
        max_rss=usage.max_rss if usage else None,
        directives=attempt.spec.directives,
        reason=reason,
        gpus=attempt.gpus if ran else (),
        cpus=attempt.cpus if ran else (),
        enforced=status.enforced,
        earlier=attempt.earlier,
        signer=attempt.signer,
    )


def attempted(record: Record) -> Try:
    """Return what a later attempt's record tells of this one."""
    return Try(
        id=record.id,
        attempt=record.attempt,
        node=record.node,
        state=record.state,
        started=record.started,
        ended=record.ended,
        exit_code=record.exit_code,
        signal=record.signal,
        reason=record.reason,
    )


def completed(lost: Record, status: Status) -> Record:
    """Return the record of a lost job of which it is known by now how it ended."""
    code, usage = status.code, status.usage
    return msgspec.structs.replace(
        lost,
        started=lost.started if status.started is None else moment(status.started),
        ended=lost.ended if status.ended is None else moment(status.ended),
        exit_code=code if code is not None and code >= 0 else None,
        signal=-code if code is not None and code < 0 else None,
        user_cpu=round(usage.user_cpu, 6) if usage else None,
        system_cpu=round(usage.system_cpu, 6) if usage else None,
        max_rss=usage.max_rss if usage else None,
        reason=f"{lost.reason}; it has ended since then",
        late=True,
    )


def status(text: bytes) -> Status:
    """Return what the bytes of a ``status.N`` say.

    A line that is torn or strange counts for nothing. Unknown lines and further fields are passed
    over, so that a later version may add some.
    """
    known: dict[str, Any] = {}
    for line in text.split(b"\n")[:-1]:
        with contextlib.suppress(ValueError):
            known |= _said(line.split())
    return Status(**known)


def _said(words: list[bytes]) -> dict[str, Any]:
    match words:
        case [b"started", pid, start, at, keeper, keeper_start, *more]:
            return {
                "pid": int(pid),
                "start": int(start),
                "started": _time(at),
                "keeper": int(keeper),
                "keeper_start": int(keeper_start),
                "enforced": enforced(more[0].decode("ascii", "replace")) if more else {},
            }
        case [b"exit", code, at, user, system, rss, *_]:
            usage = Usage(float(user), float(system), int(rss))
            return {"code": int(code), "ended": _time(at), "usage": usage}
        case [b"told"] | [b"told", b"-", *_]:
            return {"told": True}
        case [b"told", limit, *_]:
            return {"told": True, "limit": limit.decode("ascii", "replace")}
        case [b"limit", limit, *_]:
            return {"limit": limit.decode("ascii", "replace")}
        case [b"noexec", error, at, *_]:
            return {"error": int(error), "ended": _time(at)}
        case [b"void", *_]:
            return {"void": True}
        case _:
            return {}


def enforced(text: str) -> dict[str, str]:
    """Return what enforces which limit, from ``LIMIT=WHAT,...``; others count for nothing."""
    pairs = (pair.partition("=") for pair in text.split(","))
    return {limit: what for limit, _, what in pairs if what}


def _time(text: bytes) -> float:
    """Return a time of day that can be a date; ValueError for any other number."""
    seconds = float(text)
    if not 0 <= seconds < LATEST:
        raise ValueError(seconds)
    return seconds
