"""The log: dotted events with keys, for people on a terminal and as JSON for everything else.

One place sets structlog up. The log goes to standard error; where that is a file, ``reopen``
follows a rotation. A log that cannot be written (full disk, closed terminal) or that nobody reads
(a pipe, a stopped terminal) costs lines, never the daemon: a thread writes them, which alone waits
for whoever reads. Lines that are lost are counted, and the log says so when it works again.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import select
import stat
import threading
from typing import TYPE_CHECKING, Any

import msgspec
import structlog

if TYPE_CHECKING:
    from collections.abc import Callable

    from structlog.typing import EventDict, FilteringBoundLogger, WrappedLogger

_encoder = msgspec.json.Encoder(enc_hook=str)


MOST_KEPT = 1 << 20
"""Bytes of lines that are kept for a reader who does not read; what comes on top is lost."""

AT_ONCE = select.PIPE_BUF
"""Bytes written at once: of so many nobody else's lines on the same pipe come in between."""

PATIENCE = 1.0
"""Seconds that the end of the daemon waits for its last lines to be written."""


class _Output:
    """Standard error, written one whole line at a time, without ever raising or waiting.

    ``gap`` makes the line that says how many were lost.
    """

    def __init__(self, fd: int = 2, gap: Callable[[int], str] = "{} lines lost".format) -> None:
        self.fd = fd
        self.lost = 0
        self.path = _path_of(fd)
        self._gap = gap
        self._kept = 0
        self._torn = False
        self._works = False
        self._counting = threading.Lock()
        self._queue: queue.SimpleQueue[bytes | Callable[[], None]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def msg(self, line: str) -> None:
        data = line.encode("utf-8", "backslashreplace") + b"\n"
        with self._counting:
            if self._kept + len(data) > MOST_KEPT or not self._started():
                self.lost += 1
                return
            self._kept += len(data)
        self._queue.put(data)

    log = debug = info = warn = warning = err = error = critical = exception = fatal = msg

    def reopen(self) -> None:
        """Open the log file again under its name, if standard error is a file.

        What was logged before goes to the old one.
        """
        if self.path:
            self._then(self._reopen)

    def flush(self, patience: float = PATIENCE) -> bool:
        """Wait until everything is written, for so many seconds at most; tell whether it is."""
        written = threading.Event()
        self._then(written.set)
        return written.wait(patience)

    def _then(self, call: Callable[[], None]) -> None:
        """Have something called when all lines so far are written."""
        with self._counting:
            if self._started():
                self._queue.put(call)

    def _started(self) -> bool:
        """Start the thread if it is not there; False if that cannot be now."""
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="log", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                return False
            self._thread = thread
        return True

    def _run(self) -> None:
        item: bytes | Callable[[], None] | None = None
        while True:
            item = item or self._next()
            if not isinstance(item, bytes) and self._queue.empty():
                self._say_gap()
            item = item or self._queue.get()
            if isinstance(item, bytes):
                item = self._write_from(item)
            else:
                item()
                item = None

    def _write_from(self, line: bytes) -> bytes | Callable[[], None] | None:
        """Write a line, and those behind it; return what came next."""
        lines = [line]
        size = len(line)
        while isinstance(after := self._next(), bytes) and size + len(after) <= AT_ONCE:
            lines.append(after)
            size += len(after)
        lost = self._write(b"".join(lines))
        self._works = not lost
        with self._counting:
            self._kept -= size
            self.lost += lost
        return after

    def _say_gap(self) -> None:
        """Say how many lines were lost, if the last one was not."""
        with self._counting:
            lost = self.lost
        if lost and self._works and not self._write(self._gap(lost).encode() + b"\n"):
            with self._counting:
                self.lost -= lost

    def _next(self) -> bytes | Callable[[], None] | None:
        with contextlib.suppress(queue.Empty):
            return self._queue.get_nowait()
        return None

    def _write(self, data: bytes) -> int:
        """Write lines; return how many of them could not be written."""
        rest = b"\n" + data if self._torn else data
        while rest:
            try:
                count = os.write(self.fd, rest)
            except BlockingIOError:
                # Whoever shares the pipe or the terminal has set it so.
                _wait_for_room(self.fd)
                continue
            except OSError:
                return min(rest.count(b"\n"), data.count(b"\n"))
            self._torn = rest[count - 1 : count] != b"\n"
            rest = rest[count:]
        return 0

    def _reopen(self) -> None:
        with contextlib.suppress(OSError):
            fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
            os.dup2(fd, self.fd)
            os.close(fd)


class Log:
    """Set up logging in one of the formats ``auto``, ``console`` and ``json``."""

    def __init__(self, style: str = "auto") -> None:
        """``auto``: for people if standard error is a terminal, else JSON."""
        people = style == "console" or (style == "auto" and _is_terminal())
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
        processors = [structlog.processors.add_log_level, stamp, *last]
        lines: FilteringBoundLogger = structlog.wrap_logger(
            structlog.ReturnLogger(),
            processors=processors,
            wrapper_class=structlog.make_filtering_bound_logger(20),
        )
        self._output = _Output(gap=lambda lost: str(lines.warning("log.lost", lines=lost)))
        self.logger: FilteringBoundLogger = structlog.wrap_logger(
            self._output,
            processors=processors,
            wrapper_class=structlog.make_filtering_bound_logger(20),
            cache_logger_on_first_use=True,
        )

    def reopen(self) -> None:
        """Follow a rotation of the log file."""
        self._output.reopen()

    def flush(self, patience: float = PATIENCE) -> bool:
        """Wait until everything is written, for so many seconds at most; tell whether it is."""
        return self._output.flush(patience)


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
    return _is_terminal() and not os.environ.get("NO_COLOR")


def _is_terminal() -> bool:
    """Tell whether the log goes to a terminal; there may be no standard error at all."""
    return os.isatty(2)


def _wait_for_room(fd: int) -> None:
    room = select.poll()
    room.register(fd, select.POLLOUT)
    room.poll()


def _path_of(fd: int) -> str:
    """Return the path of the file that a descriptor is open on, if it is one and has one."""
    with contextlib.suppress(OSError):
        here = os.fstat(fd)
        path = os.readlink(f"/proc/self/fd/{fd}")
        if stat.S_ISREG(here.st_mode) and os.path.samestat(here, os.stat(path)):
            return path
    return ""
