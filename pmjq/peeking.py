"""Priorities of entries that are not at the head of the queue yet: each is opened once for that.

What an entry asks for stands in it. To open all at once would keep a daemon that finds a hundred
thousand from its first start, and where an open is a round trip, from everything else. So those
that came just now are opened at once, unless they come in floods, and the others bit by bit: a few
with each launch, and for a small share of the time while nothing is launched.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pmjq import infofile
from pmjq.job import Spec
from pmjq.order import SLACK

if TYPE_CHECKING:
    from collections.abc import Callable

    from pmjq.desk import Desk
    from pmjq.directives import Refusal
    from pmjq.outside import Outside
    from pmjq.ready import Look

FLOOD = 32
FLOOD_SHARED = 2
"""How many that came since the last look are opened at once."""

WITH_LAUNCH = 4
WITH_LAUNCH_SHARED = 1
"""How many others are opened with each launch: 0.05 of the 1.5 ms that it takes."""

AT_ONCE = 256
"""How many are opened in a row."""

PEEK_SHARE = 20
"""After a row that took a second none is begun for this many: 5 % of the time."""

CALM = 0.2
"""Seconds after a launch from which on that time is taken."""

STALE_AT_ONCE = 1000
"""How many names that are not queued any more are passed over in a row."""

WORD = b"priority"


class Peeking:
    """The peeking of one life of a node."""

    def __init__(self, outside: Outside, desk: Desk) -> None:
        """Take what is looked at, and the desk with the backlog."""
        self.outside = outside
        self.desk = desk
        self._left: list[str] = []
        self._launched = self._again = 0.0

    def peek(self, wanted: int, now: float) -> None:
        """Open some entries, if there are more queued than the ``wanted`` that are examined now."""
        backlog, local = self.desk.backlog, self.outside.spool.local
        if wanted > 0:
            self._launched = now
        several = len(backlog) > max(0, wanted)
        if several:
            if len(backlog.unread) <= (FLOOD if local else FLOOD_SHARED):
                self._peek(backlog.unread, AT_ONCE)
            if wanted > 0:
                self._peek(self._left, WITH_LAUNCH if local else WITH_LAUNCH_SHARED)
            elif now >= max(self._again, self._launched + CALM):
                self._peek(self._left, AT_ONCE)
                done = self.outside.now()
                self._again = done + PEEK_SHARE * (done - now)
        self._left += backlog.unread
        backlog.unread.clear()
        if len(self._left) > (2 * len(backlog) + SLACK if several else 0):
            self._left = [name for name in self._left if backlog.is_queued(name)]
        self.desk.unread = len(self._left) if several else 0

    def _peek(self, names: list[str], most: int) -> None:
        """Open the last of some names, and take them off."""
        backlog, clock = self.desk.backlog, self.outside.now
        until = clock() + 1 / PEEK_SHARE
        for _ in range(STALE_AT_ONCE):
            if not names or most <= 0 or clock() > until:
                return
            name = names.pop()
            if backlog.is_queued(name):
                self._open(name)
                most -= 1

    def _open(self, name: str) -> None:
        try:
            look = self.outside.spool.peek(name)
        except OSError:
            # It is found out at the head of the queue.
            return
        if look is not None:
            asked = priority(look, self.outside.asked)
            self.desk.backlog.prioritize(name, look.stat, asked)


def priority(look: Look, asked: Callable[[Look], Spec | Refusal] = infofile.asked) -> int:
    """Return the priority that an entry asks for, 0 where it cannot be understood.

    ``asked`` makes out what it asks for.
    """
    text = look.info[1] if look.info is not None else look.head
    if text is None or WORD not in text:
        return 0
    spec = asked(look)
    return spec.priority if isinstance(spec, Spec) else 0
