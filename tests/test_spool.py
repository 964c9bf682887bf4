"""The rules of the spool's transitions, on the disk of the doubles and on a real one."""

from __future__ import annotations

import errno
import os
import stat as modes
import time
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import pytest

from doubles import UID, Clock, Faults, Faulty, How, MemDisk
from pmjq import job, naming
from pmjq.disk import Disk
from pmjq.errors import ConfigurationError, NotFoundError
from pmjq.job import Again, Attempt, Event, Record, Status, Try
from pmjq.spool import Spool
from pmjq.state import State
from values import FakeStat, attempt

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

UUID = "0b0e7d1e-0000-4000-8000-000000000000"
PROGRAM = b"#!/bin/sh\n:\n"
A, B = "a.boot0001.00000001", "b.boot0001.00000002"
ONE = attempt(id="1d", token=A)
TREE = {"tmp", "node", "job", "ended", "events", "done", "again", "tried", "signed", "spool.json"}

LONG = "\N{LATIN SMALL LETTER E WITH ACUTE}" * 127
"""254 bytes in 127 characters."""


class Ground(NamedTuple):
    """A disk with an empty directory for a spool."""

    disk: Disk
    root: str


@pytest.fixture(params=["memory", "real"])
def ground(request: pytest.FixtureRequest, tmp_path: Path) -> Ground:
    """Return a disk, a double and the real one in turn."""
    if request.param == "real":
        root = tmp_path / "spool"
        root.mkdir()
        return Ground(Disk(), str(root))
    disk = MemDisk(Clock())
    disk.tree("/srv/spool")
    return Ground(disk, "/srv/spool")


def life(ground: Ground, token: str = A) -> Spool:
    """Return the spool as a life sees it that has begun."""
    spool = Spool(ground.disk, ground.root, token)
    spool.prepare(UUID)
    spool.begin()
    return spool


def submit(ground: Ground, name: str = "job", content: bytes = PROGRAM) -> None:
    """Put a job into the spool."""
    ground.disk.write(f"{ground.root}/{name}", content)


def named(name: str) -> Attempt:
    """Return an attempt at a job of this name."""
    return attempt(id="1d", token=A, name=naming.shown(name), name_hex=naming.exact(name))


def claimed(ground: Ground, one: Attempt = ONE) -> Spool:
    """Return the spool of a life that has claimed a job."""
    spool = life(ground)
    submit(ground, naming.real_name(one.name, one.name_hex))
    spool.prepare_claim(one)
    assert spool.claim(one)
    return spool


def record(state: State = State.DONE, reason: str = "") -> Record:
    """Return the record of the attempt."""
    return job.record(ONE, Status(started=1.7e9, ended=1.7e9 + 1, code=0), state, 0.0, reason)


def inside(spool: Spool, name: str) -> list[str]:
    """Return what lies in a directory of the spool's own tree, sorted."""
    return sorted(spool.disk.names(f"{spool.own}/{name}"))


# -- the spool itself


def test_prepare_makes_the_tree_once(ground: Ground) -> None:
    """The tree is made once; whoever comes later gets the same identity."""
    first = Spool(ground.disk, ground.root).prepare(UUID)
    second = Spool(ground.disk, ground.root).prepare(UUID.replace("0b0e", "ffff"))
    assert (first.format, first.uuid) == (1, UUID)
    assert second == first
    assert set(ground.disk.names(f"{ground.root}/.pmjq")) == TREE
    assert ground.disk.names(ground.root) == [".pmjq"]


def test_prepare_clears_what_a_crash_left(ground: Ground) -> None:
    """A tree that was never finished is removed; entries that only look like it stay."""
    ground.disk.mkdir(f"{ground.root}/.pmjq.{UUID}")
    ground.disk.mkdir(f"{ground.root}/.pmjq.{UUID}/tmp")
    ground.disk.mkdir(f"{ground.root}/.pmjq.old")
    spool = Spool(ground.disk, ground.root)
    spool.prepare("1" + UUID[1:])
    assert sorted(ground.disk.names(ground.root)) == [".pmjq", ".pmjq.old"]
    assert spool.names() == [".pmjq.old"]


