"""The rules of filing: near at once, far by a thread, and what failed later, with one line.

A failure is that of the destination, and all that goes there waits; or of one job, and that waits.
"""

from __future__ import annotations

import errno
import os
import threading
from typing import TYPE_CHECKING, cast

import pytest

from conftest import eventually
from doubles import Clock, Lines
from pmjq.filing import (
    FIRST_PAUSE,
    LONGEST_PAUSE,
    MOST_AGAIN,
    MOST_AT_ONCE,
    MOST_IN_VAIN,
    MOST_NAMED,
    Filing,
)
from pmjq.job import Record, Status, record
from pmjq.state import State
from pmjq.tree import Left
from values import attempt

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pmjq.archive import Archive


class Home:
    """A destination that is well, or not: ``wrong`` at a look, ``refuses`` to be written."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.checks = 0
        self.wrong: OSError | None = None
        self.refuses: OSError | None = None

    def check(self) -> None:
        self.checks += 1
        if self.wrong:
            raise self.wrong

    def try_write(self) -> None:
        if self.refuses:
            raise self.refuses


class Paper:
    """The spool as far as filing knows it: what was cleared, and whether all of it was alone."""

    def __init__(self) -> None:
        self.cleared: list[tuple[str, int, str, bool]] = []
        self.left: list[Left] = []

    def clear(self, job_id: str, number: int, name: str, *, alone: bool = False) -> None:
        self.cleared.append((job_id, number, name, alone))

    def left_behind(self) -> list[Left]:
        left, self.left = self.left, []
        return left


class Shelf:
    """An archive that notes what is filed; ``far`` ones pass through a gate first."""

    def __init__(self) -> None:
        self.spool = Paper()
        self.done, self.failed = Home("/done"), Home("/failed")
        self.filed: list[str] = []
        self.threads: set[str] = set()
        self.far = False
        self.wrong: dict[str, Exception] = {}
        self.tried: list[str] = []
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
        self.tried.append(record.id)
        if record.id in self.wrong:
            raise self.wrong[record.id]
        self.filed.append(record.id)
        return record.id not in self.taken


def ended(job_id: str, state: State = State.DONE) -> Record:
    """Return the record of a job that has ended."""
    return record(attempt(id=job_id), Status(code=0), state, 0.0)


def full(path: str = "/done") -> OSError:
    """Return the error of a full disk."""
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)


def denied(path: str = "/spool/x") -> OSError:
    """Return the error of what a job has shut."""
    return OSError(errno.EACCES, os.strerror(errno.EACCES), path)


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

    def refuse(self, *records: Record) -> None:
        """Have the archive be full."""
        self.shelf.done.refuses = full()
        self.shelf.wrong |= {record.id: full() for record in records}

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
    desk.shelf.spool.left = [Left("a", "/spool/x", "Permission denied")]
    assert desk.file(A)
    told = {"id": "a", "path": "/spool/x", "reason": "Permission denied"}
    assert desk.lines.lines == [("warning", "paperwork.left", told)]


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


# --- a destination that fails


def test_failure_is_left_alone(desk: Desk) -> None:
    """Jobs that cannot be filed stay ended, and nothing is tried before the pause is over."""
    desk.refuse(A)
    now = desk.clock.now()
    assert not desk.file(A)
    assert (desk.due(A, B), desk.soon(A, B)) == ((), False)
    assert desk.filing.next() == now + FIRST_PAUSE
    assert desk.shelf.spool.cleared == []
    desk.clock.advance(FIRST_PAUSE)
    assert (desk.due(A, B), desk.soon(A, B)) == ((B, A), True)


def test_what_was_planned_before_a_failure_is_not_tried(desk: Desk) -> None:
    """Many jobs are due together; a full disk is found out once, not by each of them."""
    desk.refuse(A, B, C)
    assert desk.due(A, B, C) == (A, B, C)
    assert [desk.file(one) for one in (A, B, C)] == [False, False, False]
    assert desk.shelf.tried == ["a"]
    assert desk.filing.next() == desk.clock.now() + FIRST_PAUSE


def test_each_gets_its_turn(desk: Desk) -> None:
    """After each pause another job is tried first: one that is small enough may come."""
    desk.refuse(A, B, C)
    for _ in range(7):
        for one in desk.due(A, B, C):
            assert not desk.file(one)
        desk.clock.advance(LONGEST_PAUSE)
    assert "".join(desk.shelf.tried) == "abcabca"


def test_pauses_grow_to_the_longest(desk: Desk) -> None:
    """Each failure doubles the pause, up to a minute; the first success ends that."""
    desk.refuse(A)
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


def test_failure_is_one_line(desk: Desk) -> None:
    """However long it lasts, one line says what is wrong and one that it is well again."""
    desk.refuse(A)
    for _ in range(3):
        desk.file(A)
        desk.clock.advance(LONGEST_PAUSE)
    assert desk.filing.reasons() == {"/done": "No space left on device"}
    del desk.shelf.wrong["a"]
    desk.file(A)
    desk.file(B)
    assert desk.filing.reasons() == {}
    expected = {
        "archive": "/done",
        "reason": "No space left on device",
        "path": "/done",
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
    assert desk.shelf.tried == []
    desk.shelf.done.wrong = None
    checks = desk.shelf.done.checks
    desk.clock.advance(FIRST_PAUSE)
    assert desk.file(A)
    assert desk.shelf.done.checks == checks + 1


def test_each_destination_has_its_own_pause(desk: Desk) -> None:
    """A full error directory keeps no job from the archive."""
    desk.shelf.wrong["bad"] = desk.shelf.failed.refuses = full("/failed")
    assert not desk.file(BAD)
    assert (desk.due(A, BAD, B), desk.soon(BAD), desk.soon(A)) == ((A, B), False, True)
    assert desk.filing.reasons() == {"/failed": "No space left on device"}
    assert desk.file(A)
    assert desk.filing.reasons() == {"/failed": "No space left on device"}


def test_what_another_node_has_taken_is_not_cleared(desk: Desk) -> None:
    """It is that node's to file and to clear."""
    desk.shelf.taken.add("a")
    assert desk.file(A)
    assert desk.lines.events() == ["job.fenced"]
    assert desk.shelf.spool.cleared == []


