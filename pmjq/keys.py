"""The keys of directives: what a job may ask for, one table.

The same words stand on ``#PMJQ`` lines, in ``job.toml`` and as options of ``pmjq submit``; a test
compares them with the manual. A value is text and becomes a field of ``Spec``; what it may be is
said by the sentence that refuses it.

Pure: text in, fields out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

ALL_CPUS = -1
"""``cpus=all``: as many as the node has, alone."""

MOST = 2**53
"""The largest number that every reader of JSON has exactly."""

LONGEST = 100 * 365 * 86400.0
"""Seconds of the longest duration: what comes after it is still in the calendar."""

MOST_RETRIES = 1000
MOST_PRIORITY = 1_000_000
LONGEST_NAME = 255
NICEST = 19

MAIL_ON = ("begin", "end", "fail")

_UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40, "p": 2**50}
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_NUMBER = r"\d{1,16}(?:\.\d{1,9})?"
_SIZE = re.compile(rf"({_NUMBER})\s*([kmgtp]?)(?:i?b)?", re.IGNORECASE)
_PART = re.compile(rf"({_NUMBER})\s*([smhdw]?)", re.IGNORECASE)
# Only the last may be without its unit: each text can be read in one way, so it is read quickly.
_DURATION = re.compile(rf"(?:{_NUMBER}\s*[smhdw]\s*)*(?:{_NUMBER}\s*[smhdw]?)", re.IGNORECASE)
_CLOCK = re.compile(r"(?:(\d{1,9})-)?(\d{1,9}):(\d\d)(?::(\d\d))?")
# Without what a mail program takes for an option, a file or a command of its own, and without ?,
# since =? begins what readers of a header decode.
_ADDRESS = re.compile(
    r"[A-Za-z0-9_][A-Za-z0-9!#$%&'*+/=^_`{|}~.-]{0,63}"
    r"(@[A-Za-z0-9]([A-Za-z0-9.-]{0,252}[A-Za-z0-9])?)?"
)


@dataclass(frozen=True, slots=True)
class Key:
    """One key: the field of ``Spec`` it sets, what its value is called, and what it means.

    ``read`` returns the field's value; ValueError says what it may be. ``adds``: given again it
    adds to what was given, where others replace it.
    """

    name: str
    read: Callable[[str], Any]
    value: str
    meaning: str
    adds: bool = False

    @property
    def field(self) -> str:
        """Return the name of the field of ``Spec``."""
        return self.name.replace("-", "_")


class Wrong(NamedTuple):
    """What is wrong with a word, as a sentence."""

    reason: str


def fields(words: Iterable[str]) -> dict[str, Any] | Wrong:
    """Return the fields of ``Spec`` that ``key=value`` words set, or what is wrong with the first.

    A key whose value is yes or no may stand alone and is then yes.
    """
    found: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        key = KEYS.get(name)
        if key is None:
            return Wrong(f"unknown key {name}{_instead(name)}")
        if not equals and key.read is not _yes:
            return Wrong(f"{name} wants a value: {name}={key.value}")
        try:
            value = key.read(text) if equals else True
        except ValueError as error:
            return Wrong(f"{word}: {error}")
        found = joined(found, {key.field: value})
    return found


def tags(words: Iterable[str]) -> set[str]:
    """Return the tags among words that have been found good."""
    given = [word.partition("=")[2] for word in words if word.startswith("tags=")]
    return {tag.strip() for text in given for tag in text.split(",")}


def joined(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of two places together: the second replaces, or adds to the first."""
    lists = {key.field for key in KEYS.values() if key.adds}
    return first | {
        name: (*first.get(name, ()), *value) if name in lists else value
        for name, value in second.items()
    }


def size(text: str) -> int:
    """Return a number of bytes: 512M, 4G, 1.5T; binary multiples. ValueError if it is none."""
    match = _SIZE.fullmatch(text.strip())
    count = float(match[1]) * _UNITS[match[2].lower()] if match else -1.0
    if not 1 <= count <= MOST:
        raise ValueError("is no size; write bytes or K, M, G, T, for instance 4G")
    return int(count)


def duration(text: str) -> float:
    """Return seconds: 90, 90s, 10m, 1h30m, 2d, 01:30:00, 2-12:00:00. ValueError if it is none."""
    text = text.strip()
    if match := _CLOCK.fullmatch(text):
        days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
        total: float = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    elif _DURATION.fullmatch(text):
        total = sum(float(n) * _SECONDS[unit.lower()] for n, unit in _PART.findall(text))
    else:
        total = -1.0
    if not 0 <= total <= LONGEST:
        raise ValueError("is no duration; write for instance 90s, 10m, 1h30m or 2-12:00:00")
    return total


def _some_time(text: str) -> float:
    if not (seconds := duration(text)):
        raise ValueError("must be more than 0; leave it out for no limit")
    return seconds


