"""The rules of what an entry of the spool is, and when it may be run."""

from __future__ import annotations

import stat as modes
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pmjq.ready import (
    AGAIN_BUSY,
    AGAIN_BUSY_MOST,
    PATIENCE_EMPTY,
    PATIENCE_LINKED,
    SETTLE_UNTOLD,
    Kind,
    Look,
    Print,
    Rules,
    Standing,
    bad,
    passed_over,
    print_of,
    settled,
    standing,
    unchanged,
)
from values import NAMES, FakeStat

MINE = Rules(uids=frozenset({1000}))
ANYBODY = Rules(uids=None)
QUEUED = Standing(Kind.QUEUED)


# --- names


@pytest.mark.parametrize(
    "name",
    [
        *(".hidden", ".", "..", ".nfs000012", ".fuse_hidden0001", ".a.swp", "~", "a~", "a.swp"),
        *("a.swo", "a.SWP", "a.swa", "a.tmp", "A.TMP", "a.temp", "a.part", "a.partial"),
        *("a.filepart", "a.crdownload", "#a#", "##", "Thumbs.db", "thumbs.db", "desktop.ini"),
        *("Desktop.ini", "__MACOSX", "lost+found", "a\nb~", "\udcff.part"),
    ],
)
def test_never_jobs(name: str) -> None:
    """Names that editors, file managers and copying programs use are passed over."""
    assert passed_over(name)
    told = standing(name, FakeStat(), MINE, 0.0)
    assert (told.kind, told.again) == (Kind.PASSED_OVER, None)
    assert "rename it" in told.reason


@pytest.mark.parametrize(
    "name",
    [
        *("a", "a.sh", "tmp", "part", "a.tmp.sh", "~a", "#a", "a#", "#", "a.swap", "a.sw", "core"),
        *("myThumbs.db", "desktop.ini.sh", "a~\n", "a.bak", "-rf", " ", "\n", "\udcff", "sub.PMJQ"),
    ],
)
def test_ordinary_names_are_jobs(name: str) -> None:
    """Whatever is not on the list is a job's name."""
    assert not passed_over(name)
    assert standing(name, FakeStat(), MINE, 0.0) == QUEUED


@given(NAMES)
def test_every_name_has_an_answer(name: str) -> None:
    """Whatever its bytes, a name is a job's or it is passed over."""
    kinds = {Kind.QUEUED, Kind.PASSED_OVER}
    assert standing(name, FakeStat(), MINE, 0.0).kind in kinds


def test_own_archive_is_passed_over() -> None:
    """The archive of this daemon may lie in the spool, whatever its name and its owner."""
    rules = replace(MINE, own=frozenset({"done"}))
    told = standing("done", FakeStat(st_mode=0o40755, st_uid=0), rules, 0.0)
    assert (told.kind, told.again) == (Kind.PASSED_OVER, None)
    assert "archive" in told.reason


# --- kinds


def told(stat: FakeStat, rules: Rules = MINE, age: float = 0.0) -> Standing:
    """Return what an ordinary name with this stat is."""
    return standing("job", stat, rules, age)


def test_somebody_elses_file_is_left() -> None:
    """Another owner's file is left alone with the reason that the rules give."""
    rules = replace(MINE, refusal="not ours")
    assert told(FakeStat(st_uid=1001), rules) == Standing(Kind.LEFT, "not ours")
    assert "--accept-owner" in told(FakeStat(st_uid=0)).reason


def test_accepted_owners() -> None:
    """A file is taken for its owner, for its group, or because anybody's is."""
    theirs = FakeStat(st_uid=1001, st_gid=50)
    assert told(theirs, Rules(uids=frozenset({1001}))) == QUEUED
    assert told(theirs, Rules(uids=frozenset({1000}), gids=frozenset({50}))) == QUEUED
    assert told(theirs, ANYBODY) == QUEUED
    assert told(theirs, Rules(uids=frozenset(), gids=frozenset())).kind is Kind.LEFT


