"""The rules of ``pmjq drain`` and ``resume``: a node takes no more jobs, and takes them again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from live import Live, eventually
from pmjq.disk import Disk
from pmjq.spool import Spool
from pmjq.steering import Answer
from still import (
    NO_INPUT,
    NOBODY,
    NOT_PERMITTED,
    NOT_SO,
    USAGE,
    Still,
    public_directory,
    runs_now,
    snapshot,
    typed,
    typed_as,
)


@pytest.fixture
def still(tmp_path: Path) -> Still:
    """Return a spool with two nodes, which no daemon serves."""
    still = Still(tmp_path / "spool")
    still.node("a")
    still.node("b")
    return still


def drained(still: Still) -> list[str]:
    """Return the names of the nodes that are drained."""
    path = still.own / "drained"
    return sorted(os.listdir(path)) if path.exists() else []


def test_drain_and_resume(still: Still) -> None:
    """Each says what is so, and who wanted it."""
    told = typed(still.root, "drain", "a")
    assert (told.code, told.err, drained(still)) == (0, "", ["a"])
    assert told.out.startswith("a: drained by ")
    told = typed(still.root, "resume", "a")
    assert (told.code, told.out, drained(still)) == (0, "a: takes jobs again\n", [])


def test_twice(still: Still) -> None:
    """A node that is drained can be drained; one that is not cannot be resumed."""
    assert [typed(still.root, "drain", "a").code for _ in range(2)] == [0, 0]
    assert typed(still.root, "resume", "a").code == 0
    typed(still.root, "resume", "a").refused(NOT_SO, "a: is not drained")


def test_several_and_all(still: Still) -> None:
    """Several nodes, or all that there are."""
    assert typed(still.root, "drain", "b", "a").code == 0
    assert drained(still) == ["a", "b"]
    assert typed(still.root, "resume", "ALL").code == 0
    assert drained(still) == []
    assert typed(still.root, "drain", "ALL").code == 0
    assert drained(still) == ["a", "b"]


def test_resume_all_where_some_are_not_drained(still: Still) -> None:
    """``resume ALL`` means those that are drained: the others are no error."""
    assert typed(still.root, "drain", "a").code == 0
    told = typed(still.root, "resume", "ALL")
    assert (told.code, told.err, drained(still)) == (0, "", [])


@pytest.mark.parametrize("verb", ["drain", "resume"])
@pytest.mark.parametrize("name", ["nope", "a.b", "", "../a", "a\nb", "a/b"])
def test_unknown(still: Still, verb: str, name: str) -> None:
    """A node that is not known is told in one line, and nothing at all is done."""
    typed(still.root, "drain", "a")
    before = snapshot(still.root)
    typed(still.root, verb, "b", name).refused(NO_INPUT, "no such node")
    assert snapshot(still.root) == before


def test_node_that_is_gone(still: Still) -> None:
    """A node that was drained and is not there any more can be resumed still."""
    (still.own / "drained").mkdir()
    (still.own / "drained" / "gone").write_text("ann\n")
    assert typed(still.root, "resume", "gone").code == 0
    assert drained(still) == []


def test_all_of_none(tmp_path: Path) -> None:
    """Where no node is, nothing is to be done."""
    still = Still(tmp_path / "empty")
    for verb in ("drain", "resume"):
        assert typed(still.root, verb, "ALL").code == 0


def test_json(still: Still) -> None:
    """A line for each node, with every field, done or not."""
    told = typed(still.root, "drain", "--json", "a")
    assert (tuple(told.one), told.one["node"], told.one["done"]) == (
        Answer.__struct_fields__,
        "a",
        True,
    )
    told = typed(still.root, "resume", "--json", "b")
    assert (told.code, told.one["done"], told.err) == (NOT_SO, False, "")


@pytest.mark.parametrize("verb", ["drain", "resume"])
@pytest.mark.parametrize("words", [[], ["--nope", "a"], ["-s", "", "a"]])
def test_wrong_options(still: Still, verb: str, words: list[str]) -> None:
    """A command line that cannot be carried out is refused; it never means every node."""
    typed(still.root, verb, *words).refused(USAGE)
    assert drained(still) == []


def test_not_mine() -> None:
    """Who may not write the spool's tree is told so, and nothing changes."""
    with public_directory() as base:
        still = Still(base / "spool")
        still.node("a")
        still.node("b")
        assert typed(still.root, "drain", "b").code == 0
        before = snapshot(still.root)
        typed_as(NOBODY, still.root, "drain", "a").refused(NOT_PERMITTED, "Permission denied")
        typed_as(NOBODY, still.root, "resume", "b").refused(NOT_PERMITTED, "Permission denied")
        assert snapshot(still.root) == before


