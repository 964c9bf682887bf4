"""Who the user of a number is, as the name services of this machine tell.

They may ask a server and take their time, in which some of the calls let no other thread of a
process go on. So a process of its own asks, whose last line tells: null where the number is
nobody's.

This file is executed by its path: the standard library alone.
"""

import contextlib
import grp
import json
import os
import pwd
import sys


def tell(uid: int) -> dict[str, object] | None:
    """Return name, first group, and numbers and names of all groups of a user; None: there is none.

    ``alone``: the first group has his name, as the tools that make users give each one of his own,
    and nobody else is in it, as far as this machine lists its users.
    """
    try:
        user = pwd.getpwuid(uid)
    except KeyError:
        return None
    groups = os.getgrouplist(user.pw_name, user.pw_gid)
    names = []
    for gid in groups:
        with contextlib.suppress(KeyError):
            names.append(grp.getgrgid(gid).gr_name)
    return {
        "uid": uid,
        "name": user.pw_name,
        "gid": user.pw_gid,
        "gids": groups,
        "groups": names,
        "alone": alone(user),
    }


def alone(user: pwd.struct_passwd) -> bool:
    """Tell whether the first group of a user is his alone."""
    try:
        group = grp.getgrgid(user.pw_gid)
    except KeyError:
        return False
    if group.gr_name != user.pw_name or {*group.gr_mem} - {user.pw_name}:
        return False
    return all(one.pw_uid == user.pw_uid for one in pwd.getpwall() if one.pw_gid == user.pw_gid)


if __name__ == "__main__":
    print(json.dumps(tell(int(sys.argv[1]))))  # noqa: T201  # read by pmjq.account
