"""The rules of ``pmjq doctor``: it finds out what is so, says it, and leaves nothing behind."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from conftest import eventually
from live import Live
from pmjq import contest, diagnosis, probe, verbs
from pmjq.diagnosis import Finding, Verdict
from pmjq.disk import Disk
from pmjq.doctor import TIMES, Doctor
from pmjq.errors import CannotCreateError, NotFoundError, NotPermittedError, TryLaterError
from pmjq.nodes import Pulse, Seen
from pmjq.ready import passed_over

PAGE = Path(__file__).parent.parent / "man/pmjq-doctor.1"
NOBODY = 65534


def names(top: Path) -> list[str]:
    """Return everything below a directory."""
    return sorted(str(path.relative_to(top)) for path in top.rglob("*"))


class Clock:
    """Time that passes when somebody pauses."""

    def __init__(self) -> None:
        self.at = 1000.0

    def now(self) -> float:
        return self.at

    def pause(self, seconds: float) -> None:
        self.at += seconds


def examine(
    root: Path, disk: Disk | None = None, other: Path | None = None, name: str = "a"
) -> dict[str, Finding]:
    """Examine a spool and return the findings by check."""
    found: dict[str, Finding] = {}
    clock = Clock()
    doctor = Doctor(
        disk or Disk(),
        str(root),
        name,
        None if other is None else str(other),
        now=clock.now,
        pause=clock.pause,
    )
    doctor.examine(lambda finding: found.update({finding.check: finding}))
    return found


def documented() -> list[str]:
    """Return the checks that the page names."""
    text = PAGE.read_text()
    section = text[text.index(".Sh CHECKS") : text.index(".Ss JSON")]
    items = re.findall(r"^\.It Cm (.*)$", section, re.MULTILINE)
    return [name for item in items for name in item.split(" , ")]


def test_a_good_file_system(tmp_path: Path) -> None:
    """Every check is made, nothing is bad, and nothing is left."""
    (tmp_path / "job").touch()
    found = examine(tmp_path, other=tmp_path)
    assert [name for name, one in found.items() if one.verdict is Verdict.BAD] == []
    assert list(found) == documented()
    assert names(tmp_path) == ["job"]


def test_files_are_fought_for(tmp_path: Path) -> None:
    """The contest is one: each file is won once, and several processes win some."""
    figures = examine(tmp_path, other=tmp_path)["rename"].figures
    assert (figures["files"], figures["doubled"], figures["lost"]) == (150, 0, 0)
    assert isinstance(figures["winners"], int)
    assert figures["winners"] > 1
    assert figures["mounts"] == 2


def test_no_process_is_left(tmp_path: Path) -> None:
    """Who contends has ended when the contest has, also where nothing can be won."""
    told, failed = contest.compete([str(tmp_path)] * 2, 3)
    assert (told, failed) == ([[], []], errno.ENOENT)
    place = str(tmp_path).encode()
    for each in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = each.read_bytes()
        except OSError:
            continue
        assert not (b"contest.py" in command and place in command)


def test_who_contends_for_nobody_ends(tmp_path: Path) -> None:
    """Where the doctor is gone before the start, nothing is renamed."""
    (tmp_path / contest.SOURCES).mkdir()
    (tmp_path / contest.TARGETS).mkdir()
    (tmp_path / contest.SOURCES / "0").touch()
    words = [sys.executable, "-I", "-S", contest.__file__, str(tmp_path), "0", "1"]
    done = subprocess.run(
        words, stdin=subprocess.DEVNULL, capture_output=True, check=True, timeout=30
    )
    assert done.stdout == b"ready\n"
    assert names(tmp_path / contest.TARGETS) == []


# --- nothing is left, and nobody takes it for something


class Breaking(Disk):
    """A disk on which the n-th call of one kind fails, or somebody interrupts."""

    def __init__(self, kind: str, after: int, error: BaseException) -> None:
        self.kind, self.left, self.error = kind, after, error
        self.seen: set[str] = set()

    def _step(self, kind: str, path: str) -> None:
        self.seen.add(path)
        if kind == self.kind:
            self.left -= 1
            if self.left == 0:
                raise self.error

    def write(self, path: str, data: bytes) -> None:
        super().write(path, data)
        self._step("write", path)

    def mkdir(self, path: str) -> None:
        super().mkdir(path)
        self._step("mkdir", path)

    def rename(self, source: str, target: str) -> None:
        super().rename(source, target)
        self._step("rename", target)


@pytest.mark.parametrize("served", [False, True])
@pytest.mark.parametrize(
    ("kind", "after"),
    [("mkdir", 1), ("write", 1), ("write", 3), ("rename", 7), ("mkdir", 5), ("write", 60)],
)
def test_an_interruption_leaves_nothing(
    tmp_path: Path, kind: str, after: int, *, served: bool
) -> None:
    """Wherever it comes."""
    if served:
        (tmp_path / ".pmjq/tmp").mkdir(parents=True)
    before = names(tmp_path)
    disk = Breaking(kind, after, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        examine(tmp_path, disk)
    assert disk.seen
    assert names(tmp_path) == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    """The real command, stopped in the middle of the waiting for a mount that shows nothing."""
    spool, other = tmp_path / "spool", tmp_path / "other"
    spool.mkdir()
    other.mkdir()
    words = [sys.executable, "-m", "pmjq", "doctor", str(spool), "--other", str(other)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        eventually(lambda: list(spool.glob(".pmjq-doctor-*/seen")), within=30)
        process.send_signal(number)
        _, err = process.communicate(timeout=30)
    assert (process.returncode, err.strip()) == (130, b"")
    assert names(spool) == []


def test_signals_are_as_before(tmp_path: Path) -> None:
    """Who calls the doctor gets his handlers back."""
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    examine(tmp_path)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_what_cannot_be_removed_is_said(tmp_path: Path) -> None:
    """With its path, after a while in which it was tried."""

    class Clinging(Disk):
        def rmdir(self, path: str) -> bool:
            if "doctor-" in path.rpartition("/")[2]:
                raise OSError(errno.EBUSY, "busy", path)
            return super().rmdir(path)

    with pytest.raises(TryLaterError, match=r"\.pmjq-doctor-.*could not be removed"):
        examine(tmp_path, Clinging())


def test_a_call_that_fails_is_a_finding(tmp_path: Path) -> None:
    """It is bad, the rest is examined, and nothing is left."""
    error = OSError(errno.EIO, "Input/output error")
    found = examine(tmp_path, Breaking("rename", 3, error))
    assert found["latency of rename"].verdict is Verdict.BAD
    assert found["latency of rename"].figures == {"errno": errno.EIO}
    assert "latency of unlink" not in found
    assert found["rename"].verdict is Verdict.OK
    assert names(tmp_path) == []


def test_no_daemon_takes_it_for_a_job(tmp_path: Path) -> None:
    """In the spool it is hidden; in tmp it has no life's name."""
    disk = Breaking("", 0, OSError())
    examine(tmp_path, disk)
    tops = {path.removeprefix(f"{tmp_path}/").partition("/")[0] for path in disk.seen}
    (top,) = tops
    assert passed_over(top)
    (tmp_path / ".pmjq/tmp").mkdir(parents=True)
    disk = Breaking("", 0, OSError())
    examine(tmp_path, disk)
    tops = {path.removeprefix(f"{tmp_path}/.pmjq/tmp/").partition("/")[0] for path in disk.seen}
    (top,) = tops
    assert re.fullmatch(r"doctor-[0-9a-f]+", top)


