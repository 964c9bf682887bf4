"""A terminal with something that runs on it; and a shell there, in which somebody types.

On the PATH of the shell is a ``pmjq`` that completes as the real one does, and else only notes its
words, so that a test sees exactly what a shell made of a line.
"""

from __future__ import annotations

import fcntl
import json
import os
import struct
import subprocess
import sys
import termios
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from live import PROJECT, eventually

CONTRIB = Path(PROJECT) / "contrib/completion"

_PMJQ = f"""#!{sys.executable}
import json, os, sys
if "_PMJQ_COMPLETE" in os.environ:
    from pmjq.cli import main
    sys.exit(main())
with open({{noted!r}}, "a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
"""

_LOGIN = "import os, sys; os.login_tty(0); os.execvp(sys.argv[1], sys.argv[1:])"

COMMANDS = {
    "bash": ("bash", "--norc", "--noprofile", "-i"),
    "zsh": ("zsh", "-f", "-i"),
    "fish": ("fish", "--no-config", "-i"),
}

SETUP = {
    # A blank more keeps it out of the history.
    "bash": f" source '{CONTRIB}/pmjq.bash'",
    "zsh": f" fpath=('{CONTRIB}' $fpath); autoload -Uz compinit && compinit -D -u",
    "fish": f" source '{CONTRIB}/pmjq.fish'",
}

READY = "complete", "-"
"""Words that pmjq is called with when the shell is ready."""


class Terminal:
    """A terminal of 50 lines with 200 columns, and what runs on it."""

    def __init__(self, words: Sequence[str], cwd: Path, environment: Mapping[str, str]) -> None:
        self._terminal, inside = os.openpty()
        fcntl.ioctl(inside, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 200, 0, 0))
        os.set_blocking(self._terminal, False)
        self._process = subprocess.Popen(
            [sys.executable, "-c", _LOGIN, *words],
            stdin=inside,
            cwd=cwd,
            env=environment,
        )
        os.close(inside)
        self._shown = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._terminal)

    def type(self, text: str) -> None:
        """Type something, without waiting for what comes of it."""
        os.write(self._terminal, text.encode())

    def shown(self) -> str:
        """Return all that the terminal has shown."""
        try:
            while part := os.read(self._terminal, 1 << 16):
                self._shown += part
        except OSError:
            pass  # Nothing at present, or the shell is gone.
        return self._shown.decode(errors="replace")

    def shows(self, text: str) -> None:
        """Wait until the terminal has shown something."""
        eventually(lambda: text in self.shown(), what=f"{text!r} in {self.shown()!r}")

    def ended(self) -> int:
        """Wait until what runs has ended; return its exit code."""

        def over() -> bool:
            self.shown()  # What prints to a terminal that is full waits.
            return self._process.poll() is not None

        eventually(over, what="the end")
        return self._process.returncode


class Shell(Terminal):
    """A shell of some name in ``cwd``; ``scratch``: a directory for what belongs to it."""

    def __init__(self, name: str, cwd: Path, scratch: Path) -> None:
        (scratch / "bin").mkdir(parents=True)
        (scratch / "home").mkdir()
        self._noted = scratch / "noted"
        self._noted.touch()
        program = scratch / "bin/pmjq"
        program.write_text(_PMJQ.format(noted=str(self._noted)))
        program.chmod(0o755)
        environment = {
            "PATH": f"{program.parent}:{os.environ['PATH']}",
            "HOME": str(scratch / "home"),
            "PYTHONPATH": PROJECT,
            "LANG": "C.UTF-8",
            "TERM": "dumb" if name == "bash" else "xterm",
            "INPUTRC": "/dev/null",
            "HISTFILE": "/dev/null",
        }
        super().__init__(COMMANDS[name], cwd, environment)
        self.type(SETUP[name] + "\r")
        assert self.called(" pmjq complete -\r") == [*READY]

    def called(self, text: str) -> list[str]:
        """Type something that calls pmjq; return the words of the call."""
        before = len(self._calls())
        self.type(text)
        calls = eventually(lambda: self._more_than(before), what=f"{text!r} calls pmjq")
        assert len(calls) == before + 1
        words: list[str] = json.loads(calls[-1])
        return words

    def _more_than(self, before: int) -> list[str]:
        self.shown()  # A shell whose terminal is full would wait.
        calls = self._calls()
        return calls if len(calls) > before else []

    def _calls(self) -> list[str]:
        return [
            line for line in self._noted.read_text().splitlines(keepends=True) if line[-1:] == "\n"
        ]
