"""Two nodes on one spool: one dies or is cut off, the other takes over, each job once."""

from __future__ import annotations

import errno
from dataclasses import replace

import msgspec
import pytest

from doubles import Clock, Daemon, Faults, How, MemDisk, Place, Script, World
from pmjq.desk import Doubt
from pmjq.job import Record, Status
from pmjq.lease import CLAIMING, LEASE
from pmjq.plan import Run
from pmjq.spool import BURIALS, Spool
from pmjq.state import State
from values import attempt

ROOT = "/srv/spool"
OWN = f"{ROOT}/.pmjq"
ARCHIVE = "/srv/archive"
PROGRAM = b"#!/bin/sh\n:\n"
RESTARTABLE = b"#!/bin/sh\n#PMJQ restartable\n:\n"
A, B = Place(node="a"), Place(node="b")


def machine(**seconds: float) -> World:
    """Return a machine with jobs submitted; those whose name begins with r are restartable."""
    disk = MemDisk(Clock())
    disk.tree(ROOT)
    world = World(disk)
    for name, length in seconds.items():
        world.scripts[name] = Script(length)
        disk.put(f"{ROOT}/.{name}.tmp", RESTARTABLE if name.startswith("r") else PROGRAM)
        disk.rename(f"{ROOT}/.{name}.tmp", f"{ROOT}/{name}")
        disk.clock.advance(1)
    disk.clock.advance(60)
    return world


def records(world: World) -> dict[str, Record]:
    """Return the records in the archive by the job's name, of which there is one each."""
    disk = world.disk
    names = [name for name in disk.names(ARCHIVE) if name.endswith(".json")]
    found = [
        msgspec.json.decode(disk.read(f"{ARCHIVE}/{name}") or b"", type=Record) for name in names
    ]
    assert len({record.name for record in found}) == len(found)
    return {record.name: record for record in found}


def dead(world: World, running: int = 1) -> None:
    """Have node a start jobs and die; its keeper and the jobs go on."""
    first = Daemon(world, replace(A, slots=running))
    assert first.run(lambda: len(first.turn.desk.running) == running, within=20.0)
    first.stop()


def test_job_of_a_dead_node_is_lost_after_its_lease() -> None:
    """The reason names the node and the time; the record is its node's."""
    world = machine(job=1e6)
    dead(world)
    second = Daemon(world, B)
    second.run(lambda: False, within=LEASE - 20)
    assert records(world) == {}
    assert second.run(lambda: bool(records(world)), within=60.0)
    record = records(world)["job"]
    assert (record.state, record.node, record.late) == (State.LOST, "a", False)
    assert "node a was silent for 120 s until 20" in record.reason
    assert world.executions == {"job": 1}
    assert second.log.events().count("node.silent") == 1
    assert len(world.disk.names(f"{OWN}/node")) == 1


def test_restartable_job_of_a_dead_node_runs_again() -> None:
    """It goes back to the queue, and runs here."""
    world = machine(rjob=200.0)
    dead(world)
    second = Daemon(world, B)
    assert second.run(lambda: bool(records(world)), within=1000.0)
    record = records(world)["rjob"]
    assert (record.state, record.node) == (State.DONE, "b")
    assert world.executions == {"rjob": 2}


def test_job_that_ended_before_its_node_was_given_up_has_its_outcome() -> None:
    """The status tells how it ended."""
    world = machine(job=30.0)
    dead(world)
    second = Daemon(world, B)
    assert second.run(lambda: bool(records(world)), within=300.0)
    record = records(world)["job"]
    assert (record.state, record.node, record.exit_code) == (State.DONE, "a", 0)


def test_record_of_a_lost_job_is_completed_when_it_ends() -> None:
    """It stays lost, and says how it ended and that this came late."""
    world = machine(job=300.0)
    dead(world)
    second = Daemon(world, B)
    assert second.run(lambda: bool(records(world)), within=200.0)
    lost = records(world)["job"]
    assert second.run(lambda: records(world)["job"].late, within=600.0)
    late = records(world)["job"]
    assert (late.state, late.exit_code, late.stem) == (State.LOST, 0, lost.stem)
    assert late.reason == f"{lost.reason}; it has ended since then"
    assert second.log.events().count("job.ended_late") == 1
    assert world.disk.names(f"{OWN}/job") == []


