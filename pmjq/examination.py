"""The head of the queue, opened and examined: what may be claimed now, and why the rest may not.

A job that is settled may still have to wait: for a time, for others, for its next attempt, for a
node that has what it asks for. It is then put aside with its reason, and looked at again when that
may have changed.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from pmjq import gates, infofile, naming, outcomes, ready, retries
from pmjq.directives import Refusal
from pmjq.job import Spec
from pmjq.outcomes import Outcomes
from pmjq.plan import Candidate
from pmjq.ready import Kind, Standing
from pmjq.verification import Verification

if TYPE_CHECKING:
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
        self._outcomes = Outcomes(outside.spool)
        self._verification = None
        if outside.signers is not None:
            self._verification = Verification(outside, desk, outside.signers)
        self._back: frozenset[str] | None = None
        self._heard_at = 0.0

    def begin(self, now: float) -> None:
        """Begin to examine; which jobs are back in the queue is looked at anew if that is asked."""
        self._back = None
        self.desk.pack(now)
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
        found = self._settled(name, look, age) or self._asking(name, look, age)
        if isinstance(found, Candidate) and self._verification is not None:
            found = self._verification.verified(found, look, age)
        if isinstance(found, Candidate) and (reason := self._shut_out(found)):
            found = Standing(Kind.DEFERRED, reason, LONGEST_DEFERRED)
        if isinstance(found, Candidate) and isinstance(found.verdict, Spec):
            reason = self.desk.packing.place(name, found.verdict, now)
            if reason:
                found = Standing(Kind.DEFERRED, reason, LONGEST_DEFERRED)
        if isinstance(found, Standing):
            backlog.put_aside(name, look.stat, found, now)
            return None
        verdict = found.verdict
        if isinstance(verdict, Refusal) and not verdict.cancels and not verdict.fault:
            backlog.put_aside(name, look.stat, ready.bad(verdict.reason), now)
        return found

    def _shut_out(self, candidate: Candidate) -> str:
        """Return why a job's owner may not log in now, empty if he may or need not."""
        logins, proof = self.outside.logins, candidate.proof
        if logins is not None and (proof is not None or self.outside.signers is None):
            try:
                logins.login(candidate.stat.st_uid if proof is None else proof.uid)
            except PermissionError as error:
                return str(error)
        return ""

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
        verdict = infofile.asked(look)
        if isinstance(verdict, Spec):
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
        if reason := gates.beyond(spec, settings.cpus, settings.memory):
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
