"""Jobs that are tried again, that wait for others, or for a time: end to end."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from live import Filed, Live, eventually
from pmjq.queue import Queue
from pmjq.state import State


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """Return a daemon that most tests of this module share."""
    root = tmp_path_factory.mktemp("shared")
    with Live(root, "-j", "6", "-e", str(root / "errors")) as daemon:
        yield daemon


def job(words: str, text: str = "echo ran\n") -> str:
    """Return a job that asks for something."""
    return f"#!/bin/sh\n#PMJQ {words}\n{text}"


def pass_by(live: Live, name: str) -> None:
    """Let a job pass, so that the daemon has surely looked at the spool."""
    live.drop(name)
    live.ended(name)


def aside(live: Live, name: str, told: str) -> None:
    """Wait until a node says why an entry does not run."""
    eventually(lambda: told in live.node().get("aside", {}).get(name, ""), what=told)


def back(live: Live, name: str) -> None:
    """Wait until a job is back in the queue, for its next attempt."""
    path = live.spool / ".pmjq" / "again" / name
    eventually(lambda: path.exists() and name in live.spooled(), what=f"{name} is back")


# --- retries


def test_retries_until_it_works(live: Live) -> None:
    """Each attempt has a number, a try and its output; the last one decides."""
    text = "echo try $PMJQ_ATTEMPT\n[ $PMJQ_ATTEMPT = 3 ] || exit $((PMJQ_ATTEMPT + 4))\n"
    live.drop("works", job("retries=5 backoff=0", live.side_effect("works") + text))
    filed = live.ended("works", within=30)
    record = filed.record
    assert (record.state, record.exit_code, record.attempt) == (State.DONE, 0, 3)
    assert [(one.attempt, one.state, one.exit_code) for one in record.earlier] == [
        (1, "failed", 5),
        (2, "failed", 6),
    ]
    assert len({record.id, *(one.id for one in record.earlier)}) == 3
    tries = [line for line in filed.text.splitlines() if line.startswith("try ")]
    assert tries == ["try 1", "try 2", "try 3"]
    assert "pmjq: attempt 1 on node" in filed.text
    assert live.runs("works") == 3


def test_retries_that_are_used_up(live: Live) -> None:
    """It has failed once, with the status of the last attempt, in the error directory."""
    text = "echo try $PMJQ_ATTEMPT\nexit $PMJQ_ATTEMPT\n"
    live.drop("never-works", job("retries=2 backoff=0", live.side_effect("never-works") + text))
    filed = live.ended("never-works", within=30)
    assert (filed.record.state, filed.record.exit_code) == (State.FAILED, 3)
    assert [one.exit_code for one in filed.record.earlier] == [1, 2]
    assert filed.path.parent == live.errors
    assert [line for line in filed.text.splitlines() if line.startswith("try")] == [
        "try 1",
        "try 2",
        "try 3",
    ]
    assert live.runs("never-works") == 3
    assert len(live.told("job.ended", job="never-works")) == 1


def test_signal_is_a_failure(live: Live) -> None:
    """A job that a signal ended has failed and is tried again."""
    live.drop("signalled", job("retries=1 backoff=0", "[ $PMJQ_ATTEMPT = 2 ] || kill -9 $$\n"))
    record = live.ended("signalled", within=30).record
    assert record.state is State.DONE
    assert [one.signal for one in record.earlier] == [9]


def times(filed: Filed) -> list[tuple[datetime, datetime]]:
    """Return when each attempt of a job began and ended."""
    found: list[tuple[datetime | None, datetime | None]]
    found = [(one.started, one.ended) for one in filed.record.earlier]
    found.append((filed.record.started, filed.record.ended))
    assert all(one and other for one, other in found)
    return [(one, other) for one, other in found if one and other]


def test_pause_is_kept(live: Live) -> None:
    """The times in the record are so far apart as was asked for, each pause twice the last."""
    live.drop("paused", job("retries=3 backoff=0.4", "exit 1\n"))
    filed = live.ended("paused", within=60)
    spans = times(filed)
    pauses = [
        (later[0] - earlier[1]).total_seconds() for earlier, later in itertools.pairwise(spans)
    ]
    assert len(pauses) == 3
    assert [pause >= least for pause, least in zip(pauses, (0.39, 0.79, 1.59), strict=True)] == [
        True,
        True,
        True,
    ]


@pytest.mark.parametrize(
    "content", ["#!/no/such\n#PMJQ retries=3 backoff=0\n", "#!/bin/sh\n#PMJQ retries=3 cpu=1\n"]
)
def test_rejected_job_is_not_tried_again(content: str, live: Live) -> None:
    """It would be rejected again."""
    name = f"rejected-{len(content)}"
    live.drop(name, content)
    record = live.ended(name).record
    assert (record.state, record.attempt, record.earlier) == (State.REJECTED, 1, ())


def test_cancelled_job_is_not_tried_again(live: Live) -> None:
    """Neither one that runs nor one that waits for its next attempt."""
    gate = live.gate("cancel")
    live.drop("cancel-runs", job("retries=3 backoff=0", live.side_effect("runs") + gate.wait))
    eventually(lambda: live.runs("runs"))
    live.drop("cancel-waits", job("retries=3 backoff=600", "exit 1\n"))
    back(live, "cancel-waits")
    answers = Queue(live.spool).cancel(["cancel-runs", "cancel-waits"])
    assert [one.done for one in answers] == [True, True]
    for name in ("cancel-runs", "cancel-waits"):
        assert live.ended(name, within=40).record.state is State.CANCELLED
    assert live.runs("runs") == 1


def test_retry_that_waits_can_be_held(live: Live) -> None:
    """Hold keeps it back beyond its pause; release lets it go on where it was."""
    live.drop("held-retry", job("retries=1 backoff=6", "[ $PMJQ_ATTEMPT = 2 ]\n"))
    back(live, "held-retry")
    assert Queue(live.spool).hold(["held-retry"])[0].done
    aside(live, "held-retry", "not executable")
    assert Queue(live.spool).release(["held-retry"])[0].done
    record = live.ended("held-retry", within=60).record
    assert (record.state, record.attempt) == (State.DONE, 2)


def test_daemon_that_is_killed_between_attempts(tmp_path: Path) -> None:
    """Nothing is lost, and no try is added: the next daemon goes on, pause and all."""
    with Live(tmp_path) as live:
        text = live.side_effect("job") + "echo try $PMJQ_ATTEMPT\nexit 1\n"
        live.drop("job", job("retries=2 backoff=3", text))
        back(live, "job")
        live.kill()
        live.start()
        back(live, "job")
        filed = live.ended("job", within=60)
        assert live.runs("job") == 3
        assert [one.attempt for one in filed.record.earlier] == [1, 2]
        assert filed.record.attempt == 3
        first, second, third = times(filed)
        assert (second[0] - first[1]).total_seconds() >= 2.9
        assert (third[0] - second[1]).total_seconds() >= 5.9
        assert [line for line in filed.text.splitlines() if line.startswith("try")] == [
            "try 1",
            "try 2",
            "try 3",
        ]
        assert live.stop() == 0
        assert live.leftovers() == []


def test_daemon_that_is_killed_again_and_again(tmp_path: Path) -> None:
    """Wherever it dies, a job is tried as often as it asks for and not once more."""
    with Live(tmp_path) as live:
        live.drop("job", job("retries=6 backoff=0.2", live.side_effect("job") + "exit 1\n"))
        for count in range(1, 6):
            eventually(lambda count=count: live.runs("job") >= count, within=60)  # type: ignore[misc]  # bound
            live.kill()
            live.start()
        filed = live.ended("job", within=120)
        assert live.runs("job") == 7
        assert (filed.record.state, filed.record.attempt) == (State.FAILED, 7)
        assert [one.state for one in filed.record.earlier] == ["failed"] * 6


def test_another_node_takes_up_a_retry(tmp_path: Path) -> None:
    """What is back in the queue is anybody's, with all that is known of it."""
    with (
        Live(tmp_path / "a", "--node", "a") as first,
        Live(tmp_path / "b", "--node", "b", "-j", "0", spool=first.spool) as second,
    ):
        text = "echo try $PMJQ_ATTEMPT on $PMJQ_NODE\n[ $PMJQ_ATTEMPT = 2 ]\n"
        first.drop("job", job("retries=1 backoff=10", text))
        back(first, "job")
        assert first.stop() == 0
        assert second.stop() == 0
        second.options = (*second.options, "-j", "2")
        second.start()
        filed = second.ended("job", within=60)
        assert (filed.record.state, filed.record.node, filed.record.attempt) == (State.DONE, "b", 2)
        assert [(one.node, one.exit_code) for one in filed.record.earlier] == [("a", 1)]
        assert "try 1 on a\n" in filed.text
        assert filed.text.endswith("try 2 on b\n")


