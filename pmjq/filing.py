"""When ended jobs are filed: at once, off the daemon's way, or later.

On the spool's own file system filing is a few renames and done in the turn. On another one it is
copying, which takes as long as it takes or hangs with its server, so it is done by a thread of
its own, and so is the removal of what a job left in its temporary directory. A destination that
failed is left alone for a growing pause, with one line in the log; its jobs stay ended and are
never run again.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pmjq import job

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pmjq.archive import Archive, Destination
    from pmjq.job import Record
    from pmjq.late import Late

MOST_AT_ONCE = 64

FIRST_PAUSE = 1.0
LONGEST_PAUSE = 60.0


@dataclass(slots=True)
class _State:
    """What is known of one destination: not before ``until``, after a pause of ``length``."""

    until: float = 0.0
    length: float = 0.0
    checked: float = -1.0
    reason: str = ""


@dataclass(slots=True)
class Filing:
    """The filing of one daemon; ``wake`` is called when the thread has done something."""

    archive: Archive
    log: Any
    now: Callable[[], float]
    wake: Callable[[], None] | None = None
    alone: set[str] = field(default_factory=set)
    late: Late | None = None
    _states: dict[str, _State] = field(init=False)
    _far: set[str] = field(default_factory=set)
    _queue: queue.SimpleQueue[Record | None] = field(default_factory=queue.SimpleQueue)
    _done: deque[tuple[Record, OSError | None]] = field(default_factory=deque)
    _thread: threading.Thread | None = None

    def __post_init__(self) -> None:
        """Know the destinations: one or two."""
        self._states = {home.path: _State() for home in (self.archive.done, self.archive.failed)}

    def due(self, records: Iterable[Record], now: float) -> tuple[Record, ...]:
        """Return the jobs that may be filed now, some at a time.

        What the thread has done comes first.
        """
        # The thread may add to it meanwhile.
        done = [record for record, _ in list(self._done)]
        if all(state.until > now for state in self._states.values()):
            return tuple(done)
        found = list(done)
        for record in records:
            if len(found) >= MOST_AT_ONCE:
                break
            if record.id not in self._far and self._state(record).until <= now:
                found.append(record)
        return tuple(found)

    def soon(self, records: Iterable[Record], now: float) -> bool:
        """Tell whether any job is being filed or may be filed now."""
        return bool(self._far) or any(self._state(record).until <= now for record in records)

    def next(self) -> float:
        """Return when a destination that failed may be tried again."""
        now = self.now()
        return min(
            (state.until for state in self._states.values() if state.until > now),
            default=now + 60.0,
        )

    def reasons(self) -> dict[str, str]:
        """Return why jobs are not filed, by destination."""
        return {path: state.reason for path, state in self._states.items() if state.reason}

    def file(self, record: Record, now: float) -> bool:
        """File a job, or have it filed; True if it is done."""
        if record.id in self._far:
            return self._collect()
        try:
            self._check(self.archive.destination(record), now)
            if not self.archive.near(record) and self.wake is not None:
                self._hand_over(record)
                return False
            mine = self.archive.file(record)
        except OSError as error:
            self._failed(record, error)
            return False
        self._worked(record)
        self._settle(record, mine=mine)
        return True

    def close(self) -> None:
        """Let the thread finish what it is doing and end."""
        if self._thread is not None:
            self._queue.put(None)

    def _collect(self) -> bool:
        record, error = self._done.popleft()
        self._far.discard(record.id)
        if error is not None:
            self._failed(record, error)
            return False
        self._worked(record)
        return True

    def _hand_over(self, record: Record) -> None:
        self._far.add(record.id)
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name="filing", daemon=True)
            self._thread.start()
        self._queue.put(record)

    def _serve(self) -> None:
        while (record := self._queue.get()) is not None:
            error: OSError | None = None
            try:
                self._settle(record, mine=self.archive.file(record))
            except OSError as caught:
                error = caught
            self._done.append((record, error))
            if self.wake is not None:
                self.wake()

    def _settle(self, record: Record, *, mine: bool) -> None:
        """Clean up after a filed job; one that another node has taken is that node's."""
        if mine:
            self._clear(record)
            return
        reason = "another node has taken it over"
        self.log.warning("job.fenced", job=record.name, id=record.id, reason=reason)

    def _clear(self, record: Record) -> None:
        """Remove the paperwork of a filed job; what cannot be removed goes at the next start."""
        name = job.real_name(record.name, record.name_hex)
        try:
            if self.late is not None and self.late.may_end(record):
                self.late.expect(record, self.archive.stem(record))
                return
            alone = record.id in self.alone and threading.current_thread() is not self._thread
            self.archive.spool.clear(record.id, record.attempt, name, alone=alone)
        except OSError as error:
            self.log.warning("paperwork.left", id=record.id, reason=str(error))
        self.alone.discard(record.id)

    def _check(self, destination: Destination, now: float) -> None:
        state = self._states.setdefault(destination.path, _State())
        if now - state.checked >= FIRST_PAUSE:
            destination.check()
            state.checked = now

    def _state(self, record: Record) -> _State:
        # A job that another node ended may go where that node files.
        return self._states.setdefault(self.archive.destination(record).path, _State())

    def _failed(self, record: Record, error: OSError) -> None:
        destination = self.archive.destination(record)
        try:
            # What is wrong with the destination itself says more than the call that failed.
            destination.check()
        except OSError as found:
            error = found
        state = self._state(record)
        state.length = min(LONGEST_PAUSE, state.length * 2 or FIRST_PAUSE)
        state.until = self.now() + state.length
        state.checked = -1.0
        reason = error.strerror or str(error)
        if reason != state.reason:
            self.log.error(
                "archive.failed",
                archive=job.shown(destination.path),
                reason=reason,
                path=job.shown(str(error.filename2 or error.filename or "")),
                again_in=state.length,
            )
        state.reason = reason

    def _worked(self, record: Record) -> None:
        state = self._state(record)
        if state.reason:
            self.log.info(
                "archive.works_again", archive=job.shown(self.archive.destination(record).path)
            )
        state.length, state.reason = 0.0, ""
