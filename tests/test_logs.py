"""The rules of ``pmjq logs``: the output of a job, wherever it has gone, also while it comes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from live import PROJECT, Live, eventually
from pmjq import Queue
from still import (
    HOSTILE,
    NO_INPUT,
    NOBODY,
    USAGE,
    Still,
    new_id,
    public_directory,
    runs_now,
    typed,
    typed_as,
)


def test_no_output(still: Still) -> None:
    """A job that has not been started has no output, which is no error, followed or not."""
    still.put("x")
    told = typed(still.root, "logs", "x")
    assert (told.code, told.out, told.err) == (0, "", "")


def test_running_and_ended(still: Still) -> None:
    """The output of a running job so far, and all of one that has ended."""
    still.run("r", output=b"so far\n")
    still.ended("e", output=b"all\n")
    assert typed(still.root, "logs", "r").out == "so far\n"
    assert typed(still.root, "logs", "e").out == "all\n"
    assert typed(still.root, "logs", "-f", "e").out == "all\n"


def test_living_before_ended(still: Still) -> None:
    """Of one name the job that lives is meant; the one that ended is found by its id."""
    record = still.ended("x", output=b"then\n")
    still.run("x", output=b"now\n")
    assert typed(still.root, "logs", "x").out == "now\n"
    assert typed(still.root, "logs", record.id).out == "then\n"


def test_two_of_one_name_run(still: Still) -> None:
    """It is refused to guess: the ids are named, and each has its own output."""
    ids = {node: still.run("x", node, output=node.encode()).id for node in ("a", "b")}
    typed(still.root, "logs", "x").refused(USAGE, *ids.values())
    assert [typed(still.root, "logs", each).out for each in ids.values()] == ["a", "b"]


def test_two_of_one_odd_name_run(still: Still) -> None:
    """The refusal is one line, whatever they are called."""
    for node in ("a", "b"):
        still.run("x\ny", node)
    typed(still.root, "logs", "x\ny").refused(USAGE)


def test_ambiguous_prefix(still: Still) -> None:
    """The start of an id that two have is refused."""
    for start in ("abcdef01", "abcdef02"):
        still.run(start[-1], id=new_id(start))
    typed(still.root, "logs", "abcdef").refused(USAGE, "abcdef01", "abcdef02")


@pytest.mark.parametrize("name", ["nope", "no\nsuch", "*"])
def test_unknown(still: Still, name: str) -> None:
    """A job that is not there is told in one line."""
    typed(still.root, "logs", name).refused(NO_INPUT, "no such job")


@pytest.mark.parametrize("name", HOSTILE)
def test_any_name(still: Still, name: str) -> None:
    """Whatever a job was called, its output is found."""
    still.ended(name, output=b"mine\n")
    assert typed(still.root, "logs", "--", name).out == "mine\n"


def test_between_two_attempts(still: Still) -> None:
    """What a job wrote is kept and shown until it is tried again."""
    still.back("x", output=b"first\n")
    assert typed(still.root, "logs", "x").out == "first\n"


def test_output_that_is_gone(still: Still) -> None:
    """A job whose output somebody has removed has none, which is no error."""
    record = still.ended("x", output=b"all\n")
    (still.done / f"{record.stem}.out").unlink()
    told = typed(still.root, "logs", "x")
    assert (told.code, told.out) == (0, "")


@pytest.mark.parametrize("words", [[], ["x", "y"], ["--json", "x"], ["-s", "", "x"]])
def test_wrong_options(still: Still, words: list[str]) -> None:
    """One job is wanted; a command line that cannot be carried out is refused."""
    typed(still.root, "logs", *words).refused(USAGE)


def test_who_may_only_read() -> None:
    """Output that may be read needs no right to write."""
    with public_directory() as base:
        still = Still(base / "spool")
        still.run("x", output=b"so far\n")
        assert typed_as(NOBODY, still.root, "logs", "x").out == "so far\n"


def test_output_that_may_not_be_read() -> None:
    """Somebody else's private output is refused, and told so."""
    with public_directory() as base:
        still = Still(base / "spool")
        attempt = still.run("x", output=b"secret\n")
        out = still.own / "job" / attempt.id / "out.1"
        out.chmod(0o600)
        typed_as(NOBODY, still.root, "logs", "x").refused(77, str(out))


# --- as it comes


@dataclass(frozen=True)
class Following:
    """A real ``pmjq logs -f`` that writes to a file."""

    process: subprocess.Popen[bytes]
    path: Path

    def has(self, text: bytes) -> None:
        """Wait until exactly this has been printed."""
        eventually(lambda: self.path.read_bytes() == text, what=f"{text!r} is printed")

    def end(self) -> tuple[int, bytes]:
        """Wait for its end; return its exit code and all that it printed."""
        return self.process.wait(30), self.path.read_bytes()


@contextmanager
def following(spool: Path, name: str, path: Path) -> Iterator[Following]:
    """Follow the output of a job in a process of its own."""
    command = [sys.executable, "-m", "pmjq", "logs", "-f", "-s", str(spool), name]
    environment = {**os.environ, "PYTHONPATH": PROJECT}
    with path.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=environment)
    try:
        yield Following(process, path)
    finally:
        process.kill()
        process.wait()


def test_follow(tmp_path: Path) -> None:
    """Standard output and standard error come as they are written; it ends when the job has."""
    with Live(tmp_path, "--node", "a") as live:
        first, second = live.gate("1"), live.gate("2")
        text = (
            f"echo one\n{first.wait}echo two >&2\n{second.wait}printf 'no \\377 newline'\nexit 3\n"
        )
        runs_now(live, "x", text)
        with following(live.spool, "x", tmp_path / "told") as told:
            told.has(b"one\n")
            first.open()
            told.has(b"one\ntwo\n")
            second.open()
            assert told.end() == (0, b"one\ntwo\nno \xff newline")


