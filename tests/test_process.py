"""Real jobs through a real keeper: now, in line, recalled, and when either side is gone."""

from __future__ import annotations

import errno
import marshal
import os
import resource
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from conftest import eventually
from pmjq import job, probe
from pmjq.keeper import LONGEST_MESSAGE, RLIMIT_LOCKS
from pmjq.process import Ended, Order, Processes, Report, Started, Unkept, Unstarted
from values import ID

SHELL = "/bin/sh"


class Jobs:
    """Jobs that run until a file appears, and what the keeper told of them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.processes = Processes()
        self.reports: list[Report] = []

    def order(self, name: str, **environment: str) -> Order:
        """Return the order of a job that runs until ``end NAME``."""
        work = self.root / name
        (work / "work").mkdir(parents=True)
        script = f"echo began >>'{work}/began'; until [ -e '{work}/end' ]; do sleep 0.01; done"
        return Order(
            (name, 1),
            SHELL,
            [SHELL, "-c", script],
            f"{work}/work",
            f"{work}/out.1",
            f"{work}/status.1",
            {"PATH": os.defpath, "PMJQ_ID": name, **environment},
        )

    def hear(self) -> list[str]:
        """Return what was reported since the beginning, a word each."""
        self.reports += self.processes.reports()
        return [_word(report) for report in self.reports]

    def end(self, *names: str) -> None:
        """Have jobs end."""
        for name in names:
            (self.root / name / "end").touch()

    def began(self, name: str) -> int:
        """Return how often a job began."""
        path = self.root / name / "began"
        return len(path.read_text().split()) if path.exists() else 0

    def keeper(self) -> psutil.Process:
        """Return the keeper."""
        (keeper,) = psutil.Process().children()
        return keeper


def _word(report: Report) -> str:
    match report:
        case Started((name, _)):
            return f"{name} started"
        case Ended((name, _), code):
            return f"{name} ended {code}"
        case Unstarted((name, _), error, tried):
            return f"{name} not started {errno.errorcode[error]} {tried}"
    return type(report).__name__


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Jobs]:
    """Return jobs that have all ended when the test has, and whose keeper is gone then."""
    jobs = Jobs(tmp_path)
    yield jobs
    children = psutil.Process().children()
    jobs.processes.close()
    for path in tmp_path.iterdir():
        (path / "end").touch()
    _, left = psutil.wait_procs(children, timeout=10)
    assert not left


def heard(jobs: Jobs, *words: str) -> None:
    """Wait until just this was reported, in this order."""
    eventually(lambda: jobs.hear() == [*words] or len(jobs.hear()) > len(words))
    assert jobs.hear() == [*words]


def test_line_moves_up_as_jobs_end(jobs: Jobs) -> None:
    """Each starts when one ends, in order; the start is told before the end that made room."""
    now = [jobs.order("a"), jobs.order("b")]
    jobs.processes.start(now, [jobs.order("c"), jobs.order("d")], 2)
    heard(jobs, "a started", "b started")
    jobs.end("b")
    heard(jobs, "a started", "b started", "c started", "b ended 0")
    jobs.end("a")
    heard(jobs, *jobs.hear()[:4], "d started", "a ended 0")
    jobs.end("c", "d")
    eventually(lambda: len(jobs.hear()) == 8)
    assert [jobs.began(name) for name in "abcd"] == [1, 1, 1, 1]


def test_order_of_an_older_daemon(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    """The keeper is started from the file as it is then, which an upgrade may have replaced."""
    dumps = marshal.dumps

    def dumped(message: tuple[Any, ...]) -> bytes:
        most, recall, now, *rest = message
        return dumps((most, recall, [each[:7] for each in now], *rest))

    monkeypatch.setattr(marshal, "dumps", dumped)
    jobs.processes.start([jobs.order("a")], [], 1)
    heard(jobs, "a started")


def test_line_fills_what_may_run(jobs: Jobs) -> None:
    """Where fewer run than may, the line does not wait for an end."""
    jobs.processes.start([jobs.order("a")], [jobs.order("b"), jobs.order("c")], 1)
    heard(jobs, "a started")
    jobs.processes.start([], [], 2)
    heard(jobs, "a started", "b started")
    jobs.processes.start([], [], 0)
    jobs.end("a", "b")
    eventually(lambda: len(jobs.hear()) == 4)
    assert jobs.began("c") == 0
    jobs.processes.start([], [], 1)
    eventually(lambda: jobs.hear()[4:] == ["c started"])


def test_recall(jobs: Jobs) -> None:
    """What is recalled is told not to have started, and does not."""
    jobs.processes.start([jobs.order("a")], [jobs.order("b"), jobs.order("c")], 1)
    jobs.processes.recall()
    told = ["b not started ECANCELED False", "c not started ECANCELED False"]
    heard(jobs, "a started", *told)
    jobs.end("a")
    heard(jobs, "a started", *told, "a ended 0")
    assert [jobs.began(name) for name in "bc"] == [0, 0]
    assert not (jobs.root / "b" / "status.1").exists()


def test_recall_without_a_keeper(jobs: Jobs) -> None:
    """There is nothing to recall."""
    jobs.processes.recall()
    assert jobs.hear() == []


def test_one_that_cannot_start_makes_room_for_the_next(jobs: Jobs) -> None:
    """A slot is not lost with a job that has no interpreter or was voided."""
    missing = jobs.order("b")._replace(path="/nonexistent", argv=["/nonexistent"])
    voided = jobs.order("c")
    os.symlink("void", voided.status)
    jobs.processes.start([jobs.order("a")], [missing, voided, jobs.order("d")], 1)
    heard(jobs, "a started")
    jobs.end("a")
    heard(
        jobs,
        "a started",
        "b not started ENOENT True",
        "c not started EEXIST False",
        "d started",
        "a ended 0",
    )


def test_line_goes_with_its_daemon(jobs: Jobs) -> None:
    """Jobs that run go on; those in line are left to the next daemon."""
    jobs.processes.start([jobs.order("a")], [jobs.order("b")], 1)
    heard(jobs, "a started")
    keeper = jobs.keeper()
    jobs.processes.close()
    jobs.end("a")
    keeper.wait(10)
    assert "exit 0" in (jobs.root / "a" / "status.1").read_text()
    assert not (jobs.root / "b" / "status.1").exists()
    jobs.processes = Processes()


def test_line_is_named_when_the_keeper_is_gone(jobs: Jobs) -> None:
    """Whoever asked for them has to look how they stand."""
    jobs.processes.start([jobs.order("a")], [jobs.order("b")], 1)
    heard(jobs, "a started")
    jobs.keeper().send_signal(signal.SIGKILL)
    eventually(lambda: "Unkept" in jobs.hear())
    (unkept,) = (report for report in jobs.reports if isinstance(report, Unkept))
    assert unkept.keys == {("a", 1), ("b", 1)}


def test_adopted_jobs_take_their_place(jobs: Jobs) -> None:
    """What an earlier keeper's jobs take is not there for the line, and is once they have ended."""
    other = Jobs(jobs.root / "other")
    other.root.mkdir()
    other.processes.start([other.order("old")], [], 1)
    heard(other, "old started")
    (old,) = (report for report in other.reports if isinstance(report, Started))
    start = int((other.root / "old" / "status.1").read_text().split()[2])
    assert jobs.processes.adopt(("old", 1), old.pid, start)
    jobs.processes.start([jobs.order("a")], [jobs.order("b")], 2)
    heard(jobs, "a started")
    other.end("old")
    eventually(lambda: jobs.hear() == ["a started", "Vanished", "b started"])
    other.processes.close()


