"""No job is lost, executed twice or recorded twice.

Wherever the daemon is killed, the disk fails or the power goes.

Each test drives whole lives of a daemon on the doubles and spoils every single disk operation in
turn. What must hold in the end is in one place, ``verify``. A failing point is named: case,
operation, and what was wrong.
"""

from __future__ import annotations

import errno
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import msgspec
import pytest

from conftest import Say
from doubles import (
    CRASHES,
    FAR,
    NEAR,
    SEVERAL_CALLS,
    UID,
    Clock,
    Crash,
    Daemon,
    Faults,
    How,
    Keeper,
    MemDisk,
    Place,
    Script,
    Unsynced,
    World,
)
from pmjq.errors import PmjqError
from pmjq.job import Event, Record
from pmjq.plan import Intent
from pmjq.process import Order
from pmjq.state import TO_ERROR_DIRECTORY, State

ROOT = "/srv/spool"
ARCHIVE = "/srv/archive"
ERRORS = "/srv/errors"
MOUNT = "/mnt"

PROGRAM = b"#!/bin/sh\n:\n"
RESTARTABLE = b"#!/bin/sh\n#PMJQ restartable\n:\n"

NOTHING = Script()
QUICK = Script(seconds=0.01)


@dataclass(frozen=True, slots=True)
class Sample:
    """A job: its file, what it does, how it is to end, how often it may be executed till then."""

    state: State
    script: Script = NOTHING
    content: bytes = PROGRAM
    link: str = ""
    executions: int = 1
    output: bytes = b""

    @property
    def restartable(self) -> bool:
        return self.content == RESTARTABLE


DONE = Sample(State.DONE)
SAMPLES = {
    "done": DONE,
    "fails": Sample(State.FAILED, Script(code=3)),
    "leaves": Sample(State.DONE, Script(leaves=("result", "trace", "more"))),
    "shuts": Sample(State.DONE, Script(leaves=("result",), mode=0o555)),
    "unfit": Sample(State.REJECTED, content=b"\x7fELF garbage", executions=0),
    "refused": Sample(State.REJECTED, content=b"#!/bin/sh\r\n:\r\n", executions=0),
    "symlink": Sample(State.REJECTED, link="/bin/true", executions=0),
    "restartable": Sample(State.DONE, content=RESTARTABLE),
    "retried": Sample(
        State.FAILED,
        Script(code=3),
        b"#!/bin/sh\n#PMJQ retries=1 backoff=0.02\n:\n",
        executions=2,
        output=b"said\npmjq: attempt 1 on node a: exit code 3\nsaid\n",
    ),
    **{f"quick{number}": Sample(State.DONE, QUICK) for number in range(12)},
}


@dataclass(frozen=True, slots=True)
class Case:
    """Jobs and where they go.

    ``far``: the archive is on another file system; ``errors``: with an error directory.
    """

    names: tuple[str, ...]
    far: bool = False
    errors: bool = False
    slots: int = 1

    def __str__(self) -> str:
        where = "far" if self.far else "near"
        return f"{'+'.join(self.names)}, archive {where}{', error directory' * self.errors}"

    @property
    def place(self) -> Place:
        base = MOUNT if self.far else ""
        errors = base + ERRORS if self.errors else None
        return Place(ROOT, base + ARCHIVE, errors, self.slots)

    def world(self) -> World:
        """Return a machine with the jobs submitted and no daemon yet."""
        disk = MemDisk(Clock())
        disk.tree(ROOT)
        if self.far:
            disk.mount(MOUNT, FAR)
        world = World(disk)
        for name in self.names:
            sample = SAMPLES[name]
            world.scripts[name] = sample.script
            if sample.link:
                disk.symlink(sample.link, f"{ROOT}/{name}")
            else:
                disk.put(f"{ROOT}/.{name}.tmp", sample.content)
                disk.rename(f"{ROOT}/.{name}.tmp", f"{ROOT}/{name}")
        disk.settle()
        disk.clock.advance(60)
        return world


