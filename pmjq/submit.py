"""The verb submit: a command, a script, a batch or an array into the spool.

Thin over ``Queue``: here words become texts of jobs. Its options are the keys of directives, from
the one table of ``pmjq.keys``.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from pmjq import face, keys, naming
from pmjq.errors import NotFoundError, NotPermittedError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pmjq.submission import Draft

STANDARD_PATH = "/usr/local/bin:/usr/bin:/bin"
"""Where a job's own PATH looks; what is elsewhere is submitted with its whole path."""

MOST_READ = 1 << 28
"""Bytes of a script or a batch; whatever is larger is none."""


def _with_keys(command: Callable[..., int]) -> Callable[..., int]:
    """Add an option for each key."""
    for key in reversed(keys.KEYS.values()):
        if key.name in ("name", "env"):
            continue
        flag = key.value == "yes|no"
        meaning = "where it runs, if not here" if key.name == "directory" else key.meaning
        option = click.option(
            f"--{key.name}",
            key.field,
            metavar=None if flag else key.value,
            multiple=key.adds,
            is_flag=flag,
            default=False if flag else None,
            help=f"{meaning[0].upper()}{meaning[1:]}.",
        )
        command = option(command)
    return command


@dataclass(frozen=True, slots=True)
class _Source:
    """What one job is made of: its name, and its text for some further variables."""

    base: str
    text: Callable[[dict[bytes, bytes], list[str]], bytes]
    is_script: bool = False


@face.verb("submit", allow_interspersed_args=False)
@face.spool_option
@click.option("-n", "--name", metavar="NAME", help="What the job is called. [default: its command]")
@click.option("--batch", metavar="FILE|-", help="Submit each line of FILE as a shell command.")
@click.option(
    "--array", metavar="N-M[%LIMIT]", help="Submit it for each index, LIMIT at once at most."
)
@click.option(
    "--env",
    "env",
    multiple=True,
    metavar="NAME[=VALUE]",
    help="Set a variable for the job; without VALUE, as it is here.",
)
@click.option("--env-all", is_flag=True, help="Set all variables as they are here.")
@click.option("--hold", is_flag=True, help="Keep it from being started until release.")
@click.option("--sign", metavar="KEY", help="Sign it with this key, as ssh-keygen -Y sign does.")
@click.option("--wait", is_flag=True, help="Wait until it has ended; exit as it did.")
@click.option("--follow", is_flag=True, help="Print its output until it has ended; exit as it did.")
@_with_keys
@face.json_option
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[--] CMD ARG... | SCRIPT | -")
def submit(words: tuple[str, ...], spool: str | None, **given: Any) -> int:  # noqa: ANN401  # as click hands them over
    """Put a job into the spool and print its name.

    CMD runs in the current directory with its arguments exact to the byte. One word that names a
    script here is copied as it is now. - reads a script from standard input.
    """
    from pmjq import queue

    asked = {
        key.field: given[key.field]
        for key in keys.KEYS.values()
        if key.name not in ("name", "env", "directory")
    }
    asked["not_before"] = _later(given["not_before"])
    where = queue.Queue(face.root(spool))
    directives = queue.asked_words(where.named(asked))
    variables = _variables(given["env"], all_of_them=given["env_all"])
    if given["sign"] == "":
        raise UsageError("--sign is empty; name the file of a key")
    if given["directory"] == "":
        raise UsageError("--directory is empty; name the directory that the job is to run in")
    sources = list(_sources(words, given["name"], given["batch"], given["directory"] or _here()))
    if given["env_all"] and (given["batch"] or any(source.is_script for source in sources)):
        variables = _told(variables, line=bool(given["batch"]))
    drafts = [
        draft
        for source in sources
        for draft in _drafts(source, variables, directives, given["array"], held=given["hold"])
    ]
    submitted: list[str] = []
    if given["wait"] or given["follow"]:
        if len(drafts) > 1:
            raise UsageError("--wait and --follow want one job; use pmjq wait")
        # Before anything is submitted: there must be something to wait for.
        where.opened()
    quiet, bar = given["follow"], face.bar("submitting")

    def put(name: str) -> None:
        submitted.append(name)
        bar.step()
        if not quiet:
            _print(name, as_json=given["as_json"])

    if not sys.stdout.isatty():
        # On a terminal the names themselves are the progress.
        bar.of(len(drafts))
    try:
        where.put(drafts, put, sign=given["sign"] or "")
    finally:
        bar.end()
    if given["follow"]:
        for part in where.logs(submitted[0], follow=True):
            if not face.put_bytes(part):
                break
    if given["wait"] or given["follow"]:
        return queue.exit_code(where.wait(submitted)[0])
    return 0


