"""The rules of taking up what earlier lives left, and of what is left alone."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec
import pytest

from doubles import UID, Clock, Daemon, MemDisk, Place, Script, World, life_of
from pmjq import job, recovery
from pmjq.archive import Archive
from pmjq.desk import Desk
from pmjq.errors import TryLaterError
from pmjq.job import Attempt, Event, Record, Spec, Status
from pmjq.node import Life, Machine
from pmjq.ready import Rules
from pmjq.recovery import Former
from pmjq.spool import Spool
from pmjq.state import State
from values import attempt

ROOT = "/srv/spool"
OWN = f"{ROOT}/.pmjq"
ARCHIVE = "/srv/archive"
PROGRAM = b"#!/bin/sh\n:\n"
ME = Machine("machine", "boot0001-0000", "space", 7, 700)
MINE, DEAD = "a.boot0001.00000011", "a.boot0001.00000012"
OTHERS = "b.boot0001.00000013"
NOW = 50.0
STARTED = b"started 77 7700 1700000000.0 78 7800\n"
ENDED = STARTED + b"exit 3 1700000001.0 0.5 0.25 4096\n"


class Ground(NamedTuple):
    """A spool with a life of ours that has begun, and its desk."""

    disk: MemDisk
    spool: Spool
    desk: Desk

    def life(self, token: str) -> Spool:
        """Return the spool as another life sees it that has begun."""
        spool = Spool(self.disk, ROOT, token)
        spool.begin()
        return spool

    def take_up(self, *former: Former) -> None:
        """Take up what lives left."""
        recovery.take_up(self.spool, self.desk, list(former), NOW)


@pytest.fixture
def ground() -> Ground:
    """Return a spool with one life of ours."""
    disk = MemDisk(Clock())
    disk.tree(ROOT)
    spool = Spool(disk, ROOT, MINE)
    spool.prepare("0b0e7d1e-0000-4000-8000-000000000000")
    spool.begin()
    return Ground(disk, spool, Desk(Rules(frozenset({UID}))))


def one(job_id: str = "1d", token: str = DEAD, **changes: object) -> Attempt:
    """Return an attempt of a life of this node."""
    name = f"job-{job_id}"
    return attempt(**{"id": job_id, "name": name, "token": token, "node": token[0]} | changes)


def claimed(ground: Ground, spool: Spool, made: Attempt, status: bytes | None = None) -> None:
    """Have a life claim a job that got as far as a status says."""
    ground.disk.put(f"{ROOT}/{made.name}", PROGRAM)
    spool.append([Event("claim.prepared", made.claimed, attempt=made)])
    spool.prepare_claim(made)
    assert spool.claim(made)
    if status is not None:
        ground.disk.write(f"{OWN}/job/{made.id}/status.{made.attempt}", status)


def recorded(made: Attempt, state: State = State.DONE) -> Record:
    """Return the record of an attempt."""
    return job.record(made, Status(started=1.7e9, ended=1.7e9 + 1, code=0), state, 0.0)


def ended(ground: Ground, spool: Spool, made: Attempt) -> Record:
    """Have a job of a life end; return its record."""
    claimed(ground, spool, made, ENDED)
    record = recorded(made)
    spool.append([Event("job.ended", record.ended, record=record)])
    assert spool.end(record)
    return record


def submitted(*names: str, seconds: float = 1.0) -> World:
    """Return a machine with jobs and no daemon yet."""
    disk = MemDisk(Clock())
    disk.tree(ROOT)
    world = World(disk)
    for name in names:
        world.scripts[name] = Script(seconds)
        disk.put(f"{ROOT}/{name}", PROGRAM)
    disk.clock.advance(60)
    return world


# -- which lives are dead


def life(token: str = DEAD, *, name: str = "a", pid: int = 8, **changes: Any) -> Life:  # noqa: ANN401  # fields
    """Return what a life published of itself."""
    found = life_of(token, Machine("machine", ME.boot, "space", pid, 800), 1.7e9)
    return msgspec.structs.replace(found, name=name, **changes)


def dead(*, alive: bool = False, **lives: Life | None) -> list[Former]:
    """Return which of some lives, by the chance in their tokens, count as dead."""
    tokens = {f"a.boot0001.{chance}": one for chance, one in lives.items()}
    return recovery.former_lives(
        tokens, "a", ME, lambda pid, start: alive and (pid, start) == (8, 800)
    )


def test_life_whose_process_is_gone() -> None:
    """A life of this boot whose process is gone is dead."""
    assert dead(x=life()) == [Former("a.boot0001.x", rebooted=False)]


def test_life_of_an_earlier_boot() -> None:
    """A life from before the last boot is dead, whatever its pid is now."""
    assert dead(alive=True, x=life(boot="boot0000-0000")) == [Former("a.boot0001.x", rebooted=True)]


def test_life_that_never_published_itself() -> None:
    """A life without a record is dead; its token tells of which boot it was."""
    tokens: dict[str, Life | None] = {"a.boot0001.x": None, "a.boot0000.y": None}
    assert recovery.former_lives(tokens, "a", ME, lambda *_: True) == [
        Former("a.boot0000.y", rebooted=True),
        Former("a.boot0001.x", rebooted=False),
    ]


@pytest.mark.parametrize("changes", [{"machine": "elsewhere"}, {"space": "container"}], ids=str)
def test_life_that_is_not_ours_to_judge(changes: dict[str, Any]) -> None:
    """A life on another machine or in another pid namespace is not dead for want of its pid."""
    assert dead(x=life(**changes)) == []


@pytest.mark.parametrize(
    "token", ["b.boot0001.x", "a.b.boot0001.x", "aa.boot0001.x", "boot0001.x", "x"]
)
def test_life_of_another_name(token: str) -> None:
    """A life of another name is never dead, nor one whose name only begins or ends like ours."""
    assert recovery.former_lives({token: None}, "a", ME, lambda *_: False) == []


def test_name_with_dots() -> None:
    """A node's name may hold dots."""
    lives: dict[str, Life | None] = {"a.b.boot0001.x": None, "b.boot0001.x": None}
    assert recovery.former_lives(lives, "a.b", ME, lambda *_: False) == [
        Former("a.b.boot0001.x", rebooted=False)
    ]


