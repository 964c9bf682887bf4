"""The rules of ``pmjq wait``: it ends when the jobs have, with the exit code of the job."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

from live import PROJECT, Live, eventually
from pmjq import Queue
from pmjq.errors import NotFoundError
from pmjq.queue import exit_code
from pmjq.seen import Seen
from pmjq.state import State
from pmjq.waiting import Waiting
from still import (
    FOR_EVER,
    HOSTILE,
    NO_INPUT,
    NOBODY,
    TIMED_OUT,
    USAGE,
    Still,
    public_directory,
    runs_now,
    typed,
    typed_as,
)


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Live]:
    """Return a daemon with some slots."""
    with Live(tmp_path, "--node", "a", "-j", "4", "--grace", "0.2") as live:
        yield live


@pytest.fixture
def background() -> Iterator[ThreadPoolExecutor]:
    """Return what waits beside the test."""
    with ThreadPoolExecutor(40) as pool:
        yield pool


def waiting(pool: ThreadPoolExecutor, live: Live, *names: str) -> Future[list[Seen]]:
    """Wait for jobs beside the test, for a while at most."""
    return pool.submit(Queue(live.spool).wait, names, 60)


@pytest.mark.parametrize(
    ("state", "code", "told"),
    [
        (State.DONE, 0, 0),
        (State.FAILED, 7, 7),
        (State.FAILED, 255, 255),
        (State.FAILED, -9, 137),
        (State.CANCELLED, -15, 143),
        (State.CANCELLED, 0, 1),
        (State.CANCELLED, None, 1),
        (State.REJECTED, None, 1),
        (State.LOST, None, 1),
    ],
)
def test_exit_codes(still: Still, state: State, code: int | None, told: int) -> None:
    """The job's own code; 128+N for signal N; 1 where there is none, or it does not count."""
    still.ended("x", state, code=code)
    found = typed(still.root, "wait", "x")
    assert (found.code, found.out, found.err) == (told, "", "")


def test_several(still: Still) -> None:
    """Of several jobs the first that did not end with 0 decides, in the order of their names."""
    still.ended("a")
    still.ended("b", State.FAILED, code=5)
    still.ended("c", State.FAILED, code=6)
    assert typed(still.root, "wait", "a").code == 0
    assert typed(still.root, "wait", "a", "b", "c").code == 5
    assert typed(still.root, "wait", "c", "a", "b").code == 6


def test_json(still: Still) -> None:
    """Each job is told with every field, in the order in which they were named."""
    still.ended("a")
    still.run("b")
    told = typed(still.root, "wait", "--timeout", "0", "--json", "b", "a")
    assert [(line["name"], line["state"]) for line in told.lines] == [
        ("b", "running"),
        ("a", "done"),
    ]
    assert {tuple(line) for line in told.lines} == {Seen.__struct_fields__}
    assert told.code == TIMED_OUT


@pytest.mark.parametrize("name", ["queued", "held", "running", "stuck", "back"])
def test_time_is_over(still: Still, name: str) -> None:
    """What has not ended when the time is over gives 124, as timeout(1) does."""
    still.put("queued")
    still.put("held", mode=0o644)
    still.run("running")
    still.node("dead", alive=False)
    still.run("stuck", "dead")
    still.back("back")
    assert typed(still.root, "wait", "--timeout", "0.1s", name).code == TIMED_OUT


def test_time_is_over_and_one_has_failed(still: Still) -> None:
    """The first that did not end with 0 decides, be it that it has not ended."""
    still.ended("a", State.FAILED, code=5)
    still.put("b")
    assert typed(still.root, "wait", "--timeout", "0", "a", "b").code == 5
    assert typed(still.root, "wait", "--timeout", "0", "b", "a").code == TIMED_OUT


@pytest.mark.parametrize("name", ["nope", "*.nope", "no\nsuch"])
def test_unknown(still: Still, name: str) -> None:
    """One that is not known is told at once, whatever else is named."""
    still.put("x")
    typed(still.root, "wait", "x", name).refused(NO_INPUT, "no such job")


@pytest.mark.parametrize(
    "words", [[], ["--timeout", "soon", "x"], ["--timeout", "-1", "x"], ["--timeout"], ["--nope"]]
)
def test_wrong_options(still: Still, words: list[str]) -> None:
    """A command line that cannot be carried out is refused."""
    typed(still.root, "wait", *words).refused(USAGE)


@pytest.mark.parametrize("name", HOSTILE)
def test_any_name(still: Still, name: str) -> None:
    """Whatever a job was called, its end is found."""
    still.ended(name, State.FAILED, code=9)
    assert typed(still.root, "wait", "--", name).code == 9


def test_withdrawn(still: Still) -> None:
    """Who waits for a job that its owner removes is told that it is gone."""
    path = still.put("x")
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(Queue(still.root).wait, ["x"], 60)
        path.unlink()
        with pytest.raises(NotFoundError):
            found.result(30)


