"""When the node's owner's commands are called, and what they are told.

Looks at the end of each turn whether the node is idle, or a gate keeps jobs, for long enough; hears
of each job that was filed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pmjq import job, naming
from pmjq.hooks import Hook
from pmjq.occasions import Idle, Kept
from pmjq.plan import Intent
from pmjq.seen import of_record

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from pmjq.hooks import Hooks
    from pmjq.job import Record
    from pmjq.node import Reading
    from pmjq.turn import Turn

END, IDLE, LIMIT = "end", "idle", "limit"

DEFERENCE = 60.0
"""Seconds for which each of the nodes that come before this one is left such a hook."""

OFTEN = 5.0
"""Seconds between two looks at whether this node is the one to call a hook of the whole spool."""


@dataclass(frozen=True, slots=True)
class Commands:
    """What to run on which occasion, empty for nothing; times in seconds.

    ``one_node``: only one of the living nodes of which this is said calls those that are not about
    one job.
    """

    on_end: str = ""
    on_idle: str = ""
    idle_after: float = 60.0
    on_limit: str = ""
    limit_after: float = 600.0
    one_node: bool = False

    @property
    def shared(self) -> tuple[str, ...]:
        """Return the occasions of which one node calls the hook for the whole spool."""
        both = {IDLE: self.on_idle, LIMIT: self.on_limit}
        return tuple(occasion for occasion, command in both.items() if command and self.one_node)


class Calling:
    """The calls of one daemon."""

    def __init__(
        self,
        commands: Commands,
        hooks: Hooks,
        environment: Mapping[str, str],
        now: Callable[[], float],
        wall: Callable[[], float],
        reading: Callable[[], Reading],
    ) -> None:
        """Call nothing yet; ``environment`` is what each hook gets.

        ``now`` is monotonic, ``wall`` the time of day.
        """
        self._commands = commands
        self._hooks = hooks
        self._environment = environment
        self._now = now
        self._wall = wall
        self._reading = reading
        self._idle = Idle(commands.idle_after)
        self._kept = Kept(commands.limit_after)
        self._launched = 0.0
        self.called: dict[str, datetime | None] = dict.fromkeys(commands.shared)

    def filed(self, record: Record, root: str) -> None:
        """Take note of a job that has just been filed; ``root``: the spool."""
        if not self._commands.on_end:
            return
        seen = of_record(record, root)
        path = seen.archived_path
        told = {
            "PMJQ_SPOOL": root,
            "PMJQ_NODE": record.node,
            "PMJQ_ID": record.id,
            "PMJQ_NAME": naming.real_name(record.name, record.name_hex),
            "PMJQ_OWNER": record.owner,
            "PMJQ_ATTEMPT": str(record.attempt),
            "PMJQ_STATE": str(record.state),
            "PMJQ_EXIT_CODE": "" if record.exit_code is None else str(record.exit_code),
            "PMJQ_SIGNAL": "" if record.signal is None else str(record.signal),
            "PMJQ_REASON": record.reason,
            "PMJQ_ARCHIVED": path,
            "PMJQ_OUTPUT": f"{path}.out" if seen.output else "",
        }
        self._call(END, self._commands.on_end, told)

    def look(self, turn: Turn) -> float | None:
        """Call what is due after a turn; return when to look again without a nudge, if ever."""
        commands, now = self._commands, self._now()
        runs = turn.intent is Intent.RUN
        times: list[float | None] = []
        if commands.on_idle:
            self._idle.see(now, idle=runs and turn.idle())
            reason = "nothing is queued and nothing runs"
            times.append(self._told_of(turn, self._idle, IDLE, commands.on_idle, reason))
        if commands.on_limit:
            verdict, launched = turn.verdict, turn.desk.forecast.launched
            if launched != self._launched:
                # Closed until a job ends is what a gate is that lets them through.
                self._launched = launched
                self._kept.see(now, kept=False)
            self._kept.see(now, kept=runs and not verdict.open and len(turn.backlog) > 0)
            times.append(self._told_of(turn, self._kept, LIMIT, commands.on_limit, verdict.reason))
        return min((time for time in times if time is not None), default=None)

    def _told_of(
        self, turn: Turn, occasion: Idle | Kept, name: str, command: str, reason: str
    ) -> float | None:
        """Call a hook if its occasion has come; return when to look again."""
        now, due = self._now(), occasion.due()
        if due is None or due > now:
            return due
        if name in self.called:
            try:
                if isinstance(occasion, Idle):
                    occasion.busy_until(now - turn.spool.quiet_for(self._wall()))
                    due = occasion.begun() + occasion.after
                    if due > now:
                        return due
                since = job.moment(self._wall() - (now - occasion.begun()))
                mine = self._is_mine(turn, name, since, now - due)
            except OSError:
                mine = None
            if mine is None:
                return now + OFTEN
            if not mine:
                occasion.tell(now)
                return occasion.due()
            self.called[name] = job.moment(self._wall())
        occasion.tell(now)
        told = {
            "PMJQ_SPOOL": turn.spool.root,
            "PMJQ_NODE": turn.outside.settings.node,
            "PMJQ_LOAD": f"{self._reading().load:.2f}",
            "PMJQ_QUEUED": str(len(turn.backlog)),
            "PMJQ_RUNNING": str(turn.desk.executing()),
            "PMJQ_REASON": reason,
        }
        self._call(name, command, told)
        return occasion.due()

    def _is_mine(self, turn: Turn, name: str, since: datetime, late: float) -> bool | None:
        """Tell whether this node is the one to call a hook whose occasion began at that time.

        ``late``: for how many seconds it has been due. False: another has called it. None: another
        is to call it. To that one it may not look so, and then the next is as good.
        """
        lives = turn.spool.beating()
        there = {token: life for token, life in lives.items() if name in life.hooks}
        if any((at := life.hooks[name]) is not None and at >= since for life in there.values()):
            return False
        own = turn.spool.token
        before = sum(token < own and not life.stopping for token, life in there.items())
        return True if late >= before * DEFERENCE else None

    def _call(self, occasion: str, command: str, told: dict[str, str]) -> None:
        environment = {**self._environment, "PMJQ_HOOK": occasion, **told}
        self._hooks.call(Hook(occasion, command, environment))