def test_prepare_makes_what_is_missing(ground: Ground) -> None:
    """A directory of the tree that somebody removed is made again."""
    spool = life(ground)
    spool.remove(f"{spool.own}/ended")
    Spool(ground.disk, ground.root).prepare(UUID)
    assert set(ground.disk.names(spool.own)) == TREE


def test_no_directory(ground: Ground) -> None:
    """A spool that is not there is not made."""
    with pytest.raises(NotFoundError):
        Spool(ground.disk, f"{ground.root}/none").prepare(UUID)
    assert ground.disk.names(ground.root) == []


@pytest.mark.parametrize(
    "text", [None, b"", b"{", b"[]", b'{"format": 1}', b'{"format": 2, "uuid": "x"}', b"\xff"]
)
def test_strange_identity(ground: Ground, text: bytes | None) -> None:
    """A spool.json that is missing, torn or of another format is refused."""
    spool = life(ground)
    path = f"{spool.own}/spool.json"
    ground.disk.unlink(path)
    if text is not None:
        ground.disk.write(path, text)
    with pytest.raises(ConfigurationError):
        spool.identify()


def test_present(ground: Ground) -> None:
    """A spool is the same as at the start if its identity is, to the byte."""
    spool = life(ground)
    path = f"{spool.own}/spool.json"
    text = ground.disk.read(path) or b""
    assert spool.present()
    ground.disk.write(path, text.replace(b"0b0e", b"ffff"))
    assert not spool.present()
    ground.disk.unlink(path)
    assert not spool.present()
    ground.disk.write(path, text)
    assert spool.present()


# -- whose tree it is

STRANGER, NOBODY = 4321, 65534
WITHIN = ["", "/tmp", "/node", "/job", "/ended", "/events", "/done", f"/node/{A}", f"/node/{A}/run"]
"""The directories of the tree, and those of a life."""


def memory() -> Ground:
    """Return the disk of the doubles with an empty directory for a spool."""
    disk = MemDisk(Clock())
    disk.tree("/srv/spool")
    return Ground(disk, "/srv/spool")


def refusal(ground: Ground) -> str:
    """Return why a spool is refused."""
    with pytest.raises(ConfigurationError) as refused:
        Spool(ground.disk, ground.root).prepare(UUID)
    return str(refused.value)


def given(ground: Ground, path: str, uid: int, mode: int = 0o755) -> None:
    """Give a directory to somebody."""
    assert isinstance(ground.disk, MemDisk)
    inode = ground.disk.inode(path)
    assert inode is not None
    inode.uid, inode.mode = uid, modes.S_IFDIR | mode


@pytest.mark.parametrize("within", WITHIN)
def test_tree_of_another_user(within: str) -> None:
    """Whoever owns a directory of the tree can put jobs there that run as this user."""
    ground = memory()
    path = f"{life(ground).own}{within}"
    given(ground, path, STRANGER)
    words = [path, f"user {STRANGER}", f"user {UID}", "remove"]
    assert [word for word in words if word not in refusal(ground)] == []


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o2775, 0o1777])
@pytest.mark.parametrize("within", WITHIN)
def test_tree_that_others_can_write(within: str, mode: int) -> None:
    """Whoever may write a directory of the tree can put jobs there, too."""
    ground = memory()
    path = f"{life(ground).own}{within}"
    given(ground, path, UID, mode)
    words = [path, "others", "chmod -R go-w"]
    assert [word for word in words if word not in refusal(ground)] == []


@pytest.mark.parametrize("within", WITHIN)
def test_tree_with_a_link(ground: Ground, within: str) -> None:
    """A link leads where somebody else may write, or will."""
    spool = life(ground)
    elsewhere = f"{ground.root}/elsewhere"
    ground.disk.rename(f"{spool.own}{within}", elsewhere)
    ground.disk.symlink(elsewhere, f"{spool.own}{within}")
    assert f"{spool.own}{within}: is not a directory" in refusal(ground)


def test_tree_that_is_a_file(ground: Ground) -> None:
    """A file in the place of the tree is said, and not opened."""
    ground.disk.write(f"{ground.root}/.pmjq", b"")
    assert "remove it" in refusal(ground)


