"""The log format for lnav knows the keys of the daemon's log."""

from __future__ import annotations

import ast
import json
from pathlib import Path

from pmjq import act
from pmjq.job import Attempt, Spec, Status, Usage, moment, record
from pmjq.log import _as_json
from pmjq.state import State

ROOT = Path(__file__).parent.parent
FORMAT = json.loads((ROOT / "contrib/lnav/pmjq.json").read_text())["pmjq_log"]
BY_NAME = ("timestamp", "level")
"""Keys that the format names as what they are, and no value."""


def logged() -> set[str]:
    """Return the keys of all dotted events in the source, as far as they stand there."""
    found: set[str] = set()
    for path in sorted((ROOT / "pmjq").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            name = ast.unparse(node.func).rpartition(".")[2]
            event = ast.unparse(node.args[0])
            if name in ("info", "warning", "error", "say") and "." in event:
                found |= {keyword.arg for keyword in node.keywords if keyword.arg}
    return found


def ended(status: Status) -> set[str]:
    """Return the keys of the line about a job's end."""
    attempt = Attempt(
        id="978c82c8-3546-4972-8edb-544f8455e09a",
        name="job",
        attempt=1,
        owner="ann",
        uid=1,
        node="a",
        token="a.boot0001.00000001",
        queued=moment(1.0),
        claimed=moment(2.0),
        spec=Spec(),
    )
    return set(act._summary(record(attempt, status, State.FAILED, 4.0, "a reason")))


def test_every_key_of_the_log_is_a_value_of_the_format() -> None:
    """Those that are put together elsewhere too."""
    usage = Usage(0.1, 0.2, 4096)
    keys = logged() | {"path", "reason", "archive", "traceback", "id", "event"}
    keys |= ended(Status(started=3.0, ended=4.0, code=1, usage=usage))
    keys |= ended(Status(started=3.0, ended=4.0, code=-9, usage=usage))
    assert sorted(FORMAT["value"]) == sorted(keys)


def test_the_fields_of_the_format_are_those_of_a_line() -> None:
    """Time, level, body and operation have the names that the log gives them."""
    event = {"timestamp": "2026-11-22T09:06:02.180644Z", "level": "info", "event": "job.ended"}
    line = json.loads(_as_json(None, "info", {**event, "id": "978c82c8"}))
    for field in ("timestamp-field", "level-field", "body-field", "opid-field"):
        assert FORMAT[field] in line
    assert [FORMAT["timestamp-field"], FORMAT["level-field"]] == list(BY_NAME)
    named = [part["field"] for part in FORMAT["line-format"] if isinstance(part, dict)]
    assert set(named) <= {"__timestamp__", "__level__", *FORMAT["value"]}
    # Else older versions of lnav do not take it for one.
    assert FORMAT["opid-field"] in named
