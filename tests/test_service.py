"""The rules of the service manager's side channel, spoken to a real socket, and of progress."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import uuid
from typing import TYPE_CHECKING

import pytest

from conftest import eventually
from pmjq import probe, service
from pmjq.disk import Disk
from pmjq.service import Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture(params=["file", "abstract"])
def manager(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[socket.socket]:
    """Listen as a service manager does, and tell the daemon where."""
    abstract = request.param == "abstract"
    name = f"pmjq-test-{uuid.uuid4()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind("\0" + name if abstract else name)
        listening.settimeout(0)
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + name if abstract else name)
        yield listening


def test_states_are_sent_in_one_datagram(manager: socket.socket) -> None:
    """Each call is one message, a state per line."""
    service.notify(READY=1, STATUS="2 running, 5 queued, gate open")
    service.notify(WATCHDOG=1)
    assert manager.recv(4096) == b"READY=1\nSTATUS=2 running, 5 queued, gate open"
    assert manager.recv(4096) == b"WATCHDOG=1"
    with pytest.raises(BlockingIOError):
        manager.recv(4096)


def test_status_that_is_no_text(manager: socket.socket) -> None:
    """A status may hold what cannot be encoded."""
    service.notify(STATUS="größe \udcff")
    assert manager.recv(4096) == "STATUS=größe ?".encode()


def test_manager_that_does_not_listen_stalls_nobody(manager: socket.socket) -> None:
    """When the manager's queue is full, messages are lost and the daemon goes on."""
    for _ in range(2000):
        service.notify(WATCHDOG=1)
    assert manager.recv(4096) == b"WATCHDOG=1"


@pytest.mark.parametrize(
    "address", [None, "", "relative", "vsock:2:1234", "/nowhere/at/all", "@nobody", "/" + "a" * 500]
)
def test_without_a_manager_nothing_happens(
    address: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No manager, or one that cannot be reached, is no error."""
    if address is None:
        monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    else:
        monkeypatch.setenv("NOTIFY_SOCKET", address)
    service.notify(READY=1)


def test_path_of_any_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The socket's path need not be UTF-8."""
    path = os.fsencode(tmp_path) + b"/\xff"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(path)
        monkeypatch.setenv("NOTIFY_SOCKET", os.fsdecode(path))
        service.notify(READY=1)
        listening.settimeout(0)
        assert listening.recv(99) == b"READY=1"


@pytest.mark.parametrize(
    ("microseconds", "pid", "expected"),
    [
        (None, None, None),
        ("30000000", None, 30.0),
        ("500000", "me", 0.5),
        ("30000000", "1", None),
        ("0", None, None),
        ("", None, None),
        ("-1", None, None),
        ("soon", None, None),
        ("1.5", None, None),
        ("²", None, None),
    ],
)
def test_watchdog(
    microseconds: str | None,
    pid: str | None,
    expected: float | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The watchdog is this process's if it is named, or nobody is; nonsense is none."""
    for key, value in (("WATCHDOG_USEC", microseconds), ("WATCHDOG_PID", pid)):
        if value is None:
            monkeypatch.delenv(key, raising=False)
        else:
            monkeypatch.setenv(key, str(os.getpid()) if value == "me" else value)
    assert service.watchdog() == expected


# -- progress


@contextlib.contextmanager
def working(work: Callable[[], object]) -> Iterator[Progress]:
    """Return the progress of a thread that does one piece of work, and wait for its end."""
    progress = Progress()

    def run() -> None:
        with progress.watched(), progress.at_work():
            begun.set()
            work()

    begun = threading.Event()
    thread = threading.Thread(target=run)
    thread.start()
    begun.wait()
    yield progress
    thread.join()


def test_thread_that_has_not_begun_or_has_ended_makes_no_progress() -> None:
    """Who is not there does nothing."""
    progress = Progress()
    assert not progress.made(within=60)
    with progress.watched():
        assert progress.made(within=60)
    assert progress.over.is_set()
    assert not progress.made(within=60)


def test_thread_that_dies_makes_no_progress() -> None:
    """An error that ends the thread ends its progress, whatever it was doing."""
    progress = Progress()
    with pytest.raises(ZeroDivisionError), progress.watched(), progress.at_work():
        raise ZeroDivisionError
    assert not progress.made(within=60)


def test_thread_that_sleeps_makes_progress() -> None:
    """Between two pieces of work it may sleep as long as it likes."""
    progress = Progress()
    with progress.watched():
        with progress.at_work():
            assert progress.made(within=60)
        assert progress.made(within=0)


def test_work_may_take_its_time_and_no_longer() -> None:
    """A piece of work that waits for a lock that nobody gives back is no progress."""
    lock = threading.Event()
    with working(lock.wait) as progress:
        assert progress.made(within=60)
        eventually(lambda: not progress.made(within=0))
        lock.set()


def test_hanging_disk_is_nobodys_fault(tmp_path: Path) -> None:
    """A piece of work that hangs in a call of the disk makes progress, however long it takes."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with working(lambda: Disk().write(str(fifo), b"")) as progress:
        eventually(lambda: progress.made(within=0))
        assert progress.made(within=0)
        reading = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    os.close(reading)


def test_state_of_the_kernel_tells_of_a_disk_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wait that no signal ends is a disk's, in whatever part of the program."""
    lock = threading.Event()
    with working(lock.wait) as progress:
        monkeypatch.setattr(probe, "in_disk_sleep", lambda _: True)
        assert progress.made(within=0)
        lock.set()
