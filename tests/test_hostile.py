"""A spool full of what nobody would put there: the daemon goes on and runs what is a job.

After every test the shared daemon has to be alive, run a plain job within seconds, and must not
have met an error that nobody thought of (``turn.failed``).
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from live import Filed, Live, eventually
from pmjq import Queue
from pmjq.state import State

ROOT = os.geteuid() == 0
NOBODY = 65534

NAMES = [
    b"\xff" * 255,
    b"n" * 255,
    "\u4e2d".encode() * 85,
    b"n" * 251 + b".out",
    b"n" * 250 + b".json",
    b"\n",
    b"\n-rf\n.\n",
    b" ",
    b"\t\r",
    b"-",
    b"--",
    b"-rf",
    b"--help",
    b"'",
    b'"',
    b"'; exit 9; '",
    b"$(exit 9)`exit 9`${x}",
    b"*",
    b"?[a-z]",
    b"\\",
    b"%s%n%d",
    b"{0}{name}",
    b"\x01\x1b[2J\x7f",
    b"\x80",
    b"caf\xe9",
    b"\xed\xa0\x80",
    "\u202egpj".encode(),
    "\ufeff".encode(),
    b"claim.1.json",
    b"claim.1",
    b"void",
    b"record.1.json",
    b"status.1",
    b"out.1",
    b"work",
    b"executable",
    b"spool.json",
    b"node.json",
    b"run",
    b"job",
    b"pmjq",
    b"null",
]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """Return a daemon that the tests of this module share."""
    root = tmp_path_factory.mktemp("hostile")
    with Live(root, "-j", "4", "-e", str(root / "errors")) as daemon:
        yield daemon


@pytest.fixture
def live(shared: Live, request: pytest.FixtureRequest) -> Iterator[Live]:
    """Return the shared daemon, and look after the test whether it is unharmed."""
    yield shared
    _unharmed(shared, f"after-{request.node.name}")


def _unharmed(live: Live, name: str) -> None:
    assert live.alive()
    live.drop(name, "echo alive\n")
    assert live.ended(name).text == "alive\n"
    assert live.events("turn.failed") == []


def _put(live: Live, name: bytes, content: bytes, mode: int = 0o755) -> Path:
    """Put a file of any name into the spool with one rename."""
    return live.drop(name, content, mode)


def test_names_are_only_bytes(live: Live) -> None:
    """Whatever bytes a name has, its job is run under them, recorded, and archived under them."""
    for name in NAMES:
        _put(live, name, b'#!/bin/sh\nprintf %s "$PMJQ_NAME"\n')
    expected = set(NAMES)
    eventually(lambda: {filed.output for filed in live.filed()} >= expected)
    found = {filed.output: filed for filed in live.filed() if filed.output in expected}
    for name in NAMES:
        record, path = found[name].record, os.fsencode(found[name].path)
        assert record.state is State.DONE
        exact = bytes.fromhex(record.name_hex) if record.name_hex else record.name.encode()
        assert exact == name
        assert len(os.path.basename(path)) <= 255
        assert path.endswith(name[-100:] if len(name) < 150 else b"")


PAPERS = ["late.x", "late.1.json", "late.9", "claim.\u00b2", "claim.9.json", "claim.x.json"]
PAPERS += ["record.x", "record.9.json", "record.\u0663.json", "status.9", "out.x", "signature"]


def _forged_note(live: Live, victim: Path) -> bytes:
    """Return what would have the daemon write where it leads, taken for a note of its own.

    Of a lost job that has ended since, as a status says which its owner has put elsewhere.
    """
    planted = live.side / "planted"
    (planted / "work").mkdir(parents=True)
    (planted / "work" / "left").touch()
    (planted / "status.1").write_text(f"exit 0 {time.time()} 0 0 0\n")
    live.drop("model")
    record = msgspec.to_builtins(live.ended("model").record)
    record |= {"id": os.path.relpath(planted, live.spool / ".pmjq/job"), "state": "lost"}
    return msgspec.json.encode({**record, "record": record, "stem": str(victim), "node": "a"})


def test_content_is_nobody_s_paperwork(tmp_path: Path) -> None:
    """A job's own file stands beside what a daemon writes of it, and may be called alike.

    What its owner writes into it is his job for this daemon, the next one, and whoever lists.
    """
    victim = tmp_path / "victim"
    with Live(tmp_path, "--node", "a", "-j", str(len(PAPERS) + 1)) as live:
        note, gate = _forged_note(live, victim), live.gate("papers")
        for name in PAPERS:
            # Read as a whole before it is written over.
            live.drop(name, f"{{ {live.side_effect(name)}{gate.wait}exit 0; }}\n")
        eventually(lambda: all(live.runs(name) for name in PAPERS))
        for path in (live.spool / ".pmjq" / "node").glob("a.*/run/*"):
            path.write_bytes(note)
        live.drop("waits", "#!/bin/sh\n#PMJQ after=nobody-knows\n", 0o755)
        assert {seen.state for seen in Queue(live.spool).show(PAPERS)} == {State.RUNNING}
        live.kill()
        live.start()
        _unharmed(live, "canary")

        def all_through() -> bool:
            gate.try_open()
            return not live.jobs()

        eventually(all_through)
        assert {live.ended(name).record.state for name in PAPERS} == {State.DONE}
        assert {name: live.runs(name) for name in PAPERS} == dict.fromkeys(PAPERS, 1)
        _unharmed(live, "canary-after")
        assert list(tmp_path.glob("victim*")) == []


def test_what_is_no_file_goes_away_unopened(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    """FIFOs, sockets, devices and links of any name are rejected, and nobody waits for them."""
    names = {b"f" * 255, b"fifo\n", b"-fifo", b"fifo\xff"}
    for name in names:
        os.mkfifo(os.fsencode(live.spool) + b"/" + name)
    monkeypatch.chdir(live.spool)
    for name in (b"socket\n", b"-socket\xff"):
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(name)
        names.add(name)
    for link, target in (
        ("loop", "loop"),
        ("up", ".."),
        ("own", ".pmjq/spool.json"),
        ("zero", "/dev/zero"),
        ("memory", "/proc/self/mem"),
        ("long", "x" * 4000),
    ):
        (live.spool / link).symlink_to(target)
        names.add(link.encode())
    if ROOT:
        os.mknod(live.spool / "block", 0o60755, os.makedev(7, 99))
        os.mknod(live.spool / "char", 0o20755, os.makedev(1, 5))
        names |= {b"block", b"char"}
    monkeypatch.chdir("/")
    eventually(lambda: len(_rejected(live)) >= len(names))
    assert names.isdisjoint(os.listdir(os.fsencode(live.spool)))
    ends = [os.fsencode(filed.path) for filed in _rejected(live)]
    assert len(ends) == len(names)
    for name in names - {b"f" * 255}:
        assert len([path for path in ends if path.endswith(b"-" + name)]) == 1
    assert all(filed.record.reason for filed in _rejected(live))


def _rejected(live: Live) -> list[Filed]:
    return [filed for filed in live.filed() if filed.record.state is State.REJECTED]


def test_what_is_left_alone_is_said_and_shown(tmp_path: Path) -> None:
    """Directories and other owners' files stay as they are, in the log and in node.json."""
    live = Live(tmp_path)
    spool = live.spool
    deep = os.open(spool, os.O_RDONLY)
    for _ in range(300):
        os.mkdir("d" * 200, dir_fd=deep)
        deeper = os.open("d" * 200, os.O_RDONLY, dir_fd=deep)
        os.close(deep)
        deep = deeper
    os.close(deep)
    inside = spool / "copied"
    inside.mkdir()
    live.drop("inside", live.side_effect("inside")).rename(inside / "inside")
    os.mkdir(os.fsencode(spool) + b"/dir\xff\n")
    expected = {"d" * 200, "copied", "dir\\xff\n"}
    if ROOT:
        for name, owner, group in (("theirs", NOBODY, NOBODY), ("-theirs", NOBODY, 0)):
            os.chown(live.drop(name, live.side_effect("theirs")), owner, group)
            expected.add(name)
    try:
        with live:
            eventually(lambda: expected <= set(live.node().get("aside", {})))
            eventually(lambda: expected <= set(live.left()), what="the log says it too")
            aside, left = live.node()["aside"], live.left()
            assert set(left) == expected
            assert all(aside[name] == left[name] for name in expected)
            assert "a directory without an info file" in left["copied"]
            if ROOT:
                assert "is no person's" in left["theirs"]
            assert len(live.spooled()) == len(expected)
            assert (live.runs("inside"), live.runs("theirs")) == (0, 0)
            _unharmed(live, "after")
    finally:
        # Deeper than a path can be long.
        subprocess.run(["rm", "-rf", spool / ("d" * 200)], check=True)


