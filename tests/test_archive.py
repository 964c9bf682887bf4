"""The rules of filing: nothing overwritten, every step repeatable, near and far."""

from __future__ import annotations

import os
import stat as modes
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import pytest

from conftest import again_as_nobody
from doubles import FAR, Clock, Faults, Faulty, How, MemDisk
from pmjq import job, naming
from pmjq.archive import Archive
from pmjq.disk import Disk
from pmjq.errors import CannotCreateError
from pmjq.job import Attempt, Record, Status
from pmjq.spool import Spool
from pmjq.state import TO_ERROR_DIRECTORY, State
from values import attempt

if TYPE_CHECKING:
    from pathlib import Path

TOKEN = "a.boot0001.00000001"
PROGRAM = b"#!/bin/sh\n:\n"
ONE = attempt(id="1d", token=TOKEN)
FINISHED = Status(started=1.7e9, ended=1.7e9 + 1, code=0)


class Ground(NamedTuple):
    """A spool with a life, and where its archives may be; ``far``: filed by copying."""

    spool: Spool
    base: str
    far: bool

    def archive(self, done: str | None = None, failed: str | None = None) -> Archive:
        """Return an archive in a directory of its own."""
        archive = Archive(self.spool, done or f"{self.base}/done", failed)
        if self.far and not isinstance(self.spool.disk, MemDisk):
            # As on another file system.
            archive._device = -1
        return archive


@pytest.fixture(params=["memory near", "memory far", "real near", "real far"])
def ground(request: pytest.FixtureRequest, tmp_path: Path) -> Ground:
    """Return every kind of place in turn."""
    kind, where = request.param.split()
    if kind == "real":
        (tmp_path / "spool").mkdir()
        return Ground(_spool(Disk(), str(tmp_path / "spool")), str(tmp_path), where == "far")
    disk = MemDisk(Clock())
    disk.tree("/srv/spool")
    disk.mount("/mnt", FAR)
    base = "/mnt" if where == "far" else "/srv"
    return Ground(_spool(disk, "/srv/spool"), base, where == "far")


def _spool(disk: Disk, root: str) -> Spool:
    spool = Spool(disk, root, TOKEN)
    spool.prepare("0b0e7d1e-0000-4000-8000-000000000000")
    spool.begin()
    return spool


def ended(spool: Spool, one: Attempt = ONE, state: State = State.DONE) -> Record:
    """Have a job end that wrote output; return its record."""
    name = naming.real_name(one.name, one.name_hex)
    spool.disk.write(f"{spool.root}/{name}", PROGRAM)
    spool.prepare_claim(one)
    assert spool.claim(one)
    spool.disk.write(f"{spool.own}/job/{one.id}/out.1", b"said\n")
    record = job.record(one, FINISHED, state, 0.0)
    assert spool.end(record)
    return record


def filed(spool: Spool, home: str, record: Record) -> dict[str, bytes | None]:
    """Return what a directory holds: by affix what belongs to a record, by name what does not."""
    stem = naming.real_name(record.stem, record.stem_hex)
    found = {}
    for name in spool.disk.names(home):
        path = f"{home}/{name}"
        stat = spool.disk.stat(path)
        assert stat is not None
        key = name.removeprefix(stem) if name.startswith(stem) else name
        found[key] = spool.disk.read(path) if modes.S_ISREG(stat.st_mode) else None
    return found


def whole(record: Record) -> dict[str, bytes | None]:
    """Return what is in the archive of a filed job."""
    return {"": PROGRAM, ".json": msgspec.json.encode(record) + b"\n", ".out": b"said\n"}


# -- where to


def test_destinations(ground: Ground) -> None:
    """An error directory takes all that is not done; without one all goes to the archive."""
    done, failed = f"{ground.base}/done", f"{ground.base}/failed"
    both, one = ground.archive(failed=failed), ground.archive()
    for state in State:
        record = job.record(ONE, FINISHED, state, 0.0)
        expected = failed if state in TO_ERROR_DIRECTORY else done
        assert both.destination(record).path == expected
        assert one.destination(record).path == done
    assert both.made == [done, failed]
    assert one.made == []


def test_own_archive() -> None:
    """Without -o the archive is the spool's own."""
    spool = _memory()
    archive = Archive(spool, None, None)
    assert (archive.done.path, archive.made) == (f"{spool.own}/done", [])


def _memory() -> Spool:
    disk = MemDisk(Clock())
    disk.tree("/srv/spool")
    return _spool(disk, "/srv/spool")


