"""Root's daemon where everybody's files are nobody's: who signed a job has it run as himself."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import AS_NOBODY, NOBODY, Say
from live import eventually
from pmjq.state import State
from signatures import Keys, Signing, needed
from test_daemon_signed import REWRITING

pytestmark = [pytest.mark.lab, needed]

ANN, BOB = "pmjqlabann", "pmjqlabbob"

TRIES = 10


class Squashed(Signing):
    """A daemon whose spool gets nobody's files, as from a share that maps all users to him."""

    def write(self, name: str | bytes, content: str | bytes, mode: int = 0o755) -> Path:
        path = super().write(name, content, mode)
        os.chown(path, NOBODY, NOBODY)
        return path

    def by(self, who: str, name: str, content: bytes) -> None:
        """Put a job into the spool that somebody has signed."""
        key = self.keys.directory / who
        self.put(name, content, self.signature(name, content, key=key))


@pytest.fixture(scope="module")
def people() -> Iterator[None]:
    """Have two users on this machine, for as long as the tests run."""
    if os.geteuid():
        pytest.skip("only root makes users")
    if shutil.which("useradd") is None or shutil.which("setpriv") is None:
        pytest.skip("no useradd or no setpriv here")
    try:
        for name in (ANN, BOB):
            words = ["useradd", "--no-create-home", "--shell", "/bin/sh", name]
            subprocess.run(words, check=True)
        yield
    finally:
        for name in (ANN, BOB):
            subprocess.run(["userdel", name], check=False, capture_output=True)


@pytest.fixture(scope="module")
def live(people: None) -> Iterator[Squashed]:
    """Return root's daemon on a spool that everybody can write."""
    root = Path(tempfile.mkdtemp(prefix="pmjq-lab-", dir="/tmp"))
    root.chmod(0o755)
    keys = Keys(root / "keys")
    for name in (ANN, BOB, "root", "pmjqlabnone"):
        keys.allow(keys.make(name), name)
    daemon = Squashed(root / "signed", "-j", "4", "--deny-user", BOB, keys=keys)
    daemon.spool.chmod(0o1777)
    daemon.side.chmod(0o1777)
    try:
        with daemon:
            yield daemon
    finally:
        shutil.rmtree(root)


def test_job_runs_as_its_signer(live: Squashed) -> None:
    """The principal names the user; whose file it was means nothing."""
    content = b'#!/bin/sh\nid -un; echo "$USER $PMJQ_OWNER $PMJQ_SIGNER"; touch mine\n'
    live.by(ANN, "whose", content)
    filed = live.ended("whose")
    uid = pwd.getpwnam(ANN).pw_uid
    assert filed.text == f"{ANN}\n{ANN} {ANN} {ANN}\n"
    record = filed.record
    assert (record.state, record.owner, record.uid, record.signer) == (State.DONE, ANN, uid, ANN)
    stat = filed.path.stat()
    assert (stat.st_uid, stat.st_mode & 0o7777) == (uid, 0o500)
    assert filed.path.read_bytes() == content
    assert (filed.files / "mine").stat().st_uid == uid


@pytest.mark.parametrize(
    ("who", "reason"),
    [(BOB, "is denied here"), ("root", "--allow-root"), ("pmjqlabnone", "no user of this machine")],
)
def test_signer_whose_jobs_are_not_run(live: Squashed, who: str, reason: str) -> None:
    """The policy is that of the signer, and his job stays for another node."""
    name = f"of-{who}"
    live.by(who, name, live.job(name))
    assert reason in live.aside(name, within=70)
    assert live.runs(name) == 0
    (live.spool / name).unlink()


def test_own_file_that_is_not_signed(live: Squashed) -> None:
    """That a file is a user's own counts for nothing."""
    path = live.write("own", live.job("own"))
    uid = pwd.getpwnam(ANN).pw_uid
    os.chown(path, uid, uid)
    path.rename(live.spool / "own")
    assert live.ended("own", within=60).record.state is State.REJECTED
    assert live.runs("own") == 0


def test_whoever_owns_the_file_changes_it(live: Squashed, say: Say) -> None:
    """Nobody goes on writing to the file that is claimed; ann runs what she has signed."""
    names = [f"rewritten-{number}" for number in range(4 * TRIES)]
    for kind in ("honest", "forged"):
        (live.side / kind).mkdir()
        (live.side / kind).chmod(0o1777)
    for begin in range(0, len(names), TRIES):
        part, paths = names[begin : begin + TRIES], []
        for name in part:
            content = f"#!/bin/sh\nid -un >>'{live.side}/honest/{name}'\n".encode()
            live.beside(name, live.signature(name, content, key=live.keys.directory / ANN))
            paths.append(live.write(name, content))
        stop = live.root / f"stop-{begin}"
        words = [*AS_NOBODY, sys.executable, "-c", REWRITING, str(stop), *map(str, paths)]
        with subprocess.Popen(words, stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            if writer.stdout.readline() != b"open\n":
                pytest.skip(f"nobody cannot run {sys.executable}")
            for path in paths:
                path.rename(live.spool / path.name)
            with contextlib.suppress(AssertionError):
                _until_filed(live, part, within=6)
            stop.touch()
        _until_filed(live, part)
    done = [name for name in names if live.ended(name).record.state is State.DONE]
    assert sorted(os.listdir(live.side / "honest")) == sorted(done)
    assert {(live.side / "honest" / name).read_text() for name in done} <= {f"{ANN}\n"}
    assert os.listdir(live.side / "forged") == []
    say(
        f"altered by who owns the file: {len(names)} tried, {len(done)} executed as signed, "
        f"{len(names) - len(done)} rejected, none executed as altered"
    )


def _until_filed(live: Squashed, names: list[str], within: float = 60.0) -> None:
    eventually(lambda: all(live.named(name) for name in names), within=within)
