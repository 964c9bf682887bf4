"""Play seeds of the simulated cluster, and show what a failing one did.

    python tests/seeds.py --seeds 10000 [--first K] [--processes N]
    python tests/seeds.py --seeds 1 --first K --show

The exit code is not zero if any seed is broken; the history of the first is printed, and how to
play it alone. What a seed does depends on the order of sets too, so this runs itself again with
PYTHONHASHSEED=0.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import cluster  # noqa: E402  # it lies beside this file

MOST_LINES = 400
"""Lines of a broken seed's history that are printed; --show prints all."""

SAY = 30.0
"""Seconds between two lines that tell how far it is."""


def play(seed: int) -> tuple[int, cluster.Figures, list[str]]:
    """Play one seed; return its figures and what is wrong."""
    played, figures = cluster.played(seed)
    return seed, figures, played.sim.broken


def main() -> int:
    """Play what is asked for; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--show", action="store_true", help="print the whole history of each")
    asked = parser.parse_args()
    seeds = range(asked.first, asked.first + asked.seeds)
    if asked.show:
        for seed in seeds:
            print(cluster.shown(seed))
        return 0
    total, broken, said, began = cluster.Figures(), {}, time.monotonic(), time.monotonic()
    with multiprocessing.get_context("fork").Pool(asked.processes) as pool:
        for seed, figures, wrong in pool.imap_unordered(play, seeds, chunksize=4):
            total.add(figures)
            if wrong:
                broken[seed] = wrong
            if time.monotonic() - said > SAY:
                said = time.monotonic()
                print(f"{total.seeds} seeds, {len(broken)} broken", flush=True)
    print(f"{total}\n  {time.monotonic() - began:.0f} s")
    for seed, wrong in sorted(broken.items()):
        print(f"seed {seed} is broken: {wrong[0]}")
    if broken:
        lines = cluster.shown(min(broken)).split("\n")
        print("\n".join(["...", *lines[-MOST_LINES:]]))
    return 1 if broken else 0


if __name__ == "__main__":
    if os.environ.get("PYTHONHASHSEED") != "0":
        os.execve(  # noqa: S606  # this very program
            sys.executable, [sys.executable, *sys.argv], os.environ | {"PYTHONHASHSEED": "0"}
        )
    sys.exit(main())
