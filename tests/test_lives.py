"""The lives of a daemon: whose name is in use, what guards its jobs, where they are filed."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import replace

import msgspec
import pytest

from doubles import Clock, Daemon, MemDisk, Place, Script, World, life_of
from pmjq import job
from pmjq.errors import ConfigurationError, TryLaterError
from pmjq.job import Record
from pmjq.lease import BEATS, LEASE
from pmjq.lives import NAMESAKE_BEATS
from pmjq.node import Machine
from pmjq.spool import Spool

ROOT = "/srv/spool"
OWN = f"{ROOT}/.pmjq"
RESTARTABLE = b"#!/bin/sh\n#PMJQ restartable\n:\n"
CLONE = "a.boot0009.00000099"
A, B = Place(node="a"), Place(node="b")


def machine(content: bytes = RESTARTABLE, *names: str, seconds: float = 1e6) -> World:
    """Return a machine with jobs submitted."""
    disk = MemDisk(Clock())
    disk.tree(ROOT)
    world = World(disk)
    for name in names or ("job",):
        world.scripts[name] = Script(seconds)
        disk.put(f"{ROOT}/.{name}.tmp", content)
        disk.rename(f"{ROOT}/.{name}.tmp", f"{ROOT}/{name}")
        disk.clock.advance(1)
    disk.clock.advance(60)
    return world


def running(place: Place = A, world: World | None = None) -> Daemon:
    """Return a daemon whose first job runs."""
    daemon = Daemon(world or machine(), place)
    assert daemon.run(lambda: bool(daemon.turn.desk.running), within=20.0)
    return daemon


# -- a name that is in use


def elsewhere(daemon: Daemon, **changes: object) -> Spool:
    """Return the spool as a life of this name on another machine sees it, which has begun."""
    spool = Spool(daemon.world.disk, ROOT, CLONE)
    spool.begin()
    me = Machine("machine", "boot0009", "space", 8, 800)
    life = life_of(CLONE, me, daemon.world.clock.wall())
    spool.publish(msgspec.structs.replace(life, **{"machine": "elsewhere", **changes}))
    return spool


def listened(daemon: Daemon, meanwhile: Callable[[], None] = lambda: None) -> float:
    """Listen until it is known; return how long that took."""
    clock = daemon.world.clock
    began = clock.now()
    while left := daemon.lives.listen():
        clock.advance(min(1.0, left))
        meanwhile()
    return clock.now() - began


def test_name_that_beats_elsewhere_is_refused() -> None:
    """Both are named: this node, and the machine and process that have its name."""
    daemon = Daemon(machine(), A)
    spool, count = elsewhere(daemon, host="other"), [0]

    def beat() -> None:
        count[0] += 1
        daemon.world.disk.write(spool.beat_path(), b"%020d\n" % count[0])

    with pytest.raises(TryLaterError, match="node a is running on other as process 8"):
        listened(daemon, beat)


def test_silent_namesake_is_listened_to_for_some_beats() -> None:
    """Then it is known that the name is free."""
    daemon = Daemon(machine(), A)
    elsewhere(daemon)
    assert listened(daemon) == pytest.approx(NAMESAKE_BEATS / BEATS * LEASE)
    assert daemon.lives.listen() > 0


def test_nobody_of_this_name_takes_no_time() -> None:
    """The own life is no namesake."""
    assert listened(Daemon(machine(), A)) == 0.0


def test_clone_that_beats_is_not_buried_by_a_new_life() -> None:
    """After this life was buried the name is listened to again before anything is taken over."""
    daemon = running()
    daemon.lives.ground = replace(daemon.lives.ground, local=False)
    me = msgspec.structs.replace(daemon.lives.ground.settings.machine, booted=0.0)
    settings = replace(daemon.lives.ground.settings, machine=me)
    daemon.lives.ground = replace(daemon.lives.ground, settings=settings)
    spool = elsewhere(daemon, machine="machine", boot="boot0009")
    daemon.lives.fence()
    daemon.lives.renew()
    assert daemon.lives.fenced
    assert daemon.world.disk.stat(spool.beat_path())
    daemon.world.disk.write(spool.beat_path(), b"%020d\n" % 7)
    daemon.lives.renew()
    assert daemon.lives.fenced
    assert daemon.world.disk.stat(spool.beat_path())


# -- formats


def test_life_of_an_unknown_format_is_refused_with_both_numbers() -> None:
    """A node that begins beside one that it does not understand would bury it in the end."""
    daemon = Daemon(machine(), A)
    elsewhere(daemon, format=2)
    with pytest.raises(ConfigurationError, match=r"node a here has format 2.*format 1"):
        daemon.lives.begin()


def test_silent_life_of_an_unknown_format_is_left_alone() -> None:
    """It is said once, and nothing of it is touched."""
    daemon = Daemon(machine(), B)
    spool = elsewhere(daemon, format=2)
    daemon.run(lambda: False, within=3 * LEASE)
    assert daemon.world.disk.stat(spool.beat_path())
    assert daemon.log.events().count("node.unknown") == 1


def test_record_of_an_unknown_format_is_not_made_again() -> None:
    """An ended job of a later version is left to the nodes that know what to do with it."""
    world = machine()
    daemon = Daemon(world, A)
    job_id = "00000000-0000-4000-8000-000000000001"
    disk = world.disk
    disk.tree(f"{OWN}/job/{job_id}")
    disk.put(f"{OWN}/job/{job_id}/record.1.json", b'{"format": 2}\n')
    disk.put(f"{OWN}/ended/{job_id}.1", RESTARTABLE)
    daemon.turn.desk.doubtful = True
    daemon.run(lambda: False, within=60.0)
    assert disk.read(f"{OWN}/job/{job_id}/record.1.json") == b'{"format": 2}\n'
    assert disk.stat(f"{OWN}/ended/{job_id}.1")


# -- the guard


def cut_off(daemon: Daemon) -> list[tuple[int, dict[str, int]]]:
    """Let the beat not get through for most of a lease, look as often as guards do."""
    clock, lease = daemon.world.clock, LEASE
    for _ in range(40):
        clock.advance(lease / 48)
        daemon.lives.guard()
    return daemon.processes.signals


def test_restartable_jobs_of_a_node_that_is_cut_off_are_stopped() -> None:
    """TERM to what runs, before anybody else may start it."""
    daemon = running()
    (job_id,) = daemon.turn.desk.running
    signals = cut_off(daemon)
    assert [(number, list(jobs)) for number, jobs in signals[:1]] == [(signal.SIGTERM, [job_id])]


def test_guard_stops_what_a_hanging_turn_has_not_heard_of() -> None:
    """A job that was ordered may run already: its pid is found by its environment."""
    daemon = running()
    desk = daemon.turn.desk
    (run,) = desk.running.values()
    desk.starting[run.attempt.id] = run.attempt
    desk.running.clear()
    signals = cut_off(daemon)
    assert signals[0] == (signal.SIGTERM, {run.attempt.id: 0})


def test_guard_lets_the_beat_try_first_after_a_pause_of_the_machine() -> None:
    """A machine that was suspended has not been cut off: nothing is stopped."""
    daemon = running()
    daemon.lives.guard()
    daemon.world.clock.advance(10 * LEASE)
    daemon.lives.guard()
    assert daemon.processes.signals == []
    assert daemon.lives.heart._now_or_stop.is_set()
    daemon.lives.heart.beat()
    daemon.world.clock.advance(LEASE / 48)
    daemon.lives.guard()
    assert daemon.processes.signals == []


def test_heartbeat_that_does_not_get_through_is_said_once() -> None:
    """Whatever runs, people hear of an outage, and of its end."""
    daemon = running()
    cut_off(daemon)
    assert daemon.log.events().count("heartbeat.failed") == 1
    daemon.lives.heart.beat()
    daemon.lives.guard()
    assert daemon.log.events()[-1] == "heartbeat.works_again"


# -- where ended jobs go


def ended(world: World, place: Place) -> tuple[Daemon, Record]:
    """Return a daemon with an ended job that it could not file yet, and the job's record."""
    daemon = Daemon(world, place)
    assert daemon.run(lambda: bool(daemon.turn.desk.running), within=20.0)
    world.disk.rename(place.archive or "", f"{place.archive}-away")
    assert daemon.run(lambda: bool(daemon.turn.desk.filing), within=20.0)
    world.disk.rename(f"{place.archive}-away", place.archive or "")
    return daemon, next(iter(daemon.turn.desk.filing.values()))


