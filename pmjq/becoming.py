"""Becoming a job: what a child of the keeper does before execve where posix_spawn does not reach.

A job of another user, or one that is held to limits by the kernel, is forked: its child opens what
it writes to with the rights of the keeper, takes on its limits, becomes its owner for good, and
executes. This is the only code of pmjq that changes its user, and after that there is no way back.
The child tells over a pipe why it could not; that the pipe ends without a word is the start.

``Terms`` are what the order says of it, all of them optional:

======== ==========================================================================================
cgroup   the control group it joins: a path, made before the fork and removed when it is empty
files    what is written into the control group: text by name of the file
limits   resource limits: triples of number, soft and hard
cpus     the CPUs it may run on
umask    the mask of its files
uid      who it becomes, with ``gid`` and ``groups``; its output is his
private  whether nobody else may read that
confined whether no program that it executes may give it more rights (PR_SET_NO_NEW_PRIVS)
enforced what holds it to what it asks for, in the words of status.N
======== ==========================================================================================

The standard library alone, like the keeper.
"""

from __future__ import annotations

import errno
import os
import resource
import signal

# As typing has it, which is half a megabyte that the keeper does without.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Terms = dict[str, Any]
    Prctl = Callable[[int, int, int, int, int], int]
else:
    Terms = dict
    Prctl = object

PR_SET_NO_NEW_PRIVS = 38
"""From linux/prctl.h."""

FAILED = 127
"""The exit code of a child that has told why."""

OUT = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC

OPTIONAL = frozenset({"memory.swap.max", "memory.oom.group"})
"""Files that older kernels, or those without swap, do not have."""

RESET = signal.valid_signals()
"""A job must find all signals as a login gives them.

The keeper ignores and catches some, and whoever started the daemon may have had it ignore any: a
shell does so with INT and QUIT for what it starts with ``&``.
"""


def prctl() -> Prctl | None:
    """Return the system call prctl; None where it cannot be made."""
    try:
        import ctypes  # noqa: PLC0415  # it may be missing from a small Python

        call: Prctl = ctypes.CDLL(None).prctl
    except (ImportError, OSError, AttributeError):
        return None
    return call


def make_room(terms: Terms) -> None:
    """Make the control group that a child is to join; OSError if that cannot be."""
    if "cgroup" not in terms:
        return
    if not os.path.isdir(terms["cgroup"]):
        # It is there for a start that has to be tried again.
        os.mkdir(terms["cgroup"])
    for name, text in terms.get("files", {}).items():
        try:
            _write(f"{terms['cgroup']}/{name}", text)
        except OSError:
            if name not in OPTIONAL:
                raise


def exceeded(terms: Terms) -> str:
    """Return which of its limits the kernel has ended a job for, as its control group tells."""
    if "cgroup" not in terms:
        return ""
    try:
        fd = os.open(f"{terms['cgroup']}/memory.events", os.O_RDONLY | os.O_CLOEXEC)
        try:
            words = os.read(fd, 4096).split()
        finally:
            os.close(fd)
        kills = words[words.index(b"oom_kill") + 1]
    except (OSError, ValueError, IndexError):
        return ""
    return "memory" if kills != b"0" else ""


def removed(cgroup: str) -> bool:
    """Remove a control group; False if something is left in it."""
    try:
        os.rmdir(cgroup)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def fork(
    path: str,
    argv: list[str],
    work: str,
    out: str,
    environment: dict[str, str],
    nicer: int,
    terms: Terms,
    call: Prctl | None,
) -> tuple[int, int]:
    """Return the pid of a child that becomes a job, and the pipe by which it tells why it cannot.

    OSError: there is no child.
    """
    told, tell = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        pid = os.fork()
    except OSError:
        os.close(told)
        os.close(tell)
        raise
    if pid:
        os.close(tell)
        os.set_blocking(told, False)
        return pid, told
    number = errno.EIO
    try:
        os.setsid()
        _open(out, terms)
        _become(nicer, terms, call)
        os.chdir(work)
        for each in RESET - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(each, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.execve(path, argv, environment)  # noqa: S606  # no shell is meant
    except OSError as error:
        number = error.errno or errno.EIO
    except BaseException:  # noqa: BLE001  # nothing may go on as a second keeper
        number = errno.EINVAL
    finally:
        os.write(tell, str(number).encode())
        os._exit(FAILED)


def reason(told: int) -> int | None:
    """Return the errno that a child has told, 0 if it has become the job, None before that."""
    try:
        return int(os.read(told, 16) or b"0")
    except BlockingIOError:
        return None


def _open(out: str, terms: Terms) -> None:
    """Have nothing to read, and the output to write to."""
    nothing = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    theirs = "uid" in terms
    written = os.open(out, OUT, 0o600 if terms.get("private") else 0o666)
    if theirs:
        os.fchown(written, terms["uid"], terms["gid"])
    for fd, source in ((0, nothing), (1, written), (2, written)):
        os.dup2(source, fd)


def _become(nicer: int, terms: Terms, call: Prctl | None) -> None:
    """Take on limits first, which takes rights, then the owner; OSError if one cannot be had."""
    try:
        _take_on(terms)
    except OSError as error:
        # Not the job's own fault, as the same number from execve is: it is to be tried again.
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN)) from error
    if "umask" in terms:
        os.umask(terms["umask"])
    if "uid" in terms:
        os.setgroups(terms["groups"])
        gid, uid = terms["gid"], terms["uid"]
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    if nicer:
        be_nicer(0, nicer)
    if terms.get("confined") and (call is None or call(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))


def _write(path: str, text: str) -> None:
    """Write what a control group is told; only tests come to a file that is not there."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _take_on(terms: Terms) -> None:
    if "cgroup" in terms:
        _write(f"{terms['cgroup']}/cgroup.procs", "0")
    for number, soft, hard in terms.get("limits", ()):
        try:
            resource.setrlimit(number, (soft, hard))
        except ValueError:
            # Only root may raise the hard one: what holds for us is less than is asked for.
            _, most = resource.getrlimit(number)
            resource.setrlimit(number, (min(soft, most) if soft >= 0 else most, most))
    if "cpus" in terms:
        os.sched_setaffinity(0, terms["cpus"])


def be_nicer(group: int, by: int) -> None:
    """Add to the niceness of a job; less than ours only root may have, so it may stay as it is."""
    try:
        os.setpriority(os.PRIO_PGRP, group, os.getpriority(os.PRIO_PROCESS, 0) + by)
    except OSError:
        return
