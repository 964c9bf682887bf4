"""The rules of a turn: races lost, fences, keepers that die, vanished spools, and waking up."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable

import msgspec
import pytest

from doubles import Clock, Daemon, Faults, How, MemDisk, Place, Script, Unsynced, World
from pmjq.job import Again, Record, Try
from pmjq.lease import LEASE
from pmjq.plan import Intent
from pmjq.process import Unkept, Unstarted
from pmjq.spool import Spool
from pmjq.state import State
from pmjq.turn import LONGEST_SLEEP

ROOT = "/srv/spool"
OWN = f"{ROOT}/.pmjq"
ARCHIVE = "/srv/archive"
PROGRAM = b"#!/bin/sh\n:\n"
OTHER = b"#!/bin/sh\n# another program\n:\n"
RESTARTABLE = b"#!/bin/sh\n#PMJQ restartable\n:\n"
SPOOL_JSON = f"{OWN}/spool.json"


def machine(*names: str, content: bytes = PROGRAM, seconds: float = 1.0) -> World:
    """Return a machine with jobs submitted and no daemon yet."""
    disk = MemDisk(Clock())
    disk.tree(ROOT)
    disk.tree("/srv/archive")
    world = World(disk)
    for name in names:
        submit(world, name, content, seconds)
    disk.clock.advance(60)
    return world


def submit(world: World, name: str, content: bytes = PROGRAM, seconds: float = 1.0) -> None:
    """Put a job into the spool, by a rename."""
    world.scripts[name] = Script(seconds)
    world.disk.put(f"{ROOT}/.{name[:99]}.tmp", content)
    world.disk.rename(f"{ROOT}/.{name[:99]}.tmp", f"{ROOT}/{name}")


def just_before(operation: str, path: str, act: Callable[[], object]) -> Faults:
    """Have something happen just before the daemon's first such operation on such a path."""
    left = [act]

    def matching(name: str, paths: tuple[str, ...]) -> bool:
        if left and name == operation and paths[0].startswith(path):
            left.pop()()
        return False

    return Faults(matching=matching)


def finish(daemon: Daemon, within: float = 300.0) -> None:
    """Have a daemon do all there is."""
    turn = daemon.turn

    def done() -> bool:
        return turn.idle() and not turn.desk.filing

    assert daemon.run(done, within=within), daemon.log.lines[-3:]


def running(daemon: Daemon) -> str:
    """Have a daemon start its first job; return the id."""
    assert daemon.run(lambda: bool(daemon.turn.desk.running), within=10.0)
    (job_id,) = daemon.turn.desk.running
    return job_id


def records(world: World) -> dict[str, Record]:
    """Return the records in the archive by the job's name, of which there is one each."""
    disk = world.disk
    names = [name for name in disk.names(ARCHIVE) if name.endswith(".json")]
    texts = [disk.read(f"{ARCHIVE}/{name}") or b"" for name in names]
    found = [msgspec.json.decode(text, type=Record) for text in texts]
    by_name = {record.name: record for record in found}
    assert len(by_name) == len(found)
    for record in found:
        assert disk.inode(f"{ARCHIVE}/{record.stem}") is not None
    return by_name


def states(world: World) -> dict[str, State]:
    """Return how the archived jobs ended."""
    return {name: record.state for name, record in records(world).items()}


def archived(world: World, name: str) -> bytes | None:
    """Return the content of an archived job."""
    return world.disk.read(f"{ARCHIVE}/{records(world)[name].stem}")


def inside(world: World, *names: str) -> list[str]:
    """Return what lies in directories of the spool's own tree."""
    return [path for name in names for path in world.disk.names(f"{OWN}/{name}")]


def tidy(world: World, daemon: Daemon) -> bool:
    """Tell whether no job is under way anywhere."""
    run = f"node/{daemon.turn.spool.token}/run"
    return inside(world, "job", "ended", run) == []


def reasons(daemon: Daemon, event: str) -> list[object]:
    """Return the reasons that the log gives with an event."""
    return [keys.get("reason") for name, _, keys in _lines(daemon) if name == event]


def _lines(daemon: Daemon) -> list[tuple[str, str, dict[str, object]]]:
    return [(event, level, keys) for level, event, keys in daemon.log.lines]


# -- between the look and the claim


def test_withdrawn_before_the_claim() -> None:
    """A job that is removed between look and claim is gone: nothing is left or said."""
    world = machine("job")
    faults = just_before("rename", f"{ROOT}/job", lambda: world.disk.unlink(f"{ROOT}/job"))
    daemon = Daemon(world, Place(), faults)
    finish(daemon)
    assert daemon.log.lines == []
    assert tidy(world, daemon)
    assert (states(world), dict(world.executions)) == ({}, {})


