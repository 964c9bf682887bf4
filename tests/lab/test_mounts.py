"""The same on any mounts of one file system that PMJQ_LAB_MOUNTS names: /a:/b:/c.

They may be mounts of three clients (NFS, SMB, CephFS) on this machine. Each test uses a new
directory there and leaves it.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from conftest import Say
from lab import others, shared
from lab.dropbox import People

pytestmark = pytest.mark.lab


@pytest.fixture
def share() -> shared.Share:
    """Return the file system that is mounted."""
    named = os.environ.get("PMJQ_LAB_MOUNTS", "")
    if not named:
        pytest.skip("PMJQ_LAB_MOUNTS names no mounts: /a:/b:/c of one file system")
    mounts = tuple(Path(path) for path in named.split(":"))
    assert len(mounts) == 3, "PMJQ_LAB_MOUNTS must name three mounts"
    assert all(path.is_dir() for path in mounts)
    return shared.Share("mounts", mounts, mounts[0])


def test_many_jobs(share: shared.Share, tmp_path: Path, say: Say) -> None:
    """Each of 1,000 jobs is run and recorded once."""
    shared.many(share, tmp_path, say)


def test_local_archives(share: shared.Share, tmp_path: Path, say: Say) -> None:
    """Ended jobs may go to a disk of the node that ran them."""
    shared.local_archives(share, tmp_path, say)


def test_node_killed(share: shared.Share, tmp_path: Path, say: Say) -> None:
    """The others take over from a machine that dies."""
    shared.killed(share, tmp_path, say)


def test_drop_box(share: shared.Share, people: People, say: Say) -> None:
    """Root's daemons are two, and the people three who do not trust one another."""
    others.owners(share, people, say)
