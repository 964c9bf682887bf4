"""The rules of text for people and programs: it fits, nothing is cut, no terminal is worked."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pmjq import render
from pmjq.errors import NotPermittedError, PmjqError, TryLaterError, UnreachableError
from pmjq.render import JOIN, Row, cells, duration, folded, line, size, table

HEADINGS = ("NODE", "STATE", "GATE")
ROWS = [
    Row(("a", "alive", "open")),
    Row(("gpu-2", f"silent for 4{JOIN}min", "closed"), ["gate closed: load average 4.2 above 4"]),
]


def test_a_table_as_wide_as_it_is() -> None:
    """Columns stand below each other, two blanks apart, notes below their row."""
    assert table(HEADINGS, ROWS, None).splitlines() == [
        "NODE   STATE             GATE",
        "a      alive             open",
        "gpu-2  silent for 4 min  closed",
        "  gate closed: load average 4.2 above 4",
    ]


def test_a_table_folds_its_widest_column_and_no_figure_from_its_unit() -> None:
    """What is too wide is continued below, in its own column."""
    assert table(HEADINGS, ROWS, 25).splitlines() == [
        "NODE   STATE       GATE",
        "a      alive       open",
        "gpu-2  silent for  closed",
        "       4 min",
        "  gate closed: load",
        "  average 4.2 above 4",
    ]


def test_a_table_that_cannot_fit_becomes_blocks() -> None:
    """Then each cell has a line, and a blank line stands between two rows."""
    assert table(HEADINGS, ROWS, 16).splitlines() == [
        "node: a",
        "state: alive",
        "gate: open",
        "",
        "node: gpu-2",
        "state: silent",
        "  for 4 min",
        "gate: closed",
        "  gate closed:",
        "  load average",
        "  4.2 above 4",
    ]


def test_no_rows_no_table() -> None:
    """Nothing is printed about nothing."""
    assert table(HEADINGS, [], 80) == ""


@given(
    st.lists(st.lists(st.text(max_size=40), min_size=3, max_size=3), min_size=1, max_size=4),
    st.text(max_size=60),
    st.integers(1, 200),
)
def test_every_table_fits_and_says_everything(rows: list[list[str]], note: str, width: int) -> None:
    """No line is wider than asked for (a wide letter needs two cells), and no letter is missing."""
    text = table(HEADINGS, [Row(row, [note]) for row in rows], width)
    assert max(map(cells, text.splitlines())) <= max(width, 2 + 2)
    assert text.replace("\n", "").isprintable()
    said = sorted(text.replace("\n", "").replace(" ", ""))
    for cell in (*(cell for row in rows for cell in row), note):
        for letter in cell:
            if letter.isprintable() and letter != " ":
                assert letter in said


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\nb", "a\\nb"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("\udcff", "\\udcff"),
        ("\u202eabc", "\\u202eabc"),
    ],
)
def test_what_would_work_on_a_terminal_is_escaped(text: str, expected: str) -> None:
    """A name cannot break a line or colour a screen."""
    assert table(("X",), [Row((text,), [text])], 80).splitlines() == [
        "X",
        expected,
        f"  {expected}",
    ]


def test_wide_letters_take_two_cells() -> None:
    """Columns stay below each other, also behind Chinese; accents take no room of their own."""
    assert [cells("ab"), cells("日本"), cells("e\u0301")] == [2, 4, 1]
    lines = table(("A", "B"), [Row(("日本", "x")), Row(("a", "y"))], None).splitlines()
    assert lines == ["A     B", "日本  x", "a     y"]


@pytest.mark.parametrize(
    ("width", "expected"),
    [
        (None, ["ab cd efghij"]),
        (12, ["ab cd efghij"]),
        (6, ["ab cd", "efghij"]),
        (4, ["ab", "cd", "efgh", "ij"]),
        (1, list("abcdefghij")),
    ],
)
def test_folding(width: int | None, expected: list[str]) -> None:
    """At blanks where there are some, else anywhere."""
    assert folded("ab cd efghij", width) == expected


def test_a_line_of_json() -> None:
    """One line, whatever is in it, and exactly what was said."""
    value = {"a": "x\n\x1b[31m\u202e\x7f日", "b": None, "c": [1, 2.5]}
    text = line(value)
    assert text.endswith("}\n")
    assert text[:-1].isprintable()
    assert json.loads(text) == value


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0, "0 us"),
        (12.4e-6, "12 us"),
        (0.00099, "990 us"),
        (0.0034, "3.4 ms"),
        (0.25, "250 ms"),
        (1, "1 s"),
        (9.96, "10 s"),
        (95, "95 s"),
        (120, "2 min"),
        (299, "4 min"),
        (7200, "2 h"),
        (86400 * 2, "2 d"),
        (86400 * 700, "700 d"),
    ],
)
def test_durations(seconds: float, expected: str) -> None:
    """Two figures below ten, whole numbers above; what is long is rounded down."""
    assert duration(seconds) == expected


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (999.6, "1 kB"),
        (1234, "1.2 kB"),
        (8.3e10, "83 GB"),
        (4e15, "4000 TB"),
    ],
)
def test_sizes(count: float, expected: str) -> None:
    """Of a thousand each, as disks are sold."""
    assert size(count) == expected


def test_figures_have_no_exponent() -> None:
    """1000 is not 1e+03."""
    assert [render._figures(9.94), render._figures(9.96), render._figures(1000)] == [
        "9.9",
        "10",
        "1000",
    ]


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (PermissionError(13, "Permission denied", "/a"), NotPermittedError, "/a: Permission"),
        (OSError(107, "not connected", "/a"), UnreachableError, "/a: not connected; see that its"),
        (OSError(28, "No space left", "/a"), TryLaterError, "/a: No space left; start again"),
        (OSError(28, "No space left", b"/\xff"), TryLaterError, "/\\xff: No space left"),
        (OSError(28, "No space left", 7), TryLaterError, "the spool: No space left"),
        (OSError("odd"), TryLaterError, "the spool: odd"),
    ],
)
def test_refusals(error: OSError, kind: type[PmjqError], said: str) -> None:
    """An error of the file system is told with its path and what to do."""
    told = render.refused(error)
    assert type(told) is kind
    assert str(told).startswith(said)