def test_root_s_tree_is_no_danger() -> None:
    """Root can do as he likes anyway."""
    ground = memory()
    given(ground, life(ground).own, 0)
    assert Spool(ground.disk, ground.root).prepare(UUID).uuid == UUID


@pytest.mark.parametrize("uid", [NOBODY, 0])
def test_share_that_gives_all_files_to_one_user(uid: int) -> None:
    """Where what is made here is another's, a tree of that user may be ours."""
    ground = memory()
    assert isinstance(ground.disk, MemDisk)
    ground.disk.uid = uid
    spool = life(ground)
    assert Spool(ground.disk, ground.root).prepare(UUID).uuid == UUID
    assert spool.present()


def test_stranger_s_tree_on_a_share_that_maps_users() -> None:
    """Where what is made here is another's, a third one's tree is still a stranger's."""
    ground = memory()
    assert isinstance(ground.disk, MemDisk)
    ground.disk.uid = NOBODY
    given(ground, life(ground).own, STRANGER)
    assert f"user {STRANGER}" in refusal(ground)


def test_root_that_is_mapped_to_somebody() -> None:
    """Whoever root is mapped to by a share is somebody that root does not trust."""
    ground = memory()
    assert isinstance(ground.disk, MemDisk)
    ground.disk.me, ground.disk.uid = 0, NOBODY
    assert f"user {NOBODY}" in refusal(ground)


def test_share_without_modes() -> None:
    """Where all that is made can be written by all, a mode tells nothing."""
    ground = memory()
    assert isinstance(ground.disk, MemDisk)
    ground.disk.widened = 0o777
    spool = life(ground)
    assert Spool(ground.disk, ground.root).prepare(UUID).uuid == UUID
    given(ground, spool.own, STRANGER, 0o777)
    assert f"user {STRANGER}" in refusal(ground)


def test_share_that_widens_for_the_group() -> None:
    """Only those bits tell nothing that what is made here has as well."""
    ground = memory()
    assert isinstance(ground.disk, MemDisk)
    ground.disk.widened = 0o020
    spool = life(ground)
    assert Spool(ground.disk, ground.root).prepare(UUID).uuid == UUID
    given(ground, spool.own, UID, 0o777)
    assert "chmod -R go-w" in refusal(ground)


def test_tree_that_comes_into_the_place_of_ours() -> None:
    """In a directory without sticky bit others may put a tree there at any time, all the same."""
    ground = memory()
    spool = life(ground)
    assert isinstance(ground.disk, MemDisk)
    text = ground.disk.read(f"{spool.own}/spool.json")
    assert text is not None
    ground.disk.rename(spool.own, f"{ground.root}/away")
    ground.disk.uid = STRANGER
    ground.disk.mkdir(spool.own)
    ground.disk.write(f"{spool.own}/spool.json", text)
    ground.disk.uid = UID
    assert not spool.present()
    with pytest.raises(ConfigurationError):
        spool.identify()
    given(ground, spool.own, UID)
    assert spool.present()


def test_unfinished_tree_of_another_user_stays() -> None:
    """Somebody else's is not removed: he can have a link in its place while that goes on."""
    ground = memory()
    assert isinstance(ground.disk, MemDisk)
    ground.disk.uid = STRANGER
    ground.disk.mkdir(f"{ground.root}/.pmjq.{UUID}")
    ground.disk.uid = UID
    Spool(ground.disk, ground.root).prepare("1" + UUID[1:])
    assert sorted(ground.disk.names(ground.root)) == [".pmjq", f".pmjq.{UUID}"]


# -- claim and return


def test_claim_moves_the_file_itself(ground: Ground) -> None:
    """A claim moves the very file out of the queue, into this life's run/."""
    spool = claimed(ground)
    look = spool.claimed(ONE)
    assert look is not None
    assert look.head == PROGRAM
    assert spool.names() == []
    assert spool.running() == ["1d"]
    assert spool.batons() == {"1d"}


def test_claim_of_nothing(ground: Ground) -> None:
    """A claim of what is not there any more is lost, and is no error."""
    spool = life(ground)
    assert not spool.claim(ONE)
    assert spool.running() == []
    assert spool.claimed(ONE) is None
    assert spool.claimed_stat(ONE) is None


