"""What people ask of nodes where everybody may: by files that say what they ask for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from live import eventually
from pmjq.disk import Disk
from pmjq.requests import Request, Requests, asking

JOB = "0b5f0bfe-8a3c-4f2e-9f39-0c3a5d7e9a11"
ME = os.geteuid()


@pytest.fixture
def ask(tmp_path: Path) -> Path:
    """Return the directory of the requests to a life."""
    path = tmp_path / ".pmjq/node/a/ask"
    path.mkdir(parents=True)
    return path


def heard(ask: Path) -> list[Request]:
    """Return what the life is asked for, where everybody may ask."""
    requests = Requests(Disk(), str(ask.parents[3]), "a")
    requests.open_to_requests = True
    return requests.asked("cancel")


@pytest.mark.parametrize("name", [f"cancel.{JOB}", f"cancel.{JOB}.more"])
def test_request_tells_its_job(ask: Path, name: str) -> None:
    """Whatever else its name says, a file with the id of the job is its owner's request."""
    (ask / name).write_bytes(asking(JOB))
    assert heard(ask) == [Request(name, JOB, ME)]


@pytest.mark.parametrize("text", ["another", f"{JOB}", f"{JOB}\n\n"])
def test_what_somebody_else_may_have_moved_here(ask: Path, text: str) -> None:
    """A file that does not say what it asks for is not its owner's request, and is removed."""
    (ask / f"cancel.{JOB}").write_text(text)
    assert (heard(ask), os.listdir(ask)) == ([], [])


@pytest.mark.parametrize("mode", [0o664, 0o646])
def test_what_somebody_else_may_have_written(ask: Path, mode: int) -> None:
    """What others can write does not tell what its owner wants."""
    path = ask / f"cancel.{JOB}"
    path.write_bytes(asking(JOB))
    path.chmod(mode)
    assert (heard(ask), os.listdir(ask)) == ([], [])


def test_second_names_and_links(ask: Path) -> None:
    """A hard or symbolic link to a request of somebody's is nobody's."""
    said = ask.parent / "said"
    said.write_bytes(asking(JOB))
    os.link(said, ask / f"cancel.{JOB}.hard")
    os.symlink(said, ask / f"cancel.{JOB}.soft")
    os.mkfifo(ask / f"cancel.{JOB}.fifo")
    assert (heard(ask), os.listdir(ask)) == ([], [])


def test_directory_stays(ask: Path) -> None:
    """What somebody has put into a directory may be too much to be removed in between."""
    (ask / f"cancel.{JOB}" / "x").mkdir(parents=True)
    (ask / "empty").mkdir()
    assert heard(ask) == []
    assert [path.name for path in ask.iterdir()] == [f"cancel.{JOB}"]
    assert (ask / f"cancel.{JOB}" / "x").exists()


def test_request_that_is_being_written(ask: Path) -> None:
    """An empty file that is open may become a request; one that is not will not."""
    path = ask / f"cancel.{JOB}"
    with path.open("wb"):
        assert (heard(ask), path.exists()) == ([], True)
    assert (heard(ask), path.exists()) == ([], False)


LEASE = """
import fcntl, os, signal, sys, time
signal.signal(signal.SIGIO, signal.SIG_IGN)
fd = os.open(sys.argv[1], os.O_RDONLY)
fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
print("held", flush=True)
time.sleep(1000)
"""


def test_lease_keeps_nobody_waiting(ask: Path) -> None:
    """What its owner keeps shut by a lease asks for nothing, and holds nobody up."""
    path = ask / f"cancel.{JOB}"
    path.write_bytes(asking(JOB))
    with subprocess.Popen(
        [sys.executable, "-c", LEASE, path], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        try:
            if holder.stdout.readline() != "held\n":
                pytest.skip("no leases here")
            assert heard(ask) == []
            eventually(lambda: not path.exists(), within=5)
        finally:
            holder.send_signal(signal.SIGKILL)
