"""What the command line gave: checked, and made into what the daemon takes.

Every error says what to change; nothing of the spool is touched but looked at.
"""

from __future__ import annotations

import os
import socket
import string
from typing import TYPE_CHECKING, Any

from pmjq import cgroups, keys, mail, probe
from pmjq import node as nodes
from pmjq.account import host_name, login_environment, owner_name
from pmjq.admission import Asked, admission
from pmjq.calling import Commands
from pmjq.daemon import Options
from pmjq.errors import (
    UNREACHABLE,
    ConfigurationError,
    NotFoundError,
    NotPermittedError,
    UsageError,
)
from pmjq.gates import Limits
from pmjq.plan import Intent
from pmjq.ready import Rules

if TYPE_CHECKING:
    from pmjq.admission import Admission
    from pmjq.mail import Via

GPU_LETTERS = frozenset(string.ascii_letters + string.digits + "-:./_")
"""Of a number, of a UUID as GPU-8932f937, or of a part as MIG-8932f937."""


def options(spool: str, asked: dict[str, Any]) -> Options:
    """Return what a daemon takes; ``spool`` and ``asked`` as click has them.

    UsageError, ConfigurationError, NotFoundError or NotPermittedError say what is wrong.
    """
    if not spool:
        raise UsageError("SPOOL is empty; name the directory that jobs are put in")
    root = os.path.abspath(spool)
    _check_spool(spool, root)
    _check_executing(spool, root)
    name = host_name() if asked["node"] is None else asked["node"]
    if not nodes.is_name(name):
        raise ConfigurationError(
            f"--node {name}: a node's name has letters, digits, - and _, and dots between them"
        )
    if asked["signed_by"] == "":
        raise UsageError("--signed-by wants the name of a file; an empty one names none")
    if "" in (asked["archive"], asked["errors"]):
        raise UsageError("-o and -e want the name of a directory; an empty one names none")
    archive, errors = _absolute(asked["archive"]), _absolute(asked["errors"])
    _check_archive("-o", archive, root)
    _check_archive("-e", errors, root)
    slots = asked["slots"]
    if slots is None and asked["load"] is None:
        slots = probe.usable_cpus()
    kind = probe.file_system(root)
    taken = _admission(root, asked, archive, errors)
    return Options(
        spool=root,
        node=name,
        limits=Limits(asked["load"], slots),
        rules=rules(kind, asked["settle"], taken, inside(root, archive, errors)),
        owners=taken.judge,
        signers=taken.signers,
        shared=taken.shared,
        private=taken.shared and asked["results"] == "owner",
        confined=not asked["allow_new_privileges"],
        archive=archive,
        errors=errors,
        grace=asked["grace"],
        on_stop=Intent(asked["on_stop"]),
        once=asked["once"],
        kind=kind,
        lease=asked["lease"],
        poll=asked["poll"],
        commands=_commands(asked),
        via=_via(asked["mail_via"]),
        sender=_sender(asked["mail_from"]),
        cpus=asked["cpus"],
        memory=_memory(asked["memory"]),
        gpus=_gpus(asked["gpus"]),
        tree=cgroups.take(),
    )


def _memory(text: str) -> int | None:
    """Return bytes; UsageError if the text is no size."""
    if not text:
        return None
    try:
        return keys.size(text)
    except ValueError as error:
        raise UsageError(f"--memory {text}: {error}") from error


def _via(text: str) -> Via | None:
    """Return the way for letters, None if there is none; UsageError if the text names none."""
    try:
        return mail.via(text, os.environ, login_environment())
    except ValueError as error:
        shown = "" if "@" in text else f" {text}"
        raise UsageError(f"--mail-via{shown}: {error}") from error


def _sender(text: str | None) -> str:
    """Return the address that letters come from; UsageError if the text is none."""
    if text is None:
        user, host = owner_name(os.geteuid()), socket.gethostname()
        usual = (f"{user}@{host}", f"{user}@{host_name()}", f"pmjq@{host_name()}")
        return next(address for address in usual if keys.is_address(address))
    if not keys.is_address(text):
        raise UsageError(f"--mail-from {text}: is no address; write for instance pmjq@example.org")
    return text


