"""Values to text: tables that fit a width, lines of JSON, durations and sizes.

Nothing is ever cut off. What is too wide is folded at its blanks, widest column first; where even
that does not fit, each row becomes a block of lines. Names of files may hold anything, so what
would break a line or work on a terminal is escaped.

Pure: the width is an argument.
"""

from __future__ import annotations

import json
import unicodedata
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from pmjq.errors import (
    UNREACHABLE,
    NotPermittedError,
    PmjqError,
    TryLaterError,
    UnreachableError,
)
from pmjq.naming import shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

JOIN = "\N{NO-BREAK SPACE}"
"""A blank at which nothing is folded: between a figure and its unit."""

LONGEST_WORD = 24
"""Cells; a longer word in a column is broken where that makes the table fit."""

_SHORT = (("us", 1e-6, 1e3), ("ms", 1e-3, 1e3), ("s", 1.0, 120.0))
_LONG = (("min", 60, 120), ("h", 3600, 48), ("d", 86400, float("inf")))
"""Units, their seconds, and how many of them at most; the long ones are rounded down."""

_UNITS = ("B", "kB", "MB", "GB", "TB")
_THOUSAND = 999.5
_TEN = 9.95
"""What is written as 1000 and 10."""

_GAP = "  "
_INDENT = "  "


class Row(NamedTuple):
    """One row of a table: its cells, and lines of their own below them."""

    cells: Sequence[str]
    notes: Sequence[str] = ()


def refused(error: OSError) -> PmjqError:
    """Return what to tell a person of an error of the file system."""
    name = error.filename
    if isinstance(name, bytes):
        name = name.decode("utf-8", "surrogateescape")
    what = f"{shown(name) if isinstance(name, str) else 'the spool'}: {error.strerror or error}"
    if isinstance(error, PermissionError):
        return NotPermittedError(f"{what}; ask its owner or run as another user")
    if error.errno in UNREACHABLE:
        return UnreachableError(
            f"{what}; see that its server answers, or mount it anew, and start again"
        )
    return TryLaterError(f"{what}; start again when that is mended")


def table(headings: Sequence[str], rows: Sequence[Row], width: int | None) -> str:
    """Return headings and rows as lines of at most ``width`` cells; None: as wide as they are.

    Nothing at all where there are no rows.
    """
    if not rows:
        return ""
    if width is None and not any(row.notes for row in rows):
        return _wide(headings, rows)
    rows = [Row([*map(_clean, row.cells)], [*map(_clean, row.notes)]) for row in rows]
    widths = _widths([headings, *(row.cells for row in rows)], width)
    lines: list[str] = []
    if widths is None:
        for row in rows:
            lines += [*([""] if lines else []), *_block(headings, row, width or 1)]
    else:
        lines += _cells(headings, widths)
        for row in rows:
            lines += _cells(row.cells, widths)
            lines += [line for note in row.notes for line in _indented(note, width)]
    return "".join(line.replace(JOIN, " ").rstrip() + "\n" for line in lines)


def _wide(headings: Sequence[str], rows: Sequence[Row]) -> str:
    """Return a table that is as wide as it is: of 100,000 rows within a quarter of a second."""
    lines = [tuple(headings), *(tuple(row.cells) for row in rows)]
    joined = "".join(map("".join, lines))
    if not joined.isascii() or not joined.isprintable():
        lines = [tuple(_clean(text).replace(JOIN, " ") for text in line) for line in lines]
    columns = [*zip(*lines, strict=True)]
    if all("".join(column).isascii() for column in columns) and all(columns[-1]):
        padded = [f"%-{max(map(len, column))}s" for column in columns[:-1]]
        form = _GAP.join([*padded, "%s\n"])
        # All at once: one after another takes twice as long.
        return form * len(lines) % tuple(chain.from_iterable(lines))
    widths = [max(map(cells, column)) for column in columns]
    return "".join(
        _GAP.join(
            text + " " * (w - cells(text)) for text, w in zip(line, widths, strict=True)
        ).rstrip()
        + "\n"
        for line in lines
    )


