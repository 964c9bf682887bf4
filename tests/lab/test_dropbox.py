"""A drop box: everybody's jobs, each run as its owner by root's daemon. Real users.

What somebody tries who wants something run as another is in ``test_tricks.py``.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from functools import partial
from pathlib import Path

import pytest

from lab import dropbox
from lab.dropbox import FILES, PAM, Box, People, Person, kept
from live import eventually
from pmjq.state import State

pytestmark = pytest.mark.lab

UMASK = 0o022
SECRET = "the secret of ann"


# -- what setup makes


def test_setup(near: Box, people: People) -> None:
    """Spool and tree are root's before anybody can write there, and set up twice is set up once."""
    for path, mode in ((near.spool, 0o1777), (near.archive, 0o755), (near.spool / ".pmjq", 0o755)):
        stat = path.stat()
        assert (stat.st_uid, stat.st_mode & 0o7777) == (0, mode)
    assert PAM.read_text(encoding="utf-8") == (dropbox.CONTRIB / "dropbox/pam").read_text("utf-8")
    assert f"pmjq-dropbox@{near.name}" in near.said_by_setup
    before = near.conf.read_bytes()
    assert "stays as it is" in near.setup("--options", "-j 99")
    assert near.conf.read_bytes() == before


@pytest.mark.parametrize("what", ["spool", "archive", ".pmjq"])
def test_setup_refuses_what_is_another_s(what: str, people: People, tmp_path: Path) -> None:
    """Whoever owns a directory has put there what he likes, so it is not made root's."""
    tmp_path.chmod(0o755)
    spool, archive = tmp_path / "spool", tmp_path / "archive"
    path = {"spool": spool, "archive": archive, ".pmjq": spool / ".pmjq"}[what]
    path.mkdir(parents=True)
    os.chown(path, people.eve.uid, people.eve.gid)
    command = [str(dropbox.CONTRIB / "dropbox/setup"), "--name", tmp_path.name]
    with kept(dropbox.CONFIGURATIONS / f"{tmp_path.name}.conf"):
        done = subprocess.run(
            [*command, str(spool), str(archive)], check=False, capture_output=True, text=True
        )
    assert (done.returncode, f"belongs to {people.eve.name}" in done.stderr) == (1, True)
    assert path.stat().st_uid == people.eve.uid


# -- as whom a job runs

ASKS = r"""#!/usr/bin/env python3
import json, os, resource
status = dict(line.split(":\t", 1) for line in open("/proc/self/status") if ":\t" in line)
print(json.dumps({
    "uids": os.getresuid(), "gids": os.getresgid(), "groups": os.getgroups(),
    "environment": dict(os.environ), "umask": os.umask(0), "cwd": os.getcwd(),
    "files": resource.getrlimit(resource.RLIMIT_NOFILE), "sid": os.getsid(0) == os.getpid(),
    "capabilities": [int(status[key], 16) for key in ("CapInh", "CapPrm", "CapEff", "CapAmb")],
    "confined": int(status["NoNewPrivs"]), "open": sorted(map(int, os.listdir("/proc/self/fd"))),
}))
"""


