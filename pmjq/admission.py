"""Whose files a daemon takes: what the command line asks for, and what the machine allows.

A daemon takes its own user's files, and of others that it is told to, as its own user. Root's
daemon runs each job as its owner. Where others than root can write the spool it takes care that
none of them can have anything run as another, and refuses to begin where that cannot be had.
"""

from __future__ import annotations

import grp
import os
import pwd
import stat as modes
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pmjq import account, owners, ready
from pmjq.errors import ConfigurationError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pmjq.signers import Signers

HARD_LINKS = "/proc/sys/fs/protected_hardlinks"


@dataclass(frozen=True, slots=True)
class Asked:
    """What the command line says about owners; ``accept``: to be run as the daemon's own user.

    ``signed_by``: a file that names whose signatures count, and not whose file a job is.
    """

    accept: tuple[str, ...] = ()
    users: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    denied: tuple[str, ...] = ()
    root: bool = False
    signed_by: str = ""


@dataclass(frozen=True, slots=True)
class Admission:
    """Whose files are taken.

    ``judge`` is of root's daemon alone, and so is ``shared``: others can write the spool.
    ``signers``: anybody's, signed by one of these. The rest as in ``ready.Rules``.
    """

    uids: frozenset[int] | None = frozenset()
    gids: frozenset[int] = frozenset()
    refusal: str = ""
    judge: account.Owners | None = None
    shared: bool = False
    signers: Signers | None = None


def admission(root: str, asked: Asked, archives: Iterable[str]) -> Admission:
    """Return whose files the daemon of a spool takes; ``archives``: what it writes to besides.

    ConfigurationError says what is to be changed.
    """
    if asked.signed_by:
        return _of_signers(root, asked, archives)
    if os.geteuid() == 0:
        return _of_root(root, asked, archives)
    if asked.users or asked.groups or asked.denied or asked.root:
        raise UsageError(
            "--allow-user, --allow-group, --deny-user and --allow-root are for root's daemon; "
            "any other runs its own user's files (--accept-owner: and more, as its own user)"
        )
    return _of_user(asked.accept)


def _of_signers(root: str, asked: Asked, archives: Iterable[str]) -> Admission:
    """Return that anybody's file is taken, for its signature says whose job it is."""
    if asked.accept:
        raise UsageError("--accept-owner: with --signed-by nothing depends on whose file a job is")
    from pmjq.signers import Signers  # noqa: PLC0415  # most daemons have no use for it

    plain = admission(root, replace(asked, signed_by=""), archives)
    signers = Signers(asked.signed_by, time.monotonic)
    signers.check()
    if os.geteuid() == 0:
        _check_above(asked.signed_by)
    return replace(plain, uids=None, signers=signers)


def _of_user(accept: tuple[str, ...]) -> Admission:
    if "ANY" in accept:
        return Admission(uids=None)
    uids, gids = {os.geteuid()}, set()
    for name in accept:
        try:
            uids.add(int(name) if name.isdecimal() else pwd.getpwnam(name).pw_uid)
        except KeyError:
            try:
                gids.add(grp.getgrnam(name).gr_gid)
            except KeyError:
                raise ConfigurationError(
                    f"--accept-owner {name}: no such user or group on this machine"
                ) from None
    refusal = "another owner's file; --accept-owner lets it run"
    return Admission(frozenset(uids), frozenset(gids), refusal)


def _of_root(root: str, asked: Asked, archives: Iterable[str]) -> Admission:
    if asked.accept:
        raise ConfigurationError(
            "--accept-owner: root would run other people's files as root; "
            "root's daemon runs each job as its owner without being told"
        )
    stat = os.stat(root)
    shared = stat.st_uid != 0 or ready.exposed(stat)
    if shared:
        _check_shared(root, stat)
        for path in archives:
            _check_archive(path)
    policy = owners.Policy(
        users=_known("--allow-user", asked.users, _user),
        groups=_known("--allow-group", asked.groups, _group),
        denied=_known("--deny-user", asked.denied, _user),
        root=asked.root or not shared,
        system=account.first_person(),
    )
    return Admission(judge=account.Owners(policy), shared=shared)


def _known(option: str, names: tuple[str, ...], look: Callable[[str], str]) -> frozenset[str]:
    """Return names as this machine has them: a mistyped one would allow or deny nobody."""
    found = set()
    for name in names:
        try:
            found.add(look(name))
        except KeyError:
            kind = "group" if "group" in option else "user"
            raise ConfigurationError(f"{option} {name}: no such {kind} on this machine") from None
    return frozenset(found)


def _user(name: str) -> str:
    """Return the name that a user's number leads to: he may have several."""
    return pwd.getpwuid(pwd.getpwnam(name).pw_uid).pw_name


def _group(name: str) -> str:
    return grp.getgrgid(grp.getgrnam(name).gr_gid).gr_name


def _check_shared(root: str, stat: os.stat_result) -> None:
    """Refuse a spool in which somebody else than root could put one thing in another's place."""
    if stat.st_uid != 0:
        raise ConfigurationError(
            f"{root}: belongs to {account.owner_name(stat.st_uid)}, who could replace other "
            "people's jobs in it; chown root, or run pmjq as its owner"
        )
    if not stat.st_mode & modes.S_ISVTX:
        raise ConfigurationError(
            f"{root}: others than root can write it, and without the sticky bit replace each "
            "other's jobs; chmod +t lets root's daemon serve them all, chmod go-w root alone"
        )
    _check_above(root, entered=True)
    try:
        with open(HARD_LINKS, "rb") as file:
            protected = file.read().strip() != b"0"
    except OSError:
        protected = True
    if not protected:
        raise ConfigurationError(
            "fs.protected_hardlinks is 0, so whoever can write the spool can put other people's "
            "files into it as their jobs; sysctl fs.protected_hardlinks=1"
        )


def _check_archive(path: str) -> None:
    """Refuse an archive that others can write: root would write to what they put there."""
    if os.path.isdir(path):
        stat = os.stat(path)
        if stat.st_uid != 0 or ready.exposed(stat):
            raise ConfigurationError(
                f"{path}: others than root can write it, and root's daemon would write to what "
                "they put there; chown root, chmod go-w"
            )
    _check_above(path)


def _check_above(path: str, *, entered: bool = False) -> None:
    """Refuse a path at whose end somebody else than root can put another directory.

    ``entered``: and one to which others than root cannot come.
    """
    above = os.path.dirname(os.path.realpath(path))
    while True:
        try:
            stat = os.stat(above)
        except OSError:
            stat = None
        if stat is not None:
            open_to_all = ready.exposed(stat) and not stat.st_mode & modes.S_ISVTX
            if stat.st_uid != 0 or open_to_all:
                raise ConfigurationError(
                    f"{path}: others than root can write {above}, and put another directory in "
                    "its place; choose a path whose directories are root's alone"
                )
            if entered and not stat.st_mode & modes.S_IXOTH:
                raise ConfigurationError(
                    f"{path}: others than root may not enter {above}, so their jobs could not be "
                    f"executed; chmod o+x {above}, or choose another path"
                )
        if above == "/":
            return
        above = os.path.dirname(above)
