"""Letters of a real daemon: by a sendmail program and by SMTP, and over its death."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from live import Live, eventually
from pmjq import Queue
from pmjq.cli import main
from postoffice import PostOffice, free_port, head

MAIL = "#PMJQ mail=ann@example.org\n"


class Sendmail:
    """A sendmail program that keeps what it is given, after shell text that may do otherwise."""

    def __init__(self, root: Path, before: str = "") -> None:
        self.kept = root / "kept"
        self.kept.mkdir(exist_ok=True)
        self.path = root / "sendmail"
        self.become(before)

    def become(self, before: str) -> None:
        """Do something else from the next letter on."""
        new = self.path.with_name("sendmail.new")
        new.write_text(f"#!/bin/sh\n{before}\ncd '{self.kept}' && cat >.$$ && mv .$$ $$\n")
        new.chmod(0o755)
        new.rename(self.path)

    @property
    def texts(self) -> list[str]:
        """Return the letters that it has kept."""
        return [path.read_text() for path in self.kept.glob("[0-9]*")]

    @property
    def subjects(self) -> list[str]:
        """Return what they are about."""
        lines = [text.partition("\n")[0] for text in self.texts]
        return sorted(line.removeprefix("Subject: ") for line in lines)

    def live(self, root: Path, *options: str, **more: Path) -> Live:
        """Return a daemon that sends letters by it."""
        return Live(root, "--node", "a", "--mail-via", str(self.path), *options, **more)  # type: ignore[arg-type]  # a spool


def letters(live: Live) -> list[str]:
    """Return the letters that lie in a spool."""
    found = (live.spool / ".pmjq" / "node").glob("*/mail/*")
    return [path.name for path in found]


def test_letters(tmp_path: Path) -> None:
    """Begin, end and failure as each job asks for, from the address that was given."""
    sendmail = Sendmail(tmp_path)
    live = sendmail.live(tmp_path, "--mail-from", "q@example.org")
    live.drop("good", f"{MAIL}echo well\n")
    live.drop("bad", f"{MAIL}#PMJQ mail-on=begin,fail\necho oh dear\nexit 3\n")
    live.drop("fine", f"{MAIL}#PMJQ mail-on=fail\ntrue\n")
    live.drop("none", "true\n")
    live.drop("again", f"{MAIL}#PMJQ mail-on=begin,end retries=1 backoff=0s\nfalse\n")
    live.drop("wrong", f"{MAIL}#PMJQ cpus=many\n")
    live.drop("a\nBcc: eve@evil.org", MAIL)
    assert live.once() == 0
    assert sendmail.subjects == [
        r"done: a\nBcc: eve@evil.org on a",
        *("done: good on a", "failed: again on a", "failed: bad on a", "rejected: wrong on a"),
        *("started: again on a", "started: again on a", "started: bad on a"),
    ]
    (text,) = [text for text in sendmail.texts if "failed: bad" in text]
    assert "\nFrom: q@example.org\nTo: ann@example.org\n" in text
    assert text.endswith("\n  oh dear\n")
    assert letters(live) == live.leftovers() == []


def test_jobs_that_never_run(tmp_path: Path) -> None:
    """Who is cancelled in the queue, or waits in vain, is told of."""
    sendmail = Sendmail(tmp_path)
    with sendmail.live(tmp_path) as live:
        live.drop("kept", f"{MAIL}#PMJQ not-before=2199-01-01T00:00:00Z\n")
        queue = Queue(live.spool)
        eventually(lambda: queue.cancel("kept")[0].done)
        eventually(lambda: sendmail.subjects == ["cancelled: kept on a"])
        live.drop("after", f"{MAIL}#PMJQ after=kept\n")
        eventually(lambda: "cancelled: after on a" in sendmail.subjects)


def test_a_program_that_fails_at_first(tmp_path: Path) -> None:
    """The job is filed, the letter waits, which the node tells, and the next daemon sends it."""
    sendmail = Sendmail(tmp_path, "exit 75")
    with sendmail.live(tmp_path) as live:
        live.drop("job", MAIL)
        live.ended("job")
        live.said("letter.failed")
        eventually(lambda: "exit code 75" in live.node().get("mail", ""))
        assert live.node()["letters"] == 1
        assert live.stop() == 0
        assert len(letters(live)) == 1
        sendmail.become("")
        live.start()
        eventually(lambda: sendmail.subjects)
        eventually(lambda: not letters(live))
        assert sendmail.subjects == ["done: job on a"]


def test_a_program_that_hangs(tmp_path: Path) -> None:
    """It holds up neither jobs nor the end of the daemon."""
    sendmail = Sendmail(tmp_path, f"echo $$ >>{tmp_path}/pids; sleep 1000")
    with sendmail.live(tmp_path) as live:
        for number in range(5):
            live.drop(f"job{number}", MAIL)
        for number in range(5):
            live.ended(f"job{number}")
        assert live.stop(within=60) == 0
        assert live.said("mail.left")["letters"] == 5
        for pid in (tmp_path / "pids").read_text().split():
            os.killpg(int(pid), signal.SIGKILL)
        sendmail.become("")
        assert live.once() == 0
        assert sendmail.subjects == [f"done: job{number} on a" for number in range(5)]


def test_killed_before_it_is_sent(tmp_path: Path) -> None:
    """The letter goes out with the next daemon, and the job is filed once."""
    gate = tmp_path / "began"
    sendmail = Sendmail(tmp_path, f"echo $$ >{gate}; sleep 1000")
    with sendmail.live(tmp_path) as live:
        live.drop("job", live.side_effect("job") + MAIL)
        live.drop("asks", f"{MAIL}{live.side_effect('asks')}")
        live.ended("asks")
        pid = int(eventually(lambda: gate.exists() and gate.read_text()))
        live.kill()
        os.killpg(pid, signal.SIGKILL)
        assert len(letters(live)) == 1
        sendmail.become("")
        live.start()
        eventually(lambda: sendmail.subjects == ["done: asks on a"])
        eventually(lambda: not letters(live))
        assert (live.runs("asks"), len(live.named("asks"))) == (1, 1)


def test_the_heir_sends_the_letters_of_a_dead_node(tmp_path: Path) -> None:
    """Whoever buries a life has its letters."""
    silent, sendmail = tmp_path / "silent", Sendmail(tmp_path)
    silent.mkdir()
    broken = Sendmail(silent, "exit 75")
    spool = tmp_path / "spool"
    spool.mkdir()
    dead = broken.live(tmp_path / "a", "--lease", "2", spool=spool)
    heir = Live(
        tmp_path / "b", "--node", "b", "--lease", "2", "--mail-via", str(sendmail.path), spool=spool
    )
    try:
        dead.start()
        dead.drop("job", MAIL)
        dead.said("letter.failed")
        heir.start()
        dead.kill()
        eventually(lambda: sendmail.subjects == ["done: job on a"], within=40)
        eventually(lambda: not letters(heir))
    finally:
        dead.close()
        heir.close()


def test_an_archive_that_is_away(tmp_path: Path) -> None:
    """One letter is written, however often the job is tried to be filed."""
    sendmail = Sendmail(tmp_path)
    with sendmail.live(tmp_path) as live:
        live.archive.rename(tmp_path / "elsewhere")
        live.drop("job", MAIL)
        live.said("archive.failed")
        eventually(lambda: sendmail.subjects)
        assert live.stop() == 0
        (tmp_path / "elsewhere").rename(live.archive)
        assert live.once() == 0
        live.ended("job")
        assert len(sendmail.texts) == 1


def server(root: Path, port: int, *options: str) -> Live:
    """Return a daemon that sends letters by a server."""
    return Live(root, "--node", "a", "--mail-via", f"smtp://127.0.0.1:{port}", *options)


def test_a_server(tmp_path: Path) -> None:
    """It takes them; who is refused for good is given up, and who is not, waits."""
    with PostOffice() as office, server(tmp_path, office.port) as live:
        office.answers = {"eve@evil.org": "550 no", "bob@example.org": "451 later"}
        live.drop("job", "#PMJQ mail=ann@example.org,eve@evil.org,bob@example.org\necho said\n")
        live.ended("job")
        assert live.said("letter.sent")["to"] == "ann@example.org"
        assert live.said("letter.given_up")["to"] == "eve@evil.org"
        assert live.said("letter.failed")["reason"] == "451 later"
        assert live.stop() == 0
        office.answers = {}
        assert live.once() == 0
        assert [one.rcpt_tos for one in office.taken] == [["ann@example.org"], ["bob@example.org"]]
        first, second = (head(one, "Message-ID") for one in office.taken)
        assert first == second


def test_a_server_that_comes_back(tmp_path: Path) -> None:
    """Until then jobs run, and that it is away is told once."""
    port = free_port()
    with server(tmp_path, port) as live:
        for number in range(3):
            live.drop(f"job{number}", MAIL)
        for number in range(3):
            live.ended(f"job{number}")
        assert "Connection refused" in live.said("mail.failed")["reason"]
        assert live.stop() == 0
        assert len(live.told("mail.failed")) == 1
        with PostOffice(port) as office:
            live.start()
            eventually(lambda: len(office.taken) == 3)
            eventually(lambda: not letters(live))
            assert sorted(office.subjects) == [f"done: job{number} on a" for number in range(3)]


def test_a_server_that_hangs(tmp_path: Path) -> None:
    """It holds up neither jobs nor the end of the daemon; what it took may come twice."""
    with PostOffice() as office, server(tmp_path, office.port) as live:
        office.hold = threading.Event()
        live.drop("job", MAIL)
        live.drop("other", MAIL)
        live.ended("job")
        live.ended("other")
        eventually(lambda: office.tried)
        assert live.stop(within=60) == 0
        office.hold.set()
        assert live.once() == 0
        assert set(office.subjects) == {"done: job on a", "done: other on a"}
        assert letters(live) == []


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--mail-via", "smtp://ann:secret@mail"], "set $PMJQ_MAIL_USER and $PMJQ_MAIL_PASSWORD"),
        (["--mail-via", "http://mail"], "--mail-via http://mail: is of no kind that is known"),
        (["--mail-via", "/nowhere"], "is no program that this user may execute"),
        (["--mail-from", "ann\n@x"], "is no address; write for instance"),
    ],
)
def test_wrong_options(
    tmp_path: Path, words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are refused before anything is touched, and no password is repeated."""
    assert main([*words, str(tmp_path)]) == 64
    said = capsys.readouterr().err
    assert told in said
    assert "secret" not in said
    assert os.listdir(tmp_path) == []