def _print(name: str, *, as_json: bool) -> None:
    if as_json:
        face.lines([{"name": naming.shown(name), "name_hex": naming.exact(name)}])
    else:
        face.put_bytes(os.fsencode(name) + b"\n")


def _drafts(
    source: _Source,
    variables: dict[bytes, bytes],
    words: list[str],
    array: str | None,
    *,
    held: bool,
) -> Iterator[Draft]:
    """Return the jobs of one source: one, or one for each index."""
    from pmjq import submission
    from pmjq.submission import Draft

    if array is None:
        text = _checked(source, variables, words)
        yield Draft(submission.unique(source.base), text, held)
        return
    try:
        indices, limit = submission.numbers(array)
    except ValueError as error:
        raise UsageError(f"--array {array}: {error}") from error
    mark = submission.mark()
    names: list[str] = []
    # What comes after one names it, in a list with commas.
    base = re.sub(r"[^\w.@%+-]", "_", source.base, flags=re.ASCII) if limit else source.base
    for number, index in enumerate(indices):
        own = {b"PMJQ_ARRAY_ID": mark.encode(), b"PMJQ_ARRAY_INDEX": b"%d" % index}
        # One begins when the one so many places before it has ended: so many run at most.
        before = [f"after-any={names[number - limit]}"] if limit and number >= limit else []
        name = submission.unique(f"{base}.{index}")
        names.append(name)
        text = _checked(source, variables | own, [*words, *before])
        yield Draft(name, text, held)


def _checked(source: _Source, variables: dict[bytes, bytes], words: list[str]) -> bytes:
    """Return the text of a job; UsageError if it cannot have what it is to be told."""
    from pmjq import submission

    try:
        return submission.checked(source.text(variables, words))
    except ValueError as error:
        raise UsageError(str(error)) from error


def _sources(
    words: tuple[str, ...], name: str | None, batch: str | None, directory: str
) -> Iterator[_Source]:
    where = os.fsencode(os.path.abspath(directory))
    from pmjq import queue

    if name is not None and not queue.legal(name):
        raise UsageError(f"--name {name!r}: must be printable letters, without a slash")
    if batch is not None:
        if words:
            raise UsageError("--batch takes its commands from its file; give no other")
        yield from _batch(batch, name, where)
    elif not words:
        raise UsageError("nothing to submit; name a command or a script, or - for standard input")
    elif words == ("-",):
        text = _read(sys.stdin.buffer, "standard input")
        yield _script(text, name or "stdin", "standard input", where)
    elif len(words) == 1 and (script := _script_here(words[0])) is not None:
        yield _script(script, name or os.path.basename(words[0]), words[0], where)
    else:
        yield _command(words, name, where)


def _batch(path: str, name: str | None, where: bytes) -> Iterator[_Source]:
    from pmjq import script, submission

    text = _read(sys.stdin.buffer, "standard input") if path == "-" else _content(path)
    commands = list(submission.lines(text))
    if not commands:
        raise UsageError(f"--batch {path}: has no command in it")
    for line in commands:
        first = os.path.basename(os.fsdecode(line.split()[0])) or "job"
        plain = "".join(each if each.isalnum() or each in "._-" else "_" for each in first)
        yield _Source(
            name or plain,
            lambda variables, words, line=line: script.line(line, where, variables, words),  # type: ignore[misc]  # bound
        )


