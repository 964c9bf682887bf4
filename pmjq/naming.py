"""Names of files: as people and JSON have them, of ids, and of what is archived.

Names may hold any bytes but ``/`` and NUL. In Python they are ``str`` with surrogate escapes, as
``os.fsdecode`` makes them. JSON cannot carry those, so files hold a name for people, ``shown``,
and, only where that is not exact, its bytes for machines, ``exact``.

Pure.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime

OWN = ".pmjq"
"""The one name in the spool that is pmjq's."""

ASKING = ".pmjq.ask."
"""How a name begins that tells a daemon that it is asked for something; it is gone at once."""

SUBMITTED, HIDDEN = "submit.", ".pmjq-submit."
"""How the names begin, in ``tmp/`` and in the spool, of what people's commands construct."""

SIGNATURE = ".sig"
"""What the name of a signature has more than that of its job."""

NAME_MAX = 255
"""Longest file name in bytes, on every Linux file system in use."""

LEAST_PREFIX = 4
"""Characters of an id at least that find a job."""

LONGEST_AFFIX = len(b".") + len(b".json") + len(b".part")
"""What the archive puts around a stem at most: a hidden name under construction."""

_STAMP = "%Y%m%dT%H%M%S.%f"
"""How the time is written with which an archived name begins."""

_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

STEM = re.compile(rf"\d{{8}}T\d{{6}}\.\d{{6}}Z-({_ID.pattern})-")
"""How archived names begin; the first group is the id."""


def shown(name: str) -> str:
    r"""Return a name as people and JSON can have it: bytes that are not UTF-8 become ``\xNN``."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def exact(name: str) -> str:
    """Return the hexadecimal bytes of a name that ``shown`` does not give exactly, else nothing."""
    return "" if name.isascii() or shown(name) == name else _bytes(name).hex()


def is_id(text: str) -> bool:
    """Tell whether a text is an id as nodes give them."""
    return _ID.fullmatch(text) is not None


def begins_id(text: str) -> bool:
    """Tell whether a text may be the start of an id by which a person names a job."""
    return len(text) >= LEAST_PREFIX and not set(text) - set("0123456789abcdef-")


def real_name(text: str, hexadecimal: str) -> str:
    """Return the file name that ``shown`` and ``exact`` were made from."""
    if not hexadecimal:
        return text
    return bytes.fromhex(hexadecimal).decode("utf-8", "surrogateescape")


def filed(name: str) -> tuple[datetime, str, str] | None:
    """Return the time, the id and the rest of an archived name, with its suffix; None: it is none.

    The opposite of ``stem``.
    """
    match = STEM.match(name)
    if match is None:
        return None
    try:
        ended = datetime.strptime(name.partition("Z")[0], _STAMP).replace(tzinfo=UTC)
    except ValueError:
        return None
    return ended, match[1], name[match.end() :]


def stem(ended: datetime, job_id: str, name: str) -> str:
    """Return the archived name: stamp, id and name, shortened to leave room for every affix."""
    prefix = f"{ended:{_STAMP}}Z-{job_id}-"
    room = NAME_MAX - LONGEST_AFFIX - len(prefix)
    return prefix + shortened(name, room)


def shortened(name: str, room: int) -> str:
    """Return as much of a name as has room in so many bytes, and no half of a letter."""
    if len(name) * 4 <= room or len(_bytes(name)) <= room:
        return name
    half = "surrogateescape" if exact(name) else "ignore"
    return _bytes(name)[:room].decode("utf-8", half)


def _bytes(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")
