"""The programs that pmjq is measured beside, each as its users would run it, with four slots.

A peer is made ready (server started, caches filled) outside the clock. Then the clock covers all
that its user goes through: task-spooler and nq get one command line per job from a shell loop and
are over when they report the last job's end; xargs and GNU parallel read a list. All run the same
no-op executable. ``parallel --load`` gets a limit that is never reached: what is measured is the
asking, not the load.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from .place import NO_OP, write_executable

SLOTS = 4

GATE = 100
"""A load limit that stays open: a bench that stops at a gate measures the machine's load."""

PATIENCE = 300.0
"""Seconds for one contestant's round."""


@dataclass(frozen=True)
class Peer:
    """A program and its shell lines: make it ready, run ``$JOB`` ``$N`` times, clean up."""

    name: str
    program: str
    package: str
    run: str
    ready: str = ":"
    clean: str = ":"
    share: float = 1.0
    """How many of the round's jobs it gets: slow ones fewer."""

    def installed(self) -> bool:
        """Tell whether it can be measured."""
        return shutil.which(self.program) is not None

    def rate(self, root: Path, jobs: int) -> float:
        """Return jobs per second of one round in an empty directory."""
        count = max(1, round(jobs * self.share))
        write_executable(root / "job", NO_OP)
        (root / "list").write_text(f"{root / 'job'}\n" * count)
        env = os.environ | {"N": str(count), "JOB": str(root / "job")}
        env |= {"TS_SOCKET": str(root / "socket"), "TMPDIR": str(root), "PARALLEL_HOME": str(root)}
        try:
            _shell(self.ready, root, env)
            os.sync()
            begin = time.monotonic()
            _shell(self.run, root, env)
            return count / (time.monotonic() - begin)
        finally:
            _shell(self.clean, root, env)


TSP_RUN = """
i=0
while [ $i -lt $N ]; do id=$(tsp "$JOB"); i=$((i+1)); done
for back in 0 1 2 3; do tsp -w $((id-back)); done
"""

NQ_RUN = """
i=0
while [ $i -lt $N ]; do NQDIR=q$((i%QUEUES)) nq "$JOB" >/dev/null; i=$((i+1)); done
for q in q?; do NQDIR=$q nq -w; done
"""
NQ_CLEAN = "for q in q?; do NQDIR=$q nq -w; done"

PEERS = (
    Peer("xargs -P4", "xargs", "findutils", f"xargs -P{SLOTS} -n1 sh <list"),
    Peer("task-spooler", "tsp", "task-spooler", TSP_RUN, ready=f"tsp -S {SLOTS}", clean="tsp -K"),
    # As it comes, one job at a time, and as four slots are had with it.
    Peer("nq", "nq", "nq", f"QUEUES=1\n{NQ_RUN}", ready="mkdir q0", clean=NQ_CLEAN),
    Peer(
        "nq, 4 queues",
        "nq",
        "nq",
        f"QUEUES=4\n{NQ_RUN}",
        ready="mkdir q0 q1 q2 q3",
        clean=NQ_CLEAN,
    ),
    Peer(
        "parallel",
        "parallel",
        "parallel",
        f"parallel --will-cite -j{SLOTS} sh <list",
        ready=f"parallel --will-cite -j{SLOTS} true ::: 1",
    ),
    Peer(
        "parallel --load",
        "parallel",
        "parallel",
        f"parallel --will-cite -j{SLOTS} --load {GATE} sh <list",
        ready=f"parallel --will-cite -j{SLOTS} --load {GATE} true ::: 1",
        share=0.07,
    ),
)


def _shell(script: str, root: Path, env: dict[str, str]) -> None:
    command = ["/bin/sh", "-c", script]
    subprocess.run(
        command, cwd=root, env=env, stdout=subprocess.DEVNULL, check=True, timeout=PATIENCE
    )
