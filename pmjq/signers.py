"""Who signed a text: ssh-keygen, asked with a list of allowed signers, as ssh-keygen(1) has it.

It is the only thing here that knows of keys. Its answer no counts only if it works at all, which
a signature of its own tells, and if the list can be read: what cannot be verified for now is no
fault of a job's (``UnableError``).
"""

from __future__ import annotations

import os
import shutil
import stat as modes
import subprocess
import tempfile
from collections.abc import Callable
from typing import NamedTuple

from pmjq.errors import ConfigurationError
from pmjq.signing import NAMESPACE, Fault

PROGRAM = "ssh-keygen"

PATIENCE = 10.0
"""Seconds that one call may take."""

MOST_TOLD = 1 << 14
"""Bytes of its answer that are read."""

AGAIN = 5.0
"""Seconds until signatures are verified again after that could not be done."""

LOOK = 1.0
"""Seconds between two looks whether it can be done at all."""

PATTERN = frozenset("*?!,")
"""What a principal has in it that is none, but a pattern of several."""

CONTROL = b"""-----BEGIN SSH SIGNATURE-----
U1NIU0lHAAAAAQAAADMAAAALc3NoLWVkMjU1MTkAAAAgkuBCAHLwLdi6dwBPr3xNGyyl6I
o2Q0Zw5urDpWja7X8AAAAEcG1qcQAAAAAAAAAGc2hhNTEyAAAAUwAAAAtzc2gtZWQyNTUx
OQAAAEBbGRDuXz0Ep+ddnOV9fygDhAIgEfZRT05D1VG0D62WDUV9Wx2FOsHy+XUEq2UocP
8uo/R6lRuEeNnA/t261YsC
-----END SSH SIGNATURE-----
"""
"""A signature of ``CONTROLLED`` by a key that nobody has any more."""

CONTROLLED = b"pmjq\n"

_ALTERED = (
    "its signature does not fit: content or name were changed after it was signed, or it was "
    "signed for another spool"
)
_ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C"}


class UnableError(OSError):
    """Nothing can be verified for now."""


class Refused(NamedTuple):
    """Why a signature does not count."""

    fault: Fault
    reason: str


class Signers:
    """The signers that a file allows; ``now`` is monotonic."""

    def __init__(self, path: str, now: Callable[[], float]) -> None:
        """Touch nothing yet."""
        self.path = path
        self._now = now
        self._until = self._looked = -1e9
        self._reason = ""

    def check(self) -> None:
        """Raise ConfigurationError if nothing can be verified with this file."""
        try:
            stat = os.stat(self.path)
            self._look()
        except OSError as error:
            reason = error.strerror or str(error)
            raise ConfigurationError(
                f"--signed-by {self.path}: {reason}; no signature can be verified"
            ) from error
        if stat.st_uid not in (0, os.geteuid()) or stat.st_mode & (modes.S_IWGRP | modes.S_IWOTH):
            raise ConfigurationError(
                f"--signed-by {self.path}: others than this user may write it, and allow "
                "themselves; chown it, and chmod go-w"
            )

    def trouble(self) -> str:
        """Return why nothing can be verified for now, empty if it can."""
        now = self._now()
        if now >= self._until and now >= self._looked + LOOK:
            self._looked = now
            try:
                self._look(thoroughly=bool(self._reason))
            except OSError as error:
                self._fail(error)
            else:
                self._reason = ""
        return self._reason

    def verified(self, text: bytes, signature: bytes) -> str | Refused:
        """Return the principal whose signature of a text this is; UnableError: not known now.

        Of several whose key it is, the first that the file names.
        """
        try:
            return self._verified(text, signature)
        except OSError as error:
            self._fail(error)
            raise UnableError(error.errno or 0, self._reason) from error

    def _verified(self, text: bytes, signature: bytes) -> str | Refused:
        with tempfile.NamedTemporaryFile() as file:
            file.write(signature)
            file.flush()
            common = ("-s", file.name, "-f", self.path)
            code, told, why = _call("find-principals", *common)
            names = [line for line in told.splitlines() if line and not set(line) & PATTERN]
            if code == 0 and not names:
                return Refused(
                    Fault.FOREIGN, "its key is allowed for patterns of names, not a name"
                )
            if code == 0:
                words = ("verify", "-n", NAMESPACE, "-I", names[0], *common)
                code, _, why = _call(*words, text=text)
            if code == 0:
                return names[0]
        # Whether it is the signature's fault.
        self._look()
        return _refused(why)

    def _look(self, *, thoroughly: bool = True) -> None:
        """Raise OSError if nothing can be verified."""
        os.close(os.open(self.path, os.O_RDONLY | os.O_CLOEXEC))
        if shutil.which(PROGRAM) is None:
            raise OSError(0, f"no {PROGRAM} on PATH; it comes with OpenSSH")
        if not thoroughly:
            return
        with tempfile.NamedTemporaryFile() as file:
            file.write(CONTROL)
            file.flush()
            words = ("check-novalidate", "-n", NAMESPACE, "-s", file.name)
            code, _, why = _call(*words, text=CONTROLLED)
        if code:
            raise OSError(
                0, f"{PROGRAM} verifies nothing ({_last(why)}); OpenSSH 8.2 or later does"
            )

    def _fail(self, error: OSError) -> None:
        which = f"{error.filename}: " if error.filename else ""
        self._reason = f"signatures cannot be verified: {which}{error.strerror or error}"
        self._until = self._now() + AGAIN


