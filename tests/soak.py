"""Leave a daemon alone with a random mix of trouble, then account for every job.

    python tests/soak.py --minutes 30 [--seed N] [--dir DIR]

Jobs of many kinds come at some four a second. Meanwhile the daemon is killed and started again,
stopped and started again, its archive filled up and relieved, moved away and moved back. At the end
every job that came must have been executed exactly once, which its own side effect tells (rejected
ones never), have exactly one record with the true outcome, and have left nothing in the spool.

The archive is a small tmpfs of its own where this may mount one (root), so that it can really be
full and every job is copied to another file system. Elsewhere it is made unwritable by chmod.
A line tells how it goes every 30 s; the exit code is not zero if anything is off.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from live import Filed, Live, eventually
from pmjq import naming
from pmjq.state import State

RATE = 4.0
"""Jobs a second."""

SAY = 30.0
TICK = 0.05

LOUD = 200_000
"""Bytes of output of a loud job."""

ARCHIVE_SIZE = "256m"

WEIGHTS = {
    "ok": 30,
    "failing": 15,
    "signalled": 3,
    "slow": 10,
    "loud": 5,
    "leaves files": 5,
    "held first": 4,
    "hidden first": 4,
    "slowly written": 4,
    "not UTF-8": 5,
    "longest name": 2,
    "like paperwork": 2,
    "CR LF": 3,
    "garbage": 2,
    "symlink": 2,
    "FIFO": 2,
}

REJECTED = frozenset({"CR LF", "garbage", "symlink", "FIFO"})

DISRUPTIONS = {"kill": 12.0, "stop": 45.0, "full": 75.0, "away": 100.0}
"""Seconds between two of a kind on average."""


@dataclass(frozen=True)
class Wanted:
    """What a job must come to."""

    kind: str
    side: str
    code: int = 0
    output: bytes | None = None

    @property
    def state(self) -> State:
        """Return the state that its record must have."""
        if self.kind in REJECTED:
            return State.REJECTED
        return State.FAILED if self.code else State.DONE


@dataclass(order=True, frozen=True)
class Later:
    """Something to be done at a time of the clock."""

    at: float
    number: int
    act: Callable[[], None] = field(compare=False)


class Jobs:
    """The jobs that were dropped, by their exact names."""

    def __init__(self, live: Live, chance: random.Random) -> None:
        self.live = live
        self.chance = chance
        self.wanted: dict[str, Wanted] = {}
        self.later: list[Later] = []
        self._numbers = itertools.count()

    def due(self, now: float) -> None:
        """Do what was put off until now."""
        for later in sorted(self.later):
            if later.at <= now:
                self.later.remove(later)
                later.act()

    def put_off(self, act: Callable[[], None]) -> None:
        """Have something done within some seconds."""
        at = time.monotonic() + self.chance.uniform(0.1, 8)
        self.later.append(Later(at, next(self._numbers), act))

    def drop(self) -> None:
        """Drop one job of a random kind."""
        kind = self.chance.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        number = f"{len(self.wanted):06}"
        name = self._name(kind, number)
        wanted, text = self._made(kind, number)
        self.wanted[name] = wanted
        self._put(kind, name, text)

    def _name(self, kind: str, number: str) -> str:
        match kind:
            case "not UTF-8":
                return os.fsdecode(f"caf\xe9-{number}".encode("latin-1"))
            case "longest name":
                return f"{number}-".ljust(255, "n")
            case "like paperwork":
                return f"{self.chance.choice(['claim', 'out', 'status'])}.{number}"
            case _:
                return f"{kind.replace(' ', '-')}-{number}"

    def _made(self, kind: str, number: str) -> tuple[Wanted, str]:
        chance, once = self.chance, self.live.side_effect(number)
        match kind:
            case "failing":
                code = chance.randrange(1, 256)
                return Wanted(kind, number, code), f"{once}exit {code}\n"
            case "signalled":
                return Wanted(kind, number, -9), f"{once}kill -9 $$\n"
            case "slow":
                seconds = 0.1 * 200 ** chance.random()
                text = f"echo begin\n{once}sleep {seconds:.2f}\necho end\n"
                return Wanted(kind, number, output=b"begin\nend\n"), text
            case "loud":
                text = f"{once}head -c {LOUD} /dev/zero | tr '\\0' x\n"
                return Wanted(kind, number, output=b"x" * LOUD), text
            case "leaves files":
                return Wanted(kind, number), f"{once}mkdir d\necho {number} >d/file\nmkfifo pipe\n"
            case "CR LF":
                return Wanted(kind, number), f"#!/bin/sh\r\n{once}"
            case "garbage":
                return Wanted(kind, number), f"#!/no/such/interpreter\n{once}"
            case _:
                pause = chance.choice(["", "", "sleep 0.1\n"])
                text = f"{once}{pause}echo {number}\n"
                output = None if kind in REJECTED else f"{number}\n".encode()
                return Wanted(kind, number, output=output), text

    def _put(self, kind: str, name: str, text: str) -> None:
        live, target = self.live, self.live.spool / name
        match kind:
            case "held first":
                live.drop(name, text, 0o644)
                self.put_off(lambda: target.chmod(0o755))
            case "hidden first":
                hidden = live.drop(f".{name}", text)
                self.put_off(lambda: _rename(hidden, target))
            case "slowly written":
                # Kept open for writing, executable from the first byte, as `cp -p` makes it.
                file = os.fdopen(_executable(target), "w", buffering=1)
                file.write("#!/bin/sh\n")
                self.put_off(lambda: _finish(file.write, file.close, text))
            case "symlink":
                target.symlink_to("/bin/true")
            case "FIFO":
                os.mkfifo(target)
            case _:
                live.drop(name, text)


def _rename(source: Path, target: Path) -> None:
    source.rename(target)


def _finish(write: Callable[[str], int], close: Callable[[], None], text: str) -> None:
    write(text)
    close()


def _executable(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o755)


class Archive:
    """The archive, which gets full and goes away."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.path = base / "archive"
        self.mounted = False

    def make(self) -> None:
        """Make it, on a file system of its own if that may be mounted."""
        self.base.mkdir()
        if os.geteuid() == 0:
            words = ["mount", "-t", "tmpfs", "-o", f"size={ARCHIVE_SIZE}", "tmpfs", str(self.base)]
            self.mounted = subprocess.run(words, check=False).returncode == 0
        self.path.mkdir()

    def close(self) -> None:
        """Unmount it."""
        if self.mounted:
            subprocess.run(["umount", "-l", str(self.base)], check=False)

    def full(self) -> None:
        """Leave no room in it."""
        if not self.mounted:
            self.path.chmod(0o555)
            return
        with (self.base / "ballast").open("wb", buffering=0) as ballast:
            with contextlib.suppress(OSError):
                while ballast.write(bytes(1 << 16)):
                    pass
            with contextlib.suppress(OSError):
                while ballast.write(bytes(512)):
                    pass

    def relieved(self) -> None:
        """Make room again."""
        self.path.chmod(0o755)
        (self.base / "ballast").unlink(missing_ok=True)

    def away(self) -> None:
        """Move it away."""
        self.path.rename(self.base / "away")

    def back(self) -> None:
        """Move it back."""
        (self.base / "away").rename(self.path)


