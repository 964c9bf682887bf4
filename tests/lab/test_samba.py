"""A share of a real Samba server, to which all files are one user's: signed jobs of its clients."""

from __future__ import annotations

import contextlib
import functools
import json
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from conftest import Say
from lab import dropbox
from lab.dropbox import People, Person
from live import eventually
from pmjq.state import State
from postoffice import free_port
from signatures import Keys, Signing, needed, signed_text

pytestmark = [pytest.mark.lab, needed]

TRIES = 20
"""Jobs of each trick."""

PASSWORD = "as good as none"  # of users that are removed again

CONFIGURATION = """\
[global]
server role = standalone server
interfaces = lo
bind interfaces only = yes
smb ports = {port}
load printers = no
disable spoolss = yes
log level = 0
passdb backend = tdbsam:{own}/passdb.tdb
private directory = {own}
state directory = {own}
cache directory = {own}
lock directory = {own}
pid directory = {own}
ncalrpc dir = {own}/ncalrpc

[spool]
path = {spool}
read only = no
force user = {user}
create mask = 0755
force create mode = 0755
"""


@dataclass
class Export:
    """The spool of root's daemon, where all that clients put is ``user``'s."""

    live: Signing
    people: People
    configuration: Path
    port: int

    @property
    def user(self) -> Person:
        """Return whose all files are."""
        return self.people.tom

    def popen(self, who: Person, commands: str) -> subprocess.Popen[bytes]:
        """Start a client of somebody's."""
        words = ["smbclient", "//127.0.0.1/spool", "-s", str(self.configuration)]
        words += ["-p", str(self.port), "-U", f"{who.name}%{PASSWORD}", "-c", commands]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        return subprocess.Popen(words, cwd=who.home, **pipes)  # type: ignore[call-overload,no-any-return]

    def tell(self, who: Person, *commands: str) -> bool:
        """Let somebody's client do something; False if the last of it failed."""
        with self.popen(who, "; ".join(commands)) as client:
            said, _ = client.communicate()
        assert b"NT_STATUS_LOGON_FAILURE" not in said, said
        return client.returncode == 0

    def get(self, who: Person, name: str) -> bytes:
        """Return what somebody reads of the share."""
        taken = who.home / "taken"
        assert self.tell(who, f'get "{name}" taken')
        return taken.read_bytes()

    @functools.cached_property
    def uuid(self) -> str:
        """Return which spool it is, as the share tells."""
        told: dict[str, str] = json.loads(self.get(self.people.ann, ".pmjq/spool.json"))
        return told["uuid"]

    def signature(self, who: Person, name: str, content: bytes) -> bytes:
        """Return somebody's signature of a job."""
        key = self.live.keys.directory / who.name
        return self.live.keys.sign(key, signed_text(self.uuid, name, content))

    def put(self, who: Person, **files: bytes) -> None:
        """Put files of somebody's on the share, in this order."""
        for name, content in files.items():
            (who.home / name).write_bytes(content)
        assert self.tell(who, *(f"put {name}" for name in files))


