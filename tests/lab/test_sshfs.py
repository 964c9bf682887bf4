"""Three daemons on sshfs, mounted by three clients, without its caches and with them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import Say
from lab import shared, sshfs
from lab.hosts import Hosts, needs

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def shares(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[shared.Share]]:
    """Return the file system without caches and with them, on hosts of its own."""
    needs(*sshfs.PROGRAMS)
    with Hosts() as hosts:
        server = sshfs.Sshfs(hosts, tmp_path_factory.mktemp("sshfs"))
        yield [server.up(), server.mount("sshfs-cached", "")]


@pytest.fixture
def share(shares: list[shared.Share]) -> shared.Share:
    """Return it without caches."""
    return shares[0]


def test_many_jobs(share: shared.Share, tmp_path: Path, say: Say) -> None:
    """Each of 1,000 jobs is run and recorded once."""
    shared.many(share, tmp_path, say)


def test_local_archives(share: shared.Share, tmp_path: Path, say: Say) -> None:
    """Ended jobs may go to a disk of the node that ran them."""
    shared.local_archives(share, tmp_path, say)


def test_node_killed(share: shared.Share, tmp_path: Path, say: Say) -> None:
    """The others take over from a machine that dies."""
    shared.killed(share, tmp_path, say)


def test_host_cut_off(share: shared.Share, tmp_path: Path, say: Say) -> None:
    """The others take over from a machine that is cut off; it publishes nothing of what it lost."""
    shared.cut_off(share, tmp_path, say)


def test_default_caches(shares: list[shared.Share], tmp_path: Path, say: Say) -> None:
    """With listings that are 20 s old it is slower, and nothing is lost or run twice."""
    shared.local_archives(shares[1], tmp_path, say)
