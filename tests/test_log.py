"""The rules of the log: one whole line per event, in either format, and never an exception."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import resource
import select
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conftest import eventually
from pmjq.log import PATIENCE, Log, _as_json, _Output

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

STYLES = ["console", "json"]

AMPLE = 60.0
"""Seconds in which a line is written, however busy the machine is."""


def lines(log: Log, capfd: pytest.CaptureFixture[str]) -> list[str]:
    """Return what a log has written to standard error, which ends in a newline."""
    assert log.flush(AMPLE)
    out, err = capfd.readouterr()
    assert (out, err[-1:]) == ("", "\n")
    return err[:-1].split("\n")


def test_json_is_one_object_per_line(capfd: pytest.CaptureFixture[str]) -> None:
    """Machines read time, level, event, then the keys in the order in which they were given."""
    log = Log("json")
    log.logger.info("job.ended", job="train.sh", exit_code=0, seconds=1.5, ok=True)
    log.logger.warning("job.fenced", job="a\nb", none=None)
    first, second = [json.loads(line) for line in lines(log, capfd)]
    assert list(first) == ["timestamp", "level", "event", "job", "exit_code", "seconds", "ok"]
    assert list(first.values())[1:] == ["info", "job.ended", "train.sh", 0, 1.5, True]
    assert list(second.values())[1:] == ["warning", "job.fenced", "a\nb", None]


def test_json_times_are_utc(capfd: pytest.CaptureFixture[str]) -> None:
    """A time stamp says its zone."""
    log = Log("json")
    log.logger.info("daemon.started")
    (line,) = lines(log, capfd)
    assert datetime.fromisoformat(json.loads(line)["timestamp"]).utcoffset() == timedelta(0)


def test_console_is_for_people(capfd: pytest.CaptureFixture[str]) -> None:
    """People read the time of day, level, event and keys; in no colours without a terminal."""
    log = Log("console")
    log.logger.error("end.failed", reason="No space left", path="/a", again_in=1.0)
    (line,) = lines(log, capfd)
    assert re.fullmatch(
        r"\d\d:\d\d:\d\d \[error +\] end\.failed +again_in=1\.0 path=/a reason='No space left'|"
        r"\d\d:\d\d:\d\d \[error +\] end\.failed +reason='No space left' path=/a again_in=1\.0",
        line,
    )


@pytest.mark.parametrize("style", STYLES)
def test_debug_is_not_logged(style: str, capfd: pytest.CaptureFixture[str]) -> None:
    """What only a developer reads is in no log."""
    log = Log(style)
    log.logger.debug("x")
    assert log.flush(AMPLE)
    assert capfd.readouterr() == ("", "")


def test_auto_is_json_where_there_is_no_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    """A log that goes to a file or to journald is for machines."""
    log = Log("auto")
    log.logger.info("daemon.started")
    assert json.loads(lines(log, capfd)[0])["event"] == "daemon.started"


def on_a_terminal(**environment: str) -> bytes:
    """Return what `auto` writes to a terminal."""
    master, slave = pty.openpty()
    code = (
        "from pmjq.log import Log; log = Log('auto');"
        "log.logger.info('daemon.started', node='a'); log.flush(60)"
    )
    kept = {
        key: value for key, value in os.environ.items() if key not in {"NO_COLOR", "FORCE_COLOR"}
    }
    subprocess.run([sys.executable, "-c", code], stderr=slave, check=True, env=kept | environment)
    os.close(slave)
    text = os.read(master, 10_000)
    os.close(master)
    return text


def test_auto_is_for_people_on_a_terminal() -> None:
    """On a terminal the log is for people, in colour unless NO_COLOR forbids it."""
    assert b"\x1b[" in on_a_terminal()
    plain = on_a_terminal(NO_COLOR="1")
    assert re.fullmatch(rb"\d\d:\d\d:\d\d \[info +\] daemon\.started +node=a\r\n", plain)


# --- whatever is in it


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("value", ["a\nb", "a\r\nb", "\x1b[2J\x07", "\x85\u2028", "a\0b", "\x9b2J"])
def test_no_value_breaks_a_line_or_a_terminal(
    style: str, value: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """A job's name can neither begin a line of its own nor tell the terminal what to do."""
    log = Log(style)
    log.logger.info("job.ended", job=value)
    (line,) = lines(log, capfd)
    assert line.isprintable()
    if style == "json":
        assert json.loads(line)["job"] == value