@pytest.fixture(scope="module")
def share() -> Iterator[Export]:
    """Return a share with a daemon at it."""
    dropbox.needs()
    if shutil.which("smbd") is None or shutil.which("smbclient") is None:
        pytest.skip("no smbd or no smbclient here: samba and smbclient have them")
    with contextlib.ExitStack() as stack:
        people = stack.enter_context(dropbox.people())
        root = Path(tempfile.mkdtemp(prefix="pmjq-lab-", dir="/tmp"))
        stack.callback(shutil.rmtree, root)
        root.chmod(0o755)
        keys = Keys(root / "keys")
        for person in (people.ann, people.eve):
            keys.allow(keys.make(person.name), person.name)
        live = Signing(root / "signed", "-j", "4", keys=keys)
        live.spool.chmod(0o1777)
        live.side.chmod(0o1777)
        own = root / "samba"
        own.mkdir(0o700)
        told = Export(live, people, root / "smb.conf", free_port())
        told.configuration.write_text(
            CONFIGURATION.format(port=told.port, own=own, spool=live.spool, user=told.user.name)
        )
        for person in (people.ann, people.eve):
            words = ["smbpasswd", "-c", str(told.configuration), "-s", "-a", person.name]
            subprocess.run(words, check=True, input=f"{PASSWORD}\n{PASSWORD}\n", text=True)
        # It makes itself a session, and ends all of that when it ends.
        words = ["smbd", "--foreground", f"-s{told.configuration}"]
        server = stack.enter_context(subprocess.Popen(words, stdin=subprocess.DEVNULL))
        stack.callback(server.terminate)
        eventually(lambda: told.tell(people.ann, "ls"), what="the server answers")
        stack.enter_context(live)
        yield told


def test_job_runs_as_its_signer(share: Export) -> None:
    """Whose file it is means nothing: all are of one who is no signer of theirs."""
    ann, live = share.people.ann, share.live
    content = b'#!/bin/sh\nid -un; echo "$PMJQ_OWNER $PMJQ_SIGNER"\n'
    signature = share.signature(ann, "whose", content)
    share.put(ann, **{"whose.sig": signature})
    assert (live.spool / "whose.sig").stat().st_uid == share.user.uid
    share.put(ann, whose=content)
    filed = live.ended("whose", within=60)
    assert (filed.record.state, filed.record.owner) == (State.DONE, ann.name)
    assert filed.text == f"{ann.name}\n{ann.name} {ann.name}\n"
    assert filed.path.read_bytes() == content


def test_upload_that_takes_its_time(share: Export) -> None:
    """A job that the server still writes is not run, and nothing of it is rejected."""
    ann, live = share.people.ann, share.live
    filler = b"# nothing\n" * 200_000
    content = b"#!/bin/sh\necho begun\n" + filler + b"echo whole\n"
    share.put(ann, **{"slow.sig": share.signature(ann, "slow", content)})
    with share.popen(ann, "put - slow") as client:
        assert client.stdin is not None
        client.stdin.write(content[: len(filler)])
        client.stdin.flush()
        reason = "still open for writing"
        eventually(lambda: live.node().get("aside", {}).get("slow") == reason, within=60)
        client.stdin.write(content[len(filler) :])
        client.stdin.close()
        assert client.wait(60) == 0
    assert live.ended("slow", within=60).text == "begun\nwhole\n"


def test_upload_that_breaks_off(share: Export) -> None:
    """What came of it does not fit the signature."""
    ann, live = share.people.ann, share.live
    content = b"#!/bin/sh\n" + live.side_effect("cut").encode() + b"# nothing\n" * 3_000_000
    share.put(ann, **{"cut.sig": share.signature(ann, "cut", content)})
    with share.popen(ann, "put - cut") as client:
        assert client.stdin is not None
        client.stdin.write(content[:-1_000_000])
        client.stdin.flush()
        eventually(lambda: (live.spool / "cut").stat().st_size > 0, within=60)
        client.kill()
    filed = live.ended("cut", within=60)
    assert filed.record.state is State.REJECTED
    assert "signature" in filed.record.reason
    assert live.runs("cut") == 0


