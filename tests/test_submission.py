"""The rules of the way into the spool: whole or not at all, durable, under a name nobody has."""

from __future__ import annotations

import errno
import os
import string
import threading
from pathlib import Path

import pytest

from doubles import FAR, Clock, Crash, Faults, Faulty, How, MemDisk, Unsynced
from pmjq import ready, submission
from pmjq.disk import Disk
from pmjq.errors import CannotCreateError, NotFoundError, NotPermittedError, UnreachableError
from pmjq.ready import Kind, Rules
from pmjq.submission import (
    MARK_LENGTH,
    MOST_OF_ARRAY,
    TOGETHER,
    Draft,
    Submission,
    lines,
    numbers,
    unique,
)

ROOT = "/srv/spool"
TMP = f"{ROOT}/.pmjq/tmp"
TEXT = b"#!/bin/sh\n" + b"echo line\n" * 100

EVERYBODY = Rules(uids=None)


def spool(*, tree: bool = True) -> MemDisk:
    """Return a disk with a spool; ``tree``: a daemon has served it."""
    disk = MemDisk(Clock())
    disk.tree(TMP if tree else ROOT)
    disk.settle()
    return disk


def drafts(count: int, *, held: bool = False) -> list[Draft]:
    """Return some jobs."""
    return [Draft(f"job{number}", TEXT + b"%d\n" % number, held) for number in range(count)]


def runnable(disk: MemDisk) -> dict[str, bytes]:
    """Return the entries that a daemon would run, with what they hold."""
    found = {}
    for name in disk.names(ROOT):
        stat = disk.stat(f"{ROOT}/{name}")
        if stat is not None and name != ".pmjq":
            standing = ready.standing(name, stat, EVERYBODY, 1e9)
            assert standing.kind is not Kind.BAD, (name, standing)
            if standing.kind is Kind.QUEUED:
                found[name] = disk.read(f"{ROOT}/{name}") or b""
    return found


# --- put


@pytest.mark.parametrize("count", [0, 1, 2, TOGETHER, TOGETHER + 1, 3 * TOGETHER])
def test_all_are_there_and_told_of_in_order(count: int) -> None:
    """However many there are, each is in the spool when its name is told."""
    disk, told = spool(), list[str]()

    def put(name: str) -> None:
        assert disk.read(f"{ROOT}/{name}") is not None
        told.append(name)

    Submission(disk, ROOT).put(iter(drafts(count)), put)
    assert told == [draft.name for draft in drafts(count)]
    assert runnable(disk) == {draft.name: draft.text for draft in drafts(count)}
    assert disk.names(TMP) == []


@pytest.mark.parametrize(
    ("umask", "held", "mode"),
    [
        (0o022, False, 0o755),
        (0o022, True, 0o644),
        (0o077, False, 0o700),
        (0o077, True, 0o600),
        (0o002, False, 0o755),
        (0o000, False, 0o755),
        (0o777, False, 0o500),
        (0o777, True, 0o400),
    ],
)
def test_mode(umask: int, held: bool, mode: int) -> None:  # noqa: FBT001  # as parametrised
    """As the umask has it, but nobody else may write it, and its owner may run it unless held."""
    disk = spool()
    Submission(disk, ROOT, umask).put(drafts(1, held=held), lambda _: None)
    stat = disk.stat(f"{ROOT}/job0")
    assert stat is not None
    assert stat.st_mode & 0o7777 == mode
    standing = ready.standing("job0", stat, EVERYBODY, 0)
    assert standing.kind is (Kind.HELD if held else Kind.QUEUED)


def test_no_spool() -> None:
    """A spool is never made: it could be a share that is not mounted."""
    disk = MemDisk(Clock())
    disk.tree("/srv")
    with pytest.raises(NotFoundError, match="no such directory"):
        Submission(disk, ROOT).put(drafts(1), lambda _: pytest.fail("told"))
    assert disk.names("/srv") == []