def test_completion_is_taken_up_by_the_next_life() -> None:
    """The daemon that recorded the loss may be another process when the job ends."""
    world = machine(job=300.0)
    dead(world)
    second = Daemon(world, B)
    assert second.run(lambda: bool(records(world)), within=200.0)
    second.stop()
    third = Daemon(world, B)
    assert third.run(lambda: records(world)["job"].late, within=600.0)
    assert world.disk.names(f"{OWN}/job") == []


def test_completion_keeps_what_a_later_version_wrote() -> None:
    """Unknown fields stay."""
    world = machine(job=300.0)
    dead(world)
    second = Daemon(world, B)
    assert second.run(lambda: bool(records(world)), within=200.0)
    path = f"{ARCHIVE}/{records(world)['job'].stem}.json"
    text = msgspec.json.decode(world.disk.read(path) or b"") | {"new": [1]}
    world.disk.write(path, msgspec.json.encode(text))
    assert second.run(lambda: records(world)["job"].late, within=600.0)
    assert msgspec.json.decode(world.disk.read(path) or b"")["new"] == [1]


def test_what_a_dead_node_did_not_file_is_filed_once() -> None:
    """An ended job is taken by one node before that files it."""
    world = machine(job=1.0)
    away = Faults(matching=lambda name, paths: name == "rename" and paths[0].endswith("out.1"))
    away.error, away.lasting = errno.EIO, True
    first = Daemon(world, A, Faults(1, How.FAIL, errno.EIO, True, away.matching))  # noqa: FBT003
    assert first.run(lambda: bool(first.turn.desk.filing), within=20.0)
    first.stop()
    second, third = Daemon(world, B), Daemon(world, replace(B, node="c"))
    for _ in range(400):
        second.run(lambda: True)
        third.run(lambda: True)
        beat(world, second, third)
        world.advance(1.0)
    assert records(world)["job"].state is State.DONE
    assert world.disk.names(f"{OWN}/ended") == world.disk.names(f"{OWN}/job") == []
    assert world.executions == {"job": 1}


def beat(world: World, *daemons: Daemon) -> None:
    """Have living nodes beat."""
    for daemon in daemons:
        path = daemon.turn.spool.beat_path()
        world.disk.write_at(path, 0, f"{world.clock.now():020.0f}\n".encode())


def test_two_nodes_that_beat_leave_each_other_alone() -> None:
    """However long a job runs."""
    world = machine(one=2000.0, two=2000.0)
    first, second = Daemon(world, A), Daemon(world, B)
    for _ in range(60):
        first.run(lambda: True)
        second.run(lambda: True)
        beat(world, first, second)
        world.advance(15.0)
    assert world.executions == {"one": 1, "two": 1}
    assert records(world) == {}
    assert first.turn.desk.living == [second.turn.spool.token]


@pytest.mark.parametrize("silent", [CLAIMING * LEASE, 9 * LEASE])
def test_node_that_is_cut_off_claims_nothing(silent: float) -> None:
    """Others will take it for dead; the gate says why nothing starts."""
    world = machine(job=1.0)
    only = Daemon(world, A)
    only.silent = silent
    only.run(lambda: False, within=30.0)
    assert world.executions == {}
    assert world.disk.inode(f"{ROOT}/job") is not None
    assert "heartbeat has not got through" in only.turn.verdict.reason
    only.silent = 0.0
    assert only.run(lambda: bool(records(world)), within=60.0)


def test_job_silenced_by_a_cut_off_returns() -> None:
    """A restartable job that was stopped in a cut-off is run again when that is over."""
    world = machine(rjob=100.0)
    only = Daemon(world, A)
    assert only.run(lambda: bool(only.turn.desk.running), within=20.0)
    (job_id,) = only.turn.desk.running
    only.turn.desk.silence({job_id})
    only.processes.signal({job_id: 0}, 15, {})
    assert only.run(lambda: bool(records(world)), within=300.0)
    assert records(world)["rjob"].state is State.DONE
    assert world.executions == {"rjob": 2}


