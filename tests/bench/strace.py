"""System calls of the daemon, its keeper and its children up to their exec, by attaching strace.

Attached late, strace does not slow the start down, and what came before is not counted. The calls
of the jobs themselves are left out: a process stops counting when it executes something that is
neither Python nor pmjq. Under strace everything takes longer, so calls made by the clock (a poll,
a beat) weigh more per job than they do otherwise.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from . import process
from .report import NotInstalledError, NotMeasuredError
from .running import Daemon

ALL = "all"

FILES = (
    "%file,fsync,fdatasync,syncfs,getdents64,ftruncate,fchmod,fchown,fstat,flock,"
    "copy_file_range,sendfile"
)
"""Calls that name a file or reach its metadata or disk through an open one; no read or write."""

SYNCS = frozenset({"fsync", "fdatasync", "syncfs"})

CALL = re.compile(r"(\d+) +(\w+)\((.*)")

OWN_PROGRAM = re.compile(r'"[^"]*(?:python|pmjq)[^"/]*"')

ATTACH_WITHIN = 5.0


@dataclass
class Trace:
    """Who made how many calls: ``counts`` is filled when the trace ends, keyed by who and call."""

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)

    def total(self, who: str | None = None, calls: frozenset[str] | None = None) -> int:
        """Return the number of calls of one party, or of all; of some calls, or of all."""
        return sum(
            count
            for (party, call), count in self.counts.items()
            if who in (None, party) and (calls is None or call in calls)
        )

    def leading(self, jobs: int, least: float = 0.05) -> str:
        """Return the calls per job, most frequent first."""
        calls: Counter[str] = Counter()
        for (_, call), count in self.counts.items():
            calls[call] += count
        shown = [(call, made / jobs) for call, made in calls.most_common() if made >= least * jobs]
        return ", ".join(f"{call} {rate:.1f}" for call, rate in shown)


@contextlib.contextmanager
def tracing(daemon: Daemon, calls: str) -> Iterator[Trace]:
    """Count the calls that match ``calls`` for the length of a ``with`` block."""
    if shutil.which("strace") is None:
        raise NotInstalledError("strace is not installed (Debian: strace)")
    keepers = daemon.keepers()
    parties = {"daemon": {daemon.pid}, "keeper": keepers}
    log = daemon.place.root / "strace.log"
    strace = _attach(log, calls, [daemon.pid, *sorted(keepers)])
    trace = Trace()
    who = _threads(parties)
    try:
        yield trace
    finally:
        who |= _threads(parties)
        # INT makes strace 6.1 detach one by one, which never ends when a child stands between vfork
        # and exec. Killed, it leaves that to the kernel; every line is flushed as it is written.
        strace.kill()
        strace.communicate()
    trace.counts.update(count(log, who))
    log.unlink()


def count(log: Path, who: dict[int, str]) -> Counter[tuple[str, str]]:
    """Return the calls in a log of strace by party and name; unknown threads are ``children``."""
    counts: Counter[tuple[str, str]] = Counter()
    jobs: set[int] = set()
    with log.open(errors="replace") as lines:
        for line in lines:
            match = CALL.match(line)
            if not match or int(match[1]) in jobs:
                continue
            thread = int(match[1])
            counts[who.get(thread, "children"), match[2]] += 1
            if match[2].startswith("execve") and not OWN_PROGRAM.match(match[3]):
                jobs.add(thread)
    return counts


def _attach(log: Path, calls: str, pids: list[int]) -> subprocess.Popen[bytes]:
    command = ["strace", "-f", "-qq", "-s", "256", "-e", "signal=none", "-e", f"trace={calls}"]
    command += ["-o", str(log), *(f"--attach={pid}" for pid in pids)]
    strace = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    deadline = time.monotonic() + ATTACH_WITHIN
    while not all(_traced(pid) for pid in pids):
        if strace.poll() is not None or time.monotonic() > deadline:
            strace.kill()
            words = strace.communicate()[1].decode(errors="replace").strip()
            raise NotMeasuredError(f"strace cannot attach (see kernel.yama.ptrace_scope): {words}")
        time.sleep(0.01)
    return strace


def _traced(pid: int) -> bool:
    try:
        threads = list(Path(f"/proc/{pid}/task").iterdir())
        return all("TracerPid:\t0\n" not in (thread / "status").read_text() for thread in threads)
    except OSError:
        return False


def _threads(parties: dict[str, set[int]]) -> dict[int, str]:
    return {
        thread: who
        for who, pids in parties.items()
        for pid in pids
        for thread in process.threads(pid)
    }
