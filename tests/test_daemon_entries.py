"""What is put into the spool, how it is written, and what is no job: end to end."""

from __future__ import annotations

import fcntl
import itertools
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from live import Live, eventually
from pmjq.ready import PATIENCE_LINKED
from pmjq.state import State

ROOT = os.geteuid() == 0

SCRIPT = b"#!/bin/sh\necho never\n"

ALIEN = (
    b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + b"\x02\0" + b"\x16\0" + b"\x01\0\0\0".ljust(44, b"\0")
)
"""The header of a program for s390x."""

NATIVE = Path("/proc/self/exe").read_bytes()[:300]


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """Return a daemon that the tests of this module share."""
    root = tmp_path_factory.mktemp("shared")
    with Live(root, "-j", "4", "-e", str(root / "errors")) as daemon:
        yield daemon


def _rejected(live: Live, name: str) -> str:
    """Wait until a job is rejected, check what all such have in common, and return the reason."""
    filed = live.ended(name)
    record = filed.record
    assert record.state is State.REJECTED
    assert (record.started, record.exit_code, record.signal) == (None, None, None)
    assert filed.text == f"pmjq: {name}: {record.reason}\n"
    assert filed.path.parent == live.errors
    assert name not in live.spooled()
    return record.reason


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param(bytes(range(256)) * 4, "neither a program of this machine", id="garbage"),
        pytest.param(b"#!/no/such/sh\n", "interpreter /no/such/sh is not on", id="interpreter"),
        pytest.param(b"#!/etc/passwd\n", "/etc/passwd may not be executed", id="not-executable"),
        pytest.param(b"#!/bin/sh\r\necho x\r\n", "its first line ends in CR LF", id="crlf"),
        pytest.param(b"echo x\r\necho y\r\n", "its lines end in CR LF", id="crlf-text"),
        pytest.param(b"\xef\xbb\xbf#!/bin/sh\n", "byte order mark", id="bom"),
        pytest.param(b"#!\n", "names no interpreter", id="no-interpreter"),
        pytest.param(b"#!/bin/" + b"s" * 300 + b"\n", "more than 255 bytes", id="long-line"),
        pytest.param(b"#!/tmp\n", "interpreter /tmp may not be executed", id="directory"),
        pytest.param(NATIVE, "cut short or damaged", id="truncated"),
        pytest.param(NATIVE[:10], "only the beginning of a program", id="beginning"),
        pytest.param(ALIEN, "another kind of machine (s390x)", id="machine"),
    ],
)
def test_what_cannot_be_started_is_rejected(
    live: Live, request: pytest.FixtureRequest, content: bytes, reason: str
) -> None:
    """An entry that can never be run goes to the error directory with a reason to act on."""
    name = str(request.node.callspec.id)
    live.drop(name, content)
    assert reason in _rejected(live, name)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        os.chdir(path.parent)
        listener.bind(path.name)


