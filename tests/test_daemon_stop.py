"""Stopping, signals, the log and the service manager: end to end."""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from live import Gate, Live, eventually
from pmjq.disk import Disk
from pmjq.state import State


def _held_up(live: Live, name: str, *before: str) -> Gate:
    """Drop a job that runs until its gate is opened, and wait until it runs."""
    gate = live.gate(name)
    text = "".join(before) + live.side_effect(name) + gate.wait
    live.drop(name, f"#!/bin/sh\n{text}echo ends\nexit 5\n")
    eventually(lambda: live.runs(name), what=f"{name} runs")
    return gate


def test_leave_is_the_default(tmp_path: Path) -> None:
    """TERM ends the daemon at once; the job goes on, and the next daemon records its end."""
    with Live(tmp_path) as live:
        gate = _held_up(live, "goes-on")
        assert live.stop() == 0
        assert live.said("daemon.stopping")["on_stop"] == "leave"
        assert live.said("daemon.stopped")["jobs_left_running"] == 1
        live.start()
        gate.open()
        filed = live.ended("goes-on")
        assert (filed.record.exit_code, filed.text) == (5, "ends\n")
        assert filed.record.user_cpu is not None
        assert live.runs("goes-on") == 1


def test_end_while_no_daemon_runs_is_recorded(tmp_path: Path) -> None:
    """A job that ends between two daemons has its true exit status and time of end."""
    with Live(tmp_path) as live:
        gate = _held_up(live, "ends-alone")
        live.kill()
        gate.open()
        eventually(lambda: not live.jobs())
        eventually(lambda: not live.keepers())
        live.start()
        record = live.ended("ends-alone").record
        assert record.exit_code == 5
        started = live.told("daemon.started", 2)[1]["timestamp"]
        assert f"{record.ended:%Y-%m-%dT%H:%M:%S.%fZ}" < started


def test_wait_ends_with_the_last_job(tmp_path: Path) -> None:
    """--on-stop wait: nothing more is started, and the daemon ends when its jobs have."""
    with Live(tmp_path, "--on-stop", "wait", "-j", "1") as live:
        gate = _held_up(live, "is-awaited")
        live.tell(signal.SIGTERM)
        assert live.said("daemon.stopping")["on_stop"] == "wait"
        later = live.drop("comes-later")
        assert live.alive()
        gate.open()
        assert live.wait() == 0
        assert live.ended("is-awaited").record.exit_code == 5
        assert later.exists()
        assert live.leftovers() == []


def test_kill_ends_the_jobs(tmp_path: Path) -> None:
    """--on-stop kill: TERM, grace, KILL for whole trees; restartable ones are returned."""
    with Live(tmp_path, "--on-stop", "kill", "--grace", "0.5", "-j", "4") as live:
        _held_up(live, "obeys")
        _held_up(live, "resists", "trap '' TERM\n")
        _held_up(live, "restartable", "#PMJQ restartable\n")
        _held_up(live, "has-children", "setsid sleep 1000 &\n(trap '' TERM; sleep 1000) &\n")
        assert live.stop() == 0
        eventually(lambda: not live.jobs(), within=3, what="every process of the trees is gone")
        ends = {
            name: (record.state, record.signal)
            for name in ("obeys", "resists", "has-children")
            for record in (live.ended(name).record,)
        }
        assert ends == {
            "obeys": (State.CANCELLED, signal.SIGTERM),
            "resists": (State.CANCELLED, signal.SIGKILL),
            "has-children": (State.CANCELLED, signal.SIGTERM),
        }
        assert live.spooled() == ["restartable"]
        assert "restartable" not in {filed.record.name for filed in live.filed()}
        assert live.said("job.returned")["job"] == "restartable"
        assert live.leftovers() == ["again/restartable"]


def test_returned_job_left_deep_directories(tmp_path: Path) -> None:
    """The daemon ends, nothing of them stays, and the next one starts and runs the job."""
    deep = f"mkdir -p {'d/' * 1200}\n"
    with Live(tmp_path, "--on-stop", "kill", "--grace", "0.5") as live:
        gate = _held_up(live, "deep", "#PMJQ restartable\n", deep)
        assert live.stop() == 0
        assert (live.spooled(), live.leftovers()) == (["deep"], ["again/deep"])
        assert live.events("turn.failed", "return.failed", "job.fenced", "paperwork.left") == []
        live.start()
        eventually(lambda: live.runs("deep") == 2)
        gate.open()
        assert live.ended("deep").record.exit_code == 5
        left = live.ended("deep").files
        # pytest's own removal would recurse.
        Disk().remove_tree(str(left))


