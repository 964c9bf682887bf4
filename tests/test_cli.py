"""The rules of the door: what the command line means, and what a person reads when it is wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest

from live import PROJECT
from pmjq import __version__, given, lock
from pmjq.admission import Admission
from pmjq.cli import BUILT, VERBS, main
from pmjq.daemon import Daemon

if TYPE_CHECKING:
    from collections.abc import Iterator

Captured = pytest.CaptureFixture[str]
USAGE, NO_INPUT, CANNOT_CREATE, TRY_LATER, NOT_PERMITTED, CONFIGURATION = 64, 66, 73, 75, 77, 78
NOBODY = 65534


@pytest.fixture(autouse=True)
def _no_daemon_in_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no daemon run in the process of the tests: where it is not refused it would not end."""

    def run(_: Daemon) -> int:
        pytest.fail("the daemon was to be started")

    monkeypatch.setattr(Daemon, "run", run)


def refusal(capsys: Captured) -> str:
    """Return the one line that a person reads when nothing is done."""
    out, err = capsys.readouterr()
    assert (out, err[:6], err.count("\n")) == ("", "pmjq: ", 1)
    return err


def run(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the real command."""
    command = [sys.executable, "-m", "pmjq", *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=30)


@pytest.fixture
def node() -> str:
    """Return the name of a node that nobody else has."""
    return f"test-{uuid.uuid4().hex[:8]}"


# --- help


def test_help_tells_every_option(capsys: Captured) -> None:
    """Help goes to standard output, names all options of the daemon, and is no error."""
    assert main(["--help"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.startswith("Usage: pmjq [OPTIONS] SPOOL")
    options = "-C -o -e -j --node --settle --grace --on-stop --accept-owner --log-format --once"
    assert [each for each in options.split() if f"  {each} " not in out] == []
    assert "pmjq VERB --help" in out
    assert max(map(len, out.splitlines())) <= 100


def test_short_help_is_the_same(capsys: Captured) -> None:
    """``-h`` is ``--help``."""
    assert main(["-h"]) == 0
    short = capsys.readouterr().out
    assert main(["--help"]) == 0
    assert short == capsys.readouterr().out


def test_version(capsys: Captured) -> None:
    """``--version`` is the name and the version."""
    assert main(["--version"]) == 0
    assert capsys.readouterr() == (f"pmjq {__version__}\n", "")


def test_help_needs_nothing_of_the_daemon(tmp_path: Path) -> None:
    """What is answered at the door is answered quickly: nothing heavy is imported."""
    code = (
        "import sys; from pmjq.cli import main\n"
        "lines = ('--help', '--version', 'list --help', 'nodes --help', 'doctor --help',"
        " 'top', '--x', '')\n"
        "codes = [main(line.split()) for line in lines]\n"
        "heavy = 'anyio asyncio msgspec psutil structlog watchfiles pmjq.daemon'.split()\n"
        "print(codes, sorted({*heavy} & {*sys.modules}))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        check=True,
        text=True,
        cwd=tmp_path,
        timeout=30,
    )
    assert found.stdout.splitlines()[-1] == "[0, 0, 0, 0, 0, 64, 64, 64] []"


def test_help_into_a_pipe_that_closes() -> None:
    """``pmjq --help | head -1`` leaves no traceback."""
    command = f"{sys.executable} -m pmjq --help | true"
    found = subprocess.run(
        ["bash", "-c", command], capture_output=True, check=False, text=True, timeout=30
    )
    assert "Traceback" not in found.stderr


def test_help_that_cannot_be_written() -> None:
    """Where standard output cannot be written, the exit code says so, without a traceback."""
    command = f"{sys.executable} -m pmjq --help >/dev/full"
    found = subprocess.run(
        ["bash", "-c", command], capture_output=True, check=False, text=True, timeout=30
    )
    assert found.returncode != 0
    assert "Traceback" not in found.stderr


# --- verbs


def test_verbs_are_those_of_the_product() -> None:
    """Every verb is reserved from the first version on."""
    words = "submit list show logs wait cancel hold release retry history "
    words += "nodes drain resume doctor prune top web"
    assert set(words.split()) == VERBS


@pytest.mark.parametrize("verb", sorted(VERBS - set(BUILT)))
def test_verb_is_refused_with_the_way_out(verb: str, capsys: Captured) -> None:
    """A verb that is not built is a wrong command line; no spool of that name is served."""
    assert main([verb, "x"]) == USAGE
    line = refusal(capsys)
    assert line.startswith(f"pmjq: {verb}: ")
    assert f"pmjq ./{verb}" in line


@pytest.mark.parametrize("verb", sorted(BUILT))
def test_built_verb_has_help(verb: str, capsys: Captured) -> None:
    """It tells its options and where more is told, in lines that fit."""
    assert main([verb, "--help"]) == 0
    out, err = capsys.readouterr()
    assert (err, out.startswith(f"Usage: pmjq {verb} [OPTIONS]")) == ("", True)
    # What a job wrote is printed as it is.
    json = ["--json"] if verb != "logs" else []
    assert [each for each in ("-s SPOOL", *json, f"man pmjq-{verb}") if each not in out] == []
    assert max(map(len, out.splitlines())) <= 100
    assert main([verb, "-h"]) == 0
    assert capsys.readouterr().out == out


def test_built_verb_is_refused_with_its_own_help(capsys: Captured) -> None:
    """A wrong option of a verb points to the help of that verb."""
    assert main(["nodes", "--nope"]) == USAGE
    assert "pmjq nodes --help" in refusal(capsys)


@pytest.mark.parametrize("verb", sorted(VERBS - set(BUILT)))
def test_verb_has_help(verb: str, capsys: Captured) -> None:
    """Each verb tells what it is."""
    assert main([verb, "--help"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.startswith(f"Usage: pmjq {verb}\n")
    assert "-s SPOOL" not in out
    assert f"pmjq ./{verb}" in out


def test_verb_is_a_verb_even_beside_a_spool_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    """The first word decides, whatever there is on disk."""
    (tmp_path / "top").mkdir()
    monkeypatch.chdir(tmp_path)
    assert main(["top"]) == USAGE
    assert "./top" in refusal(capsys)
    assert list((tmp_path / "top").iterdir()) == []


def test_verb_is_no_verb_behind_an_option(capsys: Captured) -> None:
    """Only the first word can be a verb."""
    assert main(["-C", "4", "list-of-jobs"]) == NO_INPUT
    assert "list-of-jobs" in refusal(capsys)
    assert main(["--once", "list"]) == NO_INPUT
    assert main(["--", "list"]) == NO_INPUT


def test_spool_named_like_a_verb(tmp_path: Path, node: str) -> None:
    """``pmjq ./list`` serves a spool of that name, and runs what is in it."""
    spool = tmp_path / "list"
    spool.mkdir()
    (spool / "job").write_text("#!/bin/sh\necho hello\n")
    (spool / "job").chmod(0o755)
    done = run("--node", node, "--once", "-o", "archive", "./list", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "")
    events = [json.loads(line)["event"] for line in done.stderr.splitlines()]
    assert (events.count("daemon.started"), events.count("job.ended")) == (1, 1)
    assert events[-1] == "daemon.stopped"
    (out,) = (tmp_path / "archive").glob("*-job.out")
    assert out.read_text() == "hello\n"
    assert not (spool / "job").exists()


# --- 64: the command line


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("", "SPOOL"),
        ("--nope s", "--nope"),
        ("-x s", "-x"),
        ("s t", "t"),
        ("-C", "-C"),
        ("-C many s", "-C"),
        ("-C 0 s", "-C"),
        ("-C -1 s", "-C"),
        ("-C nan s", "-C"),
        ("-C inf s", "-C"),
        ("-j -1 s", "-j"),
        ("-j 1.5 s", "-j"),
        ("-j many s", "-j"),
        ("--settle -1 s", "--settle"),
        ("--settle nan s", "--settle"),
        ("--settle inf s", "--settle"),
        ("--settle soon s", "--settle"),
        ("--grace -0.1 s", "--grace"),
        ("--grace nan s", "--grace"),
        ("--grace -nan s", "--grace"),
        ("--grace inf s", "--grace"),
        ("--on-stop run s", "--on-stop"),
        ("--on-stop go s", "--on-stop"),
        ("--log-format xml s", "--log-format"),
        ("--once=yes s", "--once"),
    ],
)
def test_wrong_command_line(
    words: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    """A command line that cannot be carried out is refused, with the part that is wrong."""
    monkeypatch.chdir(tmp_path)
    assert main(words.split()) == USAGE
    line = refusal(capsys)
    assert told in line
    assert "pmjq --help" in line


@pytest.mark.parametrize("words", [[""], ["-o", "", "s"], ["-e", "", "s"]])
def test_empty_path_is_not_the_current_directory(words: list[str], tmp_path: Path) -> None:
    """``pmjq "$SPOOL"`` with a variable that is not set runs nothing."""
    (tmp_path / "s").mkdir()
    result = run("--once", *words, cwd=tmp_path)
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (USAGE, "", 1)
    assert "empty" in result.stderr
    assert not (tmp_path / ".pmjq").exists()
    assert not (tmp_path / "s" / ".pmjq").exists()


# --- 66, 73, 77, 78


def test_missing_spool(tmp_path: Path, capsys: Captured) -> None:
    """A spool is never made: it could be a share that is not mounted."""
    path = tmp_path / "spool"
    assert main([str(path)]) == NO_INPUT
    line = refusal(capsys)
    assert str(path) in line
    assert "mount" in line
    assert not path.exists()


def test_spool_that_is_no_directory(tmp_path: Path, capsys: Captured) -> None:
    """A file cannot be served."""
    path = tmp_path / "spool"
    path.touch()
    assert main([str(path)]) == NO_INPUT
    assert "not a directory" in refusal(capsys)


def test_spool_that_is_a_dangling_link(tmp_path: Path, capsys: Captured) -> None:
    """A link that leads nowhere is no directory either."""
    (tmp_path / "spool").symlink_to("nowhere")
    assert main([str(tmp_path / "spool")]) == NO_INPUT
    assert "directory" in refusal(capsys)


@pytest.mark.parametrize("name", ["a b", "-a", "a/b", ".", "a" * 64, "a\n"])
def test_wrong_name_of_a_node(name: str, tmp_path: Path, capsys: Captured) -> None:
    """A node's name is part of file names and of lines that people read."""
    assert main([f"--node={name}", str(tmp_path)]) == CONFIGURATION
    out, err = capsys.readouterr()
    assert out == ""
    assert "--node" in err


def test_spool_of_another_format(tmp_path: Path, node: str) -> None:
    """A format that is not known is refused with both numbers."""
    (tmp_path / ".pmjq").mkdir()
    (tmp_path / ".pmjq" / "spool.json").write_text('{"format": 99, "uuid": "x"}')
    result = run("--once", "--node", node, str(tmp_path))
    assert result.returncode == CONFIGURATION
    assert "99" in result.stderr
    assert "format 1" in result.stderr
    assert result.stderr.count("\n") == 1


def test_archive_that_cannot_be_made(tmp_path: Path, node: str) -> None:
    """A missing archive is made; where that fails the daemon says so and does not start."""
    result = run("--once", "--node", node, "-o", "/proc/nope", str(tmp_path))
    assert result.returncode == CANNOT_CREATE
    assert "/proc/nope" in result.stderr


@pytest.mark.parametrize("option", ["-o", "-e"])
def test_archive_that_is_a_file(option: str, tmp_path: Path, capsys: Captured) -> None:
    """What can never be an archive is refused at the start, not found out with the first job."""
    (tmp_path / "file").touch()
    (tmp_path / "s").mkdir()
    assert main([option, str(tmp_path / "file"), str(tmp_path / "s")]) == CONFIGURATION
    assert f"{option} {tmp_path / 'file'}" in refusal(capsys)
    assert not (tmp_path / "s" / ".pmjq").exists()


@pytest.mark.parametrize("option", ["-o", "-e"])
def test_spool_that_is_its_own_archive(option: str, tmp_path: Path, capsys: Captured) -> None:
    """Ended jobs in the spool would be run again, so that is refused, however it is written."""
    (tmp_path / "link").symlink_to(".")
    for path in (tmp_path, tmp_path / "link", f"{tmp_path}/."):
        assert main([option, str(path), str(tmp_path)]) == CONFIGURATION
        assert option in refusal(capsys)


def test_archives_inside_the_spool_are_known(tmp_path: Path) -> None:
    """``-o spool/archive`` is no entry of the spool; what lies elsewhere is none anyway."""
    spool = tmp_path / "spool"
    spool.mkdir()
    (tmp_path / "link").symlink_to("spool/linked")
    paths = [spool / "done", tmp_path / "link", spool / "a" / "b", tmp_path / "x", None]
    own = given.inside(str(spool), *(None if path is None else str(path) for path in paths))
    assert own == {"done", "linked"}


def test_second_daemon_is_told_to_try_later(tmp_path: Path, node: str) -> None:
    """The second daemon of a node and spool is refused and names the first."""
    (tmp_path / ".pmjq").mkdir()
    identity = str(uuid.uuid4())
    (tmp_path / ".pmjq" / "spool.json").write_text(f'{{"format": 1, "uuid": "{identity}"}}')
    held = lock.acquire(identity, node)
    try:
        result = run("--once", "--node", node, str(tmp_path))
    finally:
        for fd in held:
            Path(os.readlink(f"/proc/self/fd/{fd}")).unlink()
        lock.release(held)
    assert result.returncode == TRY_LATER
    assert f"process {os.getpid()}" in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.fixture
def public() -> Iterator[Path]:
    """Return a directory that every user can reach: pytest's are private."""
    with tempfile.TemporaryDirectory(prefix="pmjq-test-") as path:
        Path(path).chmod(0o755)
        yield Path(path)


def as_another_user(*words: str) -> subprocess.CompletedProcess[str]:
    """Run the command as somebody whom file modes bind, with its modules read beforehand."""
    drop = f"os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})"
    code = (
        "import grp, os, pwd, sys, pmjq.daemon, pmjq.log; from pmjq.cli import main\n"
        f"if os.getuid() == 0: {drop}\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    return subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True,
        check=False,
        text=True,
        timeout=30,
    )


@pytest.mark.parametrize("mode", [0o000, 0o500, 0o300, 0o600])
def test_spool_that_this_user_may_not_use(public: Path, mode: int) -> None:
    """To serve a spool means to read, write and search it."""
    spool = public / "spool"
    spool.mkdir()
    if os.getuid() == 0:
        os.chown(spool, NOBODY, NOBODY)
    spool.chmod(mode)
    result = as_another_user("--once", str(spool))
    assert result.returncode == NOT_PERMITTED
    assert str(spool) in result.stderr
    assert result.stderr.count("\n") == 1
    spool.chmod(0o700)


def test_spool_below_a_directory_that_this_user_may_not_search(public: Path) -> None:
    """What cannot be looked at is not permitted; it is not said to be missing."""
    (public / "private").mkdir()
    (public / "private" / "spool").mkdir()
    (public / "private").chmod(0)
    result = as_another_user("--once", str(public / "private" / "spool"))
    (public / "private").chmod(0o700)
    assert result.returncode == NOT_PERMITTED
    assert "no such directory" not in result.stderr


def test_tree_that_this_user_may_not_write(public: Path) -> None:
    """A spool whose own tree is another user's is refused with what is in the way."""
    if os.getuid() == 0:
        os.chown(public, NOBODY, NOBODY)
    tree = public / ".pmjq"
    tree.mkdir()
    (tree / "spool.json").write_text('{"format": 1, "uuid": "x"}')
    tree.chmod(0o500)
    result = as_another_user("--once", str(public))
    tree.chmod(0o700)
    assert result.returncode == NOT_PERMITTED
    assert ".pmjq" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (KeyboardInterrupt(), 130, []),
        (click.Abort(), 130, []),
        (PermissionError(13, "Permission denied", "/a"), 77, ["/a", "Permission denied"]),
        (OSError(28, "No space left on device", "/a"), 75, ["/a", "No space left"]),
        (OSError("odd"), 75, ["the spool", "odd"]),
        (OSError(107, "Transport endpoint is not connected", "/a"), 69, ["/a", "mount it anew"]),
        (OSError(116, "Stale file handle", "/a"), 69, ["/a", "its server"]),
    ],
)
def test_every_end_has_its_code(
    error: BaseException,
    code: int,
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Captured,
) -> None:
    """Whatever ends the command, a person reads one line at most, and never a traceback."""

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(given, "_check_spool", fail)
    assert main([str(tmp_path)]) == code
    out, err = capsys.readouterr()
    assert (out, err.strip().count("\n"), bool(err.strip())) == ("", 0, bool(words))
    assert [word for word in words if word not in err] == []


