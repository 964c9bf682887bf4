"""The rules of the lock: one daemon per node, spool and machine."""

from __future__ import annotations

import os
import pwd
import shutil
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


class Places:
    """Where locks may be, below a directory of the test: the real ones belong to real daemons."""

    def __init__(self, base: Path) -> None:
        self.run = base / "run" / "pmjq"
        self.tmp = base / "pmjq-1000"
        self.home = base / "home"
        self.cache = self.home / ".cache" / "pmjq"
        self.home.mkdir(mode=0o755)

    def log_in(self) -> None:
        """Make what a login makes."""
        self.run.parent.mkdir(mode=0o700)

    def log_out(self) -> None:
        """Remove what a login made."""
        shutil.rmtree(self.run.parent)

    def squat(self) -> None:
        """Have somebody else's, or nobody's, in the place below /tmp."""
        self.tmp.write_bytes(b"")


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Places:
    """Have the locks where the test wants them; nobody is logged in."""
    places = Places(tmp_path)
    monkeypatch.setattr(lock, "passing", lambda: [places.run])
    monkeypatch.setattr(lock, "lasting", lambda: [places.tmp, places.cache])
    return places


@pytest.fixture
def directory(places: Places) -> Path:
    """Return where the locks are of somebody who is not logged in."""
    return places.tmp


@pytest.fixture
def acquire(places: Places) -> Iterator[Callable[[str, str], list[int]]]:
    """Take locks that are given back after the test."""
    held: list[list[int]] = []

    def take(spool: str, node: str) -> list[int]:
        held.append(lock.acquire(spool, node))
        return held[-1]

    yield take
    for fds in held:
        lock.release(fds)


def test_places_depend_on_the_user_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon from cron and one from a login meet at the same lock."""
    uid = os.geteuid()
    for variable in ("HOME", "TMPDIR", "XDG_RUNTIME_DIR", "XDG_STATE_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(variable, "/nowhere")
    places = [str(place) for place in (*lock.passing(), *lock.lasting())]
    assert places[0] == "/run/pmjq" if uid == 0 else f"/run/user/{uid}/pmjq"
    assert not [place for place in places if place.startswith("/nowhere")]


def test_places_of_a_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that a login brings, and two that stay; a user without a name has no home."""
    monkeypatch.setattr(os, "geteuid", lambda: 4_000_000)
    assert lock.passing() == [Path("/run/user/4000000/pmjq")]
    assert lock.lasting() == [Path("/tmp/pmjq-4000000")]
    monkeypatch.setattr(os, "geteuid", lambda: 65534)
    home = Path(pwd.getpwuid(65534).pw_dir).resolve()
    assert lock.lasting() == [Path("/tmp/pmjq-65534"), home / ".cache" / "pmjq"]


def test_second_of_the_same_is_refused(acquire: Callable[[str, str], list[int]]) -> None:
    """A second daemon of a node is told who the first is and what to do."""
    acquire("spool", "a")
    with pytest.raises(TryLaterError) as refused:
        lock.acquire("spool", "a")
    words = ["node a", f"process {os.getpid()}", "--node"]
    assert [word for word in words if word not in str(refused.value)] == []


def test_others_are_not_refused(acquire: Callable[[str, str], list[int]]) -> None:
    """Another node, or another spool, has a lock of its own."""
    held = [acquire(*pair) for pair in (("spool", "a"), ("spool", "b"), ("other", "a"))]
    assert len({os.fstat(fd).st_ino for (fd,) in held}) == 3


def test_given_back_when_closed(acquire: Callable[[str, str], list[int]], directory: Path) -> None:
    """The lock is that of an open file: closed is free, whatever lies in the directory."""
    lock.release(lock.acquire("spool", "a"))
    assert len(list(directory.iterdir())) == 1
    acquire("spool", "a")
    assert [path.read_text("ascii") for path in directory.iterdir()] == [f"{os.getpid()}\n"]


def test_longer_pid_of_the_last_holder_is_overwritten(
    acquire: Callable[[str, str], list[int]], directory: Path
) -> None:
    """The file names its present holder and nobody else."""
    lock.release(lock.acquire("spool", "a"))
    (path,) = directory.iterdir()
    path.write_text("12345678901234567890\n", "ascii")
    acquire("spool", "a")
    assert path.read_text("ascii") == f"{os.getpid()}\n"


def test_holder_that_has_not_said_who_it_is(
    acquire: Callable[[str, str], list[int]], directory: Path
) -> None:
    """Between taking the lock and writing its pid a holder is unknown, and holds."""
    os.ftruncate(acquire("spool", "a")[0], 0)
    with pytest.raises(TryLaterError, match="process unknown"):
        lock.acquire("spool", "a")