def test_a_living_daemon_is_not_disturbed(tmp_path: Path) -> None:
    """It neither runs nor rejects nor removes anything of the examination."""
    with Live(tmp_path, "--node", "here") as live:
        result = run(str(live.spool), "--node", "here", "--json")
        assert result.returncode == 0
        found = {one["check"]: one for one in map(json.loads, result.stdout.splitlines())}
        assert live.process is not None
        assert str(live.process.pid) in found["node name"]["found"]
        assert "format 1" in found["spool"]["found"]
        assert live.leftovers() == [f"node/{live.node()['token']}"]
        assert live.events("job.ended", "entry.left", "turn.failed") == []
        assert live.node()["aside"] == {}


# --- what cannot be examined


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the real command, not on a terminal."""
    plain = {
        key: value for key, value in os.environ.items() if key not in ("COLUMNS", "PMJQ_SPOOL")
    }
    return subprocess.run(
        [sys.executable, "-m", "pmjq", "doctor", *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=plain | environment,
    )


def test_a_missing_spool(tmp_path: Path) -> None:
    """Is not made, nor is a missing mount."""
    (tmp_path / "file").touch()
    for words in (["none"], ["file"], [".", "--other", "none"]):
        paths = [word if word.startswith("--") else str(tmp_path / word) for word in words]
        result = run(*paths)
        assert (result.returncode, result.stdout, result.stderr.count("\n")) == (66, "", 1)
    assert names(tmp_path) == ["file"]
    with pytest.raises(NotFoundError):
        examine(tmp_path / "none")


def test_a_spool_that_is_read_only(tmp_path: Path) -> None:
    """What can be read is examined, then the reason is said: 73."""

    class ReadOnly(Disk):
        def mkdir(self, path: str) -> None:
            raise OSError(errno.EROFS, "Read-only file system", path)

    with pytest.raises(CannotCreateError, match=r"Read-only.*mount it writable"):
        examine(tmp_path, ReadOnly())


def test_a_real_file_system_that_is_read_only() -> None:
    """/proc/sys cannot be written by anybody: a clear line, the right code, and what was found."""
    if not os.statvfs("/proc").f_files and os.geteuid() != 0:
        pytest.skip("needs a place that refuses a directory")
    result = run("/proc")
    assert result.returncode == 73
    assert "nothing can be made in it" in result.stderr
    assert result.stderr.count("\n") == 1
    assert "proc, local" in result.stdout


@pytest.fixture
def public() -> Iterator[Path]:
    """Return a directory that every user can reach: pytest's are private."""
    with tempfile.TemporaryDirectory(prefix="pmjq-test-") as path:
        Path(path).chmod(0o755)
        yield Path(path)


