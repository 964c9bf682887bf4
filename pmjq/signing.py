"""What is signed of a job, and what a signature that was verified stands for.

Where a share tells nothing about who wrote a file, a signature beside the job does: of a few lines
that name the spool, the job's name and the digest of its content. So it fits no other content, no
other name and no other spool; and since each such text is executed once, no copy of it either.
pmjq-spool(5) has the text, which a shell makes with printf and sha512sum.

Pure.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pmjq.job import Signed

NAMESPACE = "pmjq"
"""What ssh-keygen binds a signature to, so that one of a mail or of a commit is none of a job."""

MOST_SIGNATURE = 1 << 16
"""Bytes of a signature: one of RSA with 16384 bits has 6000, one with a certificate some more."""

MOST_SIGNED = 1 << 28
"""Bytes of a signed job: all of it is read before anybody is known to have signed it."""


class Fault(StrEnum):
    """Why a job was not accepted, as ``node.json`` counts it."""

    UNSIGNED = "unsigned"
    ALTERED = "altered"
    FOREIGN = "foreign"
    REPLAYED = "replayed"


VERIFIED = "verified"
"""How ``node.json`` counts the others."""


@dataclass(frozen=True, slots=True)
class Proof:
    """A signature that was verified: its bytes, who made it, as whom the job runs, of what."""

    signature: bytes
    signer: str
    uid: int
    signed: Signed


def text(uuid: str, name: str, content: str) -> bytes:
    """Return what is signed: of which spool, which name, and which content (SHA-512, hex)."""
    if name.isprintable():
        named = f"name {name}"
    else:
        named = f"name-hex {name.encode('utf-8', 'surrogateescape').hex()}"
    return f"pmjq job 1\nspool {uuid}\n{named}\nsha512 {content}\n".encode()


def digest(content: bytes) -> str:
    """Return the digest of a job's content."""
    return hashlib.sha512(content).hexdigest()


def mark(signed: bytes) -> str:
    """Return the name under which it is remembered that a signed text was executed."""
    return hashlib.sha256(signed).hexdigest()