class Soak:
    """One run."""

    def __init__(self, root: Path, minutes: float, seed: int) -> None:
        self.chance = random.Random(seed)
        self.archive = Archive(root / "mount")
        self.archive.make()
        options = ("-j", "12", "-o", str(self.archive.path), "-e", str(root / "errors"))
        self.live = Live(root, *options)
        self.jobs = Jobs(self.live, self.chance)
        self.seconds = minutes * 60
        self.counts: Counter[str] = Counter()
        self.trouble = ""
        self.until = 0.0
        self.next = {kind: self._after(mean) for kind, mean in DISRUPTIONS.items()}

    def _after(self, mean: float) -> float:
        return time.monotonic() + self.chance.expovariate(1 / mean)

    def run(self) -> list[str]:
        """Run, and return what is off."""
        self.live.start()
        began = said = time.monotonic()
        drop_at = began
        while (now := time.monotonic()) < began + self.seconds:
            while drop_at <= now:
                self.jobs.drop()
                drop_at += self.chance.expovariate(RATE)
            self.jobs.due(now)
            self._disrupt(now)
            if not self.live.alive():
                return [f"the daemon ended with {self.live.wait()}: see {self.live.log}"]
            if now - said >= SAY:
                said = now
                self._say(now - began)
            time.sleep(TICK)
        return self._finish()

    def _disrupt(self, now: float) -> None:
        if self.trouble and now >= self.until:
            self._relieve()
        for kind, at in self.next.items():
            if now >= at:
                self.next[kind] = self._after(DISRUPTIONS[kind])
                self._do(kind, now)

    def _do(self, kind: str, now: float) -> None:
        archive, live = self.archive, self.live
        match kind:
            case "kill" | "stop" if self.trouble == "away":
                # A missing archive is made at a start, so an operator does not start now either.
                return
            case "kill":
                live.kill()
                live.start(ready=self.chance.random() < 0.7)
            case "stop":
                live.stop()
                live.start()
            case _ if self.trouble:
                return
            case "full":
                archive.full()
            case "away":
                # Nor while one is on its way: it would make the archive anew.
                live.wait_ready()
                archive.away()
        self.counts[kind] += 1
        if kind in {"full", "away"}:
            self.trouble, self.until = kind, now + self.chance.uniform(2, 15)

    def _relieve(self) -> None:
        if self.trouble == "full":
            self.archive.relieved()
        else:
            self.archive.back()
        self.trouble = ""

    def _say(self, elapsed: float) -> None:
        states = Counter(str(filed.record.state) for filed in self.live.filed())
        process = psutil.Process(self.live.pid)
        figures = {
            "t": f"{elapsed:.0f}s",
            "dropped": len(self.jobs.wanted),
            "filed": sum(states.values()),
            **dict(sorted(states.items())),
            **self.counts,
            "load": f"{psutil.getloadavg()[0]:.1f}",
            "rss": f"{process.memory_info().rss >> 20}M",
            "fds": process.num_fds(),
            "archive": self.trouble or "well",
        }
        print(" ".join(f"{key}={value}" for key, value in figures.items()), flush=True)

    def _finish(self) -> list[str]:
        if self.trouble:
            self._relieve()
        self.jobs.due(float("inf"))
        everything = len(self.jobs.wanted)
        off: list[str] = []
        try:
            within = 180.0
            eventually(lambda: len(self.live.filed()) >= everything, within=within, what="filing")
        except AssertionError as error:
            off.append(str(error))
        code = self.live.stop()
        if code:
            off.append(f"the daemon's exit code is {code}")
        return [*off, *self._account()]

    def _account(self) -> list[str]:
        filed: dict[str, list[Filed]] = {}
        for one in self.live.filed():
            name = naming.real_name(one.record.name, one.record.name_hex)
            filed.setdefault(name, []).append(one)
        off: list[str] = []
        rows: dict[str, Counter[str]] = {kind: Counter() for kind in WEIGHTS}
        for name, wanted in self.jobs.wanted.items():
            wrong = list(self._wrong(wanted, filed.pop(name, []), rows[wanted.kind]))
            off += [f"{naming.shown(name)}: {text}" for text in wrong]
            rows[wanted.kind]["off"] += len(wrong)
        off += [f"{naming.shown(name)}: was filed and never dropped" for name in filed]
        off += [f"left in the spool's tree: {name}" for name in self.live.leftovers()]
        off += [f"left in the spool: {entry}" for entry in os.listdir(self.live.spool)[:20]
                if entry != ".pmjq"]  # fmt: skip
        off += [f"still running: {pid}" for pid in self.live.family()]
        self._table(rows)
        return off

    def _wrong(self, wanted: Wanted, filed: list[Filed], row: Counter[str]) -> Iterator[str]:
        runs = self.live.runs(wanted.side)
        expected = 0 if wanted.kind in REJECTED else 1
        row.update(dropped=1, records=len(filed), executions=runs)
        if runs != expected:
            yield f"was executed {runs} times, not {expected}"
        if len(filed) != 1:
            yield f"has {len(filed)} records"
            return
        record = filed[0].record
        row[str(record.state)] += 1
        if record.state is not wanted.state:
            yield f"is {record.state}, not {wanted.state}: {record.reason}"
        code = -record.signal if record.signal else record.exit_code
        if expected and code != wanted.code:
            yield f"ended with {code}, not {wanted.code}"
        if wanted.output is not None and filed[0].output != wanted.output:
            yield f"has an output of {len(filed[0].output)} bytes, not {len(wanted.output)}"
        if wanted.kind == "leaves files" and not (filed[0].files / "d" / "file").is_file():
            yield "has lost the files that it left"

    def _table(self, rows: dict[str, Counter[str]]) -> None:
        columns = ("dropped", "records", "executions", "done", "failed", "rejected", "lost", "off")
        print("\n" + f"{'kind':16}" + "".join(f"{column:>11}" for column in columns))
        rows = {**rows, "all": sum(rows.values(), Counter())}
        for kind, row in rows.items():
            print(f"{kind:16}" + "".join(f"{row[column]:11}" for column in columns))
        print("disruptions: " + ", ".join(f"{kind} {self.counts[kind]}" for kind in DISRUPTIONS))

    def close(self) -> None:
        """End everything that this run has started."""
        self.live.close()
        self.archive.close()


def main() -> int:
    """Run the soak."""
    parser = argparse.ArgumentParser(description="Leave a daemon alone with trouble.")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--dir", type=Path, default=None, help="a new directory, which is kept")
    given = parser.parse_args()
    seed = random.randrange(1 << 32) if given.seed is None else given.seed
    root = given.dir or Path(tempfile.mkdtemp(prefix="pmjq-soak-"))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    print(f"seed={seed} minutes={given.minutes:g} dir={root}", flush=True)
    root.mkdir(parents=True, exist_ok=True)
    soak = Soak(root, given.minutes, seed)
    off = ["was interrupted"]
    try:
        off = soak.run()
    except KeyboardInterrupt:
        print("soak: stopped")
    finally:
        soak.close()
        if not off and given.dir is None:
            shutil.rmtree(root)
    for line in off[:50]:
        print(f"OFF: {line}")
    print(f"{len(off)} off" if off else "every job is accounted for")
    return 1 if off else 0


if __name__ == "__main__":
    sys.exit(main())