def test_new_life_stops_what_may_run_again_elsewhere() -> None:
    """What it lost keeps its slot till it ends; the restartable ones are told to."""
    world = machine(rjob=1e6, job=1e6, third=1.0)
    old = Daemon(world, replace(A, slots=2))
    assert old.run(lambda: len(old.turn.desk.running) == 2, within=20.0)
    runs = {run.attempt.name: run for run in old.turn.desk.running.values()}
    new = Daemon(world, replace(A, slots=2, node="new"))
    new.turn.desk.inherit(old.turn.desk, world.clock.now())
    new.processes.adopt(("x", 1), runs["job"].pid, runs["job"].pid * 100)
    new.run(lambda: bool(new.processes.signals), within=10.0)
    assert new.processes.signals[0] == (15, {runs["rjob"].attempt.id: runs["rjob"].pid})
    assert set(new.turn.desk.strays) == {run.attempt.id for run in runs.values()}
    assert new.turn.desk.busy() >= 2


def test_new_life_ends_what_a_stray_leaves() -> None:
    """What may run again elsewhere is stopped with all that it has left here."""
    world = machine(rjob=1e6)
    old = Daemon(world, A)
    assert old.run(lambda: bool(old.turn.desk.running), within=20.0)
    (job_id,) = old.turn.desk.running
    new = Daemon(world, replace(A, node="new"))
    new.turn.desk.inherit(old.turn.desk, world.clock.now())
    world.leftovers.add(job_id)
    assert new.run(lambda: bool(new.processes.signals), within=10.0)
    new.turn.desk.ended(job_id, Status(code=-15), world.clock.now())
    assert new.run(lambda: new.turn.desk.busy() == 0, within=60.0)
    assert [number for number, _ in new.processes.signals] == [15, 9]
    assert not world.leftovers


def test_strays_are_forgotten_when_they_end() -> None:
    """And leave no other trace."""
    world = machine()
    daemon = Daemon(world, A)
    desk = daemon.turn.desk
    stray = Run(attempt(id="s"), 7, 0.0, 0.0)
    desk.strays["s"] = stray
    assert desk.busy() == 1
    desk.ended("s", Status(code=0), 1.0)
    assert (desk.busy(), desk.over, desk.doubts) == (0, {}, {})
    desk.strays["s"] = stray
    desk.doubt("s", 1.0)
    assert (desk.busy(), desk.over, desk.doubts) == (0, {}, {})


def test_completion_that_fails_blocks_no_other() -> None:
    """It is tried again, told of once, and its event is written once."""
    world = machine(job=300.0, other=300.0)
    dead(world, running=2)
    second = Daemon(world, B)
    assert second.run(lambda: len(records(world)) == 2, within=200.0)
    stem = records(world)["job"].stem
    faults = second.faults
    faults.matching = lambda name, paths: name == "write" and stem in paths[0]
    faults.at, faults.how, faults.error, faults.lasting = 1, How.FAIL, errno.EACCES, True
    faults.count = 0
    assert second.run(lambda: records(world)["other"].late, within=600.0)
    second.run(lambda: False, within=300.0)
    assert faults.count > 3
    assert not records(world)["job"].late
    told = [event for event in second.log.events() if event.startswith("late.")]
    assert told == ["late.failed"]
    faults.lift()
    assert second.run(lambda: records(world)["job"].late, within=600.0)
    second.run(lambda: False, within=60.0)
    assert second.log.events().count("late.works_again") == 1
    events = world.disk.read(f"{OWN}/events/{second.turn.spool.token}.jsonl") or b""
    assert events.count(b'"job.late"') == 2
    assert world.disk.names(f"{OWN}/job") == []


