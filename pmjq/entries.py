"""The entries of the spool: which are there, which are next, which are left alone.

On a local file system the kernel tells of every change, and a slow rescan finds what it did not
tell. It is blind to what other machines do, so on a shared one the spool is listed again and
again: a listing tells the truth there where a stat of a known name may lie for half a minute. How
often follows from what a listing costs and from how much happens.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from pmjq import naming, ready, recovery
from pmjq.choice import Choice
from pmjq.directives import Refusal
from pmjq.examination import Examination
from pmjq.gates import Verdict
from pmjq.lease import CLAIMING
from pmjq.naming import ASKING, OWN
from pmjq.peeking import Peeking
from pmjq.plan import Candidate, Intent
from pmjq.ready import Kind

if TYPE_CHECKING:
    from pmjq.desk import Desk
    from pmjq.job import Attempt
    from pmjq.outside import Outside
    from pmjq.ready import Stat
    from pmjq.requests import Request

RESCAN = 5.0
"""Seconds between slow looks at everything: an overflowing inotify queue says nothing."""

RESCAN_SHARE = 50
"""A rescan that took a second is not repeated for this many: 2 % of the time."""

POLL = 0.5
"""Seconds between two listings of a shared spool in which things happen."""

POLL_SLOWER = 1.3
"""How much longer it is each time nothing new was found, up to ``RESCAN``."""

POLL_SHARE = 20
"""A poll that took a second is not repeated for this many: 5 % of the time."""

SEEING = 0.5
"""Seconds for which new names of a shared spool are looked at in a row, before other work."""

REVISIT = 500
"""How many entries that are not queued one rescan looks at again: a chmod may go unheard."""

REVISIT_SHARED = 20
"""The same on a shared file system, where a look costs a round trip."""

PRESENT_FOR = 0.5
"""Seconds for which a shared spool that was there is taken to be there."""

COARSE = 1_000_000_000
"""ns: a directory's time that is no older may be followed by a change that bears the same time."""

MOST_AT_ONCE = 64
"""How many entries that can never be run are taken out of the way at once."""

MOST_SAID = 200
"""How many entries that are left alone are named in the log."""


