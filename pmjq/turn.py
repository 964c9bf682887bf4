"""One turn of the daemon: look, plan, act, until there is nothing to do now.

A ``Turn`` is one life of one node at one spool. It is synchronous and knows neither threads nor signals: the daemon calls ``turn`` in
a thread whenever there was a nudge, and gets back when to call again without one. Disk, processes, clocks and the look at the machine
are arguments, so tests drive whole lives of a node with doubles.

No error of the disk leaves it. An operation that failed is tried again later, with growing pauses and a line in the log;
since nobody knows whether it was carried out, the desk is then compared with the disk.
"""

from __future__ import annotations

import errno
import os
import uuid
from collections import deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pmjq import directives, gates, job, plan, ready, recovery
from pmjq.backlog import Backlog
from pmjq.desk import Desk, Doubt
from pmjq.directives import Refusal
from pmjq.gates import Limits, Verdict
from pmjq.job import Attempt, Event, Status
from pmjq.plan import Candidate, Claim, End, File, Intent, Over, Return, Start, Stop, View
from pmjq.process import Ended, Order, Started, Unkept, Unstarted, Vanished
from pmjq.ready import Kind, Rules, Standing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pmjq.filing import Filing
    from pmjq.job import Record
    from pmjq.node import Machine, Reading
    from pmjq.process import Processes
    from pmjq.spool import Spool

RESCAN = 5.0
"""Seconds between slow looks at everything: an overflowing inotify queue says nothing."""

RESCAN_SHARE = 50
"""A rescan that took a second is not repeated for this many."""

REVISIT = 500
"""How many entries that are not queued are looked at again in one rescan: their chmod may have gone unheard."""

MOST_AT_ONCE = 64
"""How many jobs one plan starts at most: signals and ends are looked at in between."""

STATUS_PAUSE = 0.05
STATUS_PATIENCE = 2.0
"""Seconds for a keeper to write the pid of what it has started, or for a dying one's child to become the job."""

CANNOT_MOVE_PAUSE = 60.0

COARSE = 1_000_000_000
"""ns: a directory's time that is not older than this may be followed by a change that bears the same time."""


@dataclass(slots=True)
class Pause:
    """Wait longer after each failure in a row; say it once per kind of failure."""

    first: float = 0.25
    most: float = 30.0
    until: float = 0.0
    length: float = 0.0
    said: str = ""

    def failed(self, now: float, error: OSError) -> bool:
        """Take note of a failure; True if it is of another kind than the last."""
        self.length = min(self.most, self.length * 2 or self.first)
        self.until = now + self.length
        kind = f"{error.errno or error}"
        new, self.said = kind != self.said, kind
        return new

    def worked(self) -> bool:
        """Take note of a success; True if it ends a failure."""
        ended = bool(self.said)
        self.until, self.length, self.said = 0.0, 0.0, ""
        return ended


@dataclass(frozen=True, slots=True)
class Settings:
    """What the person asked for, and what this node is."""

    node: str
    machine: Machine
    limits: Limits
    rules: Rules
    grace: float = 10.0
    environment: dict[str, str] = field(default_factory=dict)
    ordered: bool = False


