"""Users and names as this machine knows them.

What a login gives, who a number is, what we are called.
"""

from __future__ import annotations

import functools
import os
import pwd
import socket


def login_environment() -> dict[str, str]:
    """Return what a login gives a job of this user.

    No more than that comes from the daemon's own environment.
    """
    uid = os.geteuid()
    try:
        user = pwd.getpwuid(uid)
        name, home, shell = user.pw_name, user.pw_dir, user.pw_shell or "/bin/sh"
    except KeyError:
        name, home, shell = str(uid), "/", "/bin/sh"
    path = "/usr/local/bin:/usr/bin:/bin"
    if uid == 0:
        path = f"/usr/local/sbin:{path}:/usr/sbin:/sbin"
    environment = {
        "HOME": home,
        "USER": name,
        "LOGNAME": name,
        "SHELL": shell,
        "PATH": path,
        "LANG": os.environ.get("LANG", "C.UTF-8"),
        "BATCH_SYSTEM": "pmjq",
    }
    kept = {key: value for key, value in os.environ.items() if key == "TZ" or key.startswith("LC_")}
    return environment | kept


@functools.cache
def owner_name(uid: int) -> str:
    """Return the name of a user, or its number if it has none here."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def host_name() -> str:
    """Return the name of this machine as a node's name.

    That is its first label, with odd characters replaced.
    """
    name = socket.gethostname().partition(".")[0]
    return (
        "".join(letter if letter.isalnum() and letter.isascii() else "-" for letter in name).strip(
            "-"
        )
        or "node"
    )
