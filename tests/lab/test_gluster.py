"""Three daemons on GlusterFS, mounted by three clients."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import Say
from lab import gluster, others, shared
from lab.dropbox import People
from lab.hosts import Hosts, needs

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def share(tmp_path_factory: pytest.TempPathFactory) -> Iterator[shared.Share]:
    """Return the file system, with a server and hosts of its own."""
    needs(*gluster.PROGRAMS)
    with Hosts() as hosts:
        yield gluster.Gluster(hosts, tmp_path_factory.mktemp("gluster")).up()


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


def test_drop_box(share: shared.Share, people: People, say: Say) -> None:
    """Root's daemons are two, and the people three who do not trust one another."""
    others.owners(share, people, say)