def test_archive_that_cannot_be_made(ground: Ground) -> None:
    """A destination that is below a file is refused by its path."""
    ground.spool.disk.write(f"{ground.base}/file", b"")
    with pytest.raises(CannotCreateError, match="file/done: cannot be made"):
        ground.archive(f"{ground.base}/file/done")


def test_directories_above_are_made(ground: Ground) -> None:
    """A destination is made with all that is missing above it."""
    archive = ground.archive(f"{ground.base}/one/two/three")
    assert archive.made == [f"{ground.base}/{path}" for path in ("one", "one/two", "one/two/three")]


# -- filing


def test_file(ground: Ground) -> None:
    """The job, its output and its record are in the archive, and nothing else is left of them."""
    spool, archive = ground.spool, ground.archive()
    record = ended(spool)
    assert archive.near(record) is not ground.far
    archive.file(record)
    assert filed(spool, f"{ground.base}/done", record) == whole(record)
    assert spool.ended() == []
    assert spool.disk.names(f"{spool.own}/job/1d") == ["work"]
    archive.file(record)
    assert filed(spool, f"{ground.base}/done", record) == whole(record)


def test_same_name_twice(ground: Ground) -> None:
    """Two jobs of one name, ended in the same microsecond, stand side by side."""
    spool, archive = ground.spool, ground.archive()
    for one in (ONE, attempt(id="2d", token=TOKEN)):
        archive.file(ended(spool, one))
    names = spool.disk.names(f"{ground.base}/done")
    assert len([name for name in names if name.endswith("-job")]) == 2
    assert len(names) == 6


def test_what_a_job_leaves(ground: Ground) -> None:
    """What is left in the working directory is filed as it is: directories, links, modes."""
    spool, archive = ground.spool, ground.archive()
    record = ended(spool)
    work = spool.work_path(record)
    spool.disk.mkdir(f"{work}/deep")
    spool.disk.write(f"{work}/deep/file", b"result")
    spool.disk.symlink("/nowhere", f"{work}/link")
    if not isinstance(spool.disk, MemDisk):
        os.mkfifo(f"{work}/fifo")
        os.chmod(f"{work}/deep/file", 0o600)
    archive.file(record)
    left = f"{ground.base}/done/{record.stem}.d"
    assert filed(spool, f"{ground.base}/done", record) == whole(record) | {".d": None}
    assert spool.disk.read(f"{left}/deep/file") == b"result"
    link = spool.disk.stat(f"{left}/link")
    assert link is not None
    assert modes.S_ISLNK(link.st_mode)
    assert spool.disk.stat(work) is None
    if not isinstance(spool.disk, MemDisk):
        assert modes.S_ISFIFO(os.lstat(f"{left}/fifo").st_mode)
        assert modes.S_IMODE(os.lstat(f"{left}/deep/file").st_mode) == 0o600


@pytest.mark.parametrize(
    "name",
    ["x" * 255, "\udcff" * 255, "\U0001f600" * 63, "two\nlines", "-rf", "x.json"],
    ids=["ascii", "bytes", "utf-8", "newline", "option", "record"],
)
def test_names_of_all_kinds(ground: Ground, name: str) -> None:
    """The longest names and the strangest ones are filed, whole or shortened at their end."""
    spool, archive = ground.spool, ground.archive()
    record = ended(
        spool, attempt(id="1d", token=TOKEN, name=naming.shown(name), name_hex=naming.exact(name))
    )
    spool.disk.write(f"{spool.work_path(record)}/left", b"")
    archive.file(record)
    assert filed(spool, f"{ground.base}/done", record) == whole(record) | {".d": None}
    stem = naming.real_name(record.stem, record.stem_hex)
    assert name.startswith(stem.split("-1d-", 1)[1])
    assert max(len(os.fsencode(each)) for each in spool.disk.names(f"{ground.base}/done")) <= 255


@pytest.mark.parametrize("missing", ["out", "record", "job", "all"])
def test_half_filed(ground: Ground, missing: str) -> None:
    """What has been filed before, or is not there, counts as filed."""
    spool, archive = ground.spool, ground.archive()
    record = ended(spool)
    gone = {
        "out": [spool.out_path(record)],
        "record": [spool.record_path(record)],
        "job": [spool.ended_path(record)],
    }
    gone["all"] = [path for paths in list(gone.values()) for path in paths]
    for path in gone[missing]:
        spool.disk.unlink(path)
    archive.file(record)
    affixes = {"out": {".out"}, "record": {".json"}, "job": {""}, "all": {"", ".json", ".out"}}
    assert (
        filed(spool, f"{ground.base}/done", record).keys()
        == whole(record).keys() - affixes[missing]
    )


