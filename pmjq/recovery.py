"""Take up what earlier lives of this node left: the scan that every daemon starts with.

There is no special program for a crash. A life begins, buries the dead lives of its own node,
thereby has their jobs, and reads of each from the spool how far it got. The same reading follows
any operation that failed without telling whether it was carried out: ``reload`` compares the desk
with the disk, and the disk is right.

Which lives are dead: those of this node's name whose process is gone (same machine, boot and pid
namespace), and those from before this machine's last boot. A life on another machine, or in
another pid namespace, is none of this module's business.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pmjq import ending, job, naming, node, ready
from pmjq.desk import Doubt
from pmjq.errors import TryLaterError
from pmjq.job import Attempt, Status
from pmjq.plan import Over, Return
from pmjq.state import State

if TYPE_CHECKING:
    from collections.abc import Callable

    from pmjq.archive import Archive
    from pmjq.desk import Desk
    from pmjq.job import Record
    from pmjq.node import Life, Machine
    from pmjq.spool import Spool


LIVES_MENDED = 16
"""How many lives before the last boot are looked through for what a power cut has torn."""


MOST_MENDED = 1000
"""Records of each life that are looked at: as many as end in the half minute that a kernel takes
to write back."""

MOST_MENDED_SHARED = 50
"""The same where a look is a round trip, and a close has written back all but the last ones."""

REBOOT_SLACK = 90.0
"""Seconds before this boot in which a life of the same machine may have written its ``node.json``
and live on: it does so every minute, and clocks differ."""


ABANDONED = 3600.0
"""Seconds after which nobody comes back to what is half done: a person's command, or a return."""


@dataclass(frozen=True, slots=True)
class Former:
    """An earlier life of this node, or one that fell silent.

    ``rebooted``: what became of its processes cannot be seen from here, since it is from before
    the last boot or of another machine. ``reason``: why its jobs were taken over.
    """

    token: str
    rebooted: bool
    reason: str = ""


def former_lives(
    lives: dict[str, Life | None], name: str, me: Machine, alive: Callable[[int, int], bool]
) -> list[Former]:
    """Return the dead lives of this node's name; TryLaterError if one of them lives.

    The caller holds this machine's lock for the node and the spool, so a life of this boot that
    never got as far as publishing itself is dead. It has listened to those that are ``unseen``.
    """
    dead: list[Former] = []
    for token, life in sorted(lives.items()):
        rest = node.boot_of(token)
        if node.name_of(token) != name:
            continue
        if life is None:
            dead.append(Former(token, rebooted=rest != me.boot[:8]))
        elif life.machine != me.machine:
            continue
        elif life.boot != me.boot:
            dead.append(Former(token, rebooted=True))
        elif life.space != me.space:
            continue
        elif alive(life.pid, life.start) and life.pid != me.pid:
            raise TryLaterError(
                f"node {name} is running here already as process {life.pid}; "
                "stop that one or give this one another --node"
            )
        else:
            dead.append(Former(token, rebooted=False))
    return dead


def take_up(spool: Spool, desk: Desk, former: list[Former], now: float) -> None:
    """Bury dead lives and put their jobs on the desk.

    Repeatable: what a crash leaves undone, the next call finishes.
    """
    for life in former:
        _put(spool, desk, spool.bury(life.token), now, life)


def clear_up(spool: Spool, desk: Desk, token: str) -> None:
    """Finish what a buried life of another node left half done: what ended, what was not claimed.

    What ended is left to its node if that lives again.
    """
    if node.name_of(token) not in _nodes(spool):
        load_ended(spool, desk)
    for job_id in _unneeded(spool, desk):
        attempt = spool.attempt(job_id)
        if attempt is not None and attempt.token == token:
            _clear(spool, attempt)


def unseen(
    lives: dict[str, Life | None], name: str, me: Machine, *, local: bool
) -> dict[str, Life | None]:
    """Return the lives of this node's name that may live where this machine cannot see it.

    Another machine's; those of another pid namespace; and on a shared spool those of another boot
    of a machine that calls itself as this one does, unless they fell silent before this boot:
    clones of one image have one machine id. Whether they live, their beats tell.
    """
    found: dict[str, Life | None] = {}
    for token, life in lives.items():
        if node.name_of(token) != name:
            continue
        if life is None:
            may = not local and node.boot_of(token) != me.boot[:8]
        elif life.machine != me.machine:
            may = True
        elif life.boot != me.boot:
            may = not local and life.at.timestamp() > me.booted - REBOOT_SLACK
        else:
            may = life.space != me.space
        if may:
            found[token] = life
    return found


