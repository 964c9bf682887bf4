"""The rules of what is known of a job: names, stems, records, and what a status says."""

from __future__ import annotations

import json
import math
import os
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pmjq import job, naming
from pmjq.job import Attempt, Event, Record, Spec, Status, Usage
from pmjq.state import ENDED, State
from values import CLAIMED, ID, NAMES, QUEUED, attempt

ENDED_AT = datetime(2026, 1, 2, 3, 5, 0, 250000, UTC)
STAMP = "20260102T030500.250000Z"
AFFIX = len("." + ".json" + ".part")


# --- names


@given(NAMES)
def test_any_name_comes_back(name: str) -> None:
    """Whatever bytes a name has, what a file holds of it gives exactly these bytes again."""
    assert naming.real_name(naming.shown(name), naming.exact(name)) == name


@given(NAMES)
def test_shown_names_are_text(name: str) -> None:
    """What people and JSON get is UTF-8, and the same as the name if that is UTF-8."""
    data = os.fsencode(name)
    text = naming.shown(name)
    assert json.loads(json.dumps(text)) == text == text.encode().decode()
    try:
        assert data.decode() == text
    except UnicodeDecodeError:
        assert text.isascii() or "\\x" in text


@given(NAMES)
def test_exact_only_where_needed(name: str) -> None:
    """Hexadecimal bytes stand only beside a name that is not shown as it is."""
    assert naming.exact(name) == ("" if naming.shown(name) == name else os.fsencode(name).hex())


@pytest.mark.parametrize(
    ("data", "text", "hexadecimal"),
    [
        (b"train.sh", "train.sh", ""),
        ("größe".encode(), "größe", ""),
        (b"gr\xf6sse", "gr\\xf6sse", "6772f6737365"),
        (b"gr\\xf6sse", "gr\\xf6sse", ""),
        (b"\xed\xa0\x80", "\\xed\\xa0\\x80", "eda080"),
        (b"a\nb", "a\nb", ""),
    ],
)
def test_names_as_they_are_shown(data: bytes, text: str, hexadecimal: str) -> None:
    """Two names that look the same are told apart by their hexadecimal bytes."""
    name = os.fsdecode(data)
    assert (naming.shown(name), naming.exact(name)) == (text, hexadecimal)


# --- stems


def test_stem_is_stamp_id_and_name() -> None:
    """The archived name tells when, which and what."""
    assert naming.stem(ENDED_AT, ID, "train.sh") == f"{STAMP}-{ID}-train.sh"


@given(NAMES)
def test_stem_leaves_room_for_every_affix(name: str) -> None:
    """The longest name that is made of a stem is one that every file system takes."""
    stem = naming.stem(ENDED_AT, ID, name)
    assert len(os.fsencode(stem)) + AFFIX <= 255
    assert naming.real_name(naming.shown(stem), naming.exact(stem)) == stem


@given(NAMES)
def test_stem_has_as_much_of_the_name_as_there_is_room_for(name: str) -> None:
    """A name is cut at its end, by less than a character more than it must be."""
    prefix, data = f"{STAMP}-{ID}-", os.fsencode(name)
    kept = os.fsencode(naming.stem(ENDED_AT, ID, name).removeprefix(prefix))
    room = 255 - AFFIX - len(prefix)
    assert data.startswith(kept)
    assert kept == data or room - 4 < len(kept) <= room


@given(st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=40, max_size=255))
def test_stem_of_text_is_text(name: str) -> None:
    """A name is not cut inside a character: some file systems take only UTF-8 (EILSEQ)."""
    assert naming.exact(naming.stem(ENDED_AT, ID, name)) == ""


@given(st.lists(st.datetimes(datetime(1971, 1, 1), datetime(9999, 1, 1)), min_size=2))  # noqa: DTZ001  # UTC is added
def test_stems_sort_by_their_time(times: list[datetime]) -> None:
    """`ls` of the archive is in the order of the ends."""
    stems = [naming.stem(time.replace(tzinfo=UTC), ID, "a") for time in sorted(times)]
    assert all(a <= b for a, b in pairwise(stems))