WHOLE = "#!/bin/sh\necho whole >>'{side}'\n: {filler}\necho end >>'{side}'\n"


@contextlib.contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    """Open an entry, never through a link: what is changed is the spool's own."""
    fd = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        yield fd
    finally:
        os.close(fd)


def _churn(spool: Path, drop: Path, whole: bytes, stop: threading.Event) -> None:
    """Make, replace, cut, change and remove a few entries without a pause."""
    dice = random.Random(1)
    number = 0
    while not stop.is_set():
        number += 1
        path = spool / f"churned{dice.randrange(6)}"
        fresh = drop / f"fresh{number}"
        with contextlib.suppress(OSError):
            match dice.randrange(10):
                case 0 | 1 | 2:
                    fresh.write_bytes(whole)
                    fresh.chmod(0o755)
                    fresh.rename(path)
                case 3:
                    path.unlink()
                case 4:
                    with _opened(path, os.O_RDONLY) as fd:
                        os.fchmod(fd, dice.choice((0o000, 0o644, 0o755, 0o4755)))
                case 5:
                    with _opened(path, os.O_WRONLY) as fd:
                        os.ftruncate(fd, 0)
                case 6:
                    os.mkfifo(fresh)
                    fresh.rename(path)
                case 7:
                    fresh.symlink_to(dice.choice((path.name, "nowhere")))
                    fresh.rename(path)
                case 8:
                    path.mkdir()
                    path.rmdir()
                case _:
                    path.rename(spool / f"churned{dice.randrange(6)}")


