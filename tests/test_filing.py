"""The rules of filing: near at once, far by a thread, and what failed later, with one line."""

from __future__ import annotations

import errno
import os
import threading
from typing import TYPE_CHECKING, cast

import pytest

from conftest import eventually
from doubles import Clock, Lines
from pmjq.filing import FIRST_PAUSE, LONGEST_PAUSE, MOST_AT_ONCE, Filing
from pmjq.job import Record, Status, record
from pmjq.state import State
from values import attempt

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pmjq.archive import Archive


class Home:
    """A destination that is well, or not."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.checks = 0
        self.wrong: OSError | None = None

    def check(self) -> None:
        self.checks += 1
        if self.wrong:
            raise self.wrong


class Paper:
    """The spool as far as filing knows it: what was cleared, and whether all of it was alone."""

    def __init__(self) -> None:
        self.cleared: list[tuple[str, int, str, bool]] = []
        self.wrong: OSError | None = None

    def clear(self, job_id: str, number: int, name: str, *, alone: bool = False) -> None:
        if self.wrong:
            raise self.wrong
        self.cleared.append((job_id, number, name, alone))


class Shelf:
    """An archive that notes what is filed; ``far`` ones pass through a gate first."""

    def __init__(self) -> None:
        self.spool = Paper()
        self.done, self.failed = Home("/done"), Home("/failed")
        self.filed: list[str] = []
        self.threads: set[str] = set()
        self.far = False
        self.wrong: dict[str, OSError] = {}
        self.taken: set[str] = set()
        self.gate = threading.Event()
        self.gate.set()

    def destination(self, record: Record) -> Home:
        return self.failed if record.state is State.FAILED else self.done

    def near(self, record: Record) -> bool:
        return not self.far

    def file(self, record: Record) -> bool:
        assert self.gate.wait(10)
        self.threads.add(threading.current_thread().name)
        if record.id in self.wrong:
            raise self.wrong[record.id]
        self.filed.append(record.id)
        return record.id not in self.taken


def ended(job_id: str, state: State = State.DONE) -> Record:
    """Return the record of a job that has ended."""
    return record(attempt(id=job_id), Status(code=0), state, 0.0)


def full(path: str = "/done/x") -> OSError:
    """Return the error of a full disk."""
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)


A, B, C = ended("a"), ended("b"), ended("c")
BAD = ended("bad", State.FAILED)


class Desk:
    """A filing with all that it knows."""

    def __init__(self) -> None:
        self.clock, self.lines, self.shelf = Clock(), Lines(), Shelf()
        self.woken: list[None] = []
        self.filing = Filing(
            cast("Archive", self.shelf),
            self.lines,
            self.clock.now,
            wake=lambda: self.woken.append(None),
        )

    def due(self, *records: Record) -> tuple[Record, ...]:
        return self.filing.due(records, self.clock.now())

    def file(self, one: Record) -> bool:
        return self.filing.file(one, self.clock.now())

    def soon(self, *records: Record) -> bool:
        return self.filing.soon(records, self.clock.now())


@pytest.fixture
def desk() -> Iterator[Desk]:
    """Return a filing of which nothing is known."""
    one = Desk()
    yield one
    one.shelf.gate.set()
    one.filing.close()


# --- at once


def test_near_is_filed_at_once(desk: Desk) -> None:
    """On the spool's own file system a job is filed in the turn, and its paperwork cleared."""
    assert desk.due(A, B) == (A, B)
    assert desk.file(A)
    assert desk.shelf.filed == ["a"]
    assert desk.shelf.spool.cleared == [("a", 1, "job", False)]
    assert desk.shelf.threads == {threading.current_thread().name}
    assert (desk.lines.lines, desk.woken) == ([], [])


def test_directory_of_a_job_that_left_nobody_is_told(desk: Desk) -> None:
    """Only where no process is left may a directory be used again; that is said once."""
    desk.filing.alone |= {"a", "b"}
    desk.file(A)
    assert desk.shelf.spool.cleared == [("a", 1, "job", True)]
    assert desk.filing.alone == {"b"}


