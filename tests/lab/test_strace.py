"""No job is lost, executed twice or recorded twice: the real daemon killed before any system call.

strace injects SIGKILL before the n-th call of one name in one thread: it counts for each thread
and each name apart. Therefore it is attached to the one thread that is swept, never with ``-f``,
so keeper and jobs are not touched. Which calls there are, a recording run tells; only those count
that name the spool or the archive, and every one that changes something is cut at. strace itself
is never told to end: it ends with what it traces.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from live import Filed, Live, eventually
from pmjq.state import State

if TYPE_CHECKING:
    from lab.conftest import Mount

pytestmark = pytest.mark.lab

MOST_CHANGING, MOST_READING = 60, 6
"""More calls of a case are sampled evenly; a cut takes 1 to 2 s, and reading changes no state."""

AT_ONCE = 2
"""Cuts, each with a spool and daemons of its own: half of such a cut is waiting."""

CHANGING = (  # noqa: SIM905  # a list of forty strings is no easier to read
    "creat mkdir mkdirat rename renameat renameat2 link linkat symlink symlinkat unlink unlinkat"
    " rmdir mknod mknodat chmod fchmod fchmodat chown fchown lchown fchownat utimensat truncate"
    " ftruncate write pwrite64 sendfile copy_file_range fsync fdatasync"
).split()
READING = ["open", "openat", "newfstatat", "stat", "lstat", "fstat", "statx", "getdents64"]
TRACED = "trace=" + ",".join(f"?{name}" for name in CHANGING + READING)

VARIES = re.compile(
    r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|\d{8}T\d{6}\.\d{6}Z|[0-9a-f]{8}|\b\d+(?=<)"
)

JOB = "echo out; echo kept >result\n"


@dataclass(frozen=True)
class Cut:
    """The n-th call of a name in the thread that is swept."""

    name: str
    number: int
    line: str

    @property
    def changes(self) -> bool:
        """Tell whether the call changes anything on disk."""
        return self.name in CHANGING or "O_CREAT" in self.line or "O_TRUNC" in self.line

    @property
    def what(self) -> str:
        """Return the call without what differs from run to run."""
        return VARIES.sub("*", self.line.partition(" = ")[0].partition(", {st_mode")[0])


def _calls(log: Path, root: Path) -> list[Cut]:
    """Return the calls in a log of strace that name the spool or the archive."""
    counts: Counter[str] = Counter()
    found: list[Cut] = []
    for line in log.read_text(errors="replace").splitlines():
        name, bracket, _ = line.partition("(")
        if not bracket or not name.isidentifier():
            continue
        counts[name] += 1
        if re.search(rf"/{re.escape(root.name)}/(spool|archive)", line):
            found.append(Cut(name, counts[name], line))
    return found


def _chosen(calls: list[Cut]) -> list[Cut]:
    """Return the calls that change something and a few others, evenly sampled if too many."""
    changing = [call for call in calls if call.changes]
    reading = [call for call in calls if not call.changes]
    wanted = {
        *changing[:: max(1, -(-len(changing) // MOST_CHANGING))],
        *reading[:: max(1, -(-len(reading) // MOST_READING))],
    }
    return [call for call in calls if call in wanted]


def _strace(log: Path, cut: Cut | None) -> list[str]:
    words = ["strace", "-y", "-s", "0", "-o", str(log), "-e", TRACED]
    if cut is not None:
        words += ["-e", f"inject={cut.name}:signal=SIGKILL:when={cut.number}"]
    return words


def _verify(live: Live, names: set[str]) -> None:
    """Check that each of these jobs was executed and recorded once, and that nothing is left."""
    filed: dict[str, Filed] = {}
    for name in names:
        assert live.runs(name) == 1, f"{name} was executed {live.runs(name)} times"
        filed[name] = live.ended(name)
        assert filed[name].record.state is State.DONE
        assert filed[name].record.attempt == 1
        assert filed[name].text == "out\n"
        assert (filed[name].files / "result").read_text() == "kept\n"
    assert {job.record.name for job in live.filed()} == names
    assert live.spooled() == []
    assert live.leftovers() == []
    # The file, its output, its record and its directory: nothing half copied.
    expected = {
        job.path.name + end for job in filed.values() for end in ("", ".out", ".json", ".d")
    }
    assert set(os.listdir(live.archive)) == expected


Run = Callable[[Path, Cut | None], list[Cut]]
"""One life of a daemon, cut or recorded, and a plain one after it; returns the calls it made."""


def _sweep(case: str, run: Run, base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Record one run, then cut at each of its calls."""
    began = time.monotonic()
    recorded = run(base / "recorded", None)
    assert len([call for call in recorded if call.changes]) > 5
    cuts = _chosen(recorded)
    changing = [cut for cut in cuts if cut.changes]
    all_changing = [call for call in recorded if call.changes]

    def made(number: int) -> str:
        """Cut, and return the last call before it."""
        root = base / f"cut{number}"
        try:
            calls = run(root, cuts[number])
        except AssertionError as error:
            raise AssertionError(f"{case}, cut before {cuts[number].line}: {error}") from error
        shutil.rmtree(root)
        return calls[-1].what.replace(root.name, "") if calls else ""

    pool = ThreadPoolExecutor(AT_ONCE)
    try:
        hits = list(pool.map(made, range(len(cuts))))
    finally:
        pool.shutdown(cancel_futures=True)
    wanted = [cut.what.replace("recorded", "") for cut in cuts]
    reached = sum(hit == what for hit, what in zip(hits, wanted, strict=True))
    with capsys.disabled():
        print(
            f"\n{case}: {len(cuts)} cut points"
            f" ({len(changing)} of {len(all_changing)} changing calls,"
            f" {len(cuts) - len(changing)} of {len(recorded) - len(all_changing)} reading ones"
            f"{', sampled evenly' if len(cuts) < len(recorded) else ''}),"
            f" {len(set(hits))} different, {reached} exactly as recorded,"
            f" {time.monotonic() - began:.0f} s"
        )
    # How often the thread was woken differs, so a cut may be before the same call earlier or later.
    assert reached >= len(cuts) // 2


