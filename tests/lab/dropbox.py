"""A drop box as contrib/dropbox/setup makes it, and people who use it: real users of this machine.

The daemon has the rights that contrib/systemd/pmjq-dropbox@.service leaves it, and the options of
the configuration that setup wrote. What people do is done by processes of theirs.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pwd
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Self

import pytest

from live import PROJECT, Live, eventually

CONTRIB = Path(PROJECT) / "contrib"
UNIT = CONTRIB / "systemd" / "pmjq-dropbox@.service"
PAM = Path("/etc/pam.d/pmjq")
SAVED = Path("/run/pmjq-lab.pam")
CONFIGURATIONS = Path("/etc/pmjq")
LIMITS = Path("/etc/security/limits.d")

READS = """
import os, sys
for path in sys.argv[1:]:
    try:
        os.listdir(path) if os.path.isdir(path) else open(path, "rb").read()
        print(path)
    except OSError:
        pass
"""

FILES = 777
"""A limit of open files that nobody has by chance."""


@dataclass(frozen=True)
class Person:
    """A user of this machine who was made for the tests."""

    name: str
    uid: int
    gid: int
    home: Path

    def popen(self, *words: str | Path, **more: object) -> subprocess.Popen[str]:
        """Start a program as this person, as after a login."""
        environment = {"HOME": str(self.home), "USER": self.name, "LOGNAME": self.name}
        environment |= {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}
        given = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "cwd": self.home, **more}
        return subprocess.Popen(  # type: ignore[call-overload,no-any-return]
            [str(word) for word in words],
            user=self.uid,
            group=self.gid,
            extra_groups=os.getgrouplist(self.name, self.gid),
            env=environment,
            stdin=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
            **given,
        )

    def run(self, *words: str | Path, within: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Run a program as this person, and return what came of it."""
        process = self.popen(*words)
        out, err = process.communicate(timeout=within)
        return subprocess.CompletedProcess([*map(str, words)], process.returncode, out, err)

    def python(self, code: str, *words: str | Path, within: float = 120.0) -> str:
        """Run Python text as this person; return what it said, AssertionError if it failed."""
        done = self.run(sys.executable, "-I", "-S", "-c", code, *words, within=within)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def readable(self, *paths: Path) -> list[Path]:
        """Return which of some files and directories this person can read."""
        said = self.python(READS, *paths).splitlines()
        return [path for path in paths if str(path) in said]

    def write(self, path: Path, text: str, mode: int = 0o755) -> Path:
        """Put a file of this person's somewhere, where root can."""
        path.write_text(text, encoding="utf-8")
        os.chown(path, self.uid, self.gid)
        path.chmod(mode)
        return path


@dataclass(frozen=True)
class People:
    """Somebody who is attacked, somebody who attacks, and a third."""

    ann: Person
    eve: Person
    tom: Person

    def all(self) -> tuple[Person, ...]:
        """Return them all."""
        return self.ann, self.eve, self.tom


@contextlib.contextmanager
def people() -> Iterator[People]:
    """Make three users, and remove them with all that is theirs."""
    made: list[Person] = []
    try:
        for first in ("ann", "eve", "tom"):
            name = f"{first}-{os.getpid()}"
            subprocess.run(["useradd", "-m", "-U", "-s", "/bin/bash", name], check=True)
            entry = pwd.getpwnam(name)
            made.append(Person(name, entry.pw_uid, entry.pw_gid, Path(entry.pw_dir)))
            # What people look into is up to what they put there.
            Path(entry.pw_dir).chmod(0o755)
        yield People(*made)
    finally:
        for person in made:
            eventually(partial(_removed, person), what=f"{person.name} is removed")


def _removed(person: Person) -> bool:
    """Remove a user; that cannot be while a process of his is left."""
    end_all_of(person)
    subprocess.run(["userdel", "-r", person.name], check=False, capture_output=True)
    return person.name not in {one.pw_name for one in pwd.getpwall()}


def end_all_of(person: Person) -> None:
    """End the processes of somebody who was made here."""
    for _ in range(100):
        found = list(processes_of(person.uid))
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if not found:
            return
        time.sleep(0.01)