def test_job_is_its_owner(near: Box, people: People) -> None:
    """User, groups, variables, umask and limits are those of a login; nothing is left of root's."""
    group = f"g-{os.getpid()}"
    subprocess.run(["groupadd", group], check=True)
    try:
        subprocess.run(["usermod", "-a", "-G", group, people.ann.name], check=True)
        near.put(people.ann, "asks", ASKS)
        told = json.loads(near.ended("asks").text)
        expected = os.getgrouplist(people.ann.name, people.ann.gid)
    finally:
        subprocess.run(["groupdel", group], check=True)
    ann = people.ann
    assert (told["uids"], told["gids"]) == ([ann.uid] * 3, [ann.gid] * 3)
    assert (len(expected), sorted(told["groups"])) == (2, sorted(expected))
    environment = told["environment"]
    names = ("HOME", "USER", "LOGNAME", "SHELL", "PMJQ_OWNER")
    assert [environment[name] for name in names] == [
        str(ann.home), ann.name, ann.name, "/bin/bash", ann.name
    ]  # fmt: skip
    assert not {"PYTHONPATH", "PMJQ_TEST", "SUDO_USER"} & environment.keys()
    assert (told["umask"], told["files"], told["sid"]) == (UMASK, [FILES, FILES], True)
    assert (told["capabilities"], told["confined"]) == ([0, 0, 0, 0], 1)
    # 3 is what lists them.
    assert told["open"] == [0, 1, 2, 3]
    record = near.ended("asks").record
    assert (record.owner, record.uid, record.state) == (ann.name, ann.uid, State.DONE)
    near.put(people.eve, "others", ASKS)
    assert json.loads(near.ended("others").text)["files"] != [FILES, FILES]


def test_submitted_by_cp_and_by_pmjq(near: Box, people: People) -> None:
    """However somebody's file comes into the spool, it is the inode that tells whose job it is."""
    source = people.eve.write(people.eve.home / "copied", "#!/bin/sh\nid -un\n")
    assert people.eve.run("cp", source, near.spool).returncode == 0
    assert near.ended("copied").text == f"{people.eve.name}\n"
    done = near.ask(people.tom, "submit", "--", "id", "-un")
    assert done.returncode == 0, done.stderr
    name = done.stdout.strip()
    assert near.ended(name).text == f"{people.tom.name}\n"


def test_directory_job(near: Box, people: People) -> None:
    """A directory runs as its owner, inside itself, and is his with all that it left."""
    eve = people.eve
    source = eve.home / "box"
    source.mkdir()
    eve.write(source / "job.toml", 'script = "./go 1"\n', 0o644)
    eve.write(source / "go", '#!/bin/sh\nid -un; pwd; echo "$1" >left\n')
    os.chown(source, eve.uid, eve.gid)
    assert eve.run("mv", source, near.spool / "box").returncode == 0
    filed = near.ended("box")
    assert filed.record.state is State.DONE, filed
    assert filed.text.splitlines()[0] == eve.name
    assert ((filed.path / "left").read_text("utf-8"), filed.path.stat().st_uid) == ("1\n", eve.uid)


def test_no_new_privileges(near: Box, people: People) -> None:
    """A program that is set-user-id gives a job nothing, unless the daemon is told to let it."""
    copied = near.root / "id"
    shutil.copy(shutil.which("id") or "", copied)
    copied.chmod(0o4755)
    near.put(people.eve, "suid", f"'{copied}' -u\n")
    assert near.ended("suid").text == f"{people.eve.uid}\n"
    with Box(None, "--options", "--allow-new-privileges", confined=False) as box:
        box.put(people.eve, "suid", f"'{copied}' -u\n")
        assert box.ended("suid").text == "0\n"


# -- whose jobs run


def test_policy(people: People) -> None:
    """Who is allowed by name or group has his jobs run; the others read why theirs are not."""
    ann, eve, tom = people.all()
    options = f"--allow-user {ann.name} --allow-group {eve.name} --deny-user {eve.name}"
    with Box(None, "--options", options) as box:
        for person in people.all():
            box.put(person, person.name, box.trace())
        assert box.ended(ann.name).record.state is State.DONE
        eventually(lambda: "--deny-user" in box.reason(eve, eve.name))
        eventually(lambda: "--allow-user" in box.reason(tom, tom.name))
        assert [box.traces(one.uid) for one in people.all()] == [1, 0, 0]


def _left(box: Box, person: Person, name: str, reason: str) -> None:
    """Check that an entry stays, and that the list tells its owner why."""
    eventually(lambda: reason in box.reason(person, name), what=f"{name}: {reason}")
    assert os.path.lexists(box.spool / name)