def test_second_signal_kills(tmp_path: Path) -> None:
    """While the daemon waits for its jobs another TERM kills them."""
    with Live(tmp_path, "--on-stop", "wait", "--grace", "5") as live:
        _held_up(live, "impatient")
        live.tell(signal.SIGTERM)
        live.said("daemon.stopping")
        live.tell(signal.SIGTERM)
        assert live.wait() == 0
        assert live.ended("impatient").record.state is State.CANCELLED
        assert [event["on_stop"] for event in live.told("daemon.stopping", 2)] == ["wait", "kill"]


def test_interrupt_without_terminal_leaves(tmp_path: Path) -> None:
    """INT is TERM where there is no terminal."""
    with Live(tmp_path) as live:
        _held_up(live, "left")
        assert live.stop(signal.SIGINT) == 0
        assert live.jobs()


def test_interrupt_on_a_terminal_waits_and_says_so(tmp_path: Path) -> None:
    """Ctrl-C at a terminal waits for the jobs, says so, and says what once more does."""
    main, terminal = pty.openpty()
    live = Live(tmp_path)
    try:
        live.start(stdin=terminal)
        gate = _held_up(live, "awaited")
        live.tell(signal.SIGINT)
        said = live.said("daemon.stopping")
        assert (said["signal"], said["on_stop"]) == ("SIGINT", "wait")
        assert "once more kills" in said["meaning"]
        gate.open()
        assert live.wait() == 0
        assert live.ended("awaited").record.exit_code == 5
    finally:
        live.close()
        os.close(main)
        os.close(terminal)


def test_once_waits_when_it_is_told_to_stop(tmp_path: Path) -> None:
    """A --once that is told to stop waits for its jobs, whatever the default."""
    with Live(tmp_path, "--once") as live:
        live.wait()
        gate = live.gate("last")
        live.drop("last", f"{live.side_effect('last')}{gate.wait}exit 5\n")
        live.start()
        eventually(lambda: live.runs("last"))
        live.tell(signal.SIGTERM)
        assert live.said("daemon.stopping")["on_stop"] == "wait"
        gate.open()
        assert live.wait() == 0
        assert live.ended("last").record.exit_code == 5


def test_hangup_follows_a_rotated_log(tmp_path: Path) -> None:
    """HUP opens the log again under its name and looks at everything again."""
    with Live(tmp_path) as live:
        old = live.log.rename(tmp_path / "daemon.log.1")
        live.tell(signal.SIGHUP)
        live.said("daemon.looks_again")
        live.drop("after")
        live.ended("after")
        assert live.said("job.ended")["job"] == "after"
        assert "after" not in old.read_text()


@pytest.mark.parametrize("abstract", [False, True])
def test_service_manager_is_told(tmp_path: Path, *, abstract: bool) -> None:
    """sd_notify: ready, a status line, the watchdog's food, stopping."""
    address = f"\0pmjq-test-{os.getpid()}" if abstract else str(tmp_path / "n")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address)
        manager.settimeout(0)
        heard: list[str] = []

        def hear(what: Callable[[], bool]) -> Callable[[], bool]:
            def listen() -> bool:
                with contextlib.suppress(BlockingIOError):
                    heard.extend(manager.recv(4096).decode().splitlines())
                return what()

            return listen

        given = {"NOTIFY_SOCKET": address.replace("\0", "@"), "WATCHDOG_USEC": "100000"}
        with Live(tmp_path, environment=given) as live:
            eventually(hear(lambda: heard.count("WATCHDOG=1") >= 3))
            assert "READY=1" in heard
            eventually(hear(lambda: any("0 running, 0 queued" in line for line in heard)))
            assert "STOPPING=1" not in heard
            assert live.stop() == 0
            eventually(hear(lambda: "STOPPING=1" in heard))


def test_foreign_watchdog_is_not_fed(tmp_path: Path) -> None:
    """A watchdog that is meant for another process is not this daemon's."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "n"))
        manager.settimeout(0)
        given = {"NOTIFY_SOCKET": str(tmp_path / "n"), "WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"}
        with Live(tmp_path, environment=given) as live:
            live.drop("x")
            live.ended("x")
            live.stop()
        heard = b""
        while True:
            try:
                heard += manager.recv(4096) + b"\n"
            except BlockingIOError:
                break
        assert b"READY=1" in heard
        assert b"WATCHDOG" not in heard
