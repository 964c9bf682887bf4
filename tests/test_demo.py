"""The demo, as ``make demo`` runs it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

DEMO = Path(__file__).with_name("demo.py")
SECONDS = 60


def test_demo_shows_every_kind_of_end() -> None:
    """The demo ends well and has shown a job done, one failed and one rejected."""
    ran = subprocess.run(
        [sys.executable, str(DEMO)], capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert ran.returncode == 0, ran.stderr
    for state in ("done", "failed", "rejected"):
        assert f" {state} " in ran.stdout
