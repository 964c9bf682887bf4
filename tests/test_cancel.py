"""The rules of ``pmjq cancel``: a queued job ends at once, a running one is ended by its node."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from live import Live, eventually
from pmjq import Queue, naming
from pmjq.errors import NotFoundError
from pmjq.state import State
from pmjq.steering import Answer
from still import (
    BUSY,
    FOR_EVER,
    HOSTILE,
    NO_INPUT,
    NOBODY,
    NOT_SO,
    SOMEBODY,
    USAGE,
    Still,
    given_to,
    new_id,
    public_directory,
    runs_now,
    snapshot,
    typed,
    typed_as,
)


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Live]:
    """Return a daemon with some slots."""
    with Live(tmp_path, "--node", "a", "-j", "4", "--grace", "0.2") as live:
        yield live


def asked(still: Still) -> list[str]:
    """Return the ids of the jobs that nodes are asked to end."""
    return sorted(
        path.name.removeprefix("cancel.") for path in still.own.glob("node/*/ask/cancel.*")
    )


# --- without a daemon


@pytest.mark.parametrize("mode", [0o755, 0o644])
def test_queued_and_held(still: Still, mode: int) -> None:
    """It is out of the queue at once, with a record that says who wanted that."""
    still.put("x", mode=mode)
    told = typed(still.root, "cancel", "x")
    assert (told.code, told.out, told.err) == (0, "x: cancelled\n", "")
    assert still.listed() == []
    (record,) = still.records()
    assert (record.name, record.state, record.node) == ("x", State.CANCELLED, "")
    assert record.reason == f"cancelled by {record.owner} before it was started"
    shown = typed(still.root, "show", "--json", "x").one
    assert (shown["state"], shown["id"]) == ("cancelled", record.id)
    assert typed(still.root, "wait", "x").code == 1


def test_twice(still: Still) -> None:
    """What is cancelled cannot be cancelled again, and has one record."""
    still.put("x")
    assert typed(still.root, "cancel", "x").code == 0
    typed(still.root, "cancel", "x").refused(NOT_SO, "x: has ended already (cancelled)")
    assert len(still.records()) == 1


def test_named_twice(still: Still) -> None:
    """A job that is named twice is cancelled once, and that is no error."""
    still.put("x")
    assert typed(still.root, "cancel", "x", "x", f"{still.root}/x").code == 0
    assert len(still.records()) == 1


@pytest.mark.parametrize("state", [State.DONE, State.FAILED, State.CANCELLED, State.LOST])
def test_ended(still: Still, state: State) -> None:
    """What has ended stays as it is."""
    still.ended("x", state)
    typed(still.root, "cancel", "x").refused(NOT_SO, f"has ended already ({state})")


def test_ended_and_queued(still: Still) -> None:
    """Of one name it is the queued job that is cancelled."""
    record = still.ended("x")
    still.put("x")
    assert typed(still.root, "cancel", "x").code == 0
    assert (still.listed(), len(still.records())) == ([], 1)
    assert typed(still.root, "show", "--json", record.id).one["state"] == "done"


@pytest.mark.parametrize("name", ["nope", "*.nope", "no\nsuch"])
def test_unknown(still: Still, name: str) -> None:
    """One that is not known is told, and nothing at all is done."""
    still.put("x")
    typed(still.root, "cancel", "x", name).refused(NO_INPUT, "no such job")
    assert still.listed() == ["x"]


def test_running_is_asked_of_its_node(still: Still) -> None:
    """A node that lives is asked, and asked once."""
    attempt = still.run("x")
    told = typed(still.root, "cancel", "x")
    assert (told.code, told.out) == (0, "x: node a is asked to end it\n")
    again = typed(still.root, "cancel", attempt.id)
    assert (again.code, "asked already" in again.out) == (0, True)
    assert asked(still) == [attempt.id]


def test_node_that_is_dead(still: Still) -> None:
    """A dead node hears nothing: that is said; the request stays for whoever takes the job over."""
    still.node("a", alive=False)
    attempt = still.run("x")
    typed(still.root, "cancel", "x").refused(NOT_SO, "node a is dead", "takes the job over")
    assert asked(still) == [attempt.id]


def test_two_of_one_name_run(still: Still) -> None:
    """A name means all that have it: both are asked for."""
    ids = sorted(still.run("x", node).id for node in ("a", "b"))
    assert typed(still.root, "cancel", "x").code == 0
    assert asked(still) == ids


def test_unique_prefix(still: Still) -> None:
    """The start of an id that one job has means that one."""
    first, _ = (still.run(start, id=new_id(start)).id for start in ("abcdef01", "abcdef02"))
    assert typed(still.root, "cancel", first[:13]).code == 0
    assert asked(still) == [first]


def test_ambiguous_prefix(still: Still) -> None:
    """The start of an id that two jobs have means neither: nothing is ended by a slip."""
    for number in (1, 2):
        still.run(f"x{number}", id=new_id(f"abcdef0{number}"))
    told = typed(still.root, "cancel", "abcdef0")
    assert asked(still) == []
    told.refused(USAGE, "abcdef01", "abcdef02")


def test_patterns(still: Still) -> None:
    """A pattern means the living jobs of such names."""
    for name in ("a1", "a2", "b"):
        still.put(name)
    still.ended("a0")
    assert typed(still.root, "cancel", "a*").code == 0
    assert still.listed() == ["b"]


def test_name_that_is_a_pattern_too(still: Still) -> None:
    """A job with such a name is meant before those that the pattern would mean."""
    for name in ("[ab]", "a", "b"):
        still.put(name)
    assert typed(still.root, "cancel", "[ab]").code == 0
    assert still.listed() == ["a", "b"]


def test_all(still: Still) -> None:
    """ALL means all of mine that live, also none, and nothing that is no job."""
    assert typed(still.root, "cancel", "ALL").code == 0
    for name in ("a", "b"):
        still.put(name)
    still.put(".hidden")
    attempt = still.run("r")
    if os.geteuid() == 0:
        still.put("his", uid=SOMEBODY)
    assert typed(still.root, "cancel", "ALL").code == 0
    assert set(still.listed()) <= {".hidden", "his"}
    assert asked(still) == [attempt.id]


def test_path_to_another_file_of_that_name(still: Still) -> None:
    """A path that leads elsewhere cancels nothing here."""
    still.put("x")
    other = still.root.parent / "x"
    other.write_text("mine\n")
    typed(still.root, "cancel", str(other)).refused(NO_INPUT)
    assert still.listed() == ["x"]


def test_no_job(still: Still) -> None:
    """What is left alone as no job is not touched."""
    still.put(".hidden")
    (still.root / "archive").mkdir()
    for name in (".hidden", "archive"):
        typed(still.root, "cancel", name).refused(NOT_SO, "is no job")
    assert still.listed() == [".hidden", "archive"]


def test_directory_job(still: Still) -> None:
    """A directory with an info file is cancelled with all that is in it."""
    (still.root / "d").mkdir()
    (still.root / "d" / "job.toml").write_text('script = "true"\n')
    assert typed(still.root, "cancel", "d").code == 0
    assert (still.listed(), still.records()[0].state) == ([], State.CANCELLED)


def test_link_and_wrong_directives(still: Still) -> None:
    """What could never run can be cancelled like anything else in the queue."""
    (still.root / "link").symlink_to("nowhere")
    still.put("wrong", "#!/bin/sh\n#PMJQ nope\n")
    assert typed(still.root, "cancel", "link", "wrong").code == 0
    assert still.listed() == []


@pytest.mark.parametrize("name", HOSTILE)
def test_any_name(still: Still, name: str) -> None:
    """Whatever a job is called, it is cancelled, told of in one line, and recorded exactly."""
    still.put(name)
    told = typed(still.root, "cancel", "--", name)
    assert (told.code, told.out.count("\n"), told.out[:-1].isprintable()) == (0, 1, True)
    (record,) = still.records()
    assert naming.real_name(record.name, record.name_hex) == name


def test_between_two_attempts(still: Still) -> None:
    """A job that was to be tried again is cancelled; what came before is known from its record."""
    tried = still.back("x", output=b"first\n")
    assert typed(still.root, "cancel", "x").code == 0
    shown = typed(still.root, "show", "--json", "x").one
    assert (shown["state"], shown["attempt"]) == ("cancelled", 2)
    assert [one["id"] for one in shown["earlier"]] == [tried.id]


def test_between_two_attempts_nothing_stays(still: Still) -> None:
    """Nothing is remembered for a next attempt that there will not be."""
    still.back("x")
    assert typed(still.root, "cancel", "x").code == 0
    assert list((still.own / "again").iterdir()) == []


def test_between_two_attempts_its_output(still: Still) -> None:
    """What it wrote before is its output still."""
    still.back("x", output=b"first\n")
    assert typed(still.root, "cancel", "x").code == 0
    assert typed(still.root, "logs", "x").out == "first\n"


@pytest.mark.parametrize("mode", [0o755, 0o644])
def test_what_it_asks_for_is_in_its_record(still: Still, mode: int) -> None:
    """What a queued or held job asked for is known of it afterwards, and finds it."""
    still.put("x", "#!/bin/sh\n#PMJQ cpus=2 tags=red\n", mode=mode)
    still.put("y")
    assert typed(still.root, "cancel", "x", "y").code == 0
    told = typed(still.root, "history", "--json", "--tag", "red").one
    assert (told["name"], told["directives"]) == ("x", ["cpus=2", "tags=red"])
    assert "directives  cpus=2 tags=red" in typed(still.root, "show", "x").out.splitlines()


def test_what_one_of_very_many_asks_for(still: Still) -> None:
    """It is in its record also where the queue is so long that it was not opened to be listed."""
    still.crowd()
    still.put("x1", "#!/bin/sh\n#PMJQ tags=red\n")
    assert typed(still.root, "cancel", "x*").code == 0
    assert typed(still.root, "history", "--json", "--tag", "red").one["name"] == "x1"


def test_many_at_once(still: Still) -> None:
    """Of many who cancel one job one does; there is one record, and no other trace."""
    queue = Queue(still.root)
    with ThreadPoolExecutor(8) as pool:
        for number in range(10):
            name = f"x{number}"
            still.put(name)
            asked = [pool.submit(queue.cancel, [name]) for _ in range(8)]
            told = [answer for one in asked if (answer := answered(one)) is not None]
            assert [answer.text for answer in told].count("cancelled") == 1
            assert len(still.records()) == number + 1
    assert (still.listed(), list((still.own / "tmp").iterdir())) == ([], [])
    assert len(list((still.own / "job").iterdir())) == 10


def answered(asked: Future[list[Answer]]) -> Answer | None:
    """Return what came of a request; None if there was no such job any more."""
    try:
        return asked.result(60)[0]
    except NotFoundError:
        return None


def test_json(still: Still) -> None:
    """A line for each job, with every field, done or not."""
    still.put("x")
    record = still.ended("y")
    told = typed(still.root, "cancel", "--json", "x", "y")
    first, second = told.lines
    assert {tuple(first), tuple(second)} == {Answer.__struct_fields__}
    assert (first["name"], first["done"], first["id"]) == ("x", True, still.records()[0].id)
    assert (second["name"], second["done"], second["id"]) == ("y", False, record.id)
    assert (told.code, told.err) == (NOT_SO, "")


@pytest.mark.parametrize("words", [[], ["--json"], ["--nope", "x"], ["-s", "", "x"]])
def test_wrong_options(still: Still, words: list[str]) -> None:
    """A command line that cannot be carried out is refused; it never means everything."""
    still.put("x")
    typed(still.root, "cancel", *words).refused(USAGE)
    assert still.listed() == ["x"]


# --- not mine


@pytest.mark.parametrize("owner", [0, SOMEBODY])
def test_not_mine(owner: int) -> None:
    """Who may not write the spool is told so, be the job queued or running; nothing is lost."""
    with public_directory() as base:
        still = Still(base / "spool")
        still.put("q")
        still.run("r")
        given_to(owner, still.root)
        before = snapshot(still.root)
        for name in ("q", "r"):
            told = typed_as(NOBODY, still.root, "cancel", name)
            assert (told.code, told.out) == (NOT_SO, ""), told.err
            assert "only its owner can do that" in told.err
        assert snapshot(still.root) == before


def test_mine_in_a_spool_for_everybody() -> None:
    """My own job in a spool whose tree is root's is withdrawn; others' are not mine to remove."""
    with public_directory() as base:
        still = Still(base / "spool")
        still.root.chmod(0o1777)
        if os.geteuid():
            pytest.skip("this user is not root, so has no files of others")
        still.put("mine", uid=NOBODY)
        still.put("his", uid=SOMEBODY)
        told = typed_as(NOBODY, still.root, "cancel", "mine", "his")
        assert told.code == NOT_SO
        assert told.out == "mine: withdrawn, without a record\n"
        assert "pmjq: his: Operation not permitted" in told.err
        assert still.listed() == ["his"]
        assert list((still.own / "tmp").iterdir()) == []


# --- beside a daemon


def test_filed_by_the_next_daemon(tmp_path: Path) -> None:
    """What was cancelled while none ran is filed when one does: exactly one record, never run."""
    live = Live(tmp_path, "--node", "a")
    live.once()
    live.drop("x", live.side_effect("x"))
    assert typed(live, "cancel", "x").code == 0
    told = typed(live, "history", "--json").one
    with live:
        filed = live.ended("x")
        assert (filed.record.state, filed.record.id) == (State.CANCELLED, told["id"])
        live.drop("y")
        live.ended("y")
        assert [line["id"] for line in typed(live, "history", "--json", "--name", "x").lines] == [
            told["id"]
        ]
        assert live.stop() == 0
        assert (live.runs("x"), len(live.named("x")), live.leftovers()) == (0, 1, [])


def test_filed_by_a_daemon_that_runs(tmp_path: Path) -> None:
    """A daemon that runs files it at once: not when it lists the spool again."""
    with Live(tmp_path, "--poll", "1000") as live:
        live.drop("x", live.side_effect("x"), mode=0o644)
        assert typed(live, "cancel", "x").code == 0
        assert live.ended("x").record.state is State.CANCELLED
        assert live.runs("x") == 0


def test_running(live: Live) -> None:
    """Its whole tree gets TERM; its record says how it ended, and who wanted that."""
    runs_now(live, "x", "setsid sleep 1000 &\n(sleep 1000; :) &\nsleep 1000\n")
    told = typed(live, "cancel", "x")
    assert (told.code, told.out) == (0, "x: node a is asked to end it\n")
    record = live.ended("x").record
    assert (record.state, record.signal) == (State.CANCELLED, signal.SIGTERM)
    assert record.reason == f"cancelled by {record.owner}"
    eventually(lambda: not live.jobs(), what="every process of the tree is gone")


def test_grace(live: Live) -> None:
    """What does not heed TERM gets KILL when its own grace is over."""
    runs_now(live, "x", BUSY, "#PMJQ grace=1s\n", "trap 'echo asked' TERM\n")
    assert typed(live, "cancel", "x").code == 0
    filed = live.ended("x")
    assert (filed.record.state, filed.record.signal) == (State.CANCELLED, signal.SIGKILL)
    assert "asked" in filed.text
    asked, made = live.told("jobs.signalled", 2)
    assert (asked["signal"], made["signal"]) == ("TERM", "KILL")
    assert asked["timestamp"] < made["timestamp"]


def test_ends_by_itself_within_its_grace(live: Live) -> None:
    """One that heeds TERM and ends with a code of its own is cancelled all the same."""
    runs_now(live, "x", BUSY, "#PMJQ grace=60s\n", "trap 'exit 3' TERM\n")
    assert typed(live, "cancel", "x").code == 0
    record = live.ended("x").record
    assert (record.state, record.exit_code) == (State.CANCELLED, 3)


@pytest.mark.parametrize("asks", ["restartable", "retries=5 backoff=0.1s"])
def test_does_not_run_again(live: Live, asks: str) -> None:
    """One that may run again, or asks for it, does not once it is cancelled."""
    runs_now(live, "x", FOR_EVER, f"#PMJQ {asks}\n")
    assert typed(live, "cancel", "x").code == 0
    assert live.ended("x").record.state is State.CANCELLED
    # A job that comes later and ends has the daemon have looked at the queue since.
    live.drop("y")
    live.ended("y")
    assert (live.runs("x"), live.spooled(), len(live.named("x"))) == (1, [], 1)


def test_while_it_pauses_between_attempts(live: Live) -> None:
    """One that is to be tried again is cancelled in the queue, and is not."""
    gate = live.gate("1")
    runs_now(live, "x", f"{gate.wait}exit 1\n", "#PMJQ retries=5 backoff=1h\n")
    gate.open()
    eventually(lambda: live.spooled() == ["x"])
    assert typed(live, "cancel", "x").code == 0
    assert live.ended("x").record.state is State.CANCELLED
    assert live.runs("x") == 1


def test_on_another_node(tmp_path: Path) -> None:
    """Whichever node runs it, that one ends it."""
    spool = tmp_path / "spool"
    with (
        Live(tmp_path / "a", "--node", "a", "-j", "0", spool=spool),
        Live(tmp_path / "b", "--node", "b", "-j", "1", spool=spool) as there,
    ):
        runs_now(there, "x", FOR_EVER)
        assert typed(spool, "cancel", "x").out == "x: node b is asked to end it\n"
        assert there.ended("x").record.state is State.CANCELLED


def test_on_a_node_that_was_killed(tmp_path: Path) -> None:
    """A node whose daemon and keepers are gone hears nothing, and is said to be dead."""
    with Live(tmp_path, "--node", "a") as live:
        runs_now(live, "x", FOR_EVER)
        keepers = live.keepers()
        live.kill()
        for pid in keepers:
            os.kill(pid, signal.SIGKILL)
        typed(live, "cancel", "x").refused(NOT_SO, "node a is dead")


def test_request_outlives_the_daemon(live: Live) -> None:
    """The next daemon of the node carries on what was asked, be it in the midst of the grace."""
    runs_now(live, "x", BUSY, "#PMJQ grace=2s\n", "trap 'echo asked' TERM\n")
    assert typed(live, "cancel", "x").code == 0
    live.said("jobs.signalled")
    live.kill()
    live.start()
    record = live.ended("x").record
    assert (record.state, record.signal) == (State.CANCELLED, signal.SIGKILL)


def test_request_to_a_daemon_that_stops(live: Live) -> None:
    """What was asked just before the daemon was stopped is not forgotten."""
    runs_now(live, "x", FOR_EVER)
    live.tell(signal.SIGSTOP)
    assert typed(live, "cancel", "x").code == 0
    live.kill()
    live.start()
    assert live.ended("x").record.state is State.CANCELLED


def test_claimed_ahead(tmp_path: Path) -> None:
    """Jobs that a node has claimed and not started are cancelled, and are never started."""
    with Live(tmp_path, "--node", "a", "-j", "1") as live:
        names = [f"x{number}" for number in range(20)]
        live.drop("first", "sleep 0.3\n")
        for name in names:
            live.drop(name, f"{live.side_effect(name)}sleep 0.02\n")
        queue = Queue(live.spool)
        answers = {name: queue.cancel([name])[0] for name in reversed(names)}
        for name in names:
            record = live.ended(name).record
            expected = {State.CANCELLED, State.DONE}
            assert record.state in expected
            if answers[name].text == "cancelled":
                assert (record.state, live.runs(name)) == (State.CANCELLED, 0)
            assert live.runs(name) <= 1
        assert live.spooled() == []


@pytest.mark.parametrize("moment", ["as it comes", "as it runs", "as it ends"])
def test_race(live: Live, moment: str) -> None:
    """Whenever it is cancelled, it is recorded once; what was said to be cancelled never ran."""
    queue = Queue(live.spool)
    answers: dict[str, Answer] = {}
    for number in range(30):
        name = f"x{number}"
        pause = "" if moment == "as it ends" else "sleep 0.01\n"
        live.drop(name, live.side_effect(name) + pause)
        if moment != "as it comes":
            eventually(lambda name=name: live.runs(name))  # type: ignore[misc]  # bound at once
        (answers[name],) = queue.cancel([name])
    for name, answer in answers.items():
        record = live.ended(name).record
        assert record.state in (State.DONE, State.CANCELLED), record
        assert live.runs(name) <= 1
        if answer.text == "cancelled":
            assert (record.state, record.id, live.runs(name)) == (State.CANCELLED, answer.id, 0)
        if not answer.done:
            assert (record.state, "ended already" in answer.text) == (State.DONE, True), answer
    told = Counter(one.name for one in queue.history())
    assert told == Counter(dict.fromkeys(answers, 1))
    assert live.spooled() == []


def test_request_that_comes_too_late_is_forgotten(live: Live) -> None:
    """A request about a job that is gone meanwhile is cleared away, and ends no other job."""
    (ask,) = (live.spool / ".pmjq" / "node").glob("*/ask")
    (ask / f"cancel.{new_id()}").touch()
    live.drop("x")
    assert live.ended("x").record.state is State.DONE
    eventually(lambda: not list(ask.iterdir()))


def test_name_of_the_asker() -> None:
    """The reason names who asked, by the owner of the request, not whose daemon or job it is."""
    if os.geteuid():
        pytest.skip("this user is not root, so cannot be another one")
    with public_directory() as base, Live(base, "--node", "a") as live:
        runs_now(live, "x", FOR_EVER)
        (ask,) = (live.spool / ".pmjq" / "node").glob("*/ask")
        (seen,) = Queue(live.spool).list()
        request = ask.parent / "request"
        request.touch()
        os.chown(request, NOBODY, NOBODY)
        request.rename(ask / f"cancel.{seen.id}")
        reason = live.ended("x").record.reason
        assert reason == "cancelled by nobody"
