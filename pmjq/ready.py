"""What was seen of an entry of the spool -> what it is, and when it may be run.

Two looks. ``standing`` needs only an lstat, so a hundred thousand entries cost a hundred thousand
lstats and no more: what kind of thing it is, whose it is, whether it is held. ``settled`` needs
the entry opened and is asked only about the head of the queue: has its writer finished?

The kernel answers that on a local file system: a read lease is refused while anybody has the file
open for writing. Elsewhere nothing tells, and what is seen must stay the same for a while, on
this machine's own clock. pmjq-spool(5) has the measurements. An entry is never run half-written;
one that is not ready now is looked at again; and whatever is not run has a reason.

Pure: observations are arguments.
"""

from __future__ import annotations

import stat as modes
from dataclasses import dataclass
from enum import StrEnum
from string import ascii_lowercase
from typing import NamedTuple, Protocol

INFO_FILES = ("job.toml", "proc_config.cfg", "proc_config.xml", "infos.xml")
"""A directory is a job if one of these lies in it; the first that is there counts."""


class Stat(Protocol):
    """The part of ``os.stat_result`` that decisions use."""

    @property
    def st_mode(self) -> int:
        """Type and permissions."""

    @property
    def st_ino(self) -> int:
        """The inode's number."""

    @property
    def st_dev(self) -> int:
        """The file system's number."""

    @property
    def st_nlink(self) -> int:
        """How many hard links."""

    @property
    def st_uid(self) -> int:
        """The owner."""

    @property
    def st_gid(self) -> int:
        """The group."""

    @property
    def st_size(self) -> int:
        """Bytes."""

    @property
    def st_mtime_ns(self) -> int:
        """Last change of the content."""

    @property
    def st_ctime_ns(self) -> int:
        """Last change of the inode."""


class Look(NamedTuple):
    """An entry opened and examined.

    ``busy``: somebody has it open for writing; None where the kernel does not tell. ``head``: its
    first bytes, None where it may not be read. Of a directory ``info`` is name and content of its
    info file, and ``inside`` what must stay the same while it is copied, both None if it has none.
    ``odd``: what has the name of an info file and is none. ``listed``: an access control list says
    who may use it, so far as that was asked: of what its group may write.
    """

    stat: Stat
    busy: bool | None
    head: bytes | None
    info: tuple[str, bytes] | None = None
    inside: Inside | None = None
    odd: str = ""
    listed: bool = False


class Inside(NamedTuple):
    """What is in a directory, as far as it tells whether anything changes.

    ``foreign``: the first in it that is another owner's, or that others than its group may write;
    ``grouped``: the first that its group may write, as the directory's.
    """

    entries: int
    size: int
    newest_ns: int
    foreign: str = ""
    grouped: str = ""


class Kind(StrEnum):
    """What an entry is, as far as an lstat tells."""

    QUEUED = "queued"
    HELD = "held"
    INCOMING = "incoming"
    BAD = "bad"
    LEFT = "left"
    DEFERRED = "deferred"
    PASSED_OVER = "passed over"


class Standing(NamedTuple):
    """What an entry is and why.

    ``again``: in how many seconds it is worth another look, if at all.
    """

    kind: Kind
    reason: str = ""
    again: float | None = None


class Print(NamedTuple):
    """What must stay the same for an entry to count as settled."""

    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int


class Judge(Protocol):
    """Whoever knows the users: whose files are run, and which of them others can change."""

    def refusal(self, stat: Stat, *, listed: bool = False, grouped: bool = False) -> str:
        """Return why a file is not run as its owner, empty if it is.

        ``listed``: an access control list says who may write it; ``grouped``: its group may write
        what is in it.
        """


@dataclass(frozen=True, slots=True)
class Rules:
    """What this daemon takes.

    ``uids``: owners whose files it runs, None for anybody's. ``refusal``: why it takes no
    other's. ``settle``, ``settle_moved``: seconds for which an entry must stay the same before it
    is run, the second for one that was renamed or chmodded after its last write.
    ``kernel_tells``: a local file system. ``own``: names of the daemon's own archives.
    ``judge``: each owner's files
    are run as him, if that says nothing against it.
    """

    uids: frozenset[int] | None
    gids: frozenset[int] = frozenset()
    refusal: str = "another owner's file; --accept-owner lets it run"
    settle: float = 0.0
    settle_moved: float = 0.0
    kernel_tells: bool = True
    own: frozenset[str] = frozenset()
    judge: Judge | None = None


