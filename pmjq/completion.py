"""What may follow the words that somebody is typing in a shell.

A shell asks by way of a variable that ``cli`` looks at; ``shells`` knows how each one asks and is
answered. Verbs, options and choices are click's to complete; what the value of an option or an
argument is, its metavar tells, so that no verb needs to know of this module and it can be deleted
with its scripts.

A press of TAB only reads, never says what is wrong, and does not make anybody wait: what the spool
has told when ``PATIENCE`` is over is all that is offered.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import os
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import chain
from typing import NamedTuple

import click
from click.shell_completion import CompletionItem, ShellComplete

from pmjq import face, keys, shells
from pmjq.shells import DIRECTORY, FILE, OPEN, PLAIN, few
from pmjq.state import ENDED, State

PATIENCE = 0.25
"""Seconds for reading; starting Python takes as long again."""

ALL = "ALL"

LIVING = frozenset({State.INCOMING, State.HELD, State.QUEUED, State.CLAIMED})

JOBS: dict[str, frozenset[State]] = {
    "list": LIVING,
    "wait": LIVING,
    "cancel": LIVING,
    "submit": LIVING,
    "hold": frozenset({State.QUEUED}),
    "release": frozenset({State.HELD}),
    "retry": ENDED,
    "show": LIVING | ENDED,
    "logs": LIVING | ENDED,
}
"""In which states a job is worth offering; CLAIMED: whatever a node has."""


class Found(NamedTuple):
    """A candidate: what is inserted, and what a person reads beside it."""

    value: str
    help: str = ""
    kind: str = PLAIN


Find = Callable[[click.Context, str], Iterator[Found]]
"""Finds candidates for a word that begins so."""


def answer(
    shell: str,
    given: Sequence[str],
    daemon: click.Command,
    built: Mapping[str, str],
    reserved: Collection[str],
) -> int:
    """Print what may follow, for the script of a shell; whatever is wrong, nothing is said."""
    with contextlib.suppress(Exception, KeyboardInterrupt):
        at = shells.typed(shell, list(given))
        items = following(at.words, at.last, daemon, built, reserved)
        lines = (shells.line(shell, at, one.type, one.value, one.help or "") for one in items)
        text = os.fsencode("".join(lines))
        while text:
            text = text[os.write(1, text) :]
    return 0


def following(
    words: Sequence[str],
    last: str,
    daemon: click.Command,
    built: Mapping[str, str],
    reserved: Collection[str],
) -> list[CompletionItem[str]]:
    """Return what may stand for the word ``last`` after ``words``, as far as it has been typed."""
    if not words and not last.startswith("-"):
        return [*_verbs(last, built), *_items(_directories(last))]
    if words and words[0] in built:
        command = _command(words[0], built)
        words = words[1:]
    elif words and words[0] in reserved:
        return []
    else:
        command = daemon
    if command.context_settings.get("allow_interspersed_args") is False:
        context = command.make_context(command.name, list(words), resilient_parsing=True)
        if context.params.get("words"):
            return [CompletionItem(last, type=FILE)]
    found = ShellComplete(_finding(command), {}, "pmjq", "").get_completions(list(words), last)
    if "--" not in words:
        option, equals, _ = last.partition("=")
        found = [one for one in found if one.type != PLAIN or _not_an_option(one.value, last)]
        if equals and last.startswith("-"):
            return [_behind(f"{option}=", one) for one in found]
    return found


def _not_an_option(value: str, last: str) -> bool:
    """Tell whether a value can stand where options are read: it is one, or looks like none."""
    return last.startswith("-") or not value.startswith("-")


def _behind(head: str, one: CompletionItem[str]) -> CompletionItem[str]:
    if one.type in (DIRECTORY, FILE):
        return one
    return CompletionItem(head + one.value, type=one.type, help=one.help)


def _verbs(last: str, built: Mapping[str, str]) -> Iterator[CompletionItem[str]]:
    for verb in built:
        if verb.startswith(last):
            help_text = _command(verb, built).get_short_help_str(60)
            yield CompletionItem(verb, help=help_text)


def _command(verb: str, built: Mapping[str, str]) -> click.Command:
    command: click.Command = importlib.import_module(built[verb]).COMMANDS[verb]
    return command


# -- what a parameter wants


class _Wanted(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.2 on
    """The type of a value that is completed by one of the functions below."""

    name = "wanted"

    def __init__(self, find: Find) -> None:
        self._find = find

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem[str]]:
        """Return what the value may be; not what was named before, if several are."""
        before = ctx.params.get(param.name or "") if param.nargs != 1 or param.multiple else None
        named = set(before or ())
        return [one for one in _items(self._find(ctx, incomplete)) if one.value not in named]


def _finding(command: click.Command) -> click.Command:
    """Return a command whose values are completed."""
    finding = copy.copy(command)
    finding.params = []
    for param in command.params:
        own = copy.copy(param)
        if (find := WANTED.get(own.metavar or "")) is not None:
            own.type = _Wanted(find)
        finding.params.append(own)
    return finding


def _items(found: Iterator[Found]) -> list[CompletionItem[str]]:
    """Return what is found while there is patience, each once.

    In a thread of its own, since a file system whose server is gone lets nobody go; the program
    ends without it.
    """
    known: dict[str, Found] = {}

    def read() -> None:
        with contextlib.suppress(Exception):
            for one in found:
                known.setdefault(one.value, one)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    return [
        CompletionItem(one.value, type=one.kind, help=one.help) for one in known.copy().values()
    ]


# -- files


def _any_directory(_: click.Context, last: str) -> Iterator[Found]:
    yield Found(last, kind=DIRECTORY)


def _any_file(_: click.Context, last: str) -> Iterator[Found]:
    yield Found(last, kind=FILE)


def _directories(last: str) -> Iterator[Found]:
    """Return directories, for a word that may also be something else."""
    if "/" in last or last.startswith("~"):
        yield Found(last, kind=DIRECTORY)
        return
    with os.scandir(".") as here:
        names = [one.name for one in here if _begins(one.name, last) and one.is_dir()]
    for name in few(names):
        yield Found(f"{name}/", kind=OPEN)


def _begins(name: str, last: str) -> bool:
    """Tell whether a name is one of those that are meant; hidden ones only if they are."""
    return name.startswith(last) and (last.startswith(".") or not name.startswith("."))


def _programs(_: click.Context, last: str) -> Iterator[Found]:
    """Return commands of PATH, and files and directories here."""
    if not last or "/" in last or last.startswith("~"):
        yield Found(last, kind=FILE)
        return
    yield from _directories(last)
    names: set[str] = set()
    for directory in [".", *os.environ.get("PATH", "").split(":")]:
        with contextlib.suppress(OSError), os.scandir(directory or ".") as entries:
            names.update(one.name for one in entries if _begins(one.name, last) and _runs(one))
    yield from map(Found, few(names))


def _runs(entry: os.DirEntry[str]) -> bool:
    return entry.is_file() and os.access(entry.path, os.X_OK)


# -- words


def _words(*words: str) -> Find:
    def find(_: click.Context, last: str) -> Iterator[Found]:
        return (Found(word) for word in words if word.startswith(last))

    return find


def _states(context: click.Context, last: str) -> Iterator[Found]:
    ended = context.command.name == "history"
    return (Found(str(one)) for one in State if (one in ENDED) is ended and one.startswith(last))


def _variables(_: click.Context, last: str) -> Iterator[Found]:
    return (Found(name) for name in few([n for n in os.environ if n.startswith(last)]))


def _users(_: click.Context, last: str) -> Iterator[Found]:
    import pwd

    return map(Found, few({one.pw_name for one in pwd.getpwall() if one.pw_name.startswith(last)}))


def _groups(_: click.Context, last: str) -> Iterator[Found]:
    import grp

    return map(Found, few({one.gr_name for one in grp.getgrall() if one.gr_name.startswith(last)}))


def _listed(find: Find) -> Find:
    """Return what finds the last of several values with commas between them."""

    def last_of(context: click.Context, last: str) -> Iterator[Found]:
        head, comma, tail = last.rpartition(",")
        before = set(head.split(","))
        for one in find(context, tail):
            if "," not in one.value and one.value not in before and one.kind == PLAIN:
                yield Found(head + comma + one.value, one.help, OPEN)

    return last_of


# -- jobs and nodes


def _root(context: click.Context) -> str:
    given: str | None = context.params.get("spool")
    if given and not os.path.isdir(given):
        # What a shell expands before it calls pmjq.
        given = os.path.expandvars(os.path.expanduser(given))
    return face.root(given)


def _jobs(context: click.Context, last: str) -> Iterator[Found]:
    from pmjq import candidates  # Loading it is not a matter of patience.

    def found() -> Iterator[Found]:
        states = JOBS[context.command.name or ""]
        for value, help_text in candidates.jobs(_root(context), last, states):
            yield Found(value, help_text)

    return _any_file(context, last) if "/" in last else found()


def _nodes(context: click.Context, last: str) -> Iterator[Found]:
    from pmjq import candidates

    def found() -> Iterator[Found]:
        drained = {"drain": False, "resume": True}.get(context.command.name or "")
        yield from map(Found, candidates.nodes(_root(context), last, drained=drained))

    return found()


def _or_all(find: Find) -> Find:
    """Return what also finds ALL, once its first letter is typed: nobody gets it by chance."""

    def find_both(context: click.Context, last: str) -> Iterator[Found]:
        own = [Found(ALL, "all of mine")] if last and ALL.startswith(last) else []
        return chain(own, find(context, last))

    return find_both


WANTED: dict[str, Find] = {
    "SPOOL": _any_directory,
    "[SPOOL]": _any_directory,
    "ARCHIVE": _any_directory,
    "ERRORDIR": _any_directory,
    "PATH": _any_directory,
    "FILE|-": _any_file,
    "[--] CMD ARG... | SCRIPT | -": _programs,
    "STATE": _states,
    "USER": _users,
    "GROUP": _groups,
    "USER|GROUP|ANY": _users,
    "NAME[=VALUE]": _variables,
    "N|all": _words("all"),
    "begin|end|fail,...": _listed(_words(*keys.MAIL_ON)),
    "JOB": _jobs,
    "JOB...": _jobs,
    "[JOB]...": _jobs,
    "JOB,...": _listed(_jobs),
    "JOB...|ALL": _or_all(_jobs),
    "NODE": _nodes,
    "NODE...|ALL": _or_all(_nodes),
}
"""What finds the values of a parameter, by its metavar; a value of another one is free text."""
