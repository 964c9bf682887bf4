"""Act: carry out what the plan says, one call each.

An action may fail: a race is lost, a disk is full. That is no error here; what is true is seen
with the next look. The actions of one plan are done together, so that many jobs share one sync
and one message.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec

from pmjq import confines, ending, job, naming, plan, probe, ready, retries
from pmjq.claims import Claims, Prepared
from pmjq.job import Attempt, Event, Spec, Status
from pmjq.keys import ALL_CPUS
from pmjq.plan import Claim, End, File, LineUp, Over, Pace, Recall, Return, Start, Stop
from pmjq.process import Order
from pmjq.ready import Kind, Standing
from pmjq.sealed import MINE
from pmjq.signing import Fault
from pmjq.state import State

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pmjq.desk import Desk
    from pmjq.job import Again, Record
    from pmjq.outside import Outside, Person
    from pmjq.plan import Action, Candidate


THREADS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "JULIA_NUM_THREADS",
)
"""Variables by which libraries are told how many threads to use; else they use every CPU."""

DEVICES = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES")
"""Variables by which programs and containers are told which GPUs to see; empty: none."""

NUMBERED = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
"""By itself CUDA numbers GPUs by what it takes for their speed, differently from all others."""


class Act:
    """The acting of one life of a node."""

    def __init__(self, outside: Outside, desk: Desk) -> None:
        """Take what is acted on, and the desk that remembers it."""
        self.outside = outside
        self.desk = desk
        self.claims = Claims(outside, desk)

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
        prepared = self.claims.prepare(claims)
        overs = [over for over in overs if self._surely_over(over)]
        if (overs or prepared) and self._make_durable(overs, prepared):
            self.claims.claim(prepared)
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
            desk.suspect(attempt, now)
        except OSError as error:
            self.outside.pauses.failed("end", error)
        return False

    def _start(self, starts: list[Attempt], line: list[Attempt], most: int) -> None:
        """Have attempts executed: some now, some as soon as fewer than ``most`` run."""
        outside, desk = self.outside, self.desk
        now = outside.now()
        try:
            starts, orders = self._orders(starts)
            line, lined = self._orders(line)
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

    def _orders(self, attempts: list[Attempt]) -> tuple[list[Attempt], list[Order]]:
        """Return the orders to start attempts; one whose owner may not log in now is returned."""
        started: list[Attempt] = []
        orders: list[Order] = []
        for attempt in attempts:
            claimed = self.desk.claimed.get(attempt.id)
            found = claimed is not None and claimed.since is None
            back = self.claims.overtaken(attempt) if found else None
            try:
                if back is None and not self._sealed(attempt):
                    continue
                person = self._person(attempt) if back is None else None
            except (PermissionError, BlockingIOError) as error:
                back = Return(attempt, str(error))
            if back is not None:
                self.desk.send_back(back)
                continue
            started.append(attempt)
            orders.append(self._order(attempt, person))
        return started, orders

    def _sealed(self, attempt: Attempt) -> bool:
        """Have exactly what was verified in the place of what was claimed, and run it once.

        From here on its file belongs to the user that the claim names, and nobody else can write
        it. False: it is rejected, or returned.
        """
        if attempt.signed is None and self.outside.signers is not None:
            # It was claimed by a daemon which did not ask for signatures.
            self.desk.send_back(Return(attempt, "its signature is to be verified"))
            return False
        if attempt.signed is None:
            return True
        spool, logins, owner = self.outside.spool, self.outside.logins, MINE
        if logins is not None and attempt.uid != spool.disk.user():
            owner = (attempt.uid, logins.login(attempt.uid).gid)
        try:
            if not spool.seal(attempt, owner):
                fault, reason = Fault.ALTERED, "was changed after its signature had been verified"
            elif not spool.comes_first(attempt):
                fault = Fault.REPLAYED
                reason = "has been executed already: name, content and spool are another job's"
            else:
                return True
        except OSError as error:
            # Its own fault, perhaps: a file that does not fit keeps no other from being started.
            reason = f"cannot be copied to where it is executed ({error.strerror or error})"
            self.desk.send_back(Return(attempt, reason, pause=True))
            return False
        now = self.outside.now()
        if spool.void(attempt):
            self.claims.refuse(attempt, fault, reason)
            self.desk.drop(attempt.id)
            self.desk.over[attempt.id] = Over(attempt, Status(), State.REJECTED, reason, since=now)
        else:
            # An order of an earlier life has started it after all.
            self.desk.suspect(attempt, now)
        return False

    def _person(self, attempt: Attempt) -> Person | None:
        """Return as whom an attempt is executed, None: as this user.

        Whoever owns its file, as that is now: nothing else is believed. PermissionError: nobody.
        """
        spool, logins = self.outside.spool, self.outside.logins
        if logins is None or (attempt.uid == 0 and not spool.open_to_requests):
            return None
        stat = spool.claimed_stat(attempt)
        if stat is None or stat.st_uid != attempt.uid:
            raise PermissionError("its owner has changed since it was claimed")
        return logins.login(stat.st_uid) if stat.st_uid else None

    def _order(self, attempt: Attempt, person: Person | None) -> Order:
        spool, settings = self.outside.spool, self.outside.settings
        places = spool.places(attempt)
        if attempt.earlier:
            # Here too: a life that died after its claim has not come to it.
            spool.come_back(attempt)
        environment = (settings.environment if person is None else person.environment) | {
            "PMJQ_ID": attempt.id,
            "PMJQ_NAME": naming.real_name(attempt.name, attempt.name_hex),
            "PMJQ_NODE": settings.node,
            "PMJQ_SPOOL": spool.root,
            "PMJQ_ATTEMPT": str(attempt.attempt),
            "PMJQ_OWNER": attempt.owner,
            **({"PMJQ_SIGNER": attempt.signer} if attempt.signer else {}),
            "TMPDIR": places.work,
            "PWD": places.work,
        }
        spec, work = attempt.spec, places.work
        if spec.cpus is not None:
            environment |= dict.fromkeys(THREADS, str(self._cpus(spec)))
        environment |= dict(one.split("=", 1) for one in spec.env)
        if settings.gpus:
            # After its own: no job may see what another one has.
            environment |= dict.fromkeys(DEVICES, ",".join(attempt.gpus)) | NUMBERED
        if spec.argv:
            work = environment["PWD"] = places.executable
            environment["NB_PROC"] = str(self._cpus(spec))
            argv = self._program(work, spec.argv, environment["PATH"], own=person is None)
        else:
            argv = ["/bin/sh", places.executable] if spec.shell else [places.executable]
        # Where another user has named it, it is he who looks at it: that may take for ever.
        if spec.directory and person is None and self._is_directory(spec.directory):
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
            spec.nice or 0,
            self._terms(attempt, person),
        )

    def _terms(self, attempt: Attempt, person: Person | None) -> dict[str, Any]:
        """Return the terms of an attempt: its limits, and another user's, who gets its files."""
        spool, settings = self.outside.spool, self.outside.settings
        if person is None and not spool.private:
            return confines.terms(attempt, settings.tree)
        limits = confines.terms(attempt, settings.tree, alone=True)
        if person is None:
            # Root's, among those of others.
            spool.hand_over(attempt, 0)
            return limits | {"private": True}
        spool.hand_over(attempt, person.gid)
        theirs = person.terms(private=spool.private, confined=settings.confined)
        return confines.joined(theirs, limits)

    def _is_directory(self, path: str) -> bool:
        try:
            stat = self.outside.spool.disk.stat(path)
        except OSError:
            return False
        return stat is not None and ready.is_directory(stat)

    def _program(self, directory: str, argv: Sequence[str], path: str, *, own: bool) -> list[str]:
        """Return the command of a directory job: its program is in the directory, else on PATH.

        ``own``: this user's PATH, which may be searched here.
        """
        word, *words = argv
        if "/" in word:
            return [*argv]
        if self.outside.spool.disk.stat(f"{directory}/{word}") is not None:
            return [f"./{word}", *words]
        if own:
            return [shutil.which(word, path=path) or word, *words]
        return ["/bin/sh", "-c", 'exec "$@"', "sh", *argv]

    @staticmethod
    def _cpus(spec: Spec) -> int:
        """Return how many CPUs a job has asked for."""
        return probe.usable_cpus() if spec.cpus == ALL_CPUS else spec.cpus or 1

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
            self.claims.drop_papers(prepared)
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

    def _move_ended(self, overs: list[Over]) -> None:
        """Move jobs whose outcome is durable to the ended ones."""
        failed: OSError | None = None
        if self.outside.post is not None:
            ends = [(over.attempt, self.desk.over[over.attempt.id].durable) for over in overs]
            told = [(attempt, record) for attempt, record in ends if record is not None]
            self.outside.post.ended(self.outside.spool, told)
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
        post, spool = self.outside.post, self.outside.spool
        moved = spool.end(record)
        desk.drop(record.id)
        if post is not None and moved:
            post.send(record.id)
        if not moved:
            if post is not None:
                post.void(spool, record.id)
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
                desk.suspect(attempt, now)
                return
            if spool.is_asked("cancel", attempt.id, attempt.uid):
                # Somebody has just asked for its end, which is decided on by the next plan.
                desk.nudges.append(None)
                return
            again = retries.following(action, self.outside.wall())
            name = spool.give_back(attempt, again)
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
        with contextlib.suppress(OSError):
            if spool.is_asked("cancel", attempt.id, attempt.uid):
                # Meanwhile somebody has: its file was here when he looked.
                self._withdraw(name, attempt, again)
        desk.departed.pop(name, None)
        if action.pause:
            self._pause(name, action.reason)
        desk.nudges.append(name)
        log.info("job.returned", job=naming.shown(name), id=attempt.id, reason=action.reason)

    def _pause(self, name: str, reason: str) -> None:
        """Have a job that was returned wait for a moment, and the others pass it."""
        with contextlib.suppress(OSError):
            stat = self.outside.spool.stat(name)
            if stat is not None:
                standing = Standing(Kind.INCOMING, reason)
                backlog, now = self.desk.backlog, self.outside.now()
                backlog.refuse(name, stat, standing, now, self.desk.won)

    def _withdraw(self, name: str, attempt: Attempt, again: Again) -> None:
        """Cancel a job that has just been returned, as a person does who finds it in the queue."""
        spool = self.outside.spool
        askers = (one.uid for one in spool.asked("cancel") if one.job_id == attempt.id)
        who = self.outside.owner(next(askers, attempt.uid))
        following = msgspec.structs.replace(
            attempt,
            id=self.claims.new_id(),
            name=naming.shown(name),
            name_hex=naming.exact(name),
            attempt=again.attempt,
            earlier=again.earlier,
            gpus=(),
            cpus=(),
            node="",
            token="",
        )
        reason = plan.cancelled(who)
        wall = self.outside.wall()
        record = job.record(following, Status(), State.CANCELLED, wall, reason)
        try:
            spool.prepare_record(record, f"{spool.token}.{record.id}")
            if spool.withdraw(record):
                spool.take_output(following)
                spool.forget(name)
            else:
                spool.clear_record(record)
            spool.answered("cancel", attempt.id)
        except OSError as error:
            self.outside.pauses.failed("return", error)

    def _file(self, record: Record) -> None:
        if self.outside.filing.file(record, self.outside.now()):
            self.desk.filing.pop(record.id, None)
            if self.outside.filed is not None:
                self.outside.filed(record, self.outside.spool.root)

    def _stop(self, stop: Stop) -> None:
        now, log = self.outside.now(), self.outside.log
        log.info("jobs.signalled", jobs=len(stop.runs), signal=ending.signal_name(stop.signal))
        for run in stop.runs:
            self.desk.tell(run, now, killed=stop.signal == signal.SIGKILL)
        limits = {run.attempt.id: run.limit for run in stop.runs if run.limit}
        pids = {run.attempt.id: run.pid for run in stop.runs}
        self.outside.processes.signal(pids, stop.signal, limits)


def _summary(record: Record) -> dict[str, Any]:
    """Return the keys of the one canonical line about a job's end."""
    line: dict[str, Any] = {"job": record.name, "id": record.id, "state": str(record.state)}
    if record.exit_code is not None:
        line["exit_code"] = record.exit_code
    if record.signal is not None:
        line["signal"] = ending.signal_name(record.signal)
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
