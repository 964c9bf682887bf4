"""What a measurement gives back, and how it is printed: rows, one aligned table, JSON.

A ``Row`` is one figure. With several samples its value is their median, and the lowest and the
highest stand beside it. JSON carries every sample, the table does not.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

HEAD = ("measurement", "figure", "median", "unit", "low .. high", "wanted", "")


class NotMeasuredError(Exception):
    """A figure could not be taken; the text says why."""


class NotInstalledError(NotMeasuredError):
    """A program that a figure needs is not there: named, but no failure."""


@dataclass(frozen=True)
class Row:
    """One figure: its samples in ``unit``, what the project promises, what a reader should know."""

    name: str
    samples: tuple[float, ...]
    unit: str
    wanted: str = ""
    note: str = ""
    measurement: str = ""

    @property
    def value(self) -> float:
        """Return the median of the samples."""
        return statistics.median(self.samples)


@dataclass(frozen=True)
class Bench:
    """The settings of one run of the bench.

    ``command`` starts the daemon, ``root`` is an empty directory on a disk, ``say`` tells a person
    how far things are, ``missing`` collects what could not be measured and why.
    """

    command: tuple[str, ...]
    root: Path
    quick: bool
    large: bool
    say: Callable[[str], None]
    missing: list[str] = field(default_factory=list)

    def pick(self, usual: int, quick: int) -> int:
        """Return how many of something this run takes."""
        return quick if self.quick else usual


def percentile(samples: Sequence[float], percent: int) -> float:
    """Return the smallest sample that is at least as high as ``percent`` of all (nearest rank)."""
    rank = -(-len(samples) * percent // 100)
    return sorted(samples)[rank - 1]


def table(rows: Sequence[Row]) -> str:
    """Return the rows as aligned plain text; numbers to the right, the rest to the left."""
    cells = [HEAD, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(HEAD))]
    lines = []
    previous = ""
    for line in cells:
        first = line[0] if line[0] != previous else ""
        previous = line[0]
        texts = [first, *line[1:]]
        aligned = [
            text.rjust(width) if column == HEAD.index("median") else text.ljust(width)
            for column, (text, width) in enumerate(zip(texts, widths, strict=True))
        ]
        lines.append("  ".join(aligned).rstrip())
    return "\n".join(lines)


def as_json(bench: Bench, rows: Sequence[Row], seconds: float) -> str:
    """Return everything measured, with the samples, as one JSON document."""
    document = {
        "machine": machine(),
        "command": bench.command,
        "quick": bench.quick,
        "seconds": round(seconds, 1),
        "not_measured": bench.missing,
        "rows": [asdict(row) | {"median": row.value} for row in rows],
    }
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def machine() -> dict[str, object]:
    """Return what the figures depend on and a reader cannot know."""
    return {
        "cpus": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_average": os.getloadavg()[0],
    }


def _cells(row: Row) -> tuple[str, ...]:
    spread = ""
    if len(row.samples) > 1:
        spread = f"{_number(min(row.samples))} .. {_number(max(row.samples))}"
    return (row.measurement, row.name, _number(row.value), row.unit, spread, row.wanted, row.note)


def _number(value: float) -> str:
    """Return a number with three significant digits and no exponent."""
    size = abs(value)
    digits = 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 else 3
    return f"{value:,.{digits}f}"