def test_whoever_is_on_the_share_changes_it(share: Export, say: Say) -> None:
    """To the server all are one: eve writes to ann's files, who has executed what she signed."""
    ann, eve, live = share.people.ann, share.people.eve, share.live
    names = [f"fought-{number:02}" for number in range(3 * TRIES)]
    for kind in ("honest", "forged"):
        (live.side / kind).mkdir()
        (live.side / kind).chmod(0o1777)
    for name in names:
        content = f"#!/bin/sh\nid -un >>'{live.side}/honest/{name}'\n".encode()
        (ann.home / name).write_bytes(content)
        (ann.home / f"{name}.sig").write_bytes(share.signature(ann, name, content))
        (eve.home / name).write_bytes(content.replace(b"/honest/", b"/forged/"))
    honest = "; ".join(f"put {name}.sig; put {name}" for name in names)
    forged = "; ".join(f"put {name}" for name in reversed(names * 2))
    with share.popen(eve, forged) as her, share.popen(ann, honest) as hers:
        for client in (hers, her):
            client.communicate()
    eventually(lambda: not set(names) & set(live.spooled()), within=120, what="all are settled")
    eventually(lambda: all(live.named(name) for name in names), within=60)
    filed = [one for name in names for one in live.named(name)]
    done = [one.record.name for one in filed if one.record.state is State.DONE]
    assert len(done) == len(set(done))
    assert {one.record.owner for one in filed if one.record.state is State.DONE} <= {ann.name}
    written = {path.name: path.read_text("utf-8") for path in (live.side / "honest").iterdir()}
    assert written == dict.fromkeys(done, f"{ann.name}\n")
    assert list((live.side / "forged").iterdir()) == []
    # One of them may have come too late each time; nobody interferes with these.
    for name, more in (("as-signed", b""), ("altered", b"# eve\n")):
        content = f"#!/bin/sh\n{live.side_effect(name)}".encode()
        share.put(ann, **{f"{name}.sig": share.signature(ann, name, content)})
        share.put(eve, **{name: content + more})
    assert live.ended("as-signed").record.state is State.DONE
    eventually(lambda: live.refused().get("altered") == "altered")
    assert (live.runs("as-signed"), live.runs("altered")) == (1, 0)
    say(
        f"altered through Samba by who is there as the same user: {len(names)} tried, "
        f"{len(done)} executed as signed, {len(filed) - len(done)} files rejected, "
        "none executed as altered"
    )


def test_what_the_share_gives_away(share: Export, say: Say) -> None:
    """Everybody there can read ann's jobs and signatures: they are good for nothing else."""
    ann, eve, live = share.people.ann, share.people.eve, share.live
    stranger = live.keys.make("stranger")
    names = [f"once-{number:02}" for number in range(TRIES)]
    jobs = {name: f"#!/bin/sh\n{live.side_effect(name)}".encode() for name in names}
    signatures = {
        f"{name}.sig": share.signature(ann, name, content) for name, content in jobs.items()
    }
    share.put(ann, **signatures)
    taken = {name: share.get(eve, name) for name in signatures}
    assert taken == signatures
    share.put(ann, **jobs)
    for name in names:
        assert live.ended(name, within=60).record.owner == ann.name
    again: dict[str, bytes] = {}
    faults: dict[str, str] = {}
    for name, content in jobs.items():
        signature = signatures[f"{name}.sig"]
        text = signed_text(share.uuid, f"foreign-{name}", content)
        foreign = live.keys.sign(stranger, text)
        again |= {f"{name}.sig": signature, name: content}
        again |= {f"other-{name}.sig": signature, f"other-{name}": content}
        again |= {f"foreign-{name}.sig": foreign, f"foreign-{name}": content}
        again[f"unsigned-{name}"] = content
        faults |= {name: "replayed", f"other-{name}": "altered"}
        faults |= {f"foreign-{name}": "foreign", f"unsigned-{name}": "unsigned"}
    share.put(eve, **again)
    eventually(lambda: faults.items() <= live.refused().items(), within=120, what="all are refused")
    for name in faults.keys() - jobs.keys():
        assert live.ended(name).record.state is State.REJECTED
    assert [live.runs(name) for name in jobs] == [1] * TRIES
    assert Counter(faults.values()) <= live.counted()
    say(
        f"ann's jobs and signatures, put on the share again by eve: {TRIES} replayed, {TRIES} "
        f"under another name, {TRIES} unsigned, {TRIES} by a foreign key: none executed"
    )