def test_half_a_copy_is_replaced(ground: Ground) -> None:
    """What an interrupted copy left under a hidden name is gone at the end."""
    spool, archive = ground.spool, ground.archive()
    record = ended(spool)
    home, stem = f"{ground.base}/done", record.stem
    if ground.far:
        spool.disk.write(f"{home}/.{stem}.out.part", b"sa")
        spool.disk.mkdir(f"{home}/.{stem}.d.part")
        spool.disk.write(f"{home}/.{stem}.d.part/old", b"half")
    spool.disk.write(f"{spool.work_path(record)}/left", b"result")
    archive.file(record)
    assert filed(spool, home, record) == whole(record) | {".d": None}
    assert spool.disk.names(f"{home}/{stem}.d") == ["left"]


@pytest.mark.parametrize("ground", ["memory far", "real far"], indirect=True)
def test_directory_that_was_filed_stays_whole(ground: Ground) -> None:
    """A directory under its final name is complete: half of its source does not take its place."""
    spool, archive = ground.spool, ground.archive()
    record = ended(spool)
    work, left = spool.work_path(record), f"{ground.base}/done/{record.stem}.d"
    spool.disk.write(f"{work}/second", b"2")
    spool.disk.mkdir(left)
    spool.disk.write(f"{left}/first", b"1")
    spool.disk.write(f"{left}/second", b"2")
    archive.file(record)
    assert sorted(spool.disk.names(left)) == ["first", "second"]
    assert spool.disk.stat(work) is None


@pytest.mark.parametrize("permissions", [0o555, 0o500, 0o111, 0])
def test_working_directory_that_is_shut(ground: Ground, permissions: int) -> None:
    """What its owner may not write, read or enter is filed with the mode that it has."""
    spool, archive = ground.spool, ground.archive()
    record = ended(spool)
    work, left = spool.work_path(record), f"{ground.base}/done/{record.stem}.d"
    spool.disk.write(f"{work}/result", b"result")
    spool.disk.chmod(work, permissions)
    assert archive.file(record)
    assert filed(spool, f"{ground.base}/done", record) == whole(record) | {".d": None}
    stat = spool.disk.stat(left)
    assert stat is not None
    assert modes.S_IMODE(stat.st_mode) == permissions
    spool.disk.chmod(left, 0o700)
    assert spool.disk.read(f"{left}/result") == b"result"
    assert spool.disk.stat(work) is None


@pytest.mark.parametrize("permissions", [0o111, 0])
def test_files_that_may_not_be_read(ground: Ground, permissions: int) -> None:
    """A job, or what it leaves, that not even its owner may read is filed with its mode."""
    spool, archive = ground.spool, ground.archive()
    record = ended(spool)
    stem = f"{ground.base}/done/{record.stem}"
    spool.disk.write(f"{spool.work_path(record)}/secret", b"secret")
    spool.disk.chmod(f"{spool.work_path(record)}/secret", permissions)
    spool.disk.chmod(spool.ended_path(record), permissions)
    assert archive.file(record)
    for path, content in ((stem, PROGRAM), (f"{stem}.d/secret", b"secret")):
        stat = spool.disk.stat(path)
        assert stat is not None
        assert modes.S_IMODE(stat.st_mode) == permissions
        spool.disk.chmod(path, 0o400)
        assert spool.disk.read(path) == content
    assert spool.ended() == []


@pytest.mark.parametrize("ground", ["real near", "real far"], indirect=True)
def test_deep_working_directory(ground: Ground) -> None:
    """However deep a job nests directories, they are filed."""
    spool, archive = ground.spool, ground.archive()
    record = ended(spool)
    for depth in range(1, 1201):
        os.mkdir(spool.work_path(record) + "/d" * depth)
    archive.file(record)
    left = f"{ground.base}/done/{record.stem}.d"
    assert os.path.isdir(left + "/d" * 1200)
    assert filed(spool, f"{ground.base}/done", record) == whole(record) | {".d": None}
    # pytest's own removal would recurse.
    spool.disk.remove_tree(left)


# -- destinations that fail


def test_destination_vanishes_and_comes_back(ground: Ground) -> None:
    """A destination that is gone is an error, is not made again, and serves when it is back."""
    spool, archive = ground.spool, ground.archive()
    record = ended(spool)
    home = f"{ground.base}/done"
    spool.disk.rmdir(home)
    with pytest.raises(FileNotFoundError, match="is gone; mount it or make it again"):
        archive.done.check()
    with pytest.raises(OSError, match="No such file"):
        archive.file(record)
    assert spool.disk.stat(home) is None
    assert spool.ended() == [("1d", 1)]
    spool.disk.mkdir(home)
    archive.done.check()
    archive.file(record)
    assert filed(spool, home, record) == whole(record)