def test_name_that_is_no_text_is_cleared(desk: Desk) -> None:
    """Paperwork is cleared under the name that the file has."""
    one = record(attempt(name="\\xff", name_hex="ff"), Status(code=0), State.DONE, 0.0)
    desk.file(one)
    assert desk.shelf.spool.cleared[0][2] == os.fsdecode(b"\xff")


def test_paperwork_that_stays_is_no_failure(desk: Desk) -> None:
    """The job is archived; what is left of its paperwork goes at the next start."""
    desk.shelf.spool.wrong = full()
    assert desk.file(A)
    assert [(level, event) for level, event, _ in desk.lines.lines] == [
        ("warning", "paperwork.left")
    ]


def test_some_at_a_time(desk: Desk) -> None:
    """A thousand ended jobs do not hold up the ones that are queued."""
    many = [ended(str(number)) for number in range(MOST_AT_ONCE + 1)]
    assert desk.due(*many) == tuple(many[:MOST_AT_ONCE])


def test_destination_is_checked_now_and_then(desk: Desk) -> None:
    """Not once per job: a check is a call to what may be a share."""
    for one in (A, B, C):
        desk.file(one)
    assert (desk.shelf.done.checks, desk.shelf.failed.checks) == (1, 0)
    desk.clock.advance(FIRST_PAUSE)
    desk.file(A)
    assert desk.shelf.done.checks == 2


# --- what failed


def test_failure_is_left_alone(desk: Desk) -> None:
    """A job that cannot be filed stays ended, and nothing is tried before the pause is over."""
    desk.shelf.wrong["a"] = full()
    now = desk.clock.now()
    assert not desk.file(A)
    assert (desk.due(A, B), desk.soon(A, B)) == ((), False)
    assert desk.filing.next() == now + FIRST_PAUSE
    assert desk.shelf.spool.cleared == []
    desk.clock.advance(FIRST_PAUSE)
    assert (desk.due(A, B), desk.soon(A, B)) == ((A, B), True)


def test_pauses_grow_to_the_longest(desk: Desk) -> None:
    """Each failure doubles the pause, up to a minute; the first success ends that."""
    desk.shelf.wrong["a"] = full()
    lengths = []
    for _ in range(8):
        assert not desk.file(A)
        lengths.append(desk.filing.next() - desk.clock.now())
        desk.clock.advance(lengths[-1])
    assert lengths == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]
    assert (lengths[0], lengths[-1]) == (FIRST_PAUSE, LONGEST_PAUSE)
    assert desk.file(B)
    assert not desk.file(A)
    assert desk.filing.next() == desk.clock.now() + FIRST_PAUSE


def test_what_another_node_has_taken_is_not_cleared(desk: Desk) -> None:
    """It is that node's to file and to clear."""
    desk.shelf.taken.add("a")
    assert desk.file(A)
    assert desk.lines.events() == ["job.fenced"]
    assert desk.shelf.spool.cleared == []


def test_failure_is_one_line(desk: Desk) -> None:
    """However long it lasts, one line says what is wrong and one that it is well again."""
    desk.shelf.wrong["a"] = full()
    for _ in range(3):
        desk.file(A)
    assert desk.filing.reasons() == {"/done": "No space left on device"}
    del desk.shelf.wrong["a"]
    desk.file(A)
    desk.file(B)
    assert desk.filing.reasons() == {}
    expected = {
        "archive": "/done",
        "reason": "No space left on device",
        "path": "/done/x",
        "again_in": FIRST_PAUSE,
    }
    assert desk.lines.lines == [
        ("error", "archive.failed", expected),
        ("info", "archive.works_again", {"archive": "/done"}),
    ]


def test_what_is_wrong_with_the_destination_is_the_reason(desk: Desk) -> None:
    """A rename that failed says less than that the share is not mounted."""
    desk.file(A)
    desk.shelf.wrong["b"] = full()
    desk.shelf.done.wrong = FileNotFoundError(errno.ENOENT, "is gone; mount it", "/done")
    assert not desk.file(B)
    assert desk.filing.reasons() == {"/done": "is gone; mount it"}


def test_nothing_is_filed_into_what_is_not_the_destination(desk: Desk) -> None:
    """A destination that fails its check gets nothing, and is checked before the next try."""
    desk.shelf.done.wrong = OSError(errno.EXDEV, "is on another file system", "/done")
    assert not desk.file(A)
    assert desk.shelf.filed == []
    desk.shelf.done.wrong = None
    checks = desk.shelf.done.checks
    assert desk.file(A)
    assert desk.shelf.done.checks == checks + 1