@pytest.mark.parametrize("backoff", ["9007199254740992", "1000000000000"])
def test_pause_that_no_calendar_has(backoff: str, tmp_path: Path) -> None:
    """A pause beyond any calendar is refused; the daemon goes on, and so do other jobs."""
    with Live(tmp_path) as live:
        live.drop("far", job(f"retries=1 backoff={backoff}", live.side_effect("far") + "exit 1\n"))
        assert "is no duration" in live.ended("far").record.reason
        live.drop("near")
        assert live.ended("near").record.state is State.DONE
        assert live.runs("far") == 0
        assert live.events("turn.failed") == []


def test_listed_with_its_reason(live: Live) -> None:
    """Until then a person reads which attempt it is, when it comes, and what was wrong."""
    live.drop("listed", job("retries=1 backoff=600", "exit 7\n"))
    aside(live, "listed", "attempt 2 not before 20")
    (seen,) = Queue(live.spool).show("listed")
    assert (seen.state, seen.attempt) == (State.QUEUED, 2)
    assert "7" in seen.reason.partition("Z: ")[2]
    assert [one.exit_code for one in seen.earlier] == [7]


# --- a time


def test_not_before(live: Live) -> None:
    """It is not started before its time, and soon after."""
    when = datetime.now(UTC) + timedelta(seconds=5)
    live.drop("later", job(f"not-before={when:%Y-%m-%dT%H:%M:%S.%f}Z"))
    filed = live.ended("later", within=60)
    assert filed.record.started is not None
    assert filed.record.started >= when


