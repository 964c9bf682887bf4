"""A daemon that runs signed jobs only, with the real ssh-keygen: each trick in a loop.

Whatever is tried, no job is executed that was not signed for this spool, under this name, with this
content, by one of those who are allowed; and none twice. Each trick prints how often it was tried.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from conftest import AS_NOBODY, Say, again_as_nobody
from live import PROJECT, Filed, eventually
from pmjq import Queue, naming, node, probe, signing
from pmjq.disk import Disk
from pmjq.job import Attempt, Signed
from pmjq.spool import Spool
from pmjq.state import State
from signatures import Keys, Signing, me, needed, signed_text
from values import attempt

pytestmark = needed

TRIES = 10

WITHIN = 60.0


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Signing]:
    """Return a daemon that the tests of this module share."""
    with Signing(tmp_path_factory.mktemp("signed"), "-j", "4") as daemon:
        yield daemon


def _refused(live: Signing, names: list[str], fault: str, words: str) -> None:
    """Wait until jobs are rejected for a fault; none was executed."""
    for name in names:
        filed = live.ended(name, within=WITHIN)
        assert filed.record.state is State.REJECTED
        assert words in filed.record.reason
        assert filed.text == f"pmjq: {name}: {filed.record.reason}\n"
        assert (live.runs(name), filed.record.signer) == (0, "")
        assert not (live.spool / f"{name}.sig").exists()
    wanted = dict.fromkeys(names, fault)
    eventually(lambda: wanted.items() <= live.refused().items(), what=f"{names} are {fault}")


def _until_filed(live: Signing, names: list[str], within: float = WITHIN) -> None:
    eventually(lambda: all(live.named(name) for name in names), within=within)


def _until_back(live: Signing, name: str) -> None:
    """Wait until a job has been executed once, and is in the queue again."""
    eventually(lambda: live.runs(name) == 1 and name in live.spooled())


def _until_taken(live: Signing, name: str) -> None:
    eventually(lambda: name not in live.spooled(), within=WITHIN)


def _let_pass(seconds: float) -> None:
    """Do nothing for a while; the daemon is killed at whatever it is at then."""
    until = time.monotonic() + seconds
    eventually(lambda: time.monotonic() > until)


def _names(trick: str) -> list[str]:
    return [f"{trick}-{number}" for number in range(TRIES)]


def test_signed_job_runs(live: Signing) -> None:
    """A job with its signature beside it runs, and is archived with it; the record says whose."""
    content = live.job("good") + b'echo "$PMJQ_SIGNER"; cat "$0"\n'
    signature = live.signature("good", content)
    live.put("good", content, signature)
    filed = live.ended("good")
    record = filed.record
    assert (record.state, record.signer, record.owner) == (State.DONE, me(), me())
    assert filed.output == f"{me()}\n".encode() + content
    assert filed.path.read_bytes() == content
    assert filed.path.with_name(f"{filed.path.name}.sig").read_bytes() == signature
    assert live.runs("good") == 1
    assert "good.sig" not in live.spooled()


def test_any_order_of_arrival(live: Signing) -> None:
    """A signature that comes after its job is waited for, one in pieces too."""
    content = live.job("late")
    signature = live.signature("late", content)
    live.beside("late", signature[:100])
    live.drop("late", content)
    # It has been seen without its signature by then.
    _let_pass(1.0)
    assert "late" in live.spooled()
    live.beside("late", signature)
    assert live.ended("late").record.state is State.DONE


def test_names_that_are_not_printable(live: Signing) -> None:
    """A name that is no printable UTF-8 is signed by its bytes."""
    for name in (b"tab\there", b"latin-\xe9", "schön".encode()):
        content = b"#!/bin/sh\necho ran\n"
        shown = os.fsdecode(name)
        text = signed_text(live.uuid, "NAME", content)
        printable = (
            f"name {shown}".encode() if shown.isprintable() else b"name-hex " + name.hex().encode()
        )
        signature = live.keys.sign(live.own, text.replace(b"name NAME", printable))
        live.put(shown, content, signature)
        _until_filed(live, [naming.shown(shown)])
        assert live.ended(naming.shown(shown)).record.state is State.DONE


def test_unsigned(live: Signing, say: Say) -> None:
    """A job without a signature is left for a short while, then rejected."""
    names = _names("unsigned")
    for name in names:
        live.put(name, live.job(name), None)
    _refused(live, names, "unsigned", "is not signed")
    say(f"unsigned: {TRIES} tried, none executed")


def test_directory(live: Signing) -> None:
    """A directory job cannot be signed."""
    directory = live.root / "drop" / "directory"
    directory.mkdir()
    (directory / "job.toml").write_text('script = "true"\n')
    directory.rename(live.spool / "directory")
    _refused(live, ["directory"], "unsigned", "which cannot be signed")


def test_content_altered(live: Signing, say: Say) -> None:
    """A job that was changed after it was signed is rejected."""
    names = _names("altered")
    for name in names:
        live.put(name, live.job(name), live.signature(name, live.job(name) + b"\n"))
    _refused(live, names, "altered", "does not fit")
    say(f"content altered: {TRIES} tried, none executed")


def test_no_signature_at_all(live: Signing) -> None:
    """What only has the name of a signature is none."""
    for name, text in (("garbage", b"garbage\n"), ("empty", b""), ("huge", b"x" * (1 << 20))):
        live.put(name, live.job(name), text)
    _refused(live, ["garbage", "empty", "huge"], "altered", "is none of ssh-keygen")


def test_signature_that_is_a_link(live: Signing) -> None:
    """A link in the place of a signature is not followed."""
    (live.spool / "link.sig").symlink_to(live.keys.allowed)
    live.put("link", live.job("link"), None)
    filed = live.ended("link", within=WITHIN)
    assert (filed.record.state, live.runs("link")) == (State.REJECTED, 0)
    assert "link.sig" not in live.spooled()
    assert live.keys.allowed.exists()


def test_name_altered(live: Signing, say: Say) -> None:
    """A job under another name than it was signed for is rejected."""
    names = _names("named")
    for name in names:
        live.put(name, live.job(name), live.signature(f"{name}x", live.job(name)))
    _refused(live, names, "altered", "does not fit")
    say(f"name altered: {TRIES} tried, none executed")


def test_another_spool(live: Signing, say: Say) -> None:
    """A signature for another spool is none for this one."""
    names = _names("elsewhere")
    for name in names:
        text = signed_text(str(uuid.uuid4()), name, live.job(name))
        live.put(name, live.job(name), live.keys.sign(live.own, text))
    _refused(live, names, "altered", "another spool")
    say(f"another spool's: {TRIES} tried, none executed")


def test_foreign_key(live: Signing, say: Say) -> None:
    """A signature of somebody who is not in the list counts for nothing."""
    key = live.keys.make("foreign")
    names = _names("foreign")
    for name in names:
        live.put(name, live.job(name), live.signature(name, live.job(name), key=key))
    _refused(live, names, "foreign", "not among those")
    say(f"foreign key: {TRIES} tried, none executed")


def test_another_namespace(live: Signing, say: Say) -> None:
    """A signature for something else, such as a file or a commit, is none of a job."""
    names = _names("namespace")
    for name in names:
        signature = live.signature(name, live.job(name), namespace="file")
        live.put(name, live.job(name), signature)
    _refused(live, names, "foreign", "something else")
    say(f"another namespace: {TRIES} tried, none executed")


def test_expired_key(live: Signing, say: Say) -> None:
    """A key counts within its time only."""
    old, new = live.keys.make("old"), live.keys.make("new")
    live.keys.allow(old, me(), 'valid-before="20200101"')
    live.keys.allow(new, me(), 'valid-after="20900101"')
    names = _names("expired")
    for number, name in enumerate(names):
        key = (old, new)[number % 2]
        live.put(name, live.job(name), live.signature(name, live.job(name), key=key))
    for number, words in enumerate(("expired", "not yet valid")):
        _refused(live, names[number::2], "foreign", words)
    say(f"expired key: {TRIES} tried, none executed")


def test_pattern_of_names(live: Signing) -> None:
    """A line for a pattern of names does not say who signed."""
    key = live.keys.make("pattern")
    live.keys.allow(key, "*@example.org")
    live.put(
        "pattern", live.job("pattern"), live.signature("pattern", live.job("pattern"), key=key)
    )
    _refused(live, ["pattern"], "foreign", "patterns of names")


@pytest.mark.parametrize("kind", ["rsa", "ecdsa"])
def test_kinds_of_keys(live: Signing, kind: str) -> None:
    """Whatever kind of key ssh-keygen signs with counts."""
    key = live.keys.make(kind, kind)
    live.keys.allow(key, me())
    live.put(kind, live.job(kind), live.signature(kind, live.job(kind), key=key))
    assert live.ended(kind).record.signer == me()


def _both(live: Signing, name: str) -> list[Filed]:
    """Wait until a job and its replay have ended and return them, the rejected one last."""
    eventually(lambda: len(live.named(name)) >= 2, within=WITHIN)
    return sorted(live.named(name), key=lambda one: one.record.state is State.REJECTED)


def test_replayed_after_the_end(live: Signing, say: Say) -> None:
    """What was executed once is not executed again for the same signature."""
    names = _names("again")
    signatures = {name: live.signature(name, live.job(name)) for name in names}
    for _ in range(2):
        for name in names:
            live.put(name, live.job(name), signatures[name])
        _until_filed(live, names)
    for name in names:
        first, second = _both(live, name)
        assert (first.record.state, second.record.state) == (State.DONE, State.REJECTED)
        assert "executed already" in second.record.reason
        assert live.runs(name) == 1
    say(f"replayed after the end: {TRIES} tried, none executed twice")


REWRITING = """
import os, sys
fds, good, evil = [], {}, {}
for path in sys.argv[2:]:
    fd = os.open(path, os.O_PATH)
    good[fd] = open(path, "rb").read()
    evil[fd] = good[fd].replace(b"/honest/", b"/forged/")
    fds.append(fd)