def test_race_for_a_claim_is_lost() -> None:
    """A job that another claims between look and claim is the other's: nothing is left or said."""
    world = machine("job")
    taken = f"{OWN}/node/other/run/ID"

    def act() -> None:
        world.disk.tree(f"{OWN}/node/other/run")
        world.disk.rename(f"{ROOT}/job", taken)

    daemon = Daemon(world, Place(), just_before("rename", f"{ROOT}/job", act))
    finish(daemon)
    assert daemon.log.lines == []
    assert tidy(world, daemon)
    assert world.disk.read(taken) == PROGRAM
    assert (states(world), dict(world.executions)) == ({}, {})


@pytest.mark.parametrize("how", ["written", "replaced"])
def test_changed_before_the_claim(how: str) -> None:
    """A job that changes between look and claim is given back and run as it is then."""
    world = machine("job")
    act = {
        "written": lambda: world.disk.put(f"{ROOT}/job", OTHER),
        "replaced": lambda: submit(world, "job", OTHER),
    }[how]
    daemon = Daemon(world, Place(), just_before("rename", f"{ROOT}/job", act))
    finish(daemon)
    assert reasons(daemon, "job.returned") == ["changed while it was being claimed"]
    assert states(world) == {"job": State.DONE}
    assert archived(world, "job") == OTHER
    assert world.executions == {"job": 1}
    assert tidy(world, daemon)


def test_held_before_the_claim() -> None:
    """A job whose x bit goes between look and claim is held, not run."""
    world = machine("job")
    inode = world.disk.inode(f"{ROOT}/job")
    assert inode is not None

    def hold() -> None:
        inode.mode &= ~0o111

    daemon = Daemon(world, Place(), just_before("rename", f"{ROOT}/job", hold))
    finish(daemon)
    assert world.disk.inode(f"{ROOT}/job") is inode
    assert (states(world), dict(world.executions)) == ({}, {})
    assert tidy(world, daemon)


# -- the line


def lined(daemon: Daemon) -> list[str]:
    """Have a daemon run until jobs stand in line; return their names."""
    desk = daemon.turn.desk
    assert daemon.run(lambda: bool(desk.line), within=10.0)
    return [claimed.attempt.name for claimed in desk.line.values()]


def behind_a_slow_one() -> World:
    """Return a machine where short jobs come first, then long ones, all in one slot."""
    world = machine("a", "b", seconds=0.01)
    for name in ("c", "d"):
        world.disk.clock.advance(0.1)
        submit(world, name, seconds=100.0)
    return world


def test_line_that_finds_no_room_goes_back_to_the_queue() -> None:
    """A job in line behind a long one is another node's chance again, and starts in the end."""
    world = behind_a_slow_one()
    daemon = Daemon(world, Place())
    names = lined(daemon)
    daemon.run(
        lambda: not daemon.turn.desk.line and world.disk.inode(f"{ROOT}/d") is not None, within=10.0
    )
    assert (names, world.recalled) == (["c"], 1)
    assert world.executions == {"a": 1, "b": 1, "c": 1}
    finish(daemon)
    assert states(world) == dict.fromkeys("abcd", State.DONE)
    assert world.most_running == 1


@pytest.mark.parametrize("intent", [Intent.LEAVE, Intent.WAIT])
def test_line_goes_back_to_the_queue_when_the_daemon_stops(intent: Intent) -> None:
    """Nothing of it is started any more."""
    world = machine("a", "b", "c", "d", seconds=0.01)
    daemon = Daemon(world, Place())
    names = lined(daemon)
    begun = dict(world.executions)
    daemon.turn.intent = intent
    daemon.run(lambda: not daemon.turn.desk.line and daemon.turn.quiet(), within=10.0)
    assert names
    assert world.recalled == len(names)
    assert world.executions == begun
    assert {f"{name}" for name in names} <= set(world.disk.names(ROOT))
    daemon.turn.intent = Intent.RUN
    finish(daemon)
    assert world.executions == dict.fromkeys("abcd", 1)


def test_line_is_lost_with_its_keeper() -> None:
    """It is started by the next keeper, each job once."""
    world = machine("a", "b", "c", "d", seconds=0.01)
    daemon = Daemon(world, Place())
    assert lined(daemon)
    world.lose_keeper(world.keepers[-1])
    finish(daemon)
    assert {name for name, count in world.executions.items() if count == 1} == set("abcd")


# -- back to the queue


