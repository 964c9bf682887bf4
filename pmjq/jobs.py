"""The jobs of a spool as anybody sees them who may read it: every daemon may be down.

Only reads. A job is where its file is: in the spool, in the ``run/`` of a life, in ``ended/``, or
in an archive, which the events tell. Between two reads it may move on, so what is not found in one
place is looked for in the next, in the order in which jobs go through them.

Why a queued job does not run, its nodes say in their ``node.json``, each for itself.
"""

from __future__ import annotations

import contextlib
import fnmatch
import math
import posixpath
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import TYPE_CHECKING

import msgspec

from pmjq import gates, history, infofile, job, naming, node, nodes, outcomes, ready, retries
from pmjq.directives import Refusal
from pmjq.errors import UsageError
from pmjq.job import Attempt, Record, Spec, Status
from pmjq.listing import in_order
from pmjq.naming import OWN, SIGNATURE
from pmjq.nodes import Pulse
from pmjq.outcomes import Outcomes
from pmjq.ready import Kind, Rules, Standing
from pmjq.seen import Seen, of_record
from pmjq.state import State

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    from pmjq.nodes import Seen as Node
    from pmjq.ready import Stat
    from pmjq.spool import Spool

EXAMINED = 500
"""How many queued entries are opened for what they ask for; the others tell their state only."""

IN_CLAIM = timedelta(seconds=5)
"""How far apart the times of one claim may be by the clocks of its node and of the file server."""

NOBODY = "no daemon runs here"

_EVERYBODY = Rules(uids=None)
_STATES = {Kind.QUEUED: State.QUEUED, Kind.HELD: State.HELD}


