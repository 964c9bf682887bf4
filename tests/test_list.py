"""The rules of ``pmjq list``: what has not ended, where it is, and why it does not run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pmjq import naming
from pmjq.seen import Seen
from still import (
    HOSTILE,
    NO_INPUT,
    NOBODY,
    SOMEBODY,
    TOO_LONG,
    USAGE,
    Still,
    given_to,
    public_directory,
    snapshot,
    typed,
    typed_as,
)


def names(still: Still, *words: str) -> list[str]:
    """Return the names that are listed."""
    told = typed(still.root, "list", "--json", *words)
    assert (told.code, told.err) == (0, "")
    return [line["name"] for line in told.lines]


def test_nothing_there(still: Still) -> None:
    """An empty queue is no error and prints nothing."""
    told = typed(still.root, "list")
    assert (told.code, told.out, told.err) == (0, "", "")


def test_no_such_state(still: Still) -> None:
    """It is refused, whether there are jobs or not."""
    typed(still.root, "list", "--state", "old").refused(USAGE, "no such state")
    still.put("x")
    typed(still.root, "list", "--state", "old").refused(USAGE, "no such state")


def test_no_spool(tmp_path: Path) -> None:
    """Where there is no spool the command says so, and makes none."""
    typed(tmp_path / "nope", "list").refused(NO_INPUT, "no such directory")
    typed(tmp_path, "list").refused(NO_INPUT, "not a spool")
    assert list(tmp_path.iterdir()) == []


def test_one_without_a_daemon(still: Still) -> None:
    """A queued job is listed with the reason why it does not run."""
    still.put("train.sh")
    told = typed(still.root, "list")
    headings, row = told.out.splitlines()
    assert headings.split() == ["NAME", "STATE", "ID", "OWNER", "NODE", "AGE", "REASON"]
    assert row.split()[:3] == ["train.sh", "queued", "-"]
    assert row.endswith("no daemon runs here")


def test_running_ones_come_first(still: Still) -> None:
    """Those that nodes have come first, then the queue in its order, whatever their names are."""
    for name in ("c", "a", "b"):
        still.put(name)
    still.run("z")
    assert names(still) == ["z", "c", "a", "b"]


def test_order_of_the_queue(still: Still) -> None:
    """By priority, whatever part of it is asked for, then by age."""
    still.put("low", "#!/bin/sh\n#PMJQ priority=-1\n")
    for name in ("c", "a", "b"):
        still.put(name)
    still.put("urgent", "#!/bin/sh\n#PMJQ priority=2\n")
    assert names(still) == ["urgent", "c", "a", "b", "low"]
    rows = typed(still.root, "list", "-n", "2").out.splitlines()
    assert [row.split()[0] for row in rows[1:3]] == ["urgent", "c"]


def test_same_name_ended_and_queued(still: Still) -> None:
    """What has ended is not listed, even if something of its name is."""
    still.ended("x")
    still.put("x")
    told = typed(still.root, "list", "--json", "x").one
    assert (told["state"], told["id"]) == ("queued", "")


def test_two_of_one_name_run(still: Still) -> None:
    """Each job is listed, told apart by its id and its node."""
    ids = {still.run("x", node).id for node in ("a", "b")}
    assert {line["id"] for line in typed(still.root, "list", "--json", "x").lines} == ids


def test_ended_is_not_listed(still: Still) -> None:
    """A job that is known and has ended is no error, and not in the list."""
    still.ended("x")
    assert names(still, "x") == []


NO_NAMES = ("a/b", "", ".", "..", ".pmjq", *TOO_LONG)


@pytest.mark.parametrize("name", ["nope", "*.nope", "0123abcd", *NO_NAMES])
def test_unknown(still: Still, name: str) -> None:
    """A job that is not there is told in one line."""
    still.put("x")
    typed(still.root, "list", "--", name).refused(NO_INPUT, "no such job")


@pytest.mark.parametrize("name", ["no\nsuch\njob", os.fsdecode(b"\xff"), "\x1b[31mred"])
def test_unknown_name_that_would_break_a_line(still: Still, name: str) -> None:
    """What a person reads is one line, without what works on a terminal."""
    told = typed(still.root, "list", "--", name)
    told.refused(NO_INPUT, "no such job")
    assert told.err[:-1].isprintable()


def test_reasons(still: Still) -> None:
    """Whatever does not run has a reason: held, hidden, a link, for later, after others."""
    still.put("held", mode=0o644)
    still.put(".hidden")
    (still.root / "link").symlink_to("held")
    (still.root / "directory").mkdir()
    still.put("later", "#!/bin/sh\n#PMJQ not-before=2999-01-01T00:00:00Z\n")
    still.put("second", "#!/bin/sh\n#PMJQ after=held\n")
    still.put("itself", "#!/bin/sh\n#PMJQ after=itself\n")
    still.put("wrong", "#!/bin/sh\n#PMJQ retrys=1\n")
    still.back("back")
    lines = {line["name"]: line for line in typed(still.root, "list", "--json").lines}
    told = {
        "held": ("held", "chmod +x"),
        ".hidden": ("incoming", "hidden"),
        "link": ("incoming", "symbolic link"),
        "directory": ("incoming", "info file"),
        "later": ("queued", "not before 2999-01-01 00:00:00Z"),
        "second": ("queued", "after held"),
        "itself": ("queued", "waits for itself"),
        "wrong": ("incoming", "did you mean retries"),
        "back": ("queued", "attempt 2 not before"),
    }
    assert lines.keys() == told.keys()
    for name, (state, word) in told.items():
        assert (lines[name]["state"], word in lines[name]["reason"]) == (state, True), lines[name]


def test_node_that_is_dead(still: Still) -> None:
    """A job in the hands of a node that is gone is listed with that."""
    still.node("a", alive=False)
    still.run("x")
    told = typed(still.root, "list", "--json").one
    assert (told["state"], told["node"], told["reason"]) == ("running", "a", "its node is dead")


def test_closed_gates(still: Still) -> None:
    """Where every node is alive and starts nothing, the queue says why."""
    still.node("a", gate="closed", reason="load 5.0 above 4.0")
    still.put("x")
    assert typed(still.root, "list", "--json").one["reason"] == "a: load 5.0 above 4.0"


def test_more_cpus_than_there_are(still: Still) -> None:
    """A request that no node can meet is told as such."""
    still.node("a", cpus=4)
    still.put("x", "#!/bin/sh\n#PMJQ cpus=5\n")
    assert "needs 5 CPUs, and there are 4" in typed(still.root, "list", "--json").one["reason"]


def test_states_and_owners(still: Still) -> None:
    """--state and --mine choose; an unknown state is refused with those that there are."""
    still.put("x")
    still.put("h", mode=0o600)
    still.run("r", uid=SOMEBODY)
    assert names(still, "--state", "held", "--state", "running") == ["r", "h"]
    assert names(still, "--mine") == ["x", "h"]
    assert names(still, "--state", "done") == []
    typed(still.root, "list", "--state", "dead").refused(USAGE, "dead", "queued")


def test_patterns_and_all(still: Still) -> None:
    """A pattern means the jobs of such names, ALL all of mine, a path the entry it leads to."""
    for name in ("a1", "a2", "b1", "ALL", "[x]"):
        still.put(name)
    assert names(still, "a*", "b?") == ["a1", "a2", "b1"]
    assert sorted(names(still, "ALL")) == sorted(still.listed())
    assert names(still, f"{still.root}/b1", "./ALL") == ["b1", "ALL"]
    assert names(still, "[x]") == ["[x]"]


def test_first_of_the_queue(still: Still) -> None:
    """-n N is the first N of the queue, beside what runs; a last line says that there are more."""
    for name in ("a", "b", "c"):
        still.put(name)
    still.run("r")
    told = typed(still.root, "list", "-n", "2").out.splitlines()
    assert [line.split()[0] for line in told] == ["NAME", "r", "a", "b", "..."]
    assert "-n 0" in told[-1]
    for number in ("3", "0", "9"):
        rows = typed(still.root, "list", "-n", number).out.splitlines()[1:]
        assert [row.split()[0] for row in rows] == ["r", "a", "b", "c"]
    assert names(still, "-n", "1") == ["r", "a", "b", "c"]
    assert typed(still.root, "list", "-n", "1", "--mine").out.count("\n") == 5


def test_tags(still: Still) -> None:
    """--tag chooses by the words of the directive tags, of which a job may have several."""
    still.put("x", "#!/bin/sh\n#PMJQ tags=red,blue\n")
    still.put("y", "#!/bin/sh\n#PMJQ tags=green\n#PMJQ tags=dark\n")
    still.put("z")
    assert names(still, "--tag", "blue") == ["x"]
    assert names(still, "--tag", "blue", "--tag", "dark") == ["x", "y"]
    assert names(still, "--tag", "re") == []


@pytest.mark.parametrize("words", [[], ["x*"]], ids=["of all", "of a pattern"])
def test_tags_in_a_long_queue(still: Still, words: list[str]) -> None:
    """--tag finds a job wherever it is in the queue."""
    still.crowd()
    still.put("x1", "#!/bin/sh\n#PMJQ tags=red\n")
    assert typed(still.root, "list", "--json").lines[-1]["directives"] == []
    assert names(still, "--tag", "red", *words) == ["x1"]


def test_held_with_what_it_asks_for(still: Still) -> None:
    """A held job is listed and found by what it asks for, and is held all the same."""
    still.put("x", "#!/bin/sh\n#PMJQ cpus=2 tags=red\n", mode=0o644)
    told = typed(still.root, "list", "--json", "--tag", "red").one
    assert (told["state"], told["directives"]) == ("held", ["cpus=2", "tags=red"])
    assert told["reason"] == "not executable; chmod +x releases it"


def test_held_with_wrong_directives(still: Still) -> None:
    """What is wrong with a held job is told once it is released; it can be mended until then."""
    path = still.put("x", "#!/bin/sh\n#PMJQ nope\n", mode=0o644)
    told = typed(still.root, "list", "--json").one
    assert (told["state"], told["directives"]) == ("held", [])
    path.chmod(0o755)
    assert typed(still.root, "list", "--json").one["state"] == "incoming"


def test_all_of_mine(still: Still) -> None:
    """ALL leaves out what others own, and what is no job."""
    if os.geteuid():
        pytest.skip("this user is not root, so has no files of others")
    still.put("mine")
    still.put("his", uid=SOMEBODY)
    still.put(".hidden")
    assert names(still, "ALL") == ["mine"]


def test_ids(still: Still) -> None:
    """An id, or a start of it that only one has, means the job that runs under it."""
    attempt = still.run("x")
    still.run("y")
    assert names(still, attempt.id) == names(still, attempt.id[:13]) == ["x"]


@pytest.mark.parametrize("name", HOSTILE)
def test_any_name(still: Still, name: str) -> None:
    """Whatever a job is called, it is one row, exact in JSON, and found by its name."""
    still.put(name)
    told = typed(still.root, "list")
    assert (told.code, len(told.out.splitlines()), told.err) == (0, 2, "")
    assert told.out.replace("\n", "").isprintable()
    line = typed(still.root, "list", "--json", "--", name).one
    assert naming.real_name(line["name"], line["name_hex"]) == name


def test_json_has_the_fields_of_the_struct(still: Still) -> None:
    """Each line has every field, in the order of the documentation, known or not."""
    still.put("x")
    still.run("y")
    for line in typed(still.root, "list", "--json").lines:
        assert tuple(line) == Seen.__struct_fields__


@pytest.mark.parametrize("words", [["--nope"], ["-s"], ["--state"], ["-s", "", "--json"]])
def test_wrong_options(still: Still, words: list[str]) -> None:
    """A command line that cannot be carried out is refused."""
    typed(still.root, "list", *words).refused(USAGE)


@pytest.mark.parametrize("reader", [0, NOBODY, SOMEBODY])
@pytest.mark.parametrize("owner", [0, SOMEBODY])
def test_who_may_only_read(owner: int, reader: int) -> None:
    """Anybody who may read a spool sees its jobs, whoever it belongs to, and changes nothing."""
    with public_directory() as base:
        still = Still(base / "spool")
        still.put("x")
        still.run("y")
        given_to(owner, still.root)
        before = snapshot(still.root)
        told = typed_as(reader, still.root, "list", "--json")
        seen = [line["name"] for line in told.lines]
        after = snapshot(still.root)
        assert (told.code, seen, after == before) == (0, ["y", "x"], True), told.err


def test_who_may_not_read() -> None:
    """A spool that this user may not read is told as such."""
    with public_directory() as base:
        still = Still(base / "spool")
        still.root.chmod(0o700)
        typed_as(NOBODY, still.root, "list").refused(77, str(still.root))
