"""The service manager's side channel: sd_notify(3) without a library; what the watchdog is to know.

Nothing happens where there is no service manager, and nothing here can fail the daemon.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import time
from typing import TYPE_CHECKING

from pmjq import disk, probe

if TYPE_CHECKING:
    from collections.abc import Iterator


def notify(**states: str | int) -> None:
    """Send states such as ``READY=1`` to the service manager, if there is one."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    text = "\n".join(f"{key}={_line(value)}" for key, value in states.items())
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
        line.setblocking(False)  # noqa: FBT003  # the socket's own signature
        line.sendto(text.encode("utf-8", "replace"), address)


def watchdog() -> float | None:
    """Return after how many seconds without a sign of life the service manager acts, if it does."""
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    pid = os.environ.get("WATCHDOG_PID", "")
    if pid and pid != str(os.getpid()):
        return None
    try:
        return max(0, int(microseconds)) / 1e6 or None
    except ValueError:
        return None


class Progress:
    """Tells of a thread whether it gets on with its work.

    One that hangs in a call of the disk does: it goes on when the disk does, and to kill it helps
    nobody. One that hangs elsewhere does not, nor one that has ended.
    """

    def __init__(self) -> None:
        """Know nothing of a thread yet; until it begins it makes no progress."""
        self.over = threading.Event()
        self.over.set()
        self._thread = threading.current_thread()
        self._since: float | None = None

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Surround everything that the thread does."""
        self._thread = threading.current_thread()
        self.over.clear()
        try:
            yield
        finally:
            self.over.set()

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """Surround one piece of work; between two of them the thread sleeps as long as it likes."""
        self._since = time.monotonic()
        try:
            yield
        finally:
            self._since = None

    def made(self, within: float) -> bool:
        """Tell whether it gets on; a piece of work may take so many seconds."""
        since = self._since
        if self.over.is_set():
            return False
        return since is None or time.monotonic() - since < within or self._in_disk_call()

    def _in_disk_call(self) -> bool:
        thread = self._thread
        if probe.in_disk_sleep(thread.native_id or 0):
            return True
        # On FUSE, and in a call that a signal may interrupt, the kernel calls it no disk sleep.
        frame = sys._current_frames().get(thread.ident or 0)  # noqa: SLF001  # the documented way
        while frame is not None:
            if frame.f_code.co_filename == disk.__file__:
                return True
            frame = frame.f_back
        return False


def _line(value: str | int) -> str:
    """Return a value on one line: a line break would begin another state."""
    return " ".join(str(value).splitlines())