@pytest.fixture(autouse=True)
def _ready() -> None:
    """Skip where there is no strace, or where it may not trace."""
    if os.geteuid():
        pytest.skip("needs root: a thread of a running daemon is traced")
    if shutil.which("strace") is None:
        pytest.skip("needs strace: tests/lab/setup installs it")
    traced = subprocess.run(["strace", "-o", "/dev/null", "true"], check=False, capture_output=True)
    if traced.returncode:
        pytest.skip(f"strace cannot trace here: {traced.stderr.decode().strip()}")


def _threads(pid: int) -> list[int]:
    """Return the daemon's own threads as they were made: main, log, heart, watch, turns, filing."""
    base = Path(f"/proc/{pid}/task")
    return [
        thread
        for thread in sorted(map(int, os.listdir(base)))
        if not (base / str(thread) / "comm").read_text().startswith("notify")
    ]


TURNS, FILING = 4, 5


def _asleep(pid: int, number: int) -> int:
    """Return a thread once all have been made and it sleeps for lack of anything to do, else 0."""
    threads = _threads(pid)
    complete = len(threads) > number and len(os.listdir(f"/proc/{pid}/task")) > len(threads)
    if not complete:
        return 0
    state = Path(f"/proc/{pid}/task/{threads[number]}/stat").read_text().rpartition(") ")[2]
    return threads[number] if state.startswith("S") else 0