print("open", flush=True)
def write(fd, text, times):
    out = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY)
    os.pwrite(out, text, 0)
    os.utime(out, ns=times)
    os.close(out)
times = {fd: (os.stat(f"/proc/self/fd/{fd}").st_mtime_ns,) * 2 for fd in fds}
while not os.path.exists(sys.argv[1]):
    for fd in fds:
        for text in (evil[fd], good[fd]):
            try:
                write(fd, text, times[fd])
            except OSError:
                pass
"""
"""Writes one content and another of the same size by turns into files that may have been moved."""


def test_content_altered_after_it_was_verified(live: Signing, say: Say) -> None:
    """What is executed is what was verified, though somebody goes on writing to the very file."""
    rounds = 4
    names = [f"rewritten-{number}" for number in range(rounds * TRIES)]
    (live.side / "honest").mkdir()
    (live.side / "forged").mkdir()
    for begin in range(0, len(names), TRIES):
        part = names[begin : begin + TRIES]
        paths, stop = [], live.root / f"stop-{begin}"
        for name in part:
            content = f"#!/bin/sh\necho >>'{live.side}/honest/{name}'\n".encode()
            live.beside(name, live.signature(name, content))
            paths.append(live.write(name, content))
        words = [sys.executable, "-c", REWRITING, str(stop), *map(str, paths)]
        with subprocess.Popen(words, stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"open\n"
            for path in paths:
                path.rename(live.spool / path.name)
            with contextlib.suppress(AssertionError):
                _until_filed(live, part, within=6)
            stop.touch()
        _until_filed(live, part)
    done = rejected = 0
    for name in names:
        filed = live.ended(name)
        good = filed.record.state is State.DONE
        done += good
        rejected += not good
        assert (live.side / "honest" / name).exists() == good, filed.record.reason
        if good:
            assert b"/forged/" not in filed.path.read_bytes()
    assert os.listdir(live.side / "forged") == []
    say(
        f"content altered after it was verified: {len(names)} tried, {done} executed as signed, "
        f"{rejected} rejected, none executed as altered"
    )


def test_replayed_while_the_original_is_back_in_the_queue(live: Signing, say: Say) -> None:
    """A copy in the place of a job that is to be tried again is not that job."""
    names = _names("back")
    for name in names:
        content = live.job(name)[:-1] + b"\n#\nexit 3\n"
        content = content.replace(b"#!/bin/sh\n", b"#!/bin/sh\n#PMJQ retries=1 backoff=8s\n")
        signature = live.signature(name, content)
        live.put(name, content, signature)
        _until_back(live, name)
        live.beside(name, signature)
        copy = live.write(name, content)
        os.utime(copy, (0, 0))
        copy.rename(live.spool / name)
    for name in names:
        filed = live.ended(name, within=WITHIN)
        assert (filed.record.state, live.runs(name)) == (State.REJECTED, 1)
        assert "executed already" in filed.record.reason
    say(f"replayed while the original is back in the queue: {TRIES} tried, none executed")


def test_copy_that_nothing_tells_from_the_original(live: Signing) -> None:
    """One with the same times in its place is the original, and is executed no more than that."""
    content = live.job("same").replace(b"#!/bin/sh\n", b"#!/bin/sh\n#PMJQ retries=1 backoff=8s\n")
    content += b"exit 3\n"
    signature = live.signature("same", content)
    live.put("same", content, signature)
    _until_back(live, "same")
    stat = (live.spool / "same").stat()
    copy = live.write("same", content)
    os.utime(copy, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    copy.rename(live.spool / "same")
    filed = live.ended("same", within=WITHIN)
    assert (filed.record.state, filed.record.attempt) == (State.FAILED, 2)
    live.put("same", content, signature)
    eventually(lambda: len(live.named("same")) > 1, within=WITHIN)
    assert live.runs("same") == 2


def test_name_that_is_taken_when_a_job_returns(live: Signing) -> None:
    """A job whose name is taken returns under another, and its signature still counts."""
    gate = live.gate("taken")
    content = live.job("taken").replace(b"#!/bin/sh\n", b"#!/bin/sh\n#PMJQ retries=1 backoff=0s\n")
    content += f"{gate.wait}exit 3\n".encode()
    signature = live.signature("taken", content)
    live.put("taken", content, signature)
    eventually(lambda: live.runs("taken") == 1)
    # Held, so that it stays there.
    live.beside("taken", signature)
    copy = live.write("taken", content, 0o644)
    copy.rename(live.spool / "taken")
    gate.open()
    eventually(lambda: live.runs("taken") == 2)
    gate.open()
    filed = live.ended("taken.2")
    assert (filed.record.state, filed.record.attempt) == (State.FAILED, 2)
    (live.spool / "taken").chmod(0o755)
    assert live.ended("taken").record.state is State.REJECTED
    assert live.runs("taken") == 2


def test_counters(live: Signing) -> None:
    """What was refused is counted by its fault, for people too."""
    refused = live.counted()
    nodes = subprocess.run(
        [sys.executable, "-m", "pmjq", "nodes", "-s", live.spool],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": PROJECT},
    ).stdout
    assert f"{refused.total()} jobs were refused for their signatures" in nodes


def test_replayed_at_two_daemons(tmp_path: Path, say: Say) -> None:
    """Of copies that several daemons claim at the same time exactly one is executed."""
    spool = tmp_path / "spool"
    with Signing(tmp_path / "a", "--node", "a", "-j", "4", spool=spool) as one:
        more = ("--node", "b", "-j", "4")
        with Signing(tmp_path / "b", *more, keys=one.keys, spool=spool) as other:
            tries = 0
            names = _names("twice")
            for name in names:
                content = one.job(name)
                signature = one.signature(name, content)
                for _ in range(4):
                    one.put(name, content, signature)
                    _until_taken(one, name)
                    tries += 1
            ended = spool / ".pmjq" / "ended"
            eventually(lambda: not Queue(spool).list() and not any(ended.iterdir()), within=WITHIN)
            for name in names:
                assert one.runs(name) == 1
                # One that was returned while another came has a number after its name, and one that
                # was back before another was put there has been replaced by that.
                states = [
                    each.record.state
                    for each in (*one.filed(), *other.filed())
                    if f"{each.record.name}.".startswith(f"{name}.")
                ]
                assert (states.count(State.DONE), len(states) > 1) == (1, True)
                assert {*states} == {State.DONE, State.REJECTED}
            both = len({each.record.node for each in (*one.filed(), *other.filed())})

    copies = f"{tries} copies of {len(names)} jobs"
    say(f"replayed at two daemons: {copies}, each executed once; {both} nodes ran some")


def test_killed_at_any_time(tmp_path: Path, say: Say) -> None:
    """A daemon that is killed between any two steps executes each job once, or says it is lost."""
    kills = 12
    with Signing(tmp_path / "killed", "-j", "4") as live:
        names = [f"job-{number}" for number in range(3 * kills)]
        for number in range(kills):
            for name in names[3 * number : 3 * number + 3]:
                live.put(name, live.job(name), live.signature(name, live.job(name)))
            _let_pass(random.uniform(0, 0.15))
            live.kill()
            live.start()
        for name in names:
            filed = live.ended(name, within=WITHIN)
            assert filed.record.state in (State.DONE, State.LOST), filed.record.reason
            assert live.runs(name) == 1 or (filed.record.state, live.runs(name)) == (State.LOST, 0)
        lost = sum(one.record.state is State.LOST for one in live.filed())
        assert live.stop() == 0
        assert live.leftovers() == []
    say(f"killed: {kills} times, {len(names)} jobs, each executed once, {lost} lost")


def test_unstarted_jobs_return_with_their_signatures(tmp_path: Path) -> None:
    """What was claimed and not started is in the queue again, signature and all."""
    with Signing(tmp_path / "returned", "-j", "1", "--on-stop", "kill") as live:
        gate = live.gate("first")
        first = (
            f"#!/bin/sh\n#PMJQ restartable\n{live.side_effect('first')}{gate.wait}true\n".encode()
        )
        signature = live.signature("first", first)
        live.put("first", first, signature)
        eventually(lambda: live.runs("first") == 1)
        assert live.stop() == 0
        assert live.spooled() == ["first", "first.sig"]
        assert (live.spool / "first.sig").read_bytes() == signature
        live.start()
        eventually(lambda: live.runs("first") == 2)
        gate.open()
        record = live.ended("first").record
        assert (record.state, record.attempt, record.signer) == (State.DONE, 2, me())


def _former(live: Signing) -> Spool:
    """Return a life of the node that is over, and left what it had."""
    spool = Spool(Disk(), str(live.spool), node.token("a", probe.machine().boot, "87654321"))
    spool.identify()
    spool.begin()
    return spool


def _left(former: Spool, live: Signing, name: str, signed: Signed | None = None) -> Attempt:
    """Have that life claim a job, and return the attempt."""
    one = msgspec.structs.replace(
        attempt(id=str(uuid.uuid4()), name=name, token=former.token),
        node="a",
        uid=os.geteuid(),
        signer=me() if signed else "",
        signed=signed,
    )
    live.drop(name, live.job(name))
    former.prepare_claim(one)
    if signed:
        former.keep_signature(one, live.signature(name, live.job(name)))
    assert former.claim(one)
    return one


def test_killed_between_its_mark_and_its_start(tmp_path: Path, say: Say) -> None:
    """The mark is this job's own: it is executed, and copies of it are not."""
    with Signing(tmp_path / "marked", "-j", "4", "--node", "a") as live:
        assert live.stop() == 0
        former, names = _former(live), _names("marked")
        for name in names:
            text = signed_text(live.uuid, name, live.job(name))
            signed = Signed(signing.digest(live.job(name)), signing.mark(text), name)
            one = _left(former, live, name, signed)
            assert former.seal(one)
            assert former.comes_first(one)
        live.start()
        for name in names:
            assert live.ended(name).record.state is State.DONE
            live.put(name, live.job(name), live.signature(name, live.job(name)))
        for name in names:
            _both(live, name)
            assert live.runs(name) == 1
    say(f"killed between mark and start: {len(names)} jobs, each executed once")


