"""The nodes of a spool as anybody sees them who may read it: every daemon may be down.

Only reads. Whether a life still lives is told, best first, by its process, where machine, boot and
pid namespace are ours; by its beat's content, where there is time to look twice; else by the age
of its beat. That age is on the file server's clock, which nobody can ask without writing: it is
taken to be ours, or that of the newest beat, whichever is later. A clock of ours
that is ahead makes living nodes look silent, so what matters is decided by two looks.

Daemons judge one another by their own looks alone (``pmjq.lease``); nothing here decides anything.
"""

from __future__ import annotations

import stat as modes
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from pmjq import naming, node, probe, render
from pmjq.errors import NotFoundError
from pmjq.job import FORMAT
from pmjq.lease import BEATS, LEASE, SHORTEST
from pmjq.naming import OWN
from pmjq.node import Life
from pmjq.render import JOIN, Row
from pmjq.signing import VERIFIED
from pmjq.spool import Spool
from pmjq.tree import Head, decoded

if TYPE_CHECKING:
    from collections.abc import Callable

    from pmjq.disk import Disk
    from pmjq.node import Machine

LISTENED = 2.5 / BEATS
"""Share of a lease between two looks after which a beat that stood still means silence."""

HEADINGS = ("NODE", "STATE", "LOAD", "SLOTS", "RUN", "QUEUED", "GATE", "BEGAN", "VERSION")


class Pulse(StrEnum):
    """Whether a life lives, as far as can be known here.

    Silent: its beat is older than its lease. Dead: its process on this machine is gone. Buried:
    its beat is gone, so another node takes over what it has.
    """

    ALIVE = "alive"
    SILENT = "silent"
    DEAD = "dead"
    BURIED = "buried"
    UNKNOWN = "unknown"


class Seen(Struct, frozen=True, kw_only=True):
    """One life as it is seen from here: a line of ``pmjq nodes --json``.

    ``silent``: seconds since its last beat, at least; ``judged``: by what its state is known
    (process, beat, looks, or nothing). What its ``node.json`` does not tell is None or empty, and
    ``note`` says why.
    """

    name: str
    token: str
    state: Pulse = Pulse.UNKNOWN
    silent: float | None = None
    judged: str = ""
    host: str = ""
    pid: int | None = None
    version: str = ""
    began: datetime | None = None
    at: datetime | None = None
    load: float | None = None
    limit: float | None = None
    slots: int | None = None
    running: int | None = None
    queued: int | None = None
    unfiled: int | None = None
    gate: str = ""
    reason: str = ""
    stopping: str = ""
    outage: str = ""
    lease: float | None = None
    won: int | None = None
    contended: int | None = None
    polled: float | None = None
    cpus: int | None = None
    memory: int | None = None
    gpus: tuple[str, ...] | None = None
    archive: str = ""
    errors: str = ""
    letters: int | None = None
    mail: str = ""
    signatures: dict[str, int] | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class _Beat:
    """A beat: its content, None if it is gone, and its mtime; or why it cannot be read."""

    content: bytes | None = None
    at: float | None = None
    trouble: str = ""


def opened(disk: Disk, root: str) -> Spool:
    """Return the spool at a path; NotFoundError if it is none, ConfigurationError if unknown."""
    shown = naming.shown(root)
    if disk.stat(root) is None:
        raise NotFoundError(
            f"{shown}: no such directory; name the spool with -s or PMJQ_SPOOL, or mount it"
        )
    spool = Spool(disk, root)
    if disk.stat(spool.own) is None:
        raise NotFoundError(
            f"{shown}: is not a spool yet: no daemon has made {OWN} in it; "
            "name the spool with -s or PMJQ_SPOOL, or mount it"
        )
    spool.identify(to_look=True)
    return spool


def look(
    spool: Spool,
    me: Machine,
    wall: Callable[[], float],
    watch: float = 0.0,
    pause: Callable[[float], None] = lambda _: None,
    alive: Callable[[int, int], bool] = probe.alive,
) -> list[Seen]:
    """Return every life at the spool, by name; changes nothing.

    With ``watch`` the beats are looked at twice, ``pause(watch)`` apart. ``wall``: the time of day.
    """
    before: dict[str, bytes | None] = {}
    if watch:
        before = {token: _beat(spool, token).content for token in _tokens(spool)}
        pause(watch)
    beats = {token: _beat(spool, token) for token in _tokens(spool)}
    now = max([wall(), *(beat.at for beat in beats.values() if beat.at)])
    found: list[Seen] = []
    for token, beat in beats.items():
        life, version, note = _life(spool, token)
        seen = _told(token, life, version, note or beat.trouble)
        lease = max(life.lease, SHORTEST) if life else LEASE
        silent = None if beat.at is None else round(now - beat.at, 3)
        still = watch if before.get(token, beat.content) == beat.content else 0.0
        listened = watch >= LISTENED * lease and token in before
        if listened:
            silent = max(silent or 0.0, still) if still else 0.0
        state, judged = _pulse(beat, silent, lease, still if listened else None)
        if life and (life.machine, life.boot, life.space) == (me.machine, me.boot, me.space):
            state = Pulse.ALIVE if alive(life.pid, life.start) else Pulse.DEAD
            judged = "process"
        found.append(msgspec.structs.replace(seen, state=state, silent=silent, judged=judged))
    return sorted(found, key=lambda one: (one.name, one.began or datetime.max.replace(tzinfo=UTC)))


