"""Who a number is, and for how long that is remembered."""

from __future__ import annotations

import grp
import os
import pwd
import subprocess
import threading
from collections.abc import Iterator

import pytest

from conftest import eventually
from pmjq import account, who
from pmjq.owners import Policy, User

ANN = User(1001, "ann", 1001, frozenset({"ann"}), (1001,), alone=True)
EVE = User(1001, "eve", 1001, frozenset({"eve"}), (1001,))


class Services:
    """Name services that say what they are told to; ``hang``: until they are let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.answer: User | Exception | None = ANN
        self.asked = 0
        self.time = 0.0
        self.free = threading.Event()
        self.free.set()
        self.owners = account.Owners(Policy(), now=lambda: self.time)
        monkeypatch.setattr(account, "_user", self._user)

    def _user(self, uid: int) -> User | None:
        assert uid == ANN.uid
        self.asked += 1
        self.free.wait(60)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def known(self) -> User | None:
        return self.owners.user(ANN.uid)


@pytest.fixture
def services(monkeypatch: pytest.MonkeyPatch) -> Iterator[Services]:
    """Return services that know ann, and let their threads go at the end."""
    made = Services(monkeypatch)
    yield made
    made.free.set()


def test_remembered_for_a_while(services: Services) -> None:
    """Nobody is asked twice within that time, whether there is such a user or not."""
    for answer in (ANN, None):
        services.answer = answer
        services.time += 2 * account.STALE
        asked = services.asked
        assert [services.known() for _ in range(3)] == [answer] * 3
        services.time += account.REMEMBERED - 1
        assert services.known() == answer
        assert services.asked == asked + 1


def test_asked_anew_beside_the_turns(services: Services) -> None:
    """Services that hang hold nobody up who was known before."""
    assert services.known() == ANN
    services.time += account.REMEMBERED
    services.answer = EVE
    services.free.clear()
    assert [services.known() for _ in range(3)] == [ANN] * 3
    services.free.set()
    eventually(lambda: services.known() == EVE)
    assert services.asked == 2


def test_no_thread_to_be_had(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked as soon as there is one."""
    assert services.known() == ANN
    services.time += account.REMEMBERED
    services.answer = EVE

    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        assert [services.known() for _ in range(3)] == [ANN] * 3
    eventually(lambda: services.known() == EVE)


def test_who_was_known_long_ago(services: Services) -> None:
    """A number may be somebody else's by then."""
    assert services.known() == ANN
    services.time += account.REMEMBERED + account.STALE
    services.answer = EVE
    assert services.known() == EVE


@pytest.mark.parametrize(
    "error",
    [
        OSError("no process"),
        subprocess.TimeoutExpired("who", 20),
        subprocess.CalledProcessError(1, "who"),
        IndexError(),
    ],
)
def test_services_that_do_not_answer(services: Services, error: Exception) -> None:
    """Who was known is known; of a stranger nothing is, until they answer again."""
    services.answer = error
    assert services.known() is None
    services.time += account.REMEMBERED
    services.answer = ANN
    assert services.known() == ANN
    services.time += account.REMEMBERED
    services.answer = error
    assert services.known() == ANN
    eventually(lambda: services.asked == 3)
    services.time += account.REMEMBERED + account.STALE
    assert services.known() == ANN


def test_group(services: Services) -> None:
    """Only a group that is a user's alone is told, and of root none."""
    assert services.owners.group(ANN.uid) == ANN.gid
    services.answer = EVE
    services.time += 2 * account.STALE
    assert services.owners.group(ANN.uid) is None
    assert services.owners.group(0) is None


def test_this_user() -> None:
    """The program tells of a real user what the system does, and of a number that is nobody's."""
    entry = pwd.getpwuid(os.geteuid())
    user = account.Owners(Policy()).user(entry.pw_uid)
    assert user is not None
    gids = tuple(os.getgrouplist(entry.pw_name, entry.pw_gid))
    assert (user.uid, user.name, user.gid) == (entry.pw_uid, entry.pw_name, entry.pw_gid)
    assert (user.gids, user.alone) == (gids, who.alone(entry))
    assert account.Owners(Policy()).user(2**31 - 77) is None


def _entry(name: str, uid: int, gid: int) -> pwd.struct_passwd:
    return pwd.struct_passwd((name, "x", uid, gid, "", "/", "/bin/sh"))


@pytest.mark.parametrize(
    ("group", "members", "others", "alone"),
    [
        ("ann", [], [], True),
        ("ann", ["ann"], [("bob", 1002, 1002)], True),
        ("ann", ["ann", "bob"], [], False),
        ("users", [], [], False),
        # It is the first group of somebody else too.
        ("ann", [], [("bob", 1002, 1001)], False),
        # Another name of the same user.
        ("ann", [], [("anna", 1001, 1001)], True),
        (None, [], [], False),
    ],
)
def test_group_that_is_a_user_s_alone(
    group: str | None,
    members: list[str],
    others: list[tuple[str, int, int]],
    *,
    alone: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It has his name, and nobody else is in it, as a member or with it as the first one."""
    ann = _entry("ann", 1001, 1001)

    def found(gid: int) -> grp.struct_group:
        if group is None:
            raise KeyError(gid)
        return grp.struct_group((group, "x", gid, members))

    monkeypatch.setattr(grp, "getgrgid", found)
    monkeypatch.setattr(pwd, "getpwall", lambda: [ann, *(_entry(*one) for one in others)])
    assert who.alone(ann) == alone
