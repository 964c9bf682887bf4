"""The rules of an executable's first bytes: how to run it, or why it cannot be run."""

from __future__ import annotations

import struct

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pmjq.directives import HEAD, INTERPRETER_LINE, Refusal, interpreter_of, refusal, spec
from pmjq.job import Spec

DIRECT = Spec()
SHELL = Spec(shell=True)  # noqa: S604  # a field, not a call of a shell


def elf(machine: int, order: int = 1) -> bytes:
    """Return the beginning of a program for a machine; ``order``: 1 little, 2 big endian."""
    number = struct.pack("<H" if order == 1 else ">H", machine)
    return b"\x7fELF\x02" + bytes([order]) + bytes(10) + b"\x02\x00" + number + bytes(40)


def refused(head: bytes) -> str:
    """Return why a head is refused."""
    verdict = spec(head)
    assert isinstance(verdict, Refusal)
    return verdict.reason


# --- what it is


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"#!/bin/sh\necho\n", DIRECT),
        (b"#! /usr/bin/env python3", DIRECT),
        (b"#!/bin/sh\n" + bytes(100), DIRECT),
        (b"#!/bin/sh\nold dos line\r\n", DIRECT),
        (elf(62), DIRECT),
        (b"MZ\x90\0", DIRECT),
        (b"\0", DIRECT),
        (b"e\0c\0h\0o\0", DIRECT),
        (b"echo hello\n", SHELL),
        (b"echo hello", SHELL),
        (b"\n\necho\n", SHELL),
        ("echo größe\n".encode(), SHELL),
        (b"echo gr\xf6sse\n", SHELL),
        (b"echo\t\x0c\x1b[1m\n", SHELL),
        (b"echo a\necho b\r\n", SHELL),
        (b" #!/bin/sh\n", SHELL),
    ],
)
def test_how_to_run(head: bytes, expected: Spec) -> None:
    """A program and a script with ``#!`` are executed as they are, other text by the shell."""
    assert spec(head) == expected


@pytest.mark.parametrize("number", [*range(9), *range(14, 27), *range(28, 32), 127])
def test_control_characters_are_no_text(number: int) -> None:
    """What has bytes that no text has is left to the kernel, not fed to a shell."""
    assert spec(b"echo " + bytes([number]) + b"\n") == DIRECT


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (b"\xef\xbb\xbf#!/bin/sh\n", ["byte order mark", "without"]),
        (b"\xef\xbb\xbf", ["byte order mark"]),
        (b"#!/bin/sh\r\necho\r\n", ["CR LF", "interpreter", "dos2unix"]),
        (b"#!/usr/bin/env python3\r", ["CR LF"]),
        (b"echo hello\r\n", ["CR LF", "dos2unix"]),
        (b"\r\n", ["CR LF"]),
        (b"#!", ["no interpreter", "#!/bin/sh"]),
        (b"#! \t\necho\n", ["no interpreter"]),
    ],
)
def test_refused_with_what_to_do(head: bytes, words: list[str]) -> None:
    """What can never run is refused in words that a person can act on."""
    reason = refused(head)
    assert [word for word in words if word not in reason] == []


def test_longest_interpreter_line() -> None:
    """The kernel reads 256 bytes of a ``#!`` line with its end, and silently cuts the rest."""
    longest = b"#!/bin/sh -".ljust(INTERPRETER_LINE, b"x")
    assert spec(longest + b"\n") == DIRECT
    assert str(INTERPRETER_LINE) in refused(longest + b"x\n")


@given(st.binary(max_size=300) | st.binary(max_size=300).map(lambda data: b"#!" + data))
def test_any_bytes_have_an_answer(head: bytes) -> None:
    """Nothing that a file may begin with stops the daemon."""
    verdict = spec(head)
    assert isinstance(verdict, Spec) or verdict.reason


