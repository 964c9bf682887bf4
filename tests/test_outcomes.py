"""The rules of waiting for others: when a job may run, and when it never will."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from doubles import Clock, MemDisk
from pmjq import job, naming, outcomes
from pmjq.job import Event, Record, Spec, Status, Try
from pmjq.outcomes import MAY_RUN, Outcomes, Verdict
from pmjq.spool import Spool
from pmjq.state import ENDED, State
from values import CLAIMED, attempt

ROOT = "/srv/spool"
EVENTS = f"{ROOT}/.pmjq/events"

A = "aaaaaaaa-0000-4000-8000-000000000001"
B = "bbbbbbbb-0000-4000-8000-000000000002"


@pytest.fixture
def disk() -> MemDisk:
    """Return a disk with a spool that a daemon has served."""
    disk = MemDisk(Clock())
    for name in ("events", "node", "job", "tmp", "ended"):
        disk.tree(f"{ROOT}/.pmjq/{name}")
    return disk


@pytest.fixture
def found(disk: MemDisk) -> Outcomes:
    """Return the outcomes of that spool."""
    return Outcomes(Spool(disk, ROOT))


def record(name: str, state: State = State.DONE, job_id: str = A, **changes: Any) -> Record:  # noqa: ANN401  # as fields
    """Return how a job ended."""
    given = attempt(id=job_id, name=naming.shown(name), name_hex=naming.exact(name), **changes)
    return job.record(given, Status(), state, CLAIMED.timestamp())


def tell(disk: MemDisk, *records: Record, token: str = "a.b.c") -> None:
    """Append ends to the events of a life."""
    path = f"{EVENTS}/{token}.jsonl"
    before = disk.read(path) or b""
    events = [Event("job.ended", one.ended, record=one) for one in records]
    disk.put(path, before + b"".join(msgspec.json.encode(one) + b"\n" for one in events))


def queue(disk: MemDisk, *names: str) -> None:
    """Put jobs into the spool."""
    for name in names:
        disk.put(f"{ROOT}/{name}", b"#!/bin/sh\n")


def after(*names: str) -> Spec:
    """Return what asks to run after others."""
    return Spec(after=names)


def after_any(*names: str) -> Spec:
    """Return what asks to run after others, however they end."""
    return Spec(after_any=names)


# --- one other


def test_nobody_is_waited_for(found: Outcomes) -> None:
    """Who waits for nobody may run."""
    assert found.verdict("job", Spec()) == MAY_RUN == Verdict()


@pytest.mark.parametrize("spec", [after("a"), after_any("a"), after(A), after_any(A)])
def test_unknown_job_is_waited_for(spec: Spec, found: Outcomes) -> None:
    """It may come yet."""
    verdict = found.verdict("job", spec)
    assert not verdict.never
    assert verdict.reason.endswith("of which nothing is known")


@pytest.mark.parametrize("spec", [after("a"), after_any("a")])
def test_queued_job_is_waited_for(spec: Spec, disk: MemDisk, found: Outcomes) -> None:
    """It is in the spool."""
    queue(disk, "a")
    assert found.verdict("job", spec) == Verdict("after a, which has not ended")


@pytest.mark.parametrize("spec", [after(A), after_any(A)])
def test_running_job_is_waited_for_by_its_id(spec: Spec, disk: MemDisk, found: Outcomes) -> None:
    """A node has it."""
    disk.tree(f"{ROOT}/.pmjq/node/a.b.c/run")
    disk.put(f"{ROOT}/.pmjq/node/a.b.c/run/{A}", b"")
    assert found.verdict("job", spec) == Verdict(f"after {A}, which has not ended")


@pytest.mark.parametrize("other", ["a", A])
@pytest.mark.parametrize("state", sorted(ENDED))
def test_ended_job(other: str, state: State, disk: MemDisk, found: Outcomes) -> None:
    """After one that is done it runs; after any other end only what asks for any."""
    tell(disk, record("a", state))
    assert found.verdict("job", after_any(other)) == MAY_RUN
    if state is State.DONE:
        assert found.verdict("job", after(other)) == MAY_RUN
    else:
        reason = f"was to run after {other}, which is {state}"
        assert found.verdict("job", after(other)) == Verdict(reason, never=True)


@pytest.mark.parametrize(
    "name", ["a b", "größe", "quote\"'", "back\\slash", "new\nline", "\udcff", "a" * 255, A[:8]]
)
def test_odd_names(name: str, disk: MemDisk, found: Outcomes) -> None:
    """Whatever it is called, its end is found."""
    queue(disk, name)
    assert found.verdict("job", after(name)).reason.endswith("which has not ended")
    disk.unlink(f"{ROOT}/{name}")
    tell(disk, record(name))
    assert found.verdict("job", after(name)) == MAY_RUN


@pytest.mark.parametrize("name", ["a/b", "..", ".", ".pmjq", "/etc/passwd", "", "\0", "x" * 5000])
def test_what_is_no_name(name: str, found: Outcomes) -> None:
    """What can be no job's name is never there, and stops nobody."""
    verdict = found.verdict("job", after(name))
    assert not verdict.never or verdict.reason


