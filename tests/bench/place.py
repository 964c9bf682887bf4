"""The directories a daemon is measured on: spool, archive, and a place where jobs are written.

A drop is what careful people do: the file is written completely elsewhere on the same file system,
then renamed into the spool. A ``Bell`` is how a job tells that it runs: its first instruction
writes to a FIFO, and the bench takes the time when the byte arrives. Both ends of an interval are
thus read from one clock; what is added is the wake-up of the bench, and what is included is the
start of /bin/sh.
"""

from __future__ import annotations

import json
import os
import select
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from .report import NotMeasuredError

NO_OP = "#!/bin/sh\nexit 0\n"

ATTACHED = (".out", ".json", ".d")
"""What stands beside an archived job and is not the job."""


@dataclass(frozen=True)
class Place:
    """A spool with its archive below one directory."""

    root: Path

    @property
    def spool(self) -> Path:
        """Return the spool."""
        return self.root / "spool"

    @property
    def archive(self) -> Path:
        """Return the archive."""
        return self.root / "archive"

    @property
    def staging(self) -> Path:
        """Return where drops are written."""
        return self.root / "staging"

    @property
    def log(self) -> Path:
        """Return the log of the daemon."""
        return self.root / "daemon.log"

    def make(self) -> Self:
        """Make the directories."""
        for path in (self.spool, self.archive, self.staging):
            path.mkdir(parents=True)
        return self

    def write(self, name: str, text: str) -> Path:
        """Write an executable outside the spool and return its path."""
        path = self.staging / name
        write_executable(path, text)
        return path

    def drop(self, name: str, text: str) -> float:
        """Write a job and rename it into the spool; return the monotonic time before the rename."""
        path = self.write(name, text)
        begin = time.monotonic()
        path.rename(self.spool / name)
        return begin

    def ended(self) -> int:
        """Return how many jobs the archive holds; one counts once its own file is there."""
        return sum(1 for name in os.listdir(self.archive) if _is_job(name))

    def check(self) -> None:
        """Raise when an archived job did not succeed: a daemon that runs none would look fast."""
        states = [
            json.loads(path.read_bytes())["state"] for path in self.archive.glob("[!.]*.json")
        ]
        bad = [state for state in states if state != "done"]
        if bad:
            raise NotMeasuredError(f"{len(bad)} of {len(states)} jobs ended as {bad[0]}")


class Bell:
    """A FIFO that jobs ring as their first instruction."""

    def __init__(self, path: Path) -> None:
        """Make the FIFO and keep it open."""
        os.mkfifo(path)
        self.job = f"#!/bin/sh\necho 1<>'{path}'\n"  # <> : never blocks, even when nobody listens
        self._fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        self._poll = select.poll()
        self._poll.register(self._fd, select.POLLIN)

    def wait(self, within: float) -> float:
        """Return the monotonic time of the next ring."""
        if not self._poll.poll(within * 1000):
            raise NotMeasuredError(f"no job started within {within:.0f} s")
        now = time.monotonic()
        self.silence()
        return now

    def silence(self) -> None:
        """Forget every ring so far."""
        try:
            while os.read(self._fd, 65536):
                pass
        except BlockingIOError:
            pass

    def close(self) -> None:
        """Close the FIFO; its file goes with its directory."""
        os.close(self._fd)


def write_executable(path: Path, text: str) -> None:
    """Write a new executable file."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o755)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _is_job(name: str) -> bool:
    return not name.startswith(".") and not name.endswith(ATTACHED)
