"""The man pages say what the code does, no more and no less.

Options, verbs, exit codes, log events and a job's environment are in pmjq(1), transitions and the
fields of every file in pmjq-spool(5).
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import click
import msgspec
import pytest

from pmjq import cli, errors, job, keeper, letter, node, paperwork, spool
from pmjq.cli import VERBS
from pmjq.state import ENDED, TRANSITIONS, State

ROOT = Path(__file__).parent.parent
COMMAND = ROOT / "man/pmjq.1"
SPOOL = ROOT / "man/pmjq-spool.5"
SOURCE = "\n".join(path.read_text() for path in sorted((ROOT / "pmjq").glob("*.py")))

NO_LINT = ("referenced manual not found", "outdated mandoc.db")
"""What mandoc says about the machine, not about the page."""


def section(page: Path, title: str, macro: str = "Sh") -> list[str]:
    """Return the lines of a section, or of a subsection."""
    lines = page.read_text().splitlines()
    begin = lines.index(f".{macro} {title}") + 1
    ends = (".Sh ",) if macro == "Sh" else (".Sh ", ".Ss ")
    length = next((n for n, line in enumerate(lines[begin:]) if line.startswith(ends)), None)
    return lines[begin:] if length is None else lines[begin : begin + length]


def items(lines: list[str], macro: str = "") -> list[str]:
    """Return what the list items with a macro name, one or several to an item."""
    prefix = f".It {macro} " if macro else ".It "
    found = [line.removeprefix(prefix) for line in lines if line.startswith(prefix)]
    return [name for line in found for name in line.split(" , ")]


def option_names() -> set[str]:
    """Return the options that the command takes."""
    parameters = cli.daemon.get_params(click.Context(cli.daemon, **cli.daemon.context_settings))
    named = {name for parameter in parameters for name in parameter.opts}
    return {name for name in named if name.startswith("-")}


def flags(text: str) -> set[str]:
    """Return the options that mdoc macros name: ``Fl C`` is -C, ``Fl -node`` is --node."""
    lines = [line for line in text.splitlines() if line.startswith(".")]
    return {f"-{name}" for line in lines for name in re.findall(r"\bFl ([\w-]+)", line)}


def test_every_option_is_described_and_no_other() -> None:
    """An option has an item of its own in DESCRIPTION."""
    lines = [line for line in section(COMMAND, "DESCRIPTION") if line.startswith(".It Fl")]
    assert flags("\n".join(lines)) == option_names()


def test_no_page_names_an_option_that_does_not_exist() -> None:
    """Every Fl anywhere is an option of the command."""
    assert flags(COMMAND.read_text()) <= option_names()
    assert flags(SPOOL.read_text()) <= option_names()


def test_the_synopsis_has_every_option() -> None:
    """SYNOPSIS and DESCRIPTION agree."""
    synopsis = "\n".join(section(COMMAND, "SYNOPSIS"))
    assert flags(synopsis) == option_names()


def test_every_choice_is_described() -> None:
    """The values of an option with fixed values are in the page."""
    text = COMMAND.read_text()
    choices = [
        choice
        for parameter in cli.daemon.params
        if isinstance(parameter.type, click.Choice)
        for choice in parameter.type.choices
    ]
    assert choices
    assert [choice for choice in choices if f"Cm {choice}\n" not in text] == []


def test_every_verb_is_reserved() -> None:
    """VERBS lists the reserved words and nothing else."""
    found = items(section(COMMAND, "VERBS"), "Ic")
    assert sorted(found) == sorted(VERBS)


def test_every_exit_code_is_described() -> None:
    """The codes of the tree of errors, success and an interruption; no others."""
    tree = [value for value in vars(errors).values() if isinstance(value, type)]
    expected = {kind.exit_code for kind in tree if issubclass(kind, errors.PmjqError)}
    expected |= {0, cli.INTERRUPTED}
    assert {int(code) for code in items(section(COMMAND, "EXIT STATUS"))} == expected


def test_every_log_event_is_described_and_no_other() -> None:
    """LOG names the events that the code logs."""
    logged = re.findall(r'\b(?:info|warning|error|exception|say)\(\s*f?"([\w{}]+\.\w+)"', SOURCE)
    tried = set(re.findall(r'pauses\.failed\("(\w+)"', SOURCE))
    assert tried
    expected = {event for event in logged if "{" not in event}
    expected |= {f"{name}.failed" for name in tried} | {f"{name}.works_again" for name in tried}
    assert set(items(section(COMMAND, "LOG"), "Cm")) == expected


def test_every_variable_of_a_job_and_of_a_hook_is_described() -> None:
    """The PMJQ_ variables that the code sets are those that the page lists."""
    for module, title in (("act", "HOW A JOB RUNS"), ("calling", "HOOKS")):
        source = (ROOT / f"pmjq/{module}.py").read_text()
        expected = set(re.findall(r'"(PMJQ_[A-Z_]+)":', source))
        found = items(section(COMMAND, title), "Ev")
        assert {name for name in found if name.startswith("PMJQ_")} == expected


def states(found: frozenset[State] | None) -> str:
    """Return states as the page writes them, in the order of a job's life."""
    if found == ENDED:
        return "ended"
    return ", ".join(state for state in State if state in found) if found else "-"