def test_content_altered_between_claim_and_start(tmp_path: Path, say: Say) -> None:
    """What is found claimed is verified like any other."""
    with Signing(tmp_path / "found", "-j", "4", "--node", "a") as live:
        assert live.stop() == 0
        former, names = _former(live), _names("found")
        for name in names:
            text = signed_text(live.uuid, name, live.job(name) + b"#")
            signed = Signed(signing.digest(live.job(name) + b"#"), signing.mark(text), name)
            _left(former, live, name, signed)
        live.start()
        for name in names:
            filed = live.ended(name)
            assert (filed.record.state, live.runs(name)) == (State.REJECTED, 0)
            assert "changed after its signature" in filed.record.reason
    say(f"content altered between claim and start: {TRIES} tried, none executed")


def test_taken_over_by_another_node(tmp_path: Path) -> None:
    """A restartable job of a dead node is executed again by another, with its signature."""
    spool = tmp_path / "spool"
    with Signing(tmp_path / "a", "--node", "a", "--lease", "2", spool=spool) as one:
        content = b"#!/bin/sh\n#PMJQ restartable\n" + one.side_effect("over").encode()
        content += b'test "$PMJQ_ATTEMPT" = 2 || exec sleep 100\n'
        more = ("--node", "b", "--lease", "2")
        with Signing(tmp_path / "b", *more, keys=one.keys, spool=spool) as other:
            one.kill()
            one.put("over", content, one.signature("over", content))
            eventually(lambda: one.runs("over") == 1)
            other.kill()
            for pid in [*other.jobs(), *other.keepers()]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            one.start()
            filed = one.ended("over", within=WITHIN)
        record = filed.record
        assert (record.state, record.attempt, record.signer) == (State.DONE, 2, me())
        assert [each.node for each in record.earlier] == ["b"]
        assert (one.runs("over"), filed.path.read_bytes()) == (2, content)


