"""The rules of who has which GPU and which CPU."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pmjq.devices import Devices
from pmjq.job import Spec
from pmjq.keys import ALL_CPUS
from pmjq.packing import Capacity
from values import attempt

NODE = Capacity(cpus=4, gpus=("0", "1", "GPU-x"), numbers=(0, 1, 4, 5))


def test_gpus_are_whole_and_each_has_one_job() -> None:
    """In order, until there are none; then there is nothing to be had, and not a part of it."""
    devices = Devices(NODE)
    assert devices.assign("a", Spec(gpus=2)) == (("0", "1"), ())
    assert devices.assign("b", Spec(gpus=2)) is None
    assert devices.assign("c", Spec(gpus=1)) == (("GPU-x",), ())
    assert devices.assign("d", Spec(gpus=1)) is None
    assert devices.assign("e", Spec()) == devices.assign("e", Spec(gpus=0)) == ((), ())
    devices.forget({"c"}.__contains__)
    assert devices.gpus.free() == ["0", "1"]


def test_cpus_are_distinct_as_far_as_they_reach() -> None:
    """Then those that the fewest have; never more than there are."""
    devices = Devices(NODE)
    given = [devices.assign(name, Spec(cpus=2)) for name in "abc"]
    assert given == [((), (0, 1)), ((), (4, 5)), ((), (0, 1))]
    assert devices.assign("d", Spec(cpus=3)) == ((), (0, 4, 5))
    assert devices.assign("e", Spec(cpus=9)) == ((), (0, 1, 4, 5))
    assert devices.assign("f", Spec(cpus=ALL_CPUS)) == devices.assign("g", Spec()) == ((), ())


def test_cpus_are_not_assigned_where_a_control_group_counts_them() -> None:
    """Then the job may use any."""
    assert Devices(Capacity(cpus=4)).assign("a", Spec(cpus=2)) == ((), ())


def test_what_an_earlier_life_gave_is_not_given_again() -> None:
    """Nor what a job has that was found running; a GPU that is no more ours does not count."""
    old, new = Devices(NODE), Devices(NODE)
    old.assign("a", Spec(gpus=1))
    new.hold(attempt(id="b", gpus=("1", "7"), cpus=(0,)))
    new.inherit(old)
    assert (new.gpus.free(), new.gpus.taken()) == (["GPU-x"], 2)
    assert new.assign("c", Spec(gpus=1, cpus=1)) == (("GPU-x",), (1,))


STEPS = st.lists(st.tuples(st.sampled_from(("come", "go", "restart")), st.integers(0, 4)))


@given(STEPS)
def test_no_gpu_is_ever_given_to_two_jobs(steps: list[tuple[str, int]]) -> None:
    """Whatever comes and goes, and however often a daemon learns of it from the claims."""
    devices = Devices(NODE)
    has: dict[str, tuple[str, ...]] = {}
    for number, (what, count) in enumerate(steps):
        if what == "come":
            assigned = devices.assign(f"j{number}", Spec(gpus=count))
            free = 3 - sum(map(len, has.values()))
            assert (assigned is None) == (count > free)
            if assigned is not None:
                has[f"j{number}"] = assigned[0]
        elif what == "go" and has:
            del has[list(has)[count % len(has)]]
            devices.forget(has.__contains__)
        elif what == "restart":
            devices = Devices(NODE)
            for name, gpus in has.items():
                devices.hold(attempt(id=name, gpus=gpus))
        given = [gpu for gpus in has.values() for gpu in gpus]
        assert len(given) == len(set(given)) == devices.gpus.taken()
