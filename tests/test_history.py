"""The rules of ``pmjq history``: what has ended, the last ones last, chosen as one asks."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from live import Live
from pmjq import naming
from pmjq.job import Spec, Try
from pmjq.seen import Seen
from pmjq.state import State
from still import (
    HOSTILE,
    NO_INPUT,
    NOBODY,
    SOMEBODY,
    USAGE,
    Still,
    given_to,
    new_id,
    public_directory,
    typed,
    typed_as,
)


@pytest.fixture
def five(still: Still) -> Still:
    """Return a spool in which five jobs have ended, on two nodes, each an hour after the other."""
    hour = 3600.0
    still.ended("a.sh", ago=5 * hour, owner="ann")
    still.ended("b.sh", State.FAILED, code=3, ago=4 * hour, node="b", owner="bob")
    still.ended("c.py", State.CANCELLED, code=-15, ago=3 * hour, owner="ann")
    still.ended("d.sh", State.LOST, code=None, ago=2 * hour, node="b", owner="ann")
    still.ended("e.py", ago=1 * hour, owner="bob")
    still.put("queued")
    still.run("running")
    return still


def names(still: Still, *words: str) -> str:
    """Return the first letters of the jobs that are told of."""
    told = typed(still.root, "history", "--json", *words)
    assert (told.code, told.err) == (0, "")
    return "".join(line["name"][0] for line in told.lines)


def test_nothing_there(still: Still) -> None:
    """Where nothing has ended nothing is printed."""
    still.put("x")
    told = typed(still.root, "history")
    assert (told.code, told.out, told.err) == (0, "", "")


def test_no_spool(tmp_path: Path) -> None:
    """Where there is no spool the command says so."""
    typed(tmp_path / "nope", "history").refused(NO_INPUT)


def test_order_over_nodes(five: Still) -> None:
    """All nodes together, by time, the last one last; what lives is not told of."""
    assert names(five) == "abcde"
    rows = typed(five.root, "history").out.splitlines()
    assert rows[0].split()[:3] == ["ENDED", "NAME", "STATE"]
    assert [row.split()[2][0] for row in rows[1:]] == list("abcde")
    assert rows[-1].split()[3:] == ["done", rows[-1].split()[4], "bob", "a", "2", "s", "-"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("-n 2", "de"),
        ("-n 0", "abcde"),
        ("-n 9", "abcde"),
        ("--state done", "ae"),
        ("--state failed --state lost", "bd"),
        ("--state queued", ""),
        ("--owner ann", "acd"),
        ("--node b", "bd"),
        ("--name *.py", "ce"),
        ("--name [a-c]*", "abc"),
        ("--name d.sh", "d"),
        ("--since 150m", "de"),
        ("--since 3h30m --until 90m", "cd"),
        ("--until 3h30m", "ab"),
        ("--owner ann --node a -n 1", "c"),
        ("--since 1s", ""),
        ("--owner nobody", ""),
    ],
)
def test_choice(five: Still, words: str, told: str) -> None:
    """Each option narrows what is told; the last N are the last N of what is left."""
    assert names(five, *words.split()) == told


def test_tags(still: Still) -> None:
    """--tag chooses by the words of the directive tags."""
    for name, tags in (("a", "red,blue"), ("b", "blue"), ("c", "green")):
        still.ended(name, spec=Spec(directives=(f"tags={tags}",), tags=tuple(tags.split(","))))
    still.ended("d")
    assert names(still, "--tag", "blue") == "ab"
    assert names(still, "--tag", "blue", "--tag", "green") == "abc"


def test_times_of_day(five: Still) -> None:
    """Times may be dates, with a zone or without one: then they are local."""
    then = datetime.now(UTC) - timedelta(hours=2.5)
    for text in (f"{then:%Y-%m-%dT%H:%M:%SZ}", f"{then.astimezone():%Y-%m-%d %H:%M:%S}"):
        assert names(five, "--since", text) == "de"
        assert names(five, "--until", text) == "abc"
    assert names(five, "--since", "2000-01-01") == "abcde"


@pytest.mark.parametrize(
    "words",
    [
        ["--since", "yesterday"],
        ["--since", ""],
        ["--until", "1999-99-99"],
        ["--since", "0001-01-01"],
        ["--since", "9999-12-31T23:59:59"],
        ["--since", "999999999d"],
        ["--until", "3000000d"],
        ["-n", "-1"],
        ["-n", "x"],
        ["--state", "dead"],
        ["--nope"],
        ["-s", ""],
        ["x"],
    ],
)
def test_wrong_options(five: Still, words: list[str]) -> None:
    """A command line that cannot be carried out is refused in one line; a far time is far."""
    told = typed(five.root, "history", *words)
    if told.code:
        told.refused(USAGE)
    else:
        assert words[1][0] in "0139"


def test_limit_unless_asked(still: Still) -> None:
    """Fifty are told of unless more are asked for."""
    for number in range(60):
        still.ended(f"x{number:02}", ago=100 - number)
    told = typed(still.root, "history", "--json").lines
    assert [line["name"] for line in told] == [f"x{number}" for number in range(10, 60)]
    assert len(typed(still.root, "history", "--json", "-n", "0").lines) == 60


def test_more_than_a_block(still: Still) -> None:
    """Lines that the reading in blocks cuts are whole lines all the same."""
    total = 700
    for number in range(total):
        still.ended(f"x{number:03}", ago=1000 - number, reason="r" * (number % 300))
    told = typed(still.root, "history", "--json", "-n", "0").lines
    assert [line["name"] for line in told] == [f"x{number:03}" for number in range(total)]
    assert typed(still.root, "show", "--json", "x003").one["name"] == "x003"


def test_cancelled_without_a_node(still: Still) -> None:
    """What was cancelled while no daemon ran has ended now, and is told of once."""
    still.ended("a")
    still.put("b")
    assert typed(still.root, "cancel", "b").code == 0
    assert names(still) == "ab"
    assert names(still, "--state", "cancelled") == "b"
    assert names(still, "-n", "1") == "b"


def test_order_of_what_was_cancelled_without_a_node(still: Still) -> None:
    """What was cancelled while no daemon ran is told of in the order in which it was."""
    for letter in "abcdefgh":
        still.put(letter)
        assert typed(still.root, "cancel", letter).code == 0
    assert names(still) == "abcdefgh"
    assert names(still, "-n", "3") == "fgh"


def test_loss_that_was_completed(still: Still) -> None:
    """A lost job whose end became known is told of once, with how it ended."""
    still.ended("x", State.LOST, code=None, id="0" * 8 + new_id()[8:])
    record = still.ended("y", State.LOST, code=None, ago=30)
    late = still.ended("y", State.LOST, code=4, ago=20, id=record.id)
    told = typed(still.root, "history", "--json", "--name", "y").one
    assert (told["id"], told["exit_code"]) == (late.id, 4)


def test_earlier_attempts(still: Still) -> None:
    """A job that was tried again is told of with its earlier attempts."""
    tried = Try(id=new_id(), attempt=1, node="a", state="failed", exit_code=1)
    still.ended("x", attempt=2, earlier=(tried,))
    assert typed(still.root, "history", "--json").one["earlier"][0]["id"] == tried.id


def test_torn_and_strange_lines(five: Still) -> None:
    """A line that is torn or strange counts for nothing, and hides no other."""
    for path in (five.own / "events").glob("*.jsonl"):
        text = path.read_bytes()
        path.write_bytes(b"\0\0\nnull\n{}\n" + text + b'{"event":"job.ended","at":"2026-')
    (five.own / "events" / "stray.txt").write_text("x")
    (five.own / "events" / "empty.jsonl").touch()
    assert names(five) == "abcde"


@pytest.mark.parametrize("name", HOSTILE)
def test_any_name(still: Still, name: str) -> None:
    """Whatever a job was called, it is one row, exact in JSON, and found by its own name."""
    still.ended(name)
    still.ended("other")
    told = typed(still.root, "history")
    assert (told.code, len(told.out.splitlines())) == (0, 3)
    assert told.out.replace("\n", "").isprintable()
    line = typed(still.root, "history", "--json", f"--name={name}").one
    assert naming.real_name(line["name"], line["name_hex"]) == name


def test_json_has_the_fields_of_the_struct(five: Still) -> None:
    """Each line has every field, known or not."""
    for line in typed(five.root, "history", "--json").lines:
        assert tuple(line) == Seen.__struct_fields__


@pytest.mark.parametrize("owner", [0, SOMEBODY])
def test_who_may_only_read(owner: int) -> None:
    """Reading needs no right to write, whoever the spool belongs to."""
    with public_directory() as base:
        still = Still(base / "spool")
        still.ended("x")
        given_to(owner, still.root)
        told = typed_as(NOBODY, still.root, "history", "--json")
        assert (told.code, [line["name"] for line in told.lines]) == (0, ["x"]), told.err


def test_beside_a_daemon(tmp_path: Path) -> None:
    """What real daemons recorded, of several lives, in the order in which it ended."""
    with Live(tmp_path, "--node", "a", "-j", "1") as live:
        live.drop("a", "exit 3\n")
        live.ended("a")
        assert live.stop() == 0
        live.start()
        live.drop("b")
        live.ended("b")
        told = typed(live, "history", "--json").lines
        found = [(line["name"], line["state"], line["exit_code"]) for line in told]
        assert found == [("a", "failed", 3), ("b", "done", 0)]
