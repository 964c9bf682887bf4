"""What is known of a node.

Values only: ``probe`` fills a reading from the kernel, ``gates`` judges it, and neither is known
here. A reading is one look at the machine at one instant; it is replaced, never changed, and says
nothing about the jobs that caused it. Everything in it counts the whole machine, as the kernel
does, whatever part of it the daemon itself may use.
"""

from __future__ import annotations

import re
from datetime import datetime
from math import inf

from msgspec import Struct


class Reading(Struct, frozen=True):
    """One look at the machine.

    ``load`` is the one-minute load average. ``runnable`` is the number of threads that run or stand
    in a run queue at this instant, the reading thread included: the first half of the fourth field
    of /proc/loadavg, see proc(5); 1 where the system does not tell. ``cpus`` counts the CPUs
    online, not those that the daemon may use, because the other two count the whole machine.
    """

    load: float
    runnable: int
    cpus: int


class Life(Struct, frozen=True, kw_only=True):
    """One life of one node's daemon; the content of ``node.json``.

    ``machine``, ``boot`` and ``space`` (its pid namespace) tell where ``pid`` means anything, and
    ``start`` (clock ticks since boot) that the pid is still the same process. The rest is for
    people: what the daemon sees and why it does not start more. ``lease`` and ``polled`` (0: the
    kernel tells of every change) are seconds; ``won`` and ``contended`` count claims that this
    life made and that another node was quicker with. ``archive`` and ``errors`` are where its
    ended jobs go, ``cpus`` and ``memory`` (bytes) how much one may have at most, ``gpus`` which are
    assigned (None: an older version does not say), ``hooks`` on which occasions it calls one for
    the whole spool, and when it last did. ``letters`` wait to be sent, and ``mail`` is why they
    cannot be. ``owners``: the CPUs of each owner's jobs, by user number; ``free_cpus`` and
    ``free_memory``: what none of them holds. ``signatures``: where only signed jobs are run, how
    many claims this life verified, and refused for which fault.
    """

    format: int = 1
    name: str
    token: str
    machine: str
    boot: str
    space: str
    pid: int
    start: int
    version: str
    began: datetime
    at: datetime
    host: str = ""
    limit: float | None = None
    slots: int | None = None
    load: float | None = None
    running: int = 0
    queued: int = 0
    gate: str = "open"
    reason: str = ""
    stopping: str = ""
    aside: dict[str, str] = {}
    unfiled: int = 0
    lease: float = 120.0
    won: int = 0
    contended: int = 0
    polled: float = 0.0
    outage: str = ""
    cpus: int | None = None
    memory: int | None = None
    gpus: tuple[str, ...] | None = None
    archive: str = ""
    errors: str = ""
    hooks: dict[str, datetime | None] = {}
    letters: int = 0
    mail: str = ""
    owners: dict[str, int] = {}
    free_cpus: int | None = None
    free_memory: int | None = None
    signatures: dict[str, int] | None = None


class Machine(Struct, frozen=True):
    """Where a daemon runs: machine, boot, pid namespace, and the daemon's own process.

    ``booted``: the time of day of the boot, in seconds since the epoch.
    """

    machine: str
    boot: str
    space: str
    pid: int
    start: int
    host: str = ""
    booted: float = inf


LONGEST_NAME = 128
"""Characters: a token and what is added to it must fit in a file name."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}(\.[A-Za-z0-9_-]{1,63})*")


_LIFE = re.compile(r".*\.[0-9a-z]{8}\.[0-9a-z]{8}", re.DOTALL)


def token(name: str, boot: str, chance: str) -> str:
    """Return the name of one life: node, boot and chance, so that no two lives ever share one."""
    return f"{name}.{boot[:8]:0<8}.{chance[:8]:0<8}"


def origin(token: str) -> str:
    """Return node and boot of a life: within one, what its files say of processes is exact."""
    return token.rpartition(".")[0]


def boot_of(token: str) -> str:
    """Return the start of the id of the boot that a life belongs to."""
    return origin(token).rpartition(".")[2]


def is_token(text: str) -> bool:
    """Tell whether a text can name a life; others may put things beside them."""
    return _LIFE.fullmatch(text) is not None and is_name(name_of(text))


def name_of(token: str) -> str:
    """Return the name of the node whose life a token names."""
    return origin(token).rpartition(".")[0]


def is_name(text: str) -> bool:
    """Tell whether a text can name a node.

    A node's name is part of file names and of lines that people read.
    """
    return len(text) <= LONGEST_NAME and _NAME.fullmatch(text) is not None
