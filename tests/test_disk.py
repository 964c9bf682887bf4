"""The operations on the real disk: what each does, and what it answers where something is gone."""

from __future__ import annotations

import errno
import os
import socket
import stat as modes
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pmjq import disk as module
from pmjq import inside
from pmjq.directives import HEAD
from pmjq.disk import Disk, Onlooker
from test_walk import nested

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pmjq.ready import Inside

DISK = Disk()
GONE = ["none", "file/below"]
"""Paths below a directory with a file in it where nothing can be."""


@pytest.fixture
def base(tmp_path: Path) -> str:
    """Return a directory with a file in it."""
    (tmp_path / "file").write_bytes(b"content")
    return str(tmp_path)


def leases(base: str) -> bool:
    """Tell whether the file system of the tests knows leases."""
    look = DISK.look(f"{base}/file")
    return look is not None and look.busy is not None


def content(path: str) -> bytes:
    """Return what a file holds."""
    found = DISK.read(path)
    assert found is not None
    return found


@pytest.fixture
def wide() -> Iterator[None]:
    """Have a umask that forbids nothing."""
    before = os.umask(0)
    yield
    os.umask(before)


# -- whose it is


def test_what_is_made_here_is_this_user_s(base: str) -> None:
    """A file that is made for a look is this user's, and is not there afterwards."""
    made = DISK.made(f"{base}/new")
    assert made.st_uid == DISK.user() == os.geteuid()
    assert DISK.names(base) == ["file"]


def test_made_under_a_new_name_only(base: str) -> None:
    """A name that is there already may be anybody's."""
    with pytest.raises(FileExistsError):
        DISK.made(f"{base}/file")
    assert content(f"{base}/file") == b"content"


def test_nobody_else_may_write_what_is_made(base: str, wide: None) -> None:
    """Whatever the umask, and where new files are a group's: others could have programs run."""
    os.chmod(base, 0o2777)
    DISK.mkdir(f"{base}/directory")
    DISK.write(f"{base}/directory/whole", b"")
    DISK.write_at(f"{base}/directory/part", 0, b"", create=True)
    made = [DISK.made(f"{base}/new"), *(os.lstat(f"{base}/{name}") for name in (
        "directory", "directory/whole", "directory/part"
    ))]  # fmt: skip
    assert [oct(stat.st_mode & 0o022) for stat in made] == [oct(0)] * 4


# -- what fails


def test_error_of_a_full_disk_has_its_path() -> None:
    """The kernel tells of a descriptor only that it failed; people want to know where."""
    with pytest.raises(OSError, match=r"No space left.*'/dev/full'"):
        DISK.write("/dev/full", b"x")
    with pytest.raises(OSError, match=r"No space left.*'/dev/full'"):
        DISK.write_at("/dev/full", 0, b"x")


def test_error_of_a_sync_has_its_path() -> None:
    """Likewise where what cannot be synced stands for a disk that does not work."""
    with pytest.raises(OSError, match=r"Invalid argument.*'/dev/null'"):
        DISK.sync("/dev/null")


# -- looking


@pytest.mark.parametrize("name", GONE)
def test_gone_is_a_value(base: str, name: str) -> None:
    """Where nothing is, a look says so and a removal is done."""
    path = f"{base}/{name}"
    assert (DISK.stat(path), DISK.look(path), DISK.read(path)) == (None, None, None)
    DISK.unlink(path)


def test_look_tells_whether_a_file_is_being_written(base: str) -> None:
    """A file is busy for just as long as anybody has it open for writing."""
    path = f"{base}/file"
    if not leases(base):
        pytest.skip("no leases on the file system of the tests")
    for flags in (os.O_WRONLY, os.O_RDWR):
        fd = os.open(path, flags)
        try:
            look = DISK.look(path)
        finally:
            os.close(fd)
        assert look is not None
        assert (look.busy, look.head, look.stat.st_size) == (True, b"content", 7)
    fd = os.open(path, os.O_RDONLY)
    try:
        look = DISK.look(path)
    finally:
        os.close(fd)
    assert look is not None
    assert look.busy is False


