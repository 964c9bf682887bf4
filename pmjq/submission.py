"""Jobs into the spool: complete, durable and under a name that nobody has.

A job is written where the daemon does not look, synced, and renamed into the spool: whoever looks
sees all of it or nothing. Its name is what it is called, a dot and eight random letters and digits;
that name finds it from then on.

Needs no daemon, nor anything that a daemon has made.
"""

from __future__ import annotations

import contextlib
import os
import string
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pmjq import directives, naming
from pmjq.directives import Refusal
from pmjq.errors import (
    UNREACHABLE,
    CannotCreateError,
    NotFoundError,
    NotPermittedError,
    PmjqError,
    UsageError,
)
from pmjq.naming import HIDDEN, OWN, SIGNATURE, SUBMITTED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from pmjq.disk import Disk

MARK_LENGTH = 8
_LETTERS = string.ascii_lowercase + string.digits

TOGETHER = 256
"""Jobs that share their syncs: as many descriptors are open at once."""

MOST_OF_ARRAY = 100_000
"""Jobs of an array: more is a slip of the key more often than it is meant."""

RUNNABLE, HELD = 0o755, 0o644


@dataclass(frozen=True, slots=True)
class Draft:
    """A job that is to be: its whole name, its text, whether it is held, and its signature."""

    name: str
    text: bytes
    held: bool = False
    signature: bytes = b""


def mark() -> str:
    """Return what makes a name unique: 41 random bits, of the kernel's."""
    number = int.from_bytes(os.urandom(16))
    letters = []
    for _ in range(MARK_LENGTH):
        number, letter = divmod(number, len(_LETTERS))
        letters.append(_LETTERS[letter])
    return "".join(letters)


def unique(base: str) -> str:
    """Return a name that nobody has: what the job is called, and a mark."""
    plain = base.lstrip(".") or "job"
    # With room for the suffix of a signature.
    return f"{naming.shortened(plain, naming.NAME_MAX - MARK_LENGTH - 1 - len(SIGNATURE))}.{mark()}"


def checked(text: bytes) -> bytes:
    """Return the text of a job; UsageError if no daemon would run it as it says."""
    refused = directives.read(text[: directives.HEAD])
    if isinstance(refused, Refusal):
        raise UsageError(refused.reason)
    return text


