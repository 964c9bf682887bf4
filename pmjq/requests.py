"""What people ask of nodes: one file for each request, whose owner is the asker.

``ask/`` of a life has what it is asked about its jobs; ``drained/`` names the nodes that are to
take no more, whatever life they have.
"""

from __future__ import annotations

from pmjq.tree import Tree


class Requests(Tree):
    """The requests at one spool, to one life of a node and to all nodes."""

    def ask_path(self, token: str, what: str, job_id: str) -> str:
        """Return the path of a request to a life about a job."""
        return f"{self.own}/node/{token}/ask/{what}.{job_id}"

    def asked(self, what: str) -> dict[str, int]:
        """Return the jobs about which this life is asked for something, and the uid of who asks."""
        base, found = f"{self.own}/node/{self.token}/ask", {}
        for name in self._list(base):
            word, _, job_id = name.partition(".")
            stat = self.disk.stat(f"{base}/{name}") if word == what else None
            if stat is not None:
                found[job_id] = stat.st_uid
        return found

    def is_asked(self, what: str, job_id: str) -> bool:
        """Tell whether this life is asked for something about a job."""
        return self.disk.stat(self.ask_path(self.token, what, job_id)) is not None

    def answered(self, what: str, job_id: str) -> None:
        """Remove a request to this life that has been met, or cannot be."""
        self.disk.unlink(self.ask_path(self.token, what, job_id))

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
