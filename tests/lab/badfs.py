#!/usr/bin/python3
"""One client of a file system that is as bad as they come: a pass-through mount with faults.

    badfs.py BACKING MOUNT CONTROL

Mounted several times over one BACKING it stands for several machines. CONTROL is a JSON file that
is read again whenever it is replaced:

    {"listing": 5.0,       seconds for which a listing may be old
     "negative": 5.0,      seconds for which a name that was looked up in vain is not found
     "faults": [{"call": "rename|link", "path": "/run/", "odds": 0.1, "left": 5,
                 "hang": 10.0, "done": true, "error": "EIO"}]}

The first fault that fits is made: ``call`` must be the whole name of the operation, ``path`` is
searched for in its path, or in both with a space between; ``odds`` of 1 and any number ``left`` if
they are missing. ``hang`` comes first; then the operation is carried out if it is ``done`` (a lost
reply), and then ``error`` is reported, if there is one. What this client changes itself, it sees.

Each second CONTROL.told is written: how many calls there were, and how many faults of a kind.
Runs with the interpreter that has fusepy, which Debian names fusepy and PyPI fuse.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import re
import sys
import threading
import time
from collections import Counter
from typing import Any, Protocol

TELL_EVERY = 1.0

ATTRIBUTES = ("st_mode", "st_nlink", "st_size", "st_uid", "st_gid", "st_ino", "st_blocks")
SPACE = ("f_bavail", "f_bfree", "f_blocks", "f_bsize", "f_favail", "f_ffree", "f_files")

CHANGES = frozenset({"create", "rename", "link", "symlink", "unlink", "mkdir", "rmdir", "mknod"})
"""Operations after which this client looks afresh at the names that they are about."""


class Control:
    """What is to go wrong, from a file, and what did."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.listing = self.negative = 0.0
        self.calls: Counter[str] = Counter()
        self.made: Counter[str] = Counter()
        self._faults: list[dict[str, Any]] = []
        self._stamp: tuple[int, int] | None = None
        self._lock = threading.Lock()
        threading.Thread(target=self._tell, daemon=True).start()

    def fault(self, call: str, path: str) -> dict[str, Any] | None:
        """Return the fault to make now."""
        with self._lock:
            self.calls[call] += 1
            self._read()
            for fault in self._faults:
                if not re.fullmatch(fault.get("call", ".*"), call):
                    continue
                if not re.search(fault.get("path", ""), path) or fault.get("left", 1) <= 0:
                    continue
                if random.random() >= fault.get("odds", 1.0):
                    continue
                if "left" in fault:
                    fault["left"] -= 1
                self.made[_named(call, fault)] += 1
                return fault
        return None

    def _read(self) -> None:
        stamp = None
        with contextlib.suppress(OSError):
            stat = os.stat(self.path)
            stamp = (stat.st_ino, stat.st_mtime_ns)
        if stamp == self._stamp:
            return
        self._stamp, wanted = stamp, {}
        if stamp is not None:
            with open(self.path, encoding="utf-8") as file:
                wanted = json.load(file)
        self.listing, self.negative = wanted.get("listing", 0.0), wanted.get("negative", 0.0)
        self._faults = wanted.get("faults", [])

    def _tell(self) -> None:
        while True:
            time.sleep(TELL_EVERY)
            with self._lock:
                text = json.dumps({"calls": self.calls, "faults": self.made})
            with open(f"{self.path}.part", "w", encoding="utf-8") as file:
                file.write(text)
            os.replace(f"{self.path}.part", f"{self.path}.told")


def _named(call: str, fault: dict[str, Any]) -> str:
    words = [call]
    if fault.get("hang"):
        words.append(f"hung {fault['hang']:g} s")
    if fault.get("error"):
        words.append(("done, " if fault.get("done") else "") + fault["error"])
    return " ".join(words)


class Handle(Protocol):
    """An open file, as libfuse has it."""

    fh: int
    flags: int


