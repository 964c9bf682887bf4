"""One turn of the daemon: look, plan, act, until there is nothing to do now.

A ``Turn`` is one life of one node at one spool. It is synchronous and knows neither threads nor
signals: the daemon calls ``turn`` in a thread whenever there was a nudge, and gets back when to
call again without one. Disk, processes, clocks and the look at the machine are arguments, so
tests drive whole lives of a node with doubles.

No error of the disk leaves it. An operation that failed is tried again later, with growing pauses
and a line in the log; since nobody knows whether it was carried out, the desk is then compared
with the disk (``pmjq.recovery``).
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from pmjq import job, node, plan, recovery
from pmjq.act import Act
from pmjq.desk import Desk
from pmjq.lease import Silence
from pmjq.look import Look
from pmjq.plan import Intent

if TYPE_CHECKING:
    from pmjq.backlog import Backlog
    from pmjq.filing import Filing
    from pmjq.gates import Verdict
    from pmjq.outside import Outside
    from pmjq.spool import Spool

PLANS_IN_A_TURN = 64
"""After so many plans without a pause the daemon gets a chance to see whether it is to stop."""

LONGEST_SLEEP = 5.0


class Turn:
    """One life of a node at a spool."""

    def __init__(self, outside: Outside) -> None:
        """Take the outside things; ``begin`` touches the spool."""
        self.outside = outside
        self.desk = Desk(outside.settings.rules, outside.settings.capacity)
        self._silence = Silence(outside.spool, outside.settings.lease, outside.now)
        self._given_up: set[str] = set()
        self._contended = 0
        self._look = Look(outside, self.desk)
        self._act = Act(outside, self.desk)

    @property
    def spool(self) -> Spool:
        """Return the spool as this life sees it."""
        return self.outside.spool

    @property
    def filing(self) -> Filing:
        """Return how ended jobs are filed."""
        return self.outside.filing

    @property
    def backlog(self) -> Backlog:
        """Return what is in the spool and not claimed."""
        return self.desk.backlog

    @property
    def verdict(self) -> Verdict:
        """Return what the gates said last."""
        return self.desk.verdict

    @property
    def intent(self) -> Intent:
        """Return what the daemon is up to."""
        return self.desk.intent

    @intent.setter
    def intent(self, intent: Intent) -> None:
        self.desk.intent = intent

    def begin(self, former: list[recovery.Former]) -> None:
        """Take up what earlier lives of this node left; OSError if the spool does not let us.

        All other lives are judged later, by their beats.
        """
        spool, desk = self.spool, self.desk
        # Before the lives are buried: a second power cut must find them again.
        cut = recovery.cut_short(spool) if spool.local else []
        self._mend([*former, *cut])
        recovery.take_up(spool, desk, former, self.outside.now())
        recovery.load_ended(spool, desk)
        lives = set(spool.lives())
        recovery.clear_paperwork(spool, desk, self.outside.settings.node, lives)
        if self.filing.late is not None:
            self.filing.late.load()
        self._look_for_letters()

    def nudge(self, name: str | None = None) -> None:
        """Ask for a look at one name, or at everything; may be called from any thread."""
        self.desk.nudges.append(name)

    def turn(self) -> float:
        """Do what there is to do; return when to come again without a nudge.

        That time is on the clock ``now``.
        """
        pauses = self.outside.pauses
        for _ in range(PLANS_IN_A_TURN):
            try:
                if self._look.present():
                    self._take_up_silent()
                    self._complete_late()
                view = self._look.view()
            except OSError as error:
                pauses.failed("look", error)
                return pauses.until("look")
            pauses.worked("look")
            actions = plan.plan(view)
            if not actions:
                return self._wake(view.now)
            self._act.carry_out(actions)
        return self.outside.now()

    def idle(self) -> bool:
        """Tell whether nothing is queued, coming in or running, and filing has done what it can."""
        desk = self.desk
        return (
            desk.scanned
            and not desk.nudges
            and not desk.unseen
            and not len(desk.backlog)
            and not desk.backlog.settling()
            and self.quiet()
        )

    def quiet(self) -> bool:
        """Tell whether nothing runs, and what has ended is filed or only waits for its archive."""
        desk = self.desk
        return not desk.in_hand() and not self.filing.soon(desk.filing.values(), self.outside.now())

    def _take_up_silent(self) -> None:
        """Take up the jobs of lives that have fallen silent, whose nodes ever they are."""
        outside = self.outside
        now, silence = outside.now(), self._silence
        if self.desk.contended != self._contended:
            self._contended = self.desk.contended
            silence.hurry(now)
        dead = silence.dead(now, outside.silent())
        self.desk.living = silence.living()
        for token in dead:
            if unknown := self.spool.unknown_life(token):
                self._leave_alone(token, unknown)
                continue
            try:
                self._bury(token, silence.lease(token), now)
            except OSError as error:
                # What was taken over by then is found in run/.
                self.desk.doubtful = True
                outside.pauses.failed("burial", error)
            else:
                outside.pauses.worked("burial")
                silence.forget(token)

    def _leave_alone(self, token: str, unknown: int) -> None:
        """Say once that a silent life is of a format that is not known here."""
        if token not in self._given_up:
            self._given_up.add(token)
            reason = f"has format {unknown}, this pmjq knows format {job.FORMAT}"
            self.outside.log.error("node.unknown", node=node.name_of(token), reason=reason)

    def _complete_late(self) -> None:
        late, pauses = self.filing.late, self.outside.pauses
        now = self.outside.now()
        if late is None or not late.expected or now < pauses.until("late"):
            return
        try:
            late.look(now)
        except OSError as error:
            pauses.failed("late", error)
        else:
            pauses.worked("late")

    def _bury(self, token: str, lease: float, now: float) -> None:
        name, given_up = node.name_of(token), job.moment(self.outside.wall())
        if token not in self._given_up:
            self._given_up.add(token)
            self.outside.log.warning("node.silent", node=name, token=token, seconds=lease)
        reason = (
            f"node {name} was silent for {lease:g} s until {given_up:%Y-%m-%d %H:%M:%S}Z; "
            "how the job ended is not known"
        )
        former = recovery.Former(token, rebooted=True, reason=reason)
        recovery.take_up(self.spool, self.desk, [former], now)
        recovery.clear_up(self.spool, self.desk, token)
        self._look_for_letters()
        # Last: an archive that is away keeps nobody from taking over.
        with contextlib.suppress(OSError):
            self._mend([former])

    def _look_for_letters(self) -> None:
        """Have the letters sent that were taken over."""
        if self.outside.post is not None:
            self.outside.post.look(self.spool)

    def _mend(self, former: list[recovery.Former]) -> None:
        mended = recovery.mend(self.spool, self.filing.archive, former)
        if mended:
            self.outside.log.info("records.mended", jobs=mended)

    def _wake(self, looked: float) -> float:
        """Return the first deadline after the last look: what was due then is done, or paused."""
        outside = self.outside
        times = [
            *self.desk.deadlines(looked, outside.settings.grace),
            *outside.pauses.ends(looked),
        ]
        if self.desk.filing:
            times.append(self.filing.next())
        beats = self._silence.next()
        if beats is not None:
            times.append(beats)
        return min((time for time in times if time > looked), default=looked + LONGEST_SLEEP)
