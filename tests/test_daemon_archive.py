"""An archive that is far, inside the spool or gone, and a spool that goes: end to end."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from live import Live, eventually
from pmjq.disk import Disk
from pmjq.state import State


@pytest.fixture
def far(tmp_path: Path) -> Iterator[Path]:
    """Return a directory on another file system than tmp_path's."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK) or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no second file system that this user can write")
    directory = Path(tempfile.mkdtemp(dir=memory, prefix="pmjq-test-"))
    yield directory
    shutil.rmtree(directory)


def test_archive_on_another_file_system(tmp_path: Path, far: Path) -> None:
    """Everything of a job is copied there, with its mode, and nothing stays behind."""
    with Live(tmp_path, "-o", str(far / "archive")) as live:
        live.drop(
            "leaves", "echo out; echo 1 >a; mkdir b; ln -s a c; mkfifo d; chmod 600 a\n", 0o750
        )
        (live.spool / "link").symlink_to("/bin/true")
        os.mkfifo(live.spool / "fifo")
        leaves, link, fifo = (live.ended(name) for name in ("leaves", "link", "fifo"))
        assert (leaves.record.exit_code, leaves.text) == (0, "out\n")
        assert leaves.path.stat().st_mode & 0o7777 == 0o750
        assert sorted(os.listdir(leaves.files)) == ["a", "b", "c", "d"]
        assert (leaves.files / "a").stat().st_mode & 0o7777 == 0o600
        assert (leaves.files / "c").readlink() == Path("a")
        assert link.record.state is fifo.record.state is State.REJECTED
        assert link.path.is_symlink()
        assert fifo.path.is_fifo()
        assert live.stop() == 0
        assert live.leftovers() == []
        assert not [name for name in os.listdir(live.archive) if name.startswith(".")]
        # What was filed is not filed again, and no job is left half.
        live.start()
        live.drop("next")
        live.ended("next")
        assert len(live.filed()) == 4


DEEP = f"mkdir -p {'d/' * 1200}\n"


def test_deep_directories_on_another_file_system(tmp_path: Path, far: Path) -> None:
    """However deep a job nests directories, it and those after it are filed, and --once ends."""
    live = Live(tmp_path, "-j", "1", "-o", str(far / "archive"))
    try:
        live.drop("deep", DEEP)
        live.drop("next")
        assert live.once() == 0
        assert live.ended("next").record.state is State.DONE
        deep = live.ended("deep").files
        assert (deep / "/".join("d" * 1200)).is_dir()
        assert live.leftovers() == []
        assert live.events("job.unfiled", "archive.failed", "turn.failed") == []
    finally:
        live.close()
        # shutil's removal would recurse.
        Disk().remove_tree(str(far / "archive"))


def test_many_jobs_to_another_file_system(tmp_path: Path, far: Path) -> None:
    """Many jobs are filed far away, each once, across a kill -9."""
    live = Live(tmp_path, "-j", "4", "-o", str(far / "archive"))
    try:
        live.start()
        for number in range(60):
            live.drop(f"j{number}", f"{live.side_effect(f'j{number}')}echo {number}\n")
        eventually(lambda: len(live.filed()) > 20)
        live.kill()
        live.start()
        eventually(lambda: len(live.filed()) >= 60)
        assert live.stop() == 0
        assert {live.ended(f"j{number}").text for number in range(60)} == {
            f"{number}\n" for number in range(60)
        }
        assert {live.runs(f"j{number}") for number in range(60)} == {1}
        assert live.leftovers() == []
    finally:
        live.close()


def test_archive_inside_the_spool(tmp_path: Path) -> None:
    """-o SPOOL/archive works: a directory without an info file is left alone."""
    with Live(tmp_path, "-o", str(tmp_path / "spool" / "archive")) as live:
        for number in range(5):
            live.drop(f"j{number}")
        eventually(lambda: len(live.filed()) == 5)
        assert live.spooled() == ["archive"]


def test_archive_that_is_gone_delays_the_end_and_no_more(tmp_path: Path) -> None:
    """An end that cannot be filed is said, filed when the archive is back, and never run again."""
    with Live(tmp_path, "-j", "2") as live:
        live.drop("before")
        live.ended("before")
        away = live.archive.rename(tmp_path / "away")
        live.drop("unfiled", f"{live.side_effect('unfiled')}echo kept\nexit 4\n")
        said = live.said("archive.failed")
        assert said["archive"] == str(live.archive)
        assert said["reason"]
        # Others go on meanwhile.
        live.drop("goes-on", live.side_effect("goes-on"))
        eventually(lambda: live.runs("goes-on"))
        assert not live.archive.exists()
        assert len(os.listdir(live.spool / ".pmjq" / "ended")) >= 1
        away.rename(live.archive)
        filed = live.ended("unfiled")
        assert (filed.record.exit_code, filed.text) == (4, "kept\n")
        live.ended("goes-on")
        live.said("archive.works_again")
        assert (live.runs("unfiled"), live.runs("goes-on")) == (1, 1)
        assert live.stop() == 0
        assert live.leftovers() == []


def test_unfiled_end_is_filed_by_the_next_daemon(tmp_path: Path) -> None:
    """An end that could not be filed survives a kill -9 of the daemon."""
    with Live(tmp_path) as live:
        shutil.rmtree(live.archive)
        live.drop("unfiled", f"{live.side_effect('unfiled')}exit 4\n")
        live.said("archive.failed")
        live.kill()
        live.start()
        assert live.ended("unfiled").record.exit_code == 4
        assert live.runs("unfiled") == 1


def test_spool_without_its_identity_is_left_alone(tmp_path: Path) -> None:
    """A spool whose spool.json is gone is not touched until it is back; running jobs go on."""
    with Live(tmp_path) as live:
        gate = live.gate("runs")
        live.drop("runs", f"{live.side_effect('runs')}{gate.wait}exit 6\n")
        eventually(lambda: live.runs("runs"))
        identity = live.spool / ".pmjq" / "spool.json"
        identity.rename(tmp_path / "spool.json")
        stays = live.drop("stays", live.side_effect("stays"))
        assert "is not there" in live.said("spool.missing")["reason"]
        gate.open()
        eventually(lambda: not live.jobs())
        assert stays.exists()
        (tmp_path / "spool.json").rename(identity)
        live.said("spool.back")
        assert live.ended("runs").record.exit_code == 6
        live.ended("stays")
        assert (live.runs("runs"), live.runs("stays")) == (1, 1)


def test_replaced_spool_is_left_alone(tmp_path: Path) -> None:
    """Another directory in the spool's place (a share that is not mounted) is not made a spool."""
    with Live(tmp_path) as live:
        gate = live.gate("runs")
        live.drop("runs", f"{live.side_effect('runs')}{gate.wait}exit 6\n")
        eventually(lambda: live.runs("runs"))
        away = live.spool.rename(tmp_path / "spool.away")
        live.spool.mkdir()
        live.drop("alone", live.side_effect("alone"))
        live.said("spool.missing")
        gate.open()
        eventually(lambda: not live.jobs())
        assert live.spooled() == ["alone"]
        assert not (live.spool / ".pmjq").exists()
        shutil.rmtree(live.spool)
        away.rename(live.spool)
        live.said("spool.back")
        assert live.ended("runs").record.exit_code == 6
        live.drop("after")
        live.ended("after")
        assert live.runs("runs") == 1
        assert live.runs("alone") == 0
