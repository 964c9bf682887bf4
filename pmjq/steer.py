"""The verbs that change something: wait for it, cancel, hold, release, drain, resume.

Thin over ``Queue``; each returns its exit code.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import click

from pmjq import face, keys

if TYPE_CHECKING:
    from collections.abc import Callable

_jobs = click.argument("names", nargs=-1, required=True, metavar="JOB...|ALL")
_nodes = click.argument("names", nargs=-1, required=True, metavar="NODE...|ALL")


@face.verb("wait")
@face.spool_option
@click.option(
    "--timeout",
    type=face.Checked("duration", keys.duration),
    metavar="DURATION",
    help="Wait no longer; the exit code is 124 then.",
)
@face.json_option
@_jobs
def wait(names: tuple[str, ...], spool: str | None, timeout: float | None, *, as_json: bool) -> int:
    """Wait until jobs have ended.

    The exit code is that of the job, 128+N for signal N; of several, that of the first that did not
    end with 0.
    """
    from pmjq.queue import Queue, exit_code

    bar = face.bar("waiting")
    try:
        seen = Queue(face.root(spool)).wait(names, timeout, bar.to)
    finally:
        bar.end()
    if as_json:
        face.lines(seen)
    return next((code for code in map(exit_code, seen) if code), 0)


def _steering(
    name: str, help_text: str, argument: Callable[[Callable[..., int]], Callable[..., int]]
) -> click.Command:
    """Return the command of a verb that asks for something about each job or node."""

    @face.spool_option
    @face.json_option
    @argument
    def steer(names: tuple[str, ...], spool: str | None, *, as_json: bool) -> int:
        from pmjq.queue import Queue

        given = getattr(Queue(face.root(spool)), name)(names)
        return face.answers(given, as_json=as_json)

    steer.__doc__ = help_text
    return face.verb(name)(steer)


def _ago(text: str) -> datetime:
    return datetime.now(UTC) - timedelta(seconds=keys.duration(text))


@face.verb("prune")
@face.spool_option
@click.option(
    "--older-than",
    "before",
    type=face.Checked("duration", _ago),
    required=True,
    metavar="DURATION",
    help="Remove what ended longer ago, for instance 30d.",
)
@face.states_option
@click.option("-n", "--dry-run", "dry", is_flag=True, help="Only tell what would be removed.")
@face.json_option
def prune(
    before: datetime, spool: str | None, states: tuple[str, ...], *, dry: bool, as_json: bool
) -> int:
    """Remove the files of jobs that ended long ago from the archives that this spool filed them to.

    What the events tell of them goes too, once all that a finished daemon told of is as old.
    """
    from pmjq.queue import Queue

    pruning = Queue(face.root(spool)).prune(before, states=face.states(states), dry=dry)
    bar, failed = face.bar("removing"), False
    try:
        for one in pruning.run(bar.of):
            bar.step()
            failed = failed or not (one.removed or dry)
            if as_json:
                face.lines([one])
            elif one.removed or dry:
                face.put(f"{face.clean(one.path)}: {one.text}\n")
            else:
                face.complain(one.path, one.text)
    finally:
        bar.end()
    return int(failed)


COMMANDS = {
    "prune": prune,
    "wait": wait,
    "cancel": _steering(
        "cancel",
        "End jobs: queued ones at once; running ones get TERM, and KILL after their grace.",
        _jobs,
    ),
    "hold": _steering("hold", "Keep queued jobs from being started, as chmod a-x does.", _jobs),
    "release": _steering("release", "Let held jobs go, as chmod +x does.", _jobs),
    "retry": _steering(
        "retry",
        "Put jobs that have ended into the queue again, as they are in the archive.",
        click.argument("names", nargs=-1, required=True, metavar="JOB..."),
    ),
    "drain": _steering(
        "drain", "Have nodes take no more jobs, until resume. What they run goes on.", _nodes
    ),
    "resume": _steering("resume", "Have drained nodes take jobs again.", _nodes),
}
