"""A spool that no daemon serves, put into any situation by hand; and the command, as it is typed.

Situations are made by the transitions of ``pmjq.spool`` itself, a few system calls each, so that
hundreds of them cost less than the start of one daemon. The node that is "alive" here is the
process of the tests; one that is "dead" has a process that never was.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import stat as modes
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from live import Live, eventually
from pmjq import job, naming, probe
from pmjq.cli import main
from pmjq.disk import Disk
from pmjq.job import Attempt, Event, Record, Spec, Status, Try
from pmjq.jobs import EXAMINED
from pmjq.node import Life, token
from pmjq.spool import Spool
from pmjq.state import State

OK, NOT_SO, USAGE, NO_INPUT, CANNOT_CREATE, NOT_PERMITTED = 0, 1, 64, 66, 73, 77
TIMED_OUT = 124

NOBODY = 65534
SOMEBODY = 4711
"""Two users whom file modes bind."""

HOSTILE = (
    "two words",
    "line\nbreak",
    'it\'s "quoted" `$HOME`',
    "\x1b[31mred",
    os.fsdecode(b"not-utf8-\xff\xfe"),
    "-n",
    "--json",
    "umlaut-\N{LATIN SMALL LETTER U WITH DIAERESIS}",
    "100%{}\\",
    "a" * 255,
)
"""Names that a job may have; none has a letter that patterns know."""

TOO_LONG = ("n" * 256, "\N{LATIN SMALL LETTER U WITH DIAERESIS}" * 128, "\udcff" * 256)
"""Names that no file can have: of 256 bytes each."""

ME = probe.machine()
BEGAN = datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)


@dataclass(frozen=True)
class Told:
    """What came of a command that was typed."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[dict[str, Any]]:
        """Return the JSON objects that were printed."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def one(self) -> dict[str, Any]:
        """Return the only JSON object that was printed."""
        (line,) = self.lines
        return line

    def refused(self, code: int, *words: str) -> None:
        """See that nothing was done, and one line told why, with these words in it."""
        assert (self.code, self.out) == (code, "")
        assert (self.err[:6], self.err.count("\n")) == ("pmjq: ", 1), self.err
        assert [word for word in words if word not in self.err] == [], self.err


def typed(spool: Path | str | Live, verb: str, *words: str) -> Told:
    """Type ``pmjq VERB -s SPOOL WORDS``, in this process."""
    root = spool.spool if isinstance(spool, Live) else spool
    out = io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True)
    err = io.TextIOWrapper(io.BytesIO(), "utf-8", "backslashreplace", write_through=True)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([verb, "-s", str(root), *words])
    told, complained = (_bytes(one).decode("utf-8", "replace") for one in (out, err))
    return Told(code, told, complained)


def _bytes(text: io.TextIOWrapper) -> bytes:
    assert isinstance(text.buffer, io.BytesIO)
    return text.buffer.getvalue()


MODULES = (
    "queue jobs looking steer submit verbs steering pruning waiting walk probe account history "
    "nodes render"
)
STANDARD = "_strptime ctypes difflib encodings.utf_8_sig fnmatch grp os pwd sys tomllib uuid"
"""What is imported before the user changes: a library in somebody's home is shut then."""


def typed_as(uid: int, spool: Path, verb: str, *words: str) -> Told:
    """Type a command as another user; the test is skipped where only root could."""
    if os.geteuid():
        pytest.skip("this user is not root, so cannot be another one")
    imports = ", ".join([*STANDARD.split(), *(f"pmjq.{name}" for name in MODULES.split())])
    code = (
        f"import {imports}\n"
        "from pmjq.cli import main\n"
        f"os.setgroups([]); os.setgid({uid}); os.setuid({uid})\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, verb, "-s", str(spool), *words],
        capture_output=True,
        check=False,
        timeout=60,
        cwd="/",
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
    )
    return Told(done.returncode, done.stdout.decode(), done.stderr.decode())


@contextlib.contextmanager
def public_directory() -> Iterator[Path]:
    """Give a directory that every user can reach: pytest's are private."""
    with tempfile.TemporaryDirectory(prefix="pmjq-test-") as path:
        Path(path).chmod(0o755)
        yield Path(path)


def given_to(uid: int, root: Path) -> None:
    """Give a tree to another user; the test is skipped where only root could."""
    if os.geteuid():
        pytest.skip("this user is not root, so can give nothing away")
    for path in [root, *root.rglob("*")]:
        os.lchown(path, uid, uid)


def snapshot(root: Path, *, beating: bool = False) -> dict[str, tuple[object, ...]]:
    """Return all that an observer could tell of a tree: names, modes, owners, times, contents.

    ``beating``: but for what a daemon writes that has nothing to do.
    """
    found: dict[str, tuple[object, ...]] = {}
    for path in [root, *sorted(root.rglob("*"))]:
        name = str(path.relative_to(root))
        if beating and name.startswith(".pmjq/node"):
            continue
        stat = path.lstat()
        told = (stat.st_mode, stat.st_uid, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_nlink)
        plain = modes.S_ISREG(stat.st_mode)
        found[name] = (*told, hashlib.sha256(path.read_bytes()).hexdigest() if plain else "")
    return found


def new_id(start: str = "") -> str:
    """Return an id, the beginning of which may be wished for."""
    return start + str(uuid.uuid4())[len(start) :]