def test_too_long_a_message_is_sent_in_parts(jobs: Jobs) -> None:
    """Orders that a keeper cannot read together are sent in several messages, in order."""
    now = [jobs.order(name, BIG=name * 60_000) for name in "abc"]
    jobs.processes.start(now, [jobs.order(name, BIG=name * 60_000) for name in "def"], 3)
    heard(jobs, "a started", "b started", "c started")
    jobs.end("a", "b", "c")
    eventually(lambda: len(jobs.hear()) == 9)
    starts = [word for word in jobs.hear() if word.endswith("started")]
    assert starts == [f"{name} started" for name in "abcdef"]


def test_longest_message_arrives(jobs: Jobs) -> None:
    """What is sent at all is read whole; what is longer is an error that harms nobody."""
    few = LONGEST_MESSAGE - 2_000
    jobs.processes.start([jobs.order("a", BIG="x" * few)], [], 1)
    heard(jobs, "a started")
    with pytest.raises(OSError, match="too long"):
        jobs.processes.start([jobs.order("b", BIG="x" * LONGEST_MESSAGE)], [], 2)
    jobs.processes.start([jobs.order("c")], [], 2)
    heard(jobs, "a started", "c started")


def test_thousands_are_told_to_stop(jobs: Jobs) -> None:
    """The keeper hears of each, however many they are, and writes it beside their end."""
    jobs.processes.start([jobs.order("a"), jobs.order("b")], [], 2)
    heard(jobs, "a started", "b started")
    many = {f"{number:036}": 0 for number in range(5000)}
    jobs.processes._kept |= {(name, 1) for name in many}
    jobs.processes.signal(many | {"a": 0}, signal.SIGTERM, {})
    jobs.end("b")
    eventually(lambda: len(jobs.hear()) == 4)
    assert set(jobs.hear()[2:]) == {"a ended -15", "b ended 0"}
    told = ["\ntold -\n" in (jobs.root / name / "status.1").read_text() for name in "ab"]
    assert told == [True, False]


