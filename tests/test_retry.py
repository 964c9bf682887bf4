"""The rules of ``pmjq retry``: what has ended goes back to the queue, as it is in the archive."""

from __future__ import annotations

import os
import stat as modes
from collections.abc import Iterator
from pathlib import Path

import pytest

from live import Live, eventually
from pmjq.state import State
from pmjq.steering import Answer
from still import (
    HOSTILE,
    NO_INPUT,
    NOBODY,
    NOT_PERMITTED,
    NOT_SO,
    USAGE,
    Still,
    public_directory,
    snapshot,
    typed,
    typed_as,
)

TEXT = "#!/bin/sh\n#PMJQ tags=mine\nexit 5\n"


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Live]:
    """Return a daemon."""
    with Live(tmp_path, "--node", "a", "-j", "4") as live:
        yield live


@pytest.mark.parametrize("state", [State.DONE, State.FAILED, State.CANCELLED, State.LOST])
def test_as_it_was(still: Still, state: State) -> None:
    """It is in the queue under its name, with its content and mode; the archive keeps its own."""
    record = still.ended("x", state, code=5 if state is State.FAILED else 0, text=TEXT)
    before = snapshot(still.done)
    told = typed(still.root, "retry", "x")
    assert (told.code, told.out, told.err) == (0, "x: is in the queue again\n", "")
    path = still.root / "x"
    assert (path.read_text(), modes.S_IMODE(path.stat().st_mode)) == (TEXT, 0o755)
    assert (path.stat().st_nlink, still.listed()) == (1, ["x"])
    assert snapshot(still.done) == before
    shown = typed(still.root, "show", "--json", "x").one
    assert (shown["state"], shown["attempt"]) == ("queued", 2)
    assert [(one["id"], one["state"]) for one in shown["earlier"]] == [(record.id, str(state))]


@pytest.mark.parametrize(
    ("state", "code", "attempt"),
    [
        (State.CANCELLED, None, 1),
        (State.CANCELLED, -15, 2),
        (State.FAILED, 5, 2),
        (State.LOST, None, 2),
    ],
)
def test_what_counts_as_an_attempt(
    still: Still, state: State, code: int | None, attempt: int
) -> None:
    """What was executed, and what may have been; not what was cancelled before it was started."""
    record = still.ended("x", state, code=code)
    assert typed(still.root, "retry", "x").code == 0
    shown = typed(still.root, "show", "--json", "x").one
    assert (shown["attempt"], [one["id"] for one in shown["earlier"]]) == (attempt, [record.id])


def test_cancelled_in_the_queue_again_and_again(still: Still) -> None:
    """No attempt is counted, however often; each time is known."""
    still.put("x")
    for number in range(1, 4):
        assert typed(still.root, "cancel", "x").code == 0
        assert typed(still.root, "retry", "x").code == 0
        shown = typed(still.root, "show", "--json", "x").one
        states = [one["state"] for one in shown["earlier"]]
        assert (shown["attempt"], states) == (1, ["cancelled"] * number)


def test_last_of_several(still: Still) -> None:
    """Of several that ended under one name the last is meant; an id means its own."""
    first = still.ended("x", text=TEXT + "# 1\n", ago=50)
    still.ended("x", text=TEXT + "# 2\n", ago=10)
    assert typed(still.root, "retry", "x").code == 0
    assert (still.root / "x").read_text().endswith("# 2\n")
    told = typed(still.root, "retry", "--json", first.id).one
    name = told["text"].removeprefix("is in the queue again as ")
    assert (still.root / name).read_text().endswith("# 1\n")


def test_name_that_is_taken(still: Still) -> None:
    """Where another job has its name by now, it gets one of its own, which is told."""
    record = still.ended("x", text=TEXT)
    still.put("x")
    told = typed(still.root, "retry", record.id)
    name = told.out.removeprefix("x: is in the queue again as ").rstrip("\n")
    assert (told.code, name[:2], (still.root / name).read_text()) == (0, "x.", TEXT)
    assert sorted(still.listed()) == ["x", name]


def test_twice(still: Still) -> None:
    """What is in the queue again is not put there once more, by whatever it is named."""
    record = still.ended("x", text=TEXT)
    assert typed(still.root, "retry", "x").code == 0
    for name in ("x", record.id):
        assert typed(still.root, "retry", name).code == NOT_SO
        assert still.listed() == ["x"]


@pytest.mark.parametrize("kind", ["queued", "held", "running"])
def test_living(still: Still, kind: str) -> None:
    """Only what has ended can be tried again."""
    if kind == "running":
        still.run("x")
    else:
        still.put("x", mode=0o644 if kind == "held" else 0o755)
    before = snapshot(still.root)
    typed(still.root, "retry", "x").refused(NOT_SO, f"is {kind}")
    assert snapshot(still.root) == before


