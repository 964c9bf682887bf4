"""The rules of what fits beside what: sums, turns, and nobody who waits for ever."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pmjq.job import Spec
from pmjq.keys import ALL_CPUS
from pmjq.order import Order, next_owner
from pmjq.packing import (
    LONGEST_PATIENCE,
    MOST_WAITING,
    PATIENCE,
    Capacity,
    Held,
    Needs,
    Packing,
    held,
    lacking,
    needs,
    shortfall,
)

NODE = Capacity(cpus=4, memory=1000, gpus=("0", "1"))


def spec(cpus: int | None = None, memory: int | None = None, gpus: int | None = None) -> Spec:
    """Return what a job asks for."""
    return Spec(cpus=cpus, memory=memory, gpus=gpus)


class Node:
    """A node that takes what fits, in order; jobs hold what they ask for until they are ended."""

    def __init__(self, capacity: Capacity = NODE) -> None:
        self.packing = Packing(capacity)
        self.running: dict[str, Needs] = {}
        self.now = 0.0

    def come(self, name: str, wanted: Spec, owner: int = 0) -> str:
        """Look at a job; return why it is not started."""
        self.packing.begin(len(self.running), self.now, self.running.__contains__)
        reason = self.packing.place(name, wanted, self.now, owner)
        if not reason:
            self.packing.hold(name, wanted)
            self.running[name] = needs(wanted, self.packing.capacity)
            total = held(self.running.values())
            if all(each == needs(spec(), self.packing.capacity) for each in self.running.values()):
                # That is for the slots to see to.
                return reason
            assert total.cpus <= (self.packing.capacity.cpus or total.cpus)
            assert total.memory <= (self.packing.capacity.memory or total.memory)
            assert total.gpus <= len(self.packing.capacity.gpus)
            assert not total.alone or len(self.running) == 1
        return reason

    def end(self, name: str) -> list[str]:
        """End a job; return who may fit now."""
        del self.running[name]
        return self.woken()

    def woken(self) -> list[str]:
        """Return who may fit now."""
        return self.packing.woken(len(self.running), self.now, self.running.__contains__)


@pytest.fixture
def node() -> Node:
    """Return a node with four CPUs and a thousand bytes."""
    return Node()


@pytest.mark.parametrize(
    ("wanted", "taken", "reason"),
    [
        (Needs(4), Held(), ""),
        (Needs(1), Held(3, 3), ""),
        (Needs(2), Held(3, 3), "needs 2 CPUs, and 1 of 4 are free"),
        (Needs(1), Held(5, 5), "needs 1 CPUs, and 0 of 4 are free"),
        (Needs(0), Held(5, 5), ""),
        (Needs(1, 600), Held(1, 1, 400), ""),
        (Needs(1, 601), Held(1, 1, 400), "needs 601 B of memory, and 600 B of 1 kB are free"),
        (Needs(1, 0), Held(1, 1, 2000), ""),
        (Needs(4, 0, alone=True), Held(), ""),
        (Needs(4, 0, alone=True), Held(1), "needs all CPUs, and other jobs run (cpus=all): 1"),
        (Needs(0), Held(1, 4, alone=True), "another job has all CPUs (cpus=all)"),
        (Needs(gpus=2), Held(1), ""),
        (Needs(gpus=2), Held(1, gpus=1), "needs 2 GPUs, and 1 of 2 are free"),
        (Needs(1), Held(1, gpus=2), ""),
    ],
)
def test_lacking(wanted: Needs, taken: Held, reason: str) -> None:
    """A job fits, or what it lacks is told with what there is."""
    assert lacking(wanted, taken, NODE) == reason


def test_what_nobody_knows_is_not_added_up() -> None:
    """Then nothing is refused for it."""
    assert lacking(Needs(100, 10**12), Held(9, 9, 9), Capacity()) == ""


@pytest.mark.parametrize(
    ("wanted", "usual", "expected"),
    [
        (spec(), 1, Needs(1)),
        (spec(), 0, Needs(0)),
        (spec(3, 10), 1, Needs(3, 10)),
        (spec(None, 10), 0, Needs(0, 10)),
        (spec(ALL_CPUS), 1, Needs(4, 0, alone=True)),
        (spec(ALL_CPUS, 5, 2), 1, Needs(4, 5, alone=True, gpus=2)),
        (spec(gpus=2), 1, Needs(1, gpus=2)),
    ],
)
def test_needs(wanted: Spec, usual: int, expected: Needs) -> None:
    """A job that does not say has a CPU where slots are counted."""
    assert needs(wanted, Capacity(4, 1000, usual)) == expected


def test_jobs_that_ask_for_nothing_are_left_to_the_slots(node: Node) -> None:
    """However many there are."""
    assert [node.come(f"j{number}", spec()) for number in range(100)] == [""] * 100
    assert not len(node.packing)


def test_side_by_side(node: Node) -> None:
    """Jobs of several CPUs and of one share the node, and the sum is what it has."""
    assert node.come("three", spec(3)) == ""
    assert node.come("two", spec(2)) == "needs 2 CPUs, and 1 of 4 are free"
    assert node.come("one", spec()) == ""
    assert node.come("none", spec()) == "needs 1 CPUs, and 0 of 4 are free"
    assert node.woken() == []
    assert node.end("three") == ["two", "none"]
    assert [node.come(name, spec(cpus)) for name, cpus in (("two", 2), ("none", None))] == ["", ""]


def test_gpus(node: Node) -> None:
    """They are added up as the rest; who asks for GPUs alone is packed, too."""
    assert node.come("a", spec(gpus=1)) == ""
    assert node.come("b", spec(gpus=2)) == "needs 2 GPUs, and 1 of 2 are free"
    assert node.come("c", spec(gpus=1)) == ""
    assert node.woken() == []
    node.end("a")
    assert node.end("c") == ["b"]


def test_gpus_that_are_in_use_otherwise(node: Node) -> None:
    """What has ended, and has not left the node's hands, has its GPUs still."""
    node.packing.begin(0, 0.0, node.running.__contains__, 1)
    assert node.packing.place("b", spec(gpus=2), 0.0) == "needs 2 GPUs, and 1 of 2 are free"
    assert node.packing.woken(0, 0.0, node.running.__contains__, 1) == []
    assert node.packing.woken(0, 0.0, node.running.__contains__, 0) == ["b"]


