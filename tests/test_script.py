"""The rules of the texts that submit writes: a real shell runs them, and nothing is changed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pmjq import directives, script
from pmjq.job import Spec

SHELLS = [shell for shell in ("sh", "bash", "dash", "busybox") if shutil.which(shell)]

SHOW = (
    "import os, sys\n"
    "out = lambda *parts: sys.stdout.write(' '.join(p.hex() for p in parts) + '\\n')\n"
    "out(*map(os.fsencode, sys.argv[1:]))\n"
    "out(os.getcwdb())\n"
    "for k, v in sorted(os.environb.items()): out(k, v)\n"
)
"""A program that prints its arguments, its directory and its environment, each byte as it is."""

ODD = [
    b"",
    b" ",
    b"a b",
    b"  two  blanks ",
    b"'",
    b"''",
    b"a'b\"c",
    b'"',
    b"$HOME",
    b"${x}",
    b"$(id)",
    b"`id`",
    b"\\",
    b"\\\\n",
    b"\\'",
    b"a\\",
    b"\n",
    b"a\nb",
    b"end\n",
    b"\n\n",
    b"\r\n",
    b"\t",
    b"*",
    b"?[a-z]*",
    b"{a,b}",
    b"~",
    b"~root",
    b"!",
    b"!!",
    b"#",
    b"#PMJQ cpus=4",
    b"a;b",
    b"a&b",
    b"a|b",
    b"<x",
    b">x",
    b"-",
    b"--",
    b"-n",
    b"-e",
    b"--help",
    b"A=1",
    b"=",
    b"%s%n",
    b"^",
    b"\xff",
    b"\xff\xfe'\xc3",
    "größe 中 \U0001f600".encode(),
    b"\x01\x1b[31m\x7f",
    bytes(range(1, 256)),
    b"x" * 100_000,
]
"""Arguments that somebody has lost once."""


def label(value: object) -> str:
    """Return what pytest calls a parameter."""
    return repr(value)[:30]


class Shown:
    """What a program that was run by a script saw."""

    def __init__(self, out: bytes) -> None:
        rows = [
            [bytes.fromhex(word) for word in line.split(" ")]
            for line in out.decode().split("\n")[:-1]
        ]
        self.argv, (self.directory,), *pairs = rows
        self.environment = {pair[0]: pair[1] for pair in pairs}


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """Return a program that shows what it was given."""
    path = tmp_path / "show"
    path.write_text(f"#!{sys.executable} -IS\n{SHOW}")
    path.chmod(0o755)
    return path


def run(text: bytes, tmp_path: Path, *, shell: str = "sh") -> Shown:
    """Run a script as a job is run: with little in its environment, and not where it is to run."""
    path = tmp_path / "script"
    path.write_bytes(text)
    path.chmod(0o755)
    command = [shell, "sh", str(path)] if shell == "busybox" else [shell, str(path)]
    done = subprocess.run(
        command if shell != "sh" else [str(path)],
        env={"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/"},
        cwd="/",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b""), text[:2000]
    return Shown(done.stdout)


def show(program: Path, *arguments: bytes) -> list[bytes]:
    """Return a command that shows its arguments."""
    return [os.fsencode(program), *arguments]


# --- commands


@pytest.mark.parametrize("shell", SHELLS)
def test_arguments_are_exact(shell: str, tmp_path: Path, program: Path) -> None:
    """Every byte of every argument arrives, whatever shell ``/bin/sh`` is."""
    text = script.command(show(program, *ODD), os.fsencode(tmp_path))
    assert run(text, tmp_path, shell=shell).argv == ODD


@pytest.mark.parametrize("argument", ODD, ids=label)
def test_argument_alone_is_exact(argument: bytes, tmp_path: Path, program: Path) -> None:
    """So does each alone: none leans on its neighbours."""
    shown = run(script.command(show(program, argument), b"/"), tmp_path)
    assert (shown.argv, shown.directory) == ([argument], b"/")


@pytest.mark.parametrize("value", ODD, ids=label)
def test_value_of_a_variable_is_exact(value: bytes, tmp_path: Path, program: Path) -> None:
    """Every byte of a value arrives."""
    text = script.command(show(program), b"/", {b"VALUE": value})
    assert run(text, tmp_path).environment[b"VALUE"] == value


NAMES = [
    b"a",
    b"_A1",
    b"lower",
    b"a.b",
    b"a-b",
    b"1a",
    b"BASH_FUNC_f%%",
    b"a b",
    b"a\nb",
    b"a'b",
    b"$x",
    b"\xff",
    "größe".encode(),
    b"-u",
    b"--",
    b"-i",
    b"--help",
    b"!",
    b"#",
    b"IFS",
    b"PS4",
    b"ENV",
    b"CDPATH",
    b"OPTIND",
    b"LINENO",
    b"PPID",
    b"UID",
    b"EUID",
    b"BASHOPTS",
    b"RANDOM",
    b"PMJQ_X",
]


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("name", NAMES, ids=label)
def test_name_of_a_variable_is_exact(
    name: bytes, shell: str, tmp_path: Path, program: Path
) -> None:
    """Any name arrives: one that no shell can export, or that means something to it, as well."""
    variables = {b"BEFORE": b"1", name: b"of' \n$x", b"AFTER": b"2"}
    shown = run(script.command(show(program, b"-x"), b"/", variables), tmp_path, shell=shell)
    assert shown.argv == [b"-x"]
    assert {key: shown.environment.get(key) for key in variables} == variables


@pytest.mark.parametrize("name", [b"a=b", b"=", b"-x", b"x y", b"$x"], ids=label)
@pytest.mark.parametrize("odd", [False, True])
def test_name_of_the_program_is_exact(name: bytes, odd: bool, tmp_path: Path) -> None:  # noqa: FBT001
    """A program of any name is run, also with variables that no shell can export."""
    target = os.path.join(os.fsencode(tmp_path), name)
    with open(target, "w") as file:
        file.write(f"#!{sys.executable} -IS\n{SHOW}")
    os.chmod(target, 0o755)
    variables = {b"a.b": b"1"} if odd else {}
    for word in (target, b"./" + name):
        text = script.command([word, b"one"], os.fsencode(tmp_path), variables)
        assert run(text, tmp_path).argv == [b"one"]


def test_what_a_shell_sets_by_itself_is_not_ours(tmp_path: Path, program: Path) -> None:
    """The submitter's PWD would be a lie in another directory."""
    variables = {b"PWD": b"/lie", b"OLDPWD": b"/lie", b"SHLVL": b"99", b"_": b"/lie"}
    shown = run(script.command(show(program), os.fsencode(tmp_path), variables), tmp_path)
    assert shown.environment.get(b"PWD") == os.fsencode(tmp_path)
    assert b"/lie" not in shown.environment.values()
    assert shown.environment.get(b"SHLVL") != b"99"


