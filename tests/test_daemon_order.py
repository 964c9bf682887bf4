"""Priority under real daemons."""

from __future__ import annotations

from pathlib import Path

from live import eventually
from test_several import Fleet

HOLD = "#!/bin/sh\nwhile [ ! -e {gate} ]; do sleep 0.02; done\n"
TELL = "#!/bin/sh\n#PMJQ priority={priority}\necho $PMJQ_NAME >>{told}\n"


def test_urgent_jobs_pass_what_was_there_before(tmp_path: Path) -> None:
    """Two daemons of one user, and a hundred jobs queued when they come."""
    with Fleet(tmp_path, 2, "-j", "1") as fleet:
        gate, told = tmp_path / "gate", tmp_path / "told"
        for number in (1, 2):
            fleet.first.drop(f"hold{number}", HOLD.format(gate=gate))
        eventually(lambda: not any((fleet.spool / f"hold{n}").exists() for n in (1, 2)))
        for number in range(100):
            fleet.first.drop(f"job{number:02}", TELL.format(told=told, priority=0))
        fleet.first.drop("low", TELL.format(told=told, priority=-1))
        for number in range(4):
            fleet.first.drop(f"urgent{number}", TELL.format(told=told, priority=5))
        eventually(lambda: _read(fleet))
        gate.touch()
        lines = eventually(lambda: _lines(told, 105), within=60)
        # One node may be slow to start what it has claimed, while the other goes on.
        assert {line for line in lines[:25] if line.startswith("urgent")} == {
            f"urgent{number}" for number in range(4)
        }
        # Where jobs are short some are claimed ahead.
        assert lines.index("low") > 50


def _read(fleet: Fleet) -> bool:
    """Tell whether both nodes have seen all that is queued, and time to read it."""
    return all((live.node() or {}).get("queued") == 105 for live in fleet.nodes.values())


def _lines(told: Path, count: int) -> list[str]:
    lines = told.read_text().split() if told.exists() else []
    return lines if len(lines) >= count else []