def test_several_that_are_placed_together(node: Node) -> None:
    """What was placed counts before it is claimed."""
    node.packing.begin(0, 0.0, node.running.__contains__)
    reasons = [node.packing.place(f"j{number}", spec(2), 0.0) for number in range(3)]
    assert reasons == ["", "", "needs 2 CPUs, and 0 of 4 are free"]


def test_smaller_ones_pass_for_a_while(node: Node) -> None:
    """Then the node becomes free for the one that has waited, and only then do others start."""
    node.come("small0", spec())
    assert node.come("big", spec(4)) != ""
    for number in range(1, 4):
        assert node.come(f"small{number}", spec()) == ""
    node.end("small0")
    assert node.come("small4", spec()) == ""
    assert node.packing.next(node.now) == PATIENCE
    node.now = PATIENCE
    assert node.packing.next(node.now) is None
    node.end("small1")
    assert node.come("small5", spec()) == "room is kept for big, which has waited for long"
    assert node.end("small2") == node.end("small3") == []
    assert node.end("small4") == ["big"]
    assert node.come("big", spec(4)) == ""
    assert node.come("small5", spec()) == "needs 1 CPUs, and 0 of 4 are free"
    assert node.end("big") == ["small5"]


def test_what_does_not_keep_it_waiting_passes_always(node: Node) -> None:
    """Who waits for memory is not kept waiting by a job that takes none."""
    node.come("has", spec(1, 600))
    assert node.come("waits", spec(1, 600)).startswith("needs 600 B of memory")
    node.now = 2 * PATIENCE
    assert node.come("none", spec(1)) == ""
    assert node.come("more", spec(1, 300)).startswith("room is kept for waits")


def test_alone(node: Node) -> None:
    """cpus=all runs beside nobody, and nobody beside it."""
    node.come("one", spec())
    assert node.come("all", spec(ALL_CPUS)).startswith("needs all CPUs")
    node.now = PATIENCE
    assert node.come("two", spec()).startswith("room is kept for all")
    assert node.end("one") == ["all"]
    assert node.come("all", spec(ALL_CPUS)) == ""
    assert node.come("two", spec()) == "another job has all CPUs (cpus=all)"