@pytest.mark.parametrize("taken", [1, 2, 3])
def test_name_is_taken_at_the_return(taken: int) -> None:
    """A returned job whose name has been taken gets a number, and nothing is overwritten."""
    world = machine("job")
    names = ["job", "job.2", "job.3", "job.4"]
    for name in names:
        world.scripts[name] = Script()

    def change() -> None:
        world.disk.put(f"{ROOT}/job", OTHER)
        faults.matching = again.matching

    def take() -> None:
        for name in names[:taken]:
            submit(world, name, PROGRAM + name.encode())
        daemon.turn.nudge()

    again = just_before("rename_new", OWN, take)
    faults = just_before("rename", f"{ROOT}/job", change)
    daemon = Daemon(world, Place(), faults)
    finish(daemon)
    expected = {name: PROGRAM + name.encode() for name in names[:taken]} | {names[taken]: OTHER}
    assert {name: archived(world, name) for name in records(world)} == expected
    assert world.executions == dict.fromkeys(expected, 1)
    assert tidy(world, daemon)


def to_return(world: World, *, executed: bool) -> tuple[Daemon, str]:
    """Return a daemon that is about to return its job, and the job's id."""
    daemon = Daemon(world, Place())
    desk = daemon.turn.desk
    if executed:
        job_id = running(daemon)
        world.advance(5.0)
        daemon.turn.intent = Intent.KILL
        return daemon, job_id
    daemon.processes.refuses = errno.EAGAIN
    assert daemon.run(lambda: bool(desk.claimed), within=10.0)
    daemon.processes.refuses = 0
    daemon.turn.intent = Intent.WAIT
    (job_id,) = desk.claimed
    return daemon, job_id


def request(world: World, daemon: Daemon, job_id: str) -> None:
    """Have somebody ask a node to end a job."""
    path = daemon.turn.spool.ask_path(daemon.turn.spool.token, "cancel", job_id)
    world.disk.create([(path, b"", 0o644)])


def left(world: World, daemon: Daemon) -> list[str]:
    """Return what is left of requests, of records, and of jobs that are back in the queue."""
    there = [name for name in ("again", "tried") if world.disk.inode(f"{OWN}/{name}")]
    records_begun = [name for name in inside(world, "tmp") if "-" in name]
    return inside(world, f"node/{daemon.turn.spool.token}/ask", *there) + records_begun


@pytest.mark.parametrize("executed", [False, True])
def test_asked_to_end_while_it_is_returned(*, executed: bool) -> None:
    """A request that comes when nobody looks for it any more ends the job in the queue, once."""
    world = machine("job", content=RESTARTABLE, seconds=100.0)
    daemon, job_id = to_return(world, executed=executed)
    baton = f"{OWN}/node/{daemon.turn.spool.token}/run/{job_id}"
    act = just_before("rename_new", baton, lambda: request(world, daemon, job_id))
    daemon.faults.matching = act.matching
    assert daemon.run(lambda: "job.returned" in daemon.log.events(), within=60.0)
    assert f"{ROOT}/job" not in world.disk.paths(ROOT)
    daemon.turn.intent = Intent.RUN
    assert daemon.run(lambda: "job" in records(world), within=200.0)
    finish(daemon)
    record = records(world)["job"]
    assert (record.state, record.attempt) == (State.CANCELLED, 1 + executed)
    assert re.fullmatch("cancelled by [0-9]+", record.reason)
    assert (record.id == job_id, record.node, record.started) == (False, "a", None)
    assert [one.id for one in record.earlier] == [job_id] * executed
    assert world.executions["job"] == executed
    out = world.disk.read(f"{ARCHIVE}/{record.stem}.out") or b""
    assert out.startswith(b"said\npmjq: attempt 1 on node a: ") == executed
    assert (tidy(world, daemon), left(world, daemon)) == (True, [])


def test_asked_to_end_while_it_is_returned_and_taken() -> None:
    """A job that another node takes at once is that node's; nothing of an end of it is left."""
    world = machine("job", content=RESTARTABLE)
    daemon, job_id = to_return(world, executed=False)
    baton = f"{OWN}/node/{daemon.turn.spool.token}/run/{job_id}"
    first = just_before("rename_new", baton, lambda: request(world, daemon, job_id)).matching

    def take() -> None:
        world.disk.tree(f"{OWN}/node/other/run")
        world.disk.rename(f"{ROOT}/job", f"{OWN}/node/other/run/ID")

    second = just_before("rename", f"{ROOT}/job", take).matching
    assert first is not None
    assert second is not None
    daemon.faults.matching = lambda *what: first(*what) or second(*what)
    assert daemon.run(lambda: "job.returned" in daemon.log.events(), within=60.0)
    daemon.turn.intent = Intent.RUN
    finish(daemon)
    assert (states(world), dict(world.executions)) == ({}, {})
    assert world.disk.read(f"{OWN}/node/other/run/ID") == RESTARTABLE
    assert (tidy(world, daemon), left(world, daemon)) == (True, [])


