"""The rules of ``pmjq prune``: what ended long ago is removed, and nothing else."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from live import Live
from pmjq import naming
from pmjq.disk import Disk
from pmjq.pruning import Pruned, Pruning
from pmjq.spool import Spool
from pmjq.state import State
from still import (
    HOSTILE,
    NO_INPUT,
    NOBODY,
    NOT_SO,
    USAGE,
    Still,
    new_id,
    public_directory,
    snapshot,
    typed,
    typed_as,
)

DAY = 86400.0


def archived(directory: Path) -> str:
    """Return the first letters of the names of the jobs in an archive that have all their files."""
    names = set(os.listdir(directory))
    filed = {name: naming.filed(name) for name in names}
    stems = [name for name, found in filed.items() if found and f"{name}.json" in names]
    return "".join(sorted(filed[name][2][0] for name in stems))  # type: ignore[index]  # found


def prune(still: Still, *words: str, than: str = "30d") -> list[str]:
    """Prune, see that it works, and return the names of what was removed."""
    told = typed(still.root, "prune", "--older-than", than, "--json", *words)
    assert (told.code, told.err) == (0, "")
    return sorted(line["name"] for line in told.lines)


def test_nothing_there(still: Still) -> None:
    """Where nothing is old enough nothing is printed, and nothing changes."""
    still.ended("new")
    before = snapshot(still.root)
    told = typed(still.root, "prune", "--older-than", "1d")
    assert (told.code, told.out, told.err) == (0, "", "")
    assert snapshot(still.root) == before


def test_only_what_is_older(still: Still) -> None:
    """What ended before goes with all its files, what ended later stays with all of its."""
    old = still.ended("old", ago=31 * DAY, output=b"x")
    (still.done / f"{old.stem}.d").mkdir()
    (still.done / f"{old.stem}.d" / "file").write_text("left\n")
    still.ended("new", ago=29 * DAY)
    told = typed(still.root, "prune", "--older-than", "30d")
    assert (told.code, told.out) == (0, f"{still.done}/{old.stem}: removed\n")
    assert archived(still.done) == "n"
    assert not [name for name in os.listdir(still.done) if old.id in name]
    assert prune(still) == []


def test_dry_run(still: Still) -> None:
    """--dry-run tells what would be removed, and changes nothing."""
    old = still.ended("old", ago=31 * DAY)
    before = snapshot(still.root)
    for option in ("-n", "--dry-run"):
        told = typed(still.root, "prune", "--older-than", "30d", option)
        assert (told.code, told.out) == (0, f"{still.done}/{old.stem}: would be removed\n")
    assert prune(still, "-n") == ["old"]
    assert snapshot(still.root) == before


def test_states(still: Still) -> None:
    """--state chooses; an unknown state is refused with those that there are."""
    still.ended("done", ago=40 * DAY)
    still.ended("failed", State.FAILED, code=1, ago=40 * DAY)
    still.ended("lost", State.LOST, code=None, ago=40 * DAY)
    assert prune(still, "--state", "failed", "--state", "lost") == ["failed", "lost"]
    assert archived(still.done) == "d"
    told = typed(still.root, "prune", "--older-than", "1d", "--state", "old")
    told.refused(USAGE, "no such state")


def test_history_goes_with_the_last_of_a_life(tmp_path: Path) -> None:
    """The events of a life that is over go once all that they tell of is old, not before."""
    still = Still(tmp_path / "spool")
    still.ended("a", ago=40 * DAY, node="over")
    still.ended("b", ago=35 * DAY, node="over")
    still.ended("c", ago=40 * DAY, node="living")
    lives = {name: still.node(name).token for name in ("over", "living")}
    Disk().remove_tree(str(still.own / "node" / lives["over"]))
    assert prune(still, than="38d") == ["a", "c"]
    assert {path.stem for path in (still.own / "events").iterdir()} == set(lives.values())
    assert prune(still, than="30d") == ["b"]
    assert {path.stem for path in (still.own / "events").iterdir()} == {lives["living"]}
    told = typed(still.root, "history", "--json").lines
    assert [line["name"] for line in told] == ["c"]


def test_history_stays_if_only_some_states_go(still: Still) -> None:
    """With --state the events stay: they tell of the others."""
    still.ended("a", ago=40 * DAY)
    Disk().remove_tree(str(still.own / "node" / still.node("a").token))
    assert prune(still, "--state", "done") == ["a"]
    assert len(list((still.own / "events").iterdir())) == 1


def test_archive_that_is_shared(still: Still, tmp_path: Path) -> None:
    """In an archive of several spools only what this one filed is removed."""
    archive = tmp_path / "archive"
    other = Still(tmp_path / "other")
    mine = still.ended("mine", ago=40 * DAY, archive=archive)
    other.ended("theirs", ago=40 * DAY, archive=archive)
    assert archived(archive) == "mt"
    assert prune(still) == ["mine"]
    assert archived(archive) == "t"
    assert not [name for name in os.listdir(archive) if mine.id in name]
    assert prune(other) == ["theirs"]
    assert archived(archive) == ""


def test_other_files(still: Still, tmp_path: Path) -> None:
    """What somebody else put into an archive stays, whatever it is called and however old."""
    archive = tmp_path / "archive"
    record = still.ended("x", ago=40 * DAY, archive=archive)
    stem = naming.stem(record.ended, new_id(), "foreign")
    keep = [
        "notes.txt",
        ".hidden",
        stem,
        f"{stem}.json",
        f"copy-of-{record.stem}",
        record.stem.partition("Z")[0] + "Z",
        record.id,
        f".{record.stem}.part",
    ]
    for directory in (archive, still.done):
        for name in keep:
            (directory / name).write_text("mine\n")
            os.utime(directory / name, (0, 0))
    (archive / "directory").mkdir()
    assert prune(still) == sorted(["x", "foreign"])
    assert sorted(os.listdir(archive)) == sorted([*keep, "directory"])
    # All that looks like a filed job in the spool's own archive is this spool's.
    assert sorted(os.listdir(still.done)) == sorted(set(keep) - {stem, f"{stem}.json"})


def test_link_in_the_place_of_a_job(still: Still, tmp_path: Path) -> None:
    """A link is removed, never what it leads to."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("mine\n")
    record = still.ended("x", ago=40 * DAY)
    (still.done / f"{record.stem}.d").symlink_to(outside)
    assert prune(still) == ["x"]
    assert (outside / "file").read_text() == "mine\n"