@pytest.mark.parametrize(
    ("name", "make", "reason"),
    [
        ("link", lambda path: path.symlink_to("/bin/true"), "a symbolic link"),
        ("dangling", lambda path: path.symlink_to("/no/such"), "a symbolic link"),
        ("fifo", os.mkfifo, "a FIFO"),
        ("socket", _socket, "a socket"),
        pytest.param(
            "device",
            lambda path: os.mknod(path, 0o20644, os.makedev(1, 3)),
            "a device",
            marks=pytest.mark.skipif(not ROOT, reason="only root makes devices"),
        ),
    ],
)
def test_what_is_no_file_is_rejected(
    live: Live,
    name: str,
    make: Callable[[Path], None],
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Anything that is neither a file nor a directory is moved away unopened."""
    monkeypatch.chdir("/")
    make(live.spool / name)
    assert reason in _rejected(live, name)


@pytest.mark.parametrize("bits", [0o4755, 0o2755])
def test_set_id_file_is_rejected(live: Live, bits: int) -> None:
    """A set-id file is not run, not even without those rights."""
    name = f"setid{bits:o}"
    live.drop(name, SCRIPT, bits)
    assert "chmod ug-s" in _rejected(live, name)


def test_hard_linked_file_is_rejected(live: Live) -> None:
    """A file that has another name can change under it: rejected when it stays so."""
    source = live.write("linked", SCRIPT)
    os.link(source, live.spool / "linked")
    assert "2 hard links" in _rejected(live, "linked")


def test_hard_link_that_goes_is_run(live: Live) -> None:
    """A program that writes safely links its file and removes the first name: that is run."""
    for number in itertools.count():
        name, began = f"relinked{number}", time.monotonic()
        source = live.write(name, "#!/bin/sh\necho once\n")
        os.link(source, live.spool / name)
        live.drop(f"canary-{name}")
        live.ended(f"canary-{name}")
        source.unlink()
        if time.monotonic() - began < PATIENCE_LINKED:
            break
    assert live.ended(name).text == "once\n"


def test_held_job_waits_for_its_permission(live: Live) -> None:
    """A file without execute permission is held, and chmod +x releases it."""
    path = live.drop("held", "echo released\n", 0o644)
    live.drop("canary-held")
    live.ended("canary-held")
    assert path.exists()
    path.chmod(0o744)
    assert live.ended("held").text == "released\n"


def _seen(live: Live, name: str) -> None:
    """Let a job pass, so that the daemon has surely looked at the spool."""
    live.drop(name)
    live.ended(name)


def test_file_open_for_writing_is_not_run(live: Live) -> None:
    """A slow `cp -p` has its x bit before its end: it is run when it is closed, and whole."""
    path = live.spool / "copied"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o755)
    os.write(fd, b"#!/bin/sh\n")
    for number in range(5):
        os.write(fd, b"echo %d\n" % number)
        _seen(live, f"canary-copied{number}")
    assert path.exists()
    os.write(fd, b"echo end\n")
    os.close(fd)
    assert live.ended("copied").text == "0\n1\n2\n3\n4\nend\n"


def test_empty_file_may_be_filled(live: Live) -> None:
    """An executable that is empty yet is given time: touch, chmod, then an editor."""
    path = live.spool / "touched"
    path.touch(0o755)
    _seen(live, "canary-touched")
    assert path.exists()
    with path.open("w") as file:
        file.write("#!/bin/sh\necho filled\n")
    assert live.ended("touched").text == "filled\n"


def test_empty_file_that_is_open_is_not_rejected(live: Live) -> None:
    """A script whose writer takes his time before the first byte is run when he is done."""
    path = live.spool / "opened"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o755)
    try:
        eventually(
            lambda: live.node().get("aside", {}).get("opened") == "still open for writing",
        )
        os.write(fd, b"#!/bin/sh\necho ran\n")
    finally:
        os.close(fd)
    assert live.ended("opened").text == "ran\n"


@pytest.fixture
def deaf() -> Iterator[None]:
    """Have this process ignore that others want to open what it has a lease of."""
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGIO, before)


@pytest.mark.usefixtures("deaf")
def test_file_that_another_program_keeps_to_itself_holds_nobody_up(live: Live) -> None:
    """A file server has a lease of it: others run, and it runs when it is given back."""
    path = live.root / "drop" / "leased"
    path.write_text("#!/bin/sh\necho ran\n")
    path.chmod(0o755)
    fd = os.open(path, os.O_RDWR)
    try:
        try:
            fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        except OSError:
            pytest.skip("no leases on the file system of the tests")
        path.rename(live.spool / "leased")
        reason = "cannot be opened (another program keeps it to itself)"
        # After 45 s the kernel takes it away.
        eventually(lambda: live.node().get("aside", {}).get("leased") == reason, within=40)
        _seen(live, "canary-leased")
    finally:
        os.close(fd)
    assert live.ended("leased").text == "ran\n"


def test_cat_then_chmod(live: Live) -> None:
    """`cat > f; chmod +x f` is run once, with all its content."""
    path = live.spool / "catted"
    path.write_text("#!/bin/sh\necho all\n")
    _seen(live, "canary-catted")
    subprocess.run(["chmod", "+x", path], check=True)
    assert live.ended("catted").text == "all\n"


def test_hidden_name_then_rename(live: Live) -> None:
    """Under a hidden name, as rsync writes, it is no job; after its rename it is."""
    hidden = live.drop(".rsynced.Xy12z3", "echo synced\n")
    _seen(live, "canary-rsynced")
    assert hidden.exists()
    hidden.rename(live.spool / "rsynced")
    assert live.ended("rsynced").text == "synced\n"


@pytest.mark.parametrize("name", ["a~", "b.swp", "c.part", "#d#", "e.filepart", "F.TMP"])
def test_temporary_names_are_passed_over(live: Live, name: str) -> None:
    """Names that editors and copying programs use are never run."""
    path = live.drop(name)
    _seen(live, f"canary-{name.encode().hex()}")
    assert path.exists()
    path.unlink()


def test_scp_sets_its_mode_while_it_writes(live: Live) -> None:
    """`scp -p` opens with the final mode and sets it again before it closes."""
    path = live.spool / "scped"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.write(fd, b"#!/bin/sh\necho first\n")
    os.fchmod(fd, 0o755)
    _seen(live, "canary-scped")
    os.write(fd, b"echo last\n")
    os.close(fd)
    assert live.ended("scped").text == "first\nlast\n"


def test_real_cp_of_a_program(live: Live) -> None:
    """A program copied by cp from another directory is run from its copy."""
    program = shutil.which("true")
    assert program is not None
    subprocess.run(["cp", program, live.spool / "program"], check=True)
    assert live.ended("program").record.exit_code == 0


def test_job_that_is_still_written_under_another_link_is_retried(live: Live) -> None:
    """A job that cannot be executed since a writer came again is not lost (ETXTBSY)."""
    for number in range(20):
        path = live.drop(f"busy{number}", "echo ran\n")
        try:
            with path.open("a") as file:
                file.write("echo more\n")
        except FileNotFoundError:
            continue
    for number in range(20):
        assert live.ended(f"busy{number}").record.state is State.DONE


@pytest.mark.parametrize(
    "name",
    [
        "-rf",
        "a b\tc",
        "line\nbreak",
        "quote'\"$(touch x)`",
        "back\\slash",
        "caf\u00e9-\u4e2d",
        "n" * 255,
        "\u4e2d" * 85,
        "claim.1.json",
        "record.1.json",
        "status.1",
        "out.1",
        "work",
        "executable",
        "%n%s",
        "x.json",
        "x.out",
    ],
)
def test_any_name_is_run(live: Live, name: str) -> None:
    """A job of any name is run under that name, and its record tells it."""
    live.drop(name, 'printf "%s" "$PMJQ_NAME"\n')
    filed = live.ended(name)
    assert (filed.record.state, filed.text) == (State.DONE, name)


def test_name_that_is_not_utf8_is_run(live: Live) -> None:
    """A name that is not UTF-8 is run under its bytes; the record has it for people and exactly."""
    live.drop(b"caf\xe9", 'printf "%s" "$PMJQ_NAME"\n')
    filed = live.ended("caf\\xe9")
    assert filed.output == b"caf\xe9"
    assert bytes.fromhex(filed.record.name_hex) == b"caf\xe9"
    assert os.fsencode(filed.path).endswith(b"-caf\xe9")


def test_what_is_left_alone_is_shown_with_its_reason(tmp_path: Path) -> None:
    """node.json names what is not run and why; a directory may be somebody's archive."""
    with Live(tmp_path) as live:
        live.drop("held", mode=0o644)
        live.drop(".hidden")
        (live.spool / "directory").mkdir()
        if ROOT:
            theirs = live.drop("theirs", owner=65534)
        told = {"directory", "theirs"} if ROOT else {"directory"}
        shown = {"held", ".hidden", *told}
        aside = eventually(
            lambda: (found := live.node().get("aside", {})).keys() >= shown and found
        )
        assert "not executable; chmod +x releases it" in aside["held"]
        assert "hidden or temporary name" in aside[".hidden"]
        assert "a directory without an info file" in aside["directory"]
        eventually(lambda: told <= set(live.left()), what="the log says it too")
        assert set(live.left()) == told
        if ROOT:
            assert "user nobody is no person's" in aside["theirs"]
            assert theirs.exists()


def test_many_files_open_for_writing_hold_nobody_up(live: Live) -> None:
    """However many older ones are still being written, what is behind them is run."""
    kept = [live.write(f"open{number}", "#!/bin/sh\n") for number in range(150)]
    with ExitStack() as stack:
        for path in kept:
            stack.enter_context(path.open("ab"))
            path.rename(live.spool / path.name)
        for number in range(40):
            live.drop(f"behind{number}")
            assert live.ended(f"behind{number}").record.state is State.DONE