def test_not_before_that_is_over(live: Live) -> None:
    """A time that has passed keeps nobody."""
    live.drop("past", job("not-before=2020-01-01T00:00:00+05:00"))
    assert live.ended("past").text == "ran\n"


def test_far_future_can_be_withdrawn(live: Live) -> None:
    """A job that waits for a time is listed so, and cancelled like any."""
    live.drop("future", job("not-before=9999-12-31T23:59:59Z"))
    aside(live, "future", "not before 9999-12-31 23:59:59Z")
    (seen,) = Queue(live.spool).show("future")
    assert seen.reason == "not before 9999-12-31 23:59:59Z"
    assert Queue(live.spool).cancel(["future"])[0].done
    assert live.ended("future").record.state is State.CANCELLED


# --- others


@pytest.mark.parametrize("word", ["after", "after-any"])
def test_after(word: str, live: Live) -> None:
    """It waits while the other runs, and starts when that is done."""
    gate = live.gate(word)
    live.drop(f"{word}-1", f"{gate.wait}true\n")
    live.drop(f"{word}-2", job(f"{word}={word}-1"))
    aside(live, f"{word}-2", f"after {word}-1, which has not ended")
    gate.open()
    first, second = (live.ended(f"{word}-{number}", within=30) for number in (1, 2))
    assert second.record.state is State.DONE
    assert second.record.started is not None
    assert second.record.started >= first.record.ended


def test_after_one_that_fails(live: Live) -> None:
    """What after asks for never comes true: cancelled, with the reason; after-any does not mind."""
    live.drop("bad", "exit 3\n")
    live.ended("bad")
    live.drop("after-bad", job("after=bad"))
    live.drop("any-bad", job("after-any=bad"))
    never, anyhow = live.ended("after-bad", within=30), live.ended("any-bad", within=30)
    assert never.record.state is State.CANCELLED
    assert never.record.reason == "was to run after bad, which is failed"
    assert never.path.parent == live.errors
    assert never.record.started is None
    assert anyhow.text == "ran\n"


