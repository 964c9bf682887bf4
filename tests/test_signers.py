"""Whose a signature is, by the real ssh-keygen."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from pmjq import signers
from pmjq.errors import ConfigurationError
from pmjq.signers import Refused, Signers, UnableError
from pmjq.signing import Fault
from signatures import Keys, needed

pytestmark = needed

TEXT = b"pmjq job 1\n"


class Moment:
    """A clock that is set."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    """Return keys of which ann's is allowed."""
    keys = Keys(tmp_path / "keys")
    keys.allow(keys.make("ann"), "ann")
    return keys


def _signers(keys: Keys) -> Signers:
    return Signers(str(keys.allowed), Moment())


def test_principal_is_the_first_that_the_file_names(keys: Keys) -> None:
    """Of several names of one key the first counts, and patterns never."""
    key = keys.make("shared")
    keys.allow(key, "*@example.org,bob,carol")
    keys.allow(key, "dan")
    assert _signers(keys).verified(TEXT, keys.sign(key, TEXT)) == "bob"


def test_certificate(keys: Keys) -> None:
    """A line for an authority lets those sign whom it has certified, by the names it gave them."""
    authority, key = keys.make("authority"), keys.make("erin")
    words = ["ssh-keygen", "-q", "-s", str(authority), "-I", "id", "-n", "erin", f"{key}.pub"]
    subprocess.run(words, check=True, capture_output=True)
    signature = keys.sign(keys.directory / "erin-cert.pub", TEXT)
    assert isinstance(_signers(keys).verified(TEXT, signature), Refused)
    keys.allow(authority, "*", "cert-authority")
    assert _signers(keys).verified(TEXT, signature) == "erin"


def test_altered(keys: Keys) -> None:
    """A signature of another text is told from one by somebody else."""
    signature = keys.sign(keys.directory / "ann", TEXT)
    found = _signers(keys).verified(TEXT + b"x", signature)
    assert isinstance(found, Refused)
    assert found.fault is Fault.ALTERED
    foreign = _signers(keys).verified(TEXT, keys.sign(keys.make("eve"), TEXT))
    assert isinstance(foreign, Refused)
    assert foreign.fault is Fault.FOREIGN


def test_line_that_cannot_be_understood(keys: Keys) -> None:
    """A wrong line in the file is passed over, and the others count."""
    text = keys.allowed.read_text()
    keys.allowed.write_text(f'garbage\nann namespaces="\n{text}')
    signature = keys.sign(keys.directory / "ann", TEXT)
    assert _signers(keys).verified(TEXT, signature) == "ann"


def test_file_that_is_gone(keys: Keys) -> None:
    """Nobody is refused while the file is away; it is looked for again after a while."""
    clock = Moment()
    found = Signers(str(keys.allowed), clock)
    assert found.trouble() == ""
    text = keys.allowed.read_bytes()
    keys.allowed.unlink()
    with pytest.raises(UnableError, match="No such file"):
        found.verified(TEXT, keys.sign(keys.directory / "ann", TEXT))
    keys.allowed.write_bytes(text)
    assert "No such file" in found.trouble()
    clock.now += signers.AGAIN
    assert found.trouble() == ""


def test_program_that_does_not_work(
    keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What ssh-keygen says counts only if it verifies a signature that is known to be good."""
    program = tmp_path / "ssh-keygen"
    program.write_text("#!/bin/sh\necho 'No user exists for uid 4711' >&2\nexit 255\n")
    program.chmod(0o755)
    signature = keys.sign(keys.directory / "ann", TEXT)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnableError, match="No user exists"):
        _signers(keys).verified(TEXT, signature)
    with pytest.raises(ConfigurationError, match="No user exists"):
        _signers(keys).check()


def test_program_that_hangs(keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that does not answer is ended, and nothing is decided."""
    program = tmp_path / "ssh-keygen"
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o755)
    signature = keys.sign(keys.directory / "ann", TEXT)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(signers, "PATIENCE", 0.2)
    with pytest.raises(UnableError, match=r"longer than 0\.2 s"):
        _signers(keys).verified(TEXT, signature)


@pytest.mark.parametrize("mode", [0o664, 0o646])
def test_file_that_others_can_write(keys: Keys, mode: int) -> None:
    """Whoever can write the file could allow himself."""
    keys.allowed.chmod(mode)
    with pytest.raises(ConfigurationError, match="others than this user may write it"):
        _signers(keys).check()


def test_sign_says_why_not(tmp_path: Path) -> None:
    """A key that there is not is an error with a sentence."""
    with pytest.raises(OSError, match="none"):
        signers.sign(str(tmp_path / "none"), TEXT)
