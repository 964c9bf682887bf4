"""The verbs where a hundred thousand jobs are queued: none is missed, and one is found among them.

How long that takes, the benches measure.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest

from still import NO_INPUT, TIMED_OUT, Still, typed

COUNT = 100_000


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Still]:
    """Return a spool with a hundred thousand jobs in it, which no daemon serves."""
    still = Still(tmp_path_factory.mktemp("crowd") / "spool")
    directory = os.open(still.root, os.O_RDONLY)
    for number in range(COUNT):
        fd = os.open(f"j{number:06}", os.O_CREAT | os.O_WRONLY, 0o755, dir_fd=directory)
        os.write(fd, b"#!/bin/sh\n")
        os.close(fd)
    os.close(directory)
    still.run("runs")
    yield still
    shutil.rmtree(still.root)


def count(crowd: Still) -> int:
    """Return how many entries the spool has."""
    return len(crowd.listed())


def test_list(crowd: Still) -> None:
    """Every job is listed, the running one first, in the order in which they came."""
    rows = typed(crowd.root, "list", "-n", "0").out.splitlines()
    assert len(rows) == 1 + 1 + count(crowd)
    assert [row.split()[0] for row in rows[1:4]] == ["runs", "j000000", "j000001"]
    assert rows[-1].split()[:2] == [f"j{COUNT - 1:06}", "queued"]


def test_list_one(crowd: Still) -> None:
    """One is found by its name, some by a pattern."""
    assert typed(crowd.root, "list", "--json", "j050000").one["name"] == "j050000"
    assert len(typed(crowd.root, "list", "--json", "j05000?").lines) == 10
    typed(crowd.root, "list", "k*").refused(NO_INPUT)


def test_show(crowd: Still) -> None:
    """One is shown with why it does not run."""
    told = typed(crowd.root, "show", "j090000")
    assert (told.code, "j090000" in told.out) == (0, True)


def test_wait(crowd: Still) -> None:
    """One is waited for."""
    assert typed(crowd.root, "wait", "--timeout", "0.1", "j090001").code == TIMED_OUT


def test_cancel(crowd: Still) -> None:
    """One is cancelled, and no other."""
    before = count(crowd)
    assert typed(crowd.root, "cancel", "j090002").code == 0
    assert (count(crowd), (crowd.root / "j090002").exists()) == (before - 1, False)
    assert typed(crowd.root, "wait", "--json", "j090002").one["state"] == "cancelled"


def test_hold_some(crowd: Still) -> None:
    """A pattern holds those that it means, and no other."""
    assert typed(crowd.root, "hold", "j09100?").code == 0
    held = [path.name for path in crowd.root.glob("j091*") if not os.access(path, os.X_OK)]
    assert sorted(held) == [f"j09100{digit}" for digit in range(10)]
