"""The process that makes out what other users' jobs ask for: as exact as in place, and harmless."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from live import eventually
from pmjq import infofile, reader
from pmjq.directives import Refusal
from pmjq.reader import SLOW, Reader
from pmjq.ready import Inside, Look
from values import FakeStat

STAT = FakeStat()
INSIDE = Inside(1, 1, 1)

ENTITIES = b"".join(
    b'<!ENTITY %c "%s">' % (98 + level, b"&%c;" % (97 + level) * 10) for level in range(9)
)
BOMB = b'<!DOCTYPE l [<!ENTITY a "aaaaaaaaaa">' + ENTITIES + b"]><a><script>&j;</script></a>"
"""A thousand million letters, for whom it does not notice."""


def file(head: bytes) -> Look:
    """Return the look at an executable that begins so."""
    return Look(STAT, False, head)  # noqa: FBT003  # as Look has it


def directory(name: str, text: bytes) -> Look:
    """Return the look at a directory with an info file."""
    return Look(STAT, None, None, (name, text), INSIDE)


LOOKS = [
    file(b"#!/bin/sh\n#PMJQ cpus=2 tags=a,b after=x\n"),
    file(b"#!/bin/sh\n#PMJQ cpu=2\n"),
    file(b"#!/bin/sh\n#PMJQ name='\n"),
    file(b"#!/bin/sh\n#PMJQ not-before=2030-01-01T00:00:00+01:00 time=1h memory=4G\n"),
    file(b"\x7fELF\0\0"),
    file(b"\xef\xbb\xbf#!/bin/sh\n"),
    file(b""),
    file(b"#!/bin/sh\n" + b"# long\n" * 5000),
    directory("job.toml", b"script = 'sh run.sh'\ncpus = 3\n"),
    directory("job.toml", b"script = '"),
    directory("job.toml", b"\xff\xfe"),
    directory("proc_config.cfg", b"[QMOptions]\nscript = a\nnb_proc = 2\n"),
    directory("proc_config.cfg", b"script = a\n[[["),
    directory("proc_config.xml", b"<a><script>a b</script></a>"),
    directory("proc_config.xml", b"<a><script>"),
    directory("proc_config.xml", BOMB),
    Look(STAT, None, None),
]


@pytest.fixture
def process() -> Iterator[Reader]:
    """Return a reader that is ended in the end."""
    one = Reader()
    yield one
    one.close()


def test_answers_are_those_made_in_place(process: Reader) -> None:
    """Whatever a job's text is: a spec, or the very same reason."""
    for look in LOOKS:
        assert process.asked(look) == infofile.asked(look)


def _pid(process: Reader) -> int:
    assert process._process is not None
    return process._process.pid


def _status(pid: int) -> dict[str, str]:
    with open(f"/proc/{pid}/status", encoding="ascii") as lines:
        return dict(line.rstrip("\n").split(":\t", 1) for line in lines if ":\t" in line)


def test_it_has_no_rights(process: Reader) -> None:
    """It is nobody where it could be more, without capabilities, and cannot get any."""
    process.asked(LOOKS[0])
    status = _status(_pid(process))
    assert (status["NoNewPrivs"], int(status["CapEff"], 16)) == ("1", 0)
    if os.geteuid() == 0:
        nobody = "\t".join([str(reader.NOBODY)] * 4)
        assert (status["Uid"], status["Gid"], status["Groups"].strip()) == (nobody, nobody, "")
    with open(f"/proc/{_pid(process)}/limits", encoding="ascii") as lines:
        limits = {line[:25].strip(): line[26:].split()[0] for line in lines}
    for name in ("Max file size", "Max open files", "Max processes"):
        assert limits[name] == "0"


def test_one_that_dies_is_replaced(process: Reader) -> None:
    """Killed between two questions it costs no job anything."""
    process.asked(LOOKS[0])
    first = _pid(process)
    os.kill(first, signal.SIGKILL)
    assert process.asked(LOOKS[0]) == infofile.asked(LOOKS[0])
    assert _pid(process) != first


def test_what_takes_too_long_is_refused(process: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that does not answer is ended, and the next question is answered again."""
    monkeypatch.setattr(reader, "PATIENCE", 0.2)
    working, sleeping = reader.READER, "import time; time.sleep(600)"
    monkeypatch.setattr(reader, "READER", sleeping)
    assert process.asked(LOOKS[0]) == SLOW
    assert process._process is None
    monkeypatch.setattr(reader, "READER", working)
    monkeypatch.setattr(reader, "PATIENCE", 60.0)
    assert process.asked(LOOKS[0]) == infofile.asked(LOOKS[0])


@pytest.mark.parametrize("text", ["print()", "not a program"])
def test_nonsense_for_an_answer_is_no_answer(
    process: Reader, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    """A reader that ends without a word refuses the job."""
    monkeypatch.setattr(reader, "READER", text)
    assert isinstance(process.asked(LOOKS[0]), Refusal)


def test_it_ends_with_its_daemon(process: Reader) -> None:
    """Where nobody asks any more there is nobody to answer."""
    process.asked(LOOKS[0])
    assert process._line is not None
    assert process._process is not None
    process._line.close()
    ended = process._process
    eventually(lambda: ended.poll() is not None)
