r"""What an executable's first bytes say about how to run it.

The kernel would say it too, but late and in one word: ENOEXEC for an empty file, a script with a
byte order mark and a program for another machine alike, ENOENT for ``#!/bin/sh\r``, and nothing
at all for ``#!/usr/bin/env python3\r``, which starts and exits 127. So the first bytes are read
before a job is run, and a refusal says what to do. What was measured is in pmjq-spool(5).

Pure: bytes in, ``Spec`` or ``Refusal`` out.
"""

from __future__ import annotations

import contextlib
import re
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pmjq import keys

if TYPE_CHECKING:
    from pmjq.job import Spec

HEAD = 32 * 1024
"""How much of an executable is read at most: directives end with the leading comment block."""

INTERPRETER_LINE = 255
"""Longest ``#!`` line: the kernel cuts a longer one and starts it with a wrong argument."""

LONGEST_REASON = 1000

BYTE_ORDER_MARK = b"\xef\xbb\xbf"

_NOT_TEXT = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")
_DIRECTIVE = re.compile(rf"(?:#PMJQ\s+|#\s+PMJQ\s+(?=(?:{'|'.join(keys.KEYS)})(?:[=\s]|$)))(\S.*)")
"""With a blank after # it may be prose, unless it begins with a key."""

ELF = b"\x7fELF"
MACHINE = slice(18, 20)
KIND = slice(4, 6)
"""Where an ELF header says for which machine, and of which word size and byte order."""

_MACHINES = {
    3: "i386",
    8: "MIPS",
    20: "PowerPC",
    21: "ppc64",
    22: "s390x",
    40: "ARM",
    62: "x86-64",
    183: "AArch64",
    243: "RISC-V",
    258: "LoongArch",
}
"""Names of e_machine values of ELF headers, from elf.h."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Say why an entry can never be run, and what to do about it.

    ``cancels``: it could be, but what it waits for did not come true. ``fault``: what is wrong with
    its signature. The reason is one line that works on no terminal, whatever of the job's text is
    in it.
    """

    reason: str
    cancels: bool = False
    fault: str = ""

    def __post_init__(self) -> None:
        """Escape what is not printable, and shorten what is too long."""
        if not self.reason.isprintable() or len(self.reason) > LONGEST_REASON:
            text = "".join(
                each if each.isprintable() else ascii(each)[1:-1]
                for each in self.reason[:LONGEST_REASON]
            )
            object.__setattr__(self, "reason", text)


def spec(head: bytes) -> Spec | Refusal:
    """Return how to run a file that starts with ``head``, or why it cannot be run."""
    from pmjq.job import Spec  # noqa: PLC0415  # brings msgspec, and submit does without

    found = read(head)
    return found if isinstance(found, Refusal) else Spec(**found)


def read(head: bytes) -> dict[str, Any] | Refusal:
    """Return the fields of the ``Spec`` of a file that starts with ``head``, or why it has none."""
    if head.startswith(b"#!"):
        return _script(head)
    if head.startswith(BYTE_ORDER_MARK):
        return Refusal("starts with a UTF-8 byte order mark, so it cannot be run; save it without")
    if _NOT_TEXT.search(head):
        return {}
    if head.partition(b"\n")[0].endswith(b"\r"):
        return Refusal("its lines end in CR LF; convert it, for instance with dos2unix")
    return _with_directives(head, shell=True)  # noqa: S604  # not a call of a shell


def salvaged(head: bytes) -> tuple[str, ...]:
    """Return the words about mail in the directives of a file that others of its words refuse."""
    found: list[str] = []
    for line in head.decode("utf-8", "replace").split("\n"):
        text = line.strip()
        if text and not text.startswith("#"):
            break
        match = _DIRECTIVE.match(text)
        if match is not None:
            with contextlib.suppress(ValueError):
                found += [word for word in shlex.split(match[1]) if word.startswith("mail")]
    return tuple(word for word in found if not isinstance(keys.fields([word]), keys.Wrong))


