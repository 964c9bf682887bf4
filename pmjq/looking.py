"""The verbs that only look: list, show, logs, history. Thin over ``Queue``.

Whatever costs time to import is imported when the verb is called, so that help is quick. Each
returns its exit code.
"""

from __future__ import annotations

import functools
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from pmjq import face, keys

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pmjq.job import Try
    from pmjq.render import Row
    from pmjq.seen import Seen

LIST = ("NAME", "STATE", "ID", "OWNER", "NODE", "AGE", "REASON")
HISTORY = ("ENDED", "NAME", "STATE", "ID", "OWNER", "NODE", "TIME", "REASON")

MOST_QUEUED = 1000
"""How many queued jobs a table has unless more are asked for."""

MOST_TOLD = 50
"""How many ended jobs are told of unless more are asked for."""

SHORT_ID = 8


@face.verb("list")
@face.spool_option
@face.tag_option
@click.option("--mine", is_flag=True, help="Only my own jobs.")
@face.states_option
@click.option(
    "-n", "most", type=click.IntRange(min=0), default=MOST_QUEUED, show_default=True,
    metavar="N", help="The first N of the queue in a table; 0: all.",
)  # fmt: skip
@face.json_option
@click.argument("names", nargs=-1, metavar="[JOB]...")
def list_jobs(names: tuple[str, ...], spool: str | None, *, as_json: bool, **options: Any) -> int:  # noqa: ANN401  # as click hands them over
    """List the jobs that have not ended: where they are, and why they do not run.

    Those that run come first, then the queue in its order. JOB may be a pattern.
    """
    import gc
    import os

    from pmjq.queue import Queue

    # There may be a million, and all are printed: looking for cycles takes a third of the time.
    gc.disable()
    chosen = names or options["mine"] or options["states"] or options["tags"]
    states = face.states(options["states"])
    most = None if as_json or chosen else options["most"] or None
    # One more tells whether there are more.
    limit = None if most is None else most + 1
    root = face.root(spool)
    found = Queue(root).list(names, tags=options["tags"], most=limit)
    if not names and not os.access(root, os.R_OK):
        face.complain(root, "only its owner lists it; name the jobs that are queued")
    if options["mine"]:
        found = [one for one in found if one.uid == os.geteuid()]
    if states:
        found = [one for one in found if one.state in states]
    if as_json:
        face.lines(found)
    else:
        _table(found, most)
    return 0


@face.verb("show")
@face.spool_option
@face.json_option
@click.argument("names", nargs=-1, required=True, metavar="JOB...")
def show(names: tuple[str, ...], spool: str | None, *, as_json: bool) -> int:
    """Tell everything that is known of jobs: every attempt, where it was and how it went."""
    from pmjq.queue import Queue

    queue = Queue(face.root(spool))
    found = queue.show(names)
    if as_json:
        face.lines(found)
        return 0
    for number, one in enumerate(found):
        if number:
            face.put("\n")
        face.put("".join(f"{name:<11} {value}\n" for name, value in _facts(one)))
        for line in queue.reasons(one):
            face.put(f"on node     {face.clean(line)}\n")
        for each in one.earlier:
            face.put(f"earlier     {face.clean(_earlier(each))}\n")
    return 0


@face.verb("logs")
@face.spool_option
@click.option("-f", "--follow", is_flag=True, help="Go on until the job has ended.")
@click.argument("name", metavar="JOB")
def logs(name: str, spool: str | None, *, follow: bool) -> int:
    """Print the output of a job, also while it runs."""
    from pmjq.queue import Queue

    for part in Queue(face.root(spool)).logs(name, follow=follow):
        if not face.put_bytes(part):
            break
    return 0


def _when(text: str) -> datetime:
    try:
        # Digits alone are a date, as 20261224.
        seconds = None if text.isdecimal() else keys.duration(text)
    except ValueError:
        seconds = None
    if seconds is None:
        try:
            when = datetime.fromisoformat(text)
        except ValueError:
            raise ValueError("is no time; write 2026-12-24, 2026-12-24T18:00, or 2h: ago") from None
        return when if when.tzinfo else when.astimezone()
    return datetime.fromtimestamp(time.time() - seconds).astimezone()


_time = face.Checked("time", _when)


