"""Reading a file that others may be writing, for what it is at that moment.

Whatever is returned about a content is of the very bytes that were read, once: who looks twice may
see two files. No more is read than the file had when it was opened, or than may be signed, and one
byte; somebody who writes faster than we read does not keep us, nor a file that is mostly a hole.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat as modes
from typing import TYPE_CHECKING, NamedTuple

from pmjq.directives import HEAD
from pmjq.signing import MOST_SIGNED

if TYPE_CHECKING:
    from collections.abc import Iterator

PART = 1 << 20

READING = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY

SEALED = 0o500
"""The mode of what is executed: its owner's alone, and not to be changed by a slip."""


class Fingerprint(NamedTuple):
    """What a file held: its first bytes, and the SHA-512 of all of it."""

    head: bytes
    content: str


def beginning(path: str, most: int) -> bytes | None:
    """Return the first bytes of a file; None if it is gone, or no regular file."""
    with _opened(path) as fd:
        return None if fd is None else os.pread(fd, most, 0)


def fingerprint(path: str) -> Fingerprint | None:
    """Return what a file holds; None if it is gone, or no regular file."""
    with _opened(path) as fd:
        if fd is None:
            return None
        head, hashed = b"", hashlib.sha512()
        for part in _parts(fd):
            head = head or part[:HEAD]
            hashed.update(part)
        return Fingerprint(head, hashed.hexdigest())


def seal(source: str, target: str, uid: int, gid: int) -> str | None:
    """Copy a file durably to a new name that nobody else can write; return the SHA-512 of it.

    ``uid``, ``gid``: whose it is then, -1: this user's. None if there is no such file.
    """
    with _opened(source) as fd:
        if fd is None:
            return None
        hashed = hashlib.sha512()
        out = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            for part in _parts(fd):
                hashed.update(part)
                view = memoryview(part)
                while view:
                    view = view[os.write(out, view) :]
            os.fchown(out, uid, gid)
            os.fchmod(out, SEALED)
            os.fsync(out)
        finally:
            os.close(out)
        return hashed.hexdigest()


def _parts(fd: int) -> Iterator[bytes]:
    left = min(os.fstat(fd).st_size, MOST_SIGNED) + 1
    while left > 0 and (part := os.read(fd, min(PART, left))):
        left -= len(part)
        yield part


@contextlib.contextmanager
def _opened(path: str) -> Iterator[int | None]:
    try:
        fd = os.open(path, READING)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO):
            raise
        yield None
        return
    try:
        yield fd if modes.S_ISREG(os.fstat(fd).st_mode) else None
    finally:
        os.close(fd)