def test_destination_is_replaced() -> None:
    """Another file system in a destination's place is an error until it is gone again."""
    spool = _memory()
    disk = spool.disk
    assert isinstance(disk, MemDisk)
    archive = Archive(spool, "/srv/done", None)
    disk.rename("/srv/done", "/srv/aside")
    disk.mount("/srv/done", FAR)
    with pytest.raises(OSError, match="is on another file system than at the start"):
        archive.done.check()
    mounted = disk.root.children and disk.root.children["srv"].children
    assert mounted
    del mounted["done"]
    disk.rename("/srv/aside", "/srv/done")
    archive.done.check()


@pytest.mark.parametrize("device", [1, FAR], ids=["near", "far"])
def test_full_destination(device: int) -> None:
    """A full destination costs only time: when there is room again the job is filed whole."""
    spool = _memory()
    disk = spool.disk
    assert isinstance(disk, MemDisk)
    disk.mount("/mnt", FAR)
    home = "/mnt/done" if device == FAR else "/srv/done"
    archive = Archive(spool, home, None)
    record = ended(spool)
    disk.full.add(device)
    with pytest.raises(OSError, match="No space"):
        archive.file(record)
    assert filed(spool, home, record) == {}
    assert spool.ended() == [("1d", 1)]
    disk.full.clear()
    archive.file(record)
    assert filed(spool, home, record) == whole(record)


@pytest.mark.parametrize("far", [False, True], ids=["near", "far"])
def test_spool_that_is_away(*, far: bool) -> None:
    """A share may be unmounted between two looks: its ended jobs are filed when it is back."""
    disk = MemDisk(Clock())
    disk.tree("/srv/spool")
    disk.mount("/mnt", FAR)
    spool = _spool(disk, "/srv/spool")
    home = "/mnt/done" if far else "/srv/done"
    archive = Archive(spool, home, None)
    record = ended(spool)
    disk.rename("/srv/spool", "/srv/away")
    with pytest.raises(FileNotFoundError):
        archive.file(record)
    disk.rename("/srv/away", "/srv/spool")
    assert archive.file(record)
    assert filed(spool, home, record) == whole(record)


@pytest.mark.parametrize("far", [False, True], ids=["near", "far"])
@pytest.mark.parametrize("how", [How.FAIL, How.LOSE])
@pytest.mark.parametrize("number", [5, 13, 28, 116])
def test_every_step_can_be_repeated(number: int, how: How, *, far: bool) -> None:
    """Whichever operation fails, carried out or not, the next try files the job whole."""
    at = 0
    while True:
        at += 1
        disk = MemDisk(Clock())
        disk.tree("/srv/spool")
        disk.mount("/mnt", FAR)
        faults = Faults()
        spool = _spool(Faulty(disk, faults), "/srv/spool")
        home = "/mnt/done" if far else "/srv/done"
        archive = Archive(spool, home, None)
        record = ended(spool)
        disk.put(f"{spool.work_path(record)}/left", b"result")
        faults.at, faults.how, faults.error, faults.count = at, how, number, 0
        try:
            archive.file(record)
        except OSError:
            assert disk.stat(f"{home}/{record.stem}") is None or spool.ended() or how is How.LOSE
        if not faults.hit:
            break
        faults.lift()
        archive.file(record)
        assert filed(spool, home, record) == whole(record) | {".d": None}, faults
        assert disk.names(f"{home}/{record.stem}.d") == ["left"], faults
        assert spool.ended() == [], faults
    assert at > 5


def _faulty(faults: Faults) -> tuple[Spool, MemDisk]:
    """Return a spool on a disk with faults, and a second file system at /mnt."""
    disk = MemDisk(Clock())
    disk.tree("/srv/spool")
    disk.mount("/mnt", FAR)
    return _spool(Faulty(disk, faults), "/srv/spool"), disk


