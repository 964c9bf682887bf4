"""Jobs that ask for CPUs and memory, beside one another under a real daemon."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from live import Gate, Live, eventually
from pmjq.cli import main
from pmjq.state import State

NODE = ("-j", "8", "--cpus", "4", "--memory", "1000M")


def drop(live: Live, name: str, words: str) -> None:
    """Drop a job that asks for something, and runs until its gate is opened."""
    gate = live.gate(name)
    live.drop(name, f"#!/bin/sh\n#PMJQ {words}\n{live.side_effect(name)}{gate.wait}exit 0\n")


def release(live: Live, name: str) -> None:
    """Let a job end."""
    gate = Gate(live.root / f"gate.{name}")
    eventually(lambda: _opened(gate))


def _opened(gate: Gate) -> bool:
    try:
        gate.open()
    except OSError:
        return False
    return True


def aside(live: Live, name: str) -> str:
    """Return why a job does not run, as its node says."""
    return str(eventually(lambda: (live.node() or {}).get("aside", {}).get(name, "")))


def test_sums(tmp_path: Path) -> None:
    """What runs together asks for no more than there is, and what waits says for what."""
    with Live(tmp_path, *NODE) as live:
        drop(live, "three", "cpus=3 memory=600M")
        eventually(lambda: live.runs("three"))
        drop(live, "two", "cpus=2")
        drop(live, "much", "memory=401M")
        drop(live, "one", "cpus=1 memory=400M")
        eventually(lambda: live.runs("one"))
        assert aside(live, "two") == "needs 2 CPUs, and 1 of 4 are free"
        assert not live.runs("two")
        release(live, "one")
        assert live.ended("one").record.state is State.DONE
        release(live, "three")
        for name in ("two", "much"):
            release(live, name)
            assert live.ended(name).record.state is State.DONE


def test_alone(tmp_path: Path) -> None:
    """cpus=all waits until nothing runs, and then nothing else does."""
    with Live(tmp_path, *NODE) as live:
        drop(live, "small", "name=x")
        eventually(lambda: live.runs("small"))
        drop(live, "all", "cpus=all")
        assert "needs all CPUs" in aside(live, "all")
        release(live, "small")
        eventually(lambda: live.runs("all"))
        drop(live, "next", "name=x")
        assert "another job has all CPUs" in aside(live, "next")
        release(live, "all")
        eventually(lambda: live.runs("next"))
        release(live, "next")
        assert live.ended("next").record.state is State.DONE


def test_what_runs_on_counts(tmp_path: Path) -> None:
    """Also when the daemon that started it is gone."""
    with Live(tmp_path, *NODE) as live:
        drop(live, "three", "cpus=3")
        eventually(lambda: live.runs("three"))
        live.kill()
        live.start()
        drop(live, "two", "cpus=2")
        assert aside(live, "two") == "needs 2 CPUs, and 1 of 4 are free"
        told = live.node()
        assert (told["owners"], told["free_cpus"]) == ({str(os.getuid()): 3}, 1)
        release(live, "three")
        eventually(lambda: live.runs("two"))
        release(live, "two")
        assert live.ended("two").record.state is State.DONE


def test_more_than_there_is(tmp_path: Path) -> None:
    """It blocks nobody."""
    with Live(tmp_path, *NODE) as live:
        drop(live, "five", "cpus=5")
        live.drop("other")
        assert live.ended("other").record.state is State.DONE
        assert aside(live, "five") == "needs 5 CPUs, and there are 4"


@pytest.mark.parametrize("text", ["much", "-1", "0x10"])
def test_wrong_size(tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It is refused before anything is touched."""
    assert main(["--memory", text, str(tmp_path)]) == 64
    assert f"--memory {text}: " in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