def test_all(still: Still) -> None:
    """ALL would be all that ever ended, and nobody means that."""
    still.ended("x")
    typed(still.root, "retry", "ALL").refused(USAGE, "name the jobs")
    assert still.listed() == []


@pytest.mark.parametrize("name", ["nope", "*.nope", "no\nsuch"])
def test_unknown(still: Still, name: str) -> None:
    """One that is not known is told, and nothing at all is done."""
    still.ended("x")
    typed(still.root, "retry", "x", name).refused(NO_INPUT, "no such job")
    assert still.listed() == []


def test_file_that_is_gone(still: Still) -> None:
    """What has been pruned cannot be tried again, and that is said."""
    record = still.ended("x")
    (still.done / record.stem).unlink()
    typed(still.root, "retry", "x").refused(NOT_SO, "not in the archive any more")
    assert (still.listed(), list((still.own / "tmp").iterdir())) == ([], [])


def test_ended_and_not_filed_yet(still: Still) -> None:
    """What was cancelled while no daemon ran is not gone: it is put back, or filed first."""
    still.put("x", TEXT)
    assert typed(still.root, "cancel", "x").code == 0
    told = typed(still.root, "retry", "x")
    if told.code == 0:
        assert (still.root / "x").read_text() == TEXT
    else:
        told.refused(NOT_SO)
        assert "any more" not in told.err


def test_lost_and_may_still_run(still: Still) -> None:
    """A lost job whose node lives and that may still run there is not run twice by a slip."""
    record = still.ended("x", State.LOST, code=None)
    papers = still.own / "job" / record.id
    papers.mkdir()
    (papers / "status.1").write_text(f"started 1 1 {record.ended.timestamp()} 1 1\n")
    typed(still.root, "retry", "x").refused(NOT_SO, "may still run on node a")
    assert still.listed() == []


def test_lost_with_its_node(still: Still) -> None:
    """A lost job whose node is gone as well can be tried again."""
    still.node("a", alive=False)
    record = still.ended("x", State.LOST, code=None)
    papers = still.own / "job" / record.id
    papers.mkdir()
    (papers / "status.1").write_text(f"started 1 1 {record.ended.timestamp()} 1 1\n")
    assert typed(still.root, "retry", "x").code == 0


def test_directory_job(still: Still) -> None:
    """A directory job goes back with all that is in it."""
    record = still.ended("d")
    archived = still.done / record.stem
    archived.unlink()
    archived.mkdir()
    (archived / "job.toml").write_text('script = "true"\n')
    (archived / "below").mkdir()
    (archived / "below" / "data").write_bytes(b"\0\1")
    assert typed(still.root, "retry", "d").code == 0
    assert (still.root / "d" / "below" / "data").read_bytes() == b"\0\1"
    assert typed(still.root, "list", "--json", "d").one["state"] == "queued"
    assert still.listed() == ["d"]


@pytest.mark.parametrize("name", HOSTILE)
def test_any_name(still: Still, name: str) -> None:
    """Whatever a job was called, it gets its name back."""
    still.ended(name)
    told = typed(still.root, "retry", "--", name)
    assert (told.code, told.out.count("\n"), told.err) == (0, 1, "")
    assert still.listed() == [name]


def test_json(still: Still) -> None:
    """A line for each job, with every field, done or not."""
    record = still.ended("x")
    still.put("y")
    told = typed(still.root, "retry", "--json", "x", "y")
    assert {tuple(line) for line in told.lines} == {Answer.__struct_fields__}
    assert [(one["name"], one["done"]) for one in told.lines] == [("x", True), ("y", False)]
    assert (told.lines[0]["id"], told.code, told.err) == (record.id, NOT_SO, "")


@pytest.mark.parametrize("words", [[], ["--nope", "x"], ["-s", "", "x"]])
def test_wrong_options(still: Still, words: list[str]) -> None:
    """A command line that cannot be carried out is refused."""
    typed(still.root, "retry", *words).refused(USAGE)


def test_who_may_only_read() -> None:
    """Who may not write the spool is told so; nothing is left behind."""
    with public_directory() as base:
        still = Still(base / "spool")
        still.ended("x", uid=NOBODY)
        still.ended("y", uid=1)
        before = snapshot(still.root)
        typed_as(NOBODY, still.root, "retry", "x").refused(NOT_PERMITTED, "Permission denied")
        typed_as(NOBODY, still.root, "retry", "y").refused(NOT_SO, "only its owner can do that")
        assert snapshot(still.root) == before


