"""The rules of ``pmjq hold`` and ``release``: what is queued is kept back, and let go."""

from __future__ import annotations

import os
import stat as modes
from collections.abc import Iterator
from pathlib import Path

import pytest

from live import Live, eventually
from pmjq import Queue
from pmjq.state import State
from pmjq.steering import Answer
from still import (
    HOSTILE,
    NO_INPUT,
    NOBODY,
    NOT_SO,
    SOMEBODY,
    USAGE,
    Still,
    given_to,
    public_directory,
    runs_now,
    snapshot,
    typed,
    typed_as,
)


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Live]:
    """Return a daemon."""
    with Live(tmp_path, "--node", "a", "-j", "4") as live:
        yield live


def mode(path: Path) -> int:
    """Return the permissions of a file."""
    return modes.S_IMODE(path.stat().st_mode)


def test_hold_and_release(still: Still) -> None:
    """Hold takes execution from all, release gives it to all who may read; each says so."""
    path = still.put("x", mode=0o754)
    told = typed(still.root, "hold", "x")
    assert (told.code, told.out, mode(path)) == (0, "x: held\n", 0o644)
    assert typed(still.root, "list", "--json").one["state"] == "held"
    told = typed(still.root, "release", "x")
    assert (told.code, told.out, mode(path)) == (0, "x: released\n", 0o755)
    assert typed(still.root, "list", "--json").one["state"] == "queued"


@pytest.mark.parametrize(
    ("before", "held", "after"),
    [
        (0o755, 0o644, 0o755),
        (0o750, 0o640, 0o750),
        (0o705, 0o604, 0o705),
        (0o700, 0o600, 0o700),
        (0o754, 0o644, 0o755),
        (0o500, 0o400, 0o500),
    ],
)
def test_release_gives_back_what_hold_took(
    still: Still, before: int, held: int, after: int
) -> None:
    """Whoever may read a job may execute it again, and nobody else."""
    path = still.put("x", mode=before)
    assert typed(still.root, "hold", "x").code == 0
    assert mode(path) == held
    assert typed(still.root, "release", "x").code == 0
    assert mode(path) == after


def test_hold_twice(still: Still) -> None:
    """What is held is held, whoever did that and how often."""
    still.put("x", mode=0o644)
    assert typed(still.root, "hold", "x").out == "x: held\n"


def test_release_of_what_is_not_held(still: Still) -> None:
    """Only what is held can be released; the mode stays."""
    path = still.put("x", mode=0o755)
    typed(still.root, "release", "x").refused(NOT_SO, "is queued, not held")
    assert mode(path) == 0o755


@pytest.mark.parametrize("verb", ["hold", "release"])
def test_running_and_ended(still: Still, verb: str) -> None:
    """What runs or has ended cannot be held, nor let go."""
    still.run("r")
    still.ended("e")
    typed(still.root, verb, "r").refused(NOT_SO, "is running")
    typed(still.root, verb, "e").refused(NOT_SO, "is done")


def test_ended_and_queued(still: Still) -> None:
    """Of one name it is the queued job that is meant."""
    still.ended("x")
    path = still.put("x")
    assert typed(still.root, "hold", "x").code == 0
    assert mode(path) == 0o644


@pytest.mark.parametrize("verb", ["hold", "release"])
@pytest.mark.parametrize("name", ["nope", "*.nope", "no\nsuch"])
def test_unknown(still: Still, verb: str, name: str) -> None:
    """One that is not known is told, and nothing at all is done."""
    still.put("x")
    before = snapshot(still.root)
    typed(still.root, verb, "x", name).refused(NO_INPUT, "no such job")
    assert snapshot(still.root) == before


@pytest.mark.parametrize("verb", ["hold", "release"])
def test_no_job(still: Still, verb: str) -> None:
    """What is left alone as no job keeps its mode."""
    hidden = still.put(".hidden", mode=0o755)
    archive = still.root / "archive"
    archive.mkdir(mode=0o755)
    for name in (".hidden", "archive"):
        assert typed(still.root, verb, name).code == NOT_SO
    assert (mode(hidden), mode(archive)) == (0o755, 0o755)


