"""The one rule of all verbs that look: nothing is changed, whoever looks and whatever is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from live import Live, eventually
from pmjq.state import State
from still import (
    FOR_EVER,
    HOSTILE,
    SOMEBODY,
    Still,
    given_to,
    public_directory,
    runs_now,
    snapshot,
    typed,
    typed_as,
)

LOOKS = (
    ("list",),
    ("list", "--json", "*"),
    ("show", "queued", "running", "done"),
    ("logs", "running"),
    ("logs", "done"),
    ("logs", "-f", "done"),
    ("history",),
    ("history", "-n", "0", "--json"),
    ("nodes",),
    ("wait", "--timeout", "0", "queued", "running"),
    ("wait", "done"),
    ("prune", "--older-than", "0s", "--dry-run"),
    ("list", "nope"),
    ("cancel", "done"),
    ("cancel", "nope"),
    ("release", "queued"),
    ("retry", "running"),
    ("resume", "a"),
    ("drain", "nope"),
)
"""What changes nothing; at the end, what is asked for in vain."""


def _furnish(still: Still) -> None:
    for name in ("queued", *HOSTILE):
        still.put(name)
    still.put("held", mode=0o644)
    still.put(".hidden")
    still.back("back", output=b"so far\n")
    still.run("running", output=b"now\n")
    still.node("b", alive=False)
    still.run("stuck", "b")
    still.ended("done", output=b"then\n")
    still.ended("lost", State.LOST, code=None, node="c")


@pytest.mark.parametrize("words", LOOKS, ids=" ".join)
def test_nothing_is_changed(tmp_path: Path, words: tuple[str, ...]) -> None:
    """Not a name, a mode, a time or a byte of the tree is another afterwards."""
    still = Still(tmp_path / "spool")
    _furnish(still)
    before = snapshot(still.root)
    told = typed(still.root, *words)
    assert "Traceback" not in told.err
    assert snapshot(still.root) == before


def test_nothing_is_changed_beside_a_daemon(tmp_path: Path) -> None:
    """Nor while a daemon serves the spool: it is not even made to look again."""
    with Live(tmp_path, "--node", "a", "-j", "1") as live:
        live.drop("done", "echo then\n")
        live.ended("done")
        runs_now(live, "running", FOR_EVER)
        live.drop("queued")
        eventually(lambda: live.node().get("queued") == 1)
        before = snapshot(live.spool, beating=True)
        for words in LOOKS:
            typed(live, *words)
        assert snapshot(live.spool, beating=True) == before


@pytest.mark.parametrize("mode", [0o775, 0o777])
def test_tree_that_others_may_write(tmp_path: Path, mode: int) -> None:
    """Whatever is said of a tree that is open to others, looking at it makes no file in it."""
    still = Still(tmp_path / "spool")
    _furnish(still)
    still.own.chmod(mode)
    before = snapshot(still.root)
    assert "Traceback" not in typed(still.root, "list").err
    assert snapshot(still.root) == before


def test_tree_of_somebody_else() -> None:
    """Whatever root is told of somebody else's spool, looking at it makes no file in it."""
    with public_directory() as base:
        still = Still(base / "spool")
        _furnish(still)
        given_to(SOMEBODY, still.root)
        before = snapshot(still.root)
        for uid in (0, SOMEBODY):
            assert "Traceback" not in typed_as(uid, still.root, "list").err
        assert snapshot(still.root) == before