@dataclass(frozen=True)
class Attached:
    """A job's life seen from one thread of a daemon that runs already."""

    thread: int
    far: Callable[[Path], Path] | None = None

    def __call__(self, root: Path, cut: Cut | None) -> list[Cut]:
        archive = root / "archive" if self.far is None else self.far(root)
        live = Live(root, "-o", str(archive))
        log, said = root / "calls", root / "strace"
        names = {"job"}
        try:
            live.start()
            if self.thread == FILING:
                # The thread is made for the first job that is filed far away.
                live.drop("warm", f"{live.side_effect('warm')}{JOB}")
                eventually(lambda: len(live.filed()) == 1 and len(_threads(live.pid)) > FILING)
                eventually(lambda: live.leftovers() == [f"node/{live.node()['token']}"])
                names.add("warm")
            thread = eventually(lambda: _asleep(live.pid, self.thread))
            with said.open("wb") as errors:
                strace = subprocess.Popen(
                    [*_strace(log, cut), "-p", str(thread)], stderr=errors, cwd="/"
                )
            try:
                eventually(lambda: b"attached" in said.read_bytes())
                live.drop("job", f"{live.side_effect('job')}{JOB}")
                eventually(lambda: not live.alive() or _at_rest(live, "job"))
            finally:
                live.kill()
                strace.wait(30)
            assert live.once() == 0
            _verify(live, names)
            return _calls(log, root)
        finally:
            live.close()
            if self.far is not None:
                shutil.rmtree(archive, ignore_errors=True)


def _at_rest(live: Live, name: str) -> bool:
    own = live.spool / ".pmjq"
    return bool(live.named(name)) and not os.listdir(own / "job") and not os.listdir(own / "ended")


def test_life_of_a_job(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From drop to archive, the thread that takes the turns may be killed before any call."""
    _sweep("turns, archive near", Attached(TURNS), tmp_path, capsys)


@pytest.mark.parametrize("thread", [TURNS, FILING], ids=["turns", "filing"])
def test_life_of_a_job_with_the_archive_far_away(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], mount: Mount, thread: int
) -> None:
    """The same where filing is copying, for both threads that have to do with it."""
    memory = mount("tmpfs", "16m")
    run = Attached(thread, lambda root: memory / root.name / "archive")
    _sweep(f"{'turns' if thread == TURNS else 'filing'}, archive far", run, tmp_path, capsys)


@dataclass(frozen=True)
class FromTheStart:
    """A whole ``--once`` seen from the main thread, which begins, takes up and stops."""

    prepare: Callable[[Path], set[str]]

    def __call__(self, root: Path, cut: Cut | None) -> list[Cut]:
        log = root / "calls"
        names = self.prepare(root)
        live = Live(root, "-j", "1", before=_strace(log, cut))
        try:
            live.once()
            live.before = ()
            assert live.once() == 0
            _verify(live, names)
            return _calls(log, root)
        finally:
            live.close()


def test_first_start_and_stop(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A daemon that makes the spool's own tree may be killed before any call."""

    def prepare(root: Path) -> set[str]:
        live = Live(root)
        live.drop("job", f"{live.side_effect('job')}{JOB}")
        return {"job"}

    _sweep("main thread, new spool", FromTheStart(prepare), tmp_path, capsys)


@pytest.fixture
def left(tmp_path: Path) -> Iterator[Path]:
    """Return a tree as a daemon left it that was killed while a job ran and one was queued."""
    live = Live(tmp_path / "left", "-j", "1")
    try:
        gate = live.gate("job")
        live.start()
        live.drop("job", f"{live.side_effect('job')}{gate.wait}{JOB}")
        eventually(lambda: live.runs("job"))
        live.drop("queued", f'echo queued >>"${{PMJQ_SPOOL%/*}}/side/queued"\n{JOB}')
        live.kill()
        gate.open()
        eventually(lambda: not list(live.family()))
        gate.path.unlink()
        yield live.root
    finally:
        live.close()


def test_start_after_a_crash(
    tmp_path: Path, left: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A daemon that takes up what a dead one left may be killed before any call."""

    def prepare(root: Path) -> set[str]:
        subprocess.run(["cp", "-a", left, root], check=True)
        # A spool of its own: a node serves one spool once at a time.
        identity = root / "spool/.pmjq/spool.json"
        content = json.loads(identity.read_bytes())
        identity.write_text(json.dumps(content | {"uuid": str(uuid.uuid4())}))
        return {"job", "queued"}

    _sweep("main thread, after a crash", FromTheStart(prepare), tmp_path, capsys)