@pytest.mark.parametrize("case", ["no tree", "another's tree", "tree without tmp"])
def test_tree_that_cannot_be_used(case: str) -> None:
    """Without a daemon's tree, or in another user's, a job comes in under a hidden name."""
    disk = spool(tree=case != "no tree")
    if case == "another's tree":
        disk.denied.add(TMP)
    elif case == "tree without tmp":
        disk.rmdir(TMP)
    renamed: list[str] = []

    def seen(_: str, paths: tuple[str, ...]) -> bool:
        renamed.extend(paths)
        return False

    faults = Faults(matching=seen)
    Submission(Faulty(disk, faults), ROOT).put(drafts(2), lambda _: None)
    hidden = [path for path in renamed if path.startswith(f"{ROOT}/.pmjq-submit.")]
    assert hidden
    assert all(ready.passed_over(os.path.basename(path)) for path in hidden)
    assert sorted(runnable(disk)) == ["job0", "job1"]
    assert [name for name in disk.names(ROOT) if name.startswith(".pmjq-")] == []


def test_hidden_names_in_the_tree_are_the_submissions() -> None:
    """Where the tree is one's own, nothing half-written is seen in the spool."""
    disk = spool()
    Submission(Faulty(disk, Faults(2, How.CRASH_AFTER)), ROOT)
    faults = Faults(1, How.CRASH_AFTER, matching=lambda operation, _: operation == "create")
    with pytest.raises(Crash):
        Submission(Faulty(disk, faults), ROOT).put(drafts(1), lambda _: None)
    assert disk.names(ROOT) == [".pmjq"]
    assert [name.startswith("submit.") for name in disk.names(TMP)] == [True]


# --- what refuses


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.EACCES, NotPermittedError),
        (errno.EPERM, NotPermittedError),
        (errno.EROFS, CannotCreateError),
        (errno.ENOSPC, CannotCreateError),
        (errno.EDQUOT, CannotCreateError),
        (errno.EIO, CannotCreateError),
        (errno.ENAMETOOLONG, CannotCreateError),
        (errno.EMFILE, CannotCreateError),
        (errno.ESTALE, UnreachableError),
    ],
)
@pytest.mark.parametrize("operation", ["create", "rename_new", "sync"])
def test_refusal_of_the_file_system(number: int, kind: type[Exception], operation: str) -> None:
    """It ends with the code of its kind, and nothing is there that nobody heard of."""
    disk, told = spool(), list[str]()
    faults = Faults(2, How.FAIL, number, lasting=True, matching=lambda name, _: name == operation)
    faults.at = 1 if operation != "rename_new" else 2
    with pytest.raises(kind) as caught:
        Submission(Faulty(disk, faults), ROOT).put(drafts(3), told.append)
    assert str(caught.value).startswith(f"{ROOT}: ")
    assert os.strerror(number) in str(caught.value)
    assert sorted(runnable(disk)) == told
    assert disk.names(TMP) == []


def test_full_disk() -> None:
    """Half a job takes no space of a disk that has none."""
    disk = spool()
    disk.full.add(disk.stat(ROOT).st_dev)  # type: ignore[union-attr]  # it is there
    with pytest.raises(CannotCreateError, match=os.strerror(errno.ENOSPC)):
        Submission(disk, ROOT).put(drafts(1), lambda _: pytest.fail("told"))
    assert (disk.names(TMP), runnable(disk)) == ([], {})
    assert FAR not in disk.full


def test_spool_that_may_not_be_written() -> None:
    """A person is told whom to ask."""
    disk = spool()
    disk.denied |= {ROOT, TMP}
    with pytest.raises(NotPermittedError, match="ask its owner"):
        Submission(disk, ROOT).put(drafts(1), lambda _: pytest.fail("told"))


def test_name_that_somebody_has() -> None:
    """Nobody's job is replaced: that is an error, and the other's stays as it is."""
    disk = spool()
    disk.put(f"{ROOT}/job0", b"other")
    with pytest.raises(CannotCreateError):
        Submission(disk, ROOT).put(drafts(1), lambda _: pytest.fail("told"))
    assert runnable(disk) == {"job0": b"other"}
    assert disk.names(TMP) == []


