"""Trees as jobs leave them are emptied and copied, whatever their depth and their modes.

Root may do everything, so the same tests run once more as nobody where root runs them.
"""

from __future__ import annotations

import errno
import os
import resource
import stat as modes
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import again_as_nobody
from pmjq import walk
from pmjq.disk import Disk

DISK = Disk()

DEPTHS = [pytest.param(1200, 1, id="many"), pytest.param(600, 200, id="long")]
"""Deeper than Python recurses; deeper than a path may be long."""


@pytest.fixture
def few_descriptors() -> Iterator[None]:
    """Leave room for some tens of open files only."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def nested(top: Path, depth: int, length: int) -> None:
    """Make directories inside each other, with a file in the innermost."""
    name = "d" * length
    top.mkdir()
    fd = os.open(top, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=fd)
        fd = _into(fd, name)
    os.close(os.open("file", os.O_CREAT, dir_fd=fd))
    os.close(fd)


def depth_of(top: Path) -> int:
    """Return how many directories are inside each other."""
    depth, fd = 0, os.open(top, os.O_RDONLY)
    while (names := os.listdir(fd)) != ["file"]:
        fd = _into(fd, names[0])
        depth += 1
    os.close(fd)
    return depth


def _into(fd: int, name: str) -> int:
    found = os.open(name, os.O_RDONLY, dir_fd=fd)
    os.close(fd)
    return found


def mode(path: Path) -> int:
    """Return the permissions of a path."""
    return modes.S_IMODE(path.lstat().st_mode)


def shut(top: Path) -> dict[str, int]:
    """Make a tree that its owner can hardly use; return the permissions in it."""
    deep = top / "a" / "b" / "c"
    deep.mkdir(parents=True)
    given = {"a/b/c/secret": 0, "a/b/c/executable": 0o111, "a/b/c": 0, "a/b": 0o555, "a": 0o600}
    for name in ("secret", "executable"):
        (deep / name).write_text(name)
    for path, permissions in given.items():
        (top / path).chmod(permissions)
    top.chmod(0o111)
    return given | {"": 0o111}


def permissions(top: Path, paths: dict[str, int]) -> dict[str, int]:
    """Return what the permissions in a tree are, and open it by that."""
    found = {}
    for path in reversed(paths):
        found[path] = mode(top / path)
        (top / path).chmod(0o700)
    return found


# -- removal


@pytest.mark.usefixtures("few_descriptors")
@pytest.mark.parametrize(("depth", "length"), DEPTHS)
def test_deep_tree_is_removed(tmp_path: Path, depth: int, length: int) -> None:
    """However deep it is, one directory is open at a time."""
    nested(tmp_path / "top", depth, length)
    DISK.remove_tree(f"{tmp_path}/top")
    assert os.listdir(tmp_path) == []


def test_shut_tree_is_removed(tmp_path: Path) -> None:
    """An own directory that may not be read, searched or written keeps nobody from removing it."""
    shut(tmp_path / "top")
    DISK.remove_tree(f"{tmp_path}/top")
    assert os.listdir(tmp_path) == []


def test_removal_follows_no_link(tmp_path: Path) -> None:
    """What links lead to stays as it is, its mode too, and of whatever kind the entries are."""
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").touch()
    kept.chmod(0o500)
    top = tmp_path / "top"
    (top / "directory").mkdir(parents=True)
    (top / "link").symlink_to(kept)
    (top / "directory" / "file").symlink_to(kept / "file")
    os.mkfifo(top / "fifo")
    DISK.remove_tree(f"{tmp_path}/top")
    (tmp_path / "link").symlink_to(kept)
    DISK.remove_tree(f"{tmp_path}/link")
    assert (os.listdir(tmp_path), os.listdir(kept), mode(kept)) == (["kept"], ["file"], 0o500)


def test_removal_of_what_is_no_directory(tmp_path: Path) -> None:
    """A file goes, and what is gone is as good as removed, below what is no directory too."""
    (tmp_path / "file").touch()
    for name in ("file/below", "file", "file", "none/below"):
        DISK.remove_tree(f"{tmp_path}/{name}")
    assert os.listdir(tmp_path) == []


def test_all_is_removed_that_can_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What refuses is told by its path and keeps nothing else."""
    for name in ("a/one", "b/stuck", "c/two"):
        (tmp_path / "top" / name).parent.mkdir(parents=True)
        (tmp_path / "top" / name).touch()
    unlink = os.unlink

    def refusing(path: str, *, dir_fd: int | None = None) -> None:
        if path == "stuck":
            raise OSError(errno.EPERM, "immutable", path)
        unlink(path, dir_fd=dir_fd)

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", refusing)
        with pytest.raises(PermissionError) as caught:
            DISK.remove_tree(f"{tmp_path}/top")
    assert caught.value.filename == f"{tmp_path}/top/b/stuck"
    found = [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")]
    assert sorted(found) == ["top", "top/b", "top/b/stuck"]
    DISK.remove_tree(f"{tmp_path}/top")


def test_path_of_a_deep_error_is_short(tmp_path: Path) -> None:
    """It begins where anybody would look."""
    nested(tmp_path / "top", 30, 1)
    with walk._Walk(f"{tmp_path}/top", 0) as deep:
        assert deep.where("x") == f"{tmp_path}/top/x"
        for _ in range(30):
            deep.down("d")
        assert deep.where("x") == f"{tmp_path}/top" + "/d" * walk.MOST_NAMED + "/.../x"


def test_walk_does_not_leave_the_tree(tmp_path: Path) -> None:
    """A directory that is moved away while somebody is in it leads nowhere else."""
    nested(tmp_path / "top", 2, 1)
    with walk._Walk(f"{tmp_path}/top", 0) as moved:
        moved.down("d")
        moved.down("d")
        (tmp_path / "top/d/d").rename(tmp_path / "away")
        with pytest.raises(OSError, match="was moved while") as caught:
            moved.up()
    assert caught.value.errno == errno.ESTALE


# -- copies


@pytest.mark.usefixtures("few_descriptors")
@pytest.mark.parametrize(("depth", "length"), DEPTHS)
def test_deep_tree_is_copied(tmp_path: Path, depth: int, length: int) -> None:
    """However deep it is, two directories are open at a time."""
    nested(tmp_path / "top", depth, length)
    DISK.copy_tree(f"{tmp_path}/top", f"{tmp_path}/copy")
    assert depth_of(tmp_path / "copy") == depth
    # pytest's own removal would recurse.
    for name in ("top", "copy"):
        DISK.remove_tree(f"{tmp_path}/{name}")


def test_shut_tree_is_copied_as_it_is(tmp_path: Path) -> None:
    """What its owner may not read or enter is copied, and source and copy have the same modes."""
    top, copy = tmp_path / "top", tmp_path / "copy"
    given = shut(top)
    DISK.copy_tree(str(top), str(copy))
    assert permissions(top, given) == given
    assert permissions(copy, given) == given
    for name in ("secret", "executable"):
        path = copy / "a/b/c" / name
        path.chmod(0o400)
        assert path.read_text() == name


def test_copy_that_fails_leaves_the_source_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also the modes of the directories on the way to where it failed; and it can be repeated."""
    top, copy = tmp_path / "top", tmp_path / "copy"
    given = shut(top)

    def full(source: int, target: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(walk, "_copy_data", full)
        with pytest.raises(OSError, match="No space") as caught:
            DISK.copy_tree(str(top), str(copy))
    assert caught.value.filename.startswith(f"{top}/a/b/c")
    DISK.copy_tree(str(top), str(copy))
    assert permissions(top, given) == given
    assert permissions(copy, given) == given


def test_times_and_attributes_are_copied(tmp_path: Path) -> None:
    """Of files and of directories."""
    top, copy = tmp_path / "top", tmp_path / "copy"
    (top / "inner").mkdir(parents=True)
    (top / "inner" / "file").touch()
    try:
        os.setxattr(top / "inner" / "file", "user.pmjq", b"1")
    except OSError:
        pytest.skip("no attributes on the file system of the tests")
    for name in ("inner/file", "inner", "."):
        os.utime(top / name, ns=(10**18, 10**18 + 7))
    DISK.copy_tree(str(top), str(copy))
    assert {(copy / name).stat().st_mtime_ns for name in ("inner/file", "inner", ".")} == {
        10**18 + 7
    }
    assert os.getxattr(copy / "inner" / "file", "user.pmjq") == b"1"


def test_what_vanishes_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that the job left may still remove its files."""
    top, copy = tmp_path / "top", tmp_path / "copy"
    for name in ("directory", "other"):
        (top / name).mkdir(parents=True)
    (top / "file").touch()
    enter = walk._Walk._enter

    def late(self: walk._Walk, name: str, above: int | None) -> int:
        fd = enter(self, name, above)
        if name == str(top):
            (top / "directory").rmdir()
            (top / "file").unlink()
        return fd

    monkeypatch.setattr(walk._Walk, "_enter", late)
    DISK.copy_tree(str(top), str(copy))
    assert os.listdir(copy) == ["other"]


HOLE = 8 << 20


@pytest.mark.parametrize("told", [True, False], ids=["", "untold"])
@pytest.mark.parametrize(
    "parts",
    [{}, {0: b"begin"}, {HOLE: b"middle"}, {2 * HOLE - 3: b"end"}, {0: b"a", HOLE: b"b"}],
    ids=str,
)
def test_holes_are_copied_as_holes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: dict[int, bytes], *, told: bool
) -> None:
    """A sparse file takes no more space than before, where the file system tells of holes."""
    source, copy = tmp_path / "sparse", tmp_path / "copy"
    fd = os.open(source, os.O_WRONLY | os.O_CREAT)
    os.truncate(fd, 2 * HOLE)
    for offset, part in parts.items():
        os.pwrite(fd, part, offset)
    os.close(fd)
    if source.stat().st_blocks * 512 > HOLE:
        pytest.skip("no holes on the file system of the tests")
    if not told:

        def untold(*_: object) -> int:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

        monkeypatch.setattr(os, "lseek", untold)
    DISK.copy(str(source), str(copy))
    assert copy.read_bytes() == source.read_bytes()
    if told:
        assert copy.stat().st_blocks <= source.stat().st_blocks