def test_ended_job_is_filed_where_its_node_files_if_every_node_finds_that() -> None:
    """On the spool's own file system the path is from the spool, whoever files it."""
    world = machine(seconds=1.0)
    first, record = ended(world, A)
    first.stop()
    assert (record.archive, record.near) == ("../archive", True)
    second = Daemon(world, replace(B, archive="/srv/other"))
    assert second.run(lambda: record.stem in world.disk.names("/srv/archive"), within=3 * LEASE)
    second.run(second.turn.quiet, within=20.0)
    stem = record.stem
    assert {stem, f"{stem}.json", f"{stem}.out"} == set(world.disk.names("/srv/archive"))
    assert world.disk.names("/srv/other") == []


def test_ended_job_for_a_file_system_of_its_nodes_own_is_left_to_it() -> None:
    """Half of it may be there already, where no other node finds it."""
    world = machine(seconds=1.0)
    world.disk.mount("/mnt", 2)
    first, record = ended(world, replace(A, archive="/mnt/a"))
    first.stop()
    assert record.archive == "/mnt/a"
    second = Daemon(world, replace(B, archive="/srv/other"))
    second.run(lambda: False, within=3 * LEASE)
    assert world.disk.names("/srv/other") == []
    third = Daemon(world, replace(A, archive="/mnt/a"))
    assert third.run(lambda: record.stem in world.disk.names("/mnt/a"), within=60.0)