def _rejected(box: Box, name: str, reason: str) -> None:
    record = box.ended(name).record
    assert (record.state, reason in record.reason) == (State.REJECTED, True), record.reason


def test_refusals(people: People) -> None:
    """Whatever could be another's doing is refused, each with its reason, and never executed."""
    ann, eve, _ = people.all()
    with Box(None) as box:
        trace = box.trace()
        box.put(ann, "wide", trace, 0o777)
        _left(box, ann, "wide", "chmod go-w")
        shared = box.put(ann, "group", trace, 0o600)
        os.chown(shared, ann.uid, eve.gid)
        shared.chmod(0o775)
        _left(box, ann, "group", "chmod go-w")
        if shutil.which("setfacl"):
            listed = box.put(ann, "listed", trace, 0o600)
            subprocess.run(["setfacl", "-m", f"u:{eve.name}:rwx", listed], check=True)
            assert ann.run("chmod", "u+x", listed).returncode == 0
            _left(box, ann, "listed", "chmod go-w")
        unknown = box.put(ann, "unknown", trace, 0o600)
        os.chown(unknown, 54321, 54321)
        unknown.chmod(0o755)
        _left(box, eve, "unknown", "is not known on this node")
        system = box.put(ann, "system", trace, 0o600)
        os.chown(system, 1, 1)
        system.chmod(0o755)
        _left(box, eve, "system", "is no person's")
        roots = box.put(ann, "root", trace, 0o600)
        os.chown(roots, 0, 0)
        roots.chmod(0o755)
        _left(box, eve, "root", "--allow-root")
        target = ann.write(ann.home / "script", f"#!/bin/sh\n{trace}")
        assert eve.run("ln", "-s", target, box.spool / "link").returncode == 0
        _rejected(box, "link", "a symbolic link")
        os.link(target, box.spool / "hard")
        _rejected(box, "hard", "hard links")
        for name, bits in (("suid", 0o4755), ("sgid", 0o2755)):
            box.put(eve, name, trace, bits)
            _rejected(box, name, "set-user-id or set-group-id")
        assert not list(box.side.glob("as.*"))
        # Who changes what was wrong has it run.
        ann.run("chmod", "go-w", box.spool / "wide")
        assert box.ended("wide").record.state is State.DONE
        assert box.traces(ann.uid) == 1


@pytest.mark.parametrize("odd", ["owner", "world", "group", "list"])
def test_directory_that_others_can_change(odd: str, near: Box, people: People) -> None:
    """A directory with what is, or could become, another's program is left alone."""
    ann, eve, _ = people.all()
    name = f"dir-{odd}"
    source = ann.home / name
    source.mkdir()
    ann.write(source / "job.toml", 'script = "./go"\n', 0o644)
    script = ann.write(source / "go", f"#!/bin/sh\n{near.trace()}")
    os.chown(source, ann.uid, ann.gid)
    if odd == "owner":
        os.chown(script, eve.uid, eve.gid)
    elif odd == "world":
        script.chmod(0o757)
    elif odd == "group":
        # The directory is of a group of many, and not writable; the script in it is.
        for path in (source, script, source / "job.toml"):
            os.chown(path, ann.uid, eve.gid)
        script.chmod(0o775)
    elif shutil.which("setfacl"):
        subprocess.run(["setfacl", "-m", f"u:{eve.name}:rwx", script], check=True)
    else:
        pytest.skip("no setfacl here")
    source.rename(near.spool / name)
    near.forget_traces()
    eventually(
        lambda: "go in it is another owner's" in near.reason(ann, name),
        what=near.reason(ann, name),
    )
    assert not list(near.side.glob("as.*"))
    shutil.rmtree(near.spool / name)


# -- who may know of it


def _results(box: Box, name: str) -> list[Path]:
    filed = box.ended(name)
    stem = filed.path.name
    inside = filed.files / "left"
    return [inside, *(filed.path.with_name(f"{stem}{end}") for end in (".out", ".json", ".d"))]


