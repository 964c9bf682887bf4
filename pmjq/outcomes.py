"""How the jobs ended that others wait for: ``#PMJQ after=``.

A job that is named lives, has ended, or is not known. What lives is in the spool or in the hands of
a node; how it ended, the events tell, of all nodes. What was found ended stays so: it is read
once. What is appended to the events later wakes those that wait for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from pmjq import history, job
from pmjq.history import News
from pmjq.state import State

if TYPE_CHECKING:
    from datetime import datetime

    from pmjq.job import Spec
    from pmjq.spool import Spool


class Verdict(msgspec.Struct, frozen=True):
    """Whether a job may run, as far as others go; ``never``: it can never run."""

    reason: str = ""
    never: bool = False


MAY_RUN = Verdict()


def too_early(when: datetime) -> str:
    """Return why a job does not run that asks to be started later."""
    return f"not before {when:%Y-%m-%d %H:%M:%S}Z"


class Outcomes:
    """The outcomes that the queued jobs of one spool wait for."""

    def __init__(self, spool: Spool) -> None:
        """Read nothing before anything is asked."""
        self._spool = spool
        self._news: News | None = None
        self._ended: dict[str, State] = {}
        self._waiting: dict[str, set[str]] = {}

    def verdict(self, name: str, spec: Spec) -> Verdict:
        """Say whether a queued job may run; OSError if the events cannot be read."""
        for needed, others in ((True, spec.after), (False, spec.after_any)):
            for other in others:
                if other == name:
                    return Verdict(f"waits for itself ({other})", never=True)
                state = self._state(other)
                if state is None:
                    self._waiting.setdefault(other, set()).add(name)
                    return Verdict(f"after {job.shown(other)}, which has not ended")
                if needed and state is not State.DONE:
                    reason = f"was to run after {job.shown(other)}, which is {state}"
                    return Verdict(reason, never=True)
        return MAY_RUN

    def woken(self) -> set[str]:
        """Return the queued jobs of which one that they wait for has ended since the last call."""
        if self._news is None or not self._waiting:
            return set()
        names: set[str] = set()
        for event in self._news.events():
            if event.record is not None:
                exact = job.real_name(event.record.name, event.record.name_hex)
                for other in (exact, event.record.id):
                    names |= self._waiting.pop(other, set())
        return names

    def _state(self, other: str) -> State | None:
        """Return how a job ended, None while it lives or is not known."""
        if self._news is None:
            # Before the first look: what ends in between is in one of both.
            self._news = News(self._spool)
        if other in self._ended:
            return self._ended[other]
        if "/" not in other and self._spool.stat(other) is not None:
            return None
        if other in self._spool.batons():
            return None
        hexadecimal, shown = job.exact(other), job.shown(other)
        needle = other.encode("utf-8", "surrogateescape") if not hexadecimal else b""
        for record in history.records(self._spool, needle=needle):
            if other == record.id or (record.name, record.name_hex) == (shown, hexadecimal):
                self._ended[other] = record.state
                return record.state
        return None