def test_name_is_not_a_part_of_another(disk: MemDisk, found: Outcomes) -> None:
    """Only the whole name counts."""
    tell(disk, record("abc"), record("job-a", job_id=B))
    for name in ("a", "ab", "bc", "job", A[:8]):
        assert found.verdict("x", after(name)).reason.endswith("of which nothing is known")


def test_latest_end_of_a_name_counts(disk: MemDisk, found: Outcomes) -> None:
    """Of several jobs of one name the one that ended last is meant."""
    tell(disk, record("a", State.FAILED, A), record("a", State.DONE, B))
    assert found.verdict("job", after("a")) == MAY_RUN
    assert found.verdict("job", after(A)).never


def test_another_of_the_name_that_lives(disk: MemDisk, found: Outcomes) -> None:
    """One that is in the queue is meant before those of its name that have ended."""
    tell(disk, record("a"))
    queue(disk, "a")
    assert found.verdict("job", after("a")) == Verdict("after a, which has not ended")


def test_job_that_was_tried_again_is_found_by_each_of_its_ids(
    disk: MemDisk, found: Outcomes
) -> None:
    """Each attempt has an id; who waits for one waits for the job."""
    earlier = (Try(id=A, attempt=1, node="a", state="failed", exit_code=1),)
    tell(disk, record("a", State.DONE, B, attempt=2, earlier=earlier))
    assert found.verdict("job", after(B)) == MAY_RUN
    assert found.verdict("job", after(A)) == MAY_RUN


# --- several others


def test_all_others_count(disk: MemDisk, found: Outcomes) -> None:
    """The first that has not ended is named; the last word is with the last."""
    tell(disk, record("a"))
    queue(disk, "b", "c")
    spec = Spec(after=("a", "b"), after_any=("c",))
    assert found.verdict("job", spec) == Verdict("after b, which has not ended")
    disk.unlink(f"{ROOT}/b")
    tell(disk, record("b", job_id=B))
    assert found.verdict("job", spec) == Verdict("after c, which has not ended")
    disk.unlink(f"{ROOT}/c")
    tell(disk, record("c", State.LOST, "cccccccc-0000-4000-8000-000000000003"))
    assert found.verdict("job", spec) == MAY_RUN


# --- cycles


@pytest.mark.parametrize("spec", [after("job"), after_any("job")])
def test_job_that_waits_for_itself(spec: Spec, disk: MemDisk, found: Outcomes) -> None:
    """It can never run, and its reason says so."""
    queue(disk, "job")
    assert found.verdict("job", spec) == Verdict("waits for itself", never=True)


@pytest.mark.parametrize("word", ["after", "after-any"])
@pytest.mark.parametrize("length", [2, 3, 10])
def test_jobs_that_wait_for_each_other(
    word: str, length: int, disk: MemDisk, found: Outcomes
) -> None:
    """Jobs in a ring can never run; at least one of them is told so, and the others follow."""
    names = [f"ring{number}" for number in range(length)]
    for name, other in zip(names, [*names[1:], names[0]], strict=True):
        disk.put(f"{ROOT}/{name}", f"#!/bin/sh\n#PMJQ {word}={other}\n".encode())
    others = [*names[1:], names[0]]
    asked = [after(other) if word == "after" else after_any(other) for other in others]
    verdicts = [found.verdict(name, spec) for name, spec in zip(names, asked, strict=True)]
    assert any(verdict.never for verdict in verdicts), verdicts


# --- news


def test_end_wakes_who_waits(disk: MemDisk, found: Outcomes) -> None:
    """By name and by id, and nobody else."""
    queue(disk, "a", "b")
    found.verdict("first", after("a"))
    found.verdict("second", after_any(A))
    found.verdict("third", after("b"))
    assert found.woken() == set()
    disk.unlink(f"{ROOT}/a")
    tell(disk, record("a", State.FAILED))
    assert found.woken() == {"first", "second"}
    assert found.woken() == set()
    assert found.verdict("first", after("a")).never
    assert found.verdict("second", after_any(A)) == MAY_RUN