def test_read_of_what_goes_on_growing(base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file is read as long as it was at first, however fast its owner writes on."""
    path, pread = f"{base}/file", os.pread

    def growing(fd: int, size: int, offset: int) -> bytes:
        os.truncate(path, os.stat(path).st_size + 1)
        return pread(fd, min(size, 3), offset)

    monkeypatch.setattr(os, "pread", growing)
    assert DISK.read(path) == b"content"
    os.truncate(path, 7)
    assert DISK.read(path, 4) == b"tent"
    os.truncate(path, 7)
    assert DISK.tail(path, 3) == b"ent"


def test_look_keeps_no_lease(base: str) -> None:
    """A look gives its lease back: a writer that comes after it does not wait."""
    DISK.look(f"{base}/file")
    fd = os.open(f"{base}/file", os.O_WRONLY | os.O_NONBLOCK)
    os.close(fd)


def test_look_reads_a_head(base: str) -> None:
    """Of a long file a look reads the head only."""
    DISK.write(f"{base}/file", b"x" * (HEAD + 9))
    look = DISK.look(f"{base}/file")
    assert look is not None
    assert look.head == b"x" * HEAD


def test_look_at_what_is_no_file(base: str) -> None:
    """A link is not followed, a FIFO without a writer is not waited for, and nothing is read."""
    os.symlink(f"{base}/file", f"{base}/link")
    os.mkfifo(f"{base}/fifo")
    os.mkdir(f"{base}/directory")
    with closing(socket.socket(socket.AF_UNIX)) as bound:
        bound.bind(f"{base}/socket")
        found = {}
        for name in ("link", "fifo", "directory", "socket"):
            look = DISK.look(f"{base}/{name}")
            assert look is not None
            assert (look.busy, look.head) == (None, None)
            found[name] = modes.S_IFMT(look.stat.st_mode)
    assert found == {
        "link": modes.S_IFLNK,
        "fifo": modes.S_IFIFO,
        "directory": modes.S_IFDIR,
        "socket": modes.S_IFSOCK,
    }


def into(base: str) -> Inside:
    """Return what a look tells of what is in a directory."""
    DISK.write(f"{base}/job.toml", b"script = 'true'")
    look = DISK.look(base)
    assert look is not None
    assert look.inside is not None
    return look.inside


def test_look_into_a_directory(base: str) -> None:
    """All in it counts, itself too, and no link is followed."""
    DISK.mkdir(f"{base}/below")
    DISK.write(f"{base}/below/file", b"12345")
    DISK.symlink("/usr", f"{base}/usr")
    DISK.symlink("nothing", f"{base}/below/dangling")
    inside = into(base)
    names = ("", "file", "job.toml", "usr", "below", "below/file", "below/dangling")
    stats = [os.lstat(f"{base}/{name}") for name in names]
    assert inside.entries == len(stats)
    assert inside.size == sum(stat.st_size for stat in stats)
    assert inside.newest_ns == max(max(stat.st_mtime_ns, stat.st_ctime_ns) for stat in stats)


@pytest.mark.parametrize("length", [1, 200])
def test_look_into_a_deep_directory(base: str, length: int) -> None:
    """However deep it is, it is looked at, also below what a path can tell."""
    depth, top = 1200, Path(base, "deep")
    nested(top, depth, length)
    try:
        inside = into(base)
    finally:
        # pytest's own removal would recurse.
        DISK.remove_tree(str(top))
    assert inside.entries == len(["", "file", "job.toml", "deep"]) + depth + 1


def test_look_into_a_directory_while_something_vanishes(
    base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has gone since it was listed hides nothing else of its directory."""
    listed = os.scandir

    @contextmanager
    def scandir(fd: int) -> Iterator[Iterator[os.DirEntry[str]]]:
        with listed(fd) as found:
            entries = sorted(found, key=lambda entry: entry.name)
        with suppress(FileNotFoundError):
            os.unlink("a", dir_fd=fd)
        yield iter(entries)

    monkeypatch.setattr(os, "scandir", scandir)
    DISK.write(f"{base}/a", b"gone")
    assert into(base).entries == len(["", "file", "job.toml"])


@pytest.mark.parametrize("wide", [True, False])
def test_look_into_a_directory_with_very_much_in_it(
    base: str, monkeypatch: pytest.MonkeyPatch, *, wide: bool
) -> None:
    """No more of it is looked at than tells that it is too much."""
    monkeypatch.setattr(inside, "MOST_INSIDE", 10)
    for number in range(25):
        if wide:
            DISK.write(f"{base}/{number}", b"")
        else:
            DISK.mkdir(f"{base}/{'d/' * number}d")
    assert into(base).entries == 10


def test_read_the_last_bytes(base: str) -> None:
    """Of a long file the last bytes, of a short one all of it."""
    path = f"{base}/file"
    assert [DISK.read(path, last) for last in (0, 3, 7, 99)] == [
        b"content",
        b"ent",
        b"content",
        b"content",
    ]


# -- writing


@pytest.mark.parametrize("data", [b"", b"new", b"something much longer"])
@pytest.mark.parametrize("name", ["file", "other"])
def test_write(base: str, name: str, data: bytes) -> None:
    """What is written is all that is there, whether it was longer before, shorter, or not there."""
    DISK.write(f"{base}/{name}", data)
    assert content(f"{base}/{name}") == data


def test_write_keeps_the_file(base: str) -> None:
    """A file that is written over is the same file, under all its names."""
    DISK.link(f"{base}/file", f"{base}/second")
    DISK.write(f"{base}/file", b"new")
    assert content(f"{base}/second") == b"new"


@pytest.mark.parametrize(
    ("offset", "data", "after"),
    [
        (0, b"", b""),
        (0, b"new", b"new"),
        (3, b"X", b"conX"),
        (7, b" more", b"content more"),
        (9, b"!", b"content\0\0!"),
    ],
)
def test_write_at(base: str, offset: int, data: bytes, after: bytes) -> None:
    """A file ends where what is written at an offset ends, and a repetition changes nothing."""
    for _ in range(2):
        DISK.write_at(f"{base}/file", offset, data)
        assert content(f"{base}/file") == after


def test_write_at_makes_no_file_unasked(base: str) -> None:
    """What was removed stays removed, unless it is asked for."""
    path = f"{base}/none"
    with pytest.raises(FileNotFoundError):
        DISK.write_at(path, 0, b"x")
    assert DISK.stat(path) is None
    DISK.write_at(path, 0, b"x", create=True)
    assert content(path) == b"x"


# -- names


@pytest.mark.parametrize("kind", ["file", "directory", "dangling link"])
@pytest.mark.parametrize("number", [None, errno.EINVAL, errno.ENOSYS])
def test_rename_new_overwrites_nothing(
    base: str, kind: str, number: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever has the name keeps it, with renameat2 and where the file system has none."""
    if number is not None:
        monkeypatch.setattr(module, "_renameat2", lambda *_: number)
    target = f"{base}/target"
    match kind:
        case "file":
            DISK.write(target, b"there")
        case "directory":
            DISK.mkdir(target)
        case _:
            DISK.symlink("nothing", target)
    before = DISK.stat(target)
    with pytest.raises(FileExistsError):
        DISK.rename_new(f"{base}/file", target)
    assert DISK.stat(target) == before
    assert content(f"{base}/file") == b"content"
    DISK.rename_new(f"{base}/file", f"{base}/free")
    assert sorted(DISK.names(base)) == ["free", "target"]
    assert content(f"{base}/free") == b"content"


def test_rename_new_of_nothing(base: str) -> None:
    """An error names both paths."""
    with pytest.raises(FileNotFoundError) as caught:
        DISK.rename_new(f"{base}/none", f"{base}/target")
    assert (caught.value.filename, caught.value.filename2) == (f"{base}/none", f"{base}/target")


def test_rename_replaces(base: str) -> None:
    """A rename takes the name from what had it."""
    DISK.write(f"{base}/other", b"other")
    DISK.rename(f"{base}/file", f"{base}/other")
    assert DISK.names(base) == ["other"]
    assert content(f"{base}/other") == b"content"


def test_rmdir(base: str) -> None:
    """A directory goes if it is empty; one that is gone is as good as removed."""
    DISK.mkdir(f"{base}/directory")
    DISK.write(f"{base}/directory/x", b"")
    assert not DISK.rmdir(f"{base}/directory")
    DISK.unlink(f"{base}/directory/x")
    assert DISK.rmdir(f"{base}/directory")
    assert DISK.rmdir(f"{base}/directory")
    with pytest.raises(NotADirectoryError):
        DISK.rmdir(f"{base}/file")


def test_link_follows_nothing(base: str) -> None:
    """A second name of a symbolic link is one of the link itself."""
    DISK.symlink("file", f"{base}/link")
    DISK.link(f"{base}/link", f"{base}/second")
    assert os.readlink(f"{base}/second") == "file"


def test_sync(base: str) -> None:
    """Files and directories can be synced, what is gone cannot."""
    DISK.sync(base)
    DISK.sync(f"{base}/file")
    with pytest.raises(FileNotFoundError):
        DISK.sync(f"{base}/none")


# -- copies


@pytest.mark.parametrize("mode", [0o755, 0o640, 0o4755])
def test_copy_keeps_mode_times_and_owner(base: str, mode: int) -> None:
    """A copy has content, mode, times and owner of its source, and is a file of its own."""
    source, target = f"{base}/file", f"{base}/copy"
    os.chmod(source, mode)
    os.utime(source, ns=(1_600_000_000_123_456_789, 1_500_000_000_987_654_321))
    before = os.lstat(source)
    DISK.copy(source, target)
    after = os.lstat(target)
    assert content(target) == b"content"
    assert (after.st_mode, after.st_uid, after.st_gid) == (
        before.st_mode,
        before.st_uid,
        before.st_gid,
    )
    assert after.st_mtime_ns == before.st_mtime_ns
    assert after.st_ino != before.st_ino


def test_copy_takes_the_place_of_half_a_copy(base: str) -> None:
    """What an interrupted copy left is replaced, not written into: it may be a link."""
    victim = f"{base}/victim"
    DISK.write(victim, b"untouched")
    DISK.symlink(victim, f"{base}/copy")
    DISK.copy(f"{base}/file", f"{base}/copy")
    assert content(victim) == b"untouched"
    assert modes.S_ISREG(os.lstat(f"{base}/copy").st_mode)
    assert content(f"{base}/copy") == b"content"


def test_copy_of_what_is_no_file(base: str) -> None:
    """A link is copied as a link, a FIFO as a FIFO, without being opened."""
    DISK.symlink("nowhere", f"{base}/link")
    os.mkfifo(f"{base}/fifo", 0o600)
    for name in ("link", "fifo"):
        DISK.copy(f"{base}/{name}", f"{base}/{name}.copy")
    assert os.readlink(f"{base}/link.copy") == "nowhere"
    assert os.lstat(f"{base}/fifo.copy").st_mode == modes.S_IFIFO | 0o600


def test_onlooker_holds_no_writer_up(tmp_path: Path) -> None:
    """Who only looks takes no lease, and so does not say whether anybody writes."""
    path = tmp_path / "job"
    path.write_bytes(b"#!/bin/sh\n")
    look = Onlooker().look(str(path))
    assert look is not None
    assert (look.busy, look.head) == (None, b"#!/bin/sh\n")
    with path.open("ab"):
        again = Onlooker().look(str(path))
        assert again is not None
        assert again.busy is None


def test_peek(tmp_path: Path) -> None:
    """The head of a file, or the info file of a directory, whether it is complete or not."""
    disk = Disk()
    (tmp_path / "file").write_bytes(b"#!/bin/sh\n")
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "job.toml").write_bytes(b"x")
    (tmp_path / "link").symlink_to("file")
    with (tmp_path / "file").open("ab"):
        file = disk.peek(str(tmp_path / "file"))
    assert file is not None
    assert (file.busy, file.head, file.info) == (None, b"#!/bin/sh\n", None)
    directory = disk.peek(str(tmp_path / "job"))
    assert directory is not None
    assert (directory.head, directory.info, directory.inside) == (None, ("job.toml", b"x"), None)
    assert disk.peek(str(tmp_path / "gone")) is None
    with pytest.raises(OSError, match="symbolic"):
        disk.peek(str(tmp_path / "link"))


@pytest.mark.parametrize(
    ("mode", "foreign", "grouped"),
    [(0o755, "", ""), (0o775, "", "deep/go"), (0o757, "deep/go", ""), (0o777, "deep/go", "")],
)
def test_look_tells_who_may_write_what_is_in_a_directory(
    base: str, mode: int, foreign: str, grouped: str
) -> None:
    """All may write one thing, or the directory's group: which, whatever the directory's mode."""
    DISK.mkdir(f"{base}/deep")
    DISK.write(f"{base}/deep/go", b"")
    os.chmod(f"{base}/deep/go", mode)
    assert (into(base).foreign, into(base).grouped) == (foreign, grouped)


def test_what_is_granted_is_for_one_user(tmp_path: Path) -> None:
    """Others have no rights, whether there are lists here or not."""
    path = tmp_path / "file"
    path.touch(0o644)
    DISK.grant(str(path), os.geteuid())
    assert path.stat().st_mode & 0o007 == 0


@pytest.mark.parametrize(
    ("kind", "alone", "mode"),
    [("file", True, 0o640), ("dir", True, 0o750), ("file", False, 0o600), ("dir", False, 0o701)],
)
def test_what_is_granted_where_there_are_no_lists(
    kind: str, *, alone: bool, mode: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A group that is the user's alone may read it; who has none is not let in."""

    def setxattr(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "no lists here")

    monkeypatch.setattr(os, "setxattr", setxattr)
    path = tmp_path / kind
    path.mkdir(0o755) if kind == "dir" else path.touch(0o644)
    group = os.getegid() if os.geteuid() else 54321
    asked: list[int] = []

    def group_of(uid: int) -> int | None:
        asked.append(uid)
        return group if alone else None

    DISK.grant(str(path), 1234, group_of)
    assert asked == [1234]
    assert path.stat().st_mode & 0o7777 == mode
    assert not alone or path.stat().st_gid == group