@pytest.mark.parametrize("where", ["near", "far"])
def test_private(where: str, people: People, request: pytest.FixtureRequest) -> None:
    """Output, record and files are for the owner and root, while it runs and when it is filed."""
    box: Box = request.getfixturevalue(where)
    ann, eve, _ = people.all()
    name = f"private-{where}"
    gate = box.gate(name)
    gate.path.chmod(0o666)
    papers = box.runs_now(ann, name, f"echo {SECRET}; echo {SECRET} >left\n{gate.wait}true\n")
    secret = [papers / "work/left", *papers.glob("out.*"), *papers.glob("claim.*"), papers]
    secret += [papers / "work", *papers.glob("status.*")]
    eventually((papers / "work/left").exists)
    assert eve.readable(*secret) == []
    assert ann.readable(*secret) == secret

    def states() -> list[str]:
        listed = map(json.loads, box.ask(ann, "list", "--json").stdout.splitlines())
        return [told["state"] for told in listed if told["name"] == name]

    # Its keeper may not have written yet that it has started.
    eventually(lambda: states() == ["running"])
    assert name not in box.ask(eve, "list").stdout
    assert box.ask(ann, "logs", name).stdout == f"{SECRET}\n"
    assert SECRET not in box.ask(eve, "logs", name).stdout
    waiting = ann.popen(box.pmjq, "wait", "-s", box.spool, name)
    gate.open()
    filed = box.ended(name)
    waiting.communicate(timeout=60)
    assert waiting.returncode == 0
    paths = _results(box, name)
    assert [path for path in paths if not path.exists()] == []
    assert eve.readable(*paths) == []
    assert ann.readable(*paths) == paths
    assert box.ask(ann, "logs", name).stdout == f"{SECRET}\n"
    assert filed.record.id in box.ask(ann, "history", "--json").stdout
    shown = box.ask(ann, "show", "--json", name)
    assert (shown.returncode, json.loads(shown.stdout)["state"]) == (0, "done")
    assert filed.record.id not in box.ask(eve, "history", "--json").stdout
    for verb in ("show", "logs"):
        done = box.ask(eve, verb, name)
        assert (done.returncode, SECRET in done.stdout + done.stderr) == (66, False)


def test_results_of_all(people: People) -> None:
    """Where the spool says so everybody reads everybody's results."""
    with Box(None, "--options", "--results all") as box:
        box.put(people.ann, "open", "echo open; echo open >left\n")
        paths = _results(box, "open")
        assert people.eve.readable(*paths) == paths
        assert box.ask(people.eve, "logs", "open").stdout == "open\n"


def test_unlisted(people: People) -> None:
    """In a spool that nobody can list one works with the names that one knows."""
    ann, eve, _ = people.all()
    with Box(None, "--unlisted") as box:
        assert box.spool.stat().st_mode & 0o7777 == 0o1733
        assert eve.readable(box.spool) == []
        held = box.put(ann, "held", "true\n", 0o644)
        assert "held" not in box.ask(eve, "list").stdout
        told = box.ask(ann, "list")
        assert (told.returncode, told.stdout) == (0, "")
        assert "only its owner lists it" in told.stderr
        for verb in ("wait", "hold", "cancel"):
            told = box.ask(ann, verb, "ALL")
            assert (told.returncode, told.stdout) == (77, "")
            assert "only its owner lists it; name each job" in told.stderr
        assert box.ask(ann, "release", "held").returncode == 0
        assert box.ended("held").record.state is State.DONE
        assert not held.exists()
        name = box.ask(eve, "submit", "--", "id", "-un").stdout.strip()
        assert box.ended(name).text == f"{eve.name}\n"
        box.runs_now(ann, "long")
        assert box.ask(eve, "cancel", "long").returncode != 0
        assert box.ask(ann, "cancel", "long").returncode == 0
        assert box.ended("long").record.state is State.CANCELLED