def test_two_claims(ground: Ground) -> None:
    """Of two nodes that claim one job, one has it."""
    one, other = life(ground), life(ground, B)
    submit(ground)
    assert [other.claim(ONE), one.claim(ONE)] == [True, False]
    assert (one.running(), other.running()) == ([], ["1d"])


def test_give_back(ground: Ground) -> None:
    """A returned job has its name, and only that, and no paperwork."""
    spool = claimed(ground)
    spool.places(ONE)
    assert spool.give_back(ONE) == "job"
    stat = spool.stat("job")
    assert stat is not None
    assert stat.st_nlink == 1
    assert (spool.running(), spool.paperwork(), inside(spool, "tmp")) == ([], [], [])


@pytest.mark.parametrize(
    "name", ["job", "x" * 255, "\udcff" * 255, LONG], ids=["", "ascii", "bytes", "utf-8"]
)
@pytest.mark.parametrize("taken", [1, 2, 12])
def test_name_is_taken(ground: Ground, name: str, taken: int) -> None:
    """A job whose name is taken gets a number that fits, and nothing is overwritten."""
    spool = claimed(ground, named(name))
    there: list[str] = []
    for number in range(taken):
        free = name if not number else _numbered(name, number + 1)
        submit(ground, free, b"there")
        there.append(free)
    expected = _numbered(name, taken + 1)
    assert spool.give_back(named(name)) == expected
    assert sorted(spool.names()) == sorted([*there, expected])
    assert ground.disk.read(f"{ground.root}/{expected}") == PROGRAM
    assert {ground.disk.read(f"{ground.root}/{each}") for each in there} == {b"there"}


def test_what_is_remembered_of_the_one_that_has_the_name_stays(ground: Ground) -> None:
    """A job that comes back to a taken name leaves the other its attempts, and keeps its own."""
    spool = claimed(ground)
    submit(ground, "job", b"there")
    there = spool.stat("job")
    assert there is not None
    spool.remember("job", there, Again(5))
    assert spool.give_back(ONE, Again(2)) == "job.2"
    assert spool.again_names() == ["job", "job.2"]
    assert sorted(again.attempt for again in spool.agains()) == [2, 5]
    again = spool.again("job", there)
    assert again is not None
    assert again.attempt == 5


def _numbered(name: str, number: int) -> str:
    suffix = f".{number}".encode()
    whole = "surrogateescape" if naming.exact(name) else "ignore"
    return (os.fsencode(name)[: 255 - len(suffix)].decode("utf-8", whole)) + suffix.decode()


FILE, DIRECTORY = FakeStat(), FakeStat(st_mode=0o040755)


@pytest.mark.parametrize(
    ("before", "after", "known"),
    [
        (FILE, FILE, True),
        (FILE, replace(FILE, st_ino=8, st_ctime_ns=2_000_000_000), True),
        (FILE, replace(FILE, st_size=11), False),
        (FILE, replace(FILE, st_mtime_ns=2_000_000_000), False),
        (DIRECTORY, DIRECTORY, True),
        (DIRECTORY, replace(DIRECTORY, st_size=11, st_mtime_ns=2_000_000_000), True),
        (FILE, DIRECTORY, False),
        (DIRECTORY, FILE, False),
    ],
)
def test_what_is_remembered_is_of_one_job(
    ground: Ground, before: FakeStat, after: FakeStat, *, known: bool
) -> None:
    """Another file of the name is another job; a directory changes while its job waits."""
    spool = life(ground)
    tried = Try(id="1d", attempt=1, node="a", state="failed")
    spool.remember("job", before, Again(2, tries=1, earlier=(tried,)))
    found = spool.again("job", after)
    if known:
        assert found is not None
        assert (found.attempt, found.tries, found.earlier) == (2, 1, (tried,))
    else:
        assert found is None


def test_give_back_of_what_another_has(ground: Ground) -> None:
    """A life that was fenced gives nothing back, and its paperwork is the other's."""
    spool, other = claimed(ground), life(ground, B)
    assert other.take_over(A, "1d")
    assert spool.give_back(ONE) is None
    assert spool.names() == []
    assert other.running() == ["1d"]
    assert other.attempt("1d") == ONE


