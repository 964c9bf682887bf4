"""What the tests of this directory share: small file systems, users, drop boxes."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lab import dropbox
from lab.dropbox import FILES, LIMITS, Box, People, kept, pam_kept

Mount = Callable[[str, str], Path]
"""Makes a file system of a kind and size (as truncate and tmpfs write it) and mounts it."""


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """Return what mounts a new file system; whatever was mounted is unmounted in the end."""
    mounted: list[Path] = []

    def do(kind: str, size: str) -> Path:
        path = tmp_path / f"mount{len(mounted)}"
        path.mkdir()
        if kind == "tmpfs":
            command = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=755", "none", str(path)]
        else:
            image = tmp_path / f"image{len(mounted)}"
            image.touch()
            os.truncate(image, int(size.removesuffix("M")) << 20)
            # -m 0: root has no blocks of its own, so a full disk is full for root too.
            subprocess.run([f"mkfs.{kind}", "-q", "-F", "-m", "0", image], check=True)
            command = ["mount", "-o", "loop", str(image), str(path)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no {kind} can be mounted here: {done.stderr.strip()}")
        mounted.append(path)
        return path

    if os.geteuid():
        pytest.skip("only root mounts file systems")
    if shutil.which("mount") is None:
        pytest.skip("no mount here")
    try:
        yield do
    finally:
        for path in reversed(mounted):
            # A process that a test left there must not keep the mount.
            if subprocess.run(["umount", path], check=False, capture_output=True).returncode:
                subprocess.run(["umount", "-l", path], check=True)


@pytest.fixture(scope="module")
def people() -> Iterator[People]:
    """Return three users of this machine; one of them has a limit of his own."""
    dropbox.needs()
    with dropbox.people() as made, pam_kept(), kept(LIMITS / f"{made.ann.name}.conf"):
        limit = f"{made.ann.name} - nofile {FILES}\n"
        (LIMITS / f"{made.ann.name}.conf").write_text(limit, encoding="utf-8")
        yield made


@pytest.fixture(scope="module")
def near(people: People) -> Iterator[Box]:
    """Return a drop box that is served, with its archive on the same file system."""
    with Box(None, "--options", "-j 8") as box:
        yield box


@pytest.fixture(scope="module")
def far(people: People) -> Iterator[Box]:
    """Return the same with its archive on another file system."""
    memory = Path("/dev/shm")
    if memory.stat().st_dev == os.stat("/tmp").st_dev:
        pytest.skip("no second file system here")
    above = Path(tempfile.mkdtemp(dir=memory, prefix="pmjq-box-"))
    above.chmod(0o755)
    try:
        with Box(above / "archive", "--options", "-j 8") as box:
            yield box
    finally:
        shutil.rmtree(above)