@pytest.mark.parametrize("style", STYLES)
def test_bytes_that_are_no_text_keep_the_event(
    style: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """A path that is not UTF-8 costs neither the line nor the name of its event."""
    log = Log(style)
    log.logger.info("job.ended", job="a\udcff", exit_code=0)
    (line,) = lines(log, capfd)
    assert re.search(r"job\.ended\b", line)
    if style == "console":
        assert "a\\udcff" in line
    else:
        told = json.loads(line)
        assert list(told.values())[1:] == ["info", "job.ended", "a\\udcff", 0]


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters())
    | st.binary()
    | st.just(object()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.text(min_size=1), VALUES, max_size=4))
@settings(max_examples=50, suppress_health_check=[HealthCheck.too_slow])
def test_any_keys_and_values_are_one_line(keys: dict[str, Any]) -> None:
    """Whatever is logged, the line is one JSON object."""
    event = keys | {"timestamp": "t", "level": "info", "event": "x"}
    line = _as_json(None, "info", event)
    assert line.isprintable()
    told = msgspec.json.decode(line, type=dict[str, Any])
    assert list(told)[:3] == ["timestamp", "level", "event"]


def test_text_is_exact_where_it_is_text(capfd: pytest.CaptureFixture[str]) -> None:
    """A value that is no text costs no other value anything, and nor does a terminal's safety."""
    log = Log("json")
    log.logger.info(
        "x", bad="\udcff", good="gr\u00f6\u00dfe \U0001f600", odd="\x9b\U000e0001", n=1.5
    )
    (line,) = lines(log, capfd)
    assert "gr\u00f6\u00dfe \U0001f600" in line
    told = json.loads(line)
    assert list(told.values())[3:] == [
        "\\udcff",
        "gr\u00f6\u00dfe \U0001f600",
        "\x9b\U000e0001",
        1.5,
    ]


# --- where it goes


def test_full_disk_costs_lines_not_the_daemon() -> None:
    """A log that cannot be written counts what is lost, and goes on when it can."""
    fd = os.open("/dev/full", os.O_WRONLY)
    try:
        output = _Output(fd)
        output.msg("a")
        output.msg("b")
        assert output.flush(AMPLE)
    finally:
        os.close(fd)
    output.msg("c")
    assert output.flush(AMPLE)
    assert output.lost == 3


def test_nobody_listens() -> None:
    """A pipe whose reader has gone costs lines."""
    reading, writing = os.pipe()
    os.close(reading)
    output = _Output(writing)
    output.msg("a")
    assert output.flush(AMPLE)
    os.close(writing)
    assert output.lost == 1


@dataclass(frozen=True)
class Pipe:
    """An output into a pipe that holds a page."""

    output: _Output
    reading: int
    writing: int

    def fill(self) -> None:
        """Have the writing of a line wait for the reader."""
        for _ in range(3):
            self.output.msg("x" * 4000)
        assert not self.output.flush(0.0)

    def read(self) -> list[bytes]:
        """Return the lines that are written until nothing more comes."""
        text, over = b"", threading.Event()
        self.output._then(over.set)

        def written() -> bool:
            nonlocal text
            done = over.is_set()
            while select.select([self.reading], [], [], 0)[0]:
                text += os.read(self.reading, 1 << 16)
            return done

        eventually(written)
        assert text.endswith(b"\n")
        return text.split(b"\n")[:-1]


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    """Return an output that nobody reads yet."""
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    yield Pipe(_Output(writing), reading, writing)
    os.close(reading)
    os.close(writing)


def test_reader_who_does_not_read_stalls_nobody(pipe: Pipe) -> None:
    """Lines are kept for whoever reads late: all of them, in their order."""
    pipe.fill()
    for number in range(1000):
        pipe.output.msg(f"line {number}")
    assert pipe.read()[3:] == [f"line {number}".encode() for number in range(1000)]
    assert pipe.output.lost == 0


def test_more_than_is_kept_is_counted_and_said(pipe: Pipe) -> None:
    """What comes on top of a megabyte is lost, and the log says how much when it drains."""
    pipe.fill()
    lines = 300
    for _ in range(lines):
        pipe.output.msg("y" * 9999)
    lost = pipe.output.lost
    assert (1 << 20) // 10_000 - 2 <= lines - lost <= (1 << 20) // 10_000
    *rest, last = pipe.read()
    assert len(rest) == 3 + lines - lost
    assert last == f"{lost} lines lost".encode()
    pipe.output.msg("after")
    assert pipe.read() == [b"after"]


def test_pipe_that_somebody_made_nonblocking(pipe: Pipe) -> None:
    """Whoever shares standard error may set it so; lines wait for room as ever."""
    os.set_blocking(pipe.writing, False)
    pipe.fill()
    pipe.output.msg("last")
    assert pipe.read()[3:] == [b"last"]
    assert pipe.output.lost == 0


