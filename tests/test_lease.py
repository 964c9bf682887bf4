"""The rules of beats: how a life is heard, how it learns that it was buried, who is dead."""

from __future__ import annotations

import errno
import os
import threading
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from conftest import eventually
from pmjq.disk import Disk
from pmjq.lease import BEATS, CLAIMING, KEEPING, LEASE, WIDTH, Heart, Silence, clock
from pmjq.node import Life

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


def test_fenced_once(tmp_path: Path) -> None:
    """The thread tells once that the beat is gone, and ends."""
    path, told = tmp_path / "beat", []
    path.touch()
    one = Heart(Disk(), str(path), lambda: told.append(threading.current_thread().name), 0.04)
    one.start()
    eventually(lambda: one.count > 2)
    assert told == []
    path.unlink()
    eventually(lambda: told)
    one._thread.join(5)
    assert not one._thread.is_alive()
    assert told == ["heart"]


def test_stopped_heart_is_silent(tmp_path: Path) -> None:
    """After a stop nothing is written, and nobody is told anything."""
    path = tmp_path / "beat"
    path.touch()
    one = Heart(Disk(), str(path), nobody, 0.04)
    one.start()
    eventually(lambda: one.count > 1)
    one.stop()
    one._thread.join(5)
    assert not one._thread.is_alive()


def test_silent_since_the_last_beat_that_got_through() -> None:
    """The time is that before the write: others may have heard it then, and not later."""
    time = [100.0]
    disk = Slow(time)
    one = Heart(disk, "/beat", nobody, now=lambda: time[0])
    time[0] = 110.0
    assert one.silent() == 10.0
    assert one.beat()
    assert one.silent() == 3.0
    disk.fails = True
    time[0] = 200.0
    assert one.beat()
    assert one.silent() == 93.0


class Slow(Disk):
    """A disk whose writes take three seconds, or fail."""

    def __init__(self, time: list[float]) -> None:
        self.time = time
        self.fails = False

    def write_at(self, path: str, offset: int, data: bytes, *, create: bool = False) -> None:
        self.time[0] += 3.0
        if self.fails:
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)


def test_who_is_cut_off_stops_before_others_begin() -> None:
    """First no more claims, then no more running, both before the lease is over."""
    assert 0 < CLAIMING < KEEPING < 1


def test_suspended_time_counts() -> None:
    """A machine that was suspended must not take its old beat for a young one."""
    assert clock() >= time.monotonic() - 1


# --- the beats of others

BEAT = LEASE / BEATS


class Lives:
    """The lives of a spool, of which ``me`` is the observer's."""

    token = "me"

    def __init__(self, **beats: bytes | None) -> None:
        self.beats = dict(beats)
        self.leases: dict[str, float] = {}
        self.fails: set[str] = set()
        self.listings = 0

    def tokens(self) -> list[str]:
        self.listings += 1
        return [*self.beats, self.token]

    def life(self, token: str) -> Life | None:
        return life(token, self.leases[token]) if token in self.leases else None

    def beat(self, token: str) -> bytes | None:
        if token in self.fails:
            raise OSError(errno.EIO, os.strerror(errno.EIO), token)
        return self.beats[token]


def life(token: str, lease: float) -> Life:
    """Return what a life says of itself."""
    moment = datetime(2026, 1, 2, tzinfo=UTC)
    return Life(
        name=token,
        token=token,
        machine="m",
        boot="b",
        space="s",
        pid=1,
        start=1,
        version="1",
        began=moment,
        at=moment,
        lease=lease,
    )


def beats_until(silence: Silence, first: float, last: float, **how: float) -> dict[str, float]:
    """Look with every beat; return when each life was first found dead."""
    dead: dict[str, float] = {}
    count = 0
    while (now := first + count * BEAT) <= last:
        for token in silence.dead(now, **how):
            dead.setdefault(token, now)
        count += 1
    return dead


def test_silent_life_is_dead_after_the_lease() -> None:
    """A beat that stands still for the lease, from the first look on, and not before."""
    assert beats_until(Silence(Lives(a=b"7")), 1000.0, 5000.0) == {"a": 1000.0 + LEASE}


def test_dead_until_it_is_forgotten() -> None:
    """Burying may fail: it is told again with every look, until the life is gone or forgotten."""
    lives = Lives(a=b"7")
    silence = Silence(lives)
    assert beats_until(silence, 0.0, LEASE) == {"a": LEASE}
    assert silence.dead(LEASE + BEAT) == ["a"]
    silence.forget("a")
    assert silence.dead(LEASE + 2 * BEAT) == []
    assert beats_until(silence, LEASE + 3 * BEAT, 3 * LEASE) == {"a": 2 * LEASE + 2 * BEAT}
    del lives.beats["a"]
    assert silence.dead(9 * LEASE) == []


def test_life_that_beats_is_never_dead() -> None:
    """Any change of content is a sign of life, also a smaller number."""
    lives = Lives(a=b"50")
    silence = Silence(lives)
    for count in range(50):
        lives.beats["a"] = b"%d" % (50 - count)
        assert silence.dead(count * (LEASE - 1)) == []


def test_silence_begins_with_the_last_beat_heard() -> None:
    """A life that beat once more has the whole lease again."""
    lives = Lives(a=b"1")
    silence = Silence(lives)
    assert beats_until(silence, 0.0, LEASE - BEAT) == {}
    lives.beats["a"] = b"2"
    assert beats_until(silence, LEASE, 3 * LEASE) == {"a": 2 * LEASE}