def test_earlier_one_of_its_name(still: Still) -> None:
    """An earlier job of the same name is another one: how that ended is no answer.

    Neither when the one that is waited for is withdrawn, nor while a node is just claiming it and
    a look that saw the nodes' jobs before and the queue after that finds it nowhere.
    """
    still.ended("x", State.FAILED, code=5)
    path = still.put("x", mode=0o644)
    (seen,) = Queue(still.root).look().found("x")
    assert seen.state is State.HELD
    path.unlink()
    look = Queue(still.root).look()
    assert (look.again([seen]), look.claimed_as(seen)) == ([None], None)


def test_seen_in_the_midst_of_its_claim(still: Still) -> None:
    """The rename of a claim makes a job look younger than it is before it takes the name away."""
    path = still.put("x", mode=0o644)
    (seen,) = Queue(still.root).look().found("x")
    assert seen.queued is not None
    path.unlink()
    claimed = seen.queued - timedelta(seconds=0.01)
    queued = claimed - timedelta(seconds=9)
    record = still.ended("x", State.FAILED, code=5, ago=0, queued=queued, claimed=claimed)
    look = Queue(still.root).look()
    assert look.again([seen]) == [None]
    found = look.claimed_as(seen)
    assert found is not None
    assert found.id == record.id
    (ended,) = Waiting(Queue(still.root).look, [seen], lambda *_: None).run(60)
    assert (ended.id, ended.exit_code) == (record.id, 5)


def test_two_of_one_name(still: Still) -> None:
    """Of an ended and a queued job of one name it waits for the queued one."""
    still.ended("x")
    still.put("x", mode=0o644)
    assert typed(still.root, "wait", "--timeout", "0", "x").code == TIMED_OUT


def test_two_of_one_name_run(still: Still) -> None:
    """A name means all that have it: it waits for both."""
    ids = {still.run("x", node).id for node in ("a", "b")}
    told = typed(still.root, "wait", "--timeout", "0", "--json", "x")
    assert ({line["id"] for line in told.lines}, told.code) == (ids, TIMED_OUT)


def test_all_of_none(still: Still) -> None:
    """Where nothing of mine lives, all of it has ended."""
    assert typed(still.root, "wait", "ALL").code == 0


def test_who_may_only_read() -> None:
    """Waiting needs no right to write."""
    with public_directory() as base:
        still = Still(base / "spool")
        still.ended("x", State.FAILED, code=5)
        still.put("y")
        told = typed_as(NOBODY, still.root, "wait", "--timeout", "0", "x", "y")
        assert told.code == 5, told.err


# --- beside a daemon


def test_before_during_and_after(live: Live, background: ThreadPoolExecutor) -> None:
    """Whenever one begins to wait, the answer is the same."""
    gate = live.gate("1")
    text = f"{live.side_effect('x')}{gate.wait}exit 5\n"
    live.drop("x", text, mode=0o644)
    before = waiting(background, live, "x")
    typed(live, "release", "x")
    eventually(lambda: live.runs("x"))
    during = waiting(background, live, "x")
    gate.open()
    ends = [found.result(60)[0] for found in (before, during)]
    after = Queue(live.spool).wait(["x"])
    assert {(one.id, exit_code(one)) for one in (*ends, *after)} == {(live.ended("x").record.id, 5)}
    assert typed(live, "wait", "x").code == 5


def test_daemon_that_comes_later(tmp_path: Path, background: ThreadPoolExecutor) -> None:
    """The daemon may be down when one begins to wait."""
    live = Live(tmp_path, "--node", "a")
    live.once()
    live.drop("x", "exit 6\n")
    found = waiting(background, live, "x")
    with live:
        assert exit_code(found.result(60)[0]) == 6


def test_twenty_at_once(live: Live, background: ThreadPoolExecutor) -> None:
    """Many may wait for many jobs."""
    gate = live.gate("1")
    names = [f"x{number}" for number in range(4)]
    for number, name in enumerate(names):
        runs_now(live, name, f"{gate.wait}exit {number}\n")
    found = [waiting(background, live, *names) for _ in range(20)]

    def all_ended() -> bool:
        # Who opens the gate lets one through, or several.
        gate.try_open()
        return all(one.done() for one in found)

    eventually(all_ended, within=60)
    codes = {tuple(map(exit_code, one.result())) for one in found}
    assert codes == {(0, 1, 2, 3)}


def test_signal(live: Live) -> None:
    """A job that a signal ends gives 128+N."""
    live.drop("x", f"kill -{signal.SIGUSR1:d} $$\n")
    assert typed(live, "wait", "--timeout", "60", "x").code == 128 + signal.SIGUSR1


def test_cancelled_while_queued(live: Live, background: ThreadPoolExecutor) -> None:
    """A job that is cancelled before it ran gives 1."""
    live.drop("x", mode=0o644)
    found = waiting(background, live, "x")
    assert typed(live, "cancel", "x").code == 0
    (seen,) = found.result(60)
    assert (seen.state, exit_code(seen)) == (State.CANCELLED, 1)