def test_queue_is_not_touched(still: Still) -> None:
    """What has not ended is never old, however old it is."""
    path = still.put("queued")
    os.utime(path, (0, 0))
    still.run("running")
    still.back("back")
    before = snapshot(still.root)
    assert prune(still, than="0s") == []
    assert snapshot(still.root) == before


@contextlib.contextmanager
def unremovable(path: Path) -> Iterator[None]:
    """Have a file that even root cannot remove; the test is skipped where there is none."""
    if os.geteuid() or subprocess.run(["chattr", "+i", path], check=False, stderr=-3).returncode:
        pytest.skip("nothing here is safe from root: chattr +i does not work")
    try:
        yield
    finally:
        subprocess.run(["chattr", "-i", path], check=True)


def test_unremovable(still: Still) -> None:
    """What cannot be removed is told, with exit code 1; the others go, and its events stay."""
    record = still.ended("x", ago=40 * DAY)
    still.ended("y", ago=40 * DAY)
    Disk().remove_tree(str(still.own / "node" / still.node("a").token))
    with unremovable(still.done / record.stem):
        told = typed(still.root, "prune", "--older-than", "30d")
        assert (told.code, told.out.count("\n")) == (NOT_SO, 1)
        assert told.err.startswith(f"pmjq: {still.done}/{record.stem}: cannot be removed: ")
        assert (still.done / record.stem).exists()
    assert prune(still) == ["x"]
    assert list((still.own / "events").iterdir()) == []


class Stubborn(Disk):
    """A disk on which what has a certain word in its path cannot be removed."""

    word = "stubborn"

    def remove_tree(self, path: str) -> None:
        """Remove a file or a tree, or refuse to."""
        if self.word in path:
            raise PermissionError(errno.EPERM, "Operation not permitted", path)
        super().remove_tree(path)


def test_unremovable_of_several(still: Still) -> None:
    """One that cannot be removed holds no other up, is told, and keeps the events about it."""
    for name in ("a", "stubborn", "z"):
        still.ended(name, ago=40 * DAY)
    Disk().remove_tree(str(still.own / "node" / still.node("a").token))
    before = datetime.now(UTC) - timedelta(days=30)
    told = list(Pruning(Spool(Stubborn(), str(still.root)), before).run())
    assert {one.name: one.removed for one in told} == {"a": True, "stubborn": False, "z": True}
    assert {one.text for one in told if not one.removed} == {
        "cannot be removed: Operation not permitted"
    }
    assert archived(still.done) == "s"
    assert prune(still) == ["stubborn"]


def test_archive_that_is_away(still: Still, tmp_path: Path) -> None:
    """An archive that is not mounted at the moment is not forgotten: it is pruned when it is."""
    archive = tmp_path / "archive"
    still.ended("x", ago=40 * DAY, archive=archive)
    Disk().remove_tree(str(still.own / "node" / still.node("a").token))
    away = archive.rename(tmp_path / "away")
    told = typed(still.root, "prune", "--older-than", "30d")
    assert (told.code, str(archive) in told.err) == (1, True)
    away.rename(archive)
    assert prune(still) == ["x"]