def test_node_runs_already() -> None:
    """A node whose process lives refuses a second one, and says which process it is."""
    with pytest.raises(TryLaterError, match="node a is running here already as process 8"):
        dead(alive=True, x=life())


def test_own_pid_of_an_earlier_life() -> None:
    """A life that had our very pid, as in a container each has, is dead."""
    lives: dict[str, Life | None] = {DEAD: life(pid=ME.pid)}
    assert recovery.former_lives(lives, "a", ME, lambda *_: True) == [Former(DEAD, rebooted=False)]


def test_second_daemon_of_one_node() -> None:
    """A second daemon of one node refuses, and takes nothing from the first."""
    world = submitted("job", seconds=5.0)
    first = Daemon(world, Place())
    assert first.run(lambda: bool(first.turn.desk.running), within=10.0)
    with pytest.raises(TryLaterError):
        Daemon(world, Place())
    assert world.disk.names(f"{OWN}/node") == [first.turn.spool.token]
    assert len(first.turn.spool.running()) == 1
    assert first.run(first.turn.idle, within=60.0)
    assert world.executions == {"job": 1}


@pytest.mark.parametrize("local", [True, False])
def test_lives_that_may_live_unseen(local: bool) -> None:  # noqa: FBT001  # a case
    """Other machines and pid namespaces; on a shared spool clones that wrote since this boot."""
    me = msgspec.structs.replace(ME, booted=1000.0)
    lives = {
        "a.boot0001.00000001": life(),
        "a.boot0009.00000002": life(machine="elsewhere"),
        "a.boot0001.00000003": None,
        "a.boot0001.00000004": life(space="container"),
        "a.boot0009.00000005": life(boot="boot0009", at=job.moment(1001.0)),
        "a.boot0009.00000006": life(boot="boot0009", at=job.moment(900.0)),
        "a.boot0009.00000007": None,
        "b.boot0009.00000008": life(name="b", machine="elsewhere"),
    }
    shared = [] if local else ["a.boot0009.00000005", "a.boot0009.00000007"]
    expected = ["a.boot0009.00000002", "a.boot0001.00000004", *shared]
    assert list(recovery.unseen(lives, "a", me, local=local)) == expected


