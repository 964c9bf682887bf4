"""When ended jobs are filed: at once, off the daemon's way, or later.

On the spool's own file system filing is a few renames and done in the turn. On another one it is
copying, which takes as long as it takes or hangs with its server, so it is done by a thread of
its own, and so is the removal of what a job left in its temporary directory.

What failed is left alone for a growing pause: the destination if nothing can be written there,
else that job alone. Whether it is the one or the other, a small file tells that is written there
after each failure. Jobs that never failed go first, some that did go with them, so each gets its
turn. Each kind of failure is one line in the log; jobs stay ended and are never run again.
"""

from __future__ import annotations

import errno
import itertools
import queue
import threading
import traceback
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from pmjq import naming

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pmjq.archive import Archive
    from pmjq.job import Record
    from pmjq.late import Late

MOST_AT_ONCE = 64

MOST_AGAIN = 16
"""How many of those may have failed before."""

MOST_IN_VAIN = 16
"""Jobs in a row that do not fit until their destination is left alone, though it takes small ones:
each may have been copied until the space was used up."""

MOST_NAMED = 20
"""Jobs that cannot be filed and are named."""

FIRST_PAUSE = 1.0
LONGEST_PAUSE = 60.0

PARTING = 1.0
"""Seconds that a daemon which leaves waits for the job that is just being filed."""

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
"""Errors of a job that does not fit."""


@dataclass(slots=True)
class _Pause:
    """Not before ``until``, after a pause of ``length``, for this reason."""

    until: float = 0.0
    length: float = 0.0
    reason: str = ""

    def prolong(self, now: float) -> None:
        """Begin another pause, twice as long; of what failed together one failure counts."""
        if now >= self.until:
            self.length = min(LONGEST_PAUSE, self.length * 2 or FIRST_PAUSE)
            self.until = now + self.length

    def end(self) -> None:
        """Begin anew."""
        self.until, self.length, self.reason = 0.0, 0.0, ""


@dataclass(slots=True)
class _Home(_Pause):
    """What is known of one destination.

    The last three are known to whoever files there, the turn or the thread: when it was checked
    and when it failed, and how many jobs in a row did not fit.
    """

    checked: float = -1.0
    failed: float = -1.0
    vain: int = 0


class _Outcome(NamedTuple):
    """What came of a try; without ``filed`` and ``error``: the destination had just failed.

    ``own``: the failure is this job's own, another could be filed. ``pause``: the destination is
    left alone for a while nevertheless. ``trace``: of an error that nobody thought of.
    """

    record: Record
    filed: bool = False
    error: Exception | None = None
    own: bool = False
    pause: bool = False
    trace: str = ""