class Still:
    """A spool that no daemon serves.

    ``run`` and ``ended`` make jobs that some node has, or had.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(exist_ok=True)
        self.own = root / ".pmjq"
        self.done = self.own / "done"
        Spool(Disk(), str(root)).prepare(str(uuid.uuid4()))
        self._lives: dict[str, Spool] = {}

    def put(
        self, name: str, text: str = "#!/bin/sh\n", mode: int = 0o755, *, uid: int | None = None
    ) -> Path:
        """Put a job into the queue."""
        path = self.root / name
        path.write_text(text)
        path.chmod(mode)
        if uid is not None:
            os.chown(path, uid, uid)
        return path

    def crowd(self) -> None:
        """Put as many jobs into the queue as are opened where all are listed."""
        for number in range(EXAMINED):
            self.put(f"crowd{number}")

    def node(self, name: str = "a", *, alive: bool = True, **said: Any) -> Spool:  # noqa: ANN401  # fields of a life
        """Let a node have a life here; return the spool as that life sees it."""
        if name in self._lives:
            return self._lives[name]
        spool = Spool(Disk(), str(self.root), token(name, ME.boot, new_id()))
        spool.begin()
        life = Life(
            name=name,
            token=spool.token,
            machine=ME.machine,
            boot=ME.boot,
            space=ME.space,
            pid=ME.pid if alive else 1 << 30,
            start=ME.start,
            version="0.1.0",
            began=BEGAN,
            at=BEGAN,
        )
        spool.publish(msgspec.structs.replace(life, **said))
        self._lives[name] = spool
        return spool

    def attempt(self, name: str, node: str = "a", **changes: Any) -> Attempt:  # noqa: ANN401  # fields of an attempt
        """Return an attempt by a node."""
        uid = os.geteuid()
        made = Attempt(
            id=new_id(),
            name=naming.shown(name),
            name_hex=naming.exact(name),
            attempt=1,
            owner=changes.pop("owner", "ann"),
            uid=changes.pop("uid", uid),
            node=node,
            token=self.node(node).token,
            queued=BEGAN,
            claimed=BEGAN,
            spec=Spec(),
        )
        return msgspec.structs.replace(made, **changes)

    def run(
        self,
        name: str,
        node: str = "a",
        *,
        output: bytes = b"",
        started: bool = True,
        **changes: Any,  # noqa: ANN401  # fields of an attempt
    ) -> Attempt:
        """Have a node have claimed a job, and started it."""
        spool, attempt = self.node(node), self.attempt(name, node, **changes)
        self.put(name)
        spool.prepare_claim(attempt)
        assert spool.claim(attempt)
        papers = self.own / "job" / attempt.id
        if started:
            line = f"started {1 << 30} 1 {BEGAN.timestamp()} {1 << 30} 1\n"
            (papers / f"status.{attempt.attempt}").write_text(line)
            (papers / f"out.{attempt.attempt}").write_bytes(output)
        return attempt

    def ended(
        self,
        name: str,
        state: State = State.DONE,
        *,
        code: int | None = 0,
        ago: float = 60.0,
        node: str = "a",
        output: bytes = b"",
        archive: Path | None = None,
        reason: str = "",
        text: str = "#!/bin/sh\n",
        **changes: Any,  # noqa: ANN401  # fields of an attempt
    ) -> Record:
        """Have a job ended so many seconds ago, and filed."""
        spool, attempt = self.node(node), self.attempt(name, node, **changes)
        when = (datetime.now(UTC) - timedelta(seconds=ago)).timestamp()
        status = Status(started=when - 2.0, ended=when, code=code)
        if code is None:
            status = Status()
        record = job.record(attempt, status, state, when, reason)
        record = msgspec.structs.replace(
            record, archive=".pmjq/done" if archive is None else str(archive)
        )
        place = archive or self.done
        place.mkdir(exist_ok=True)
        stem = place / naming.real_name(record.stem, record.stem_hex)
        stem.write_text(text)
        stem.chmod(0o755)
        stem.with_name(f"{stem.name}.json").write_bytes(msgspec.json.encode(record))
        stem.with_name(f"{stem.name}.out").write_bytes(output)
        spool.append([Event("job.ended", record.ended, record=record)])
        return record

    def back(self, name: str, *, pause: float = 3600.0, output: bytes = b"") -> Try:
        """Have a job be between two attempts, the first of which failed; return that."""
        spool, path = self.node(), self.put(name, "#!/bin/sh\n#PMJQ retries=3\n")
        tried = Try(
            new_id(), 1, "a", "failed", started=BEGAN, ended=BEGAN, exit_code=3, reason="it was"
        )
        later = datetime.now(UTC) + timedelta(seconds=pause)
        again = job.Again(2, tries=1, earlier=(tried,), not_before=later)
        spool.remember(name, path.stat(), again)
        tried_out = Path(spool.tried_out(again))
        tried_out.parent.mkdir(exist_ok=True)
        tried_out.write_bytes(output)
        return tried

    def listed(self) -> list[str]:
        """Return what lies in the spool."""
        return sorted(name for name in os.listdir(self.root) if name != ".pmjq")

    def records(self) -> list[Record]:
        """Return the records of jobs that have ended and are not filed yet."""
        spool = Spool(Disk(), str(self.root))
        found = [spool.record(*key) for key in spool.ended()]
        return [one for one in found if one is not None]


def runs_now(live: Live, name: str, text: str, *before: str) -> None:
    """Drop a job and wait until it runs."""
    live.drop(name, "#!/bin/sh\n" + "".join(before) + live.side_effect(name) + text)
    eventually(lambda: live.runs(name), what=f"{name} runs")


FOR_EVER = "exec sleep 1000\n"

BUSY = "while :; do sleep 0.05; done\n"
"""Runs for ever, with children of its own, and heeds what is trapped."""