# --- how long to settle


@pytest.mark.parametrize(
    ("kind", "settle", "expected"),
    [
        ("ext4", None, (0.0, 0.0, True)),
        ("tmpfs", None, (0.0, 0.0, True)),
        ("", None, (0.0, 0.0, True)),
        ("nfs", None, (35.0, 3.0, False)),
        ("nfs4", None, (35.0, 3.0, False)),
        ("cifs", None, (3.0, 3.0, False)),
        ("fuse.sshfs", None, (3.0, 3.0, False)),
        ("ext4", 9.0, (9.0, 9.0, True)),
        ("nfs4", 9.0, (9.0, 9.0, False)),
        ("nfs4", 0.0, (0.0, 0.0, False)),
    ],
)
def test_settling(kind: str, settle: float | None, expected: tuple[float, float, bool]) -> None:
    """Locally the kernel tells; elsewhere time must pass, by kind or as asked for."""
    rules = given.rules(kind, settle, Admission(), frozenset())
    assert (rules.settle, rules.settle_moved, rules.kernel_tells) == expected


# --- python -m


def test_module_is_the_command(capsys: Captured) -> None:
    """``python -m pmjq`` is ``pmjq``: the same words, the same exit code."""
    result = run("--version")
    assert (result.returncode, result.stdout, result.stderr) == (0, f"pmjq {__version__}\n", "")
    assert run("top").returncode == USAGE


