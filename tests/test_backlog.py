"""The rules of the backlog: what is queued in its order, and what is aside with its reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pmjq import order
from pmjq.backlog import Backlog
from pmjq.order import SLACK
from pmjq.ready import PATIENCE_EMPTY, PATIENCE_LINKED, Kind, Look, Rules, Standing, settled
from values import FakeStat

FILE = FakeStat()
HELD = FakeStat(st_mode=0o100644)
EMPTY = FakeStat(st_size=0)
FIFO = FakeStat(st_mode=0o010755)
LEFT = FakeStat(st_uid=0)
INCOMING = Standing(Kind.INCOMING, "still open for writing", 0.5)


@pytest.fixture
def backlog() -> Backlog:
    """Return a backlog of user 1000 that has seen nothing."""
    return Backlog(Rules(uids=frozenset({1000})))


def take(backlog: Backlog, most: int, shares: Mapping[int, int] | None = None) -> list[str]:
    """Take up to ``most`` names off the head of the queue; ``shares``: what owners have."""
    names: list[str] = []
    held = dict(shares or {})
    while len(names) < most and (owner := order.next_owner(backlog.heads(), held)) is not None:
        names += [head.name for head in backlog.take_of(owner, 1)]
        held[owner] = held.get(owner, 0) + 1
    return names


def at(appeared: int) -> FakeStat:
    """Return the stat of an executable file that appeared then."""
    return FakeStat(st_ctime_ns=appeared)


def reasons(backlog: Backlog) -> dict[str, tuple[Kind, str]]:
    """Return kind and first word of the reason of what is aside."""
    return {name: (told.kind, told.reason.split()[0]) for name, told in backlog.aside()}


# --- the order


def test_nothing_seen(backlog: Backlog) -> None:
    """An empty spool has nothing to run, to report or to come back for."""
    assert (len(backlog), list(backlog.names()), take(backlog, 9)) == (0, [], [])
    assert (backlog.next_look(), backlog.due(9e9), backlog.bad(9), backlog.revisit(9)) == (
        None,
        [],
        [],
        [],
    )
    assert not backlog.settling()
    assert "a" not in backlog


def test_oldest_first_then_by_name(backlog: Backlog) -> None:
    """What appeared first is run first, and of what appeared at once the first name."""
    for name, appeared in (("b", 2), ("z", 1), ("a", 2), ("c", 3)):
        backlog.see(name, at(appeared), 0.0)
    assert len(backlog) == 4
    assert take(backlog, 9) == ["z", "a", "b", "c"]


def test_by_priority_then_in_turns_then_by_age() -> None:
    """Of three owners the one who has least comes first, unless a priority says otherwise."""
    owners = Backlog(Rules(uids=None))
    for number in range(6):
        for owner in (1, 2, 3) if number else (1,):
            stat = FakeStat(st_uid=owner, st_ctime_ns=10 * owner + number)
            owners.see(f"{owner}.{number}", stat, 0.0)
    stat = FakeStat(st_uid=1, st_ctime_ns=15)
    owners.prioritize("1.5", stat, 7)
    assert owners.priority("1.5", stat) == 7
    assert take(owners, 5, {1: 2, 2: 1}) == ["1.5", "3.1", "2.1", "3.2", "2.2"]
    owners.put_back("1.5")
    assert take(owners, 3, {3: 9}) == ["1.5", "2.3", "1.0"]
    assert [head.name for head in owners.take_of(3, 2)] == ["3.3", "3.4"]
    assert set(owners.heads()) == {1, 2, 3}


def test_taken_are_of_one_priority(backlog: Backlog) -> None:
    """So that what comes of lower ones is asked again of all owners."""
    for name, appeared in (("a", 1), ("b", 2), ("c", 3)):
        backlog.see(name, at(appeared), 0.0)
    backlog.prioritize("c", at(3), 1)
    assert [head.name for head in backlog.take_of(1000, 9)] == ["c"]
    assert [head.name for head in backlog.take_of(1000, 9, 0)] == ["a", "b"]
    assert backlog.head(1000) is None


def test_mtime_is_no_age(backlog: Backlog) -> None:
    """``cp -p`` of an old file does not jump the queue."""
    backlog.see("old", FakeStat(st_mtime_ns=1, st_ctime_ns=9), 0.0)
    backlog.see("new", FakeStat(st_mtime_ns=8, st_ctime_ns=8), 0.0)
    assert take(backlog, 2) == ["new", "old"]


def test_taken_names_are_out_until_they_are_put_back(backlog: Backlog) -> None:
    """Nothing is taken twice, and what is put back has its place again."""
    for name, appeared in (("a", 1), ("b", 2), ("c", 3)):
        backlog.see(name, at(appeared), 0.0)
    assert take(backlog, 2) == ["a", "b"]
    assert len(backlog) == 1
    assert "a" not in backlog
    backlog.put_back("b")
    assert take(backlog, 9) == ["b", "c"]


def test_take_nothing(backlog: Backlog) -> None:
    """Without room nothing is taken off."""
    backlog.see("a", FILE, 0.0)
    assert take(backlog, 0) == []
    assert take(backlog, -1) == []
    assert len(backlog) == 1


def test_seen_again_is_queued_once(backlog: Backlog) -> None:
    """Looks repeat; a job does not."""
    for _ in range(3):
        backlog.see("a", FILE, 0.0)
    assert (len(backlog), take(backlog, 9)) == (1, ["a"])


def test_changed_goes_to_its_new_place(backlog: Backlog) -> None:
    """An entry that is changed or replaced queues by its new time, in both directions."""
    for name, appeared in (("a", 1), ("b", 2), ("c", 9)):
        backlog.see(name, at(appeared), 0.0)
    backlog.see("a", at(5), 1.0)
    backlog.see("c", at(0), 1.0)
    assert take(backlog, 9) == ["c", "b", "a"]


def test_gone_is_forgotten(backlog: Backlog) -> None:
    """What is withdrawn is neither run nor reported, queued or not."""
    backlog.see("a", FILE, 0.0)
    backlog.see("b", FIFO, 0.0)
    backlog.see("a", None, 1.0)
    backlog.forget("b")
    backlog.forget("never seen")
    assert (list(backlog.names()), take(backlog, 9), backlog.bad(9)) == ([], [], [])


def test_back_under_the_same_name(backlog: Backlog) -> None:
    """A name that comes again is a new entry, whatever the old one was."""
    backlog.see("a", at(1), 0.0)
    backlog.see("b", at(2), 0.0)
    backlog.forget("a")
    backlog.see("a", at(3), 0.0)
    assert take(backlog, 9) == ["b", "a"]


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["see", "see", "see held", "forget", "take", "put back", "put aside"]),
        st.sampled_from("abcdefg"),
        st.integers(0, 4),
    ),
    max_size=60,
)


@given(STEPS)
def test_order_is_that_of_sorting(steps: list[tuple[str, str, int]]) -> None:
    """Whatever comes and goes, the queue is what sorting all queued entries would give."""
    backlog = Backlog(Rules(uids=None))
    queued: dict[str, int] = {}
    aside: set[str] = set()
    taken: dict[str, int] = {}
    for step, name, number in steps:
        match step:
            case "see":
                backlog.see(name, at(number), 0.0)
                queued[name] = number
                aside.discard(name)
            case "see held":
                backlog.see(name, HELD, 0.0)
                queued.pop(name, None)
                aside.add(name)
            case "forget":
                backlog.forget(name)
                queued.pop(name, None)
                taken.pop(name, None)
                aside.discard(name)
            case "take":
                head = sorted(queued, key=lambda each: (queued[each], each))[:number]
                assert take(backlog, number) == head
                taken |= {each: queued.pop(each) for each in head}
            case "put back" if name in taken and name not in queued and name not in aside:
                backlog.put_back(name)
                queued[name] = taken.pop(name)
            case "put aside" if name in taken:
                backlog.put_aside(name, at(number), INCOMING, 0.0)
                queued.pop(name, None)
                del taken[name]
                aside.add(name)
        assert len(backlog) == len(queued)
        assert set(backlog.names()) == set(queued) | aside
        assert {each for each, _ in backlog.aside()} == aside
    assert take(backlog, 99) == sorted(queued, key=lambda each: (queued[each], each))


def test_changing_entries_fill_no_memory(backlog: Backlog) -> None:
    """An entry that is touched all day behind a closed gate costs what one entry costs."""
    for number in range(10_000):
        backlog.see("a", at(number), float(number))
    assert backlog._queued._places < 1000


# --- what is aside


def test_aside_with_its_reason(backlog: Backlog) -> None:
    """What is not queued is kept apart, each with its reason."""
    for name, stat in (
        ("held", HELD),
        ("empty", EMPTY),
        ("fifo", FIFO),
        ("left", LEFT),
        (".hidden", FILE),
        ("queued", FILE),
    ):
        backlog.see(name, stat, 0.0)
    assert reasons(backlog) == {
        "held": (Kind.HELD, "not"),
        "empty": (Kind.INCOMING, "is"),
        "fifo": (Kind.BAD, "a"),
        "left": (Kind.LEFT, "another"),
        ".hidden": (Kind.PASSED_OVER, "hidden"),
    }
    assert take(backlog, 9) == ["queued"]
    assert list(backlog.names()) == ["held", "empty", "fifo", "left", ".hidden"]


def test_hold_and_release(backlog: Backlog) -> None:
    """``chmod a-x`` takes an entry out of the queue, ``chmod u+x`` puts it in again."""
    backlog.see("a", FILE, 0.0)
    backlog.see("a", HELD, 1.0)
    assert (len(backlog), take(backlog, 9), "a" in backlog) == (0, [], True)
    backlog.see("a", FILE, 2.0)
    assert (list(backlog.aside()), take(backlog, 9)) == ([], ["a"])


def test_bad_entries_come_with_their_reasons(backlog: Backlog) -> None:
    """Entries that can never be run are listed, so many at a time, until gone or mended."""
    for name in ("a", "b", "c"):
        backlog.see(name, FIFO, 0.0)
    assert backlog.bad(2) == [
        ("a", "a FIFO, not an executable file"),
        ("b", "a FIFO, not an executable file"),
    ]
    backlog.see("a", FILE, 1.0)
    backlog.see("b", HELD, 1.0)
    backlog.forget("c")
    assert backlog.bad(9) == []


def test_put_aside_takes_off_the_queue(backlog: Backlog) -> None:
    """An entry that turns out not to be ready leaves the queue until its next look."""
    backlog.see("a", FILE, 0.0)
    backlog.put_aside("a", FILE, INCOMING, 10.0)
    assert (len(backlog), backlog.next_look(), take(backlog, 9)) == (0, 10.5, [])
    assert (backlog.due(10.4), backlog.due(10.5), backlog.due(10.5)) == ([], ["a"], [])


def test_due_names_come_once(backlog: Backlog) -> None:
    """However often a look was asked for, a name is due once, and only while it is aside."""
    for name in ("a", "b", "c"):
        for _ in range(3):
            backlog.put_aside(name, FILE, INCOMING, 0.0)
    backlog.forget("b")
    backlog.see("c", FILE, 0.1)
    assert backlog.due(9.0) == ["a"]


def test_looks_without_an_end_need_no_look(backlog: Backlog) -> None:
    """What only a person can change is not looked at again by itself."""
    for name, stat in (("held", HELD), ("left", LEFT), ("fifo", FIFO), (".hidden", FILE)):
        backlog.see(name, stat, 0.0)
    assert (backlog.next_look(), backlog.due(9e9)) == (None, [])


def test_revisit_is_all_in_turn(backlog: Backlog) -> None:
    """Every entry that is not queued is looked at again some time, a few at a time."""
    for name in ("a", "b", "c"):
        backlog.see(name, HELD, 0.0)
    backlog.see("queued", FILE, 0.0)
    assert [backlog.revisit(2) for _ in range(4)] == [["a", "b"], ["c"], ["a", "b"], ["c"]]


@pytest.mark.parametrize(
    ("stat", "expected"),
    [(HELD, False), (LEFT, False), (FILE, False), (EMPTY, True), (FIFO, True)],
)
def test_settling(backlog: Backlog, stat: FakeStat, *, expected: bool) -> None:
    """What becomes ready or bad by itself is on its way; what only a person changes is not."""
    backlog.see("a", stat, 0.0)
    assert backlog.settling() == expected


def test_left_for_a_while_is_not_settling(backlog: Backlog) -> None:
    """An entry that could not be moved is tried again, and ``--once`` does not stay for it."""
    backlog.put_aside("a", FILE, Standing(Kind.LEFT, "cannot be moved", 60.0), 0.0)
    assert not backlog.settling()
    assert backlog.next_look() == 60.0


# --- what could not be moved

LET_BE = Standing(Kind.LEFT, "cannot be moved")


def pauses(backlog: Backlog, stat: FakeStat, tries: int) -> list[float]:
    """Return for how long an entry is left alone each time it could not be moved."""
    now, found = 0.0, []
    for _ in range(tries):
        backlog.refuse("a", stat, LET_BE, now, 0)
        again = backlog.next_look()
        assert again is not None
        found.append(again - now)
        now = again
    return found


def test_refused_for_longer_each_time(backlog: Backlog) -> None:
    """What cannot be moved is tried less and less often, and every minute at least."""
    assert pauses(backlog, FILE, 8) == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]


def test_refused_again_after_a_change(backlog: Backlog) -> None:
    """An entry that has changed is another one, and may be movable."""
    pauses(backlog, FILE, 8)
    assert pauses(backlog, replace(FILE, st_ctime_ns=9), 2) == [1.0, 2.0]


def test_looks_in_between_find_it_refused(backlog: Backlog) -> None:
    """However often it is looked at, it is tried when its time has come, or when it has changed."""
    backlog.refuse("a", FILE, LET_BE, 0.0, 0)
    for now in (0.1, 0.5, 0.9):
        backlog.see("a", FILE, now)
        assert reasons(backlog) == {"a": (Kind.LEFT, "cannot")}
        assert backlog.next_look() == pytest.approx(1.0)
    backlog.see("a", FILE, 1.0)
    assert take(backlog, 9) == ["a"]
    backlog.put_back("a")
    backlog.refuse("a", FILE, LET_BE, 1.0, 0)
    backlog.see("a", replace(FILE, st_ctime_ns=9), 1.1)
    assert take(backlog, 9) == ["a"]


def test_refused_for_as_long_as_was_said(backlog: Backlog) -> None:
    """Who knows when it is worth another try says so."""
    backlog.refuse("a", FILE, LET_BE._replace(again=7.0), 0.0, 0)
    assert backlog.next_look() == 7.0


def test_outdone_by_others(backlog: Backlog) -> None:
    """If others are claimed and it is not, that is its own fault, until it changes."""
    coming = Standing(Kind.INCOMING, "cannot be moved", 1.0)
    assert not backlog.outdone("a", FILE, 5)
    backlog.refuse("a", FILE, coming, 0.0, 5)
    assert [backlog.outdone("a", FILE, won) for won in (5, 6)] == [False, True]
    assert not backlog.outdone("a", replace(FILE, st_ctime_ns=9), 6)
    backlog.refuse("a", FILE, LET_BE, 1.0, 6)
    assert backlog.outdone("a", FILE, 6)


def test_forgiven(backlog: Backlog) -> None:
    """What could not be moved is tried at once when there is reason to, like any other."""
    pauses(backlog, FILE, 8)
    assert (backlog.refusals(), backlog.forgive(), backlog.refusals()) == (1, ["a"], 0)
    backlog.see("a", FILE, 0.0)
    assert take(backlog, 9) == ["a"]
    backlog.put_back("a")
    assert pauses(backlog, FILE, 1) == [1.0]


def test_gone_is_not_refused(backlog: Backlog) -> None:
    """What has gone, or was claimed after all, leaves nothing behind."""
    backlog.refuse("a", FILE, LET_BE, 0.0, 0)
    backlog.forget("a")
    assert (backlog.refusals(), backlog.next_look()) == (0, None)


def test_one_look_for_each_entry(backlog: Backlog) -> None:
    """However often it is put aside, an entry has one look to come, and fills no memory."""
    for number in range(10_000):
        backlog.put_aside("a", FILE, INCOMING._replace(again=5.0), float(number))
    assert len(backlog._looks) <= SLACK + 2
    assert backlog.next_look() == 9_999 + 5.0
    assert (backlog.due(10_003.9), backlog.due(10_004.0), backlog.due(9e9)) == ([], ["a"], [])


# --- since when


@pytest.mark.parametrize(
    ("stat", "patience"), [(EMPTY, PATIENCE_EMPTY), (FakeStat(st_nlink=2), PATIENCE_LINKED)]
)
def test_patience_is_counted_from_the_first_look(
    backlog: Backlog, stat: FakeStat, patience: float
) -> None:
    """Looks in between neither shorten nor lengthen what an entry is given."""
    for now in (100.0, 100.5, 101.0):
        backlog.see("a", stat, now)
    assert [kind for kind, _ in reasons(backlog).values()] == [Kind.INCOMING]
    backlog.see("a", stat, 100.0 + patience)
    assert [kind for kind, _ in reasons(backlog).values()] == [Kind.BAD]


def test_patience_begins_again_with_a_change(backlog: Backlog) -> None:
    """An entry that changes is another one."""
    backlog.see("a", EMPTY, 0.0)
    backlog.see("a", replace(EMPTY, st_ctime_ns=9), PATIENCE_EMPTY)
    assert [kind for kind, _ in reasons(backlog).values()] == [Kind.INCOMING]
    assert backlog.due(PATIENCE_EMPTY) == []
    assert backlog.next_look() == 2 * PATIENCE_EMPTY


def test_age_is_counted_while_nothing_changes(backlog: Backlog) -> None:
    """The age of an entry is the time for which all looks have seen the same."""
    backlog.see("a", FILE, 0.0)
    assert [backlog.age("a", FILE, now) for now in (10.0, 11.0, 14.0)] == [0.0, 1.0, 4.0]
    assert backlog.age("a", replace(FILE, st_size=11), 15.0) == 0.0
    assert backlog.age("a", replace(FILE, st_size=11), 16.0) == 1.0


def test_age_outlives_being_put_aside_and_queued_again(backlog: Backlog) -> None:
    """What must stay the same for a while is ready after that while, however it is looked at."""
    rules = Rules(uids=None, settle=3.0)
    backlog.see("a", FILE, 0.0)
    kinds = []
    for now in (0.0, 1.0, 3.0):
        assert take(backlog, 1) == ["a"]
        told = settled(Look(FILE, busy=False, head=b""), rules, backlog.age("a", FILE, now))
        kinds.append((told.kind, told.again))
        backlog.put_aside("a", FILE, told, now)
        backlog.see("a", FILE, now + 0.5)
    assert kinds == [(Kind.INCOMING, 3.0), (Kind.INCOMING, 2.0), (Kind.QUEUED, None)]


def test_age_of_a_forgotten_name_is_nothing(backlog: Backlog) -> None:
    """A name that comes again has not been seen for any time."""
    backlog.age("a", FILE, 0.0)
    backlog.forget("a")
    assert backlog.age("a", FILE, 9.0) == 0.0


def test_emptied_after_a_look_has_its_patience(backlog: Backlog) -> None:
    """An entry that was looked at when it had content is not bad the moment it is empty."""
    backlog.see("a", FILE, 0.0)
    backlog.age("a", FILE, 0.0)
    backlog.see("a", EMPTY, 60.0)
    assert [kind for kind, _ in reasons(backlog).values()] == [Kind.INCOMING]