def test_chain(live: Live) -> None:
    """A chain that is dropped backwards runs forwards; where one fails the rest is cancelled."""
    for number in reversed(range(1, 5)):
        live.drop(f"chain{number}", job(f"after=chain{number - 1}"))
        live.drop(f"break{number}", job(f"after=break{number - 1}"))
    aside(live, "chain4", "after chain3")
    live.drop("chain0")
    live.drop("break0", "exit 1\n")
    ran = [live.ended(f"chain{number}", within=60).record for number in range(5)]
    assert {record.state for record in ran} == {State.DONE}
    assert sorted(ran, key=lambda record: record.ended) == ran
    cut = [live.ended(f"break{number}", within=60).record for number in range(1, 5)]
    assert {record.state for record in cut} == {State.CANCELLED}
    assert [record.reason for record in cut] == [
        f"was to run after break{number}, which is {'cancelled' if number else 'failed'}"
        for number in range(4)
    ]


def test_after_by_id(live: Live) -> None:
    """A job that runs has an id, which stays when its name is another's."""
    gate = live.gate("by-id")
    live.drop("by-id", f"{live.side_effect('by-id')}{gate.wait}true\n")
    eventually(lambda: live.runs("by-id"))
    (seen,) = eventually(lambda: [one for one in Queue(live.spool).show("by-id") if one.id])
    live.drop("after-id", job(f"after={seen.id}"))
    aside(live, "after-id", f"after {seen.id}, which has not ended")
    gate.open()
    assert live.ended("after-id", within=30).text == "ran\n"


def test_after_the_id_of_an_attempt_that_is_tried_again(live: Live) -> None:
    """Who waits for an attempt waits for its job, whatever ids that has later."""
    gate = live.gate("by-first-id")
    text = live.side_effect("first-id") + f"[ $PMJQ_ATTEMPT = 2 ] || {{ {gate.wait} exit 1; }}\n"
    live.drop("first-id", job("retries=1 backoff=0", text))
    eventually(lambda: live.runs("first-id"))
    (seen,) = eventually(lambda: [one for one in Queue(live.spool).show("first-id") if one.id])
    live.drop("after-first-id", job(f"after={seen.id}"))
    aside(live, "after-first-id", "which has not ended")
    gate.open()
    assert live.ended("first-id", within=30).record.state is State.DONE
    assert live.ended("after-first-id", within=30).text == "ran\n"


def test_unknown_job_is_waited_for(live: Live) -> None:
    """It may come yet; until then it is listed with its reason and blocks nobody."""
    live.drop("waits", job("after=comes-late"))
    aside(live, "waits", "after comes-late, of which nothing is known")
    pass_by(live, "canary-waits")
    (seen,) = Queue(live.spool).show("waits")
    assert seen.reason == "after comes-late, of which nothing is known"
    live.drop("comes-late")
    assert live.ended("waits", within=30).text == "ran\n"


def test_after_one_that_is_tried_again(live: Live) -> None:
    """Between two attempts it has not ended."""
    live.drop("flaky", job("retries=1 backoff=1", "[ $PMJQ_ATTEMPT = 2 ]\n"))
    live.drop("after-flaky", job("after=flaky"))
    first, second = live.ended("flaky", within=60), live.ended("after-flaky", within=60)
    assert second.record.state is State.DONE
    assert second.record.started is not None
    assert second.record.started >= first.record.ended


def test_after_one_that_is_cancelled_in_the_queue(live: Live) -> None:
    """It ended without a node, and its end is known all the same."""
    live.drop("withdrawn", mode=0o644)
    live.drop("after-withdrawn", job("after=withdrawn"))
    aside(live, "after-withdrawn", "after withdrawn")
    assert Queue(live.spool).cancel(["withdrawn"])[0].done
    record = live.ended("after-withdrawn", within=90).record
    assert record.state is State.CANCELLED
    assert record.reason == "was to run after withdrawn, which is cancelled"