def test_spool_for_everybody() -> None:
    """In a spool that everybody may write, whose tree is root's, one's own jobs can be tried again.

    Nobody else's, and nothing is left over.
    """
    with public_directory() as base:
        still = Still(base / "spool")
        still.root.chmod(0o1777)
        still.ended("x", text=TEXT, uid=NOBODY)
        still.ended("y", text=TEXT, uid=1)
        assert typed_as(NOBODY, still.root, "retry", "x").code == 0
        assert (still.root / "x").stat().st_uid == NOBODY
        typed_as(NOBODY, still.root, "retry", "y").refused(NOT_SO, "only its owner can do that")
        assert still.listed() == ["x"]


# --- beside a daemon


def test_runs_again(live: Live) -> None:
    """The job runs once more, as its second attempt; both are recorded and tell of each other."""
    live.drop("x", f"{live.side_effect('x')}echo $PMJQ_ATTEMPT\ntest $PMJQ_ATTEMPT = 2\n")
    first = live.ended("x").record
    assert first.state is State.FAILED
    assert typed(live, "retry", "x").code == 0
    eventually(lambda: len(live.named("x")) == 2)
    (second,) = (one for one in live.named("x") if one.record.id != first.id)
    assert (second.record.state, second.record.attempt) == (State.DONE, 2)
    assert [one.id for one in second.record.earlier] == [first.id]
    assert (second.text, live.runs("x"), live.spooled()) == ("2\n", 2, [])
    told = typed(live, "history", "--json", "--name", "x").lines
    assert [line["id"] for line in told] == [first.id, second.record.id]


def test_right_after_it_has_ended(tmp_path: Path) -> None:
    """What has ended and is not archived yet is not said to be gone from the archive."""
    archive = tmp_path / "done"
    with Live(tmp_path, "--node", "a", "-o", str(archive)) as live:
        live.drop("first")
        live.ended("first")
        moved = archive.rename(tmp_path / "moved")
        archive.write_text("in the way\n")
        live.drop("x")
        assert typed(live, "wait", "--timeout", "60", "x").code == 0
        told = typed(live, "retry", "x")
        archive.unlink()
        moved.rename(archive)
        assert "any more" not in told.err


def test_again_and_again(live: Live) -> None:
    """Each time its attempts go on being counted, and all of them are told."""
    live.drop("x", "exit $PMJQ_ATTEMPT\n")
    assert typed(live, "wait", "--timeout", "60", "x").code == 1
    for number in (2, 3, 4):
        eventually(lambda number=number: len(live.named("x")) == number - 1)  # type: ignore[misc]  # bound at once
        assert typed(live, "retry", "x").code == 0
        assert typed(live, "wait", "--timeout", "60", "x").code == number
    told = typed(live, "show", "--json", "x").one
    assert [one["exit_code"] for one in told["earlier"]] == [1, 2, 3]


def test_its_own_retries_begin_anew(live: Live) -> None:
    """What a person asks for does not use up what the job asks for itself."""
    live.drop("x", f"#!/bin/sh\n#PMJQ retries=1 backoff=0.1s\n{live.side_effect('x')}exit 1\n")
    assert typed(live, "wait", "--timeout", "60", "x").code == 1
    eventually(lambda: len(live.named("x")) == 1)
    assert typed(live, "retry", "x").code == 0
    assert typed(live, "wait", "--timeout", "60", "x").code == 1
    assert live.runs("x") == 4


def test_cancelled_one(live: Live) -> None:
    """A job that was cancelled before it ran can be tried, and then runs."""
    live.drop("x", live.side_effect("x"), mode=0o644)
    assert typed(live, "cancel", "x").code == 0
    first = live.ended("x").record
    assert typed(live, "retry", "x").code == 0
    assert typed(live, "list", "--json", "x").one["state"] == "held"
    assert typed(live, "release", "x").code == 0
    eventually(lambda: live.runs("x"))
    eventually(lambda: len(live.named("x")) == 2)
    (second,) = (one.record for one in live.named("x") if one.record.id != first.id)
    assert (second.attempt, [one.id for one in second.earlier]) == (1, [first.id])


def test_archive_elsewhere(tmp_path: Path) -> None:
    """It is found wherever its node filed it, in the error directory as well."""
    errors = tmp_path / "errors"
    with Live(tmp_path, "--node", "a", "-e", str(errors)) as live:
        live.drop("x", "test $PMJQ_ATTEMPT = 2\n")
        live.ended("x")
        assert len(os.listdir(errors)) >= 2
        assert typed(live, "retry", "x").code == 0
        assert typed(live, "wait", "--timeout", "60", "x").code == 0