# --- beside a daemon


def closed(live: Live) -> bool:
    """Tell whether the node says that it takes nothing."""
    gate: object = live.node().get("gate")
    return gate == "closed"


@pytest.mark.parametrize("verb", ["drain", "resume"])
def test_all_stands_alone(still: Still, verb: str) -> None:
    """Who names a node beside ALL means something else."""
    still.node("a")
    typed(still.root, verb, "ALL", "a").refused(USAGE, "stands alone")
    assert Spool(Disk(), str(still.root)).drained() == []


def test_takes_nothing_and_what_runs_goes_on(tmp_path: Path) -> None:
    """A drained node starts nothing and says why; what it runs ends by itself; then it goes on."""
    with Live(tmp_path, "--node", "a", "-j", "2") as live:
        gate = live.gate("1")
        runs_now(live, "first", f"{gate.wait}exit 4\n")
        who = typed(live, "drain", "a").out.removeprefix("a: ").rstrip("\n")
        eventually(lambda: closed(live))
        live.drop("x", live.side_effect("x"))
        told = eventually(lambda: live.node().get("queued") and typed(live, "nodes").out)
        assert who in str(told)
        assert who in typed(live, "list", "--json", "x").one["reason"]
        assert f"a: {who}" in typed(live, "show", "x").out
        gate.open()
        assert live.ended("first").record.exit_code == 4
        # Every look at the queue has been free to start it since.
        live.drop("y", live.side_effect("y"))
        eventually(lambda: live.node().get("queued") == 2)
        assert (live.runs("x"), live.runs("y")) == (0, 0)
        assert typed(live, "resume", "a").code == 0
        live.ended("x")
        live.ended("y")
        eventually(lambda: not closed(live))


def test_survives_a_restart(tmp_path: Path) -> None:
    """A node that is drained stays so when its daemon is stopped, or killed, and started again."""
    with Live(tmp_path, "--node", "a") as live:
        assert typed(live, "drain", "a").code == 0
        eventually(lambda: closed(live))
        for end in (live.stop, live.kill):
            end()
            live.drop(f"x.{end.__name__}", live.side_effect("x"))
            live.start()
            eventually(lambda: live.node().get("queued"))
            eventually(lambda: closed(live))
        assert live.runs("x") == 0
        assert typed(live, "resume", "a").code == 0
        eventually(lambda: live.runs("x") == 2)


def test_drained_while_it_is_down(tmp_path: Path) -> None:
    """A node whose daemon was killed can be drained: its next daemon takes nothing."""
    with Live(tmp_path, "--node", "a") as live:
        live.kill()
        assert typed(live, "drain", "a").code == 0
        live.drop("x", live.side_effect("x"))
        live.start()
        eventually(lambda: live.node().get("queued"))
        assert live.runs("x") == 0


def test_drained_while_it_is_stopped(tmp_path: Path) -> None:
    """A node whose daemon was stopped in order can be drained, though no life of it is listed."""
    with Live(tmp_path, "--node", "a") as live:
        live.drop("first")
        live.ended("first")
        assert live.stop() == 0
        assert typed(live, "nodes", "--json").out == ""
        typed(live, "resume", "a").refused(NOT_SO, "a: is not drained")
        assert typed(live, "drain", "a").code == 0
        live.drop("x", live.side_effect("x"))
        live.start()
        eventually(lambda: live.node().get("queued"))
        assert live.runs("x") == 0


def test_others_go_on(tmp_path: Path) -> None:
    """The other nodes take what a drained one leaves."""
    spool = tmp_path / "spool"
    with (
        Live(tmp_path / "a", "--node", "a", spool=spool) as first,
        Live(tmp_path / "b", "--node", "b", spool=spool) as second,
    ):
        assert typed(spool, "drain", "a").code == 0
        eventually(lambda: closed(first))
        for number in range(6):
            second.drop(f"x{number}")
        nodes = {second.ended(f"x{number}").record.node for number in range(6)}
        assert nodes == {"b"}


def test_claimed_ones_go_back(tmp_path: Path) -> None:
    """What a node has claimed and not started when it is drained is for other nodes to take."""
    with Live(tmp_path, "--node", "a", "-j", "1") as live:
        gate = live.gate("1")
        runs_now(live, "first", gate.wait)
        for number in range(5):
            live.drop(f"x{number}", live.side_effect(f"x{number}"))
        assert typed(live, "drain", "a").code == 0
        eventually(lambda: closed(live))
        eventually(lambda: len(live.spooled()) == 5, what="what was claimed ahead is back")
        gate.open()
        live.ended("first")
        assert (live.spooled(), sum(live.runs(f"x{number}") for number in range(5))) == (
            [f"x{number}" for number in range(5)],
            0,
        )