def test_moment_is_utc() -> None:
    """Seconds since the epoch become a time of day in UTC, to the microsecond."""
    assert job.moment(1767323100.25) == ENDED_AT
    assert job.moment(0).utcoffset() == timedelta(0)


# --- records


def ended(code: int | None, usage: Usage | None = None) -> Status:
    """Return the status of a process that ran from one second to a quarter past the next minute."""
    at = ENDED_AT.timestamp()
    return Status(started=at - 50, pid=7, start=8, ended=at, code=code, usage=usage)


def test_record_of_a_job_that_ended_well() -> None:
    """A record has everything that is known of the attempt and its process."""
    spec = Spec(restartable=True, directives=("restartable",))
    status = ended(0, Usage(1.5, 0.25, 4096))
    assert job.record(attempt(spec=spec, attempt=3), status, State.DONE, 9e9) == Record(
        id=ID,
        name="job",
        state=State.DONE,
        stem=f"{STAMP}-{ID}-job",
        owner="ann",
        uid=1000,
        node="a",
        attempt=3,
        queued=QUEUED,
        claimed=CLAIMED,
        started=ENDED_AT - timedelta(seconds=50),
        ended=ENDED_AT,
        exit_code=0,
        user_cpu=1.5,
        system_cpu=0.25,
        max_rss=4096,
        directives=("restartable",),
    )


def test_record_has_what_was_given_to_a_job_that_ran() -> None:
    """One that never ran had nothing, whatever its claim says."""
    given = attempt(gpus=("0", "2"), cpus=(4,))
    status = msgspec.structs.replace(ended(0), enforced={"cpus": "affinity"})
    record = job.record(given, status, State.DONE, 9e9)
    assert (record.gpus, record.cpus, record.enforced) == (("0", "2"), (4,), {"cpus": "affinity"})
    record = job.record(given, Status(), State.CANCELLED, 9e9)
    assert (record.gpus, record.cpus, record.enforced) == ((), (), {})


@pytest.mark.parametrize(
    ("code", "exit_code", "number"), [(0, 0, None), (3, 3, None), (-9, None, 9), (None, None, None)]
)
def test_record_has_an_exit_code_or_a_signal(
    code: int | None, exit_code: int | None, number: int | None
) -> None:
    """A negative code is a signal; a code that nobody saw is in no record."""
    record = job.record(attempt(), ended(code), State.FAILED, 0.0, "why")
    assert (record.exit_code, record.signal, record.reason) == (exit_code, number, "why")


def test_record_without_usage() -> None:
    """What nobody measured is not 0."""
    record = job.record(attempt(), ended(0), State.DONE, 0.0)
    assert (record.user_cpu, record.system_cpu, record.max_rss) == (None, None, None)


def test_record_of_what_was_not_seen_to_end() -> None:
    """Where the status has no end, the time at which it was noticed stands for it."""
    record = job.record(attempt(), Status(started=5.0), State.LOST, ENDED_AT.timestamp())
    assert (record.ended, record.started) == (ENDED_AT, job.moment(5.0))
    assert record.stem.startswith(STAMP)


def test_record_of_what_was_not_executed_has_no_start() -> None:
    """A failed execve has written its pid before, and has run nothing."""
    status = Status(started=5.0, pid=7, ended=6.0, error=8)
    record = job.record(attempt(), status, State.REJECTED, 9.0)
    assert (record.started, record.ended) == (None, job.moment(6.0))


@given(NAMES)
def test_record_holds_any_name(name: str) -> None:
    """The name and the archived name can both be had from a record that went through JSON."""
    one = attempt(name=naming.shown(name), name_hex=naming.exact(name))
    made = job.record(one, ended(0), State.DONE, 0.0)
    record = msgspec.json.decode(msgspec.json.encode(made), type=Record)
    assert naming.real_name(record.name, record.name_hex) == name
    assert naming.real_name(record.stem, record.stem_hex) == naming.stem(ENDED_AT, ID, name)