# --- directives


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"#PMJQ restartable\n", ("restartable",)),
        (b"# PMJQ restartable\n", ("restartable",)),
        (b"#PMJQ\trestartable", ("restartable",)),
        (b"  #PMJQ restartable  \n", ("restartable",)),
        (b"#PMJQ restartable\r\n", ("restartable",)),
        (b"# PMJQ\trestartable=yes\n", ("restartable=yes",)),
        (b"#  PMJQ restartable\n", ("restartable",)),
        (b"#\tPMJQ restartable\n", ("restartable",)),
        (b"#PMJQ\n#PMJQ  \n", ()),
        (b"#PMJQrestartable\n", ()),
        (b"#pmjq restartable\n", ()),
        (b"##PMJQ restartable\n", ()),
        (b"# PMJQ runs this\n", ()),
        (b"# PMJQ restartables are those\n", ()),
        (b"# see #PMJQ restartable\n", ()),
        (b"echo\n#PMJQ restartable\n", ()),
        (b"#!x\necho\n#PMJQ restartable\n", ()),
        (b"x='\n#PMJQ restartable'\n", ()),
    ],
)
def test_directives_stand_in_the_leading_comments(text: bytes, words: tuple[str, ...]) -> None:
    """The words of ``#PMJQ`` lines count up to the first line of code, with ``#!`` or without."""
    restartable = bool(words)
    assert spec(b"#!/bin/sh\n" + text) == Spec(directives=words, restartable=restartable)
    shell = msgspec.structs.replace(SHELL, directives=words, restartable=restartable)
    assert spec(b"\n" + text) == shell


def test_directives_of_several_lines() -> None:
    """All lines count, with any comments between them: the later replaces, or adds."""
    text = (
        b"#!/bin/sh\n# about\n\n#PMJQ cpus=2 tags=a\n# more\n#PMJQ cpus=4 'tags=b \xff' mail=ann\n"
    )
    assert spec(text) == Spec(
        directives=("cpus=2", "tags=a", "cpus=4", "tags=b \ufffd", "mail=ann"),
        cpus=4,
        tags=("a", "b \ufffd"),
        mail=("ann",),
    )


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("#PMJQ cpu=4", "unknown key cpu; did you mean cpus?"),
        ("#PMJQ xyzzy", "unknown key xyzzy; known are name directory"),
        ("#PMJQ cpus=4 please", "unknown key please"),
        ("#PMJQ cpus=many", "cpus=many: must be a whole number from 1 on, or all"),
        ("#PMJQ cpus", "cpus wants a value: cpus=N|all"),
        ("#PMJQ cpus = 4", "cpus wants a value"),
        ("# PMJQ cpus=many", "cpus=many: must be"),
        ("# PMJQ name it so", "name wants a value"),
        ("#PMJQ name='it", "no closing quotation; mend it"),
        ("#PMJQ name=it\\", "no escaped character; mend it"),
        ("#PMJQ restartable=maybe", "restartable=maybe: must be yes or no"),
        ("#PMJQ not-before=0001-01-01T00:00:00+14:00", "is no time with its zone"),
    ],
)
def test_directive_that_is_not_understood_refuses_the_job(line: str, told: str) -> None:
    """It would be asked for in vain; the line is named by its number and as it stands."""
    for head, number in (("#!/bin/sh\n", 2), ("#!/bin/sh\n# a\n#PMJQ nice=1\n", 4), ("", 1)):
        reason = refused(f"{head}  {line}  \necho\n".encode())
        assert reason.startswith(f"line {number}: {line}: ")
        assert told in reason


@pytest.mark.parametrize("line", ["#PMJQ \x1b[31m=1", "#PMJQ name=\x1b]0;x\x07", "#PMJQ a\x0bb"])
def test_refusal_is_one_printable_line(line: str) -> None:
    """What stands in a job does not work on the terminal of who reads why it was refused."""
    assert refused(f"#!/bin/sh\n{line}\n".encode()).isprintable()


def test_directive_with_a_nul() -> None:
    """No variable can hold a NUL: it would be the daemon that stumbles over it."""
    refused(b"#!/bin/sh\n#PMJQ env=A=x\0y\n")


def test_directive_that_the_head_cuts() -> None:
    """Half a line is no line: 16 CPUs are not 1."""
    start = b"#!/bin/sh\n" + b"# licence\n" * 3000
    cut = b"#PMJQ cpus=1"
    text = start + b"#" * (HEAD - len(start) - len(cut) - 1) + b"\n" + cut + b"6\n"
    verdict = spec(text[:HEAD])
    assert isinstance(verdict, Refusal) or verdict.cpus != 1


@pytest.mark.parametrize("mark", ["\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2029"])
def test_only_a_newline_ends_a_line(mark: str) -> None:
    """A comment ends where the interpreter's does, whatever else Unicode calls a line's end."""
    text = f"#!/bin/sh\n# one{mark}two\n#PMJQ restartable\n"
    assert spec(text.encode()) == Spec(restartable=True, directives=("restartable",))
    assert spec(f"#!/bin/sh\n# say{mark}#PMJQ restartable\n".encode()) == DIRECT


