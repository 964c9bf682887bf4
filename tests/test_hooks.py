"""The rules of running hooks: one after another, and none of them harms anything."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest

from conftest import eventually
from pmjq.errand import MOST_SAID, MOST_TOLD
from pmjq.hooks import Hook, Hooks


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


def run_out(hooks: Hooks) -> None:
    """Wait until all hooks have ended."""
    eventually(lambda: not hooks.busy, within=60)


def test_hooks_run_one_after_another(log: Log, tmp_path: Path) -> None:
    """In the order in which they were called, with the environment of each and no input."""
    hooks = Hooks(log)
    for number in range(20):
        hooks.call(hook(f"cat; echo $NUMBER >>{tmp_path}/out", NUMBER=str(number)))
    run_out(hooks)
    assert (tmp_path / "out").read_text().split() == [str(number) for number in range(20)]
    assert len(log.the("hook.ended")) == 20


def test_nothing_called(log: Log) -> None:
    """Who calls nothing has no thread, and waits for nothing."""
    before = threading.active_count()
    Hooks(log).close(0)
    assert (threading.active_count(), log.said) == (before, [])


def test_hook_that_fails(log: Log) -> None:
    """What it says is told, and the next one runs."""
    hooks = Hooks(log)
    hooks.call(hook("echo no such host >&2; exit 3"))
    hooks.call(hook("/nowhere/at/all"))
    hooks.call(hook("true"))
    run_out(hooks)
    first, second = log.the("hook.failed")
    assert (first["exit_code"], first["said"]) == (3, "no such host")
    assert second["exit_code"] == 127
    assert len(log.the("hook.ended")) == 1


@pytest.mark.parametrize(
    "command",
    [
        "sleep 1000 & sleep 1000",
        "trap '' TERM; while :; do sleep 0.1; done",
        # The shell goes at once, and what it has started does not.
        "(trap '' TERM; exec sleep 1000) & wait",
    ],
)
def test_hook_that_hangs(
    log: Log, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is ended, with what it started, and the next one runs."""
    monkeypatch.setattr("pmjq.errand.GRACE", 0.2)
    hooks, pid = Hooks(log, patience=0.3), tmp_path / "pid"
    hooks.call(hook(f"echo $$ >{pid}; {command}"))
    hooks.call(hook("true"))
    run_out(hooks)
    (failed,) = log.the("hook.failed")
    assert "took longer than 0.3 s" in failed["reason"]
    assert len(log.the("hook.ended")) == 1
    eventually(lambda: not _group(int(pid.read_text())))


def _group(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_hook_that_floods(log: Log) -> None:
    """What it can write has an end, and the last of it is told."""
    hooks = Hooks(log)
    hooks.call(hook("cat /dev/zero; exit 7"))
    hooks.call(hook("head -c 5000 /dev/zero | tr '\\0' x; echo END; exit 1"))
    run_out(hooks)
    endless, failed = log.the("hook.failed")
    assert endless["exit_code"] == 7
    assert len(failed["said"]) == MOST_TOLD - 1
    assert failed["said"].endswith("xEND")


def test_hook_that_says_much(log: Log) -> None:
    """As much as it may it can, and none of that is in its way."""
    hooks = Hooks(log)
    hooks.call(hook(f"head -c {MOST_SAID} /dev/zero"))
    run_out(hooks)
    assert len(log.the("hook.ended")) == 1


def test_hook_that_leaves_something_running(log: Log, tmp_path: Path) -> None:
    """What goes on behind it, with its output open, is not waited for, and can go on writing."""
    hooks = Hooks(log)
    gate, done = tmp_path / "gate", tmp_path / "done"
    os.mkfifo(gate)
    hooks.call(hook(f"(read line <{gate}; echo noise; echo done >{done}) & exit 0"))
    run_out(hooks)
    assert len(log.the("hook.ended")) == 1
    os.close(eventually(lambda: _opened(gate)))
    eventually(lambda: done.exists() and done.read_text() == "done\n")


def test_too_many(log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who calls faster than they run does not wait; the log tells how many were left out."""
    monkeypatch.setattr("pmjq.hooks.MOST_AHEAD", 20)
    hooks = Hooks(log)
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    hooks.call(hook(f"read line <{gate}"))
    for _ in range(30):
        hooks.call(Hook("end", "exit 0", {}))
    assert len(log.the("hooks.late")) == 1
    os.close(eventually(lambda: _opened(gate)))
    run_out(hooks)
    # The first may have been taken off the line by then.
    assert log.the("hooks.left_out")[0]["hooks"] in (10, 11)


def test_close_runs_no_more_of_them(log: Log, tmp_path: Path) -> None:
    """What runs goes on, and can write what it likes; what does not run is told of."""
    hooks = Hooks(log)
    gate, began, done = tmp_path / "gate", tmp_path / "began", tmp_path / "done"
    os.mkfifo(gate)
    hooks.call(hook(f"touch {began}; read line <{gate}; echo two; echo done >{done}"))
    for _ in range(5):
        hooks.call(hook(f"touch {tmp_path}/wrong"))
    eventually(began.exists)
    hooks.close(0.01)
    hooks.call(hook(f"touch {tmp_path}/wrong"))
    os.close(eventually(lambda: _opened(gate)))
    run_out(hooks)
    assert done.read_text() == "done\n"
    assert not (tmp_path / "wrong").exists()
    assert log.the("hooks.left_out")[0] == {"hooks": 5}


def test_no_thread_can_be_started(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """That costs a line in the log, and the hook is run with the next one."""
    hooks = Hooks(log)
    with monkeypatch.context() as patch:

        def start(self: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        patch.setattr(threading.Thread, "start", start)
        hooks.call(hook("exit 0"))
    assert log.the("hook.failed")[0]["reason"] == "can't start new thread"
    hooks.call(hook("exit 0"))
    run_out(hooks)
    assert len(log.the("hook.ended")) == 2


def _opened(gate: Path) -> int:
    try:
        return os.open(gate, os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        return 0


def test_what_cannot_be_run(log: Log) -> None:
    """An environment that is too large for execve costs a line in the log."""
    hooks = Hooks(log)
    hooks.call(Hook("end", "true", {"X": "x" * (1 << 22)}))
    hooks.call(Hook("end", "true", {"X": "a\0b"}))
    hooks.call(hook("true"))
    run_out(hooks)
    assert len(log.the("hook.failed")) == 2
    assert len(log.the("hook.ended")) == 1
