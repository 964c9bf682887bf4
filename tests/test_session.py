"""One sitting of one user, typed into the real command: two nodes serve the spool."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from live import PROJECT, Live, eventually


@dataclass(frozen=True)
class Shell:
    """A shell in which PMJQ_SPOOL is set."""

    spool: Path

    def __call__(self, line: str, code: int = 0) -> str:
        """Type a line; see that it ends so and without complaint; return what it prints."""
        done = self.run(line)
        assert (done.returncode, done.stderr) == (code, ""), done
        return done.stdout

    def run(self, line: str) -> subprocess.CompletedProcess[str]:
        """Type a line of shell in which ``pmjq`` is the command."""
        return subprocess.run(
            ["bash", "-c", f'set -o pipefail\npmjq() {{ {sys.executable} -m pmjq "$@"; }}\n{line}'],
            capture_output=True,
            check=False,
            text=True,
            timeout=60,
            cwd=self.spool.parent,
            env={**os.environ, "PYTHONPATH": PROJECT, "PMJQ_SPOOL": str(self.spool)},
        )


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[tuple[Live, Live]]:
    """Return two daemons on one spool, with one slot each."""
    spool, archive = tmp_path / "spool", str(tmp_path / "archive")
    with (
        Live(tmp_path / "a", "--node", "a", "-j", "1", "-o", archive, spool=spool) as first,
        Live(tmp_path / "b", "--node", "b", "-j", "1", "-o", archive, spool=spool) as second,
    ):
        yield first, second


def test_session(nodes: tuple[Live, Live]) -> None:
    """Submit, list, follow, cancel, retry, wait, look back: each sees what the others did."""
    live = nodes[0]
    shell = Shell(live.spool)
    gate = live.gate("1")

    # Two long jobs fill both nodes, a third stands in the queue.
    script = f'echo begins; read x <"{gate.path}"; echo ends; exit 3'
    first = shell(f"pmjq submit --name first -- sh -c '{script}'").strip()
    second = shell("pmjq submit --name second -- sleep 1000").strip()
    assert (first.partition(".")[0], second.partition(".")[0]) == ("first", "second")
    eventually(lambda: shell("pmjq list --state running").count(" running ") == 2)
    third = shell("pmjq submit --name third -- sh -c 'echo third'").strip()
    listed = shell("pmjq list")
    assert [listed.count(name) for name in (first, second, third)] == [1, 1, 1]
    assert {row.split()[4] for row in listed.splitlines()[1:3]} == {"a", "b"}
    assert "alive" in shell("pmjq nodes")

    # The third is kept back, so that it is there to be cancelled.
    eventually(lambda: shell.run(f"pmjq hold {third}").returncode == 0)
    assert "held" in shell(f"pmjq show {third}")

    # The output of the first as it comes.
    assert eventually(lambda: shell(f"pmjq logs {first}")) == "begins\n"
    following = f"pmjq logs -f {first} & follower=$!; pmjq wait {first}; echo $?; wait $follower"
    with subprocess.Popen(
        ["bash", "-c", f'pmjq() {{ {sys.executable} -m pmjq "$@"; }}\n{following}'],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": PROJECT, "PMJQ_SPOOL": str(live.spool)},
    ) as process:
        gate.open()
        out, _ = process.communicate(timeout=60)
    assert sorted(out.split()) == ["3", "begins", "ends"]

    # The second is ended, the third withdrawn from the queue.
    assert f"{third}: cancelled" in shell(f"pmjq cancel {third}")
    assert "is asked to end it" in shell(f"pmjq cancel {second}")
    shell(f"pmjq wait {second}", code=128 + 15)
    shell(f"pmjq wait {third}", code=1)
    assert shell.run(f"pmjq cancel {second}").returncode == 1
    assert shell("pmjq list") == ""

    # The third is wanted after all. It is filed soon, and was held.
    eventually(lambda: shell.run(f"pmjq retry {third}").returncode == 0)
    shell(f"pmjq wait --timeout 0 {third}", code=124)
    assert "released" in shell(f"pmjq release {third}")
    shell(f"pmjq wait {third}")
    assert shell(f"pmjq logs {third}") == "third\n"

    # Everything is remembered, the last one last, and told once.
    told = shell("pmjq history").splitlines()[1:]
    names = [row.split()[2] for row in told]
    states = [row.split()[3] for row in told]
    assert sorted(names) == sorted([first, second, third, third])
    assert (names[0], names[-1]) == (first, third)
    assert sorted(states) == ["cancelled", "cancelled", "done", "failed"]
    assert shell("pmjq history --state failed --json | wc -l").strip() == "1"
    assert "earlier     attempt 1" in shell(f"pmjq show {third}")


def test_mistakes(nodes: tuple[Live, Live]) -> None:
    """What is mistyped is one line and an exit code, and harms nothing."""
    live = nodes[0]
    shell = Shell(live.spool)
    name = shell("pmjq submit --hold --name x -- true").strip()
    for line, code in (
        ("pmjq cancel nope", 66),
        ("pmjq cancel", 64),
        (f"pmjq cancel --force {name}", 64),
        (f"pmjq wait --timeout never {name}", 64),
        (f"pmjq logs {name} nope", 64),
        ("pmjq drain nope", 66),
        (f"pmjq list -s /nonexistent {name}", 66),
        ("pmjq prune", 64),
        (f"pmjq release {name} nope", 66),
    ):
        done = shell.run(line)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (code, "", 1), done
    assert live.spooled() == [name]


def test_one_node_dies(nodes: tuple[Live, Live]) -> None:
    """The other goes on; what the dead one had is said to be in its hands."""
    first, second = nodes
    shell = Shell(first.spool)
    for _ in nodes:
        shell("pmjq submit --name long -- sleep 1000")
    eventually(lambda: shell("pmjq list --state running").count(" running ") == 2)
    keepers = first.keepers()
    first.kill()
    for pid in keepers:
        os.kill(pid, 9)
    listed = shell("pmjq list --json")
    assert listed.count("its node is dead") == 1
    assert shell("pmjq nodes").count("dead") == 1
    (dead,) = (row.split()[0] for row in shell("pmjq list").splitlines() if "is dead" in row)
    done = shell.run(f"pmjq cancel {dead}")
    assert (done.returncode, "node a is dead" in done.stderr) == (1, True)
    (other,) = (row.split()[0] for row in shell("pmjq list").splitlines() if " b " in row)
    shell(f"pmjq cancel {other}")
    shell(f"pmjq wait {other}", code=143)
    assert second.alive()
