"""Run tests in lanes side by side: half of their time is waiting.

    python tests/lanes.py lab|test [ARGUMENT ...]

``lab``: those of tests/lab; ``test``: all that are not of the lab. The arguments are pytest's; with
a path among them there is one lane, of what it names. The first lane is shown as it goes, each
other one when it has ended. The exit code is that of a lane that failed, or 5 if none found a test.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import IO, NamedTuple

HERE = Path(__file__).parent


class Course(NamedTuple):
    """What is run: the directory, pytest's marker, and lanes of files, one after another.

    All other files of the directory are one more lane, the last.
    """

    directory: Path
    marker: str
    lanes: tuple[tuple[str, ...], ...]


COURSES = {
    "lab": Course(
        HERE / "lab",
        "lab",
        (
            (
                "test_many.py",
                "test_mounts.py",
                "test_sshfs.py",
                "test_dropbox.py",
                "test_tricks.py",
                "test_shares.py",
            ),
            ("test_badfs.py", "test_gluster.py", "test_full_disk.py"),
        ),
    ),
    "test": Course(
        HERE,
        "not lab",
        (
            # The first three compute; the others wait for daemons.
            (
                "test_cluster.py",
                "test_crash.py",
                "test_fair.py",
                "test_crowd.py",
                "test_daemon_entries.py",
            ),
            (
                "test_adoption.py",
                "test_daemon_deferred.py",
                "test_daemon_directories.py",
                "test_several.py",
                "test_takeover.py",
            ),
            (
                "test_cancel.py",
                "test_daemon_gpus.py",
                "test_daemon_life.py",
                "test_daemon_mail.py",
                "test_daemon_signed.py",
                "test_daemon_stop.py",
                "test_drain.py",
                "test_hostile.py",
                "test_post.py",
                "test_sealed.py",
                "test_submit.py",
                "test_wait.py",
            ),
        ),
    ),
}

NO_TESTS = 5
"""The exit code of pytest where it found none."""


def main() -> int:
    """Run all lanes and return the exit code."""
    course, arguments = COURSES[sys.argv[1]], sys.argv[2:]
    with ExitStack() as stack:
        lanes: list[tuple[subprocess.Popen[bytes], IO[bytes] | None]] = []
        for paths in _lanes(course, arguments):
            told = stack.enter_context(tempfile.TemporaryFile()) if lanes else None
            command = [sys.executable, "-m", "pytest", "-m", course.marker, *arguments, *paths]
            # Whatever happens here, a lane that was started comes to its end and tidies up.
            process = stack.enter_context(subprocess.Popen(command, stdout=told, stderr=told))
            lanes.append((process, told))
        codes = {_ended(process, told) for process, told in lanes}
    failed = codes - {0, NO_TESTS}
    return failed.pop() if failed else min(codes)


def _lanes(course: Course, arguments: list[str]) -> list[list[str]]:
    """Return the paths of each lane."""
    if any(Path(argument.partition("::")[0]).exists() for argument in arguments):
        return [[]]
    known = {name for lane in course.lanes for name in lane}
    found = sorted(path.name for path in course.directory.glob("test_*.py"))
    others = tuple(name for name in found if name not in known)
    return [[str(course.directory / name) for name in lane] for lane in (*course.lanes, others)]


def _ended(process: subprocess.Popen[bytes], told: IO[bytes] | None) -> int:
    code = process.wait()
    if told is not None:
        told.seek(0)
        sys.stdout.write(told.read().decode(errors="replace"))
        sys.stdout.flush()
    return code


if __name__ == "__main__":
    sys.exit(main())