def line(value: object) -> str:
    """Return a value as one line of JSON that works on no terminal."""
    text = msgspec.json.encode(value).decode()
    if not text.isprintable():
        text = "".join(
            letter if letter.isprintable() else json.dumps(letter)[1:-1] for letter in text
        )
    return text + "\n"


def duration(seconds: float) -> str:
    """Return a duration, at least 0, as people say it: 12 us, 3.4 ms, 95 s, 4 min, 5 h, 12 d."""
    for unit, length, most in _SHORT:
        if seconds < most * length:
            return f"{_figures(seconds / length)} {unit}"
    unit, length = next((u, n) for u, n, most in _LONG if seconds < most * n)
    return f"{seconds // length:.0f} {unit}"


def size(count: float) -> str:
    """Return a number of bytes as people say it: 512 B, 1.2 kB, 83 GB."""
    unit = 0
    while count >= _THOUSAND and unit < len(_UNITS) - 1:
        count, unit = count / 1000, unit + 1
    return f"{_figures(count)} {_UNITS[unit]}"


def folded(text: str, width: int | None) -> list[str]:
    """Return a text as lines of at most ``width`` cells, at least one; a long word is broken."""
    if width is None or cells(text) <= width:
        return [text]
    lines: list[str] = []
    for word in text.split(" "):
        pieces = list(_pieces(word, width))
        if lines and cells(lines[-1]) + 1 + cells(pieces[0]) <= width:
            lines[-1] += f" {pieces.pop(0)}"
        lines += pieces
    return lines


def cells(text: str) -> int:
    """Return how many cells of a terminal a text takes."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(letter) else 1 + (unicodedata.east_asian_width(letter) in "WF")
        for letter in text
    )


def _figures(value: float) -> str:
    return f"{value:.2g}" if value < _TEN else f"{value:.0f}"


def _clean(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() or letter == JOIN else ascii(letter)[1:-1] for letter in text
    )


def _widths(lines: list[Sequence[str]], width: int | None) -> list[int] | None:
    """Return how wide each column is, None if the table cannot be made to fit."""
    columns = [*zip(*lines, strict=True)]
    widths = [max(map(cells, column)) for column in columns]
    if width is None:
        return widths
    least = [max(cells(word) for text in column for word in text.split(" ")) for column in columns]
    least = [min(most, LONGEST_WORD) for most in least]
    room = width - len(_GAP) * (len(columns) - 1)
    while sum(widths) > room:
        wide = [number for number in range(len(widths)) if widths[number] > least[number]]
        if not wide:
            return None
        widths[max(wide, key=widths.__getitem__)] -= 1
    return widths


def _cells(texts: Sequence[str], widths: list[int]) -> Iterator[str]:
    """Return the lines of one row."""
    columns = [folded(text, width) for text, width in zip(texts, widths, strict=True)]
    for parts in zip_longest(*columns, fillvalue=""):
        yield _GAP.join(
            part + " " * (width - cells(part)) for part, width in zip(parts, widths, strict=True)
        )


def _block(headings: Sequence[str], row: Row, width: int) -> Iterator[str]:
    """Return one row as a line for each cell."""
    for heading, text in zip(headings, row.cells, strict=True):
        first, *others = folded(f"{heading.lower()}:{JOIN}{text}", max(1, width - len(_INDENT)))
        yield first
        yield from (_INDENT + other for other in others)
    for note in row.notes:
        yield from _indented(note, width)


def _indented(text: str, width: int | None) -> Iterator[str]:
    room = None if width is None else max(1, width - len(_INDENT))
    return (_INDENT + part for part in folded(text, room))


def _pieces(word: str, width: int) -> Iterator[str]:
    piece = ""
    for letter in word:
        if piece and cells(piece) + cells(letter) > width:
            yield piece
            piece = ""
        piece += letter
    yield piece
