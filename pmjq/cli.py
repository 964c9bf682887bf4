"""The door: the command line, and what a person reads when it is wrong.

The first word decides: a verb is a verb, anything else is the daemon's. Arguments are checked
here and nothing else; what costs time to import is imported when it is needed. Every error ends
in one line on standard error and an exit code of sysexits(3).
"""

from __future__ import annotations

import importlib
import math
import os
import string
import sys
from typing import TYPE_CHECKING, Any

import click

from pmjq.errors import (
    UNREACHABLE,
    CannotCreateError,
    ConfigurationError,
    NotFoundError,
    NotPermittedError,
    PmjqError,
    UsageError,
)
from pmjq.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pmjq.admission import Admission
    from pmjq.calling import Commands
    from pmjq.mail import Via
    from pmjq.ready import Rules

VERBS = frozenset(
    [
        "submit",
        "list",
        "show",
        "logs",
        "wait",
        "cancel",
        "hold",
        "release",
        "retry",
        "history",
        "nodes",
        "drain",
        "resume",
        "doctor",
        "prune",
        "top",
        "web",
    ]
)
"""Words that are verbs when they come first; ``./list`` is a spool of that name."""

BUILT = {
    "submit": "pmjq.submit",
    "list": "pmjq.looking",
    "show": "pmjq.looking",
    "logs": "pmjq.looking",
    "history": "pmjq.looking",
    "wait": "pmjq.steer",
    "cancel": "pmjq.steer",
    "hold": "pmjq.steer",
    "release": "pmjq.steer",
    "retry": "pmjq.steer",
    "prune": "pmjq.steer",
    "drain": "pmjq.steer",
    "resume": "pmjq.steer",
    "nodes": "pmjq.verbs",
    "doctor": "pmjq.verbs",
}
"""Those that this version has, and the module of each. The others are reserved."""

INTERRUPTED = 130

GPU_LETTERS = frozenset(string.ascii_letters + string.digits + "-:./_")
"""Of a number, of a UUID as GPU-8932f937, or of a part as MIG-8932f937."""

COMPLETING = "_PMJQ_COMPLETE"
"""What the scripts in contrib/completion set to the name of their shell. click's usual name."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    silent = sys.stdout is None
    _complete_descriptors()
    if COMPLETING in os.environ:
        from pmjq import completion

        return completion.answer(os.environ[COMPLETING], words, daemon, BUILT, VERBS)
    try:
        if words and words[0] in VERBS:
            if silent:
                # Before anything is done that nobody would hear of.
                raise CannotCreateError("standard output is closed; >/dev/null is for no output")
            return _verb(words[0], words[1:])
        result = daemon.main(words, prog_name="pmjq", standalone_mode=False)
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        usual = " ".join(["pmjq", *(word for word in words[:1] if word in BUILT)])
        _say(f"{error.format_message()} (see {context.command_path if context else usual} --help)")
        return UsageError.exit_code
    except click.Abort:
        return INTERRUPTED
    except PmjqError as error:
        _say(str(error))
        return error.exit_code
    except OSError as error:
        from pmjq import render

        told = render.refused(error)
        _say(str(told))
        return told.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    return int(result or 0)


def _complete_descriptors() -> None:
    """Open /dev/null in place of standard input, output and error that are closed.

    Whatever was opened next would be written to as the log, or handed down to every child.
    """
    for fd, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(fd)
        except OSError:
            # The lowest number that is free: this one, since those below are open.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # noqa: FBT003
        if getattr(sys, name) is None:
            setattr(sys, name, open(fd, mode, closefd=False))  # noqa: SIM115


def _say(text: str) -> None:
    # Names may hold what works on a terminal.
    shown = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)
    sys.stderr.write(f"pmjq: {shown}\n")


def _verb(verb: str, words: list[str]) -> int:
    if verb in BUILT:
        command = importlib.import_module(BUILT[verb]).COMMANDS[verb]
        return int(command.main(words, prog_name=f"pmjq {verb}", standalone_mode=False) or 0)
    if {"-h", "--help"} & set(words):
        click.echo(
            f"Usage: pmjq {verb}\n\n"
            f"  A reserved word: this version of pmjq ({VERSION}) does not have it.\n"
            f"  pmjq ./{verb} starts the daemon on a spool of that name."
        )
        return 0
    raise UsageError(
        f"{verb}: is not in this version ({VERSION});"
        f" pmjq ./{verb} starts the daemon on a spool of that name"
    )


class _Number(click.FloatRange):
    """A number in a range; nan is in none, whatever comparisons say."""

    def convert(
        self,
        value: Any,  # noqa: ANN401  # as click has it
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> float:
        """Return the number; UsageError by way of ``fail`` if it is none."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return number


