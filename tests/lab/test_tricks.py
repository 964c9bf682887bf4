"""What somebody tries at a drop box who wants to run programs as another, or to read or stop his.

Each trick is carried out by processes of the user eve, in a loop; where the system forbids her a
step, as hard links to other people's files, root takes it for her. What succeeds leaves a trace:
programs tell as whom they ran, ann's secret is looked for in all that eve can read. The last test
prints how often each trick was tried, and how often it succeeded.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from conftest import Say
from lab.dropbox import Box, People, Person, processes_of
from live import eventually
from pmjq.keeper import mark
from pmjq.state import State

pytestmark = pytest.mark.lab

SECRET = "the secret of ann"

BEGIN = """
import contextlib, os, random, sys, time
refused = contextlib.suppress(OSError)
def wait():
    time.sleep(random.random() / 1500)
def write(path, text, mode=0o755):
    with contextlib.suppress(OSError):
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
        os.write(fd, text.encode())
        os.close(fd)
"""
"""What the programs of all tricks begin with."""

TRIED: dict[str, tuple[int, int]] = {}
"""How often each trick was tried, and how often it succeeded."""


def tried(trick: str, times: int, succeeded: int) -> None:
    """Take note of a trick; AssertionError if it succeeded once."""
    before = TRIED.get(trick, (0, 0))
    TRIED[trick] = before[0] + times, before[1] + succeeded
    assert times
    assert succeeded == 0, f"{trick}: {succeeded} of {times}"


def as_others(box: Box, people: People) -> int:
    """Return how often programs told that they ran as somebody else than eve."""
    return sum(box.traces(uid) for uid in (0, people.ann.uid, people.tom.uid))


def served(box: Box, person: Person, name: str) -> None:
    """Wait until a job that is put into the spool now has run: what came before was looked at."""
    box.put(person, name)
    assert box.ended(name, within=60).record.state is State.DONE
    assert box.alive()


def leaks(box: Box, eve: Person, text: str = SECRET) -> list[str]:
    """Return the files of the spool and its archive in which eve reads a text."""
    return eve.python(SEARCH, text, box.spool, box.archive).splitlines()


SEARCH = """
import os, sys
text, *tops = sys.argv[1:]
for top in tops:
    for path, _, names in os.walk(top):
        for name in names:
            try:
                fd = os.open(f"{path}/{name}", os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
            except OSError:
                continue
            if text.encode() in os.read(fd, 1 << 20):
                print(f"{path}/{name}")
            os.close(fd)
"""


@pytest.fixture
def box(near: Box) -> Iterator[Box]:
    """Return the near drop box, and forget what ran in it."""
    near.forget_traces()
    yield near
    for name in near.spooled():
        path = near.spool / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def victim(box: Box, people: People) -> Path:
    """Return a script of ann's that everybody can read, and that tells as whom it ran."""
    return people.ann.write(people.ann.home / "script", f"#!/bin/sh\n{box.trace()}")


# -- a: another file in the place of the one that was looked at

SWAP = """
spool, text, victim, times = sys.argv[1:]
for n in range(int(times)):
    if n % 2:
        with refused:
            os.symlink(victim, f"{spool}/.odd")
        name = f"{spool}/.odd"
    else:
        name = f"{spool}/.even"
        write(name, text)
    with refused:
        os.rename(name, f"{spool}/swapped{n // 2 % 4}")
    wait()
"""


def test_swap(box: Box, people: People) -> None:
    """A link to ann's script takes the place of eve's own one while it is looked at and claimed."""
    times = 6000
    text = f"#!/bin/sh\n{box.trace()}"
    people.eve.python(BEGIN + SWAP, box.spool, text, victim(box, people), str(times))
    served(box, people.eve, "after-swap")
    eventually(lambda: box.traces(people.eve.uid), what="none of her own has run")
    tried("swap of an own script and a link to ann's", times, as_others(box, people))


# -- b: hard links

LINKS = """
spool, victim, other, times = sys.argv[1:]
for n in range(int(times)):
    name = f"{spool}/hard{n % 8}"
    with refused:
        os.link(victim, name)
    with refused:
        os.link(victim, other)
    wait()
    with refused:
        os.unlink(random.choice((name, other)))
    with refused:
        os.unlink(other)
"""


def test_hard_links(box: Box, people: People) -> None:
    """Ann's script gets and loses second names in the spool; root makes them for eve."""
    times, script = 4000, victim(box, people)
    command = [sys.executable, "-I", "-S", "-c", BEGIN + LINKS, str(box.spool), str(script)]
    subprocess.run([*command, str(people.eve.home / "other"), str(times)], check=True)
    served(box, people.eve, "after-links")
    tried("hard links to ann's script, made by root", times, as_others(box, people))
    done = people.eve.run("ln", script, box.spool / "own-hand")
    assert (done.returncode != 0, (box.spool / "own-hand").exists()) == (True, False)


# -- c: symbolic links for directories, their info files and what is in them

FLICKER = """
spool, own, victim, secret, rounds = sys.argv[1:]
swaps = 0
for turn in range(int(rounds)):
    here = [f"{spool}/dir{turn}-{n}" for n in range(30)]
    for path in here:
        os.mkdir(path)
        write(f"{path}/job.toml", 'script = "./go"\\n', 0o644)
        write(f"{path}/go", own)
    time.sleep(1.9)
    end = time.monotonic() + 1.2
    while time.monotonic() < end:
        path = random.choice(here)
        with refused:
            for target, name in ((secret, "job.toml"), (f"{victim}/go", "go")):
                os.symlink(target, f"{path}/.link")
                os.rename(f"{path}/{name}", f"{path}/.kept")
                os.rename(f"{path}/.link", f"{path}/{name}")
                os.rename(f"{path}/.kept", f"{path}/{name}")
        with refused:
            os.rename(path, f"{spool}/.away")
            os.symlink(victim, path)
            os.unlink(path)
            os.rename(f"{spool}/.away", path)
        swaps += 3
print(swaps)
"""


def test_links_and_directories(box: Box, people: People) -> None:
    """Ann's directory, her program, and her secret for an info file, in the place of eve's own."""
    ann, eve, _ = people.all()
    theirs = ann.home / "dir"
    theirs.mkdir(exist_ok=True)
    ann.write(theirs / "job.toml", 'script = "./go"\n', 0o644)
    ann.write(theirs / "go", f"#!/bin/sh\n{box.trace()}")
    os.chown(theirs, ann.uid, ann.gid)
    secret = ann.write(ann.home / "secret", f"{SECRET}\n", 0o600)
    own = f"#!/bin/sh\n{box.trace()}"
    times = int(eve.python(BEGIN + FLICKER, box.spool, own, theirs, secret, "2"))
    served(box, eve, "after-flicker")
    eventually(lambda: box.traces(eve.uid), what="none of her own has run")
    found = as_others(box, people) + len(leaks(box, eve))
    tried("links in the place of directories, info files, programs", times, found)


# -- d: set-id

SETID = """
spool, text, times = sys.argv[1:]
for n in range(int(times)):
    name = f"{spool}/.set{n}"
    write(name, text)
    os.chmod(name, (0o4755, 0o2755, 0o6755)[n % 3])
    os.rename(name, f"{spool}/set{n}")
"""


def test_set_id(box: Box, people: People) -> None:
    """Copies that are set-user-id or set-group-id are not executed at all."""
    times = 300
    text = f"#!/bin/sh\n{box.trace()}"
    people.eve.python(BEGIN + SETID, box.spool, text, str(times))
    roots = box.write("roots", Path(shutil.which("id") or "").read_bytes(), 0o4755)
    roots.rename(box.spool / "roots")
    served(box, people.tom, "after-set-id")
    eventually(lambda: not [name for name in box.spooled() if name.startswith("set")], within=60)
    tried("set-id copies", times, box.traces(people.eve.uid) + as_others(box, people))


# -- e: papers

FORGE = """
import json
own, papers, text, times = sys.argv[1:]
made, tries = [], 0
def attempt(what, call, *given):
    global tries
    tries += 1
    try:
        call(*given)
    except OSError:
        return
    made.append(what)
def opened(path):
    os.close(os.open(path, os.O_WRONLY))
def append(path):
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o755))
write("mine", text)
for turn in range(int(times)):
    places = [path for path, _, _ in os.walk(own)]
    if papers:
        places += [papers, os.path.dirname(papers)]
    for place in places:
        mine = papers and (place + "/").startswith(f"{papers}/work/")
        if mine or "/ask" in place or "/work" in place:
            continue
        for name in "claim.1.json record.1.json status.1 out.1 work x executable".split():
            path = f"{place}/{name}"
            attempt(path, append, path) if not (papers == place and name == "out.1") else None
            attempt(path, os.mkdir, f"{place}/made")
            attempt(path, os.symlink, "/etc/passwd", f"{place}/link")
            attempt(path, os.link, "mine", f"{place}/linked")
            attempt(path, os.rename, "mine", f"{place}/moved")
            attempt(path, os.unlink, path)
            attempt(path, os.rename, path, f"{place}/other")
        attempt(place, os.rename, place, f"{place}.away")
        attempt(place, os.rmdir, place)
        attempt(place, os.chmod, place, 0o777)
    for place, _, names in os.walk(own):
        for name in names:
            path = f"{place}/{name}"
            if os.lstat(path).st_uid != os.getuid():
                attempt(path, opened, path)
                attempt(path, os.truncate, path, 0)
                attempt(path, os.chmod, path, 0o777)
print(json.dumps([tries, made]))
"""

PLANTED = """
import json, uuid
spool, text, token, times = sys.argv[1:]
for n in range(int(times)):
    top = f"{spool}/.pmjq.{uuid.uuid4()}"
    job_id = str(uuid.uuid4())
    for path in (f"node/{token}/run", f"job/{job_id}/work", "ended", "events", "tmp"):
        with refused:
            os.makedirs(f"{top}/{path}")
    claim = {"format": 1, "id": job_id, "name": "x", "attempt": 1, "owner": "root", "uid": 0,
             "node": "a", "token": token, "queued": "2026-01-02T03:04:05Z",
             "claimed": "2026-01-02T03:04:05Z"}
    write(f"{top}/job/{job_id}/claim.1.json", json.dumps(claim))
    write(f"{top}/spool.json", json.dumps({"format": 1, "uuid": job_id}))
    write(f"{top}/node/{token}/run/{job_id}", text)
    with refused:
        os.rename(top, f"{spool}/.pmjq")
    if n % 2:
        with refused:
            os.rename(top, f"{spool}/.pmjq/node/{token}/run/{job_id}")
"""


def test_forged_papers(box: Box, people: People) -> None:
    """Nobody writes in the tree of the spool, from outside or from a job of his in it."""
    ann, eve, _ = people.all()
    box.runs_now(ann, "held-by-ann")
    text = f"#!/bin/sh\n{box.trace()}"
    own = box.spool / ".pmjq"
    program = eve.write(eve.home / "forge", BEGIN + FORGE, 0o644)
    times, made = json.loads(eve.python(program.read_text("utf-8"), own, "", text, "40"))
    quoted = text.replace("'", "'\\''")
    inside = f"cd work 2>/dev/null; exec '{sys.executable}' -I -S '{program}' '{own}' "
    box.put(eve, "forger", f"{inside} \"${{PWD%/work}}\" '{quoted}' 40\n")
    filed = box.ended("forger", within=60)
    assert filed.record.state is State.DONE, filed.text
    more, made_inside = json.loads(filed.text)
    token = next(path.name for path in (own / "node").iterdir())
    eve.python(BEGIN + PLANTED, box.spool, text, token, "200")
    box.kill()
    box.start()
    served(box, ann, "after-forging")
    assert box.ask(ann, "cancel", "held-by-ann").returncode == 0
    record = box.ended("held-by-ann").record
    assert (record.state, record.uid) == (State.CANCELLED, ann.uid)
    assert (filed.record.owner, filed.record.uid) == (eve.name, eve.uid)
    # What she leaves in the spool has hidden names, and stays.
    subprocess.run(["find", box.spool, "-mindepth", "1", "-maxdepth", "1", "-user", eve.name,
                    "-exec", "rm", "-rf", "{}", "+"], check=True)  # fmt: skip
    found = as_others(box, people) + len(made) + len(made_inside)
    tried("writing in .pmjq from outside and inside, planted trees", times + more + 200, found)
    assert not made, made[:10]


# -- f: requests

ASKS = """
ask, job, empty, said, times = sys.argv[1:]
for n in range(int(times)):
    path = f"{ask}/cancel.{job}" + (f".{n}" if n % 3 else "")
    kind = n % 5
    with refused:
        if kind == 0:
            write(path, f"{job}\\n", 0o644)
        elif kind == 1:
            os.symlink(said, path)
        elif kind == 2:
            # Ann's own empty file, out of a directory that eve can write.
            os.rename(f"{empty}/{n}", path)
        elif kind == 3:
            os.rename(f"{empty}/{n}", f"{ask}/cancel.{job}.x{n}")
        else:
            os.mkdir(path)
            os.mkdir(f"{path}/full")
    wait()
"""

ASK_LINKS = """
ask, job, said, times = sys.argv[1:]
for n in range(int(times)):
    with refused:
        os.link(said, f"{ask}/cancel.{job}.l{n}")
    wait()
"""


def test_forged_requests(box: Box, people: People) -> None:
    """Nobody ends another's job, or keeps him from ending it, whatever he puts into ask/."""
    ann, eve, _ = people.all()
    times = 3000
    papers = box.runs_now(ann, "wanted")
    job_id = papers.name
    (ask,) = (box.spool / ".pmjq/node").glob("*/ask")
    empty = box.root / "project"
    empty.mkdir()
    empty.chmod(0o777)
    for number in range(times):
        ann.write(empty / str(number), "", 0o644)
    said = ann.write(ann.home / "said", f"{job_id}\n", 0o644)
    eve.python(BEGIN + ASKS, ask, job_id, empty, said, str(times))
    command = [sys.executable, "-I", "-S", "-c", BEGIN + ASK_LINKS, str(ask), job_id, str(said)]
    subprocess.run([*command, "1000"], check=True)
    served(box, ann, "after-asking")
    ended = len(box.named("wanted"))
    os.kill(box.pid_of("wanted"), 0)
    answer = box.ask(ann, "cancel", "wanted")
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert box.ended("wanted").record.reason == f"cancelled by {ann.name}"
    tried("requests about ann's job in ask/", times + 1000, ended)


# -- g: files that others can write, or could

REWRITE = """
payload, spool, times = sys.argv[1:]
for n in range(int(times)):
    with refused:
        fd = os.open(f"{spool}/wide{n % 20}", os.O_WRONLY)
        os.write(fd, payload.encode())
        os.close(fd)
    wait()
"""

KEPT = """
payload, home, seconds, *names = sys.argv[1:]
fds = [os.open(f"{home}/{name}", os.O_WRONLY) for name in names]
print("open", flush=True)
end = time.monotonic() + float(seconds)
times = 0
while time.monotonic() < end:
    for fd in fds:
        os.pwrite(fd, payload.encode(), 0)
        times += 1
    wait()
print(times, flush=True)
time.sleep(1000)
"""


def test_writable_files(box: Box, people: People) -> None:
    """What others can write, or have open for writing, is not executed."""
    ann, eve, _ = people.all()
    payload = f"#!/bin/sh\n{box.trace()}"
    for number in range(20):
        box.put(ann, f"wide{number}", "true\n", 0o757)
    eve.python(BEGIN + REWRITE, payload, box.spool, "4000")
    tried("rewriting a script of ann's that others can write", 4000, as_others(box, people))
    names = [f"kept{number}" for number in range(100)]
    for name in names:
        ann.write(ann.home / name, "#!/bin/sh\nexit 0\n" + " " * 200, 0o757)
    holder = eve.popen(
        sys.executable, "-I", "-S", "-c", BEGIN + KEPT, payload, ann.home, "6", *names
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "open\n"
    assert ann.run("chmod", "755", *(ann.home / name for name in names)).returncode == 0
    assert ann.run("mv", *(ann.home / name for name in names), box.spool).returncode == 0
    times = int(holder.stdout.readline())
    served(box, people.tom, "after-writing")
    for name in (*names, *(f"wide{number}" for number in range(20))):
        (box.spool / name).unlink(missing_ok=True)
    holder.kill()
    holder.communicate()
    tried("writing by a descriptor that was kept open", times, as_others(box, people))


# -- h: what a job leaves

LEFT = """
import ctypes
work, project, private, name, number = sys.argv[1:]
path, other = f"{work}/f{number}", f"{work}/.other{number}"
with refused:
    os.rename(f"{project}/{name}{number}", other)
exchange = ctypes.CDLL(None).renameat2
words = (-100, path.encode(), -100, other.encode(), 2)
n = 0
while n < 3_000_000 and not exchange(*words):
    n += 1
    if n % 64 == 0:
        with refused:
            os.symlink(f"{private}/secret", f"{work}/.link{number}")
            os.rename(f"{work}/.link{number}", f"{work}/link{number}")
            os.mkfifo(f"{work}/.fifo{number}")
            os.rename(f"{work}/.fifo{number}", f"{work}/link{number}")
print(n)
"""
"""Two files change places all the time: one of eve's, and one that is not."""


def test_work_directory(far: Box, people: People) -> None:
    """What is put into a work directory while root copies it stays whose it is."""
    ann, eve, _ = people.all()
    box = far
    private = ann.home / "private"
    private.mkdir(exist_ok=True)
    private.chmod(0o700)
    os.chown(private, ann.uid, ann.gid)
    secret = ann.write(private / "secret", f"{SECRET}\n", 0o600)
    before = secret.stat()
    owned = {0, ann.uid}
    tries = found = 0
    for number in range(10):
        taken = ("secret", "setuid")[number % 2]
        project = box.root / f"project{number}"
        project.mkdir()
        for each in range(2):
            ann.write(project / f"secret{each}", f"{SECRET}\n" * 200, 0o600)
            shutil.copy(shutil.which("id") or "", project / f"setuid{each}")
            (project / f"setuid{each}").chmod(0o4755)
        project.chmod(0o777)
        name = f"leaves{number}"
        gate = box.gate(name)
        gate.path.chmod(0o666)
        fill = "for n in $(seq 0 39); do echo of eve >f$n; done; touch full\n"
        papers = box.runs_now(eve, name, f"{fill}{gate.wait}true\n")
        eventually((papers / "work/full").exists)
        words = ("-c", BEGIN + LEFT, papers / "work", project, private, taken)
        swappers = [eve.popen(sys.executable, "-I", "-S", *words, str(each)) for each in range(2)]
        eventually(lambda papers=papers: len(list(papers.glob("work/.other*"))) == 2)  # type: ignore[misc]
        gate.open()
        filed = box.ended(name, within=90)
        tries += sum(int(one.communicate(timeout=60)[0]) for one in swappers)
        for path in filed.files.rglob("*"):
            stat = path.lstat()
            text = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
            stolen = SECRET.encode() in text and (stat.st_uid != ann.uid or stat.st_mode & 0o077)
            forged = b"of eve" in text and stat.st_uid in owned
            found += bool(stolen or forged)
    after = secret.stat()
    for key in ("st_mode", "st_uid", "st_gid", "st_mtime_ns", "st_nlink", "st_size"):
        assert getattr(before, key) == getattr(after, key)
    tried(
        "swaps in a work directory that is archived far away", tries, found + len(leaks(box, eve))
    )


# -- i: the mark of another's job

MARKED = """
import resource
locks, job, number = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
os.environ["PMJQ_ID"] = job
for n in range(number):
    if not os.fork():
        resource.setrlimit(10, (locks, resource.getrlimit(10)[1]))
        os.setsid()
        os.execve("/bin/sleep", ["sleep", "1000"], os.environ)
print("there", flush=True)
time.sleep(1000)
"""


def test_mark_of_another(box: Box, people: People) -> None:
    """Who takes on the mark and the id of another's job has nothing of its end."""
    ann, eve, _ = people.all()
    times = killed = late = 0
    for turn in range(2):
        before = set(processes_of(eve.uid))

        def pretending(before: set[int] = before) -> set[int]:
            return {*processes_of(eve.uid)} - before

        papers = box.runs_now(ann, f"marked{turn}")
        words = ("-c", BEGIN + MARKED, str(mark(papers.name)), papers.name, "100")
        pretender = eve.popen(sys.executable, "-I", "-S", *words)
        assert pretender.stdout is not None
        assert pretender.stdout.readline() == "there\n"
        eventually(lambda: len(pretending()) == 101)
        if turn:
            box.kill()
            box.start()
        assert box.ask(ann, "cancel", f"marked{turn}").returncode == 0
        box.told("job.ended", job=f"marked{turn}")
        # Nobody's end was waited for until KILL followed TERM.
        late += "KILL" in [event["signal"] for event in box.events("jobs.signalled")]
        left = pretending()
        times, killed = times + 100, killed + 101 - len(left)
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        pretender.communicate()
    tried("processes with the mark of ann's job", times, killed + late)


# -- j: signals and ptrace

RAGE = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
times = int(sys.argv[1])
reached = tries = 0
with refused:
    os.kill(-1, 9)
for turn in range(times):
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            if os.stat(f"/proc/{entry}").st_uid == os.getuid():
                continue
        except OSError:
            continue
        for number in (9, 19, 15, 1):
            tries += 1
            try:
                os.kill(int(entry), number)
                reached += 1
            except OSError:
                pass
        tries += 1
        reached += libc.ptrace(16, int(entry), 0, 0) == 0
print(tries, reached)
"""


def test_rage(box: Box, people: People) -> None:
    """A job that signals and traces whatever it may harms nobody else's."""
    ann, eve, _ = people.all()
    box.runs_now(ann, "peaceful")
    keepers = box.keepers()
    program = eve.write(eve.home / "rage", BEGIN + RAGE, 0o644)
    box.put(eve, "rage", f"exec '{sys.executable}' -I -S '{program}' 20\n")
    filed = box.ended("rage", within=60)
    times, reached = map(int, filed.text.split())
    served(box, ann, "after-rage")
    os.kill(box.pid_of("peaceful"), 0)
    assert set(keepers) <= set(box.keepers())
    assert box.ask(ann, "cancel", "peaceful").returncode == 0
    box.ended("peaceful")
    tried("signals and ptrace at everything else", times, reached)


# -- variables

EVIL = """
#include <stdio.h>
#include <unistd.h>
__attribute__((constructor)) static void run(void) {
    char path[4096];
    snprintf(path, sizeof path, "%s/as.%d", SIDE, (int) geteuid());
    FILE *file = fopen(path, "a");
    if (file) { fputs("ran\\n", file); fclose(file); }
}
"""


def test_variables(box: Box, people: People) -> None:
    """Nothing that a job sets in its environment reaches a program of root's."""
    eve, times = people.eve, 60
    commands = eve.home / "bin"
    commands.mkdir(exist_ok=True)
    for name in ("sh", "cd", "env", "python3", "id", "mail"):
        eve.write(commands / name, f"#!/bin/sh\n{box.trace()}")
    script = eve.write(eve.home / "startup", box.trace())
    words = {"PATH": commands, "ENV": script, "BASH_ENV": script, "PYTHONSTARTUP": script}
    words |= {"PYTHONPATH": commands, "PYTHONHOME": commands, "HOME": commands, "SHELL": script}
    if shutil.which("gcc"):
        evil = box.root / "evil.so"
        source = box.root / "evil.c"
        source.write_text(EVIL, encoding="utf-8")
        side = f'-DSIDE="{box.side}"'
        subprocess.run(["gcc", "-shared", "-fPIC", side, "-o", evil, source], check=True)
        words |= {"LD_PRELOAD": evil, "LD_AUDIT": evil}
    lines = "".join(f"#PMJQ env={name}={value}\n" for name, value in words.items())
    for number in range(times):
        directory = "#PMJQ directory=/tmp\n" if number % 2 else ""
        box.put(eve, f"variables{number}", f"#!/bin/sh\n{lines}{directory}true\n")
    for number in range(times):
        box.ended(f"variables{number}", within=60)
    assert box.traces(eve.uid) or not shutil.which("gcc")
    tried("variables such as LD_PRELOAD, PATH, ENV", times, as_others(box, people))


# -- keeping the daemon waiting

HANG = """
import fcntl, signal
# That a lease is broken would end it.
signal.signal(signal.SIGIO, signal.SIG_IGN)
spool, ask, times = sys.argv[1:]
held = []
for n in range(int(times)):
    write(f"{spool}/.leased", "#!/bin/sh\\n")
    with refused:
        fd = os.open(f"{spool}/.leased", os.O_RDONLY)
        held.append(fd)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    with refused:
        os.rename(f"{spool}/.leased", f"{spool}/leased{n}")
    with refused:
        os.mkfifo(f"{spool}/fifo{n}", 0o755)
    path = f"{ask}/cancel.00000000-0000-4000-8000-{n:012}"
    write(path, "x")
    with refused:
        fd = os.open(path, os.O_RDONLY)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        held.append(fd)
    with refused:
        os.mkfifo(f"{ask}/cancel.00000000-0000-4000-9000-{n:012}", 0o644)
print("there", flush=True)
time.sleep(1000)
"""


def test_waiting(box: Box, people: People) -> None:
    """Leases and FIFOs hold up nobody else's jobs."""
    times = 100
    (ask,) = (box.spool / ".pmjq/node").glob("*/ask")
    words = ("-c", BEGIN + HANG, box.spool, ask, str(times))
    holder = people.eve.popen(sys.executable, "-I", "-S", *words)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "there\n", holder.communicate()[1]
    late = 0
    for number in range(3):
        begun = time.monotonic()
        served(box, people.ann, f"meanwhile{number}")
        late += time.monotonic() - begun > 20
    holder.kill()
    holder.communicate()
    tried("leases and FIFOs to keep the daemon waiting", 4 * times, late)


def test_mounts(box: Box, people: People) -> None:
    """What somebody has mounted where only he may look holds up nobody, this daemon or the next."""
    (ask,) = (box.spool / ".pmjq/node").glob("*/ask")
    with contextlib.ExitStack() as stack:
        names = ("mounted", "mounted.sh", "mounted.sig", f".pmjq.{uuid4()}", ".pmjq-submit.mounted")
        for path in (*(box.spool / name for name in names), ask / f"cancel.{uuid4()}"):
            path.mkdir()
            os.chown(path, people.eve.uid, people.eve.gid)
            stack.enter_context(mounted(path, people.eve))
        served(box, people.ann, "beside-mounts")
        assert box.ask(people.tom, "list").returncode == 0
        box.kill()
        box.start()
        served(box, people.ann, "beside-mounts-again")
        assert box.stop() == 0
        box.start()
        served(box, people.ann, "beside-mounts-at-last")
        # Only what is in ask/ is left of the first one.
        eventually(lambda: len(list((box.spool / ".pmjq/node").iterdir())) == 1)
        assert box.events("look.failed", "turn.failed") == []
    tried("mounts in the spool and in ask/", 6, 0)


@contextlib.contextmanager
def mounted(path: Path, person: Person) -> Iterator[None]:
    """Mount what nobody but a user may look at, as his fusermount(1) does; nobody serves it."""
    try:
        fd = os.open("/dev/fuse", os.O_RDWR)
    except OSError as error:
        pytest.skip(f"no /dev/fuse here: {error.strerror}")
    told = f"fd={fd},rootmode=40000,user_id={person.uid},group_id={person.gid}".encode()
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        source = str(uuid4())
        if libc.mount(source.encode(), os.fsencode(path), b"fuse", 0, told):
            pytest.skip(f"cannot be mounted here: {os.strerror(ctypes.get_errno())}")
        try:
            with pytest.raises(PermissionError):
                path.lstat()
            yield
        finally:
            # What is above it may have been moved.
            mounts = map(str.split, Path("/proc/self/mounts").read_text("utf-8").splitlines())
            (where,) = (words[1] for words in mounts if words[0] == source)
            subprocess.run(["umount", "-l", where], check=True)
    finally:
        os.close(fd)


def test_all_was_tried(say: Say) -> None:
    """The tricks, one line each."""
    for trick, (times, succeeded) in TRIED.items():
        say(f"{trick:<60} tried {times:>6} times, executed {succeeded}")
