"""A daemon in surroundings or with errors that nobody thought of: end to end.

What goes wrong inside is forced by a program that changes one function and then runs pmjq as ever.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from live import Gate, Live, eventually
from pmjq import probe
from pmjq.state import State

FAILS_WHEN = """
import os, sys, threading
from pmjq import cli, daemon, lives, publish, turn
def when(there, act, otherwise):
    return lambda *rest, **more: act() if os.path.exists(there) else otherwise(*rest, **more)
def fail():
    raise ZeroDivisionError("nobody thought of it")
there, *words = sys.argv[1:]
"""
RUN = "sys.exit(cli.main(words))"


class Changed(Live):
    """A daemon of which a statement changes what it does once ``trouble`` is there."""

    def __init__(self, root: Path, statement: str, *options: str) -> None:
        super().__init__(root, *options)
        self.trouble = root / "trouble"
        self.statement = statement

    @property
    def command(self) -> list[str]:
        if not self.statement:
            return super().command
        code = f"{FAILS_WHEN}\n{self.statement}\n{RUN}"
        return [sys.executable, "-c", code, str(self.trouble), *self.options, str(self.spool)]


def closed(*redirections: str) -> tuple[str, ...]:
    """Return the words before a command that start it with descriptors closed."""
    return ("sh", "-c", f'exec "$@" {" ".join(redirections)}', "sh")


def held_up(live: Live) -> Gate:
    """Have a job run until its gate is opened."""
    gate = live.gate("held-up")
    live.drop("held-up", f"{live.side_effect('held-up')}{gate.wait}exit 5\n")
    eventually(lambda: live.runs("held-up"), what="the job runs")
    return gate


# -- descriptors


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_without_standard_input(tmp_path: Path, number: int) -> None:
    """Where there is no standard input there is no terminal, and a signal stops as ever."""
    with Live(tmp_path, before=closed("<&-")) as live:
        gate = held_up(live)
        assert live.stop(number) == 0
        assert live.said("daemon.stopping")["on_stop"] == "leave"
        assert live.said("daemon.stopped")["jobs_left_running"] == 1
        gate.open()


def test_without_any_standard_descriptor(tmp_path: Path) -> None:
    """Nothing that is opened later takes their numbers; jobs get what they always get."""
    live = Live(tmp_path, "--log-format", "json", before=closed("<&-", ">&-", "2>&-"))
    try:
        live.start(ready=False)
        live.drop("job", "readlink /proc/$$/fd/0; echo said; echo complained >&2\n")
        assert live.ended("job").text == "/dev/null\nsaid\ncomplained\n"
        links = {os.readlink(f"/proc/{live.pid}/fd/{fd}") for fd in range(3)}
        assert links == {"/dev/null"}
        assert live.stop() == 0
    finally:
        live.close()


def test_refusal_without_standard_error(tmp_path: Path) -> None:
    """An error that nobody can read has its exit code all the same."""
    with Live(tmp_path, "--node", "twin"):
        second = Live(tmp_path, "--node", "twin", before=closed("2>&-"))
        assert second.start(ready=False).wait() == 75


# -- errors that nobody thought of

TROUBLES = {
    "loop": "lives.Lives.guard = when(there, fail, lives.Lives.guard)",
    "turns": "publish.Publisher.publish = when(there, fail, publish.Publisher.publish)",
    "turn hangs": (
        "daemon.LEAVE_PATIENCE = 0.2;"
        "turn.Turn.turn = when(there, threading.Event().wait, turn.Turn.turn);"
        "lives.Lives.guard = when(there, fail, lives.Lives.guard)"
    ),
}


@pytest.mark.parametrize("trouble", TROUBLES)
def test_failure_ends_the_daemon_and_not_its_jobs(tmp_path: Path, trouble: str) -> None:
    """A daemon that cannot be stopped any more, or stops serving, ends; another one goes on."""
    live = Changed(tmp_path, TROUBLES[trouble], "--lease", "5")
    with live:
        gate = held_up(live)
        live.trouble.touch()
        live.drop("nudge", mode=0o644)
        assert live.wait() == 1
        failed = live.said("daemon.failed")
        assert "ZeroDivisionError: nobody thought of it" in failed["traceback"]
        assert live.jobs()
        live.statement = ""
        live.start()
        gate.open()
        assert live.ended("held-up").record.exit_code == 5
        assert live.runs("held-up") == 1


# -- a log that nobody reads


def test_log_that_nobody_reads_stalls_nothing(tmp_path: Path) -> None:
    """Jobs run while the reader of the log sleeps, and the daemon stops as fast as ever."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reading = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    fcntl.fcntl(reading, fcntl.F_SETPIPE_SZ, 4096)
    live = Live(tmp_path, "-j", "4", before=closed(f"2>'{fifo}'"))
    try:
        live.start(ready=False)
        for number in range(40):
            live.drop(f"job{number}")
        eventually(lambda: len(live.filed()) == 40, what="all are filed")
        assert live.stop(within=60) == 0
        # A pipe that held all of it would prove nothing.
        assert len(os.read(reading, 1 << 16)) <= 4096
    finally:
        live.close()
        os.close(reading)


