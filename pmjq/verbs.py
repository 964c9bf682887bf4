"""The verbs at the door: one command each, thin; what it does is elsewhere.

Whatever costs time to import is imported when the verb is called, so that help is quick. Each
returns its exit code, and prints to standard output only what was asked for.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import click

from pmjq import face
from pmjq.errors import UsageError

if TYPE_CHECKING:
    from pmjq.diagnosis import Finding


@face.verb("nodes")
@face.spool_option
@click.option(
    "--watch",
    metavar="SECONDS",
    type=click.FloatRange(0, 86400),
    default=0.0,
    help="Look twice, so many seconds apart, and tell from what changed. [default: look once]",
)
@face.json_option
def nodes(spool: str | None, watch: float, *, as_json: bool) -> int:
    """List the nodes of a spool: alive or silent, load, slots, jobs, gate, version.

    Only reads; no daemon need run.
    """
    import math

    from pmjq import nodes as seen
    from pmjq import probe
    from pmjq.disk import Disk

    if not math.isfinite(watch):
        raise UsageError("nodes: --watch wants a number of seconds")
    opened = seen.opened(Disk(), face.root(spool))
    lives = seen.look(opened, probe.machine(), time.time, watch, time.sleep)
    if as_json:
        face.lines(lives)
    else:
        now = time.time()
        face.table(seen.HEADINGS, [seen.row(life, now) for life in lives])
    return 0


@face.verb("doctor")
@face.spool_option
@click.option("--other", metavar="PATH", help="Another mount of the same spool on this machine.")
@click.option("--node", metavar="NAME", help="Name of this node. [default: the host name]")
@face.json_option
@click.argument("place", metavar="[SPOOL]", required=False)
def doctor(place: str | None, spool: str | None, *, as_json: bool, **options: Any) -> int:  # noqa: ANN401  # as click hands them over
    """Examine the file system of a spool and say whether pmjq can rely on it.

    Works in a directory of its own, which it removes. Exits with 1 if anything is bad.
    """
    from pmjq import account, diagnosis
    from pmjq.diagnosis import Verdict
    from pmjq.disk import Disk
    from pmjq.doctor import Doctor

    if place is not None and spool is not None:
        raise UsageError("doctor: SPOOL is given twice; name it once")
    other, name = options["other"], options["node"]
    if other == "":
        raise UsageError("doctor: --other wants the name of a directory")
    findings: list[Finding] = []

    def say(finding: Finding) -> None:
        findings.append(finding)
        if as_json:
            face.lines([finding])

    try:
        Doctor(
            Disk(),
            face.root(spool if place is None else place),
            account.host_name() if name is None else name,
            None if other is None else os.path.abspath(other),
        ).examine(say)
    finally:
        if not as_json:
            face.table(diagnosis.HEADINGS, [diagnosis.row(finding) for finding in findings])
    return int(any(finding.verdict is Verdict.BAD for finding in findings))


COMMANDS = {"nodes": nodes, "doctor": doctor}
