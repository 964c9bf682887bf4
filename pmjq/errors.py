"""The tree of errors, each with the exit code it ends a command with.

    PmjqError                      1   anything a person is told about
    +-- UsageError                64   the command line cannot be carried out
    +-- NotFoundError             66   no such spool or job
    +-- UnreachableError          69   the share that the spool is on does not answer
    +-- CannotCreateError         73   a directory or file cannot be made
    +-- TryLaterError             75   somebody else has what is needed: a second daemon of one node
    +-- NotPermittedError         77   the file system or the owner says no
    +-- ConfigurationError        78   the set-up is wrong, and starting again will not help

Exit codes are those of sysexits(3). Only broken contracts are exceptions here: losing a race for
a job is a value (``None`` or ``False``), because it is what is expected to happen on a shared
spool.

Messages are for people: subject first, lower case, and what to do about it.
"""

from __future__ import annotations

import errno

UNREACHABLE = frozenset(
    {
        errno.ENOTCONN,
        errno.ESHUTDOWN,
        errno.ECONNABORTED,
        errno.ECONNREFUSED,
        errno.ECONNRESET,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.EREMOTEIO,
        errno.ESTALE,
        errno.ETIMEDOUT,
    }
)
"""Errors of a share whose server is gone, or that was mounted and is so no more."""


class PmjqError(Exception):
    """Say to a person what is wrong and what to do; the root of all errors of pmjq."""

    exit_code = 1


class UsageError(PmjqError):
    """Refuse a command line that cannot be carried out."""

    exit_code = 64


class NotFoundError(PmjqError):
    """Name a spool or a job that is not there."""

    exit_code = 66


class UnreachableError(PmjqError):
    """Report a spool on a share whose server does not answer."""

    exit_code = 69


class CannotCreateError(PmjqError):
    """Report a directory or a file that cannot be made."""

    exit_code = 73


class TryLaterError(PmjqError):
    """Report that somebody else holds what is needed for the moment."""

    exit_code = 75


class NotPermittedError(PmjqError):
    """Report what the file system or an owner does not allow."""

    exit_code = 77


class ConfigurationError(PmjqError):
    """Report a set-up that no restart will mend."""

    exit_code = 78
