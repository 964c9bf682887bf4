"""A real daemon on a temporary spool, for the tests that want the real thing.

``Live`` starts ``python -m pmjq`` below a directory of its own, drops jobs by rename as careful
people do, reads what was filed, and ends only processes that it started itself: they are told by a
mark in the daemon's environment, which the keeper inherits, and jobs by the path of their spool.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

import msgspec

from pmjq.job import Record

T = TypeVar("T")

MARK = "PMJQ_TEST"

PROJECT = str(Path(__file__).resolve().parent.parent)


WITHIN = 60.0
"""Seconds in which what is waited for happens, however busy the machine is."""


def eventually(condition: Callable[[], T], *, within: float = WITHIN, what: str = "") -> T:
    """Return the first true value of ``condition``; AssertionError after ``within`` seconds."""
    deadline = time.monotonic() + within
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {within:g} s: {what or condition}"
        time.sleep(0.01)
    return value


@dataclass(frozen=True)
class Filed:
    """A job in the archive or the error directory."""

    record: Record
    path: Path

    @property
    def output(self) -> bytes:
        """Return what the job wrote; empty if there is no output file."""
        out = self.path.with_name(self.path.name + ".out")
        return out.read_bytes() if out.exists() else b""

    @property
    def text(self) -> str:
        """Return what the job wrote as text."""
        return self.output.decode("utf-8", "replace")

    @property
    def files(self) -> Path:
        """Return where its working directory is, if it left files."""
        return self.path.with_name(self.path.name + ".d")


@dataclass(frozen=True)
class Gate:
    """A FIFO that jobs stand before until it is opened."""

    path: Path

    @property
    def wait(self) -> str:
        """Return shell text that waits at the gate."""
        return f"read gate <'{self.path}'\n"

    def open(self) -> None:
        """Let everybody through, as soon as somebody waits."""
        eventually(self.try_open, what=f"somebody stands before {self.path}")

    def try_open(self) -> bool:
        """Let everybody through who waits; False if nobody does."""
        try:
            os.close(os.open(self.path, os.O_WRONLY | os.O_NONBLOCK))
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return False
        return True


class Live:
    """A daemon that may be started, killed and started again on one spool.

    ``root`` is made if it is missing; ended jobs go to ``ROOT/archive`` unless the options say -o.
    ``spool``: one that several daemons share, instead of ``ROOT/spool``.
    """

    def __init__(
        self,
        root: Path,
        *options: str,
        environment: Mapping[str, str] | None = None,
        before: Sequence[str] = (),
        spool: Path | None = None,
    ) -> None:
        self.root = root
        self.spool = spool or root / "spool"
        self.archive = root / "archive"
        self.errors: Path | None = None
        self.log = root / "daemon.log"
        self.side = root / "side"
        for path in (self.spool, self.side, root / "drop"):
            path.mkdir(parents=True, exist_ok=True)
        self.options = options
        if "-o" in options:
            self.archive = Path(options[options.index("-o") + 1])
        else:
            self.options = ("-o", str(self.archive), *options)
        if "-e" in options:
            self.errors = Path(options[options.index("-e") + 1])
        self.before = tuple(before)
        self.mark = uuid.uuid4().hex
        self.environment = {**os.environ, **(environment or {}), MARK: self.mark}
        self.environment["PYTHONPATH"] = PROJECT
        self.process: subprocess.Popen[bytes] | None = None
        self._seen: dict[str, Filed] = {}
        self._dropped = 0
        self._offset = 0

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- the daemon

    @property
    def command(self) -> list[str]:
        """Return the words that start the daemon."""
        return [*self.before, sys.executable, "-m", "pmjq", *self.options, str(self.spool)]

    def start(self, *, ready: bool = True, stdin: int = subprocess.DEVNULL) -> Self:
        """Start a daemon; ``ready``: wait until it serves the spool."""
        self._offset = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, stdin=stdin, stderr=log, cwd="/", env=self.environment
            )
        if ready:
            self.wait_ready()
        return self

    def wait_ready(self) -> None:
        """Wait until the daemon that was started last serves the spool."""
        eventually(self._started, what="the daemon is ready")

    def _started(self) -> bool:
        # In this order: one that runs once may have started, and ended.
        ended = self.process is not None and self.process.poll() is not None
        told = self.log.read_bytes()[self._offset :]
        started = b'"daemon.started"' in told
        assert started or not ended, f"the daemon has ended: {told.decode()}"
        return started

    @property
    def pid(self) -> int:
        """Return the pid of the daemon that was started last."""
        assert self.process is not None
        return self.process.pid

    def alive(self) -> bool:
        """Tell whether the daemon runs."""
        return self.process is not None and self.process.poll() is None

    def kill(self) -> None:
        """Kill -9 the daemon and nothing else."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def tell(self, number: int) -> None:
        """Send a signal to the daemon."""
        assert self.process is not None
        self.process.send_signal(number)

    def wait(self, within: float = 30.0) -> int:
        """Return the exit code of the daemon when it has ended."""
        assert self.process is not None
        return self.process.wait(within)

    def stop(self, number: int = signal.SIGTERM, within: float = 30.0) -> int:
        """Tell the daemon to stop and return its exit code."""
        self.tell(number)
        return self.wait(within)

    def once(self, *options: str, within: float = 60.0) -> int:
        """Run ``pmjq --once`` to its end and return its exit code."""
        self.options, kept = (*self.options, *options, "--once"), self.options
        try:
            return self.start(ready=False).wait(within)
        finally:
            self.options = kept

    def close(self) -> None:
        """End whatever of this daemon is left: itself, its keepers, its jobs."""
        self.kill()
        deadline = time.monotonic() + 10
        while (family := list(self.family())) and time.monotonic() < deadline:
            for pid in family:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)

    def let_go(self, name: str) -> None:
        """Open the gate of this name."""
        Gate(self.root / f"gate.{name}").open()

    def aside(self, name: str, within: float = 30.0) -> str:
        """Return why an entry does not run, as its node says, when it says so."""
        return str(
            eventually(
                lambda: self.node().get("aside", {}).get(name, ""),
                within=within,
                what=f"{name} is aside",
            )
        )

    # -- its processes

    def family(self) -> Iterator[int]:
        """Yield the pids of the living processes that come from this daemon, itself left out."""
        mine = self.process.pid if self.process is not None else 0
        marks = (f"{MARK}={self.mark}".encode(), b"PMJQ_SPOOL=" + os.fsencode(self.spool))
        for entry in os.listdir("/proc"):
            if entry.isdigit() and int(entry) != mine and _has(entry, marks):
                yield int(entry)

    def keepers(self) -> list[int]:
        """Return the pids of the living keepers, of earlier daemons too."""
        return [pid for pid in self.family() if b"pmjq.keeper" in _proc(pid, "cmdline")]

    def jobs(self) -> list[int]:
        """Return the pids of the living processes of jobs."""
        keepers = set(self.keepers())
        return [pid for pid in self.family() if pid not in keepers]

    # -- jobs in

    def write(self, name: str | bytes, content: str | bytes, mode: int = 0o755) -> Path:
        """Write a file beside the spool and return its path."""
        self._dropped += 1
        directory = self.root / "drop" / str(self._dropped)
        directory.mkdir()
        path = directory / os.fsdecode(name)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        path.chmod(mode)
        return path

    def drop(
        self,
        name: str | bytes,
        content: str | bytes = "true\n",
        mode: int = 0o755,
        owner: int | None = None,
    ) -> Path:
        """Put a job into the spool with one rename; text without ``#!`` gets ``#!/bin/sh``.

        ``owner``: whose it is by then, user and group; that needs root.
        """
        if isinstance(content, str) and not content.startswith("#!"):
            content = f"#!/bin/sh\n{content}"
        source = self.write(name, content, mode)
        if owner is not None:
            os.chown(source, owner, owner)
            source.chmod(mode)
        target = self.spool / source.name
        source.rename(target)
        source.parent.rmdir()
        return target

    def side_effect(self, name: str) -> str:
        """Return shell text that adds a line to this job's own file, in one write at its end."""
        return f"echo {name} >>'{self.side / name}'\n"

    def gate(self, name: str) -> Gate:
        """Return a new gate for jobs to wait at."""
        gate = Gate(self.root / f"gate.{name}")
        os.mkfifo(gate.path)
        return gate

    def spooled(self) -> list[str]:
        """Return the names in the spool."""
        return sorted(name for name in os.listdir(self.spool) if name != ".pmjq")

    def runs(self, name: str) -> int:
        """Return how often a job with ``side_effect`` was executed."""
        path = self.side / name
        return len(path.read_bytes().splitlines()) if path.exists() else 0

    # -- results out

    def filed(self) -> list[Filed]:
        """Return every filed job; one counts once its own file is there."""
        for directory in filter(None, (self.archive, self.errors)):
            self._read(directory)
        return list(self._seen.values())

    def _read(self, directory: Path) -> None:
        try:
            names = set(os.listdir(directory))
        except FileNotFoundError:
            return
        for name in names:
            stem = name.removesuffix(".json")
            if name in self._seen or name.startswith(".") or stem == name or stem not in names:
                continue
            data = (directory / name).read_bytes()
            self._seen[name] = Filed(msgspec.json.decode(data, type=Record), directory / stem)

    def wait_cleared(self) -> None:
        """Wait until nothing is left of jobs that are filed.

        Far away a job is in the archive before its own file and papers are removed here.
        """
        own = self.spool / ".pmjq"
        eventually(lambda: not os.listdir(own / "ended") and not os.listdir(own / "job"))

    def named(self, name: str) -> list[Filed]:
        """Return the filed jobs of this name, as records show it."""
        return [filed for filed in self.filed() if filed.record.name == name]

    def ended(self, name: str, within: float = WITHIN) -> Filed:
        """Wait until a job has been filed and return it; AssertionError if there are several."""
        found = eventually(lambda: self.named(name), within=within, what=f"{name} is filed")
        assert len(found) == 1
        return found[0]

    def events(self, *names: str) -> list[dict[str, Any]]:
        """Return the lines of the log so far, or only those of these events."""
        lines = self.log.read_bytes().split(b"\n")[:-1] if self.log.exists() else []
        events = [json.loads(line) for line in lines if line.startswith(b"{")]
        return [event for event in events if not names or event["event"] in names]

    def said(self, name: str, within: float = WITHIN) -> dict[str, Any]:
        """Wait for an event and return its first line."""
        return self.told(name, within=within)[0]

    def told(
        self, name: str, lines: int = 1, *, within: float = WITHIN, **keys: object
    ) -> list[dict[str, Any]]:
        """Wait for so many lines of an event, or of those that have these keys; return them all.

        A thread of its own writes the log: whatever else shows that something has happened may
        do so before.
        """

        def found() -> list[dict[str, Any]]:
            events = [one for one in self.events(name) if keys.items() <= one.items()]
            return events if len(events) >= lines else []

        return eventually(found, within=within, what=f"{lines} lines of {name} {keys or ''}")

    def left(self) -> dict[str, str]:
        """Return the reasons of the entries that the log says are left alone.

        The log and ``node.json`` are written by two threads: either may tell first.
        """
        return {event["entry"]: event["reason"] for event in self.events("entry.left")}

    def node(self) -> dict[str, Any]:
        """Return the newest ``node.json``, empty if there is none."""
        for path in (self.spool / ".pmjq" / "node").glob("*/node.json"):
            with contextlib.suppress(OSError, ValueError):
                content: dict[str, Any] = json.loads(path.read_bytes())
                if content["pid"] == self.pid:
                    return content
        return {}

    def leftovers(self) -> list[str]:
        """Return what lies in the spool's own tree besides what a spool at rest has."""
        own = self.spool / ".pmjq"
        listed = ("job", "ended", "tmp", "node", "again", "tried")
        kept = {"spool.json", "events", "done", "signed", *listed}
        found = [name for name in os.listdir(own) if name not in kept]
        for name in listed:
            if (own / name).exists():
                found += [f"{name}/{entry}" for entry in os.listdir(own / name)]
        return found


def _proc(pid: int | str, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""


def _has(pid: str, marks: tuple[bytes, ...]) -> bool:
    return not set(marks).isdisjoint(_proc(pid, "environ").split(b"\0"))