@dataclass(slots=True)
class Filing:
    """The filing of one daemon; ``wake`` is called when the thread has done something."""

    archive: Archive
    log: Any
    now: Callable[[], float]
    wake: Callable[[], None] | None = None
    alone: set[str] = field(default_factory=set)
    late: Late | None = None
    _homes: dict[str, _Home] = field(init=False)
    _own: dict[str, _Pause] = field(default_factory=dict)
    _said: Counter[str] = field(default_factory=Counter)
    _named: dict[str, str] = field(default_factory=dict)
    _far: set[str] = field(default_factory=set)
    _queue: queue.SimpleQueue[tuple[Record, float] | None] = field(
        default_factory=queue.SimpleQueue
    )
    _done: dict[str, _Outcome] = field(default_factory=dict)
    _thread: threading.Thread | None = None
    _closing: bool = False

    def __post_init__(self) -> None:
        """Know the destinations: one or two."""
        self._homes = {home.path: _Home() for home in (self.archive.done, self.archive.failed)}

    def due(self, records: Iterable[Record], now: float) -> tuple[Record, ...]:
        """Return the jobs that may be filed now, some at a time.

        What the thread has done comes first, then what has not failed yet.
        """
        # The thread may add to it meanwhile.
        done = [outcome.record for outcome in list(self._done.values())]
        if all(home.until > now for home in self._homes.values()):
            return tuple(done)
        first: list[Record] = []
        again: list[Record] = []
        for record in records:
            if len(first) >= MOST_AT_ONCE:
                break
            if record.id not in self._far and self._may(record, now):
                (again if record.id in self._own else first).append(record)
        again.sort(key=lambda record: self._own[record.id].until)
        del again[MOST_AGAIN:]
        return (*done, *first[: MOST_AT_ONCE - len(again)], *again)

    def soon(self, records: Iterable[Record], now: float) -> bool:
        """Tell whether any job is being filed or may be filed now."""
        return bool(self._far) or any(self._may(record, now) for record in records)

    def next(self) -> float:
        """Return when something that failed may be tried again."""
        now = self.now()
        pauses = itertools.chain(self._homes.values(), self._own.values())
        return min((pause.until for pause in pauses if pause.until > now), default=now + 60.0)

    def reasons(self) -> dict[str, str]:
        """Return why jobs are not filed: by destination, and of some by their archived names."""
        homes = {path: home.reason for path, home in self._homes.items() if home.reason}
        return homes | dict(itertools.islice(self._named.items(), MOST_NAMED))

    def file(self, record: Record, now: float) -> bool:
        """File a job, or have it filed; True if it is done."""
        if record.id in self._far:
            return self._collect(record)
        if not self._may(record, now):
            # The destination has failed since this was planned.
            return False
        if self.wake is not None and not self.archive.near(record):
            self._hand_over(record, now)
            return False
        return self._heed(self._tried(record))

    def close(self) -> bool:
        """Have the thread end after the job that it is at; False if that takes too long.

        What it has not come to stays ended and is filed by the next daemon.
        """
        if self._thread is None:
            return True
        self._closing = True
        self._queue.put(None)
        self._thread.join(PARTING)
        return not self._thread.is_alive()

    # -- trying: near in the turn, far in the thread

    def _hand_over(self, record: Record, now: float) -> None:
        self._far.add(record.id)
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name="filing", daemon=True)
            self._thread.start()
        self._queue.put((record, now))

    def _serve(self) -> None:
        while (handed := self._queue.get()) is not None and not self._closing:
            record, since = handed
            tried = since > self._home(record).failed
            self._done[record.id] = self._tried(record) if tried else _Outcome(record)
            if self.wake is not None:
                self.wake()

    def _tried(self, record: Record) -> _Outcome:
        """Try to file a job; whatever goes wrong is an outcome, so that the others are filed."""
        home = self._home(record)
        try:
            self._check(record, home)
            self._settle(record, mine=self.archive.file(record))
        except OSError as error:
            return self._judged(record, home, error)
        except Exception as error:  # noqa: BLE001  # nothing that a job leaves may stop the filing
            return _Outcome(record, error=error, own=True, trace=traceback.format_exc())
        home.vain = 0
        return _Outcome(record, filed=True)

    def _check(self, record: Record, home: _Home) -> None:
        now = self.now()
        if now - home.checked >= FIRST_PAUSE:
            self.archive.destination(record).check()
            home.checked = now

    def _judged(self, record: Record, home: _Home, error: OSError) -> _Outcome:
        """Find out whether a failure is the job's own."""
        home.checked = -1.0
        destination = self.archive.destination(record)
        try:
            destination.check()
            destination.try_write()
        except OSError as found:
            # That says more than the call that failed.
            home.failed = self.now()
            return _Outcome(record, error=found, pause=True)
        home.vain += error.errno in FULL
        pause = home.vain >= MOST_IN_VAIN
        if pause:
            home.vain, home.failed = 0, self.now()
        return _Outcome(record, error=error, own=True, pause=pause)

    def _settle(self, record: Record, *, mine: bool) -> None:
        """Clean up after a filed job; one that another node has taken is that node's."""
        if mine:
            self._clear(record)
            return
        reason = "another node has taken it over"
        self.log.warning("job.fenced", job=record.name, id=record.id, reason=reason)

    def _clear(self, record: Record) -> None:
        """Remove the paperwork of a filed job; what cannot be removed goes at the next start."""
        name, spool = naming.real_name(record.name, record.name_hex), self.archive.spool
        if self.late is not None and self.late.may_end(record):
            try:
                self.late.expect(record, self.archive.stem(record))
            except OSError as error:
                path = naming.shown(str(error.filename or ""))
                self.log.warning("paperwork.left", id=record.id, path=path, reason=str(error))
            return
        alone = record.id in self.alone and threading.current_thread() is not self._thread
        spool.clear(record.id, record.attempt, name, alone=alone)
        for left in spool.left_behind():
            self.log.warning("paperwork.left", **left._asdict())
        self.alone.discard(record.id)

    # -- what is known

    def _home(self, record: Record) -> _Home:
        # A job that another node ended may go where that node files.
        return self._homes.setdefault(self.archive.destination(record).path, _Home())

    def _may(self, record: Record, now: float) -> bool:
        pause = self._own.get(record.id)
        return (pause is None or pause.until <= now) and self._home(record).until <= now

    def _collect(self, record: Record) -> bool:
        outcome = self._done.pop(record.id, None)
        if outcome is None:
            return False
        self._far.discard(record.id)
        return self._heed(outcome)

    def _heed(self, outcome: _Outcome) -> bool:
        """Take note of what came of a try; True if the job is filed."""
        record = outcome.record
        home = self._home(record)
        if outcome.filed or outcome.own:
            self._works(record, home)
        if outcome.filed:
            home.end()
            self._forget(record)
        elif outcome.error is not None:
            if outcome.pause:
                home.prolong(self.now())
            if outcome.own:
                self._stays(outcome, outcome.error)
            else:
                self._fails(record, home, outcome.error)
        return outcome.filed

    def _works(self, record: Record, home: _Home) -> None:
        """Say, if it has failed, that a destination can be written again."""
        if home.reason:
            home.end()
            archive = self.archive.destination(record).path
            self.log.info("archive.works_again", archive=naming.shown(archive))

    def _fails(self, record: Record, home: _Home, error: Exception) -> None:
        """Take note that a destination cannot be written, and say so if it is news."""
        # This job goes behind those that have not been tried.
        pause = self._own.setdefault(record.id, _Pause())
        pause.until = max(pause.until, home.until)
        keys = self._keys(record, error)
        if keys["reason"] != home.reason:
            self.log.error("archive.failed", **keys, again_in=home.length)
        home.reason = keys["reason"]

    def _stays(self, outcome: _Outcome, error: Exception) -> None:
        """Take note that a job cannot be filed, and say so if no other is kept by the same."""
        record = outcome.record
        pause = self._own.setdefault(record.id, _Pause())
        pause.prolong(self.now())
        keys = self._keys(record, error)
        reason = keys["reason"]
        if reason == pause.reason:
            return
        self._unsay(record, pause)
        pause.reason = self._named[record.stem] = reason
        self._said[reason] += 1
        if self._said[reason] > 1:
            return
        if outcome.trace:
            keys["traceback"] = outcome.trace
        self.log.error("job.unfiled", job=record.name, id=record.id, **keys, again_in=pause.length)

    def _keys(self, record: Record, error: Exception) -> dict[str, Any]:
        archive = naming.shown(self.archive.destination(record).path)
        if not isinstance(error, OSError):
            return {"archive": archive, "reason": f"{type(error).__name__}: {error}"}
        reason = error.strerror or str(error)
        path = naming.shown(str(error.filename2 or error.filename or ""))
        return {"archive": archive, "reason": reason, "path": path}

    def _forget(self, record: Record) -> None:
        pause = self._own.pop(record.id, None)
        if pause is not None:
            self._unsay(record, pause)

    def _unsay(self, record: Record, pause: _Pause) -> None:
        if pause.reason:
            self._said[pause.reason] -= 1
            self._named.pop(record.stem, None)