def test_the_transitions_are_those_of_the_code() -> None:
    """Each row has name, states before, states after, and the call that commits."""
    rows = [line for line in items(section(SPOOL, "TRANSITIONS")) if not line.startswith("Em ")]
    expected = [
        " Ta ".join([row.name, states(row.source), states(row.target), row.commit])
        for row in TRANSITIONS.values()
    ]
    assert rows == expected


def test_the_states_are_those_of_the_code() -> None:
    """STATES has every state, and ``ended`` is what the code means by it."""
    lines = section(SPOOL, "STATES")
    assert items(lines, "Cm") == list(State)
    last = [line for line in lines if line.startswith(".It Cm")][-1]
    assert set(last.removeprefix(".It Cm ").split(" , ")) == ENDED


def names_of(kind: type[msgspec.Struct], prefix: str = "") -> set[str]:
    """Return the fields of a struct, those of a struct within it with a dot."""
    names: set[str] = set()
    for field in msgspec.structs.fields(kind):
        if field.type is job.Spec:
            names |= names_of(job.Spec, f"{field.name}.")
        else:
            names.add(prefix + field.name)
    return names


@pytest.mark.parametrize(
    ("kind", "title"),
    [
        (spool.Identity, "spool.json"),
        (job.Attempt, "claim.N.json"),
        (job.Record, "record.N.json"),
        (job.Again, "again/NAME"),
        (job.Event, "events/TOKEN.jsonl"),
        (letter.Letter, "mail/ID.N.KIND"),
        (node.Life, "node.json"),
    ],
)
def test_every_field_of_a_file_is_described_and_no_other(
    kind: type[msgspec.Struct], title: str
) -> None:
    """Each file has its fields, each once."""
    found = items(section(SPOOL, title, "Ss"), "Va")
    assert sorted(found) == sorted(names_of(kind))


def test_every_kind_of_event_is_described_and_no_other() -> None:
    """The events on disk are those that the code makes."""
    made = re.findall(r'\bEvent\(\s*"([\w.]+)"', SOURCE)
    assert sorted(items(section(SPOOL, "events/TOKEN.jsonl", "Ss"), "Cm")) == sorted(made)


def test_every_word_of_a_status_is_described_with_its_figures() -> None:
    """The lines that the keeper writes, and the link that returns a job."""
    source = Path(keeper.__file__).read_text()
    lines = re.findall(r'"(\w+)((?: \{[^}]*\})*)\\n"', source)
    written = {word: figures.count("{") for word, figures in lines}
    written[paperwork.VOID] = 0
    found = {}
    for line in items(section(SPOOL, "status.N", "Ss"), "Ic"):
        word, *figures = line.replace(" Ar ", " ").split()
        found[word] = len(figures)
    assert found == written


@pytest.mark.parametrize("page", sorted((ROOT / "man").glob("*.[1-8]")), ids=lambda page: page.name)
def test_mandoc_has_nothing_to_say(page: Path) -> None:
    """The page is clean mdoc."""
    mandoc = shutil.which("mandoc")
    if mandoc is None:
        pytest.skip("no mandoc here; apt install mandoc")
    lint = subprocess.run(
        [mandoc, "-T", "lint", str(page)],
        capture_output=True,
        text=True,
        check=False,
    )
    said = (lint.stdout + lint.stderr).splitlines()
    assert [line for line in said if not any(known in line for known in NO_LINT)] == []
