"""The rules of ``Queue``: the same verbs for a program, and exceptions for what is wrong."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import pmjq
from live import PROJECT, Live, eventually
from pmjq import Queue, cli, job
from pmjq.disk import Disk
from pmjq.errors import (
    CannotCreateError,
    NotFoundError,
    NotPermittedError,
    PmjqError,
    UsageError,
)
from pmjq.job import Again, Event, Status
from pmjq.queue import exit_code
from pmjq.state import State
from still import NOBODY, TOO_LONG, Still, public_directory, snapshot


@pytest.fixture
def queue(still: Still) -> Queue:
    """Return its queue."""
    return Queue(still.root)


NOT_OF_A_QUEUE = {"doctor", "top", "web"}
"""Verbs about a file system, and for a person before a screen."""


def test_every_verb_is_a_method() -> None:
    """The same word is the method, with a docstring that says what it does."""
    for verb in cli.VERBS - NOT_OF_A_QUEUE:
        assert inspect.getdoc(getattr(Queue, verb)), verb


def test_import_is_light() -> None:
    """``from pmjq import Queue`` imports nothing of the daemon, ``import pmjq`` next to nothing."""
    code = (
        "import sys, pmjq\n"
        "assert 'pmjq.queue' not in sys.modules\n"
        "from pmjq import Queue\n"
        "heavy = 'anyio asyncio psutil structlog watchfiles click pmjq.daemon'.split()\n"
        "print(sorted({*heavy} & {*sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        check=True,
        text=True,
        env={**os.environ, "PYTHONPATH": PROJECT},
    )
    assert done.stdout == "[]\n"


def test_what_the_package_has() -> None:
    """``Queue`` and the version; anything else is an AttributeError, as of any module."""
    assert sorted(pmjq.__all__) == ["Queue", "__version__"]
    with pytest.raises(AttributeError, match="Nope"):
        _ = pmjq.Nope


def test_which_spool(still: Still, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that is given; else $PMJQ_SPOOL; else the current directory; empty is refused."""
    still.put("x")
    monkeypatch.setenv("PMJQ_SPOOL", str(tmp_path / "nope"))
    for spool in (still.root, str(still.root)):
        assert [one.name for one in Queue(spool).list()] == ["x"]
    with pytest.raises(NotFoundError):
        Queue().list()
    monkeypatch.setenv("PMJQ_SPOOL", str(still.root))
    assert Queue().path == str(still.root)
    monkeypatch.setenv("PMJQ_SPOOL", "")
    monkeypatch.chdir(still.root)
    assert Queue().path == str(still.root)
    with pytest.raises(UsageError):
        Queue("")


