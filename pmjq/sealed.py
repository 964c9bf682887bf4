"""What is kept of signed jobs: their signatures, what was verified of them, and that they ran.

A signature lies beside its job in the spool and moves with it: among the paperwork while a node
has the job, back beside it when it returns, then beside the archived one.

What was verified is executed and nothing else: before each start the job is copied to where nobody
else can write it, hashed while it is copied, and the copy takes the place of what was claimed. So
it is also what returns, and what is archived.

A text that was signed is executed for one job. ``signed/MARK`` is a symbolic link to the id of the
attempt that came first: one call makes it, complete and exclusively, on every file system that
``void`` works on, and there is nothing to be written that a full disk could refuse. It stays for
ever, as long as there is the spool that the signature is for.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from pmjq import naming
from pmjq.naming import SIGNATURE
from pmjq.signing import MOST_SIGNATURE
from pmjq.tree import Tree

if TYPE_CHECKING:
    from pmjq.job import Attempt, Record

MINE = (-1, -1)
"""The owner of what is not given to anybody."""

BEGINNING = b"-----BEGIN SSH SIGNATURE-----"


class Sealed(Tree):
    """The signed jobs of one spool as one life of a node has them."""

    def signature(self, name: str) -> bytes | None:
        """Return the signature beside a queued job, None if there is none."""
        return self.disk.beginning(f"{self.root}/{name}{SIGNATURE}", MOST_SIGNATURE)

    def signature_path(self, job: Attempt | Record) -> str:
        """Return where the signature of a job lies until it is archived."""
        return f"{self._job}/{job.id}/signature"

    def keep_signature(self, attempt: Attempt, signature: bytes) -> None:
        """Put a signature among the paperwork of a claim, durably: a returned job needs it."""
        path = self.signature_path(attempt)
        self.disk.create([(path, signature, 0o644)])
        self._keep_private(path, attempt.uid)

    def take_signature(self, attempt: Attempt) -> None:
        """Remove the signature that was beside a job that has been claimed.

        Not another that has come there meanwhile, for the next job of that name. OSError: it stays.
        """
        beside = f"{self.root}/{_name(attempt)}{SIGNATURE}"
        taken = f"{self._job}/{attempt.id}/taken"
        self.disk.rename(beside, taken)
        kept = self.disk.beginning(self.signature_path(attempt), MOST_SIGNATURE)
        if self.disk.beginning(taken, MOST_SIGNATURE) == kept:
            self.disk.unlink(taken)
        else:
            with contextlib.suppress(FileExistsError):
                self.disk.rename_new(taken, beside)

    def put_signature(self, attempt: Attempt, name: str) -> bool:
        """Put the signature of a job that returns beside where it goes.

        False: another's is there. Repeatable.
        """
        kept = self.disk.beginning(self.signature_path(attempt), MOST_SIGNATURE)
        if kept is None or self.signature(name) == kept:
            return True
        building = f"{self._job}/{attempt.id}/taken"
        self.disk.unlink(building)
        self.disk.create([(building, kept, 0o644)])
        try:
            self.disk.rename_new(building, f"{self.root}/{name}{SIGNATURE}")
        except FileExistsError:
            return False
        return True

    def drop_signature(self, name: str) -> None:
        """Remove a signature from beside where its job could not go."""
        self.disk.unlink(f"{self.root}/{name}{SIGNATURE}")

    def discard_signature(self, name: str) -> None:
        """Remove what lies beside a job that was cancelled, if that is its signature."""
        path = f"{self.root}/{name}{SIGNATURE}"
        if self.disk.beginning(path, len(BEGINNING)) == BEGINNING:
            self.disk.unlink(path)

    def seal(self, attempt: Attempt, owner: tuple[int, int] = MINE) -> bool:
        """Put a copy of what was verified in the place of what was claimed; repeatable.

        False: that is not what was verified. ``owner``: user and group who are to have it.
        """
        if attempt.signed is None:
            return True
        baton, copy = f"{self._run}/{attempt.id}", f"{self._job}/{attempt.id}/sealed"
        if self.disk.seal(baton, copy, owner) != attempt.signed.content:
            self.disk.unlink(copy)
            return False
        self.disk.rename(copy, baton)
        return True

    def comes_first(self, attempt: Attempt) -> bool:
        """Tell whether a signed text is to be executed for this job; False: it was for another.

        Durable before it returns. Whoever is told so may be told it again.
        """
        if attempt.signed is None:
            return True
        path = f"{self._signed}/{attempt.signed.mark}"
        try:
            self.disk.symlink(attempt.id, path)
        except OSError:
            first = self.disk.target(path)
            if first is None:
                raise
            if first not in {attempt.id, *(one.id for one in attempt.earlier)}:
                return False
        self.disk.sync(self._signed)
        return True

    def unmark(self, attempt: Attempt) -> None:
        """Forget that an attempt came first which was never executed, and never will be."""
        if attempt.signed is not None:
            path = f"{self._signed}/{attempt.signed.mark}"
            if self.disk.target(path) == attempt.id:
                self.disk.unlink(path)

    def strays(self, seconds: float) -> list[str]:
        """Return the paths of signatures in the spool that no job has come to for so long."""
        names = set(self.disk.names(self.root))
        now = self.disk.stat(f"{self.own}/node/{self.token}/beat")
        found = []
        for name in names:
            if not name.endswith(SIGNATURE) or name.removesuffix(SIGNATURE) in names or now is None:
                continue
            path = f"{self.root}/{name}"
            stat = self.disk.stat_inside(self.root, name)
            # By the file server's clock.
            if stat is None or now.st_mtime_ns - stat.st_ctime_ns <= seconds * 1e9:
                continue
            if self.disk.beginning(path, len(BEGINNING)) == BEGINNING:
                found.append(path)
        return found


def _name(attempt: Attempt) -> str:
    return naming.real_name(attempt.name, attempt.name_hex)