class Client:
    """The operations, as fusepy calls them: by name, with the path first."""

    use_ns = True

    def __init__(self, backing: str, control: Control) -> None:
        self.backing = backing
        self.control = control
        self._listings: dict[str, tuple[float, list[str]]] = {}
        self._absent: dict[str, float] = {}

    def __call__(self, call: str, path: str, *arguments: Any) -> Any:  # noqa: ANN401  # each its own
        """Carry out an operation, well or badly."""
        paths = [path, *(word for word in arguments if isinstance(word, str))]
        fault = self.control.fault(call, " ".join(paths)) or {}
        if fault.get("hang"):
            time.sleep(fault["hang"])
        number = getattr(errno, fault["error"]) if fault.get("error") else 0
        if number and not fault.get("done"):
            raise OSError(number, os.strerror(number))
        try:
            result = getattr(self, call)(path, *arguments)
        finally:
            if call in CHANGES:
                self._forget(paths)
        if number:
            if call in ("open", "create"):
                os.close(arguments[-1].fh)
            raise OSError(number, os.strerror(number))
        return result

    def _forget(self, paths: list[str]) -> None:
        for path in paths:
            self._listings.pop(os.path.dirname(path), None)
            self._listings.pop(path, None)
            self._absent.pop(path, None)

    def _real(self, path: str) -> str:
        return self.backing + path

    # -- looks

    def getattr(self, path: str, fi: Handle | None = None) -> dict[str, int]:
        now = time.monotonic()
        if now < self._absent.get(path, 0.0):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        try:
            stat = os.lstat(self._real(path))
        except FileNotFoundError:
            if self.control.negative:
                self._absent[path] = now + self.control.negative
            raise
        found = {name: getattr(stat, name) for name in ATTRIBUTES}
        times = ("st_atime", "st_mtime", "st_ctime")
        return found | {name: getattr(stat, f"{name}_ns") for name in times}

    def readdir(self, path: str, fi: Handle) -> list[str]:
        now = time.monotonic()
        until, names = self._listings.get(path, (0.0, []))
        if now >= until:
            names = [".", "..", *os.listdir(self._real(path))]
            self._listings[path] = (now + self.control.listing, names)
        return names

    def readlink(self, path: str) -> str:
        return os.readlink(self._real(path))

    def statfs(self, path: str) -> dict[str, int]:
        found = os.statvfs(self._real(path))
        wanted = (*SPACE, "f_flag", "f_frsize", "f_namemax")
        return {name: getattr(found, name) for name in wanted}

    # -- files

    def open(self, path: str, fi: Handle) -> int:
        # The kernel has made the offsets of an append already.
        fi.fh = os.open(self._real(path), fi.flags & ~(os.O_APPEND | os.O_CREAT | os.O_EXCL))
        return 0

    def create(self, path: str, mode: int, fi: Handle) -> int:
        fi.fh = os.open(self._real(path), (fi.flags & ~os.O_APPEND) | os.O_CREAT, mode)
        return 0

    def read(self, path: str, size: int, offset: int, fi: Handle) -> bytes:
        return os.pread(fi.fh, size, offset)

    def write(self, path: str, data: bytes, offset: int, fi: Handle) -> int:
        return os.pwrite(fi.fh, data, offset)

    def truncate(self, path: str, length: int, fi: Handle | None = None) -> None:
        os.truncate(self._real(path), length)

    def fsync(self, path: str, data_only: int, fi: Handle) -> None:
        os.fsync(fi.fh)

    def fsyncdir(self, path: str, data_only: int, fi: Handle) -> None:
        fd = os.open(self._real(path), os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def flush(self, path: str, fi: Handle) -> None:
        pass

    def release(self, path: str, fi: Handle) -> None:
        os.close(fi.fh)

    # -- names

    def rename(self, source: str, target: str) -> None:
        os.rename(self._real(source), self._real(target))

    def link(self, path: str, existing: str) -> None:
        os.link(self._real(existing), self._real(path), follow_symlinks=False)

    def symlink(self, path: str, content: str) -> None:
        os.symlink(content, self._real(path))

    def unlink(self, path: str) -> None:
        os.unlink(self._real(path))

    def mkdir(self, path: str, mode: int) -> None:
        os.mkdir(self._real(path), mode)

    def rmdir(self, path: str) -> None:
        os.rmdir(self._real(path))

    def mknod(self, path: str, mode: int, device: int) -> None:
        os.mknod(self._real(path), mode, device)

    # -- attributes

    def chmod(self, path: str, mode: int) -> None:
        os.chmod(self._real(path), mode)

    def chown(self, path: str, uid: int, gid: int) -> None:
        os.chown(self._real(path), uid, gid, follow_symlinks=False)

    def utimens(self, path: str, times: tuple[int, int] | None = None) -> None:
        os.utime(self._real(path), ns=times or (time.time_ns(),) * 2, follow_symlinks=False)


def main() -> None:
    """Mount, and serve until unmounted."""
    try:
        from fusepy import FUSE  # type: ignore[import-not-found]  # noqa: PLC0415  # not in the venv
    except ImportError:
        from fuse import FUSE  # type: ignore[import-not-found]  # noqa: PLC0415
    backing, mount, control = map(os.path.abspath, sys.argv[1:4])
    FUSE(
        Client(backing, Control(control)),
        mount,
        foreground=True,
        raw_fi=True,
        use_ino=True,
        allow_other=True,
        default_permissions=True,
        fsname="badfs",
        subtype="badfs",
    )


if __name__ == "__main__":
    main()
