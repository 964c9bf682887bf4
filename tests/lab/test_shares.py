"""Three owners on two nodes: as long as all have work, each has as much of the nodes as another."""

from __future__ import annotations

import itertools
import shutil
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import dropbox
from lab.dropbox import Box, People
from live import Live, eventually
from pmjq.job import Record

pytestmark = pytest.mark.lab

EACH = 40
"""Jobs of each owner."""

SLOTS = 4
"""Of each node."""


@pytest.fixture
def nodes(people: People) -> Iterator[tuple[Box, Live]]:
    """Return two daemons of root at one drop box, not started."""
    root = Path(tempfile.mkdtemp(prefix="pmjq-box-", dir="/tmp"))
    root.chmod(0o755)
    box = Box(None)
    box.options = (*box.options, "--node", "a", "-j", str(SLOTS))
    options = ("-o", str(box.archive), "--node", "b", "-j", str(SLOTS))
    other = Live(root, *options, before=dropbox.rights(), spool=box.spool)
    try:
        yield box, other
    finally:
        other.close()
        box.close()
        shutil.rmtree(root)


def test_shares_of_three_owners(nodes: tuple[Box, Live], people: People) -> None:
    """Whoever came first and with how much: their shares are within one job of each other."""
    box, other = nodes
    gate, trace = box.side / "gate", box.side / "trace"
    trace.touch()
    trace.chmod(0o666)
    first, *later = people.all()
    for number in range(EACH):
        waits = f"until [ -e '{gate}' ]; do sleep 0.05; done\n" if number < SLOTS else ""
        box.put(first, f"x{number:02}", f"echo >>'{trace}'\n{waits}sleep {_seconds(number)}\n")
    box.start()
    eventually(lambda: trace.stat().st_size == SLOTS, what="one has all of the first node")
    for person, letter in zip(later, "yz", strict=True):
        for number in range(EACH):
            box.put(person, f"{letter}{number:02}", f"echo >>'{trace}'\nsleep {_seconds(number)}\n")
    other.start()
    eventually(lambda: trace.stat().st_size >= 2 * SLOTS, what="the second node is full too")
    gate.touch()
    eventually(lambda: len(box.filed()) == 3 * EACH, within=300, what="all have ended")
    records = [filed.record for filed in box.filed()]
    claimed = sorted((one for one in records if one.node == "b"), key=lambda one: one.claimed)
    assert first.name not in [one.owner for one in claimed[:SLOTS]]
    spreads, full = _spreads(records)
    told = ", ".join(f"{spread}: {seconds:.2f} s" for spread, seconds in sorted(spreads.items()))
    print("\nshares of three owners on two nodes, the largest less the smallest:", told)
    apart = sum(spread > 1 for spread in full)
    print(f"more than one job apart with all slots taken: {apart} of {len(full)} times")
    assert len(full) >= EACH
    # Two nodes that choose at the same moment do not know of each other.
    assert apart <= len(full) / 20


def _seconds(number: int) -> str:
    """Return a length: as little as in life of one, and each longer than the nodes need to look."""
    return f"{0.5 + 0.07 * (number % 7):.2f}"


def _spreads(records: list[Record]) -> tuple[dict[int, float], list[int]]:
    """Return for how many seconds the shares were how far apart, while all had work.

    And how far they were each time that all slots were taken: how long one that became free stays
    so is up to the machine, to whom it is given is not. It begins when that is so for the first
    time and the shares are even.
    """
    events = sorted(
        event
        for one in records
        for event in ((one.claimed, 1, one.owner), (one.ended, -1, one.owner))
    )
    left = Counter(one.owner for one in records)
    running = Counter(dict.fromkeys(left, 0))
    spreads: dict[int, float] = defaultdict(float)
    full: list[int] = []
    for (at, change, owner), (until, _, _) in itertools.pairwise(events):
        running[owner] += change
        left[owner] -= change == 1
        if not all(left.values()):
            break
        spread = max(running.values()) - min(running.values())
        taken = running.total() == 2 * SLOTS
        if full or (taken and spread <= 1):
            spreads[spread] += (until - at).total_seconds()
            full += [spread] if taken else []
    return spreads, full
