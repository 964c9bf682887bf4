"""The spool: its identity, its entries, its lives, and every transition of the table.

With the modules it stands on, from ``tree`` to ``letters``, it alone knows the paths below SPOOL.
Every transition of the table is one method here and commits with one call. The job file is the
baton: it is in exactly one place, whoever renames it to a name of its own has it, and whoever
comes too late gets an error and publishes nothing. That is all that holds on every file system
that was measured.

A ``Spool`` acts for one life of one node (its token).
"""

from __future__ import annotations

import contextlib
import errno
import re
import stat as modes
import uuid as uuids
from itertools import count
from typing import TYPE_CHECKING

import msgspec

from pmjq import naming, node
from pmjq.errors import ConfigurationError, NotFoundError
from pmjq.job import FIRST, FORMAT, Again, Attempt, Record, Signed
from pmjq.letters import Letters
from pmjq.naming import HIDDEN, OWN, SUBMITTED
from pmjq.node import Life
from pmjq.paperwork import Paperwork, executable_name
from pmjq.requests import ANYBODY_ASKS, Requests
from pmjq.sealed import Sealed
from pmjq.state import State

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pmjq.disk import Disk
    from pmjq.ready import Look, Stat

_UNDER_CONSTRUCTION = re.compile(
    rf"{re.escape(OWN)}\.[0-9a-f]{{8}}(-[0-9a-f]{{4}}){{3}}-[0-9a-f]{{12}}"
)

DIRECTORIES = ("tmp", "node", "job", "ended", "events", "done", "again", "tried", "signed")
"""What lies in the spool's own tree beside its identity."""

SECRET = ("tmp", "events")
"""What others have nothing to look for in, where jobs are told of to their owners alone."""

OTHERS = modes.S_IWGRP | modes.S_IWOTH

BURIALS = 10
"""How often the last jobs of a life that is buried are looked for, which may still claim some."""


class Identity(msgspec.Struct, frozen=True):
    """The content of ``spool.json``."""

    format: int
    uuid: str


ODD = frozenset(
    {errno.EACCES, errno.EBUSY, errno.EEXIST, errno.EISDIR, errno.ENOTDIR, errno.ENOTEMPTY}
)
"""Errors of a rename in ``ask/`` that somebody brings about by directories or mounts of his."""


