"""The door: the command line, and what a person reads when it is wrong.

The first word decides: a verb is a verb, anything else is the daemon's. Arguments are checked
here and nothing else; what costs time to import is imported when it is needed. Every error ends
in one line on standard error and an exit code of sysexits(3).
"""

from __future__ import annotations

import importlib
import math
import os
import sys
from typing import TYPE_CHECKING, Any

import click

from pmjq.errors import CannotCreateError, PmjqError, UsageError
from pmjq.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Sequence

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
    from pmjq import given  # click answers --help and a wrong option without the rest
    from pmjq.daemon import Daemon
    from pmjq.log import Log

    return Daemon(given.options(spool, options), Log(options["style"])).run()
