"""The paperwork of claimed jobs, ``.pmjq/job/ID/``, and the events.

Paperwork is made under ``tmp/`` and renamed into ``job/`` complete, so what a crash leaves there
carries the token of its maker and can be cleared away by its node. Nothing here decides who has a
job: that is where the job file is (``pmjq.spool``).

An outcome is durable once its event is; a record that is torn is written again from the event.
"""

from __future__ import annotations

import contextlib
import io
import re
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from pmjq import job, naming
from pmjq.job import Attempt, Event, Record, Status
from pmjq.returned import Returned
from pmjq.tree import decoded

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pmjq.disk import Disk

EVENTS_READ = 64 << 20
"""Bytes read from the end of a file of events when a record is missed: the last 80,000 jobs."""

EVENTS_MENDED = 1 << 20
"""Bytes read from the end of the events of a life that a power cut may have ended."""

MOST_SPARE = 64
"""How many empty directories of archived jobs are kept for the next ones."""

VOID = "void"
"""Where a status leads that was made to keep an attempt from ever starting: nowhere."""

INSIDE = "inside"
"""The path by which a directory job knows its directory."""

_RESERVED = re.compile(
    rf"(claim|out|status|record|late)\.|(work|executable|signature|taken|sealed|{VOID}|{INSIDE})\Z",
    re.IGNORECASE,
)
"""What a job's own file is never called beside its paperwork: its owner writes what is in it."""

_PAPER = re.compile(r"(claim|record|late)\.([1-9][0-9]{0,8})\.json")


class Places(NamedTuple):
    """Where one attempt runs and writes; ``executable``: of a directory job its directory."""

    executable: str
    work: str
    out: str
    status: str


class Told(NamedTuple):
    """What events tell about jobs, by id: their latest attempts and records."""

    attempts: dict[str, Attempt]
    records: dict[str, Record]


