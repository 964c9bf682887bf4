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

from typing import TYPE_CHECKING

from pmjq import plan, recovery
from pmjq.act import Act
from pmjq.desk import Desk
from pmjq.lease import LEASE, Silence
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
        self.desk = Desk(outside.settings.rules)
        self._silence = Silence(outside.spool.beat, [])
        self._silent: list[str] = []
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

    def begin(self, former: list[recovery.Former], strangers: list[str] | None = None) -> None:
        """Take up what earlier lives left; OSError if the spool does not let us.

        ``strangers`` are lives of this node of which only the beat tells: they are judged later.
        """
        self._silence = Silence(self.spool.beat, strangers or [])
        spool, desk = self.spool, self.desk
        # Before the lives are buried: a second power cut must find them again.
        mended = recovery.mend(spool, self.filing.archive, former)
        if mended:
            self.outside.log.info("records.mended", jobs=mended)
        recovery.take_up(spool, desk, former, self.outside.now())
        recovery.load_ended(spool, desk)
        lives = set(spool.lives())
        recovery.clear_paperwork(spool, desk, self.outside.settings.node, lives)

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
                self._take_up_silent()
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
            and not len(desk.backlog)
            and not desk.backlog.settling()
            and self.quiet()
        )

    def quiet(self) -> bool:
        """Tell whether nothing runs, and what has ended is filed or only waits for its archive."""
        desk = self.desk
        return not desk.in_hand() and not self.filing.soon(desk.filing.values(), self.outside.now())

    def _take_up_silent(self) -> None:
        """Take up the jobs of a life of this node that has fallen silent, as after a reboot."""
        now = self.outside.now()
        for token in self._silence.dead(now):
            self.outside.log.warning("life.silent", token=token, seconds=LEASE)
            self._silent.append(token)
        while self._silent:
            former = [recovery.Former(self._silent[0], rebooted=True)]
            recovery.take_up(self.spool, self.desk, former, now)
            self._silent.pop(0)

    def _wake(self, looked: float) -> float:
        """Return the first deadline after the last look: what was due then is done, or paused."""
        outside = self.outside
        times = [
            *self.desk.deadlines(looked, outside.settings.grace),
            *outside.pauses.ends(looked),
        ]
        if self.desk.filing:
            times.append(self.filing.next())
        return min((time for time in times if time > looked), default=looked + LONGEST_SLEEP)
