"""What a login gives a user beside his name: limits, umask, groups, variables.

PAM decides that, by ``/etc/pam.d/pmjq`` where somebody has put one; it also says who may not log in
at the moment. Its modules set what they set in the process that calls them and may take their time,
so they are called by a process of their own, whose last line tells what it has become. Nobody is
asked for a password: the owner of a file needs none.

Without that file a job has the limits that the daemon was started with, and the umask of
``/etc/login.defs``.

This file is executed by its path, as root: the standard library alone.
"""

import ctypes
import json
import os
import resource
import sys

SERVICE = "pmjq"

LIMITS = sorted({number for name, number in vars(resource).items() if name.startswith("RLIMIT_")})
"""All but that of file locks, which Python does not know and the keeper uses."""

PAM_SUCCESS = 0
PAM_ESTABLISH_CRED = 2
PAM_DELETE_CRED = 4
PAM_SILENT = 0x8000
"""From security/_pam_types.h."""


class _Conversation(ctypes.Structure):
    """struct pam_conv: nobody to talk to."""

    _fields_ = [("talk", ctypes.c_void_p), ("data", ctypes.c_void_p)]


def tell(name: str) -> dict[str, object]:
    """Open and close a session for a user; return what it gave, or ``refused`` and why."""
    before = _limits()
    pam = ctypes.CDLL("libpam.so.0")
    pam.pam_strerror.restype = ctypes.c_char_p
    pam.pam_getenvlist.restype = ctypes.POINTER(ctypes.c_char_p)
    handle = ctypes.c_void_p()
    talk = _Conversation()
    user, byref = os.fsencode(name), ctypes.byref
    result = pam.pam_start(SERVICE.encode(), user, byref(talk), byref(handle))
    steps = (
        ("pam_acct_mgmt", PAM_SILENT),
        ("pam_setcred", PAM_ESTABLISH_CRED | PAM_SILENT),
        ("pam_open_session", PAM_SILENT),
    )
    for step, flags in steps:
        if result == PAM_SUCCESS:
            result = getattr(pam, step)(handle, flags)
            if result != PAM_SUCCESS:
                why = (pam.pam_strerror(handle, result) or b"").decode("utf-8", "replace")
                return {"refused": f"{why} ({step})"}
    if result != PAM_SUCCESS:
        return {"refused": "PAM cannot be started"}
    variables = {}
    for each in pam.pam_getenvlist(handle):
        if each is None:
            break
        key, _, value = os.fsdecode(each).partition("=")
        variables[key] = value
    umask = os.umask(0o077)
    told: dict[str, object] = {
        "limits": [limit for limit in _limits() if limit not in before],
        "umask": umask,
        "groups": os.getgroups(),
        "environment": variables,
    }
    pam.pam_close_session(handle, PAM_SILENT)
    pam.pam_setcred(handle, PAM_DELETE_CRED | PAM_SILENT)
    pam.pam_end(handle, PAM_SUCCESS)
    return told


def _limits() -> list[tuple[int, int, int]]:
    return [(number, *resource.getrlimit(number)) for number in LIMITS]


def main() -> None:
    """Tell of the user that is named with his first group and the usual umask."""
    name, gid = sys.argv[1], int(sys.argv[2])
    os.umask(int(sys.argv[3]))
    # As a login does: PAM may add groups to these.
    os.initgroups(name, gid)
    os.setgid(gid)
    print(json.dumps(tell(name)))  # noqa: T201  # read by pmjq.account


if __name__ == "__main__":
    main()
