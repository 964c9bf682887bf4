"""GlusterFS on the lab's server, one brick, mounted by three clients.

Everything is below directories of the run, glusterd's own state too; the socket is in the run's
own directory, since the path of a socket is short.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
from collections import Counter
from pathlib import Path

from lab.hosts import HOSTS, SERVER, Hosts
from lab.shared import Share
from live import eventually

VOLUME = "one"
PROGRAMS = ("glusterd", "gluster", "glusterfs")


class Gluster:
    """One volume on a disk, and its mounts."""

    def __init__(self, hosts: Hosts, base: Path) -> None:
        self.hosts = hosts
        self.base = base
        self.brick = base / "brick"
        self.socket = hosts.root / "glusterd.socket"

    def up(self) -> Share:
        """Start the server, make the volume and mount it."""
        state = self.base / "state"
        for path in (self.brick, state):
            path.mkdir()
        settings = self.base / "glusterd.vol"
        settings.write_text(
            "volume management\n"
            "type mgmt/glusterd\n"
            f"option working-directory {state}\n"
            f"option run-directory {state}\n"
            f"option glusterd-sockfile {self.socket}\n"
            "option transport-type socket\n"
            "option transport.socket.listen-port 24007\n"
            "option ping-timeout 0\n"
            "end-volume\n"
        )
        log = self.base / "glusterd.log"
        self.hosts.start("srv", ["glusterd", "-N", "-f", str(settings), "-l", str(log)], "srv.log")
        eventually(self._answers, within=30, what="glusterd answers")
        self._gluster("volume", "create", VOLUME, f"{SERVER}:{self.brick}", "force")
        self._gluster("volume", "start", VOLUME)
        self._gluster("volume", "profile", VOLUME, "start")
        mounts = tuple(self._mount(host) for host in HOSTS)
        return Share("gluster", mounts, self.brick, self.hosts, self.calls)

    def calls(self) -> Counter[str]:
        """Return how many operations of each kind the brick has carried out since it was asked."""
        told = self._gluster("volume", "profile", VOLUME, "info", "incremental")
        # Latencies in three columns, the number of calls, the name of the call.
        found = re.findall(r" [un]s +(\d+) +([A-Z]+)$", told, re.MULTILINE)
        quiet = {"RELEASE", "RELEASEDIR", "FORGET"}
        return Counter({name: int(count) for count, name in found if name not in quiet})

    def _mount(self, host: str) -> Path:
        path = self.hosts.root / host
        path.mkdir()
        log = str(self.base / f"{host}.log")
        volume = [f"--volfile-server={SERVER}", f"--volfile-id=/{VOLUME}"]
        command = ["glusterfs", "-N", "--process-name", "fuse", *volume, "-l", log, str(path)]
        self.hosts.mounted(path, self.hosts.start(host, command, f"{host}.log"))
        return path

    def _gluster(self, *words: str) -> str:
        command = ["gluster", "--mode=script", f"--glusterd-sock={self.socket}"]
        command.append(f"--log-file={self.base / 'cli.log'}")
        return self.hosts.run("srv", *command, *words)

    def _answers(self) -> bool:
        with contextlib.suppress(subprocess.CalledProcessError):
            self._gluster("volume", "info")
            return True
        return False
