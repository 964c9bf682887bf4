"""What people ask for about jobs and nodes, as changes of files: cancel, hold, release, drain.

Each is one call that commits, and needs no daemon. A queued job that is cancelled is moved to
``ended/`` with its record beside the others; a daemon files it when one is there. What runs is
asked of its node, by a file in ``ask/`` whose owner is the asker. A node that is drained finds a
file with its name, also after a restart.
"""

from __future__ import annotations

import contextlib
import os
import stat as modes
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from pmjq import job, naming
from pmjq.job import Again, Attempt, Spec, Status, Try
from pmjq.naming import ASKING, HIDDEN, SUBMITTED
from pmjq.nodes import Pulse
from pmjq.requests import asking
from pmjq.state import State
from pmjq.submission import mark, refusal, unique

if TYPE_CHECKING:
    from collections.abc import Callable

    from pmjq.jobs import Look
    from pmjq.seen import Seen
    from pmjq.spool import Spool

EXECUTE = 0o111
EXECUTE_OWNER = 0o100
READ = 0o444

CHASES = 5
"""How often a job is looked for that moves while it is to be cancelled."""

GONE = frozenset({Pulse.DEAD, Pulse.SILENT, Pulse.BURIED})
"""Nodes that hear nothing."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a request: a line of ``--json`` of the verbs that steer.

    ``done``: it is so, or has been asked of the node; ``text``: what is so, or why it is not.
    """

    name: str
    id: str = ""
    node: str = ""
    done: bool
    text: str