def test_claimed_by_a_daemon_without_signatures(tmp_path: Path) -> None:
    """A job that was claimed when no signatures were asked for is verified before it starts."""
    with Signing(tmp_path / "before", "-j", "1", "--node", "a") as live:
        assert live.stop() == 0
        _left(_former(live), live, "unsigned")
        live.start()
        filed = live.ended("unsigned", within=WITHIN)
        assert (filed.record.state, live.runs("unsigned")) == (State.REJECTED, 0)
        assert "is to be verified" in live.said("job.returned")["reason"]


def test_no_ssh_keygen_for_a_while(tmp_path: Path) -> None:
    """While nothing can be verified nothing is rejected, and the gate is closed with the reason."""
    programs = tmp_path / "bin"
    programs.mkdir()
    program = programs / "ssh-keygen"
    real = shutil.which("ssh-keygen")
    assert real is not None
    program.symlink_to(real)
    live = Signing(tmp_path / "away")
    live.environment["PATH"] = str(programs)
    with live:
        live.put("first", live.job("first"), live.signature("first", live.job("first")))
        live.ended("first")
        program.unlink()
        eventually(lambda: "no ssh-keygen" in live.node().get("reason", ""), within=70)
        live.put("later", live.job("later"), live.signature("later", live.job("later")))
        assert "no ssh-keygen" in live.said("gate.closed", within=30)["reason"]
        assert "later" in live.spooled()
        program.symlink_to(real)
        assert live.ended("later", within=30).record.state is State.DONE
        kept = live.keys.allowed.read_bytes()
        live.keys.allowed.unlink()
        live.put("third", live.job("third"), live.signature("third", live.job("third")))
        live.told("gate.closed", 2, within=30)
        live.keys.allowed.write_bytes(kept)
        assert live.ended("third", within=30).record.state is State.DONE
        assert live.events("signature.refused") == []