def test_submission_that_is_interrupted_from_the_keyboard() -> None:
    """Control-C leaves nothing behind that nobody removes."""
    disk = spool(tree=False)

    class Interrupted(Faulty):
        def rename_new(self, source: str, target: str) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Submission(Interrupted(disk, Faults()), ROOT).put(drafts(3), lambda _: None)
    assert disk.names(ROOT) == []


# --- death in the middle


@pytest.mark.parametrize("tree", [True, False])
@pytest.mark.parametrize("how", [How.CRASH_BEFORE, How.CRASH_WITHIN, How.CRASH_AFTER])
def test_death_at_any_operation(tree: bool, how: How) -> None:  # noqa: FBT001  # as parametrised
    """Wherever a submission dies, a daemon runs whole jobs or none, and all that were told of."""
    counted = Faults()
    Submission(Faulty(spool(tree=tree), counted), ROOT).put(drafts(3), lambda _: None)
    assert counted.count > 5
    for at in range(1, counted.count + 1):
        disk, told = spool(tree=tree), list[str]()
        faults = Faults(at, how)
        with pytest.raises(Crash):
            Submission(Faulty(disk, faults), ROOT).put(drafts(3), told.append)
        whole = {draft.name: draft.text for draft in drafts(3)}
        assert runnable(disk).items() <= whole.items(), faults
        assert set(told) <= set(runnable(disk)), faults


@pytest.mark.parametrize("tree", [True, False])
@pytest.mark.parametrize("data", list(Unsynced))
def test_power_cut_at_any_operation(tree: bool, data: Unsynced) -> None:  # noqa: FBT001  # likewise
    """After a power cut too; and what was told of is there, since it was synced before."""
    counted = Faults()
    Submission(Faulty(spool(tree=tree), counted), ROOT).put(drafts(3), lambda _: None)
    whole = {draft.name: draft.text for draft in drafts(3)}
    for at in range(1, counted.count + 1):
        disk = spool(tree=tree)
        with pytest.raises(Crash):
            Submission(Faulty(disk, Faults(at, How.CRASH_AFTER)), ROOT).put(
                drafts(3), lambda _: None
            )
        for prefix in range(1 + sum(disk.unsynced().values())):
            after = disk.power_cut(prefix, data)
            assert runnable(after).items() <= whole.items(), (at, prefix)
    disk = spool(tree=tree)
    told: list[str] = []
    Submission(disk, ROOT).put(drafts(3), told.append)
    assert runnable(disk.power_cut(0, data)) == {name: whole[name] for name in told} == whole


# --- the real disk


def test_real_disk(tmp_path: Path) -> None:
    """It works on a real file system, with and without a tree."""
    for tree in (False, True):
        root = tmp_path / str(tree)
        (root / ".pmjq" / "tmp" if tree else root).mkdir(parents=True)
        told: list[str] = []
        Submission(Disk(), str(root)).put(drafts(TOGETHER + 5), told.append)
        assert len(told) == TOGETHER + 5
        assert (root / "job7").read_bytes() == drafts(8)[7].text
        assert (root / "job7").stat().st_mode & 0o777 == 0o755
        assert sorted(os.listdir(root)) == sorted([*told, *([".pmjq"] if tree else [])])
        assert not tree or os.listdir(root / ".pmjq" / "tmp") == []


def test_many_at_once(tmp_path: Path) -> None:
    """Several who submit the same at the same time do not meet."""
    names: list[str] = []

    def submit() -> None:
        made = [Draft(unique("job"), TEXT) for _ in range(50)]
        Submission(Disk(), str(tmp_path)).put(made, names.append)

    threads = [threading.Thread(target=submit) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(names)) == 200
    assert sorted(os.listdir(tmp_path)) == sorted(names)


# --- names