@pytest.mark.parametrize("word", ["after", "after-any"])
@pytest.mark.parametrize("length", [1, 2, 3])
def test_ring(word: str, length: int, live: Live) -> None:
    """Jobs that wait for each other can never run: they are cancelled with the reason."""
    names = [f"ring-{word}-{length}-{number}" for number in range(length)]
    for name, other in zip(names, [*names[1:], names[0]], strict=True):
        live.drop(name, job(f"{word}={other}", live.side_effect("ring")))
    for name in names:
        record = live.ended(name, within=20).record
        # With after-any those that are left may run once one of them was cancelled.
        assert record.state is State.CANCELLED or (word == "after-any" and length > 1)
        assert (
            record.state is not State.CANCELLED
            or "waits for itself" in record.reason
            or (names[0].rpartition("-")[0] in record.reason)
        )


@pytest.mark.parametrize("name", ["it's", 'quote"', "back\\slash", "größe", "a b"])
def test_after_a_name_with_odd_letters(name: str, live: Live) -> None:
    """Whatever it is called, its end is found, before it is waited for and after."""
    other = f"odd {name}"
    quoted = "'after=" + other.replace("'", "'\\''") + "'"
    live.drop(f"waits-{name}", job(quoted))
    live.drop(other)
    live.ended(other)
    assert live.ended(f"waits-{name}", within=30).text == "ran\n"
    live.drop(f"comes-{name}", job(quoted))
    assert live.ended(f"comes-{name}", within=20).text == "ran\n"


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("long", "after=" + "x" * 300),
        ("very long", "after-any=" + "x" * 20_000),
        ("slash", "after=../../etc/passwd"),
        ("dots", "after=.."),
        ("own", "after=.pmjq"),
        ("many", "after=" + ",".join(f"n{number}" for number in range(3000))),
        ("nul", "'after=a\0b'"),
        ("env nul", "'env=A=a\0b'"),
        ("zone", "not-before=0001-01-01T00:00:00+14:00"),
        ("terminal", "'after=\x1b[31m'"),
    ],
)
def test_hostile_directive_stops_nobody(kind: str, words: str, tmp_path: Path) -> None:
    """Whatever a job waits for, the daemon lives, says no word of a failure, and runs others."""
    with Live(tmp_path) as live:
        live.drop("hostile", job(words))
        live.drop("canary")
        assert live.ended("canary").record.state is State.DONE
        live.drop("canary2")
        assert live.ended("canary2").record.state is State.DONE
        assert live.alive()
        assert live.events("turn.failed") == []
        assert "hostile" in live.spooled() or live.ended("hostile").record.state is State.REJECTED


def test_waiting_outlives_the_daemon(tmp_path: Path) -> None:
    """What ended while no daemon ran, or before, is known to the next."""
    with Live(tmp_path) as live:
        gate = live.gate("first")
        live.drop("first", f"{live.side_effect('first')}{gate.wait}true\n")
        eventually(lambda: live.runs("first"))
        live.drop("second", job("after=first"))
        aside(live, "second", "after first")
        live.kill()
        gate.open()
        live.start()
        assert live.ended("second", within=60).text == "ran\n"
        live.drop("third", job("after=first,second"))
        assert live.ended("third", within=30).text == "ran\n"


def test_waits_for_a_job_of_another_node(tmp_path: Path) -> None:
    """The events of all nodes tell."""
    with (
        Live(tmp_path / "a", "--node", "a") as first,
        Live(tmp_path / "b", "--node", "b", spool=first.spool) as second,
    ):
        for number in range(8):
            first.drop(f"job{number}", job(f"after=job{number - 1}") if number else "true\n")
        eventually(lambda: len([*first.filed(), *second.filed()]) == 8, within=90)
        filed = [*first.filed(), *second.filed()]
        records = sorted((one.record for one in filed), key=lambda one: one.name)
        assert {one.state for one in records} == {State.DONE}
        assert sorted(records, key=lambda one: one.ended) == records
        assert os.listdir(first.spool) == [".pmjq"]