def test_asked_to_end_just_before_it_is_returned() -> None:
    """What was stopped to run again later ends; its record tells how far it had got."""
    world = machine("job", content=RESTARTABLE, seconds=100.0)
    daemon, job_id = to_return(world, executed=True)
    ask = daemon.turn.spool.ask_path(daemon.turn.spool.token, "cancel", job_id)
    act = just_before("stat", ask, lambda: request(world, daemon, job_id))
    daemon.faults.matching = act.matching
    assert daemon.run(lambda: "job" in records(world), within=60.0)
    record = records(world)["job"]
    assert (record.id, record.state, record.attempt) == (job_id, State.CANCELLED, 1)
    assert (record.signal, record.node) == (15, "a")
    assert record.started is not None
    assert record.started < record.ended
    assert "job.returned" not in daemon.log.events()
    assert (tidy(world, daemon), left(world, daemon)) == (True, [])


def test_asked_to_end_after_a_reboot() -> None:
    """An interrupted job that would run again ends; its record tells when it had started."""
    world = machine("job", content=RESTARTABLE, seconds=100.0)
    first = Daemon(world, Place())
    job_id = running(first)
    at = first.turn.desk.running[job_id].at
    request(world, first, job_id)
    first.stop()
    clock = Clock(5.0, world.clock.wall() + 60)
    after = world.reboot(world.disk.power_cut(1_000_000, Unsynced.KEPT, clock))
    second = Daemon(after, Place())
    finish(second)
    record = records(after)["job"]
    assert (record.id, record.state, record.attempt) == (job_id, State.CANCELLED, 1)
    assert record.started is not None
    assert record.started.timestamp() == pytest.approx(at, abs=1e-3)
    assert after.executions == {"job": 1}
    assert (tidy(after, second), left(after, second)) == (True, [])


def test_what_was_never_executed_is_remembered_at_its_return() -> None:
    """A first attempt keeps what it is to know, such as that the job was cancelled before."""
    world = machine("job")
    stat = world.disk.stat(f"{ROOT}/job")
    assert stat is not None
    tried = Try(id="0c", attempt=1, node="", state=State.CANCELLED)
    first = Spool(world.disk, ROOT, "b.boot0001.ffffffff")
    first.prepare("u")
    first.remember("job", stat, Again(1, earlier=(tried,)))
    daemon, _ = to_return(world, executed=False)
    assert daemon.run(lambda: "job.returned" in daemon.log.events(), within=10.0)
    daemon.turn.intent = Intent.RUN
    finish(daemon)
    record = records(world)["job"]
    assert (record.state, record.attempt, record.earlier) == (State.DONE, 1, (tried,))
    assert left(world, daemon) == []


# -- fenced


@pytest.mark.parametrize("buried", [False, True], ids=["the job", "the life"])
def test_fenced_while_the_job_runs(*, buried: bool) -> None:
    """What is another's when it ends gets no record from us, and stays with the other."""
    world = machine("job")
    daemon = Daemon(world, Place())
    job_id = running(daemon)
    other = Spool(world.disk, ROOT, "b.boot0001.ffffffff")
    other.begin()
    if buried:
        assert other.bury(daemon.turn.spool.token) == [job_id]
    else:
        assert other.take_over(daemon.turn.spool.token, job_id)
    daemon.run(lambda: False, within=20.0)
    assert not daemon.spins
    assert other.running() == [job_id]
    assert states(world) == {}
    assert inside(world, "ended") == []
    assert job_id in inside(world, "job")
    assert daemon.turn.desk.in_hand() == set()
    assert daemon.turn.desk.filing == {}
    fenced = [keys.get("id") for event, _, keys in _lines(daemon) if event == "job.fenced"]
    assert fenced == [job_id]


def test_other_jobs_go_on_after_a_fence() -> None:
    """A life that lost one job goes on with the others."""
    world = machine("job", seconds=2.0)
    daemon = Daemon(world, Place())
    job_id = running(daemon)
    world.disk.unlink(f"{OWN}/node/{daemon.turn.spool.token}/run/{job_id}")
    submit(world, "next")
    daemon.turn.nudge("next")
    finish(daemon)
    assert states(world) == {"next": State.DONE}
    assert world.executions == {"job": 1, "next": 1}


