"""The info file of a directory job -> how to run it, or why it cannot be run.

A directory is a job if one of ``pmjq.ready.INFO_FILES`` lies in it: ``job.toml``, or what
QueueManager knows, ``proc_config.cfg`` and its XML form. ``script`` is split as a shell splits
words and is executed inside the directory; the other keys are those of directives. Of
QueueManager's files only ``[QMOptions]``, or the elements with its keys, are ours: the rest is the
job's own.

Pure: bytes in, ``Spec`` or ``Refusal`` out. The parsers are imported by what needs them: most
jobs are executables.
"""

from __future__ import annotations

import re
import shlex
from datetime import date, time
from typing import TYPE_CHECKING, Any

from pmjq import directives, keys
from pmjq.directives import Refusal
from pmjq.job import Spec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pmjq.ready import Look

SECTION = "QMOptions"

MOST_PARTS = 2000
MOST_STEPS = 1_000_000
"""Parts of a name in TOML, and their product with the lines. For each line of a table all parts of
its name are gone through: 7,300 and 2,300 lines, which are 32 KiB, take ten seconds."""

_QUEUE_MANAGER = {
    "nb_proc": "cpus",
    "e_mail": "mail",
    "e-mail": "mail",
    "info": "name",
    "priority": "priority",
    "size": "",
}
"""QueueManager's keys and ours; ``size`` is for people there, and asks for nothing."""

_NOTHING = frozenset({"", "unknown", "undefined", "none"})
"""What QueueManager writes where nothing is known."""

_EXAMPLE = {
    "toml": 'script = "sh run.sh"',
    ".cfg": "script = sh run.sh",
    ".xml": "<script>sh run.sh</script>",
}
"""How a script is named, by the end of the info file's name."""


class UnreadableError(ValueError):
    """The file cannot be understood; the message says why."""


def spec(name: str, text: bytes) -> Spec | Refusal:
    """Return how to run a directory whose info file has this name and content."""
    if len(text) > directives.HEAD:
        return Refusal(f"{name}: is longer than {directives.HEAD} bytes; shorten it")
    try:
        decoded = text.decode("utf-8-sig")
        found = _toml(decoded) if name.endswith(".toml") else dict(_queue_manager(name, decoded))
        return _spec(name, found)
    except Exception as error:  # noqa: BLE001  # nothing that a job brings may stop the daemon
        return Refusal(f"{name}: cannot be understood: {_one_line(str(error))}; mend it")


def _spec(name: str, found: dict[str, Any]) -> Spec | Refusal:
    argv = _argv(found.pop("script", None))
    if not argv or not argv[0]:
        return Refusal(f"{name}: names no script; add for instance: {_EXAMPLE[name[-4:]]}")
    words = [word for key, value in found.items() for word in _words(key, value)]
    given = keys.fields(words)
    if isinstance(given, keys.Wrong):
        return Refusal(f"{name}: {given.reason}")
    return Spec(argv=argv, directives=tuple(words), **given)


def _argv(script: object) -> tuple[str, ...]:
    """Return the words of a script; ValueError if they cannot be told apart."""
    if isinstance(script, str):
        words: list[object] = list(shlex.split(script))
    elif isinstance(script, list):
        words = script
    else:
        words = [] if script is None else [script]
    if not all(isinstance(word, str) and "\0" not in word for word in words):
        raise UnreadableError("script must be text, or a list of texts")
    return tuple(map(str, words))


def asked(look: Look) -> Spec | Refusal:
    """Return how to run what was looked at: an executable, or a directory with an info file."""
    if look.info is not None:
        return made_out(*look.info)
    return Spec() if look.head is None else made_out("", look.head)


def made_out(name: str, text: bytes) -> Spec | Refusal:
    """Return what an info file of this name says; without a name the beginning of an executable."""
    return spec(name, text) if name else directives.spec(text)


def refusal(code: str, program: str) -> str:
    """Return why a directory's ``script`` could not be executed; ``code``: ENOENT and the like."""
    what = {
        "ENOENT": "is neither in the directory nor on PATH, or its interpreter is missing",
        "EACCES": f"is not executable; chmod u+x it, or let the script be: sh {program}",
        "ENOEXEC": f"is no program; begin it with #!/bin/sh, or let the script be: sh {program}",
    }.get(code, f"cannot be executed ({code})")
    return f"script: {program} {what}"


def _toml(text: str) -> dict[str, Any]:
    import tomllib

    lines = [line.lstrip(" \t") for line in text.split("\n")]
    # A quoted name may have an = in it. What is no name, but the value of a list, is counted too.
    names = [line if line[:1] in ("[", '"', "'") else line.partition("=")[0] for line in lines]
    most = max((name.count(".") for name in names if name[:1] != "#"), default=0)
    if most * len(lines) > MOST_STEPS or most > MOST_PARTS:
        raise ValueError("a name has too many parts, or a list lines that are too long")
    return tomllib.loads(text)


def _queue_manager(name: str, text: str) -> Iterator[tuple[str, Any]]:
    pairs = _xml(text) if name.endswith(".xml") else _ini(text)
    for key, given in pairs:
        value = given.strip()
        if key == "script":
            yield key, value
        elif key in _QUEUE_MANAGER and value.lower() not in _NOTHING:
            ours = _QUEUE_MANAGER[key]
            if ours == "cpus" and value == "0":
                value = "1"
            if ours == "name":
                value = _one_line(value)
            if ours:
                yield ours, value


def _ini(text: str) -> Iterator[tuple[str, str]]:
    import configparser

    parser = configparser.RawConfigParser(strict=False, allow_no_value=True)
    parser.read_string(text)
    if not parser.has_section(SECTION):
        raise UnreadableError(f"has no section [{SECTION}]")
    return ((key, value or "") for key, value in parser.items(SECTION))


def _xml(text: str) -> Iterator[tuple[str, str]]:
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise UnreadableError("has a document type, which is not read")
    from xml.etree import ElementTree as ET

    root = ET.fromstring(text)  # noqa: S314  # of bounded size, without a document type
    return ((one.tag, one.get("value") or one.text or "") for one in root.iter())


def _words(key: str, value: Any) -> list[str]:  # noqa: ANN401  # as TOML has it
    """Return a key and its value as directives have them."""
    key = {"nb_proc": "cpus"}.get(key, key).replace("_", "-")
    known = keys.KEYS.get(key)
    if known is None:
        # Whatever it is: it is refused by its name.
        return [key]
    if isinstance(value, list):
        if not known.adds:
            raise UnreadableError(f"{key} must be one value, not a list")
        return [f"{key}={_text(key, one)}" for one in value]
    return [f"{key}={_text(key, value)}"]


def _text(key: str, value: object) -> str:
    """Return a value as directives have it; ValueError for one of another type."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, str | int | float):
        return str(value)
    raise UnreadableError(f"{key} must be text or a number")


def _one_line(text: str) -> str:
    return re.sub(
        r"\s+", " ", "".join(each if each.isprintable() else " " for each in text)
    ).strip()