def sign(key: str, text: bytes) -> bytes:
    """Return the signature of a text; OSError tells why there is none.

    ``key``: a private key, for whose passphrase ssh-keygen asks on the terminal, or the public one
    of which the agent has the other half.
    """
    if shutil.which(PROGRAM) is None:
        raise OSError(0, f"no {PROGRAM} on PATH; it comes with OpenSSH")
    words = [PROGRAM, "-Y", "sign", "-n", NAMESPACE, "-f", key]
    done = subprocess.run(words, input=text, capture_output=True, check=False)
    if done.returncode or b"SSH SIGNATURE" not in done.stdout:
        raise OSError(0, _last(done.stderr.decode("utf-8", "replace")))
    return done.stdout


def _call(*words: str, text: bytes = b"") -> tuple[int, str, str]:
    """Return the exit code of ssh-keygen -Y, and the beginnings of its output and its errors."""
    program = shutil.which(PROGRAM) or PROGRAM
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        try:
            done = subprocess.run(
                [program, "-Y", *words],
                input=text,
                stdout=out,
                stderr=err,
                timeout=PATIENCE,
                cwd="/",
                env=_ENVIRONMENT,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise OSError(0, f"{PROGRAM} took longer than {PATIENCE:g} s") from error
        told = []
        for file in (out, err):
            file.seek(0)
            told.append(file.read(MOST_TOLD).decode("utf-8", "replace"))
    return done.returncode, told[0], told[1]


def _refused(why: str) -> Refused:
    """Return what an error of ssh-keygen says of a signature."""
    if "incorrect signature" in why:
        return Refused(Fault.ALTERED, _ALTERED)
    if "parse signature" in why or "sshsig_armor" in why:
        return Refused(Fault.ALTERED, "its signature is none of ssh-keygen -Y sign")
    for line in why.splitlines():
        if "expired" in line or "not yet valid" in line:
            return Refused(Fault.FOREIGN, f"its signer's key {line.rpartition(': key ')[2]}"[:200])
    if "namespace" in why:
        reason = f"its signature is for something else, not for jobs (ssh-keygen -n {NAMESPACE})"
        return Refused(Fault.FOREIGN, reason)
    return Refused(Fault.FOREIGN, "its signer is not among those that are allowed (--signed-by)")


def _last(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it says nothing"
