"""The jobs that this life of the node has, by state: memory of what the disk says.

An attempt is in exactly one of these places, as its job file is in exactly one place on disk. All
of it can be thrown away and read again from the spool (``pmjq.recovery``); nothing is true
because it stands here.

The load gate's view of our own jobs is kept beside them, since it changes with the same events.
"""

from __future__ import annotations

import signal
from collections import Counter, deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pmjq import ending, packing, plan, retries
from pmjq.backlog import Backlog
from pmjq.devices import Devices
from pmjq.gates import OPEN, Contention, Forecast
from pmjq.job import Status
from pmjq.node import Reading
from pmjq.packing import Capacity, Packing
from pmjq.plan import Claimed, Intent, Over, Return, Run
from pmjq.state import State

if TYPE_CHECKING:
    from pmjq.job import Attempt, Record
    from pmjq.ready import Rules


UNREAD = Reading(load=0.0, runnable=1, cpus=1)
"""Stands for a look at the machine where no gate asks for one."""

MOST_AHEAD = 32
"""How many jobs are claimed ahead at most."""

SOON = 0.001
"""Seconds until work goes on that was interrupted for other work."""

HESITATION = 0.1
"""Seconds until entries are looked at again that other nodes come before with."""

PEEK_PAUSE = 0.1
"""Seconds between two looks for priorities in a queue that has not been read through."""

REMAINS_PAUSE = 0.1
"""Seconds between two looks for what is left of jobs that were told to stop."""

OUTPUT_PAUSE = 0.5
"""Seconds between two looks at how much a job has written that has a limit for it."""

SHORT = 0.25
"""Seconds: only jobs that took less tell that the next ones will be over soon as well."""

JUST_NOW = 0.1
"""Seconds after which an end does not tell any more that another is near."""


@dataclass(slots=True)
class Doubt:
    """An attempt of which only its status on disk tells how it stands.

    ``again``: when to read it next. ``told``: how it ran, if it was told to stop. ``reason``: why
    it was taken over from another life.
    """

    attempt: Attempt
    since: float
    again: float
    rebooted: bool = False
    told: Run | None = None
    reason: str = ""


@dataclass(slots=True)
class Remains:
    """A job whose first process has ended, and others may be left.

    It was told to stop, or is to run again for this ``reason``.
    """

    run: Run
    status: Status
    reason: str = "stopped with the daemon; it is restartable"