class Submission:
    """The way into one spool."""

    def __init__(self, disk: Disk, root: str, umask: int = 0o022) -> None:
        """Touch nothing yet; NotFoundError later if there is no such directory."""
        self.disk = disk
        self.root = root
        # Whatever the umask: whoever may write a job has it run as its owner.
        umask |= 0o022
        self._modes = {False: RUNNABLE & ~umask | 0o500, True: HELD & ~umask | 0o400}
        self._hidden = ""

    def put(self, drafts: Iterable[Draft], put: Callable[[str], None]) -> None:
        """Put jobs into the spool, durably; ``put`` is told the name of each when it is there.

        PmjqError tells why one could not be put there; those that ``put`` heard of are.
        """
        part: list[Draft] = []
        for draft in drafts:
            part.append(draft)
            if len(part) >= TOGETHER:
                self._put(part, put)
                part = []
        if part:
            self._put(part, put)

    def _put(self, drafts: list[Draft], put: Callable[[str], None]) -> None:
        disk, base = self.disk, self._hidden or self._where()
        files = [(f"{base}{mark()}", draft.text, self._modes[draft.held]) for draft in drafts]
        signed = [draft for draft in drafts if draft.signature]
        placed: list[str] = []
        try:
            # First: a job whose signature is not there is soon rejected.
            if signed:
                self._sign(signed, base)
            disk.create(files)
            for (path, _, _), draft in zip(files, drafts, strict=True):
                disk.rename_new(path, f"{self.root}/{draft.name}")
                placed.append(draft.name)
            disk.sync_names(self.root, f"{self.root}/{placed[-1]}")
        except OSError as error:
            # Those that are in the spool may run already: they are told of, durable or not.
            for name in placed:
                put(name)
            self._drop(files[len(placed) :])
            self._unsign(signed, placed)
            raise refusal(self.root, error) from error
        except KeyboardInterrupt:
            self._drop(files[len(placed) :])
            self._unsign(signed, placed)
            raise
        for name in placed:
            put(name)

    def _sign(self, drafts: list[Draft], base: str) -> None:
        """Put signatures beside where their jobs are about to be."""
        files = [(f"{base}{mark()}", draft.signature, HELD) for draft in drafts]
        try:
            self.disk.create(files)
            for (path, _, _), draft in zip(files, drafts, strict=True):
                self.disk.rename_new(path, f"{self.root}/{draft.name}{SIGNATURE}")
        except BaseException:
            self._drop(files)
            raise

    def _unsign(self, drafts: list[Draft], placed: list[str]) -> None:
        """Remove the signatures of jobs that did not get there."""
        for draft in drafts:
            if draft.name not in placed:
                with contextlib.suppress(OSError):
                    self.disk.unlink(f"{self.root}/{draft.name}{SIGNATURE}")

    def _drop(self, files: list[tuple[str, bytes, int]]) -> None:
        for path, _, _ in files:
            with contextlib.suppress(OSError):
                self.disk.unlink(path)

    def _where(self) -> str:
        """Return how the paths of jobs under construction begin."""
        if self.disk.stat(self.root) is None:
            raise NotFoundError(
                f"{naming.shown(self.root)}: no such directory; name the spool with -s or "
                "PMJQ_SPOOL, make it, or mount it"
            )
        own = f"{self.root}/{OWN}/tmp"  # noqa: S108  # a directory of the spool
        # Where the tree is another user's, the spool itself has to do.
        writable = self.disk.writable(own)
        self._hidden = f"{own}/{SUBMITTED}" if writable else f"{self.root}/{HIDDEN}"
        return self._hidden


def refusal(path: str, error: OSError) -> PmjqError:
    """Return what to tell a person of a change that a file system refused."""
    shown = naming.shown(path)
    if error.errno in UNREACHABLE:
        from pmjq import render  # noqa: PLC0415  # only where something fails

        return render.refused(OSError(error.errno, error.strerror, path))
    if isinstance(error, PermissionError):
        return NotPermittedError(f"{shown}: {error.strerror}; ask its owner to let you write there")
    return CannotCreateError(f"{shown}: {error.strerror or error}; try again when that is mended")


def numbers(text: str) -> tuple[list[int], int | None]:
    """Return the indices and the limit of an array: 0-99, 1,3,5-9, 0-9:3, 0-99%4.

    ValueError says what it may be.
    """
    wrong = ValueError("must be numbers and ranges, for instance 0-99, 1,3,7-9, 0-20:5 or 0-99%4")
    indices, percent, limit = text.partition("%")
    if percent and not (limit.isdecimal() and int(limit) > 0):
        raise wrong
    found: dict[int, None] = {}
    for part in indices.split(","):
        span, colon, step = part.partition(":")
        first, dash, last = span.partition("-")
        parts = [first, *([last] if dash else []), *([step] if colon else [])]
        if not all(one.isdecimal() and len(one) < 9 for one in parts):  # noqa: PLR2004
            raise wrong
        stride = int(step) if colon else 1
        if not stride or (dash and int(last) < int(first)):
            raise wrong
        span_of = range(int(first), int(last if dash else first) + 1, stride)
        found |= dict.fromkeys(span_of[: MOST_OF_ARRAY + 1])
        if len(found) > MOST_OF_ARRAY:
            raise ValueError(f"are more than {MOST_OF_ARRAY} jobs; submit it in parts")
    return list(found), int(limit) if percent else None


def lines(text: bytes) -> Iterator[bytes]:
    """Return the commands of a batch: its lines but for empty ones and comments."""
    for line in text.split(b"\n"):
        command = line.strip()
        if command and not command.startswith(b"#"):
            yield command
