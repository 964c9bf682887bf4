"""Look: the spool, the processes and the machine into a frozen view for the plan.

What is told from outside (a report of the keeper, a nudge of the watch) only says where to look.
Where memory and disk may differ, the disk is read: an attempt in doubt stands as its ``status.N``
says.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import stat as modes
from collections import deque
from typing import TYPE_CHECKING

from pmjq import directives, ending, gates, job, plan, recovery
from pmjq.desk import OUTPUT_PAUSE, UNREAD, Doubt
from pmjq.entries import Entries
from pmjq.gates import Verdict
from pmjq.job import Status
from pmjq.lease import BEATS, CLAIMING
from pmjq.plan import Intent, Return, View
from pmjq.process import Ended, Started, Unkept, Unstarted, Vanished

if TYPE_CHECKING:
    from pmjq.desk import Desk
    from pmjq.job import Attempt
    from pmjq.outside import Outside
    from pmjq.process import Report
    from pmjq.ready import Stat

MOST_AT_ONCE = 64
"""How many jobs one plan starts at most: signals and ends are looked at in between."""

STATUS_PAUSE = 0.05
STATUS_PATIENCE = 2.0
"""Seconds for a keeper to write the pid of what it started, or for its child to become the job."""

CUT_OFF_PAUSE = 1.0
"""Seconds until it is looked whether the own heartbeat gets through again."""

UNVERIFIED_PAUSE = 1.0
"""Seconds until it is looked whether signatures can be verified again."""

GATE_PATIENCE = 1.0
"""Seconds that a gate stays closed before the log says so."""


class Look:
    """The looking of one life of a node."""

    def __init__(self, outside: Outside, desk: Desk) -> None:
        """Take what is looked at, and the desk that remembers it."""
        self.outside = outside
        self.desk = desk
        self._entries = Entries(outside, desk)
        self._reports: deque[Report] = deque()
        self._returned: set[tuple[str, int]] = set()
        self._verdict_said = ""
        self._closed_since: float | None = None
        self._outputs_at = 0.0

    def present(self) -> bool:
        """Tell whether the spool is there."""
        return self._entries.present()

    def view(self) -> View:
        """Return what a decision may use now; OSError if the spool cannot be looked at."""
        outside, desk = self.outside, self.desk
        now = outside.now()
        self._hear(now)
        if desk.outage:
            self._see_limits(now, files=False)
            grace = outside.settings.grace
            return View(now=now, intent=desk.intent, grace=grace, exceeding=desk.exceeding())
        if desk.doubtful:
            self._reload(now)
        if desk.doubts:
            # Who ended one of them must be known before its end is read.
            self._entries.hear()
        self._resolve(now)
        self._see_remains(now)
        self._see_limits(now)
        self._entries.refresh(now)
        room = self._room(now)
        replace = room > 0 or self._replaceable(now)
        # What is claimed ahead holds what it asks for before anything has come free.
        ahead = desk.ahead(now) if replace and not desk.recalled and not desk.packed() else 0
        waiting = (*desk.line.values(), *desk.claimed.values())
        wanted = plan.wanted(room + desk.allowed(), ahead, waiting)
        if outside.settings.limits.load is not None:
            # What is claimed counts as one job there, on however many CPUs it is to stand.
            wanted -= sum(desk.cpus_of(one.attempt) - 1 for one in waiting)
        # Who is cut off changes nothing: it may have been buried, and be about to find that out.
        earliest = now + CUT_OFF_PAUSE if self._cut_off() else 0.0
        pauses = outside.pauses
        return View(
            now=now,
            intent=desk.intent,
            grace=outside.settings.grace,
            room=room,
            ahead=ahead,
            replace=replace,
            executing=desk.executing(),
            allowed=desk.allowed(),
            most=desk.most,
            busy=desk.busy() > 0,
            candidates=tuple(self._entries.candidates(wanted, now)),
            line=() if desk.recalled else tuple(desk.line.values()),
            claimed=tuple(desk.claimed.values()),
            returning=tuple(desk.returning.values()),
            over=tuple(desk.over.values()),
            filing=() if earliest else outside.filing.due(desk.filing.values(), now),
            running=desk.stopping() if desk.intent is Intent.KILL else (),
            unwanted=desk.unwanted(),
            cancelling=desk.cancelling(),
            exceeding=desk.exceeding(),
            asked=desk.asked,
            claim_after=max(earliest, pauses.until("claim")),
            start_after=max(earliest, pauses.until("start")),
            end_after=max(earliest, pauses.until("end")),
            return_after=max(earliest, pauses.until("return")),
        )

    def _room(self, now: float) -> int:
        """Return how many jobs the gates let start."""
        outside, desk = self.outside, self.desk
        reading = UNREAD
        if outside.settings.limits.load is not None:
            reading = outside.reading()
            desk.contention = desk.contention.sampled(now, reading)
        desk.reading = reading
        if desk.intent is not Intent.RUN:
            return 0
        silent, lease = outside.silent(), outside.settings.lease
        if self._cut_off():
            desk.verdict = Verdict(
                open=False,
                reason=f"heartbeat has not got through for {silent:.0f} s (lease {lease:g} s)",
                again=lease / BEATS,
            )
            return 0
        if desk.drained:
            desk.verdict = Verdict(open=False, reason=f"drained by {desk.drained}; pmjq resume")
            self._say_verdict(now)
            return 0
        if outside.signers is not None and (reason := outside.signers.trouble()):
            desk.verdict = Verdict(open=False, reason=reason, again=UNVERIFIED_PAUSE)
            self._say_verdict(now)
            return 0
        most = min(MOST_AT_ONCE, len(desk.backlog) + len(desk.line) + len(desk.claimed) + 1)
        room, desk.verdict = gates.room(
            outside.settings.limits, reading, desk.forecast, desk.busy(), now, most
        )
        self._say_verdict(now)
        return room

    def _replaceable(self, now: float) -> bool:
        """Tell whether the gates would let another job start if one of ours ended."""
        desk, limits = self.desk, self.outside.settings.limits
        if desk.intent is not Intent.RUN or not desk.busy():
            return False
        if self._cut_off() or desk.drained:
            return False
        return gates.verdict(limits, desk.reading, desk.forecast, desk.busy() - 1, now).open

    def _cut_off(self) -> bool:
        """Tell whether this life's beat has not got through for so long that others may notice."""
        return self.outside.silent() >= CLAIMING * self.outside.settings.lease

    # -- the processes

    def _hear(self, now: float) -> None:
        """Take note of the reports of the processes; one that fails is heard again."""
        self._reports.extend(self.outside.processes.reports())
        while self._reports:
            self._heed(self._reports[0], now)
            self._reports.popleft()

    def _heed(self, report: Report, now: float) -> None:
        desk = self.desk
        match report:
            case Started((job_id, _), pid, at):
                desk.started(job_id, pid, at, now)
                post, run = self.outside.post, desk.running.get(job_id)
                if post is not None and run is not None:
                    post.began(self.outside.spool, run.attempt, at)
            case Ended((job_id, _), code, at, usage, alone, limit, enforced):
                run = desk.running.get(job_id)
                began = run.at if run else at
                status = Status(
                    started=began,
                    ended=at,
                    code=code,
                    usage=usage,
                    alone=alone,
                    limit=limit,
                    enforced=job.enforced(enforced),
                )
                desk.ended(job_id, status, now)
            case Unstarted((job_id, _), error, tried):
                self._unstarted(job_id, error, now, tried=tried)
            case Vanished((job_id, _)):
                desk.doubt(job_id, now)
            case Unkept(keys):
                self.outside.log.warning("keeper.lost", jobs=len(keys))
                for job_id, _ in keys:
                    desk.doubt(job_id, now)

    def _see_remains(self, now: float) -> None:
        leaders = self.desk.left_over()
        if leaders:
            for job_id in leaders.keys() - self.outside.processes.left(leaders):
                self.desk.gone(job_id, now)

    def _see_limits(self, now: float, *, files: bool = True) -> None:
        """Look which jobs are over a limit of their own; not ``files``: the spool is away."""
        files = files and now >= self._outputs_at
        if files:
            self._outputs_at = now + OUTPUT_PAUSE
        for run in self.desk.limited():
            spec = run.attempt.spec
            if (
                spec.time is not None
                and self.desk.undisturbed(run)
                and now >= run.since + spec.time
            ):
                self.desk.exceed(run, plan.TIME)
            elif spec.output_limit is not None and files and not run.flooding:
                with contextlib.suppress(OSError):
                    stat = self.outside.spool.out_stat(run.attempt)
                    if stat is not None and stat.st_size > spec.output_limit:
                        self.desk.exceed(run, plan.OUTPUT)

    def _unstarted(self, job_id: str, error: int, now: float, *, tried: bool) -> None:
        if error == errno.ECANCELED and not tried:
            self.desk.unlined(job_id)
            return
        self.desk.not_become(job_id)
        attempt = self.desk.come_to(job_id, now)
        if attempt is None:
            return
        if tried:
            wall = self.outside.wall()
            self._unexecuted(attempt, Status(error=error, started=wall, ended=wall))
        elif error == errno.EEXIST:
            self.desk.doubts[job_id] = Doubt(attempt, now, now)
        else:
            self.desk.claim(attempt)
            failure = OSError(error, os.strerror(error), attempt.name)
            self.outside.pauses.failed("start", failure)
        self.desk.unstarted(job_id, now)

    def _unexecuted(self, attempt: Attempt, status: Status, *, earlier: bool = False) -> None:
        """Decide what becomes of an attempt whose execve failed, maybe in an earlier life."""
        look = None
        with contextlib.suppress(BlockingIOError):
            # Its owner may keep it shut, by a lease.
            look = self.outside.spool.claimed(attempt)
        head = (look.head if look else None) or b""
        interpreter = directives.interpreter_of(head)
        fate = ending.unexecuted(
            attempt,
            status,
            head,
            interpreter=os.path.isfile(interpreter) and os.access(interpreter, os.X_OK),
            permitted=look is None or _executable(look.stat),
            native=_native(),
        )
        key = (attempt.name, look.stat.st_ino if look else 0)
        # On a shared file system nonsense may be the half of a program, and a server that refused
        # or lost the file for a moment looks like a fault of the job's own.
        doubtful = not self.outside.settings.rules.kernel_tells
        if isinstance(fate, Return):
            self.desk.returning[attempt.id] = fate
        elif earlier or (doubtful and key not in self._returned):
            # An earlier life's order may have come when the job had moved on already.
            self._returned.add(key)
            reason = "could not be executed, and is tried once more"
            self.desk.returning[attempt.id] = Return(attempt, reason, stopped=True)
        else:
            self.desk.over[attempt.id] = fate

    def _resolve(self, now: float) -> None:
        """Read from disk how the attempts in doubt stand."""
        for doubt in list(self.desk.doubts.values()):
            if doubt.again <= now:
                self._resolve_one(doubt, now)

    def _resolve_one(self, doubt: Doubt, now: float) -> None:
        attempt, desk, processes = doubt.attempt, self.desk, self.outside.processes
        spool = self.outside.spool
        uid = attempt.uid if self.outside.logins is not None else 0
        before = spool.status(attempt)
        # First who may still write it, then the status again: an end in between must be seen.
        key = (attempt.id, attempt.attempt)
        kept = before is not None and processes.keeps(key, before.keeper, before.keeper_start)
        status = spool.status(attempt)
        if status is None:
            # Nothing is in a spool that is not mounted, and it may have come back meanwhile.
            spool.check_present()
            status = spool.status(attempt)
        if status is None and not doubt.rebooted:
            desk.resolved(attempt)
            desk.claim(attempt)
        elif status is not None and status.void:
            desk.resolved(attempt)
            desk.returning[attempt.id] = Return(attempt, "was being returned")
        elif status is not None and status.code is not None:
            desk.resolved(attempt)
            if doubt.told is None and ending.stopped_unseen(attempt, status):
                reason = "was ended by a signal while nobody looked; it is restartable"
                desk.clear_away(attempt, status, now, reason)
            else:
                desk.finish(attempt, status, now, doubt.told)
        elif status is not None and status.error is not None:
            self._unexecuted(attempt, status, earlier=True)
            desk.resolved(attempt)
        elif status is None or doubt.rebooted:
            self._interrupted(doubt, status or Status(), now)
        elif status.pid and processes.adopt(key, status.pid, status.start, uid):
            self._point(attempt)
            desk.resolved(attempt)
            # Reading its status may have taken a while.
            desk.adopt(attempt, status, self.outside.now(), processes.age(status.start))
        elif not status.pid and (found := processes.find(attempt.id, uid)):
            self._adopt_found(attempt, found, uid)
        elif kept or (not status.pid and now - doubt.since < STATUS_PATIENCE):
            doubt.again = now + STATUS_PAUSE
        else:
            self._interrupted(doubt, status, now)

    def _adopt_found(self, attempt: Attempt, found: tuple[int, int], uid: int) -> None:
        pid, start = found
        if self.outside.processes.adopt((attempt.id, attempt.attempt), pid, start, uid):
            self._point(attempt)
            self.desk.resolved(attempt)
            age = self.outside.processes.age(start)
            status = Status(started=self.outside.wall() - age, pid=pid, start=start)
            self.desk.adopt(attempt, status, self.outside.now(), age)

    def _point(self, attempt: Attempt) -> None:
        """Have the path of an adopted directory job lead to where it is."""
        if attempt.spec.argv:
            with contextlib.suppress(OSError):
                self.outside.spool.point(attempt)

    def _interrupted(self, doubt: Doubt, status: Status, now: float) -> None:
        """Decide what becomes of an attempt that stopped, and nobody knows how."""
        attempt, desk = doubt.attempt, self.desk
        desk.resolved(attempt)
        if doubt.told is not None:
            desk.finish(attempt, status, now, doubt.told)
        elif attempt.spec.restartable and not ending.exceeded(attempt, status):
            reason = "was interrupted; it is restartable"
            if doubt.rebooted:
                desk.returning[attempt.id] = Return(attempt, reason, stopped=True, status=status)
            else:
                # Its first process is gone, which says nothing of the others.
                desk.clear_away(attempt, status, now, reason)
        else:
            desk.end(ending.outcome(attempt, status, why=doubt.reason))

    def _reload(self, now: float) -> None:
        for job_id in recovery.reload(self.outside.spool, self.desk, now):
            reason = "its file is not in this node's hands any more"
            self.outside.log.warning("job.fenced", id=job_id, reason=reason)
        self.desk.doubtful = False

    # -- what to say

    def _say_verdict(self, now: float) -> None:
        """Log a gate that stays closed while jobs are queued, once per kind of reason."""
        desk, log = self.desk, self.outside.log
        queued = len(desk.backlog)
        kind = "" if desk.verdict.open or not queued else desk.verdict.reason.split()[0]
        if not kind:
            self._closed_since = None
            if self._verdict_said:
                log.info("gate.opened")
            self._verdict_said = ""
        elif self._closed_since is None:
            self._closed_since = now
        elif kind != self._verdict_said and now - self._closed_since >= GATE_PATIENCE:
            self._verdict_said = kind
            log.info("gate.closed", reason=desk.verdict.reason, queued=queued)


def _executable(stat: Stat) -> bool:
    """Tell whether a mode lets this user execute a file; access(2) would speak of the mount too."""
    if os.geteuid() == 0 and stat.st_uid != 0:
        # It is executed as its owner.
        bits = modes.S_IXUSR
    elif os.geteuid() == 0:
        bits = modes.S_IXUSR | modes.S_IXGRP | modes.S_IXOTH
    elif stat.st_uid == os.geteuid():
        bits = modes.S_IXUSR
    elif stat.st_gid in {os.getegid(), *os.getgroups()}:
        bits = modes.S_IXGRP
    else:
        bits = modes.S_IXOTH
    return bool(stat.st_mode & bits)


@functools.cache
def _native() -> bytes:
    """Return the first bytes of the program that this process is."""
    try:
        with open("/proc/self/exe", "rb") as file:
            return file.read(directives.MACHINE.stop)
    except OSError:
        return b""
