"""A spool where nothing can be executed."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from pmjq.errors import ConfigurationError

if TYPE_CHECKING:
    from lab.conftest import Mount

pytestmark = pytest.mark.lab


def test_spool_on_a_file_system_without_execution(mount: Mount) -> None:
    """Where nothing can be executed no job is rejected for it: the set-up is wrong, exit 78."""
    spool = mount("tmpfs", "1M")
    subprocess.run(["mount", "-o", "remount,noexec", spool], check=True)
    command = [sys.executable, "-m", "pmjq", "--once", str(spool)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == ConfigurationError.exit_code
    assert "noexec" in done.stderr
    assert "remount" in done.stderr
    assert list(spool.iterdir()) == []
