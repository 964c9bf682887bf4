"""How entries are dealt out among nodes: every one has a first, and an order of the others."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from pmjq.share import distance
from values import NAMES


@given(NAMES, st.integers(1, 12))
def test_every_entry_has_one_node_first_and_one_each_after_it(name: str, nodes: int) -> None:
    """Over all nodes the distances are 0, 1, 2, ... in some order."""
    assert sorted(distance(name, rank, nodes) for rank in range(nodes)) == list(range(nodes))


def test_shares_are_about_equal() -> None:
    """Names that differ in a number only are dealt out evenly."""
    first = Counter(
        next(rank for rank in range(4) if distance(f"job-{number:05}", rank, 4) == 0)
        for number in range(4000)
    )
    assert all(900 <= first[rank] <= 1100 for rank in range(4))


def test_alone_everything_is_mine() -> None:
    """One node comes first with everything."""
    assert distance("anything", 0, 1) == 0
