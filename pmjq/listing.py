"""The queue as people see it: in the order in which its jobs are to be run, as far as is known.

What a job asks for is known of those that were opened, which come first; the others follow by age.
Which node takes which job, and what fits there, nobody knows before.

Pure.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING

from pmjq import keys
from pmjq.order import Head, next_owner
from pmjq.state import State

if TYPE_CHECKING:
    from pmjq.seen import Seen


def in_order(queued: list[Seen], claimed: list[Seen], opened: int) -> list[Seen]:
    """Return the queue by priority, in turns among owners, and by age.

    ``queued`` is by age, and the first ``opened`` were opened; ``claimed`` is what nodes have.
    """
    first = queued[:opened]
    asked = [_asked(one) for one in first]
    if len({one.uid for one in first}) < 2 and not any(priority for priority, _ in asked):  # noqa: PLR2004  # nothing to choose
        return queued
    shares: Counter[int] = Counter()
    for one in claimed:
        shares[one.uid or 0] += _asked(one)[1]
    of_owners: dict[int, deque[Head]] = {}
    for head in sorted(Head(-priority, n, "") for n, (priority, _) in enumerate(asked)):
        of_owners.setdefault(first[head.appeared].uid or 0, deque()).append(head)
    found: list[Seen] = []
    heads = {owner: those[0] for owner, those in of_owners.items()}
    while (owner := next_owner(heads, shares)) is not None:
        those = of_owners[owner]
        number = those.popleft().appeared
        found.append(first[number])
        shares[owner] += asked[number][1]
        if those:
            heads[owner] = those[0]
        else:
            del heads[owner]
    return found + queued[opened:]


def _asked(seen: Seen) -> tuple[int, int]:
    """Return priority and CPUs that a job asks for; none of one that is not to be run."""
    asked = keys.fields(seen.directives)
    if isinstance(asked, keys.Wrong):
        return 0, 1
    runs = seen.state in (State.QUEUED, State.CLAIMED, State.RUNNING)
    return asked.get("priority", 0), max(1, asked.get("cpus", 1)) if runs else 0