def test_jobs_do_not_inherit_it(acquire: Callable[[str, str], list[int]]) -> None:
    """A job that outlives the daemon must not keep the next one out."""
    assert not any(map(os.get_inheritable, acquire("spool", "a")))


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
    held = eventually(lambda: lock.acquire(spool, "a"))
    for fd in held:
        Path(os.readlink(f"/proc/self/fd/{fd}")).unlink()
    lock.release(held)


# --- where it is


def test_directory_is_private(acquire: Callable[[str, str], list[int]], directory: Path) -> None:
    """Nobody else can put a lock into a user's directory, nor read the pids in it."""
    acquire("spool", "a")
    assert directory.stat().st_mode & 0o777 == 0o700


def test_made_where_it_stays_and_where_it_does_not(
    acquire: Callable[[str, str], list[int]], places: Places
) -> None:
    """Who is logged in has two locks, so that he meets who is not; the home is left alone."""
    places.log_in()
    assert len(acquire("spool", "a")) == 2
    assert (places.run.exists(), places.tmp.exists()) == (True, True)
    assert os.listdir(places.home) == []


@pytest.mark.parametrize("first", ["logged in", "not logged in"])
@pytest.mark.parametrize("squatted", [False, True])
def test_logged_in_or_not_they_meet(
    acquire: Callable[[str, str], list[int]], places: Places, first: str, *, squatted: bool
) -> None:
    """A login makes a place and takes it away again; the others keep two daemons apart."""
    if squatted:
        places.squat()
    if first == "logged in":
        places.log_in()
    acquire("spool", "a")
    if first == "logged in":
        places.log_out()
    else:
        places.log_in()
    with pytest.raises(TryLaterError, match=f"process {os.getpid()}"):
        lock.acquire("spool", "a")


def test_place_that_becomes_free(acquire: Callable[[str, str], list[int]], places: Places) -> None:
    """When a stranger's is gone a daemon takes that place, and the one that was taken instead."""
    places.squat()
    acquire("spool", "a")
    places.tmp.unlink()
    with pytest.raises(TryLaterError):
        lock.acquire("spool", "a")


def test_refused_lock_leaves_none_behind(
    acquire: Callable[[str, str], list[int]], places: Places
) -> None:
    """Who is refused in one place gives back what he had taken in another."""
    acquire("spool", "a")
    places.log_in()
    before = os.listdir("/proc/self/fd")
    with pytest.raises(TryLaterError):
        lock.acquire("spool", "a")
    assert os.listdir("/proc/self/fd") == before


def _unfit(directory: Path, how: str) -> None:
    """Put something in the place of a directory of locks."""
    match how:
        case "file":
            directory.write_bytes(b"")
        case "link":
            (directory.parent / "elsewhere").mkdir(mode=0o700)
            directory.symlink_to(directory.parent / "elsewhere")
        case "dangling":
            directory.symlink_to("/nowhere/at/all")
        case "another user's":
            directory.mkdir(mode=0o700)
            os.chown(directory, 65534, -1)
        case mode:
            directory.mkdir()
            directory.chmod(int(mode, 8))


UNFIT = [
    *("file", "link", "dangling", "0720", "0702", "0777", "1777"),
    pytest.param(
        "another user's",
        marks=pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away"),
    ),
]


@pytest.mark.parametrize("how", UNFIT)
def test_what_a_stranger_makes_keeps_nobody_out(
    acquire: Callable[[str, str], list[int]], places: Places, how: str
) -> None:
    """Anybody can make a name in /tmp that he who needs it cannot remove: there is the home."""
    _unfit(places.tmp, how)
    acquire("spool", "a")
    assert places.cache.stat().st_mode & 0o777 == 0o700
    assert len(os.listdir(places.cache)) == 1
    with pytest.raises(TryLaterError):
        lock.acquire("spool", "a")


@pytest.mark.parametrize("how", UNFIT)
def test_no_place_at_all(places: Places, how: str) -> None:
    """Where others could take the lock away there is none, and each place is named."""
    _unfit(places.tmp, how)
    places.cache.parent.mkdir(mode=0o700)
    _unfit(places.cache, how)
    with pytest.raises(ConfigurationError) as refused:
        lock.acquire("spool", "a")
    words = [str(places.run), str(places.tmp), str(places.cache), "this user alone", "node a"]
    assert [word for word in words if word not in str(refused.value)] == []


@pytest.mark.parametrize("mode", [0o777, 0o1777])
def test_home_that_everybody_can_write(places: Places, mode: int) -> None:
    """A home is none that is as good as /tmp."""
    places.squat()
    places.home.chmod(mode)
    with pytest.raises(ConfigurationError, match="this user alone"):
        lock.acquire("spool", "a")


def test_no_home(places: Places) -> None:
    """The user of a service may have none, and none is made."""
    places.squat()
    places.home.rmdir()
    with pytest.raises(ConfigurationError, match="No such file"):
        lock.acquire("spool", "a")
    assert not places.home.exists()