def as_another_user(path: Path) -> subprocess.CompletedProcess[str]:
    """Examine a spool as somebody whom file modes bind, with the modules read beforehand."""
    code = (
        "import os, shutil, sys, pmjq.account, pmjq.disk, pmjq.doctor, pmjq.render, pmjq.verbs\n"
        "from pmjq.cli import main\n"
        f"if os.getuid() == 0: os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})\n"
        "sys.exit(main(['doctor', *sys.argv[1:]]))"
    )
    return subprocess.run(
        [sys.executable, "-c", code, str(path)],
        capture_output=True,
        check=False,
        text=True,
        timeout=60,
    )


def test_a_spool_that_this_user_may_not_write(public: Path) -> None:
    """Modes bind him: 77, with what could be read."""
    public.chmod(0o555)
    result = as_another_user(public)
    public.chmod(0o755)
    assert result.returncode == 77
    assert "may not write it" in result.stderr
    assert "space" in result.stdout


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make another user's tree")
def test_a_spool_whose_own_tree_is_another_users(public: Path) -> None:
    """Who may submit may examine: in a hidden directory of the spool."""
    (public / ".pmjq/tmp").mkdir(parents=True)
    (public / ".pmjq/spool.json").write_text('{"format": 1, "uuid": "u"}')
    public.chmod(0o1777)
    result = as_another_user(public)
    # The interpreter itself may be where this user may not go, so not all need be well.
    assert "ok       exec " in result.stdout
    assert "ok       latency of rmdir" in result.stdout
    assert names(public) == [".pmjq", ".pmjq/spool.json", ".pmjq/tmp"]


