"""A server and three hosts on one machine: network namespaces on a bridge.

The bridge is in the server's namespace, so nothing of it is seen outside, every run may use the
same addresses, and what is in the namespaces goes with them. A host is cut off by taking its port
from the bridge: its own end stays up and packets vanish, as with a cable pulled at the switch.

Whatever a run starts on its hosts is found by their namespaces and mounted below a directory of
the run, so it is removed also when a test fails; and a lock that ends with the run tells the next
one what a killed run left.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest

from live import eventually

STATE = Path("/run/pmjq-lab")
SERVER = "10.77.0.1"
HOSTS = ("h1", "h2", "h3")
BRIDGE = "lan"

_numbers = itertools.count()


def needs(*programs: str) -> None:
    """Skip the test if it is not root's, or if a program is missing."""
    if os.geteuid():
        pytest.skip("only root makes network namespaces and mounts")
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    missing = [name for name in ("ip", "nsenter", *programs) if not shutil.which(name, path=path)]
    if missing:
        pytest.skip(f"not installed: {' '.join(missing)}; tests/lab/setup installs it")
    if not Path("/dev/fuse").exists():
        pytest.skip("no /dev/fuse here")


class Hosts:
    """The server and the hosts of one run, and the directory for its mounts and sockets."""

    def __init__(self) -> None:
        self.name = f"pmjq-lab-{os.getpid()}-{next(_numbers)}"
        self.root = STATE / self.name
        self._lock = -1
        self._programs: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        # People go through these to the mounts.
        STATE.mkdir(exist_ok=True)
        STATE.chmod(0o711)
        with _alone():
            _sweep()
            self.root.mkdir(0o711)
            self._lock = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
        try:
            self._up()
        except subprocess.CalledProcessError as error:
            self.__exit__()
            pytest.skip(f"no network namespaces here: {error.stderr.strip()}")
        return self

    def __exit__(self, *_: object) -> None:
        with _alone():
            _remove(self.name)
        for program in self._programs:
            program.wait()
        os.close(self._lock)

    def inside(self, host: str) -> tuple[str, ...]:
        """Return the words before a command that is to run on a host, or on ``srv``."""
        return ("nsenter", f"--net=/run/netns/{self.name}-{host}")

    def cut(self, host: str) -> None:
        """Let nothing through between a host and all others."""
        self._ip("srv", "link", "set", host, "nomaster")

    def join(self, host: str) -> None:
        """Undo ``cut``."""
        self._ip("srv", "link", "set", host, "master", BRIDGE)

    def start(self, host: str, command: list[str], log: str) -> subprocess.Popen[bytes]:
        """Start a program on a host; it ends with the host at the latest."""
        with (self.root / log).open("ab") as out:
            program = subprocess.Popen(
                [*self.inside(host), *command],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                cwd="/",
            )
        self._programs.append(program)
        return program

    def run(self, host: str, *command: str) -> str:
        """Run a command on a host to its end and return what it said."""
        done = _run(*self.inside(host), *command)
        return done.stdout

    def said(self) -> str:
        """Return the last lines of all programs that were started, for whoever wonders."""
        logs = sorted(self.root.glob("*.log"))
        return "; ".join(f"{log.name}: {log.read_text(errors='replace')[-500:]}" for log in logs)

    def mounted(self, path: Path, client: subprocess.Popen[bytes]) -> None:
        """Wait until a client has mounted, and there is something to be seen."""

        def there() -> bool:
            assert client.poll() is None, f"the client of {path} ended: {self.said()}"
            with contextlib.suppress(OSError):
                return path.is_mount() and os.listdir(path) is not None
            return False

        eventually(there, what=f"{path} is mounted")

    def _up(self) -> None:
        for host in ("srv", *HOSTS):
            _run("ip", "netns", "add", f"{self.name}-{host}")
            self._ip(host, "link", "set", "lo", "up")
        self._ip("srv", "link", "add", BRIDGE, "type", "bridge")
        self._ip("srv", "addr", "add", f"{SERVER}/24", "dev", BRIDGE)
        self._ip("srv", "link", "set", BRIDGE, "up")
        for number, host in enumerate(HOSTS, start=2):
            peer = ("peer", "name", "eth0", "netns", f"{self.name}-{host}")
            self._ip("srv", "link", "add", host, "type", "veth", *peer)
            self._ip("srv", "link", "set", host, "master", BRIDGE, "up")
            self._ip(host, "addr", "add", f"10.77.0.{number}/24", "dev", "eth0")
            self._ip(host, "link", "set", "eth0", "up")

    def _ip(self, host: str, *words: str) -> None:
        _run("ip", "-n", f"{self.name}-{host}", *words)


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Keep other runs from looking for what killed runs left."""
    fd = os.open(STATE / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _sweep() -> None:
    """Remove what runs left whose lock nobody holds any more."""
    for root in STATE.iterdir():
        if not root.is_dir():
            continue
        fd = os.open(root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        else:
            _remove(root.name)
        finally:
            os.close(fd)


def _remove(name: str) -> None:
    """End what runs on the hosts of a run, and remove its mounts, hosts and directory."""
    spaces = [space for space in _spaces() if space.startswith(f"{name}-")]
    # Clients of file systems too: whoever hangs in a call of theirs then gets an error.
    eventually(lambda: not _kill(spaces), what=f"{name} is empty")
    for path in reversed(_mounts(STATE / name)):
        subprocess.run(["umount", "-l", path], check=True)
    for space in spaces:
        _run("ip", "netns", "del", space)
    assert _mounts(STATE / name) == []
    shutil.rmtree(STATE / name)


def _spaces() -> list[str]:
    with contextlib.suppress(FileNotFoundError):
        return os.listdir("/run/netns")
    return []


def _kill(spaces: list[str]) -> bool:
    pids = [pid for space in spaces for pid in _run("ip", "netns", "pids", space).stdout.split()]
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    return bool(pids)


def _mounts(root: Path) -> list[str]:
    lines = Path("/proc/mounts").read_text().splitlines()
    return [path for path in (line.split()[1] for line in lines) if path.startswith(f"{root}/")]


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, check=True, capture_output=True, text=True)
