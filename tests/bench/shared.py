"""Three daemons on a shared file system, each on a mount of its own, as ``nodes`` has several.

GlusterFS and sshfs are those of the lab: a server and three hosts in network namespaces of this
machine, all on its disk and CPUs. What an operation costs between machines is not in the figures;
how many there are for a job is. Only root can make them; on Debian what they need is installed.

Any other file system is measured on the mounts that ``PMJQ_LAB_MOUNTS`` names: directories
separated by colons, through which one and the same shared directory is seen.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

import lab.gluster
import lab.sshfs
from lab.hosts import Hosts, needs
from lab.shared import Share

from .nodes import team_rows
from .report import Bench, NotInstalledError, NotMeasuredError, Row

MOUNTS = "PMJQ_LAB_MOUNTS"

SETUP = Path(lab.gluster.__file__).with_name("setup")


Served = Callable[[Hosts, Path], dict[str, Share]]
"""Starts a server in a directory and mounts it on every host; returns what is measured, by name."""


def gluster(bench: Bench) -> list[Row]:
    """Measure on GlusterFS."""

    def served(hosts: Hosts, base: Path) -> dict[str, Share]:
        return {"GlusterFS": lab.gluster.Gluster(hosts, base).up()}

    return _in_the_lab(bench, "gluster", served, lab.gluster.PROGRAMS)


def sshfs(bench: Bench) -> list[Row]:
    """Measure on sshfs, without its caches and with them."""

    def served(hosts: Hosts, base: Path) -> dict[str, Share]:
        server = lab.sshfs.Sshfs(hosts, base)
        return {"sshfs": server.up(), "sshfs with its caches": server.mount("cached", "")}

    return _in_the_lab(bench, "sshfs", served, lab.sshfs.PROGRAMS)


def mounts(bench: Bench) -> list[Row]:
    """Measure on the mounts that the environment names."""
    named = tuple(Path(path) for path in os.environ.get(MOUNTS, "").split(":") if path)
    if not named:
        raise NotInstalledError(f"{MOUNTS} names none")
    with tempfile.TemporaryDirectory(
        prefix="pmjq-bench-", dir=named[0], ignore_cleanup_errors=True
    ) as made:
        below = tuple(mount / Path(made).name for mount in named)
        return _rows(bench, _kind(named[0]), Share("mounts", below, below[0]))


def _rows(bench: Bench, kind: str, share: Share) -> list[Row]:
    name = f"{len(share.mounts)} daemons on {kind}"
    bench.say(name)
    return team_rows(bench, name, share, bench.pick(1000, 200), bench.pick(2, 1))


def _in_the_lab(bench: Bench, name: str, served: Served, programs: tuple[str, ...]) -> list[Row]:
    base = bench.root / name
    base.mkdir()
    try:
        _install(bench, programs)
        with Hosts() as hosts:
            shares = served(hosts, base)
            return [row for kind, share in shares.items() for row in _rows(bench, kind, share)]
    except pytest.skip.Exception as reason:
        raise NotInstalledError(str(reason)) from None
    except (AssertionError, subprocess.SubprocessError) as reason:
        raise NotMeasuredError(str(reason)) from reason


def _install(bench: Bench, programs: tuple[str, ...]) -> None:
    """Install what is missing, where that can be done; raises what ``needs`` does if it cannot."""
    try:
        needs(*programs)
    except pytest.skip.Exception as reason:
        if os.geteuid():
            raise
        bench.say(str(reason))
        done = subprocess.run([SETUP], check=False, capture_output=True, text=True)
        if done.returncode:
            raise NotInstalledError((done.stderr or done.stdout).strip()) from None
        needs(*programs)


def _kind(path: Path) -> str:
    """Return the type of the file system that is mounted at or above a path."""
    mounted = {Path(part.mountpoint): part.fstype for part in psutil.disk_partitions(all=True)}
    real = path.resolve()
    return next((mounted[parent] for parent in (real, *real.parents) if parent in mounted), "")