def reload(spool: Spool, desk: Desk, now: float) -> list[str]:
    """Put on the desk what the disk has, and drop what it has not.

    Returns the ids that were dropped.
    """
    spool.clear_tmp()
    here = set(spool.running())
    if not desk.in_hand() <= here:
        # Nothing is in a spool that is not mounted, and it may have come back meanwhile.
        spool.check_present()
        here |= set(spool.running())
    own = Former(spool.token, rebooted=False)
    _put(spool, desk, [job_id for job_id in here if job_id not in desk], now, own)
    gone = sorted(desk.in_hand() - here)
    for job_id in gone:
        desk.drop(job_id)
    load_ended(spool, desk)
    return gone


def load_ended(spool: Spool, desk: Desk) -> None:
    """Put on the desk the ended jobs that are not archived: this node's, and those of nobody.

    A record that is torn is written again from its event. What cannot be read now is looked at
    again with the next reload.
    """
    missing: list[tuple[str, int]] = []
    others = _nodes(spool) - {node.name_of(spool.token)}
    for key in spool.ended():
        if key[0] not in desk.filing and key[0] not in desk.over:
            record = spool.record(*key)
            if record is None:
                # One of a later version is for nodes that know what to do with it.
                if not spool.unknown_record(*key):
                    missing.append(key)
            elif record.node not in others:
                _file(spool, desk, record)
    if not missing:
        return
    records = spool.told({job_id for job_id, _ in missing}).records
    for key in missing:
        try:
            record = records.get(key[0]) or _made_again(spool, key)
            if record is not None and record.node not in others:
                spool.rewrite_record(record)
                _file(spool, desk, record)
        except OSError:
            desk.doubtful = True


def load_untold(spool: Spool, desk: Desk, looked: set[tuple[str, int]]) -> None:
    """Put on the desk what has ended without a node: a queued job that was cancelled.

    ``looked``: what was looked at before; it is kept up to date.
    """
    ended = set(spool.ended())
    looked &= ended
    for key in ended - looked:
        if key[0] in desk.filing or key[0] in desk.over:
            continue
        record = spool.record(*key)
        if record is None:
            # Not to be read just now, or not seen here yet: it is looked at again.
            continue
        try:
            if not record.node:
                _file(spool, desk, record)
        except OSError:
            # On a full disk it cannot be moved: it is tried again, and nothing waits for it.
            continue
        looked.add(key)


def _file(spool: Spool, desk: Desk, record: Record) -> None:
    """Have an ended job filed; one of another node is taken first, which only one node can.

    What goes to a file system of that node's own is left to it: half of it may be there already.
    """
    if record.node == node.name_of(spool.token):
        desk.filing[record.id] = record
    elif (record.near or not record.archive) and spool.take_ended(record, told=bool(record.node)):
        if record.node:
            known = _as_recorded(spool, record)
            desk.over[record.id] = Over(known, Status(), record.state, record.reason, record)
        else:
            _tell(spool, desk, record)


def _tell(spool: Spool, desk: Desk, record: Record) -> None:
    """Have a job end whose record somebody has written who tells of no events."""
    known = _as_recorded(spool, record)
    desk.over[record.id] = Over(
        known, Status(), record.state, record.reason, sure=True, written=record
    )


def _nodes(spool: Spool) -> set[str]:
    """Return the names of the nodes that live, or are to be buried by somebody."""
    return {node.name_of(token) for token in spool.tokens()}


def cut_short(spool: Spool) -> list[Former]:
    """Return the last lives on a local spool before the last boot, in this node's first after it.

    They may be buried already, and a power cut may have torn what they filed half a minute before.
    """
    lives = spool.tellers()
    if any(node.origin(token) == node.origin(spool.token) for token in lives):
        return []
    boot = node.boot_of(spool.token)
    earlier = [token for token in lives if node.boot_of(token) != boot]
    return [Former(token, rebooted=True) for token in earlier[:LIVES_MENDED]]


def mend(spool: Spool, archive: Archive, former: list[Former]) -> int:
    """Write again the archived records that a power cut has torn; return how many."""
    most = MOST_MENDED if spool.local else MOST_MENDED_SHARED
    records = [
        record
        for life in former
        if life.rebooted
        for record in spool.last_records(life.token)[-most:]
    ]
    return sum(archive.mend(record) for record in records)


def clear_paperwork(spool: Spool, desk: Desk, name: str, lives: set[str]) -> None:
    """Remove the paperwork that no job needs.

    That is the paperwork of this node's claims that were never made, and, whoever's it was, what
    is left of jobs that are archived, and, if no other node is about, what a power cut tore before
    the claim.
    """
    for path in spool.abandoned(ABANDONED):
        spool.remove(path)
    alone = all(node.name_of(token) == name for token in lives)
    for job_id in _unneeded(spool, desk):
        attempt = spool.attempt(job_id)
        if attempt is None and naming.is_id(job_id) and (alone or not spool.has_claim(job_id)):
            record = spool.latest_record(job_id)
            # Of a job that somebody was cancelling, and that went another way.
            gone = record is not None and not record.node and spool.old(job_id, ABANDONED)
            if gone or not spool.has_record(job_id):
                spool.clear(job_id, 1, job_id)
        elif attempt is not None and attempt.node == name and attempt.token not in lives:
            _clear(spool, attempt)


