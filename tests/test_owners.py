"""The rules of whose jobs root's daemon runs: users and stats in, reasons out."""

from __future__ import annotations

import stat as modes

import pytest

from pmjq import owners
from pmjq.owners import Policy, User
from values import FakeStat

ANN = User(1000, "ann", 1000, frozenset({"ann", "lab"}), alone=True)
BEN = User(1001, "ben", 100, frozenset({"users"}))
DAEMON = User(1, "daemon", 1, frozenset({"daemon"}))
NOBODY = User(65534, "nobody", 65534)
ROOT = User(0, "root", 0, alone=True)


@pytest.mark.parametrize(
    ("policy", "served"),
    [
        (Policy(), {"ann", "ben"}),
        (Policy(root=True), {"ann", "ben", "root"}),
        (Policy(users=frozenset({"ben"})), {"ben"}),
        (Policy(users=frozenset({"daemon"})), {"daemon"}),
        (Policy(users=frozenset({"root"})), set()),
        (Policy(groups=frozenset({"lab"})), {"ann"}),
        (Policy(groups=frozenset({"daemon"})), set()),
        (Policy(groups=frozenset({"lab"}), users=frozenset({"ben"})), {"ann", "ben"}),
        (Policy(denied=frozenset({"ann"})), {"ben"}),
        (Policy(denied=frozenset({"ann", "root"}), root=True), {"ben"}),
        (Policy(users=frozenset({"ann"}), denied=frozenset({"ann"})), set()),
        (Policy(system=1001), {"ben"}),
    ],
)
def test_policy(policy: Policy, served: set[str]) -> None:
    """Persons are served unless they are left out; others only by name, and a denial wins."""
    users = (ANN, BEN, DAEMON, NOBODY, ROOT)
    assert {user.name for user in users if not policy.refusal(user)} == served
    for user in users:
        assert policy.refusal(user) == "" or user.name in policy.refusal(user)


@pytest.mark.parametrize(
    ("user", "gid", "mode", "listed", "exposed"),
    [
        (ANN, 1000, 0o755, False, False),
        (ANN, 1000, 0o775, False, False),
        (ANN, 1000, 0o775, True, True),
        (ANN, 1000, 0o757, False, True),
        (ANN, 50, 0o775, False, True),
        (ANN, 50, 0o755, False, False),
        (BEN, 100, 0o770, False, True),
        (BEN, 100, 0o700, False, False),
        (ROOT, 0, 0o775, False, False),
        (ROOT, 50, 0o775, False, True),
    ],
)
@pytest.mark.parametrize("kind", [modes.S_IFREG, modes.S_IFDIR])
def test_what_others_can_write(
    user: User, gid: int, mode: int, kind: int, *, listed: bool, exposed: bool
) -> None:
    """A group counts as others unless it is the owner's alone; then a list may name more."""
    stat = FakeStat(st_mode=kind | mode, st_uid=user.uid, st_gid=gid)
    reason = owners.exposed(stat, user, listed=listed)
    assert ("chmod go-w" in reason) == exposed


def test_link_says_nothing() -> None:
    """A symbolic link has all rights."""
    link = FakeStat(st_mode=modes.S_IFLNK | 0o777, st_uid=1000, st_gid=50)
    assert owners.exposed(link, ANN, listed=False) == ""


def test_unknown_owner_is_named() -> None:
    """By the number, which is all that is known."""
    assert "4242" in owners.unknown(4242)


def test_directory_whose_group_may_write_what_is_in_it() -> None:
    """It is as if the group might write the directory: harmless if it is the user's alone."""
    for user, exposed in ((ANN, False), (BEN, True)):
        stat = FakeStat(st_mode=modes.S_IFDIR | 0o755, st_gid=user.gid)
        assert owners.exposed(stat, user, listed=False) == ""
        assert bool(owners.exposed(stat, user, listed=False, grouped=True)) is exposed
