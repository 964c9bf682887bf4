"""The outside things of one life of a node, in one place, and how long to leave alone what failed.

Everything that a turn touches or asks is here and was handed in: the spool, the processes, the
archive, the log, two clocks and the look at the machine.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from pmjq import infofile, naming
from pmjq.confines import Tree
from pmjq.lease import LEASE
from pmjq.packing import Capacity

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from pmjq.directives import Refusal
    from pmjq.filing import Filing
    from pmjq.gates import Limits
    from pmjq.job import Record, Spec
    from pmjq.node import Machine, Reading
    from pmjq.post import Post
    from pmjq.process import Key, Order, Report
    from pmjq.ready import Look, Rules
    from pmjq.signers import Refused
    from pmjq.spool import Spool

FIRST_PAUSE = 0.25
LONGEST_PAUSE = 30.0
"""Seconds between tries of what failed: doubled each time, from the first to the longest."""


class Logger(Protocol):
    """The part of a structlog logger that is used: an event with keys."""

    def info(self, event: str, **keys: object) -> object:
        """Log what is as it should be."""

    def warning(self, event: str, **keys: object) -> object:
        """Log what somebody may want to look after."""

    def error(self, event: str, **keys: object) -> object:
        """Log what keeps the daemon from its work."""


class Runner(Protocol):
    """What a turn needs of ``pmjq.process.Processes``; tests have a double of it."""

    def start(self, now: list[Order], line: list[Order], most: int) -> None:
        """Hand attempts over to be executed, now or when fewer than ``most`` run."""

    def recall(self) -> None:
        """Have nothing more of the line started."""

    def go_on_beating(self, path: str, count: int, every: float) -> None:
        """Have the heartbeat go on without the daemon, while its jobs run."""

    def reports(self) -> list[Report]:
        """Return what has happened since the last call."""

    def age(self, start: int) -> float:
        """Return for how many seconds a process is there that started then, in ticks."""

    def adopt(self, key: Key, pid: int, start: int, uid: int = 0) -> bool:
        """Watch a process of an earlier life, of that user's job; False if it is gone."""

    def keeps(self, key: Key, pid: int, start: int) -> bool:
        """Tell whether a keeper is still there and may write how an attempt ended."""

    def find(self, job_id: str, uid: int = 0) -> tuple[int, int] | None:
        """Return pid and start time of a job's process, of that user, by its environment."""

    def left(self, jobs: Mapping[str, int]) -> set[str]:
        """Return the jobs of whose trees a process is left."""

    def signal(self, jobs: Mapping[str, int], number: int, limits: Mapping[str, str]) -> None:
        """Send a signal to the trees of jobs; ``limits``: which of its own a job is over."""


class Person(Protocol):
    """What a login gives; ``pmjq.account.Login``."""

    @property
    def gid(self) -> int:
        """His group."""

    @property
    def environment(self) -> dict[str, str]:
        """His variables."""

    def terms(self, *, private: bool, confined: bool) -> dict[str, Any]:
        """Return the terms of an order by which a job becomes his (``pmjq.becoming``)."""


class Logins(Protocol):
    """Whoever knows what a login gives a user."""

    def signer(self, name: str) -> int:
        """Return as whom a signer's jobs run; PermissionError tells why as nobody."""

    def login(self, uid: int) -> Person:
        """Return it; PermissionError: he may not log in, BlockingIOError: that is not known yet."""

    def group(self, uid: int) -> int | None:
        """Return the group that is a user's alone, None if there is none."""