_NO_TIME = "is no time with its zone; write for instance 2026-12-24T18:00:00Z"


def moment(text: str) -> datetime:
    """Return a time of day with its zone; ValueError if it is none, or has no zone."""
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        when = None
    if when is None or when.tzinfo is None:
        raise ValueError(_NO_TIME)
    try:
        return when.astimezone(UTC)
    except OverflowError:
        raise ValueError(_NO_TIME) from None


def _instead(name: str) -> str:
    import difflib  # noqa: PLC0415  # for a sentence only

    close = difflib.get_close_matches(name, KEYS, n=1, cutoff=0.75)
    return f"; did you mean {close[0]}?" if close else f"; known are {' '.join(KEYS)}"


def _whole(least: int, most: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if re.fullmatch(r"[+-]?\d{1,17}", text) is None or not least <= int(text) <= most:
            raise ValueError(f"must be a whole number from {least} to {most}")
        return int(text)

    return read


def _cpus(text: str) -> int:
    if text == "all":
        return ALL_CPUS
    if re.fullmatch(r"\d{1,6}", text) is None or int(text) < 1:
        raise ValueError("must be a whole number from 1 on, or all")
    return int(text)


def _yes(text: str) -> bool:
    if text not in ("yes", "no"):
        raise ValueError("must be yes or no")
    return text == "yes"


def _name(text: str) -> str:
    if not text.strip() or not text.isprintable():
        raise ValueError("must be a name of printable letters")
    return text


def _path(text: str) -> str:
    if not text.startswith("/") or not text.isprintable():
        raise ValueError("must be a whole path of printable letters")
    return text


def _variable(text: str) -> tuple[str, ...]:
    name, equals, _ = text.partition("=")
    if not equals or not name.isprintable() or not name or "\0" in text:
        raise ValueError("must be NAME=VALUE")
    return (text,)


def _list(text: str) -> tuple[str, ...]:
    parts = tuple(part.strip() for part in text.split(","))
    if not all(parts) or "\0" in text:
        raise ValueError("must be names with commas between them")
    return parts


def _jobs(text: str) -> tuple[str, ...]:
    parts = _list(text)
    for part in parts:
        size = len(part.encode("utf-8", "surrogateescape"))
        if "/" in part or part in (".", "..") or size > LONGEST_NAME:
            raise ValueError("must be names or ids of jobs with commas between them")
    return parts


def _mail(text: str) -> tuple[str, ...]:
    parts = _list(text)
    if not all(map(is_address, parts)):
        raise ValueError("must be addresses with commas between them")
    return parts


def is_address(text: str) -> bool:
    """Tell whether a text can be the address of who sends or gets a letter."""
    return _ADDRESS.fullmatch(text) is not None


def _mail_on(text: str) -> tuple[str, ...]:
    parts = _list(text)
    if not set(parts) <= set(MAIL_ON):
        raise ValueError(f"must be some of {', '.join(MAIL_ON)}, with commas between them")
    return parts


KEYS: dict[str, Key] = {
    key.name: key
    for key in (
        Key("name", _name, "NAME", "what people call the job"),
        Key("directory", _path, "PATH", "where it runs, if not in one of its own"),
        Key("env", _variable, "NAME=VALUE", "a variable of its environment", adds=True),
        Key("cpus", _cpus, "N|all", "CPUs that it uses"),
        Key("memory", size, "SIZE", "memory that it uses"),
        Key("gpus", _whole(0, 10**6), "N", "GPUs that it uses"),
        Key("time", _some_time, "DURATION", "how long it may run"),
        Key("grace", duration, "DURATION", "time between TERM and KILL"),
        Key("output-limit", size, "SIZE", "how much it may write to its output"),
        Key("priority", _whole(-MOST_PRIORITY, MOST_PRIORITY), "N", "higher ones come first"),
        Key("restartable", _yes, "yes|no", "may run again after an interruption"),
        Key("retries", _whole(0, MOST_RETRIES), "N", "how often it is tried again if it fails"),
        Key(
            "backoff",
            duration,
            "DURATION",
            "pause before the first retry, then twice that, and so on",
        ),
        Key("after", _jobs, "JOB,...", "not before these have ended with 0", adds=True),
        Key("after-any", _jobs, "JOB,...", "not before these have ended", adds=True),
        Key("not-before", moment, "TIME", "not before this time"),
        Key("nice", _whole(-20, NICEST), "N", "its niceness, see nice(1)"),
        Key("mail", _mail, "ADDRESS,...", "who gets a letter about it", adds=True),
        Key("mail-on", _mail_on, "begin|end|fail,...", "when", adds=True),
        Key("tags", _list, "WORD,...", "words to find it by", adds=True),
    )
}
"""All keys, by name, in the order of the manual."""