# -- taking up


@pytest.mark.parametrize("rebooted", [False, True])
@pytest.mark.parametrize("status", [None, b"", STARTED, ENDED])
def test_claimed_job_is_in_doubt(ground: Ground, status: bytes | None, *, rebooted: bool) -> None:
    """What a dead life had is ours and in doubt, until its status has been read."""
    claimed(ground, ground.life(DEAD), one(), status)
    ground.take_up(Former(DEAD, rebooted=rebooted))
    (doubt,) = ground.desk.doubts.values()
    assert (doubt.attempt, doubt.since, doubt.again, doubt.rebooted) == (one(), NOW, NOW, rebooted)
    assert ground.desk.in_hand() == {"1d"}
    assert ground.spool.running() == ["1d"]
    assert ground.disk.names(f"{OWN}/node") == [MINE]


@pytest.mark.parametrize("status", [None, b"", STARTED, ENDED])
def test_claimed_job_of_an_owner_who_is_not_accepted(ground: Ground, status: bytes | None) -> None:
    """What is claimed is not run for that: it is returned if it was not started."""
    made = one()
    claimed(ground, ground.life(DEAD), made, status)
    baton = ground.disk.inode(f"{OWN}/node/{DEAD}/run/1d")
    assert baton is not None
    baton.uid = UID + 1
    ground.take_up(Former(DEAD, rebooted=False))
    (back,) = ground.desk.returning.values()
    assert (back.attempt, back.stopped) == (made, False)
    assert "--accept-owner" in back.reason
    assert ground.desk.in_hand() == {"1d"}


def test_interrupted_job_of_an_owner_who_is_not_accepted(ground: Ground) -> None:
    """After a reboot nobody knows whether it was started: it is in doubt like any other."""
    claimed(ground, ground.life(DEAD), one())
    baton = ground.disk.inode(f"{OWN}/node/{DEAD}/run/1d")
    assert baton is not None
    baton.uid = UID + 1
    ground.take_up(Former(DEAD, rebooted=True))
    assert set(ground.desk.doubts) == {"1d"}


@pytest.mark.parametrize("status", [None, STARTED])
def test_owner_who_is_not_accepted_any_more(status: bytes | None) -> None:
    """A daemon whose owners are others than the last one's starts nothing of what that claimed."""
    world = submitted("job", seconds=5.0)
    first = Daemon(world, Place(slots=1 if status else 0))
    job_id = "0b5f0bfe-8a3c-4f2e-9f39-0c3a5d7e9a11"
    if status:
        assert first.run(lambda: bool(first.turn.desk.running), within=10.0)
    else:
        made = one(job_id, first.turn.spool.token, name="job")
        first.turn.spool.prepare_claim(made)
        assert first.turn.spool.claim(made)
    first.stop()
    second = Daemon(world, Place(uids=frozenset()))
    second.run(lambda: False, within=30.0)
    assert world.executions["job"] == (1 if status else 0)
    assert (f"{ROOT}/job" in world.disk.paths(ROOT)) == (status is None)
    assert len([name for name in world.disk.names(ARCHIVE) if name.endswith("-job")]) == (
        1 if status else 0
    )


def test_refused_job_is_claimed(ground: Ground) -> None:
    """A job that was claimed to be rejected is to be rejected still."""
    claimed(ground, ground.life(DEAD), one(refused="is empty"))
    ground.take_up(Former(DEAD, rebooted=True))
    assert [each.attempt.refused for each in ground.desk.claimed.values()] == ["is empty"]


@pytest.mark.parametrize("rebooted", [False, True])
def test_durable_outcome_stands(ground: Ground, *, rebooted: bool) -> None:
    """A job whose outcome is durable ends so, whatever its status says."""
    spool = ground.life(DEAD)
    claimed(ground, spool, one(), STARTED)
    spool.append([Event("job.ended", one().claimed, record=recorded(one(), State.CANCELLED))])
    ground.take_up(Former(DEAD, rebooted=rebooted))
    (over,) = ground.desk.over.values()
    assert (over.state, over.durable) == (State.CANCELLED, recorded(one(), State.CANCELLED))
    assert ground.desk.in_hand() == {"1d"}