# --- a job that fails


@pytest.mark.parametrize("error", [full(), denied(), RecursionError("too deep")], ids=type)
def test_job_that_cannot_be_filed_delays_no_other(desk: Desk, error: Exception) -> None:
    """Where a small file can be written, whatever keeps a job from there is its own matter."""
    desk.shelf.wrong["a"] = error
    assert not desk.file(A)
    assert (desk.due(A, B), desk.soon(A), desk.soon(B)) == ((B,), False, True)
    assert desk.file(B)
    assert desk.filing.next() == desk.clock.now() + FIRST_PAUSE
    desk.clock.advance(FIRST_PAUSE)
    assert not desk.file(A)
    assert desk.filing.next() == desk.clock.now() + 2 * FIRST_PAUSE
    desk.clock.advance(2 * FIRST_PAUSE)
    desk.shelf.wrong.clear()
    assert desk.file(A)
    assert (desk.filing.reasons(), desk.due()) == ({}, ())


def test_job_that_cannot_be_filed_is_said_and_shown(desk: Desk) -> None:
    """With its path and reason; it is not said that the archive fails, or works again."""
    desk.shelf.wrong["a"] = denied()
    for _ in range(3):
        assert not desk.file(A)
        assert desk.file(B)
        desk.clock.advance(LONGEST_PAUSE)
    told = {
        "job": "job",
        "id": "a",
        "archive": "/done",
        "reason": "Permission denied",
        "path": "/spool/x",
        "again_in": FIRST_PAUSE,
    }
    assert desk.lines.lines == [("error", "job.unfiled", told)]
    assert desk.filing.reasons() == {A.stem: "Permission denied"}
    desk.shelf.wrong.clear()
    assert desk.file(A)
    assert desk.filing.reasons() == {}


def test_many_jobs_of_one_kind_are_one_line(desk: Desk) -> None:
    """And one line more when it happens again after all of them were filed."""
    many = [ended(str(number)) for number in range(2 * MOST_NAMED)]
    desk.shelf.wrong = {one.id: denied() for one in many}
    for one in many:
        assert not desk.file(one)
    assert desk.lines.events() == ["job.unfiled"]
    assert len(desk.filing.reasons()) == MOST_NAMED
    desk.shelf.wrong["0"] = full()
    desk.clock.advance(FIRST_PAUSE)
    assert not desk.file(many[0])
    assert [keys["reason"] for _, _, keys in desk.lines.lines] == [
        "Permission denied",
        "No space left on device",
    ]
    desk.shelf.wrong.clear()
    desk.clock.advance(LONGEST_PAUSE)
    assert all(desk.file(one) for one in many)
    desk.shelf.wrong["0"] = denied()
    assert not desk.file(many[0])
    assert desk.lines.events() == ["job.unfiled"] * 3


def test_error_that_nobody_thought_of_is_told_in_full(desk: Desk) -> None:
    """With where it came from."""
    desk.shelf.wrong["a"] = RecursionError("too deep")
    assert not desk.file(A)
    ((level, event, keys),) = desk.lines.lines
    assert (level, event, keys["reason"]) == ("error", "job.unfiled", "RecursionError: too deep")
    assert "in file" in str(keys["traceback"])


def test_jobs_that_failed_leave_room_for_others(desk: Desk) -> None:
    """However many fail, those that have not been tried go first; but some go with them."""
    bad = [ended(f"bad{number}") for number in range(70)]
    good = [ended(f"good{number}") for number in range(MOST_AT_ONCE)]
    desk.shelf.wrong = {one.id: denied() for one in bad}
    for _ in range(2):
        for one in desk.due(*bad, *good):
            desk.file(one)
    assert len(desk.shelf.filed) == 2 * MOST_AT_ONCE - len(bad)
    desk.clock.advance(LONGEST_PAUSE)
    due = desk.due(*bad, *good[::-1])
    assert len(due) == MOST_AT_ONCE
    assert due[:-MOST_AGAIN] == tuple(good[::-1][: MOST_AT_ONCE - MOST_AGAIN])
    assert {one.id for one in due[-MOST_AGAIN:]} < {one.id for one in bad}