def test_buried_life_claims_nothing() -> None:
    """A life whose run/ is gone leaves the queue as it is, raises nothing and does not spin."""
    world = machine()
    daemon = Daemon(world, Place())
    finish(daemon)
    Spool(world.disk, ROOT, "b.boot0001.ffffffff").bury(daemon.turn.spool.token)
    submit(world, "job")
    daemon.turn.nudge("job")
    daemon.run(lambda: False, within=120.0)
    assert not daemon.spins
    assert world.disk.read(f"{ROOT}/job") == PROGRAM
    assert dict(world.executions) == {}
    assert daemon.turn_once() > world.clock.now()


# -- the keeper dies


def test_keeper_is_lost_before_it_starts_the_job() -> None:
    """An order that went down with its keeper is given again: the job is executed once."""
    world = machine("job")
    world.holding = True
    daemon = Daemon(world, Place())
    assert daemon.run(lambda: bool(world.held), within=10.0)
    (keeper,) = world.keepers
    world.lose_keeper(keeper)
    world.holding = False
    finish(daemon)
    assert "keeper.lost" in daemon.log.events()
    assert states(world) == {"job": State.DONE}
    assert world.executions == {"job": 1}
    assert len(world.keepers) == 2


@pytest.mark.parametrize("starting", [False, True], ids=["running", "starting"])
@pytest.mark.parametrize("content", [PROGRAM, RESTARTABLE], ids=["", "restartable"])
def test_keeper_is_lost_while_the_job_runs(content: bytes, *, starting: bool) -> None:
    """A job whose keeper died is adopted; it ends lost, or is run again if it says it may be."""
    world = machine("job", content=content, seconds=9.0)
    if starting:
        world.dies_in_start.add("job")
    daemon = Daemon(world, Place())
    running(daemon)
    if not starting:
        world.lose_keeper(world.keepers[0])
    assert daemon.run(lambda: bool(daemon.processes.adopted), within=10.0)
    assert set(daemon.turn.desk.running) == {key[0] for key in daemon.processes.adopted.values()}
    assert world.executions == {"job": 1}
    assert len(world.running) == 1
    world.dies_in_start.clear()
    finish(daemon)
    again = content == RESTARTABLE
    assert states(world) == {"job": State.DONE if again else State.LOST}
    assert world.executions == {"job": 1 + again}


@pytest.mark.parametrize("keeper", ["lost", "kept"])
def test_interrupted_job_runs_again_when_nothing_of_it_is_left(keeper: str) -> None:
    """What an interrupted job has left is told to end, and killed, before the job runs again."""
    world = machine("job", content=RESTARTABLE, seconds=100.0)
    daemon = Daemon(world, Place())
    job_id = running(daemon)
    (process,) = world.running.values()
    if keeper == "lost":
        world.lose_keeper(world.keepers[0])
    else:
        daemon.stop()
        daemon = Daemon(world, Place())
    assert daemon.run(lambda: bool(daemon.processes.adopted), within=10.0)
    world.leftovers.add(job_id)
    world.end(process, -9)
    assert daemon.run(lambda: bool(daemon.turn.desk.remains), within=10.0)
    ended = world.clock.now()
    assert daemon.run(lambda: bool(daemon.turn.desk.running), within=60.0)
    assert world.clock.now() >= ended + 10.0
    assert daemon.processes.signals == [(15, {job_id: 0}), (9, {job_id: 0})]
    assert not world.leftovers
    finish(daemon)
    assert states(world) == {"job": State.DONE}
    assert world.executions == {"job": 2}


def test_keeper_is_lost_after_the_end() -> None:
    """An end that the keeper wrote down and could not report any more is read from the disk."""
    world = machine("job")
    daemon = Daemon(world, Place())
    running(daemon)
    (process,) = world.running.values()
    world.end(process, 3)
    daemon.processes.said = [Unkept(frozenset({process.key}))]
    finish(daemon)
    record = records(world)["job"]
    assert (record.state, record.exit_code) == (State.FAILED, 3)
    assert world.executions == {"job": 1}


# -- starts that fail


def with_status(world: World, make: Callable[[str], object]) -> Faults:
    """Have a job's status.1 be there just before it is ordered to start."""

    def act() -> None:
        (job_id,) = inside(world, "job")
        make(f"{OWN}/job/{job_id}/status.1")

    return just_before("link", OWN, act)


def test_start_of_a_void_attempt() -> None:
    """An attempt that is void when it is to start is returned, and run by another attempt, once."""
    world = machine("job")
    faults = with_status(world, lambda path: world.disk.symlink("void", path))
    daemon = Daemon(world, Place(), faults)
    finish(daemon)
    assert reasons(daemon, "job.returned") == ["was being returned"]
    assert states(world) == {"job": State.DONE}
    assert world.executions == {"job": 1}


