"""The letters of one daemon: written before the jobs move on, and sent when somebody takes them.

A letter is on disk before the job that it is about has ended, so that a kill loses none; the turn
writes it. It is sent by a thread that is there while letters wait, so that a server that
is gone, refuses or hangs delays neither jobs nor the daemon's end: what is not sent by then, the
node's next life sends, or whoever buries this one. A letter may be sent twice by that, and is then
known by its Message-ID.

Nothing that goes wrong here is an error for anybody else: it costs lines in the log.
"""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any

import msgspec

from pmjq import directives, infofile, job, letter, writing
from pmjq.delivery import GIVEN_UP, Line
from pmjq.directives import Refusal
from pmjq.mail import AwayError
from pmjq.state import State
from pmjq.writing import MOST_READ

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from pmjq.job import Attempt, Record
    from pmjq.letter import Letter
    from pmjq.mail import Refused, Via
    from pmjq.spool import Spool

UNSENT = "there is neither a sendmail program nor --mail-via, so no letters can be sent"


class Post:
    """The letters of one daemon, whatever life it has."""

    def __init__(
        self,
        log: Any,  # noqa: ANN401  # structlog's
        via: Via | None,
        sender: str,
        now: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        """Touch nothing yet; ``now`` is monotonic, ``wall`` the time of day."""
        self._log = log
        self._via = via
        self._sender = sender
        self._now = now
        self._wall = wall
        self._changed = threading.Condition()
        self._line = Line()
        # Written, and not to be sent before the job has ended.
        self._ready: dict[str, str] = {}
        # Who is still to get a letter that some have.
        self._left: dict[str, tuple[str, ...]] = {}
        self._thread: threading.Thread | None = None
        self._spool: Spool | None = None
        self._until: float | None = None
        self._missing_said = False

    @property
    def waiting(self) -> int:
        """Return how many letters wait."""
        return len(self._line)

    @property
    def trouble(self) -> str:
        """Return why letters are not sent, if that is so."""
        with self._changed:
            return UNSENT if self._via is None and len(self._line) else self._line.reason()

    # -- the turn: writing

    def look(self, spool: Spool) -> None:
        """Have all letters sent that a life has: those that it took over among them."""
        try:
            names = spool.letters()
        except OSError as error:
            self._log.error("mail.failed", reason=str(error))
            names = []
        with self._changed:
            if spool is not self._spool:
                # What an earlier life had has been taken over.
                self._spool, self._line = spool, Line()
                self._left.clear()
                self._changed.notify_all()
        if names:
            self._send(names)

    def began(self, spool: Spool, attempt: Attempt, at: float) -> None:
        """Write and send the letter about a job that has been started, if there is to be one."""
        try:
            asked = writing.asked(attempt.spec.directives)
            if not asked.begins() or not self._can():
                return
            key = letter.name(attempt.id, attempt.attempt, letter.BEGIN)
            moment = job.moment(at)
            made = writing.of_begin(attempt, attempt.node, self._sender, asked.to, moment)
        except Exception as error:  # noqa: BLE001  # as of an end
            self._say_unwritten(attempt.id, error)
            return
        if self._written(spool, {key: made}):
            self._send([key])

    def ended(self, spool: Spool, ends: Iterable[tuple[Attempt, Record]]) -> None:
        """Write the letters about jobs that are about to end; ``send`` has each of them sent."""
        named: dict[str, Letter] = {}
        for attempt, record in ends:
            try:
                made = self._of_end(spool, attempt, record)
            except Exception as error:  # noqa: BLE001  # nothing that a job leaves may keep it
                self._say_unwritten(record.id, error)
                continue
            if made is not None:
                named[letter.name(record.id, record.attempt, letter.END)] = made
        for key in self._written(spool, named):
            self._ready[key.partition(".")[0]] = key

    def send(self, job_id: str) -> None:
        """Send the letter about a job that has ended, if there is one."""
        key = self._ready.pop(job_id, None)
        if key is not None:
            self._send([key])

    def void(self, spool: Spool, job_id: str) -> None:
        """Remove the letter about a job that another node has taken, which tells how it ended."""
        key = self._ready.pop(job_id, None)
        if key is not None:
            with contextlib.suppress(OSError):
                spool.remove_letter(key)

    def _of_end(self, spool: Spool, attempt: Attempt, record: Record) -> Letter | None:
        if spool.ended_before(record.id):
            return None
        asked = writing.asked(record.directives or _refused(spool, attempt, record))
        if not asked.ends(record.state) or not self._can():
            return None
        now = job.moment(self._wall())
        output = spool.disk.tail(spool.out_path(record), MOST_READ)
        return writing.of_end(record, spool.root, output, self._sender, asked.to, now)

    def _can(self) -> bool:
        """Tell whether letters can be sent; if not it is said once."""
        if self._via is None and not self._missing_said:
            self._missing_said = True
            self._log.error("mail.missing", reason=UNSENT)
        return self._via is not None

    def _written(self, spool: Spool, named: dict[str, Letter]) -> list[str]:
        """Write letters, together if that is possible; return the names of those that are there."""
        if not named:
            return []
        try:
            spool.write_letters(named)
        except OSError as error:
            if len(named) > 1:
                return [key for one in named.items() for key in self._written(spool, dict([one]))]
            self._say_unwritten(next(iter(named)).partition(".")[0], error)
            return []
        return list(named)

    def _say_unwritten(self, job_id: str, error: Exception) -> None:
        reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        self._log.error("letter.unwritten", id=job_id, reason=reason)

    # -- the thread: sending

    def close(self, patience: float) -> None:
        """Send what can be sent at once, for so many seconds at most, and then no more."""
        with self._changed:
            self._until = self._now() + patience
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._thread is None, patience)
            if len(self._line):
                self._log.warning("mail.left", letters=len(self._line))

    def _send(self, names: list[str]) -> None:
        with self._changed:
            for name in names:
                self._line.add(name)
            if self._via is None:
                self._can()
                return
            self._changed.notify_all()
            if self._thread is not None or self._until is not None:
                return
            thread = threading.Thread(target=self._serve, name="mail", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:
                # No more threads: they are sent with the next one.
                self._log.error("mail.failed", reason=str(error))
            else:
                self._thread = thread

    def _serve(self) -> None:
        while True:
            with self._changed:
                name, spool, line = self._next(), self._spool, self._line
                if name is None or spool is None:
                    self._thread = None
                    self._changed.notify_all()
                    return
            try:
                self._deliver(spool, line, name)
            except Exception as error:  # noqa: BLE001  # no letter may keep the others
                self._failed(line, name, f"{type(error).__name__}: {error}")

    def _next(self) -> str | None:
        """Return the next letter when it is due; None where none waits, or there is no time."""
        while True:
            now = self._now()
            name, due = self._line.due(now), self._line.next()
            if self._until is not None and (name is None or now >= self._until):
                return None
            if name is not None or due is None:
                return name
            self._changed.wait(due - now)

    def _deliver(self, spool: Spool, line: Line, name: str) -> None:
        """Try one letter; OSError or ValueError if it cannot be read or removed."""
        found = spool.read_letter(name)
        if found is None or self._via is None:
            # Somebody has buried this life, and sends it.
            self._drop(line, name)
            return
        to = self._left.get(name, found.to)
        if to:
            try:
                refused = self._via.send(msgspec.structs.replace(found, to=to))
            except AwayError as error:
                self._away(spool, line, str(error))
                return
            self._works(line)
            to = self._took(name, found, to, refused)
            # Remembered here too: on a full disk it would be sent to all again and again.
            self._left[name] = to
        if not to:
            spool.remove_letter(name)
            self._drop(line, name)
        else:
            if to != found.to:
                with contextlib.suppress(OSError):
                    spool.write_letters({name: msgspec.structs.replace(found, to=to)})
            self._failed(line, name, refused[to[0]].reason)

    def _took(
        self, name: str, found: Letter, to: tuple[str, ...], refused: Mapping[str, Refused]
    ) -> tuple[str, ...]:
        """Tell the log who has a letter, and who never will; return who is still to get it."""
        job_id, occasion = _split(name)
        taken = [each for each in to if each not in refused]
        if taken:
            self._log.info("letter.sent", id=job_id, occasion=occasion, to=", ".join(taken))
        late = self._wall() - found.written.timestamp() > GIVEN_UP
        lost = [each for each in to if each in refused and (late or refused[each].for_good)]
        for each in lost:
            self._log.error("letter.given_up", id=job_id, to=each, reason=refused[each].reason)
        return tuple(each for each in to if each in refused and each not in lost)

    def _failed(self, line: Line, name: str, reason: str) -> None:
        with self._changed:
            if name in line and line.failed(name, self._now(), reason):
                self._log.warning("letter.failed", id=name.partition(".")[0], reason=reason)

    def _away(self, spool: Spool, line: Line, reason: str) -> None:
        with self._changed:
            if line.away(self._now(), reason):
                self._log.error("mail.failed", reason=reason, again_in=line.again_in)
            names = line.names()
        for name in names:
            found = None
            with contextlib.suppress(OSError, ValueError):
                found = spool.read_letter(name)
            if found is not None and self._wall() - found.written.timestamp() > GIVEN_UP:
                to, job_id = ", ".join(found.to), name.partition(".")[0]
                self._log.error("letter.given_up", id=job_id, to=to, reason=reason)
                with contextlib.suppress(OSError):
                    spool.remove_letter(name)
                self._drop(line, name)

    def _works(self, line: Line) -> None:
        with self._changed:
            if line.works():
                self._log.info("mail.works_again")

    def _drop(self, line: Line, name: str) -> None:
        with self._changed:
            line.drop(name)
            self._left.pop(name, None)


def _refused(spool: Spool, attempt: Attempt, record: Record) -> Sequence[str]:
    """Return what a job asks for of which the record does not tell, since it was refused."""
    if record.state not in (State.REJECTED, State.CANCELLED) or spool.open_to_requests:
        # Nothing that others wrote is made out here where they may be anybody.
        return ()
    look = spool.claimed(attempt)
    if look is None:
        return ()
    found = infofile.asked(look)
    if not isinstance(found, Refusal):
        return found.directives
    return directives.salvaged(look.head or b"")


def _split(name: str) -> tuple[str, str]:
    """Return of which job a letter is, and what about."""
    return name.partition(".")[0], name.rpartition(".")[2]
