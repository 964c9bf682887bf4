"""What all tests share: waiting for a condition, and how hypothesis is set up."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

from hypothesis import settings

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

# A shared machine may stop any example for longer than the 200 ms that hypothesis allows.
settings.register_profile("pmjq", deadline=None, max_examples=60)
settings.load_profile("pmjq")


def eventually(condition: Callable[[], T], *, within: float = 10.0) -> T:
    """Return the first true value of ``condition``; AssertionError after ``within`` seconds."""
    deadline = time.monotonic() + within
    while not (value := condition()):
        assert time.monotonic() < deadline, f"still {value!r} after {within:g} s"
        time.sleep(0.005)
    return value
