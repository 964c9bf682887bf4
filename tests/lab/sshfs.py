"""sshfs: an sshd on the lab's server, mounted by three clients, with its caches or without."""

from __future__ import annotations

import subprocess
from pathlib import Path

from lab.hosts import HOSTS, SERVER, Hosts
from lab.shared import Share
from live import eventually

PROGRAMS = ("sshfs", "sshd", "ssh-keygen")

UNCACHED = "dir_cache=no,attr_timeout=0,entry_timeout=0,negative_timeout=0,ac_attr_timeout=0"
"""Without these a listing is up to 20 s old."""

BROKEN = "reconnect,ServerAliveInterval=3,ServerAliveCountMax=2,ConnectTimeout=3"
"""A connection that is broken is given up after 6 s and made again."""


class Sshfs:
    """One server and what it exports."""

    def __init__(self, hosts: Hosts, base: Path) -> None:
        self.hosts = hosts
        self.base = base
        self.export = base / "export"

    def up(self) -> Share:
        """Start the server and mount without caches."""
        self.export.mkdir()
        # Where sshd wants a directory of its own, whatever it is told.
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        for name in ("host", "key"):
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.base / name)]
            subprocess.run(command, check=True)
        settings = self.base / "sshd_config"
        settings.write_text(
            f"ListenAddress {SERVER}\n"
            f"HostKey {self.base}/host\n"
            f"AuthorizedKeysFile {self.base}/key.pub\n"
            "StrictModes no\n"
            "PermitRootLogin yes\n"
            "PidFile none\n"
            "UsePAM no\n"
            "MaxStartups 100\n"
            "Subsystem sftp internal-sftp\n"
        )
        self.hosts.start("srv", ["/usr/sbin/sshd", "-D", "-e", "-f", str(settings)], "sshd.log")
        log = self.hosts.root / "sshd.log"
        eventually(lambda: b"Server listening" in log.read_bytes(), what="sshd listens")
        return self.mount("sshfs", UNCACHED)

    def mount(self, kind: str, options: str) -> Share:
        """Mount with other options, beside what is mounted."""
        mounts = tuple(self._mount(host, kind, options) for host in HOSTS)
        return Share(kind, mounts, self.export, self.hosts)

    def _mount(self, host: str, kind: str, options: str) -> Path:
        path = self.hosts.root / f"{kind}-{host}"
        path.mkdir()
        who = f"IdentityFile={self.base}/key,StrictHostKeyChecking=no,UserKnownHostsFile=/dev/null"
        given = ",".join(filter(None, (who, BROKEN, options)))
        command = ["sshfs", "-f", "-o", given, f"root@{SERVER}:{self.export}", str(path)]
        self.hosts.mounted(path, self.hosts.start(host, command, f"{kind}-{host}.log"))
        return path