# -- without root's rights


def test_copy_is_of_what_was_read(tmp_path: Path) -> None:
    """Whatever was in its place before: the copy is the owner's, with the mode of what was read."""
    before, source, target = (tmp_path / name for name in ("before", "source", "target"))
    before.write_text("of somebody else")
    before.chmod(0o4755)
    source.write_text("read")
    source.chmod(0o600)
    walk.copy_entry(str(source), str(target), before.lstat())
    assert (target.read_text(), modes.S_IMODE(target.stat().st_mode)) == ("read", 0o600)


def test_copy_of_what_became_a_fifo(tmp_path: Path) -> None:
    """What is no file any more when it is opened is not copied, and keeps nobody waiting."""
    before, source = tmp_path / "before", tmp_path / "source"
    before.touch()
    os.mkfifo(source)
    with pytest.raises(OSError, match="was replaced"):
        walk.copy_entry(str(source), str(tmp_path / "target"), before.lstat())


def test_look_below_follows_no_link(tmp_path: Path) -> None:
    """What is below a directory is listed with its path in it; links are not followed."""
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    (inside / "deep").mkdir(parents=True)
    (inside / "deep/file").touch()
    outside.mkdir()
    (outside / "other").touch()
    (inside / "link").symlink_to(outside)
    found = {name for name, _ in walk.below(str(inside), 100)}
    assert found == {"deep", "deep/file", "link"}
    assert len(list(walk.below(str(inside), 1))) <= 2


def test_once_more_as_nobody() -> None:
    """All of this is true of a user who is not root."""
    again_as_nobody(__file__)
