"""Keys, a list of allowed signers, and signatures, all made by the real ssh-keygen."""

from __future__ import annotations

import hashlib
import json
import os
import pwd
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from live import Live, eventually
from pmjq.signing import Fault

needed = pytest.mark.skipif(
    shutil.which("ssh-keygen") is None, reason="no ssh-keygen here: openssh-client has it"
)


def me() -> str:
    """Return the name of this user, who is a signer."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        pytest.skip("this user has no name")


def signed_text(uuid: str, name: str, content: bytes) -> bytes:
    """Return what is signed, written down once more: pmjq-spool(5) promises it."""
    digest = hashlib.sha512(content).hexdigest()
    return f"pmjq job 1\nspool {uuid}\nname {name}\nsha512 {digest}\n".encode()


class Keys:
    """Keys in a directory, and the file that allows some of them."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(exist_ok=True)
        self.directory = directory
        self.allowed = directory / "allowed_signers"
        self.allowed.touch(0o644)

    def make(self, name: str, kind: str = "ed25519") -> Path:
        """Make a key and return the file of its private half."""
        path = self.directory / name
        bits = ("-b", "2048") if kind == "rsa" else ()
        words = ["ssh-keygen", "-q", "-t", kind, *bits, "-N", "", "-f", str(path)]
        subprocess.run(words, check=True, stdin=subprocess.DEVNULL)
        return path

    def allow(self, key: Path, principal: str, options: str = "") -> None:
        """Add a line to the list."""
        public = " ".join(key.with_suffix(".pub").read_text().split()[:2])
        with self.allowed.open("a") as file:
            file.write(" ".join(filter(None, (principal, options, public))) + "\n")

    @staticmethod
    def sign(key: Path, text: bytes, namespace: str = "pmjq") -> bytes:
        """Return the signature of a text."""
        words = ["ssh-keygen", "-Y", "sign", "-n", namespace, "-f", str(key)]
        return subprocess.run(words, check=True, input=text, capture_output=True).stdout


class Signing(Live):
    """A daemon that runs signed jobs; ``own``: the key of this user, who may sign."""

    def __init__(
        self, root: Path, *options: str, keys: Keys | None = None, spool: Path | None = None
    ) -> None:
        self.keys = keys or Keys(root.with_name(f"{root.name}.keys"))
        self.own = self.keys.directory / "own"
        if keys is None:
            self.keys.allow(self.keys.make("own"), me())
        words = ("--signed-by", str(self.keys.allowed), *options)
        super().__init__(root, *words, spool=spool)

    @property
    def uuid(self) -> str:
        """Return who the spool is."""
        text = (self.spool / ".pmjq" / "spool.json").read_text()
        return str(json.loads(text)["uuid"])

    def signature(
        self, name: str, content: bytes, *, key: Path | None = None, namespace: str = "pmjq"
    ) -> bytes:
        """Return the signature of a job of this spool."""
        return self.keys.sign(key or self.own, signed_text(self.uuid, name, content), namespace)

    def put(self, name: str, content: bytes, signature: bytes | None) -> None:
        """Put a job into the spool, and its signature before it."""
        if signature is not None:
            self.beside(name, signature)
        self.drop(name, content)

    def beside(self, name: str, signature: bytes) -> None:
        """Put a signature into the spool."""
        self.write(f"{name}.sig", signature, 0o644).rename(self.spool / f"{name}.sig")

    def job(self, name: str) -> bytes:
        """Return a job that tells when it is executed."""
        return f"#!/bin/sh\n{self.side_effect(name)}".encode()

    def refused(self) -> dict[str, str]:
        """Return with which fault jobs were refused, as the log tells."""
        return {event["job"]: event["fault"] for event in self.events("signature.refused")}

    def counted(self) -> Counter[str]:
        """Return how many jobs were refused for each fault, once log and ``node.json`` agree.

        They are written by two threads: either may tell first.
        """

        def agreed() -> Counter[str]:
            told = Counter(event["fault"] for event in self.events("signature.refused"))
            count = self.count()
            return told if told == Counter({fault: count[fault] for fault in Fault}) else Counter()

        return eventually(agreed, within=70, what="log and node.json tell the same")

    def count(self) -> dict[str, int]:
        """Return how ``node.json`` counts what was verified and what was refused."""
        eventually(self.node)
        return dict(self.node()["signatures"])