class Paperwork(Returned):
    """The paperwork that one life of a node makes, reads and clears away."""

    def __init__(self, disk: Disk, root: str, token: str = "", *, local: bool = True) -> None:
        """Name the tree; nothing is touched."""
        super().__init__(disk, root, token, local=local)
        self._events = f"{self.own}/events/{token}.jsonl"
        self._written = 0
        self._as_new: tuple[int, int, int] | None = None
        self._spares: list[str] = []

    def prepare_claim(self, attempt: Attempt) -> None:
        """Make the paperwork of an attempt; the claim comes after it."""
        disk = self.disk
        building = self._spares.pop() if self._spares else self._make_building()
        claim = f"{building}/{_claim_name(attempt.attempt)}"
        disk.write(claim, msgspec.json.encode(attempt) + b"\n")
        # The record takes its place.
        self._keep_private(claim, attempt.uid)
        self._keep_private(building, attempt.uid)
        disk.rename(building, f"{self._job}/{attempt.id}")

    def _make_building(self) -> str:
        building = self._new_tmp()
        self.disk.mkdir(building)
        self.disk.mkdir(f"{building}/work")
        return building

    def places(self, attempt: Attempt) -> Places:
        """Return where an attempt runs, and give its executable a path that stays.

        The path stays valid when another life takes the job over: it is a second link beside the
        paperwork, under the job's own name. Where the file system has no links, the job runs from
        ``run/``.
        """
        directory, number = f"{self._job}/{attempt.id}", attempt.attempt
        papers = (f"{directory}/work", f"{directory}/out.{number}", f"{directory}/status.{number}")
        if attempt.spec.argv:
            self.point(attempt)
            return Places(f"{directory}/{INSIDE}", *papers)
        executable = (
            f"{directory}/{executable_name(naming.real_name(attempt.name, attempt.name_hex))}"
        )
        baton = f"{self._run}/{attempt.id}"
        try:
            self.disk.link(baton, executable)
        except OSError:
            if self.disk.stat(executable) is None:
                executable = baton
        return Places(executable, *papers)

    def hand_over(self, attempt: Attempt, gid: int) -> None:
        """Give the working directory of an attempt to the job's owner; repeatable."""
        work = f"{self._job}/{attempt.id}/work"
        self.disk.give(work, attempt.uid, gid, 0o700 if self.private else 0o755)

    def point(self, attempt: Attempt) -> None:
        """Give a directory job a path that stays, as ``places`` does for an executable.

        A directory has no second link, so it is a symbolic one, to be renewed by whoever has
        adopted the job.
        """
        building = self._new_tmp()
        self.disk.symlink(f"../../node/{self.token}/run/{attempt.id}", building)
        self.disk.rename(building, f"{self._job}/{attempt.id}/{INSIDE}")

    def status(self, attempt: Attempt | Record) -> Status | None:
        """Return how far an attempt got; None: its start has not been tried."""
        path = self._status_path(attempt)
        text = self.disk.read(path)
        if text is None:
            return Status(void=True) if self.disk.stat(path) is not None else None
        return job.status(text)

    def status_of(self, job_id: str, number: int) -> Status | None:
        """Return how far an attempt got of which only this is known; None: that is not told."""
        text = self.disk.read(f"{self._job}/{job_id}/status.{number}")
        return None if text is None else job.status(text)

    def void(self, attempt: Attempt) -> bool:
        """Keep an attempt from ever starting; False if its start has been tried.

        Start and void both create ``status.N`` exclusively, so exactly one of them happens,
        however late an order to start may still be under way. A void one is a symbolic link to
        nothing: made by one call, with nothing to be written that a full disk could refuse.
        """
        try:
            self.disk.symlink(VOID, self._status_path(attempt))
        except OSError:
            status = self.status(attempt)
            if status is None:
                raise
            return status.void
        return True

    def _status_path(self, attempt: Attempt | Record) -> str:
        return f"{self._job}/{attempt.id}/status.{attempt.attempt}"

    def ended(self) -> list[tuple[str, int]]:
        """Return id and attempt of the jobs that have ended and are not archived."""
        pairs = (name.rpartition(".") for name in self.disk.names(self._ended))
        return [(job_id, int(number)) for job_id, _, number in pairs if number.isdigit()]

    def paperwork(self) -> list[str]:
        """Return the ids that have paperwork."""
        return self.disk.names(self._job)

    def attempt(self, job_id: str) -> Attempt | None:
        """Return the latest attempt of a job, None if its paperwork is gone or cannot be read."""
        for number in self._attempts_of(job_id, "claim"):
            found = self._decode(f"{self._job}/{job_id}/{_claim_name(number)}", Attempt)
            if found is not None:
                return found
        return None

    def record(self, job_id: str, number: int) -> Record | None:
        """Return the record of an attempt, None if it is missing or torn."""
        return self._decode(f"{self._job}/{job_id}/record.{number}.json", Record)

    def unknown_record(self, job_id: str, number: int) -> int:
        """Return the format of a record that is of none that is known here, else 0."""
        return self.unknown(f"{self._job}/{job_id}/record.{number}.json")

    def latest_record(self, job_id: str) -> Record | None:
        """Return the record among the paperwork of a job, None if there is none to be read."""
        for number in self._attempts_of(job_id, "record"):
            return self.record(job_id, number)
        return None

    def _attempts_of(self, job_id: str, *words: str) -> list[int]:
        """Return of which attempts of a job there are such papers, the latest first."""
        papers = map(_PAPER.fullmatch, self._list(f"{self._job}/{job_id}"))
        return sorted((int(one[2]) for one in papers if one and one[1] in words), reverse=True)

    def append(self, events: Iterable[Event]) -> None:
        """Append to this life's events and sync once.

        The file has one writer, which knows where it ends: what failed is written again in the
        same place.
        """
        data = b"".join(msgspec.json.encode(event) + b"\n" for event in events)
        self.disk.write_at(self._events, self._written, data, create=True)
        self._written += len(data)

    def told(self, wanted: set[str], tokens: set[str] | None = None) -> Told:
        """Return what the events of some lives, or of all, tell about jobs: the latest of each."""
        told = Told({}, {})
        for event in self._happened(tokens, EVENTS_READ, {job_id.encode() for job_id in wanted}):
            attempt, record = event.attempt, event.record
            if attempt is not None and attempt.id in wanted:
                told.attempts[attempt.id] = attempt
            if record is not None and record.id in wanted:
                told.records[record.id] = record
        return told

    def last_records(self, token: str) -> list[Record]:
        """Return the last records that a life wrote, some hundreds of them."""
        events = self._happened({token}, EVENTS_MENDED)
        return [event.record for event in events if event.record is not None]

    def tellers(self) -> list[str]:
        """Return the lives that left events, the latest first."""
        base = f"{self.own}/events"
        stats = {name: self.disk.stat(f"{base}/{name}") for name in self._list(base)}
        latest = sorted((-stat.st_mtime_ns, name) for name, stat in stats.items() if stat)
        return [name.removesuffix(".jsonl") for _, name in latest if name.endswith(".jsonl")]

    def _happened(
        self, tokens: set[str] | None, last: int, wanted: set[bytes] | None = None
    ) -> Iterator[Event]:
        """Yield what the events of some lives, or of all, tell of the jobs wanted, or of all."""
        for name in self._list(f"{self.own}/events"):
            if tokens is not None and name.removesuffix(".jsonl") not in tokens:
                continue
            text = self.disk.read(f"{self.own}/events/{name}", last) or b""
            for line in io.BytesIO(text):
                known = wanted is None or _id_in(line) in wanted
                event = decoded(line, Event) if known else None
                if event is not None:
                    yield event

    def rewrite_record(self, record: Record) -> None:
        """Write a record that was missing or torn once more."""
        self._make_papers(record)
        path = self.record_path(record)
        self._begin_private(path, record.uid)
        self.disk.write(path, msgspec.json.encode(record) + b"\n")

    def _make_papers(self, record: Record) -> None:
        """Make the directory of a job's papers, if it is gone."""
        self._mkdir(f"{self._job}/{record.id}")
        self._keep_private(f"{self._job}/{record.id}", record.uid)

    def prepare_record(self, record: Record, name: str) -> None:
        """Make the paperwork of a job that ends without having been claimed, durably.

        ``name``: under which it is made in ``tmp/``.
        """
        disk, building = self.disk, f"{self._tmp}/{name}"
        disk.mkdir(building)
        try:
            path = f"{building}/record.{record.attempt}.json"
            disk.create([(path, msgspec.json.encode(record) + b"\n", 0o644)])
            self._keep_private(path, record.uid)
            self._keep_private(building, record.uid)
            disk.rename(building, f"{self._job}/{record.id}")
        except OSError:
            with contextlib.suppress(OSError):
                self.remove(building)
            raise
        disk.sync(self._job)

    def clear_record(self, record: Record) -> None:
        """Remove the paperwork of a job that has been claimed after all."""
        self.remove(f"{self._job}/{record.id}")

    def claim_path(self, record: Record) -> str:
        """Return the path of an attempt's claim, while that is not its record yet."""
        return f"{self._job}/{record.id}/{_claim_name(record.attempt)}"

    def record_path(self, record: Record) -> str:
        """Return where a record lies until its job is archived."""
        return f"{self._job}/{record.id}/record.{record.attempt}.json"

    def out_path(self, record: Record) -> str:
        """Return where the output of a job lies until it is archived."""
        return self.output_path(record.id, record.attempt)

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
        return self.unfiled_path(record.id, record.attempt)

    def unfiled_path(self, job_id: str, number: int) -> str:
        """Return the same of a job of which only id and attempt are known."""
        return f"{self._ended}/{job_id}.{number}"

    def done_path(self) -> str:
        """Return the archive that is used without ``-o``."""
        return f"{self.own}/done"

    def clear(self, job_id: str, number: int, name: str, *, alone: bool = False) -> None:
        """Remove the paperwork of a job that is archived or returned; repeatable.

        It is moved away first: an order to start that is still under way finds nothing then.
        ``alone``: no process of the job is left. Then its directories, if they are as they were
        made, serve the next job: making and removing a directory costs ten renames.

        The job has moved on, so nothing that goes wrong here is an error: what stays is told by
        ``left_behind`` and tried once more when this life is buried, or at the next start.
        """
        papers = f"{self._job}/{job_id}"
        try:
            self._clear(papers, number, name, alone=alone)
        except OSError as error:
            self._leave(papers, error, job_id)

    def _clear(self, papers: str, number: int, name: str, *, alone: bool) -> None:
        disk, away = self.disk, self._new_tmp()
        if not self._moved(papers, away):
            return
        if alone and len(self._spares) < MOST_SPARE:
            disk.unlink(f"{away}/{executable_name(name)}")
            disk.unlink(f"{away}/status.{number}")
            if self._as_made(away):
                self._spares.append(away)
                return
        disk.remove_tree(away)

    def _as_made(self, directory: str) -> bool:
        work = self.disk.stat(f"{directory}/work")
        return (
            work is not None
            and (work.st_mode, work.st_uid, work.st_gid) == self._made()
            and self.disk.names(directory) == ["work"]
            and not self.disk.names(f"{directory}/work")
        )

    def _made(self) -> tuple[int, int, int]:
        """Return mode and owner of a directory just made here, which depend on umask and parent."""
        if not self._as_new:
            building = self._make_building()
            self._spares.append(building)
            stat = self.disk.stat(f"{building}/work")
            if stat is not None:
                self._as_new = (stat.st_mode, stat.st_uid, stat.st_gid)
        return self._as_new or (0, 0, 0)

    def has_record(self, job_id: str) -> bool:
        """Tell whether there is a record, readable or not, among the paperwork of a job."""
        return bool(self._attempts_of(job_id, "record", "late"))

    def has_claim(self, job_id: str) -> bool:
        """Tell whether there is a claim, readable or not, among the paperwork of a job."""
        return bool(self._attempts_of(job_id, "claim"))

    def write_late(self, record: Record, note: bytes) -> None:
        """Note beside the status of a lost job that it is expected to end."""
        self._make_papers(record)
        self.disk.write(f"{self._job}/{record.id}/late.{record.attempt}.json", note)

    def late(self, job_id: str) -> bytes | None:
        """Return the note about a lost job, None if there is none."""
        for number in self._attempts_of(job_id, "late"):
            return self.disk.read(f"{self._job}/{job_id}/late.{number}.json")
        return None

    def clear_tmp(self) -> None:
        """Remove what this life left under construction; what cannot be removed stays."""
        spare = {path.rpartition("/")[2] for path in self._spares}
        with contextlib.suppress(OSError):
            for name in self.disk.names(self._tmp):
                if name.startswith(f"{self.token}.") and name not in spare:
                    with contextlib.suppress(OSError):
                        self.disk.remove_tree(f"{self._tmp}/{name}")


def _claim_name(number: int) -> str:
    return f"claim.{number}.json"


def _id_in(line: bytes) -> bytes:
    """Return the id of the job that a line of events is about, without decoding it.

    There may be thousands of lines for each that is wanted. No text that a user chose comes before
    the id.
    """
    _, _, rest = line.partition(b'"id":"')
    return rest.partition(b'"')[0]


def executable_name(name: str) -> str:
    """Return under which name a job's executable stands beside its paperwork."""
    return "executable" if _RESERVED.match(name) else name