PATIENCE_EMPTY = 10.0
"""Seconds an empty executable may stay: long enough for touch, chmod and an editor."""

PATIENCE_LINKED = 2.0
"""Seconds a second link may stay.

Programs that write safely link a file and then remove its first name.
"""

SETTLE_UNTOLD = 3.0
"""Seconds to settle on a local file system where no lease tells.

Either the file system knows no leases, or the file is not ours to lease.
"""

SETTLE_INSIDE = 2.0
"""Seconds for which nothing in a directory may change: nothing tells that its copy is complete."""

MOST_INSIDE = 1_000_000
"""Entries of a directory that are looked at to see whether it is still being copied."""

AGAIN_BUSY = 0.05
"""Seconds until a file that is open for writing is looked at again; nothing tells of its close."""

AGAIN_BUSY_MOST = 2.0

_SUFFIXES = frozenset(
    [*"tmp temp part partial filepart crdownload sig".split(), *(f"sw{x}" for x in ascii_lowercase)]  # noqa: SIM905
)
_NAMES = frozenset(("thumbs.db", "desktop.ini", "__macosx", "lost+found"))

_KINDS = {
    modes.S_IFLNK: "a symbolic link; submit the file itself, for instance with cp -L",
    modes.S_IFIFO: "a FIFO, not an executable file",
    modes.S_IFSOCK: "a socket, not an executable file",
    modes.S_IFCHR: "a device, not an executable file",
    modes.S_IFBLK: "a device, not an executable file",
}

_PLAIN_MODES = 0o170000 | modes.S_ISUID | modes.S_ISGID | modes.S_IXUSR
_PLAIN = Standing(Kind.QUEUED)
HELD = Standing(Kind.HELD, "not executable; chmod +x releases it")
"""What may be released."""

_NO_JOB = Standing(
    Kind.LEFT, "a directory without an info file; it may still be being copied, or be an archive"
)
_NOT_READ = "is no regular file that the daemon may read; put a copy of the file there, and no link"
_TOO_MANY = Standing(
    Kind.LEFT, "a directory with too many files in it; pack them, for instance with tar"
)


def passed_over(name: str) -> bool:
    """Tell whether a name is never a job's: hidden, a signature's, or used by other programs."""
    first, last = name[:1], name[-1:]
    if first == "." or last == "~" or (first == last == "#" and len(name) > 1):
        return True
    _, dot, suffix = name.rpartition(".")
    return bool(dot and suffix.lower() in _SUFFIXES) or name.lower() in _NAMES


def plain(name: str, stat: Stat) -> bool:
    """Tell whether an entry is queued whatever the rules and its age are, in half the time."""
    return (
        stat.st_mode & _PLAIN_MODES == modes.S_IFREG | modes.S_IXUSR
        and stat.st_nlink == 1
        and stat.st_size > 0
        and not passed_over(name)
    )


def standing(name: str, stat: Stat, rules: Rules, age: float) -> Standing:
    """Return what an entry is; ``age`` is for how many seconds it has been seen just so."""
    if name in rules.own:
        return Standing(Kind.PASSED_OVER, "this daemon's archive")
    if passed_over(name):
        what = "a signature's" if name.endswith(".sig") else "hidden or temporary"
        return Standing(Kind.PASSED_OVER, f"{what} name; rename it to submit it")
    if reason := not_ours(stat, rules):
        return Standing(Kind.LEFT, reason)
    mode = stat.st_mode
    if modes.S_ISDIR(mode):
        return _PLAIN if mode & modes.S_IXUSR else HELD
    if not modes.S_ISREG(mode):
        return Standing(Kind.BAD, _KINDS.get(modes.S_IFMT(mode), "not a file"))
    if stat.st_nlink > 1:
        reason = (
            f"has {stat.st_nlink} hard links, so it can change under another name; submit a copy"
        )
        return _in_patience(PATIENCE_LINKED, age, reason)
    if mode & (modes.S_ISUID | modes.S_ISGID):
        return Standing(Kind.BAD, "is set-user-id or set-group-id; chmod ug-s and submit it again")
    if not mode & modes.S_IXUSR:
        return HELD
    if stat.st_size == 0:
        return _in_patience(
            max(PATIENCE_EMPTY, rules.settle), age, "is empty; there is nothing to run"
        )
    return _PLAIN


