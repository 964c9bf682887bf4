"""A daemon of a user who is not root, with that user's rights and no others."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import AS_NOBODY, NOBODY
from live import PROJECT, Live, eventually
from pmjq.errors import ConfigurationError, TryLaterError
from pmjq.state import State

pytestmark = pytest.mark.lab

DAEMON = 1
LOCKS = Path(f"/tmp/pmjq-{NOBODY}")


class Theirs(Live):
    """A daemon of nobody; what is dropped is nobody's too."""

    def write(self, name: str | bytes, content: str | bytes, mode: int = 0o755) -> Path:
        path = super().write(name, content, mode)
        os.chown(path, NOBODY, NOBODY)
        return path


@pytest.fixture
def live(monkeypatch: pytest.MonkeyPatch) -> Iterator[Theirs]:
    """Return a daemon of nobody, not started, below a directory that everybody may enter."""
    if os.geteuid():
        pytest.skip("only root becomes another user")
    if shutil.which("setpriv") is None:
        pytest.skip("no setpriv here: it comes with util-linux")
    # Twice, as the daemon starts its keeper: setpriv itself still has root's rights.
    again = "import os, sys; os.execv(sys.executable, [sys.executable, '-c', sys.argv[1]])"
    probe = subprocess.run(
        [*AS_NOBODY, sys.executable, "-c", again, "import pmjq.cli, anyio, watchfiles"],
        check=False,
        capture_output=True,
        cwd="/",
        env={**os.environ, "PYTHONPATH": PROJECT, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    if probe.returncode:
        pytest.skip(f"nobody cannot run {sys.executable} with pmjq of {PROJECT}")
    had_locks = LOCKS.exists()
    locks = set(os.listdir(LOCKS)) if had_locks else set()
    root = Path(tempfile.mkdtemp(prefix="pmjq-lab-", dir="/tmp"))
    root.chmod(0o755)
    daemon = Theirs(root, "-j", "2", before=AS_NOBODY)
    for path in (daemon.spool, daemon.side):
        os.chown(path, NOBODY, NOBODY)
    daemon.archive.mkdir()
    os.chown(daemon.archive, NOBODY, NOBODY)
    try:
        yield daemon
    finally:
        daemon.close()
        shutil.rmtree(root)
        if had_locks:
            for name in set(os.listdir(LOCKS)) - locks:
                (LOCKS / name).unlink()
        else:
            shutil.rmtree(LOCKS, ignore_errors=True)


def test_jobs_run_as_that_user(live: Theirs) -> None:
    """The job runs as the daemon's user, and what it leaves is that user's."""
    with live:
        live.drop("id", "id -u; id -g; touch mine\n")
        filed = live.ended("id")
        assert (filed.record.state, filed.record.uid) == (State.DONE, NOBODY)
        assert filed.text == f"{NOBODY}\n{NOBODY}\n"
        assert (filed.files / "mine").stat().st_uid == NOBODY
        assert filed.path.stat().st_uid == NOBODY
        assert live.stop() == 0
        assert live.leftovers() == []


def test_root_s_file_is_left_alone(live: Theirs) -> None:
    """A file of root's in another user's spool is not run, and the log says so."""
    with live:
        path = live.drop("roots", live.side_effect("roots"), owner=0)
        eventually(lambda: "roots" in live.left())
        live.drop("own")
        live.ended("own")
        assert path.exists()
        assert live.runs("roots") == 0


def test_unwritable_archive(live: Theirs) -> None:
    """Ends that may not be written to the archive are kept, said, and filed when they may."""
    with live:
        live.drop("before", live.side_effect("before"))
        live.ended("before")
        os.chown(live.archive, 0, 0)
        live.archive.chmod(0o755)
        for name in ("kept", "other"):
            live.drop(name, f"{live.side_effect(name)}echo {name}; exit 5\n")
        failed = live.said("archive.failed")
        assert failed["reason"] == os.strerror(errno.EACCES)
        eventually(lambda: len(os.listdir(live.spool / ".pmjq" / "ended")) == 2)
        assert live.alive()
        os.chown(live.archive, NOBODY, NOBODY)
        for name in ("kept", "other"):
            filed = live.ended(name)
            assert (filed.record.exit_code, filed.text) == (5, f"{name}\n")
            assert live.runs(name) == 1
        live.said("archive.works_again")
        assert live.stop() == 0
        assert live.leftovers() == []


def test_unwritable_archive_at_the_start(live: Theirs) -> None:
    """A daemon whose archive may not be written begins all the same, and files later."""
    os.chown(live.archive, 0, 0)
    with live:
        live.drop("kept", live.side_effect("kept"))
        live.said("archive.failed")
        assert live.alive()
        os.chown(live.archive, NOBODY, NOBODY)
        assert live.ended("kept").record.state is State.DONE
        assert live.runs("kept") == 1


def test_spool_that_may_not_be_written_for_a_while(live: Theirs) -> None:
    """While the spool is closed to the daemon nothing runs; opened again, everything does, once."""
    with live:
        live.drop("before", live.side_effect("before"))
        live.ended("before")
        os.chown(live.spool, 0, 0)
        live.spool.chmod(0o755)
        live.drop("shut", live.side_effect("shut"))
        eventually(lambda: "shut" in live.left())
        assert (live.alive(), live.runs("shut")) == (True, 0)
        os.chown(live.spool, NOBODY, NOBODY)
        with contextlib.suppress(ProcessLookupError):
            live.tell(1)
        assert live.ended("shut").record.state is State.DONE
        assert live.runs("shut") == 1
        assert live.stop() == 0
        assert live.leftovers() == []


def test_file_that_only_its_owner_may_execute(live: Theirs) -> None:
    """A file that is accepted and may not be executed is rejected with what is the matter."""
    live.options = (*live.options, "--accept-owner", "ANY")
    with live:
        path = live.write("theirs", "#!/bin/sh\n", 0o700)
        os.chown(path, DAEMON, DAEMON)
        path.rename(live.spool / "theirs")
        record = live.ended("theirs").record
        assert record.state is State.REJECTED
        assert "may not be executed by this user" in record.reason


def test_entries_in_a_sticky_directory(live: Theirs) -> None:
    """What its owner alone may move is named once, and costs little however long it stays."""
    live.options = (*live.options, "--accept-owner", "ANY")
    os.chown(live.spool, 0, 0)
    live.spool.chmod(0o1777)
    with live:
        for number in range(10):
            os.chown(live.write(f"roots{number}", "#!/bin/sh\n"), 0, 0)
        for path in sorted((live.root / "drop").glob("*/roots*")):
            path.rename(live.spool / path.name)
        live.drop("own")
        live.ended("own")
        live.told("entry.left", 10)
        tried = _prepared(live)
        # Looks at everything, as a chmod of the directory or an odd name bring them about.
        for number in range(40):
            live.tell(signal.SIGHUP)
            live.told("daemon.looks_again", number + 1)
            live.drop(f"own{number}")
            live.ended(f"own{number}")
        assert _prepared(live) - tried <= 40 + 10 * 6
        assert len(live.events("entry.left")) == 10


def _prepared(live: Theirs) -> int:
    """Return how many claims were prepared."""
    (path,) = (live.spool / ".pmjq" / "events").iterdir()
    return path.read_bytes().count(b'"claim.prepared"')


# --- where the lock is

SOMEBODY = 54321
"""A user without a name, hence without a home."""


def test_stranger_in_the_place_of_the_locks(live: Theirs) -> None:
    """What others make in /tmp keeps nobody out who is logged in."""
    live.before = ("setpriv", f"--reuid={SOMEBODY}", f"--regid={SOMEBODY}", "--clear-groups")
    for path in (live.spool, live.archive):
        os.chown(path, SOMEBODY, SOMEBODY)
    squatted, login = Path(f"/tmp/pmjq-{SOMEBODY}"), Path(f"/run/user/{SOMEBODY}")
    squatted.mkdir()
    try:
        assert live.start(ready=False).wait() == ConfigurationError.exit_code
        assert f"{squatted} is not a directory that this user alone" in live.log.read_text()
        login.mkdir(mode=0o700, parents=True)
        os.chown(login, SOMEBODY, SOMEBODY)
        live.start()
        assert len(os.listdir(login / "pmjq")) == 1
        second = subprocess.run(live.command, check=False, capture_output=True, cwd="/", timeout=60)
        assert second.returncode == TryLaterError.exit_code
        assert live.stop() == 0
    finally:
        squatted.rmdir()
        shutil.rmtree(login, ignore_errors=True)


# --- in a spool that others can write


def _plant(spool: Path, trace: Path, uid: int) -> None:
    """Have a user put a tree into a spool with a job that an earlier life seems to have claimed."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")[:8]
    token, job_id = f"a.{boot}.deadbeef", "0b5f0bfe-8a3c-4f2e-9f39-0c3a5d7e9a11"
    own = spool / ".pmjq"
    for name in ("tmp", "ended", "events", "done", f"node/{token}/run", f"job/{job_id}/work"):
        (own / name).mkdir(parents=True)
    (own / "spool.json").write_text('{"format": 1, "uuid": "00000000-0000-4000-8000-0"}')
    moment = "2026-01-02T03:04:05Z"
    claim = {
        "format": 1, "id": job_id, "name": "planted", "attempt": 1, "owner": "root", "uid": 0,
        "node": "a", "token": token, "queued": moment, "claimed": moment,
    }  # fmt: skip
    (own / "job" / job_id / "claim.1.json").write_text(json.dumps(claim))
    baton = own / "node" / token / "run" / job_id
    baton.write_text(f"#!/bin/sh\nid -u >>'{trace}'\n")
    for path in (own, *own.rglob("*")):
        path.chmod(0o755)
        os.chown(path, uid, uid)


@pytest.mark.parametrize("before", [(), AS_NOBODY], ids=["root", "nobody"])
def test_planted_tree_is_refused(live: Theirs, before: tuple[str, ...]) -> None:
    """Whoever may write the spool has nothing run by a tree that he puts there."""
    live.before = before
    for path in (live.spool, live.archive):
        os.chown(path, 0, 0)
    live.spool.chmod(0o1777)
    trace = live.side / "planted"
    live.side.chmod(0o777)
    _plant(live.spool, trace, DAEMON)
    live.options = (*live.options, "--node", "a")
    assert live.start(ready=False).wait() == ConfigurationError.exit_code
    assert f"{live.spool}/.pmjq: belongs to user {DAEMON}" in live.log.read_text()
    assert not trace.exists()


def test_root_s_own_tree_among_others_files(live: Theirs) -> None:
    """In a spool that others can write root's daemon starts, and runs nothing."""
    live.before = ()
    for path in (live.spool, live.archive):
        os.chown(path, 0, 0)
    live.spool.chmod(0o1777)
    with live:
        live.drop("theirs", live.side_effect("theirs"))
        live.drop("roots", live.side_effect("roots"), owner=0)
        assert len(live.told("entry.left", 2)) == 2
        assert (live.runs("theirs"), live.runs("roots"), live.alive()) == (0, 0, True)


def test_root_s_file_that_others_can_write(live: Theirs) -> None:
    """Root's daemon runs no file that others can write, until they cannot."""
    live.before = ()
    os.chown(live.spool, 0, 0)
    live.spool.chmod(0o755)
    with live:
        path = live.write("wide", f"#!/bin/sh\n{live.side_effect('wide')}", 0o777)
        os.chown(path, 0, 0)
        path = path.rename(live.spool / "wide")
        said = live.said("entry.left")
        assert (said["entry"], "chmod go-w" in said["reason"]) == ("wide", True)
        assert live.runs("wide") == 0
        path.chmod(0o755)
        live.ended("wide")
        assert live.runs("wide") == 1


SHUT = "mkdir -p pkg/mod; touch pkg/mod/x; chmod 555 pkg/mod\n"
"""What a job leaves that unpacks read-only directories, as package managers do."""


def test_returned_job_left_what_is_shut(live: Theirs) -> None:
    """It is back in the queue, its papers are gone, and the next daemons start and run it."""
    live.options = (*live.options, "--on-stop", "kill")
    with live:
        gate = live.gate("g")
        gate.path.chmod(0o666)
        live.drop(
            "job",
            f"#!/bin/sh\n#PMJQ restartable\n{SHUT}{live.side_effect('job')}{gate.wait}true\n",
        )
        eventually(lambda: live.runs("job"))
        assert live.stop() == 0
        assert (live.spooled(), live.leftovers()) == (["job"], ["again/job"])
        assert [event["job"] for event in live.told("job.returned")] == ["job"]
        assert live.events("return.failed", "job.fenced", "paperwork.left") == []
        live.start()
        eventually(lambda: live.runs("job") == 2)
        live.kill()
        for pid in live.jobs():
            os.kill(pid, 9)
        live.start()
        eventually(lambda: live.runs("job") == 3)
        gate.open()
        assert live.ended("job").record.state is State.DONE


@pytest.fixture
def far() -> Iterator[Path]:
    """Return an archive on another file system, of nobody."""
    memory = Path("/dev/shm")
    if memory.stat().st_dev == os.stat("/tmp").st_dev:
        pytest.skip("no second file system here")
    directory = Path(tempfile.mkdtemp(dir=memory, prefix="pmjq-lab-"))
    os.chown(directory, NOBODY, NOBODY)
    yield directory
    shutil.rmtree(directory)


LEAVES = {
    "unread": "echo kept >secret; chmod 0 secret\n",
    "unwritten": f"{SHUT}chmod 555 .\n",
    "unentered": "echo kept >x; chmod 0 .\n",
}
"""Jobs, and what each of them shuts."""


def mode(path: Path) -> int:
    """Return the permissions of a path."""
    return path.stat().st_mode & 0o777


def _filed_as_they_are(live: Theirs) -> None:
    """Drop jobs that leave what is shut; check that they are filed, with their modes."""
    for name, text in LEAVES.items():
        live.drop(name, text)
    # Whom only the kernel reads: no script.
    live.drop("executable", Path("/bin/true").read_bytes(), 0o111)
    found = {name: live.ended(name) for name in (*LEAVES, "executable")}
    assert {filed.record.state for filed in found.values()} == {State.DONE}
    secret, shut = found["unread"].files / "secret", found["unwritten"].files
    assert (mode(secret), secret.read_text()) == (0, "kept\n")
    assert (mode(shut), mode(shut / "pkg/mod"), (shut / "pkg/mod/x").exists()) == (
        0o555,
        0o555,
        True,
    )
    assert mode(found["unentered"].files) == 0
    assert (found["unentered"].files / "x").read_text() == "kept\n"
    assert mode(found["executable"].path) == 0o111
    assert live.events("archive.failed", "job.unfiled", "paperwork.left") == []


def test_what_is_shut_is_archived(live: Theirs) -> None:
    """Near: a directory that its owner may not write is moved nevertheless."""
    with live:
        _filed_as_they_are(live)
        assert live.stop() == 0
        assert live.leftovers() == []


def test_what_is_shut_is_archived_far_away(live: Theirs, far: Path) -> None:
    """Far: what its owner may not read is copied nevertheless."""
    live.options = ("-o", str(far), "-j", "2")
    live.archive = far
    with live:
        _filed_as_they_are(live)
        live.wait_cleared()
        assert live.stop() == 0
        assert live.leftovers() == []


def test_jobs_that_cannot_be_filed_hold_up_no_others(live: Theirs, far: Path) -> None:
    """However many they are; one line tells of them, and they are filed when they can be."""
    live.options = ("-o", str(far), "-j", "80")
    live.archive = far
    with live:
        gate = live.gate("g")
        gate.path.chmod(0o666)
        names = {f"bad{number}" for number in range(70)}
        for name in names:
            live.drop(name, f"{live.side_effect(name)}{gate.wait}")
        eventually(lambda: all(live.runs(name) for name in names))
        # As a container leaves them that runs as root.
        roots = [path / "roots" for path in (live.spool / ".pmjq" / "job").glob("*/work")]
        for path in roots:
            path.touch(0o600)

        def all_through() -> bool:
            # One that has said that it runs may not stand before the gate yet.
            gate.try_open()
            return not live.jobs()

        eventually(all_through)
        live.said("job.unfiled")
        live.drop("good")
        live.ended("good")
        assert [filed.record.name for filed in live.filed()] == ["good"]
        told = live.events("job.unfiled", "archive.failed", "archive.works_again")
        assert [(event["event"], event["reason"]) for event in told] == [
            ("job.unfiled", os.strerror(errno.EACCES))
        ]
        for path in roots:
            os.chown(path, NOBODY, NOBODY)
        eventually(lambda: len(live.filed()) == 71, within=90)
        live.wait_cleared()
        assert live.stop() == 0
        assert live.leftovers() == []