def test_all_and_patterns(still: Still) -> None:
    """ALL means all of mine in the queue; what runs is not meant, and no error."""
    paths = [still.put(name) for name in ("a1", "a2", "b")]
    still.run("r")
    assert typed(still.root, "hold", "a*").code == 0
    assert [mode(path) for path in paths] == [0o644, 0o644, 0o755]
    assert typed(still.root, "hold", "ALL").code == 0
    assert [mode(path) for path in paths] == [0o644, 0o644, 0o644]
    assert typed(still.root, "release", "ALL").code == 0
    assert [mode(path) for path in paths] == [0o755, 0o755, 0o755]


def test_release_all_where_some_are_not_held(still: Still) -> None:
    """``release ALL`` means those that are held: the others are no error."""
    still.put("h", mode=0o644)
    still.put("q")
    told = typed(still.root, "release", "ALL")
    assert (told.code, told.out, told.err) == (0, "h: released\n", "")


def test_not_mine_in_all(still: Still) -> None:
    """ALL leaves the jobs of others alone, even for root."""
    if os.geteuid():
        pytest.skip("this user is not root, so has no files of others")
    his = still.put("his", uid=SOMEBODY)
    assert typed(still.root, "hold", "ALL").code == 0
    assert mode(his) == 0o755


@pytest.mark.parametrize("verb", ["hold", "release"])
@pytest.mark.parametrize("owner", [0, SOMEBODY])
def test_not_mine(owner: int, verb: str) -> None:
    """Only the owner of a job may; anybody else is told so, and nothing changes."""
    with public_directory() as base:
        still = Still(base / "spool")
        still.put("x", mode=0o755 if verb == "hold" else 0o644)
        given_to(owner, still.root)
        before = snapshot(still.root)
        told = typed_as(NOBODY, still.root, verb, "x")
        assert (told.code, told.out) == (NOT_SO, ""), told.err
        assert "pmjq: x: Operation not permitted" in told.err
        assert snapshot(still.root) == before


def test_mine_in_a_spool_of_root() -> None:
    """My own job is mine to hold wherever it lies."""
    with public_directory() as base:
        still = Still(base / "spool")
        if os.geteuid():
            pytest.skip("this user is not root, so has no files of others")
        path = still.put("x", uid=NOBODY)
        assert typed_as(NOBODY, still.root, "hold", "ALL").code == 0
        assert mode(path) == 0o644


def test_directory_job(still: Still) -> None:
    """A directory job is held and released as a file is; it stays readable for its owner."""
    path = still.root / "d"
    path.mkdir(mode=0o755)
    (path / "job.toml").write_text('script = "true"\n')
    for verb, state in (("hold", "held"), ("release", "queued")):
        told = typed(still.root, verb, "d")
        assert told.code == 0, told.err
        assert typed(still.root, "list", "--json", "d").one["state"] == state


def test_directory_job_of_somebody_whom_modes_bind() -> None:
    """Also where its owner is not root, who may read anything: held, listed, released."""
    with public_directory() as base:
        still = Still(base / "spool")
        path = still.root / "d"
        path.mkdir(mode=0o755)
        (path / "job.toml").write_text('script = "true"\n')
        given_to(NOBODY, still.root)
        for verb, state in (("hold", "held"), ("release", "queued")):
            told = typed_as(NOBODY, still.root, verb, "d")
            assert told.code == 0, told.err
            told = typed_as(NOBODY, still.root, "list", "--json")
            assert told.one["state"] == state, told.err


@pytest.mark.parametrize("name", HOSTILE)
def test_any_name(still: Still, name: str) -> None:
    """Whatever a job is called, it is held and let go, each told in one line."""
    path = still.put(name)
    for verb, after in (("hold", 0o644), ("release", 0o755)):
        told = typed(still.root, verb, "--", name)
        assert (told.code, told.out.count("\n"), mode(path)) == (0, 1, after)
        assert told.out[:-1].isprintable()


