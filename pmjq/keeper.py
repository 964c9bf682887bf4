"""The keeper: the small process that is the parent of the jobs and outlives the daemon.

Started by the daemon with ``python -I -S`` and never by people. It imports ``pmjq.becoming`` and
nothing else of pmjq, nothing lazily and next to nothing at all, so it stays small, starts at once,
and goes on unharmed while pmjq is upgraded under it. It decides nothing.

It takes orders from FD, a socket that keeps message boundaries, and reports there. What matters
is on disk, in each attempt's ``status.N``, so a daemon that comes later needs no keeper to tell
it anything:

* The process that is to become the job creates ``status.N`` exclusively, as its last act before
  execve. This one call is the start: whoever else may want to start or void the same attempt
  fails from then on. posix_spawn does it in the child; a fork of a Python process would cost more
  than the job it starts (measured: 0.7 ms of CPU time), so only a job that has to become another
  user, or to be held to limits, pays for one (``pmjq.becoming``).
* The keeper then writes ``started PID START AT KEEPER KEEPER_START ENFORCED``, the last telling
  what holds it to what it asks for, and ``noexec ERRNO AT`` if execve failed.
* It waits for the job and writes ``exit CODE AT USER SYSTEM RSS``, and before that
  ``limit memory`` if the job's control group tells that the kernel ended it for that.

Every process of a job has the job's ``mark`` as its limit of file locks, so the daemon can tell
whose it is when parent, session and environment are gone.

A message is MOST, RECALL, NOW, LINE, TOLD and HEART. NOW is started at once. LINE is started in
its order while fewer than MOST jobs run, so that a slot that becomes free waits for nobody. RECALL
empties the line first; what stood in it is reported as not started. TOLD are jobs that are told to
stop, and the limit of theirs that they are over: that is written beside how they end, for whoever
reads it. HEART is PATH, COUNT, EVERY and
PROCESSES: a daemon that leaves its jobs running has its keeper go on with its heartbeat while one
of them runs, so that no other node takes them for lost.

If the daemon dies the keeper goes on until its last job has ended. If the keeper dies, its jobs
go on, and only their exit status is lost. It is single-threaded: the directory of a job is set by
chdir before the spawn.
"""

import errno
import marshal
import os
import resource
import select
import signal
import sys
import time

from pmjq import becoming

Key = tuple[str, int]
Order = tuple[Key, str, list[str], str, str, str, dict[str, str], int, becoming.Terms]
"""Key, path, argv, working directory, output, status, environment, niceness to add, terms."""

LONGEST_MESSAGE = 1 << 17
"""Bytes; the daemon sends no longer ones, since what does not fit a read is cut off."""

LONGEST_STATUS = 1 << 12

WIDTH = 20
"""Digits of a beat, as in pmjq.lease."""

TEXT_BUSY_TRIES = 40
TEXT_BUSY_PAUSE = 0.05
"""ETXTBSY: a process forked while a copy was being written may hold the descriptor for a moment."""

UNWRITTEN_PAUSE = 1.0
"""Seconds until a status that could not be written is written again: the disk may be full."""

PR_SET_CHILD_SUBREAPER = 36
"""From linux/prctl.h."""

MOST_COUNTED = 100
"""Jobs beside which it is still worth counting the children after an end."""

RLIMIT_LOCKS = 10
"""From asm-generic/resource.h. Linux has not enforced it since 2.4.25, see getrlimit(2)."""

MARKED = 1 << 61
"""A limit that nobody sets."""

OUT = os.O_WRONLY | os.O_CREAT | os.O_APPEND
STATUS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
STATUS_FD = 3

NICER = 7
TERMS = 8
"""Where an order has what older daemons do not send."""