class Verifier(Protocol):
    """Whoever knows whose a signature is; ``pmjq.signers.Signers``."""

    def trouble(self) -> str:
        """Return why nothing can be verified for now, empty if it can."""

    def verified(self, text: bytes, signature: bytes) -> str | Refused:
        """Return who signed a text, or why that does not count; OSError: not known now."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What the person asked for, and what this node is.

    ``poll``: seconds between two listings of the spool; None: as the file system needs it.
    ``cpus`` and ``memory`` (bytes) are what one job may have at most; None: not known.
    ``capacity`` is what all have together, ``gpus`` how many GPUs are among that, and ``tree`` the
    control group in which they have their own. ``confined``: jobs of other users get no more rights
    than these have.
    ``hooks``: on which occasions this node calls one for the whole spool, and when it last did.
    """

    node: str
    machine: Machine
    limits: Limits
    rules: Rules
    grace: float = 10.0
    lease: float = LEASE
    poll: float | None = None
    cpus: int | None = None
    memory: int | None = None
    capacity: Capacity = field(default_factory=Capacity)
    tree: Tree = field(default_factory=Tree)
    environment: dict[str, str] = field(default_factory=dict)
    confined: bool = True
    hooks: Mapping[str, datetime | None] = field(default_factory=dict)

    @property
    def gpus(self) -> int:
        """Return how many GPUs one job may have at most."""
        return len(self.capacity.gpus)


@dataclass(slots=True)
class _Pause:
    until: float = 0.0
    length: float = 0.0
    reason: str = ""
    said: str = ""


class Pauses:
    """What failed is left alone for a while, longer each time.

    Each kind of failure is one line in the log.
    """

    def __init__(self, now: Callable[[], float], log: Logger) -> None:
        """Nothing has failed yet."""
        self._now = now
        self._log = log
        self._by_name: dict[str, _Pause] = {}

    def until(self, name: str) -> float:
        """Return the time before which something is not to be tried again."""
        pause = self._by_name.get(name)
        return pause.until if pause else 0.0

    def ends(self, now: float) -> list[float]:
        """Return when the pauses end that have not."""
        return [pause.until for pause in self._by_name.values() if pause.until > now]

    def failed(self, name: str, error: OSError) -> None:
        """Take note of a failure; several in one pause, as of all jobs of a turn, are one."""
        now, pause = self._now(), self._by_name.setdefault(name, _Pause())
        if pause.until <= now:
            pause.length = min(LONGEST_PAUSE, pause.length * 2 or FIRST_PAUSE)
            pause.until = now + pause.length
        pause.reason = error.strerror or str(error)
        kind = str(error.errno or error)
        if kind != pause.said:
            pause.said = kind
            self._log.error(
                f"{name}.failed",
                reason=pause.reason,
                path=naming.shown(str(error.filename or "")),
                again_in=pause.length,
            )

    def reasons(self) -> str:
        """Return what fails at present, and why."""
        return "; ".join(f"{name}: {pause.reason}" for name, pause in self._by_name.items())

    def worked(self, name: str) -> None:
        """Take note of a success."""
        if name in self._by_name:
            del self._by_name[name]
            self._log.info(f"{name}.works_again")


class Outside:
    """Everything outside of one life of a node."""

    def __init__(
        self,
        settings: Settings,
        spool: Spool,
        filing: Filing,
        processes: Runner,
        log: Logger,
        now: Callable[[], float],
        wall: Callable[[], float],
        reading: Callable[[], Reading],
        owner: Callable[[int], str] = str,
        silent: Callable[[], float] = float,
        filed: Callable[[Record, str], None] | None = None,
        logins: Logins | None = None,
        asked: Callable[[Look], Spec | Refusal] = infofile.asked,
        post: Post | None = None,
        signers: Verifier | None = None,
    ) -> None:
        """Take what is handed in.

        ``now`` is monotonic, ``wall`` the time of day, both in seconds. ``silent`` tells for how
        many seconds this life's beat has not got through. ``filed`` hears of each job that was
        filed, and in which spool. ``logins``: each job is run as its owner, and not as this user.
        ``asked`` makes out what a job asks for. ``post`` has the letters about jobs. ``signers``:
        no job is run but theirs.
        """
        self.settings = settings
        self.spool = spool
        self.filing = filing
        self.processes = processes
        self.log = log
        self.now = now
        self.wall = wall
        self.reading = reading
        self.owner = owner
        self.silent = silent
        self.filed = filed
        self.logins = logins
        self.asked = asked
        self.post = post
        self.signers = signers
        self.pauses = Pauses(now, log)