ALONE = [
    Case((name,), far, errors)
    for name in ("done", "fails", "leaves", "shuts", "unfit", "refused", "symlink", "retried")
    for far in (False, True)
    for errors in (False, True)
    if name == "fails" or not errors
]
THREE = Case(("done", "fails", "leaves"), errors=True, slots=2)
LINE = Case(tuple(f"quick{number}" for number in range(5)))
"""Short jobs: the keeper has them in line and starts each as soon as the one before ends."""

SPOILED = [
    LINE,
    Case(("done",)),
    Case(("fails",), errors=True),
    Case(("retried",)),
    Case(("unfit",), errors=True),
    Case(("refused",)),
    Case(("shuts",)),
    Case(("leaves",), far=True),
    Case(("symlink",), far=True),
]


# -- what must hold in the end


def filed(world: World, place: Place) -> int:
    """Return how many jobs are in the archive or the error directory, as their commit has it."""
    count = 0
    for home in {place.archive, place.errors} - {None}:
        inode = world.disk.inode(home or "")
        for name in (inode.children or ()) if inode else ():
            count += not name.startswith(".") and not name.endswith((".json", ".out", ".d"))
    return count


def verify(
    world: World, case: Case, *, lost: frozenset[str] | None = None, tidy: bool = True
) -> list[str]:
    """Return what is wrong.

    ``lost``: after a power cut, jobs that may have ended so; ``tidy``: nothing may be left over.

    What a job wrote and did not sync itself is not promised after a power cut.
    """
    return [
        *_executions(world, case, lost or frozenset()),
        *_records(world, case, lost),
        *_events(world, case),
        *(_leftovers(world, case, cut=lost is not None) if tidy else ()),
    ]


def _executions(world: World, case: Case, lost: frozenset[str]) -> Iterator[str]:
    for name in case.names:
        sample, count = SAMPLES[name], world.executions[name]
        allowed = {sample.executions}
        if name in lost:
            allowed = {*range(max(1, sample.executions) + 1)}
        if count not in allowed and not (sample.restartable and count):
            yield f"{name} was executed {count} times"


def _records(world: World, case: Case, lost: frozenset[str] | None) -> Iterator[str]:
    disk, place = world.disk, case.place
    cut, lost = lost is not None, lost or frozenset()
    homes = {place.archive or "", place.errors or place.archive or ""}
    found: Counter[str] = Counter()
    for home in sorted(homes):
        names = set(disk.names(home))
        expected: set[str] = set()
        for name in sorted(names):
            if not name.endswith(".json"):
                continue
            record = _record(disk.read(f"{home}/{name}"))
            if record is None:
                yield f"{home}/{name}: the record cannot be read"
                continue
            if record.name not in case.names:
                yield f"{home}/{name}: recorded as {record.name}, {record.state}: {record.reason}"
                continue
            stem, sample = record.stem, SAMPLES[record.name]
            found[record.name] += 1
            expected |= {name, stem} | {f"{stem}.out"}
            if sample.script.leaves and record.state is sample.state:
                expected.add(f"{stem}.d")
            # A directory that could not be looked into is kept; what a job left need not
            # survive a power cut.
            if f"{stem}.d" in names and (cut or not disk.names(f"{home}/{stem}.d")):
                expected.add(f"{stem}.d")
            elif cut:
                expected.discard(f"{stem}.d")
            if f"{stem}.out" not in names and record.state is State.LOST:
                expected.discard(f"{stem}.out")
            yield from _one(disk, home, record, case, lost)
            if not cut:
                yield from _output(disk, home, record)
        for name in sorted(names ^ expected):
            yield f"{home}/{name}: {'left over' if name in names else 'missing'}"
    for name in case.names:
        if found[name] != 1:
            yield f"{name} has {found[name]} records"