@pytest.mark.parametrize(
    "name",
    [
        b"plain",
        b"a b",
        b"it's",
        b'"',
        b"$HOME",
        b"-x",
        b"new\nline",
        b"ends\n",
        b"\xff\xfe",
        b"back\\slash",
        b"*",
        "größe".encode(),
    ],
    ids=label,
)
@pytest.mark.parametrize("shell", SHELLS)
def test_directory_is_exact(name: bytes, shell: str, tmp_path: Path, program: Path) -> None:
    """A command runs where it was submitted, whatever that directory is called."""
    directory = os.path.join(os.fsencode(tmp_path), name)
    os.mkdir(directory)
    shown = run(script.command(show(program), directory), tmp_path, shell=shell)
    assert shown.directory == directory
    assert shown.environment.get(b"PWD") == directory


def test_directory_that_is_gone_ends_the_job(tmp_path: Path) -> None:
    """Nothing is run somewhere else."""
    for text in (
        script.command([b"/bin/touch", b"ran"], b"/no/such"),
        script.line(b"touch ran", b"/no/such"),
    ):
        path = tmp_path / "script"
        path.write_bytes(text)
        done = subprocess.run(["sh", path], cwd=tmp_path, capture_output=True, check=False)
        assert done.returncode != 0
        assert b"/no/such" in done.stderr
    assert not (tmp_path / "ran").exists()


def test_command_takes_the_place_of_the_shell(tmp_path: Path) -> None:
    """A signal reaches the command itself, and its end is the job's."""
    path = tmp_path / "script"
    path.write_bytes(script.command([b"sh", b"-c", b"kill -9 $$"], b"/"))
    assert subprocess.run(["sh", path], check=False).returncode == -9


def test_text_can_be_read() -> None:
    """What is plain is not quoted, and there is nothing in it that nobody asked for."""
    assert script.command([b"make", b"-j4", b"all"], b"/home/ann") == (
        b"#!/bin/sh\ncd /home/ann || exit\nexec make -j4 all\n"
    )
    text = script.command([b"a", b"b c"], b"/d", {b"A": b"1", b"b.c": b"2"}, ["cpus=4", "tags=x y"])
    lines = text.split(b"\n")
    assert lines[:4] == [
        b"#!/bin/sh",
        b"#PMJQ cpus=4 'tags=x y'",
        b"cd /d || exit",
        b"export A=1",
    ]
    assert lines[4].startswith(b"exec env ")
    assert b"b.c=2" in lines[4]
    assert lines[4].endswith(b"a 'b c'")


# --- lines of shell


@pytest.mark.parametrize("shell", SHELLS)
def test_line_is_shell(shell: str, tmp_path: Path, program: Path) -> None:
    """A line of a batch is what a person would have typed."""
    line = b'X=1; for i in a \'b c\'; do set -- "$@" "$i"; done; ' + (
        os.fsencode(program) + b' "$@" "$V"'
    )
    text = script.line(line, os.fsencode(tmp_path), {b"V": b"$x\n"})
    shown = run(text, tmp_path, shell=shell)
    assert (shown.argv, shown.directory) == ([b"a", b"b c", b"$x\n"], os.fsencode(tmp_path))


@pytest.mark.parametrize("name", [b"a.b", b"-u", b"BASH_FUNC_f%%"], ids=label)
def test_line_is_refused_variables_that_no_shell_can_export(name: bytes) -> None:
    """They would be lost, since a line is run by a shell."""
    with pytest.raises(ValueError, match="submit a command"):
        script.line(b"true", b"/", {name: b"1"})