def test_owner_comes_before_everything_but_the_name() -> None:
    """Nothing of another owner's is judged, let alone moved to the error directory."""
    for mode in (modes.S_IFLNK, modes.S_IFIFO, modes.S_IFREG | 0o4755, modes.S_IFREG):
        assert told(FakeStat(st_uid=1001, st_mode=mode, st_nlink=3)).kind is Kind.LEFT


def test_directory_is_left() -> None:
    """A directory without an info file may be on its way in, or be somebody's archive."""
    for mode in (0o40755, 0o42755, 0o41777):
        stat = FakeStat(st_mode=mode, st_nlink=5, st_size=0)
        assert told(stat).kind is Kind.QUEUED
        left = settled(Look(stat, None, None), MINE, 1000.0)
        assert (left.kind, left.again) == (Kind.LEFT, None)
        assert "directory without an info file" in left.reason


@pytest.mark.parametrize(
    ("form", "word"),
    [
        (modes.S_IFLNK, "symbolic link"),
        (modes.S_IFIFO, "FIFO"),
        (modes.S_IFSOCK, "socket"),
        (modes.S_IFCHR, "device"),
        (modes.S_IFBLK, "device"),
        (0, "not a file"),
    ],
)
def test_what_is_no_file_is_bad(form: int, word: str) -> None:
    """A thing that can never be run is bad at once, and its reason names it."""
    verdict = told(FakeStat(st_mode=form | 0o777))
    assert (verdict.kind, verdict.again) == (Kind.BAD, None)
    assert word in verdict.reason


def test_hard_links_have_a_moment() -> None:
    """Programs that write safely link a file and remove its first name; what stays is bad."""
    linked = FakeStat(st_nlink=3)
    early = told(linked, age=0.5)
    assert (early.kind, early.again) == (Kind.INCOMING, PATIENCE_LINKED - 0.5)
    late = told(linked, age=PATIENCE_LINKED)
    assert (late.kind, late.again) == (Kind.BAD, None)
    assert "3 hard links" in late.reason
    assert early.reason == late.reason


@pytest.mark.parametrize("mode", [0o104755, 0o102755, 0o106700, 0o104644])
def test_set_id_is_bad(mode: int) -> None:
    """A set-user-id or set-group-id file is refused before it is held or run."""
    verdict = told(FakeStat(st_mode=mode))
    assert verdict.kind is Kind.BAD
    assert "set-user-id" in verdict.reason
    assert "chmod ug-s" in verdict.reason


@pytest.mark.parametrize("mode", [0o100644, 0o100600, 0o100000, 0o100655])
def test_not_executable_is_held(mode: int) -> None:
    """Without the owner's execute permission a file is held until chmod releases it."""
    held = told(FakeStat(st_mode=mode, st_size=0))
    assert (held.kind, held.again) == (Kind.HELD, None)
    assert "chmod +x" in held.reason


@pytest.mark.parametrize("mode", [0o100700, 0o100744, 0o100755, 0o101755])
def test_executable_is_queued(mode: int) -> None:
    """The owner's execute permission is what counts."""
    assert told(FakeStat(st_mode=mode)) == QUEUED


def test_bad_has_its_reason() -> None:
    """What turns out on a closer look to be nothing that can run is bad like the rest."""
    assert bad("names no interpreter") == Standing(Kind.BAD, "names no interpreter")


def test_empty_file_is_incoming_then_bad() -> None:
    """An empty file is never run: first it may be filled, then there is nothing to run."""
    empty = FakeStat(st_size=0)
    assert told(empty, age=4.0).again == PATIENCE_EMPTY - 4.0
    assert told(empty, age=4.0).kind is Kind.INCOMING
    assert told(empty, age=PATIENCE_EMPTY).kind is Kind.BAD
    assert "empty" in told(empty, age=PATIENCE_EMPTY).reason


