"""The rules of ``pmjq show``: all that is known of a job, wherever it is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pmjq import naming
from pmjq.job import Try
from pmjq.seen import Seen
from pmjq.state import State
from still import (
    HOSTILE,
    NO_INPUT,
    NOBODY,
    USAGE,
    Still,
    new_id,
    public_directory,
    typed,
    typed_as,
)


def facts(still: Still, *words: str) -> dict[str, str]:
    """Return what is shown of a job, by what it is called."""
    told = typed(still.root, "show", *words)
    assert (told.code, told.err) == (0, "")
    pairs = [re.split(r" {2,}", line, maxsplit=1) for line in told.out.splitlines()]
    return {name: value for name, value in pairs}  # noqa: C416  # pairs are lists


def test_queued(still: Still) -> None:
    """A queued job is shown with what it asks for, and what each living node says of it."""
    still.node("a")
    still.node("b", aside={"x": "another owner's file"})
    still.node("gone", alive=False)
    still.put("x", "#!/bin/sh\n#PMJQ cpus=2\n")
    told = typed(still.root, "show", "x").out.splitlines()
    assert "directives  cpus=2" in told
    assert told[-2:] == [
        "on node     a: may start it",
        "on node     b: another owner's file",
    ]


def test_held(still: Still) -> None:
    """A held job is shown with what it asks for, and how to release it."""
    still.put("x", "#!/bin/sh\n#PMJQ cpus=2\n", mode=0o644)
    shown = facts(still, "x")
    assert (shown["state"], shown["directives"]) == ("held", "cpus=2")
    assert "chmod +x" in shown["reason"]


def test_no_node_starts_what_is_seen_not_to_be_startable(still: Still) -> None:
    """A node that has not looked yet is not said to start it."""
    still.node("a")
    still.put("held", mode=0o644)
    still.put("early", "#!/bin/sh\n#PMJQ not-before=2126-01-01T00:00:00Z\n")
    still.put("wrong", "#!/bin/sh\n#PMJQ colour=red\n")
    (still.root / "plain").mkdir()
    still.back("back")
    for name in ("held", "early", "wrong", "plain", "back"):
        assert "on node" not in facts(still, name), name
    still.put("x")
    assert facts(still, "x")["on node"] == "a: may start it"


def test_just_released(still: Still) -> None:
    """What a node said of it when it was held counts no more."""
    still.node("a", aside={"x": "not executable; chmod +x releases it"})
    still.put("x")
    shown = facts(still, "x")
    assert (shown["state"], shown.get("reason"), shown["on node"]) == (
        "queued",
        None,
        "a: may start it",
    )


def test_one_job_named_in_several_ways(still: Still) -> None:
    """It is shown once: all three files of an archived job mean it."""
    record = still.ended("x")
    paths = [str(path) for path in still.done.iterdir()]
    assert len(paths) == 3
    told = typed(still.root, "show", "--json", "x", record.id, *paths)
    assert told.one["id"] == record.id


def test_no_output_of_what_was_never_executed(still: Still) -> None:
    """A job that was cancelled in the queue, and once more after a retry, has none."""
    still.put("x")
    for _ in range(2):
        assert typed(still.root, "cancel", "x").code == 0
        assert typed(still.root, "show", "--json", "x").one["output"] == ""
        assert typed(still.root, "retry", "x").code == 0
        assert typed(still.root, "show", "--json", "x").one["output"] == ""


def test_what_a_job_was_given(still: Still) -> None:
    """Its GPUs and CPUs, whether it runs or has ended."""
    still.run("x", gpus=("0", "1"), cpus=(2,))
    still.ended("y", gpus=("GPU-5",))
    assert (facts(still, "x")["GPUs"], facts(still, "x")["CPUs"]) == ("0 1", "2")
    assert facts(still, "y")["GPUs"] == "GPU-5"
    assert "CPUs" not in facts(still, "y")


def test_running(still: Still) -> None:
    """A running job is shown with its node, its id, its times and where its output is."""
    attempt = still.run("x")
    shown = facts(still, "x")
    assert (shown["state"], shown["id"], shown["node"]) == ("running", attempt.id, "a")
    assert Path(shown["output"]).exists()
    assert "started" in shown


@pytest.mark.parametrize(
    ("state", "code", "told"),
    [
        (State.DONE, 0, ("exit code", "0")),
        (State.FAILED, 3, ("exit code", "3")),
        (State.FAILED, -9, ("signal", "9")),
        (State.CANCELLED, None, ("state", "cancelled")),
        (State.LOST, None, ("state", "lost")),
    ],
)
def test_ended(still: Still, state: State, code: int | None, told: tuple[str, str]) -> None:
    """An ended job is shown with how it ended, and where it and its output are now."""
    record = still.ended("x", state, code=code, reason="because")
    shown = facts(still, "x")
    assert (shown["state"], shown["reason"], shown["id"]) == (str(state), "because", record.id)
    assert shown[told[0]] == told[1]
    assert Path(shown["archived"]).exists()
    if state is State.CANCELLED:
        # Before it was started: it has written nothing.
        assert "output" not in shown
    else:
        assert Path(shown["output"]).exists()


def test_living_before_ended(still: Still) -> None:
    """Of one name the job that lives is meant; the one that ended is found by its id."""
    record = still.ended("x")
    still.put("x")
    assert facts(still, "x")["state"] == "queued"
    assert facts(still, record.id)["state"] == "done"


def test_last_of_the_ended(still: Still) -> None:
    """Of several that ended under one name the last is meant."""
    still.ended("x", ago=50)
    last = still.ended("x", ago=10)
    still.ended("y", ago=5)
    assert facts(still, "x")["id"] == last.id


def test_last_of_those_cancelled_without_a_node(still: Still) -> None:
    """Also of those that were cancelled while no daemon ran it is the last that is meant."""
    for _ in range(6):
        still.put("x")
        told = typed(still.root, "cancel", "--json", "x").one
    assert facts(still, "x")["id"] == told["id"]


def test_two_of_one_name_run(still: Still) -> None:
    """Both are shown."""
    ids = {still.run("x", node).id for node in ("a", "b")}
    assert {line["id"] for line in typed(still.root, "show", "--json", "x").lines} == ids


def test_several_names(still: Still) -> None:
    """Several jobs are shown in the order in which they were named, a blank line between."""
    still.put("a")
    still.ended("b")
    told = typed(still.root, "show", "b", "a")
    assert [part.split()[1] for part in told.out.split("\n\n")] == ["b", "a"]


@pytest.mark.parametrize("ended", [False, True])
def test_prefixes(still: Still, *, ended: bool) -> None:
    """The start of an id finds its job if it has four characters and no other begins so."""
    make = still.ended if ended else still.run
    ids = [new_id(start) for start in ("abcdef01", "abcdef99", "12345678")]
    for number, job_id in enumerate(ids):
        make(f"x{number}", id=job_id)
    assert facts(still, "1234")["name"] == "x2"
    assert facts(still, "abcdef0")["name"] == "x0"
    typed(still.root, "show", "abcd").refused(USAGE, *ids[:2])
    typed(still.root, "show", "abc").refused(NO_INPUT)


def test_name_before_id(still: Still) -> None:
    """A job whose name looks like the start of an id is found by its name."""
    still.put("abcd")
    still.run("x", id=new_id("abcdef01"))
    assert facts(still, "abcd")["state"] == "queued"


def test_paths(still: Still, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path to an entry or to an archived file means its job; one to elsewhere means none."""
    still.put("x")
    record = still.ended("y")
    monkeypatch.chdir(still.root.parent)
    assert facts(still, "spool/x")["name"] == "x"
    for suffix in ("", ".out", ".json"):
        assert facts(still, f"{still.done}/{record.stem}{suffix}")["id"] == record.id


