r"""A command to the text of a job that can be read, and run by hand.

The text is a script for ``/bin/sh`` whatever the command is: ``#PMJQ`` lines, the directory, the
variables, then ``exec`` with the arguments exact to the byte. A script that somebody wrote stays
as it is, with a ``#PMJQ`` line added below its first comments.

Texts are bytes: arguments, directories and values of variables may hold any but NUL. Pure.
"""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

LONGEST_WORDS = 30_000
"""Bytes of ``#PMJQ`` words: the daemon reads the first 32 KiB."""

_PLAIN = re.compile(rb"[A-Za-z0-9_@%+=:,./-]+")
_VARIABLE = re.compile(rb"[A-Za-z_][A-Za-z0-9_]*")
NOT_OURS = frozenset({b"PWD", b"OLDPWD", b"SHLVL", b"_"})
"""What a shell sets by itself, so that a value of ours would be wrong at once."""

_NOT_EXPORTED = frozenset(
    b"BASHOPTS BASHPID EUID FUNCNAME GROUPS HISTCMD LINENO OPTIND PPID RANDOM SECONDS SHELLOPTS "
    b"UID".split()
)
"""What some shell refuses to have set, or does something with."""


def command(
    argv: Sequence[bytes],
    directory: bytes,
    variables: Mapping[bytes, bytes] | None = None,
    words: Iterable[str] = (),
) -> bytes:
    """Return the text that runs a command in a directory, with variables set."""
    odd = _odd(variables or {})
    words_of_it = [quoted(word) for word in argv]
    if odd and b"=" in argv[0]:
        # To env it would be a variable more.
        words_of_it = [b"/bin/sh", b"-c", quoted(b'exec "$@"'), b"sh", *words_of_it]
    text = b" ".join([b"exec", *odd, *words_of_it])
    return _text(directory, variables or {}, words, text)


def line(
    text: bytes,
    directory: bytes,
    variables: Mapping[bytes, bytes] | None = None,
    words: Iterable[str] = (),
) -> bytes:
    """Return the text that runs a line of shell.

    ValueError for a variable that no shell can export: a shell between would lose it.
    """
    if odd := [name for name in variables or {} if not _exportable(name) and name not in NOT_OURS]:
        raise ValueError(f"{odd[0]!r}: no shell can set that for a line; submit a command")
    return _text(directory, variables or {}, words, text)


def with_words(script: bytes, words: Iterable[str]) -> bytes:
    """Return a script with a ``#PMJQ`` line below its first comments, where it outranks theirs."""
    added = _directives(words)
    if not added:
        return script
    end = _comments_end(script)
    before = script[:end]
    newline = b"\n" if before and not before.endswith(b"\n") else b""
    return before + newline + added + script[end:]


def _comments_end(script: bytes) -> int:
    """Return where the leading block of comments ends: behind its last line."""
    end = at = 0
    while at < len(script):
        following = script.find(b"\n", at) + 1 or len(script)
        line = script[at:following].strip()
        if line and not line.startswith(b"#"):
            break
        if line:
            end = following
        at = following
    return end


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
    except UnicodeDecodeError as error:
        raise ValueError("the directory is not UTF-8; submit a command") from error
    if not asked[0].isprintable():
        raise ValueError(f"{asked[0]!r} is not printable; submit a command")
    return with_words(script, [*asked, *with_variables(variables or {}, words)])


def with_variables(variables: Mapping[bytes, bytes], words: Iterable[str]) -> list[str]:
    """Return directives with one more for each variable; ValueError as ``in_place``."""
    if odd := variables.keys() - told(variables).keys():
        raise ValueError(f"{min(odd)!r}: its value is not printable UTF-8; submit a command")
    return [*(f"env={k.decode()}={v.decode()}" for k, v in variables.items()), *words]


def exported(variables: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    """Return the variables that a shell can export."""
    return {name: value for name, value in variables.items() if _exportable(name)}


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


def _odd(variables: Mapping[bytes, bytes]) -> list[bytes]:
    """Return the words that set what no shell can export by name; nothing if there is none."""
    odd = [
        quoted(name + b"=" + value)
        for name, value in variables.items()
        if not _exportable(name) and name not in NOT_OURS
    ]
    return [b"env", b"--", *odd] if odd else []


def _exportable(name: bytes) -> bool:
    return _VARIABLE.fullmatch(name) is not None and name not in NOT_OURS | _NOT_EXPORTED


def _directives(words: Iterable[str]) -> bytes:
    text = " ".join(map(shlex.quote, words))
    if len(text.encode("utf-8", "surrogateescape")) > LONGEST_WORDS:
        raise ValueError(f"what it asks for is longer than {LONGEST_WORDS} bytes; ask for less")
    return f"#PMJQ {text}\n".encode() if text else b""
