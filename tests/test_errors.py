"""The rules of errors: one tree, one exit code each."""

from __future__ import annotations

import os

import pytest

from pmjq import errors
from pmjq.errors import PmjqError

CODES = {
    "PmjqError": 1,
    "UsageError": os.EX_USAGE,
    "NotFoundError": os.EX_NOINPUT,
    "UnreachableError": os.EX_UNAVAILABLE,
    "CannotCreateError": os.EX_CANTCREAT,
    "TryLaterError": os.EX_TEMPFAIL,
    "NotPermittedError": os.EX_NOPERM,
    "ConfigurationError": os.EX_CONFIG,
}


def classes() -> list[type[PmjqError]]:
    """Return all errors of the module."""
    found = [value for value in vars(errors).values() if isinstance(value, type)]
    return [value for value in found if issubclass(value, PmjqError)]


def test_exit_codes_are_those_of_sysexits() -> None:
    """Every error ends a command with the code of sysexits(3) that fits it."""
    assert {error.__name__: error.exit_code for error in classes()} == CODES


def test_one_root() -> None:
    """Whoever catches PmjqError has caught everything that is told to a person."""
    assert {error.__mro__[1] for error in classes()} == {Exception, PmjqError}


@pytest.mark.parametrize("name", CODES)
def test_docstring_draws_the_whole_tree(name: str) -> None:
    """The tree in the module's opening has every error with its code."""
    lines = [line.split() for line in (errors.__doc__ or "").splitlines() if name in line]
    assert str(CODES[name]) in lines[0]


@pytest.mark.parametrize("error", classes())
def test_message_is_kept(error: type[PmjqError]) -> None:
    """What a person reads is exactly what was raised."""
    assert str(error("spool/x: is not there; make it")) == "spool/x: is not there; make it"