def _unneeded(spool: Spool, desk: Desk) -> list[str]:
    """Return the ids of jobs that nobody has and that are not to be archived."""
    papers = spool.paperwork()
    # In this order: a job that ends meanwhile is seen in one of the places. Twice, since one that
    # is taken over may go from a life that is still to be listed to one that has been.
    kept = spool.batons() | spool.batons()
    kept |= {job_id for job_id, _ in spool.ended()}
    return [job_id for job_id in papers if job_id not in kept and job_id not in desk.filing]


def _clear(spool: Spool, attempt: Attempt) -> None:
    spool.clear(attempt.id, attempt.attempt, naming.real_name(attempt.name, attempt.name_hex))


def _put(spool: Spool, desk: Desk, ids: list[str], now: float, life: Former) -> None:
    if not ids:
        return
    attempts = {job_id: spool.attempt(job_id) for job_id in ids}
    makers = {attempt.token for attempt in attempts.values() if attempt is not None}
    tokens = None if None in attempts.values() else {life.token, *makers}
    if tokens is not None and len(tokens) > 1:
        # A life in between may have told of the end, and have died while it was being buried.
        names = {node.name_of(token) for token in tokens}
        tokens = {token for token in spool.tellers() if node.name_of(token) in names}
    # An outcome may be durable already and its job not moved yet.
    told = spool.told(set(ids), tokens)
    for job_id, attempt in attempts.items():
        record = told.records.get(job_id)
        if record is not None and (attempt is None or attempt.attempt == record.attempt):
            known = attempt or _as_recorded(spool, record)
            desk.over[job_id] = Over(known, Status(), record.state, record.reason, record)
        elif attempt is None and (record := spool.latest_record(job_id)) is not None:
            _tell(spool, desk, record)
        elif attempt is None:
            _put_torn(spool, desk, job_id, told.attempts.get(job_id), life)
        elif attempt.refused:
            desk.claim(attempt)
        else:
            # After a burial that was interrupted nobody remembers whose life it was.
            foreign = node.origin(attempt.token) != node.origin(spool.token)
            rebooted = life.rebooted or foreign
            if not rebooted and (reason := _not_ours(spool, desk, attempt)):
                # It is returned unless it has been started.
                desk.devices.hold(attempt)
                desk.returning[job_id] = Return(attempt, reason)
                continue
            desk.doubts[job_id] = Doubt(attempt, now, now, rebooted=rebooted, reason=life.reason)
            desk.packing.hold(job_id, attempt.spec)
            if not rebooted:
                # Else they are another machine's, or nothing of it runs any more.
                desk.devices.hold(attempt)


def _not_ours(spool: Spool, desk: Desk, attempt: Attempt) -> str:
    """Return why a job is not this daemon's to run, which may take other owners' than the last."""
    stat = spool.claimed_stat(attempt)
    return "" if stat is None else ready.not_ours(stat, desk.backlog.rules)


def _put_torn(spool: Spool, desk: Desk, job_id: str, attempt: Attempt | None, life: Former) -> None:
    """Put a job on the desk whose paperwork is torn or gone; its event may know what it was."""
    known = attempt or _nameless(spool, job_id)
    if life.rebooted and known.spec.restartable:
        reason = "its paperwork was lost with the power; it is restartable"
        desk.returning[job_id] = Return(known, reason, stopped=True)
    else:
        reason = "its paperwork is missing; submit it again"
        desk.over[job_id] = Over(known, Status(), State.LOST, reason)


def _made_again(spool: Spool, key: tuple[str, int]) -> Record | None:
    attempt = spool.attempt(key[0])
    if attempt is None:
        return None
    status = spool.status(attempt) or Status()
    over = ending.outcome(attempt, status)
    reason = "its record was missing and has been made again from its status"
    return job.record(attempt, status, over.state, attempt.claimed.timestamp(), reason)


def _as_recorded(spool: Spool, record: Record) -> Attempt:
    return Attempt(
        id=record.id,
        name=record.name,
        name_hex=record.name_hex,
        attempt=record.attempt,
        owner=record.owner,
        uid=record.uid,
        node=record.node,
        token=spool.token,
        queued=record.queued,
        claimed=record.claimed,
    )


def _nameless(spool: Spool, job_id: str) -> Attempt:
    moment = job.moment(0)
    return Attempt(
        id=job_id,
        name=naming.shown(job_id),
        attempt=1,
        owner="",
        uid=-1,
        node="",
        token=spool.token,
        queued=moment,
        claimed=moment,
    )