def test_outcome_of_an_earlier_attempt_does_not_count(ground: Ground) -> None:
    """A record of another attempt says nothing of this one."""
    spool = ground.life(DEAD)
    claimed(ground, spool, one(attempt=2), STARTED)
    spool.append([Event("job.ended", one().claimed, record=recorded(one()))])
    ground.take_up(Former(DEAD, rebooted=False))
    assert set(ground.desk.doubts) == {"1d"}
    assert ground.desk.over == {}


@pytest.mark.parametrize("known", [False, True])
def test_paperwork_is_gone(ground: Ground, *, known: bool) -> None:
    """A job without paperwork is lost, under its name if an event tells it, and never run again."""
    spool = ground.life(DEAD)
    claimed(ground, spool, one())
    spool.remove(f"{OWN}/job/1d")
    if not known:
        ground.disk.unlink(f"{OWN}/events/{DEAD}.jsonl")
    ground.take_up(Former(DEAD, rebooted=False))
    (over,) = ground.desk.over.values()
    assert (over.state, over.attempt.name) == (State.LOST, "job-1d" if known else "1d")
    assert "submit it again" in over.reason


@pytest.mark.parametrize("rebooted", [False, True])
def test_paperwork_of_a_restartable_job_is_torn(ground: Ground, *, rebooted: bool) -> None:
    """A restartable job whose paperwork a power cut took is returned; without one it is lost."""
    spool = ground.life(DEAD)
    claimed(ground, spool, one(spec=Spec(restartable=True)))
    ground.disk.write(f"{OWN}/job/1d/claim.1.json", b"\0" * 20)
    ground.take_up(Former(DEAD, rebooted=rebooted))
    assert (set(ground.desk.returning), set(ground.desk.over)) == (
        ({"1d"}, set()) if rebooted else (set(), {"1d"})
    )


def test_take_up_can_be_repeated(ground: Ground) -> None:
    """A life that is buried already changes nothing."""
    claimed(ground, ground.life(DEAD), one())
    ground.take_up(Former(DEAD, rebooted=False))
    ground.take_up(Former(DEAD, rebooted=False))
    assert ground.desk.in_hand() == {"1d"}
    assert ground.disk.names(f"{OWN}/node") == [MINE]


def test_two_lives_are_buried(ground: Ground) -> None:
    """A life that died while it took up another leaves both's jobs to the next."""
    third = "a.boot0000.00000009"
    claimed(ground, ground.life(third), one("1d", third))
    second = ground.life(DEAD)
    claimed(ground, second, one("2d"))
    assert second.take_over(third, "1d")
    ground.take_up(Former(third, rebooted=True), Former(DEAD, rebooted=False))
    assert set(ground.desk.doubts) == {"1d", "2d"}
    assert sorted(ground.spool.running()) == ["1d", "2d"]


# -- comparing with the disk


def test_reload_drops_what_is_gone_and_finds_what_is_there(ground: Ground) -> None:
    """After a reload the desk has what the disk has, and tells what it had not."""
    ground.desk.claim(one("gone", MINE))
    ground.desk.launch(one("started", MINE), NOW)
    claimed(ground, ground.spool, one("found", MINE))
    claimed(ground, ground.spool, one("kept", MINE))
    ground.desk.claim(one("kept", MINE))
    ground.disk.mkdir(f"{OWN}/tmp/{MINE}.99")
    ground.disk.mkdir(f"{OWN}/tmp/{OTHERS}.99")
    assert recovery.reload(ground.spool, ground.desk, NOW) == ["gone", "started"]
    assert ground.desk.in_hand() == {"found", "kept"}
    assert set(ground.desk.doubts) == {"found"}
    assert set(ground.desk.claimed) == {"kept"}
    assert ground.disk.names(f"{OWN}/tmp") == [f"{OTHERS}.99"]
    assert ground.desk.forecast.running == 0


# -- ended jobs


def test_ended_jobs_are_filed(ground: Ground) -> None:
    """A node files its own; those of a node that lives are left to it."""
    mine = ended(ground, ground.spool, one("1d", MINE))
    ended(ground, ground.life(OTHERS), one("2d", OTHERS, node="b"))
    recovery.load_ended(ground.spool, ground.desk)
    assert list(ground.desk.filing.values()) == [mine]
    assert ground.desk.in_hand() == set()
    assert not ground.desk.doubtful