def test_start_of_an_attempt_that_was_tried() -> None:
    """An attempt whose status is there, of nobody knows whom, is lost, never executed."""
    world = machine("job")
    daemon = Daemon(world, Place(), with_status(world, lambda path: world.disk.write(path, b"")))
    finish(daemon)
    assert states(world) == {"job": State.LOST}
    assert dict(world.executions) == {}


def unstartable(
    number: int, before: Callable[[Daemon], None] = lambda _: None
) -> tuple[World, Daemon]:
    """Return a daemon whose first execve has failed, and which has done all there is.

    ``before``: what happens before it hears of that.
    """
    world = machine("job")
    world.holding = True
    daemon = Daemon(world, Place())
    assert daemon.run(lambda: bool(world.held), within=10.0)
    ((_, order),) = world.held
    world.held.clear()
    world.disk.write(order.status, f"noexec {number} {world.clock.wall():.6f}\n".encode())
    daemon.processes.said.append(Unstarted(order.key, number, tried=True))
    world.holding = False
    before(daemon)
    finish(daemon)
    return world, daemon


def shut(*_: object) -> None:
    """Fail as an open does of what its owner keeps shut by a lease."""
    raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.ETXTBSY, "still open for writing when it was to be executed"),
        (errno.ENOMEM, "could not be executed for now (ENOMEM)"),
        (errno.EAGAIN, "could not be executed for now (EAGAIN)"),
    ],
)
def test_execve_fails_for_now(number: int, reason: str) -> None:
    """A job that cannot be executed for now is returned and executed later, once."""
    world, daemon = unstartable(number)
    assert reasons(daemon, "job.returned") == [reason]
    assert states(world) == {"job": State.DONE}
    assert world.executions == {"job": 1}
    assert tidy(world, daemon)


@pytest.mark.parametrize("number", [errno.ENOEXEC, errno.E2BIG], ids=errno.errorcode.get)
def test_execve_fails_for_good(number: int) -> None:
    """A job that can never be executed is rejected, and its record and its output say why."""
    world, _ = unstartable(number)
    record = records(world)["job"]
    assert (record.state, record.exit_code, record.started) == (State.REJECTED, None, None)
    assert record.reason.encode() in (world.disk.read(f"{ARCHIVE}/{record.stem}.out") or b"")
    assert dict(world.executions) == {}


def test_execve_fails_of_what_is_kept_shut(monkeypatch: pytest.MonkeyPatch) -> None:
    """What can be neither executed nor looked at, since its owner has it so, is rejected too."""
    world, daemon = unstartable(
        errno.ENOEXEC, lambda daemon: monkeypatch.setattr(daemon.turn.spool, "claimed", shut)
    )
    assert states(world) == {"job": State.REJECTED}
    assert "turn.failed" not in daemon.log.events()


def test_output_that_is_kept_shut(monkeypatch: pytest.MonkeyPatch) -> None:
    """A job whose output cannot be written to, since its owner has it so, is tried again."""
    world = machine("job", content=b"#!/bin/sh\n#PMJQ retries=1 backoff=0\n")
    world.scripts["job"] = Script(code=3, output=b"said\n")
    daemon = Daemon(world, Place())
    monkeypatch.setattr(daemon.disk, "tail", shut)
    finish(daemon)
    record = records(world)["job"]
    assert (record.state, record.attempt, world.executions["job"]) == (State.FAILED, 2, 2)
    assert "return.failed" not in daemon.log.events()
    assert world.disk.read(f"{ARCHIVE}/{record.stem}.out") == b"said\nsaid\n"


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.EMFILE], ids=errno.errorcode.get)
def test_no_keeper_is_to_be_had(number: int) -> None:
    """Where no keeper can be started the job waits claimed, and the tries are seconds apart."""
    world = machine("job")
    daemon = Daemon(world, Place())
    daemon.processes.refuses = number
    assert not daemon.run(lambda: False, within=20.0, turns=100)
    assert not daemon.spins
    assert daemon.log.events() == ["start.failed"]
    daemon.processes.refuses = 0
    finish(daemon)
    assert states(world) == {"job": State.DONE}
    assert world.executions == {"job": 1}


# -- start against void


def test_order_comes_before_the_void() -> None:
    """A job whose late order is carried out just before the void goes on, and is not returned."""
    world, second, late = stopped_with_an_order()
    faults = second.faults
    faults.matching = just_before("symlink", OWN, lambda: world.carry_out(*late)).matching
    second.run(second.turn.quiet, within=20.0)
    assert world.executions == {"job": 1}
    assert reasons(second, "job.returned") == []
    finish(second)
    assert states(world) == {"job": State.DONE}


