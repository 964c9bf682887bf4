"""The ways that letters go: a sendmail program, and a server that takes, refuses, or hangs."""

from __future__ import annotations

import os
import re
import shutil
import socket
import ssl
import stat
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiosmtpd.smtp import AuthResult, Envelope, LoginPassword, Session

from pmjq import errand, job, mail
from pmjq.letter import Letter
from pmjq.mail import AwayError, Program, Refused, Server, via
from postoffice import PostOffice, free_port

TEXT = "Subject: x\nFrom: a@b\n\n.\n..\nFrom here\nend\n"


def letter(*to: str) -> Letter:
    """Return a letter."""
    return Letter("a@b", to, job.moment(1.7e9), TEXT)


@pytest.fixture
def office() -> Iterator[PostOffice]:
    """Return a server that takes everything."""
    with PostOffice() as office:
        yield office


def server(office: PostOffice) -> Server:
    """Return the way to it."""
    return Server("127.0.0.1", office.port, silence=5.0)


def test_taken(office: PostOffice) -> None:
    """Each byte of it, for each address."""
    assert server(office).send(letter("ann@x.org", "bob")) == {}
    (envelope,) = office.taken
    assert (envelope.mail_from, envelope.rcpt_tos) == ("a@b", ["ann@x.org", "bob"])
    assert isinstance(envelope.content, bytes)
    assert envelope.content.replace(b"\r\n", b"\n") == TEXT.encode()


def test_some_are_refused(office: PostOffice) -> None:
    """The others get it; 5xx is for good, 4xx is not."""
    office.answers = {"eve": "550 no such user", "bob": "451 greylisted"}
    refused = server(office).send(letter("ann", "eve", "bob"))
    assert refused == {
        "eve": Refused("550 no such user", for_good=True),
        "bob": Refused("451 greylisted"),
    }
    assert office.taken[0].rcpt_tos == ["ann"]


def test_all_are_refused(office: PostOffice) -> None:
    """Nobody gets it."""
    office.answers = {"eve": "550 no such user", "bob": "451 greylisted"}
    refused = server(office).send(letter("eve", "bob"))
    assert [one.for_good for one in refused.values()] == [True, False]
    assert office.taken == []


@pytest.mark.parametrize(("code", "for_good"), [("554", True), ("452", False)])
def test_the_letter_is_refused(office: PostOffice, code: str, *, for_good: bool) -> None:
    """For all that it goes to."""
    office.data = f"{code} not so"
    assert server(office).send(letter("ann", "bob")) == dict.fromkeys(
        ("ann", "bob"), Refused(f"{code} not so", for_good)
    )


def test_the_sender_is_refused(office: PostOffice) -> None:
    """That may be mended at this end, so the letter is not lost."""
    office.sender = "553 who are you"
    assert server(office).send(letter("ann")) == {"ann": Refused("553 who are you")}


def test_nobody_answers() -> None:
    """A closed port, a name that is none: nothing can be sent now."""
    with pytest.raises(AwayError, match=r"^127\.0\.0\.1: Connection refused$"):
        Server("127.0.0.1", free_port(), silence=5.0).send(letter("ann"))
    with pytest.raises(AwayError):
        Server("no..name", 25, silence=1.0).send(letter("ann"))


def test_a_server_that_says_nothing() -> None:
    """It is waited for that long, and no longer."""
    with (
        socket.create_server(("127.0.0.1", 0)) as mute,
        pytest.raises(AwayError, match="timed out"),
    ):
        Server("127.0.0.1", mute.getsockname()[1], silence=0.1).send(letter("ann"))


def test_a_server_that_falls_silent_over_a_letter(office: PostOffice) -> None:
    """That is this letter's, and others may be sent."""
    held = threading.Event()
    office.hold = held
    try:
        way = Server("127.0.0.1", office.port, silence=0.2)
        refused = way.send(letter("ann"))["ann"]
        assert (refused.for_good, "timed out" in refused.reason) == (False, True)
    finally:
        held.set()


def test_a_password(office: PostOffice) -> None:
    """It is told to a server on this machine, and is in no text about the way."""
    seen = []

    def login(server: object, session: Session, envelope: Envelope, mechanism: str,
              data: LoginPassword) -> AuthResult:  # fmt: skip
        seen.append((data.login, data.password))
        return AuthResult(success=data.password == b"secret", handled=False)

    with PostOffice(login=login) as strict:
        good = Server("127.0.0.1", strict.port, user="ann", password="secret")
        assert "secret" not in repr(good)
        assert good.send(letter("bob")) == {}
        bad = Server("127.0.0.1", strict.port, user="ann", password="other")
        with pytest.raises(AwayError, match="535"):
            bad.send(letter("bob"))
    assert seen[0] == (b"ann", b"secret")


