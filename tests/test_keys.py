"""The rules of the keys of directives: which values each has, and what refuses the others."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from pmjq.job import Spec
from pmjq.keys import (
    ALL_CPUS,
    KEYS,
    LONGEST,
    MOST,
    MOST_PRIORITY,
    MOST_RETRIES,
    Wrong,
    duration,
    fields,
    joined,
    moment,
    size,
)

DEADLINE = 20.0
"""Seconds within which any value has been read, on however slow a machine."""


def reason(*words: str) -> str:
    """Return why words are refused."""
    wrong = fields(words)
    assert isinstance(wrong, Wrong), wrong
    return wrong.reason


# --- the table


def test_table_is_complete() -> None:
    """These keys there are, and each sets a field of ``Spec`` of its name."""
    names = "name directory env cpus memory gpus time grace output-limit priority restartable"
    names += " retries backoff after after-any not-before nice mail mail-on tags"
    assert list(KEYS) == names.split()
    assert {key.field for key in KEYS.values()} <= {*Spec.__struct_fields__}
    assert all(key.value and key.meaning for key in KEYS.values())


def test_keys_that_add() -> None:
    """What may be given several times is a list; what is not replaces."""
    adds = {key.name for key in KEYS.values() if key.adds}
    assert adds == {"env", "after", "after-any", "mail", "mail-on", "tags"}
    lists = {name for name in KEYS if isinstance(getattr(Spec(), KEYS[name].field), tuple)}
    assert adds == lists


# --- good values


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("name=x", "x"),
        ("name= a b=c ", " a b=c "),
        ("name=größe-中", "größe-中"),
        ("directory=/", "/"),
        ("directory=/a b/é", "/a b/é"),
        ("env=A=1", ("A=1",)),
        ("env=A=", ("A=",)),
        ("env=A=b=c", ("A=b=c",)),
        ("env=odd.name=x", ("odd.name=x",)),
        ("env=A=x y\tz", ("A=x y\tz",)),
        ("cpus=1", 1),
        ("cpus=999999", 999_999),
        ("cpus=007", 7),
        ("cpus=all", ALL_CPUS),
        ("memory=4G", 4 << 30),
        ("gpus=0", 0),
        ("gpus=1000000", 10**6),
        ("time=90", 90.0),
        ("grace=0", 0.0),
        ("output-limit=1M", 1 << 20),
        ("priority=-1000000", -MOST_PRIORITY),
        ("priority=+7", 7),
        ("priority=1000000", MOST_PRIORITY),
        ("restartable", True),
        ("restartable=yes", True),
        ("restartable=no", False),
        ("retries=0", 0),
        ("retries=1000", MOST_RETRIES),
        ("backoff=1.5s", 1.5),
        ("after=a", ("a",)),
        ("after=a, b ,c", ("a", "b", "c")),
        ("after-any=x y", ("x y",)),
        ("not-before=2026-12-24T18:00:00Z", datetime(2026, 12, 24, 18, tzinfo=UTC)),
        ("nice=-20", -20),
        ("nice=19", 19),
        ("mail=ann", ("ann",)),
        ("mail=ann@x.org,bob@y", ("ann@x.org", "bob@y")),
        ("mail-on=begin,end,fail", ("begin", "end", "fail")),
        ("mail-on=fail", ("fail",)),
        ("tags=a,b", ("a", "b")),
    ],
)
def test_value(word: str, expected: Any) -> None:  # noqa: ANN401  # each key has a type of its own
    """A word becomes a field of ``Spec``, and survives the way through JSON."""
    given = fields([word])
    assert isinstance(given, dict)
    assert list(given.values()) == [expected]
    assert type(next(iter(given.values()))) is type(expected)
    spec = Spec(**given)
    assert msgspec.json.decode(msgspec.json.encode(spec), type=Spec) == spec


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1", 1),
        ("1b", 1),
        ("512M", 512 << 20),
        ("1k", 1024),
        ("1kB", 1024),
        ("1KiB", 1024),
        ("1.5T", 3 << 39),
        ("4 g", 4 << 30),
        (" 4G ", 4 << 30),
        ("1P", 1 << 50),
        ("8p", MOST),
        (str(MOST), MOST),
        ("0.001k", 1),
    ],
)
def test_size(text: str, expected: int) -> None:
    """Sizes are bytes, with binary multiples however they are spelled."""
    assert size(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("90", 90),
        ("90s", 90),
        ("1.5", 1.5),
        ("10m", 600),
        ("1h30m", 5400),
        ("1H30M", 5400),
        (" 2d ", 172_800),
        ("1w", 604_800),
        ("0.5h", 1800),
        ("01:30", 5400),
        ("01:30:00", 5400),
        ("100:00:01", 360_001),
        ("2-12:00:00", 216_000),
        ("0-00:00", 0),
        (str(int(LONGEST)), LONGEST),
    ],
)
def test_duration(text: str, expected: float) -> None:
    """Durations are seconds: with units, or as clocks have them, with days before a dash."""
    assert duration(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-12-24T18:00:00Z", datetime(2026, 12, 24, 18, tzinfo=UTC)),
        ("2026-12-24 18:00Z", datetime(2026, 12, 24, 18, tzinfo=UTC)),
        ("2026-12-24T18:00:00+01:00", datetime(2026, 12, 24, 17, tzinfo=UTC)),
        ("20261224T180000Z", datetime(2026, 12, 24, 18, tzinfo=UTC)),
        ("0001-01-01T00:00:00Z", datetime(1, 1, 1, tzinfo=UTC)),
        ("9999-12-31T23:59:59Z", datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)),
    ],
)
def test_moment(text: str, expected: datetime) -> None:
    """Times have a zone and are UTC from then on."""
    assert moment(text) == expected
    assert moment(text).utcoffset() == timedelta(0)


# --- bad values

SIZE = "is no size; write bytes or K, M, G, T, for instance 4G"
DURATION = "is no duration; write for instance 90s, 10m, 1h30m or 2-12:00:00"
MOMENT = "is no time with its zone; write for instance 2026-12-24T18:00:00Z"
NAMES = "must be names with commas between them"
CPUS = "must be a whole number from 1 on, or all"
MAIL = "must be addresses with commas between them"
MAIL_ON = "must be some of begin, end, fail, with commas between them"
PATH = "must be a whole path of printable letters"
LETTERS = "must be a name of printable letters"
VARIABLE = "must be NAME=VALUE"
SOME_TIME = "must be more than 0; leave it out for no limit"

BAD = {
    LETTERS: ["name=", "name=  ", "name=a\nb", "name=\x1b[1m", "name=a\0", "name=\u202e"],
    PATH: ["directory=", "directory=a", "directory=~", "directory=/a\nb", "directory=/\0"],
    VARIABLE: ["env=", "env=A", "env==x", "env=\x07=x", "env=A\n=x", "env=A=x\0y", "env=A\0=x"],
    SOME_TIME: ["time=0", "time=0s", "time=00:00:00"],
    CPUS: ["cpus=", "cpus=0", "cpus=-1", "cpus=1.5", "cpus=ALL", "cpus=1000000", "cpus=1 "],
    SIZE: [
        "memory=",
        "memory=0",
        "memory=-1G",
        "memory=G",
        "memory=4X",
        "memory=4GG",
        "memory=1e9",
        "memory=inf",
        "memory=nan",
        "memory=9P",
        f"memory={MOST + 1024}",
        "memory=" + "9" * 5000,
        "memory=1,5G",
        "output-limit=0.1",
        "output-limit=all",
    ],
    DURATION: [
        "time=",
        "time=-1",
        "time=s",
        "time=1y",
        "time=1:2",
        "time=1:2:3",
        "time=1-2",
        "time=inf",
        "time=nan",
        "time=1e3",
        "time=soon",
        f"time={2 * MOST}",
        "time=" + "9" * 5000,
        "time=" + "9" * 5000 + ":00:00",
        "grace=-0.5",
        "backoff=1h-30m",
    ],
    MOMENT: [
        "not-before=",
        "not-before=tomorrow",
        "not-before=2026-12-24",
        "not-before=2026-12-24T18:00:00",
        "not-before=2026-13-01T00:00:00Z",
        "not-before=1766599200",
        "not-before=0001-01-01T00:00:00+14:00",
        "not-before=9999-12-31T23:59:59-14:00",
    ],
    "must be a whole number from 0 to 1000000": ["gpus=-1", "gpus=1000001", "gpus=x", "gpus="],
    "must be a whole number from -1000000 to 1000000": [
        "priority=1000001",
        "priority=-1000001",
        "priority=1.0",
        "priority=--1",
        "priority=",
        "priority=" + "1" * 5000,
    ],
    "must be a whole number from 0 to 1000": ["retries=-1", "retries=1001", "retries=all"],
    "must be a whole number from -20 to 19": ["nice=-21", "nice=20", "nice=x"],
    "must be yes or no": ["restartable=", "restartable=true", "restartable=YES", "restartable=1"],
    NAMES: ["after=", "after=a,", "after=,a", "after=a,,b", "after-any= ", "tags=", "tags=a, "],
    MAIL: ["mail=@", "mail=a b", "mail=a@b@c", "mail=<a@b>", "mail=a;b", "mail=a@"],
    MAIL_ON: ["mail-on=never", "mail-on=end,never", "mail-on=End"],
}


@pytest.mark.parametrize(
    ("word", "sentence"), [(word, sentence) for sentence, words in BAD.items() for word in words]
)
def test_bad_value_is_refused_with_what_it_may_be(word: str, sentence: str) -> None:
    """The refusal is the word as it was written, and what it may be."""
    assert reason(word) == f"{word}: {sentence}"


@pytest.mark.parametrize("word", ["mail=", "mail=,", "mail-on="])
def test_lists_of_their_own_kind_refuse_empty_ones(word: str) -> None:
    """An empty list is no list, whatever it is of."""
    assert reason(word) == f"{word}: {NAMES}"


@pytest.mark.parametrize("name", [name for name in KEYS if name != "restartable"])
def test_key_without_a_value(name: str) -> None:
    """A key that wants a value says which."""
    assert reason(name) == f"{name} wants a value: {name}={KEYS[name].value}"


@pytest.mark.parametrize(
    ("word", "close"),
    [
        ("cpu=4", "cpus"),
        ("restartible", "restartable"),
        ("retrys=3", "retries"),
        ("notbefore=x", "not-before"),
        ("after_any=x", "after-any"),
        ("mem0ry=4G", "memory"),
        ("Name=x", "name"),
    ],
)
def test_unknown_key_that_is_close_to_one(word: str, close: str) -> None:
    """A slip of the pen is told with the key that was meant."""
    assert reason(word) == f"unknown key {word.partition('=')[0]}; did you mean {close}?"


@pytest.mark.parametrize("word", ["xyzzy", "xyzzy=1", "=", "", "=5", "#", "q" * 30_000])
def test_unknown_key_that_is_close_to_none(word: str) -> None:
    """Otherwise all keys are named."""
    name = word.partition("=")[0]
    assert reason(word) == f"unknown key {name}; known are {' '.join(KEYS)}"


def test_first_wrong_word_is_told() -> None:
    """One thing at a time: the first that is wrong."""
    assert reason("cpus=2", "gpus=x", "nice=99").startswith("gpus=x: ")


@pytest.mark.parametrize(
    "word",
    [
        "time=" + "1" * 400 + "x",
        "time=" + "1 " * 400 + "x",
        "time=" + "1.1" * 400 + "x",
        "time=" + "1s" * 400 + "x",
        "time=" + "1" * 30_000 + "x",
        "memory=" + "1" * 30_000 + "x",
        "memory=1" + " " * 30_000 + "x",
        "mail=" + "a@" * 10_000,
        "not-before=" + "2026" * 8000,
        "restartabl" * 3000,
    ],
    ids=lambda word: f"{word[:16]}*{len(word)}",
)
def test_no_value_takes_long(word: str) -> None:
    """Whatever stands in a job, the daemon has read it in no time: nothing is tried in all ways."""
    code = "import sys; from pmjq.keys import fields; print(fields([sys.stdin.read()])[0][-40:])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=word,
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE,
    )
    assert (done.returncode, done.stderr) == (0, "")


# --- several words


def test_nothing_asked_for() -> None:
    """No words set no fields."""
    assert fields([]) == {}


def test_later_word_replaces_and_lists_add() -> None:
    """Of two values the second counts; lists have both, in order."""
    words = ["cpus=2", "cpus=4", "tags=a", "tags=b,c", "env=A=1", "env=A=2", "restartable=no"]
    assert fields(words) == {
        "cpus": 4,
        "tags": ("a", "b", "c"),
        "env": ("A=1", "A=2"),
        "restartable": False,
    }


def test_joined() -> None:
    """The fields of two places are joined as those of two words."""
    first = {"cpus": 1, "after": ("a",), "name": "x"}
    second = {"cpus": 2, "after": ("b",), "mail": ("ann",)}
    assert joined(first, second) == {
        "cpus": 2,
        "after": ("a", "b"),
        "name": "x",
        "mail": ("ann",),
    }
    assert first == {"cpus": 1, "after": ("a",), "name": "x"}
    assert joined({}, second) == second
    assert joined(first, {}) == first