class Spool(Paperwork, Requests, Letters, Sealed):
    """One spool as one life of a node sees it."""

    _identity = b""
    uuid = ""
    """Who this spool is, once that was read."""

    def __init__(self, disk: Disk, root: str, token: str = "", *, local: bool = True) -> None:
        """Name the tree; nothing is touched."""
        super().__init__(disk, root, token, local=local)
        self._recorded: set[str] = set()
        self._as_made_here: Stat | None = None

    # -- the spool itself

    def prepare(self, uuid: str) -> Identity:
        """Make the spool's own tree if there is none, and return its identity.

        It is built beside its name and renamed, so of several daemons that start at once one
        makes it, and nobody sees half of it. Raises ConfigurationError for a format that is not
        this one, and for a tree that somebody else may write: whoever can put a claimed job there
        has it run as this user.
        """
        if self.disk.stat(self.root) is None:
            raise NotFoundError(
                f"{naming.shown(self.root)}: no such directory; make it or mount it"
            )
        if self.disk.stat(self.own) is None:
            self._build(uuid)
        identity = self.identify()
        for path in self._directories():
            self._refuse_foreign(path)
        # Now that it is there, what others build is left over or about to be. Somebody else's would
        # be a trap: he can have a link in the place of a directory while it is being removed.
        for name in self.disk.names(self.root):
            path = f"{self.root}/{name}"
            stat = self.stat(name) if _UNDER_CONSTRUCTION.fullmatch(name) else None
            if stat is not None and self._is_ours(stat):
                self.remove(path)
        for name in DIRECTORIES:
            if self.disk.stat(f"{self.own}/{name}") is None:
                self._mkdir(f"{self.own}/{name}")
        for name in SECRET if self.private else ():
            self.disk.chmod(f"{self.own}/{name}", 0o700)
        return identity

    def identify(self, *, to_look: bool = False) -> Identity:
        """Read who this spool is, and remember it for ``present``.

        ``to_look``: for somebody who runs nothing, whoever else may write there.
        """
        self.looking = to_look
        if not to_look:
            self._refuse_foreign(self.own)
        path = f"{self.own}/spool.json"
        text = self.disk.read(path)
        if text is None:
            raise ConfigurationError(
                f"{naming.shown(path)}: missing, so this is not a spool of pmjq; "
                f"if nothing runs here, remove {OWN}"
            )
        try:
            identity = msgspec.json.decode(text, type=Identity)
        except msgspec.DecodeError as error:
            raise ConfigurationError(
                f"{naming.shown(path)}: cannot be understood: {error}"
            ) from error
        if identity.format != FORMAT:
            raise ConfigurationError(
                f"{naming.shown(path)}: the spool has format {identity.format}, "
                f"this pmjq knows format {FORMAT}"
            )
        self._identity, self.uuid = text, identity.uuid
        return identity

    def present(self) -> bool:
        """Tell whether this is still the spool that was there at the start.

        A share may be unmounted; and where there is no sticky bit, whoever may write the spool may
        put another tree in the place of this one.
        """
        if not self.looking and self._foreign(self.own):
            return False
        return self.disk.read(f"{self.own}/spool.json") == self._identity

    def names(self) -> list[str]:
        """Return the names of all entries, jobs or not."""
        return [name for name in self.disk.names(self.root) if name != OWN]

    def entries(self) -> list[str]:
        """Return the same, none where they are not for somebody who looks."""
        return [name for name in self._list(self.root) if name != OWN]

    def baton_stat(self, token: str, job_id: str) -> Stat | None:
        """Return the lstat of a job that some life has, None if it has it no more."""
        return self.disk.stat(f"{self.own}/node/{token}/run/{job_id}")

    def stats(self) -> Iterator[tuple[str, Stat]]:
        """Return the names of all entries, also ``OWN``, and what an lstat tells of each."""
        return self.disk.stats(self.root)

    def stat(self, name: str) -> Stat | None:
        """Return what an lstat of an entry tells, None if it is gone, or of another file system."""
        return self.disk.stat_inside(self.root, name)

    def searchable(self, name: str) -> bool:
        """Tell whether this user may look into an entry that is a directory."""
        return self.disk.searchable(f"{self.root}/{name}")

    def changed(self) -> int:
        """Return when the list of entries last changed, in ns of the file system's clock."""
        stat = self.disk.stat(self.root)
        return stat.st_mtime_ns if stat else 0

    def rights(self) -> tuple[int, ...]:
        """Return what decides who may move entries: mode and owners of the directory."""
        stat = self.disk.stat(self.root)
        return (stat.st_mode, stat.st_uid, stat.st_gid) if stat else ()

    def look(self, name: str) -> Look | None:
        """Open and examine an entry, None if it is gone."""
        return self.disk.look(f"{self.root}/{name}")

    def peek(self, name: str) -> Look | None:
        """Open an entry for what it asks for, complete or not; None if it is gone."""
        return self.disk.peek(f"{self.root}/{name}")

    # -- transitions

    def claim(self, attempt: Attempt) -> bool:
        """Move a queued job to this node.

        False: somebody else has it, or its owner withdrew it.
        """
        name = naming.real_name(attempt.name, attempt.name_hex)
        return self._moved(f"{self.root}/{name}", f"{self._run}/{attempt.id}")

    def claimed(self, attempt: Attempt) -> Look | None:
        """Open and examine the job that was claimed."""
        return self.disk.look(f"{self._run}/{attempt.id}")

    def claimed_stat(self, attempt: Attempt) -> Stat | None:
        """Return the lstat of the job that was claimed."""
        return self.disk.stat(f"{self._run}/{attempt.id}")

    def sync_claims(self) -> None:
        """Make the claims of this life durable.

        A job must not be back in the queue after a power cut.
        """
        self.disk.sync(self._run)

    def give_back(self, attempt: Attempt, again: Again = FIRST) -> str | None:
        """Return a job to the queue and remove its paperwork.

        Returns the name it got, None if this life was fenced. Where another job has come to its
        name meanwhile, a number is added. ``again``: what its next attempt is to know.
        """
        name = naming.real_name(attempt.name, attempt.name_hex)
        baton = f"{self._run}/{attempt.id}"
        self.disk.unlink(f"{self._job}/{attempt.id}/{executable_name(name)}")
        told = again.attempt > 1 or bool(again.earlier)
        stat = self.disk.stat(baton) if told or attempt.signed is not None else None
        if stat is not None and told:
            self.keep_output(attempt, again)
        if attempt.id not in {one.id for one in again.earlier}:
            self.unmark(attempt)
        for number in count(1):
            free = _numbered(name, number)
            if stat is not None and self._is_taken(free):
                # What is remembered of the job that has the name stays.
                continue
            if attempt.signed is not None:
                if not self.put_signature(attempt, free):
                    continue
                again = _signed_as(again, attempt.signed, free)
            remembered = stat is not None and (told or bool(again.signed_as))
            try:
                if stat is not None and remembered:
                    self.remember(free, stat, again)
                self.disk.rename_new(baton, f"{self.root}/{free}")
                break
            except FileExistsError:
                if remembered:
                    self.forget(free)
                if attempt.signed is not None:
                    self.drop_signature(free)
            except OSError:
                if not self._gone(baton):
                    raise
                if not self._there(f"{self.root}/{free}"):
                    return None
                break
        self.clear(attempt.id, attempt.attempt, name)
        return free

    def _is_taken(self, name: str) -> bool:
        """Tell whether there is an entry of this name, be it one that cannot be looked at."""
        try:
            return self.disk.stat(f"{self.root}/{name}") is not None
        except OSError as error:
            if self.disk.is_shut(error, self.root):
                return True
            raise

    def end(self, record: Record) -> bool:
        """Move a job whose outcome is durable to ``ended/``.

        False: this life was fenced, and the record is void.
        """
        try:
            # A record that is there stays as it is: a later version may have written more.
            if record.id not in self._recorded:
                self._write_outcome(record)
        except FileNotFoundError:
            # Its paperwork is gone: with the job, or alone, by a burial that was interrupted.
            if self._gone(f"{self._run}/{record.id}"):
                return False
            self._make_papers(record)
            self._begin_private(self.claim_path(record), record.uid)
            self._write_outcome(record)
        return self._moved(f"{self._run}/{record.id}", self.ended_path(record))

    def _write_outcome(self, record: Record) -> None:
        if record.state is State.REJECTED:
            text = f"pmjq: {record.name}: {record.reason}\n"
            self._begin_private(self.out_path(record), record.uid)
            self.disk.write(self.out_path(record), text.encode())
        # The claim has served: its file becomes the record, since making a file costs more than all
        # else here. If only half of that happens, the event tells the rest.
        claim = self.claim_path(record)
        self.disk.write(claim, msgspec.json.encode(record) + b"\n")
        self._keep_private(claim, record.uid)
        self.disk.rename(claim, self.record_path(record))

    def take_over(self, other: str, job_id: str) -> bool:
        """Move a job of a dead life to this one; False if somebody else has it."""
        return self._moved(f"{self.own}/node/{other}/run/{job_id}", f"{self._run}/{job_id}")

    def take_ended(self, record: Record, *, told: bool = True) -> bool:
        """Move an ended job of a dead node to this one; False if somebody else has it.

        ``told``: its outcome is durable, so its record stays as it is.
        """
        if not self._moved(self.ended_path(record), f"{self._run}/{record.id}"):
            return False
        if told:
            self._recorded.add(record.id)
        return True

    def ended_before(self, job_id: str) -> bool:
        """Tell whether a job of this life had ended already, with all that belongs to that."""
        return job_id in self._recorded

    # -- lives

    def begin(self) -> None:
        """Make the directories of this life."""
        for path in ("", "/run", "/ask"):
            self._mkdir(f"{self.own}/node/{self.token}{path}")
        if self.open_to_requests:
            self.disk.chmod(f"{self.own}/node/{self.token}/ask", ANYBODY_ASKS)
        self.disk.write(self.beat_path(), b"0".zfill(20) + b"\n")

    def beat_path(self) -> str:
        """Return the path of this life's beat."""
        return f"{self.own}/node/{self.token}/beat"

    def beat(self, token: str) -> bytes | None:
        """Return the beat of a life, None if it is gone."""
        return self.disk.read(f"{self.own}/node/{token}/beat")

    def publish(self, life: msgspec.Struct) -> None:
        """Replace this life's ``node.json``."""
        path = f"{self.own}/node/{self.token}/node.json"
        self.disk.write(f"{path}.part", msgspec.json.format(msgspec.json.encode(life)) + b"\n")
        self.disk.rename(f"{path}.part", path)

    def tokens(self) -> list[str]:
        """Return who lives or lived here."""
        return [name for name in self.disk.names(f"{self.own}/node") if node.is_token(name)]

    def lives(self) -> dict[str, Life | None]:
        """Return who lives or lived here, by token; None where the life's record cannot be read."""
        return {token: self.life(token) for token in self.tokens()}

    def bury(self, token: str) -> list[str]:
        """Take over what a dead life has, remove the life, and return the ids that were taken over.

        Its beat goes first, so that it notices; its ``run/`` last of what matters: into a removed
        directory nothing can be renamed, which is the one fence that holds everywhere. Until then
        the life, if it is not dead after all, may still put jobs there. Of several that bury, each
        job goes to one. OSError: not buried yet; what was taken over by then is in ``run/``.
        """
        base = f"{self.own}/node/{token}"
        self.disk.unlink(f"{base}/beat")
        taken: list[str] = []
        for _ in range(BURIALS):
            for name in self._list(f"{base}/run"):
                self._keep_from_starting(token, name)
                if self.take_over(token, name):
                    taken.append(name)
            if self.disk.rmdir(f"{base}/run"):
                break
        else:
            raise OSError(errno.ENOTEMPTY, "jobs still come into it", f"{base}/run")
        for name in self._list(f"{base}/ask"):
            # What it was asked for, its heir is: the jobs are his.
            try:
                self._moved(f"{base}/ask/{name}", f"{self.own}/node/{self.token}/ask/{name}")
            except OSError as error:
                if error.errno not in ODD:
                    raise
        # Those that cannot be moved now are in what is left of the life, which is buried again.
        kept = {"run"} if self.take_letters(token) else {"run", "mail"}
        for name in self._list(self._tmp):
            if name.startswith(f"{token}."):
                self.remove(f"{self._tmp}/{name}")
        # What cannot be removed is somebody's mount, in there: not a part of the life any more.
        with contextlib.suppress(OSError):
            away = self._new_tmp()
            self.disk.rename(f"{base}/ask", away)
            self.remove(away)
        for name in self._list(base):
            if name not in kept:
                self.remove(f"{base}/{name}")
        # Not as a tree: should a job be in it after all, however that was overlooked, it stays.
        if not self.disk.rmdir(base) and self.disk.stat(f"{base}/run") is not None:
            raise OSError(errno.ENOTEMPTY, "jobs are still in it", f"{base}/run")
        return taken

    def _keep_from_starting(self, token: str, job_id: str) -> None:
        """Have an order of a dead life come too late that is still under way to another keeper.

        Of a job that is to run again: it would run beside itself. Of the lives of this boot the
        keepers are heard.
        """
        if node.origin(token) == node.origin(self.token):
            return
        attempt = self.attempt(job_id)
        if attempt is not None and attempt.spec.restartable:
            with contextlib.suppress(OSError):
                self.void(attempt)

    def withdraw(self, record: Record) -> bool:
        """Move a queued job that is cancelled to ``ended/``; its record is there already.

        False: a node has claimed it, or its owner has removed it.
        """
        name = naming.real_name(record.name, record.name_hex)
        return self._moved(f"{self.root}/{name}", self.ended_path(record))

    def may_construct(self) -> bool:
        """Tell whether this user may make paperwork."""
        return self.disk.writable(self._tmp)

    def abandoned(self, seconds: float) -> list[str]:
        """Return the paths of what nobody has needed for so long.

        What people's commands left under construction, and what is remembered of jobs that are not
        in the queue.
        """
        there = self.names()
        found = [
            f"{self._tmp}/{name}" for name in self._list(self._tmp) if name.startswith(SUBMITTED)
        ]
        found += [f"{self.root}/{name}" for name in there if name.startswith(HIDDEN)]
        found += [f"{self._again}/{name}" for name in {*self.again_names()}.difference(there)]
        tried = self.tried()
        if tried:
            kept = {again.earlier[-1].id for again in self.agains() if again.earlier}
            found += [self.tried_path(job_id) for job_id in {*tried} - kept]
        return [path for path in found if self._old(path, seconds)]

    def old(self, job_id: str, seconds: float) -> bool:
        """Tell whether nothing in the paperwork of a job has changed for so long."""
        return self._old(f"{self._job}/{job_id}", seconds)

    def _old(self, path: str, seconds: float) -> bool:
        """Tell whether something of this user's is so old, by the file server's clock."""
        directory, _, name = path.rpartition("/")
        stat, now = self.disk.stat_inside(directory, name), self.disk.stat(self.beat_path())
        if stat is None or now is None or not self._is_ours(stat):
            return False
        return now.st_mtime_ns - stat.st_ctime_ns > seconds * 1e9

    def batons(self) -> set[str]:
        """Return the ids of the jobs that any life of any node has."""
        lives = self._list(f"{self.own}/node")
        return {name for token in lives for name in self._list(f"{self.own}/node/{token}/run")}

    def beating(self) -> dict[str, Life]:
        """Return the other lives whose last beat is within their lease, by the server's clock.

        One that has just begun is among them, which ``lease.Silence`` hears of at its next look.
        FileNotFoundError: this life has none, so it has been buried.
        """
        now, found = self.disk.stat(self.beat_path()), {}
        if now is None:
            raise FileNotFoundError(errno.ENOENT, "this life has no beat", self.beat_path())
        for token in set(self.tokens()) - {self.token}:
            beat = self.disk.stat(f"{self.own}/node/{token}/beat")
            life = self.life(token) if beat is not None else None
            if beat and life and now.st_mtime - beat.st_mtime < life.lease:
                found[token] = life
        return found

    def quiet_for(self, wall: float) -> float:
        """Return for how many seconds no node has had a job, or 0: since one was claimed or ended.

        Or since a node has begun, which is the same to who asks only for what goes on for long.
        ``wall``: the time of day. Of a file server's clock the last beat tells: of some seconds
        nothing is known then.
        """
        if self.batons():
            return 0.0
        runs = [f"{self.own}/node/{token}/run" for token in self.tokens()]
        beat = None if self.local else self.disk.stat(self.beat_path())
        now = beat.st_mtime if beat else wall
        moved = [stat.st_mtime for run in runs if (stat := self.disk.stat(run)) is not None]
        return max(0.0, now - max(moved, default=0.0))

    def running(self) -> list[str]:
        """Return the ids of the jobs that this life has."""
        return self.disk.names(self._run)

    def run_of(self, token: str) -> list[str]:
        """Return the ids of the jobs that some life has."""
        return [name for name in self._list(f"{self.own}/node/{token}/run") if naming.is_id(name)]

    # -- below

    def _directories(self) -> list[str]:
        """Return the directories in which a file is a job, or tells what becomes of one."""
        lives = [f"{self.own}/node/{token}" for token in self._list(f"{self.own}/node")]
        lives = [path for path in lives if node.is_token(path.rpartition("/")[2])]
        own = [f"{self.own}/{name}" for name in DIRECTORIES]
        return [*own, *lives, *(f"{path}/run" for path in lives)]

    def _refuse_foreign(self, path: str) -> None:
        if reason := self._foreign(path):
            raise ConfigurationError(f"{naming.shown(path)}: {reason}")

    def _foreign(self, path: str) -> str:
        """Return why somebody else may write a directory of the tree, empty if nobody may.

        Also if nothing is seen of it, which a cache may keep up for a while. A share that maps
        users, or that shows modes of its own, shows what is made here in the same way.
        """
        stat = self.disk.stat(path)
        if stat is None:
            return ""
        if not modes.S_ISDIR(stat.st_mode):
            return "is not a directory, so it was not made by pmjq; remove it"
        user, own = self.disk.user(), naming.shown(self.own)
        if not self._is_ours(stat):
            return (
                f"belongs to user {stat.st_uid}, who could have programs run as user {user}; "
                f"start pmjq as that user, or remove {own}"
            )
        if stat.st_mode & OTHERS and stat.st_mode & OTHERS & ~self._made_here().st_mode:
            return (
                f"others than its owner may write it, and could have programs run as user {user}; "
                f"look at what is in it, then chmod -R go-w {own}"
            )
        return ""

    def _is_ours(self, stat: Stat) -> bool:
        user = self.disk.user()
        if stat.st_uid in (user, 0):
            return True
        # Root trusts nobody else: whoever root is mapped to by a share is somebody on this machine.
        return user != 0 and stat.st_uid == self._made_here().st_uid

    def _made_here(self) -> Stat:
        """Return what is told of a file made in this spool."""
        if self._as_made_here is None:
            self._as_made_here = self.disk.made(f"{self.root}/{OWN}.{uuids.uuid4()}")
        return self._as_made_here

    def _build(self, uuid: str) -> None:
        building = f"{self.root}/{OWN}.{uuid}"
        try:
            self.disk.mkdir(building)
            for name in DIRECTORIES:
                self.disk.mkdir(f"{building}/{name}")
            identity = msgspec.json.encode(Identity(FORMAT, uuid)) + b"\n"
            self.disk.write(f"{building}/spool.json", identity)
            self.disk.sync(f"{building}/spool.json")
            self.disk.rename(building, self.own)
        except OSError:
            # Another daemon was quicker, and has cleared ours away; or the disk is full, and each
            # try would leave another one.
            with contextlib.suppress(OSError):
                self.remove(building)
            if self.disk.stat(f"{self.own}/spool.json") is None:
                raise

    def life(self, token: str) -> Life | None:
        """Return what a life says of itself, None where that cannot be read."""
        life = self._decode(f"{self.own}/node/{token}/node.json", Life)
        return life if life is not None and life.format == FORMAT else None

    def unknown_life(self, token: str) -> int:
        """Return the format of a life that is of none that is known here, else 0."""
        return self.unknown(f"{self.own}/node/{token}/node.json")


def _signed_as(again: Again, signed: Signed, free: str) -> Again:
    """Return what is to be known of a signed job that goes back to the queue under some name."""
    same = naming.real_name(signed.name, signed.name_hex) == free
    name, exact = ("", "") if same else (signed.name, signed.name_hex)
    return msgspec.structs.replace(again, signed_as=name, signed_as_hex=exact)


def _numbered(name: str, number: int) -> str:
    if number == 1:
        return name
    suffix = f".{number}"
    return naming.shortened(name, naming.NAME_MAX - len(suffix)) + suffix
