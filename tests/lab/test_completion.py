"""Completion in the shells that not every machine has: zsh and fish."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from pmjq.disk import Disk
from pmjq.spool import Spool
from terminal import Shell

pytestmark = pytest.mark.lab

UUID = "0b5f0bfe-8a3c-4f2e-9f39-0c3a5d7e9a11"

NAMES = {
    "tw": "two words",
    "it": "it's",
    "q": 'q"uote',
    "dol": "dollar$HOME",
    "a": "a:b:c",
    "e": "e=f",
    "ba": "ba!ng",
    "sl": "sl\\ash",
    "st": "st*ar",
    "bt": "bt`touch pwned`",
    "pa": "pa$(touch pwned)",
    "ü": "ünï",
    "se": "se;mi",
    "x": "x&y",
    "br": "br{k,l}",
    "tr": "tr ",
}
"""Names that mean something to a shell, by what is typed of them."""


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    """Return a spool with a job of each name."""
    root = tmp_path / "spool"
    root.mkdir()
    Spool(Disk(), str(root)).prepare(UUID)
    for name in NAMES.values():
        (root / name).write_text("true\n")
        (root / name).chmod(0o755)
    (root / "held.sh").write_text("true\n")
    (root / "archive").mkdir()
    return root


@pytest.mark.parametrize("name", ["zsh", "fish"])
def test_verbs_and_jobs(name: str, spool: Path, tmp_path: Path) -> None:
    """TAB completes the verb and the job, whose exact name the command gets."""
    if shutil.which(name) is None:
        pytest.skip(f"no {name} here: tests/lab/setup installs it")
    with Shell(name, spool, tmp_path / "shell") as shell:
        assert shell.called("pmjq canc\ttw\t\r") == ["cancel", "two words"]
        assert shell.called("pmjq release \t\r") == ["release", "held.sh"]
        assert shell.called("pmjq list --state=qu\t\r") == ["list", "--state=queued"]
        assert shell.called("pmjq -o arch\t --on-stop l\t\r")[-1] == "leave"
        assert shell.called("pmjq submit --batch=held\t\r") == ["submit", "--batch=held.sh"]
        for begun, job in NAMES.items():
            assert shell.called(f"pmjq cancel {begun}\t\r") == ["cancel", job]
        shell.type("pmjq cancel \t\t")
        shell.shows("queued")
    assert "pwned" not in os.listdir(spool)