class Keeper:
    """The jobs of one keeper process, and its line to the daemon."""

    def __init__(self, fd: int, woken: int) -> None:
        """Take the line to the daemon, and the descriptor that a signal makes readable."""
        self.fd = fd
        self.woken = woken
        self.connected = True
        self.jobs: dict[int, tuple[Key, str]] = {}
        self.becoming: dict[int, tuple[int, Order, int, int]] = {}
        self.terms: dict[int, becoming.Terms] = {}
        self.emptying: set[str] = set()
        self.busy: list[tuple[Order, int]] = []
        self.line: list[Order] = []
        self.most = 0
        self.unwritten: list[tuple[str, str]] = []
        self.beat: str = ""
        self.count = 0
        self.every = self.beat_at = 0.0
        self.others: list[tuple[int, int]] = []
        self.reports: list[tuple[object, ...]] = []
        self.pid = os.getpid()
        self.start = start_time(self.pid)
        self.locks = resource.getrlimit(RLIMIT_LOCKS)
        self.prctl = becoming.prctl()
        self.adopts = self.prctl is not None and adopt_orphans(self.prctl)
        self.children = f"/proc/self/task/{self.pid}/children"
        self.poll = select.poll()
        self.poll.register(fd, select.POLLIN)
        self.poll.register(woken, select.POLLIN)

    def run(self) -> None:
        """Go on until the daemon is gone and the last job has ended."""
        while self.connected or self.jobs or self.busy or self.unwritten or self.others:
            for fd, happened in self.poll.poll(self.pause()):
                if fd == self.woken:
                    os.read(self.woken, 4096)
                elif fd in self.becoming:
                    self.hear(fd)
                elif fd == self.fd and happened & ~select.POLLOUT:
                    # By this a child may be heard whose turn would come below.
                    self.obey()
            self.reap()
            self.try_again()
            self.start_line()
            self.report()
            self.go_on_beating()

    def pause(self) -> float | None:
        """Return for how many milliseconds there is nothing to do but listen."""
        if self.busy:
            return TEXT_BUSY_PAUSE * 1000
        if self.unwritten:
            return UNWRITTEN_PAUSE * 1000
        if self.beat and not self.connected:
            return max(0.0, self.beat_at - time.monotonic()) * 1000
        return None

    def obey(self) -> None:
        """Carry out one message of orders."""
        try:
            message = os.read(self.fd, LONGEST_MESSAGE)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EINTR):
                return
            message = b""
        if not message:
            self.disconnect()
            return
        # From the daemon that started this process.
        self.most, recall, now, line, told, heart = marshal.loads(message)  # noqa: S302
        # A daemon that is older than this file names no limits.
        limits = {tuple(each[:2]): "".join(each[2:]) or "-" for each in told}
        for key, status in list(self.jobs.values()):
            if key in limits:
                self.write(status, f"told {limits[key]}\n")
        if heart:
            self.beat, self.count, self.every, self.others = heart
        if recall:
            self.reports += [("unstarted", order[0], errno.ECANCELED, False) for order in self.line]
            self.line.clear()
        for order in now:
            self.begin(order, STATUS, 0)
            self.reap()
        self.line.extend(line)

    def start_line(self) -> None:
        """Start what stands in line, as far as it may."""
        while self.line and len(self.jobs) + len(self.busy) < self.most:
            self.begin(self.line.pop(0), STATUS, 0)

    def begin(self, order: Order, flags: int, tries: int) -> None:
        """Start one job; tell why if it did not start."""
        # A daemon that is older than this file sends less.
        key, status = order[0], order[5]
        nicer = order[7] if len(order) > NICER else 0
        terms = order[8] if len(order) > TERMS else {}
        if self.connected:
            # The next daemon must not take this process for one of the job's.
            limit_locks(mark(key[0]), self.locks[1])
        try:
            at = time.time()
            if terms:
                self.emptying.discard(terms.get("cgroup", ""))
                becoming.make_room(terms)
                # The start is here: what fails from now on is told beside it.
                os.close(os.open(status, flags, 0o644))
                pid, told = becoming.fork(*order[1:5], order[6], nicer, terms, self.prctl)
                self.becoming[told] = (pid, order, flags, tries)
                self.terms[pid] = terms
                self.poll.register(told, select.POLLIN)
            else:
                pid = self.spawn(order, flags)
        except OSError as error:
            self.take_leave(terms)
            self.not_begun(order, error.errno or errno.EIO, flags, tries)
        else:
            self.jobs[pid] = (key, status)
            if nicer and not terms:
                becoming.be_nicer(pid, nicer)
            start, enforced = start_time(pid), terms.get("enforced") or "-"
            line = f"started {pid} {start} {at:.6f} {self.pid} {self.start} {enforced}\n"
            self.write(status, line)
            self.reports.append(("started", key, pid, at))
        limit_locks(*self.locks)

    @staticmethod
    def spawn(order: Order, flags: int) -> int:
        """Return the pid of a job that runs with the rights of the keeper."""
        _, path, argv, work, out, status, environment = order[:7]
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, out, OUT, 0o666),
            (os.POSIX_SPAWN_DUP2, 1, 2),
            (os.POSIX_SPAWN_OPEN, STATUS_FD, status, flags, 0o644),
        ]
        os.chdir(work)
        try:
            return os.posix_spawn(
                path,
                argv,
                environment,
                file_actions=actions,
                setsid=True,
                setsigmask=[],
                setsigdef=becoming.RESET,
            )
        finally:
            os.chdir("/")

    def hear(self, told: int) -> None:
        """Hear whether a child has become its job; one that was heard before is gone from here."""
        number = becoming.reason(told) if told in self.becoming else None
        if number is None:
            return
        pid, order, flags, tries = self.becoming.pop(told)
        self.poll.unregister(told)
        os.close(told)
        if number:
            self.jobs.pop(pid, None)
            self.take_leave(self.terms.pop(pid, {}))
            self.not_begun(order, number, flags, tries)

    def not_begun(self, order: Order, number: int, flags: int, tries: int) -> None:
        """Sort out a failed spawn.

        Whether it failed before or after the attempt became ours, only its status tells.
        """
        key, status = order[0], order[5]
        ours = flags != STATUS or (number != errno.EEXIST and exists(status))
        if ours and number == errno.ETXTBSY and tries < TEXT_BUSY_TRIES:
            self.busy.append((order, tries + 1))
            return
        if ours:
            self.write(status, f"noexec {number} {time.time():.6f}\n")
        self.reports.append(("unstarted", key, number, ours))

    def try_again(self) -> None:
        """Try what had to wait for a moment."""
        busy, self.busy = self.busy, []
        for order, tries in busy:
            self.begin(order, STATUS & ~os.O_EXCL, tries)
        unwritten, self.unwritten = self.unwritten, []
        for status, line in unwritten:
            self.write(status, line, again=True)

    def reap(self) -> None:
        """Record every job that has ended, and take leave of what ended jobs left running."""
        ended: list[tuple[tuple[object, ...], tuple[object, ...]]] = []
        while True:
            try:
                pid, wait_status, used = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if not pid:
                break
            for told, child in list(self.becoming.items()):
                if child[0] == pid:
                    self.hear(told)
            job = self.jobs.pop(pid, None)
            if job is None:
                continue
            key, status = job
            terms = self.terms.pop(pid, {})
            over = self.take_leave(terms)
            if over:
                self.write(status, f"limit {over}\n")
            code, at = os.waitstatus_to_exitcode(wait_status), time.time()
            figures = (code, at, used.ru_utime, used.ru_stime, used.ru_maxrss * 1024)
            self.write(status, "exit {} {:.6f} {:.6f} {:.6f} {}\n".format(*figures))
            # A daemon that is older than this file sends no such terms, and knows no such words.
            held = (over, terms["enforced"]) if "enforced" in terms else ()
            ended.append((("ended", key, *figures), held))
        if ended:
            # Before the ends are told: nobody must take a slot for free that is taken again.
            self.start_line()
            alone = self.alone()
            self.reports += [(*report, alone, *held) for report, held in ended]
        self.emptying = {each for each in self.emptying if not becoming.removed(each)}

    def take_leave(self, terms: becoming.Terms) -> str:
        """Return which of its limits a job was ended for; its control group goes when it can."""
        if "cgroup" not in terms:
            return ""
        self.emptying.add(terms["cgroup"])
        return becoming.exceeded(terms)

    def alone(self) -> bool:
        """Tell whether every child is a job.

        What ended jobs left running comes to its subreaper, the keeper.
        """
        if not self.adopts or len(self.jobs) > MOST_COUNTED:
            return False
        try:
            fd = os.open(self.children, os.O_RDONLY)
            try:
                return len(os.read(fd, 1 << 16).split()) == len(self.jobs)
            finally:
                os.close(fd)
        except OSError:
            return False

    def write(self, status: str, line: str, *, again: bool = False) -> None:
        """Append a line to a status; one that cannot be written now is written later."""
        if self.unwritten and any(path == status for path, _ in self.unwritten):
            self.unwritten.append((status, line))
            return
        try:
            append(status, line.encode(), again=again)
        except OSError as error:
            # Gone: the job was taken over, or its paperwork is cleared already. Where the paperwork
            # of all jobs is gone, the share is not mounted, and will be.
            gone = error.errno in (errno.ENOENT, errno.ENOTDIR)
            if not gone or not exists(os.path.dirname(os.path.dirname(status))):
                self.unwritten.append((status, line))

    def report(self) -> None:
        """Tell the daemon what happened; a daemon that does not listen now is told later."""
        while self.connected and self.reports:
            part = self.reports[:200]
            try:
                os.write(self.fd, marshal.dumps(part))
            except OSError as error:
                if error.errno in (errno.EAGAIN, errno.EINTR, errno.ENOBUFS):
                    self.poll.modify(self.fd, select.POLLIN | select.POLLOUT)
                    return
                self.disconnect()
                return
            del self.reports[: len(part)]
        if self.connected:
            self.poll.modify(self.fd, select.POLLIN)

    def go_on_beating(self) -> None:
        """Rewrite the beat of a daemon that has left, until its jobs have ended or it is gone."""
        if self.connected or not self.beat or time.monotonic() < self.beat_at:
            return
        self.beat_at = time.monotonic() + self.every
        self.others = [one for one in self.others if start_time(one[0]) == one[1]]
        self.count += 1
        try:
            fd = os.open(self.beat, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.pwrite(fd, f"{self.count:0{WIDTH}}\n".encode(), 0)
                os.fdatasync(fd)
            finally:
                os.close(fd)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                # Buried: by the next daemon of this node, which has the jobs now.
                self.beat, self.others = "", []

    def disconnect(self) -> None:
        """Go on alone: the daemon is gone."""
        self.connected = False
        self.reports = []
        self.line.clear()
        self.poll.unregister(self.fd)
        os.close(self.fd)


def adopt_orphans(prctl: becoming.Prctl) -> bool:
    """Have orphaned descendants become children of this process; False where that cannot be.

    See PR_SET_CHILD_SUBREAPER in prctl(2).
    """
    return prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0


def mark(job_id: str) -> int:
    """Return the limit of file locks by which the processes of a job are known.

    It is the one thing that a process has from its parent for good and that is of no use to it. A
    new session, an empty environment or an end of the parent changes nothing about it. 0: none.
    """
    try:
        return MARKED | int(job_id.replace("-", "")[:15], 16)
    except ValueError:
        return 0


def limit_locks(soft: int, hard: int) -> None:
    """Limit the file locks of this process; where that is not allowed nothing is lost."""
    try:
        resource.setrlimit(RLIMIT_LOCKS, (soft, hard))
    except (OSError, ValueError):
        return


def append(path: str, line: bytes, *, again: bool) -> None:
    """Append a line to a file that has no other writer.

    ``again``: it was tried before, and some of the line may be there.
    """
    flags = os.O_RDWR if again else os.O_WRONLY
    fd = os.open(path, flags | os.O_APPEND | os.O_CLOEXEC)
    try:
        data = missing(os.read(fd, LONGEST_STATUS), line) if again else line
        while data:
            data = data[os.write(fd, data) :]
    finally:
        os.close(fd)


def missing(text: bytes, line: bytes) -> bytes:
    """Return what is to be written behind a text, so that it has a line once and whole."""
    if text == line or text.endswith(b"\n" + line):
        return b""
    torn = text.rpartition(b"\n")[2]
    return line[len(torn) :] if line.startswith(torn) else b"\n" + line


def exists(path: str) -> bool:
    """Tell whether anything has a name."""
    try:
        os.lstat(path)
    except OSError:
        return False
    return True


def start_time(pid: int) -> int:
    """Return field 22 of /proc/PID/stat; 0 if the process is gone.

    The name in field 2 may contain anything.
    """
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY)
    except OSError:
        return 0
    try:
        return int(os.read(fd, 4096).rpartition(b") ")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return 0
    finally:
        os.close(fd)


def main() -> None:
    """Keep the jobs that are ordered over the descriptor that the only argument names."""
    fd = int(sys.argv[1])
    os.set_blocking(fd, False)  # its own signature
    os.set_inheritable(fd, False)  # noqa: FBT003
    woken, wake = os.pipe()
    os.set_blocking(woken, False)
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    Keeper(fd, woken).run()