def test_root_s_own_job_is_as_private(people: People) -> None:
    """With --allow-root root's jobs run too, as root, and tell others as little."""
    with Box(None, "--options", "--allow-root") as box:
        box.drop("roots", f"id -u; echo {SECRET} >left\n")
        filed = box.ended("roots")
        assert (filed.text, filed.record.uid) == ("0\n", 0)
        assert people.eve.readable(*_results(box, "roots")) == []


# -- whose to steer


def test_steering(near: Box, people: People) -> None:
    """One cancels, holds, releases and tries again what is one's own; root, anybody's."""
    ann, eve, _ = people.all()
    near.put(ann, "queued", "#!/bin/sh\n#PMJQ not-before=2099-01-01T00:00Z\ntrue\n")
    near.runs_now(ann, "running")
    near.put(ann, "over")
    near.ended("over")
    for verb, name in (
        ("cancel", "queued"), ("cancel", "running"), ("hold", "queued"), ("retry", "over")
    ):  # fmt: skip
        assert near.ask(eve, verb, name).returncode != 0, (verb, name)
    assert (near.spool / "queued").exists()
    assert near.ask(ann, "hold", "queued").returncode == 0
    assert not (near.spool / "queued").stat().st_mode & 0o111
    assert near.ask(eve, "release", "queued").returncode != 0
    assert near.ask(ann, "release", "queued").returncode == 0
    assert near.ask(ann, "cancel", "queued").returncode == 0
    assert not (near.spool / "queued").exists()
    assert _runs(near.pid_of("running"))
    assert near.ask(ann, "cancel", "running").returncode == 0
    record = near.ended("running").record
    assert (record.state, record.reason) == (State.CANCELLED, f"cancelled by {ann.name}")
    assert near.ask(ann, "retry", "over").returncode == 0
    eventually(lambda: len(near.named("over")) == 2)
    assert {filed.record.uid for filed in near.named("over")} == {ann.uid}
    near.runs_now(eve, "root-ends")
    subprocess.run([near.pmjq, "cancel", "-s", near.spool, "root-ends"], check=True)
    assert near.ended("root-ends").record.state is State.CANCELLED


TREE = "setsid sh -c 'echo $$ >>\"$0\"; exec sleep 1000' {0} & (sleep 1000 & echo $! >>{0})\nwait\n"


def test_restart(people: People) -> None:
    """A daemon that is stopped or killed leaves everybody's jobs; the next one has them all."""
    with Box(None, "--options", "-j 9") as box:
        pids: dict[str, int] = {}
        for person in people.all():
            for number in (1, 2):
                name = f"{person.name}-{number}"
                listed = box.side / f"tree.{name}"
                box.runs_now(person, name, TREE.format(listed))
                eventually(partial(_lists_two, listed))
                pids[name] = box.pid_of(name)
        assert box.stop() == 0
        box.start()
        box.kill()
        box.start()
        for person in people.all():
            name = f"{person.name}-1"
            assert box.ask(person, "cancel", name).returncode == 0
            assert box.ended(name).record.reason == f"cancelled by {person.name}"
            tree = [*map(int, (box.side / f"tree.{name}").read_text("utf-8").split())]
            eventually(partial(_none_runs, tree))
        for person in people.all():
            name = f"{person.name}-2"
            assert _runs(pids[name])
            os.kill(pids[name], signal.SIGKILL)
            record = box.ended(name).record
            assert (record.state, record.signal, record.uid) == (State.FAILED, 9, person.uid)


def _lists_two(path: Path) -> bool:
    return path.exists() and len(path.read_bytes().split()) == 2


def _none_runs(pids: list[int]) -> bool:
    return not any(map(_runs, pids))


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b") ")[2][:1] not in b"ZX"
    except OSError:
        return False