def processes_of(uid: int) -> Iterator[int]:
    """Yield the pids of a user's processes that live."""
    for entry in os.listdir("/proc"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            text = Path(f"/proc/{int(entry)}/status").read_text(encoding="utf-8")
            lines = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
            if int(lines["Uid"].split()[0]) == uid and lines["State"].strip()[0] not in "ZX":
                yield int(entry)


@contextlib.contextmanager
def kept(path: Path) -> Iterator[None]:
    """Have a file of the system afterwards as it was before; nobody else may keep it meanwhile."""
    before = path.read_bytes() if path.exists() else None
    try:
        yield
    finally:
        _restore(path, before)


@contextlib.contextmanager
def pam_kept() -> Iterator[None]:
    """Have ``PAM`` as it was before, when all tests that run side by side have done with it."""
    with SAVED.open("a+b") as saved:
        if _only(saved):
            saved.truncate(0)
            saved.write(b"+" + PAM.read_bytes() if PAM.exists() else b"-")
            saved.flush()
        fcntl.flock(saved, fcntl.LOCK_SH)
        try:
            yield
        finally:
            # Whoever is the last; one that fails here has let go of it by that.
            if _only(saved):
                saved.seek(0)
                before = saved.read()
                _restore(PAM, before[1:] if before.startswith(b"+") else None)


def _only(file: IO[bytes]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _restore(path: Path, before: bytes | None) -> None:
    path.unlink(missing_ok=True)
    if before is not None:
        path.write_bytes(before)


def unit(key: str) -> str:
    """Return what the unit says for a key."""
    lines = UNIT.read_text(encoding="utf-8").splitlines()
    (value,) = [line.partition("=")[2] for line in lines if line.startswith(f"{key}=")]
    return value


def rights(*, confined: bool = True) -> tuple[str, ...]:
    """Return the words that start a daemon with the rights that the unit leaves it."""
    if not confined:
        return ()
    names = unit("CapabilityBoundingSet").lower().split()
    words = ["-all", *(f"+{name.removeprefix('cap_')}" for name in names)]
    more = ["--no-new-privs"] if unit("NoNewPrivileges") == "yes" else []
    return ("setpriv", f"--bounding-set={','.join(words)}", *more)


class Box(Live):
    """A drop box; ``pmjq`` is the command that people type, ``above`` where everything is."""

    def __init__(
        self,
        archive: Path | None,
        *words: str,
        confined: bool = True,
        above: Path = Path("/tmp"),  # where people can go
    ) -> None:
        root = Path(tempfile.mkdtemp(prefix="pmjq-box-", dir=above))
        root.chmod(0o755)
        self.name = root.name
        self.conf = CONFIGURATIONS / f"{self.name}.conf"
        self.stack = contextlib.ExitStack()
        self.stack.callback(shutil.rmtree, root)
        self.stack.enter_context(kept(self.conf))
        self.far = archive
        archive = archive or root / "archive"
        super().__init__(root, "-o", str(archive), before=rights(confined=confined))
        self.spool.rmdir()
        self.side.chmod(0o1777)
        self.pmjq = root / "pmjq"
        self.pmjq.write_text(
            f"#!/bin/sh\nPYTHONPATH={shlex.quote(PROJECT)} PYTHONDONTWRITEBYTECODE=1 "
            f'exec {shlex.quote(sys.executable)} -m pmjq "$@"\n',
            encoding="utf-8",
        )
        self.pmjq.chmod(0o755)
        self.said_by_setup = self.setup(*words)
        lines = self.conf.read_text(encoding="utf-8").splitlines()
        told = dict(line.split("=", 1) for line in lines)
        assert told["SPOOL"] == str(self.spool)
        # As systemd does with $OPTIONS.
        self.options = tuple(told["OPTIONS"].split())

    def setup(self, *words: str) -> str:
        """Set it up, once more if it is; return what setup says."""
        command = [str(CONTRIB / "dropbox/setup"), "--name", self.name, "--pmjq", str(self.pmjq)]
        command += [*words, str(self.spool), str(self.archive)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End it, and remove what there is of it."""
        super().close()
        self.stack.close()

    def put(self, person: Person, name: str, text: str = "true\n", mode: int = 0o755) -> Path:
        """Put somebody's job into the spool, as he would by a rename."""
        if not text.startswith("#!"):
            text = f"#!/bin/sh\n{text}"
        path = self.write(name, text, 0o600)
        os.chown(path, person.uid, person.gid)
        path.chmod(mode)
        path.rename(self.spool / name)
        path.parent.rmdir()
        return self.spool / name

    def trace(self) -> str:
        """Return shell text by which a program tells, in ``side``, as whom it was executed."""
        return f"echo ran >>'{self.side}/as.'$(id -u)\n"

    def traces(self, uid: int) -> int:
        """Return how often such text was executed as a user."""
        return self.runs(f"as.{uid}")

    def forget_traces(self) -> None:
        """Begin to count anew."""
        for path in self.side.glob("as.*"):
            path.unlink()

    def ask(self, person: Person, *words: str | Path) -> subprocess.CompletedProcess[str]:
        """Have somebody call pmjq in the spool."""
        verb, *rest = words
        return person.run(self.pmjq, verb, "-s", self.spool, *rest)

    def reason(self, person: Person, name: str) -> str:
        """Return why an entry does not run, as a list tells somebody; empty if it tells nothing."""
        for line in self.ask(person, "list", "--json").stdout.splitlines():
            told = json.loads(line)
            if told["name"] == name:
                return str(told["reason"])
        return ""

    def papers(self, name: str) -> Path:
        """Return the paperwork of the job of a name that runs."""
        for path in (self.spool / ".pmjq" / "job").glob("*/claim.*.json"):
            if f'"name":"{name}"' in path.read_text(encoding="utf-8"):
                return path.parent
        raise AssertionError(f"{name} does not run")

    def runs_now(self, person: Person, name: str, text: str = "exec sleep 1000\n") -> Path:
        """Put a job into the spool that runs until it is ended; return its paperwork."""
        started = self.side / f"started.{name}"
        self.put(person, name, f"echo $$ >'{started}'\n{text}")
        eventually(lambda: started.exists() and started.read_text(encoding="utf-8"))
        return self.papers(name)

    def pid_of(self, name: str) -> int:
        """Return the first process of such a job."""
        return int((self.side / f"started.{name}").read_text(encoding="utf-8"))


def needs() -> None:
    """Skip where there are no such users to be had, or they could not execute pmjq."""
    if os.geteuid():
        pytest.skip("only root becomes another user")
    for program in ("setpriv", "useradd", "userdel"):
        if shutil.which(program) is None:
            pytest.skip(f"no {program} here")
    if not PAM.parent.exists():
        pytest.skip("no PAM here")
    command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", sys.executable]
    environment = {**os.environ, "PYTHONPATH": PROJECT, "PYTHONDONTWRITEBYTECODE": "1"}
    again = "import os, sys; os.execv(sys.executable, [sys.executable, '-c', sys.argv[1]])"
    probe = subprocess.run(
        [*command, "-c", again, "import pmjq.cli, anyio, watchfiles"],
        check=False,
        capture_output=True,
        cwd="/",
        env=environment,
    )
    if probe.returncode:
        pytest.skip(f"others cannot run {sys.executable} with pmjq of {PROJECT}")