def test_last_command_of_a_line_gives_the_status(tmp_path: Path) -> None:
    """The job ends as its line does."""
    path = tmp_path / "script"
    path.write_bytes(script.line(b"(exit 3) || (exit 4)", b"/"))
    assert subprocess.run(["sh", path], check=False).returncode == 4


# --- scripts that somebody wrote


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"#!/bin/sh\necho\n", b"#!/bin/sh\n#PMJQ cpus=4 'name=a b'\necho\n"),
        (b"#!/bin/sh", b"#!/bin/sh\n#PMJQ cpus=4 'name=a b'\n"),
        (b"echo\n", b"#PMJQ cpus=4 'name=a b'\necho\n"),
        (b"", b"#PMJQ cpus=4 'name=a b'\n"),
        (b"#!/x\n#PMJQ nice=1\n", b"#!/x\n#PMJQ nice=1\n#PMJQ cpus=4 'name=a b'\n"),
        (b"#!/bin/sh\n\xff\n", b"#!/bin/sh\n#PMJQ cpus=4 'name=a b'\n\xff\n"),
    ],
)
def test_words_stand_below_the_first_comments(before: bytes, after: bytes) -> None:
    """A script stays as it is but for one line; its interpreter stays in the first."""
    assert script.with_words(before, ["cpus=4", "name=a b"]) == after
    assert script.with_words(before, []) == before


@pytest.mark.parametrize(
    "word",
    [
        "name=it's",
        'name="x"',
        "name=a#b",
        "name=a b",
        "name=$x",
        "name=\\",
        "env=A=' \" \\ #",
        "name=é",
    ],
)
def test_words_are_read_back_as_they_were(word: str) -> None:
    """What is written is what the daemon reads."""
    for text in (
        script.with_words(b"#!/bin/sh\n", [word]),
        script.command([b"true"], b"/", None, [word]),
        script.line(b"true", b"/", None, [word]),
    ):
        spec = directives.spec(text)
        assert isinstance(spec, Spec), spec
        assert spec.directives == (word,)


def test_script_is_asked_to_run_in_place() -> None:
    """Directory and variables are directives, since any interpreter may read the script."""
    text = script.in_place(
        b"#!/usr/bin/python3\nprint()\n", "/a b/é".encode(), {b"A": b"x y"}, ["cpus=2"]
    )
    spec = directives.spec(text)
    assert isinstance(spec, Spec), spec
    assert (spec.directory, spec.env, spec.cpus) == ("/a b/é", ("A=x y",), 2)
    assert text.endswith(b"\nprint()\n")


@pytest.mark.parametrize(
    ("directory", "variables"),
    [
        (b"/\xff", {}),
        (b"/a\nb", {}),
        (b"/a\x1b", {}),
        (b"/", {b"A": b"\xff"}),
        (b"/", {b"\xff": b"1"}),
        (b"/", {b"A": b"a\nb"}),
    ],
    ids=label,
)
def test_script_in_a_place_that_no_directive_can_name(
    directory: bytes, variables: dict[bytes, bytes]
) -> None:
    """It is refused with the way out, rather than run somewhere else."""
    with pytest.raises(ValueError, match="submit a command"):
        script.in_place(b"#!/bin/sh\n", directory, variables)


@pytest.mark.parametrize("length", [1000, directives.HEAD, 3 * directives.HEAD])
def test_script_has_all_that_it_is_given(length: int) -> None:
    """What is asked for is read by the daemon to its end, or refused while a person listens."""
    value = b"x" * length
    try:
        text = script.in_place(b"#!/bin/sh\ntrue\n", b"/d", {b"A": value}, ["cpus=2"])
    except ValueError:
        return
    spec = directives.spec(text[: directives.HEAD])
    assert isinstance(spec, Spec), spec.reason[-100:]
    assert (spec.directory, spec.cpus, spec.env) == ("/d", 2, (f"A={value.decode()}",))


@pytest.mark.parametrize("make", [script.command, script.line], ids=["command", "line"])
def test_command_has_words_of_any_length(make: Callable[..., bytes]) -> None:
    """So is what is asked for by the options of a command."""
    tags = ",".join(f"tag{number}" for number in range(10_000))
    first: object = [b"true"] if make is script.command else b"true"
    try:
        text = make(first, b"/", None, [f"tags={tags}", "cpus=2"])
    except ValueError:
        return
    spec = directives.spec(text[: directives.HEAD])
    assert isinstance(spec, Spec), spec.reason[-100:]
    assert (len(spec.tags), spec.cpus) == (10_000, 2)


@pytest.mark.parametrize("text", ODD, ids=label)
def test_quoted(text: bytes) -> None:
    """A quoted text is one word of a shell, and quoted only where it has to be."""
    out = subprocess.run(
        ["sh"], input=b"printf %s " + script.quoted(text), capture_output=True, check=True
    ).stdout
    assert out == text
    assert script.quoted(b"a-Z_0@%+=:,./") == b"a-Z_0@%+=:,./"
