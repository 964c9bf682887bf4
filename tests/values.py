"""Values that several tests use: an attempt, a stat, names of any bytes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec
from hypothesis import strategies as st

from pmjq.job import Attempt

QUEUED = datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)
CLAIMED = datetime(2026, 1, 2, 3, 4, 6, 0, UTC)
ID = "0b5f0bfe-8a3c-4f2e-9f39-0c3a5d7e9a11"

ATTEMPT = Attempt(
    id=ID,
    name="job",
    attempt=1,
    owner="ann",
    uid=1000,
    node="a",
    token="a.b.c",
    queued=QUEUED,
    claimed=CLAIMED,
)


def attempt(**changes: Any) -> Attempt:  # noqa: ANN401  # each field has a type of its own
    """Return an attempt with some fields changed."""
    return msgspec.structs.replace(ATTEMPT, **changes)


@dataclass(frozen=True)
class FakeStat:
    """What an lstat tells of an executable file, unless told otherwise."""

    st_mode: int = 0o100755
    st_ino: int = 7
    st_dev: int = 1
    st_nlink: int = 1
    st_uid: int = 1000
    st_gid: int = 100
    st_size: int = 10
    st_mtime_ns: int = 1_000
    st_ctime_ns: int = 1_000


def _is_name(data: bytes) -> bool:
    return b"/" not in data and b"\0" not in data


NAMES = (
    st.one_of(
        st.binary(min_size=1, max_size=255),
        st.text(min_size=1, max_size=255).map(lambda text: os.fsencode(_storable(text))[:255]),
        st.sampled_from(
            [b"a" * 255, b"\xff" * 255, "\U0001f600".encode() * 63, b"a\\xff", b"\\xff\xff"]
        ),
    )
    .filter(_is_name)
    .map(os.fsdecode)
)
"""File names: 1 to 255 of any bytes but / and NUL."""


def _storable(text: str) -> str:
    return text.encode("utf-8", "ignore").decode() or "x"
