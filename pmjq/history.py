"""What has ended, newest first, from the events of all lives.

Each life appends to one file; each file is read backwards in blocks, and the files are merged by
time, so the last fifty of a million cost what they are long. A file that ended before the newest
one asked for began is not even opened. ``News`` is the other direction: what has been appended
since the last look, which is how ``pmjq wait`` hears of an end.

Only reads. A line that is torn or strange counts for nothing.
"""

from __future__ import annotations

import heapq
from collections import deque
from typing import TYPE_CHECKING

from pmjq import naming
from pmjq.job import Event, Record
from pmjq.tree import decoded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pmjq.disk import Disk
    from pmjq.spool import Spool

BLOCK = 1 << 17
"""Bytes read at once: the last hundred jobs and more."""

ENDS = (b'"event":"job.ended"', b'"event":"job.late"')
CLAIM = b'"event":"claim.prepared"'


def records(
    spool: Spool,
    wanted: Callable[[Record], bool] = lambda _: True,
    needle: bytes = b"",
) -> Iterator[Record]:
    """Return the records of ended jobs, newest first, each attempt once.

    ``wanted`` chooses among them. ``needle``: bytes that the line of each must contain, a quick
    first look. OSError if the events cannot be read.
    """
    seen: set[tuple[str, int]] = set()
    told = _filed if spool.looking and not spool.may_hear() else _merged
    for record in told(spool, needle):
        # How a lost job ended after all stands after its loss, so it is met first.
        key = record.id, record.attempt
        if key not in seen:
            seen.add(key)
            if wanted(record):
                yield record


def _filed(spool: Spool, needle: bytes) -> Iterator[Record]:
    """Return the records in the archives that this user may read, newest first.

    That is how somebody sees what became of his jobs where the events are not for him: archived
    names begin with the time.
    """
    archives = {spool.done_path()}
    for life in spool.lives().values():
        if life is not None:
            archives |= {path for path in (life.archive, life.errors) if path}
    found = [
        (name, f"{path}/{name}")
        for path in archives
        for name in spool.inside(path)
        if name.endswith(".json") and naming.STEM.match(name)
    ]
    for _, path in sorted(found, reverse=True):
        try:
            text = spool.disk.read(path) or b""
        except PermissionError:
            continue
        record = decoded(text, Record) if needle in text else None
        if record is not None:
            yield record


def _merged(spool: Spool, needle: bytes) -> Iterator[Record]:
    """Merge the files by time; each is opened when its turn comes."""
    ahead: list[tuple[float, int, Record | None, Iterator[Record]]] = []
    for number, (written, path) in enumerate(_files(spool)):
        heapq.heappush(ahead, (-written, number, None, _backwards(spool.disk, path, needle)))
    while ahead:
        before, number, record, rest = heapq.heappop(ahead)
        if record is not None:
            yield record
        following = next(rest, None)
        if following is not None:
            # In a file nothing is newer than what was met before, whatever a clock said.
            at = max(before, -following.ended.timestamp())
            heapq.heappush(ahead, (at, number, following, rest))


def _files(spool: Spool) -> list[tuple[float, str]]:
    base = f"{spool.own}/events"
    found = []
    for name in spool.disk.names(base):
        stat = spool.disk.stat(f"{base}/{name}") if name.endswith(".jsonl") else None
        if stat is not None:
            found.append((stat.st_mtime_ns / 1e9, f"{base}/{name}"))
    return sorted(found, reverse=True)


def _backwards(disk: Disk, path: str, needle: bytes) -> Iterator[Record]:
    """Return the records of one file, the last first."""
    end = disk.size(path)
    rest = b""
    while end:
        start = max(0, end - BLOCK)
        block = disk.read_part(path, start, end - start) + rest
        end = start
        if start and needle and needle not in block:
            # Only the line that the block cuts may still have it.
            rest = block.partition(b"\n")[0]
            continue
        lines = block.split(b"\n")
        # The first is cut, unless the file begins here; the last is empty, or torn.
        rest = lines.pop(0) if start else b""
        for line in reversed(lines):
            record = _ended(line, needle)
            if record is not None:
                yield record


def _ended(line: bytes, needle: bytes) -> Record | None:
    if needle not in line or not any(end in line[:64] for end in ENDS):
        return None
    event = decoded(line, Event)
    return event.record if event is not None else None


class News:
    """What is appended to the events from now on."""

    def __init__(self, spool: Spool) -> None:
        """Begin where the files end at present."""
        self._spool = spool
        self._read: dict[str, int] = {}
        self._rest: dict[str, bytes] = {}
        for name in self._names():
            self._read[name] = self._end(name)

    def events(self) -> list[Event]:
        """Return what has come since the last call, in order within each life."""
        found: deque[Event] = deque()
        for name in self._names():
            begun = self._read.get(name, 0)
            size = self._spool.disk.size(self._path(name))
            if size <= begun:
                continue
            text = self._rest.pop(name, b"") + self._spool.disk.read_part(
                self._path(name), begun, size - begun
            )
            self._read[name] = size
            *lines, rest = text.split(b"\n")
            if rest:
                self._rest[name] = rest
            for line in lines:
                event = decoded(line, Event)
                if event is not None:
                    found.append(event)
        return list(found)

    def _end(self, name: str) -> int:
        """Return where the last whole line of a file ends: another may just be being written."""
        disk, path = self._spool.disk, self._path(name)
        size = disk.size(path)
        if not size or disk.read_part(path, size - 1, 1) == b"\n":
            return size
        begin = max(0, size - BLOCK)
        return begin + disk.read_part(path, begin, size - begin).rfind(b"\n") + 1

    def _names(self) -> list[str]:
        names = self._spool.inside(f"{self._spool.own}/events")
        return [name for name in names if name.endswith(".jsonl")]

    def _path(self, name: str) -> str:
        return f"{self._spool.own}/events/{name}"
