"""Act: carry out what the plan says, one call each.

An action may fail: a race is lost, a disk is full. That is no error here; what is true is seen
with the next look. The actions of one plan are done together, so that many jobs share one sync
and one message.
"""

from __future__ import annotations

import contextlib
import errno
import shutil
import uuid
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec

from pmjq import job, plan, probe, ready, retries
from pmjq.desk import Doubt
from pmjq.directives import Refusal
from pmjq.examination import STALE
from pmjq.job import FIRST, Attempt, Event, Spec
from pmjq.keys import ALL_CPUS
from pmjq.plan import Claim, End, File, LineUp, Pace, Recall, Return, Start, Stop
from pmjq.process import Order
from pmjq.ready import Kind, Standing
from pmjq.state import State

if TYPE_CHECKING:
    from pmjq.desk import Desk
    from pmjq.job import Again, Record
    from pmjq.outside import Outside
    from pmjq.plan import Action, Candidate, Over

Prepared = tuple["Candidate", Attempt]
"""A claim that is prepared: what is claimed, and its paperwork."""

CANNOT_MOVE = frozenset({errno.EPERM, errno.EACCES, errno.EBUSY, errno.EXDEV})
"""Errors of a rename that are this one entry's: its owner, a mount, the quota of a project."""

DENIED = CANNOT_MOVE | {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
"""Errors after which a rename is not carried out later: the answer came, and it was no."""

STUCK = 2
"""Claims that fail before those after them are not tried: the fault is not theirs."""

BEHIND = 1.0
"""Seconds by which an entry that could not be moved is tried after others."""


class Act:
    """The acting of one life of a node."""

    def __init__(self, outside: Outside, desk: Desk) -> None:
        """Take what is acted on, and the desk that remembers it."""
        self.outside = outside
        self.desk = desk

    def carry_out(self, actions: list[Action]) -> None:
        """Carry out the actions of one plan: starts first, filing last."""
        starts: list[Attempt] = []
        line: list[Attempt] = []
        most: int | None = None
        claims: list[Candidate] = []
        overs: list[Over] = []
        rest: list[Return | File] = []
        for action in actions:
            match action:
                case Start(attempt):
                    starts.append(attempt)
                case LineUp(attempt):
                    line.append(attempt)
                case Pace(most):
                    pass
                case Recall():
                    self._recall()
                case Claim(candidate):
                    claims.append(candidate)
                case End(over):
                    overs.append(over)
                case Stop():
                    self._stop(action)
                case Return() | File():
                    rest.append(action)
        if starts or line or most is not None:
            self._start(starts, line, self.desk.most if most is None else most)
        prepared = self._prepare(claims)
        overs = [over for over in overs if self._surely_over(over)]
        if (overs or prepared) and self._make_durable(overs, prepared):
            self._claim(prepared)
            self._move_ended(overs)
        for action in rest:
            if isinstance(action, Return):
                self._give_back(action)
            else:
                self._file(action.record)

    def _surely_over(self, over: Over) -> bool:
        """Keep a job that is cancelled before its start from starting late; False if it did."""
        if over.state is not State.CANCELLED or over.sure or over.status.started is not None:
            return True
        attempt, desk, now = over.attempt, self.desk, self.outside.now()
        try:
            if self.outside.spool.void(attempt):
                return True
            desk.drop(attempt.id)
            desk.doubts[attempt.id] = Doubt(attempt, now, now)
        except OSError as error:
            self.outside.pauses.failed("end", error)
        return False

    def _start(self, starts: list[Attempt], line: list[Attempt], most: int) -> None:
        """Have attempts executed: some now, some as soon as fewer than ``most`` run."""
        outside, desk = self.outside, self.desk
        now = outside.now()
        try:
            orders = [self._order(attempt) for attempt in starts]
            lined = [self._order(attempt) for attempt in line]
        except OSError as error:
            outside.pauses.failed("start", error)
            desk.doubtful = True
            return
        for attempt in starts:
            desk.launch(attempt, now)
        for attempt in line:
            desk.line_up(attempt)
        desk.most = most
        try:
            outside.processes.start(orders, lined, most)
        except OSError as error:
            outside.pauses.failed("start", error)
            for attempt in (*starts, *line):
                desk.doubt(attempt.id, now)
        else:
            outside.pauses.worked("start")

    def _recall(self) -> None:
        try:
            self.outside.processes.recall()
        except OSError as error:
            # The keeper is full, or gone, which it tells by itself.
            self.outside.pauses.failed("start", error)
        else:
            self.desk.recall()

    def _order(self, attempt: Attempt) -> Order:
        spool, settings = self.outside.spool, self.outside.settings
        places = spool.places(attempt)
        if attempt.earlier:
            # Here too: a life that died after its claim has not come to it.
            spool.come_back(attempt)
        environment = settings.environment | {
            "PMJQ_ID": attempt.id,
            "PMJQ_NAME": job.real_name(attempt.name, attempt.name_hex),
            "PMJQ_NODE": settings.node,
            "PMJQ_SPOOL": spool.root,
            "PMJQ_ATTEMPT": str(attempt.attempt),
            "PMJQ_OWNER": attempt.owner,
            "TMPDIR": places.work,
            "PWD": places.work,
        }
        spec, work = attempt.spec, places.work
        environment |= dict(one.split("=", 1) for one in spec.env)
        if spec.argv:
            work = environment["PWD"] = places.executable
            environment["NB_PROC"] = str(self._cpus(spec))
            argv = [self._program(work, spec.argv[0], environment["PATH"]), *spec.argv[1:]]
        else:
            argv = ["/bin/sh", places.executable] if spec.shell else [places.executable]
        if spec.directory and self._is_directory(spec.directory):
            work = environment["PWD"] = spec.directory
        elif spec.directory:
            # The job says by itself what is wrong with it.
            argv = ["/bin/sh", "-c", 'cd -- "$0" && exec "$@"', spec.directory, *argv]
        return Order(
            (attempt.id, attempt.attempt),
            argv[0],
            argv,
            work,
            places.out,
            places.status,
            environment,
        )

    def _is_directory(self, path: str) -> bool:
        try:
            stat = self.outside.spool.disk.stat(path)
        except OSError:
            return False
        return stat is not None and ready.is_directory(stat)

    def _program(self, directory: str, word: str, path: str) -> str:
        """Return the path of a directory job's program: in the directory, else on PATH."""
        if "/" in word:
            return word
        if self.outside.spool.disk.stat(f"{directory}/{word}") is not None:
            return f"./{word}"
        return shutil.which(word, path=path) or word

    @staticmethod
    def _cpus(spec: Spec) -> int:
        """Return how many CPUs a job has asked for."""
        return probe.usable_cpus() if spec.cpus == ALL_CPUS else spec.cpus or 1

    def _prepare(self, candidates: list[Candidate]) -> list[Prepared]:
        """Make the paperwork of claims."""
        outside = self.outside
        prepared: list[Prepared] = []
        for candidate in candidates:
            attempt = self._attempt(candidate)
            try:
                outside.spool.prepare_claim(attempt)
            except OSError as error:
                self.desk.doubtful = True
                outside.pauses.failed("claim", error)
                break
            prepared.append((candidate, attempt))
        return prepared

    def _make_durable(self, overs: list[Over], prepared: list[Prepared]) -> bool:
        """Sync outcomes, and claims that are about to be made, all at once; False if that failed.

        So an outcome is never lost, and a claim that survives a power cut always has its papers.
        """
        outside, desk = self.outside, self.desk
        wall = outside.wall()
        ends = [(over, over.durable or self._record(over, wall)) for over in overs]
        events = [Event("claim.prepared", one.claimed, attempt=one) for _, one in prepared]
        events += [
            Event("job.ended", record.ended, record=record)
            for over, record in ends
            if over.durable is None
        ]
        try:
            if events:
                outside.spool.append(events)
        except OSError as error:
            desk.doubtful = True
            if overs:
                outside.pauses.failed("end", error)
            if prepared:
                outside.pauses.failed("claim", error)
            self._drop_papers(prepared)
            return False
        for over, record in ends:
            desk.claimed.pop(record.id, None)
            desk.returning.pop(record.id, None)
            desk.over[record.id] = replace(over, durable=record)
        return True

    def _record(self, over: Over, wall: float) -> Record:
        if over.written is not None:
            # Its archived name is the same, whoever files it.
            record = msgspec.structs.replace(over.written, node=self.outside.settings.node)
        else:
            record = job.record(over.attempt, over.status, over.state, wall, over.reason)
        return self.outside.filing.archive.addressed(record)

    def _drop_papers(self, prepared: list[Prepared]) -> None:
        """Remove the papers of claims that were not made; what stays goes at the next start."""
        for candidate, attempt in prepared:
            with contextlib.suppress(OSError):
                self.outside.spool.clear(attempt.id, attempt.attempt, candidate.name)

    def _claim(self, prepared: list[Prepared]) -> None:
        """Claim what is prepared, and make the claims durable before anything is started."""
        if not prepared:
            return
        outside, desk = self.outside, self.desk
        claimed: list[Attempt] = []
        stuck: list[tuple[Prepared, OSError]] = []
        untried = list(prepared)
        while untried and len(stuck) < STUCK:
            one = untried.pop(0)
            try:
                if self._claim_one(*one):
                    claimed.append(one[1])
            except OSError as error:
                stuck.append((one, error))
        self._drop_papers(untried)
        try:
            outside.spool.sync_claims()
        except OSError as error:
            desk.doubtful = True
            outside.pauses.failed("claim", error)
            for attempt in claimed:
                reason = "its claim could not be made durable"
                desk.returning[attempt.id] = Return(attempt, reason)
            return
        for attempt in claimed:
            desk.claim(attempt, outside.now())
        if claimed or not stuck:
            outside.pauses.worked("claim")
        for (candidate, attempt), failure in stuck:
            self._unclaimed(candidate, attempt, failure, others=bool(claimed))

    def _claim_one(self, candidate: Candidate, attempt: Attempt) -> bool:
        """Claim an entry; False if it is not to be had, or not as it was examined.

        OSError: it could not be moved, and is where it was.
        """
        spool, backlog = self.outside.spool, self.desk.backlog
        won = spool.claim(attempt)
        backlog.forget(candidate.name)
        if not spool.local:
            until = self.outside.now() + STALE
            self.desk.departed[candidate.name] = (candidate.stat.st_ino, until)
        self.desk.won += won
        self.desk.contended += not won
        if not won:
            self._drop_papers([(candidate, attempt)])
            return False
        stat = None
        with contextlib.suppress(OSError):
            stat = spool.claimed_stat(attempt)
        if candidate.again is not None or retries.may_come_back(candidate.verdict):
            again, reason = self._remembered(candidate), ""
            if again is None:
                # As the first, so that what is remembered stays as it is.
                again, reason = FIRST, "what is remembered of it cannot be read"
            elif again != (candidate.again or FIRST):
                reason = "has been tried meanwhile"
            if reason:
                self.desk.returning[attempt.id] = Return(attempt, reason, again=again)
                return False
            self.desk.back.discard(candidate.name)
            with contextlib.suppress(OSError):
                spool.forget(candidate.name)
        if stat is not None and ready.unchanged(candidate.stat, stat):
            return True
        # Changed between the look and the claim: give it back, to be looked at as it is.
        self.desk.returning[attempt.id] = Return(attempt, "changed while it was being claimed")
        return False

    def _remembered(self, candidate: Candidate) -> Again | None:
        """Return what is remembered of a job that is claimed: nobody else changes it any more.

        None if it cannot be read. Some file systems show an old listing, others for a while none
        but what they have been asked for before: both are tried.
        """
        spool, name = self.outside.spool, candidate.name
        try:
            known = name in spool.again_names()
            found = spool.again(name, candidate.stat, known=known)
        except OSError:
            if candidate.torn:
                return FIRST
            self.desk.back.add(name)
            return None
        if found is None:
            self.desk.back.discard(name)
            return FIRST
        self.desk.back.add(name)
        return found

    def _unclaimed(
        self, candidate: Candidate, attempt: Attempt, error: OSError, *, others: bool
    ) -> None:
        """Put an entry aside that could not be moved, and find out whether others can be.

        ``others``: some have been, together with it. One of which nobody knows yet whether it is
        its own fault stays on its way in: the others come first once claims are tried again.
        """
        outside, desk = self.outside, self.desk
        now, name, stat = outside.now(), candidate.name, candidate.stat
        if error.errno in DENIED and self._not_moved(attempt):
            self._drop_papers([(candidate, attempt)])
        else:
            desk.doubtful = True
        why = error.strerror or str(error)
        reason = f"cannot be moved ({why}); remove it, or let this user move it"
        if others or error.errno in CANNOT_MOVE or desk.backlog.outdone(name, stat, desk.won):
            standing = Standing(Kind.LEFT, reason)
        else:
            outside.pauses.failed("claim", error)
            again = outside.pauses.until("claim") - now + BEHIND
            standing = Standing(Kind.INCOMING, reason, again)
        desk.backlog.refuse(name, stat, standing, now, desk.won)

    def _not_moved(self, attempt: Attempt) -> bool:
        with contextlib.suppress(OSError):
            return attempt.id not in self.outside.spool.running()
        return False

    def _attempt(self, candidate: Candidate) -> Attempt:
        """Return the next attempt of a job."""
        stat, verdict, name = candidate.stat, candidate.verdict, candidate.name
        again = candidate.again or FIRST
        return Attempt(
            id=str(uuid.uuid4()),
            name=job.shown(name),
            name_hex=job.exact(name),
            attempt=again.attempt,
            owner=self.outside.owner(stat.st_uid),
            uid=stat.st_uid,
            node=self.outside.settings.node,
            token=self.outside.spool.token,
            queued=job.moment(stat.st_ctime_ns / 1e9),
            claimed=job.moment(self.outside.wall()),
            spec=Spec() if isinstance(verdict, Refusal) else verdict,
            refused=verdict.reason if isinstance(verdict, Refusal) else "",
            cancelled=isinstance(verdict, Refusal) and verdict.cancels,
            tries=again.tries,
            earlier=again.earlier,
        )

    def _move_ended(self, overs: list[Over]) -> None:
        """Move jobs whose outcome is durable to the ended ones."""
        failed: OSError | None = None
        for over in overs:
            try:
                self._move_one(self.desk.over[over.attempt.id])
            except OSError as error:
                # One that cannot be moved holds no other up.
                failed = error
        if failed is not None:
            self.desk.doubtful = True
            self.outside.pauses.failed("end", failed)
        elif overs:
            self.outside.pauses.worked("end")

    def _move_one(self, over: Over) -> None:
        desk, log, record = self.desk, self.outside.log, over.durable
        if record is None:
            return
        moved = self.outside.spool.end(record)
        desk.drop(record.id)
        if not moved:
            reason = "another node has taken it over"
            log.warning("job.fenced", job=record.name, id=record.id, reason=reason)
            return
        desk.filing[record.id] = record
        if desk.asked.pop(record.id, None) is not None:
            with contextlib.suppress(OSError):
                self.outside.spool.answered("cancel", record.id)
        if over.status.alone:
            self.outside.filing.alone.add(record.id)
        say = log.info if record.state is State.DONE else log.warning
        say("job.ended", **_summary(record))

    def _give_back(self, action: Return) -> None:
        attempt, spool, desk = action.attempt, self.outside.spool, self.desk
        now = self.outside.now()
        try:
            if not action.stopped and not spool.void(attempt):
                # An order that was on its way has started it after all.
                desk.drop(attempt.id)
                desk.doubts[attempt.id] = Doubt(attempt, now, now)
                return
            if spool.is_asked("cancel", attempt.id):
                # Somebody has just asked for its end, which is decided on by the next plan.
                desk.nudges.append(None)
                return
            name = spool.give_back(attempt, retries.following(action, self.outside.wall()))
        except OSError as error:
            desk.doubtful = True
            self.outside.pauses.failed("return", error)
            return
        desk.drop(attempt.id)
        self.outside.pauses.worked("return")
        log = self.outside.log
        for left in spool.left_behind():
            log.warning("paperwork.left", **left._asdict())
        if name is None:
            reason = "another node has taken it over"
            log.warning("job.fenced", job=attempt.name, id=attempt.id, reason=reason)
            return
        desk.departed.pop(name, None)
        desk.nudges.append(name)
        log.info("job.returned", job=job.shown(name), id=attempt.id, reason=action.reason)

    def _file(self, record: Record) -> None:
        if self.outside.filing.file(record, self.outside.now()):
            self.desk.filing.pop(record.id, None)

    def _stop(self, stop: Stop) -> None:
        now, log = self.outside.now(), self.outside.log
        log.info("jobs.signalled", jobs=len(stop.runs), signal=plan.signal_name(stop.signal))
        for run in stop.runs:
            self.desk.tell(run, now)
        self.outside.processes.signal({run.attempt.id: run.pid for run in stop.runs}, stop.signal)


def _summary(record: Record) -> dict[str, Any]:
    """Return the keys of the one canonical line about a job's end."""
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
    line |= {"owner": record.owner, "attempt": record.attempt}
    if record.reason:
        line["reason"] = record.reason
    line["archived"] = record.stem
    return line
