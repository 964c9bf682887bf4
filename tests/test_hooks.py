"""The rules of running hooks: one after another, and none of them harms anything."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from conftest import eventually
from pmjq.hooks import MOST_AHEAD, MOST_SAID, Hook, Hooks


class Log:
    """Keeps what is logged."""

    def __init__(self) -> None:
        self.said: list[tuple[str, dict[str, Any]]] = []

    def info(self, event: str, **keys: object) -> None:
        self.said.append((event, keys))

    error = info

    def the(self, event: str) -> list[dict[str, Any]]:
        """Return the keys of all lines of an event."""
        return [keys for said, keys in self.said if said == event]


@pytest.fixture
def log() -> Log:
    """Return a log."""
    return Log()


def hook(command: str, **environment: str) -> Hook:
    """Return a hook."""
    return Hook("end", command, {"PATH": os.defpath, **environment})


def test_hooks_run_one_after_another(log: Log, tmp_path: Path) -> None:
    """In the order in which they were called, with the environment of each and no input."""
    hooks = Hooks(log)
    for number in range(20):
        hooks.call(hook(f"cat; echo $NUMBER >>{tmp_path}/out", NUMBER=str(number)))
    assert hooks.close(30)
    assert (tmp_path / "out").read_text().split() == [str(number) for number in range(20)]
    assert len(log.the("hook.ended")) == 20


def test_nothing_called(log: Log) -> None:
    """Who calls nothing has no thread, and waits for nothing."""
    before = threading.active_count()
    assert Hooks(log).close(0)
    assert (threading.active_count(), log.said) == (before, [])


def test_hook_that_fails(log: Log) -> None:
    """What it says is told, and the next one runs."""
    hooks = Hooks(log)
    hooks.call(hook("echo no such host >&2; exit 3"))
    hooks.call(hook("/nowhere/at/all"))
    hooks.call(hook("true"))
    assert hooks.close(30)
    first, second = log.the("hook.failed")
    assert (first["exit_code"], first["said"]) == (3, "no such host")
    assert second["exit_code"] == 127
    assert len(log.the("hook.ended")) == 1


@pytest.mark.parametrize("command", ["sleep 1000", "trap '' TERM; while :; do sleep 0.1; done"])
def test_hook_that_hangs(log: Log, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is ended, with what it started, and the next one runs."""
    monkeypatch.setattr("pmjq.hooks.GRACE", 0.2)
    hooks = Hooks(log, patience=0.3)
    hooks.call(hook(f"{command} & {command}"))
    hooks.call(hook("true"))
    assert hooks.close(30)
    (failed,) = log.the("hook.failed")
    assert "took longer than 0.3 s" in failed["reason"]
    assert len(log.the("hook.ended")) == 1


def test_hook_that_floods(log: Log) -> None:
    """It is read slowly, little of it is kept, and it ends as any that takes too long."""
    hooks = Hooks(log, patience=0.5)
    before = time.process_time()
    hooks.call(hook("exec cat /dev/zero"))
    hooks.call(hook(f"head -c {10 * MOST_SAID} /dev/zero | tr '\\0' x; exit 1"))
    assert hooks.close(30)
    late, failed = log.the("hook.failed")
    assert "took longer" in late["reason"]
    assert len(failed["said"]) == MOST_SAID
    assert time.process_time() - before < 0.4


def test_hook_that_leaves_something_running(log: Log, tmp_path: Path) -> None:
    """What goes on behind it, with its output open, is not waited for."""
    hooks = Hooks(log)
    pid = tmp_path / "pid"
    hooks.call(hook(f"sleep 1000 & echo $! >{pid}"))
    try:
        assert hooks.close(30)
    finally:
        os.kill(int(pid.read_text()), 9)
    assert len(log.the("hook.ended")) == 1


def test_too_many(log: Log, tmp_path: Path) -> None:
    """Who calls faster than they run does not wait; the log tells how many were left out."""
    hooks = Hooks(log)
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    hooks.call(hook(f"read line <{gate}"))
    for _ in range(MOST_AHEAD + 10):
        hooks.call(Hook("end", "exit 0", {}))
    assert len(log.the("hooks.late")) == 1
    os.close(eventually(lambda: _opened(gate)))
    assert hooks.close(60)
    assert 9 <= log.the("hooks.left_out")[0]["hooks"] <= 10


def _opened(gate: Path) -> int:
    try:
        return os.open(gate, os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        return 0


def test_what_cannot_be_run(log: Log) -> None:
    """An environment that is too large for execve costs a line in the log."""
    hooks = Hooks(log)
    hooks.call(Hook("end", "true", {"X": "x" * (1 << 22)}))
    hooks.call(hook("true"))
    assert hooks.close(30)
    assert len(log.the("hook.failed")) == len(log.the("hook.ended")) == 1