# --- on disk

TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
TIMES = st.datetimes(timezones=st.just(UTC))
WHOLE = st.integers(0, 2**63 - 1)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
ATTEMPTS = st.builds(
    Attempt,
    id=TEXT,
    name=TEXT,
    attempt=WHOLE,
    owner=TEXT,
    uid=WHOLE,
    node=TEXT,
    token=TEXT,
    queued=TIMES,
    claimed=TIMES,
    spec=st.builds(Spec, st.booleans(), st.booleans(), st.lists(TEXT).map(tuple)),
    refused=TEXT,
    name_hex=TEXT,
)
RECORDS = st.builds(
    Record,
    id=TEXT,
    name=TEXT,
    state=st.sampled_from(sorted(ENDED)),
    stem=TEXT,
    owner=TEXT,
    uid=WHOLE,
    node=TEXT,
    attempt=WHOLE,
    queued=TIMES,
    claimed=TIMES,
    ended=TIMES,
    started=st.none() | TIMES,
    exit_code=st.none() | WHOLE,
    signal=st.none() | WHOLE,
    user_cpu=st.none() | FLOATS,
    system_cpu=st.none() | FLOATS,
    max_rss=st.none() | WHOLE,
    directives=st.lists(TEXT).map(tuple),
    reason=TEXT,
    name_hex=TEXT,
    stem_hex=TEXT,
)


@given(ATTEMPTS)
def test_attempts_round_trip(one: Attempt) -> None:
    """What one life writes into claim.N.json, and into its events, is what the next one reads."""
    event = Event("claim.prepared", one.claimed, attempt=one)
    line = msgspec.json.encode(event)
    assert b"\n" not in line
    assert msgspec.json.decode(line, type=Event) == event
    assert msgspec.json.decode(msgspec.json.encode(one), type=Attempt) == one


@given(RECORDS)
def test_records_round_trip(record: Record) -> None:
    """A record says the same next to the archived job and in the event that restores it."""
    event = Event("job.ended", record.ended, record=record)
    line = msgspec.json.encode(event)
    assert b"\n" not in line
    assert msgspec.json.decode(line, type=Event) == event
    assert msgspec.json.decode(msgspec.json.encode(record), type=Record) == record


RECORD = job.record(attempt(), ended(0), State.DONE, 0.0)


@pytest.mark.parametrize("cut", range(0, len(msgspec.json.encode(RECORD)), 20))
def test_torn_record_is_no_record(cut: int) -> None:
    """No beginning of a record can be taken for one."""
    with pytest.raises(msgspec.DecodeError):
        msgspec.json.decode(msgspec.json.encode(RECORD)[:cut], type=Record)


@pytest.mark.parametrize(
    "changes", [{"state": "slept"}, {"ended": "yesterday"}, {"uid": "root"}, {"exit_code": "0"}]
)
def test_strange_record_is_no_record(changes: dict[str, str]) -> None:
    """A record is read strictly: nothing is guessed."""
    text = json.dumps(json.loads(msgspec.json.encode(RECORD)) | changes)
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(text, type=Record)


@pytest.mark.parametrize("value", [RECORD, attempt()])
def test_unknown_format_is_refused(value: Record | Attempt) -> None:
    """What was written in another format is not guessed at."""
    text = json.dumps(json.loads(msgspec.json.encode(value)) | {"format": job.FORMAT + 1})
    with pytest.raises(msgspec.ValidationError, match=rf"{job.FORMAT + 1}.*\$\.format"):
        msgspec.json.decode(text, type=type(value))


def test_record_of_a_later_version_may_have_more() -> None:
    """Keys that are not known are passed over."""
    text = json.dumps(json.loads(msgspec.json.encode(RECORD)) | {"colour": "blue"})
    assert msgspec.json.decode(text, type=Record) == RECORD