def _exit(live: Signing) -> tuple[int, str]:
    code = live.start(ready=False).wait()
    return code, live.log.read_text()


def test_wrong_set_up(tmp_path: Path) -> None:
    """A daemon that could verify nothing, or whose list others can write, does not begin."""
    keys = Keys(tmp_path / "keys")
    live = Signing(tmp_path / "wrong", keys=keys)
    live.environment["PATH"] = str(tmp_path)
    assert _exit(live)[0] == 78
    live.environment["PATH"] = os.environ["PATH"]
    keys.allowed.chmod(0o666)
    code, said = _exit(live)
    assert (code, "others than this user may write it" in said) == (78, True)
    keys.allowed.unlink()
    code, said = _exit(live)
    assert (code, "No such file" in said) == (78, True)
    live.options = (*live.options, "--accept-owner", "ANY")
    if os.geteuid():
        assert _exit(live)[0] == 64


def _pmjq(*words: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pmjq", *words],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": PROJECT, **more},
    )


def test_submit_signs(live: Signing) -> None:
    """``pmjq submit --sign`` puts a signature beside the job; a retry wants another."""
    done = _pmjq("submit", "-s", str(live.spool), "--sign", str(live.own), "echo", "hello")
    name = done.stdout.strip()
    filed = live.ended(name)
    assert (filed.record.signer, filed.text) == (me(), "hello\n")
    assert f"signer      {me()}\n" in _pmjq("show", "-s", str(live.spool), name).stdout
    again = _pmjq("retry", "-s", str(live.spool), name)
    assert (again.returncode, "submit its file again with --sign" in again.stderr) == (1, True)
    done = _pmjq("submit", "-s", str(live.spool), "--sign", str(live.own), "--array", "1-3", "true")
    assert {live.ended(name).record.signer for name in done.stdout.split()} == {me()}


