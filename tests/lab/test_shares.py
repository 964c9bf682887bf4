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
from lab.dropbox import Box, People, kept
from live import Live, eventually

pytestmark = pytest.mark.lab

EACH = 40
"""Jobs of each owner."""

SLOTS = 4
"""Of each node."""

SHORTEST = 0.5
"""Seconds of the shortest jobs."""


@pytest.fixture(scope="module")
def people() -> Iterator[People]:
    """Return three users of this machine."""
    dropbox.needs()
    with dropbox.people() as made, kept(dropbox.PAM):
        yield made


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
    trace = box.side / "trace"
    trace.touch()
    trace.chmod(0o666)
    # Of one length as little as in life, and each a bit longer than the nodes need to look.
    for person, first in zip(people.all(), "xyz", strict=True):
        for number in range(EACH):
            seconds = SHORTEST + 0.07 * (number % 7)
            stamp = f"echo \"%s {person.name} $(cut -d' ' -f1 /proc/uptime)\" >>'{trace}'\n"
            text = f"{stamp % 'began'}sleep {seconds:.2f}\n{stamp % 'ended'}"
            box.put(person, f"{first}{number:02}", text)
    for live in (box, other):
        live.start(ready=False)
    for live in (box, other):
        live.wait_ready()
    eventually(lambda: trace.read_text("ascii").count("ended") >= 3 * EACH, within=120)
    spreads, uneven, started = _spreads(
        trace.read_text("ascii"), [one.name for one in people.all()]
    )
    told = ", ".join(f"{spread}: {seconds:.2f} s" for spread, seconds in sorted(spreads.items()))
    print("\nshares of three owners on two nodes, the largest less the smallest:", told)
    print(f"longest time for which they were more than one job apart: {uneven:.2f} s")
    assert started >= 2 * EACH
    # A slot that becomes free is given to who has less, and no other end is needed for that.
    assert uneven < SHORTEST


def _spreads(text: str, names: list[str]) -> tuple[dict[int, float], float, int]:
    """Return for how many seconds the shares were how far apart, while all had work.

    And for how long in a row by more than one job, and how many were started in that time, which
    begins when all slots are taken and the shares even for the first time.
    """
    events = sorted(
        (float(at), what, name) for what, name, at in (line.split() for line in text.splitlines())
    )
    left, running = Counter(dict.fromkeys(names, EACH)), Counter(dict.fromkeys(names, 0))
    spreads: dict[int, float] = defaultdict(float)
    started, begun, uneven, longest = 0, False, 0.0, 0.0
    for (at, what, name), (until, _, _) in itertools.pairwise(events):
        running[name] += 1 if what == "began" else -1
        left[name] -= what == "began"
        if not all(left.values()):
            break
        spread = max(running.values()) - min(running.values())
        begun = begun or (running.total() == 2 * SLOTS and spread <= 1)
        if begun:
            started += what == "began"
            spreads[spread] += until - at
            uneven = uneven + until - at if spread > 1 else 0.0
            longest = max(longest, uneven)
    return spreads, longest, started
