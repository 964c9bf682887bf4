r"""A command to the text of a job that can be read, and run by hand.

The text is a script for ``/bin/sh`` whatever the command is: ``#PMJQ`` lines, the directory, the
variables, then ``exec`` with the arguments exact to the byte. A script that somebody wrote stays
as it is, with ``#PMJQ`` lines added below its first line.

Texts are bytes: arguments, directories and values of variables may hold any but NUL. Pure.
"""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_PLAIN = re.compile(rb"[A-Za-z0-9_@%+=:,./-]+")
_VARIABLE = re.compile(rb"[A-Za-z_][A-Za-z0-9_]*")
_NOT_OURS = frozenset({b"PWD", b"OLDPWD", b"SHLVL", b"_"})
"""What a shell sets by itself, so that a value of ours would be wrong at once."""


def command(
    argv: Sequence[bytes],
    directory: bytes,
    variables: Mapping[bytes, bytes] | None = None,
    words: Iterable[str] = (),
) -> bytes:
    """Return the text that runs a command in a directory, with variables set."""
    exec_words = [b"exec", *_env(variables or {}), *map(quoted, argv)]
    return _text(directory, variables or {}, words, b" ".join(exec_words))


def line(
    text: bytes,
    directory: bytes,
    variables: Mapping[bytes, bytes] | None = None,
    words: Iterable[str] = (),
) -> bytes:
    """Return the text that runs a line of shell."""
    return _text(directory, variables or {}, words, text)


def with_words(script: bytes, words: Iterable[str]) -> bytes:
    """Return a script with ``#PMJQ`` lines below its first line, or above one without ``#!``."""
    added = _directives(words)
    if not added:
        return script
    if not script.startswith(b"#!"):
        return added + script
    first, newline, rest = script.partition(b"\n")
    return first + b"\n" + added + rest if newline else first + b"\n" + added


def in_place(
    script: bytes,
    directory: bytes,
    variables: Mapping[bytes, bytes] | None = None,
    words: Iterable[str] = (),
) -> bytes:
    """Return a script that somebody wrote, to be run in a directory with variables set.

    Any interpreter may read it, so both are asked for by directives. ValueError if one of them
    cannot be, since it is not printable UTF-8.
    """
    try:
        asked = [f"directory={directory.decode()}"]
        asked += [f"env={k.decode()}={v.decode()}" for k, v in (variables or {}).items()]
    except UnicodeDecodeError as error:
        raise ValueError("a directory or variable is not UTF-8; submit a command") from error
    if odd := [word for word in asked if not word.isprintable()]:
        raise ValueError(f"{odd[0]!r} is not printable; submit a command")
    return with_words(script, [*asked, *words])


def told(variables: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    """Return the variables that a directive can hold: printable UTF-8."""
    return {name: value for name, value in variables.items() if _printable(name + b"=" + value)}


def _printable(text: bytes) -> bool:
    try:
        return text.decode().isprintable()
    except UnicodeDecodeError:
        return False


def quoted(text: bytes) -> bytes:
    """Return a text as one word of a shell."""
    if _PLAIN.fullmatch(text):
        return text
    return b"'" + text.replace(b"'", b"'\\''") + b"'"


def _text(
    directory: bytes, variables: Mapping[bytes, bytes], words: Iterable[str], last: bytes
) -> bytes:
    lines = [b"#!/bin/sh\n", _directives(words), b"cd " + quoted(directory) + b" || exit\n"]
    for name, value in variables.items():
        if _exportable(name):
            lines.append(b"export " + name + b"=" + quoted(value) + b"\n")
    return b"".join(lines) + last + b"\n"


def _env(variables: Mapping[bytes, bytes]) -> list[bytes]:
    """Return the words that set what no shell can export by name."""
    odd = [
        quoted(name + b"=" + value)
        for name, value in variables.items()
        if not _exportable(name) and name not in _NOT_OURS
    ]
    return [b"env", *odd] if odd else []


def _exportable(name: bytes) -> bool:
    return _VARIABLE.fullmatch(name) is not None and name not in _NOT_OURS


def _directives(words: Iterable[str]) -> bytes:
    text = " ".join(map(shlex.quote, words))
    return f"#PMJQ {text}\n".encode() if text else b""