def aside(spool: Spool, seen: list[Seen]) -> dict[str, str]:
    """Return why entries of the spool do not run, as the living nodes say, by shown name."""
    found: dict[str, str] = {}
    for one in seen:
        if one.state in (Pulse.ALIVE, Pulse.UNKNOWN):
            life = _life(spool, one.token)[0]
            found |= life.aside if life is not None else {}
    return found


def row(seen: Seen, now: float) -> Row:
    """Return a life as a row below ``HEADINGS``; ``now``: the time of day."""
    count = (seen.slots, seen.running, seen.queued)
    slots, running, queued = ("-" if number is None else str(number) for number in count)
    began = "-"
    if seen.began is not None:
        began = f"{_joined(max(0.0, now - seen.began.timestamp()))} ago"
    cells = (
        seen.name,
        _state(seen),
        "-" if seen.load is None else f"{seen.load:.2f}",
        *(slots, running, queued),
        seen.gate or "-",
        began,
        seen.version or "-",
    )
    return Row(cells, _notes(seen))


def _tokens(spool: Spool) -> list[str]:
    """Return the lives; stray files among them are not meant."""
    if spool.disk.stat(f"{spool.own}/node") is None:
        return []
    return [token for token in sorted(spool.tokens()) if _is_directory(spool, token)]


def _is_directory(spool: Spool, token: str) -> bool:
    stat = spool.disk.stat(f"{spool.own}/node/{token}")
    return stat is not None and modes.S_ISDIR(stat.st_mode)


def _beat(spool: Spool, token: str) -> _Beat:
    """Read, then stat: on NFS it is the opening that brings what the server knows."""
    try:
        content = spool.beat(token)
        stat = spool.disk.stat(f"{spool.own}/node/{token}/beat")
    except OSError as error:
        return _Beat(trouble=f"beat: {error.strerror or error}")
    if content is None or stat is None:
        return _Beat()
    return _Beat(content, stat.st_mtime_ns / 1e9)


def _life(spool: Spool, token: str) -> tuple[Life | None, str, str]:
    """Return what a life says of itself, its version, and what is wrong with that."""
    try:
        text = spool.disk.read(f"{spool.own}/node/{token}/node.json")
    except OSError as error:
        return None, "", f"node.json: {error.strerror or error}"
    if text is None:
        return None, "", "has no node.json: it is about to begin, or to be buried"
    head = decoded(text, Head)
    if head is not None and head.format != FORMAT:
        note = f"node.json has format {head.format}, this pmjq knows format {FORMAT}"
        return None, head.version, note
    life = decoded(text, Life)
    if life is None:
        return None, head.version if head else "", "node.json is torn or strange"
    return life, life.version, ""


def _told(token: str, life: Life | None, version: str, note: str) -> Seen:
    shown = naming.shown(token)
    if life is None:
        name = node.name_of(shown)
        return Seen(name=name or shown, token=shown, version=version, note=note)
    known = {name: getattr(life, name) for name in Seen.__struct_fields__ if hasattr(life, name)}
    return Seen(**known | {"token": shown, "note": note})


def _pulse(
    beat: _Beat, silent: float | None, lease: float, still: float | None
) -> tuple[Pulse, str]:
    """Judge by the beat; ``still``: for how long two looks saw no change, None if not known."""
    if beat.trouble:
        return Pulse.UNKNOWN, ""
    if beat.content is None or silent is None:
        return Pulse.BURIED, "beat"
    if still is not None:
        return (Pulse.SILENT if still else Pulse.ALIVE), "looks"
    return (Pulse.SILENT if silent > lease else Pulse.ALIVE), "beat"


def _state(seen: Seen) -> str:
    late = seen.silent is not None and seen.silent > (seen.lease or LEASE)
    silence = f"silent for {_joined(seen.silent or 0.0)}"
    if seen.state is Pulse.SILENT:
        return silence
    return f"{seen.state}, {silence}" if late else str(seen.state)


def _joined(seconds: float) -> str:
    return render.duration(seconds).replace(" ", JOIN)


def _notes(seen: Seen) -> list[str]:
    """Return what people ask next, a line each."""
    notes = []
    if seen.gpus:
        notes.append(f"GPUs: {' '.join(seen.gpus)}")
    if seen.gate == "closed" and seen.reason:
        notes.append(f"gate closed: {seen.reason}")
    if seen.outage:
        notes.append(f"outage: {seen.outage}")
    if seen.stopping:
        notes.append(f"stopping: {seen.stopping}")
    if seen.contended:
        rate = f", {seen.contended / seen.won:.2f} per one won" if seen.won else ""
        notes.append(f"{seen.contended} claims lost to other nodes{rate}")
    refused = sum(seen.signatures.values()) - seen.signatures[VERIFIED] if seen.signatures else 0
    if refused:
        notes.append(f"{refused} jobs were refused for their signatures")
    if seen.unfiled:
        notes.append(f"{seen.unfiled} ended jobs are not archived")
    if seen.letters:
        notes.append(f"{seen.letters} letters wait{f': {seen.mail}' if seen.mail else ''}")
    if seen.state is Pulse.ALIVE and seen.judged == "process" and seen.silent is None:
        notes.append("its beat is gone: it was taken for dead and begins anew")
    if seen.note:
        notes.append(seen.note)
    return notes