def test_ended_jobs_of_nobody_are_taken_and_end_here(ground: Ground) -> None:
    """One of a node that is gone for good is filed by whoever gets hold of it, and no other."""
    record = ended(ground, ground.life(OTHERS), one("2d", OTHERS, node="b"))
    ground.spool.remove(f"{OWN}/node/{OTHERS}")
    recovery.load_ended(ground.spool, ground.desk)
    (over,) = ground.desk.over.values()
    assert (over.durable, over.state) == (record, record.state)
    assert ground.spool.running() == ["2d"]
    assert ground.desk.filing == {}


@pytest.mark.parametrize("text", [None, b"", b'{"format": 1', b"\0" * 99, b"[]"])
def test_record_is_written_again_from_its_event(ground: Ground, text: bytes | None) -> None:
    """A record that is missing or torn is written again as it was."""
    record = ended(ground, ground.spool, one("1d", MINE))
    path = ground.spool.record_path(record)
    if text is None:
        ground.disk.unlink(path)
    else:
        ground.disk.write(path, text)
    recovery.load_ended(ground.spool, ground.desk)
    assert ground.desk.filing == {"1d": record}
    assert ground.disk.read(path) == msgspec.json.encode(record) + b"\n"


def test_record_is_written_again_without_its_directory(ground: Ground) -> None:
    """A record whose whole paperwork is gone is written again."""
    record = ended(ground, ground.spool, one("1d", MINE))
    ground.spool.remove(f"{OWN}/job/1d")
    recovery.load_ended(ground.spool, ground.desk)
    assert ground.desk.filing == {"1d": record}
    assert ground.spool.record("1d", 1) == record


def test_record_is_made_again_from_the_status(ground: Ground) -> None:
    """Where no event tells, the status does, and the record says that it was made again."""
    made = one("1d", MINE)
    record = ended(ground, ground.spool, made)
    ground.disk.unlink(f"{OWN}/events/{MINE}.jsonl")
    ground.disk.unlink(ground.spool.record_path(record))
    ground.disk.write(f"{OWN}/job/1d/claim.1.json", msgspec.json.encode(made))
    recovery.load_ended(ground.spool, ground.desk)
    again = ground.desk.filing["1d"]
    assert (again.state, again.exit_code, again.name) == (State.FAILED, 3, "job-1d")
    assert "made again" in again.reason
    assert ground.spool.record("1d", 1) == again


def test_ended_job_of_which_nothing_is_known(ground: Ground) -> None:
    """A file in ended/ of which nothing is known is left there, and so are strange names."""
    for name in ("1d.1", "strange", "2d.x", ".1"):
        ground.disk.put(f"{OWN}/ended/{name}", PROGRAM)
    recovery.load_ended(ground.spool, ground.desk)
    assert ground.desk.filing == {}
    assert sorted(ground.disk.names(f"{OWN}/ended")) == sorted(["1d.1", "strange", "2d.x", ".1"])


def test_record_cannot_be_written_again_now(ground: Ground) -> None:
    """A full disk costs a record only time: it is tried again with the next look."""
    record = ended(ground, ground.spool, one("1d", MINE))
    ground.disk.write(ground.spool.record_path(record), b"")
    ground.disk.full.add(1)
    recovery.load_ended(ground.spool, ground.desk)
    assert (ground.desk.filing, ground.desk.doubtful) == ({}, True)
    ground.disk.full.clear()
    recovery.load_ended(ground.spool, ground.desk)
    assert ground.desk.filing == {"1d": record}


# -- mending and clearing


def test_mend(ground: Ground) -> None:
    """Archived records that a power cut has torn are written again, only after a reboot."""
    spool = ground.life(DEAD)
    archive = Archive(ground.spool, ARCHIVE, None)
    records = [ended(ground, spool, one(job_id)) for job_id in ("1d", "2d", "3d")]
    for record in records:
        archive.file(record)
    for record in records[:2]:
        ground.disk.write(f"{ARCHIVE}/{record.stem}.json", b"")
    alive, former = Former(DEAD, rebooted=False), Former(DEAD, rebooted=True)
    assert recovery.mend(ground.spool, archive, [alive]) == 0
    assert recovery.mend(ground.spool, archive, [former]) == 2
    assert recovery.mend(ground.spool, archive, [former]) == 0
    for record in records:
        text = ground.disk.read(f"{ARCHIVE}/{record.stem}.json")
        assert text == msgspec.json.encode(record) + b"\n"