def test_keeper_that_is_stopped_stalls_nobody(jobs: Jobs) -> None:
    """Orders wait until it goes on, and are carried out then, each once and in their order."""
    names = [f"{number:02}" for number in range(40)]
    jobs.processes.start([jobs.order("first")], [], 1)
    heard(jobs, "first started")
    keeper = jobs.keeper()
    keeper.suspend()
    for name in names:
        jobs.processes.start([jobs.order(name, BIG=name * 10_000)], [], 99)
    jobs.processes.signal({"first": 0}, 0, {})
    with pytest.raises(BlockingIOError):
        jobs.processes.go_on_beating("/nowhere", 1, 1.0)
    assert jobs.hear() == ["first started"]
    keeper.resume()
    heard(jobs, "first started", *(f"{name} started" for name in names))
    jobs.end("first", *names)
    eventually(lambda: len(jobs.hear()) == 2 * len(names) + 2)
    assert [jobs.began(name) for name in names] == [1] * len(names)


def test_keeper_that_dies_while_it_is_stopped(jobs: Jobs) -> None:
    """What waited for it goes with it, and is named; the next keeper gets nothing of that."""
    jobs.processes.start([jobs.order("a")], [], 1)
    heard(jobs, "a started")
    keeper = jobs.keeper()
    keeper.suspend()
    names = [f"{number:02}" for number in range(40)]
    for name in names:
        jobs.processes.start([jobs.order(name, BIG=name * 10_000)], [], 99)
    keeper.kill()
    heard(jobs, "a started", "Unkept")
    unkept = jobs.reports[-1]
    assert isinstance(unkept, Unkept)
    assert unkept.keys == {("a", 1), *((name, 1) for name in names)}
    jobs.processes.start([jobs.order("b")], [], 1)
    heard(jobs, "a started", "Unkept", "b started")
    assert [jobs.began(name) for name in names] == [0] * len(names)


def left(jobs: Jobs) -> bool:
    """Tell whether anything is left of the job."""
    return jobs.processes.left({ID: 0}) == {ID}


def hiding(jobs: Jobs) -> tuple[Order, Path]:
    """Return a job that leaves a process without its session, parent and environment, and where.

    It ends by ``end ID`` as the others do.
    """
    order = jobs.order(ID)
    pid = jobs.root / ID / "pid"
    hidden = f"setsid env -i {SHELL} -c 'echo $$ >{pid}.new; mv {pid}.new {pid}; exec sleep 60'"
    return order._replace(argv=[SHELL, "-c", f"({hidden} &); {order.argv[-1]}"]), pid


@pytest.mark.parametrize("keeper", ["its own", "a former one"])
def test_nothing_of_a_job_hides_from_its_end(jobs: Jobs, keeper: str) -> None:
    """What has left its session, its parent and its environment is a job's all the same."""
    order, pid = hiding(jobs)
    jobs.processes.start([order, jobs.order("b")], [], 2)
    heard(jobs, f"{ID} started", "b started")
    eventually(pid.exists)
    if keeper == "a former one":
        jobs.processes.close()
        jobs.processes = Processes()
    jobs.end(ID)
    eventually(lambda: "exit 0" in (jobs.root / ID / "status.1").read_text())
    assert left(jobs)
    jobs.processes.signal({ID: 0}, signal.SIGKILL, {})
    eventually(lambda: not left(jobs))
    assert not probe.start_time(int(pid.read_text()))
    jobs.end("b")
    eventually(lambda: "exit 0" in (jobs.root / "b" / "status.1").read_text())