def test_it_means_the_same_spool_wherever_one_goes(
    still: Still, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A queue that was named by a relative path stays that queue."""
    still.put("x")
    monkeypatch.chdir(tmp_path)
    queue = Queue("spool")
    monkeypatch.chdir("/")
    assert [one.name for one in queue.list()] == ["x"]


def test_making_one_touches_nothing(tmp_path: Path) -> None:
    """A queue may be made before its spool; only its verbs tell that there is none."""
    queue = Queue(tmp_path / "later")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(NotFoundError):
        queue.list()
    Still(tmp_path / "later").put("x")
    assert [one.name for one in queue.list()] == ["x"]


def test_submit_and_list(queue: Queue) -> None:
    """A job that is submitted has the name that is returned, and finds it from then on."""
    name = queue.submit(["echo", "hello"])
    assert name.startswith("echo.")
    (seen,) = queue.list([name])
    assert (seen.name, seen.state, seen.living) == (name, State.QUEUED, True)
    held = queue.submit(b"#!/bin/sh\n", name="mine", held=True, cpus=2, tags=("a", "b"))
    (seen,) = queue.list([held])
    assert (seen.state, held[:5]) == (State.HELD, "mine.")
    assert queue.release([held])[0].done
    (seen,) = queue.show(held)
    assert {"cpus=2", "tags=a", "tags=b"} <= set(seen.directives)


@pytest.mark.parametrize(
    "asked", [{"cpu": 2}, {"cpus": 0}, {"retries": -1}, {"memory": "much"}, {"env": "x"}]
)
def test_submit_of_what_cannot_be_asked(queue: Queue, asked: dict[str, object]) -> None:
    """A key or value that there is not is refused, and nothing is submitted."""
    with pytest.raises(UsageError):
        queue.submit(["true"], **asked)  # type: ignore[arg-type]  # that is the point
    assert queue.list() == []


@pytest.mark.parametrize("command", [[], ["a\0b"], [b"a\0b"]])
def test_submit_of_no_command(queue: Queue, command: list[str]) -> None:
    """Words that no program could be called with are refused."""
    with pytest.raises(UsageError):
        queue.submit(command)
    assert queue.list() == []


@pytest.mark.parametrize("name", ["nope", *TOO_LONG])
def test_unknown(queue: Queue, name: str) -> None:
    """A job that is not there is the same exception for every verb."""
    for verb in ("cancel", "hold", "release", "retry", "wait", "list"):
        with pytest.raises(NotFoundError):
            getattr(queue, verb)([name])
    for verb in ("show", "logs"):
        with pytest.raises(NotFoundError):
            getattr(queue, verb)(name)
    for verb in ("drain", "resume"):
        with pytest.raises(NotFoundError):
            getattr(queue, verb)([name])


def test_logs_complain_before_they_are_read(still: Still, queue: Queue) -> None:
    """What is wrong is told when one asks, not when one reads."""
    for node in ("a", "b"):
        still.run("x", node)
    with pytest.raises(UsageError):
        queue.logs("x")


def test_nothing_is_printed(still: Still, queue: Queue, capfd: pytest.CaptureFixture[str]) -> None:
    """A program prints itself what it wants to print."""
    still.put("x")
    still.ended("y")
    for seen in (*queue.list(), *queue.history(), *queue.show("x")):
        queue.reasons(seen)
    assert [answer.done for answer in queue.cancel(["x", "y"])] == [True, False]
    queue.wait(["x"], 0)
    list(queue.prune(datetime.now(UTC)).run())
    assert capfd.readouterr() == ("", "")


def test_steering(still: Still, queue: Queue) -> None:
    """What came of a request is an answer for each job; the states are true afterwards."""
    still.put("x")
    still.node("a")
    assert [one.text for one in queue.hold(["x"])] == ["held"]
    assert queue.list()[0].state is State.HELD
    assert [one.done for one in queue.release(["x"])] == [True]
    assert [one.done for one in queue.drain(["a"])] == [True]
    assert [one.done for one in queue.resume(["a"])] == [True]
    assert [one.done for one in queue.cancel(["x"])] == [True]
    (seen,) = queue.wait(["x"])
    assert (seen.state, exit_code(seen)) == (State.CANCELLED, 1)
    assert [one.name for one in queue.nodes()] == ["a"]


def test_history(still: Still, queue: Queue) -> None:
    """Newest first, as many as one reads; the filters are those of the verb."""
    for number in range(5):
        still.ended(f"x{number}", ago=100 - number)
    assert [one.name for one in queue.history(most=2)] == ["x4", "x3"]
    assert next(queue.history()).name == "x4"
    since = datetime.now(UTC) - timedelta(seconds=97.5)
    assert [one.name for one in queue.history(since=since)] == ["x4", "x3"]
    assert [one.name for one in queue.history(name="x[01]")] == ["x1", "x0"]


def test_prune(still: Still, queue: Queue) -> None:
    """Nothing is removed before it is carried out."""
    still.ended("x")
    before = snapshot(still.root)
    pruning = queue.prune(datetime.now(UTC))
    assert snapshot(still.root) == before
    counts: list[int] = []
    assert [one.removed for one in pruning.run(counts.append)] == [True]
    assert counts == [1]


def test_wait_tells_how_far_it_is(still: Still, queue: Queue) -> None:
    """Who waits hears how many have ended, and of how many."""
    still.ended("x")
    still.put("y")
    heard: list[tuple[int, int]] = []
    seen = queue.wait(["x", "y"], 0.2, lambda *count: heard.append(count))
    assert [one.living for one in seen] == [False, True]
    assert set(heard) == {(1, 2)}


class Meanwhile(Disk):
    """A disk on which something happens once, just before a certain directory is listed."""

    def __init__(self, directory: str, happens: Callable[[], object]) -> None:
        self.directory = directory
        self.happens: Callable[[], object] | None = happens

    def names(self, path: str) -> list[str]:
        """Let it happen, then list."""
        if path == self.directory and self.happens is not None:
            happens, self.happens = self.happens, None
            happens()
        return super().names(path)


ONE_LOOK: dict[str, Callable[[Queue], Sequence[object]]] = {
    "list": lambda queue: queue.list(),
    "list x": lambda queue: queue.list(["x"]),
    "list *": lambda queue: queue.list(["*"]),
    "show x": lambda queue: queue.show("x"),
    "logs x": lambda queue: [b"".join(queue.logs("x"))],
    "cancel x": lambda queue: queue.cancel(["x"]),
    "cancel ALL": lambda queue: queue.cancel(["ALL"]),
    "wait x": lambda queue: queue.wait(["x"], 0.2),
    "wait ALL": lambda queue: queue.wait(["ALL"], 0.2),
}


@pytest.mark.parametrize("look", ONE_LOOK)
@pytest.mark.parametrize("listed", ["spool", "run"])
def test_claimed_while_one_looks(still: Still, queue: Queue, look: str, listed: str) -> None:
    """A job that a node claims between two of our system calls is missed by no verb."""
    spool, attempt = still.node(), still.attempt("x")
    still.put("x")
    spool.prepare_claim(attempt)
    directory = spool.root if listed == "spool" else f"{spool.own}/node/{spool.token}/run"
    queue._disk = Meanwhile(directory, lambda: spool.claim(attempt))
    assert len(ONE_LOOK[look](queue)) == 1


@pytest.mark.parametrize("look", ONE_LOOK)
@pytest.mark.parametrize("listed", ["spool", "run"])
def test_returned_while_one_looks(still: Still, queue: Queue, look: str, listed: str) -> None:
    """Nor is one that goes back to the queue at that moment, or taken for two."""
    spool, attempt = still.node(), still.run("x")
    directory = spool.root if listed == "spool" else f"{spool.own}/node/{spool.token}/run"
    queue._disk = Meanwhile(directory, lambda: spool.give_back(attempt, Again(2)))
    assert len(ONE_LOOK[look](queue)) == 1


@pytest.mark.parametrize("look", ["show x", "logs x", "cancel x", "wait x"])
@pytest.mark.parametrize("listed", ["spool", "run"])
def test_ended_while_one_looks(still: Still, queue: Queue, look: str, listed: str) -> None:
    """Nor is one that ends at that moment, for those verbs that know what has ended."""
    spool, attempt = still.node(), still.run("x")

    def ends() -> None:
        record = job.record(attempt, Status(code=0), State.DONE, time.time())
        spool.append([Event("job.ended", record.ended, record=record)])
        assert spool.end(record)

    directory = spool.root if listed == "spool" else f"{spool.own}/node/{spool.token}/run"
    queue._disk = Meanwhile(directory, ends)
    assert len(ONE_LOOK[look](queue)) == 1


def test_every_exception_has_a_root() -> None:
    """One ``except`` is enough for all that a person is to be told."""
    kinds = (UsageError, NotFoundError, NotPermittedError, CannotCreateError)
    assert all(issubclass(kind, PmjqError) for kind in kinds)


def as_nobody(code: str, spool: Path) -> str:
    """Run a program as a user whom modes bind; return what it prints."""
    if os.geteuid():
        pytest.skip("this user is not root, so cannot be another one")
    head = (
        "import os, sys, pmjq.account, pmjq.jobs, pmjq.steering, pmjq.probe, pmjq.history\n"
        "from pmjq import Queue, errors\n"
        f"os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})\n"
        "queue = Queue(sys.argv[1])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", head + code, str(spool)],
        capture_output=True,
        check=False,
        text=True,
        cwd="/",
        env={**os.environ, "PYTHONPATH": PROJECT},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_not_permitted() -> None:
    """What the file system refuses is one of our exceptions, whichever verb meets it."""
    code = (
        "for call in (lambda: queue.submit(['true']), lambda: queue.retry(['x']),\n"
        "             lambda: queue.drain(['a'])):\n"
        "    try:\n"
        "        call()\n"
        "    except errors.NotPermittedError as error:\n"
        "        print(type(error).__name__)\n"
    )
    with public_directory() as base:
        still = Still(base / "spool")
        still.ended("x", uid=65534)
        assert as_nobody(code, still.root).split() == ["NotPermittedError"] * 3


def test_may_not_be_read() -> None:
    """So it is where the spool may not even be read: a program need not know OSError."""
    code = (
        "for call in (queue.list, queue.nodes, lambda: queue.cancel(['x'])):\n"
        "    try:\n"
        "        call()\n"
        "    except errors.NotPermittedError as error:\n"
        "        print(type(error).__name__)\n"
    )
    with public_directory() as base:
        still = Still(base / "spool")
        still.root.chmod(0o700)
        assert as_nobody(code, still.root).split() == ["NotPermittedError"] * 3


def test_beside_a_daemon(tmp_path: Path) -> None:
    """A program submits, follows, cancels and waits as a person does."""
    with Live(tmp_path, "--node", "a", "-j", "4") as live:
        queue = Queue(live.spool)
        names = [queue.submit(["sh", "-c", f"echo {number}; exit {number}"]) for number in range(4)]
        assert [exit_code(one) for one in queue.wait(names, 60)] == [0, 1, 2, 3]
        assert [b"".join(queue.logs(name, follow=True)) for name in names] == [
            b"0\n",
            b"1\n",
            b"2\n",
            b"3\n",
        ]
        long = queue.submit(["sleep", "1000"])
        eventually(lambda: queue.list([long])[0].state is State.RUNNING)
        assert queue.cancel([long])[0].done
        assert queue.wait([long], 60)[0].state is State.CANCELLED
        assert [one.name for one in queue.history(most=1)] == [long]


# --- slips of who writes a program


def test_text_is_no_list_of_words(queue: Queue, still: Still) -> None:
    """A command line is refused, not split into its letters."""
    with pytest.raises(UsageError, match=r"\['sh', '-c', command\]"):
        queue.submit("echo hello")
    assert still.listed() == []


def test_text_is_one_name(queue: Queue, still: Still) -> None:
    """One name need not be in a list, whatever is called as one of its letters."""
    still.node("node1")
    still.put("xy")
    still.put("x")
    assert [one.name for one in queue.list("xy")] == ["xy"]
    assert [one.name for one in queue.show(["xy", "x", "xy"])] == ["xy", "x"]
    assert [one.name for one in queue.hold("xy")] == ["xy"]
    assert [one.name for one in queue.drain("node1")] == ["node1"]
    assert [one.name for one in queue.cancel("xy")] == ["xy"]
    assert still.listed() == ["x"]
    with pytest.raises(UsageError, match="ALL would be everything"):
        queue.retry("ALL")


@pytest.mark.parametrize("which", ["since", "until"])
def test_time_without_a_zone(queue: Queue, which: str) -> None:
    """It is refused at once, not when the first job is compared with it."""
    when = datetime(2026, 1, 1)  # noqa: DTZ001
    with pytest.raises(UsageError, match="zone"):
        queue.history(**{which: when})  # type: ignore[arg-type]  # both are times


# --- what a job is to wait for


def test_after_the_beginning_of_an_id(queue: Queue, still: Still) -> None:
    """What a person reads in a table is submitted as the whole id."""
    record = still.ended("x")
    name = queue.submit(["true"], after=record.id[:8])
    assert queue.show(name)[0].directives == (f"after={record.id}",)


def test_after_what_is_called_like_the_beginning_of_an_id(queue: Queue, still: Still) -> None:
    """A name comes first, and what is not known yet stays as it is."""
    record = still.ended("x")
    still.put(record.id[:8])
    name = queue.submit(["true"], after=[record.id[:8], "cafe"])
    assert queue.show(name)[0].directives == (f"after={record.id[:8]}", "after=cafe")


def test_after_two_whose_ids_begin_so(queue: Queue, still: Still) -> None:
    """Which one is meant has to be told."""
    for number in range(2):
        still.ended("x", id=f"abcdef01-0000-4000-8000-00000000000{number}")
    with pytest.raises(UsageError, match="several ids begin so"):
        queue.submit(["true"], after_any="abcdef01")
    assert still.listed() == []


def test_after_a_pattern(queue: Queue, still: Still) -> None:
    """It is refused, unless a job is called so."""
    with pytest.raises(UsageError, match="a pattern"):
        queue.submit(["true"], after="x*")
    still.put("x*")
    name = queue.submit(["true"], after="x*")
    assert queue.show(name)[0].directives == ("after=x*",)


def test_after_where_no_daemon_has_been(tmp_path: Path) -> None:
    """Nothing is known there yet, which is no reason to refuse it."""
    assert Queue(tmp_path).submit(["true"], after="cafe") in os.listdir(tmp_path)
