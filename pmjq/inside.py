"""What is in a directory of the spool: its info file, how much, how new, and whose.

Only one that has an info file is a job, and any other is looked into no further: it may be
somebody's archive. Whoever owns a directory may change it meanwhile, so the info file is opened by
the directory's descriptor; the rest is a picture that the owner may have changed when it is taken.
"""

from __future__ import annotations

import os
import stat as modes
from itertools import chain, islice

from pmjq import acl, walk
from pmjq.directives import HEAD
from pmjq.ready import INFO_FILES, MOST_INSIDE, Inside, Look


def look_inside(
    path: str, above: int, stat: os.stat_result, flags: int, *, deep: bool = True
) -> Look:
    """Look into a directory that has an info file, and into any other no further.

    ``above``: it is opened; ``flags``: to open the info file with. Not ``deep``: no further than
    that file.
    """
    odd = ""
    for name in INFO_FILES:
        try:
            # By its directory, in whose place nobody can put another.
            fd = os.open(name, flags, dir_fd=above)
        except FileNotFoundError:
            continue
        except OSError:
            odd = odd or name
            continue
        try:
            if modes.S_ISREG(os.fstat(fd).st_mode):
                info = (name, os.pread(fd, HEAD + 1, 0))
                listed = acl.listed(above, stat)
                inside = _inside(path, above, stat) if deep else None
                return Look(stat, None, None, info, inside, listed=listed)
            odd = odd or name
        finally:
            os.close(fd)
    return Look(stat, None, None, odd=odd)


def _inside(path: str, above: int, stat: os.stat_result) -> Inside:
    """Return what is in a directory, itself among it; of very much only the first."""
    entries = size = newest = 0
    foreign = grouped = ""
    for name, one in islice(chain([("", stat)], walk.below(path, MOST_INSIDE)), MOST_INSIDE):
        entries += 1
        size += one.st_size
        newest = max(newest, one.st_ctime_ns, one.st_mtime_ns)
        if not name or modes.S_ISLNK(one.st_mode):
            # A link has all rights, which says nothing but whose it is.
            foreign = foreign or (name if one.st_uid not in (stat.st_uid, 0) else "")
        elif not foreign and _foreign(one, stat, f"/proc/self/fd/{above}/{name}"):
            foreign = name
        elif one.st_mode & modes.S_IWGRP:
            grouped = grouped or name
    return Inside(entries, size, newest, foreign, grouped)


def _foreign(stat: os.stat_result, above: os.stat_result, path: str) -> bool:
    """Tell whether somebody else owns what is in a directory, or may write it as its group not."""
    if stat.st_uid not in (above.st_uid, 0) or stat.st_mode & modes.S_IWOTH:
        return True
    if not stat.st_mode & modes.S_IWGRP:
        return False
    return stat.st_gid != above.st_gid or acl.has(path)