class Turn:
    """One life of a node at a spool."""

    def __init__(  # noqa: PLR0913  everything outside is an argument
        self,
        settings: Settings,
        spool: Spool,
        filing: Filing,
        processes: Processes,
        log: Any,
        now: Callable[[], float],
        wall: Callable[[], float],
        reading: Callable[[], Reading],
        owner: Callable[[int], str] = str,
    ) -> None:
        """Take the outside things; ``begin`` touches the spool."""
        self.settings, self.spool, self.filing, self.processes, self.log = (
            settings, spool, filing, processes, log
        )  # fmt: skip
        self.now, self.wall, self.reading, self.owner = now, wall, reading, owner
        self.desk = Desk()
        self.backlog = Backlog(settings.rules)
        self.intent = Intent.RUN
        self.verdict: Verdict = gates.OPEN
        self.nudges: deque[str | None] = deque()
        self.doubtful = False
        self.missing = ""
        self.scanned = False
        self.pauses = {name: Pause() for name in ("claim", "start", "end", "return", "look")}
        self._rescan_at = 0.0
        self._listed = 0
        self._revisit: deque[str] = deque()
        self._returned: set[tuple[str, int]] = set()
        self._told: dict[str, str] = {}
        self._verdict_said = ""
        self._closed_since = 0.0

    # -- the outside

    def begin(self, former: list[recovery.Former]) -> None:
        """Take up what earlier lives left; OSError if the spool does not let us."""
        now = self.now()
        recovery.take_up(self.spool, self.desk, former, now)
        recovery.load_ended(self.spool, self.desk)
        lives = set(self.spool.lives())
        recovery.clear_paperwork(self.spool, self.desk, self.settings.node, lives)

    def nudge(self, name: str | None = None) -> None:
        """Ask for a look at one name, or at everything; may be called from any thread."""
        self.nudges.append(name)

    def turn(self) -> float:
        """Do what there is to do; return at which time of the clock to come again without a nudge."""
        for _ in range(MOST_AT_ONCE):
            try:
                view = self._look()
            except OSError as error:
                self._failed("look", error)
                return self.pauses["look"].until
            self._worked("look")
            actions = plan.plan(view)
            if not actions:
                break
            self._act(actions)
        else:
            return self.now()
        return self._wake()

    def idle(self) -> bool:
        """Tell whether nothing is queued, on its way in, running or unfiled."""
        desk = self.desk
        return (
            self.scanned
            and not self.nudges
            and not len(self.backlog)
            and not self.backlog.settling()
            and not desk.in_hand()
            and not desk.filing
        )

    def quiet(self) -> bool:
        """Tell whether nothing is running and every end has been filed or is only waiting for its archive."""
        return not self.desk.in_hand() and not self.filing.soon(self.desk.filing.values(), self.now())

    # -- look

    def _look(self) -> View:
        now, desk = self.now(), self.desk
        self._hear(now)
        if not self._present():
            return View(now=now)
        if self.doubtful:
            self._reload(now)
        self._resolve(now)
        self._refresh(now)
        reading = self.reading()
        desk.contention = desk.contention.sampled(now, reading)
        room = 0
        if self.intent is Intent.RUN:
            most = min(MOST_AT_ONCE, len(self.backlog) + len(desk.claimed) - len(desk.fresh) + 1)
            room, self.verdict = gates.room(
                self.settings.limits, reading, desk.forecast, desk.busy(), now, most, granted=len(desk.fresh)
            )
            self._say_verdict(now)
        candidates = self._candidates(room - len(desk.claimed) + len(desk.fresh), now)
        return View(
            now=now,
            intent=self.intent,
            grace=self.settings.grace,
            room=room,
            candidates=tuple(candidates),
            claimed=tuple(desk.claimed.values()),
            returning=tuple(desk.returning.values()),
            fresh=frozenset(desk.fresh),
            over=tuple(desk.over.values()),
            filing=self.filing.due(desk.filing.values(), now),
            running=tuple(desk.running.values()) if self.intent is Intent.KILL else (),
            claim_after=self.pauses["claim"].until,
            start_after=self.pauses["start"].until,
            end_after=self.pauses["end"].until,
            return_after=self.pauses["return"].until,
        )

    def _hear(self, now: float) -> None:
        desk = self.desk
        for report in self.processes.reports():
            match report:
                case Started((job_id, _), pid, at):
                    desk.started(job_id, pid, at, now)
                case Ended((job_id, _), code, at, usage, alone):
                    run = desk.running.get(job_id)
                    began = run.at if run else at
                    status = Status(started=began, ended=at, code=code, usage=usage, alone=alone)
                    desk.ended(job_id, status, now)
                case Unstarted((job_id, _), error, tried):
                    self._unstarted(job_id, error, now, tried=tried)
                case Vanished((job_id, _)):
                    desk.doubt(job_id, now)
                case Unkept(keys):
                    self.log.warning("keeper.lost", jobs=len(keys))
                    for job_id, _ in keys:
                        desk.doubt(job_id, now)

    def _unstarted(self, job_id: str, error: int, now: float, *, tried: bool) -> None:
        attempt = self.desk.unstarted(job_id, now)
        if attempt is None:
            return
        if tried:
            self._unexecuted(attempt, Status(error=error, started=self.wall(), ended=self.wall()))
        elif error == errno.EEXIST:
            self.desk.doubts[job_id] = Doubt(attempt, now, now)
        else:
            self.desk.claimed[job_id] = attempt
            self._failed("start", OSError(error, os.strerror(error), job.shown(attempt.name)))

    def _unexecuted(self, attempt: Attempt, status: Status) -> None:
        look = self.spool.claimed(attempt)
        head = (look.head if look else None) or b""
        name = directives.interpreter_of(head)
        fate = plan.unexecuted(attempt, status, head, interpreter=os.access(name, os.X_OK))
        key = (attempt.name, look.stat.st_ino if look else 0)
        young = status.error == errno.ENOEXEC and not self.settings.rules.kernel_tells
        if isinstance(fate, Return) or (young and key not in self._returned):
            self._returned.add(key)
            self.desk.returning[attempt.id] = Return(attempt, "could not be executed yet")
        else:
            self.desk.over[attempt.id] = fate

    def _present(self) -> bool:
        """Tell whether the spool is there, and say so when that changes."""
        try:
            missing = "" if self.spool.present() else "is not there, or another spool is in its place"
        except OSError as error:
            missing = f"cannot be read: {error.strerror}"
        if missing and missing != self.missing:
            self.log.error("spool.missing", spool=job.shown(self.spool.root), reason=missing)
            self.verdict = Verdict(open=False, reason=f"the spool {missing}")
        if self.missing and not missing:
            self.log.info("spool.back", spool=job.shown(self.spool.root))
            self.doubtful = True
            self.nudges.append(None)
        self.missing = missing
        return not missing

    def _reload(self, now: float) -> None:
        for job_id in recovery.reload(self.spool, self.desk, now):
            self.log.warning("job.fenced", id=job_id, reason="its file is not in this node's hands any more")
        self.doubtful = False

    def _resolve(self, now: float) -> None:
        """Read from disk how the doubtful attempts stand."""
        for job_id, doubt in list(self.desk.doubts.items()):
            if doubt.again <= now:
                self._resolve_one(job_id, doubt, now)

    def _resolve_one(self, job_id: str, doubt: Doubt, now: float) -> None:
        attempt, desk = doubt.attempt, self.desk
        before = self.spool.status(attempt)
        # First who may still write the status, then the status again: an end written in between must be seen.
        kept = before is not None and self.processes.alive(before.keeper, before.keeper_start)
        status = self.spool.status(attempt)
        key = (job_id, attempt.attempt)
        if status is not None and status.code is not None:
            del desk.doubts[job_id]
            desk.settle(attempt, status, told=doubt.told)
        elif status is not None and status.error is not None:
            del desk.doubts[job_id]
            self._unexecuted(attempt, status)
        elif doubt.rebooted:
            del desk.doubts[job_id]
            self._interrupted(attempt, status or Status())
        elif status is None:
            del desk.doubts[job_id]
            desk.claimed[job_id] = attempt
        elif status.void:
            del desk.doubts[job_id]
            desk.returning[job_id] = Return(attempt, "was being returned")
        elif status.pid and self.processes.adopt(key, status.pid, status.start):
            del desk.doubts[job_id]
            desk.adopt(attempt, status, now, self.wall())
        elif not status.pid and (found := self.processes.find(job_id)):
            self._adopt_found(attempt, found, now)
        elif kept or (not status.pid and now - doubt.since < STATUS_PATIENCE):
            doubt.again = now + STATUS_PAUSE
        else:
            del desk.doubts[job_id]
            self._interrupted(attempt, status)

    def _adopt_found(self, attempt: Attempt, found: tuple[int, int], now: float) -> None:
        pid, start = found
        if self.processes.adopt((attempt.id, attempt.attempt), pid, start):
            del self.desk.doubts[attempt.id]
            status = Status(started=self.wall(), pid=pid, start=start)
            self.desk.adopt(attempt, status, now, self.wall())

    def _interrupted(self, attempt: Attempt, status: Status) -> None:
        if attempt.spec.restartable:
            self.desk.returning[attempt.id] = Return(attempt, "was interrupted; it is restartable")
        else:
            self.desk.over[attempt.id] = plan.outcome(attempt, status)

    def _refresh(self, now: float) -> None:
        """Bring the backlog up to date with the names that were nudged, are due, or are new in a listing."""
        names: dict[str, None] = dict.fromkeys(self.backlog.due(now))
        everything = False
        while self.nudges:
            name = self.nudges.popleft()
            if name is None:
                everything = True
            else:
                names[name] = None
        for name in names:
            self._see(name, now)
        if everything or now >= self._rescan_at:
            self._rescan(now, everything=everything)

    def _see(self, name: str, now: float) -> None:
        try:
            self.backlog.see(name, self.spool.stat(name), now)
        except OSError as error:
            # One odd entry (a name too long for a look, an inode that cannot be read) stalls nobody.
            if error.errno == errno.ENAMETOOLONG:
                return
            raise

    def _rescan(self, now: float, *, everything: bool) -> None:
        changed = self.spool.changed()
        fresh = self.wall() * 1e9 - changed < COARSE
        if everything or not self.spool.local or changed != self._listed:
            names = self.spool.names()
            here = set(names)
            for name in [name for name in self.backlog.names() if name not in here]:
                self.backlog.forget(name)
            for name in names:
                if everything or name not in self.backlog:
                    self._see(name, now)
            self._listed = 0 if fresh else changed
            self._revisit.clear()
        if not self._revisit:
            self._revisit.extend(name for name, _ in self.backlog.aside())
        for _ in range(min(REVISIT, len(self._revisit))):
            self._see(self._revisit.popleft(), now)
        self._say_left()
        self.scanned = True
        self._rescan_at = self.now() + max(RESCAN, RESCAN_SHARE * (self.now() - now))

    def _candidates(self, room: int, now: float) -> list[Candidate]:
        if self.intent is not Intent.RUN or now < self.pauses["claim"].until:
            return []
        found: list[Candidate] = []
        for name in self.backlog.bad()[:MOST_AT_ONCE]:
            stat = self.spool.stat(name)
            if stat is not None:
                reason = self.backlog.reason(name)
                found.append(Candidate(name, stat, Refusal(reason)))
        while room > len(found) and (names := self.backlog.take(room - len(found))):
            for name in names:
                candidate = self._candidate(name, now)
                if candidate is not None:
                    found.append(candidate)
        return found

    def _candidate(self, name: str, now: float) -> Candidate | None:
        """Open and examine an entry at the head of the queue; None if it is not to be claimed now."""
        backlog = self.backlog
        look = self.spool.look(name)
        if look is None:
            backlog.forget(name)
            return None
        age = backlog.age(name, look.stat, now)
        standing = ready.standing(name, look.stat, backlog.rules, age)
        if standing.kind is Kind.QUEUED:
            standing = ready.settled(look, backlog.rules, age)
        if standing.kind is not Kind.QUEUED:
            backlog.put_aside(name, look.stat, standing, now)
            return None
        verdict = directives.spec(look.head) if look.head is not None else job.Spec()
        backlog.put_back(name, look.stat)
        return Candidate(name, look.stat, verdict)

    # -- act

    def _act(self, actions: list[plan.Action]) -> None:
        sorted_by_kind: dict[type, list[Any]] = {}
        for action in actions:
            sorted_by_kind.setdefault(type(action), []).append(action)
        of = sorted_by_kind.get
        self._start([action.attempt for action in of(Start, ())])
        for stop in of(Stop, ()):
            self._stop(stop)
        claims = [action.candidate for action in of(Claim, ())]
        claimed = self._claim(claims) if claims else False
        overs = [action.over for action in of(End, ())]
        self._end(overs, claimed=claimed)
        for action in of(Return, ()):
            self._give_back(action)
        for action in of(File, ()):
            self._file(action.record)

    def _start(self, attempts: list[Attempt]) -> None:
        if not attempts:
            return
        now = self.now()
        for attempt in attempts:
            self.desk.launch(attempt, now)
        try:
            self.processes.start([self._order(attempt) for attempt in attempts])
        except OSError as error:
            self._failed("start", error)
            for attempt in attempts:
                if attempt.id in self.desk.starting:
                    self.desk.doubt(attempt.id, now)
        else:
            self._worked("start")

    def _order(self, attempt: Attempt) -> Order:
        places = self.spool.places(attempt)
        name = job.real_name(attempt.name, attempt.name_hex)
        environment = self.settings.environment | {
            "PMJQ_ID": attempt.id,
            "PMJQ_NAME": name,
            "PMJQ_NODE": attempt.node,
            "PMJQ_SPOOL": self.spool.root,
            "PMJQ_ATTEMPT": str(attempt.attempt),
            "PMJQ_OWNER": attempt.owner,
            "TMPDIR": places.work,
            "PWD": places.work,
        }
        shell = attempt.spec.shell
        return Order(
            (attempt.id, attempt.attempt),
            "/bin/sh" if shell else places.executable,
            ["/bin/sh", places.executable] if shell else [places.executable],
            places.work,
            places.out,
            places.status,
            environment,
        )

    def _claim(self, candidates: Iterable[Candidate]) -> bool:
        """Claim what can be claimed; True if a claim is to be made durable."""
        any_claimed = False
        for candidate in candidates:
            try:
                attempt = self._claim_one(candidate)
            except OSError as error:
                self.doubtful = True
                self._failed("claim", error)
                break
            if attempt is not None:
                self.desk.claim(attempt)
                any_claimed = True
        else:
            self._worked("claim")
        return any_claimed

    def _claim_one(self, candidate: Candidate) -> Attempt | None:
        attempt = self._attempt(candidate)
        self.spool.prepare_claim(attempt)
        try:
            won = self.spool.claim(attempt)
        except OSError as error:
            self.spool.clear(attempt.id, attempt.attempt, candidate.name)
            if error.errno not in (errno.EPERM, errno.EACCES, errno.EBUSY):
                raise
            reason = f"cannot be moved ({error.strerror}); remove it or let this user move it"
            standing = Standing(Kind.LEFT, reason, CANNOT_MOVE_PAUSE)
            self.backlog.put_aside(candidate.name, candidate.stat, standing, self.now())
            self._say_left()
            return None
        self.backlog.forget(candidate.name)
        if not won:
            self.spool.clear(attempt.id, attempt.attempt, candidate.name)
            return None
        stat = self.spool.claimed_stat(attempt)
        if attempt.refused or (stat is not None and ready.unchanged(candidate.stat, stat)):
            return attempt
        # Changed between the look and the claim: give it back, to be looked at as it is.
        self.desk.returning[attempt.id] = Return(attempt, "changed while it was being claimed")
        return None

    def _attempt(self, candidate: Candidate) -> Attempt:
        stat, verdict, name = candidate.stat, candidate.verdict, candidate.name
        return Attempt(
            id=str(uuid.uuid4()),
            name=job.shown(name),
            name_hex=job.exact(name),
            attempt=1,
            owner=self.owner(stat.st_uid),
            uid=stat.st_uid,
            node=self.settings.node,
            token=self.spool.token,
            queued=job.moment(stat.st_ctime_ns / 1e9),
            claimed=job.moment(self.wall()),
            spec=job.Spec() if isinstance(verdict, Refusal) else verdict,
            refused=verdict.reason if isinstance(verdict, Refusal) else "",
        )

    def _end(self, overs: list[Over], *, claimed: bool) -> None:
        """Make outcomes durable, all with one sync, then move their jobs; the same sync covers this turn's claims."""
        wall = self.wall()
        records = [(over, over.durable or self._record(over, wall)) for over in overs]
        new = [record for over, record in records if over.durable is None]
        try:
            if new:
                self.spool.append(Event("job.ended", record.ended, record) for record in new)
            if claimed and not (new and self.settings.ordered):
                self.spool.sync_claims()
            for over, record in records:
                self._move_ended(over, record)
        except OSError as error:
            self.doubtful = True
            self._failed("end", error)
        else:
            if overs:
                self._worked("end")

    def _record(self, over: Over, wall: float) -> Record:
        return job.record(over.attempt, over.status, over.state, wall, over.reason)

    def _move_ended(self, over: Over, record: Record) -> None:
        job_id = over.attempt.id
        self.desk.over[job_id] = replace(over, durable=record)
        moved = self.spool.end(record)
        self.desk.drop(job_id)
        if moved:
            self.desk.filing[job_id] = record
            if over.status.alone:
                self.filing.alone.add(job_id)
            self._say_ended(record)
        else:
            self.log.warning("job.fenced", job=record.name, id=job_id, reason="another node has taken it over")

    def _give_back(self, action: Return) -> None:
        attempt = action.attempt
        try:
            status = self.spool.status(attempt)
            if (status is None or not status.started) and not self.spool.void(attempt):
                self.desk.drop(attempt.id)
                now = self.now()
                self.desk.doubts[attempt.id] = Doubt(attempt, now, now)
                return
            name = self.spool.give_back(attempt)
        except OSError as error:
            self.doubtful = True
            self._failed("return", error)
            return
        self.desk.drop(attempt.id)
        self._worked("return")
        self.nudges.append(name)
        self.log.info("job.returned", job=job.shown(name), id=attempt.id, reason=action.reason)

    def _file(self, record: Record) -> None:
        if self.filing.file(record, self.now()):
            self.desk.filing.pop(record.id, None)

    def _stop(self, stop: Stop) -> None:
        now = self.now()
        self.log.info("jobs.signalled", jobs=len(stop.runs), signal=plan.signal_name(stop.signal))
        for run in stop.runs:
            self.desk.running[run.attempt.id] = replace(run, told=now)
        self.processes.signal({run.attempt.id: run.pid for run in stop.runs}, stop.signal)

    # -- when to come again, and what to say

    def _wake(self) -> float:
        now, desk = self.now(), self.desk
        times = [self._rescan_at]
        if (look := self.backlog.next_look()) is not None:
            times.append(look)
        if desk.doubts:
            times.append(min(doubt.again for doubt in desk.doubts.values()))
        if not self.verdict.open and self.verdict.again and (len(self.backlog) or desk.claimed):
            times.append(now + self.verdict.again)
        if desk.filing:
            times.append(self.filing.next())
        if self.intent is Intent.KILL and desk.running:
            times.append(min((run.told or now) + self.settings.grace for run in desk.running.values()))
        times += [pause.until for pause in self.pauses.values() if pause.until > now]
        return max(now, min(times))

    def _failed(self, what: str, error: OSError) -> None:
        pause = self.pauses[what]
        if pause.failed(self.now(), error):
            self.log.error(
                f"{what}.failed",
                reason=error.strerror or str(error),
                path=job.shown(str(error.filename or "")),
                again_in=pause.length,
            )

    def _worked(self, what: str) -> None:
        if self.pauses[what].worked():
            self.log.info(f"{what}.works_again")

    def _say_verdict(self, now: float) -> None:
        """Log a gate that stays closed while jobs are queued, once per kind of reason."""
        kind = "" if self.verdict.open or not len(self.backlog) else self.verdict.reason.split()[0]
        if not kind:
            self._closed_since = now
            if self._verdict_said:
                self.log.info("gate.opened")
            self._verdict_said = ""
        elif kind != self._verdict_said and now - self._closed_since >= 1.0:
            self._verdict_said = kind
            self.log.info("gate.closed", reason=self.verdict.reason, queued=len(self.backlog))

    def _say_left(self) -> None:
        left = {
            name: standing.reason for name, standing in self.backlog.aside() if standing.kind is Kind.LEFT
        }
        for name, reason in left.items():
            if self._told.get(name) != reason and len(self._told) < MOST_SAID:
                self.log.warning("entry.left", entry=job.shown(name), reason=reason)
                self._told[name] = reason
        for name in [name for name in self._told if name not in left]:
            del self._told[name]

    def _say_ended(self, record: Record) -> None:
        say = self.log.info if record.state is plan.State.DONE else self.log.warning
        say("job.ended", **_summary(record))


MOST_SAID = 200
"""How many entries that are left alone are named in the log."""


def _summary(record: Record) -> dict[str, Any]:
    line: dict[str, Any] = {"job": record.name, "id": record.id, "state": str(record.state)}
    if record.exit_code is not None:
        line["exit_code"] = record.exit_code
    if record.signal is not None:
        line["signal"] = plan.signal_name(record.signal)
    if record.started is not None:
        line["seconds"] = round((record.ended - record.started).total_seconds(), 3)
    if record.user_cpu is not None and record.system_cpu is not None:
        line["cpu"] = round(record.user_cpu + record.system_cpu, 3)
        line["max_rss"] = record.max_rss
    line["owner"] = record.owner
    line["attempt"] = record.attempt
    if record.reason:
        line["reason"] = record.reason
    line["archived"] = record.stem
    return line