def test_json(still: Still) -> None:
    """A line for each job, with every field, done or not."""
    still.put("x")
    still.run("y")
    told = typed(still.root, "hold", "--json", "x", "y")
    assert {tuple(line) for line in told.lines} == {Answer.__struct_fields__}
    assert [(line["name"], line["done"]) for line in told.lines] == [("x", True), ("y", False)]
    assert (told.code, told.err) == (NOT_SO, "")


@pytest.mark.parametrize("verb", ["hold", "release"])
@pytest.mark.parametrize("words", [[], ["--nope", "x"], ["-s", "", "x"]])
def test_wrong_options(still: Still, verb: str, words: list[str]) -> None:
    """A command line that cannot be carried out is refused; it never means everything."""
    path = still.put("x")
    typed(still.root, verb, *words).refused(USAGE)
    assert mode(path) == 0o755


def test_between_two_attempts(still: Still) -> None:
    """A job that is to be tried again can be held; what is known of it stays."""
    tried = still.back("x")
    assert typed(still.root, "hold", "x").code == 0
    told = typed(still.root, "show", "--json", "x").one
    assert (told["state"], told["earlier"][0]["id"]) == ("held", tried.id)


# --- beside a daemon


def test_daemon_heeds_both(live: Live) -> None:
    """What is held is not started whatever room there is; what is released is, once."""
    gate = live.gate("1")
    live.drop("x", live.side_effect("x"), mode=0o644)
    live.drop("y", f"{live.side_effect('y')}{gate.wait}")
    eventually(lambda: live.runs("y"))
    gate.open()
    live.ended("y")
    assert live.runs("x") == 0
    assert typed(live, "release", "x").code == 0
    assert live.ended("x").record.state is State.DONE
    assert live.runs("x") == 1


def test_race(live: Live) -> None:
    """Whatever a node is about just then, a job that was said to be held does not run."""
    queue = Queue(live.spool)
    held = []
    for number in range(30):
        name = f"x{number}"
        live.drop(name, live.side_effect(name))
        if queue.hold([name])[0].done:
            held.append(name)
    live.drop("last")
    live.ended("last")
    eventually(lambda: not live.jobs())
    eventually(lambda: live.spooled() == sorted(held), what=f"only {held} are left")
    assert [live.runs(name) for name in held] == [0] * len(held)
    assert typed(live, "release", "ALL").code == 0
    for number in range(30):
        assert live.ended(f"x{number}").record.state is State.DONE
        assert live.runs(f"x{number}") == 1


def test_hold_behind_a_full_house(tmp_path: Path) -> None:
    """A job that is held while it stands in the queue is passed by."""
    with Live(tmp_path, "--node", "a", "-j", "1") as live:
        gate = live.gate("1")
        runs_now(live, "first", gate.wait)
        live.drop("x", live.side_effect("x"))
        live.drop("y", live.side_effect("y"))
        # Held as soon as it is in the queue: a node may have claimed it ahead for a moment.
        eventually(lambda: typed(live, "hold", "x").code == 0)
        gate.open()
        live.ended("y")
        assert (live.runs("x"), live.spooled()) == (0, ["x"])
        assert typed(live, "release", "x").code == 0
        live.ended("x")


def test_directory_job_runs_after_it_is_released(live: Live) -> None:
    """A directory job that was held runs once it is let go."""
    source = live.root / "drop" / "d"
    source.mkdir()
    (source / "job.toml").write_text('script = "sh run.sh"\n')
    (source / "run.sh").write_text(live.side_effect("d"))
    source.chmod(0o644)
    source.rename(live.spool / "d")
    eventually(lambda: typed(live, "list", "--json", "d").one["state"] == "held")
    assert typed(live, "release", "d").code == 0
    eventually(lambda: live.runs("d"), what="d runs")