def test_head_is_enough_for_long_comments() -> None:
    """A directive below a licence is found."""
    comment = b"#!/bin/sh\n" + b"# licence\n" * 2000 + b"#PMJQ restartable\n"
    assert len(comment) < HEAD
    assert spec(comment) == Spec(restartable=True, directives=("restartable",))


# --- a failed execve


@pytest.mark.parametrize(
    ("code", "head", "words"),
    [
        ("ENOEXEC", elf(183), ["another kind of machine", "AArch64", "build"]),
        ("ENOEXEC", elf(22, order=2), ["s390x"]),
        ("ENOEXEC", elf(62), ["x86-64"]),
        ("ENOEXEC", elf(4711), ["machine number 4711"]),
        ("ENOEXEC", b"\x7fELF", ["only the beginning of a program", "copy it again"]),
        ("ENOEXEC", elf(62)[:19], ["only the beginning of a program"]),
        ("ENOEXEC", b"\0\1\2", ["neither a program", "nor text", "#!"]),
        ("ENOENT", b"#!/opt/perl -w\n", ["interpreter /opt/perl", "install"]),
        ("ENOTDIR", b"#!/etc/passwd/x\n", ["interpreter /etc/passwd/x"]),
        ("ELOOP", b"#! /a/loop\n", ["interpreter /a/loop"]),
        ("ENOENT", elf(62), ["program loader", "build"]),
        ("EACCES", b"#!/etc/passwd\n", ["interpreter /etc/passwd", "may not be executed"]),
        ("EACCES", elf(62), ["may not be executed", "EACCES", "noexec"]),
        ("EPERM", b"#!/bin/sh\n", ["may not be executed", "EPERM"]),
        ("E2BIG", b"#!/bin/sh\n", ["cannot be executed", "E2BIG"]),
        ("ENOTDIR", elf(62), ["ENOTDIR"]),
    ],
)
def test_failed_execve_is_told_with_what_to_do(code: str, head: bytes, words: list[str]) -> None:
    """One errno stands for several mistakes; the first bytes tell which."""
    reason = refusal(code, head)
    assert [word for word in words if word not in reason] == []


def test_not_the_interpreter() -> None:
    """With its interpreter in place, a script that may not be executed is on a noexec mount."""
    assert "noexec" in refusal("EACCES", b"#!/bin/sh\n", interpreter=True)


@pytest.mark.parametrize("head", [b"", b"#!/no/such\n", elf(62)])
def test_file_that_this_user_may_not_execute(head: bytes) -> None:
    """Another owner's file of mode 0700 has nothing to do with how anything is mounted."""
    reason = refusal("EACCES", head, permitted=False)
    assert [word for word in ("this user", "owner and mode", "chmod") if word not in reason] == []
    assert "noexec" not in reason


@pytest.mark.parametrize("machine", [62, 183])
def test_damaged_program_for_this_machine(machine: int) -> None:
    """A program that was cut short is not one for another machine."""
    reason = refusal("ENOEXEC", elf(machine), native=elf(machine)[:20])
    assert ("damaged" in reason, "copy it again" in reason) == (True, True)
    assert "another" not in reason


@pytest.mark.parametrize("native", [elf(183), elf(62, order=2), b"\x7fELF\x01" + elf(62)[5:], b""])
def test_program_that_is_not_like_those_that_run_here(native: bytes) -> None:
    """Machine, word size and byte order have to be those of this one."""
    assert "another kind of machine (x86-64)" in refusal("ENOEXEC", elf(62), native=native)


def test_interpreter_in_place_is_not_said_to_be_missing() -> None:
    """An interpreter may be there and lack its own loader: then it needs no installing."""
    assert "is not on this node; install it" not in refusal(
        "ENOENT", b"#!/bin/x\n", interpreter=True
    )


def test_script_is_not_told_to_begin_with_an_interpreter_that_it_has() -> None:
    """ENOEXEC for a script is its interpreter's: a file that is no program."""
    assert "/opt/garbage" in refusal("ENOEXEC", b"#!/opt/garbage\n", interpreter=True)


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"#!/bin/sh", "/bin/sh"),
        (b"#! /usr/bin/env python3\nx", "/usr/bin/env"),
        (b"#!\n/bin/sh", ""),
        (b"#!", ""),
        (b"/bin/sh", ""),
        (b"", ""),
        (b"#!/\xff", "/\\xff"),
    ],
)
def test_interpreter_of(head: bytes, expected: str) -> None:
    """The interpreter is the first word after ``#!``."""
    assert interpreter_of(head) == expected
