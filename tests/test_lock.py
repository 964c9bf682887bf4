"""The rules of the lock: one daemon per node, spool and machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from conftest import eventually
from pmjq import lock
from pmjq.errors import ConfigurationError, TryLaterError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Have the locks in a directory of the test: the real one belongs to real daemons."""
    place = tmp_path / "locks"
    monkeypatch.setattr(lock, "place", lambda: place)
    return place


@pytest.fixture
def acquire(directory: Path) -> Iterator[Callable[[str, str], int]]:
    """Take locks that are given back after the test."""
    held: list[int] = []

    def take(spool: str, node: str) -> int:
        held.append(lock.acquire(spool, node))
        return held[-1]

    yield take
    for fd in held:
        os.close(fd)


def test_place_depends_on_the_user_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon from cron and one from a login meet at the same lock."""
    uid = os.geteuid()
    expected = Path("/run/pmjq") if uid == 0 else Path(f"/tmp/pmjq-{uid}")
    for variable in ("HOME", "TMPDIR", "XDG_RUNTIME_DIR"):
        monkeypatch.setenv(variable, "/nowhere")
    assert lock.place() == expected


def test_second_of_the_same_is_refused(acquire: Callable[[str, str], int]) -> None:
    """A second daemon of a node is told who the first is and what to do."""
    acquire("spool", "a")
    with pytest.raises(TryLaterError) as refused:
        lock.acquire("spool", "a")
    words = ["node a", f"process {os.getpid()}", "--node"]
    assert [word for word in words if word not in str(refused.value)] == []


def test_others_are_not_refused(acquire: Callable[[str, str], int]) -> None:
    """Another node, or another spool, has a lock of its own."""
    held = [acquire(*pair) for pair in (("spool", "a"), ("spool", "b"), ("other", "a"))]
    assert len({os.fstat(fd).st_ino for fd in held}) == 3


def test_given_back_when_closed(acquire: Callable[[str, str], int], directory: Path) -> None:
    """The lock is that of an open file: closed is free, whatever lies in the directory."""
    os.close(lock.acquire("spool", "a"))
    assert len(list(directory.iterdir())) == 1
    acquire("spool", "a")
    assert [path.read_text("ascii") for path in directory.iterdir()] == [f"{os.getpid()}\n"]


def test_longer_pid_of_the_last_holder_is_overwritten(
    acquire: Callable[[str, str], int], directory: Path
) -> None:
    """The file names its present holder and nobody else."""
    os.close(lock.acquire("spool", "a"))
    (path,) = directory.iterdir()
    path.write_text("12345678901234567890\n", "ascii")
    acquire("spool", "a")
    assert path.read_text("ascii") == f"{os.getpid()}\n"


def test_holder_that_has_not_said_who_it_is(
    acquire: Callable[[str, str], int], directory: Path
) -> None:
    """Between taking the lock and writing its pid a holder is unknown, and holds."""
    os.ftruncate(acquire("spool", "a"), 0)
    with pytest.raises(TryLaterError, match="process unknown"):
        lock.acquire("spool", "a")


def test_jobs_do_not_inherit_it(acquire: Callable[[str, str], int]) -> None:
    """A job that outlives the daemon must not keep the next one out."""
    assert not os.get_inheritable(acquire("spool", "a"))


def test_given_back_however_the_daemon_ends() -> None:
    """The kernel gives the lock of a killed process back; here in the real place."""
    spool = str(uuid.uuid4())
    code = (
        "import time; from pmjq import lock\n"
        f"lock.acquire({spool!r}, 'a'); print(1, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"1\n"
        with pytest.raises(TryLaterError, match=f"process {process.pid};"):
            lock.acquire(spool, "a")
        process.send_signal(signal.SIGKILL)
    fd = eventually(lambda: lock.acquire(spool, "a"))
    Path(os.readlink(f"/proc/self/fd/{fd}")).unlink()
    os.close(fd)


# --- the directory


def test_directory_is_private(acquire: Callable[[str, str], int], directory: Path) -> None:
    """Nobody else can put a lock into a user's directory, nor read the pids in it."""
    acquire("spool", "a")
    assert directory.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("mode", [0o720, 0o702, 0o777, 0o1777])
def test_directory_that_others_can_write(directory: Path, mode: int) -> None:
    """In a directory that others can write, they could take the lock away."""
    directory.mkdir()
    directory.chmod(mode)
    with pytest.raises(ConfigurationError, match=f"{directory}.*only this user can write.*remove"):
        lock.acquire("spool", "a")


def test_directory_that_is_a_link(directory: Path, tmp_path: Path) -> None:
    """A symbolic link in /tmp is somebody's trap."""
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    directory.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigurationError, match="remove it"):
        lock.acquire("spool", "a")


def test_directory_that_is_a_dangling_link(directory: Path) -> None:
    """So is one that leads nowhere."""
    directory.symlink_to("/nowhere/at/all")
    with pytest.raises(ConfigurationError, match="remove it"):
        lock.acquire("spool", "a")


def test_directory_that_is_a_file(directory: Path) -> None:
    """Anybody can make a file of that name in /tmp; the daemon says what is in its way."""
    directory.write_bytes(b"")
    with pytest.raises(ConfigurationError, match="remove it"):
        lock.acquire("spool", "a")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_directory_of_another_user(directory: Path) -> None:
    """Another user's directory is his."""
    directory.mkdir(mode=0o700)
    os.chown(directory, 65534, -1)
    with pytest.raises(ConfigurationError, match="remove it"):
        lock.acquire("spool", "a")