def test_last_lines_are_waited_for_but_not_for_ever(pipe: Pipe) -> None:
    """A log that nobody reads keeps no daemon from ending."""
    pipe.fill()
    began = time.monotonic()
    assert not pipe.output.flush()
    assert PATIENCE <= time.monotonic() - began < PATIENCE + 5


def test_gap_is_an_event(tmp_path: Path) -> None:
    """What was lost is said in the format of the log, once it can be written again."""
    path = tmp_path / "log"
    code = (
        "import os, sys; from pmjq.log import Log; log = Log();"
        "full = os.open('/dev/full', os.O_WRONLY); kept = os.dup(2); os.dup2(full, 2);"
        "log.logger.info('a.b'); log.logger.info('a.b'); log.flush(60);"
        "os.dup2(kept, 2); log.logger.info('c.d'); log.flush(60)"
    )
    with path.open("ab") as file:
        subprocess.run([sys.executable, "-c", code], stderr=file, check=True)
    told = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["event"], line.get("lines")) for line in told] == [("c.d", None), ("log.lost", 2)]


def test_torn_line_spoils_no_other(tmp_path: Path) -> None:
    """Of a line that a full disk has cut off nothing but itself is lost."""
    path = tmp_path / "log"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    output = _Output(fd)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (7, limit[1]))
    try:
        output.msg("one")
        assert output.flush(AMPLE)
        output.msg("two, and more")
        assert output.flush(AMPLE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    output.msg("three")
    assert output.flush(AMPLE)
    os.close(fd)
    assert path.read_text() == "one\ntwo\nthree\n1 lines lost\n"


def test_no_thread_to_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where not even a thread can be started, lines are lost and nothing else."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    output = _Output()
    monkeypatch.setattr(threading.Thread, "start", refuse)
    output.msg("a")
    output.reopen()
    assert not output.flush(0.0)
    assert output.lost == 1


def test_reopen_follows_a_rotation(tmp_path: Path) -> None:
    """After the log was renamed, lines go to a new file of the old name, and none is lost."""
    path = tmp_path / "log"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    output = _Output(fd)
    output.msg("one")
    path.rename(tmp_path / "log.1")
    output.msg("two")
    output.reopen()
    output.msg("three")
    output.reopen()
    output.msg("four")
    assert output.flush(AMPLE)
    os.close(fd)
    assert (tmp_path / "log.1").read_text() == "one\ntwo\n"
    assert path.read_text() == "three\nfour\n"


def test_reopen_where_that_cannot_be(tmp_path: Path) -> None:
    """Where the new file cannot be made, the old one is written on."""
    path = tmp_path / "logs" / "log"
    path.parent.mkdir()
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    output = _Output(fd)
    path.parent.rename(tmp_path / "old")
    output.reopen()
    output.msg("one")
    assert output.flush(AMPLE)
    os.close(fd)
    assert (tmp_path / "old" / "log").read_text() == "one\n"


def test_reopen_of_what_is_no_file() -> None:
    """A pipe or a terminal has nothing to reopen; nor has a descriptor that is closed."""
    reading, writing = os.pipe()
    output = _Output(writing)
    output.reopen()
    output.msg("one")
    assert output.flush(AMPLE)
    os.close(writing)
    assert os.read(reading, 9) == b"one\n"
    os.close(reading)
    _Output(writing).reopen()


def test_reopen_of_a_file_that_was_removed(tmp_path: Path) -> None:
    """A log that was removed before the start is not made again under the kernel's name for it."""
    path = tmp_path / "log"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    path.unlink()
    output = _Output(fd)
    output.reopen()
    assert output.flush(AMPLE)
    os.close(fd)
    assert [each.name for each in tmp_path.iterdir() if each.name != "log"] == []


def test_real_log_is_reopened(tmp_path: Path) -> None:
    """The log of a process whose standard error is a file follows its rotation."""
    path = tmp_path / "log"
    code = (
        "import os, sys; from pmjq.log import Log; log = Log(); log.logger.info('a.b');"
        "os.rename(sys.argv[1], sys.argv[1] + '.1'); log.reopen(); log.logger.info('c.d');"
        "log.flush(60)"
    )
    with path.open("ab") as file:
        subprocess.run([sys.executable, "-c", code, path], stderr=file, check=True)
    events = [json.loads(each.read_text())["event"] for each in (tmp_path / "log.1", path)]
    assert events == ["a.b", "c.d"]