def test_submit_that_cannot_sign(live: Signing) -> None:
    """Without a signature nothing is submitted."""
    before = live.spooled()
    done = _pmjq("submit", "-s", str(live.spool), "--sign", str(live.root / "none"), "true")
    assert (done.returncode, done.stdout) == (64, "")
    assert "--sign" in done.stderr
    assert live.spooled() == before


@pytest.mark.skipif(shutil.which("ssh-agent") is None, reason="no ssh-agent here")
def test_submit_signs_with_the_agent(live: Signing, tmp_path: Path) -> None:
    """The public half of a key that the agent has is enough."""
    key = live.keys.make("agent")
    live.keys.allow(key, me())
    told = subprocess.run(["ssh-agent", "-s"], check=True, capture_output=True, text=True).stdout
    agent = dict(word.split("=", 1) for word in told.replace(";", " ").split() if "=" in word)
    try:
        added = {**os.environ, **agent}
        subprocess.run(["ssh-add", "-q", key], check=True, env=added, capture_output=True)
        key.unlink()
        public = str(key.with_suffix(".pub"))
        words = ("submit", "-s", str(live.spool), "--sign", public, "true")
        done = _pmjq(*words, SSH_AUTH_SOCK=agent["SSH_AUTH_SOCK"])
        assert live.ended(done.stdout.strip()).record.signer == me()
    finally:
        os.kill(int(agent["SSH_AGENT_PID"]), signal.SIGTERM)


