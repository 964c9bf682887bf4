"""The rules of the service manager's side channel, spoken to a real socket."""

from __future__ import annotations

import os
import socket
import uuid
from typing import TYPE_CHECKING

import pytest

from pmjq import service

if TYPE_CHECKING:
    from collections.abc import Iterator
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
