"""sshfs: an sshd on the lab's server, mounted by three clients, with its caches or without.

The server of each mount writes down every request that it gets, so they can be counted. That is
cheap beside the requests themselves, which come through ssh.
"""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from pathlib import Path

from lab.hosts import HOSTS, SERVER, Hosts
from lab.shared import Share
from live import eventually

SERVES = "/usr/lib/openssh/sftp-server"
"""Where Debian has it. sshd's own internal-sftp has no log but syslog, which a container lacks."""

PROGRAMS = ("sshfs", "sshd", "ssh-keygen", SERVES)

REQUEST = re.compile(rb"^debug\d?: request \d+: (?!sent )([a-z-]+)", re.MULTILINE)

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
        self.requests = base / "requests.log"
        self._counted = 0

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
            # sshd gives it to a shell.
            f"Subsystem sftp exec {SERVES} -e -l DEBUG3 2>>{self.requests}\n"
        )
        self.hosts.start("srv", ["/usr/sbin/sshd", "-D", "-e", "-f", str(settings)], "sshd.log")
        log = self.hosts.root / "sshd.log"
        eventually(lambda: b"Server listening" in log.read_bytes(), what="sshd listens")
        return self.mount("sshfs", UNCACHED)

    def mount(self, kind: str, options: str) -> Share:
        """Mount with other options, beside what is mounted."""
        mounts = tuple(self._mount(host, kind, options) for host in HOSTS)
        return Share(kind, mounts, self.export, self.hosts, self.calls)

    def calls(self) -> Counter[str]:
        """Return how many requests of each kind the server has got since it was asked."""
        with self.requests.open("rb") as log:
            log.seek(self._counted)
            # A line that is being written is counted the next time.
            text = log.read()
        text = text[: text.rfind(b"\n") + 1]
        self._counted += len(text)
        return Counter(name.decode() for name in REQUEST.findall(text))

    def _mount(self, host: str, kind: str, options: str) -> Path:
        path = self.hosts.root / f"{kind}-{host}"
        path.mkdir()
        who = f"IdentityFile={self.base}/key,StrictHostKeyChecking=no,UserKnownHostsFile=/dev/null"
        given = ",".join(filter(None, (who, BROKEN, options)))
        command = ["sshfs", "-f", "-o", given, f"root@{SERVER}:{self.export}", str(path)]
        self.hosts.mounted(path, self.hosts.start(host, command, f"{kind}-{host}.log"))
        return path