@dataclass(frozen=True, slots=True)
class Look:
    """What is needed to look at jobs: the spool, its nodes, and whom a number is.

    ``now``: the time of day. ``opened``: how many queued entries are opened for what they ask for.
    """

    spool: Spool
    nodes: list[Node]
    owner: Callable[[int], str]
    now: float
    aside: dict[str, str] = field(default_factory=dict)
    opened: int = EXAMINED
    outcomes: Outcomes = field(init=False)

    def __post_init__(self) -> None:
        """Ask for nothing yet."""
        object.__setattr__(self, "outcomes", Outcomes(self.spool))

    # -- in the spool

    def queued(self, most: int | None = None) -> list[Seen]:
        """Return what is in the spool, by age; ``most`` of it."""
        spool, own = self.spool, self._archives() | {OWN}
        # Only what decides the order is kept: the stats of 100,000 take 60 MB.
        found = []
        # Of a drop box that nobody lists one sees what one knows by name.
        with contextlib.suppress(PermissionError):
            found = [(stat.st_ctime_ns, name) for name, stat in spool.stats() if name not in own]
        found = _without_signatures(found)
        found.sort()
        closed, back, hand = self._closed(), frozenset(spool.again_names()), self._in_hand()
        jobs: list[Seen] = []
        for _, name in found:
            if len(jobs) == most:
                break
            stat = spool.stat(name)
            if stat is None:
                continue
            if len(jobs) < self.opened or name in back or ready.is_directory(stat):
                jobs.append(self._entry(name, stat, closed, back, hand))
            else:
                jobs.append(self._unopened(name, stat, closed))
        return jobs

    def entry(self, name: str) -> Seen | None:
        """Return one entry of the spool, None if it is not there."""
        stat = self.spool.stat(name) if is_entry(name) else None
        if stat is None or name in self._archives():
            return None
        return self._entry(name, stat, self._closed(), frozenset([name]), None)

    def _in_hand(self) -> set[str]:
        """Return the names and ids of what the nodes have."""
        return {text for one in self.claimed() for text in (one.file_name, *one.ids)}

    def _unopened(self, name: str, stat: Stat, closed: str) -> Seen:
        """Return one entry as far as its place in the directory tells: one of very many."""
        queued = datetime.fromtimestamp(stat.st_ctime_ns / 1e9, UTC)
        shown = name if name.isascii() else naming.shown(name)
        if ready.plain(name, stat):
            return Seen(
                name=shown,
                name_hex="" if shown is name else naming.exact(name),
                state=State.QUEUED,
                reason=self.aside.get(shown, closed),
                owner=self.owner(stat.st_uid),
                uid=stat.st_uid,
                queued=queued,
            )
        standing = ready.standing(name, stat, _EVERYBODY, -math.inf)
        state = _STATES.get(standing.kind, State.INCOMING)
        reason = standing.reason or self.aside.get(shown, "")
        return Seen(
            name=shown,
            name_hex=naming.exact(name),
            state=state,
            reason=reason or (closed if state is State.QUEUED else ""),
            owner=self.owner(stat.st_uid),
            uid=stat.st_uid,
            queued=queued,
            is_job=standing.kind is not Kind.PASSED_OVER,
        )

    def _entry(
        self,
        name: str,
        stat: Stat,
        closed: str,
        back: frozenset[str],
        hand: Collection[str] | None,
    ) -> Seen:
        """Return one entry, opened; ``back``: those of which more is remembered.

        ``hand``: names and ids of what the nodes have; None: for the others that it waits for the
        events are searched, too.
        """
        standing = ready.standing(name, stat, _EVERYBODY, -math.inf)
        shown = naming.shown(name)
        words: tuple[str, ...] = ()
        spec: Spec | Refusal | None = None
        is_job = standing.kind is not Kind.PASSED_OVER
        shut = ready.is_directory(stat) and not self.spool.searchable(name)
        examined_kind = standing.kind in (Kind.QUEUED, Kind.HELD)
        if (examined_kind or ready.is_directory(stat)) and not shut:
            examined, spec = self._examined(name, standing)
            is_job = is_job and examined.kind is not Kind.LEFT
            standing = examined if standing.kind is Kind.QUEUED else standing
            words = spec.directives if isinstance(spec, Spec) else ()
        state = _STATES.get(standing.kind, State.INCOMING)
        said = _current(self.aside.get(shown, ""), state)
        reason = standing.reason or said
        if not reason and isinstance(spec, Refusal):
            state, reason = State.INCOMING, spec.reason
        again = None
        if name in back:
            with contextlib.suppress(OSError):
                again = self.spool.again(name, stat)
        if not reason and isinstance(spec, Spec):
            reason = self._deferred(name, spec, hand) or self._too_big(spec)
            if again is not None and retries.pause(again, spec, self.now) > 0:
                reason = retries.reason(again)
        if not reason and state is State.QUEUED:
            reason = closed
        wrote = again is not None and any(one.started for one in again.earlier)
        return Seen(
            name=shown,
            name_hex=naming.exact(name),
            state=state,
            reason=reason,
            owner=self.owner(stat.st_uid),
            uid=stat.st_uid,
            attempt=again.attempt if again is not None else None,
            queued=job.moment(stat.st_ctime_ns / 1e9),
            directives=words,
            is_job=is_job,
            output=self.spool.tried_out(again) if again is not None and wrote else "",
            earlier=again.earlier if again is not None else (),
        )

    def _deferred(self, name: str, spec: Spec, hand: Collection[str] | None) -> str:
        """Return what a job waits for that asks to be started later, or after others."""
        if spec.not_before is not None and spec.not_before.timestamp() > self.now:
            return outcomes.too_early(spec.not_before)
        if name in (*spec.after, *spec.after_any):
            return outcomes.ITSELF
        if hand is not None:
            others = (*spec.after, *spec.after_any)
            living = (one for one in others if one in hand or self.spool.stat(one) is not None)
            other = next(living, None)
            return outcomes.unended(other) if other is not None else ""
        try:
            return self.outcomes.verdict(name, spec).reason
        except OSError as error:
            return f"waits for others ({error.strerror})"

    def _examined(self, name: str, standing: Standing) -> tuple[Standing, Spec | Refusal | None]:
        """Return what an entry is that was opened, and what it asks for."""
        try:
            look = self.spool.look(name)
        except OSError:
            look = None
        if look is None:
            return standing, None
        settled = ready.settled(look, _EVERYBODY, math.inf)
        return settled, infofile.asked(look) if settled.kind is Kind.QUEUED else None

    def _too_big(self, spec: Spec) -> str:
        """Return what a job asks for that no living node has."""
        reasons = {
            one.name: gates.beyond(spec, one.cpus, one.memory, _count(one.gpus))
            for one in self._living()
        }
        if not all(reasons.values()):
            return ""
        return "; ".join(f"{name}: {reason}" for name, reason in sorted(reasons.items()))

    def _living(self) -> list[Node]:
        return [one for one in self.nodes if one.state in (Pulse.ALIVE, Pulse.UNKNOWN)]

    def _closed(self) -> str:
        """Return why no node starts anything, empty if one does."""
        living = self._living()
        if not living:
            silent = ", ".join(one.name for one in self.nodes)
            return f"no node is alive ({silent} silent)" if silent else NOBODY
        reasons = [f"{one.name}: {one.outage or one.reason}" for one in living]
        if any(one.gate == "open" and not one.stopping for one in living):
            return ""
        return "; ".join(sorted(reasons))

    def _archives(self) -> set[str]:
        """Return the names in the spool that are archives of its nodes."""
        inside = f"{self.spool.root}/"
        paths = [path for one in self.nodes for path in (one.archive, one.errors)]
        return {path.removeprefix(inside) for path in paths if path.startswith(inside)}

    # -- in a node's hands

    def claimed(self) -> list[Seen]:
        """Return what the nodes have, by node and time."""
        found = [
            seen
            for token in self.spool.tokens()
            for job_id in self.spool.run_of(token)
            if (seen := self._claimed(token, job_id)) is not None
        ]
        return sorted(found, key=lambda one: (one.node, str(one.started or one.claimed), one.id))

    def _claimed(self, token: str, job_id: str) -> Seen | None:
        attempt = self.spool.attempt(job_id)
        if attempt is None:
            # Its record has taken the place of its claim, or its paperwork is torn.
            record = self.spool.latest_record(job_id)
            if record is not None:
                return of_record(record, self.spool.root, "ended, and is about to be moved")
            name, stat = node.name_of(token), self.spool.baton_stat(token, job_id)
            uid = None if stat is None else stat.st_uid
            owner = "" if uid is None else self.owner(uid)
            return Seen(
                name=job_id,
                id=job_id,
                state=State.CLAIMED,
                node=name,
                token=token,
                owner=owner,
                uid=uid,
            )
        status = self.spool.status(attempt) or Status()
        return self._attempted(attempt, status, token)

    def _attempted(self, attempt: Attempt, status: Status, token: str) -> Seen:
        running = status.started is not None and not status.error
        reason = self._silence(token)
        return Seen(
            name=attempt.name,
            name_hex=attempt.name_hex,
            state=State.RUNNING if running else State.CLAIMED,
            reason=reason or attempt.refused,
            id=attempt.id,
            attempt=attempt.attempt,
            owner=attempt.owner,
            uid=attempt.uid,
            node=node.name_of(token),
            queued=attempt.queued,
            claimed=attempt.claimed,
            started=job.moment(status.started) if running and status.started else None,
            gpus=attempt.gpus,
            cpus=attempt.cpus,
            enforced=status.enforced,
            directives=attempt.spec.directives,
            token=token,
            output=self.spool.attempt_out(attempt),
            earlier=attempt.earlier,
            signer=attempt.signer,
        )

    def _silence(self, token: str) -> str:
        for one in self.nodes:
            if one.token == naming.shown(token) and one.state is not Pulse.ALIVE:
                return f"its node is {one.state}"
        return ""

    # -- ended

    def unfiled(self) -> list[Seen]:
        """Return what has ended and is not archived yet, the last first."""
        found = []
        for key in self.spool.ended():
            record = self.spool.record(*key)
            if record is not None:
                seen = of_record(record, self.spool.root)
                papers = self.spool.out_path(record) if seen.output else ""
                found.append(msgspec.structs.replace(seen, output=papers))
        return sorted(found, key=lambda one: str(one.ended), reverse=True)

    def unfiled_untold(self) -> list[Seen]:
        """Return what has ended without a node, and no daemon has taken up yet; the last first."""
        return [one for one in self.unfiled() if not one.node]

    def ended(
        self, wanted: Callable[[Record], bool] = lambda _: True, needle: bytes = b""
    ) -> Iterator[Seen]:
        """Return what has ended, newest first; errors as ``pmjq.history.records``."""
        return (
            of_record(record, self.spool.root)
            for record in history.records(self.spool, wanted, needle)
        )

    # -- one job

    def living(self, most: int | None = None) -> list[Seen]:
        """Return what has not ended: what the nodes have first, then the queue, the first of it.

        Read in the order in which jobs go, so that none is missed that moves meanwhile.
        """
        changed = self.spool.changed()
        # Of those that are not the first by age some may be the first to be run.
        queued = self.queued(None if most is None else max(most, self.opened))
        claimed = self.claimed()
        if most is None and self.spool.changed() != changed:
            # One may have gone back into the queue.
            known = {one.file_name for one in queued}
            entries = [(0, name) for name in self.spool.entries()]
            new = [name for _, name in _without_signatures(entries) if name not in known]
            queued += [one for name in new if (one := self.entry(name)) is not None]
        queued = in_order(self._still(queued, claimed), claimed, self.opened)
        return [*claimed, *queued[:most]]

    def _still(self, queued: list[Seen], claimed: list[Seen]) -> list[Seen]:
        """Return the queue without what has been claimed since it was read."""
        gone = {one.file_name for one in claimed if self.spool.stat(one.file_name) is None}
        return [one for one in queued if one.file_name not in gone] if gone else queued

    def found(self, text: str) -> list[Seen]:
        """Return the jobs that a person means by a name, a path, an id or the start of one.

        Those that live are meant before those that ended, and of those of one name the last that
        ended. Several are returned where several live that have the name; none where it is not
        known. UsageError if several ids begin so.
        """
        name = self._name(text)
        if not name:
            return []
        claimed = self._alive(name)
        if claimed:
            return claimed
        unfiled = [one for one in self.unfiled() if name in (one.file_name, *one.ids)]
        if unfiled:
            return unfiled[:1]
        latest = next(self._ended_as(name), None)
        if latest is not None:
            return [latest]
        stem = naming.STEM.match(name)
        if stem is not None:
            return self.found(stem[1])
        return self._beginning(name)

    def _alive(self, name: str) -> list[Seen]:
        """Return the jobs of a name or id that have not ended."""
        queued = [one for one in [self.entry(name), self._back(name)] if one is not None]
        claimed = [one for one in self.claimed() if name in (one.file_name, *one.ids)]
        found = [*self._still(queued, claimed), *claimed]
        if not found:
            # It may have gone back into the queue between the two.
            found = [one for one in [self.entry(name), self._back(name)] if one is not None]
        return found

    def _back(self, job_id: str) -> Seen | None:
        """Return the entry that was executed under some id, and is in the queue again."""
        if not naming.is_id(job_id):
            return None
        for name in self.spool.again_names():
            seen = self.entry(name)
            if seen is not None and job_id in seen.ids:
                return seen
        return None

    def _ended_as(self, name: str) -> Iterator[Seen]:
        """Return what ended that has a name or an id, newest first."""
        if naming.is_id(name):
            return (one for one in self.ended(needle=name.encode()) if name in one.ids)
        hexadecimal, shown = naming.exact(name), naming.shown(name)
        needle = hexadecimal.encode() or msgspec.json.encode(shown)[1:-1]

        def meant(record: Record) -> bool:
            return record.name == shown and record.name_hex == hexadecimal

        return self.ended(meant, needle)

    def _beginning(self, start: str) -> list[Seen]:
        """Return the job whose id begins so; UsageError if several do."""
        if not naming.begins_id(start):
            return []
        found: dict[str, Seen] = {}
        for one in chain(self.claimed(), self.unfiled(), self.ended(needle=start.encode())):
            if any(job_id.startswith(start) for job_id in one.ids):
                found.setdefault(one.id, one)
        if len(found) > 1:
            ids = ", ".join(sorted(found)[:3])
            more = ", ..." if len(found) > 3 else ""  # noqa: PLR2004
            raise UsageError(f"{start}: several ids begin so ({ids}{more}); give more of one")
        return list(found.values())

    def again(self, jobs: list[Seen]) -> list[Seen | None]:
        """Return how jobs that lived stand now, each in its place; None: it is nowhere."""
        now: list[Seen | None] = [None if one.id else self.entry(one.file_name) for one in jobs]
        claimed = self.claimed()
        missing = {number for number, one in enumerate(now) if one is None}
        for one in chain(claimed, self.unfiled()):
            self._take(one, jobs, now, missing)
        for number in list(missing):
            # One that was returned between the two.
            here = self.entry(jobs[number].file_name)
            if here is not None and (not jobs[number].id or jobs[number].id in here.ids):
                now[number] = here
                missing.discard(number)
        for one in self.ended() if missing else ():
            self._take(one, jobs, now, missing)
            if not missing:
                break
        return now

    def claimed_as(self, seen: Seen) -> Seen | None:
        """Return which job a queued one became that was seen in the midst of its claim, None: none.

        A rename sets the ctime, which tells since when a job is queued, before it takes the old
        name away: who looked in between took it to be queued since its claim.
        """
        if seen.id or seen.queued is None:
            return None
        for one in chain(self.claimed(), self.unfiled(), self.ended()):
            named = (one.name, one.name_hex) == (seen.name, seen.name_hex)
            if named and one.claimed and abs(seen.queued - one.claimed) < IN_CLAIM:
                return one
        return None

    @staticmethod
    def _take(one: Seen, jobs: list[Seen], now: list[Seen | None], missing: set[int]) -> None:
        """Note which of the missing jobs one is."""
        for number in list(missing):
            if _same(jobs[number], one):
                now[number] = one
                missing.discard(number)

    def reasons(self, seen: Seen) -> list[str]:
        """Return what each living node says of why a queued job does not run.

        None that says nothing may start it where what it waits for is seen without them.
        """
        alone = replace(self, nodes=[], aside={}).entry(seen.file_name)
        startable = alone is not None and alone.state is State.QUEUED and alone.reason == NOBODY
        found = []
        for one in self._living():
            closed = one.outage or one.reason if one.gate != "open" else ""
            said = _current(nodes.aside(self.spool, [one]).get(seen.name, ""), seen.state)
            stopping = f"is stopping ({one.stopping})" if one.stopping else ""
            why = said or closed or stopping or ("may start it" if startable else "")
            if why:
                found.append(f"{one.name}: {why}")
        return found

    def _name(self, text: str) -> str:
        """Return the name or id that a path leads to: an entry of the spool, or an archived job.

        Nothing for a path to something else, whatever its name.
        """
        directory, slash, name = text.rpartition("/")
        if not slash:
            return text
        if directory == ".":
            # ./ALL is a job of that name, as ./list is a spool.
            return name
        if posixpath.realpath(directory or "/") == posixpath.realpath(self.spool.root):
            return name
        stem = naming.STEM.match(name)
        return stem[1] if stem else ""

    # -- patterns

    def matching(self, pattern: str, jobs: Iterable[Seen]) -> list[Seen]:
        """Return the jobs whose names match a pattern as shells have them."""
        return [one for one in jobs if fnmatch.fnmatchcase(one.file_name, pattern)]