def test_cancelled_while_it_runs(live: Live, background: ThreadPoolExecutor) -> None:
    """A job that is cancelled gives how it went: 128+N for the signal that ended it."""
    runs_now(live, "x", FOR_EVER)
    found = waiting(background, live, "x")
    assert typed(live, "cancel", "x").code == 0
    (seen,) = found.result(60)
    assert (seen.state, exit_code(seen)) == (State.CANCELLED, 128 + signal.SIGTERM)


def test_tried_again(live: Live, background: ThreadPoolExecutor) -> None:
    """A job that fails and is to be tried again has not ended, though its id changes."""
    gate = live.gate("1")
    text = f"test $PMJQ_ATTEMPT = 2 && exit\n{gate.wait}exit 9\n"
    runs_now(live, "x", text, "#PMJQ retries=1 backoff=0.2s\n")
    first = typed(live, "list", "--json", "x").one["id"]
    found = [waiting(background, live, name) for name in ("x", first)]
    gate.open()
    ends = [one.result(60)[0] for one in found]
    assert {(one.state, one.attempt) for one in ends} == {(State.DONE, 2)}
    assert {one.earlier[0].id for one in ends} == {first}
    assert typed(live, "wait", first).code == typed(live, "wait", "x").code == 0


def test_fails_again_and_again(live: Live) -> None:
    """Of a job that never succeeds it is the last attempt that counts."""
    live.drop("x", "#!/bin/sh\n#PMJQ retries=2 backoff=0.1s\nexit $PMJQ_ATTEMPT\n")
    assert typed(live, "wait", "--timeout", "60", "x").code == 3


def test_cancelled_between_two_attempts(live: Live, background: ThreadPoolExecutor) -> None:
    """Who waits for a job by the id it had hears that it was cancelled before it ran again."""
    gate = live.gate("1")
    runs_now(live, "x", f"{gate.wait}exit 9\n", "#PMJQ retries=1 backoff=1h\n")
    first = typed(live, "list", "--json", "x").one["id"]
    found = waiting(background, live, first)
    gate.open()
    eventually(lambda: "x" in live.spooled())
    assert typed(live, "cancel", "x").code == 0
    assert found.result(60)[0].state is State.CANCELLED


def test_returned_by_a_daemon_that_stops(tmp_path: Path, background: ThreadPoolExecutor) -> None:
    """A restartable job that is interrupted has not ended; it is waited for on."""
    with Live(tmp_path, "--node", "a", "--on-stop", "kill", "--grace", "0.2") as live:
        gate = live.gate("1")
        runs_now(live, "x", f"{gate.wait}exit 4\n", "#PMJQ restartable\n")
        found = waiting(background, live, "x")
        assert live.stop() == 0
        assert live.spooled() == ["x"]
        live.start()
        eventually(lambda: live.runs("x") == 2)
        gate.open()
        (seen,) = found.result(60)
        assert (exit_code(seen), seen.attempt, seen.earlier[0].state) == (4, 2, "interrupted")


def test_asked_for_again(live: Live) -> None:
    """A job that somebody retries is found by its first id, and waited for."""
    live.drop("x", "test $PMJQ_ATTEMPT -gt 1 || exit 9\n")
    assert typed(live, "wait", "--timeout", "60", "x").code == 9
    first = live.ended("x").record.id
    assert typed(live, "retry", "x").code == 0
    assert typed(live, "wait", "--timeout", "60", "x").code == 0
    eventually(lambda: len(live.named("x")) == 2)
    assert typed(live, "wait", "--timeout", "60", first).code == 0


def test_next_of_the_same_name(live: Live, background: ThreadPoolExecutor) -> None:
    """Each wait is for the job that had the name when it began."""
    for code in (0, 5, 0, 6):
        live.drop("x", f"exit {code}\n", mode=0o644)
        found = waiting(background, live, "x")
        # It looks for the first time before the job may go: held, it cannot be missed.
        eventually(lambda found=found: found.running())  # type: ignore[misc]  # bound at once
        typed(live, "release", "x")
        assert exit_code(found.result(60)[0]) == code


def test_one_name_again_and_again(live: Live) -> None:
    """Whoever submits under one name again hears of the job that was just submitted, every time."""
    for number in range(30):
        live.drop("x", f"exit {number}\n")
        assert typed(live, "wait", "--timeout", "60", "x").code == number


def test_interrupted(live: Live) -> None:
    """Ctrl-C ends it with 130 and one line at most."""
    runs_now(live, "x", FOR_EVER)
    command = [sys.executable, "-m", "pmjq", "wait", "-s", str(live.spool), "x"]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": PROJECT}
    )
    wchan = Path(f"/proc/{process.pid}/wchan")
    eventually(lambda: "nanosleep" in wchan.read_text(), what="it waits")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err.strip()) == (130, b"")
