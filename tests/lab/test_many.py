"""A hundred thousand jobs are queued: the first one starts soon, in little memory."""

from __future__ import annotations

import os
import time
from pathlib import Path

import psutil
import pytest

from conftest import Say
from live import Live, eventually

pytestmark = pytest.mark.lab

QUEUED = 100_000
SECONDS = 5.0
MEGABYTES = 150


def _peak(pid: int) -> float:
    """Return the most memory that a process ever had, in MB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1000


def _cpu(pid: int) -> float:
    """Return for how many seconds a process has computed."""
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system


def _queued(live: Live) -> int:
    """Return how many jobs the daemon says are queued; by itself it says so once a minute."""
    (live.spool / ".look").touch()
    return int(live.node().get("queued", 0))


def test_hundred_thousand_queued(tmp_path: Path, say: Say) -> None:
    """With 100,000 jobs queued the first starts after less than 5 s of work, in 150 MB."""
    live = Live(tmp_path, "-j", "1")
    try:
        gate = live.gate("first")
        live.drop("first", f"{live.side_effect('first')}{gate.wait}")
        for number in range(QUEUED - 1):
            fd = os.open(live.spool / f"job{number}", os.O_CREAT | os.O_WRONLY, 0o755)
            os.write(fd, b"#!/bin/sh\n:\n")
            os.close(fd)
        began = time.monotonic()
        live.start(ready=False)
        eventually(lambda: live.runs("first"))
        seconds, computed = time.monotonic() - began, _cpu(live.pid)
        eventually(lambda: _queued(live) >= QUEUED - 2, within=60)
        peak = _peak(live.pid)
        say(f"{QUEUED:,} queued: first job after {seconds:.1f} s, {peak:.0f} MB at most")
        # What else this machine does is not the daemon's.
        assert computed < SECONDS
        assert peak < MEGABYTES
        # And they are run, oldest first.
        gate.open()
        assert live.told("job.ended", 50)[0]["job"] == "first"
        assert live.stop() == 0
    finally:
        live.close()
