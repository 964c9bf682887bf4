"""The rules of what a keeper writes and of the mark of jobs; what it does is in test_process."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from pmjq import becoming, keeper
from pmjq.keeper import RLIMIT_LOCKS, append, limit_locks, mark, missing
from values import ID

LINE = b"exit 0 1700000001.0 0.5 0.25 4096\n"
FIRST = b"started 77 7700 1700000000.0 78 7800\n"


def test_mark_is_a_jobs_own() -> None:
    """Two ids have two marks, and none is a limit that anybody sets."""
    assert mark(ID) == mark(ID)
    assert mark(ID) != mark(ID.replace("0b5f", "0b50"))
    assert 1 << 61 <= mark(ID) < 1 << 62


@pytest.mark.parametrize("job_id", ["", "-", "job", "\udcff"])
def test_what_is_no_id_has_no_mark(job_id: str) -> None:
    """Nothing but an id is a number."""
    assert mark(job_id) == 0


def test_limit_that_may_not_be_set_is_left() -> None:
    """Where the limit is lower already, jobs do without a mark."""
    before = resource.getrlimit(RLIMIT_LOCKS)
    limit_locks(2, 1)
    assert resource.getrlimit(RLIMIT_LOCKS) == before


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        (b"", LINE),
        (FIRST, LINE),
        (FIRST + LINE[:9], LINE[9:]),
        (LINE[:-1], b"\n"),
        (FIRST + LINE, b""),
        (LINE, b""),
        (FIRST + b"ex\0\0", b"\n" + LINE),
        (b"x" + LINE, LINE),
    ],
)
def test_line_is_there_once_and_whole(text: bytes, rest: bytes) -> None:
    """Of a line that was torn the rest is written; what is nobody's line ends before ours."""
    assert missing(text, LINE) == rest


@pytest.mark.parametrize("again", [False, True])
def test_append(tmp_path: Path, *, again: bool) -> None:
    """A line goes behind what is there; a file that is gone is not made again."""
    path = tmp_path / "status.1"
    with pytest.raises(FileNotFoundError):
        append(str(path), LINE, again=again)
    path.write_bytes(FIRST)
    append(str(path), LINE, again=again)
    assert path.read_bytes() == FIRST + LINE


def test_short_write_is_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that takes a line in pieces gets all of it."""
    path = tmp_path / "status.1"
    path.touch()
    monkeypatch.setattr(keeper, "os", _Slow())
    append(str(path), LINE, again=False)
    assert path.read_bytes() == LINE


class _Slow:
    """The module ``os``, whose writes take five bytes at most."""

    def __getattr__(self, name: str) -> object:
        return getattr(os, name)

    def write(self, fd: int, data: bytes) -> int:
        return os.write(fd, data[:5])


def test_child_that_has_not_told_yet() -> None:
    """Nobody waits for what a child tells: a descriptor may have the number of one that did."""
    told, tell = os.pipe()
    os.set_blocking(told, False)
    assert becoming.reason(told) is None
    os.close(tell)
    assert becoming.reason(told) == 0
