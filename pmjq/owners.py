"""Whose jobs root's daemon runs: the policy, and what a user is for it.

A user is whom the inode of a job names. Users whom nobody logs in as are refused, and root where
others can write the spool, unless they are allowed by name; whoever is denied is refused whatever
else holds. Nothing in a job's content can change any of that.

Pure: users and stats in, reasons out.
"""

from __future__ import annotations

import stat as modes
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pmjq.ready import Stat

ROOT = 0

NOBODIES = frozenset({65534, 65535, 2**32 - 2, 2**32 - 1})
"""Users that stand for nobody: what a share maps strangers to, and what chown(2) takes for none."""


@dataclass(frozen=True, slots=True)
class User:
    """A user of this machine: his groups by number and name, and whether the first is his alone."""

    uid: int
    name: str
    gid: int
    groups: frozenset[str] = frozenset()
    gids: tuple[int, ...] = ()
    alone: bool = False


@dataclass(frozen=True, slots=True)
class Policy:
    """Who may have jobs run as himself.

    ``system``: users below this number belong to the system. Where ``users`` or ``groups`` are
    given, only these may.
    """

    users: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()
    denied: frozenset[str] = frozenset()
    root: bool = False
    system: int = 1000

    def refusal(self, user: User) -> str:
        """Return why a user's jobs are not run; empty: they are."""
        if user.name in self.denied:
            return f"user {user.name} is denied here (--deny-user)"
        if user.uid == ROOT:
            return (
                "" if self.root else "root's file in a spool that others can write (--allow-root)"
            )
        if user.name in self.users:
            return ""
        if user.uid < self.system or user.uid in NOBODIES:
            return f"user {user.name} is no person's (--allow-user {user.name} lets its jobs run)"
        if (not self.users and not self.groups) or self.groups & user.groups:
            return ""
        return (
            f"user {user.name} is not among those whose jobs are run (--allow-user, --allow-group)"
        )


def unknown(uid: int) -> str:
    """Return why a job is not run whose owner this machine does not know."""
    return f"its owner, user {uid}, is not known on this node"


def exposed(stat: Stat, user: User, *, listed: bool, grouped: bool = False) -> str:
    """Return why what a user owns is not run, since others can change it; empty: they cannot.

    ``listed``: an access control list says who may write it; ``grouped``: its group may write what
    is in it. A group that is the user's alone does not count: where each has one, files are
    writable by their group as a rule.
    """
    mode = stat.st_mode | (modes.S_IWGRP if grouped else 0)
    if not (modes.S_ISREG(mode) or modes.S_ISDIR(mode)):
        # A link has all rights, which says nothing.
        return ""
    own = user.alone and stat.st_gid == user.gid and not listed
    if mode & modes.S_IWOTH or (mode & modes.S_IWGRP and not own):
        return "others than its owner may write it; chmod go-w releases it"
    return ""