# --- the command


def test_json_has_the_documented_fields(tmp_path: Path) -> None:
    """One object to a line; every field and figure is on the page."""
    result = run("-s", str(tmp_path), "--other", str(tmp_path), "--json")
    assert result.returncode == 0
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["check"] for line in lines] == documented()
    fields = {"check", "verdict", "found", "remedy", "figures"}
    page = PAGE.read_text()
    assert set(re.findall(r"^\.It Va (\w+)$", page, re.MULTILINE)) == fields
    text = page[page.index(".It Va figures") :]
    figures = {
        name for line in re.findall(r"^\.Va (.*)$", text, re.MULTILINE) for name in line.split()
    }
    for line in lines:
        assert set(line) == fields
        assert set(line["figures"]) <= figures


@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_table_fits(tmp_path: Path, width: int) -> None:
    """Into the width asked for, without colours."""
    result = run(str(tmp_path), COLUMNS=str(width), NO_COLOR="1")
    assert max(map(len, result.stdout.splitlines())) <= width
    assert "\x1b" not in result.stdout
    assert "programs can be executed" in " ".join(result.stdout.split())


def test_something_bad_is_exit_code_1(tmp_path: Path) -> None:
    """For instance a format that is not known: said with both numbers."""
    (tmp_path / ".pmjq").mkdir()
    (tmp_path / ".pmjq/spool.json").write_text('{"format": 9, "uuid": "u"}')
    result = run(str(tmp_path))
    assert (result.returncode, result.stderr) == (1, "")
    assert "format 9" in result.stdout
    assert "format 1" in result.stdout


def test_wrong_command_lines(tmp_path: Path) -> None:
    """Each is refused with the way to the right one."""
    for words in (
        ["-s", str(tmp_path), str(tmp_path)],
        ["--nope"],
        ["a", "b"],
        [""],
        ["--other", ""],
    ):
        result = run(*words)
        assert (result.returncode, result.stdout, result.stderr.count("\n")) == (64, "", 1)
    assert "pmjq doctor --help" in run("--nope").stderr


def test_the_page_has_the_options() -> None:
    """All that the command takes, and no other."""
    command = verbs.doctor
    parameters = command.get_params(click.Context(command, **command.context_settings))
    options = {name for one in parameters for name in one.opts if name.startswith("-")}
    lines = re.findall(r"^\.(?:Op |It )?(Fl .*)$", PAGE.read_text(), re.MULTILINE)
    found = {f"-{name}" for line in lines for name in re.findall(r"\bFl ([\w-]+)", line)}
    assert found == options | {"-h", "--help"}


# --- another mount