@pytest.mark.parametrize("what", [".out", ".d", ".d/second", ".json", ""])
def test_copy_that_does_not_fit_is_removed(what: str) -> None:
    """It would keep others from the space that there is."""
    faults = Faults(0, How.FAIL, 28)
    spool, disk = _faulty(faults)
    archive = Archive(spool, "/mnt/done", None)
    record = ended(spool)
    for name in ("first", "second"):
        disk.put(f"{spool.work_path(record)}/{name}", b"result")
    affix, _, name = what.partition("/")
    hidden = f"/mnt/done/.{record.stem}{affix}.part" + (f"/{name}" if name else "")
    faults.matching = lambda kind, paths: kind in ("copy", "mkdir") and paths[-1] == hidden
    faults.at, faults.count = 1, 0
    with pytest.raises(OSError, match="No space"):
        archive.file(record)
    assert faults.hit
    assert not [path for path in disk.paths("/mnt/done") if ".part" in path]
    faults.lift()
    archive.file(record)
    assert filed(spool, "/mnt/done", record) == whole(record) | {".d": None}
    assert sorted(disk.names(f"/mnt/done/{record.stem}.d")) == ["first", "second"]


def test_source_that_cannot_be_removed() -> None:
    """What was copied and stays is left to the removal of the paperwork; only the job must go."""
    faults = Faults(0, How.FAIL, 13, lasting=True)
    spool, disk = _faulty(faults)
    archive = Archive(spool, "/mnt/done", None)
    record = ended(spool)
    disk.put(f"{spool.work_path(record)}/left", b"result")
    faults.at, faults.count = 1, 0
    faults.matching = lambda kind, paths: kind == "unlink" and "/job/" in paths[0]
    assert archive.file(record)
    assert filed(spool, "/mnt/done", record) == whole(record) | {".d": None}
    assert disk.names(f"{spool.own}/ended") == []
    assert sorted(disk.names(f"{spool.own}/job/1d")) == ["out.1", "record.1.json", "work"]
    disk.put(f"{spool.own}/ended/1d.1", PROGRAM)
    faults.matching = lambda kind, paths: kind == "unlink" and "/ended/" in paths[0]
    with pytest.raises(PermissionError):
        archive.file(record)


def test_directory_that_was_filed_is_durable_before_its_source_goes() -> None:
    """Also if the daemon was killed between the two: nobody knows whether that was synced."""
    done: list[str] = []
    spool, disk = _faulty(Faults(seen=done.append))
    archive = Archive(spool, "/mnt/done", None)
    record = ended(spool)
    disk.put(f"{spool.work_path(record)}/left", b"result")
    disk.unlink(spool.out_path(record))
    for name in (".d", ".d/left"):
        disk.tree(f"/mnt/done/{record.stem}{name}")
    done.clear()
    archive.file(record)
    assert done.index("sync") < done.index("unlink")


def test_destination_that_can_be_written(ground: Ground) -> None:
    """A small file tells, of which nothing is left; an error names the destination."""
    archive, disk = ground.archive(), ground.spool.disk
    path = archive.done.path
    archive.done.try_write()
    assert disk.names(path) == []
    disk.rmdir(path)
    with pytest.raises(FileNotFoundError) as caught:
        archive.done.try_write()
    assert caught.value.filename == path


@pytest.mark.parametrize("what", ["full", "denied"])
def test_destination_that_cannot_be_written(what: str) -> None:
    """It is there, and no file can be made in it."""
    spool, disk = _faulty(Faults())
    archive = Archive(spool, "/mnt/done", None)
    disk.full |= {FAR} if what == "full" else set()
    disk.denied |= {"/mnt/done"} if what == "denied" else set()
    archive.done.check()
    with pytest.raises(OSError, match=r"No space|Permission") as caught:
        archive.done.try_write()
    assert caught.value.filename == "/mnt/done"


# -- mending


@pytest.mark.parametrize("text", [None, b"", b'{"format": 1', b"\0" * 50])
def test_mend(ground: Ground, text: bytes | None) -> None:
    """The record of an archived job that a power cut has torn is written again, once."""
    spool, archive = ground.spool, ground.archive()
    record = ended(spool)
    archive.file(record)
    path = f"{ground.base}/done/{record.stem}.json"
    spool.disk.unlink(path)
    if text is not None:
        spool.disk.write(path, text)
    assert [archive.mend(record), archive.mend(record)] == [True, False]
    assert filed(spool, f"{ground.base}/done", record) == whole(record)


def test_mend_makes_no_record_without_a_job(ground: Ground) -> None:
    """A job that is not in the archive, or was removed from it by its owner, gets no record."""
    spool, archive = ground.spool, ground.archive()
    record = ended(spool)
    assert not archive.mend(record)
    assert filed(spool, f"{ground.base}/done", record) == {}


# -- without root's rights


def test_once_more_as_nobody() -> None:
    """All of this is true of a daemon that is not root."""
    again_as_nobody(__file__)