def _one(
    disk: MemDisk, home: str, record: Record, case: Case, lost: frozenset[str]
) -> Iterator[str]:
    place, sample = case.place, SAMPLES[record.name]
    stem = f"{home}/{record.stem}"
    if record.state is not sample.state and not (
        record.state is State.LOST and record.name in lost
    ):
        yield f"{record.name} is recorded as {record.state}: {record.reason}"
    right = place.errors if place.errors and record.state in TO_ERROR_DIRECTORY else place.archive
    if home != right:
        yield f"{record.name} is in {home}"
    inode = disk.inode(stem)
    if inode is not None and (inode.data, inode.target) != (
        b"" if sample.link else sample.content,
        sample.link,
    ):
        yield f"{stem}: its content has changed"


def _output(disk: MemDisk, home: str, record: Record) -> Iterator[str]:
    sample, stem = SAMPLES[record.name], f"{home}/{record.stem}"
    out = disk.read(f"{stem}.out")
    if record.state is State.REJECTED and (out is None or record.reason.encode() not in out):
        yield f"{stem}.out: does not give the reason"
    if record.state is not State.REJECTED and out != (sample.output or sample.script.output):
        yield f"{stem}.out: {out!r}"
    if sample.script.leaves and disk.inode(f"{stem}.d"):
        left = sorted(disk.names(f"{stem}.d"))
        if left != sorted(sample.script.leaves):
            yield f"{stem}.d: {left}"


def _record(text: bytes | None) -> Record | None:
    try:
        return msgspec.json.decode(text or b"", type=Record)
    except msgspec.DecodeError:
        return None


def _events(world: World, case: Case) -> Iterator[str]:
    disk, base = world.disk, f"{ROOT}/.pmjq/events"
    ends: Counter[str] = Counter()
    for name in disk.names(base):
        for line in (disk.read(f"{base}/{name}") or b"").splitlines():
            try:
                event = msgspec.json.decode(line, type=Event)
            except msgspec.DecodeError:
                continue
            if event.record is not None:
                ends[event.record.name] += 1
    for name in case.names:
        if ends[name] != 1:
            yield f"{name} has {ends[name]} events of its end"


def _leftovers(world: World, case: Case, *, cut: bool) -> Iterator[str]:
    """Return what is left over; after a power cut what is of earlier attempts goes in an hour."""
    disk, own = world.disk, f"{ROOT}/.pmjq"
    for home in {case.place.archive, case.place.errors} - {None}:
        for path in disk.paths(home or ""):
            inode = disk.inode(path)
            if inode is not None and inode.nlink > 1:
                yield f"{path}: {inode.nlink} links"
    for name in disk.names(ROOT):
        if name != ".pmjq":
            yield f"{ROOT}/{name}: left over"
    lives = disk.names(f"{own}/node")
    if len(lives) != 1:
        yield f"{len(lives)} lives: {lives}"
    for life in lives:
        if disk.names(f"{own}/node/{life}/run"):
            yield f"{life}/run is not empty"
    for directory in ("job", "ended", "done", *(() if cut else ("again", "tried"))):
        for name in disk.names(f"{own}/{directory}"):
            yield f"{directory}/{name}: left over with {disk.paths(f'{own}/{directory}/{name}')}"
    for name in disk.names(f"{own}/tmp"):
        inside = disk.paths(f"{own}/tmp/{name}")
        if not any(name.startswith(f"{life}.") for life in lives):
            yield f"tmp/{name}: left over"
        elif inside != [f"{own}/tmp/{name}/work"]:
            yield f"tmp/{name}: not a spare: {inside}"


# -- running


def finish(world: World, case: Case, faults: Faults | None = None) -> str:
    """Have one life of the daemon do all there is; return what is wrong with that."""
    daemon = Daemon(world, case.place, faults)
    wrong = follow(daemon, case)
    daemon.stop()
    return wrong


def follow(daemon: Daemon, case: Case, within: float = 400.0) -> str:
    """Have a daemon go on until all is done; return what is wrong with that."""
    world, turn = daemon.world, daemon.turn

    def done() -> bool:
        return filed(world, case.place) >= len(case.names) and turn.idle() and not turn.desk.filing

    if daemon.run(done, within=within):
        return ""
    last = [f"{event} {keys}" for _, event, keys in daemon.log.lines[-2:]]
    return f"not finished{', spinning' * daemon.spins}; the log ends with {last}"