def test_another_directory_is_no_other_mount(tmp_path: Path) -> None:
    """It is bad to have named it, and processes contend in the spool alone."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    found = examine(tmp_path / "a", other=tmp_path / "b")
    assert found["other mount"].verdict is Verdict.BAD
    assert "new name" not in found
    assert found["rename"].figures["mounts"] == 1


class Late(Disk):
    """A disk on which one path shows what was there some pauses ago."""

    def __init__(self, there: Path, looks: int) -> None:
        self.there, self.looks = f"{there}/", looks
        self.listings: dict[str, tuple[list[str], int]] = {}

    def names(self, path: str) -> list[str]:
        fresh = super().names(path)
        if not path.startswith(self.there) or "/seen" not in path:
            return fresh
        old, left = self.listings.get(path, (fresh, self.looks))
        left -= fresh != old
        self.listings[path] = (old, left) if left > 0 else (fresh, self.looks)
        return old if left > 0 else fresh


@pytest.mark.parametrize(("looks", "verdict"), [(1, "ok"), (80, "warning"), (10_000, "bad")])
def test_a_mount_that_is_late(tmp_path: Path, looks: int, verdict: str) -> None:
    """How late it shows a new name is measured, up to a minute."""
    spool, there = tmp_path / "spool", tmp_path / "there"
    spool.mkdir()
    there.symlink_to(spool)
    found = examine(spool, Late(there, looks), other=there)
    assert str(found["new name"].verdict) == verdict
    assert found["changed beat"].verdict is Verdict.OK
    assert names(spool) == []


# --- what figures mean


def rename(told: list[list[int]], left: list[str], targets: list[str], mounts: int = 1) -> Finding:
    """Judge a contest for two files."""
    return diagnosis.rename(2, told, left, targets, mounts, errno.EIO)


@pytest.mark.parametrize(
    ("told", "left", "targets", "verdict", "doubled", "lost"),
    [
        ([[0], [1]], [], ["0.0", "1.1"], "ok", 0, 0),
        ([[0], []], ["1"], ["0.0"], "ok", 0, 0),
        ([[0], []], [], ["0.0", "1.1"], "ok", 0, 0),
        ([[0], [0, 1]], [], ["0.0", "1.1"], "bad", 1, 0),
        ([[0], [1]], [], ["0.0", "0.1", "1.1"], "bad", 1, 0),
        ([[0], [1]], ["0"], ["0.0", "1.1"], "bad", 1, 0),
        ([[0], []], [], ["0.0"], "bad", 0, 1),
        ([[0, 1], []], [], ["0.0"], "bad", 0, 1),
        ([[], []], ["0", "1"], [], "bad", 0, 0),
    ],
)
def test_what_a_contest_shows(
    told: list[list[int]],
    left: list[str],
    targets: list[str],
    verdict: str,
    doubled: int,
    lost: int,
) -> None:
    """A file has one winner, and only one who was told so; a lost reply is no harm."""
    found = rename(told, left, targets)
    assert (str(found.verdict), found.figures["doubled"], found.figures["lost"]) == (
        verdict,
        doubled,
        lost,
    )


def test_a_contest_that_one_mount_won_shows_little() -> None:
    """Nobody there was quick enough, or could not rename at all."""
    assert rename([[0, 1], []], [], ["0.0", "1.0"], mounts=2).verdict is Verdict.WARNING
    assert rename([[0], [1]], [], ["0.0", "1.1"], mounts=2).verdict is Verdict.OK


def seen(state: Pulse, judged: str) -> Seen:
    """Return a life of this name."""
    return Seen(name="a", token="a.b.c", state=state, judged=judged, host="h", pid=7)


@pytest.mark.parametrize(
    ("finding", "verdict", "word"),
    [
        (diagnosis.kind("ext4", shared=False), "ok", "local"),
        (diagnosis.kind("nfs4", shared=True), "ok", "shared"),
        (diagnosis.kind("tmpfs", shared=False), "warning", "reboot"),
        (diagnosis.kind("", shared=False), "warning", "unknown"),
        (diagnosis.space(8e10, None), "ok", "80 GB"),
        (diagnosis.space(5e8, 10**6), "warning", "500 MB"),
        (diagnosis.space(8e10, 9999), "warning", "9999 inodes"),
        (diagnosis.space(1e6, 10**6), "bad", "1 MB"),
        (diagnosis.space(8e10, 0), "bad", "0 inodes"),
        (diagnosis.owner(5, 5), "ok", "ours"),
        (diagnosis.owner(5, 65534), "bad", "65534"),
        (diagnosis.clock(10.0, 10.5, 11.0), "ok", "agrees"),
        (diagnosis.clock(10.0, 8.5, 11.0), "ok", "agrees"),
        (diagnosis.clock(10.0, 3611.0, 11.0), "warning", "60 min ahead of"),
        (diagnosis.clock(10.0, 0.0, 11.0), "warning", "10 s behind"),
        (diagnosis.latency("x", [0.01] * 9 + [1.0]), "ok", "1 s at worst"),
        (diagnosis.latency("x", [0.2] * 9), "warning", "200 ms"),
        (diagnosis.latency("x", [0.01] * 9 + [6.0]), "warning", "6 s"),
        (diagnosis.latency("x", [0.01] * 9 + [61.0]), "bad", "61 s"),
        (diagnosis.lateness("new name", 4.0, 60.0), "ok", "4 s"),
        (diagnosis.lateness("new name", 20.0, 60.0), "warning", "20 s"),
        (diagnosis.lateness("changed beat", 20.0, 60.0), "bad", "20 s"),
        (diagnosis.lateness("removed name", None, 60.0), "bad", "not seen"),
        (diagnosis.name_free("a", []), "ok", "free"),
        (diagnosis.name_free("a", [seen(Pulse.SILENT, "beat")]), "ok", "earlier life"),
        (diagnosis.name_free("a", [seen(Pulse.ALIVE, "process")]), "ok", "this machine"),
        (diagnosis.name_free("a", [seen(Pulse.ALIVE, "beat")]), "bad", "in use on h"),
    ],
)
def test_what_figures_mean(finding: Finding, verdict: str, word: str) -> None:
    """Each has a verdict, says its figure, and what to do unless all is well."""
    assert (str(finding.verdict), word in finding.found) == (verdict, True)
    assert bool(finding.remedy) == (verdict != "ok")


@pytest.mark.parametrize("name", ["a b", "", "-x"])
def test_a_name_that_cannot_be_a_nodes(tmp_path: Path, name: str) -> None:
    """The daemon would refuse it."""
    assert examine(tmp_path, name=name)["node name"].verdict is Verdict.BAD


def test_a_spool_that_cannot_execute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system mounted noexec is bad, as is one whose files come out otherwise."""

    class Twisted(Disk):
        def write(self, path: str, data: bytes) -> None:
            super().write(path, data.replace(b"exit 7", b"exit 0"))

    assert examine(tmp_path, Twisted())["exec"].verdict is Verdict.BAD

    def denied(path: str, mode: int) -> None:
        """Leave the file without its bit: execve says EACCES, as on noexec."""

    monkeypatch.setattr(os, "chmod", denied)
    found = examine(tmp_path)["exec"]
    assert (found.verdict, "noexec" in found.remedy) == (Verdict.BAD, True)