class Desk:
    """The attempts in hand, by id."""

    def __init__(self, rules: Rules, capacity: Capacity | None = None) -> None:
        """Start with nothing in hand; ``rules`` say which entries of the spool are jobs.

        ``capacity``: what the node has for jobs.
        """
        self.backlog = Backlog(rules)
        self.nudges: deque[str | None] = deque()
        self.intent = Intent.RUN
        self.verdict = OPEN
        self.reading = UNREAD
        self.doubtful = False
        self.scanned = False
        self.living: list[str] = []
        self.won = self.contended = 0
        self.signatures: Counter[str] = Counter()
        self.departed: dict[str, tuple[int, float]] = {}
        self.unseen = 0
        self.unread = 0
        self.hesitates = self.unfinished = False
        self.polled = 0.0
        self.outage = ""
        self.fenced: set[str] = set()
        self.strays: dict[str, Run] = {}
        self.stray_remains: dict[str, Run] = {}
        self.silenced: set[str] = set()
        self._limited: dict[str, None] = {}
        self.packing = Packing(capacity or Capacity())
        self.devices = Devices(self.packing.capacity)
        self.asked: dict[str, str] = {}
        self.drained = ""
        self.back: set[str] = set()
        self.rescan_at = 0.0
        self.claimed: dict[str, Claimed] = {}
        self.line: dict[str, Claimed] = {}
        self.most = 0
        self.recalled = False
        self.starting: dict[str, Attempt] = {}
        self.running: dict[str, Run] = {}
        self.remains: dict[str, Remains] = {}
        self.doubts: dict[str, Doubt] = {}
        self.over: dict[str, Over] = {}
        self.returning: dict[str, Return] = {}
        self.filing: dict[str, Record] = {}
        self.forecast = Forecast()
        self.contention = Contention()
        self._ends: deque[float] = deque(maxlen=MOST_AHEAD)

    def __contains__(self, job_id: str) -> bool:
        """Tell whether an attempt of this job is in hand.

        Ended ones that are to be filed do not count.
        """
        return any(job_id in place for place in self._places())

    def attempt(self, job_id: str) -> Attempt | None:
        """Return the attempt of a job that is in hand, None if there is none."""
        if job_id in self.remains:
            return self.remains[job_id].run.attempt
        held = (self.running, self.line, self.claimed, self.doubts, self.over, self.returning)
        found = next((place[job_id].attempt for place in held if job_id in place), None)
        return self.starting.get(job_id, found)

    def in_hand(self) -> set[str]:
        """Return the ids of the jobs whose file is in this life's ``run/``."""
        return set().union(*self._places())

    def busy(self) -> int:
        """Return how many slots are taken: what runs, is about to, or may."""
        known = self.executing() + self.allowed() + len(self.remains)
        return known + len(self.doubts) + len(self.strays) + len(self.stray_remains)

    def pack(self, now: float) -> None:
        """Begin to place jobs beside those that are in hand."""
        self.packing.begin(self._held(), now, self._holds, self._gpus())

    def packed(self) -> bool:
        """Tell whether any job in hand asks for CPUs, memory or GPUs."""
        return self.packing.asking(self._holds)

    def making_room(self, now: float) -> list[str]:
        """Return the names of jobs that did not fit, and may do so by now."""
        return self.packing.woken(self._held(), now, self._holds, self._gpus())

    def hold(self, attempt: Attempt) -> None:
        """Take note of what a job in hand asks for and was given."""
        self.packing.hold(attempt.id, attempt.spec)
        self.devices.hold(attempt)

    def spare(self) -> None:
        """Take back the devices of which nobody has anything any more."""
        others = (self.strays, self.stray_remains, self.fenced)
        self.devices.forget(lambda job_id: job_id in self or any(job_id in each for each in others))

    def _gpus(self) -> int:
        """Return how many GPUs are not free."""
        self.spare()
        return self.devices.gpus.taken()

    def _held(self) -> int:
        """Return how many jobs hold what they ask for."""
        return self.busy() - self.allowed() + len(self.line) + len(self.claimed)

    def _holds(self, job_id: str) -> bool:
        held = (self.claimed, self.line, self.starting, self.running, self.remains, self.doubts)
        return any(job_id in place for place in (*held, self.strays, self.stray_remains))

    def cpus_of(self, attempt: Attempt) -> int:
        """Return on how many CPUs a job stands, as far as the forecast knows: at least one."""
        return packing.counted(attempt.spec, self.packing.capacity)

    def executing(self) -> int:
        """Return how many jobs run, or are on their way to."""
        return len(self.running) + len(self.starting)

    def allowed(self) -> int:
        """Return how many jobs of the line the keeper may be starting just now."""
        return min(len(self.line), max(0, self.most - self.executing()))

    def stopping(self) -> tuple[Run, ...]:
        """Return what is to be stopped when the daemon stops by killing."""
        return (*self.running.values(), *(remains.run for remains in self.remains.values()))

    def tell(self, run: Run, now: float, *, killed: bool = False) -> None:
        """Take note that a job was told to stop; ``killed``: by KILL."""
        job_id, told = run.attempt.id, replace(run, told=now, killed=run.killed or killed)
        if job_id in self.running:
            self.running[job_id] = told
        elif job_id in self.remains:
            self.remains[job_id].run = told
        elif job_id in self.strays:
            self.strays[job_id] = told
        elif job_id in self.stray_remains:
            self.stray_remains[job_id] = told

    def cancelling(self) -> tuple[Run, ...]:
        """Return what runs and is asked to end."""
        runs = (*self.running.values(), *(remains.run for remains in self.remains.values()))
        return tuple(run for run in runs if run.attempt.id in self.asked)

    def limited(self) -> list[Run]:
        """Return what is here of jobs that have a limit of their own."""
        runs = []
        for job_id in list(self._limited):
            remains = self.remains.get(job_id)
            run = self.running.get(job_id) or (remains.run if remains else None)
            if run is None:
                del self._limited[job_id]
            else:
                runs.append(run)
        return runs

    def undisturbed(self, run: Run) -> bool:
        """Tell whether a job runs as it likes: nobody has told it to end, or asked for its end."""
        job_id = run.attempt.id
        return run.told is None and job_id not in self.asked and job_id not in self.silenced

    def exceed(self, run: Run, limit: str) -> None:
        """Take note that a job is over a limit of its own; if it ends anyway, not for that."""
        job_id = run.attempt.id
        blamed = limit if self.undisturbed(run) else run.limit
        over = replace(run, limit=blamed, flooding=run.flooding or limit == plan.OUTPUT)
        if job_id in self.running:
            self.running[job_id] = over
        elif job_id in self.remains:
            self.remains[job_id].run = over

    def exceeding(self) -> tuple[Run, ...]:
        """Return what is to be ended for a limit of its own; not what is asked to end anyway."""
        return tuple(
            run
            for run in self.limited()
            if (run.limit or run.flooding) and run.attempt.id not in self.asked
        )

    def unwanted(self) -> tuple[Run, ...]:
        """Return what still runs of jobs that are to run again: here, or as another life's."""
        here = () if self.intent is Intent.KILL else self.remains.values()
        runs = (one.run for one in here if not one.run.limit and not one.run.flooding)
        again = tuple(run for run in (*self.strays.values(), *runs) if run.attempt.spec.restartable)
        return (*again, *self.stray_remains.values())

    def send_back(self, back: Return) -> None:
        """Have a claimed job returned to the queue in place of whatever was to become of it."""
        self.drop(back.attempt.id)
        self.returning[back.attempt.id] = back

    def suspect(self, attempt: Attempt, now: float) -> None:
        """Take note that an attempt may have been started after all: its status tells."""
        self.drop(attempt.id)
        self.doubts[attempt.id] = Doubt(attempt, now, now)

    def restartable(self) -> dict[str, int]:
        """Return what may run, now or soon, and run again elsewhere: pids by id, 0 if not known.

        May be called from any thread: what a turn that hangs has not heard of yet may run as well.
        """
        runs = {run.attempt.id: (run.attempt, run.pid) for run in list(self.running.values())}
        others = [*list(self.starting.values()), *(one.attempt for one in list(self.line.values()))]
        others += [doubt.attempt for doubt in list(self.doubts.values())]
        others += [one.run.attempt for one in list(self.remains.values())]
        runs = {each.id: (each, 0) for each in others} | runs
        return {job_id: pid for job_id, (each, pid) in runs.items() if each.spec.restartable}

    def inherit(self, old: Desk, now: float) -> None:
        """Take over what an earlier life of this very daemon knew.

        That is how jobs ended that are still ours, and what still runs of those that are another's
        now: it takes its slots until it ends.
        """
        for job_id, over in old.over.items():
            if self.doubts.pop(job_id, None) is not None:
                self.over[job_id] = over
        for job_id, back in old.returning.items():
            if back.stopped and self.doubts.pop(job_id, None) is not None:
                self.returning[job_id] = back
        told = {job_id: one.run for job_id, one in old.remains.items()}
        told |= {
            job_id: run
            for job_id, run in old.running.items()
            if run.told is not None or job_id in old.silenced
        }
        for job_id, run in told.items():
            if job_id in self.doubts:
                # Whoever told it to stop knows why it ended.
                self.doubts[job_id].told = replace(run, told=now)
        self.silenced = old.silenced
        starting = {each.id: Run(each, 0, 0.0, now) for each in old.starting.values()}
        remains = {job_id: one.run for job_id, one in old.remains.items()}
        for job_id, run in (*starting.items(), *old.running.items(), *remains.items()):
            if job_id not in self:
                self.strays[job_id] = run
        self.strays = {**old.strays, **self.strays}
        self.stray_remains = old.stray_remains
        self.fenced |= old.fenced
        self.packing.inherit(old.packing)
        self.devices.inherit(old.devices)
        self.signatures = old.signatures

    def silence(self, job_ids: set[str]) -> None:
        """Take note that jobs were told to stop since this node's heartbeat does not get through.

        May be called from any thread.
        """
        self.silenced |= job_ids

    def ahead(self, now: float) -> int:
        """Return how many jobs are worth claiming before there is room for them.

        As many as ended just now: a claim takes a sync. Where jobs are short, a slot that becomes
        free need not wait for it; where they are long, nothing is claimed ahead, so that a job
        stays in the queue for whoever is first to have room.
        """
        return sum(1 for end in self._ends if now - end < JUST_NOW)

    def line_up(self, attempt: Attempt) -> None:
        """Take note that the keeper is to start an attempt as soon as another ends."""
        self.line[attempt.id] = self.claimed.pop(attempt.id)

    def recall(self) -> None:
        """Take note that the keeper was told to start nothing more of the line."""
        self.most, self.recalled = 0, True

    def unlined(self, job_id: str) -> None:
        """Take note that an attempt stands in line no more; it is claimed as before."""
        claimed = self.line.pop(job_id, None)
        if claimed is not None:
            self.claimed[job_id] = claimed
        self.recalled = self.recalled and bool(self.line)

    def come_to(self, job_id: str, now: float) -> Attempt | None:
        """Return the attempt that the keeper starts or tried to start, if it is one of ours."""
        claimed = self.line.get(job_id)
        if claimed is not None:
            self.launch(claimed.attempt, now)
        return self.starting.get(job_id)

    def claim(self, attempt: Attempt, now: float | None = None) -> None:
        """Take note of a claim; ``now``: one made just now, None: one that was found."""
        self.claimed[attempt.id] = Claimed(attempt, now)
        self.hold(attempt)

    def launch(self, attempt: Attempt, now: float) -> None:
        """Take note that the keeper was told to start an attempt."""
        self.claimed.pop(attempt.id, None)
        self.line.pop(attempt.id, None)
        self.recalled = self.recalled and bool(self.line)
        self.starting[attempt.id] = attempt
        self.forecast = self.forecast.started(now, self.cpus_of(attempt))

    def started(self, job_id: str, pid: int, at: float, now: float) -> None:
        """Take note that an attempt runs."""
        self.come_to(job_id, now)
        attempt = self.starting.pop(job_id, None)
        if attempt is not None:
            self.running[job_id] = Run(attempt, pid, at, now)
            self._watch(attempt)

    def not_become(self, job_id: str) -> None:
        """Take note that what ran for a moment never became the job."""
        run = self.running.pop(job_id, None)
        if run is not None:
            self.starting[job_id] = run.attempt

    def unstarted(self, job_id: str, now: float) -> Attempt | None:
        """Take note that an attempt was not started."""
        self.come_to(job_id, now)
        attempt = self.starting.pop(job_id, None)
        if attempt is not None:
            self.forecast = self.forecast.ended(now, 0.0, None, 1.0, self.cpus_of(attempt))
        return attempt

    def adopt(self, attempt: Attempt, status: Status, now: float, age: float) -> None:
        """Take note of a process that was found running; ``age``: for so many seconds."""
        self.running[attempt.id] = Run(attempt, status.pid, status.started or 0.0, now - age)
        self.hold(attempt)
        self._watch(attempt)
        self.forecast = self.forecast.adopted(now, age, self.cpus_of(attempt))

    def _watch(self, attempt: Attempt) -> None:
        if attempt.spec.time is not None or attempt.spec.output_limit is not None:
            self._limited[attempt.id] = None

    def ended(self, job_id: str, status: Status, now: float) -> None:
        """Take note that the process of an attempt has ended, or that nobody knows how it did."""
        if self._stray_ended(job_id):
            return
        self.come_to(job_id, now)
        run = self.running.pop(job_id, None)
        attempt = run.attempt if run else self.starting.pop(job_id, None)
        if attempt is None:
            return
        if run is not None and run.told is None and job_id in self.silenced:
            run = replace(run, told=now)
        self.silenced.discard(job_id)
        duration = now - run.since if run else 0.0
        if duration < SHORT:
            self._ends.append(now)
        usage = status.usage
        cpu = usage.user_cpu + usage.system_cpu if usage else None
        factor, cpus = self.contention.factor, self.cpus_of(attempt)
        self.forecast = self.forecast.ended(now, duration, cpu, factor, cpus)
        told = run if run is not None and run.told is not None else None
        self.finish(attempt, status, now, told)

    def finish(self, attempt: Attempt, status: Status, now: float, told: Run | None) -> None:
        """Take note that a job's first process is gone; one told to stop ends with its tree."""
        if told is None:
            self.settle(attempt, status, now)
        else:
            self.remains[attempt.id] = Remains(told, status)

    def clear_away(self, attempt: Attempt, status: Status, now: float, reason: str) -> None:
        """Have an interrupted job returned as soon as nothing is left of it; what is left is ended.

        Its first process may be gone for long, and have left its number to a stranger.
        """
        run = Run(attempt, 0, status.started or 0.0, now)
        self.remains[attempt.id] = Remains(run, status, reason)

    def left_over(self) -> dict[str, int]:
        """Return of which jobs something may be left: pids of their first processes, by id."""
        pids = {job_id: one.run.pid for job_id, one in self.remains.items()}
        return pids | {job_id: run.pid for job_id, run in self.stray_remains.items()}

    def gone(self, job_id: str, now: float) -> None:
        """Take note that no process is left of a job that was told to stop, or is to run again."""
        self.stray_remains.pop(job_id, None)
        remains = self.remains.pop(job_id, None)
        if remains is None:
            return
        run = remains.run
        self.settle(run.attempt, remains.status, now, told=remains.reason, limit=run.limit)

    def settle(
        self, attempt: Attempt, status: Status, now: float, *, told: str = "", limit: str = ""
    ) -> None:
        """Decide what becomes of an attempt that is over.

        ``told``: why one may run again that was told to stop; ``limit``: why it may not.
        """
        # What was told to stop for another reason was not ended for its time.
        limit = limit or ("" if told else ending.exceeded(attempt, status))
        over = ending.outcome(attempt, status, now, told=bool(told), limit=limit)
        who = self.asked.get(attempt.id) if told else None
        if who is not None:
            reason = plan.cancelled(who)
            # Nothing of it is left, whatever its status says of its start.
            cancelled = replace(over, state=State.CANCELLED, reason=reason, sure=True)
            self.over[attempt.id] = cancelled
        elif told and attempt.spec.restartable and not limit and over.state is not State.DONE:
            self.returning[attempt.id] = Return(attempt, told, stopped=True, status=status)
        else:
            self.end(over)

    def end(self, over: Over) -> None:
        """Have a job end whose attempt is over, or return to the queue if it is to be retried."""
        who = self.asked.get(over.attempt.id)
        if who is None:
            fate = retries.fate(over)
        elif over.status.code in (-signal.SIGTERM, -signal.SIGKILL):
            # An earlier life of this node had told it to end.
            fate = replace(over, state=State.CANCELLED, reason=plan.cancelled(who))
        else:
            fate = over
        if isinstance(fate, Return):
            self.returning[over.attempt.id] = fate
        else:
            self.over[over.attempt.id] = fate

    def doubt(self, job_id: str, now: float) -> None:
        """Set aside an attempt that starts or runs until its status has been read."""
        self._stray_ended(job_id)
        self.come_to(job_id, now)
        run = self.running.pop(job_id, None)
        attempt = run.attempt if run else self.starting.pop(job_id, None)
        if attempt is None:
            return
        duration = now - run.since if run else 0.0
        self.forecast = self.forecast.ended(now, duration, None, 1.0, self.cpus_of(attempt))
        told = run if run is not None and run.told is not None else None
        self.doubts[job_id] = Doubt(attempt, now, now, told=told)

    def _stray_ended(self, job_id: str) -> bool:
        self.fenced.discard(job_id)
        stray = self.strays.pop(job_id, None)
        if stray is not None and stray.attempt.spec.restartable:
            self.stray_remains[job_id] = stray
        return stray is not None

    def resolved(self, attempt: Attempt) -> None:
        """Take note that an attempt is not in doubt any more."""
        self.doubts.pop(attempt.id, None)

    def deadlines(self, now: float, grace: float) -> list[float]:
        """Return when something is to be looked at or done without a nudge; some may be past."""
        times = [self.rescan_at]
        look = self.backlog.next_look()
        if look is not None:
            times.append(look)
        if self.over:
            times.append(next(iter(self.over.values())).since + plan.LONGEST_UNSYNCED)
        times += [doubt.again for doubt in self.doubts.values()]
        if self.verdict.again is not None and (len(self.backlog) or self.claimed):
            times.append(now + self.verdict.again)
        times += [
            claimed.since + plan.LONGEST_AHEAD
            for claimed in (*self.claimed.values(), *self.line.values())
            if claimed.since is not None
        ]
        if self.intent is Intent.KILL:
            grace = max(grace, plan.SHORTEST_GRACE)
            times += [(run.told or now) + grace for run in self.stopping()]
        if self.remains or self.stray_remains:
            times.append(now + REMAINS_PAUSE)
        if self.unseen or self.unfinished:
            times.append(now + SOON)
        if self.unread:
            times.append(now + PEEK_PAUSE)
        if self.hesitates:
            times.append(now + HESITATION)
        room_kept = self.packing.next(now)
        if room_kept is not None:
            times.append(room_kept)
        times += [
            (run.told or now) + plan.grace_of(run, grace)
            for run in (*self.unwanted(), *self.cancelling(), *self.exceeding())
        ]
        for run in self.limited():
            spec = run.attempt.spec
            if spec.time is not None and self.undisturbed(run):
                times.append(run.since + spec.time)
            if spec.output_limit is not None and not run.flooding:
                times.append(now + OUTPUT_PAUSE)
        return times

    def drop(self, job_id: str) -> None:
        """Forget an attempt that is another's now."""
        run = self.running.get(job_id)
        attempt = run.attempt if run else self.starting.get(job_id)
        if attempt is not None:
            if attempt.gpus:
                # Its process goes on, and with it what it was given.
                self.fenced.add(job_id)
            cpus = self.cpus_of(attempt)
            self.forecast = self.forecast.ended(self.forecast.at, 0.0, None, 1.0, cpus)
        for place in self._places():
            place.pop(job_id, None)
        self.recalled = self.recalled and bool(self.line)

    def _places(self) -> tuple[dict[str, Any], ...]:
        return (
            self.running,
            self.remains,
            self.starting,
            self.line,
            self.claimed,
            self.doubts,
            self.over,
            self.returning,
        )