# -- void against start


def test_void_keeps_from_starting(ground: Ground) -> None:
    """Where an attempt is void its status cannot be made, and being void can be repeated."""
    spool = claimed(ground)
    path = spool.places(ONE).status
    assert spool.status(ONE) is None
    assert [spool.void(ONE), spool.void(ONE)] == [True, True]
    assert spool.status(ONE) == Status(void=True)
    with pytest.raises(FileExistsError):
        ground.disk.symlink("x", path)


def test_void_of_a_job_of_that_name(ground: Ground) -> None:
    """What a void attempt leads to is not there, whatever the job is called."""
    spool = claimed(ground, named("void"))
    spool.places(named("void"))
    assert spool.void(named("void"))
    assert spool.status(named("void")) == Status(void=True)


@pytest.mark.parametrize(
    "text", [b"", b"started 7 8 1700000000.0 9 10\n", b"noexec 8 1700000000.0\n"]
)
def test_void_comes_too_late(ground: Ground, text: bytes) -> None:
    """What has been tried to start, however far that got, cannot be void."""
    spool = claimed(ground)
    ground.disk.write(spool.places(ONE).status, text)
    assert not spool.void(ONE)
    assert spool.status(ONE) == job.status(text)


def test_void_without_paperwork(ground: Ground) -> None:
    """Where the paperwork is gone nobody can say that an attempt is void."""
    spool = claimed(ground)
    spool.clear("1d", 1, "job")
    with pytest.raises(FileNotFoundError):
        spool.void(ONE)


# -- the end


def test_end(ground: Ground) -> None:
    """An ended job is in ended/ with its record, and in nobody's hands."""
    spool = claimed(ground)
    assert spool.end(record())
    assert spool.ended() == [("1d", 1)]
    assert spool.record("1d", 1) == record()
    assert spool.running() == []
    assert ground.disk.read(spool.ended_path(record())) == PROGRAM
    assert inside(spool, "job/1d") == ["record.1.json", "work"]


def test_end_of_a_rejected_job(ground: Ground) -> None:
    """The output of a job that was never run says why."""
    spool = claimed(ground)
    assert spool.end(record(State.REJECTED, "it is empty"))
    assert ground.disk.read(f"{spool.own}/job/1d/out.1") == b"pmjq: job: it is empty\n"


def test_end_of_what_another_has(ground: Ground) -> None:
    """A life that was fenced publishes nothing."""
    spool, other = claimed(ground), life(ground, B)
    assert other.take_over(A, "1d")
    assert not spool.end(record())
    assert spool.ended() == []
    assert other.running() == ["1d"]


@pytest.mark.parametrize("operation", ["rename", "rename_new"])
def test_reply_is_lost(operation: str) -> None:
    """A rename that was carried out and reported as failed counts as carried out."""
    disk = MemDisk(Clock())
    disk.tree("/srv/spool")
    faults = Faults()
    ground = Ground(Faulty(disk, faults), "/srv/spool")
    spool = claimed(ground)
    faults.matching = lambda name, paths: name == operation and "/run/" in paths[0]
    faults.at, faults.how, faults.count = 1, How.LOSE, 0
    if operation == "rename":
        assert spool.end(record())
        assert spool.ended() == [("1d", 1)]
    else:
        assert spool.give_back(ONE) == "job"
        assert spool.names() == ["job"]
    assert faults.hit


# -- lives


def test_take_over(ground: Ground) -> None:
    """Of two lives that take over one job, one has it."""
    claimed(ground)
    other, third = life(ground, B), life(ground, "c.boot0001.00000003")
    assert [other.take_over(A, "1d"), third.take_over(A, "1d")] == [True, False]
    assert (other.running(), third.running()) == (["1d"], [])


def test_bury(ground: Ground) -> None:
    """A buried life has no jobs, no beat and no run/ any more, and what it was making is gone."""
    spool, other = claimed(ground), life(ground, B)
    ground.disk.mkdir(f"{spool.own}/tmp/{A}.9")
    ground.disk.mkdir(f"{spool.own}/tmp/{B}.9")
    assert other.bury(A) == ["1d"]
    assert other.running() == ["1d"]
    assert inside(other, "node") == [B]
    assert inside(other, "tmp") == [f"{B}.9"]
    assert spool.beat(A) is None
    assert other.bury(A) == []
    submit(ground, "next")
    with pytest.raises(OSError, match="No such file"):
        spool.claim(attempt(id="2d", name="next"))
    assert other.names() == ["next"]


