"""What all tests share: waiting, figures for a person, how hypothesis is set up, being nobody."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import settings

from still import Still

# What is started with & or nohup ignores these, and so would all that the tests start. What is
# handled here, if by nothing, has its default there.
for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, lambda *_: None)

T = TypeVar("T")

Say = Callable[[str], None]

# A shared machine may stop any example for longer than the 200 ms that hypothesis allows.
settings.register_profile("pmjq", deadline=None, max_examples=60)
settings.load_profile("pmjq")


def eventually(condition: Callable[[], T], *, within: float = 60.0) -> T:
    """Return the first true value of ``condition``; AssertionError after ``within`` seconds."""
    deadline = time.monotonic() + within
    while not (value := condition()):
        assert time.monotonic() < deadline, f"still {value!r} after {within:g} s"
        time.sleep(0.005)
    return value


@pytest.fixture
def still(tmp_path: Path) -> Still:
    """Return a spool that no daemon serves."""
    return Still(tmp_path / "spool")


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    """Return what prints a line of figures to the person who runs the tests."""

    def aloud(text: str) -> None:
        with capsys.disabled():
            print(f"\n  {text}", end=" ")

    return aloud


NOBODY = 65534
AS_NOBODY = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")


def again_as_nobody(*words: str) -> None:
    """Run tests once more, without the rights that root has; skip where that is not possible."""
    if os.geteuid():
        pytest.skip("this user is not root")
    if shutil.which("setpriv") is None:
        pytest.skip("no setpriv here: it comes with util-linux")
    project = Path(__file__).resolve().parent.parent
    command = [*AS_NOBODY, sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    with tempfile.TemporaryDirectory(prefix="pmjq-test-") as base:
        os.chown(base, NOBODY, NOBODY)
        words = (f"--basetemp={base}/tests", *words)
        if subprocess.run([*command, "--version"], capture_output=True, check=False).returncode:
            pytest.skip(f"nobody cannot run {sys.executable}")
        done = subprocess.run(
            [*command, *words],
            capture_output=True,
            text=True,
            check=False,
            cwd=project,
            env=environment,
        )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-5_000:]