def test_path_to_another_file_of_that_name(still: Still) -> None:
    """A path that leads to another directory is not the path of the job of that name."""
    still.put("x")
    other = still.root.parent / "x"
    other.write_text("mine\n")
    typed(still.root, "show", str(other)).refused(NO_INPUT)


def test_between_two_attempts(still: Still) -> None:
    """A job that is to be tried again is shown with its earlier attempt, by name and by id."""
    tried = still.back("x")
    told = typed(still.root, "show", "x").out
    assert "attempt 2 not before" in told
    assert re.search(
        rf"^earlier     attempt 1 on node a: failed, .*, it was \({tried.id}\)$", told, re.MULTILINE
    )
    assert facts(still, tried.id)["name"] == "x"


@pytest.mark.parametrize("running", [True, False])
def test_id_of_an_earlier_attempt(still: Still, *, running: bool) -> None:
    """The id that a job had before it was tried again still finds it."""
    tried = Try(id=new_id(), attempt=1, node="a", state="failed")
    make = still.run if running else still.ended
    made = make("x", attempt=2, earlier=(tried,))
    assert facts(still, tried.id)["id"] == made.id


@pytest.mark.parametrize("name", HOSTILE)
def test_any_name(still: Still, name: str) -> None:
    """Whatever a job is called, it is shown without what works on a terminal."""
    still.put(name)
    told = typed(still.root, "show", "--", name)
    assert (told.code, told.err) == (0, "")
    assert told.out.replace("\n", "").isprintable()
    assert sum(line.startswith("name ") for line in told.out.splitlines()) == 1
    line = typed(still.root, "show", "--json", "--", name).one
    assert naming.real_name(line["name"], line["name_hex"]) == name


