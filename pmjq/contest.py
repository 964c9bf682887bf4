"""Several processes that rename the same files, each to names of its own.

Each is started as a bare ``python -I -S contest.py``, so this stands on the standard library alone
and is up quickly. It says that it is ready, waits for the time of the start on standard input (the
end of which means that nobody wants to know any more), tries for every file, and prints which it
was told it had won. Who really has a file is for others to see on disk.

All wake up at the same times on CLOCK_MONOTONIC, one for each file, or whoever runs first would
have won everything before the others are there.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from typing import IO

SOURCES, TARGETS = "from", "to"
"""The directories in the place of the contest: files 0, 1, ..., and the same as FILE.PROCESS."""

PATIENCE = 30.0
"""Seconds after which no process tries for a further file."""

STEP = 0.001
"""Seconds from one file to the next: enough for a process to be woken, less than a call takes."""

SOON = 0.02
"""Seconds from the word to the start."""

ENDING = 5.0
"""Seconds for a killed process to end; in a disk call that hangs it will not."""


def compete(places: list[str], files: int) -> tuple[list[list[int]], int]:
    """Let one process at each place rename the same files.

    Returns what each was told it had won, and the last errno of any. None is left running.
    """
    processes: list[subprocess.Popen[str]] = []
    told: list[list[int]] = []
    failed = 0
    try:
        for number, place in enumerate(places):
            processes.append(_rival(place, number, files))
        for process in processes:
            _pipe(process.stdout).readline()
        start = time.monotonic() + SOON
        for process in processes:
            with contextlib.suppress(BrokenPipeError):
                _pipe(process.stdin).write(f"{start}\n")
                _pipe(process.stdin).flush()
        for process in processes:
            error, *won = map(int, _pipe(process.stdout).readline().split() or ["0"])
            told.append(won)
            failed = error or failed
    finally:
        for process in processes:
            _end(process)
    return told, failed


def contend(place: str, number: int, files: int, start: float) -> tuple[list[int], int]:
    """Try to rename each file; return for which that succeeded, and the last errno."""
    won: list[int] = []
    failed = 0
    for file in range(files):
        late = time.monotonic() - start - file * STEP
        if late > PATIENCE:
            break
        time.sleep(max(0.0, -late))
        try:
            os.rename(f"{place}/{SOURCES}/{file}", f"{place}/{TARGETS}/{file}.{number}")
        except OSError as error:
            failed = error.errno or 0
        else:
            won.append(file)
    return won, failed


def main(words: list[str]) -> None:
    """Say ``ready``, wait for the start, contend, and print errno and the files won."""
    place, number, files = words
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    if start := sys.stdin.readline():
        won, failed = contend(place, int(number), int(files), float(start))
        sys.stdout.write(" ".join(map(str, (failed, *won))) + "\n")


def _rival(place: str, number: int, files: int) -> subprocess.Popen[str]:
    """Start a process, in a session of its own: a terminal's INT is for who ends it."""
    return subprocess.Popen(
        [sys.executable, "-I", "-S", __file__, place, str(number), str(files)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )


def _pipe(pipe: IO[str] | None) -> IO[str]:
    if pipe is None:
        raise ValueError("started without a pipe")
    return pipe


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        process.communicate(timeout=ENDING)


if __name__ == "__main__":
    main(sys.argv[1:])
