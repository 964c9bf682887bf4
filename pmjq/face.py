"""What the verbs share: options, printing, and how a person is told of many things at once.

Only what was asked for goes to standard output; what could not be done goes to standard error. On
a terminal tables fit its width, and NO_COLOR or no terminal means no colours.
"""

from __future__ import annotations

import io
import os
import sys
from typing import TYPE_CHECKING, Any

import click

from pmjq.errors import CannotCreateError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from pmjq.render import Row
    from pmjq.steering import Answer

SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}

spool_option = click.option(
    "-s",
    "spool",
    metavar="SPOOL",
    help="The spool. [default: $PMJQ_SPOOL, else the current directory]",
)
json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object per line."
)

tag_option = click.option(
    "--tag", "tags", multiple=True, metavar="WORD", help="Only those with one of these tags."
)
states_option = click.option(
    "--state", "states", multiple=True, metavar="STATE", help="Only those in this state."
)


def verb(name: str, **settings: object) -> Callable[[Callable[..., int]], click.Command]:
    """Return what makes a command of a verb; ``settings``: further ones of click's context."""
    given = {**SETTINGS, **settings}
    return click.command(name, context_settings=given, epilog=f"man pmjq-{name} explains it.")


class Checked(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.2 on
    """A value that one of our own functions reads; what it says of a wrong one is the message."""

    def __init__(self, name: str, read: Callable[[str], Any]) -> None:
        """``name``: what the value is called in the help."""
        self.name = name
        self._read = read

    def convert(
        self,
        value: Any,  # noqa: ANN401  # as click has it
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> Any:  # noqa: ANN401  # likewise
        """Return what was read; UsageError by way of ``fail`` if it cannot be."""
        if not isinstance(value, str):
            return value
        try:
            return self._read(value)
        except (ValueError, OverflowError) as error:
            self.fail(f"{value}: {error}", param, ctx)


def root(given: str | None) -> str:
    """Return the path of the spool that a verb is for; UsageError if it is empty."""
    if given == "":
        raise UsageError("SPOOL is empty; name the directory that jobs are put in")
    return os.path.abspath(given or os.environ.get("PMJQ_SPOOL") or ".")


def table(headings: Sequence[str], rows: Sequence[Row]) -> None:
    """Print a table that fits the terminal; into a file or pipe as wide as it is."""
    from shutil import get_terminal_size

    from pmjq import render

    put(render.table(headings, rows, None if _unfolded() else get_terminal_size().columns))


def join() -> str:
    """Return what stands between a figure and its unit: a blank, where lines are folded another."""
    from pmjq import render

    return " " if _unfolded() else render.JOIN


def _unfolded() -> bool:
    return not sys.stdout.isatty() and not os.environ.get("COLUMNS")


def lines(values: Iterable[object]) -> None:
    """Print one JSON object per line."""
    from pmjq import render

    put("".join(map(render.line, values)))


def put(text: str) -> None:
    """Print, whatever the encoding; who closes the pipe has read enough."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    _written(lambda: sys.stdout.write(text))


def put_bytes(part: bytes) -> bool:
    """Print bytes as they are; False if nobody reads them."""
    return _written(lambda: sys.stdout.buffer.write(part))


def answers(given: Sequence[Answer], *, as_json: bool) -> int:
    """Print what came of a request; 1 if any of it is not so."""
    if as_json:
        lines(given)
    else:
        put("".join(f"{clean(one.name)}: {one.text}\n" for one in given if one.done))
        for one in given:
            if not one.done:
                complain(one.name, one.text)
    return int(not all(one.done for one in given))


def complain(name: str, text: str) -> None:
    """Tell of a thing that could not be done."""
    sys.stderr.write(f"pmjq: {clean(name)}: {clean(text)}\n")


def states(given: Iterable[str]) -> frozenset[str]:
    """Return the states that are asked for; UsageError if there is no such state."""
    from pmjq.state import State

    for text in given:
        if text not in list(State):
            raise UsageError(f"--state {text}: no such state; there are {', '.join(State)}")
    return frozenset(given)


def bar(label: str) -> Bar:
    """Return a progress bar on standard error if that is a terminal, else one that says nothing."""
    return Bar(label, shown=sys.stderr.isatty())


class Bar:
    """Progress for a person who waits; from the first ``of`` on."""

    def __init__(self, label: str, *, shown: bool) -> None:
        """Show nothing yet."""
        self._label = label
        self._shown = shown
        self._bar: Any = None

    def of(self, length: int) -> None:
        """Begin, if there is more than one thing to wait for."""
        if self._shown and length > 1:
            made = click.progressbar(length=length, label=self._label, file=sys.stderr)
            self._bar = made.__enter__()
            self._bar.render_progress()

    def to(self, count: int, length: int) -> None:
        """Show that so many of all are done."""
        if self._bar is None:
            self.of(length)
        if self._bar is not None:
            self._bar.update(count - self._bar.pos)

    def step(self, count: int = 1) -> None:
        """Go on."""
        if self._bar is not None:
            self._bar.update(count)

    def end(self) -> None:
        """Leave the line."""
        if self._bar is not None:
            self._bar.render_finish()
            self._bar = None


def clean(text: str) -> str:
    """Return a text without what works on a terminal."""
    return text if text.isprintable() else ascii(text)[1:-1]


def _written(write: Callable[[], object]) -> bool:
    try:
        write()
        sys.stdout.flush()
    except BrokenPipeError:
        # What is left in the buffer is for nobody, also when Python flushes it at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return False
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        raise CannotCreateError(f"standard output: {error.strerror}") from error
    return True