@pytest.mark.parametrize("name", HOSTILE)
def test_any_name_that_ended(still: Still, name: str) -> None:
    """Whatever a job was called, it is found when it has ended."""
    record = still.ended(name)
    assert typed(still.root, "show", "--json", "--", name).one["id"] == record.id


def test_unknown(still: Still) -> None:
    """One that is not known ends the command; nothing is shown of the others."""
    still.put("x")
    typed(still.root, "show", "x", "nope").refused(NO_INPUT, "nope", "no such job")
    typed(still.root, "show", new_id()).refused(NO_INPUT)


def test_json_has_the_fields_of_the_struct(still: Still) -> None:
    """Each line has every field, known or not."""
    still.put("x")
    still.ended("y")
    for name in ("x", "y"):
        assert tuple(typed(still.root, "show", "--json", name).one) == Seen.__struct_fields__


@pytest.mark.parametrize("words", [[], ["--json"], ["--nope", "x"], ["-s", "", "x"]])
def test_wrong_options(still: Still, words: list[str]) -> None:
    """A command line that cannot be carried out is refused."""
    typed(still.root, "show", *words).refused(USAGE)


def test_record_that_is_about_to_be_moved(still: Still) -> None:
    """A job whose record is written and whose file is not moved yet has ended."""
    attempt = still.run("x")
    papers = still.own / "job" / attempt.id
    record = still.ended("other")
    (papers / "claim.1.json").unlink()
    text = (still.done / f"{record.stem}.json").read_text().replace(record.id, attempt.id)
    (papers / "record.1.json").write_text(text.replace('"other"', '"x"'))
    assert typed(still.root, "show", "--json", attempt.id).one["state"] == "done"


def test_torn_paperwork(still: Still) -> None:
    """A claim that cannot be read hides no other job, and is no traceback."""
    attempt = still.run("x")
    (still.own / "job" / attempt.id / "claim.1.json").write_text('{"id": "')
    assert typed(still.root, "show", "--json", attempt.id).one["state"] == "claimed"


def test_who_may_only_read() -> None:
    """Showing needs no right to write."""
    with public_directory() as base:
        still = Still(base / "spool")
        still.run("x")
        told = typed_as(NOBODY, still.root, "show", "x")
        assert (told.code, "running" in told.out) == (0, True), told.err
