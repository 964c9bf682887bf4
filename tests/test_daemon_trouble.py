"""A daemon in surroundings that nobody thought of: end to end."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
from pathlib import Path

import pytest

from live import Gate, Live, eventually
from pmjq import probe
from pmjq.state import State

def closed(*redirections: str) -> tuple[str, ...]:
    """Return the words before a command that start it with descriptors closed."""
    return ("sh", "-c", f'exec "$@" {" ".join(redirections)}', "sh")


def held_up(live: Live) -> Gate:
    """Have a job run until its gate is opened."""
    gate = live.gate("held-up")
    live.drop("held-up", f"{live.side_effect('held-up')}{gate.wait}exit 5\n")
    eventually(lambda: live.runs("held-up"), what="the job runs")
    return gate


def opened(gate: Gate) -> bool:
    """Open a gate if somebody stands before it."""
    with contextlib.suppress(OSError):
        gate.open()
        return True
    return False


# -- descriptors


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_without_standard_input(tmp_path: Path, number: int) -> None:
    """Where there is no standard input there is no terminal, and a signal stops as ever."""
    with Live(tmp_path, before=closed("<&-")) as live:
        gate = held_up(live)
        assert live.stop(number) == 0
        assert live.said("daemon.stopping")["on_stop"] == "leave"
        assert live.said("daemon.stopped")["jobs_left_running"] == 1
        eventually(lambda: opened(gate))


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
        assert live.stop(within=10) == 0
        # A pipe that held all of it would prove nothing.
        assert len(os.read(reading, 1 << 16)) <= 4096
    finally:
        live.close()
        os.close(reading)


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
            for pid in hiding:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
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
