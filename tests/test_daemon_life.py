"""A daemon whose beat was found gone begins another life, in its own spool and in no other."""

from __future__ import annotations

import errno
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from pmjq import daemon as module
from pmjq.daemon import Daemon, Options
from pmjq.gates import Limits
from pmjq.log import Log
from pmjq.ready import Rules
from pmjq.spool import Identity


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """Return a daemon in its first life, taking no turns."""
    made = Daemon(Options(str(tmp_path), "a", Limits(slots=1), Rules(uids=None)), Log("json"))
    made.lives.prepare()
    made.lives.begin()
    yield made
    made.lives.heart.stop()
    made.processes.close()


def test_new_life_takes_the_place_of_the_old(daemon: Daemon, tmp_path: Path) -> None:
    """What the old life had is taken up, and nothing of it is left."""
    old = daemon.turn.spool.token
    (tmp_path / ".pmjq" / "node" / old / "beat").unlink()
    daemon.lives.fence()
    daemon.lives.renew()
    assert daemon.turn.spool.token != old
    assert not daemon.lives.fenced
    assert [path.name for path in (tmp_path / ".pmjq" / "node").iterdir()] == [
        daemon.turn.spool.token
    ]


def test_another_spool_in_its_place_is_not_touched(
    daemon: Daemon, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A life ends with its spool; one that has come in its place has another identity."""
    turn = daemon.turn
    path = tmp_path / ".pmjq" / "spool.json"
    path.write_bytes(msgspec.json.encode(Identity(1, str(uuid.uuid4()))))
    daemon.lives.fence()
    daemon.lives.renew()
    daemon.lives.renew()
    assert daemon.turn is turn
    assert daemon.lives.fenced
    assert len(list((tmp_path / ".pmjq" / "node").iterdir())) == 1
    assert daemon.log.flush(60)
    assert capfd.readouterr().err.count("life.failed") == 1


def test_beginning_waits_for_room(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """What a full disk keeps from working is tried until it works, and what is wrong is said."""
    monkeypatch.setattr(module, "AGAIN", 0.0)
    outcomes = [OSError(errno.ENOSPC, "full", "/a"), OSError(errno.EDQUOT, "full", "/a"), None]

    def begin() -> str:
        outcome = outcomes.pop(0)
        if outcome is not None:
            raise outcome
        return "begun"

    assert daemon._patiently(begin) == "begun"
    assert daemon.log.flush(60)
    said = capfd.readouterr().err
    assert (said.count("life.failed"), "'/a'" in said) == (2, True)


@pytest.mark.parametrize(
    ("once", "number"), [(False, errno.EIO), (False, errno.EACCES), (True, errno.ENOSPC)]
)
def test_beginning_does_not_wait(daemon: Daemon, number: int, *, once: bool) -> None:
    """What a person has to mend ends the daemon; so does a full disk if it is to end anyway."""
    daemon.options = replace(daemon.options, once=once)

    def begin() -> None:
        raise OSError(number, "no", "/a")

    with pytest.raises(OSError, match="/a"):
        daemon._patiently(begin)