def test_note_that_cannot_be_read_stops_no_start() -> None:
    """The others are taken up, and that one by a later start."""
    world = machine(job=300.0, other=300.0)
    dead(world, running=2)
    second = Daemon(world, B)
    assert second.run(lambda: len(records(world)) == 2, within=200.0)
    second.stop()
    unread = f"{OWN}/job/{records(world)['job'].id}/late.1.json"
    faults = Faults(1, How.FAIL, errno.EACCES, True, lambda name, paths: unread in paths)  # noqa: FBT003
    third = Daemon(world, B, faults)
    assert faults.hit
    assert third.run(lambda: records(world)["other"].late, within=600.0)
    third.stop()
    fourth = Daemon(world, B)
    assert fourth.run(lambda: records(world)["job"].late, within=600.0)


# -- burials


def spool_of(disk: MemDisk, token: str) -> Spool:
    """Return the spool as a life sees it that has begun."""
    spool = Spool(disk, ROOT, token)
    spool.prepare("0b0e7d1e-0000-4000-8000-000000000000")
    spool.begin()
    return spool


class Claiming(MemDisk):
    """A disk on which a life that is being buried goes on claiming."""

    def __init__(self, clock: Clock, more: int) -> None:
        super().__init__(clock)
        self.more = more

    def rmdir(self, path: str) -> bool:
        if path.endswith("/run") and self.more:
            self.more -= 1
            self.put(f"{path}/late{self.more}", PROGRAM)
        return super().rmdir(path)


def test_claims_that_come_while_a_life_is_buried_are_taken_over() -> None:
    """Nothing that is in run/ is removed with it."""
    disk = Claiming(Clock(), 3)
    disk.tree(ROOT)
    mine, theirs = spool_of(disk, "b.boot.1"), spool_of(disk, "a.boot.1")
    disk.put(f"{OWN}/node/{theirs.token}/run/first", PROGRAM)
    assert mine.bury(theirs.token) == ["first", "late2", "late1", "late0"]
    assert sorted(mine.running()) == ["first", "late0", "late1", "late2"]
    assert disk.names(f"{OWN}/node") == [mine.token]


def test_life_that_does_not_stop_claiming_is_not_removed() -> None:
    """It is buried later; what it had is taken over by then."""
    disk = Claiming(Clock(), 10**6)
    disk.tree(ROOT)
    mine, theirs = spool_of(disk, "b.boot.1"), spool_of(disk, "a.boot.1")
    with pytest.raises(OSError, match="jobs still come into it"):
        mine.bury(theirs.token)
    assert len(mine.running()) == BURIALS - 1
    assert len(theirs.running()) == 1


def test_burial_that_fails_is_tried_again() -> None:
    """It hides no other work, and what was taken over by then is not lost."""
    world = machine(job=1e6, other=1.0)
    dead(world)
    failing = Faults(1, How.FAIL, errno.EACCES, True, lambda name, _: name == "rmdir")  # noqa: FBT003
    second = Daemon(world, B, failing)
    assert second.run(lambda: "burial.failed" in second.log.events(), within=300.0)
    assert second.run(lambda: set(records(world)) == {"job", "other"}, within=300.0)
    failing.lift()
    assert second.run(lambda: len(world.disk.names(f"{OWN}/node")) == 1, within=300.0)
    assert records(world)["job"].state is State.LOST
    assert second.log.events().count("burial.works_again") == 1


def test_node_that_is_cut_off_publishes_nothing() -> None:
    """It may be buried already: an outcome is kept until its beat gets through again."""
    world = machine(job=5.0)
    only = Daemon(world, A)
    assert only.run(lambda: bool(only.turn.desk.running), within=20.0)
    only.silent = 2 * LEASE
    assert not only.run(lambda: False, within=60.0)
    assert not only.spins
    assert records(world) == {}
    assert [over.state for over in only.turn.desk.over.values()] == [State.DONE]
    events = world.disk.read(f"{OWN}/events/{only.turn.spool.token}.jsonl") or b""
    assert b"job.ended" not in events
    only.silent = 0.0
    assert only.run(lambda: bool(records(world)), within=60.0)


# -- contention


