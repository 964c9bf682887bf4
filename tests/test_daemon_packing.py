"""Jobs that ask for CPUs and memory, beside one another under a real daemon."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from live import Live, eventually
from pmjq.cli import main
from pmjq.state import State

NODE = ("-j", "8", "--cpus", "4", "--memory", "1000M")


def drop(live: Live, name: str, words: str) -> None:
    """Drop a job that asks for something, and runs until its gate is opened."""
    gate = live.gate(name)
    live.drop(name, f"#!/bin/sh\n#PMJQ {words}\n{live.side_effect(name)}{gate.wait}exit 0\n")


def test_sums(tmp_path: Path) -> None:
    """What runs together asks for no more than there is, and what waits says for what."""
    with Live(tmp_path, *NODE) as live:
        drop(live, "three", "cpus=3 memory=600M")
        eventually(lambda: live.runs("three"))
        drop(live, "two", "cpus=2")
        drop(live, "much", "memory=401M")
        drop(live, "one", "cpus=1 memory=400M")
        eventually(lambda: live.runs("one"))
        assert live.aside("two") == "needs 2 CPUs, and 1 of 4 are free"
        assert not live.runs("two")
        live.let_go("one")
        assert live.ended("one").record.state is State.DONE
        live.let_go("three")
        for name in ("two", "much"):
            live.let_go(name)
            assert live.ended(name).record.state is State.DONE


def test_alone(tmp_path: Path) -> None:
    """cpus=all waits until nothing runs, and then nothing else does."""
    with Live(tmp_path, *NODE) as live:
        drop(live, "small", "name=x")
        eventually(lambda: live.runs("small"))
        drop(live, "all", "cpus=all")
        assert "needs all CPUs" in live.aside("all")
        live.let_go("small")
        eventually(lambda: live.runs("all"))
        drop(live, "next", "name=x")
        assert "another job has all CPUs" in live.aside("next")
        live.let_go("all")
        eventually(lambda: live.runs("next"))
        live.let_go("next")
        assert live.ended("next").record.state is State.DONE


def test_what_runs_on_counts(tmp_path: Path) -> None:
    """Also when the daemon that started it is gone."""
    with Live(tmp_path, *NODE) as live:
        drop(live, "three", "cpus=3")
        eventually(lambda: live.runs("three"))
        live.kill()
        live.start()
        drop(live, "two", "cpus=2")
        assert live.aside("two") == "needs 2 CPUs, and 1 of 4 are free"
        told = live.node()
        assert (told["owners"], told["free_cpus"]) == ({str(os.getuid()): 3}, 1)
        live.let_go("three")
        eventually(lambda: live.runs("two"))
        live.let_go("two")
        assert live.ended("two").record.state is State.DONE


def test_more_than_there_is(tmp_path: Path) -> None:
    """It blocks nobody."""
    with Live(tmp_path, *NODE) as live:
        drop(live, "five", "cpus=5")
        live.drop("other")
        assert live.ended("other").record.state is State.DONE
        assert live.aside("five") == "needs 5 CPUs, and there are 4"


@pytest.mark.parametrize("text", ["much", "-1", "0x10"])
def test_wrong_size(tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It is refused before anything is touched."""
    assert main(["--memory", text, str(tmp_path)]) == 64
    assert f"--memory {text}: " in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