@click.command(
    "pmjq",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=(
        f"Verbs: {' '.join(BUILT)}. cp job.sh SPOOL/ submits too. "
        "man pmjq explains it; man pmjq-spool describes the spool on disk."
    ),
)
@click.argument("spool", metavar="SPOOL")
@click.option(
    "-C",
    "load",
    metavar="LOAD",
    type=_Number(min=0, min_open=True),
    help="Start nothing while the one-minute load average is above LOAD.",
)
@click.option(
    "-o",
    "archive",
    metavar="ARCHIVE",
    help="Where ended jobs go; made if missing. [default: SPOOL/.pmjq/done]",
)
@click.option(
    "-e",
    "errors",
    metavar="ERRORDIR",
    help="Where jobs go that did not end well. [default: where the others go]",
)
@click.option(
    "-j",
    "slots",
    metavar="SLOTS",
    type=click.IntRange(min=0),
    help=(
        "Run at most SLOTS jobs at once; 0: none. "
        "[default: the usable CPUs; with -C: no fixed number]"
    ),
)
@click.option(
    "--cpus",
    metavar="N",
    type=click.IntRange(min=1),
    help="CPUs that jobs have together. [default: the usable ones, or as many as -j]",
)
@click.option(
    "--memory",
    metavar="SIZE",
    default="",
    help="Memory that jobs have together, of what they ask for. [default: all]",
)
@click.option(
    "--gpus",
    metavar="auto|GPU,...",
    help="GPUs that jobs are given, whole ones; auto: as many as there are. [default: none]",
)
@click.option("--node", metavar="NAME", help="Name of this node. [default: the host name]")
@click.option(
    "--settle",
    metavar="SECONDS",
    type=_Number(min=0),
    help=(
        "For how long a file must stay unchanged before it is run. "
        "[default: 0; on a network file system 3 or 35]"
    ),
)
@click.option(
    "--grace",
    metavar="SECONDS",
    type=_Number(min=0),
    default=10.0,
    show_default=True,
    help="Time between TERM and KILL.",
)
@click.option(
    "--on-stop",
    type=click.Choice(["leave", "wait", "kill"]),
    default="leave",
    show_default=True,
    help="What happens to running jobs when the daemon is stopped.",
)
@click.option(
    "--lease",
    metavar="SECONDS",
    type=_Number(min=1),
    default=120.0,
    show_default=True,
    help="After so long without a sign of life other nodes take over this one's jobs.",
)
@click.option(
    "--poll",
    metavar="SECONDS",
    type=_Number(min=0.01),
    help=(
        "How often to list the spool. [default: as a shared file system needs it; "
        "on a local one the kernel tells]"
    ),
)
@click.option(
    "--accept-owner",
    "accept",
    metavar="USER|GROUP|ANY",
    multiple=True,
    help="Also run files of this owner, as the daemon's own user. May be repeated.",
)
@click.option(
    "--signed-by",
    "signed_by",
    metavar="ALLOWED_SIGNERS",
    help="Run only jobs that one of these has signed, whoever owns their files.",
)
@click.option(
    "--allow-user",
    "users",
    metavar="USER",
    multiple=True,
    help="Root's daemon: run the jobs of these users only, each as its owner. May be repeated.",
)
@click.option(
    "--allow-group",
    "groups",
    metavar="GROUP",
    multiple=True,
    help="Likewise of the members of this group. May be repeated.",
)
@click.option(
    "--deny-user",
    "denied",
    metavar="USER",
    multiple=True,
    help="Run no job of this user. May be repeated.",
)
@click.option(
    "--allow-root", is_flag=True, help="Run root's jobs too in a spool that others can write."
)
@click.option(
    "--allow-new-privileges",
    is_flag=True,
    help="Let set-user-id programs, such as sudo, work in the jobs of other users.",
)
@click.option(
    "--results",
    type=click.Choice(["owner", "all"]),
    default="owner",
    show_default=True,
    help="Who may read what becomes of the jobs in a spool that others can write.",
)
@click.option(
    "--on-end",
    metavar="CMD",
    default="",
    help="Run CMD after each job that has ended.",
)
@click.option(
    "--on-idle", metavar="CMD", default="", help="Run CMD when nothing is queued and nothing runs."
)
@click.option(
    "--idle-after", metavar="DURATION", default="1m", show_default=True, help="For so long."
)
@click.option(
    "--on-limit", metavar="CMD", default="", help="Run CMD when a closed gate keeps jobs waiting."
)
@click.option(
    "--limit-after", metavar="DURATION", default="10m", show_default=True, help="For so long."
)
@click.option(
    "--once-per-spool", is_flag=True, help="Let one of the nodes run --on-idle and --on-limit."
)
@click.option(
    "--mail-via",
    metavar="WAY",
    default="",
    help=(
        "Send letters about jobs by this sendmail program or server: PATH, smtp://HOST[:PORT], "
        "smtps://HOST[:PORT]. [default: sendmail if it is there]"
    ),
)
@click.option(
    "--mail-from",
    metavar="ADDRESS",
    help="Who sends these letters. [default: this user at this machine]",
)
@click.option(
    "--log-format",
    "style",
    type=click.Choice(["auto", "console", "json"]),
    default="auto",
    show_default=True,
    help="The log on standard error; auto: console on a terminal, else json.",
)
@click.option(
    "--once", is_flag=True, help="Run what is there and exit when nothing is queued or running."
)
@click.version_option(VERSION, "--version", prog_name="pmjq", message="%(prog)s %(version)s")
def daemon(spool: str, **options: Any) -> int:  # noqa: ANN401  # as click hands them over
    """Run the executables that people put in the directory SPOOL.

    Several nodes may serve one SPOOL. pmjq VERB --help tells of the other commands.
    """
    from pmjq import cgroups, probe  # click answers --help and a wrong option without the rest
    from pmjq import node as nodes
    from pmjq.account import host_name
    from pmjq.daemon import Daemon, Options
    from pmjq.gates import Limits
    from pmjq.log import Log
    from pmjq.plan import Intent

    if not spool:
        raise UsageError("SPOOL is empty; name the directory that jobs are put in")
    root = os.path.abspath(spool)
    _check_spool(spool, root)
    _check_executing(spool, root)
    name = host_name() if options["node"] is None else options["node"]
    if not nodes.is_name(name):
        raise ConfigurationError(
            f"--node {name}: a node's name has letters, digits, - and _, and dots between them"
        )
    if options["signed_by"] == "":
        raise UsageError("--signed-by wants the name of a file; an empty one names none")
    if "" in (options["archive"], options["errors"]):
        raise UsageError("-o and -e want the name of a directory; an empty one names none")
    archive, errors = _absolute(options["archive"]), _absolute(options["errors"])
    _check_archive("-o", archive, root)
    _check_archive("-e", errors, root)
    slots = options["slots"]
    if slots is None and options["load"] is None:
        slots = probe.usable_cpus()
    kind = probe.file_system(root)
    taken = _admission(root, options, archive, errors)
    return Daemon(
        Options(
            spool=root,
            node=name,
            limits=Limits(options["load"], slots),
            rules=_rules(kind, options["settle"], taken, _inside(root, archive, errors)),
            owners=taken.judge,
            signers=taken.signers,
            shared=taken.shared,
            private=taken.shared and options["results"] == "owner",
            confined=not options["allow_new_privileges"],
            archive=archive,
            errors=errors,
            grace=options["grace"],
            on_stop=Intent(options["on_stop"]),
            once=options["once"],
            kind=kind,
            lease=options["lease"],
            poll=options["poll"],
            commands=_commands(options),
            via=_via(options["mail_via"]),
            sender=_sender(options["mail_from"]),
            cpus=options["cpus"],
            memory=_memory(options["memory"]),
            gpus=_gpus(options["gpus"]),
            tree=cgroups.take(),
        ),
        Log(options["style"]),
    ).run()


