"""The tree below SPOOL: the only module that knows its paths.

Every transition of the table is one method here and commits with one call. The job file is the
baton: it is in exactly one place, whoever renames it to a name of its own has it, and whoever
comes too late gets an error and publishes nothing. That is all that holds on every file system
that was measured.

After a rename that failed or was interrupted nothing is believed: ``_moved`` looks where the file
is. The error's number is never branched on, since a lost race, a lost reply and a full disk
report what they like.

A ``Spool`` acts for one life of one node (its token). Paperwork is made under ``tmp/`` and
renamed into ``job/`` complete, so what a crash leaves there carries the token of its maker and
can be cleared away by its node.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import msgspec

from pmjq import job
from pmjq.errors import ConfigurationError, NotFoundError
from pmjq.job import FORMAT, Attempt, Event, Record, Status
from pmjq.node import Life
from pmjq.state import State

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pmjq.disk import Disk
    from pmjq.ready import Look, Stat

T = TypeVar("T")

OWN = ".pmjq"
"""The one name in the spool that is pmjq's."""

EVENTS_READ = 64 << 20
"""Bytes read from the end of each file of events when a record is missed: outcomes of the last 80,000 jobs."""

MOST_SPARE = 64
"""How many empty directories of archived jobs are kept for the next ones."""

VOID = b"void\n"
"""Content of a status file that was made to keep an attempt from ever starting."""

_PAPERWORK = re.compile(r"(claim|out|status|record)\.\d+(\.json)?\Z|work\Z|executable\Z")


class Identity(msgspec.Struct, frozen=True):
    """The content of ``spool.json``."""

    format: int
    uuid: str


class Places(NamedTuple):
    """Where one attempt runs and writes."""

    executable: str
    work: str
    out: str
    status: str