@face.verb("history")
@face.spool_option
@click.option(
    "-n", "most", type=click.IntRange(min=0), default=MOST_TOLD, show_default=True,
    metavar="N", help="The last N at most; 0: all.",
)  # fmt: skip
@face.states_option
@click.option("--owner", metavar="USER", help="Only those of this owner.")
@click.option("--node", metavar="NODE", help="Only those that this node ran.")
@click.option("--name", metavar="PATTERN", help="Only those whose name is so.")
@face.tag_option
@click.option("--since", type=_time, metavar="TIME", help="Only later ones; also 2h, 3d: ago.")
@click.option("--until", type=_time, metavar="TIME", help="Only earlier ones; likewise.")
@face.json_option
def history(spool: str | None, most: int, *, as_json: bool, **only: Any) -> int:  # noqa: ANN401  # as click hands them over
    """List the jobs that have ended, the last ones last."""
    from pmjq.queue import Queue

    only["states"] = face.states(only["states"])
    found = list(Queue(face.root(spool)).history(most=most or None, **only))
    found.reverse()
    if as_json:
        face.lines(found)
    else:
        face.table(HISTORY, [_ended_row(one) for one in found])
    return 0


def _table(found: list[Seen], most: int | None) -> None:
    """Print a list of jobs; ``most`` of those that are not in the hands of a node."""
    queued = sum(not one.token for one in found)
    more = most is not None and queued > most
    face.table(LIST, _rows(found[:-1] if more else found, time.time()))
    if more:
        face.put("... and more that are queued; -n 0 lists them all\n")


def _rows(found: Iterable[Seen], now: float) -> list[Row]:
    from pmjq.render import Row

    rows = []
    for one in found:
        since = one.started or one.claimed or one.queued
        age = _age(int((now - since.timestamp()) * 10)) if since else "-"
        job_id = one.id[:SHORT_ID] or "-"
        place = one.owner or "-", one.node or "-"
        rows.append(Row((one.name, one.state, job_id, *place, age, one.reason or "-")))
    return rows


@functools.cache
def _age(tenths: int) -> str:
    from pmjq import render

    return render.duration(max(0, tenths) / 10).replace(" ", face.join())


def _ended_row(one: Seen) -> Row:
    from pmjq import render

    ended = f"{one.ended.astimezone():%Y-%m-%d %H:%M:%S}" if one.ended else "-"
    took = "-"
    if one.started and one.ended:
        took = render.duration(max(0.0, (one.ended - one.started).total_seconds()))
    cells = (
        ended.replace(" ", render.JOIN),
        one.name,
        str(one.state),
        one.id[:SHORT_ID],
        one.owner,
        one.node or "-",
        took.replace(" ", render.JOIN),
        one.reason or "-",
    )
    return render.Row(cells)


def _facts(one: Seen) -> list[tuple[str, str]]:
    """Return what there is to say of a job, by name."""
    from pmjq import render

    facts: list[tuple[str, str | None]] = [
        ("name", one.name),
        ("state", str(one.state)),
        ("reason", one.reason),
        ("id", one.id),
        ("attempt", str(one.attempt) if one.attempt else None),
        ("owner", one.owner),
        ("signer", one.signer),
        ("node", one.node),
        ("directives", " ".join(one.directives)),
        *((word, _clock(getattr(one, word))) for word in ("queued", "claimed", "started", "ended")),
        ("exit code", None if one.exit_code is None else str(one.exit_code)),
        ("signal", None if one.signal is None else str(one.signal)),
    ]
    if one.user_cpu is not None and one.system_cpu is not None:
        cpu = f"{render.duration(one.user_cpu)} user, {render.duration(one.system_cpu)} system"
        facts.append(("CPU time", cpu))
    if one.max_rss is not None:
        facts.append(("memory", render.size(one.max_rss)))
    facts += [
        ("GPUs", " ".join(one.gpus)),
        ("CPUs", " ".join(map(str, one.cpus))),
        ("enforced", ", ".join(f"{limit} by {what}" for limit, what in one.enforced.items())),
    ]
    facts += [("archived", one.archived), ("output", one.output)]
    return [(name, face.clean(value)) for name, value in facts if value]


def _earlier(one: Try) -> str:
    """Return a line about an earlier attempt."""
    where = f" on node {one.node}" if one.node else ""
    at = f", {_clock(one.ended)}" if one.ended else ""
    why = f", {one.reason}" if one.reason else ""
    return f"attempt {one.attempt}{where}: {one.state}{at}{why} ({one.id})"


def _clock(when: datetime | None) -> str | None:
    return f"{when.astimezone():%Y-%m-%d %H:%M:%S}" if when else None


COMMANDS = {"list": list_jobs, "show": show, "logs": logs, "history": history}