def test_order_comes_after_the_void() -> None:
    """A late order finds the attempt void, or gone, and starts nothing."""
    world, second, late = stopped_with_an_order()
    faults = second.faults
    faults.matching = just_before("rename_new", OWN, lambda: world.carry_out(*late)).matching
    second.run(second.turn.quiet, within=20.0)
    assert dict(world.executions) == {}
    assert len(reasons(second, "job.returned")) == 1
    assert world.disk.read(f"{ROOT}/job") == PROGRAM
    world.carry_out(*late)
    assert dict(world.executions) == {}
    assert tidy(world, second)


def stopped_with_an_order() -> tuple[World, Daemon, tuple]:  # type: ignore[type-arg]  # keeper, order
    """Return a life that is to stop, and an order of the life before it that is still held."""
    world = machine("job")
    world.holding = True
    first = Daemon(world, Place())
    assert first.run(lambda: bool(world.held), within=10.0)
    late = world.held.pop()
    first.stop()
    world.holding = False
    second = Daemon(world, Place())
    second.turn.intent = Intent.WAIT
    return world, second, late


# -- a life of this node in another pid namespace


def silent_life(world: World) -> tuple[Daemon, str, Callable[[], None]]:
    """Return a daemon that judges another life by its beat, that life's token, and its beating."""
    first = Daemon(world, Place())
    running(first)
    token = first.turn.spool.token
    path = f"{OWN}/node/{token}/node.json"
    text = (world.disk.read(path) or b"").replace(b'"space": "space"', b'"space": "container"')
    world.disk.write(path, text)
    first.stop()
    second = Daemon(world, Place())
    count = [0]

    def beat() -> None:
        count[0] += 1
        world.disk.write_at(f"{OWN}/node/{token}/beat", 0, f"{count[0]:020}\n".encode())

    return second, token, beat


def test_silent_life_is_taken_up_after_the_lease() -> None:
    """A life in another pid namespace is left alone for the lease, then taken up."""
    world = machine("job", seconds=1e6)
    daemon, token, _ = silent_life(world)
    daemon.run(lambda: False, within=LEASE - 10)
    assert token in inside(world, "node")
    assert len(inside(world, f"node/{token}/run")) == 1
    assert states(world) == {}
    daemon.run(lambda: bool(states(world)), within=60.0)
    assert states(world) == {"job": State.LOST}
    assert world.executions == {"job": 1}
    assert token not in inside(world, "node")
    assert daemon.log.events().count("node.silent") == 1


def test_life_that_beats_is_never_taken_up() -> None:
    """A life in another pid namespace that beats keeps what it has."""
    world = machine("job", seconds=1e6)
    daemon, token, beat = silent_life(world)
    for _ in range(40):
        beat()
        daemon.run(lambda: False, within=15.0)
    assert len(inside(world, f"node/{token}/run")) == 1
    assert states(world) == {}
    assert "node.silent" not in daemon.log.events()


# -- the spool vanishes


@pytest.mark.parametrize("how", ["missing", "replaced"])
def test_spool_vanishes_and_comes_back(how: str) -> None:
    """While the spool is away nothing starts and what runs goes on; it comes back by itself."""
    world = machine("first", seconds=3.0)
    daemon = Daemon(world, Place(slots=2))
    running(daemon)
    identity = world.disk.read(SPOOL_JSON) or b""
    if how == "missing":
        world.disk.unlink(SPOOL_JSON)
    else:
        world.disk.write(SPOOL_JSON, re.sub(b"[0-9a-f]{8}", b"ffffffff", identity, count=1))
    submit(world, "next")
    daemon.turn.nudge("next")
    daemon.run(lambda: False, within=1.0)
    assert len(world.running) == 1
    daemon.run(lambda: False, within=60.0)
    assert not daemon.spins
    assert world.executions == {"first": 1}
    assert states(world) == {}
    assert world.disk.read(f"{ROOT}/next") == PROGRAM
    assert not daemon.turn.verdict.open
    assert daemon.log.events().count("spool.missing") == 1
    world.disk.write(SPOOL_JSON, identity)
    finish(daemon)
    assert daemon.log.events().count("spool.back") == 1
    assert states(world) == {"first": State.DONE, "next": State.DONE}
    assert world.executions == {"first": 1, "next": 1}


def test_spool_that_is_back_is_compared_with_the_desk() -> None:
    """What was taken from this life while the spool was away is noticed when it is back."""
    world = machine("job", seconds=1e6)
    daemon = Daemon(world, Place())
    job_id = running(daemon)
    identity = world.disk.read(SPOOL_JSON) or b""
    world.disk.unlink(SPOOL_JSON)
    world.disk.unlink(f"{OWN}/node/{daemon.turn.spool.token}/run/{job_id}")
    daemon.run(lambda: False, within=10.0)
    assert daemon.turn.desk.in_hand() == {job_id}
    world.disk.write(SPOOL_JSON, identity)
    daemon.turn_once()
    assert daemon.turn.desk.in_hand() == set()
    assert daemon.log.events()[-2:] == ["spool.back", "job.fenced"]


