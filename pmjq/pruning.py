"""Removing what is left of jobs that ended long ago: their files, then what the events tell.

Only what this spool filed is touched: an archive may be that of several spools, and hold what
somebody else put there. The events tell which jobs are ours; all that is in the spool's own
``done/`` is. An event file goes when its life is over and all that it tells of is older.

Every step is repeatable; one that is interrupted is finished by the next.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from msgspec import Struct

from pmjq import naming
from pmjq.seen import archive_of
from pmjq.state import State
from pmjq.tree import decoded

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from pmjq.spool import Spool


class Pruned(Struct, frozen=True, kw_only=True):
    """One ended job that was, or is to be, removed: a line of ``pmjq prune --json``.

    ``path``: its archived file or directory; ``text``: what was done, or why it was not.
    """

    name: str
    id: str
    path: str
    ended: datetime
    removed: bool
    text: str


class _Filed(Struct):
    """What matters here of a record."""

    id: str
    name: str
    stem: str
    state: State
    ended: datetime
    archive: str = ""
    archive_hex: str = ""

    @property
    def near(self) -> bool:
        return bool(self.archive) and not self.archive.startswith("/")


class _Told(Struct):
    """What matters here of an event."""

    at: datetime
    record: _Filed | None = None


@dataclass(slots=True)
class Pruning:
    """The removal of what ended before a time; ``dry``: only tell."""

    spool: Spool
    before: datetime
    states: Collection[str] = ()
    dry: bool = False
    _ids: dict[bytes, State] = field(default_factory=dict)
    _archives: dict[str, None] = field(default_factory=dict)
    _old: list[str] = field(default_factory=list)
    _away: list[Pruned] = field(default_factory=list)
    _failed: bool = False

    def run(self, count: Callable[[int], None] = lambda _: None) -> Iterator[Pruned]:
        """Remove; tell of each job. ``count`` hears first how many there are.

        OSError if the spool cannot be read.
        """
        self._read()
        found = [
            (path, job_id, names)
            for path in self._archives
            for job_id, names in self._in(path).items()
        ]
        count(len(found))
        for path, job_id, names in found:
            yield self._remove(path, job_id, names)
        yield from self._away
        if not self.dry and not self._failed and not self.states:
            for name in self._old:
                self.spool.disk.unlink(name)

    def _read(self) -> None:
        """Read from the events what is ours, where it went, and which of them tell nothing else."""
        spool = self.spool
        self._archives = {spool.done_path(): None}
        living = set(spool.tokens())
        base = f"{spool.own}/events"
        for name in spool.disk.names(base):
            if not name.endswith(".jsonl"):
                continue
            newest = self._read_one(f"{base}/{name}")
            if name.removesuffix(".jsonl") not in living and newest < self.before:
                self._old.append(f"{base}/{name}")

    def _read_one(self, path: str) -> datetime:
        newest = datetime.min.replace(tzinfo=UTC)
        for line in (self.spool.disk.read(path) or b"").split(b"\n"):
            told = decoded(line, _Told)
            if told is None:
                continue
            newest = max(newest, told.at)
            if told.record is not None:
                self._ids[told.record.id.encode()] = told.record.state
                self._archives[archive_of(told.record, self.spool.root)] = None
        return newest

    def _in(self, path: str) -> dict[str, list[str]]:
        """Return what is to be removed from an archive: its names by id."""
        own = path == self.spool.done_path()
        found: dict[str, list[str]] = {}
        try:
            names = sorted(self.spool.disk.names(path))
        except OSError as error:
            # Another node's, or not mounted here: what is known of its jobs stays.
            text = f"cannot be read ({error.strerror or error}); what was filed there stays known"
            shown = naming.shown(path)
            self._failed = True
            self._away.append(
                Pruned(name="", id="", path=shown, ended=self.before, removed=False, text=text)
            )
            return found
        for name in names:
            filed = naming.filed(name)
            if filed is None or filed[0] >= self.before:
                continue
            state = self._ids.get(filed[1].encode())
            if (state is not None or own) and (not self.states or state in self.states):
                found.setdefault(filed[1], []).append(name)
        return found

    def _remove(self, path: str, job_id: str, names: list[str]) -> Pruned:
        """Remove one job, its bare name last: as long as that is there, it is found."""
        shortest = min(names, key=len)
        text, removed = "would be removed" if self.dry else "removed", not self.dry
        for name in sorted(names, key=len, reverse=True) if not self.dry else ():
            try:
                self.spool.disk.remove_tree(f"{path}/{name}")
            except OSError as error:
                self._failed, removed = True, False
                text = f"cannot be removed: {error.strerror or error}"
                break
        ended, _, bare = naming.filed(shortest) or (self.before, job_id, shortest)
        return Pruned(
            name=naming.shown(bare),
            id=job_id,
            path=naming.shown(f"{path}/{shortest}"),
            ended=ended,
            removed=removed,
            text=text,
        )
