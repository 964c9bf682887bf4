"""What the doctor's figures mean: each function turns what was measured into one finding.

Nothing is looked at here and nothing is done. A finding is bad where jobs would be lost, run twice
or not at all; a warning where pmjq works and somebody should know.
"""

from __future__ import annotations

import os
import statistics
from collections import Counter
from enum import StrEnum
from typing import TYPE_CHECKING

from msgspec import Struct

from pmjq.lease import BEATS, LEASE
from pmjq.nodes import Pulse
from pmjq.render import Row, duration, size

if TYPE_CHECKING:
    from pmjq.nodes import Seen

BEAT = LEASE / BEATS
"""Seconds between two beats, within which one has to get through and to be seen."""

SLOW = 0.1
"""Seconds that a call may take in the median: a job costs some fourteen of them."""

STALE = 5.0
"""Seconds after which another machine's jobs and beats are seen late."""

LITTLE, TOO_LITTLE = 1e9, 16e6
"""Bytes free: for the output of many jobs, and for the paperwork of any."""

FEW, TOO_FEW = 20_000, 500
"""Files that can still be made: a job has about five at a time, a burst thousands."""

APART = 2.0
"""Seconds that two clocks may differ: FAT tells times to 2 s."""

HEADINGS = ("VERDICT", "CHECK", "FOUND")


class Verdict(StrEnum):
    """What a finding means for pmjq."""

    OK = "ok"
    WARNING = "warning"
    BAD = "bad"


Figures = dict[str, float | str | bool | None]


class Finding(Struct, frozen=True):
    """One answer: a line of ``pmjq doctor --json``.

    ``remedy``: what to do, empty where there is nothing; ``figures``: what was measured, in seconds
    and bytes.
    """

    check: str
    verdict: Verdict
    found: str
    remedy: str = ""
    figures: Figures = {}


def row(finding: Finding) -> Row:
    """Return a finding as a row below ``HEADINGS``."""
    cells = (str(finding.verdict), finding.check, finding.found)
    return Row(cells, [finding.remedy] if finding.remedy else [])


def failed(check: str, error: OSError) -> Finding:
    """Return that a call failed."""
    found = f"fails: {error.strerror or error}"
    return Finding(check, Verdict.BAD, found, "pmjq needs it", {"errno": error.errno})


def kind(name: str, *, shared: bool) -> Finding:
    """Return what a type of file system means; empty if it is not known."""
    check, figures = "file system", Figures(kind=name, shared=shared)
    if not name:
        found = "of unknown kind, and taken for a local one"
        remedy = "if other machines write it, give every daemon --settle and --poll"
        return Finding(check, Verdict.WARNING, found, remedy, figures)
    if name in ("tmpfs", "ramfs"):
        found = f"{name}, local, in memory: jobs and results are gone after a reboot"
        return Finding(check, Verdict.WARNING, found, "put the spool on a disk", figures)
    how = "local: the kernel tells of every change"
    if shared:
        how = "shared: other machines may write it, so the spool is listed now and then"
    return Finding(check, Verdict.OK, f"{name}, {how}", figures=figures)


def space(free: float, inodes: int | None) -> Finding:
    """Return what so many free bytes mean, and so many files; None: they are not counted."""
    counted = "inodes are not counted" if inodes is None else f"{inodes} inodes"
    verdict, remedy = Verdict.OK, ""
    if free < LITTLE or (inodes is not None and inodes < FEW):
        verdict, remedy = Verdict.WARNING, "remove what is old, or make room"
    if free < TOO_LITTLE or (inodes is not None and inodes < TOO_FEW):
        verdict = Verdict.BAD
    figures = Figures(free=free, inodes=inodes)
    return Finding("space", verdict, f"{size(free)} free, {counted}", remedy, figures)


def name_free(name: str, lives: list[Seen]) -> Finding:
    """Return whether a daemon of this machine may have a name, of which there are ``lives``."""
    check, figures = "node name", Figures(name=name, lives=len(lives))
    living = [seen for seen in lives if seen.state is Pulse.ALIVE]
    for seen in living:
        if seen.judged != "process":
            found = f"{name} is in use on {seen.host or 'another machine'}, process {seen.pid}"
            remedy = "give the daemon of this machine another --node name"
            return Finding(check, Verdict.BAD, found, remedy, figures)
    if living:
        found = f"{name}, in use by the daemon of this machine, process {living[0].pid}"
        return Finding(check, Verdict.OK, found, figures=figures)
    was = "; an earlier life of it left something, which is taken over" if lives else ""
    return Finding(check, Verdict.OK, f"{name} is free{was}", figures=figures)


