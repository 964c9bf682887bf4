"""Full disks, of real file systems: ends stay and are filed later, nothing runs twice.

The spool, its archive, or both lie on a small file system that a test fills with one file. The
log and what the jobs leave as traces are elsewhere.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from live import Live, eventually
from pmjq.errors import TryLaterError
from pmjq.state import State

if TYPE_CHECKING:
    from lab.conftest import Mount

pytestmark = pytest.mark.lab

KINDS = [("tmpfs", "4m"), ("ext4", "16M")]

AGAIN = 90.0
"""Seconds within which everything has worked again: what failed is tried once a minute at least."""


class Filler:
    """A file that takes all the space there is, until it is removed."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "filler"

    def fill(self) -> None:
        """Take all space, down to the last block, and what jobs that run give back meanwhile."""
        fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            eventually(lambda: self._taken(fd), what="no block is free")
        finally:
            os.close(fd)

    def _taken(self, fd: int) -> bool:
        for size in (1 << 20, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while True:
                    os.write(fd, bytes(size))
            # Blocks are taken when they are written out, not before.
            with contextlib.suppress(OSError):
                os.fsync(fd)
        return os.statvfs(self.path).f_bavail == 0

    def free(self) -> None:
        """Give all space back."""
        self.path.unlink()


@contextlib.contextmanager
def _live(tmp_path: Path, root: Path, *options: str) -> Iterator[Live]:
    """Yield a daemon on ``root``, with its log and its jobs' traces on another file system."""
    live = Live(root, *options)
    live.log = tmp_path / "daemon.log"
    live.side = tmp_path / "side"
    live.side.mkdir()
    try:
        yield live
    finally:
        live.close()


def _full(live: Live, *events: str) -> list[str]:
    """Return which of these events said that there is no space."""
    wanted = os.strerror(errno.ENOSPC)
    return [event["event"] for event in live.events(*events) if event["reason"] == wanted]


def _stuck(live: Live) -> bool:
    """Tell whether anything failed and has not worked again since."""
    told = [event["event"] for event in live.events()]
    return any(
        told.count(f"{what}.failed") > told.count(f"{what}.works_again")
        for what in ("start", "claim", "end", "return", "archive", "look")
    )


def _all_filed(live: Live, names: set[str]) -> None:
    eventually(lambda: {filed.record.name for filed in live.filed()} >= names, within=AGAIN)
    assert sorted(filed.record.name for filed in live.filed()) == sorted(names)
    assert {name: live.runs(name) for name in names} == dict.fromkeys(names, 1)
    assert live.alive()
    assert live.events("turn.failed") == []


@pytest.mark.parametrize(("kind", "size"), KINDS)
def test_jobs_that_end_on_a_full_disk(tmp_path: Path, mount: Mount, kind: str, size: str) -> None:
    """Jobs whose end finds no space are neither lost nor run again, and the log says why."""
    root = mount(kind, size)
    with _live(tmp_path, root, "-j", "4") as live:
        gates = [live.gate(f"g{number}") for number in range(4)]
        live.start()
        for number, gate in enumerate(gates):
            live.drop(f"j{number}", f"{live.side_effect(f'j{number}')}{gate.wait}exit {number}\n")
        names = {f"j{number}" for number in range(4)}
        eventually(lambda: all(live.runs(name) for name in names))
        for number in range(4, 8):
            live.drop(f"j{number}", live.side_effect(f"j{number}"))
        filler = Filler(root)
        filler.fill()
        for gate in gates:
            gate.open()
        eventually(lambda: _full(live, "end.failed", "claim.failed", "archive.failed"))
        eventually(lambda: not any(live.runs(name) > 1 for name in names))
        assert live.alive()
        filler.free()
        _all_filed(live, names | {f"j{number}" for number in range(4, 8)})
        codes = {number: live.ended(f"j{number}").record.exit_code for number in range(4)}
        assert codes == {number: number for number in range(4)}
        assert live.stop() == 0
        assert live.leftovers() == []


@pytest.mark.parametrize(("kind", "size"), KINDS)
def test_disk_that_fills_while_jobs_run(tmp_path: Path, mount: Mount, kind: str, size: str) -> None:
    """Wherever in its life a job meets the full disk, it is run and recorded once in the end."""
    root = mount(kind, size)
    with _live(tmp_path, root, "-j", "2") as live:
        names = {f"j{number}" for number in range(60)}
        for name in sorted(names):
            live.drop(name, live.side_effect(name))
        live.start()
        filler = Filler(root)
        for step in range(1, 4):
            # The failures of the time before are over, so that those of this time are told of.
            eventually(lambda: not _stuck(live), within=AGAIN)
            eventually(lambda least=8 * step: len(live.filed()) >= least)  # type: ignore[misc]
            filler.fill()
            eventually(lambda: _stuck(live) or len(live.events("job.ended")) == len(names))
            assert live.alive()
            filler.free()
        _all_filed(live, names)
        assert {filed.record.state for filed in live.filed()} == {State.DONE}
        assert live.stop() == 0
        assert live.leftovers() == []


@pytest.mark.parametrize(("kind", "size"), KINDS)
def test_daemon_killed_on_a_full_disk(tmp_path: Path, mount: Mount, kind: str, size: str) -> None:
    """A daemon that is killed while the disk is full leaves everything to the next one."""
    root = mount(kind, size)
    with _live(tmp_path, root, "-j", "12") as live:
        # So many that their ends do not fit in the last block of the events.
        gates = {f"j{number}": live.gate(f"g{number}") for number in range(12)}
        live.start()
        for name, gate in gates.items():
            live.drop(name, f"{live.side_effect(name)}{gate.wait}exit 3\n")
        eventually(lambda: all(live.runs(name) for name in gates))
        filler = Filler(root)
        filler.fill()
        for gate in gates.values():
            gate.open()
        eventually(lambda: _full(live, "end.failed", "archive.failed"))
        live.kill()
        filler.free()
        live.start()
        _all_filed(live, set(gates))
        assert {live.ended(name).record.exit_code for name in gates} == {3}
        assert live.stop() == 0
        assert live.leftovers() == []


@pytest.mark.parametrize(("kind", "size"), KINDS)
def test_full_archive(tmp_path: Path, mount: Mount, kind: str, size: str) -> None:
    """A full archive delays what goes there and nothing else; it is said, and shown."""
    archive = mount(kind, size) / "archive"
    with _live(tmp_path, tmp_path / "root", "-j", "2", "-o", str(archive)) as live:
        live.start()
        live.drop("before", live.side_effect("before"))
        live.ended("before")
        filler = Filler(archive.parent)
        filler.fill()
        names = {f"j{number}" for number in range(5)}
        for name in sorted(names):
            # More than fits in what a file system hides in its inodes.
            live.drop(name, f"{live.side_effect(name)}seq 2000\n")
        failed = live.said("archive.failed")
        assert failed["reason"] == os.strerror(errno.ENOSPC)
        assert failed["archive"] == str(archive)
        eventually(lambda: all(live.runs(name) for name in names))
        eventually(lambda: len(os.listdir(live.spool / ".pmjq" / "ended")) == len(names))
        eventually(lambda: live.node().get("unfiled") == len(names))
        eventually(lambda: live.node()["aside"].get(str(archive)) == os.strerror(errno.ENOSPC))
        assert live.alive()
        filler.free()
        _all_filed(live, names | {"before"})
        live.said("archive.works_again", within=AGAIN)
        assert {len(live.ended(name).text.splitlines()) for name in names} == {2000}
        live.wait_cleared()
        assert live.stop() == 0
        assert live.leftovers() == []
        assert not [name for name in os.listdir(archive) if name.startswith(".")]


@pytest.mark.parametrize(("kind", "size"), KINDS)
def test_start_on_a_full_disk(tmp_path: Path, mount: Mount, kind: str, size: str) -> None:
    """A daemon without room to begin says where, can be stopped, and begins when it has."""
    root = mount(kind, size)
    with _live(tmp_path, root, "-j", "2") as live:
        live.start()
        assert live.stop() == 0
        live.drop("job", live.side_effect("job"))
        filler = Filler(root)
        filler.fill()
        live.start(ready=False)
        reason = live.said("life.failed")["reason"]
        assert (os.strerror(errno.ENOSPC) in reason, str(live.spool) in reason) == (True, True)
        assert live.stop() == -signal.SIGTERM
        assert live.once() == TryLaterError.exit_code
        live.start(ready=False)
        assert len(live.told("life.failed", 2)) == 2
        filler.free()
        live.wait_ready()
        _all_filed(live, {"job"})
        assert live.stop() == 0
        assert live.leftovers() == []


@pytest.mark.parametrize(("kind", "size"), KINDS)
def test_start_on_a_disk_full_of_ended_jobs(
    tmp_path: Path, mount: Mount, kind: str, size: str
) -> None:
    """What has ended and goes elsewhere makes the room that the daemon needs to begin."""
    root, archive = mount(kind, size), mount("tmpfs", "8m")
    names = {f"j{number}" for number in range(3)}
    with _live(tmp_path, root, "-j", "1", "-o", str(archive)) as live:
        away = Filler(archive)
        away.fill()
        live.start()
        for name in sorted(names):
            live.drop(name, f"{live.side_effect(name)}head -c 500000 /dev/zero\n")
        eventually(lambda: len(os.listdir(live.spool / ".pmjq" / "ended")) == len(names))
        live.kill()
        away.free()
        Filler(root).fill()
        live.start()
        _all_filed(live, names)
        assert {len(live.ended(name).output) for name in names} == {500000}
        assert live.stop() == 0
        assert live.leftovers() == []


def test_job_that_does_not_fit(tmp_path: Path, mount: Mount) -> None:
    """What is larger than the archive has room for keeps no other job out of it."""
    archive = mount("tmpfs", "30m") / "archive"
    with _live(tmp_path, tmp_path / "root", "-j", "1", "-o", str(archive)) as live:
        live.start()
        live.drop("big", f"{live.side_effect('big')}head -c 60000000 /dev/zero\n")
        failed = live.said("job.unfiled")
        assert (failed["job"], failed["reason"]) == ("big", os.strerror(errno.ENOSPC))
        names = {f"tiny{number}" for number in range(6)}
        for name in sorted(names):
            live.drop(name, live.side_effect(name))
        _all_filed(live, names)
        # A try may be under way.
        eventually(lambda: not [name for name in os.listdir(archive) if name.startswith(".")])
        assert live.events("archive.failed", "archive.works_again") == []
        eventually(lambda: os.strerror(errno.ENOSPC) in live.node()["aside"].values(), within=30)
        subprocess.run(["mount", "-o", "remount,size=100m", archive.parent], check=True)
        _all_filed(live, names | {"big"})
        assert len(live.told("job.unfiled")) == 1
        live.wait_cleared()
        assert live.stop() == 0
        assert live.leftovers() == []


def test_holes_take_no_space(tmp_path: Path, mount: Mount) -> None:
    """A sparse file that is larger than the archive fits into it."""
    archive = mount("tmpfs", "30m") / "archive"
    with _live(tmp_path, tmp_path / "root", "-o", str(archive)) as live:
        live.start()
        live.drop("sparse", "truncate -s 60M sparse; echo end >>sparse\n")
        sparse = live.ended("sparse").files / "sparse"
        assert sparse.stat().st_size == (60 << 20) + 4
        assert sparse.stat().st_blocks * 512 < 1 << 20
        with sparse.open("rb") as file:
            file.seek(60 << 20)
            assert file.read() == b"end\n"
        assert live.events("job.unfiled", "archive.failed") == []
