"""Users and names as this machine knows them.

What a login gives, who a number is, what we are called.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import pwd
import re
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

import msgspec

from pmjq import owners
from pmjq.owners import User

if TYPE_CHECKING:
    from collections.abc import Callable

    from pmjq.becoming import Terms
    from pmjq.owners import Policy
    from pmjq.ready import Stat

T = TypeVar("T")

WHO = str(Path(__file__).with_name("who.py"))
SESSION = str(Path(__file__).with_name("session.py"))
PAM = "/etc/pam.d/pmjq"
DEFINITIONS = "/etc/login.defs"

REMEMBERED = 60.0
"""Seconds for which it is remembered who a user is and what a login gives him."""

STALE = 600.0
"""Seconds after which that counts for nothing, though nothing else is known yet."""

PATIENCE = 20.0
"""Seconds that the session of a user may take to open, and the name services to tell of him."""

UMASK = 0o022
PERSONS = 1000
"""What holds where ``/etc/login.defs`` says nothing."""


def login_environment(uid: int | None = None) -> dict[str, str]:
    """Return what a login gives a job of a user, this one if none is named.

    No more than that comes from the daemon's own environment.
    """
    uid = os.geteuid() if uid is None else uid
    try:
        user = pwd.getpwuid(uid)
        name, home, shell = user.pw_name, user.pw_dir, user.pw_shell or "/bin/sh"
    except KeyError:
        name, home, shell = str(uid), "/", "/bin/sh"
    path = "/usr/local/bin:/usr/bin:/bin"
    if uid == 0:
        path = f"/usr/local/sbin:{path}:/usr/sbin:/sbin"
    environment = {
        "HOME": home,
        "USER": name,
        "LOGNAME": name,
        "SHELL": shell,
        "PATH": path,
        "LANG": os.environ.get("LANG", "C.UTF-8"),
        "BATCH_SYSTEM": "pmjq",
    }
    kept = {key: value for key, value in os.environ.items() if key == "TZ" or key.startswith("LC_")}
    return environment | kept


@functools.cache
def owner_name(uid: int) -> str:
    """Return the name of a user, or its number if it has none here."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def first_person() -> int:
    """Return the lowest number of a user that is a person's, as the system's tools give them."""
    return _defined(r"UID_MIN\s+(\d+)", 10) or PERSONS


def _defined(pattern: str, base: int) -> int | None:
    with contextlib.suppress(OSError):
        text = Path(DEFINITIONS).read_text("utf-8", "replace")
        match = re.search(rf"^{pattern}", text, re.MULTILINE)
        return int(match[1], base) if match else None
    return None


@dataclass(frozen=True, slots=True)
class Login:
    """What a job of a user starts with; ``limits``: triples of number, soft and hard."""

    user: User
    groups: tuple[int, ...]
    environment: dict[str, str]
    umask: int
    limits: tuple[tuple[int, int, int], ...] = ()

    @property
    def gid(self) -> int:
        """Return his own group."""
        return self.user.gid

    def terms(self, *, private: bool, confined: bool) -> Terms:
        """Return the terms of an order by which a job becomes his."""
        return {
            "uid": self.user.uid,
            "gid": self.user.gid,
            "groups": list(self.groups),
            "umask": self.umask,
            "limits": list(self.limits),
            "private": private,
            "confined": confined,
        }


class _Answers(Generic[T]):
    """What ``ask`` says of users, by number, each remembered for a while; ``now`` is monotonic.

    ``name``: that of a thread which asks.
    """

    def __init__(self, name: str, ask: Callable[[int], T], now: Callable[[], float]) -> None:
        self._name = name
        self._ask = ask
        self._now = now
        self._known: dict[int, tuple[float, T]] = {}
        self._asking: set[int] = set()

    def known(self, uid: int) -> T | None:
        """Return what was said last, however long ago; None if nothing was."""
        return self._known[uid][1] if uid in self._known else None

    def late(self, uid: int) -> float:
        """Return for how many seconds it should have been asked anew; negative: not yet."""
        return self._now() - self._known[uid][0] if uid in self._known else math.inf

    def learn(self, uid: int) -> None:
        """Ask now, however long that takes."""
        said = self._ask(uid)
        self._known[uid] = (self._now() + REMEMBERED, said)

    def learn_beside(self, uid: int) -> None:
        """Ask in a thread, one for each user; later, where there can be no more threads."""
        if uid in self._asking:
            return

        def learn() -> None:
            try:
                self.learn(uid)
            finally:
                self._asking.discard(uid)

        self._asking.add(uid)
        try:
            threading.Thread(target=learn, name=self._name, daemon=True).start()
        except RuntimeError:
            self._asking.discard(uid)


