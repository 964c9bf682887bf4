"""How the jobs ended that others wait for: ``#PMJQ after=``.

A job that is named lives, has ended, or is not known. What lives is in the spool or in the hands of
a node; how it ended, the events tell, of all nodes. The events are searched once for each name;
what is appended to them later is heard of, and wakes those that wait for it.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import msgspec

from pmjq import history, infofile, naming
from pmjq.directives import Refusal
from pmjq.history import News
from pmjq.job import Spec
from pmjq.state import State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from datetime import datetime

    from pmjq.ready import Look
    from pmjq.spool import Spool

MOST_FOLLOWED = 1000
"""Jobs among which one is looked for that waits for itself by way of others."""


class Verdict(msgspec.Struct, frozen=True):
    """Whether a job may run, as far as others go; ``never``: it can never run."""

    reason: str = ""
    never: bool = False


MAY_RUN = Verdict()

ITSELF = "waits for itself"


def too_early(when: datetime) -> str:
    """Return why a job does not run that asks to be started later."""
    return f"not before {when:%Y-%m-%d %H:%M:%S}Z"


def unended(other: str) -> str:
    """Return why a job does not run that waits for another."""
    return f"after {naming.shown(other)}, which has not ended"


def unknown(other: str) -> str:
    """Return the same where there is no such job, nor was one."""
    return f"after {naming.shown(other)}, of which nothing is known"


class Outcomes:
    """The outcomes that the queued jobs of one spool wait for."""

    def __init__(
        self, spool: Spool, asked: Callable[[Look], Spec | Refusal] = infofile.asked
    ) -> None:
        """Read nothing before anything is asked; ``asked`` makes out what a job asks for."""
        self._spool = spool
        self._asked = asked
        self._news: News | None = None
        self._ended: dict[str, State] = {}
        self._alive: set[str] = set()
        self._waiting: dict[str, set[str]] = {}
        self._needs: dict[str, tuple[str, ...]] = {}
        self._names: dict[str, str] = {}
        self._woken: set[str] = set()

    def verdict(self, name: str, spec: Spec) -> Verdict:
        """Say whether a queued job may run; OSError if the events cannot be read."""
        self._needs[name] = (*spec.after, *spec.after_any)
        states = {other: self._state(other) for other in (*spec.after, *spec.after_any)}
        for other in spec.after:
            state = states[other]
            if state is not None and state is not State.DONE:
                reason = f"was to run after {naming.shown(other)}, which is {state}"
                return Verdict(reason, never=True)
        for other, state in states.items():
            if state is None:
                return self._wait(name, other)
        del self._needs[name]
        return MAY_RUN

    def woken(self) -> set[str]:
        """Return the queued jobs of which one that they wait for has ended since the last call."""
        self._hear()
        woken, self._woken = self._woken, set()
        return woken

    def _hear(self) -> None:
        """Take note of what has ended since the last time, of all that was ever asked for."""
        if self._news is None:
            return
        for event in self._news.events():
            record = event.record
            if record is None:
                continue
            earlier = (one.id for one in record.earlier)
            for other in (naming.real_name(record.name, record.name_hex), record.id, *earlier):
                woken = self._waiting.pop(other, None)
                self._woken |= woken or set()
                if woken is not None or other in self._ended:
                    self._ended[other] = record.state

    def _wait(self, name: str, other: str) -> Verdict:
        if self._waits_for(other, name):
            reason = f"{ITSELF}, by way of {naming.shown(other)}" if other != name else ITSELF
            return Verdict(reason, never=True)
        self._waiting.setdefault(other, set()).add(name)
        return Verdict(unended(other) if other in self._alive else unknown(other))

    def _state(self, other: str) -> State | None:
        """Return how a job ended, None while it lives or is not known."""
        if self._news is None:
            # Before the first look: what ends in between is in one of both.
            self._news = News(self._spool)
        if self._queued(other) or self._in_hand(other):
            # One that has ended may have been put into the queue again: that counts no more.
            self._ended.pop(other, None)
            self._alive.add(other)
            return None
        self._hear()
        if other in self._ended or other in self._waiting:
            # The events have been searched for it, and are listened to.
            return self._ended.get(other)
        hexadecimal, shown = naming.exact(other), naming.shown(other)
        needle = hexadecimal.encode() or msgspec.json.encode(shown)[1:-1]
        for record in history.records(self._spool, needle=needle):
            ids = (record.id, *(one.id for one in record.earlier))
            if other in ids or (record.name, record.name_hex) == (shown, hexadecimal):
                self._ended[other] = record.state
                return record.state
        return None

    def _in_hand(self, other: str) -> bool:
        """Tell whether some node has a job of this name or id."""
        held = self._spool.batons()
        if other in held:
            return True
        self._names = {job_id: self._names.get(job_id) or self._name(job_id) for job_id in held}
        return other in self._names.values()

    def _name(self, job_id: str) -> str:
        attempt = self._spool.attempt(job_id)
        return naming.real_name(attempt.name, attempt.name_hex) if attempt is not None else ""

    def _queued(self, other: str) -> bool:
        longer = len(other.encode("utf-8", "surrogateescape")) > naming.NAME_MAX
        return not longer and "/" not in other and self._spool.stat(other) is not None

    def _waits_for(self, first: str, name: str) -> bool:
        """Tell whether a job waits for another, by way of however many."""
        seen, ahead = {first}, deque([first])
        while ahead and len(seen) <= MOST_FOLLOWED:
            other = ahead.popleft()
            if other == name:
                return True
            following = [one for one in self._needed_by(other) if one not in seen]
            seen.update(following)
            ahead.extend(following)
        return False

    def _needed_by(self, other: str) -> Iterable[str]:
        """Return the names of what a queued job waits for."""
        if other not in self._needs:
            try:
                look = self._spool.look(other) if self._queued(other) else None
                asked = self._asked(look) if look is not None else Refusal("")
            except OSError:
                return ()
            if not isinstance(asked, Spec):
                return ()
            self._needs[other] = (*asked.after, *asked.after_any)
        return self._needs[other]