def _same(before: Seen, now: Seen) -> bool:
    """Tell whether a job that lived is one that is seen elsewhere now.

    One that had no id yet is known by its name and by when it came into the queue: what ended under
    that name earlier is another.
    """
    if before.id:
        return before.id in now.ids
    if (before.name, before.name_hex) != (now.name, now.name_hex):
        return False
    return before.queued is None or now.queued is None or now.queued >= before.queued


def _current(said: str, state: State) -> str:
    """Return what a node said of an entry, unless it was held when the node looked and is not."""
    return "" if said == ready.HELD.reason and state is not State.HELD else said


def _count(names: tuple[str, ...] | None) -> int | None:
    return None if names is None else len(names)


def _without_signatures(found: list[tuple[int, str]]) -> list[tuple[int, str]]:
    """Return entries but for the signatures beside their jobs; one without its job is shown."""
    signatures = {name for _, name in found if name.endswith(SIGNATURE)}
    if signatures:
        signatures &= {f"{name}{SIGNATURE}" for _, name in found}
    return [one for one in found if one[1] not in signatures] if signatures else found


def is_entry(name: str) -> bool:
    """Tell whether a text can be the name of an entry of the spool."""
    size = len(name.encode("utf-8", "surrogateescape"))
    legal = 0 < size <= naming.NAME_MAX and "/" not in name and "\0" not in name
    return legal and name not in (".", "..", OWN)