class Owners:
    """The users whose jobs root's daemon runs, by a policy; ``now`` is monotonic."""

    def __init__(self, policy: Policy, now: Callable[[], float] = time.monotonic) -> None:
        """Know nobody yet."""
        self.policy = policy
        self._users = _Answers("user", self._who, now)
        self._logins = _Answers("login", self._what_login_gives, now)

    def refusal(self, stat: Stat, *, listed: bool = False, grouped: bool = False) -> str:
        """Return why what a user owns is not run as him, empty if it is; as ``ready.Judge``."""
        user = self.user(stat.st_uid)
        if user is None:
            return owners.unknown(stat.st_uid)
        reason = self.policy.refusal(user) or owners.exposed(
            stat, user, listed=listed, grouped=grouped
        )
        if not reason and user.uid and self._logins.known(user.uid) is None:
            # It will be asked for.
            self._logins.learn_beside(user.uid)
        return reason

    def user(self, uid: int) -> User | None:
        """Return who a number is, None if nobody is known by it; remembered for a while.

        Then the name services are asked anew beside the turns, and meanwhile what was known holds.
        """
        late = self._users.late(uid)
        if late >= STALE or (late >= 0 and self._users.known(uid) is None):
            self._users.learn(uid)
        elif late >= 0:
            self._users.learn_beside(uid)
        return self._users.known(uid)

    def group(self, uid: int) -> int | None:
        """Return the group that is a user's alone, None if there is none."""
        user = self.user(uid) if uid else None
        return user.gid if user is not None and user.alone else None

    def signer(self, name: str) -> int:
        """Return as whom the jobs run that somebody of this name has signed.

        PermissionError tells why as nobody.
        """
        try:
            uid = pwd.getpwnam(name).pw_uid
        except (KeyError, ValueError):
            raise PermissionError("is no user of this machine") from None
        user = self.user(uid)
        if reason := owners.unknown(uid) if user is None else self.policy.refusal(user):
            raise PermissionError(reason)
        return uid

    def login(self, uid: int) -> Login:
        """Return what a job of a user starts with; PermissionError tells why he may not log in.

        A session takes its time to open, and may hang with a server: meanwhile what was known
        before holds, and BlockingIOError tells that nothing is known yet.
        """
        late, login = self._logins.late(uid), self._logins.known(uid)
        if late >= 0:
            self._logins.learn_beside(uid)
        if login is None or late >= STALE:
            raise BlockingIOError(f"a session for {owner_name(uid)} is being opened")
        if isinstance(login, str):
            raise PermissionError(login)
        return login

    def _who(self, uid: int) -> User | None:
        """Ask who a number is. Where nobody answers, what is known is all that is known."""
        try:
            return _user(uid)
        except (OSError, subprocess.SubprocessError, ValueError, IndexError):
            return self._users.known(uid)

    def _what_login_gives(self, uid: int) -> Login | str:
        try:
            user = self.user(uid)
            return owners.unknown(uid) if user is None else _login(user)
        except Exception as error:  # noqa: BLE001  # whatever the system's modules do
            return f"nothing is known of user {uid}: {type(error).__name__}"


def _user(uid: int) -> User | None:
    command = [sys.executable, "-I", "-S", WHO, str(uid)]
    told = msgspec.json.decode(_said(command))
    if told is None:
        return None
    return User(**told | {"groups": frozenset(told["groups"]), "gids": tuple(told["gids"])})


def _said(command: list[str]) -> bytes:
    """Return the last line of a program; what ``subprocess`` raises, or IndexError: it has none."""
    done = subprocess.run(
        command,
        check=True,
        capture_output=True,
        stdin=subprocess.DEVNULL,
        timeout=PATIENCE,
        cwd="/",
    )
    return done.stdout.splitlines()[-1]


def _login(user: User) -> Login | str:
    """Return what a login gives a user, or why he gets none."""
    environment = login_environment(user.uid)
    umask = _defined(r"UMASK\s+([0-7]+)", 8)
    login = Login(user, user.gids, environment, UMASK if umask is None else umask)
    if not os.path.exists(PAM):
        return login
    command = [sys.executable, "-I", "-S", SESSION, user.name, str(user.gid), str(login.umask)]
    try:
        told = msgspec.json.decode(_said(command))
    except (OSError, subprocess.SubprocessError, ValueError, IndexError) as error:
        return f"no session can be opened for {user.name} ({PAM}: {type(error).__name__})"
    if "refused" in told:
        return f"{user.name} may not log in: {told['refused']}"
    return Login(
        user,
        tuple(dict.fromkeys((*user.gids, *told["groups"]))),
        environment | told["environment"],
        told["umask"],
        tuple((number, soft, hard) for number, soft, hard in told["limits"]),
    )


def host_name() -> str:
    """Return the name of this machine as a node's name.

    That is its first label, with odd characters replaced.
    """
    name = socket.gethostname().partition(".")[0]
    return (
        "".join(letter if letter.isalnum() and letter.isascii() else "-" for letter in name).strip(
            "-"
        )
        or "node"
    )