def owner(uid: int, found: int) -> Finding:
    """Return what it means that a file made by ``uid`` is of user ``found``."""
    figures = Figures(uid=uid, owner=found)
    if found == uid:
        return Finding("owner", Verdict.OK, "a file made here is ours", figures=figures)
    text = f"a file made here is of user {found}, not {uid}: its jobs would be left alone"
    remedy = "map the users (sshfs: -o idmap=user), or run as a user who keeps his files (NFS)"
    return Finding("owner", Verdict.BAD, text, remedy, figures)


def clock(before: float, written: float, after: float) -> Finding:
    """Return what the time of a file says that was written between two times of ours."""
    ahead = min(0.0, written - before) + max(0.0, written - after)
    figures = Figures(ahead=round(ahead, 3))
    if abs(ahead) <= APART:
        return Finding("clock", Verdict.OK, "the file server's agrees with ours", figures=figures)
    side = "ahead of" if ahead > 0 else "behind"
    found = f"the file server's is {duration(abs(ahead))} {side} ours"
    remedy = "synchronize them: nothing depends on it but the times that people read"
    return Finding("clock", Verdict.WARNING, found, remedy, figures)


def latency(check: str, times: list[float]) -> Finding:
    """Return what it means that a call took so long."""
    median, worst = statistics.median(times), max(times)
    figures = Figures(median=round(median, 7), worst=round(worst, 7), times=len(times))
    found = f"{duration(median)} in the median of {len(times)}, {duration(worst)} at worst"
    if worst > LEASE / 2:
        remedy = "a node whose heartbeat takes so long counts as dead; raise --lease"
        return Finding(check, Verdict.BAD, found, remedy, figures)
    if median > SLOW or worst > STALE:
        return Finding(check, Verdict.WARNING, found, "short jobs will be slow", figures)
    return Finding(check, Verdict.OK, found, figures=figures)


def lateness(check: str, late: float | None, most: float) -> Finding:
    """Return what it means that another mount sees something so late; None: not within ``most``.

    Jobs may be late. Beats may not: a node that is not heard is taken for dead.
    """
    figures = Figures(late=late if late is None else round(late, 5))
    if late is not None and late <= STALE:
        found = f"seen by the other mount after {duration(late)}"
        return Finding(check, Verdict.OK, found, figures=figures)
    found = f"seen by the other mount only after {duration(most if late is None else late)}"
    if late is None:
        found = f"not seen by the other mount in {duration(most)}"
    dead = late is None or (check == "changed beat" and late > BEAT)
    remedy = "mount it with less caching (sshfs: -o dir_cache=no; NFS: -o actimeo=1)"
    return Finding(check, Verdict.BAD if dead else Verdict.WARNING, found, remedy, figures)


def rename(
    files: int,
    told: list[list[int]],
    left: list[str],
    targets: list[str],
    mounts: int,
    error: int = 0,
) -> Finding:
    """Return what a contest for the files 0, 1, ... shows.

    ``told``: which files each process was told it had won; ``left``: the files that are still
    there; ``targets``: those that were won, as FILE.PROCESS; ``error``: the last errno of any. A
    process that has a file and was told that it has not is no harm: a reply was lost.
    """
    claims = {f"{file}.{number}" for number, mine in enumerate(told) for file in mine}
    owners = Counter(name.partition(".")[0] for name in (*claims.union(targets), *left))
    doubled = sum(count > 1 for count in owners.values())
    won = len({name.partition(".")[0] for name in targets})
    lost = files - len({*left, *(name.partition(".")[0] for name in targets)})
    figures = Figures(
        files=won,
        processes=len(told),
        winners=sum(map(bool, told)),
        mounts=mounts,
        doubled=doubled,
        lost=lost,
    )
    who = f"{len(told)} processes" + (f" on {mounts} mounts" if mounts > 1 else "")
    verdict, remedy = Verdict.OK, ""
    found = f"each of {won} files was won by exactly one of {who}"
    if doubled or lost:
        verdict, remedy = (
            Verdict.BAD,
            "jobs would be run twice: let one node alone serve this spool",
        )
        found = f"of {won} files {doubled} were won more than once and {lost} lost by {who}"
    elif not won:
        verdict, remedy = Verdict.BAD, "no job could be claimed here"
        found = f"none of {who} could rename a file: {os.strerror(error)}"
    elif not all(any(told[mount::mounts]) for mount in range(mounts)):
        verdict, remedy = Verdict.WARNING, "examine it again: this shows little about two mounts"
        found += ", all on the same mount"
    return Finding("rename", verdict, found, remedy, figures)
