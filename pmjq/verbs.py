"""The verbs at the door: one command each, thin; what it does is elsewhere.

Whatever costs time to import is imported when the verb is called, so that help is quick. Each
returns its exit code, and prints to standard output only what was asked for.
"""

from __future__ import annotations

import io
import os
import shutil
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from pmjq.errors import CannotCreateError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pmjq.diagnosis import Finding
    from pmjq.render import Row

SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}

_spool = click.option(
    "-s",
    "spool",
    metavar="SPOOL",
    help="The spool. [default: $PMJQ_SPOOL, else the current directory]",
)
_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")


@click.command("nodes", context_settings=SETTINGS, epilog="man pmjq-nodes explains it.")
@_spool
@click.option(
    "--watch",
    metavar="SECONDS",
    type=click.FloatRange(0, 86400),
    default=0.0,
    help="Look twice, so many seconds apart, and tell from what changed. [default: look once]",
)
@_json
def nodes(spool: str | None, watch: float, *, as_json: bool) -> int:
    """List the nodes of a spool: alive or silent, load, slots, jobs, gate, version.

    Only reads; no daemon need run.
    """
    from pmjq import nodes as seen
    from pmjq import probe, render
    from pmjq.disk import Disk

    opened = seen.opened(Disk(), _root(spool))
    lives = seen.look(opened, probe.machine(), time.time, watch, time.sleep)
    if as_json:
        _print("".join(map(render.line, lives)))
    else:
        now = time.time()
        _table(seen.HEADINGS, [seen.row(life, now) for life in lives])
    return 0


@click.command("doctor", context_settings=SETTINGS, epilog="man pmjq-doctor explains it.")
@_spool
@click.option("--other", metavar="PATH", help="Another mount of the same spool on this machine.")
@click.option("--node", metavar="NAME", help="Name of this node. [default: the host name]")
@_json
@click.argument("place", metavar="[SPOOL]", required=False)
def doctor(place: str | None, spool: str | None, *, as_json: bool, **options: Any) -> int:  # noqa: ANN401  # as click hands them over
    """Examine the file system of a spool and say whether pmjq can rely on it.

    Works in a directory of its own, which it removes. Exits with 1 if anything is bad.
    """
    from pmjq import account, diagnosis, render
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
            _print(render.line(finding))

    try:
        Doctor(
            Disk(),
            _root(spool if place is None else place),
            account.host_name() if name is None else name,
            None if other is None else os.path.abspath(other),
        ).examine(say)
    finally:
        if not as_json:
            _table(diagnosis.HEADINGS, [diagnosis.row(finding) for finding in findings])
    return int(any(finding.verdict is Verdict.BAD for finding in findings))


COMMANDS = {"nodes": nodes, "doctor": doctor}


def _root(given: str | None) -> str:
    if given == "":
        raise UsageError("SPOOL is empty; name the directory that jobs are put in")
    return os.path.abspath(given or os.environ.get("PMJQ_SPOOL") or ".")


def _table(headings: Sequence[str], rows: Sequence[Row]) -> None:
    """Print a table that fits the terminal; into a file or pipe as wide as it is."""
    from pmjq import render

    wide = not sys.stdout.isatty() and not os.environ.get("COLUMNS")
    _print(render.table(headings, rows, None if wide else shutil.get_terminal_size().columns))


def _print(text: str) -> None:
    """Print, whatever the encoding; who closes the pipe has read enough."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        # What is left in the buffer is for nobody, also when Python flushes it at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        raise CannotCreateError(f"standard output: {error.strerror}") from error