# -- the watchdog


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """Listen as a service manager does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "n"))
        listening.settimeout(10)
        yield listening


def test_hanging_disk_does_not_starve_the_watchdog(tmp_path: Path, manager: socket.socket) -> None:
    """A turn that hangs in a call of the disk for many times the watchdog's patience is no reason.

    The call hangs as one on FUSE does: in opening a FIFO in place of the events.
    """
    given = {"NOTIFY_SOCKET": str(tmp_path / "n"), "WATCHDOG_USEC": "200000"}
    with Live(tmp_path, environment=given) as live:
        (token,) = os.listdir(live.spool / ".pmjq" / "node")
        events = live.spool / ".pmjq" / "events" / f"{token}.jsonl"
        os.mkfifo(events)
        live.drop("job")
        fed = 0
        while fed < 30:
            fed += manager.recv(4096) == b"WATCHDOG=1"
        assert live.alive()
        assert live.filed() == []
        events.rename(tmp_path / "fifo")
        os.close(os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK))
        live.ended("job")


# -- what jobs leave behind


def test_kill_reaches_what_hides(tmp_path: Path) -> None:
    """What has left a job's session, its parent and its environment ends with it.

    So a restartable job is queued again when nothing of it runs any more.
    """
    hidden = "setsid env -i sh -c 'trap : TERM; echo $$ >{0}; while :; do sleep 1; done'"
    with Live(tmp_path, "--on-stop", "kill", "--grace", "0.5", "-j", "4") as live:
        pids = {name: live.side / f"{name}.pid" for name in ("plain", "again")}
        for name, pid in pids.items():
            directive = "#PMJQ restartable\n" if name == "again" else ""
            live.drop(name, f"#!/bin/sh\n{directive}({hidden.format(pid)} &)\nsleep 1000\n")
        eventually(lambda: all(pid.exists() and pid.read_text() for pid in pids.values()))
        hiding = [int(pid.read_text()) for pid in pids.values()]
        try:
            assert live.stop() == 0
            assert [probe.start_time(pid) for pid in hiding] == [0, 0]
        finally:
            for hidden_pid in hiding:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(hidden_pid, signal.SIGKILL)
        assert live.ended("plain").record.state is State.CANCELLED
        assert live.spooled() == ["again"]


# -- long paths


def test_long_path_of_the_spool(tmp_path: Path) -> None:
    """Orders with the longest paths arrive, however many are given at once."""
    depth = (2400 - len(str(tmp_path))) // 201
    deep = tmp_path.joinpath(*["d" * 200] * depth)
    with Live(tmp_path, "-j", "32", spool=deep) as live:
        for number in range(64):
            live.drop(f"job{number}", "echo $PMJQ_NAME\n")
        eventually(lambda: len(live.filed()) == 64, what="all are filed")
        assert {filed.record.state for filed in live.filed()} == {State.DONE}
        assert live.events("keeper.lost") == []