# --- status.N

STARTED = Status(started=3.5, pid=1, start=2, keeper=4, keeper_start=5)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"", Status()),
        (b"\n\n", Status()),
        (b"started 1 2 3.5 4 5\n", STARTED),
        (
            b"started 1 2 3.5 4 5\nexit 0 9.5 1.5 0.25 4096\n",
            msgspec.structs.replace(STARTED, ended=9.5, code=0, usage=Usage(1.5, 0.25, 4096)),
        ),
        (b"exit -15 9 0 0 1\n", Status(ended=9.0, code=-15, usage=Usage(0.0, 0.0, 1))),
        (b"noexec 8 9.25\n", Status(error=8, ended=9.25)),
        (b"started 1 2 3.5 4 5 -\n", STARTED),
        (
            b"started 1 2 3.5 4 5 memory=cgroup,cpus=affinity\nlimit memory\n",
            msgspec.structs.replace(
                STARTED, enforced={"memory": "cgroup", "cpus": "affinity"}, limit="memory"
            ),
        ),
        (b"limit memory\nlimit\n", Status(limit="memory")),
        (b"void\n", Status(void=True)),
        (b"void a.b.c 17\n", Status(void=True)),
        (b"started 1 2 3.5 4 5 more fields\nslept 9\n\xff\xfe\n", STARTED),
    ],
)
def test_status_says(text: bytes, expected: Status) -> None:
    """Every line tells its part; lines and fields of a later version are passed over."""
    assert job.status(text) == expected


@pytest.mark.parametrize("cut", range(len(b"exit 0 9.5 1.5 0.25 4096\n")))
def test_torn_line_counts_for_nothing(cut: int) -> None:
    """A line without its end is not believed: ``exit 1`` may have been meant to be ``exit 15``."""
    text = b"started 1 2 3.5 4 5\n" + b"exit 0 9.5 1.5 0.25 4096\n"[:cut]
    assert job.status(text) == STARTED


@pytest.mark.parametrize(
    "line",
    [
        b"started one 2 3.5 4 5",
        b"started 1 2 3.5 4",
        b"started 1 2 3,5 4 5",
        b"exit 1",
        b"exit 0x1 9 0 0 0",
        b"exit inf 9 0 0 0",
        b"exit " + b"9" * 5000 + b" 9 0 0 0",
        b"exit 0 9 0 0 0.5",
        b"noexec ENOEXEC 9",
        b"noexec 8",
        b"\0" * 40,
    ],
    ids=lambda line: line[:20].decode(),
)
def test_strange_line_counts_for_nothing(line: bytes) -> None:
    """A line that cannot be understood changes nothing of what the others say."""
    assert job.status(b"started 1 2 3.5 4 5\n" + line + b"\n") == STARTED


WORDS = st.sampled_from(
    [b"started", b"exit", b"noexec", b"void", b"0", b"1", b"-9", b"3.5", b"nan"]
)
LINES = st.lists(WORDS | st.binary(max_size=4), max_size=7).map(b" ".join)


@given(st.binary() | st.lists(LINES).map(lambda lines: b"\n".join(lines) + b"\n"))
def test_status_of_any_bytes(text: bytes) -> None:
    """Whatever a job may have scribbled over its status, reading it raises nothing."""
    assert isinstance(job.status(text), Status)


@pytest.mark.parametrize("number", [b"nan", b"inf", b"-inf", b"1e300"])
@pytest.mark.parametrize("line", [b"started 1 2 %b 4 5\n", b"exit 0 %b 0 0 0\n", b"noexec 8 %b\n"])
def test_status_without_a_time_of_day_makes_a_record(line: bytes, number: bytes) -> None:
    """A time that is none stops no record from being made."""
    status = job.status(line % number)
    record = job.record(attempt(), status, State.LOST, 9.0)
    assert math.isfinite(record.ended.timestamp())