def _gpus(text: str | None) -> tuple[str, ...]:
    """Return the names of GPUs; UsageError if the text names none, or one twice."""
    if text is None:
        return ()
    if text == "auto":
        return tuple(str(number) for number in range(probe.gpus()))
    names = tuple(text.split(","))
    good = all(name and not set(name) - GPU_LETTERS for name in names)
    if not good or len(set(names)) < len(names):
        raise UsageError(f"--gpus {text}: name each GPU once, for instance 0,1, or write auto")
    return names


def _commands(options: dict[str, Any]) -> Commands:
    """Return what to run on which occasion; UsageError if a time is none."""
    seconds = {}
    for name in ("idle_after", "limit_after"):
        try:
            seconds[name] = keys.duration(options[name])
        except ValueError as error:
            option = name.replace("_", "-")
            raise UsageError(f"--{option} {options[name]}: {error}") from error
    return Commands(
        on_end=options["on_end"],
        on_idle=options["on_idle"],
        idle_after=seconds["idle_after"],
        on_limit=options["on_limit"],
        limit_after=seconds["limit_after"],
        one_node=options["once_per_spool"],
    )


def _check_spool(given: str, root: str) -> None:
    try:
        there = os.path.isdir(root) or bool(os.lstat(root))
    except PermissionError as error:
        raise NotPermittedError(
            f"{given}: this user may not search the directories above it"
        ) from error
    except OSError as error:
        if error.errno in UNREACHABLE:
            raise
        there = False
    if not there:
        raise NotFoundError(
            f"{given}: no such directory; make it, or mount the share that it is on"
        )
    if not os.path.isdir(root):
        raise NotFoundError(
            f"{given}: not a directory; SPOOL is the directory that jobs are put in"
        )
    if not os.access(root, os.R_OK | os.W_OK | os.X_OK):
        raise NotPermittedError(
            f"{given}: this user may not read and write it; change its mode or run as its owner"
        )


def _check_executing(given: str, root: str) -> None:
    if os.statvfs(root).f_flag & os.ST_NOEXEC:
        raise ConfigurationError(
            f"{given}: is on a file system mounted noexec, so nothing in it can run; "
            "remount it with exec"
        )


def _check_archive(option: str, path: str | None, root: str) -> None:
    if path is None:
        return
    if os.path.exists(path) and not os.path.isdir(path):
        raise ConfigurationError(f"{option} {path}: is not a directory; name one, or a new one")
    if os.path.realpath(path) == os.path.realpath(root):
        raise ConfigurationError(
            f"{option} {path}: is the spool itself, where ended jobs would be run again; "
            "name another"
        )


def _absolute(path: str | None) -> str | None:
    return None if path is None else os.path.abspath(path)


def inside(root: str, *paths: str | None) -> frozenset[str]:
    """Return the names in the spool that are the daemon's own archives."""
    own = (os.path.realpath(path) for path in paths if path is not None)
    real = os.path.realpath(root)
    return frozenset(os.path.basename(path) for path in own if os.path.dirname(path) == real)


def _admission(root: str, options: dict[str, Any], *archives: str | None) -> Admission:
    """Return whose files this daemon takes."""
    asked = Asked(
        accept=options["accept"],
        users=options["users"],
        groups=options["groups"],
        denied=options["denied"],
        root=options["allow_root"],
        signed_by=_absolute(options["signed_by"]) or "",
    )
    return admission(root, asked, [path for path in archives if path is not None])


def rules(kind: str, settle: float | None, taken: Admission, own: frozenset[str]) -> Rules:
    """Return what this daemon takes: whose files, and how long they must have stayed unchanged."""
    shared = probe.shared(kind)
    long, moved = (35.0, 3.0) if kind.startswith("nfs") else (3.0, 3.0) if shared else (0.0, 0.0)
    if settle is not None:
        long = moved = settle
    return Rules(
        uids=taken.uids,
        gids=taken.gids,
        refusal=taken.refusal,
        judge=None if taken.signers else taken.judge,
        settle=long,
        settle_moved=moved,
        kernel_tells=not shared,
        own=own,
    )