def test_burial_removes_no_job(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    """Should jobs be overlooked, because the spool was away for a moment, they stay."""
    claimed(ground)
    other = life(ground, B)
    run, rmdir = f"{other.own}/node/{A}/run", ground.disk.rmdir
    with monkeypatch.context() as patch:
        patch.setattr(other, "_list", lambda path: [] if path == run else ground.disk.names(path))
        patch.setattr(ground.disk, "rmdir", lambda path: path == run or rmdir(path))
        with pytest.raises(OSError, match="jobs are still in it"):
            other.bury(A)
    assert other.bury(A) == ["1d"]
    assert (other.tokens(), other.running()) == ([B], ["1d"])


def test_what_is_not_found_in_a_spool_that_is_away_is_not_gone(ground: Ground) -> None:
    """A share may be unmounted between two looks: nobody has taken its jobs over."""
    spool = claimed(ground)
    life(ground, B)
    calls: list[Callable[[], object]] = [
        lambda: spool.claim(named("next")),
        lambda: spool.end(record()),
        lambda: spool.give_back(ONE),
        lambda: spool.take_over(B, "2d"),
    ]
    for local in (True, False):
        spool.local = local
        ground.disk.rename(spool.root, f"{spool.root}.away")
        for call in calls:
            with pytest.raises(FileNotFoundError):
                call()
        ground.disk.rename(f"{spool.root}.away", spool.root)
    assert spool.running() == ["1d"]
    assert spool.end(record())


def test_lives(ground: Ground) -> None:
    """A life whose record is missing or torn is there, and nobody knows of what."""
    spool = life(ground)
    life(ground, B)
    ground.disk.write(f"{spool.own}/node/{B}/node.json", b'{"format": 1, "na')
    assert spool.lives() == {A: None, B: None}
    assert spool.beat(A) == b"0".zfill(20) + b"\n"


# -- paperwork


def test_latest_attempt_that_can_be_read(ground: Ground) -> None:
    """Of several attempts the latest counts, a torn one does not."""
    spool = claimed(ground)
    second = attempt(id="1d", token=A, attempt=2)
    base = f"{spool.own}/job/1d"
    ground.disk.write(f"{base}/claim.2.json", msgspec.json.encode(second))
    ground.disk.write(f"{base}/claim.10.json", msgspec.json.encode(second)[:-9])
    ground.disk.write(f"{base}/claim.x.json", b"{}")
    assert spool.attempt("1d") == second
    assert spool.attempt("none") is None


def test_places_stay_when_the_job_moves(ground: Ground) -> None:
    """The path that is executed is good after a take-over."""
    spool, other = claimed(ground), life(ground, B)
    places = spool.places(ONE)
    assert other.take_over(A, "1d")
    assert ground.disk.read(places.executable) == PROGRAM
    assert places.executable.endswith("/job/1d/job")


@pytest.mark.parametrize(
    "name", ["claim.1.json", "out.1", "status.1", "record.2.json", "work", "executable", "void"]
)
def test_job_named_like_paperwork(ground: Ground, name: str) -> None:
    """A job whose name is one of the paperwork's does no harm to it."""
    spool = claimed(ground, named(name))
    places = spool.places(named(name))
    assert ground.disk.read(places.executable) == PROGRAM
    assert len(set(places)) == 4
    assert spool.status(named(name)) is None
    assert spool.attempt("1d") == named(name)
    assert spool.give_back(named(name)) == name
    assert spool.paperwork() == []


def test_events(ground: Ground) -> None:
    """The latest of a life's events tell, whatever is torn between them."""
    spool = life(ground)
    first, second = record(), record(State.FAILED)
    spool.append([Event("claim.prepared", ONE.claimed, attempt=ONE)])
    spool.append([Event("job.ended", ONE.claimed, record=first)])
    path = f"{spool.own}/events/{A}.jsonl"
    whole = ground.disk.read(path) or b""
    ground.disk.write(path, whole + b'{"event": "1d\n')
    spool._written = len(whole) + 14
    spool.append([Event("job.ended", ONE.claimed, record=second)])
    told = spool.told({"1d", "2d"})
    assert (told.attempts, told.records) == ({"1d": ONE}, {"1d": second})
    assert spool.told({"2d"}) == ({}, {})
    assert spool.told({"1d"}, {B}) == ({}, {})
    assert spool.last_records(A) == [first, second]


def test_events_of_thousands_of_jobs_are_read_in_no_time(ground: Ground) -> None:
    """What a line costs does not depend on how many jobs are looked for."""
    spool = life(ground)
    line = Event("claim.prepared", ONE.claimed, attempt=ONE)
    spool.append([line] * 2000)
    began = time.process_time()
    assert spool.told({f"other{number}" for number in range(2000)}) == ({}, {})
    assert time.process_time() - began < 1


def test_job_is_known_by_its_id_and_not_by_what_it_says(ground: Ground) -> None:
    """Whatever name a job has, its events are its own."""
    spool = life(ground)
    odd = named('","id":"2d"')
    spool.append([Event("claim.prepared", odd.claimed, attempt=odd)])
    assert spool.told({"2d"}) == ({}, {})
    assert spool.told({"1d"}).attempts == {"1d": odd}


def test_event_that_failed_is_written_again_in_its_place() -> None:
    """Half an event that a full disk left is written over."""
    disk = MemDisk(Clock())
    disk.tree("/srv/spool")
    faults = Faults(matching=lambda name, _: name == "write_at")
    spool = life(Ground(Faulty(disk, faults), "/srv/spool"))
    faults.at, faults.how, faults.error, faults.count = 1, How.FAIL, 28, 0
    event = Event("job.ended", ONE.claimed, record=record())
    with pytest.raises(OSError, match="No space"):
        spool.append([event])
    spool.append([event])
    assert disk.read(f"{spool.own}/events/{A}.jsonl") == msgspec.json.encode(event) + b"\n"


def test_spares(ground: Ground) -> None:
    """A directory as it was made serves the next job; one with anything in it is removed."""
    spool = claimed(ground)
    ground.disk.unlink(f"{spool.own}/job/1d/claim.1.json")
    spool.clear("1d", 1, "job", alone=True)
    spare = inside(spool, "tmp")
    assert spool.paperwork() == []
    spool.clear_tmp()
    assert inside(spool, "tmp") == spare
    for path in spare:
        assert inside(spool, f"tmp/{path}") == ["work"]
    before = len(spare)
    spool.prepare_claim(attempt(id="2d"))
    assert len(inside(spool, "tmp")) == before - 1
    ground.disk.write(f"{spool.own}/job/2d/work/left", b"")
    spool.clear("2d", 1, "job", alone=True)
    assert len(inside(spool, "tmp")) == before - 1


def test_remove_follows_no_link(ground: Ground) -> None:
    """What a job links to is not removed with it."""
    spool = claimed(ground)
    work = f"{spool.own}/job/1d/work"
    submit(ground, "keep")
    ground.disk.mkdir(f"{work}/deep")
    ground.disk.symlink(ground.root, f"{work}/deep/link")
    spool.clear("1d", 1, "job")
    assert spool.names() == ["keep"]
    assert (spool.paperwork(), inside(spool, "tmp")) == ([], [])


# -- what cannot be removed


class Clinging(NamedTuple):
    """A spool on a disk that lets a job's papers be moved away or emptied, or not."""

    ground: Ground
    faults: Faults

    def refuse(self, operation: str, below: str) -> None:
        """Have an operation fail from now on below one of the spool's own directories."""
        self.faults.matching = lambda name, paths: name == operation and below in paths[0]


@pytest.fixture
def clinging() -> Clinging:
    """Return such a disk, on which all goes well yet."""
    disk = MemDisk(Clock())
    disk.tree("/srv/spool")
    faults = Faults(1, How.FAIL, 13, lasting=True, matching=lambda *_: False)
    return Clinging(Ground(Faulty(disk, faults), "/srv/spool"), faults)


@pytest.mark.parametrize(
    ("operation", "below"),
    [("rename", "/job/"), ("unlink", "/tmp/"), ("rmdir", "/tmp/"), ("names", "/tmp/")],
)
def test_return_does_not_depend_on_the_removal(
    clinging: Clinging, operation: str, below: str
) -> None:
    """The job is in the queue under its name; what stays of its papers is told, once."""
    spool = claimed(clinging.ground)
    spool.disk.write(f"{spool.own}/job/1d/work/left", b"")
    clinging.refuse(operation, below)
    assert spool.give_back(ONE) == "job"
    assert (spool.names(), spool.running()) == (["job"], [])
    (left,) = spool.left_behind()
    assert (left.id, left.reason) == ("1d", "Permission denied")
    assert left.path.startswith(f"{spool.own}{below}")
    assert list(spool.left_behind()) == []
    spool.clear_tmp()


def test_burial_does_not_depend_on_the_removal(clinging: Clinging) -> None:
    """What a dead life had is taken over, whatever it left that cannot be removed."""
    spool = claimed(clinging.ground)
    spool.clear("2d", 1, "none")
    spool.disk.mkdir(f"{spool.own}/tmp/{A}.7")
    spool.disk.write(f"{spool.own}/tmp/{A}.7/left", b"")
    other = life(clinging.ground, B)
    clinging.refuse("unlink", "/tmp/")
    assert other.bury(A) == ["1d"]
    assert (other.tokens(), other.running()) == ([B], ["1d"])
    assert [left.path for left in other.left_behind()] == [f"{spool.own}/tmp/{A}.7/left"]


def test_start_does_not_depend_on_the_removal(clinging: Clinging) -> None:
    """What another start left half made beside the tree stays if it must."""
    life(clinging.ground)
    clinging.ground.disk.mkdir(f"{clinging.ground.root}/.pmjq.{UUID}")
    clinging.refuse("rmdir", ".pmjq.")
    assert Spool(clinging.ground.disk, clinging.ground.root).prepare(UUID).uuid == UUID


def test_names_that_are_no_text_are_told(clinging: Clinging) -> None:
    """A path of odd bytes is one that a log can carry."""
    spool = claimed(clinging.ground)
    spool.disk.write(f"{spool.own}/job/1d/work/\udcff", b"")
    clinging.refuse("unlink", "\udcff")
    spool.clear("1d", 1, "job")
    (left,) = spool.left_behind()
    assert left.path.endswith("/work/\\xff")


def test_replace(ground: Ground) -> None:
    """A file is written over whole, and nothing else is there in the end."""
    spool = life(ground)
    for text in (b"first", b"2"):
        spool.replace(f"{spool.own}/done/x", text, 0)
        assert ground.disk.read(f"{spool.own}/done/x") == text
    assert inside(spool, "done") == ["x"]


@pytest.mark.parametrize("operation", ["write", "sync", "rename"])
def test_replacement_that_fails_is_removed(clinging: Clinging, operation: str) -> None:
    """What was there is there still, and half of the other is not."""
    spool = life(clinging.ground)
    spool.replace(f"{spool.own}/done/x", b"first", 0)
    clinging.refuse(operation, "/done/")
    with pytest.raises(PermissionError):
        spool.replace(f"{spool.own}/done/x", b"second", 0)
    assert spool.disk.read(f"{spool.own}/done/x") == b"first"
    assert inside(spool, "done") == ["x"]


class Shut(Disk):
    """A disk on which somebody has mounted what only he may look at."""

    def stat(self, path: str) -> os.stat_result | None:
        """Fail as lstat(2) does for such a mount, and only for it."""
        if path.endswith("/mounted"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return super().stat(path)


def test_mount_of_somebody(tmp_path: Path) -> None:
    """It is no entry, but its name is taken; of a whole spool that is shut that is an error."""
    spool = Spool(Shut(), str(tmp_path))
    assert (spool.stat("mounted"), spool.stat("free")) == (None, None)
    assert (spool._is_taken("mounted"), spool._is_taken("free")) == (True, False)
    spool = Spool(Shut(), str(tmp_path / "nowhere"))
    for call in (spool.stat, spool._is_taken):
        with pytest.raises(PermissionError):
            call("mounted")