def test_words_come_from_the_command_line(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    """Without words of its own, ``main`` takes those that the command was called with."""
    monkeypatch.setattr(sys, "argv", ["pmjq", "--version"])
    assert main() == 0
    assert capsys.readouterr().out == f"pmjq {__version__}\n"


# --- closed descriptors, and an early interrupt


@pytest.mark.parametrize(
    "words", ["list", "history", "nodes", "submit true", "cancel ALL", "drain ALL", "list --json"]
)
def test_closed_standard_output(tmp_path: Path, words: str) -> None:
    """Nothing is done that nobody would hear of."""
    (tmp_path / "job").touch()
    command = f"exec {sys.executable} -m pmjq {words} >&-"
    done = subprocess.run(
        ["/bin/sh", "-c", command],
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=30,
        env={**os.environ, "PMJQ_SPOOL": str(tmp_path), "PYTHONPATH": PROJECT},
    )
    assert (done.returncode, done.stderr.count("\n")) == (CANNOT_CREATE, 1)
    assert "standard output is closed" in done.stderr
    assert os.listdir(tmp_path) == ["job"]


@pytest.mark.parametrize("words", ["submit -", "submit --batch -"])
def test_closed_standard_input(tmp_path: Path, words: str) -> None:
    """It is as empty as /dev/null."""
    done = subprocess.run(
        ["/bin/sh", "-c", f"exec {sys.executable} -m pmjq {words} <&-"],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
        env={**os.environ, "PMJQ_SPOOL": str(tmp_path), "PYTHONPATH": PROJECT},
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (USAGE, "", 1)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("ignored", [False, True])
def test_interrupt_while_it_is_loaded(tmp_path: Path, ignored: bool) -> None:  # noqa: FBT001
    """It ends as by the signal, without a traceback; where it is ignored it stays so."""
    code = (
        "import os, signal, sys\n"
        f"signal.signal(signal.SIGINT, signal.{'SIG_IGN' if ignored else 'default_int_handler'})\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'pmjq.cli':\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Finder())\n"
        "sys.argv = ['pmjq', '--version']\n"
        "from pmjq.__main__ import main\n"
        "sys.exit(main())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=30
    )
    assert done.stderr == ""
    assert done.returncode == (0 if ignored else -signal.SIGINT)
