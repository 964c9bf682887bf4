"""The rules of beats: how a life is heard, how it learns that it was buried, who is dead."""

from __future__ import annotations

import errno
import os
import threading
from typing import TYPE_CHECKING

import pytest

from conftest import eventually
from pmjq import lease
from pmjq.disk import Disk
from pmjq.lease import BEAT, LEASE, WIDTH, Heart, Silence

if TYPE_CHECKING:
    from pathlib import Path


def nobody() -> None:
    """Fail: a life was told that it is buried."""
    pytest.fail("fenced")


def heart(path: Path) -> Heart:
    """Return the heart of a life whose beat is at ``path``."""
    return Heart(Disk(), str(path), nobody)


# --- the own beat


def test_beat_changes_in_place(tmp_path: Path) -> None:
    """Every beat differs from the last one, has its length, and is written into the same file."""
    path = tmp_path / "beat"
    path.write_bytes(b"0" * WIDTH + b"\n")
    one, inode, seen = heart(path), path.stat().st_ino, {path.read_bytes()}
    for _ in range(12):
        assert one.beat()
        seen.add(path.read_bytes())
    assert len(seen) == 13
    assert {len(each) for each in seen} == {WIDTH + 1}
    assert path.stat().st_ino == inode


def test_removed_beat_is_not_made_again(tmp_path: Path) -> None:
    """A life whose beat is gone was buried: it finds out, and does not look alive to anybody."""
    path = tmp_path / "beat"
    path.touch()
    one = heart(path)
    assert one.beat()
    path.unlink()
    assert not one.beat()
    assert not one.beat()
    assert not path.exists()


def test_removed_life_has_no_beat(tmp_path: Path) -> None:
    """The same where the whole directory of the life is gone."""
    path = tmp_path / "life" / "beat"
    path.parent.mkdir()
    path.touch()
    one = heart(path)
    path.unlink()
    path.parent.rmdir()
    assert not one.beat()


class Broken(Disk):
    """A disk on which nothing can be written."""

    def write_at(self, path: str, offset: int, data: bytes, *, create: bool = False) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO), path)


def test_beat_that_cannot_be_written_is_silence() -> None:
    """A disk that fails for a while buries nobody; the others count the silence."""
    assert Heart(Broken(), "/beat", nobody).beat()


def test_fenced_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread tells once that the beat is gone, and ends."""
    monkeypatch.setattr(lease, "BEAT", 0.005)
    path, told = tmp_path / "beat", []
    path.touch()
    one = Heart(Disk(), str(path), lambda: told.append(threading.current_thread().name))
    one.start()
    eventually(lambda: one.count > 2)
    assert told == []
    path.unlink()
    eventually(lambda: told)
    one._thread.join(5)
    assert not one._thread.is_alive()
    assert told == ["heart"]


def test_stopped_heart_is_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a stop nothing is written, and nobody is told anything."""
    monkeypatch.setattr(lease, "BEAT", 0.005)
    path = tmp_path / "beat"
    path.touch()
    one = heart(path)
    one.start()
    eventually(lambda: one.count > 1)
    one.stop()
    one._thread.join(5)
    assert not one._thread.is_alive()


def test_a_beat_may_be_missed() -> None:
    """The lease is several beats, so that a slow disk kills nobody."""
    assert LEASE >= 4 * BEAT


# --- the beats of others


class Beats(dict[str, bytes | None]):
    """The beats on disk, and how often one was read."""

    reads = 0

    def read(self, token: str) -> bytes | None:
        self.reads += 1
        if token not in self:
            raise OSError(errno.EIO, os.strerror(errno.EIO), token)
        return self[token]


def looks(silence: Silence, *times: float) -> list[list[str]]:
    """Return what each look says."""
    return [silence.dead(at) for at in times]


def test_silent_life_is_dead_after_the_lease() -> None:
    """A beat that stands still for the lease, from the first look on, is told of once."""
    silence = Silence(Beats(a=b"7").read, ["a"])
    start = 1000.0
    assert looks(silence, start, start + BEAT, start + LEASE - 0.1) == [[], [], []]
    assert looks(silence, start + LEASE + BEAT, start + 9 * LEASE) == [["a"], []]


def test_dead_at_the_end_of_the_lease() -> None:
    """Who looks with every beat knows at the end of the lease."""
    silence = Silence(Beats(a=b"7").read, ["a"])
    found = looks(silence, *(count * BEAT for count in range(9)))
    assert found == [[]] * 8 + [["a"]]


def test_life_that_beats_is_never_dead() -> None:
    """Any change of content is a sign of life, also a smaller number."""
    beats = Beats(a=b"50")
    silence = Silence(beats.read, ["a"])
    for count in range(50):
        beats["a"] = b"%d" % (50 - count)
        assert silence.dead(count * (LEASE - 1)) == []


def test_silence_begins_with_the_last_beat_heard() -> None:
    """A life that beat once more has the whole lease again."""
    beats = Beats(a=b"1")
    silence = Silence(beats.read, ["a"])
    assert looks(silence, 0.0, LEASE - BEAT) == [[], []]
    beats["a"] = b"2"
    assert looks(silence, LEASE, 2 * LEASE - BEAT) == [[], []]
    assert silence.dead(2 * LEASE) == ["a"]


def test_first_look_is_no_silence() -> None:
    """What an observer has not seen itself does not count, however late it comes to look."""
    assert Silence(Beats(a=b"1").read, ["a"]).dead(9e9) == []


@pytest.mark.parametrize(("before", "after"), [(None, None), (b"1", None)])
def test_life_without_a_beat_has_its_lease_too(before: bytes | None, after: bytes | None) -> None:
    """A beat that is missing, or cannot be read, is judged by time like one that stands still."""
    beats = Beats(a=before)
    silence = Silence(beats.read, ["a"])
    assert silence.dead(0.0) == []
    beats["a"] = after
    assert silence.dead(BEAT) == []
    assert silence.dead(LEASE + BEAT) == ["a"]


def test_each_life_is_judged_alone() -> None:
    """One that beats saves no other."""
    beats = Beats(a=b"1", b=b"1", c=b"1")
    silence = Silence(beats.read, ["a", "b", "c"])
    assert silence.dead(0.0) == []
    beats["b"] = b"2"
    assert looks(silence, BEAT, LEASE, LEASE + BEAT) == [[], ["a", "c"], ["b"]]


def test_beat_that_cannot_be_read_hides_no_other() -> None:
    """A failing read is no look: the other lives are judged, and the silence goes on."""
    beats = Beats(a=b"1", b=b"1", c=b"1")
    silence = Silence(beats.read, ["a", "b", "c"])
    assert silence.dead(0.0) == []
    del beats["b"]
    assert looks(silence, BEAT, LEASE) == [[], ["a", "c"]]
    assert looks(silence, 9 * LEASE) == [[]]
    beats["b"] = b"1"
    assert silence.dead(10 * LEASE) == ["b"]


def test_beats_are_read_once_in_a_beat() -> None:
    """The daemon turns a thousand times a second; a share is asked only now and then."""
    beats = Beats(a=b"1")
    silence = Silence(beats.read, ["a"])
    looks(silence, *(count / 100 for count in range(1, int(BEAT * 100))))
    assert beats.reads == 1


def test_nobody_to_judge() -> None:
    """Without lives to judge nothing is read; the caller's list stays as it is."""
    tokens = ["a"]
    silence = Silence(Beats(a=None).read, tokens)
    silence.dead(0.0)
    silence.dead(LEASE)
    assert (silence.tokens, tokens) == ([], ["a"])
    assert Silence(Beats().read, []).dead(0.0) == []