def _memory(text: str) -> int | None:
    """Return bytes; UsageError if the text is no size."""
    from pmjq import keys

    if not text:
        return None
    try:
        return keys.size(text)
    except ValueError as error:
        raise UsageError(f"--memory {text}: {error}") from error


def _via(text: str) -> Via | None:
    """Return the way for letters, None if there is none; UsageError if the text names none."""
    from pmjq import mail
    from pmjq.account import login_environment

    try:
        return mail.via(text, os.environ, login_environment())
    except ValueError as error:
        shown = "" if "@" in text else f" {text}"
        raise UsageError(f"--mail-via{shown}: {error}") from error


def _sender(text: str | None) -> str:
    """Return the address that letters come from; UsageError if the text is none."""
    import socket

    from pmjq import keys
    from pmjq.account import host_name, owner_name

    if text is None:
        user, host = owner_name(os.geteuid()), socket.gethostname()
        usual = (f"{user}@{host}", f"{user}@{host_name()}", f"pmjq@{host_name()}")
        return next(address for address in usual if keys.is_address(address))
    if not keys.is_address(text):
        raise UsageError(f"--mail-from {text}: is no address; write for instance pmjq@example.org")
    return text


def _gpus(text: str | None) -> tuple[str, ...]:
    """Return the names of GPUs; UsageError if the text names none, or one twice."""
    from pmjq import probe

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
    from pmjq import keys
    from pmjq.calling import Commands

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


def _inside(root: str, *paths: str | None) -> frozenset[str]:
    """Return the names in the spool that are the daemon's own archives."""
    own = (os.path.realpath(path) for path in paths if path is not None)
    real = os.path.realpath(root)
    return frozenset(os.path.basename(path) for path in own if os.path.dirname(path) == real)


def _admission(root: str, options: dict[str, Any], *archives: str | None) -> Admission:
    """Return whose files this daemon takes."""
    from pmjq.admission import Asked, admission

    asked = Asked(
        accept=options["accept"],
        users=options["users"],
        groups=options["groups"],
        denied=options["denied"],
        root=options["allow_root"],
        signed_by=_absolute(options["signed_by"]) or "",
    )
    return admission(root, asked, [path for path in archives if path is not None])


def _rules(kind: str, settle: float | None, taken: Admission, own: frozenset[str]) -> Rules:
    """Return what this daemon takes: whose files, and how long they must have stayed unchanged."""
    from pmjq import probe
    from pmjq.ready import Rules

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
