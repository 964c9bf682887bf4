"""The rules of nudges, with the kernel's real inotify."""

from __future__ import annotations

import os
import shutil
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest
from watchfiles._rust_notify import RustNotify

from conftest import eventually
from pmjq import watch
from pmjq.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Nudges(list[set[str] | None]):
    """What a watch told, in order."""

    def has(self, name: str) -> bool:
        """Tell whether a look at a name was asked for."""
        return any(names is not None and name in names for names in list(self))

    def everything(self) -> int:
        """Return how often a look at everything was asked for."""
        return list(self).count(None)

    def since_everything(self) -> int:
        """Return how often names were told after the last look at everything."""
        told = list(self)
        return len(told) if None not in told else told[::-1].index(None)


class Watched:
    """A directory under a watch that retries soon."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.nudges = Nudges()
        self.troubles: list[str] = []
        self.watch = Watch(str(root), self.nudges.append, self.troubles.append)
        self._probes: list[str] = []

    def works(self, *, within: float = 10.0) -> None:
        """Make new names until the watch goes on telling them; then forget what it told.

        Some may be told by a watch that is about to begin afresh. The look at everything that it
        begins with covers the next ones.
        """

        def told() -> bool:
            self._probe()
            return self.nudges.since_everything() > 2

        self.nudges.clear()
        eventually(told, within=within)
        last = self._probe()
        eventually(lambda: self.nudges.has(last), within=within)
        self.nudges.clear()

    def _probe(self) -> str:
        name = f"probe-{len(self._probes)}"
        self._probes.append(name)
        (self.root / name).touch()
        return name


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    """Watch a directory."""
    monkeypatch.setattr(watch, "RETRY", 0.05)
    root = tmp_path / "spool"
    root.mkdir()
    one = Watched(root)
    one.watch.start()
    yield one
    one.watch.stop()


def test_watch_tells_what_happens(watched: Watched, tmp_path: Path) -> None:
    """Whatever happens to an entry, its name is told: made, written, changed, moved, removed."""
    watched.works()
    root, nudges, job = watched.root, watched.nudges, watched.root / "job"
    outside = tmp_path / "outside"

    def told(*names: str) -> None:
        eventually(lambda: all(nudges.has(name) for name in names))
        nudges.clear()

    job.touch()
    told("job")
    job.write_bytes(b"#!/bin/sh\n")
    told("job")
    job.chmod(0o755)
    told("job")
    job.rename(outside)
    told("job")
    outside.rename(root / "moved in")
    told("moved in")
    (root / "moved in").rename(root / "renamed")
    told("moved in", "renamed")
    os.link(root / "renamed", root / "linked")
    told("linked")
    (root / "renamed").unlink()
    told("renamed")
    (root / "directory").mkdir()
    told("directory")
    (root / "link").symlink_to("/nowhere")
    told("link")
    os.mkfifo(root / "fifo")
    told("fifo")


def test_hidden_and_temporary_names_are_told(watched: Watched) -> None:
    """No filter but pmjq's own decides what is no job."""
    watched.works()
    for name in (".hidden", "a~", "a.swp", "__pycache__", ".git", "node_modules", "a.pyc"):
        (watched.root / name).touch()
        eventually(lambda name=name: watched.nudges.has(name))  # type: ignore[misc]  # bound at once


def test_below_an_entry_is_nobodys_business(watched: Watched) -> None:
    """What happens in a directory of the spool, an archive for instance, nudges nobody."""
    below = watched.root / "archive"
    below.mkdir()
    watched.works()
    (below / "x").touch()
    (watched.root / "last").touch()
    eventually(lambda: watched.nudges.has("last"))
    assert not any("x" in name for names in watched.nudges for name in names or ())


def test_names_are_names(watched: Watched) -> None:
    """A nudge names an entry, never a path: not even when the directory itself was changed."""
    watched.works()
    watched.root.chmod(0o700)
    (watched.root / "last").touch()
    eventually(lambda: watched.nudges.has("last"))
    assert [name for names in watched.nudges for name in names or () if "/" in name] == []