def test_keeper_is_no_jobs(jobs: Jobs) -> None:
    """It has the mark of a job for no longer than it takes to start it."""
    jobs.processes.start([jobs.order(ID)], [], 1)
    heard(jobs, f"{ID} started")
    assert jobs.keeper().rlimit(RLIMIT_LOCKS) == psutil.Process().rlimit(RLIMIT_LOCKS)
    assert left(jobs)
    jobs.end(ID)
    heard(jobs, f"{ID} started", f"{ID} ended 0")
    assert not left(jobs)


def test_keeper_takes_leave_of_what_jobs_left(jobs: Jobs) -> None:
    """What a job left running is no zombie when it ends, though no job has ended since."""
    order = jobs.order("a")
    gate = jobs.root / "a" / "gate"
    behind = f"(until [ -e '{gate}' ]; do sleep 0.01; done) & {order.argv[-1]}"
    jobs.processes.start([order._replace(argv=[SHELL, "-c", behind])], [], 1)
    heard(jobs, "a started")
    jobs.end("a")
    heard(jobs, "a started", "a ended 0")
    keeper = jobs.keeper()
    assert eventually(keeper.children)
    gate.touch()
    eventually(lambda: not keeper.children())


def test_end_that_a_full_disk_tears_is_written_whole(jobs: Jobs) -> None:
    """Of the line about an end only the rest is written when there is room again."""
    jobs.processes.start([jobs.order("a")], [], 1)
    heard(jobs, "a started")
    status = jobs.root / "a" / "status.1"
    begun = eventually(status.read_bytes)
    unlimited = resource.RLIM_INFINITY
    keeper = jobs.keeper()
    keeper.rlimit(psutil.RLIMIT_FSIZE, (len(begun) + 9, unlimited))
    jobs.end("a")
    heard(jobs, "a started", "a ended 0")
    assert eventually(lambda: status.read_bytes().removeprefix(begun)).startswith(b"exit 0 ")
    assert len(status.read_bytes()) == len(begun) + 9
    keeper.rlimit(psutil.RLIMIT_FSIZE, (unlimited, unlimited))
    eventually(lambda: status.read_bytes().endswith(b"\n") and status.read_bytes() != begun)
    assert status.read_bytes().count(b"exit") == 1
    assert job.status(status.read_bytes()).code == 0


def test_no_keeper_to_be_had(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no process can be started, that is an error, and nothing is kept."""
    monkeypatch.setattr("sys.executable", "/nonexistent")
    with pytest.raises(OSError, match="nonexistent"):
        jobs.processes.start([jobs.order("a")], [], 1)
    assert jobs.hear() == []


def test_end_is_written_when_the_share_is_back(jobs: Jobs) -> None:
    """A share that is not mounted looks as if all paperwork were gone; an end waits for it."""
    papers = jobs.root / "job"
    papers.mkdir()
    inside = Jobs(papers)
    jobs.processes.start([inside.order("a")], [], 1)
    heard(jobs, "a started")
    (started,) = (report for report in jobs.reports if isinstance(report, Started))
    papers.rename(jobs.root / "away")
    os.kill(started.pid, signal.SIGKILL)
    heard(jobs, "a started", "a ended -9")
    (jobs.root / "away").rename(papers)
    assert eventually(lambda: "exit -9" in (papers / "a" / "status.1").read_text())


def test_end_of_a_job_whose_paperwork_is_cleared_is_dropped(jobs: Jobs) -> None:
    """The keeper does not wait for what will not come back: it ends with its last job."""
    jobs.processes.start([jobs.order("a")], [], 1)
    heard(jobs, "a started")
    (started,) = (report for report in jobs.reports if isinstance(report, Started))
    keeper = jobs.keeper()
    shutil.rmtree(jobs.root / "a")
    os.kill(started.pid, signal.SIGKILL)
    heard(jobs, "a started", "a ended -9")
    jobs.processes.close()
    keeper.wait(10)
    jobs.processes = Processes()
