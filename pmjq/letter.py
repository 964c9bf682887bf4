"""A letter about a job that waits to be sent.

It is sent later than it was written, maybe more than once and by another node: all that is needed
for that is in it.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Literal

import msgspec

BEGIN, END = "begin", "end"
"""What letters are about; one about a failure is about an end."""

_NAME = re.compile(rf"[0-9a-f-]{{36}}\.\d+\.({BEGIN}|{END})")


class Letter(msgspec.Struct, frozen=True):
    """A letter that waits to be sent: the content of ``mail/ID.N.KIND``.

    ``to`` loses those who have it, or never will. ``text`` has lines that end in a newline, and
    nothing but ASCII.
    """

    sender: str
    to: tuple[str, ...]
    written: datetime
    text: str
    format: Literal[1] = 1


def name(job_id: str, attempt: int, kind: str) -> str:
    """Return the name of a letter: the same whenever it is written again."""
    return f"{job_id}.{attempt}.{kind}"


def is_name(text: str) -> bool:
    """Tell whether a text can name a letter."""
    return _NAME.fullmatch(text) is not None
