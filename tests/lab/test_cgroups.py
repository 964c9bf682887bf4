"""Jobs in control groups of their own, under a daemon that a real part of the tree is given to."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from live import Filed, Live, eventually
from pmjq import Queue
from pmjq.cgroups import LEAF
from pmjq.confines import CONTROLLERS
from pmjq.state import State

pytestmark = pytest.mark.lab

MOST = 200
"""Processes that all may have together; one job has half of them."""

HOG = """exec python3 -c '
import mmap
data = [b"x" * (1 << 20) for _ in range(1000)]
'
"""
"""Takes a gigabyte, a piece at a time."""


BOMB = """
import subprocess, time
while True:
    try:
        subprocess.Popen(["sleep", "60"])
    except OSError:
        time.sleep(0.01)
"""
"""Starts ever more, and gives up at nothing."""


class Group:
    """A control group for a daemon, made where the whole tree is mounted."""

    def __init__(self, mounted: Path) -> None:
        self.mounted = mounted
        offered = set((mounted / "cgroup.controllers").read_text().split())
        self.missing = set(CONTROLLERS) - offered
        self.turned_on: list[str] = []
        control = mounted / "cgroup.subtree_control"
        for controller in sorted(offered & set(CONTROLLERS) - set(control.read_text().split())):
            control.write_text(f"+{controller}")
            self.turned_on.append(controller)
        self.path = mounted / f"pmjq-lab-{os.getpid()}"
        self.path.mkdir()
        with contextlib.suppress(OSError):
            (self.path / "pids.max").write_text(str(MOST))

    def need(self, *controllers: str) -> None:
        """Skip the test where one of these is not to be had."""
        lacking = sorted(self.missing.intersection(controllers))
        if lacking:
            pytest.skip(f"{self.mounted} has no controller of {', '.join(lacking)}")

    def jobs(self) -> list[str]:
        """Return the groups of jobs."""
        return [path.name for path in self.path.glob("job-*")]

    def remove(self) -> None:
        """Remove it, with what is in it."""
        for path in (*self.path.glob("*/"), self.path):
            eventually(lambda path=path: _gone(path))  # type: ignore[misc]  # bound at once
        for controller in self.turned_on:
            (self.mounted / "cgroup.subtree_control").write_text(f"-{controller}")


def _gone(path: Path) -> bool:
    with contextlib.suppress(OSError):
        path.rmdir()
    return not path.exists()


@pytest.fixture
def group() -> Iterator[Group]:
    """Return a control group; skip where there is none to be had."""
    if os.geteuid():
        pytest.skip("only root makes a control group")
    lines = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    mounted = next((Path(words[1]) for words in lines if words[2] == "cgroup2"), None)
    if mounted is None:
        pytest.skip("no control groups, version 2, are mounted")
    offered = set((mounted / "cgroup.controllers").read_text().split()) & set(CONTROLLERS)
    if not offered:
        pytest.skip(f"{mounted} offers none of {' '.join(CONTROLLERS)}: version 1 has them")
    group = Group(mounted)
    try:
        yield group
    finally:
        group.remove()


@pytest.fixture
def live(group: Group, tmp_path: Path) -> Iterator[Live]:
    """Return a daemon in a control group that is its own."""
    join = ("sh", "-c", f'echo 0 >{group.path}/cgroup.procs && exec "$@"', "sh")
    with Live(tmp_path, "-j", "8", "--cpus", "8", "--memory", "4G", before=join) as live:
        told = live.said("daemon.started")["cgroup"]
        assert told.startswith(f"{group.path} ("), told
        yield live


def again(live: Live, group: Group) -> None:
    """Start the next daemon, in the child as DelegateSubgroup does it."""
    live.before = ("sh", "-c", f'echo 0 >{group.path}/{LEAF}/cgroup.procs && exec "$@"', "sh")
    live.start()


def drop(live: Live, name: str, words: str, text: str) -> None:
    """Drop a job that asks for something."""
    live.drop(name, f"#!/bin/sh\n#PMJQ {words}\n{text}")


def done(live: Live, name: str) -> Filed:
    """Return a job that has ended well."""
    filed = live.ended(name, within=60)
    assert filed.record.state is State.DONE, filed.record.reason
    return filed


def test_memory(live: Live, group: Group) -> None:
    """Who uses more is ended as a whole, with that reason; nobody else takes harm."""
    group.need("memory")
    gate = live.gate("neighbour")
    drop(live, "neighbour", "memory=50M", f"{live.side_effect('neighbour')}{gate.wait}echo well\n")
    eventually(lambda: live.runs("neighbour"))
    drop(live, "hog", "memory=50M", HOG)
    hog = live.ended("hog", within=60).record
    assert hog.reason == f"ended, since it used more than its memory of {50 << 20} bytes"
    assert (hog.state, hog.signal, hog.enforced) == (State.FAILED, 9, {"memory": "cgroup"})
    gate.open()
    assert done(live, "neighbour").text == "well\n"
    assert live.alive()
    eventually(lambda: not group.jobs())


def test_memory_of_all_processes(live: Live, group: Group) -> None:
    """What several have counts together, and none of them is left."""
    group.need("memory")
    part = "python3 -c 'import time; data = b\"x\" * (30 << 20); time.sleep(60)' &\n"
    drop(live, "parts", "memory=60M", f"{part * 3}wait\n")
    assert "more than its memory" in live.ended("parts", within=60).record.reason
    eventually(lambda: not live.jobs())


def test_memory_while_no_daemon_looks(live: Live, group: Group) -> None:
    """The keeper takes note of it, and the next daemon reads that; it is not run again."""
    group.need("memory")
    gate = live.gate("begin")
    drop(live, "hog", "memory=50M restartable", f"{live.side_effect('hog')}{gate.wait}{HOG}")
    eventually(lambda: live.runs("hog"))
    live.kill()
    gate.open()
    eventually(lambda: not group.jobs(), within=60)
    again(live, group)
    assert "more than its memory" in live.ended("hog").record.reason
    assert live.runs("hog") == 1


def test_cpus(live: Live, group: Group) -> None:
    """A job has so much CPU time in each period."""
    group.need("cpu")
    drop(live, "two", "cpus=2", f"cat {group.mounted}$(cut -d: -f3 /proc/self/cgroup)/cpu.max\n")
    filed = done(live, "two")
    assert filed.text == "200000 100000\n"
    assert (filed.record.enforced, filed.record.cpus) == ({"cpus": "cgroup"}, ())


def test_fork_bomb(live: Live, group: Group) -> None:
    """It has half of all processes at most, and others go on; cancelled, it is gone at once."""
    group.need("pids")
    drop(live, "bomb", "cpus=1 grace=1", f"trap '' TERM\nexec python3 -c '{BOMB}'\n")
    eventually(group.jobs)
    current = group.path / group.jobs()[0] / "pids.current"
    eventually(lambda: int(current.read_text()) >= MOST // 2 - 2, within=60)
    done_before = time.monotonic()
    drop(live, "neighbour", "cpus=1", "echo well | cat\n")
    assert done(live, "neighbour").text == "well\n"
    assert int(current.read_text()) <= MOST // 2
    assert time.monotonic() - done_before < 60
    Queue(live.spool).cancel("bomb")
    eventually(lambda: not group.jobs(), within=60)


def test_killed_as_a_whole(live: Live, group: Group) -> None:
    """What has left its session, its parent and its environment dies with the job."""
    hidden = "setsid env -i sh -c 'trap \"\" TERM; ulimit -x 0; while :; do sleep 1; done' &\n"
    drop(live, "hides", "cpus=1 grace=0.2 time=10", f"({hidden})\ntrap '' TERM\nsleep 60 & wait\n")
    eventually(group.jobs)
    procs = group.path / group.jobs()[0] / "cgroup.procs"
    eventually(lambda: len(procs.read_text().split()) >= 3)
    assert "since its time" in live.ended("hides", within=60).record.reason
    eventually(lambda: not group.jobs())


def test_another_daemon_of_the_group(live: Live, group: Group) -> None:
    """Started in the child, as a service does it, it finds the same group and its jobs."""
    gate = live.gate("long")
    drop(live, "long", "cpus=1 memory=100M", f"{live.side_effect('long')}{gate.wait}exit 0\n")
    eventually(lambda: live.runs("long"))
    (kept,) = group.jobs()
    live.kill()
    with pytest.raises(OSError, match="busy"):
        (group.path / "cgroup.procs").write_text("0")
    again(live, group)
    assert group.jobs() == [kept]
    gate.open()
    assert done(live, "long").record.enforced == {"memory": "cgroup", "cpus": "cgroup"}
    eventually(lambda: not group.jobs())


def test_what_stays_in_the_background(live: Live, group: Group) -> None:
    """It is held on to its limits when its job has ended, and its group goes with it."""
    gate = live.gate("behind")
    drop(live, "leaves", "cpus=1", f"({gate.wait}true) &\n")
    done(live, "leaves")
    assert len(group.jobs()) == 1
    gate.open()
    eventually(lambda: not group.jobs())
