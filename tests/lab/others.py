"""What a drop box of people who do not trust one another shows on any shared file system."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack, closing

from conftest import Say
from lab import dropbox
from lab.dropbox import Box, People
from lab.hosts import HOSTS
from lab.shared import LEASE, Share
from live import Live, eventually
from pmjq.state import State

EACH = 10
"""Jobs of each owner."""


def owners(share: Share, people: People, say: Say) -> None:
    """Two nodes of root run everybody's jobs as himself, and go on with what a dead one had."""
    with ExitStack() as stack:
        box = stack.enter_context(closing(Box(None, above=share.mounts[0])))
        nodes = [_node(share, box, number) for number in range(2)]
        for live in nodes:
            stack.enter_context(live)
        _as_themselves(share, box, people)
        _refused(box, people)
        seconds = _taken_over(box, nodes, people)
        assert nodes[1].stop() == 0
    say(
        f"{share.kind}, three owners on two nodes of root: {3 * EACH} jobs, each as himself; "
        f"a node killed: taken over {seconds:.1f} s after it died (lease {LEASE:g} s)"
    )


def _node(share: Share, box: Box, number: int) -> Live:
    root = share.mounts[number] / box.root.name
    options = ["-o", str(root / "archive"), "--node", f"n{number + 1}", "-j", "4"]
    options += ["--lease", f"{LEASE:g}", "--settle", "0"]
    hosts = share.hosts
    before = hosts.inside(HOSTS[number]) if hosts else ()
    live = Live(root, *options, before=(*before, *dropbox.rights()))
    live.log = root / f"n{number + 1}.log"
    return live


def _as_themselves(share: Share, box: Box, people: People) -> None:
    """People move their jobs in from a third machine."""
    spool = share.mounts[2] / box.root.name / "spool"
    for person in people.all():
        for number in range(EACH):
            name = f"{person.name}.{number}"
            person.write(person.home / name, "#!/bin/sh\nid -un; id -G; touch mine\n")
            moved = f"cp -p {name} {spool}/.{name} && mv {spool}/.{name} {spool}/{name}"
            done = person.run("sh", "-c", moved)
            assert done.returncode == 0, done.stderr
    for person in people.all():
        groups = " ".join(map(str, os.getgrouplist(person.name, person.gid)))
        for number in range(EACH):
            filed = box.ended(f"{person.name}.{number}", within=120)
            record = filed.record
            assert (record.state, record.owner) == (State.DONE, person.name), record
            assert filed.text == f"{person.name}\n{groups}\n"
            assert (filed.files / "mine").stat().st_uid == person.uid
            beside = (f"{filed.path.name}{end}" for end in (".json", ".out"))
            private = [filed.files / "mine", *map(filed.path.with_name, beside)]
            for another in people.all():
                assert another.readable(*private) == (private if another == person else [])
    assert {filed.record.node for filed in box.filed()} == {"n1", "n2"}


def _refused(box: Box, people: People) -> None:
    """What could be another's doing is not executed."""
    ann, eve, _ = people.all()
    trace = box.trace()
    wide = box.put(ann, "wide", trace, 0o777)
    eventually(lambda: "chmod go-w" in box.reason(ann, "wide"), within=60)
    wide.unlink()
    target = ann.write(box.root / "script", f"#!/bin/sh\n{trace}")
    assert eve.run("ln", "-s", target, box.spool / "link").returncode == 0
    os.link(target, box.spool / "hard")
    for name, reason in (("link", "a symbolic link"), ("hard", "hard links")):
        filed = box.ended(name, within=60)
        assert filed.record.state is State.REJECTED
        assert reason in filed.record.reason
    box.put(eve, "suid", trace, 0o4755)
    assert box.ended("suid", within=60).record.state is State.REJECTED
    assert not list(box.side.glob("as.*"))


def _taken_over(box: Box, nodes: list[Live], people: People) -> float:
    """The first node dies; return after how many seconds the second one goes on."""
    ann, eve, _ = people.all()
    first, second = nodes
    assert second.stop() == 0
    text = f"id -un >>'{box.side}/%s'\nsleep 1000\n"
    box.put(ann, "again", "#PMJQ restartable\n" + text % "again")
    box.put(eve, "lost", text % "lost")
    eventually(lambda: (_said(box, "again"), _said(box, "lost")) == ([ann.name], [eve.name]))
    second.start()
    first.close()
    died = time.monotonic()
    eventually(lambda: _said(box, "again") == [ann.name] * 2, within=20 * LEASE)
    seconds = time.monotonic() - died
    filed = box.ended("lost", within=60)
    assert (filed.record.state, filed.record.owner) == (State.LOST, eve.name)
    refused = box.ask(eve, "cancel", "again")
    assert refused.returncode == 66, refused
    assert box.ask(ann, "cancel", "again").returncode == 0
    assert box.ended("again", within=60).record.state is State.CANCELLED
    assert _said(box, "lost") == [eve.name]
    return seconds


def _said(box: Box, name: str) -> list[str]:
    path = box.side / name
    return path.read_text(encoding="utf-8").split() if path.exists() else []
