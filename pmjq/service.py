"""The service manager's side channel: sd_notify(3) without a library.

Nothing happens where there is no service manager, and nothing here can fail the daemon.
"""

from __future__ import annotations

import contextlib
import os
import socket


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


def _line(value: str | int) -> str:
    """Return a value on one line: a line break would begin another state."""
    return " ".join(str(value).splitlines())