def test_many_at_once(watched: Watched) -> None:
    """A burst is told completely, in few nudges or as a look at everything."""
    watched.works()
    names = {f"job {number}" for number in range(500)}
    for name in names:
        (watched.root / name).touch()
    eventually(
        lambda: (
            watched.nudges.everything()
            or names <= {name for told in list(watched.nudges) for name in told or ()}
        )
    )


def test_name_that_is_not_utf8_asks_for_a_look_at_everything(watched: Watched) -> None:
    """Such a name cannot be told by watchfiles, but the spool can be listed."""
    watched.works()
    (watched.root / os.fsdecode(b"\xff")).touch()
    eventually(watched.nudges.everything)


def test_name_that_is_not_utf8_does_not_end_the_watch(watched: Watched) -> None:
    """The watch goes on telling names, and asks for few looks at everything."""
    watched.works()
    (watched.root / os.fsdecode(b"\xff")).touch()
    eventually(watched.nudges.everything)
    (watched.root / "first").touch()
    eventually(lambda: watched.nudges.has("first") or watched.nudges.everything() > 1)
    watched.works(within=2.0)


def test_name_that_is_not_utf8_is_no_flood(watched: Watched) -> None:
    """One odd name asks for one look or a few, not for one at every step for ever."""
    watched.works()
    (watched.root / os.fsdecode(b"\xff")).touch()
    eventually(watched.nudges.everything)
    number = count()

    def quiet() -> bool:
        """Tell whether names were told 20 times with few looks at everything among them."""
        (watched.root / f"name-{next(number)}").touch()
        assert watched.nudges.everything() < 20
        return len(watched.nudges) - watched.nudges.everything() >= 20

    eventually(quiet)


def test_relaxed_watch_still_tells(watched: Watched) -> None:
    """While jobs are queued the watch is slower, not deaf."""
    watched.watch.relaxed = True
    watched.works()


def test_directory_that_comes_back_is_watched_again(watched: Watched) -> None:
    """A share that was unmounted and mounted again has another directory under the same name."""
    watched.works()
    shutil.rmtree(watched.root)
    eventually(lambda: watched.nudges)
    watched.root.mkdir()
    watched.works(within=2.0)


def test_directory_that_is_moved_away_and_back_is_watched(watched: Watched) -> None:
    """The same directory under the same name is watched as before."""
    watched.works()
    away = watched.root.with_name("away")
    watched.root.rename(away)
    away.rename(watched.root)
    watched.works(within=2.0)


def test_directory_that_is_replaced_is_watched(watched: Watched) -> None:
    """What counts is the name: where another directory has it, that one is the spool."""
    watched.works()
    watched.root.rename(watched.root.with_name("old"))
    watched.root.mkdir()
    watched.works(within=2.0)


def test_directory_that_is_not_there_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A watch that cannot begin asks for nothing, and for a look at everything when it can."""
    monkeypatch.setattr(watch, "RETRY", 0.01)
    tries: list[None] = []

    def counted(**arguments: Any) -> RustNotify:  # noqa: ANN401  # as watchfiles has them
        tries.append(None)
        return RustNotify(**arguments)

    monkeypatch.setattr(watch, "RustNotify", counted)
    one = Watched(tmp_path / "late")
    one.watch.start()
    eventually(lambda: len(tries) > 5)
    assert one.nudges == []
    one.root.mkdir()
    eventually(lambda: one.nudges)
    assert one.nudges[0] is None
    one.works()
    one.watch.stop()
    assert one.troubles == []


def test_kernel_that_does_not_watch_is_told_of_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the limits of inotify are exhausted the reason is told once, and that it is over."""
    monkeypatch.setattr(watch, "RETRY", 0.01)
    tries = count(1)

    def exhausted(**arguments: Any) -> RustNotify:  # noqa: ANN401  # as watchfiles has them
        if next(tries) <= 5:
            raise OSError("OS file watch limit reached.")
        return RustNotify(**arguments)

    monkeypatch.setattr(watch, "RustNotify", exhausted)
    one = Watched(tmp_path)
    one.watch.start()
    one.works()
    one.watch.stop()
    assert one.troubles == ["OS file watch limit reached.", ""]


def test_stop_ends_the_thread(watched: Watched) -> None:
    """A stopped watch tells nothing more, and its thread ends."""
    watched.works()
    watched.watch.stop()
    watched.watch._thread.join(5)
    assert not watched.watch._thread.is_alive()
