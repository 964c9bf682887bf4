"""The rules of the entries that a daemon finds: what cannot be moved, what is judged anew."""

from __future__ import annotations

import errno
from collections.abc import Callable

import msgspec
import pytest

from doubles import UID, Clock, Daemon, Faults, How, Inode, MemDisk, Place, Script, World
from pmjq.backlog import LONGEST_PAUSE
from pmjq.entries import RESCAN
from pmjq.examination import CLOSED
from pmjq.job import Record
from pmjq.ready import PATIENCE_EMPTY, Kind
from pmjq.state import State

ROOT = "/srv/spool"
ARCHIVE = "/srv/archive"
PROGRAM = b"#!/bin/sh\n:\n"
GARBAGE = b"#!/bin/sh\r\n:\r\n"


def machine(*names: str) -> World:
    """Return a machine with jobs submitted and no daemon yet."""
    disk = MemDisk(Clock())
    disk.tree(ROOT)
    disk.tree(ARCHIVE)
    world = World(disk)
    for name in names:
        submit(world, name)
    disk.clock.advance(60)
    return world


def submit(world: World, name: str, content: bytes = PROGRAM) -> None:
    """Put a job into the spool, by a rename."""
    world.scripts[name] = Script(0.1)
    world.disk.put(f"{ROOT}/.{name}.tmp", content)
    world.disk.rename(f"{ROOT}/.{name}.tmp", f"{ROOT}/{name}")


def refusing(error: int, *names: str) -> Faults:
    """Have the file system move some entries nowhere, or any entry if none is named."""
    paths = {f"{ROOT}/{name}" for name in names}

    def matching(operation: str, touched: tuple[str, ...]) -> bool:
        directory, _, name = touched[0].rpartition("/")
        known = touched[0] in paths if paths else not name.startswith(".")
        return operation == "rename" and directory == ROOT and known

    return Faults(at=1, how=How.FAIL, error=error, lasting=True, matching=matching)


def go_on(daemon: Daemon, seconds: float, nudged: str = "") -> None:
    """Let a daemon work for some time, which is nudged twice a second if a name is given."""
    world = daemon.world
    end = world.clock.now() + seconds
    while world.clock.now() < end:
        if nudged:
            daemon.turn.nudge(nudged)
        wake = min(daemon.turn_once(), world.next_end(), end)
        step = wake - world.clock.now()
        world.advance(max(0.0005, min(step, 0.5) if nudged else step))


def states(world: World) -> dict[str, State]:
    """Return how the archived jobs ended."""
    disk = world.disk
    names = [name for name in disk.names(ARCHIVE) if name.endswith(".json")]
    texts = [disk.read(f"{ARCHIVE}/{name}") or b"" for name in names]
    found = [msgspec.json.decode(text, type=Record) for text in texts]
    return {record.name: record.state for record in found}


def said(daemon: Daemon, event: str) -> list[dict[str, object]]:
    """Return what the log says with an event."""
    return [keys for _, name, keys in daemon.log.lines if name == event]


def paperwork(world: World) -> list[str]:
    """Return the jobs that have paperwork."""
    return world.disk.names(f"{ROOT}/.pmjq/job")


# -- what cannot be moved


@pytest.mark.parametrize("nudged", ["", "fixed"])
@pytest.mark.parametrize("error", [errno.EPERM, errno.EACCES, errno.EBUSY, errno.EXDEV])
def test_entry_that_cannot_be_moved_is_tried_now_and_then(error: int, nudged: str) -> None:
    """It costs less and less, whatever looks at it in between, and is named once."""
    world = machine("fixed", "job")
    faults = refusing(error, "fixed")
    daemon = Daemon(world, Place(), faults)
    go_on(daemon, 600.0, nudged)
    assert faults.count <= 6 + 600.0 / LONGEST_PAUSE
    (left,) = said(daemon, "entry.left")
    assert (left["entry"], "cannot be moved" in str(left["reason"])) == ("fixed", True)
    assert (states(world), paperwork(world)) == ({"job": State.DONE}, [])
    assert said(daemon, "claim.failed") == []


