"""What people ask of nodes: one file for each request, whose owner is the asker.

``ask/`` of a life has what it is asked about its jobs; ``drained/`` names the nodes that are to
take no more, whatever life they have.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, NamedTuple

from pmjq import naming, ready
from pmjq.tree import Tree

if TYPE_CHECKING:
    from pmjq.ready import Look

ANYBODY_ASKS = 0o1733
"""The mode of an ``ask/`` in which everybody may make requests, see none and remove his own."""

MOST_ASKED = 1000
"""Requests that are looked at in one go."""


class Request(NamedTuple):
    """A request about a job: the name of its file, and the user whose file it is."""

    name: str
    job_id: str
    uid: int


class Requests(Tree):
    """The requests at one spool, to one life of a node and to all nodes."""

    open_to_requests = False
    """Whether everybody may ask this life for something about his own jobs."""

    def ask_path(self, token: str, what: str, job_id: str, more: str = "") -> str:
        """Return the path of a request to a life about a job.

        ``more``: where the usual name is taken by somebody else's.
        """
        return f"{self.own}/node/{token}/ask/{what}.{job_id}{more and '.'}{more}"

    def asked(self, what: str) -> list[Request]:
        """Return what this life is asked for about jobs; a file that asks for nothing is removed.

        Directories stay if there is something in them: to remove that could take for ever. So does
        what is empty and may just be being written.
        """
        found: list[Request] = []
        base = f"{self.own}/node/{self.token}/ask"
        for name in self._list(base):
            if len(found) >= MOST_ASKED:
                break
            word, _, rest = name.partition(".")
            path, job_id = f"{base}/{name}", rest.partition(".")[0]
            stat = self.disk.stat_inside(base, name)
            if stat is None:
                continue
            if ready.is_directory(stat):
                with contextlib.suppress(OSError):
                    self.disk.rmdir(path)
                continue
            named = word == what and naming.is_id(job_id)
            if not self.open_to_requests:
                found += [Request(name, job_id, stat.st_uid)] if named else []
                continue
            look = self._look(path) if named else None
            if look is not None and _asks(look, job_id):
                found.append(Request(name, job_id, look.stat.st_uid))
            elif look is None or look.head != b"" or look.busy is False:
                self.disk.unlink(path)
        return found

    def _look(self, path: str) -> Look | None:
        """Open what is in ``ask/``, None if that is not to be had: a lease may keep it shut."""
        with contextlib.suppress(OSError):
            return self.disk.look(path)
        return None

    def is_asked(self, what: str, job_id: str, owner: int) -> bool:
        """Tell whether this life is asked for something about a job, by somebody who may ask."""
        if self.open_to_requests:
            # The usual name may be taken.
            asked = self.asked(what)
            return any(one.job_id == job_id and self.may_ask(one.uid, owner) for one in asked)
        return self.disk.stat(self.ask_path(self.token, what, job_id)) is not None

    def may_ask(self, asker: int, owner: int) -> bool:
        """Tell whether a user may ask for something about the jobs of another."""
        return not self.open_to_requests or asker in (owner, 0)

    def answered(self, what: str, job_id: str) -> None:
        """Remove a request to this life that has been met, or cannot be."""
        self.disk.unlink(self.ask_path(self.token, what, job_id))

    def dismiss(self, request: Request) -> None:
        """Remove one request to this life, whatever its name."""
        self.disk.unlink(f"{self.own}/node/{self.token}/ask/{request.name}")

    def drains_path(self) -> str:
        """Return the directory that names the drained nodes."""
        return f"{self.own}/drained"

    def drain_path(self, name: str) -> str:
        """Return the path of the file that has a node drained."""
        return f"{self.drains_path()}/{name}"

    def drained(self) -> list[str]:
        """Return the names of the nodes that are to take no more jobs."""
        return self._list(self.drains_path())

    def drained_by(self, name: str) -> str:
        """Return who had a node drained."""
        return (self.disk.read(self.drain_path(name)) or b"").decode("utf-8", "replace").strip()


def asking(job_id: str) -> bytes:
    """Return what a request about a job says, where everybody may ask.

    Whoever may write a directory in which somebody else keeps his files can move these to
    ``ask/``, but not have what he cannot write say that.
    """
    return f"{job_id}\n".encode()


def _asks(look: Look, job_id: str) -> bool:
    """Tell whether a file is the request of its owner about a job."""
    asked = asking(job_id)
    return look.head == asked and ready.is_request(look.stat, len(asked))
