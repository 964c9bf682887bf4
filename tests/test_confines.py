"""The rules of what holds a job to what it asks for."""

from __future__ import annotations

from resource import RLIM_INFINITY, RLIMIT_DATA, RLIMIT_NPROC
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pmjq.confines import Tree, group_name, job_of, joined, terms
from pmjq.job import Spec, enforced
from pmjq.keys import ALL_CPUS
from values import ID, attempt

NONE = Tree(reason="not here")
MEMORY = {"memory.max": "1000", "memory.swap.max": "0", "memory.oom.group": "1"}
CPUS = {"cpu.max": "300000 100000"}
PIDS = {"pids.max": "50"}
DATA = [(RLIMIT_DATA, 1000, 1000)]


def tree(*controllers: str) -> Tree:
    """Return a control group with some controllers."""
    return Tree("/cg", frozenset(controllers), processes=50)


@pytest.mark.parametrize(
    ("given", "expected", "by"),
    [
        (NONE, {"limits": DATA, "cpus": [4, 5, 6]}, "memory=rlimit,cpus=affinity"),
        (
            tree("memory", "cpu", "pids"),
            {"files": MEMORY | CPUS | PIDS},
            "memory=cgroup,cpus=cgroup",
        ),
        (tree("cpu"), {"files": CPUS, "limits": DATA}, "memory=rlimit,cpus=cgroup"),
        (tree("memory"), {"files": MEMORY, "cpus": [4, 5, 6]}, "memory=cgroup,cpus=affinity"),
        (
            tree("pids"),
            {"files": PIDS, "limits": DATA, "cpus": [4, 5, 6]},
            "memory=rlimit,cpus=affinity",
        ),
    ],
)
def test_each_limit_by_what_is_there(given: Tree, expected: dict[str, Any], by: str) -> None:
    """And the terms say by what."""
    one = attempt(spec=Spec(memory=1000, cpus=3), cpus=(4, 5, 6))
    where = {"cgroup": f"/cg/job-{ID}.1"} if given.path else {}
    assert terms(one, given) == expected | where | {"enforced": by}


@pytest.mark.parametrize("spec", [Spec(), Spec(cpus=ALL_CPUS), Spec(gpus=1, time=1.0)])
def test_who_asks_for_nothing_pays_for_nothing(spec: Spec) -> None:
    """All CPUs are no limit."""
    assert terms(attempt(spec=spec), tree("memory", "cpu", "pids")) == {}


def test_no_cpus_were_assigned() -> None:
    """A claim of a daemon that had a control group has none; nothing is said of them then."""
    assert terms(attempt(spec=Spec(cpus=2)), NONE) == {}


def test_the_name_of_a_group_tells_its_job() -> None:
    """What is no such name is nobody's."""
    assert job_of(group_name(ID, 12)) == ID
    assert [job_of(name) for name in ("pmjq", "job-", "cgroup.procs", ID)] == [""] * 4


@pytest.mark.parametrize("text", ["-", "", "x", "=", "memory"])
def test_words_that_are_not_understood(text: str) -> None:
    """They say nothing."""
    assert enforced(text) == {}


def test_words_of_what_enforces() -> None:
    """They are read as they are written."""
    assert enforced("memory=rlimit,cpus=cgroup,x") == {"memory": "rlimit", "cpus": "cgroup"}


def test_joined() -> None:
    """Of two limits for one thing the lower holds, and no other word is lost."""
    login = {"uid": 7, "limits": [(RLIMIT_DATA, RLIM_INFINITY, 500), (RLIMIT_NPROC, 9, 9)]}
    mine = {"cpus": [1], "limits": [(RLIMIT_DATA, 1000, 1000)]}
    both = joined(login, mine)
    assert both["limits"] == [(RLIMIT_DATA, 500, 500), (RLIMIT_NPROC, 9, 9)]
    assert (both["uid"], both["cpus"]) == (7, [1])
    assert joined({}, mine) == mine
    assert joined({}, {}) == {}


LIMIT = st.integers(0, 10) | st.just(RLIM_INFINITY)
LIMITS = st.lists(st.tuples(st.integers(0, 3), LIMIT, LIMIT))


@given(LIMITS, LIMITS)
def test_what_is_joined_is_as_strict_as_both(
    one: list[tuple[int, int, int]], other: list[tuple[int, int, int]]
) -> None:
    """And it is one that the kernel takes: the soft one is no more than the hard one."""
    found = {number: pair for number, *pair in joined({"limits": one}, {"limits": other})["limits"]}
    for number, soft, hard in (*one, *other):
        assert _value(found[number][0]) <= min(_value(soft), _value(hard))
        assert _value(found[number][1]) <= _value(hard)
    assert all(_value(soft) <= _value(hard) for soft, hard in found.values())


def _value(limit: int) -> float:
    return float("inf") if limit == RLIM_INFINITY else limit