def test_many_entries_that_cannot_be_moved() -> None:
    """They hold nobody up and are tried no more often than one is."""
    names = [f"fixed{number}" for number in range(50)]
    world = machine(*names, "job")
    faults = refusing(errno.EPERM, *names)
    daemon = Daemon(world, Place(), faults)
    go_on(daemon, 5.0)
    assert states(world) == {"job": State.DONE}
    go_on(daemon, 595.0)
    assert faults.count <= 50 * (6 + 600.0 / LONGEST_PAUSE)
    assert len(said(daemon, "entry.left")) == 50
    assert len(daemon.turn.backlog._looks) <= 2 * 50 + 100


def test_entry_that_changes_is_tried_again() -> None:
    """Its owner gives it away: that is seen by its ctime, and the next look tries it."""
    world = machine("fixed")
    faults = refusing(errno.EPERM, "fixed")
    daemon = Daemon(world, Place(), faults)
    go_on(daemon, 300.0)
    faults.lift()
    inode = world.disk.inode(f"{ROOT}/fixed")
    assert inode is not None
    inode.ctime += 1
    daemon.turn.nudge("fixed")
    go_on(daemon, 1.0)
    assert states(world) == {"fixed": State.DONE}


def test_spool_whose_rights_change_is_tried_again() -> None:
    """Who may move entries is for the directory to say: what was refused is tried at once."""
    world = machine("fixed")
    faults = refusing(errno.EACCES)
    daemon = Daemon(world, Place(), faults)
    go_on(daemon, 300.0)
    faults.lift()
    inode = world.disk.inode(ROOT)
    assert inode is not None
    inode.mode |= 0o020
    daemon.turn.nudge()
    go_on(daemon, 1.0)
    assert states(world) == {"fixed": State.DONE}


@pytest.mark.parametrize("slots", [1, 4])
@pytest.mark.parametrize("error", [errno.EUCLEAN, errno.EIO, errno.EDQUOT])
def test_error_of_one_entry_does_not_hold_up_others(error: int, slots: int) -> None:
    """An error that may be everybody's is that of one entry if others can be claimed."""
    world = machine("fixed", "job1", "job2", "job3")
    faults = refusing(error, "fixed")
    daemon = Daemon(world, Place(slots=slots), faults)
    go_on(daemon, 3.0)
    assert set(states(world)) == {"job1", "job2", "job3"}
    assert len(said(daemon, "claim.failed")) == (1 if slots == 1 else 0)
    submit(world, "later")
    daemon.turn.nudge("later")
    go_on(daemon, 600.0)
    assert states(world)["later"] is State.DONE
    assert faults.count <= 8 + 600.0 / LONGEST_PAUSE
    assert len(said(daemon, "claim.failed")) <= 1
    assert [left["entry"] for left in said(daemon, "entry.left")] == ["fixed"]
    assert daemon.turn.idle()


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EROFS, errno.EIO, errno.ESTALE])
def test_error_of_all_entries_pauses_claims(error: int) -> None:
    """What fails for all is tried now and then, is nobody's own fault, and comes right again."""
    world = machine(*(f"job{number}" for number in range(9)))
    faults = refusing(error)
    daemon = Daemon(world, Place(slots=4), faults)
    go_on(daemon, 600.0)
    assert len(said(daemon, "claim.failed")) == 1
    assert said(daemon, "entry.left") == []
    assert faults.count <= 100
    assert not daemon.turn.idle()
    faults.lift()
    go_on(daemon, 70.0)
    assert set(states(world)) == {f"job{number}" for number in range(9)}
    assert set(states(world).values()) == {State.DONE}