def test_jobs_that_do_not_fit_are_not_copied_one_after_the_other(desk: Desk) -> None:
    """After some in a row their destination is left alone, silently: small ones still fit."""
    big = [ended(f"big{number}") for number in range(MOST_IN_VAIN + 1)]
    desk.shelf.wrong = {one.id: full() for one in big}
    for one in (*big[:-1], A, *big):
        desk.file(one)
    assert len(desk.shelf.tried) == MOST_IN_VAIN
    assert (desk.due(*big, A), desk.filing.reasons().get("/done")) == ((), None)
    desk.clock.advance(FIRST_PAUSE)
    assert desk.due(*big, A)[:2] == (big[-1], A)
    assert desk.file(A)
    desk.clock.advance(LONGEST_PAUSE)
    assert not desk.file(big[0])
    assert desk.soon(B)
    assert desk.lines.events() == ["job.unfiled"]


def test_destination_that_can_be_written_again_works_again(desk: Desk) -> None:
    """Though the job that tells it cannot be filed."""
    desk.refuse(A)
    desk.file(A)
    desk.shelf.done.refuses = None
    desk.clock.advance(FIRST_PAUSE)
    assert not desk.file(A)
    assert desk.lines.events() == ["archive.failed", "archive.works_again", "job.unfiled"]
    assert desk.filing.reasons() == {A.stem: "No space left on device"}


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
    desk.shelf.done.refuses = desk.shelf.failed.refuses = full()
    assert not desk.file(C)
    assert not desk.file(ended("worse", State.FAILED))
    assert desk.due(C, B, BAD, A) == (A, BAD, B)
    assert [desk.file(one) for one in (A, BAD, B)] == [True, True, True]


def test_far_failure_is_a_failure(desk: Desk) -> None:
    """What the thread could not file is left alone, and handed over again after the pause."""
    desk.shelf.far = True
    desk.refuse(A)
    assert not desk.file(A)
    eventually(lambda: desk.woken)
    assert desk.due(A) == (A,)
    assert not desk.file(A)
    assert desk.lines.events() == ["archive.failed"]
    assert (desk.due(A), desk.soon(A)) == ((), False)
    desk.shelf.wrong.clear()
    desk.clock.advance(FIRST_PAUSE)
    assert desk.due(A) == (A,)
    assert not desk.file(A)
    eventually(lambda: len(desk.woken) == 2)
    assert desk.file(A)
    assert desk.lines.events() == ["archive.failed", "archive.works_again"]


def test_what_was_handed_over_before_a_failure_is_not_tried(desk: Desk) -> None:
    """The thread finds out once that a destination fails, and tries the rest after the pause."""
    desk.shelf.far = True
    desk.shelf.gate.clear()
    desk.refuse(A, B)
    for one in (A, B, C):
        assert not desk.file(one)
    desk.shelf.gate.set()
    eventually(lambda: len(desk.woken) == 3)
    assert [desk.file(one) for one in desk.due(A, B, C)] == [False, False, False]
    assert (desk.shelf.tried, desk.due(A, B, C), desk.soon(A, B, C)) == (["a"], (), False)
    assert desk.filing.next() == desk.clock.now() + FIRST_PAUSE
    desk.clock.advance(FIRST_PAUSE)
    assert desk.due(A, B, C) == (B, C, A)


@pytest.mark.parametrize("error", [full(), denied(), RecursionError(), ValueError()], ids=type)
def test_thread_outlives_every_error(desk: Desk, error: Exception) -> None:
    """Whatever a job brings upon it, the next ones are filed."""
    desk.shelf.far = True
    desk.shelf.wrong["a"] = error
    for one in (A, B):
        assert not desk.file(one)
    eventually(lambda: len(desk.woken) == 2)
    assert [desk.file(one) for one in desk.due(A, B)] == [False, True]
    assert desk.shelf.filed == ["b"]
    assert desk.lines.events() == ["job.unfiled"]
    assert (desk.due(A), desk.soon(A)) == ((), False)


def test_far_is_filed_at_once_where_nobody_can_be_woken(desk: Desk) -> None:
    """Without a way to wake the turn, no thread is used."""
    desk.shelf.far, desk.filing.wake = True, None
    assert desk.file(A)
    assert desk.shelf.threads == {threading.current_thread().name}


def test_close_lets_the_thread_finish(desk: Desk) -> None:
    """The job that it is at is filed before it ends; whoever closes hears whether it has ended."""
    desk.shelf.far = True
    desk.shelf.gate.clear()
    for one in (A, B):
        desk.file(one)
    thread = desk.filing._thread
    assert thread is not None
    eventually(lambda: desk.filing._queue.qsize() == 1)
    assert not desk.filing.close()
    desk.shelf.gate.set()
    assert desk.filing.close()
    assert not thread.is_alive()
    assert desk.shelf.filed == ["a"]


def test_close_without_a_thread(desk: Desk) -> None:
    """Where nothing was far there is nothing to end."""
    desk.filing.close()
    assert desk.filing._queue.empty()
