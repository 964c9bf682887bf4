"""What the verbs cost, each as a process of its own, as people and their scripts call them.

``submit`` is timed in turns with a Python that does nothing, the batch by what it submits. The
list is of a spool with many queued; the history is of many jobs that ended, written as a daemon
writes them: lines of a real record with other ids and times, in the event files of some lives.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import uuid
from datetime import timedelta

import msgspec

from pmjq.job import Event

from .place import NO_OP, Place, write_executable
from .report import Bench, NotMeasuredError, Row
from .running import running

QUEUED, QUICK_QUEUED = 100_000, 20_000
ENDED, QUICK_ENDED = 1_000_000, 100_000
LIVES = 20
BATCH = 10_000
LAST = 50
MS = 1000

NOTHING = (sys.executable, "-c", "pass")


def verbs(bench: Bench) -> list[Row]:
    """Measure submit, submit --batch, list and history."""
    place = Place(bench.root / "verbs").make()
    with running(bench, place, "-j", "2") as daemon:
        daemon.warm()
    try:
        return [
            *_submit(bench, place),
            *_list(bench, place),
            *_history(bench, place),
        ]
    finally:
        shutil.rmtree(place.root, ignore_errors=True)


def _submit(bench: Bench, place: Place) -> list[Row]:
    rounds = bench.pick(15, 7)
    bench.say(f"verbs: {rounds} submissions in turns with python -c pass")
    one, bare = [], []
    for _ in range(rounds):
        bare.append(_timed(*NOTHING))
        one.append(_timed(*bench.command, "submit", "-s", str(place.spool), "--hold", "true"))
    bench.say(f"verbs: a batch of {BATCH:,}")
    batch = place.root / "batch"
    batch.write_text("".join(f"echo {number}\n" for number in range(BATCH)))
    rates = []
    for _ in range(bench.pick(3, 1)):
        before = _entries(place)
        command = (*bench.command, "submit", "-s", str(place.spool), "--batch", str(batch))
        rates.append(BATCH / _timed(*command))
        if (made := _entries(place) - before) != BATCH:
            raise NotMeasuredError(f"{made} of {BATCH} jobs were submitted")
    ratios = tuple(mine / other for mine, other in zip(one, bare, strict=True))
    return [
        Row("python -c pass", tuple(each * MS for each in bare), "ms"),
        Row("submit", tuple(each * MS for each in one), "ms", "< 150", "where the above takes 20"),
        Row("submit / python -c pass", ratios, "ratio", "< 7.5"),
        Row("submit --batch", tuple(rates), "jobs/s", ">= 2000", f"{BATCH:,} commands"),
    ]


def _list(bench: Bench, place: Place) -> list[Row]:
    length = bench.pick(QUEUED, QUICK_QUEUED)
    here = _entries(place)
    for number in range(max(0, length - here)):
        write_executable(place.spool / f"job-{number:07}", NO_OP)
    bench.say(f"verbs: list with {length:,} queued")
    command = (*bench.command, "list", "-s", str(place.spool))
    queued, rounds = f"{_entries(place):,} queued", range(bench.pick(5, 3))
    first = tuple(_timed(*command) for _ in rounds)
    every = tuple(_timed(*command, "-n", "0") for _ in rounds)
    return [
        Row(f"list, {queued}", first, "s", "< 1", "a table of the first 1,000"),
        Row(f"list -n 0, {queued}", every, "s", "", "a table of all"),
    ]


def _history(bench: Bench, place: Place) -> list[Row]:
    count = bench.pick(ENDED, QUICK_ENDED)
    bench.say(f"verbs: writing {count:,} ended jobs")
    _write_history(place, count)
    bench.say(f"verbs: the last {LAST} of {count:,}")
    command = (*bench.command, "history", "-n", str(LAST), "-s", str(place.spool))
    samples = tuple(_timed(*command) for _ in range(bench.pick(5, 3)))
    return [Row(f"history -n {LAST}, {count:,} ended", samples, "s", "< 1")]


def _write_history(place: Place, count: int) -> None:
    """Write so many ends, in order of time in each of the lives and over all of them."""
    events = place.spool / ".pmjq" / "events"
    written = next(iter(events.glob("*.jsonl")))
    decoder = msgspec.json.Decoder(Event)
    records = [decoder.decode(line).record for line in written.read_bytes().splitlines()]
    record = next(each for each in records if each is not None)
    line = msgspec.json.encode(Event("job.ended", record.ended, record=record)).decode()
    begin = record.ended - timedelta(seconds=count)
    per_life = -(-count // LIVES)
    for life in range(LIVES):
        path = events / f"{written.name.split('.')[0]}.{life:08x}.00000000.jsonl"
        last = record.ended
        with path.open("w") as file:
            for number in range(life * per_life, min(count, (life + 1) * per_life)):
                last = begin + timedelta(seconds=number)
                text = line.replace(record.id, str(uuid.UUID(int=number + 1)))
                file.write(text.replace(_time(record.ended), _time(last)) + "\n")
        os.utime(path, (last.timestamp(), last.timestamp()))


def _time(when: object) -> str:
    return msgspec.json.encode(when).decode().strip('"')


def _entries(place: Place) -> int:
    return sum(1 for name in os.listdir(place.spool) if not name.startswith("."))


def _timed(*command: str) -> float:
    begin = time.monotonic()
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        check=False,
    )
    took = time.monotonic() - begin
    if done.returncode:
        raise NotMeasuredError(done.stderr.decode(errors="replace").strip()[-300:])
    return took
