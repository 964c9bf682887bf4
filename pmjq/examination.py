"""The head of the queue, opened and examined: what may be claimed now, and why the rest may not.

A job that is settled may still have to wait: for a time, for others, for its next attempt, for a
node that has what it asks for. It is then put aside with its reason, and looked at again when that
may have changed.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from pmjq import gates, naming, outcomes, packing, ready, retries
from pmjq.directives import Refusal
from pmjq.job import Spec
from pmjq.neighbours import Neighbours
from pmjq.outcomes import Outcomes
from pmjq.plan import Candidate
from pmjq.ready import Kind, Standing
from pmjq.verification import Verification

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pmjq.desk import Desk
    from pmjq.job import Again
    from pmjq.outside import Outside
    from pmjq.ready import Look, Stat

STALE = 40.0
"""Seconds for which a shared file system may show what has been renamed away."""

UNREAD = 0.5
"""Seconds until what could not be read is read again."""

CLOSED = 2.0
"""Seconds until an entry that cannot be opened is tried again."""

LONGEST_DEFERRED = 60.0
"""Seconds until a job that waits for others, or for a time, is looked at again without news."""

OPENING = 0.05
"""Seconds until it is looked again whether a session has been opened."""

DEFERRED_LOOKS = 50
"""How many of those that wait for others are looked at in a second, if nothing tells of these."""

HEAR = 0.5
"""Seconds between two looks at the events on a shared file system."""


class Examination:
    """The examining of one life of a node."""

    def __init__(self, outside: Outside, desk: Desk) -> None:
        """Take what is looked at, and the desk with the backlog."""
        self.outside = outside
        self.desk = desk
        self._outcomes = Outcomes(outside.spool, outside.asked)
        self._verification = None
        if outside.signers is not None:
            self._verification = Verification(outside, desk, outside.signers)
        self._back: frozenset[str] | None = None
        self._heard_at = 0.0
        self._neighbours = Neighbours(outside, desk)
        self._granted = self._beside = 0

    def begin(self, now: float, shares: Mapping[int, int] | None) -> None:
        """Begin to examine; which jobs are back in the queue is looked at anew if that is asked.

        ``shares``: what owners have, where there are several.
        """
        desk = self.desk
        self._back = None
        desk.packing.shares = shares or {}
        desk.packing.elsewhere = self._neighbours.nearer(now)
        desk.pack(now)
        waiting = (*desk.line.values(), *desk.claimed.values())
        self._granted = sum(
            packing.counted(one.attempt.spec, desk.packing.capacity) for one in waiting
        )
        self._beside = len(waiting)
        if self._verification is not None:
            self._verification.begin(now)

    def woken(self, now: float) -> set[str]:
        """Return what waited for others of which one has ended, and what waited for room."""
        backlog, packing = self.desk.backlog, self.desk.packing
        if len(packing):
            packing.forget(backlog.__contains__)
        fitting = set(self.desk.making_room(now))
        if now < self._heard_at:
            return fitting
        self._heard_at = now + (0.0 if self.outside.spool.local else HEAR)
        try:
            return fitting | self._outcomes.woken()
        except OSError:
            # They are looked at again after a while.
            return fitting

    def candidate(self, name: str, now: float) -> Candidate | None:
        """Open and examine an entry at the head of the queue.

        None: it is not to be claimed now.
        """
        backlog, spool = self.desk.backlog, self.outside.spool
        try:
            look = spool.look(name)
        except OSError as error:
            self.shut(name, error, now)
            return None
        if look is None:
            backlog.forget(name)
            return None
        age = backlog.age(name, look.stat, now, look.inside)
        known = backlog.priority(name, look.stat)
        found = self._settled(name, look, age) or self._asking(name, look, age)
        if isinstance(found, Candidate) and self._verification is not None:
            found = self._verification.verified(found, look, age)
        if isinstance(found, Candidate):
            found = self._shut_out(found) or found
        if isinstance(found, Candidate) and isinstance(found.verdict, Spec):
            placed = self._placed(found, known, now)
            if placed is None:
                backlog.put_back(name)
                return None
            found = placed
        if isinstance(found, Standing):
            backlog.put_aside(name, look.stat, found, now)
            return None
        verdict = found.verdict
        if isinstance(verdict, Refusal) and not verdict.cancels and not verdict.fault:
            backlog.put_aside(name, look.stat, ready.bad(verdict.reason), now)
        return found

    def _shut_out(self, candidate: Candidate) -> Standing | None:
        """Return why a job's owner may not log in now, None if he may or need not."""
        logins, uid = self.outside.logins, _owner(candidate)
        signed = self.outside.signers is not None
        if logins is not None and uid and not (signed and candidate.proof is None):
            try:
                logins.login(uid)
            except PermissionError as error:
                return Standing(Kind.DEFERRED, str(error), LONGEST_DEFERRED)
            except BlockingIOError as error:
                return Standing(Kind.INCOMING, str(error), OPENING)
        return None

    def _placed(self, found: Candidate, known: int, now: float) -> Candidate | Standing | None:
        """Return a job that fits beside the others, or why it does not.

        None: it asks for a lower priority than was ``known``, and is not next.
        """
        name, spec = found.name, found.verdict
        if not isinstance(spec, Spec):
            return found
        if spec.priority < known:
            return None
        gate = self._gate(spec, now)
        reason = self.desk.packing.place(name, spec, now, _owner(found), gate)
        if reason:
            again = LONGEST_DEFERRED if reason != gate else gates.AGAIN
            return Standing(Kind.DEFERRED, reason, again)
        self._granted += packing.counted(spec, self.desk.packing.capacity)
        self._beside += 1
        return found

    def _gate(self, spec: Spec, now: float) -> str:
        """Return why the load average does not let a job of several CPUs start; of one it does."""
        desk, limit = self.desk, self.outside.settings.limits.load
        cpus = packing.counted(spec, desk.packing.capacity)
        if limit is None or cpus == 1:
            return ""
        busy = desk.busy() - desk.allowed() + self._beside
        limits = gates.Limits(load=limit)
        return gates.verdict(
            limits, desk.reading, desk.forecast, busy, now, cpus=cpus, granted=self._granted
        ).reason

    def shut(self, name: str, error: OSError, now: float) -> None:
        """Put an entry aside that cannot be opened: others may be, and they come first."""
        stat = self.outside.spool.stat(name)
        if stat is None:
            self.desk.backlog.forget(name)
            return
        leased = error.errno == errno.EAGAIN
        why = "another program keeps it to itself" if leased else error.strerror
        standing = Standing(Kind.INCOMING, f"cannot be opened ({why})", CLOSED)
        self.desk.backlog.put_aside(name, stat, standing, now)

    def _settled(self, name: str, look: Look, age: float) -> Standing | None:
        """Return what an entry is that is no settled job; None if it is one."""
        rules = self.desk.backlog.rules
        standing = ready.standing(name, look.stat, rules, age)
        if standing.kind is Kind.QUEUED:
            standing = ready.settled(look, rules, age)
        return standing if standing.kind is not Kind.QUEUED else None

    def _asking(self, name: str, look: Look, age: float) -> Candidate | Standing:
        """Return a job with what it asks for, or why it is not to be run yet."""
        verdict = self.outside.asked(look)
        if isinstance(verdict, Spec):
            self.desk.backlog.prioritize(name, look.stat, verdict.priority)
            deferred = self._deferred(name, verdict)
            if isinstance(deferred, Standing):
                return deferred
            verdict = deferred or verdict
        again, torn = None, False
        try:
            again = self._remembered(name, look.stat)
        except OSError as error:
            reason = f"what is remembered of it cannot be read ({error.strerror})"
            # By a power cut, or somebody removed it.
            torn = age >= STALE or (error.errno == errno.ENODATA and self.outside.spool.local)
            if not torn:
                return Standing(Kind.INCOMING, reason, UNREAD)
            self.outside.log.warning("job.forgotten", job=naming.shown(name), reason=reason)
            self.desk.back.discard(name)
        if again is not None and isinstance(verdict, Spec):
            pause = retries.pause(again, verdict, self.outside.wall(), age)
            if pause > 0:
                reason = retries.reason(again)
                return Standing(Kind.DEFERRED, reason, min(pause, LONGEST_DEFERRED))
        return Candidate(name, look.stat, verdict, again, torn)

    def _remembered(self, name: str, stat: Stat) -> Again | None:
        """Return what is remembered of an entry that is back in the queue; OSError: unreadable.

        What the listing does not show is not asked for: on NFS that would be remembered as missing
        for half a minute. Once it is claimed it is looked at again.
        """
        spool = self.outside.spool
        if self._back is None:
            self._back = frozenset(spool.again_names())
        known = name in self._back or name in self.desk.back
        return spool.again(name, stat) if known else None

    def _deferred(self, name: str, spec: Spec) -> Standing | Refusal | None:
        """Return why a job does not run yet, or never will; None if nothing keeps it."""
        if spec.not_before is not None:
            left = spec.not_before.timestamp() - self.outside.wall()
            if left > 0:
                reason = outcomes.too_early(spec.not_before)
                return Standing(Kind.DEFERRED, reason, min(left, LONGEST_DEFERRED))
        settings = self.outside.settings
        if reason := gates.beyond(spec, settings.cpus, settings.memory, settings.gpus):
            return Standing(Kind.DEFERRED, reason)
        if not spec.after and not spec.after_any:
            return None
        again = max(LONGEST_DEFERRED, self.desk.backlog.kept_aside() / DEFERRED_LOOKS)
        try:
            verdict = self._outcomes.verdict(name, spec)
        except OSError as error:
            return Standing(Kind.DEFERRED, f"waits for others ({error.strerror})", again)
        if verdict.never:
            return Refusal(verdict.reason, cancels=True)
        return Standing(Kind.DEFERRED, verdict.reason, again) if verdict.reason else None


def _owner(candidate: Candidate) -> int:
    """Return as whom a job is to run: its signer, else whoever owns its file."""
    return candidate.stat.st_uid if candidate.proof is None else candidate.proof.uid
