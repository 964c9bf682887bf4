"""Three daemons on a file system with faults, each kind of fault while jobs run.

Faults of looks are kept off the jobs' own files: the kernel reads those when it executes a job,
and what it cannot read it reports as the job's failure.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from conftest import Say
from lab import shared
from lab.hosts import HOSTS, Hosts, needs
from live import eventually
from pmjq.state import State

pytestmark = pytest.mark.lab

PYTHON = "/usr/bin/python3"
"""Debian's package of fusepy is for Debian's Python."""

CLIENT = Path(__file__).with_name("badfs.py")
JOBS = 200
PAPERS = r"/\.pmjq/(node/[^/]+/(beat|node\.json|run|ask)|job/[^/]+/[^/]+\.json|events|ended)"

LOST_REPLIES = [
    {"call": "rename", "odds": 0.04, "done": True, "error": "EIO"},
    {"call": "rename", "odds": 0.04, "done": True, "error": "ENOENT"},
    {"call": "rename", "odds": 0.04, "done": True, "error": "ESTALE"},
    {"call": "rename", "odds": 0.04, "error": "EIO"},
    {"call": "mkdir|link", "odds": 0.02, "done": True, "error": "EEXIST"},
    {"call": "unlink|rmdir", "odds": 0.02, "done": True, "error": "ENOENT"},
]
BAD_LOOKS = [
    {"call": "getattr|open|readdir", "path": PAPERS, "odds": 0.01, "error": "ESTALE"},
    {"call": "getattr|open|readdir", "path": PAPERS, "odds": 0.01, "error": "EIO"},
]
HANGS = [{"odds": 0.0005, "hang": 10.0, "left": 4}]
FULL = [{"call": "create|write|mkdir|link|rename", "odds": 0.3, "error": "ENOSPC"}]


@dataclass
class Bad:
    """The file system, and what is wrong with it."""

    share: shared.Share
    controls: list[Path]

    def spoil(self, **wanted: Any) -> None:  # noqa: ANN401  # as JSON has it
        """Have this go wrong on all mounts from now on."""
        for control in self.controls:
            part = control.with_suffix(".new")
            part.write_text(json.dumps(wanted))
            part.rename(control)

    def told(self) -> tuple[Counter[str], Counter[str]]:
        """Return how many calls there were, and the faults that were made."""
        calls, faults = Counter[str](), Counter[str]()
        for control in self.controls:
            path = control.with_name(f"{control.name}.told")
            eventually(path.exists)
            told = json.loads(path.read_bytes())
            calls.update(told["calls"])
            faults.update(told["faults"])
        return calls, faults


@pytest.fixture
def bad(tmp_path: Path) -> Iterator[Bad]:
    """Return a file system in good order, mounted by three clients."""
    needs()
    known = "import importlib.util as u; exit(not (u.find_spec('fusepy') or u.find_spec('fuse')))"
    if subprocess.run([PYTHON, "-c", known], check=False).returncode:
        pytest.skip(f"{PYTHON} has no fusepy; tests/lab/setup installs it")
    backing = tmp_path / "backing"
    backing.mkdir()
    with Hosts() as hosts:
        controls = [hosts.root / f"{host}.json" for host in HOSTS]
        mounts = tuple(hosts.root / host for host in HOSTS)
        for host, mount, control in zip(HOSTS, mounts, controls, strict=True):
            mount.mkdir()
            command = [PYTHON, str(CLIENT), str(backing), str(mount), str(control)]
            hosts.mounted(mount, hosts.start(host, command, f"{host}.log"))
        yield Bad(shared.Share("badfs", mounts, backing, hosts), controls)


CASES: dict[str, dict[str, Any]] = {
    "lost replies": {"faults": LOST_REPLIES},
    "lost replies, bad looks, stale listings": {
        "listing": 5.0,
        "negative": 5.0,
        "faults": [*LOST_REPLIES, *BAD_LOOKS],
    },
}


@pytest.mark.parametrize("case", CASES)
def test_faults(bad: Bad, tmp_path: Path, say: Say, case: str) -> None:
    """Whatever the file system answers, each job is run and recorded once."""
    options = ("-j", "4", "--lease", "60", "--settle", "0")
    _run(bad, tmp_path, say, case, options, lambda: bad.spoil(**CASES[case]))


def test_full(bad: Bad, tmp_path: Path, say: Say) -> None:
    """A disk on which there is now and then no space delays, and nothing else."""
    options = ("-j", "4", "--lease", "60", "--settle", "0")
    _run(bad, tmp_path, say, "no space", options, lambda: bad.spoil(faults=FULL), relieve=True)


def test_hangs(bad: Bad, tmp_path: Path, say: Say) -> None:
    """Calls that hang for longer than the lease may lose a job, and run none twice."""
    options = ("-j", "4", "--lease", f"{shared.LEASE:g}", "--settle", "0")
    spoil = [*HANGS, *LOST_REPLIES]
    _run(bad, tmp_path, say, "hangs", options, lambda: bad.spoil(faults=spoil), losing=True)


PMJQ = (sys.executable, "-m", "pmjq")

ASKED = (
    ("list",),
    ("history",),
    ("nodes",),
    ("show", "x"),
    ("logs", "x"),
    ("wait", "x"),
    ("cancel", "ALL"),
    ("hold", "x"),
    ("release", "x"),
    ("retry", "x"),
    ("drain", "a"),
    ("resume", "a"),
    ("prune", "--older-than", "1d"),
    ("submit", "true"),
    ("doctor",),
)


def test_a_server_that_is_gone(bad: Bad) -> None:
    """Every verb says that the share does not answer, and so does a daemon that is to start."""
    spool = bad.share.mounts[0] / "spool"
    spool.mkdir()
    daemon = (*PMJQ, "--once", "-j", "1", str(spool))
    assert subprocess.run(daemon, capture_output=True, check=False).returncode == 0
    bad.spoil(faults=[{"error": "ENOTCONN"}])
    answers = {}
    for verb, *words in ASKED:
        where = (str(spool),) if verb == "doctor" else ("-s", str(spool))
        answers[verb] = subprocess.run(
            [*PMJQ, verb, *where, *words], capture_output=True, text=True, check=False
        )
    answers["daemon"] = subprocess.run(daemon, capture_output=True, text=True, check=False)
    assert {verb: one.returncode for verb, one in answers.items()} == dict.fromkeys(answers, 69)
    assert all("mount it anew" in one.stderr for one in answers.values())


def _run(
    bad: Bad,
    tmp_path: Path,
    say: Say,
    case: str,
    options: tuple[str, ...],
    spoil: Callable[[], None],
    *,
    relieve: bool = False,
    losing: bool = False,
) -> None:
    """Run jobs while faults are made; ``losing``: some may be lost."""
    local = tmp_path / "local"
    local.mkdir()
    with shared.Nodes(bad.share, local, options) as nodes:
        nodes.start()
        names = [f"job{number}" for number in range(JOBS)]
        staged = nodes.stage(names, nodes.text())
        spoil()
        began = time.monotonic()
        for path in staged:
            # As a submitter who looks. The backing directory has no faults.
            os.rename(bad.share.truth / path.relative_to(bad.share.mounts[0]), _target(nodes, path))
        if relieve:
            eventually(lambda: bad.told()[1].total() >= 10, within=60)
            bad.spoil()
        nodes.all_filed(names, within=150)
        seconds = time.monotonic() - began
        calls, faults = bad.told()
        bad.spoil()
        nodes.at_rest()
        begun, records = nodes.begun(), nodes.records()
        twice = {name: count for name, count in begun.items() if count > 1}
        lost = {name for name, record in records.items() if record.state is State.LOST}
        assert not twice
        assert losing or not lost
        assert all(
            name in lost or (record.state is State.DONE and begun[name] == 1)
            for name, record in records.items()
        )
        assert faults.total() > 0
        nodes.sane()
        made = ", ".join(f"{count} {name}" for name, count in faults.most_common())
        say(
            f"badfs, {case}: {JOBS} jobs in {seconds:.1f} s, {calls.total() / JOBS:.0f} calls per "
            f"job, {len(lost)} lost, 0 duplicates, papers of {nodes.papers()} jobs left; "
            f"{faults.total()} faults: {made}"
        )


def _target(nodes: shared.Nodes, path: Path) -> Path:
    return nodes.share.truth / nodes.name / "spool" / path.name
