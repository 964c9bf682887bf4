r"""How bash, zsh and fish hand over the words that are being typed, and take what may follow.

zsh and fish give words and quote the names that they insert; bash gives its line as it is typed
and inserts literally, so for bash a line is taken apart here, as far as that goes without running
anything, and a name is quoted in the way in which its user began it. What cannot be given exactly
is not given. pmjq answers with one line for each candidate: kind, value and help, with tabs
between them. The scripts in ``contrib/completion`` are the other side.

Pure: text in, text out.
"""

from __future__ import annotations

import heapq
import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection

PLAIN, OPEN, DIRECTORY, FILE = "plain", "open", "dir", "file"
"""Kinds of candidates: a whole word; one that goes on; and what the shell itself completes."""

MOST = 500
"""Names of one kind that are offered at most. Above a hundred or so shells ask before they list."""

_PIECE = re.compile(
    r"(?P<blank>[ \t\n]+)"
    r"|'(?P<single>[^']*)(?:'|\Z)"
    r'|"(?P<double>(?:\\.|[^"\\])*)(?:"|\\?\Z)'
    r"|\\(?P<escaped>.?)"
    r"|(?P<plain>[^ \t\n'\"\\]+)",
    re.DOTALL,
)

_ACTIVE_IN_DOUBLE = re.compile(r'\\([$`"\\])')

_SPECIAL = re.compile(r"([^\w@%+=:,./\u0080-\U0010ffff-])")
"""What a backslash keeps from meaning something to bash; a word of these alone means itself."""


class Typed(NamedTuple):
    """What has been typed up to the cursor.

    ``words``: those before, without the name of the program; ``last``: the one at the cursor, both
    as a program would get them. ``raw``: the last one as it is typed; ``part``: the end of that
    which bash replaces, as it also breaks words at quotes, ``:``, ``=`` and ``@``.
    """

    words: list[str]
    last: str
    raw: str = ""
    part: str = ""


def typed(shell: str, given: list[str]) -> Typed:
    """Return what was typed.

    ``given``: from bash the line up to the cursor, and the part of it that bash would replace; from
    zsh the words up to the cursor; from fish likewise, the last one as it is typed.
    """
    if shell == "bash":
        words, last, raw = _taken_apart(given[0])
        return Typed(words[1:], last, raw, given[1])
    *words, last = given
    if shell == "fish":
        return Typed(words, _taken_apart(last)[1])
    if shell == "zsh":
        return Typed(words, last)
    raise ValueError(f"{shell!r}: no such shell")


def line(shell: str, at: Typed, kind: str, value: str, help_text: str = "") -> str:
    """Return the line of a candidate for the word at the cursor, empty if it cannot be given."""
    if kind in (DIRECTORY, FILE):
        return f"{kind}\n"
    if not value.isprintable():
        return ""
    if shell == "fish" and value.startswith("~"):
        # fish inserts a ~ at the beginning as it is, and takes it for somebody's home.
        return ""
    if shell == "bash":
        value = _for_bash(value, at)
        if not value:
            return ""
    text = " ".join(help_text.split())
    return f"{kind}\t{value}\t{text}\n" if text.isprintable() else f"{kind}\t{value}\t\n"


def few(names: Collection[str]) -> list[str]:
    """Return names in order; of too many some, which have the same beginning in common as all.

    That beginning a shell inserts. What sorted names have in common, the first and the last have.
    """
    if len(names) <= MOST:
        return sorted(names)
    return [*heapq.nsmallest(MOST - 1, names), max(names)]


def _taken_apart(text: str) -> tuple[list[str], str, str]:
    """Return the words before the last blank, and the word after it: its meaning, and as typed."""
    words: list[str] = []
    word, raw = "", ""
    for piece in _PIECE.finditer(text):
        if piece.lastgroup == "blank":
            if raw:
                words.append(word)
            word, raw = "", ""
            continue
        raw += piece[0]
        meant = piece[piece.lastgroup or 0]
        word += _ACTIVE_IN_DOUBLE.sub(r"\1", meant) if piece.lastgroup == "double" else meant
    return words, word, raw


def _for_bash(value: str, at: Typed) -> str:
    """Return what bash is to put in place of ``at.part``, empty if it cannot be exact."""
    style = at.raw[:1] if at.raw[:1] in ("'", '"') else ""
    rest = at.raw[len(style) :]
    if style != "'":
        rest = re.sub(r"\\.?", "", rest, flags=re.DOTALL)
    if style in rest if style else set(rest) & {"'", '"'}:
        return ""  # Quoted here and there: where the readline library begins is anybody's guess.
    if style == "'":
        quoted = "'" + value.replace("'", r"'\''")
    elif style == '"':
        if "!" in value:
            return ""  # In double quotes it is an old command, and a backslash stays.
        quoted = '"' + re.sub(r'([$`"\\])', r"\\\1", value)
    else:
        quoted = _SPECIAL.sub(r"\\\1", value)
    head = at.raw.removesuffix(at.part)
    fits = at.raw.endswith(at.part) and quoted.startswith(head)
    return quoted[len(head) :] if fits else ""
