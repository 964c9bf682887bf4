"""The rules of the order: priority, then the owner with the fewest CPUs, then age."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pmjq.order import SLACK, Head, Order, next_owner

ANN, BOB, CYD = 1000, 1001, 1002


def taken(order: Order, owner: int) -> list[str]:
    """Take all that an owner has queued."""
    names = []
    while (head := order.head(owner)) is not None:
        order.take(owner, head)
        names.append(head.name)
    return names


# --- of one owner


def test_priority_then_age_then_name() -> None:
    """Higher ones come first and lower ones last, whenever that becomes known."""
    order = Order()
    for name, appeared in (("c", 1), ("b", 2), ("a", 2), ("low", 0), ("high", 3), ("higher", 4)):
        order.add(name, appeared, ANN)
    order.prioritize("low", 0, ANN, -1)
    order.prioritize("high", 3, ANN, 1)
    order.prioritize("higher", 4, ANN, 2)
    assert taken(order, ANN) == ["higher", "high", "c", "a", "b", "low"]


def test_priority_is_that_of_the_entry_as_it_was_read() -> None:
    """One that changes may ask for another, so nothing is known of it again."""
    order = Order()
    order.add("a", 1, ANN)
    order.add("b", 2, ANN)
    order.prioritize("b", 2, ANN, 9)
    order.add("b", 3, ANN)
    assert order.priority("b", 3) == 0
    assert taken(order, ANN) == ["a", "b"]


def test_priority_of_what_is_not_queued_is_kept() -> None:
    """A job that waits for room comes back to its place; one that is gone leaves nothing."""
    order = Order()
    order.add("a", 1, ANN)
    order.add("b", 2, ANN)
    order.prioritize("b", 2, ANN, 9)
    order.remove("b")
    order.add("b", 2, ANN)
    assert taken(order, ANN) == ["b", "a"]
    order.forget("b")
    assert order.priority("b", 2) == 0


def test_priority_that_is_taken_back() -> None:
    """What was read before the file was complete counts no more."""
    order = Order()
    order.add("a", 1, ANN)
    order.add("b", 2, ANN)
    order.prioritize("b", 2, ANN, 9)
    order.prioritize("b", 2, ANN, 0)
    assert taken(order, ANN) == ["a", "b"]


@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(0, 4), st.integers(-2, 2))))
def test_whatever_happens_the_order_is_right(events: list[tuple[str, int, int]]) -> None:
    """Each entry has one place, by what was told of it last."""
    order, known, ranks = Order(), dict[str, int](), dict[tuple[str, int], int]()
    for name, appeared, priority in events:
        if appeared == 4:
            order.forget(name)
            known.pop(name, None)
            ranks = {key: rank for key, rank in ranks.items() if key[0] != name}
            continue
        order.add(name, appeared, ANN)
        known[name] = appeared
        order.prioritize(name, appeared, ANN, priority)
        ranks = {key: rank for key, rank in ranks.items() if key[0] != name}
        ranks[name, appeared] = priority
    assert len(order) == len(known)
    assert set(order) == set(known)
    expected = sorted((-ranks[name, appeared], appeared, name) for name, appeared in known.items())
    assert taken(order, ANN) == [name for _, _, name in expected]


def test_old_places_fill_no_memory() -> None:
    """What changes, goes or gets another priority all day costs what one entry costs."""
    order = Order()
    for number in range(10_000):
        order.add("a", number, ANN)
        order.prioritize("a", number, ANN, number % 3)
        order.add("gone", number, BOB)
        order.forget("gone")
    assert order._places <= 2 * len(order) + SLACK + 1
    assert taken(order, ANN) == ["a"]
    assert order.head(BOB) is None


# --- among owners


def heads(**first: tuple[int, int]) -> dict[int, Head]:
    """Return the heads of owners by the names here: priority and age."""
    names = {"ann": ANN, "bob": BOB, "cyd": CYD}
    return {names[who]: Head(-rank, at, who) for who, (rank, at) in first.items()}


@pytest.mark.parametrize(
    ("shares", "rank", "expected"),
    [
        ({}, 0, ANN),
        ({}, 1, BOB),
        ({}, 3, ANN),
        ({ANN: 1}, 0, BOB),
        ({ANN: 1, BOB: 1}, 0, CYD),
        ({ANN: 2, BOB: 1, CYD: 1}, 0, BOB),
        ({ANN: 2, BOB: 1, CYD: 1}, 1, CYD),
        ({ANN: 9, BOB: 8, CYD: 7}, 5, CYD),
    ],
)
def test_who_has_the_fewest_then_the_oldest(
    shares: dict[int, int], rank: int, expected: int
) -> None:
    """Nodes that choose at once begin with different owners where several have as few."""
    assert next_owner(heads(ann=(0, 1), bob=(0, 2), cyd=(0, 3)), shares, rank) == expected


def test_priority_comes_before_shares() -> None:
    """Whatever the owner has already."""
    assert next_owner(heads(ann=(1, 9), bob=(0, 1)), {ANN: 50}) == ANN


def test_who_is_passed_over() -> None:
    """And nobody where all are."""
    both = heads(ann=(1, 9), bob=(0, 1))
    assert next_owner(both, {}, 0, {ANN}) == BOB
    assert next_owner(both, {}, 0, {ANN, BOB}) is None
    assert next_owner({}, {}) is None


@given(
    st.dictionaries(st.integers(0, 5), st.integers(1, 20), min_size=1),
    st.integers(1, 8),
    st.lists(st.integers(0, 10), max_size=200),
)
def test_shares_are_within_one_while_all_have_work(
    counts: dict[int, int], slots: int, ends: list[int]
) -> None:
    """Whatever ends, once all slots have been given anew."""
    order = Order()
    for owner, count in counts.items():
        for number in range(count):
            order.add(f"{owner}.{number}", number, owner)
    running: list[int] = []
    for end in [None, *ends]:
        if end is not None and running:
            running.pop(end % len(running))
        while len(running) < slots:
            shares = Counter(running)
            first = {owner: head for owner in counts if (head := order.head(owner)) is not None}
            chosen = next_owner(first, shares)
            if chosen is None:
                break
            assert all(shares[chosen] <= shares[other] for other in first)
            order.take(chosen, first[chosen])
            running.append(chosen)
        else:
            continue
        break