def test_new_life_makes_no_archive_again() -> None:
    """What is missing by then may be a mount: jobs would be hidden below it."""
    daemon = running()
    daemon.world.disk.rename("/srv/archive", "/srv/away")
    daemon.lives.fence()
    daemon.lives.renew()
    assert not daemon.lives.fenced
    assert daemon.world.disk.stat("/srv/archive") is None


def test_dead_node_is_buried_though_the_archive_is_away() -> None:
    """Records are mended last, and not at all if they cannot be seen."""
    world = machine(RESTARTABLE, "one", "two")
    first = running(A, world)
    first.run(lambda: False, within=5.0)
    first.stop()
    second = Daemon(world, B)
    world.disk.rename("/srv/archive", "/srv/away")
    assert second.run(lambda: len(world.disk.names(f"{OWN}/node")) == 1, within=3 * LEASE)


def test_job_that_its_own_node_stopped_returns_whatever_its_exit_code() -> None:
    """Its status says that it was told, to whoever takes it over."""
    text = b"started 77 7700 1.0 78 7800\ntold\nexit 1 2.0 0 0 0\n"
    assert job.status(text).told
    daemon = running()
    (run,) = daemon.turn.desk.running.values()
    (process,) = daemon.world.running.values()
    daemon.stop()
    status = f"{OWN}/job/{run.attempt.id}/status.1"
    written = daemon.world.disk.read(status) or b""
    del daemon.world.running[process.pid]
    daemon.world.disk.write(status, written + b"told\nexit 1 2.0 0 0 0\n")
    again = Daemon(daemon.world, A)
    assert again.run(lambda: daemon.world.executions["job"] > 1, within=20.0)


# -- attempts


def interrupted(daemon: Daemon, slots: int = 1) -> Daemon:
    """Have the running job of a daemon end unseen, by a signal; return the next daemon."""
    world = daemon.world
    (process,) = world.running.values()
    daemon.stop()
    world.end(process, -signal.SIGKILL)
    return Daemon(world, replace(A, slots=slots))


def test_attempts_are_counted_over_returns_to_the_queue() -> None:
    """Each execution has the next number, whoever claims the job."""
    second = interrupted(running())
    assert second.run(lambda: bool(second.turn.desk.running), within=20.0)
    third = interrupted(second)
    assert third.run(lambda: bool(third.turn.desk.running), within=20.0)
    (run,) = third.turn.desk.running.values()
    assert (run.attempt.attempt, third.world.executions["job"]) == (3, 3)
    assert third.world.disk.names(f"{OWN}/again") == []


def test_another_job_of_the_same_name_begins_with_attempt_1() -> None:
    """What is remembered is of one file, not of a name."""
    world = machine()
    waits = interrupted(running(A, world), slots=0)
    assert waits.run(lambda: world.disk.names(f"{OWN}/again") == ["job"], within=20.0)
    waits.stop()
    world.disk.unlink(f"{ROOT}/job")
    world.disk.put(f"{ROOT}/.job.tmp", RESTARTABLE + b"# another\n")
    world.disk.rename(f"{ROOT}/.job.tmp", f"{ROOT}/job")
    (run,) = running(A, world).turn.desk.running.values()
    assert run.attempt.attempt == 1
