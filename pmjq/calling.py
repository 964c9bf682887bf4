"""When the node's owner's commands are called, and what they are told.

Looks at the end of each turn whether the node is idle, or a gate keeps jobs, for long enough; hears
of each job that was filed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pmjq import naming
from pmjq.hooks import Hook
from pmjq.occasions import Idle, Kept
from pmjq.plan import Intent
from pmjq.seen import of_record

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pmjq.hooks import Hooks
    from pmjq.job import Record
    from pmjq.node import Reading
    from pmjq.turn import Turn

OFTEN = 5.0
"""Seconds between two looks at whether the whole spool is idle."""


@dataclass(frozen=True, slots=True)
class Commands:
    """What to run on which occasion, empty for nothing; times in seconds.

    ``one_node``: only one of the spool's living nodes runs those that are not about one job.
    """

    on_end: str = ""
    on_idle: str = ""
    idle_after: float = 60.0
    on_limit: str = ""
    limit_after: float = 600.0
    one_node: bool = False


class Calling:
    """The calls of one daemon."""

    def __init__(
        self,
        commands: Commands,
        hooks: Hooks,
        environment: Mapping[str, str],
        now: Callable[[], float],
        reading: Callable[[], Reading],
    ) -> None:
        """Call nothing yet; ``now`` is monotonic, ``environment`` what each hook gets."""
        self._commands = commands
        self._hooks = hooks
        self._environment = environment
        self._now = now
        self._reading = reading
        self._idle = Idle(commands.idle_after)
        self._kept = Kept(commands.limit_after)
        self._looked = -OFTEN
        self._nobody_has = False

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
        self._call("end", self._commands.on_end, told)

    def look(self, turn: Turn) -> float | None:
        """Call what is due after a turn; return when to look again without a nudge, if ever."""
        commands, now = self._commands, self._now()
        times: list[float | None] = []
        if commands.on_idle:
            idle = turn.intent is Intent.RUN and turn.idle()
            if idle and commands.one_node:
                idle = self._all_idle(turn, now)
                times.append(self._looked + OFTEN)
            if self._idle.seen(now, idle=idle):
                self._of_node("idle", commands.on_idle, turn, "nothing is queued and nothing runs")
            times.append(self._idle.next())
        if commands.on_limit:
            verdict, queued = turn.verdict, len(turn.backlog)
            kept = turn.intent is Intent.RUN and not verdict.open and queued > 0
            if self._kept.seen(now, kept=kept):
                self._of_node("limit", commands.on_limit, turn, verdict.reason)
            times.append(self._kept.next())
        return min((time for time in times if time is not None), default=None)

    def _all_idle(self, turn: Turn, now: float) -> bool:
        """Tell whether no node has a job; looked at now and then."""
        if now >= self._looked + OFTEN:
            self._looked = now
            try:
                self._nobody_has = not turn.spool.batons()
            except OSError:
                self._nobody_has = False
        return self._nobody_has

    def _of_node(self, occasion: str, command: str, turn: Turn, reason: str) -> None:
        if self._commands.one_node and not self._elected(turn):
            return
        told = {
            "PMJQ_SPOOL": turn.spool.root,
            "PMJQ_NODE": turn.outside.settings.node,
            "PMJQ_LOAD": f"{self._reading().load:.2f}",
            "PMJQ_QUEUED": str(len(turn.backlog)),
            "PMJQ_RUNNING": str(turn.desk.executing()),
            "PMJQ_REASON": reason,
        }
        self._call(occasion, command, told)

    @staticmethod
    def _elected(turn: Turn) -> bool:
        """Tell whether this life is the first of those that live."""
        return turn.spool.token <= min(turn.desk.living, default=turn.spool.token)

    def _call(self, occasion: str, command: str, told: dict[str, str]) -> None:
        environment = {**self._environment, "PMJQ_HOOK": occasion, **told}
        self._hooks.call(Hook(occasion, command, environment))
