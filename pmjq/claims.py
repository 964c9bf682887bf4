"""Claims: the paperwork, the one rename, and what becomes of an entry that cannot be moved.

Many claims share one sync, so they are prepared together, made durable together with the outcomes
of other jobs, then carried out one by one. A race that is lost is no error.
"""

from __future__ import annotations

import contextlib
import errno
import math
import uuid
from typing import TYPE_CHECKING

from pmjq import job, naming, ready, retries
from pmjq.directives import Refusal
from pmjq.examination import STALE
from pmjq.job import FIRST, Attempt, Spec
from pmjq.plan import Return
from pmjq.ready import Kind, Standing
from pmjq.signing import VERIFIED

if TYPE_CHECKING:
    from pmjq.desk import Desk
    from pmjq.job import Again
    from pmjq.outside import Outside
    from pmjq.plan import Candidate
    from pmjq.ready import Stat

Prepared = tuple["Candidate", Attempt]
"""A claim that is prepared: what is claimed, and its paperwork."""

CANNOT_MOVE = frozenset({errno.EPERM, errno.EACCES, errno.EBUSY, errno.EXDEV})
"""Errors of a rename that are this one entry's: its owner, a mount, the quota of a project."""

DENIED = CANNOT_MOVE | {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
"""Errors after which a rename is not carried out later: the answer came, and it was no."""

STUCK = 2
"""Claims that fail before those after them are not tried: the fault is not theirs."""

BEHIND = 1.0
"""Seconds by which an entry that could not be moved is tried after others."""


class Claims:
    """The claims of one life of a node."""

    def __init__(self, outside: Outside, desk: Desk) -> None:
        """Take what is acted on, and the desk that remembers it."""
        self.outside = outside
        self.desk = desk

    def prepare(self, candidates: list[Candidate]) -> list[Prepared]:
        """Make the paperwork of claims."""
        outside = self.outside
        prepared: list[Prepared] = []
        self.desk.spare()
        for candidate in candidates:
            attempt = self._attempt(candidate)
            if attempt is None:
                continue
            try:
                outside.spool.prepare_claim(attempt)
                self._keep_signature(candidate, attempt)
            except OSError as error:
                self.desk.doubtful = True
                outside.pauses.failed("claim", error)
                break
            prepared.append((candidate, attempt))
        return prepared

    def _keep_signature(self, candidate: Candidate, attempt: Attempt) -> None:
        """Have the signature of a job among its papers: the one that was verified, if any was."""
        spool, proof = self.outside.spool, candidate.proof
        if self.outside.signers is not None:
            signature = spool.signature(candidate.name) if proof is None else proof.signature
            if signature is not None:
                spool.keep_signature(attempt, signature)

    def drop_papers(self, prepared: list[Prepared]) -> None:
        """Remove the papers of claims that were not made; what stays goes at the next start."""
        for candidate, attempt in prepared:
            with contextlib.suppress(OSError):
                self.outside.spool.clear(attempt.id, attempt.attempt, candidate.name)

    def claim(self, prepared: list[Prepared]) -> None:
        """Claim what is prepared, and make the claims durable before anything is started."""
        if not prepared:
            return
        outside, desk = self.outside, self.desk
        claimed: list[Attempt] = []
        stuck: list[tuple[Prepared, OSError]] = []
        untried = list(prepared)
        while untried and len(stuck) < STUCK:
            one = untried.pop(0)
            try:
                if self._claim_one(*one):
                    claimed.append(one[1])
            except OSError as error:
                stuck.append((one, error))
        self.drop_papers(untried)
        try:
            outside.spool.sync_claims()
        except OSError as error:
            desk.doubtful = True
            outside.pauses.failed("claim", error)
            for attempt in claimed:
                reason = "its claim could not be made durable"
                desk.returning[attempt.id] = Return(attempt, reason)
            return
        for attempt in claimed:
            desk.claim(attempt, outside.now())
        if claimed or not stuck:
            outside.pauses.worked("claim")
        for (candidate, attempt), failure in stuck:
            self._unclaimed(candidate, attempt, failure, others=bool(claimed))

    def _claim_one(self, candidate: Candidate, attempt: Attempt) -> bool:
        """Claim an entry; False if it is not to be had, or not as it was examined.

        OSError: it could not be moved, and is where it was.
        """
        spool, backlog = self.outside.spool, self.desk.backlog
        won = spool.claim(attempt)
        backlog.forget(candidate.name)
        if not spool.local:
            until = self.outside.now() + STALE
            self.desk.departed[candidate.name] = (candidate.stat.st_ino, until)
        self.desk.won += won
        self.desk.contended += not won
        if not won:
            self.drop_papers([(candidate, attempt)])
            return False
        stat = self._found(attempt)
        if candidate.again is not None or retries.may_come_back(candidate.verdict):
            again, reason = self._remembered(candidate), ""
            if again is None:
                # As the first, so that what is remembered stays as it is.
                again, reason = FIRST, "what is remembered of it cannot be read"
            elif again != (candidate.again or FIRST):
                reason = "has been tried meanwhile"
            if reason:
                self.desk.returning[attempt.id] = Return(attempt, reason, again=again)
                return False
            self.desk.back.discard(candidate.name)
            with contextlib.suppress(OSError):
                spool.forget(candidate.name)
        if stat is not None and ready.unchanged(candidate.stat, stat):
            self._count(candidate, attempt)
            return True
        # Changed between the look and the claim: give it back, to be looked at as it is.
        self.desk.returning[attempt.id] = Return(attempt, "changed while it was being claimed")
        return False

    def _count(self, candidate: Candidate, attempt: Attempt) -> None:
        """Count a claim by what became of its signature, which does not stay in the spool."""
        if self.outside.signers is None:
            return
        verdict = candidate.verdict
        if candidate.proof is not None:
            self.desk.signatures[VERIFIED] += 1
        elif isinstance(verdict, Refusal) and verdict.fault:
            self.refuse(attempt, verdict.fault, verdict.reason)
        with contextlib.suppress(OSError):
            self.outside.spool.take_signature(attempt)

    def refuse(self, attempt: Attempt, fault: str, reason: str) -> None:
        """Count a job whose signature does not count, and say so."""
        self.desk.signatures[fault] += 1
        self.outside.log.warning(
            "signature.refused", job=attempt.name, id=attempt.id, fault=str(fault), reason=reason
        )

    def _found(self, attempt: Attempt) -> Stat | None:
        """Return what was claimed, None if it is not as it may be.

        Of another user it is opened once more: here nobody can put another in its place, and
        whoever still writes to it is found.
        """
        spool, rules = self.outside.spool, self.outside.settings.rules
        with contextlib.suppress(OSError):
            if rules.judge is None or not attempt.uid:
                return spool.claimed_stat(attempt)
            look = spool.claimed(attempt)
            settled = look is not None and ready.settled(look, rules, math.inf).kind
            if look is not None and settled is Kind.QUEUED:
                return look.stat
        return None

    def _remembered(self, candidate: Candidate) -> Again | None:
        """Return what is remembered of a job that is claimed: nobody else changes it any more.

        None if it cannot be read. Some file systems show an old listing, others for a while none
        but what they have been asked for before: both are tried.
        """
        spool, name = self.outside.spool, candidate.name
        try:
            known = name in spool.again_names()
            found = spool.again(name, candidate.stat, known=known)
        except OSError:
            if candidate.torn:
                return FIRST
            self.desk.back.add(name)
            return None
        if found is None:
            self.desk.back.discard(name)
            return FIRST
        self.desk.back.add(name)
        return found

    def overtaken(self, attempt: Attempt) -> Return | None:
        """Return how a claim that was found goes back, if its job has been tried meanwhile.

        Its life died between the claim and the look at what is remembered of the job.
        """
        if not retries.may_come_back(attempt.spec):
            return None
        spool, name = self.outside.spool, naming.real_name(attempt.name, attempt.name_hex)
        stat = spool.claimed_stat(attempt)
        if stat is None or name not in spool.again_names():
            return None
        try:
            again = spool.again(name, stat)
        except OSError:
            # Torn: nothing is known of it but the claim.
            return None
        known = (attempt.attempt, attempt.tries, attempt.earlier)
        if again is None or (again.attempt, again.tries, again.earlier) == known:
            return None
        return Return(attempt, "has been tried meanwhile", again=again)

    def _unclaimed(
        self, candidate: Candidate, attempt: Attempt, error: OSError, *, others: bool
    ) -> None:
        """Put an entry aside that could not be moved, and find out whether others can be.

        ``others``: some have been, together with it. One of which nobody knows yet whether it is
        its own fault stays on its way in: the others come first once claims are tried again.
        """
        outside, desk = self.outside, self.desk
        now, name, stat = outside.now(), candidate.name, candidate.stat
        if error.errno in DENIED and self._not_moved(attempt):
            self.drop_papers([(candidate, attempt)])
        else:
            desk.doubtful = True
        why = error.strerror or str(error)
        reason = f"cannot be moved ({why}); remove it, or let this user move it"
        if others or error.errno in CANNOT_MOVE or desk.backlog.outdone(name, stat, desk.won):
            standing = Standing(Kind.LEFT, reason)
        else:
            outside.pauses.failed("claim", error)
            again = outside.pauses.until("claim") - now + BEHIND
            standing = Standing(Kind.INCOMING, reason, again)
        desk.backlog.refuse(name, stat, standing, now, desk.won)

    def _not_moved(self, attempt: Attempt) -> bool:
        with contextlib.suppress(OSError):
            return attempt.id not in self.outside.spool.running()
        return False

    @staticmethod
    def new_id() -> str:
        """Return an id that no job ever had."""
        return str(uuid.uuid4())

    def _attempt(self, candidate: Candidate) -> Attempt | None:
        """Return the next attempt of a job, None if there are not the devices that it needs."""
        stat, verdict, name = candidate.stat, candidate.verdict, candidate.name
        again, job_id, proof = candidate.again or FIRST, self.new_id(), candidate.proof
        # Whoever signed a job has it run as him, and nothing depends on whose file it was.
        uid = stat.st_uid if proof is None else proof.uid
        spec = Spec() if isinstance(verdict, Refusal) else verdict
        assigned = self.desk.devices.assign(job_id, spec)
        if assigned is None:
            return None
        gpus, cpus = assigned
        return Attempt(
            id=job_id,
            name=naming.shown(name),
            name_hex=naming.exact(name),
            attempt=again.attempt,
            owner=self.outside.owner(uid),
            uid=uid,
            node=self.outside.settings.node,
            token=self.outside.spool.token,
            queued=job.moment(stat.st_ctime_ns / 1e9),
            claimed=job.moment(self.outside.wall()),
            spec=spec,
            gpus=gpus,
            cpus=cpus,
            refused=verdict.reason if isinstance(verdict, Refusal) else "",
            cancelled=isinstance(verdict, Refusal) and verdict.cancels,
            tries=again.tries,
            earlier=again.earlier,
            signer="" if proof is None else proof.signer,
            signed=None if proof is None else proof.signed,
        )