def operations(case: Case) -> list[str]:
    """Return the operations of an undisturbed life, which must be in order."""
    done: list[str] = []
    world = case.world()
    wrong = finish(world, case, Faults(seen=done.append))
    assert [wrong, *verify(world, case)] == [""], case
    return done


_UUID = re.compile(r"(?:\d{8}T\d{6}\.\d{6}Z-)?[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
"""An id, with its stamp if it has one: chance, and long."""

MOST_TOLD = 400
"""Characters told of one failing point."""


class Tally:
    """Count the points tried, and keep what went wrong."""

    def __init__(self) -> None:
        self.points = 0
        self.wrong: list[str] = []

    def note(self, point: object, wrong: Iterable[str]) -> None:
        self.points += 1
        if problems := [problem for problem in wrong if problem]:
            text = _UUID.sub("ID", f"{point}: {'; '.join(problems)}")
            self.wrong.append(text.replace(f"{ROOT}/.pmjq/", "")[:MOST_TOLD])

    def check(self) -> None:
        shown = "\n".join(self.wrong[:12])
        assert not self.wrong, f"{len(self.wrong)} of {self.points} points:\n{shown}"


def crashed(world: World, case: Case, faults: Faults) -> bool:
    """Have a daemon's life end at a crash; False if it ended by having nothing to do."""
    try:
        finish(world, case, faults)
    except Crash:
        return True
    return False


# -- the line


@pytest.mark.parametrize("slots", [1, 2, 3])
def test_short_jobs_stand_in_line(slots: int) -> None:
    """The case of the line has one; no more run at once than there are slots."""
    case = Case(tuple(f"quick{number}" for number in range(12)), slots=slots)
    world = case.world()
    assert finish(world, case) == ""
    assert verify(world, case) == []
    assert world.lined > 0
    assert world.most_running == slots


# -- crashes


@pytest.mark.parametrize("case", [*ALONE, THREE, LINE], ids=str)
def test_killed_at_every_operation(case: Case, say: Say) -> None:
    """After a kill at any operation the next life finishes: executed once, recorded once."""
    tally = Tally()
    for at, operation in enumerate(operations(case), 1):
        for how in CRASHES:
            if how is How.CRASH_WITHIN and operation not in SEVERAL_CALLS:
                continue
            # The jobs that run go on running into the next life, or end before it begins.
            for gap in (0.0, 5.0):
                world, faults = case.world(), Faults(at, how)
                assert crashed(world, case, faults), faults
                world.advance(gap)
                wrong = finish(world, case)
                tally.note(f"{case}: {faults}, {gap:g} s", [wrong, *verify(world, case)])
    say(f"{tally.points} kills")
    tally.check()


@pytest.mark.parametrize(
    "case", [Case(("done",)), Case(("fails",), errors=True), Case(("leaves",), far=True)], ids=str
)
def test_killed_again_during_recovery(case: Case, say: Say) -> None:
    """A second kill at any operation of the recovery changes nothing."""
    tally = Tally()
    for at, _ in enumerate(operations(case), 1):
        how = CRASHES[at % 3]
        for again in range(1 + at % 6, 400, 6):
            world, first = case.world(), Faults(at, how)
            assert crashed(world, case, first), first
            second = Faults(again, How.CRASH_AFTER if again % 3 else How.CRASH_BEFORE)
            if not crashed(world, case, second):
                break
            world.advance(0.7)
            wrong = finish(world, case)
            tally.note(f"{case}: {first}, then {second}", [wrong, *verify(world, case)])
    say(f"{tally.points} pairs of kills")
    tally.check()


def test_killed_over_and_over() -> None:
    """A daemon that is killed every few operations gets there, if each life gets further."""
    tally = Tally()
    for step in range(110, 210, 3):
        world = THREE.world()
        lives = 0
        while crashed(world, THREE, Faults(step, How.CRASH_AFTER)) and lives < 60:
            lives += 1
            world.advance(0.2)
        tally.note(f"{THREE}: every {step} operations", verify(world, THREE))
    tally.check()


def test_submitter_killed_at_every_operation() -> None:
    """A submission by a rename is there completely or not at all."""
    case = Case(("done",))
    for at in range(1, 4):
        for how in CRASHES:
            world = case.world()
            disk = world.disk
            disk.unlink(f"{ROOT}/done")
            steps: tuple[Callable[[], None], ...] = (
                lambda disk=disk: disk.put(f"{ROOT}/.done.tmp", PROGRAM),  # type: ignore[misc]  # bound
                lambda disk=disk: disk.sync(f"{ROOT}/.done.tmp"),  # type: ignore[misc]  # bound
                lambda disk=disk: disk.rename(f"{ROOT}/.done.tmp", f"{ROOT}/done"),  # type: ignore[misc]  # bound
            )
            for step in steps[: at if how is How.CRASH_AFTER else at - 1]:
                step()
            if how is How.CRASH_WITHIN and at == 1:
                disk.write(f"{ROOT}/.done.tmp", PROGRAM[:4])
            submitted = disk.stat(f"{ROOT}/done") is not None
            daemon = Daemon(world, case.place)
            daemon.run(lambda world=world: filed(world, case.place) > 0, within=30.0)  # type: ignore[misc]  # bound
            assert world.executions["done"] == submitted, (at, how)


# -- faults


def faulted(case: Case, faults: Faults, lasts: float) -> tuple[World, list[str]]:
    """Have a daemon live through a fault that is lifted in time; it may fail to begin, no more."""
    world = case.world()
    wrong: list[str] = []
    daemon: Daemon | None = None
    try:
        daemon = Daemon(world, case.place, faults)
        daemon.run(lambda: bool(faults.hit), within=60.0)
    except (OSError, PmjqError):
        pass
    except Exception as error:  # noqa: BLE001  # which point it was is the news
        return world, [f"the daemon ended by {error!r}"]
    if faults.lasting:
        try:
            if daemon is not None:
                daemon.run(lambda: False, within=lasts)
        except Exception as error:  # noqa: BLE001  # likewise
            return world, [f"the daemon ended by {error!r}"]
        world.advance(0.0 if daemon is not None else lasts)
        faults.lift()
    try:
        if daemon is None:
            wrong.append(finish(world, case))
        else:
            wrong.append(follow(daemon, case))
            daemon.stop()
        wrong += verify(world, case, tidy=False)
        # What could not be removed goes at the next start.
        wrong += [finish(world, case), *verify(world, case)]
    except Exception as error:  # noqa: BLE001  # likewise
        wrong.append(f"the daemon ended by {error!r}")
    return world, sorted(set(wrong))


READS = frozenset({"names", "stat", "look", "read"})

ERRORS_TRIED = (errno.EIO, errno.ENOSPC, errno.EACCES, errno.ESTALE)


@pytest.mark.parametrize("error", ERRORS_TRIED, ids=errno.errorcode.get)
@pytest.mark.parametrize("case", [*SPOILED, THREE], ids=str)
def test_every_operation_fails_once(case: Case, error: int, say: Say) -> None:
    """An operation that fails once, carried out or not, costs a moment and nothing else."""
    tally = Tally()
    for at, operation in enumerate(operations(case), 1):
        for how in (How.FAIL, How.LOSE):
            if how is How.LOSE and operation in READS:
                continue
            faults = Faults(at, how, error)
            _, wrong = faulted(case, faults, 0.0)
            tally.note(f"{case}: {faults}", wrong)
    say(f"{tally.points} faults")
    tally.check()


@pytest.mark.parametrize("error", ERRORS_TRIED, ids=errno.errorcode.get)
@pytest.mark.parametrize("case", SPOILED, ids=str)
def test_every_operation_fails_from_then_on(case: Case, error: int, say: Say) -> None:
    """A disk that fails altogether for a while, from any operation on: then all is finished."""
    tally = Tally()
    for at, _ in enumerate(operations(case), 1):
        faults = Faults(at, How.FAIL, error, lasting=True)
        _, wrong = faulted(case, faults, 7.0)
        tally.note(f"{case}: {faults}", wrong)
    say(f"{tally.points} faults")
    tally.check()


@pytest.mark.parametrize("case", SPOILED, ids=str)
def test_every_change_fails_from_then_on(case: Case, say: Say) -> None:
    """A disk that can be read and not be changed for a while, from any operation on."""
    tally = Tally()
    changing = lambda operation, _: operation not in READS  # noqa: E731
    count = sum(operation not in READS for operation in operations(case))
    for at in range(1, count + 1):
        for error in ERRORS_TRIED:
            for how in (How.FAIL, How.LOSE):
                faults = Faults(at, how, error, lasting=True, matching=changing)
                _, wrong = faulted(case, faults, 7.0)
                tally.note(f"{case}: changes only, {faults}", wrong)
    say(f"{tally.points} faults")
    tally.check()


@pytest.mark.parametrize("operation", ["rename", "write", "write_at", "mkdir", "unlink", "link"])
def test_one_kind_of_operation_fails_for_a_while(operation: str, say: Say) -> None:
    """Where one call fails and all others work, nothing goes wrong that does not come right."""
    tally = Tally()
    for case in SPOILED:
        count = operations(case).count(operation)
        for at in range(1, count + 1):
            for error in ERRORS_TRIED:
                only = lambda name, _: name == operation  # noqa: E731
                faults = Faults(at, How.FAIL, error, lasting=True, matching=only)
                _, wrong = faulted(case, faults, 7.0)
                tally.note(f"{case}: {operation} only, {faults}", wrong)
    say(f"{tally.points} faults")
    tally.check()


# -- orders that come late


@pytest.mark.parametrize("links", [True, False], ids=["", "no hard links"])
@pytest.mark.parametrize("name", ["done", "fails", "unfit", "restartable"])
def test_order_of_a_dead_daemon_is_carried_out_late(name: str, say: Say, *, links: bool) -> None:
    """An order carried out after its daemon was replaced starts the job or nothing, never twice."""
    case, tally = Case((name,)), Tally()
    unlinked = lambda operation, _: operation == "link"  # noqa: E731
    for stopping in (False, True):
        for at in range(1, 400):
            world = case.world()
            world.holding = True
            faults = Faults(0 if links else 1, How.FAIL, errno.EPERM, True, unlinked)  # noqa: FBT003
            first = Daemon(world, case.place, faults)
            first.run(lambda world=world: bool(world.held), within=5.0)  # type: ignore[misc]  # bound
            late, world.held = world.held, []
            first.stop()
            world.holding = False
            passed = [0]

            def seen(
                _: str,
                world: World = world,
                late: list[tuple[Keeper, Order]] = late,
                passed: list[int] = passed,
                at: int = at,
            ) -> None:
                passed[0] += 1
                if passed[0] == at:
                    for keeper, order in late:
                        world.carry_out(keeper, order)

            watched = Faults(0 if links else 1, How.FAIL, errno.EPERM, True, unlinked, seen)  # noqa: FBT003
            second = Daemon(world, case.place, watched)
            if stopping:
                # A daemon that stops returns what it has not started.
                second.turn.intent = Intent.WAIT
                second.run(second.turn.quiet, within=20.0)
                second.turn.intent = Intent.RUN
            wrong = follow(second, case, 60.0)
            if passed[0] < at:
                break
            point = f"{case}: at operation {at} of the next life{', which stops' * stopping}"
            tally.note(point, [wrong, *verify(world, case)])
    say(f"{tally.points} late orders")
    tally.check()


# -- power cuts


def cuts(world: World, seen: set[int], *, most: int = 1000) -> Iterator[tuple[str, World]]:
    """Return the machine after every power cut that is possible now and was not tried yet."""
    unsynced = world.disk.unsynced()
    near, far = unsynced.get(NEAR, 0), unsynced.get(FAR, 0)
    prefixes = [{NEAR: first, FAR: far} for first in range(min(near, most) + 1)]
    prefixes += [{NEAR: near, FAR: first} for first in range(far)]
    prefixes += [{NEAR: 0, FAR: 0}] if far else []
    for prefix in prefixes:
        for data in Unsynced:
            clock = Clock(5.0, world.clock.wall() + 60)
            disk = world.disk.power_cut(prefix, data, clock)
            held = [(path, disk.inode(path)) for path in disk.paths()]
            content = tuple((path, each.data, each.number) for path, each in held if each)
            key = hash((content, tuple(world.executions.items())))
            if key not in seen:
                seen.add(key)
                yield f"{prefix}, unsynced data {data}", world.reboot(disk)


def may_be_lost(world: World, case: Case) -> frozenset[str]:
    """Return the jobs that may have begun, as the disk tells: claimed, and no outcome durable."""
    disk, own = world.disk, f"{ROOT}/.pmjq"
    ended = set()
    base = f"{own}/events"
    for file in disk.names(base) if disk.inode(base) else ():
        for line in (disk.read(f"{base}/{file}") or b"").splitlines():
            try:
                event = msgspec.json.decode(line, type=Event)
            except msgspec.DecodeError:
                continue
            if event.record is not None:
                ended.add(event.record.name)
    return frozenset(
        name
        for name in case.names
        if disk.inode(f"{ROOT}/{name}") is None
        and name not in ended
        and not SAMPLES[name].restartable
    )


def survived(world: World, case: Case, lost: frozenset[str]) -> list[str]:
    """Have a daemon start after a power cut; return what is wrong in the end."""
    try:
        return [finish(world, case), *verify(world, case, lost=lost)]
    except Exception as error:  # noqa: BLE001  # which point it was is the news
        return [f"the daemon ended by {error!r}"]


CUT = [
    Case(("done",)),
    Case(("fails",), errors=True),
    Case(("unfit",)),
    Case(("refused",)),
    Case(("restartable",)),
    Case(("leaves",), far=True),
    Case(("done", "fails"), slots=2),
]


@pytest.mark.parametrize("case", CUT, ids=str)
def test_power_cut_at_every_operation(case: Case, say: Say) -> None:
    """A power cut at any operation: executed once at most, recorded once."""
    world, tally = case.world(), Tally()
    after: list[tuple[str, World]] = []
    tried: set[int] = set()
    count = [0]

    def seen(operation: str) -> None:
        count[0] += 1
        for what, cut in cuts(world, tried):
            after.append((f"{case}: cut after n={count[0]} {operation}, {what}", cut))

    assert finish(world, case, Faults(seen=seen)) == ""
    for point, cut in after:
        tally.note(point, survived(cut, case, may_be_lost(cut, case)))
    say(f"{tally.points} power cuts")
    tally.check()


@pytest.mark.parametrize("case", [Case(("done",)), Case(("restartable",))], ids=str)
def test_power_cut_again_during_recovery(case: Case, say: Say) -> None:
    """A second power cut while the first is being cleared up changes nothing."""
    world, tally = case.world(), Tally()
    first: list[World] = []
    second: list[tuple[str, World, frozenset[str]]] = []
    tried: set[int] = set()
    assert (
        finish(world, case, Faults(seen=lambda _: first.extend(w for _, w in cuts(world, tried))))
        == ""
    )
    for number, cut in enumerate(first):
        if number % 7:
            continue
        lost = may_be_lost(cut, case)
        count = [0]

        def seen(
            operation: str,
            cut: World = cut,
            number: int = number,
            lost: frozenset[str] = lost,
            count: list[int] = count,
        ) -> None:
            count[0] += 1
            if count[0] % 5 == number % 5:
                for what, again in cuts(cut, tried, most=3):
                    point = f"{case}: cut {number}, then after n={count[0]} {operation}, {what}"
                    second.append((point, again, lost | may_be_lost(again, case)))

        finish(cut, case, Faults(seen=seen))
    for point, cut, lost in second:
        tally.note(point, survived(cut, case, lost))
    say(f"{tally.points} pairs of power cuts")
    tally.check()


def test_daemon_runs_as_an_owner_of_the_samples() -> None:
    """The jobs of these tests are ones that the daemon takes: their owner is its own."""
    assert UID in Case(("done",)).place.uids