def test_claim_whose_file_cannot_be_examined_is_given_back() -> None:
    """A job of which it is not known that it is what was examined is not run."""
    world = machine("job")

    def matching(operation: str, touched: tuple[str, ...]) -> bool:
        return operation == "stat" and "/run/" in touched[0]

    daemon = Daemon(world, Place(), Faults(at=1, how=How.FAIL, matching=matching))
    go_on(daemon, 30.0)
    assert len(said(daemon, "job.returned")) == 1
    assert (states(world), world.executions) == ({"job": State.DONE}, {"job": 1})


# -- what cannot be opened


def shut(error: int, *names: str, at: int = 1) -> Faults:
    """Have the file system open some entries no more, from the ``at``-th time on."""
    paths = {f"{ROOT}/{name}" for name in names}

    def matching(operation: str, touched: tuple[str, ...]) -> bool:
        return operation == "look" and touched[0] in paths

    return Faults(at=at, how=How.FAIL, error=error, lasting=True, matching=matching)


def reasons(daemon: Daemon) -> dict[str, tuple[Kind, str]]:
    """Return what is kept aside, and why."""
    aside = daemon.turn.backlog.aside()
    return {name: (standing.kind, standing.reason) for name, standing in aside}


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (errno.EAGAIN, "another program keeps it to itself"),
        (errno.EIO, "Input/output error"),
        (errno.ESTALE, "Stale file handle"),
    ],
)
def test_entry_that_cannot_be_opened_holds_nobody_up(error: int, why: str) -> None:
    """It is put aside with its reason while others run, and tried again now and then."""
    world = machine("shut", "job1", "job2")
    faults = shut(error, "shut")
    daemon = Daemon(world, Place(slots=4), faults)
    go_on(daemon, 1.0)
    assert states(world) == {"job1": State.DONE, "job2": State.DONE}
    assert reasons(daemon) == {"shut": (Kind.INCOMING, f"cannot be opened ({why})")}
    go_on(daemon, 60.0)
    assert faults.count <= 1 + 61.0 / CLOSED + 61.0 / RESCAN
    assert not daemon.turn.idle()
    faults.lift()
    go_on(daemon, CLOSED + 1)
    assert states(world)["shut"] is State.DONE
    assert daemon.turn.idle()


def test_entry_that_cannot_be_opened_and_goes() -> None:
    """What has gone when it is found shut is forgotten."""
    world = machine("shut", "job")
    faults = shut(errno.EIO, "shut")
    daemon = Daemon(world, Place(), faults)
    go_on(daemon, 1.0)
    world.disk.unlink(f"{ROOT}/shut")
    go_on(daemon, CLOSED + 1)
    assert (reasons(daemon), daemon.turn.idle()) == ({}, True)


def test_bad_entry_that_cannot_be_opened_holds_nobody_up() -> None:
    """Nor does one that is to be rejected, which is looked at once more for that."""
    world = machine("job")
    submit(world, "shut", b"")
    faults = shut(errno.EAGAIN, "shut")
    daemon = Daemon(world, Place(), faults)
    go_on(daemon, 2 * PATIENCE_EMPTY)
    assert faults.count > 0
    submit(world, "later")
    daemon.turn.nudge("later")
    go_on(daemon, 1.0)
    assert states(world) == {"job": State.DONE, "later": State.DONE}
    faults.lift()
    go_on(daemon, CLOSED + 1)
    assert states(world)["shut"] is State.REJECTED


@pytest.mark.parametrize("number", range(1, 5))
def test_error_while_entries_are_examined_loses_none_of_them(number: int) -> None:
    """Those before it and those after it have their places again, and run at the next turn."""
    names = [f"job{each}" for each in range(1, 5)]
    world = machine(*names)

    def fail() -> None:
        raise MemoryError

    daemon = Daemon(world, Place(slots=8), just_before("look", f"{ROOT}/job{number}", fail))
    with pytest.raises(MemoryError):
        daemon.turn.turn()
    assert sorted(daemon.turn.backlog.names()) == names
    go_on(daemon, 2.0)
    assert states(world) == dict.fromkeys(names, State.DONE)


# -- what is judged anew