def test_end_that_comes_before_the_first_look(disk: MemDisk, found: Outcomes) -> None:
    """What ends between two looks is in one of both, on whatever node."""
    tell(disk, record("a"), token="other.node.x")
    assert found.verdict("job", after("a")) == MAY_RUN
    found.verdict("job", after("b"))
    tell(disk, record("b", job_id=B), token="new.life.y")
    assert found.woken() == {"job"}


def test_who_is_woken_may_wait_again(disk: MemDisk, found: Outcomes) -> None:
    """One end is not all: the next is waited for in turn."""
    found.verdict("job", after("a", "b"))
    tell(disk, record("a"))
    assert found.woken() == {"job"}
    assert found.verdict("job", after("a", "b")) == Verdict("after b, of which nothing is known")
    tell(disk, record("b", job_id=B))
    assert found.woken() == {"job"}
    assert found.verdict("job", after("a", "b")) == MAY_RUN


@pytest.mark.parametrize("looks", [0, 1])
@pytest.mark.parametrize(
    ("other", "state"), [("a", State.FAILED), ("a", State.DONE), (A, State.FAILED)]
)
def test_later_end_counts(
    other: str, state: State, looks: int, disk: MemDisk, found: Outcomes
) -> None:
    """What ended once more, between two looks at it, is known by how it ended last."""
    tell(disk, record("a", State.FAILED if state is State.DONE else State.DONE))
    waits = Verdict("after b, of which nothing is known")
    assert found.verdict("job", after_any(other, "b")) == waits
    earlier = (Try(id=A, attempt=1, node="a", state="done"),)
    tell(disk, record("a", state, B, attempt=2, earlier=earlier))
    for _ in range(looks):
        assert found.woken() == set()
    verdict = found.verdict("job", after(other, "b"))
    if state is State.DONE:
        assert verdict == waits
    else:
        assert verdict == Verdict(f"was to run after {other}, which is failed", never=True)


def test_end_of_what_is_in_the_queue_again_counts_no_more(disk: MemDisk, found: Outcomes) -> None:
    """A job that was retried has not ended, also when it has been withdrawn since."""
    tell(disk, record("a"))
    spec = after("a", "b")
    assert found.verdict("job", spec) == Verdict("after b, of which nothing is known")
    queue(disk, "a")
    assert found.verdict("job", spec) == Verdict("after a, which has not ended")
    disk.unlink(f"{ROOT}/a")
    assert found.verdict("job", spec) == Verdict("after a, which has not ended")
    tell(disk, record("a", State.LOST, B))
    assert found.woken() == {"job"}
    assert found.verdict("job", spec).never


def test_end_of_what_a_node_has_again_counts_no_more(disk: MemDisk, found: Outcomes) -> None:
    """Likewise where nobody looked while it was in the queue: it is known by its paperwork."""
    tell(disk, record("a"))
    spec = after("a", "b")
    assert found.verdict("job", spec) == Verdict("after b, of which nothing is known")
    run = f"{ROOT}/.pmjq/node/a.b.c/run"
    disk.tree(run)
    disk.tree(f"{ROOT}/.pmjq/job/{B}")
    paper = msgspec.json.encode(attempt(id=B, name="a", attempt=2))
    disk.put(f"{ROOT}/.pmjq/job/{B}/claim.2.json", paper)
    disk.put(f"{run}/{B}", b"")
    assert found.verdict("job", spec) == Verdict("after a, which has not ended")
    disk.unlink(f"{run}/{B}")
    assert found.verdict("job", spec) == Verdict("after a, which has not ended")
    tell(disk, record("a", job_id=B))
    assert found.verdict("job", spec) == Verdict("after b, of which nothing is known")


def test_torn_events_count_for_nothing(disk: MemDisk, found: Outcomes) -> None:
    """Half a line is no end."""
    line = msgspec.json.encode(Event("job.ended", CLAIMED, record=record("a")))
    disk.put(f"{EVENTS}/x.jsonl", b"\xff\n{}\n" + line[: len(line) // 2])
    assert found.verdict("job", after("a")).reason
    disk.put(f"{EVENTS}/x.jsonl", b"\xff\n{}\n" + line + b"\n")
    assert found.verdict("job", after("a")) == MAY_RUN


def test_events_that_cannot_be_read(disk: MemDisk, found: Outcomes) -> None:
    """Whether others ended is not known then: an error, not a verdict."""
    disk.remove_tree(EVENTS)
    with pytest.raises(OSError, match="events"):
        found.verdict("job", after("a"))


# --- a time


def test_too_early() -> None:
    """The reason tells the time in UTC."""
    when = datetime(2026, 12, 24, 18, tzinfo=UTC)
    assert outcomes.too_early(when) == "not before 2026-12-24 18:00:00Z"
