"""What people ask of nodes: one file for each request, whose owner is the asker.

``ask/`` of a life has what it is asked about its jobs; ``drained/`` names the nodes that are to
take no more, whatever life they have.
"""

from __future__ import annotations

from typing import NamedTuple

from pmjq import naming, ready
from pmjq.tree import Tree

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
        """Return what this life is asked for about jobs.

        What is no request is removed: a link has somebody else's inode, who has not asked.
        """
        base, found = f"{self.own}/node/{self.token}/ask", []
        for name in self._list(base)[:MOST_ASKED]:
            word, _, rest = name.partition(".")
            stat = self.disk.stat(f"{base}/{name}")
            job_id = rest.partition(".")[0]
            if stat is None:
                continue
            if word == what and naming.is_id(job_id) and ready.is_request(stat):
                found.append(Request(name, job_id, stat.st_uid))
            elif self.open_to_requests:
                self.remove(f"{base}/{name}")
        return found

    def is_asked(self, what: str, job_id: str, owner: int) -> bool:
        """Tell whether this life is asked for something about a job, by somebody who may ask."""
        stat = self.disk.stat(self.ask_path(self.token, what, job_id))
        return stat is not None and self.may_ask(stat.st_uid, owner)

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
