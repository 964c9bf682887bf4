"""Access control lists, as far as root's daemon wants them: see acl(5).

A list may let others write what the modes show as its owner's, and it is by a list that an owner
reads what root tells of his jobs. Many network file systems have none; there a group serves that
is his alone.
"""

from __future__ import annotations

import errno
import os
import stat as modes
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

ACCESS_LIST = "system.posix_acl_access"
"""The attribute that holds the list of a file."""

_NO_LISTS = (errno.EOPNOTSUPP, errno.EINVAL)


def listed(fd: int, stat: os.stat_result) -> bool:
    """Tell whether a list says who may write what its group may: more than the mode shows."""
    return bool(stat.st_mode & modes.S_IWGRP) and has(fd)


def has(path: str | int) -> bool:
    """Tell whether there is a list, or might be."""
    try:
        return bool(os.getxattr(path, ACCESS_LIST, follow_symlinks=isinstance(path, int)))
    except OSError as error:
        return error.errno not in (errno.ENODATA, errno.EOPNOTSUPP)


def grant(fd: int, uid: int, group_of: Callable[[int], int | None] | None = None) -> None:
    """Let one user read a file of ours or look into a directory, and nobody else.

    On a file system without lists it is given to the group that is his alone, as ``group_of``
    tells. Where there is none, or the file system keeps no groups, we alone may read it; what is in
    a directory its user still reaches by name, and so do the others. OSError: neither can be done.
    """
    own, theirs = (7, 5) if modes.S_ISDIR(os.fstat(fd).st_mode) else (6, 4)
    try:
        os.setxattr(fd, ACCESS_LIST, _list(own, uid, theirs))
    except OSError as error:
        if error.errno not in _NO_LISTS:
            raise
        group = None if group_of is None else group_of(uid)
        if group is not None:
            os.fchown(fd, -1, group)
        given = group is not None and os.fstat(fd).st_gid == group
        os.fchmod(fd, own << 6 | (theirs << 3 if given else theirs & 1))


def _list(own: int, uid: int, theirs: int) -> bytes:
    """Return the list that gives rights to the owner and to one user, and none to all others.

    As the kernel has it, see linux/posix_acl_xattr.h: a version, then tag, rights and number of
    each entry, in the order of their tags: owner, user, group, mask, others.
    """
    nobody = 0xFFFFFFFF
    entries = (
        (0x01, own, nobody),
        (0x02, theirs, uid),
        (0x04, 0, nobody),
        (0x10, theirs, nobody),
        (0x20, 0, nobody),
    )
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
