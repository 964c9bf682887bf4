"""Run the tests of this directory in lanes side by side: half of their time is waiting.

    python tests/lab/lanes.py [ARGUMENT ...]

The arguments are pytest's. The first lane is shown as it goes, each other one when it has ended.
The exit code is that of a lane that failed, or 5 if no lane found any test.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import IO

HERE = Path(__file__).parent

LANES = [["test_many.py", "test_mounts.py", "test_sshfs.py"], ["test_badfs.py", "test_gluster.py"]]
"""Files that run one after another. All others are one more lane."""

NO_TESTS = 5
"""The exit code of pytest where it found none."""


def main() -> int:
    """Run all lanes and return the exit code."""
    known = {name for lane in LANES for name in lane}
    others = sorted(path.name for path in HERE.glob("test_*.py") if path.name not in known)
    with ExitStack() as stack:
        lanes: list[tuple[subprocess.Popen[bytes], IO[bytes] | None]] = []
        for lane in (*LANES, others):
            told = stack.enter_context(tempfile.TemporaryFile()) if lanes else None
            # Whatever happens here, a lane that was started comes to its end and tidies up.
            process = stack.enter_context(_pytest(lane, told))
            lanes.append((process, told))
        codes = {_ended(process, told) for process, told in lanes}
    failed = codes - {0, NO_TESTS}
    return failed.pop() if failed else min(codes)


def _pytest(files: list[str], told: IO[bytes] | None) -> subprocess.Popen[bytes]:
    paths = [str(HERE / name) for name in files]
    command = [sys.executable, "-m", "pytest", "-m", "lab", *sys.argv[1:], *paths]
    return subprocess.Popen(command, stdout=told, stderr=told)


def _ended(process: subprocess.Popen[bytes], told: IO[bytes] | None) -> int:
    code = process.wait()
    if told is not None:
        told.seek(0)
        sys.stdout.write(told.read().decode(errors="replace"))
        sys.stdout.flush()
    return code


if __name__ == "__main__":
    sys.exit(main())