def test_who_is_gone_keeps_no_room(node: Node) -> None:
    """A job may be withdrawn, held, or run elsewhere while it waits."""
    node.come("one", spec())
    node.come("big", spec(4))
    node.now = PATIENCE
    node.packing.forget({"one"}.__contains__)
    assert node.come("two", spec()) == ""


def test_what_a_life_before_has_counts() -> None:
    """It may still run."""
    before, after = Node(), Node()
    before.come("old", spec(3))
    after.packing.inherit(before.packing)
    after.running["old"] = Needs(3)
    assert after.come("two", spec(2)) == "needs 2 CPUs, and 1 of 4 are free"


@pytest.mark.parametrize("seed", range(200))
def test_nobody_waits_for_ever(seed: int) -> None:
    """Whatever comes and ends: no sum is exceeded, and each one is started in the end."""
    rng, node = random.Random(seed), Node()
    waiting: dict[str, Spec] = {}
    passed: dict[str, int] = {}
    for number in range(300):
        node.now += rng.expovariate(0.1)
        wanted = spec(
            rng.choice((None, None, 1, 2, 3, 4, ALL_CPUS)),
            rng.choice((None, None, 200, 1000)),
            rng.choice((None, None, 1, 2)),
        )
        name = f"j{number}"
        if len(node.running) < 4 and not node.come(name, wanted):
            for other in waiting:
                passed[other] = passed.get(other, 0) + 1
        else:
            waiting[name] = wanted
        if node.running and rng.random() < 0.9:
            node.end(rng.choice(list(node.running)))
        _start(node, waiting)
    while node.running or waiting:
        node.now += 1.0
        if node.running:
            node.end(next(iter(node.running)))
        _start(node, waiting)
        assert node.running or not waiting, "nothing runs, and somebody waits"
    assert not len(node.packing)


def _start(node: Node, waiting: dict[str, Spec]) -> None:
    """Start what fits, oldest first, as the backlog has them."""
    for name in list(waiting):
        if len(node.running) < 4 and not node.come(name, waiting[name]):
            del waiting[name]


# --- whose turn it is


def test_each_owner_is_told_of_room(node: Node) -> None:
    """Who of them comes first is decided where shares are known."""
    node.come("has", spec(4))
    for name, owner in (("ann1", 1), ("ann2", 1), ("bob1", 2)):
        node.come(name, spec(4), owner)
    node.come("urgent", Spec(cpus=4, priority=1), 1)
    assert node.end("has") == ["ann1", "bob1", "urgent"]


def test_room_is_kept_for_the_highest_priority(node: Node) -> None:
    """Not for what has waited longest, and not against what comes before it."""
    node.come("has", spec(3))
    node.come("old", spec(4))
    node.come("urgent", Spec(cpus=2, priority=1))
    node.now = 2 * PATIENCE
    assert node.come("small", spec(1)).startswith("room is kept for urgent")
    assert node.come("higher", Spec(cpus=1, priority=2)) == ""


def test_who_has_less_passes_for_longer(node: Node) -> None:
    """A job of an owner who has more keeps room only after ten times as long."""
    node.come("has", spec(2), 1)
    node.come("big", spec(4), 1)
    node.packing.shares = {1: 2}
    node.now = PATIENCE
    assert node.come("mine", spec(1), 1).startswith("room is kept for big")
    assert node.come("other", spec(1), 2) == ""
    node.now = LONGEST_PATIENCE
    assert node.come("third", spec(1), 3).startswith("room is kept for big")


def test_room_that_another_node_keeps(node: Node) -> None:
    """It is not kept twice."""
    node.come("has", spec(2))
    node.come("big", spec(4))
    node.now = PATIENCE
    assert node.packing.patient(node.now) == "big"
    node.packing.elsewhere = "big"
    assert node.come("small", spec(1)) == ""


def test_the_one_that_waited_is_placed_with_others(node: Node) -> None:
    """Then room is kept no more."""
    node.come("has", spec(2))
    node.come("big", spec(4))
    node.now = PATIENCE
    node.end("has")
    node.packing.begin(0, node.now, node.running.__contains__)
    assert node.packing.place("big", spec(4), node.now) == ""
    assert node.packing.place("small", spec(1), node.now).startswith("needs 1 CPUs")


