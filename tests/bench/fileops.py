"""File operations per job, from the drop to the archive, by who made them.

Counted are the calls that name a file and those that reach the file system through an open one,
reads and writes left out; the jobs' own are not in it.
"""

from __future__ import annotations

from .place import NO_OP, Place
from .report import Bench, Row
from .running import running
from .strace import FILES, SYNCS, tracing


def fileops(bench: Bench) -> list[Row]:
    """Trace a batch of drops into a running daemon."""
    jobs = bench.pick(200, 100)
    bench.say(f"fileops: {jobs} jobs")
    place = Place(bench.root / "fileops").make()
    with running(bench, place, "-j", "4") as daemon:
        daemon.warm()
        done = place.ended()
        with tracing(daemon, FILES) as trace:
            for number in range(jobs):
                place.drop(f"job-{number}", NO_OP)
            daemon.wait_ended(done + jobs)
    place.check()
    parties = ("daemon", "keeper", "children")
    return [
        *(Row(who, (trace.total(who) / jobs,), "per job") for who in parties),
        Row("together", (trace.total() / jobs,), "per job", "", trace.leading(jobs)),
        Row("of which syncs", (trace.total(calls=SYNCS) / jobs,), "per job"),
    ]
