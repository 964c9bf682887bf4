"""What all tests share: waiting, telling figures to a person, and how hypothesis is set up."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import pytest
from hypothesis import settings

T = TypeVar("T")

Say = Callable[[str], None]

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


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    """Return what prints a line of figures to the person who runs the tests."""

    def aloud(text: str) -> None:
        with capsys.disabled():
            print(f"\n  {text}", end=" ")

    return aloud