# -- errors of the disk


@pytest.mark.parametrize("number", sorted(errno.errorcode), ids=errno.errorcode.get)
def test_no_error_of_the_disk_leaves_a_turn(number: int) -> None:
    """Whatever the disk says, a turn returns a later time; afterwards all is finished once."""
    world = machine("first", "next")
    faults = Faults()
    daemon = Daemon(world, Place(), faults)
    running(daemon)
    faults.at, faults.how, faults.error, faults.lasting = 1, How.FAIL, number, True
    faults.count = 0
    for _ in range(30):
        assert daemon.turn_once() > world.clock.now()
        world.advance(0.3)
    faults.lift()
    finish(daemon)
    assert states(world) == {"first": State.DONE, "next": State.DONE}
    assert world.executions == {"first": 1, "next": 1}
    assert tidy(world, daemon)


# -- when to wake up


def count_turns(daemon: Daemon, seconds: float) -> int:
    """Return how many turns a daemon takes in some time in which nobody nudges it."""
    world, count = daemon.world, 0
    end = world.clock.now() + seconds
    while world.clock.now() < end:
        wake = daemon.turn_once()
        count += 1
        assert wake > world.clock.now()
        world.advance(min(wake, end) - world.clock.now() + 0.0005)
    return count


def idle(world: World) -> Daemon:
    """Return a daemon with an empty spool."""
    return Daemon(world, Place())


def held(world: World) -> Daemon:
    """Return a daemon with a held job."""
    world.disk.put(f"{ROOT}/held", PROGRAM, 0o644)
    return Daemon(world, Place())


def full(world: World) -> Daemon:
    """Return a daemon with its slots taken and a job queued."""
    submit(world, "long", seconds=1e6)
    submit(world, "queued")
    daemon = Daemon(world, Place())
    running(daemon)
    return daemon


def strange(world: World) -> Daemon:
    """Return a daemon with a file of another owner and a directory in its spool."""
    world.disk.tree(f"{ROOT}/directory")
    world.disk.uid = 7
    world.disk.put(f"{ROOT}/other", PROGRAM)
    return Daemon(world, Place())


def unfiled(world: World) -> Daemon:
    """Return a daemon whose archive is gone when a job has ended."""
    submit(world, "job")
    daemon = Daemon(world, Place())
    running(daemon)
    world.disk.rmdir(ARCHIVE)
    world.advance(2.0)
    return daemon


def missing(world: World) -> Daemon:
    """Return a daemon whose spool has gone."""
    daemon = Daemon(world, Place())
    daemon.turn_once()
    world.disk.unlink(SPOOL_JSON)
    return daemon


@pytest.mark.parametrize("make", [idle, held, full, strange, unfiled, missing])
def test_daemon_sleeps_while_there_is_nothing_to_do(make: Callable[[World], Daemon]) -> None:
    """Where nothing can be done a turn asks for the next only now and then."""
    daemon = make(machine())
    count_turns(daemon, 30.0)
    assert count_turns(daemon, 100.0) <= 100.0 / LONGEST_SLEEP * 2


def test_nudge_is_heeded_at_once() -> None:
    """A nudge has a job started in the turn that follows it."""
    world = machine()
    daemon = Daemon(world, Place())
    finish(daemon)
    submit(world, "job")
    daemon.turn.nudge("job")
    daemon.turn_once()
    assert world.executions == {"job": 1}


def test_return_whose_papers_cannot_be_removed() -> None:
    """The job is back in the queue, which is said once, and the next daemon starts and runs it."""
    world = machine("job", content=RESTARTABLE)
    world.scripts["job"] = Script(1e6, leaves=("left",))
    first = Daemon(world, Place())
    running(first)
    first.faults.matching = lambda name, paths: name == "unlink" and "/tmp/" in paths[0]
    first.faults.at, first.faults.how, first.faults.error = 1, How.FAIL, errno.EACCES
    first.faults.count, first.faults.lasting = 0, True
    first.turn.intent = Intent.KILL
    assert first.run(first.turn.quiet, within=60.0)
    assert first.faults.hit
    assert "job" in world.disk.names(ROOT)
    told = [event for event in first.log.events() if event != "jobs.signalled"]
    assert told == ["paperwork.left", "job.returned"]
    first.stop()
    world.scripts["job"] = Script(1.0)
    second = Daemon(world, Place(), first.faults)
    finish(second)
    assert records(world)["job"].state is State.DONE