BY_HAND = r"""
uuid=$(sed 's/.*"uuid": *"\([^"]*\)".*/\1/' "$SPOOL/.pmjq/spool.json")
sum=$(sha512sum <"$FILE" | cut -d ' ' -f 1)
printf 'pmjq job 1\nspool %s\nname %s\nsha512 %s\n' "$uuid" "$NAME" "$sum" |
    ssh-keygen -Y sign -n pmjq -f "$KEY" >"$SPOOL/$NAME.sig"
cp "$FILE" "$SPOOL/$NAME"
"""


def test_signed_by_hand(live: Signing) -> None:
    """What the manual says for a client without pmjq works, and is what the manual says."""
    page = (Path(PROJECT) / "man" / "pmjq.1").read_text()
    lines = [line.replace("\\e", "\\").strip() for line in page.splitlines()]
    for line in BY_HAND.strip().splitlines():
        assert line.strip() in lines, line
    source = live.write("source", "#!/bin/sh\necho by hand\n")
    told = {"SPOOL": str(live.spool), "FILE": str(source), "NAME": "hand", "KEY": str(live.own)}
    subprocess.run(["sh", "-e", "-c", BY_HAND], check=True, env={**os.environ, **told})
    assert live.ended("hand").text == "by hand\n"


def test_daemon_of_another_user() -> None:
    """Whoever is not root runs the jobs of his signers as himself, whatever they are called."""
    # Twice, as a test starts a daemon: setpriv itself still has root's rights.
    again = "import os, sys; os.execv(sys.executable, [sys.executable, '-c', 'import pmjq.cli'])"
    command = [*AS_NOBODY, sys.executable, "-c", again]
    told = {**os.environ, "PYTHONPATH": PROJECT}
    if os.geteuid() == 0 and shutil.which("setpriv"):
        done = subprocess.run(command, check=False, capture_output=True, env=told)
        if done.returncode:
            pytest.skip(f"nobody cannot run {sys.executable} with pmjq of {PROJECT}")
    words = "job_runs or foreign or altered or replayed or wrong or returns or not_root"
    again_as_nobody("tests/test_daemon_signed.py", "-k", f"({words}) and not another_user")


def test_principal_of_who_is_not_root(tmp_path: Path) -> None:
    """It need be no user of this machine, and is recorded beside whom the job ran as."""
    if os.geteuid() == 0:
        pytest.skip("root's daemon wants a user; see test_daemon_of_another_user")
    keys = Keys(tmp_path / "keys")
    keys.allow(keys.make("own"), "ann@example.org")
    with Signing(tmp_path / "principal", keys=keys) as live:
        live.put("hers", live.job("hers"), live.signature("hers", live.job("hers")))
        record = live.ended("hers").record
        assert (record.signer, record.owner) == ("ann@example.org", me())
