"""Each verb has a page, and it says what the code does: options, fields, exit codes, words.

The directives are in pmjq(1), in the same words as the options of ``pmjq submit``.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec
import pytest

from pmjq import cli, diagnosis, errors, nodes, pruning, seen, steering
from pmjq.cli import BUILT, VERBS
from pmjq.keys import KEYS
from pmjq.queue import TIMED_OUT, Queue
from test_man import COMMAND, flags, items, section

if TYPE_CHECKING:
    from collections.abc import Mapping

PAGES = {
    path.name.removeprefix("pmjq-").removesuffix(".1"): path
    for path in sorted((Path(__file__).parent.parent / "man").glob("pmjq-*.1"))
}
"""The pages of verbs, by verb."""

SECTIONS = (
    "NAME",
    "SYNOPSIS",
    "DESCRIPTION",
    "ENVIRONMENT",
    "EXIT STATUS",
    "EXAMPLES",
    "SEE ALSO",
)
"""What every page has, in this order."""

PRINTED: Mapping[str, type[msgspec.Struct]] = {
    **dict.fromkeys(("list", "show", "history", "wait"), seen.Seen),
    **dict.fromkeys(("cancel", "hold", "release", "retry", "drain", "resume"), steering.Answer),
    "nodes": nodes.Seen,
    "prune": pruning.Pruned,
}
"""Of which struct each verb prints objects."""

FIELDS: Mapping[str, set[str]] = {
    "doctor": set(diagnosis.Finding.__annotations__),
    "submit": {"name", "name_hex"},
    "prune": {"name", "id", "path", "ended", "removed", "text"},
    **{verb: set(kind.__struct_fields__) for verb, kind in PRINTED.items()},
}
"""What the objects of each verb hold."""

NO_METHOD = {"doctor"}
"""Verbs about a file system, not about its jobs."""

NO_VERB = {"put", "named", "reasons", "opened", "look"}
"""What a ``Queue`` has beside the verbs."""

OF_SUBMIT = {
    "-s",
    "-n",
    "--batch",
    "--array",
    "--env-all",
    "--hold",
    "--sign",
    "--wait",
    "--follow",
    "--json",
    "-h",
    "--help",
}
"""Options of submit that ask for nothing that the job has."""


def command(verb: str) -> click.Command:
    """Return the command of a verb."""
    found = importlib.import_module(BUILT[verb]).COMMANDS[verb]
    assert isinstance(found, click.Command)
    return found


def options(verb: str) -> list[set[str]]:
    """Return the options of a verb, each with its names."""
    there = command(verb)
    context = click.Context(there, **there.context_settings)
    return [set(each.opts) for each in there.get_params(context) if isinstance(each, click.Option)]


def described(lines: list[str]) -> str:
    """Return the items of options: what has an item of its own."""
    return "\n".join(line for line in lines if line.startswith(".It Fl"))


def text_of(lines: list[str]) -> str:
    """Return lines as a sentence, with the name of the program."""
    return " ".join("pmjq" if line == ".Nm" else line for line in lines)


@pytest.fixture(params=sorted(BUILT))
def verb(request: pytest.FixtureRequest) -> str:
    """Return each verb that this version has."""
    return str(request.param)


@pytest.fixture(params=sorted(PAGES))
def page(request: pytest.FixtureRequest) -> Path:
    """Return each page of a verb."""
    return PAGES[request.param]


def test_every_built_verb_has_a_page_and_every_page_a_verb() -> None:
    """A page may be there before its verb, but for no other word."""
    assert set(BUILT) - set(PAGES) == set()
    assert set(PAGES) - VERBS == set()


def test_every_page_has_the_sections_in_their_order(page: Path) -> None:
    """Some have one more."""
    found = [line[4:] for line in page.read_text().splitlines() if line.startswith(".Sh ")]
    assert [title for title in found if title in SECTIONS] == list(SECTIONS)


def test_every_page_says_whose_it_is(page: Path) -> None:
    """Title, name and synopsis have the verb."""
    word = page.name.removeprefix("pmjq-").removesuffix(".1")
    assert f".Dt PMJQ-{word.upper()} 1\n" in page.read_text()
    assert section(page, "NAME")[0] == f".Nm pmjq-{word}"
    assert section(page, "SYNOPSIS")[0] == f".Nm pmjq {word}"


def test_description_has_an_item_for_each_option_and_no_other(verb: str) -> None:
    """With all its names."""
    found = flags(described(section(PAGES[verb], "DESCRIPTION")))
    assert found == set().union(*options(verb))


def test_the_synopsis_has_each_option_by_one_name_at_least(verb: str) -> None:
    """And nothing that is none."""
    found = flags("\n".join(section(PAGES[verb], "SYNOPSIS")))
    assert found <= set().union(*options(verb))
    assert [names for names in options(verb) if not names & found] == []


def test_no_page_names_an_option_that_its_verb_has_not(verb: str) -> None:
    """Those of other commands are literal text."""
    found = flags(PAGES[verb].read_text())
    assert found <= set().union(*options(verb))


def test_an_option_that_may_be_given_again_says_so(verb: str) -> None:
    """And no other does."""
    lines = section(PAGES[verb], "DESCRIPTION")
    begins = [number for number, line in enumerate(lines) if line.startswith(".It Fl")]
    ends = [*begins[1:], len(lines)]
    found: set[str] = set()
    for begin, end in zip(begins, ends, strict=True):
        body = lines[begin + 1 : end]
        body = body[: body.index(".El")] if ".El" in body else body
        if any("May be repeated." in line for line in body):
            found |= flags(lines[begin])
    multiple = [
        set(each.opts)
        for each in command(verb).params
        if isinstance(each, click.Option) and each.multiple
    ]
    assert found == set().union(*multiple)


def test_json_has_the_fields_of_what_is_printed_and_no_other(page: Path) -> None:
    """Each once; a page without objects has no such section."""
    word = page.name.removeprefix("pmjq-").removesuffix(".1")
    if word not in FIELDS:
        assert ".Ss JSON" not in page.read_text()
        return
    lines = section(page, "JSON", "Ss")
    assert sorted(items(lines, "Va")) == sorted(FIELDS[word])


def test_json_is_told_of_where_there_is_such_an_option(verb: str) -> None:
    """A verb that prints objects is in the table of this file."""
    assert ({"--json"} in options(verb)) == (verb in FIELDS)


def test_submit_prints_the_fields_of_its_page(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """They are no struct."""
    assert cli.main(["submit", "-s", str(tmp_path), "--json", "true"]) == 0
    assert set(json.loads(capfd.readouterr().out)) == FIELDS["submit"]


def test_exit_codes_are_those_of_the_tree_of_errors(page: Path) -> None:
    """With success, a wait that was too long, and an interruption."""
    tree = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    known = {kind.exit_code for kind in tree if issubclass(kind, errors.PmjqError)}
    known |= {0, TIMED_OUT, cli.INTERRUPTED}
    found = [int(code) for code in items(section(page, "EXIT STATUS")) if code.isdecimal()]
    assert set(found) <= known
    assert {0, errors.UsageError.exit_code, cli.INTERRUPTED} <= set(found)


def test_every_page_that_is_referred_to_is_there() -> None:
    """Of ours."""
    there = {"pmjq 1", "pmjq-spool 5", *(f"pmjq-{word} 1" for word in PAGES)}
    for path in (COMMAND, *PAGES.values()):
        found = set(re.findall(r"^\.Xr (pmjq\S* \d)", path.read_text(), re.MULTILINE))
        assert found - there == set(), path.name


def test_every_section_that_a_page_refers_to_is_there(page: Path) -> None:
    """In itself, or in pmjq(1)."""
    text = page.read_text() + COMMAND.read_text()
    found = re.findall(r"^\.Sx ([A-Z ]+?)(?: [,.;:])?$", page.read_text(), re.MULTILINE)
    assert [title for title in found if f".Sh {title}\n" not in text] == []


# --- the page of the command


def told() -> dict[str, str]:
    """Return the verbs of pmjq(1), each with its line."""
    lines = section(COMMAND, "VERBS")
    begins = [number for number, line in enumerate(lines) if line.startswith(".It Ic ")]
    ends = [*begins[1:], lines.index(".El")]
    return {
        lines[begin].removeprefix(".It Ic "): text_of(lines[begin + 1 : end])
        for begin, end in zip(begins, ends, strict=True)
    }


def test_the_command_says_of_each_verb_what_its_page_says() -> None:
    """A word without a page is reserved."""
    expected = dict.fromkeys(VERBS, "Reserved: not in this version.")
    for word, path in PAGES.items():
        line = section(path, "NAME")[1].removeprefix(".Nd ")
        expected[word] = f"{line[0].upper()}{line[1:]}."
    assert told() == expected


def test_help_and_page_have_the_same_verbs_as_the_queue() -> None:
    """A verb is a method of the same name, and a method is a verb or known to be none."""
    public = {
        name
        for name, value in vars(Queue).items()
        if inspect.isfunction(value) and not name.startswith("_")
    }
    assert public - NO_VERB == set(BUILT) - NO_METHOD


def directives() -> list[str]:
    """Return the keys that have an item in DIRECTIVES, in their order."""
    lines = section(COMMAND, "DIRECTIVES")
    names = [name.removeprefix("Cm ").split()[0] for name in items(lines, "Cm")]
    return list(dict.fromkeys(names))


def test_every_key_is_a_directive_of_the_page_and_no_other() -> None:
    """In the order of the table."""
    assert directives() == list(KEYS)


def test_every_key_is_an_option_of_submit_and_no_other() -> None:
    """But for those that say what is submitted, and how."""
    found = set().union(*options("submit"))
    assert found - OF_SUBMIT == {f"--{name}" for name in KEYS}


def test_what_is_only_recorded_is_said_of_keys() -> None:
    """In one place."""
    lines = section(COMMAND, "DIRECTIVES")
    begin = lines.index("In this version these are only recorded:") + 1
    words = " ".join(lines[begin : begin + 3]).replace(".Cm", "").replace(" and ", " ")
    names = words.replace(",", " ").replace(".", " ").split()
    assert len(names) > 1
    assert set(names) <= set(KEYS)


@pytest.mark.parametrize("verb", sorted(cli.BUILT))
def test_every_option_is_typed_in_some_test(verb: str) -> None:
    """What no test of its verb types may do anything; those of keys are typed by their table."""
    tests = [path.read_text() for path in sorted(Path(__file__).parent.glob("test_*.py"))]
    about = [text for text in tests if verb in text and "test_every_option_is_typed" not in text]
    fields = {key.field for key in KEYS.values()}
    for option in command(verb).params:
        names = [name for name in option.opts if name.startswith("-")]
        typed = any(re.search(rf"[\"' ]{name}[= \"']", text) for name in names for text in about)
        assert typed or not names or (verb == "submit" and option.name in fields), names