class Spool:
    """One spool as one life of a node sees it."""

    def __init__(self, disk: Disk, root: str, token: str = "", *, local: bool = True) -> None:
        """Name the tree; nothing is touched. ``local``: an lstat tells the truth here."""
        self.disk = disk
        self.root = root
        self.token = token
        self.local = local
        self.own = f"{root}/{OWN}"
        self._job = f"{self.own}/job"
        self._ended = f"{self.own}/ended"
        self._run = f"{self.own}/node/{token}/run"
        self._events = f"{self.own}/events/{token}.jsonl"
        self._written = 0
        self._built = 0
        self._made_mode = 0
        self._spares: list[str] = []
        self._identity = b""

    # -- the spool itself

    def prepare(self, uuid: str) -> Identity:
        """Make the spool's own tree if there is none, and return its identity.

        It is built beside its name and renamed, so of several daemons that start at once one
        makes it, and nobody sees half of it. Raises ConfigurationError for a format that is not
        this one.
        """
        if self.disk.stat(self.root) is None:
            raise NotFoundError(f"{job.shown(self.root)}: no such directory; make it or mount it")
        for name in self.disk.names(self.root):
            if name.startswith(f"{OWN}."):
                self.remove(f"{self.root}/{name}")
        if self.disk.stat(self.own) is None:
            self._build(uuid)
        identity = self.identify()
        for name in ("tmp", "node", "job", "ended", "events", "done"):
            if self.disk.stat(f"{self.own}/{name}") is None:
                self._mkdir(f"{self.own}/{name}")
        return identity

    def identify(self) -> Identity:
        """Read who this spool is, and remember it for ``present``."""
        path = f"{self.own}/spool.json"
        text = self.disk.read(path)
        if text is None:
            raise ConfigurationError(
                f"{job.shown(path)}: missing, so this is not a spool of pmjq; if nothing runs here, remove {OWN}"
            )
        try:
            identity = msgspec.json.decode(text, type=Identity)
        except msgspec.DecodeError as error:
            raise ConfigurationError(f"{job.shown(path)}: cannot be understood: {error}") from error
        if identity.format != FORMAT:
            raise ConfigurationError(
                f"{job.shown(path)}: the spool has format {identity.format}, this pmjq knows format {FORMAT}"
            )
        self._identity = text
        return identity

    def present(self) -> bool:
        """Tell whether this is still the spool that was there at the start: a share may be unmounted."""
        return self.disk.read(f"{self.own}/spool.json") == self._identity

    def names(self) -> list[str]:
        """Return the names of all entries, jobs or not."""
        return [name for name in self.disk.names(self.root) if name != OWN]

    def stat(self, name: str) -> Stat | None:
        """Return what an lstat of an entry tells, None if it is gone."""
        return self.disk.stat(f"{self.root}/{name}")

    def changed(self) -> int:
        """Return the time of the last change of the list of entries, in ns of the file system's clock."""
        stat = self.disk.stat(self.root)
        return stat.st_mtime_ns if stat else 0

    def look(self, name: str) -> Look | None:
        """Open and examine an entry, None if it is gone."""
        return self.disk.look(f"{self.root}/{name}")

    # -- transitions

    def prepare_claim(self, attempt: Attempt) -> None:
        """Make the paperwork of an attempt; the claim comes after it."""
        disk = self.disk
        building = self._spares.pop() if self._spares else self._make_building()
        disk.write(f"{building}/claim.{attempt.attempt}.json", msgspec.json.encode(attempt))
        disk.rename(building, f"{self._job}/{attempt.id}")

    def _make_building(self) -> str:
        self._built += 1
        building = f"{self.own}/tmp/{self.token}.{self._built}"
        self.disk.mkdir(building)
        self.disk.mkdir(f"{building}/work")
        return building

    def claim(self, attempt: Attempt) -> bool:
        """Move a queued job to this node; False if somebody else has it, or its owner withdrew it."""
        name = job.real_name(attempt.name, attempt.name_hex)
        return self._moved(f"{self.root}/{name}", f"{self._run}/{attempt.id}")

    def claimed(self, attempt: Attempt) -> Look | None:
        """Open and examine the job that was claimed."""
        return self.disk.look(f"{self._run}/{attempt.id}")

    def claimed_stat(self, attempt: Attempt) -> Stat | None:
        """Return the lstat of the job that was claimed."""
        return self.disk.stat(f"{self._run}/{attempt.id}")

    def sync_claims(self) -> None:
        """Make the claims of this life durable: a job must not be back in the queue after a power cut."""
        self.disk.sync(self._run)

    def places(self, attempt: Attempt) -> Places:
        """Return where an attempt runs, and give its executable a path that stays when another life takes it over.

        That is a second link beside the paperwork, under the job's own name; where the file
        system has none, the job runs from ``run/``.
        """
        directory, number = f"{self._job}/{attempt.id}", attempt.attempt
        executable = f"{directory}/{_executable(job.real_name(attempt.name, attempt.name_hex))}"
        baton = f"{self._run}/{attempt.id}"
        try:
            self.disk.link(baton, executable)
        except OSError:
            if self.disk.stat(executable) is None:
                executable = baton
        return Places(
            executable,
            f"{directory}/work",
            f"{directory}/out.{number}",
            f"{directory}/status.{number}",
        )

    def status(self, attempt: Attempt) -> Status | None:
        """Return how far an attempt got; None: its start has not been tried."""
        text = self.disk.read(f"{self._job}/{attempt.id}/status.{attempt.attempt}")
        return None if text is None else job.status(text)

    def void(self, attempt: Attempt) -> bool:
        """Keep an attempt from ever starting; False if its start has been tried.

        Start and void both create ``status.N`` exclusively, so exactly one of them happens,
        however late an order to start may still be under way.
        """
        path = f"{self._job}/{attempt.id}/status.{attempt.attempt}"
        try:
            self.disk.write(path, VOID, exclusive=True)
        except OSError:
            status = self.status(attempt)
            if status is None:
                raise
            return status.void
        return True

    def give_back(self, attempt: Attempt) -> str:
        """Return a job to the queue and remove its paperwork; the name it got.

        Where another job has come to its name meanwhile, a number is added.
        """
        name = job.real_name(attempt.name, attempt.name_hex)
        baton, free, number = f"{self._run}/{attempt.id}", name, 1
        self.disk.unlink(f"{self._job}/{attempt.id}/{_executable(name)}")
        while True:
            try:
                self.disk.rename_new(baton, f"{self.root}/{free}")
                break
            except FileExistsError:
                number += 1
                free = _numbered(name, number)
            except OSError:
                if self._there(baton):
                    raise
                break
        self.clear(attempt.id, attempt.attempt, name)
        return free

    def append(self, events: Iterable[Event]) -> None:
        """Append to this life's events and sync once.

        The file has one writer, which knows where it ends: what failed is written again in the
        same place.
        """
        data = b"".join(msgspec.json.encode(event) + b"\n" for event in events)
        self.disk.write_at(self._events, self._written, data, create=True)
        self._written += len(data)

    def end(self, record: Record) -> bool:
        """Move a job whose outcome is durable to ``ended/``; False: this life was fenced, the record is void."""
        if record.state is State.REJECTED:
            text = f"pmjq: {record.name}: {record.reason}\n"
            self.disk.write(self.out_path(record), text.encode())
        # The claim has served: its file becomes the record, since making a file costs more than all else here.
        # If only half of that happens, the event tells the rest.
        claim = f"{self._job}/{record.id}/claim.{record.attempt}.json"
        self.disk.write(claim, msgspec.json.encode(record))
        self.disk.rename(claim, self.record_path(record))
        return self._moved(f"{self._run}/{record.id}", self.ended_path(record))

    def take_over(self, other: str, job_id: str) -> bool:
        """Move a job of a dead life to this one; False if somebody else has it."""
        return self._moved(f"{self.own}/node/{other}/run/{job_id}", f"{self._run}/{job_id}")

    # -- lives

    def begin(self) -> None:
        """Make the directories of this life."""
        for path in ("", "/run", "/ask"):
            self._mkdir(f"{self.own}/node/{self.token}{path}")
        self.disk.write(self.beat_path(), b"0".zfill(20) + b"\n")

    def beat_path(self) -> str:
        """Return the path of this life's beat."""
        return f"{self.own}/node/{self.token}/beat"

    def publish(self, node: msgspec.Struct) -> None:
        """Replace this life's ``node.json``."""
        path = f"{self.own}/node/{self.token}/node.json"
        self.disk.write(f"{path}.part", msgspec.json.format(msgspec.json.encode(node)) + b"\n")
        self.disk.rename(f"{path}.part", path)

    def lives(self) -> dict[str, Life | None]:
        """Return who lives or lived here, by token; None where the life's record cannot be read."""
        return {token: self._life(token) for token in self.disk.names(f"{self.own}/node")}

    def bury(self, token: str) -> list[str]:
        """Take over what a dead life has, remove the life, and return the ids that were taken over.

        Its beat goes first, so that it notices; its ``run/`` last of what matters: into a removed
        directory nothing can be renamed, which is the one fence that holds everywhere.
        """
        base = f"{self.own}/node/{token}"
        self.disk.unlink(f"{base}/beat")
        taken = [name for name in self._list(f"{base}/run") if self.take_over(token, name)]
        self.disk.rmdir(f"{base}/run")
        for name in self._list(f"{self.own}/tmp"):
            if name.startswith(f"{token}."):
                self.remove(f"{self.own}/tmp/{name}")
        self.remove(base)
        return taken

    def running(self) -> list[str]:
        """Return the ids of the jobs that this life has."""
        return self.disk.names(self._run)

    def clear_tmp(self) -> None:
        """Remove what this life left under construction."""
        spare = {path.rpartition("/")[2] for path in self._spares}
        for name in self.disk.names(f"{self.own}/tmp"):
            if name.startswith(f"{self.token}.") and name not in spare:
                self.remove(f"{self.own}/tmp/{name}")

    # -- paperwork

    def ended(self) -> list[tuple[str, int]]:
        """Return id and attempt of the jobs that have ended and are not archived."""
        pairs = (name.rpartition(".") for name in self.disk.names(self._ended))
        return [(job_id, int(number)) for job_id, _, number in pairs if number.isdigit()]

    def paperwork(self) -> list[str]:
        """Return the ids that have paperwork."""
        return self.disk.names(self._job)

    def attempt(self, job_id: str) -> Attempt | None:
        """Return the latest attempt of a job, None if its paperwork is gone or cannot be read."""
        numbers = [
            int(name.split(".")[1])
            for name in self._list(f"{self._job}/{job_id}")
            if name.startswith("claim.") and name.split(".")[1].isdigit()
        ]
        for number in sorted(numbers, reverse=True):
            found = self._decode(f"{self._job}/{job_id}/claim.{number}.json", Attempt)
            if found is not None:
                return found
        return None

    def record(self, job_id: str, number: int) -> Record | None:
        """Return the record of an attempt, None if it is missing or torn."""
        return self._decode(f"{self._job}/{job_id}/record.{number}.json", Record)

    def recorded(self, wanted: set[str]) -> dict[str, Record]:
        """Return the latest records of jobs by id, from the events of all lives."""
        found: dict[str, Record] = {}
        ids = re.compile(b"|".join(re.escape(job_id.encode()) for job_id in wanted))
        for name in self._list(f"{self.own}/events"):
            text = self.disk.read(f"{self.own}/events/{name}", EVENTS_READ) or b""
            for line in text.split(b"\n"):
                event = _decoded(line, Event) if ids.search(line) else None
                if event is None or event.record is None or event.record.id not in wanted:
                    continue
                before = found.get(event.record.id)
                if before is None or before.attempt <= event.record.attempt:
                    found[event.record.id] = event.record
        return found

    def rewrite_record(self, record: Record) -> None:
        """Write a record that was missing or torn once more."""
        self.disk.write(
            f"{self._job}/{record.id}/record.{record.attempt}.json", msgspec.json.encode(record)
        )

    def record_path(self, record: Record) -> str:
        """Return where a record lies until its job is archived."""
        return f"{self._job}/{record.id}/record.{record.attempt}.json"

    def out_path(self, record: Record) -> str:
        """Return where the output of a job lies until it is archived."""
        return f"{self._job}/{record.id}/out.{record.attempt}"

    def work_path(self, record: Record) -> str:
        """Return where the working directory of a job lies until it is archived."""
        return f"{self._job}/{record.id}/work"

    def left_files(self, record: Record) -> bool:
        """Tell whether a job left anything in its working directory."""
        try:
            return bool(self._list(self.work_path(record)))
        except PermissionError:
            return True

    def ended_path(self, record: Record) -> str:
        """Return where an ended job lies until it is archived."""
        return f"{self._ended}/{record.id}.{record.attempt}"

    def done_path(self) -> str:
        """Return the archive that is used without ``-o``."""
        return f"{self.own}/done"

    def clear(self, job_id: str, number: int, name: str, *, alone: bool = False) -> None:
        """Remove the paperwork of a job that is archived or returned; repeatable.

        ``alone``: no process of the job is left. Then its directories, if they are as they were
        made, serve the next job: making and removing a directory costs ten renames.
        """
        disk, directory = self.disk, f"{self._job}/{job_id}"
        disk.unlink(f"{directory}/status.{number}")
        disk.unlink(f"{directory}/{_executable(name)}")
        if alone and len(self._spares) < MOST_SPARE and self._as_made(directory):
            self._built += 1
            spare = f"{self.own}/tmp/{self.token}.{self._built}"
            disk.rename(directory, spare)
            self._spares.append(spare)
            return
        disk.unlink(f"{directory}/claim.{number}.json")
        disk.unlink(f"{directory}/record.{number}.json")
        disk.rmdir(f"{directory}/work")
        if not disk.rmdir(directory):
            self.remove(directory)

    def _as_made(self, directory: str) -> bool:
        work = self.disk.stat(f"{directory}/work")
        return (
            work is not None
            and work.st_mode == self._work_mode()
            and not self.disk.names(f"{directory}/work")
        )

    def _work_mode(self) -> int:
        """Return the mode of a directory just made here: it depends on the umask and the parent's set-group-id."""
        if not self._made_mode:
            building = self._make_building()
            stat = self.disk.stat(f"{building}/work")
            self._made_mode = stat.st_mode if stat else 0
            self._spares.append(building)
        return self._made_mode

    def remove(self, path: str) -> None:
        """Remove a tree; links are removed, not followed."""
        for name in self._list(path):
            below = f"{path}/{name}"
            try:
                self.disk.unlink(below)
            except OSError:
                self.remove(below)
        self.disk.rmdir(path)

    # -- below

    def _build(self, uuid: str) -> None:
        building = f"{self.root}/{OWN}.{uuid}"
        self.disk.mkdir(building)
        for name in ("tmp", "node", "job", "ended", "events", "done"):
            self.disk.mkdir(f"{building}/{name}")
        self.disk.write(
            f"{building}/spool.json", msgspec.json.encode(Identity(FORMAT, uuid)) + b"\n"
        )
        self.disk.sync(f"{building}/spool.json")
        try:
            self.disk.rename(building, self.own)
        except OSError:
            if self.disk.stat(f"{self.own}/spool.json") is None:
                raise
            self.remove(building)

    def _mkdir(self, path: str) -> None:
        try:
            self.disk.mkdir(path)
        except OSError:
            if self.disk.stat(path) is None:
                raise

    def _moved(self, source: str, target: str) -> bool:
        try:
            self.disk.rename(source, target)
        except OSError:
            if self._there(target):
                return True
            if self._there(source):
                raise
            return False
        return True

    def _there(self, path: str) -> bool:
        if self.local:
            return self.disk.stat(path) is not None
        directory, _, name = path.rpartition("/")
        return name in self._list(directory)

    def _list(self, path: str) -> list[str]:
        try:
            return self.disk.names(path)
        except (FileNotFoundError, NotADirectoryError):
            return []

    def _life(self, token: str) -> Life | None:
        return self._decode(f"{self.own}/node/{token}/node.json", Life)

    def _decode(self, path: str, kind: type[T]) -> T | None:
        text = self.disk.read(path)
        return None if text is None else _decoded(text, kind)


def _decoded(text: bytes, kind: type[T]) -> T | None:
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _executable(name: str) -> str:
    return "executable" if _PAPERWORK.match(name) else name


def _numbered(name: str, number: int) -> str:
    suffix = f".{number}"
    return name[: job.NAME_MAX - len(suffix)] + suffix