class Entries:
    """The entries of one spool as one life of a node sees them."""

    def __init__(self, outside: Outside, desk: Desk) -> None:
        """Take what is looked at, and the desk with the backlog."""
        self.outside = outside
        self.desk = desk
        self._listed = 0
        self._missing = ""
        self._seen_at = -1.0
        self._idle = POLL
        self._unseen: deque[str] = deque()
        self._told: dict[str, str] = {}
        self._rights: tuple[int, ...] | None = None
        self._untold: set[tuple[str, int]] = set()
        self._examination = Examination(outside, desk)
        self._choice = Choice(outside, desk, self._examination)
        self._peeking = Peeking(outside, desk)

    def present(self) -> bool:
        """Tell whether the spool is there, and say so when that changes."""
        spool, desk, log = self.outside.spool, self.desk, self.outside.log
        now = self.outside.now()
        if not spool.local and not self._missing and now < self._seen_at + PRESENT_FOR:
            return True
        try:
            missing = "" if spool.present() else "is not there, or another is in its place"
        except OSError as error:
            missing = f"cannot be read ({error.strerror})"
        if missing:
            desk.verdict = Verdict(open=False, reason=f"the spool {missing}")
            if missing != self._missing:
                log.error("spool.missing", spool=naming.shown(spool.root), reason=missing)
        elif self._missing:
            log.info("spool.back", spool=naming.shown(spool.root))
            desk.doubtful = True
            desk.nudges.append(None)
        self._missing = desk.outage = missing
        self._seen_at = now
        return not missing

    def refresh(self, now: float) -> None:
        """Update the backlog with names that were nudged, are due, or are new in a listing."""
        nudges = self.desk.nudges
        names: dict[str, None] = dict.fromkeys(self.desk.backlog.due(now))
        everything = False
        while nudges:
            name = nudges.popleft()
            if name is None:
                everything = True
            else:
                names[name] = None
        if names.pop(OWN, 0) is None or any(name.startswith(ASKING) for name in names):
            self._requests()
        for name in self._examination.woken(now):
            self.desk.backlog.wake(name)
            names[name] = None
        for name in names:
            self._see(name, now)
        if everything or now >= self.desk.rescan_at:
            self._rescan(now, everything=everything)
        self._see_new(now)

    def candidates(self, wanted: int, now: float) -> list[Candidate]:
        """Return entries to claim: those that can never be run, and the head of the queue."""
        desk, backlog = self.desk, self.desk.backlog
        self._peeking.peek(wanted, now)
        if desk.intent is not Intent.RUN or now < self.outside.pauses.until("claim"):
            return []
        if self.outside.silent() >= CLAIMING * self.outside.settings.lease:
            return []
        found: list[Candidate] = []
        for name, reason in backlog.bad(MOST_AT_ONCE):
            stat = self._still_bad(name, now)
            if stat is not None:
                found.append(Candidate(name, stat, Refusal(reason)))
        return found + self._choice.candidates(wanted, now)

    def _still_bad(self, name: str, now: float) -> Stat | None:
        """Return the stat of an entry that can never be run; None if it is to be judged anew.

        Another may have come to its name, or what is wrong with it may be that its writer has not
        written it yet.
        """
        spool, backlog = self.outside.spool, self.desk.backlog
        stat = spool.stat(name)
        if stat is not None and not ready.is_file(stat) and backlog.just_so(name, stat):
            return stat
        try:
            look = spool.look(name) if stat is not None and ready.is_file(stat) else None
        except OSError as error:
            self._examination.shut(name, error, now)
            return None
        if look is None or not backlog.just_so(name, look.stat):
            self._see(name, now)
            return None
        if look.busy:
            standing = ready.settled(look, backlog.rules, backlog.age(name, look.stat, now))
            backlog.put_aside(name, look.stat, standing, now)
            return None
        return look.stat

    def _see(self, name: str, now: float) -> None:
        stat = self.outside.spool.stat(name)
        if stat is not None and self._gone(name, stat, now):
            stat = None
        self.desk.backlog.see(name, stat, now)

    def _gone(self, name: str, stat: Stat, now: float) -> bool:
        """Tell whether an entry was claimed just now, and only a cache still shows it."""
        inode, until = self.desk.departed.get(name, (0, 0.0))
        return now < until and inode == stat.st_ino

    def _see_new(self, now: float) -> None:
        """Look at new names, on a shared file system no longer than for a while in one go."""
        spool, clock = self.outside.spool, self.outside.now
        while self._unseen and (spool.local or clock() < now + SEEING):
            self._see(self._unseen.popleft(), now)
        self.desk.unseen = len(self._unseen)

    def _rescan(self, now: float, *, everything: bool) -> None:
        spool, backlog = self.outside.spool, self.desk.backlog
        begun = self.outside.now()
        changed = spool.changed() if spool.local else 0
        recent = self.outside.wall() * 1e9 - changed < COARSE
        found = 0
        if everything or not spool.local or changed != self._listed:
            names = spool.names()
            here = set(names)
            for name in [name for name in backlog.names() if name not in here]:
                backlog.forget(name)
            self._unseen = deque(name for name in names if everything or name not in backlog)
            found = len(self._unseen)
            self._listed = 0 if recent else changed
        self._forgive(now)
        self._requests()
        for name in backlog.revisit(REVISIT if spool.local else REVISIT_SHARED):
            self._see(name, now)
        self.desk.departed = {name: one for name, one in self.desk.departed.items() if now < one[1]}
        self._see_new(now)
        self._say_left()
        self.desk.scanned = True
        self._schedule(begun, found)

    def _forgive(self, now: float) -> None:
        """Try entries again that could not be moved, if who may write the spool has changed."""
        backlog, before = self.desk.backlog, self._rights
        self._rights = self.outside.spool.rights() if backlog.refusals() else None
        if self._rights is not None and before is not None and self._rights != before:
            for name in backlog.forgive():
                self._see(name, now)

    def hear(self) -> None:
        """See which jobs of this node somebody wants to end."""
        spool, desk, owner = self.outside.spool, self.desk, self.outside.owner
        desk.asked, unknown = {}, []
        for request in spool.asked("cancel"):
            attempt = desk.attempt(request.job_id)
            if attempt is None:
                unknown.append(request)
            elif spool.may_ask(request.uid, attempt.uid):
                desk.asked[request.job_id] = owner(request.uid)
            else:
                self._refuse(request, attempt)
        here = set(spool.running()) if unknown else set()
        for request in unknown:
            if request.job_id not in here:
                # Another's by now, or ended: who asked looks for it there.
                spool.dismiss(request)

    def _refuse(self, request: Request, attempt: Attempt) -> None:
        """Remove a request about another's job, and say so."""
        asker = self.outside.owner(request.uid)
        reason = f"the job is {attempt.owner}'s"
        self.outside.log.warning("request.refused", id=attempt.id, asker=asker, reason=reason)
        self.outside.spool.dismiss(request)

    def _requests(self) -> None:
        """See what this node is asked for, and what was cancelled before any node had it."""
        spool, desk = self.outside.spool, self.desk
        self.hear()
        name = self.outside.settings.node
        desk.drained = (spool.drained_by(name) or "somebody") if name in spool.drained() else ""
        recovery.load_untold(spool, desk, self._untold)

    def _schedule(self, begun: float, found: int) -> None:
        """Decide when the spool is listed next."""
        now, poll = self.outside.now(), self.outside.settings.poll
        took = now - begun
        if poll is not None:
            pause = poll
        elif self.outside.spool.local:
            pause = max(RESCAN, RESCAN_SHARE * took)
        else:
            self._idle = POLL if found else min(RESCAN, self._idle * POLL_SLOWER)
            pause = max(self._idle, POLL_SHARE * took)
        self.desk.polled = 0.0 if poll is None and self.outside.spool.local else pause
        self.desk.rescan_at = now + pause

    def _say_left(self) -> None:
        """Log the entries that are left alone, each once."""
        left = {
            name: standing.reason
            for name, standing in self.desk.backlog.aside()
            if standing.kind is Kind.LEFT
        }
        for name, reason in left.items():
            if self._told.get(name) != reason and len(self._told) < MOST_SAID:
                self.outside.log.warning("entry.left", entry=naming.shown(name), reason=reason)
                self._told[name] = reason
        # One that is tried again is not left for that moment, and not news when it is again.
        for name in [name for name in self._told if name not in self.desk.backlog]:
            del self._told[name]
