"""What the verbs show on a real terminal: bars while somebody waits, output as it comes, tables."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from live import PROJECT, Live, eventually
from terminal import Terminal

PMJQ = (sys.executable, "-m", "pmjq")

On = Callable[..., Terminal]


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Live]:
    """Return a spool, and a daemon that is not started yet."""
    live = Live(tmp_path, "-j", "2")
    yield live
    live.close()


@pytest.fixture
def on_terminal(live: Live) -> Iterator[On]:
    """Return what runs pmjq on a terminal, through a shell."""
    opened: list[Terminal] = []

    def run(words: str, **variables: str) -> Terminal:
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(live.spool.parent),
            "PYTHONPATH": PROJECT,
            "LANG": "C.UTF-8",
            "TERM": "xterm",
            "PMJQ_SPOOL": str(live.spool),
            "PMJQ": " ".join(PMJQ),
        } | variables
        terminal = Terminal(("sh", "-c", words.replace("pmjq ", "$PMJQ ")), Path("/"), environment)
        opened.append(terminal)
        return terminal

    yield run
    for terminal in opened:
        terminal.__exit__()


def test_a_batch_shows_how_far_it_is(live: Live, on_terminal: On) -> None:
    """Where the names go into a file, the terminal has a bar, which ends full."""
    live.once()
    commands = live.spool.parent / "commands"
    commands.write_text("true\n" * 600)
    terminal = on_terminal(f"pmjq submit --batch {commands} >{commands}.names; echo over")
    assert terminal.ended() == 0
    shown = terminal.shown()
    assert "submitting" in shown
    assert "100%" in shown
    assert shown.endswith("\r\nover\r\n")
    assert len((commands.parent / "commands.names").read_text().splitlines()) == 600


def test_a_wait_for_several_shows_how_many_have_ended(live: Live, on_terminal: On) -> None:
    """One ends: the bar is half full; the other: it is full, and the wait is over."""
    live.start()
    first, second = live.gate("first"), live.gate("second")
    live.drop("one", f"{first.wait}:\n")
    live.drop("two", f"{second.wait}:\n")
    eventually(lambda: len(live.jobs()) == 2, what="both run")
    terminal = on_terminal("pmjq wait one two")
    terminal.shows("waiting")
    first.open()
    terminal.shows("50%")
    second.open()
    assert terminal.ended() == 0
    assert "100%" in terminal.shown()


def test_output_is_shown_as_it_comes(live: Live, on_terminal: On) -> None:
    """What a job has written is there while it runs, with what it writes to standard error."""
    live.start()
    gate = live.gate("gate")
    live.drop("talks", f"echo first; echo wrong >&2\n{gate.wait}echo last\n")
    eventually(live.jobs, what="it runs")
    terminal = on_terminal("pmjq logs -f talks")
    terminal.shows("first\r\nwrong\r\n")
    assert "last" not in terminal.shown()
    gate.open()
    assert terminal.ended() == 0
    assert terminal.shown() == "first\r\nwrong\r\nlast\r\n"


@pytest.mark.parametrize("columns", [40, 80])
def test_tables_fit_the_terminal(live: Live, on_terminal: On, columns: int) -> None:
    """No line is longer than COLUMNS, and nothing is cut off."""
    live.once()
    live.drop("a-name-of-some-length", "true")
    terminal = on_terminal("pmjq list", COLUMNS=str(columns))
    assert terminal.ended() == 0
    lines = terminal.shown().replace("\r", "").splitlines()
    assert max(map(len, lines)) <= columns
    assert "a-name-of-some-length" in terminal.shown()
    assert "no daemon runs here" in " ".join(terminal.shown().split())


def test_there_are_no_colours(live: Live, on_terminal: On) -> None:
    """With NO_COLOR nothing works on the terminal; a bar redraws its line, and no more."""
    live.once()
    live.drop("job", "true")
    terminal = on_terminal("pmjq list; pmjq show job", NO_COLOR="1")
    assert terminal.ended() == 0
    assert "\x1b" not in terminal.shown()