def not_ours(stat: Stat, rules: Rules) -> str:
    """Return why a file is not this daemon's to run, empty if it is: by its owner and its mode."""
    if rules.judge is not None:
        return rules.judge.refusal(stat)
    if rules.uids is not None and stat.st_uid not in rules.uids and stat.st_gid not in rules.gids:
        return rules.refusal
    return ""


def exposed(stat: Stat) -> bool:
    """Tell whether somebody else than its owner and root may write something."""
    others = modes.S_IWOTH if stat.st_gid == 0 else modes.S_IWGRP | modes.S_IWOTH
    return bool(stat.st_mode & others)


def settled(look: Look, rules: Rules, age: float) -> Standing:
    """Tell whether an entry's writer has finished; ``age`` as in ``standing``."""
    if look.busy:
        again = min(AGAIN_BUSY_MOST, max(AGAIN_BUSY, age / 4))
        return Standing(Kind.INCOMING, "still open for writing", again)
    if rules.judge is not None:
        reason = rules.judge.refusal(look.stat, listed=look.listed)
        inside = look.inside
        if inside is not None and not reason:
            shared = bool(inside.grouped and rules.judge.refusal(look.stat, grouped=True))
            odd = inside.foreign or (inside.grouped if shared else "")
            reason = f"{odd} in it is another owner's, or others may write it" if odd else ""
        if reason:
            return Standing(Kind.LEFT, reason)
    if modes.S_ISDIR(look.stat.st_mode):
        if look.inside is None and look.odd:
            return Standing(Kind.LEFT, f"a directory whose {look.odd} {_NOT_READ}")
        if look.inside is None:
            return _NO_JOB
        if look.inside.entries >= MOST_INSIDE:
            return _TOO_MANY
    need = _seconds_to_settle(look, rules)
    if age < need:
        return Standing(
            Kind.INCOMING,
            f"must stay unchanged for {need:g} s; a rename into the spool is quicker",
            need - age,
        )
    return _PLAIN


def is_file(stat: Stat) -> bool:
    """Tell whether an entry is a regular file, which may be opened."""
    return modes.S_ISREG(stat.st_mode)


def is_request(stat: Stat, size: int) -> bool:
    """Tell whether a file of a size may be its owner's request: his, and no other's second name."""
    alone = stat.st_nlink == 1 and not stat.st_mode & (modes.S_IWGRP | modes.S_IWOTH)
    return modes.S_ISREG(stat.st_mode) and alone and stat.st_size == size


def is_directory(stat: Stat) -> bool:
    """Tell whether an entry is a directory."""
    return modes.S_ISDIR(stat.st_mode)


def bad(reason: str) -> Standing:
    """Return the standing of an entry that can never be run."""
    return Standing(Kind.BAD, reason)


def print_of(stat: Stat) -> Print:
    """Return what must stay the same for an entry to count as settled."""
    return Print(stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


def unchanged(before: Stat, after: Stat) -> bool:
    """Tell whether two looks, before and after the claim, saw one and the same file.

    Not by ctime: a rename changes it on most file systems.
    """
    return (
        before.st_ino == after.st_ino
        and before.st_mode == after.st_mode
        and before.st_uid == after.st_uid
        and before.st_size == after.st_size
        and before.st_mtime_ns == after.st_mtime_ns
        and before.st_nlink == after.st_nlink
    )


def _seconds_to_settle(look: Look, rules: Rules) -> float:
    if look.inside is not None:
        return max(rules.settle, SETTLE_INSIDE)
    if rules.kernel_tells:
        return rules.settle if look.busy is False else max(rules.settle, SETTLE_UNTOLD)
    moved = look.stat.st_ctime_ns > look.stat.st_mtime_ns
    return rules.settle_moved if moved else rules.settle


def _in_patience(patience: float, age: float, reason: str) -> Standing:
    if age >= patience:
        return Standing(Kind.BAD, reason)
    return Standing(Kind.INCOMING, reason, patience - age)
