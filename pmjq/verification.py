"""Who signed the jobs at the head of the queue, where only signed ones are run.

A job is read once, and the digest, the name and the spool's uuid are what its signature must be of.
A signature that is missing, or that does not fit, may still be on its way: the job waits for a
short while, is then verified once more, and rejected with the reason. What cannot be verified for
now keeps its place.

The signature says who runs the job: for root's daemon the principal names the user of this machine,
any other runs it as its own user. Whose file it was means nothing.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pmjq import naming, ready, signing
from pmjq.directives import Refusal
from pmjq.job import Signed, Spec
from pmjq.ready import Kind, Standing
from pmjq.signing import Fault, Proof

if TYPE_CHECKING:
    from pmjq.desk import Desk
    from pmjq.job import Again
    from pmjq.outside import Outside, Verifier
    from pmjq.plan import Candidate
    from pmjq.ready import Look, Print

PATIENCE_UNSIGNED = 10.0
"""Seconds for a signature to come to its job: whoever copies both by hand may begin with either."""

PATIENCE_UNFIT = 3.0
"""Seconds for one that does not fit to be replaced, or to be written to its end."""

PATIENCE_SHARED = 40.0
"""The same on a shared file system, which may show for half a minute what was there before."""

REMEMBERED = 60.0
"""Seconds until a job that waits is verified again: its signer may be allowed no more."""

TOGETHER = 0.5
"""Seconds for which jobs are verified in a row, before other work."""

SOON = 0.01
UNREAD = 0.5
UNABLE = 5.0
"""Seconds until one is looked at again that was not verified for now."""

NOT_HERE = 60.0
"""Seconds until one is looked at again whose signer may not run jobs here."""

TIDY = 3600.0
"""Seconds between two looks for signatures to which no job has come."""

STRAY = 3 * 86400.0
"""Seconds for which such a one is kept: its job may be on a slow line."""

SLACK = 1000
"""Entries that are remembered beyond those that are there."""


@dataclass(frozen=True, slots=True)
class _Known:
    """What a look at a job and its signature has told, and since when it has told that."""

    seen: tuple[Print, bytes | None]
    found: Standing | Proof | Refusal
    since: float
    until: float


class Verification:
    """The verifying of one life of a node."""

    def __init__(self, outside: Outside, desk: Desk, signers: Verifier) -> None:
        """Take what is looked at, and who knows the signers."""
        self.outside = outside
        self.desk = desk
        self.signers = signers
        self._known: dict[str, _Known] = {}
        self._until = 0.0
        self._tidy_at = 0.0

    def begin(self, now: float) -> None:
        """Begin to verify what may be claimed now."""
        self._until = now + TOGETHER
        if now >= self._tidy_at:
            self._tidy_at = now + TIDY
            self._tidy()
        if len(self._known) > SLACK + 2 * len(self.desk.backlog):
            here = self.desk.backlog
            self._known = {name: known for name, known in self._known.items() if name in here}

    def _tidy(self) -> None:
        """Remove signatures to which no job has come for days, and nothing else."""
        spool = self.outside.spool
        with contextlib.suppress(OSError):
            for path in spool.strays(STRAY):
                spool.disk.unlink(path)
                self.outside.log.info("signature.removed", path=naming.shown(path))

    def verified(self, candidate: Candidate, look: Look, age: float) -> Candidate | Standing:
        """Return a job with its proof or what is wrong with it, or why it is not run yet.

        ``age``: for how many seconds it has been seen just so.
        """
        if not isinstance(candidate.verdict, Spec):
            # It is taken out of the way, whoever signed it.
            return candidate
        found = self._found(candidate, look, age)
        if isinstance(found, Proof):
            return replace(candidate, proof=found)
        return replace(candidate, verdict=found) if isinstance(found, Refusal) else found

    def _found(self, candidate: Candidate, look: Look, age: float) -> Standing | Proof | Refusal:
        spool, name, now = self.outside.spool, candidate.name, self.outside.now()
        if ready.is_directory(look.stat):
            reason = "a directory, which cannot be signed; sign an executable that does the same"
            return Refusal(reason, fault=Fault.UNSIGNED)
        if look.stat.st_size > signing.MOST_SIGNED:
            most = signing.MOST_SIGNED >> 20
            reason = f"is larger than {most} MiB; sign a script that runs the large program"
            return Refusal(reason, fault=Fault.UNSIGNED)
        try:
            signature = spool.signature(name)
        except OSError as error:
            return Standing(Kind.INCOMING, f"its signature: {error.strerror}", UNREAD)
        if signature is None:
            return self._unsigned(name, age)
        seen, known = (ready.print_of(look.stat), signature), self._known.get(name)
        since = now
        if known is not None and known.seen == seen:
            since = known.since if isinstance(known.found, Refusal) else now
            if now < known.until:
                return self._in_patience(known.found, now - since)
        if now > self._until:
            return Standing(Kind.INCOMING, "its signature is about to be verified", SOON)
        try:
            found = self._verify(name, look, candidate.again, signature)
        except OSError as error:
            reason = f"its signature cannot be verified for now ({error.strerror or error})"
            return Standing(Kind.DEFERRED, reason, UNABLE)
        now = self.outside.now()
        until = now + REMEMBERED
        if isinstance(found, Refusal):
            left = since + self._patience(PATIENCE_UNFIT) - now
            until = now + left if left > 0 else until
        elif isinstance(found, Standing):
            until = now + (found.again or 0.0)
        self._known[name] = _Known(seen, found, since, until)
        return self._in_patience(found, now - since)

    def _unsigned(self, name: str, age: float) -> Standing | Refusal:
        left = self._patience(PATIENCE_UNSIGNED) - age
        shown = naming.shown(name + naming.SIGNATURE)
        if left > 0:
            return Standing(Kind.INCOMING, f"has no signature beside it yet ({shown})", left)
        reason = f"is not signed: {shown} was not there; pmjq submit --sign KEY makes it"
        return Refusal(reason, fault=Fault.UNSIGNED)

    def _in_patience(
        self, found: Standing | Proof | Refusal, age: float
    ) -> Standing | Proof | Refusal:
        """Return what was found, of a signature that does not fit only after a while."""
        left = self._patience(PATIENCE_UNFIT) - age
        if isinstance(found, Refusal) and left > 0:
            return Standing(Kind.INCOMING, found.reason, left)
        return found

    def _patience(self, usual: float) -> float:
        return usual if self.outside.spool.local else max(usual, PATIENCE_SHARED)

    def _verify(
        self, name: str, look: Look, again: Again | None, signature: bytes
    ) -> Standing | Proof | Refusal:
        """Read a job, and return whose it is; OSError if that cannot be known now."""
        spool = self.outside.spool
        held = spool.disk.fingerprint(f"{spool.root}/{name}")
        if held is None or held.head != look.head:
            # What it asks for is taken from what is signed, and from nothing else.
            return Standing(Kind.INCOMING, "changes while it is being read", UNREAD)
        if again is not None and again.signed_as:
            name = naming.real_name(again.signed_as, again.signed_as_hex)
        text = signing.text(spool.uuid, name, held.content)
        signer = self.signers.verified(text, signature)
        if not isinstance(signer, str):
            return Refusal(signer.reason, fault=signer.fault)
        try:
            uid = self._user(signer)
        except PermissionError as error:
            reason = f"signed by {signer}: {error.strerror or error}"
            return Standing(Kind.DEFERRED, reason, NOT_HERE)
        signed = Signed(held.content, signing.mark(text), naming.shown(name), naming.exact(name))
        return Proof(signature, signer, uid, signed)

    def _user(self, signer: str) -> int:
        """Return as whom the jobs of a signer run; PermissionError tells why as nobody."""
        logins = self.outside.logins
        return self.outside.spool.disk.user() if logins is None else logins.signer(signer)