def test_one_that_asks_for_nothing_beside_one_placed_just_now(node: Node) -> None:
    """It counts as soon as anything is added up."""
    node.packing.begin(1, 0.0, node.running.__contains__)
    assert node.packing.place("three", spec(3), 0.0) == ""
    assert node.packing.place("plain", spec(), 0.0) == "needs 1 CPUs, and 0 of 4 are free"


def test_told_again_if_another_node_was_quicker(node: Node) -> None:
    """The room is still there."""
    node.come("has", spec(4))
    node.come("one", spec(4))
    node.come("two", spec(4))
    assert node.end("has") == ["one"]
    assert node.woken() == []
    node.packing.forget({"two"}.__contains__)
    assert node.woken() == ["two"]


def test_gate(node: Node) -> None:
    """A job that fits and is too much for the load average waits, and in the end others do."""
    node.packing.begin(1, 0.0, node.running.__contains__)
    assert node.packing.place("wide", spec(2), 0.0, 0, "forecast") == "forecast"
    assert node.packing.place("small", spec(1), 0.0) == ""
    node.packing.begin(1, PATIENCE, node.running.__contains__)
    assert node.packing.place("small", spec(1), PATIENCE).startswith("room is kept for wide")
    assert node.packing.woken(1, PATIENCE, node.running.__contains__) == []


def test_crowded(node: Node) -> None:
    """So many of one owner keep nobody else's from being looked at."""
    node.come("has", spec(4))
    for number in range(MOST_WAITING):
        assert node.packing.crowded() == set()
        node.come(f"j{number}", spec(4), 1)
    assert node.packing.crowded() == {1}


@pytest.mark.parametrize(
    ("wanted", "free", "expected"),
    [
        (Needs(4), (4, 0), 0.0),
        (Needs(4), (1, 0), 0.75),
        (Needs(4, 100), (4, 50), 0.5),
        (Needs(4, 100), (2, 50), 1.0),
        (Needs(4, 100), (None, None), 0.0),
        (Needs(0), (0, 0), 0.0),
    ],
)
def test_shortfall(wanted: Needs, free: tuple[int | None, int | None], expected: float) -> None:
    """The node that lacks least keeps room."""
    assert shortfall(wanted, *free) == expected


@given(
    st.lists(
        st.tuples(
            st.sampled_from((None, None, 1, 2, 4, ALL_CPUS)),
            st.sampled_from((None, None, 300, 1000)),
            st.integers(0, 2),
            st.integers(-1, 1),
            st.integers(0, 30),
        ),
        min_size=1,
        max_size=40,
    ),
    st.lists(st.integers(0, 3), min_size=1, max_size=20),
)
def test_everything_is_started_in_the_end(
    jobs: list[tuple[int | None, int | None, int, int, int]], ends: list[int]
) -> None:
    """Three owners, any priorities: no sum is exceeded, nothing starves, nothing stands idle."""
    node, waiting, order = Node(), dict[str, tuple[Spec, int]](), Order()
    for number, (cpus, memory, owner, priority, _) in enumerate(jobs):
        name = f"j{number}"
        waiting[name] = Spec(cpus=cpus, memory=memory, priority=priority), owner
        order.add(name, number, owner)
        order.prioritize(name, number, owner, priority)
    owners = {name: owner for name, (_, owner) in waiting.items()}
    for turn in range(20 * len(jobs)):
        node.now += 1.0 + jobs[turn % len(jobs)][4]
        _fill(node, order, waiting, owners)
        if not waiting:
            return
        assert node.running, "nothing runs, and somebody waits"
        node.end(list(node.running)[ends[turn % len(ends)] % len(node.running)])
    raise AssertionError(f"not started: {waiting}")


def _fill(
    node: Node, order: Order, waiting: dict[str, tuple[Spec, int]], owners: dict[str, int]
) -> None:
    """Start what fits, whose turn it is first; what does not fit waits for the next time."""
    aside: list[str] = []
    while len(node.running) < 4:
        shares = Counter[int]()
        for name, held_by in node.running.items():
            shares[owners[name]] += max(1, held_by.cpus)
        heads = {who: head for who in range(3) if (head := order.head(who)) is not None}
        owner = next_owner(heads, shares)
        if owner is None:
            break
        name = heads[owner].name
        order.take(owner, heads[owner])
        node.packing.shares = shares
        if node.come(name, waiting[name][0], owner):
            aside.append(name)
        else:
            del waiting[name]
    for name in aside:
        order.add(name, int(name[1:]), owners[name])