def test_interrupted(still: Still) -> None:
    """What a kill left half removed is removed by the next."""
    record = still.ended("x", ago=40 * DAY, output=b"x")
    (still.done / f"{record.stem}.json").unlink()
    assert prune(still) == ["x"]
    assert os.listdir(still.done) == []


@pytest.mark.parametrize("name", HOSTILE)
def test_any_name(still: Still, name: str) -> None:
    """Whatever a job was called, it goes, and is told in one line."""
    still.ended(name, ago=40 * DAY)
    told = typed(still.root, "prune", "--older-than", "30d")
    assert (told.code, told.out.count("\n"), told.out[:-1].isprintable()) == (0, 1, True)
    assert os.listdir(still.done) == []


def test_json_has_the_fields_of_the_struct(still: Still) -> None:
    """A line for each job, with every field."""
    record = still.ended("x", ago=40 * DAY)
    told = typed(still.root, "prune", "--older-than", "30d", "--json").one
    assert tuple(told) == Pruned.__struct_fields__
    expected = ("x", record.id, f"{still.done}/{record.stem}", True, "removed")
    names = ("name", "id", "path", "removed", "text")
    assert tuple(told[name] for name in names) == expected


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--older-than"],
        ["--older-than", "old"],
        ["--older-than", "-1d"],
        ["--older-than", ""],
        ["--older-than", "9999999d"],
        ["--older-than", "1d", "x"],
        ["--nope"],
        ["--older-than", "1d", "-s", ""],
    ],
)
def test_wrong_options(still: Still, words: list[str]) -> None:
    """A command line that cannot be carried out removes nothing; nothing is as old as the hills."""
    still.ended("x", ago=40 * DAY)
    told = typed(still.root, "prune", *words)
    if words != ["--older-than", "9999999d"] or told.code:
        told.refused(USAGE)
    assert archived(still.done) == "x"


def test_no_spool(tmp_path: Path) -> None:
    """Where there is no spool the command says so."""
    typed(tmp_path / "nope", "prune", "--older-than", "1d").refused(NO_INPUT)


def test_not_mine() -> None:
    """Who may not write the archive is told of each, with exit code 1, and nothing is lost."""
    with public_directory() as base:
        still = Still(base / "spool")
        record = still.ended("x", ago=40 * DAY)
        before = snapshot(still.root)
        told = typed_as(NOBODY, still.root, "prune", "--older-than", "30d")
        assert (told.code, told.out) == (NOT_SO, "")
        assert f"{record.stem}: cannot be removed: Permission denied" in told.err
        assert snapshot(still.root) == before
        assert typed_as(NOBODY, still.root, "prune", "--older-than", "30d", "-n").code == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_root_removes_nothing_that_others_tell_it(still: Still) -> None:
    """What was filed where the tree tells, so in the tree of somebody else root removes nothing."""
    still.ended("x", ago=40 * DAY)
    os.chown(still.own, NOBODY, NOBODY)
    before = snapshot(still.root)
    told = typed(still.root, "prune", "--older-than", "30d")
    assert (told.code, f"belongs to user {NOBODY}" in told.err) == (78, True)
    assert snapshot(still.root) == before


def test_beside_a_daemon(tmp_path: Path) -> None:
    """What a daemon filed, to both its directories; what it tells of them stays while it lives."""
    errors = tmp_path / "errors"
    with Live(tmp_path, "--node", "a", "-e", str(errors)) as live:
        live.drop("good", "echo hello >file\n")
        live.drop("bad", "exit 1\n")
        live.ended("good")
        live.ended("bad")
        (live.archive / "notes").touch()
        told = typed(live, "prune", "--older-than", "0s", "--json")
        assert sorted(line["name"] for line in told.lines) == ["bad", "good"]
        assert (os.listdir(live.archive), os.listdir(errors)) == (["notes"], [])
        assert len(typed(live, "history", "--json").lines) == 2
        live.drop("next")
        live.ended("next")
        assert live.stop() == 0
    told = typed(live.spool, "prune", "--older-than", "0s", "--json")
    assert [line["name"] for line in told.lines] == ["next"]
    assert typed(live.spool, "history").out == ""


def test_own_archive_without_events(still: Still) -> None:
    """What lies in the spool's own archive is this spool's, also if no event tells of it."""
    still.ended("x", ago=40 * DAY)
    for path in (still.own / "events").iterdir():
        path.unlink()
    assert prune(still) == ["x"]