def test_entries_that_change_while_they_are_looked_at(live: Live) -> None:
    """Entries may vanish, change, be replaced or be cut at any moment; other jobs still run."""
    side, drop = live.side / "churned", live.root / "churn"
    drop.mkdir()
    whole = WHOLE.format(side=side, filler="x" * 9000).encode()
    stop = threading.Event()
    churner = threading.Thread(target=_churn, args=(live.spool, drop, whole, stop))
    churner.start()
    try:
        for number in range(40):
            live.drop(f"among{number}", live.side_effect(f"among{number}"))
            live.ended(f"among{number}")
    finally:
        stop.set()
        churner.join()
    assert {live.runs(f"among{number}") for number in range(40)} == {1}
    for number in range(6):
        path = live.spool / f"churned{number}"
        with contextlib.suppress(FileNotFoundError, IsADirectoryError):
            path.unlink()
    # Each is filed once: as often as a whole file began, a job has started.
    started = [filed.record for filed in live.filed() if filed.record.name.startswith("churned")]
    assert len({record.id for record in started}) == len(started)
    assert live.alive()


def test_entries_that_come_and_go(live: Live) -> None:
    """Files that are gone before anybody can look at them cost nothing but the look."""
    for number in range(2000):
        path = live.spool / f"gone{number % 7}"
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o755))
        path.unlink()
    assert not [name for name in live.spooled() if name.startswith("gone")]


def test_queued_job_that_is_cut_to_nothing_is_not_run(tmp_path: Path) -> None:
    """A queued file that is truncated to 0 is not executed; filled again, it is run once."""
    with Live(tmp_path, "-j", "1") as live:
        gate = live.gate("first")
        live.drop("first", f"{live.side_effect('first')}{gate.wait}")
        eventually(lambda: live.runs("first"))
        path = live.drop("cut", "echo never\n")
        os.truncate(path, 0)
        gate.open()
        live.ended("first")
        live.drop("canary")
        live.ended("canary")
        assert path.exists()
        path.write_text(f"#!/bin/sh\n{live.side_effect('cut')}")
        assert live.ended("cut").record.state is State.DONE
        assert live.runs("cut") == 1
        _unharmed(live, "after")


