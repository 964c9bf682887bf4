"""The command line of the bench: choose the measurements, run them, print one table.

Everything happens in one temporary directory, which is removed at the end, also after INT and
TERM.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import psutil

from .backlog import backlog
from .fileops import fileops
from .gate import gate
from .idle import idle
from .latency import latency
from .nodes import nodes
from .report import Bench, NotInstalledError, NotMeasuredError, Row, as_json, machine, table
from .shared import gluster, mounts, sshfs
from .throughput import throughput
from .verbs import verbs

MEASUREMENTS: dict[str, Callable[[Bench], list[Row]]] = {
    "throughput": throughput,
    "latency": latency,
    "idle": idle,
    "backlog": backlog,
    "fileops": fileops,
    "verbs": verbs,
    "nodes": nodes,
    "gluster": gluster,
    "sshfs": sshfs,
    "mounts": mounts,
    "gate": gate,
}

ONLY_NAMED = frozenset({"gate"})
"""Measurements that take so long that they are made only when they are named."""

AS_INSTALLED = "import sys; sys.modules['rich'] = None; from pmjq.cli import main; sys.exit(main())"
"""The command as users have it: structlog imports rich where a developer's tool has brought it."""

NOT_A_DISK = frozenset({"tmpfs", "ramfs"})


def main(argv: Sequence[str] | None = None) -> int:
    """Run the chosen measurements; 1 when one of them failed, whatever the figures are."""
    parser = _parser()
    options = parser.parse_args(argv)
    if unknown := set(options.names) - set(MEASUREMENTS):
        parser.error(f"no such measurement: {', '.join(sorted(unknown))}")
    # Whoever installs pmjq has it compiled; where this is set it would be anew with each command.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(
        prefix="pmjq-bench-", dir=options.dir, ignore_cleanup_errors=True
    ) as root:
        command = tuple(shlex.split(options.pmjq))
        bench = Bench(command, Path(root), options.quick, options.large, Progress().say)
        usual = [name for name in MEASUREMENTS if name not in ONLY_NAMED]
        rows, failed = _measure(bench, options.names or usual)
    _print(bench, rows)
    if options.json:
        options.json.write_text(as_json(bench, rows, time.monotonic() - begin))
    return 1 if failed else 0


def _measure(bench: Bench, names: Sequence[str]) -> tuple[list[Row], bool]:
    rows: list[Row] = []
    failed = False
    if (kind := filesystem(bench.root)) in NOT_A_DISK:
        bench.missing.append(f"anything on a disk: {bench.root.parent} is a {kind}; see --dir")
    for name in names:
        try:
            found = MEASUREMENTS[name](bench)
        except (NotMeasuredError, OSError, psutil.Error) as reason:
            bench.missing.append(f"{name}: {reason}")
            failed |= not isinstance(reason, NotInstalledError)
        else:
            rows += [replace(row, measurement=row.measurement or name) for row in found]
    return rows, failed


def filesystem(path: Path) -> str:
    """Return the kind of file system a path is on."""
    mounts = {Path(part.mountpoint): part.fstype for part in psutil.disk_partitions(all=True)}
    return next((mounts[parent] for parent in (path, *path.parents) if parent in mounts), "")


class Progress:
    """Tells how far things are, with the seconds since the beginning."""

    def __init__(self) -> None:
        self._begin = time.monotonic()

    def say(self, text: str) -> None:
        """Print a line to standard error."""
        print(f"{time.monotonic() - self._begin:5.0f} s  {text}", file=sys.stderr)


def _print(bench: Bench, rows: Sequence[Row]) -> None:
    facts = ", ".join(f"{name} {value}" for name, value in machine().items())
    print(facts, "", table(rows), sep="\n")
    if bench.missing:
        print("", "not measured:", *(f"  {each}" for each in bench.missing), sep="\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bench.py", description="Measure the daemon beside its peers."
    )
    add = parser.add_argument
    add(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"some of: {' '.join(MEASUREMENTS)}; default: all but {' '.join(ONLY_NAMED)}",
    )
    add("--json", type=Path, metavar="FILE", help="write every figure with its samples")
    add("--quick", action="store_true", help="fewer rounds and jobs: a minute and a half")
    add("--large", action="store_true", help="1,000,000 queued as well: minutes, and 4 GB of disk")
    add("--dir", default="/var/tmp", help="where to work: on a disk (%(default)s)")
    own = shlex.join([sys.executable, "-c", AS_INSTALLED])
    add("--pmjq", default=own, metavar="COMMAND", help="what starts the daemon")
    return parser


if __name__ == "__main__":
    sys.exit(main())
