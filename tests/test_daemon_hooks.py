"""Hooks of a real daemon: what they are told, when, and that none of them holds anything up."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from live import Live, eventually
from pmjq import Queue
from pmjq.cli import main
from pmjq.spool import Spool


def lines(path: Path) -> list[str]:
    """Return what hooks have written."""
    return path.read_text().splitlines() if path.exists() else []


def test_on_end(tmp_path: Path) -> None:
    """Each job that has ended is told of, once it is in the archive."""
    told, copy = tmp_path / "told", tmp_path / "copy"
    command = (
        f'cat "$PMJQ_OUTPUT" >>{copy}; [ -x "$PMJQ_ARCHIVED" ] && [ -f "$PMJQ_ARCHIVED.json" ] && '
        f'echo "$PMJQ_HOOK $PMJQ_NAME $PMJQ_STATE $PMJQ_EXIT_CODE $PMJQ_REASON" >>{told}'
    )
    live = Live(tmp_path, "--on-end", command)
    live.drop("good", "echo done\n")
    live.drop("bad", "exit 3\n")
    assert live.once() == 0
    assert sorted(lines(told)) == ["end bad failed 3 exit code 3", "end good done 0 "]
    assert lines(copy) == ["done"]


def test_names_are_not_read_by_the_shell(tmp_path: Path) -> None:
    """Whatever a job is called, the command is what its owner wrote."""
    told = tmp_path / "told"
    live = Live(tmp_path, "--on-end", f'printf "%s\\n" "$PMJQ_NAME" >>{told}')
    live.drop(f"$(touch '{tmp_path.name}-x')`id`;\n\udcff", "true\n")
    assert live.once() == 0
    assert told.read_bytes() == os.fsencode(f"$(touch '{tmp_path.name}-x')`id`;\n\udcff\n")


def test_on_idle(tmp_path: Path) -> None:
    """Once for each time that nothing is queued and nothing runs."""
    told = tmp_path / "told"
    options = ("--on-idle", f'echo "$PMJQ_HOOK $PMJQ_QUEUED $PMJQ_RUNNING" >>{told}')
    with Live(tmp_path, *options, "--idle-after", "0.3s") as live:
        eventually(lambda: lines(told))
        gate = live.gate("busy")
        live.drop("busy", live.side_effect("busy") + gate.wait)
        eventually(lambda: live.runs("busy"))
        live.drop("next")
        live.ended("next")
        assert lines(told) == ["idle 0 0"]
        gate.open()
        eventually(lambda: len(lines(told)) > 1)
        live.said("hook.ended")
        assert lines(told) == ["idle 0 0"] * 2


def test_on_limit(tmp_path: Path) -> None:
    """Jobs that a closed gate keeps waiting are told of, with the gate's reason."""
    told = tmp_path / "told"
    options = ("--on-limit", f'echo "$PMJQ_HOOK $PMJQ_QUEUED $PMJQ_REASON" >>{told}')
    with Live(tmp_path, "-j", "0", *options, "--limit-after", "0.2") as live:
        live.drop("kept")
        eventually(lambda: lines(told))
        assert lines(told) == ["limit 1 -j 0: no slots"]


def _three(tmp_path: Path, lease: float, *options: str) -> list[Live]:
    """Return three nodes that share a spool, and take no jobs."""
    spool = tmp_path / "spool"
    spool.mkdir()
    return [
        Live(tmp_path / n, "--node", n, "--lease", f"{lease:g}", *options, "-j", "0", spool=spool)
        for n in ("a", "b", "c")
    ]


def test_once_per_spool(tmp_path: Path) -> None:
    """Of several nodes that would call it the first one does, though others come before it."""
    told = tmp_path / "told"
    words = ("--on-limit", f'echo "$PMJQ_NODE" >>{told}', "--limit-after", "1", "--once-per-spool")
    nodes = _three(tmp_path, 60, *words)
    nodes[0].options = ("--node", "a", "--lease", "60", "-j", "0")
    try:
        for node in nodes:
            node.start()
        nodes[0].drop("kept")
        eventually(lambda: lines(told))
        records = Queue(nodes[0].spool).opened()
        eventually(lambda: any(_called(records, token) for token in records.tokens()))
        nodes[2].said("daemon.started")
        for node in reversed(nodes):
            assert node.stop() == 0
        assert lines(told) == ["b"]
    finally:
        for node in nodes:
            node.close()


def test_idle_once_per_spool(tmp_path: Path) -> None:
    """Not before it has been so on every node for so long, and once, whoever began when."""
    told = tmp_path / "told"
    words = ("--on-idle", f"date +%s.%N >>{told}", "--idle-after", "3", "--once-per-spool")
    nodes = _three(tmp_path, 60, *words)[:2]
    one, other = nodes
    other.options = (*other.options, "-j", "1")
    try:
        other.start()
        one.start()
        eventually(lambda: lines(told))
        # For longer than it takes the one to call it idle.
        one.drop("job", "sleep 4\n")
        ended = other.ended("job")
        eventually(lambda: len(lines(told)) > 1)
        assert float(lines(told)[1]) >= ended.record.ended.timestamp() + 3
        for node in nodes:
            assert node.stop() == 0
        assert len(lines(told)) == 2
    finally:
        for node in nodes:
            node.close()


def _called(spool: Spool, token: str) -> bool:
    life = spool.life(token)
    return life is not None and any(life.hooks.values())


def test_once_per_spool_of_a_node_that_is_killed(tmp_path: Path) -> None:
    """The next one calls it."""
    told = tmp_path / "told"
    words = ("--on-limit", f'echo "$PMJQ_NODE" >>{told}', "--limit-after", "3", "--once-per-spool")
    nodes = _three(tmp_path, 10, *words)
    try:
        for node in nodes:
            node.start()
        nodes[0].drop("kept")
        nodes[0].kill()
        eventually(lambda: lines(told), within=30)
        assert lines(told) == ["b"]
    finally:
        for node in nodes:
            node.close()


def test_hook_that_hangs_holds_nothing_up(tmp_path: Path) -> None:
    """Jobs go on, and the daemon stops when it is told to."""
    with Live(tmp_path, "--on-end", "sleep 1000") as live:
        for number in range(5):
            live.drop(f"job{number}")
        for number in range(5):
            live.ended(f"job{number}")
        assert live.stop() == 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--idle-after", "soon"], "--idle-after soon: is no duration"),
        (["--limit-after", ""], "--limit-after : is no duration"),
    ],
)
def test_wrong_times(
    tmp_path: Path, words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are refused before anything is touched."""
    assert main([*words, str(tmp_path)]) == 64
    assert told in capsys.readouterr().err
    assert os.listdir(tmp_path) == []