def test_no_password_in_the_clear(office: PostOffice, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server elsewhere that offers no TLS is not told it."""
    monkeypatch.setattr(mail, "HERE", frozenset())
    with pytest.raises(AwayError, match="offers no TLS"):
        Server("127.0.0.1", office.port, user="ann", password="x").send(letter("bob"))


def program(tmp_path: Path, text: str, patience: float = 20.0) -> Program:
    """Return a sendmail program."""
    path = tmp_path / "sendmail"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return Program(str(path), {"PATH": os.defpath}, patience)


def test_a_program(tmp_path: Path) -> None:
    """It gets sender, addresses and each byte."""
    way = program(tmp_path, f"cat >{tmp_path}/text; printf '%s\\n' \"$@\" >{tmp_path}/words")
    assert way.send(letter("ann@x.org", "bob")) == {}
    assert (tmp_path / "text").read_text() == TEXT
    words = (tmp_path / "words").read_text().split()
    assert words == ["-i", "-f", "a@b", "--", "ann@x.org", "bob"]


def test_a_program_that_reads_nothing(tmp_path: Path) -> None:
    """It may."""
    huge = Letter("a@b", ("ann",), job.moment(1.7e9), "x" * 1_000_000)
    assert program(tmp_path, "exit 0").send(huge) == {}


def test_a_program_that_fails(tmp_path: Path) -> None:
    """What it says is told; it may take the letter later."""
    way = program(tmp_path, "echo no queue >&2; exit 75")
    reason = f"{way.path}: exit code 75: no queue"
    assert way.send(letter("ann", "bob")) == dict.fromkeys(("ann", "bob"), Refused(reason))


def test_a_program_that_knows_one_of_two(tmp_path: Path) -> None:
    """The other gets it."""
    way = program(tmp_path, f'case "$*" in *eve*) exit 67;; esac; echo "$5" >>{tmp_path}/to')
    assert way.send(letter("eve", "ann")) == {
        "eve": Refused(f"{way.path}: exit code 67", for_good=True)
    }
    assert (tmp_path / "to").read_text() == "ann\n"


def test_a_program_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is ended, with what it started."""
    monkeypatch.setattr(errand, "GRACE", 0.2)
    way = program(tmp_path, "trap '' TERM; sleep 1000 & sleep 1000", patience=0.2)
    assert "took longer than 0.2 s" in way.send(letter("ann"))["ann"].reason


def test_a_program_that_is_gone(tmp_path: Path) -> None:
    """Nothing can be sent now."""
    with pytest.raises(AwayError, match="No such file"):
        Program(str(tmp_path / "sendmail")).send(letter("ann"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("smtp://mail", Server("mail", 25)),
        ("smtp://mail.example.org:587/", Server("mail.example.org", 587)),
        ("smtps://[::1]", Server("::1", 465, tls=True)),
    ],
)
def test_ways(text: str, expected: Server) -> None:
    """A server, and its usual port."""
    assert via(text, {}, {}) == expected


def test_the_password_is_in_the_environment() -> None:
    """And nowhere else."""
    found = via("smtps://mail", {"PMJQ_MAIL_USER": "ann", "PMJQ_MAIL_PASSWORD": "x"}, {})
    assert found == Server("mail", 465, tls=True, user="ann", password="x")


def test_usual_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sendmail of the machine, else none."""
    usual = tmp_path / "sendmail"
    monkeypatch.setattr(mail, "PROGRAMS", (str(tmp_path / "none"), str(usual)))
    assert via("", {}, {}) is None
    usual.touch()
    usual.chmod(stat.S_IRWXU)
    found = via("", {}, {"PATH": "/bin"})
    assert isinstance(found, Program)
    assert (found.path, found.environment["PATH"]) == (str(usual), "/bin:/usr/sbin:/sbin")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("smtp://ann:secret@mail", "set $PMJQ_MAIL_USER and $PMJQ_MAIL_PASSWORD"),
        ("smtp://", "names no server"),
        ("smtp://mail:0", "names no server"),
        ("smtp://mail:x", "has no port that is one"),
        ("smtp://mail:99999", "has no port that is one"),
        ("smtp://mail/x", "has more than a server and a port"),
        ("http://mail", "is of no kind that is known"),
        ("/nowhere/sendmail", "is no program that this user may execute"),
        ("/", "is no program that this user may execute"),
    ],
)
def test_what_is_no_way(text: str, told: str) -> None:
    """The sentence says what to do."""
    with pytest.raises(ValueError, match=re.escape(told)) as error:
        via(text, {}, {})
    assert "secret" not in str(error.value)


@pytest.fixture(scope="module")
def certified(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file with a key and a certificate that nobody vouches for."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl here; apt install openssl")
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    words = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost"
    more = ("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(path), "-out", f"{path}.crt")
    subprocess.run([openssl, *words.split(), *more], check=True, capture_output=True)
    path.write_bytes(path.read_bytes() + Path(f"{path}.crt").read_bytes())
    return path


def context(certified: Path) -> ssl.SSLContext:
    """Return how a server speaks TLS."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(certified)
    return made


def test_tls_is_spoken_where_it_is_offered(
    certified: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With whom, is not asked, unless there is a password to be told."""
    monkeypatch.setattr(mail, "HERE", frozenset())
    with PostOffice(starttls=context(certified)) as office:
        assert server(office).send(letter("ann")) == {}
        assert office.secret == [True]
        with pytest.raises(AwayError, match=r"(?i)certificate verify failed"):
            Server("127.0.0.1", office.port, user="ann", password="x").send(letter("ann"))


def test_tls_from_the_first_byte(certified: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The certificate must be good, but for a server on this machine."""
    with PostOffice(tls=context(certified)) as office:
        way = Server("127.0.0.1", office.port, tls=True, silence=5.0)
        assert way.send(letter("ann")) == {}
        monkeypatch.setattr(mail, "HERE", frozenset())
        with pytest.raises(AwayError, match=r"(?i)certificate verify failed"):
            way.send(letter("ann"))
        monkeypatch.setenv("SSL_CERT_FILE", f"{certified}.crt")
        assert way.send(letter("ann")) == {}
        assert len(office.taken) == 2