def test_each_destination_has_its_own_pause(desk: Desk) -> None:
    """A full error directory keeps no job from the archive."""
    desk.shelf.wrong["bad"] = full("/failed/x")
    assert not desk.file(BAD)
    assert (desk.due(A, BAD, B), desk.soon(BAD), desk.soon(A)) == ((A, B), False, True)
    assert desk.filing.reasons() == {"/failed": "No space left on device"}
    assert desk.file(A)
    assert desk.filing.reasons() == {"/failed": "No space left on device"}


def test_next_without_a_failure_is_far(desk: Desk) -> None:
    """What is due now, or done by the thread, is nobody's deadline."""
    assert desk.filing.next() >= desk.clock.now() + LONGEST_PAUSE


# --- far away


def test_far_is_filed_by_a_thread(desk: Desk) -> None:
    """The turn goes on while a job is copied; the thread wakes it, and then the job is filed."""
    desk.shelf.far = True
    desk.shelf.gate.clear()
    desk.filing.alone.add("a")
    assert not desk.file(A)
    assert (desk.due(A, B), desk.soon()) == ((B,), True)
    assert desk.shelf.filed == []
    desk.shelf.gate.set()
    eventually(lambda: desk.woken)
    assert desk.due(A, B) == (A, B)
    assert desk.file(A)
    assert (desk.shelf.filed, desk.shelf.threads) == (["a"], {"filing"})
    assert (desk.soon(), desk.due()) == (False, ())
    # Directories are kept for the next job in the turn only.
    assert desk.shelf.spool.cleared == [("a", 1, "job", False)]


def test_what_the_thread_has_done_comes_first(desk: Desk) -> None:
    """In its order, and also while every destination is left alone."""
    desk.shelf.far = True
    for one in (A, BAD, B):
        assert not desk.file(one)
    eventually(lambda: len(desk.woken) == 3)
    assert desk.due(C, B, BAD, A) == (A, BAD, B, C)
    desk.shelf.far = False
    desk.shelf.wrong = {"c": full(), "worse": full()}
    assert not desk.file(C)
    assert not desk.file(ended("worse", State.FAILED))
    assert desk.due(C, B, BAD, A) == (A, BAD, B)
    assert [desk.file(one) for one in (A, BAD, B)] == [True, True, True]


def test_far_failure_is_a_failure(desk: Desk) -> None:
    """What the thread could not file is left alone, and handed over again after the pause."""
    desk.shelf.far = True
    desk.shelf.wrong["a"] = full()
    assert not desk.file(A)
    eventually(lambda: desk.woken)
    assert desk.due(A) == (A,)
    assert not desk.file(A)
    assert desk.lines.events() == ["archive.failed"]
    assert (desk.due(A), desk.soon(A)) == ((), False)
    del desk.shelf.wrong["a"]
    desk.clock.advance(FIRST_PAUSE)
    assert desk.due(A) == (A,)
    assert not desk.file(A)
    eventually(lambda: len(desk.woken) == 2)
    assert desk.file(A)
    assert desk.lines.events() == ["archive.failed", "archive.works_again"]


def test_far_is_filed_at_once_where_nobody_can_be_woken(desk: Desk) -> None:
    """Without a way to wake the turn, no thread is used."""
    desk.shelf.far, desk.filing.wake = True, None
    assert desk.file(A)
    assert desk.shelf.threads == {threading.current_thread().name}


def test_close_lets_the_thread_finish(desk: Desk) -> None:
    """What was handed over is filed before the thread ends."""
    desk.shelf.far = True
    desk.shelf.gate.clear()
    for one in (A, B):
        desk.file(one)
    desk.filing.close()
    desk.shelf.gate.set()
    thread = desk.filing._thread
    assert thread is not None
    thread.join(5)
    assert not thread.is_alive()
    assert desk.shelf.filed == ["a", "b"]


def test_close_without_a_thread(desk: Desk) -> None:
    """Where nothing was far there is nothing to end."""
    desk.filing.close()
    assert desk.filing._queue.empty()