def test_each_life_has_its_own_lease() -> None:
    """As it says itself; one that cannot be read has the usual one; none has less than a second."""
    lives = Lives(long=b"1", short=b"1", mute=b"1", mad=b"1")
    lives.leases = {"long": 2 * LEASE, "short": 2 * BEAT, "mad": -5.0}
    found = beats_until(Silence(lives), 0.0, 3 * LEASE)
    assert found == {"long": 2 * LEASE, "short": 2 * BEAT, "mute": LEASE, "mad": BEAT}


def test_first_look_is_no_silence() -> None:
    """What an observer has not seen itself does not count, however late it comes to look."""
    assert Silence(Lives(a=b"1")).dead(9e9) == []


def test_observer_that_did_not_look_judges_nobody() -> None:
    """After a pause of its own an observer has to look a few times more."""
    silence = Silence(Lives(a=b"1"))
    assert silence.dead(0.0) == []
    assert silence.dead(9 * LEASE) == []
    assert beats_until(silence, 9 * LEASE + BEAT, 20 * LEASE) == {"a": 10 * LEASE - 2 * BEAT}


def test_observer_that_is_cut_off_judges_nobody() -> None:
    """While its own beat does not get through, silence is its own."""
    silence = Silence(Lives(a=b"1"))
    assert beats_until(silence, 0.0, 5 * LEASE, own=2 * BEAT) == {}
    assert beats_until(silence, 5 * LEASE + BEAT, 9 * LEASE, own=BEAT) == {"a": 6 * LEASE}


@pytest.mark.parametrize(("before", "after"), [(None, None), (b"1", None)])
def test_life_without_a_beat_has_its_lease_too(before: bytes | None, after: bytes | None) -> None:
    """A beat that is missing, as one that was half buried, is judged like one that stands still."""
    lives = Lives(a=before)
    silence = Silence(lives)
    assert silence.dead(0.0) == []
    lives.beats["a"] = after
    assert list(beats_until(silence, BEAT, 3 * LEASE)) == ["a"]


def test_each_life_is_judged_alone() -> None:
    """One that beats saves no other, and one that cannot be read hides none."""
    lives = Lives(a=b"1", b=b"1", c=b"1")
    silence = Silence(lives)
    assert silence.dead(0.0) == []
    lives.fails = {"c"}
    dead: dict[str, int] = {}
    for count in range(1, 12):
        lives.beats["b"] = b"%d" % count
        for token in silence.dead(count * BEAT):
            dead.setdefault(token, count)
    assert dead == {"a": BEATS}
    assert silence.living() == ["b", "c"]


def test_living_are_those_that_have_not_been_silent_for_long() -> None:
    """A life that was only seen is taken to live; one that is still for half its lease is not."""
    lives = Lives(b=b"1", a=b"1")
    silence = Silence(lives)
    assert silence.living() == []
    assert silence.dead(0.0) == []
    assert silence.living() == ["a", "b"]
    for count in range(1, BEATS):
        lives.beats["b"] = b"%d" % count
        silence.dead(count * BEAT)
    assert silence.living() == ["b"]
    assert silence.lease("a") == LEASE
    assert silence.lease("unknown") == LEASE


def test_next_look() -> None:
    """Whoever sleeps between the looks knows until when; alone there is no hurry."""
    lives = Lives()
    silence = Silence(lives)
    silence.dead(1.0)
    assert silence.next() is None
    lives.beats["a"] = b"1"
    silence.dead(1.0 + BEAT)
    assert silence.next() == 1.0 + 2 * BEAT


def test_hurry() -> None:
    """After a lost claim the lives are looked at again, once a second at most."""
    lives = Lives(a=b"1")
    silence = Silence(lives)
    looks = 0
    for count in range(400):
        now = 100.0 + count / 100
        silence.hurry(now)
        before = lives.listings
        silence.dead(now)
        looks += lives.listings - before
    assert looks == 4


def test_beats_are_read_once_in_a_beat() -> None:
    """The daemon turns a thousand times a second; a share is asked only now and then."""
    lives = Lives(a=b"1")
    silence = Silence(lives)
    for count in range(1, int(BEAT * 100)):
        silence.dead(count / 100)
    assert lives.listings == 1


def test_lives_that_cannot_be_listed_are_an_error() -> None:
    """Whoever asks has to know."""

    class Broken(Lives):
        def tokens(self) -> list[str]:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    with pytest.raises(OSError, match=r"[Ss]tale"):
        Silence(Broken()).dead(1.0)


def test_lease_that_was_not_known_at_first_is_read_later() -> None:
    """A life that has not published itself yet has the usual lease until it does."""
    lives = Lives(one=b"1")
    silence = Silence(lives)
    silence.dead(0.0)
    lives.leases["one"] = 1000.0
    silence.dead(LEASE)
    assert silence.lease("one") == 1000.0


def test_observer_that_was_stopped_while_it_looked() -> None:
    """What passed between the beginning of a look and its end is not counted as silence."""
    lives = Lives(a=b"1")
    lives.leases["a"] = 10.0
    ends = iter([0.0, 100.0])
    silence = Silence(lives, 10.0, lambda: next(ends, 0.0))
    silence.dead(0.0)
    # It begins a look at 1.25 and is stopped until 100, when it reads a beat just written.
    lives.beats["a"] = b"2"
    silence.dead(1.25)
    looks = (100.0 + number * 1.25 for number in range(1, 100))
    assert next(now for now in looks if silence.dead(now)) == 110.0