def test_entries_are_dealt_out() -> None:
    """Nodes that look at one queue at once claim different jobs, and all of them have some."""
    world = machine(**{f"job{number:02}": 50.0 for number in range(12)})
    nodes = [Daemon(world, Place(node=name, slots=2)) for name in "abc"]
    for _ in range(400):
        for node in nodes:
            node.run(lambda: True)
        beat(world, *nodes)
        world.advance(0.5)
    assert len(records(world)) == 12
    assert all(world.executions[name] == 1 for name in world.executions)
    assert {record.node for record in records(world).values()} == set("abc")
    lost = sum(node.turn.desk.contended for node in nodes)
    assert lost <= 2


def test_entry_of_a_full_node_is_taken_by_another() -> None:
    """After that node has had its chance."""
    world = machine(**{f"job{number:02}": 1.0 for number in range(12)})
    full = Daemon(world, Place(node="a", slots=0))
    only = Daemon(world, Place(node="b", slots=2))
    for _ in range(200):
        full.run(lambda: True)
        only.run(lambda: True)
        beat(world, full, only)
        world.advance(0.1)
    assert len(records(world)) == 12


# -- what the simulated cluster found


def test_end_whose_paperwork_is_gone_makes_it_anew() -> None:
    """A burial that was interrupted may have cleared it; the job still ends, and its record is."""
    world = machine(job=5.0)
    only = Daemon(world, A)
    assert only.run(lambda: bool(only.turn.desk.running), within=20.0)
    (job_id,) = only.turn.desk.running
    only.run(lambda: bool(only.turn.desk.over), within=20.0)
    only.turn.spool.remove(f"{OWN}/job/{job_id}")
    assert only.run(lambda: bool(records(world)), within=60.0)
    assert records(world)["job"].state is State.DONE


def test_end_that_fails_holds_no_other_up() -> None:
    """Each is tried by itself."""
    world = machine(one=5.0, two=5.0)
    failing = Faults(
        1,
        How.FAIL,
        errno.EIO,
        lasting=True,
        matching=lambda name, paths: name == "write" and paths[0] in bad,
    )
    bad: list[str] = []
    only = Daemon(world, replace(A, slots=2), failing)
    assert only.run(lambda: len(only.turn.desk.running) == 2, within=20.0)
    bad.append(f"{OWN}/job/{next(iter(only.turn.desk.running))}/claim.1.json")
    assert only.run(lambda: len(records(world)) == 1, within=30.0)
    bad.clear()
    assert only.run(lambda: len(records(world)) == 2, within=60.0)


def test_new_life_knows_what_the_old_one_of_this_daemon_heard() -> None:
    """How a job ended that nobody could write down: the keeper tells it only once."""
    world = machine(job=1e6)
    old = Daemon(world, A)
    assert old.run(lambda: bool(old.turn.desk.running), within=20.0)
    (run,) = old.turn.desk.running.values()
    old.turn.desk.settle(run.attempt, Status(code=7), world.clock.now())
    new = Daemon(world, B)
    new.turn.desk.doubts[run.attempt.id] = Doubt(run.attempt, 0.0, 0.0)
    new.turn.desk.inherit(old.turn.desk, world.clock.now())
    assert (new.turn.desk.doubts, new.turn.desk.strays) == ({}, {})
    assert [over.status.code for over in new.turn.desk.over.values()] == [7]


def test_records_torn_by_a_power_cut_are_mended_though_their_life_is_buried() -> None:
    """The first start in a boot looks at the last lives of the one before."""
    world = machine(job=1.0)
    first = Daemon(world, A)
    assert first.run(lambda: bool(records(world)), within=20.0)
    stem = f"{ARCHIVE}/{records(world)['job'].stem}.json"
    first.stop()
    second = Daemon(world, A)
    second.stop()
    world.disk.settle()
    world.disk.write(stem, b'{"format":')
    after = world.reboot(world.disk)
    Daemon(after, A).stop()
    assert records(after)["job"].state is State.DONE
    after.disk.write(stem, b'{"format":')
    last = Daemon(after, A)
    assert "records.mended" in last.log.events()