@dataclass(frozen=True, slots=True)
class Steering:
    """Changes to one spool by one person.

    ``who``: the person's name; ``chance`` makes up a UUID; ``wall`` is the time of day.
    """

    look: Look
    who: str
    chance: Callable[[], str]
    wall: Callable[[], float]

    @property
    def _spool(self) -> Spool:
        return self.look.spool

    def hold(self, seen: Seen) -> Answer:
        """Keep a queued job from being started."""
        if seen.state is State.HELD:
            return _answer(seen, "held", done=True)
        return self._chmod(seen, "held", lambda mode: mode & ~EXECUTE)

    def release(self, seen: Seen) -> Answer:
        """Let a job go that is held."""
        if seen.state is not State.HELD:
            return _answer(seen, f"is {seen.state}, not held")
        # As hold took it: from all who may read it.
        return self._chmod(seen, "released", lambda mode: mode | EXECUTE_OWNER | (mode & READ) >> 2)

    def cancel(self, seen: Seen) -> Answer:
        """End a job: a queued one at once, one that a node has by asking the node."""
        for _ in range(CHASES):
            if not seen.living:
                return _answer(seen, f"has ended already ({seen.state})")
            if not seen.is_job:
                return _answer(seen, f"is no job, and left alone: {seen.reason}")
            found = self._ask(seen) if seen.token else self._withdraw(seen)
            if found is not None:
                return found
            # A node was quicker: it has claimed, returned or ended it.
            now = self.look.again([seen])[0]
            if now is None:
                return _answer(seen, "is not in the queue any more")
            seen = now
        return _answer(seen, "is being moved all the time; try again")

    def retry(self, seen: Seen) -> Answer:
        """Put a job that has ended into the queue again, as it is in the archive."""
        spool, disk = self._spool, self._spool.disk
        if seen.living:
            return _answer(seen, f"is {seen.state}; only what has ended can be tried again")
        if text := self._not_mine(seen) or _signed(seen) or self._may_run(seen):
            return _answer(seen, text)
        source = seen.archived_path
        stat = disk.stat(source) if source else None
        if stat is None:
            source = spool.unfiled_path(seen.id, seen.attempt or 1)
            stat = disk.stat(source)
        if stat is None:
            return _answer(seen, "its file is not in the archive any more; submit it again")
        name = seen.file_name
        if disk.stat(f"{spool.root}/{name}") is not None:
            name = unique(name)
        part = f"{spool.root}/{HIDDEN}{mark()}"
        try:
            (disk.copy_tree if modes.S_ISDIR(stat.st_mode) else disk.copy)(source, part)
            made = disk.stat(part)
            # Where the tree is another user's, its attempts before are not remembered.
            if made is not None and spool.may_construct():
                spool.remember(name, made, _after(seen), f"{SUBMITTED}{mark()}")
            disk.rename_new(part, f"{spool.root}/{name}")
            disk.sync_names(spool.root, f"{spool.root}/{name}")
        except OSError as error:
            with contextlib.suppress(OSError):
                spool.remove(part)
            raise refusal(os.fsdecode(error.filename or spool.root), error) from error
        text = "is in the queue again" + (
            f" as {naming.shown(name)}" if name != seen.file_name else ""
        )
        return _answer(seen, text, done=True)

    def _not_mine(self, seen: Seen) -> str:
        """Return why a job is not this person's to steer, empty if it is.

        Where the tree is his, everything is; elsewhere his own jobs alone.
        """
        if seen.uid in (None, self._spool.disk.user()) or self._spool.may_construct():
            return ""
        return f"is {seen.owner}'s: only its owner can do that"

    def _may_run(self, seen: Seen) -> str:
        """Return why a lost job may still run, empty if it does not."""
        status = self._spool.status_of(seen.id, seen.attempt or 1)
        if seen.state is not State.LOST or seen.late or status is None or status.code is not None:
            return ""
        if any(one.name == seen.node and one.state is Pulse.ALIVE for one in self.look.nodes):
            return f"may still run on node {seen.node}; wait until its record is completed"
        return ""

    def drain(self, name: str) -> Answer:
        """Have a node take no more jobs, also after a restart."""
        spool, path = self._spool, self._spool.drain_path(name)
        text = f"drained by {self.who}"
        try:
            spool.make(spool.drains_path())
            spool.disk.write(path, f"{self.who}\n".encode())
            self._nudge()
        except OSError as error:
            raise refusal(path, error) from error
        return Answer(name=name, node=name, done=True, text=text)

    def resume(self, name: str) -> Answer:
        """Have a node that is drained take jobs again."""
        spool, path = self._spool, self._spool.drain_path(name)
        try:
            if spool.disk.stat(path) is None:
                return Answer(name=name, node=name, done=False, text="is not drained")
            spool.disk.unlink(path)
            self._nudge()
        except OSError as error:
            raise refusal(path, error) from error
        return Answer(name=name, node=name, done=True, text="takes jobs again")

    # -- below

    def _chmod(self, seen: Seen, word: str, change: Callable[[int], int]) -> Answer:
        path = f"{self._spool.root}/{seen.file_name}"
        if not seen.is_job:
            return _answer(seen, f"is no job, and left alone: {seen.reason}")
        if seen.token or not seen.living:
            return _answer(seen, f"is {seen.state}; only what is queued can be {word}")
        try:
            stat = self._spool.disk.stat(path)
            if stat is None:
                return _answer(seen, "is not in the queue any more")
            self._spool.disk.chmod(path, change(stat.st_mode & 0o7777))
        except FileNotFoundError:
            return _answer(seen, "is not in the queue any more")
        except OSError as error:
            return _answer(seen, f"{error.strerror}: only its owner can do that")
        return _answer(seen, word, done=True)

    def _withdraw(self, seen: Seen) -> Answer | None:
        """Move a queued job to the ended ones; None if it is gone."""
        spool, now = self._spool, job.moment(self.wall())
        attempt = Attempt(
            id=self.chance(),
            name=seen.name,
            name_hex=seen.name_hex,
            attempt=seen.attempt or 1,
            earlier=seen.earlier,
            owner=seen.owner,
            uid=-1 if seen.uid is None else seen.uid,
            node="",
            token="",
            queued=seen.queued or now,
            claimed=now,
            spec=Spec(directives=self._directives(seen)),
        )
        reason = f"cancelled by {self.who} before it was started"
        record = job.record(attempt, Status(), State.CANCELLED, self.wall(), reason)
        try:
            spool.prepare_record(record, f"{SUBMITTED}{attempt.id}")
        except OSError as error:
            return self._remove(seen, error)
        try:
            moved = spool.withdraw(record)
        except OSError as error:
            # It may have been moved: its record is needed then, and else goes after a while.
            return _answer(seen, f"may not have been moved: {error.strerror or error}; try again")
        if not moved:
            spool.clear_record(record)
            return None
        with contextlib.suppress(OSError):
            spool.discard_signature(seen.file_name)
            spool.take_output(attempt)
            spool.forget(seen.file_name)
        with contextlib.suppress(OSError):
            self._nudge()
        return _answer(seen, "cancelled", done=True, job_id=record.id)

    def _directives(self, seen: Seen) -> tuple[str, ...]:
        """Return what a queued job asks for, which of one of very many has not been read yet."""
        here = seen if seen.directives else self.look.entry(seen.file_name)
        return here.directives if here is not None else ()

    def _remove(self, seen: Seen, error: OSError) -> Answer | None:
        """Remove a job where pmjq's own tree may not be written: it leaves no record."""
        path = f"{self._spool.root}/{seen.file_name}"
        if self._spool.may_construct():
            return _answer(seen, f"cannot be recorded: {error.strerror or error}")
        try:
            if self._spool.disk.stat(path) is None:
                return None
            self._spool.disk.remove_tree(path)
        except OSError as wrong:
            return _answer(seen, f"{wrong.strerror}: only its owner can do that")
        with contextlib.suppress(OSError):
            self._spool.discard_signature(seen.file_name)
        return _answer(seen, "withdrawn, without a record", done=True)

    def _ask(self, seen: Seen) -> Answer | None:
        """Ask the node that has a job to end it; None if it has it no more.

        A node looks for requests just before it returns a job, so one that has it after it was
        asked hears of it.
        """
        spool = self._spool
        gone = [
            one.state
            for one in self.look.nodes
            if one.token == naming.shown(seen.token) and one.state in GONE
        ]
        if text := self._not_mine(seen):
            return _answer(seen, text)
        path = spool.ask_path(seen.token, "cancel", seen.id)
        if not self._asks(path, seen.id):
            # Whoever has put that there will not be heard.
            path = spool.ask_path(seen.token, "cancel", seen.id, mark())
        try:
            spool.disk.create([(path, asking(seen.id), 0o644)])
        except FileExistsError:
            if not gone:
                return _answer(seen, f"node {seen.node} has been asked already", done=True)
        except FileNotFoundError:
            return None
        except OSError as error:
            return _answer(
                seen, f"{error.strerror}: its node takes no request of yours", done=False
            )
        if seen.id not in spool.run_of(seen.token):
            return None
        if gone:
            text = (
                f"its node {seen.node} is {gone[0]}; whoever takes the job over is asked to end it"
            )
            return _answer(seen, text)
        with contextlib.suppress(OSError):
            self._nudge()
        return _answer(seen, f"node {seen.node} is asked to end it", done=True)

    def _asks(self, path: str, job_id: str) -> bool:
        """Tell whether a name is free for a request about a job, or is that of one of this user's.

        What is his need not be a request: somebody may have moved another file of his there.
        """
        disk = self._spool.disk
        there = disk.stat(path)
        if there is None or there.st_uid == 0:
            return True
        with contextlib.suppress(OSError):
            return there.st_uid == disk.user() and disk.read(path) == asking(job_id)
        return False

    def _nudge(self) -> None:
        """Have daemons on this machine look for requests; others look now and then."""
        spool = self._spool
        try:
            spool.disk.touch(spool.own)
        except PermissionError:
            hint = f"{spool.root}/{ASKING}{mark()}"
            spool.disk.create([(hint, b"", 0o600)])
            spool.disk.unlink(hint)


def _signed(seen: Seen) -> str:
    """Return why a signed job is not tried again on request, empty if it was not signed.

    A signature is for one job. Whoever wants another has to sign that too.
    """
    if not seen.signer:
        return ""
    return f"was signed by {seen.signer}, for once; submit its file again with --sign"


def _after(seen: Seen) -> Again:
    """Return what the attempt is to know that somebody asks for after a job has ended."""
    tried = Try(
        id=seen.id,
        attempt=seen.attempt or 1,
        node=seen.node,
        state=seen.state,
        started=seen.started,
        ended=seen.ended,
        exit_code=seen.exit_code,
        signal=seen.signal,
        reason=seen.reason,
    )
    # What was never executed does not count.
    number = tried.attempt + (seen.started is not None or seen.state is State.LOST)
    return Again(number, earlier=(*seen.earlier, tried))


def _answer(seen: Seen, text: str, *, done: bool = False, job_id: str = "") -> Answer:
    return Answer(name=seen.name, id=seen.id or job_id, node=seen.node, done=done, text=text)