TORN = "0b5f0bfe-8a3c-4f2e-9f39-0c3a5d7e9a22"
ARCHIVED = "0b5f0bfe-8a3c-4f2e-9f39-0c3a5d7e9a33"


def test_clear_paperwork(ground: Ground) -> None:
    """Paperwork of our dead lives' claims that were never made goes; all other stays."""
    other = ground.life(OTHERS)
    ground.spool.prepare_claim(one("never", DEAD))
    ground.spool.prepare_claim(one("mine", MINE))
    other.prepare_claim(one("theirs", OTHERS))
    other.prepare_claim(one("theirs-dead", "b.boot0000.00000009"))
    claimed(ground, ground.spool, one("claimed", MINE))
    claimed(ground, other, one("theirs-claimed", OTHERS))
    ended(ground, ground.spool, one("ended", DEAD))
    ground.disk.mkdir(f"{OWN}/job/{ARCHIVED}")
    ground.disk.mkdir(f"{OWN}/job/strange")
    ground.disk.mkdir(f"{OWN}/job/{TORN}")
    ground.disk.write(f"{OWN}/job/{TORN}/claim.1.json", b"{")
    recovery.clear_paperwork(ground.spool, ground.desk, "a", {MINE, OTHERS})
    assert set(ground.spool.paperwork()) == {
        "mine",
        "theirs",
        "theirs-dead",
        "claimed",
        "theirs-claimed",
        "ended",
        TORN,
        "strange",
    }
    assert ground.disk.names(f"{OWN}/tmp") == []


def test_what_was_torn_is_cleared_by_who_is_alone(ground: Ground) -> None:
    """Where another node lives, what looks torn may only be seen late."""
    ground.disk.mkdir(f"{OWN}/job/{TORN}")
    ground.disk.write(f"{OWN}/job/{TORN}/claim.1.json", b"{")
    recovery.clear_paperwork(ground.spool, ground.desk, "a", {MINE})
    assert ground.spool.paperwork() == []


def test_clear_up_after_another_node(ground: Ground) -> None:
    """Claims that a buried life prepared and never made leave nothing; another's stay."""
    ground.spool.prepare_claim(one("1d", OTHERS))
    ground.spool.prepare_claim(one("2d", "b.boot0001.00000008"))
    recovery.clear_up(ground.spool, ground.desk, OTHERS)
    assert ground.spool.paperwork() == ["2d"]


@pytest.mark.parametrize("where", ["another node", "another machine"])
def test_lives_that_are_left_alone(where: str) -> None:
    """A daemon that starts touches no life, job or paperwork of another node or another machine."""
    world = submitted("job")
    disk = world.disk
    token = OTHERS if where == "another node" else DEAD
    spool = Spool(disk, ROOT, token)
    spool.prepare("0b0e7d1e-0000-4000-8000-000000000000")
    spool.begin()
    spool.publish(life(token, name=token[0], machine="elsewhere"))
    ground = Ground(disk, spool, Desk(Rules(frozenset({UID}))))
    claimed(ground, spool, one("1d", token), STARTED)
    spool.prepare_claim(one("2d", token))
    theirs = [
        f"{OWN}/node/{token}",
        f"{OWN}/job/1d",
        f"{OWN}/job/2d",
        f"{OWN}/events/{token}.jsonl",
    ]
    before = {base: {path: disk.inode(path) for path in disk.paths(base)} for base in theirs}
    assert len(before[theirs[0]]) == 5
    daemon = Daemon(world, Place())
    assert daemon.run(lambda: daemon.turn.idle() and not daemon.turn.desk.filing, within=60.0)
    daemon.stop()
    after = {base: {path: disk.inode(path) for path in disk.paths(base)} for base in theirs}
    assert after == before
    assert world.executions == {"job": 1}
