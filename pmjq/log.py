"""The log: dotted events with keys, for people on a terminal and as JSON for everything else.

One place sets structlog up. The log goes to standard error; where that is a file, ``reopen``
follows a rotation. A log that cannot be written (full disk, closed terminal) costs lines, never
the daemon.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import sys
from typing import TYPE_CHECKING, Any

import msgspec
import structlog

if TYPE_CHECKING:
    from structlog.typing import EventDict, FilteringBoundLogger, WrappedLogger

_encoder = msgspec.json.Encoder(enc_hook=str)


class _Output:
    """Standard error, written one whole line at a time and without ever raising."""

    def __init__(self, fd: int = 2) -> None:
        self.fd = fd
        self.lost = 0
        self.path = _path_of(fd)

    def msg(self, line: str) -> None:
        data = line.encode("utf-8", "backslashreplace") + b"\n"
        try:
            os.write(self.fd, data)
        except OSError:
            self.lost += 1

    log = debug = info = warn = warning = err = error = critical = exception = fatal = msg

    def reopen(self) -> None:
        """Open the log file again under its name, if standard error is a file."""
        if not self.path:
            return
        with contextlib.suppress(OSError):
            fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
            os.dup2(fd, self.fd)
            os.close(fd)


class Log:
    """Set up logging in one of the formats ``auto``, ``console`` and ``json``."""

    def __init__(self, style: str = "auto") -> None:
        """``auto``: for people if standard error is a terminal, else JSON."""
        self._output = _Output()
        people = style == "console" or (style == "auto" and sys.stderr.isatty())
        last: list[Any] = (
            [
                _printable,
                structlog.dev.ConsoleRenderer(colors=_colours(), pad_event_to=22, sort_keys=False),
            ]
            if people
            else [_as_json]
        )
        stamp = structlog.processors.TimeStamper(
            fmt="%H:%M:%S" if people else "iso", utc=not people
        )
        self.logger: FilteringBoundLogger = structlog.wrap_logger(
            self._output,
            processors=[structlog.processors.add_log_level, stamp, *last],
            wrapper_class=structlog.make_filtering_bound_logger(20),
            cache_logger_on_first_use=True,
        )

    def reopen(self) -> None:
        """Follow a rotation of the log file."""
        self._output.reopen()


def _printable(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Escape what would break a line or work on a terminal: names of files may hold anything."""
    for key, value in event.items():
        if isinstance(value, str) and not value.isprintable():
            event[key] = "".join(
                letter if letter.isprintable() else ascii(letter)[1:-1] for letter in value
            )
    return event


def _as_json(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    """Return one line of JSON that says exactly what was logged, and works on no terminal."""
    first = {key: event.pop(key) for key in ("timestamp", "level", "event")}
    ordered = first | dict(event)
    try:
        line = _encoder.encode(ordered).decode()
    except (TypeError, ValueError, RecursionError):
        # A surrogate, or a key of a kind that JSON has not: the other keys stay as they are.
        plain = {_text(key): _plain(value) for key, value in ordered.items()}
        line = _encoder.encode(plain).decode()
    if line.isprintable():
        return line
    return "".join(letter if letter.isprintable() else json.dumps(letter)[1:-1] for letter in line)


def _plain(value: object) -> object:
    if isinstance(value, str):
        return _text(value)
    try:
        _encoder.encode(value)
    except (TypeError, ValueError, RecursionError):
        return ascii(value)
    return value


def _text(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def _colours() -> bool:
    return sys.stderr.isatty() and not os.environ.get("NO_COLOR")


def _path_of(fd: int) -> str:
    """Return the path of the file that a descriptor is open on, if it is one and has one."""
    with contextlib.suppress(OSError):
        here = os.fstat(fd)
        path = os.readlink(f"/proc/self/fd/{fd}")
        if stat.S_ISREG(here.st_mode) and os.path.samestat(here, os.stat(path)):
            return path
    return ""
