"""The README's console blocks do what they show, run for real in one shell session.

A line ``$ command`` is typed; the lines below it are what it must print, with ``...`` for anything.
A command that prints is repeated until it prints that, since jobs take a moment; one that does not
is run once and must be silent.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from os import environ
from pathlib import Path
from typing import NamedTuple

import pytest

README = Path(__file__).parent.parent / "README.md"
BIN = Path(sys.executable).parent

MARK = "--- the command has ended"

WITHIN = 30.0
"""Seconds for a job to end on a busy machine."""


class Step(NamedTuple):
    """One command of a console block and the lines that it prints."""

    command: str
    printed: list[str]


def steps(text: str) -> list[Step]:
    """Return the commands of all console blocks, in their order."""
    found: list[Step] = []
    for block in re.findall(r"^```console\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append(Step(line[2:], []))
            else:
                found[-1].printed.append(line)
    return found


def shows(expected: list[str], printed: list[str]) -> bool:
    """Tell whether lines are as the README shows them."""
    return len(expected) == len(printed) and all(
        re.fullmatch(".*".join(map(re.escape, pattern.split("..."))), line)
        for pattern, line in zip(expected, printed, strict=True)
    )


def eventually(condition: Callable[[], bool], within: float) -> bool:
    """Tell whether a condition comes true in time."""
    deadline = time.monotonic() + within
    while not (come := condition()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return come


class Shell:
    """A bash that types commands and returns the lines that they print."""

    def __init__(self, directory: Path) -> None:
        self.process = subprocess.Popen(
            ["bash"],
            cwd=directory,
            env=environ | {"PATH": f"{BIN}:{environ['PATH']}", "LC_ALL": "C.UTF-8"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.printed: list[str] = []

    def run(self, command: str) -> list[str]:
        """Run a command to its end; one with & only to its start."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{command}\necho '{MARK}'\n")
        self.process.stdin.flush()
        self.printed = []
        for line in self.process.stdout:
            if line.rstrip("\n") == MARK:
                return self.printed
            self.printed.append(line.rstrip("\n"))
        raise AssertionError(f"{command}: the shell has ended")

    def close(self) -> None:
        """Stop what runs in the background, then the shell."""
        self.run("kill $(jobs -p); wait")
        self.process.communicate()


@contextmanager
def shell(directory: Path) -> Iterator[Shell]:
    """Have a shell for the length of a ``with`` block."""
    opened = Shell(directory)
    try:
        # Root's daemon runs nothing in a spool that others can write.
        opened.run("umask 022")
        yield opened
    finally:
        opened.close()


def test_the_readme_begins_with_eight_lines_of_shell() -> None:
    """The first block goes from mkdir to the log in eight commands."""
    first = re.search(r"^```console\n(.*?)^```$", README.read_text(), re.DOTALL | re.MULTILINE)
    assert first is not None
    commands = [step.command for step in steps(first[0])]
    assert len(commands) == 8
    assert commands[0].startswith("mkdir")
    assert "log" in commands[-1]


def test_every_console_block_does_what_it_shows(tmp_path: Path) -> None:
    """What the README shows is what happens, with the installed pmjq."""
    assert (BIN / "pmjq").exists(), "pmjq is not installed beside this Python"
    with shell(tmp_path) as session:
        for command, expected in steps(README.read_text()):
            if not expected:
                assert session.run(command) == [], command
                continue

            def right(command: str = command, expected: list[str] = expected) -> bool:
                return shows(expected, session.run(command))

            assert eventually(right, WITHIN), f"{command} printed {session.printed}"


@pytest.mark.parametrize(
    ("pattern", "line", "same"),
    [("a...b", "a--b", True), ("a...b", "ab", True), ("a.b", "a-b", False), ("...", "", True)],
)
def test_three_dots_stand_for_anything(pattern: str, line: str, same: bool) -> None:  # noqa: FBT001  # a column
    """Three dots match any text in a line, one dot itself."""
    assert shows([pattern], [line]) is same
