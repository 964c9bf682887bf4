"""Limits that a job has by its own directives, and what it is told of them: end to end."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from live import Filed, Live, eventually
from pmjq import Queue
from pmjq.act import THREADS
from pmjq.state import State
from still import BUSY


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """Return a daemon that most tests of this module share."""
    with Live(tmp_path_factory.mktemp("shared"), "-j", "8") as daemon:
        yield daemon


def job(live: Live, name: str, words: str, text: str, trap: str = "") -> None:
    """Drop a job that asks for something, and takes note of each start.

    ``trap``: what it does where it is told to stop, at any time from its first note on.
    """
    trapped = f"trap '{trap}' TERM\n" if trap else ""
    live.drop(name, f"#!/bin/sh\n#PMJQ {words}\n{trapped}{live.side_effect(name)}{text}")


def ended(live: Live, name: str, reason: str, runs: int = 1) -> Filed:
    """Return how a job ended that failed for this reason, after so many attempts."""
    filed = live.ended(name)
    assert (filed.record.state, live.runs(name)) == (State.FAILED, runs)
    assert filed.record.reason.startswith(reason), filed.record.reason
    return filed


# --- time


def test_time(live: Live) -> None:
    """A job is ended when its time is over, with all that it started."""
    job(live, "long", "time=1", f"({BUSY}) &\n{BUSY}")
    filed = ended(live, "long", "ended, since its time of 1 s was over")
    assert filed.record.signal == signal.SIGTERM
    assert filed.record.started is not None
    assert (filed.record.ended - filed.record.started).total_seconds() >= 1
    assert not live.jobs()


def test_time_is_not_over(live: Live) -> None:
    """One that ends in its time is left alone."""
    job(live, "short", "time=60 output-limit=1K", "echo short\n")
    assert live.ended("short").record.state is State.DONE


def test_time_of_one_that_does_not_heed_term(live: Live) -> None:
    """KILL comes after the grace."""
    job(live, "deaf", "time=2 grace=0.5", BUSY, trap=":")
    assert ended(live, "deaf", "ended, since its time").record.signal == signal.SIGKILL


def test_time_of_one_that_ends_well_when_told(live: Live) -> None:
    """Who saves what it has and ends with 0 is done."""
    job(live, "saves", "time=2", BUSY, trap="echo saved; exit 0")
    filed = live.ended("saves")
    # The shell may say before that its child was terminated.
    assert (filed.record.state, filed.text[-6:]) == (State.DONE, "saved\n")


def test_time_of_a_restartable_one(live: Live) -> None:
    """It is not run again: it was not interrupted."""
    job(live, "again", "time=0.5 restartable", BUSY)
    ended(live, "again", "ended, since its time")


def test_time_of_each_try(live: Live) -> None:
    """A job that is to be tried again has its time for each try."""
    job(live, "tries", "time=0.5 retries=1 backoff=0", BUSY)
    filed = ended(live, "tries", "ended, since its time", runs=2)
    assert [one.reason for one in filed.record.earlier] == [filed.record.reason]


def test_cancelled_when_its_time_is_over(live: Live) -> None:
    """Who asked for its end is named, whatever its time."""
    job(live, "both", "time=2 grace=4", BUSY, trap=":")
    eventually(lambda: live.runs("both"))
    Queue(live.spool).cancel("both")
    assert live.ended("both").record.state is State.CANCELLED


def test_time_goes_on_without_a_daemon(tmp_path: Path) -> None:
    """The next daemon ends what it finds running beyond its time."""
    with Live(tmp_path, "-j", "2") as live:
        job(live, "left", "time=2", BUSY)
        eventually(lambda: live.runs("left"))
        live.kill()
        live.start()
        filed = ended(live, "left", "ended, since its time of 2 s was over")
        assert (filed.record.ended - (filed.record.started or filed.record.ended)).seconds < 60


@pytest.mark.parametrize("words", ["", "restartable"])
def test_killed_while_the_job_takes_its_time_to_end(tmp_path: Path, words: str) -> None:
    """The next daemon knows why the job was told to stop, however it ends then."""
    with Live(tmp_path, "-j", "2") as live:
        gate = live.gate("end")
        told = live.root / "told"
        text = f"told() {{ : >'{told}'\n{gate.wait}exit 3; }}\ntrap told TERM\n{BUSY}"
        job(live, "slow", f"time=2 grace=60 {words}", text)
        eventually(told.exists)
        live.kill()
        gate.open()
        eventually(lambda: not live.jobs())
        live.start()
        assert ended(live, "slow", "ended, since its time").record.exit_code == 3


# --- output


def test_output_limit(live: Live) -> None:
    """Who writes too much is killed at once, whatever it traps; what it wrote is kept."""
    flood = "trap '' TERM\nwhile :; do head -c 20000 /dev/zero; sleep 0.02; done\n"
    job(live, "floods", "output-limit=100K grace=60", f"({flood}) &\n{flood}")
    filed = ended(live, "floods", "ended, since it wrote more than its output-limit of 102400")
    assert filed.record.signal == signal.SIGKILL
    assert len(filed.output) > 102400
    assert not live.jobs()


def test_output_limit_of_a_restartable_one(live: Live) -> None:
    """It would only do it again."""
    job(live, "refloods", "output-limit=1K restartable", f"head -c 2000 /dev/zero\n{BUSY}")
    ended(live, "refloods", "ended, since it wrote more than its output-limit of 1024 bytes")


FLOOD = "while :; do head -c 20000 /dev/zero; sleep 0.02; done"


def test_output_limit_when_its_time_is_over(live: Live) -> None:
    """Nor may it write too much in its grace."""
    job(live, "late", "time=2 grace=60 output-limit=100K", BUSY, trap=FLOOD)
    filed = ended(live, "late", "ended, since its time of 2 s was over")
    assert filed.record.signal == signal.SIGKILL


def test_output_limit_when_it_is_cancelled(live: Live) -> None:
    """It is killed before its grace is over, and cancelled is what it is."""
    job(live, "asked", "grace=60 output-limit=100K", BUSY, trap=FLOOD)
    eventually(lambda: live.runs("asked"))
    Queue(live.spool).cancel("asked")
    filed = live.ended("asked")
    assert (filed.record.state, filed.record.signal) == (State.CANCELLED, signal.SIGKILL)


def test_output_limit_and_retries(live: Live) -> None:
    """It would only do it again."""
    job(live, "tries again", "output-limit=1K retries=3", f"head -c 2000 /dev/zero\n{BUSY}")
    assert not ended(live, "tries again", "ended, since it wrote more").record.earlier


# --- limits, and other ends


def test_time_that_is_over_while_the_daemon_stops(tmp_path: Path) -> None:
    """A restartable job that was told to stop is to run again, however long it took to end."""
    with Live(tmp_path, "-j", "2", "--on-stop", "kill", "--grace", "6") as live:
        job(live, "stops", "time=4 restartable", BUSY, trap=":")
        eventually(lambda: live.runs("stops"))
        assert live.stop() == 0
        assert (live.spool / "stops").exists()


def test_time_while_the_spool_is_away(tmp_path: Path) -> None:
    """It is over nevertheless."""
    with Live(tmp_path, "-j", "2") as live:
        job(live, "away", "time=1.5", BUSY)
        eventually(lambda: live.runs("away"))
        live.spool.rename(tmp_path / "moved")
        live.said("spool.missing")
        eventually(lambda: not live.jobs())
        (tmp_path / "moved").rename(live.spool)
        ended(live, "away", "ended, since its time of 1.5 s was over")


def test_clock_that_is_set_while_the_daemon_is_down(tmp_path: Path) -> None:
    """For how long a job has run is told by the kernel, not by the time of day."""
    with Live(tmp_path, "-j", "2") as live:
        gate = live.gate("end")
        job(live, "young", "time=30m", f"{gate.wait}exit 0\n")
        eventually(lambda: live.runs("young"))
        live.kill()
        (status,) = live.spool.glob(".pmjq/job/*/status.1")
        # The job may have begun before its keeper has written that.
        eventually(lambda: status.read_text().endswith("\n"))
        started, pid, start, at, rest = status.read_text().split(" ", 4)
        status.write_text(f"{started} {pid} {start} {float(at) - 3600:.6f} {rest}")
        live.start()
        gate.open()
        assert live.ended("young").record.state is State.DONE


# --- what it is told, and given


def test_threads(live: Live) -> None:
    """Libraries hear of how many CPUs the job asked for, unless it says otherwise itself."""
    show = "; ".join(f'echo "${{{name}-unset}}"' for name in THREADS)
    job(live, "threads", "cpus=1", show)
    job(live, "own", "cpus=1 env=OMP_NUM_THREADS=4", 'echo "$OMP_NUM_THREADS $MKL_NUM_THREADS"\n')
    job(live, "none", "name=x", show)
    assert live.ended("threads").text.split() == ["1"] * len(THREADS)
    assert live.ended("own").text == "4 1\n"
    assert set(live.ended("none").text.split()) == {"unset"}


def test_nice(live: Live) -> None:
    """It is added to the daemon's own; what only root may give is left away for others."""
    usual = os.getpriority(os.PRIO_PROCESS, 0)
    nicer = min(19, usual + 5)
    # Its keeper makes it nicer as soon as there is a process.
    job(live, "nice", "nice=5", f"until [ $(nice) = {nicer} ]; do sleep 0.01; done; nice; (nice)\n")
    assert live.ended("nice").text.split() == [str(nicer)] * 2
    job(live, "usual", "nice=0", "nice\n")
    assert live.ended("usual").text == f"{usual}\n"
