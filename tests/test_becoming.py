"""Jobs that are forked: held to limits, become other users, and tell of what cannot be executed."""

from __future__ import annotations

import errno
import os
import resource
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from conftest import eventually
from pmjq import becoming, job
from pmjq.process import Ended, Order, Processes, Report, Started, Unstarted

SHELL = "/bin/sh"
NOBODY = 65534

THEIRS = {"uid": NOBODY, "gid": NOBODY, "groups": [NOBODY, 12345], "private": True}
"""Terms of a job of nobody's."""


LIBRARY_S = 0b11 << 31
"""Signals 32 and 33, which the C library keeps for itself: nobody can set what they do."""


class Jobs:
    """Jobs through a real keeper, and what it told of them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.processes = Processes()
        self.reports: list[Report] = []

    def start(self, name: str, script: str, terms: dict[str, Any], path: str = SHELL) -> None:
        """Have a job executed."""
        papers = self.root / name
        work = papers / "work"
        work.mkdir(parents=True, exist_ok=True)
        papers.chmod(0o711)
        if "uid" in terms:
            os.chown(work, terms["uid"], terms["gid"])
        argv = [path, "-c", script] if path == SHELL else [path]
        environment = {"PATH": "/usr/bin:/bin", "NAME": name}
        places = (f"{work}", f"{papers}/out.1", f"{papers}/status.1")
        order = Order((name, 1), path, argv, *places, environment, 0, terms)
        self.processes.start([order], [], 100)

    def hear(self, name: str, *kinds: type) -> list[Any]:
        """Wait until just reports of these kinds have come about a job, and return them."""

        def come() -> list[Any]:
            self.reports += self.processes.reports()
            return [one for one in self.reports if getattr(one, "key", ("",))[0] == name]

        eventually(lambda: [type(one) for one in come()] == [*kinds])
        return come()

    def out(self, name: str) -> str:
        """Return what a job wrote."""
        return (self.root / name / "out.1").read_text()

    def status(self, name: str) -> job.Status:
        """Return what the status of a job says."""
        return job.status((self.root / name / "status.1").read_bytes())


@pytest.fixture
def jobs() -> Iterator[Jobs]:
    """Return jobs below a directory that everybody may enter; their keeper is gone in the end."""
    with tempfile.TemporaryDirectory(prefix="pmjq-") as root:
        os.chmod(root, 0o755)
        jobs = Jobs(Path(root))
        yield jobs
        children = psutil.Process().children()
        jobs.processes.close()
        _, left = psutil.wait_procs(children, timeout=10)
        assert not left


def test_limits(jobs: Jobs) -> None:
    """A job has the limits, the mask and the CPUs that its terms say, and gets no more rights."""
    cpu = min(os.sched_getaffinity(0))
    terms = {
        "limits": [(resource.RLIMIT_NOFILE, 50, 60), (resource.RLIMIT_CORE, 0, 0)],
        "umask": 0o027,
        "cpus": [cpu],
        "confined": True,
    }
    script = (
        "ulimit -n; ulimit -Hn; umask; grep -e NoNewPrivs -e Cpus_allowed_list /proc/self/status"
    )
    jobs.start("a", script, terms)
    assert jobs.hear("a", Started, Ended)[1].code == 0
    said = jobs.out("a").split()
    assert said == ["50", "60", "0027", "NoNewPrivs:", "1", "Cpus_allowed_list:", str(cpu)]
    status = jobs.status("a")
    assert (status.code, status.pid > 0, status.error) == (0, True, None)


def test_signals_are_those_of_a_login(jobs: Jobs) -> None:
    """None is ignored or blocked, whatever the keeper does."""
    jobs.start("a", "grep -e SigBlk -e SigIgn /proc/self/status", {"umask": 0o022})
    jobs.hear("a", Started, Ended)
    _, blocked, _, ignored = jobs.out("a").split()
    assert (int(blocked, 16), int(ignored, 16) & ~LIBRARY_S) == (0, 0)


def test_it_leads_a_session_and_has_nothing_to_read(jobs: Jobs) -> None:
    """As any other job."""
    script = (
        "cut -d' ' -f1,6 /proc/self/stat; cat; readlink /proc/self/fd/0; pwd; echo $NAME; echo $$"
    )
    jobs.start("a", script, {"umask": 0o022})
    jobs.hear("a", Started, Ended)
    stat, stdin, work, name, pid = jobs.out("a").splitlines()
    assert stat.split()[1] == pid
    assert (stdin, work, name) == ("/dev/null", f"{jobs.root}/a/work", "a")


@pytest.mark.parametrize(
    ("path", "number"), [("/nonexistent", errno.ENOENT), ("/etc/passwd", errno.EACCES)]
)
def test_what_cannot_be_executed(jobs: Jobs, path: str, number: int) -> None:
    """It is told with its reason, after it seemed to have started, and stands in the status."""
    jobs.start("a", "", {"umask": 0o022}, path)
    _, told = jobs.hear("a", Started, Unstarted)
    assert (told.error, told.tried) == (number, True)
    eventually(lambda: jobs.status("a").error == number)
    assert jobs.status("a").code is None


def test_terms_that_cannot_be_had(jobs: Jobs) -> None:
    """A job that would be held to less than its terms is not executed, and may be tried again."""
    jobs.start("a", "echo ran", {"cgroup": f"{jobs.root}/no-such-group/a"})
    (told,) = jobs.hear("a", Unstarted)
    assert (told.error, told.tried) == (errno.ENOENT, False)
    jobs.start("b", "echo ran", {"cgroup": "/proc/1"})
    _, told = jobs.hear("b", Started, Unstarted)
    assert told.tried
    assert jobs.out("b") == ""


def test_one_that_was_tried_is_not_started_again(jobs: Jobs) -> None:
    """Its status is there: it may have been executed."""
    (jobs.root / "a").mkdir()
    (jobs.root / "a" / "status.1").touch()
    jobs.start("a", "echo ran", {"umask": 0o022})
    (told,) = jobs.hear("a", Unstarted)
    assert (told.error, told.tried) == (errno.EEXIST, False)
    assert not (jobs.root / "a" / "out.1").exists()


def test_killed(jobs: Jobs) -> None:
    """Its end by a signal is its end."""
    jobs.start("a", "sleep 600", {"umask": 0o022})
    (started,) = jobs.hear("a", Started)
    os.kill(started.pid, signal.SIGKILL)
    assert jobs.hear("a", Started, Ended)[1].code == -signal.SIGKILL


def test_many_at_once(jobs: Jobs) -> None:
    """Forked ones, spawned ones and ones that cannot be executed do not mix up."""
    for number in range(30):
        jobs.start(f"f{number}", f"exit {number}", {"umask": 0o022})
        jobs.start(f"s{number}", f"exit {number}", {})
        jobs.start(f"x{number}", "", {"umask": 0o022}, "/nonexistent")
    for number in range(30):
        assert jobs.hear(f"f{number}", Started, Ended)[1].code == number
        assert jobs.hear(f"s{number}", Started, Ended)[1].code == number
        assert jobs.hear(f"x{number}", Started, Unstarted)[1].error == errno.ENOENT


def test_what_was_not_told_yet(tmp_path: Path) -> None:
    """A child that has not said anything has not become its job."""
    told, tell = os.pipe2(os.O_NONBLOCK)
    assert becoming.reason(told) is None
    os.write(tell, b"13")
    assert becoming.reason(told) == errno.EACCES
    os.close(tell)
    assert becoming.reason(told) == 0
    os.close(told)


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")


@needs_root
def test_another_user(jobs: Jobs) -> None:
    """It is that user in every respect, for good, and its output is his alone."""
    script = "id -u; id -g; id -G; grep -e ^[UG]id /proc/self/status; touch file; test -r ../out.1"
    jobs.start("a", script, THEIRS)
    assert jobs.hear("a", Started, Ended)[1].code == 0
    uid, gid, groups, *rest = jobs.out("a").splitlines()
    assert (uid, gid, set(groups.split())) == (str(NOBODY), str(NOBODY), {str(NOBODY), "12345"})
    four = "\t".join([str(NOBODY)] * 4)
    assert rest[:2] == [f"Uid:\t{four}", f"Gid:\t{four}"]
    out = (jobs.root / "a" / "out.1").stat()
    assert (out.st_uid, out.st_mode & 0o777) == (NOBODY, 0o600)
    assert (jobs.root / "a" / "work" / "file").stat().st_uid == NOBODY
    assert (jobs.root / "a" / "status.1").stat().st_uid == 0


@needs_root
def test_no_niceness_that_his_limits_do_not_give(jobs: Jobs) -> None:
    """What only root may ask for is left as it is."""
    work = jobs.root / "a" / "work"
    work.mkdir(parents=True)
    os.chown(work, NOBODY, NOBODY)
    work.parent.chmod(0o711)
    papers = work.parent
    places = (f"{work}", f"{papers}/out.1", f"{papers}/status.1")
    argv = [SHELL, "-c", "nice"]
    order = Order(("a", 1), SHELL, argv, *places, {"PATH": "/usr/bin:/bin"}, -5, THEIRS)
    jobs.processes.start([order], [], 100)
    jobs.hear("a", Started, Ended)
    assert jobs.out("a") == f"{os.nice(0)}\n"


@needs_root
def test_directory_that_he_may_not_enter(jobs: Jobs) -> None:
    """He is refused it as anywhere else: the keeper's rights are gone."""
    jobs.start("a", "echo ran", {"umask": 0o022})
    jobs.hear("a", Started, Ended)
    work = jobs.root / "b" / "work"
    work.mkdir(parents=True)
    work.chmod(0o700)
    papers = work.parent
    places = (f"{work}", f"{papers}/out.1", f"{papers}/status.1")
    order = Order(("b", 1), SHELL, [SHELL, "-c", "echo ran"], *places, {}, 0, THEIRS)
    jobs.processes.start([order], [], 100)
    _, told = jobs.hear("b", Started, Unstarted)
    assert told.error == errno.EACCES