@pytest.mark.parametrize(
    ("base", "begins"),
    [
        ("train.sh", "train.sh."),
        ("a b\nc", "a b\nc."),
        ("größe", "größe."),
        ("\udcff", "\udcff."),
        ("-rf", "-rf."),
        (".hidden", "hidden."),
        ("...x", "x."),
        ("..", "job."),
        ("", "job."),
        ("a~", "a~."),
        ("#a#", "#a#."),
        ("x.tmp", "x.tmp."),
        ("Thumbs.db", "Thumbs.db."),
    ],
)
def test_unique(base: str, begins: str) -> None:
    """A name is what the job is called, a dot and eight letters and digits; never passed over."""
    name = unique(base)
    assert name.startswith(begins)
    rest = name.removeprefix(begins)
    assert len(rest) == MARK_LENGTH == 8
    assert set(rest) <= {*string.ascii_lowercase, *string.digits}
    assert not ready.passed_over(name)


@pytest.mark.parametrize("base", ["n" * 255, "n" * 5000, "\u4e2d" * 255, "\udcff" * 300, "é" * 123])
def test_long_name_is_shortened(base: str) -> None:
    """It has room for its mark, and no half letter."""
    name = os.fsencode(unique(base))
    assert len(name) <= 255
    assert len(name) > 240
    if "\udcff" not in base:
        assert name.decode()


def test_names_do_not_collide() -> None:
    """A mark is chosen from 36 ** 8."""
    assert len({unique("x") for _ in range(20_000)}) == 20_000


# --- arrays and batches


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", ([0], None)),
        ("0-3", ([0, 1, 2, 3], None)),
        ("5-5", ([5], None)),
        ("1,3,7-9", ([1, 3, 7, 8, 9], None)),
        ("0-20:5", ([0, 5, 10, 15, 20], None)),
        ("0-9:4,1", ([0, 4, 8, 1], None)),
        ("3,1,3,1-3", ([3, 1, 2], None)),
        ("007", ([7], None)),
        ("0-3%2", ([0, 1, 2, 3], 2)),
        ("1%99", ([1], 99)),
        ("99999999", ([99_999_999], None)),
    ],
)
def test_numbers(text: str, expected: tuple[list[int], int | None]) -> None:
    """Numbers, ranges and steps, each index once, and how many at once."""
    assert numbers(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("", "-", "a", "1-", "-1", "1,", ",1", "1,,2", "3-1", "0-9:0", "0-9:", "0-9:-1", "1-2-3"),
        *("1:2:3", "0-3%", "0-3%0", "0-3%-1", "0-3%x", "%2", "0-3%2%3", "1.5", " 1", "1 - 3"),
        *("1e3", "0x10", "999999999", "0-999999999", "+1", "²"),
    ],
)
def test_wrong_numbers(text: str) -> None:
    """Anything else is refused with an example of each."""
    with pytest.raises(ValueError, match="must be numbers and ranges, for instance 0-99"):
        numbers(text)


@pytest.mark.parametrize("text", ["0-99999", "1-100000%8", "0-99999999:1000", "0-99999,7,5-9"])
def test_as_many_numbers_as_may_be(text: str) -> None:
    """An array of so many jobs is one; what is named twice counts once."""
    assert len(numbers(text)[0]) == MOST_OF_ARRAY


@pytest.mark.parametrize("text", ["0-100000", "0-99999999", "0-99999,100000", "1-99999,0-1,100000"])
def test_too_many_numbers(text: str) -> None:
    """More are refused, before they take the memory, and it is said how many may be."""
    with pytest.raises(ValueError, match="more than 100000 jobs"):
        numbers(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"", []),
        (b"\n\n  \n# a\n  # b\n", []),
        (b"a", [b"a"]),
        (b"a\nb\n", [b"a", b"b"]),
        (b" a  b \n\tc\r\n", [b"a  b", b"c"]),
        (b"echo a # b\n", [b"echo a # b"]),
        (b"#!/bin/sh\na\n", [b"a"]),
        (b"\xff\nb\0c\n", [b"\xff", b"b\0c"]),
    ],
)
def test_lines(text: bytes, expected: list[bytes]) -> None:
    """A batch is its lines but for empty ones and comments."""
    assert list(lines(text)) == expected


def test_mark() -> None:
    """A mark is letters and digits alone, so that it can stand in any directive."""
    assert submission.mark().isalnum()