def test_empty_file_has_at_least_the_settle_time() -> None:
    """Over a network a file that is being written may look empty while it has to settle."""
    rules = replace(MINE, settle=35.0)
    assert told(FakeStat(st_size=0), rules, age=PATIENCE_EMPTY).kind is Kind.INCOMING
    assert told(FakeStat(st_size=0), rules, age=35.0).kind is Kind.BAD


# --- settling

LOCAL = Rules(uids=None)
NETWORK = Rules(uids=None, settle=35.0, settle_moved=3.0, kernel_tells=False)
WRITTEN = FakeStat(st_mtime_ns=50, st_ctime_ns=50)
MOVED = FakeStat(st_mtime_ns=50, st_ctime_ns=51)


@pytest.mark.parametrize("rules", [LOCAL, NETWORK])
@pytest.mark.parametrize(
    ("age", "again"), [(0.0, AGAIN_BUSY), (1.0, 0.25), (8.0, 2.0), (9e9, AGAIN_BUSY_MOST)]
)
def test_open_for_writing_is_incoming(rules: Rules, age: float, again: float) -> None:
    """What is still open is looked at again, less and less often: nothing tells of its close."""
    verdict = settled(Look(MOVED, busy=True, head=b""), rules, age)
    assert (verdict.kind, verdict.again) == (Kind.INCOMING, again)
    assert "open for writing" in verdict.reason


def test_local_file_that_nobody_writes_is_ready() -> None:
    """Where the kernel tells that no writer is left there is nothing to wait for."""
    assert settled(Look(WRITTEN, busy=False, head=b""), LOCAL, 0.0) == QUEUED


@pytest.mark.parametrize(
    ("stat", "busy", "rules", "need"),
    [
        (WRITTEN, False, replace(LOCAL, settle=9.0), 9.0),
        (WRITTEN, None, LOCAL, SETTLE_UNTOLD),
        (WRITTEN, None, replace(LOCAL, settle=9.0), 9.0),
        (WRITTEN, None, NETWORK, 35.0),
        (WRITTEN, False, NETWORK, 35.0),
        (MOVED, None, NETWORK, 3.0),
        (FakeStat(st_mtime_ns=51, st_ctime_ns=50), None, NETWORK, 35.0),
    ],
)
def test_must_stay_unchanged(
    stat: FakeStat, rules: Rules, need: float, *, busy: bool | None
) -> None:
    """Where nothing tells, an entry is ready once it has stayed the same for the settle time."""
    look = Look(stat, busy, b"")
    early = settled(look, rules, need - 0.5)
    assert (early.kind, early.again) == (Kind.INCOMING, 0.5)
    assert f"{need:g} s" in early.reason
    assert settled(look, rules, need) == QUEUED


@given(
    st.builds(
        FakeStat,
        st_mode=st.integers(0, 0o177777),
        st_uid=st.sampled_from([0, 1000]),
        st_nlink=st.integers(0, 3),
        st_size=st.integers(0, 2),
    ),
    st.floats(0, 100),
)
def test_whatever_is_not_run_has_a_reason(stat: FakeStat, age: float) -> None:
    """Only a queued entry has no reason, and only an incoming one is looked at again by itself."""
    verdict = told(stat, age=age)
    assert (verdict.kind is Kind.QUEUED) == (verdict.reason == "")
    assert (verdict.kind is Kind.INCOMING) == (verdict.again is not None)


# --- the same as before


def test_print_has_what_a_writer_changes() -> None:
    """Inode, size and both times must stay for an entry to count as settled."""
    stat = FakeStat(st_ino=1, st_size=2, st_mtime_ns=3, st_ctime_ns=4)
    assert print_of(stat) == Print(1, 2, 3, 4)


@pytest.mark.parametrize("field", [field.name for field in fields(FakeStat)])
def test_unchanged_by_a_claim(field: str) -> None:
    """A claim may change the ctime; anything else says that it is not what was looked at."""
    before = FakeStat()
    after = replace(before, **{field: getattr(before, field) + 1})
    assert unchanged(before, before)
    assert unchanged(before, after) == (field in {"st_ctime_ns", "st_dev", "st_gid"})