def _script(text: bytes, name: str, shown: str, where: bytes) -> _Source:
    from pmjq import directives, script
    from pmjq.directives import HEAD, Refusal

    if not text.strip():
        raise UsageError(f"{shown}: is empty; there is nothing to run")
    if b"\0" in text[:HEAD]:
        raise UsageError(f"{shown}: is no text; submit it as a command, by its path and arguments")
    refused = directives.read(text[:HEAD])
    if isinstance(refused, Refusal):
        raise UsageError(f"{shown}: {refused.reason}")

    def written(variables: dict[bytes, bytes], words: list[str]) -> bytes:
        try:
            return script.in_place(text, where, variables, words)
        except ValueError as error:
            raise UsageError(f"{shown}: {error}") from error

    return _Source(name, written, is_script=True)


def _script_here(word: str) -> bytes | None:
    """Return the text of a script that a word names here; None if it names none."""
    if "/" not in word and not os.path.isfile(word):
        return None
    if not os.path.isfile(word) or not _text(word):
        return None
    if not os.access(word, os.X_OK):
        raise NotPermittedError(f"{word}: not executable; chmod u+x, or submit sh {word}")
    return _content(word)


def _text(path: str) -> bool:
    with open(path, "rb") as file:
        head = file.read(1024)
    return b"\0" not in head


def _command(words: tuple[str, ...], name: str | None, where: bytes) -> _Source:
    from pmjq import script

    there = os.path.join(os.fsdecode(where), words[0]) if "/" in words[0] else words[0]
    path = shutil.which(there)
    if path is None:
        if os.path.exists(there):
            raise NotPermittedError(f"{words[0]}: not executable; chmod u+x it")
        raise NotFoundError(f"{words[0]}: no such command")
    usual = "/" in words[0] or shutil.which(words[0], path=STANDARD_PATH) == path
    argv = [words[0] if usual else os.path.abspath(path), *words[1:]]
    encoded = [os.fsencode(word) for word in argv]
    base = os.path.basename(words[0]) or "job"
    return _Source(
        name or base,
        lambda variables, asked: script.command(encoded, where, variables, asked),
    )


def _variables(given: tuple[str, ...], *, all_of_them: bool) -> dict[bytes, bytes]:
    found = dict(os.environb) if all_of_them else {}
    for one in given:
        name, equals, value = one.partition("=")
        if not name:
            raise UsageError(f"--env {one}: wants a name before =")
        if equals:
            found[os.fsencode(name)] = os.fsencode(value)
        elif os.fsencode(name) in os.environb:
            found[os.fsencode(name)] = os.environb[os.fsencode(name)]
        else:
            raise UsageError(f"--env {name}: is not set here; write {name}=VALUE")
    return found


def _told(variables: dict[bytes, bytes], *, line: bool) -> dict[bytes, bytes]:
    """Return the variables that a script or a line can be told, and say which it cannot be."""
    from pmjq import script

    told = script.exported(variables) if line else script.told(variables)
    for name in sorted(variables.keys() - told.keys() - script.NOT_OURS):
        face.complain(os.fsdecode(name), "is not set for the job: only a command can be told it")
    return told


def _later(text: str | None) -> str | None:
    """Return a time as directives have it, of a time or of how long from now it is."""
    try:
        seconds = keys.duration(text or "") if not (text or "").isdecimal() else -1.0
    except ValueError:
        return text
    when = datetime.now(UTC) + timedelta(seconds=seconds)
    return text if seconds < 0 else f"{when:%Y-%m-%dT%H:%M:%SZ}"


def _content(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return _read(file, path)
    except FileNotFoundError:
        raise NotFoundError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise UsageError(f"{path}: is a directory; copy it into the spool") from None


def _read(file: BinaryIO, shown: str) -> bytes:
    text = file.read(MOST_READ + 1)
    if len(text) > MOST_READ:
        raise UsageError(f"{shown}: has more than {MOST_READ >> 20} MiB; submit it in parts")
    return text


def _here() -> str:
    """Return the current directory as its user calls it."""
    called = os.environ.get("PWD", "")
    try:
        if called.startswith("/") and os.path.samefile(called, "."):
            return called
    except OSError:
        pass
    return os.getcwd()


COMMANDS = {"submit": submit}
