"""The reader: the process that makes out what other users' jobs ask for, without any rights.

Root's daemon has to move, open and give away other people's files, which takes root's rights. What
they wrote into them is another matter: words, TOML, INI and XML, made by whoever likes to. So the
daemon reads the bytes, and a process that is nobody makes out what they say: it may open nothing,
write nothing and start nothing, and what it answers is checked like anything that is read from
disk. One that takes too long, or that it dies of, refuses the job and costs a new reader.

Where a daemon runs its own user's jobs they are made out in place.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import psutil

from pmjq import becoming, infofile
from pmjq.directives import Refusal
from pmjq.job import Spec

if TYPE_CHECKING:
    from pmjq.ready import Look

NOBODY = 65534

PATIENCE = 5.0
"""Seconds that it may take to make out what 32 KiB say."""

LONGEST = 1 << 18
"""Bytes of a question or an answer."""

MEMORY = 1 << 29
"""Bytes that a reader may use."""

SAMPLES = (
    ("", b"#!/bin/sh\n#PMJQ cpus=1 cpu=1\n"),
    ("", b"#!/bin/sh\n#PMJQ not-before=2030-01-01T00:00:00Z mail='\n"),
    ("job.toml", b"script = 'a'\nnot-before = 2030-01-01T00:00:00Z\n"),
    ("job.toml", b"="),
    ("proc_config.cfg", b"[QMOptions]\nscript = a\n"),
    ("proc_config.cfg", b"="),
    ("proc_config.xml", b"<a><script>a</script></a>"),
    ("proc_config.xml", b"<\xff"),
)
"""What is made out first: parsers import some of what they need late, and it could not any more."""

PACKAGES = str(Path(__file__).parent.parent)
READER = f"import sys; sys.path.insert(0, {PACKAGES!r}); from pmjq.reader import main; main()"

SLOW = Refusal("it takes too long to make out what it asks for, or cannot be done; simplify that")


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a reader has made out: a spec, or why there is none."""

    spec: Spec | None = None
    reason: str = ""


class Reader:
    """A reader, as the daemon has it; it is started when it is needed."""

    def __init__(self) -> None:
        """Start nothing yet."""
        self._line: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._laboured = False

    def asked(self, look: Look) -> Spec | Refusal:
        """Return what ``infofile.asked`` does; OSError if no reader can be started."""
        if look.head is None and look.info is None:
            return Spec()
        name, text = look.info or ("", look.head or b"")
        answer = self._answer(name, text)
        if answer is None and not self._laboured:
            # It has died of something else, for lack of memory, or had no time to answer.
            answer = self._answer(name, text)
        if answer is None:
            return SLOW
        return answer.spec if answer.spec is not None else Refusal(answer.reason)

    def _answer(self, name: str, text: bytes) -> Answer | None:
        """Return what a reader answers, None if it does not, which ends it."""
        line = self._line or self._start()
        begun = self._computed()
        try:
            line.send(name.encode() + b"\n" + text)
            there, _, _ = select.select([line], [], [], PATIENCE)
            return msgspec.json.decode(line.recv(LONGEST) if there else b"", type=Answer)
        except (OSError, msgspec.DecodeError):
            self._laboured = self._computed() - begun > PATIENCE / 2
            self.close()
            return None

    def _computed(self) -> float:
        """Return for how many seconds the reader has computed."""
        with contextlib.suppress(psutil.Error):
            if self._process is not None:
                times = psutil.Process(self._process.pid).cpu_times()
                return times.user + times.system
        return 0.0

    def close(self) -> None:
        """End the reader."""
        if self._line is not None:
            self._line.close()
            self._line = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * LONGEST)
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * LONGEST)
            try:
                self._process = subprocess.Popen(  # our own code, by our own interpreter
                    [sys.executable, "-I", "-c", READER, str(theirs.fileno())],
                    pass_fds=(theirs.fileno(),),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    cwd="/",
                    env={"LANG": "C.UTF-8"},
                )
            except OSError:
                ours.close()
                raise
        self._line = ours
        return ours


def main() -> None:
    """Answer what is asked over the descriptor that the only argument names, until it is closed."""
    line = socket.socket(fileno=int(sys.argv[1]))
    for sample in SAMPLES:
        infofile.made_out(*sample)
    _give_up_rights()
    while question := line.recv(LONGEST):
        name, _, text = question.partition(b"\n")
        found = infofile.made_out(name.decode(), text)
        if isinstance(found, Spec):
            line.send(msgspec.json.encode(Answer(spec=found)))
        else:
            line.send(msgspec.json.encode(Answer(reason=found.reason)))


def _give_up_rights() -> None:
    """Be nobody, for good, who may open, write and start nothing."""
    prctl = becoming.prctl()
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    if prctl is not None:
        prctl(becoming.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    for limit, most in (
        (resource.RLIMIT_AS, MEMORY),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, 0),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(limit, (most, most))