def test_latencies_are_of_the_calls(tmp_path: Path) -> None:
    """Each is made as often as is said, on the clock that was given."""
    clock = Clock()

    class Slow(Disk):
        def sync(self, path: str) -> None:
            super().sync(path)
            clock.pause(0.25)

    found: dict[str, Finding] = {}
    doctor = Doctor(Slow(), str(tmp_path), "a", now=clock.now, pause=clock.pause)
    doctor.examine(lambda finding: found.update({finding.check: finding}))
    assert found["latency of sync"].figures == {"median": 0.25, "worst": 0.25, "times": TIMES}
    assert found["latency of sync"].verdict is Verdict.WARNING
    assert found["latency of stat"].figures["worst"] == 0.0


def test_kind_is_that_of_the_kernel(tmp_path: Path) -> None:
    """The type as in /proc/mounts."""
    assert examine(tmp_path)["file system"].figures["kind"] == probe.file_system(str(tmp_path))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
@pytest.mark.parametrize("theirs", ["", ".pmjq/tmp"])
def test_root_executes_nothing_that_others_could_put_there(public: Path, theirs: str) -> None:
    """In a directory of somebody else's root examines what can be read, and tries no program."""
    (public / ".pmjq/tmp").mkdir(parents=True)
    os.chown(public / theirs, NOBODY, NOBODY)
    with pytest.raises(NotPermittedError, match="others than root can write it"):
        examine(public)
    assert not list(public.rglob("*doctor*"))
    os.chown(public / theirs, 0, 0)