def refusal(
    code: str,
    head: bytes,
    *,
    interpreter: bool = False,
    permitted: bool = True,
    native: bytes = b"",
) -> str:
    """Return what to tell of an execve that failed with the errno named ``code``.

    ``interpreter``: the one named after ``#!`` is there, so it is not what is missing.
    ``permitted``: the file's mode lets this user execute it. ``native``: the first bytes of a
    program that runs here.
    """
    match code:
        case "ENOEXEC" if head.startswith(ELF) and len(head) < MACHINE.stop:
            return "is only the beginning of a program; copy it again"
        case "ENOEXEC" if head.startswith(ELF) and _alike(head, native):
            return (
                f"is a program for this kind of machine ({_machine(head)}), but cut short or"
                " damaged; copy it again"
            )
        case "ENOEXEC" if head.startswith(ELF):
            return (
                f"is a program for another kind of machine ({_machine(head)}); "
                "build it for this one"
            )
        case "ENOEXEC" if head.startswith(b"#!"):
            name = interpreter_of(head)
            return f"its interpreter {name} is not a program of this machine; mend the first line"
        case "ENOEXEC":
            return (
                "is neither a program of this machine nor text;"
                " a script starts with #! and its interpreter"
            )
        case "ENOENT" | "ENOTDIR" | "ELOOP" if head.startswith(b"#!") and interpreter:
            name = interpreter_of(head)
            return f"its interpreter {name} lacks its own interpreter or loader; mend {name}"
        case "ENOENT" | "ENOTDIR" | "ELOOP" if head.startswith(b"#!"):
            name = interpreter_of(head)
            return f"its interpreter {name} is not on this node; install it or mend the first line"
        case "ENOENT":
            return "needs a program loader that is not on this node; build it for this system"
        case "EACCES" if not permitted:
            return (
                "may not be executed by this user (EACCES), as its owner and mode say; "
                "chmod go+rx lets others execute it"
            )
        case "EACCES" if head.startswith(b"#!") and not interpreter:
            return (
                f"its interpreter {interpreter_of(head)} may not be executed; mend the first line"
            )
        case "EACCES" | "EPERM":
            return (
                f"may not be executed here ({code}); "
                "check that the file system is not mounted noexec"
            )
        case _:
            return f"cannot be executed ({code})"


def _script(head: bytes) -> dict[str, Any] | Refusal:
    line = head.partition(b"\n")[0]
    if line.endswith(b"\r"):
        return Refusal(
            "its first line ends in CR LF, so its interpreter is not found; "
            "convert it, for instance with dos2unix"
        )
    if len(line) > INTERPRETER_LINE:
        return Refusal(f"its #! line has more than {INTERPRETER_LINE} bytes; shorten it")
    if not line[2:].split():
        return Refusal("its #! line names no interpreter; add one, for instance #!/bin/sh")
    return _with_directives(head, shell=False)


def _with_directives(head: bytes, *, shell: bool) -> dict[str, Any] | Refusal:
    """Read the leading block of comments; a word that is not understood refuses the job.

    Who asks for something in vain would rather know than find it ignored after three weeks.
    """
    if b"PMJQ" not in head:
        return {"shell": shell}
    words: list[str] = []
    found: dict[str, Any] = {}
    for number, line in enumerate(head.decode("utf-8", "replace").split("\n"), 1):
        text = line.strip()
        if text and not text.startswith("#"):
            break
        match = _DIRECTIVE.match(text)
        if match is None:
            continue
        try:
            here = shlex.split(match[1])
        except ValueError as error:
            return Refusal(f"line {number}: {text}: {str(error).lower()}; mend it")
        given = keys.fields(here)
        if isinstance(given, keys.Wrong):
            return Refusal(f"line {number}: {text}: {given.reason}")
        words += here
        found = keys.joined(found, given)
    else:
        if len(head) >= HEAD:
            return Refusal(f"its first comments are longer than {HEAD} bytes; shorten them")
    return {"shell": shell, "directives": tuple(words), **found}


def interpreter_of(head: bytes) -> str:
    """Return the path after #!, empty if there is none."""
    if not head.startswith(b"#!"):
        return ""
    words = head[2:].partition(b"\n")[0].split()
    return words[0].decode("utf-8", "backslashreplace") if words else ""


def _alike(head: bytes, native: bytes) -> bool:
    return (head[KIND], head[MACHINE]) == (native[KIND], native[MACHINE])


def _machine(head: bytes) -> str:
    order = "big" if head[5:6] == b"\x02" else "little"
    number = int.from_bytes(head[MACHINE], order)  # type: ignore[arg-type]  # a literal of two
    return _MACHINES.get(number, f"machine number {number}")