def test_immutable_entry_is_left_and_said(tmp_path: Path) -> None:
    """What the kernel lets nobody move is neither run nor rejected, and does not delay others."""
    if not ROOT or shutil.which("chattr") is None:
        pytest.skip("only root makes files immutable, with chattr")
    live = Live(tmp_path)
    paths = [
        live.drop("fixed", live.side_effect("fixed")),
        live.drop("fixed-garbage", b"\0garbage\xff" * 99),
    ]
    if subprocess.run(["chattr", "+i", *paths], check=False, capture_output=True).returncode:
        pytest.skip("this file system has no immutable files")
    try:
        with live:
            _unharmed(live, "beside")
            assert len(live.told("entry.left", 2)) == 2
            left = live.left()
            assert set(left) == {"fixed", "fixed-garbage"}
            assert all("cannot be moved" in reason for reason in left.values())
            assert live.runs("fixed") == 0
            assert all(path.exists() for path in paths)
            subprocess.run(["chattr", "-i", *paths], check=True)
            live.tell(signal.SIGHUP)
            assert live.ended("fixed").record.state is State.DONE
            assert live.ended("fixed-garbage").record.state is State.REJECTED
            assert live.runs("fixed") == 1
            _unharmed(live, "after")
            assert live.stop() == 0
            assert live.leftovers() == []
    finally:
        present = [path for path in paths if path.exists()]
        if present:
            subprocess.run(["chattr", "-i", *present], check=True)


def test_unreadable_file_is_run_if_it_can_be(live: Live) -> None:
    """A program that may be executed but not read is run; a script then fails as from a shell."""
    program = shutil.which("true")
    assert program is not None
    _put(live, b"unreadable", Path(program).read_bytes(), 0o111)
    _put(live, b"unreadable-script", b"#!/bin/sh\nexit 0\n", 0o111)
    held = _put(live, b"no-mode", b"#!/bin/sh\nexit 0\n", 0o000)
    assert live.ended("unreadable").record.state is State.DONE
    script = live.ended("unreadable-script").record
    assert script.state is (State.DONE if ROOT else State.FAILED)
    assert held.exists()
    held.unlink()


@pytest.mark.parametrize(
    ("name", "deed"),
    [
        ("removes-its-directory", 'rmdir "$TMPDIR"'),
        ("locks-its-directory", "touch x; chmod 0 ."),
        ("removes-its-output", 'rm "$TMPDIR/../out.1"'),
        ("removes-itself", 'rm -f -- "$0"'),
        ("changes-its-claim", 'echo "{}" >"$TMPDIR/../claim.1.json"'),
        ("removes-its-claim", 'rm "$TMPDIR/../claim.1.json"'),
        ("removes-its-status", 'rm "$TMPDIR/../status.1"'),
        ("leaves-odd-files", 'mkfifo f; ln -s f l; mkdir -p a/b; touch -- -rf "\n"; chmod 0 a'),
        ("removes-its-paperwork", 'rm -rf "$TMPDIR/.."'),
    ],
    ids=lambda value: value if " " not in value else "",
)
def test_job_may_spoil_what_is_its_own(live: Live, name: str, deed: str) -> None:
    """A job that destroys its own paperwork is recorded with its own end, once."""
    live.drop(name, f'{live.side_effect(name)}cd "$TMPDIR"\n{deed}\nexit 0\n')
    filed = live.ended(name)
    assert (filed.record.state, filed.record.exit_code) == (State.DONE, 0)
    assert live.runs(name) == 1


def test_tree_is_written_by_nobody_else(tmp_path: Path) -> None:
    """Whatever the umask, and in a directory of a group: others could have programs run."""
    live = Live(tmp_path, before=("sh", "-c", 'umask 0; exec "$@"', "sh"))
    live.spool.chmod(0o2770)
    stop = tmp_path / "stop"
    with live:
        live.drop(
            "job", f"umask\n{live.side_effect('job')}until [ -e '{stop}' ]; do sleep 0.1; done\n"
        )
        eventually(lambda: live.runs("job"))
        # The job is its owner's, its output the umask's.
        own = [path for path in (live.spool / ".pmjq").rglob("*") if path.name != "out.1"]
        assert [str(path) for path in own if path.lstat().st_mode & 0o022] == []
        stop.touch()
        # The umask is the daemon's, for whatever the job itself makes.
        assert live.ended("job").text.strip("0\n") == ""
        assert live.stop() == 0


def test_twenty_thousand_held_entries_are_no_burden(tmp_path: Path) -> None:
    """Beside 20,000 held files a job starts at once, and one of them is released by chmod."""
    live = Live(tmp_path)
    for number in range(20_000):
        os.close(os.open(live.spool / f"held{number}", os.O_CREAT | os.O_WRONLY, 0o644))
    wanted = live.spool / "held17000"
    wanted.write_text(f"#!/bin/sh\n{live.side_effect('held17000')}")
    with live:
        _unharmed(live, "beside")
        wanted.chmod(0o744)
        live.ended("held17000")
        assert live.runs("held17000") == 1
        _unharmed(live, "after")
        assert len(live.spooled()) == 19_999
