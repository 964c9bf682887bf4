"""What `make install` puts in its place: for all users, and with no trace of where it was made."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from live import PROJECT

pytestmark = pytest.mark.lab

NOBODY = 65534
AS_NOBODY = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
SYSTEM = Path("/usr/bin/python3")


def _install(destination: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "MAKEFLAGS"}
    return subprocess.run(
        ["make", "-s", "install", f"VENV={sys.prefix}", f"DESTDIR={destination}", *words],
        check=False,
        cwd=PROJECT,
        capture_output=True,
        text=True,
        env=environment,
    )


@pytest.fixture
def public() -> Iterator[Path]:
    """Return a directory that every user can reach: pytest's are private."""
    with tempfile.TemporaryDirectory(prefix="pmjq-install-") as path:
        Path(path).chmod(0o755)
        yield Path(path)


def test_installed_for_all_users(public: Path) -> None:
    """The service's user can execute what is installed, whatever Python made the .venv."""
    if os.geteuid() or shutil.which("setpriv") is None or not SYSTEM.exists():
        pytest.skip("only root becomes another user, with setpriv; and Debian has a python3")
    done = _install(public)
    assert done.returncode == 0, done.stderr
    tree = public / "usr/local/lib/pmjq"
    assert (tree / "bin/python3").resolve() == SYSTEM.resolve()
    ran = subprocess.run(
        [*AS_NOBODY, tree / "bin/python3", "-I", "-m", "pmjq", "--version"],
        check=False,
        capture_output=True,
        text=True,
        cwd="/",
    )
    assert (ran.returncode, ran.stdout.startswith("pmjq ")) == (0, True), ran.stderr
    shells = ("bash-completion/completions/pmjq", "zsh/site-functions/_pmjq")
    for place in (*shells, "fish/vendor_completions.d/pmjq.fish"):
        assert (public / "usr/local/share" / place).stat().st_mode & 0o777 == 0o644
    box = public / "usr/local/share/pmjq/dropbox"
    assert (box / "setup").stat().st_mode & 0o777 == 0o755
    assert "pmjq=/usr/local/bin/pmjq" in (box / "setup").read_text("utf-8")
    assert (box / "pam").stat().st_mode & 0o777 == 0o644
    units = public / "usr/local/lib/systemd/system"
    for unit in ("pmjq@.service", "pmjq-dropbox@.service"):
        assert "ExecStart=/usr/local/bin/pmjq " in (units / unit).read_text("utf-8")
    files = [path for path in tree.rglob("*") if path.is_file() and not path.is_symlink()]
    assert any(path.suffix == ".pyc" for path in files)
    where = (os.fsencode(PROJECT), os.fsencode(public))
    assert [path for path in files if any(each in path.read_bytes() for each in where)] == []


def test_compiled_once_for_all(public: Path) -> None:
    """What is compiled is newer than its source, or each start would compile it again."""
    done = _install(public)
    assert done.returncode == 0, done.stderr
    (package,) = (public / "usr/local/lib/pmjq/lib").glob("python3*/site-packages/pmjq")
    said = subprocess.run(
        [public / "usr/local/lib/pmjq/bin/python3", "-I", "-v", "-c", "import pmjq.cli"],
        check=True,
        capture_output=True,
        text=True,
        cwd="/",
    ).stderr
    assert f"matches {package}/cli.py" in said
    assert "bytecode is stale" not in said


def test_python_that_others_cannot_execute(public: Path) -> None:
    """An interpreter in a private directory is refused in a line that says which it is."""
    private = public / "private"
    private.mkdir(mode=0o700)
    shutil.copy(Path(sys.executable).resolve(), private / "python3")
    done = _install(public / "destination", f"PYTHON={private}/python3")
    assert done.returncode != 0
    told = next(line for line in done.stderr.splitlines() if line.startswith("make: "))
    assert f"{private}/python3: other users may not search" in told
    assert "set PYTHON" in told
    assert not (public / "destination").exists()


def test_python_below_a_home_for_its_owner(public: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who installs below his home runs it alone: his own interpreter is as good."""
    home = public / "home"
    home.mkdir(mode=0o700)
    monkeypatch.setenv("HOME", str(home))
    mine = home / "python3"
    shutil.copy(Path(sys.executable).resolve(), mine)
    done = _install(Path(), f"PREFIX={home}/.local", f"PYTHON={mine}", "DESTDIR=")
    assert done.returncode == 0, done.stderr
    ran = subprocess.run(
        [home / ".local/bin/pmjq", "--version"], check=False, capture_output=True, text=True
    )
    assert (ran.returncode, ran.stdout.startswith("pmjq ")) == (0, True), ran.stderr