def test_follow_from_the_queue(tmp_path: Path) -> None:
    """A job that is still queued is followed from its start."""
    with Live(tmp_path, "--node", "a") as live:
        live.drop("x", "echo one\n", mode=0o644)
        with following(live.spool, "x", tmp_path / "told") as told:
            told.has(b"")
            assert typed(live, "release", "x").code == 0
            assert told.end() == (0, b"one\n")


def test_follow_across_a_retry(tmp_path: Path) -> None:
    """A job that is tried again is followed on, what stands between its attempts included."""
    with Live(tmp_path, "--node", "a") as live:
        gate = live.gate("1")
        text = f"echo attempt $PMJQ_ATTEMPT\ntest $PMJQ_ATTEMPT = 2 && exit\n{gate.wait}exit 1\n"
        runs_now(live, "x", text, "#PMJQ retries=1 backoff=0.2s\n")
        with following(live.spool, "x", tmp_path / "told") as told:
            told.has(b"attempt 1\n")
            gate.open()
            code, out = told.end()
        first, between, second = out.splitlines()
        assert (code, first, second) == (0, b"attempt 1", b"attempt 2")
        assert between.startswith(b"pmjq: attempt 1 on node a: exit code 1")
        assert live.ended("x").output == out


def test_follow_on_another_node(tmp_path: Path) -> None:
    """Whichever node runs it, and whoever follows."""
    with (
        Live(tmp_path / "a", "--node", "a", "-j", "0", spool=tmp_path / "spool") as here,
        Live(tmp_path / "b", "--node", "b", "-j", "1", spool=tmp_path / "spool") as there,
    ):
        gate = there.gate("1")
        runs_now(there, "x", f"echo one\n{gate.wait}echo two\n")
        with following(here.spool, "x", tmp_path / "told") as told:
            told.has(b"one\n")
            gate.open()
            assert told.end() == (0, b"one\ntwo\n")


def test_follow_a_cancelled_one(tmp_path: Path) -> None:
    """It ends when the job is cancelled, with what the job said last."""
    with Live(tmp_path, "--node", "a") as live:
        text = "trap 'echo last; exit 1' TERM\necho first\nwhile :; do sleep 0.05; done\n"
        runs_now(live, "x", text)
        with following(live.spool, "x", tmp_path / "told") as told:
            told.has(b"first\n")
            typed(live, "cancel", "x")
            code, out = told.end()
            # Between them some shells tell that their child was ended.
            assert (code, out.startswith(b"first\n"), out.endswith(b"last\n")) == (0, True, True)


def test_follow_one_that_is_withdrawn(tmp_path: Path) -> None:
    """Who follows a job that its owner removes is told that it is gone."""
    still = Still(tmp_path / "spool")
    path = still.put("x", mode=0o644)
    with following(still.root, "x", tmp_path / "told") as told:
        path.unlink()
        code, out = told.end()
        assert (code, out.count(b"\n")) == (NO_INPUT, 1)


def test_last_words_are_never_missed(tmp_path: Path) -> None:
    """Whoever follows a short job has all of its output when it has ended, every time."""
    with Live(tmp_path, "--node", "a", "-j", "1") as live:
        queue = Queue(live.spool)
        for number in range(30):
            name = f"x{number}"
            live.drop(name, f"echo first\nsleep 0.0{number % 10}\necho last\n")
            assert b"".join(queue.logs(name, follow=True)) == b"first\nlast\n", name


def test_ended_and_not_filed_yet(tmp_path: Path) -> None:
    """What has ended and cannot be archived for the moment has its output all the same."""
    archive = tmp_path / "done"
    with Live(tmp_path, "--node", "a", "-o", str(archive)) as live:
        live.drop("first")
        live.ended("first")
        moved = archive.rename(tmp_path / "moved")
        archive.write_text("in the way\n")
        live.drop("x", "echo all\n")
        queue = Queue(live.spool)
        (seen,) = queue.wait(["x"], 30)
        assert seen.state == "done"
        assert Path(seen.output).exists()
        assert b"".join(queue.logs("x")) == b"all\n"
        archive.unlink()
        moved.rename(archive)


def test_closed_pipe(tmp_path: Path) -> None:
    """Who closes the pipe has read enough: no traceback, and no process that stays."""
    with Live(tmp_path, "--node", "a") as live:
        runs_now(live, "x", "while :; do echo line; sleep 0.01; done\n")
        command = f"{sys.executable} -m pmjq logs -f -s '{live.spool}' x | head -n 1"
        done = subprocess.run(
            ["bash", "-c", command],
            capture_output=True,
            check=False,
            timeout=30,
            env={**os.environ, "PYTHONPATH": PROJECT},
        )
        assert (done.stdout, done.stderr) == (b"line\n", b"")


def test_interrupted(tmp_path: Path) -> None:
    """Ctrl-C ends it with 130 and without a traceback."""
    with Live(tmp_path, "--node", "a") as live:
        runs_now(live, "x", "echo one\nexec sleep 1000\n")
        with following(live.spool, "x", tmp_path / "told") as told:
            told.has(b"one\n")
            told.process.send_signal(signal.SIGINT)
            code, out = told.end()
            assert (code, out.rstrip()) == (130, b"one")


def test_all_of_nobody(still: Still) -> None:
    """Where nothing of mine is, that is said."""
    typed(still.root, "logs", "ALL").refused(NO_INPUT, "no job of yours")