def just_before(operation: str, path: str, act: Callable[[], object]) -> Faults:
    """Have something happen just before the daemon's first such operation on such a path."""
    left = [act]

    def matching(name: str, paths: tuple[str, ...]) -> bool:
        if left and name == operation and paths[0].startswith(path):
            left.pop()()
        return False

    return Faults(matching=matching)


@pytest.mark.parametrize("operation", ["stat", "look", "rename"])
def test_good_file_comes_to_a_bad_one_s_name(operation: str) -> None:
    """What was bad about an entry says nothing of the one that has come to its name."""
    world = machine()
    submit(world, "job", GARBAGE)
    path = f"{ROOT}/job"
    daemon = Daemon(world, Place(), just_before(operation, path, lambda: submit(world, "job")))
    go_on(daemon, 30.0)
    assert states(world) == {"job": State.DONE}
    assert world.executions == {"job": 1}


@pytest.mark.parametrize("operation", ["stat", "rename"])
def test_good_file_comes_to_a_link_s_name(operation: str) -> None:
    """The same for what is bad at the first sight."""
    world = machine()
    world.scripts["job"] = Script(0.1)
    world.disk.symlink("/bin/true", f"{ROOT}/job")
    daemon = Daemon(world, Place())

    def renamed() -> None:
        world.disk.put(f"{ROOT}/.job", PROGRAM)
        world.disk.rename(f"{ROOT}/.job", f"{ROOT}/job")

    daemon.faults.matching = just_before(operation, f"{ROOT}/job", renamed).matching
    go_on(daemon, 30.0)
    assert states(world) == {"job": State.DONE}
    assert world.executions == {"job": 1}


def test_bad_file_is_rejected_all_the_same() -> None:
    """What stays bad is rejected, once."""
    world = machine()
    submit(world, "job", GARBAGE)
    daemon = Daemon(world, Place())
    go_on(daemon, 30.0)
    assert states(world) == {"job": State.REJECTED}
    assert said(daemon, "job.returned") == []


def opened() -> tuple[World, Inode]:
    """Return a machine with an empty file in the spool that its writer has open."""
    world = machine()
    submit(world, "job", b"")
    inode = world.disk.inode(f"{ROOT}/job")
    assert inode is not None
    world.disk.writers.add(inode.number)
    return world, inode


def test_empty_file_that_is_open_is_on_its_way() -> None:
    """However long it takes until its writer writes: it is run when he has closed it."""
    world, inode = opened()
    daemon = Daemon(world, Place())
    go_on(daemon, 10 * PATIENCE_EMPTY)
    assert (states(world), daemon.turn.idle()) == ({}, False)
    world.disk.grow(inode, PROGRAM)
    go_on(daemon, 5.0)
    assert states(world) == {}
    world.disk.writers.clear()
    go_on(daemon, 5.0)
    assert states(world) == {"job": State.DONE}


def test_empty_file_that_is_closed_is_rejected() -> None:
    """A writer that is gone writes no more."""
    world, _ = opened()
    daemon = Daemon(world, Place())
    go_on(daemon, 2 * PATIENCE_EMPTY)
    world.disk.writers.clear()
    go_on(daemon, 5.0)
    assert states(world) == {"job": State.REJECTED}


def test_empty_file_of_which_nobody_tells_whether_it_is_open() -> None:
    """Where the kernel does not tell, patience is all there is."""
    world = machine()
    world.disk.leases = False
    submit(world, "job", b"")
    daemon = Daemon(world, Place())
    go_on(daemon, 2 * PATIENCE_EMPTY)
    assert states(world) == {"job": State.REJECTED}


def test_another_owner_s_file_is_named_once() -> None:
    """An entry that is left is named with its reason, whatever nudges come."""
    world = machine()
    world.disk.uid = UID + 1
    world.disk.put(f"{ROOT}/other", PROGRAM)
    world.disk.uid = UID
    daemon = Daemon(world, Place())
    go_on(daemon, 60.0, "other")
    assert [left["entry"] for left in said(daemon, "entry.left")] == ["other"]
