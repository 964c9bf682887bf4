"""The rules of letters: whatever a job is called and writes, they can be read and say how it is."""

from __future__ import annotations

import email
import email.policy
from datetime import UTC, datetime
from email.message import EmailMessage

import msgspec.structs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pmjq import job, keys, letter, naming, writing
from pmjq.job import Attempt, Record, Spec, Status, Usage
from pmjq.state import State
from pmjq.writing import Asked, asked, last_lines, of_begin, of_end

ID = "978c82c8-3546-4972-8edb-544f8455e09a"
NOW = datetime(2026, 11, 26, 12, 30, tzinfo=UTC)
ANN = ("ann@example.org",)


def attempt(name: str = "train.sh", *words: str) -> Attempt:
    """Return an attempt."""
    moment = job.moment(1.7e9)
    return Attempt(
        id=ID,
        name=naming.shown(name),
        name_hex=naming.exact(name),
        attempt=2,
        owner="ann",
        uid=1000,
        node="a",
        token="a.boot0001.00000001",
        queued=moment,
        claimed=moment,
        spec=Spec(directives=words),
    )


def record(
    name: str = "train.sh", state: State = State.FAILED, code: int | None = 3, reason: str = ""
) -> Record:
    """Return how it ended."""
    usage = Usage(60.0, 5.0, 83_000_000) if code is not None else None
    status = Status(started=1.7e9 + 1, ended=1.7e9 + 601, code=code, usage=usage)
    made = job.record(attempt(name), status, state, 1.7e9 + 601, reason)
    return naming_archive(made)


def naming_archive(made: Record) -> Record:
    """Return a record that tells where it is filed."""
    return msgspec.structs.replace(made, archive="../archive")


def read(text: str) -> EmailMessage:
    """Return a letter as a mail program reads it."""
    message = email.message_from_bytes(text.encode("ascii"), policy=email.policy.default)
    assert isinstance(message, EmailMessage)
    return message


def test_it_says_how_the_job_ended() -> None:
    """Subject, outcome, times, where it is, and the last lines of what it wrote."""
    made = of_end(record(reason="exit code 3"), "/q/spool", b"one\ntwo\n", "pmjq@a.org", ANN, NOW)
    message = read(made.text)
    assert message["Subject"] == "failed: train.sh on a"
    assert (message["From"], message["To"]) == ("pmjq@a.org", "ann@example.org")
    assert message["Auto-Submitted"] == "auto-generated"
    assert message["Message-ID"] == f"<{ID}.2.end@pmjq>"
    assert message["Date"].datetime == NOW
    assert message.get_content().splitlines() == [
        "train.sh: failed",
        "",
        "outcome   failed, exit code 3",
        "name      train.sh",
        f"id        {ID}",
        "attempt   2",
        "owner     ann",
        "node      a",
        "queued    2023-11-14 22:13:20Z",
        "started   2023-11-14 22:13:21Z",
        "ended     2023-11-14 22:23:21Z",
        "duration  10 min",
        "CPU time  65 s",
        "memory    83 MB",
        f"archived  /q/archive/20231114T222321.000000Z-{ID}-train.sh",
        f"output    /q/archive/20231114T222321.000000Z-{ID}-train.sh.out",
        "",
        "The last lines of its output:",
        "",
        "  one",
        "  two",
    ]


@pytest.mark.parametrize(
    ("state", "code", "reason", "expected"),
    [
        (State.DONE, 0, "", "done, exit code 0"),
        (State.FAILED, -9, "ended by signal 9 (KILL)", "failed, signal 9 (KILL)"),
        (State.FAILED, -15, "ended, since its time of 5 s was over",
         "failed, signal 15 (TERM), ended, since its time of 5 s was over"),
        (State.LOST, None, "node a was silent", "lost, node a was silent"),
        (State.REJECTED, None, "is empty", "rejected, is empty"),
    ],
)  # fmt: skip
def test_the_outcome(state: State, code: int | None, reason: str, expected: str) -> None:
    """Exit code or signal, and the reason where that says more."""
    made = of_end(record(state=state, code=code, reason=reason), "/q", b"", "a@b", ANN, NOW)
    assert f"outcome   {expected}\n" in read(made.text).get_content().replace("\r\n", "\n")


def test_a_letter_at_the_start() -> None:
    """It has an identity of its own, and no output."""
    message = read(of_begin(attempt(), "a", "pmjq@a.org", ANN, NOW).text)
    assert message["Subject"] == "started: train.sh on a"
    assert message["Message-ID"] == f"<{ID}.2.begin@pmjq>"
    assert "output" not in message.get_content()


def test_written_again_it_is_the_same_letter() -> None:
    """By whichever node: name and identity follow from id and attempt."""
    first = of_end(record(), "/q", b"", "a@b", ANN, NOW)
    other = msgspec.structs.replace(record(), node="b")
    second = of_end(other, "/q", b"more", "c@d", ANN, NOW)
    assert read(first.text)["Message-ID"] == read(second.text)["Message-ID"]


ODD = [
    "a\nBcc: eve@evil.org\n\nbody",
    "a\r\nSubject: other",
    "\udcff\udc80\n",
    "n" * 255,
    "\N{LATIN SMALL LETTER U WITH DIAERESIS}" * 127,
    "\x1b[2J\x07",
    "\u202egnp.exe",
    "\u2028x\u0085y",
    "=?utf-8?q?x=0ABcc:_eve?=",
    " " * 100 + "x",
    '"; ,<x@y>',
]


@pytest.mark.parametrize("name", ODD)
def test_no_name_breaks_out_of_a_header(name: str) -> None:
    """There are the headers that there are with any name, and each is read as it was meant."""
    made = of_end(record(name), "/q", b"", "a@b", ANN, NOW)
    check(made.text, name)


def check(text: str, name: str) -> None:
    """Have a letter read, and compared with what it was to say."""
    message = read(text)
    assert [key.lower() for key in message] == HEADERS
    assert not message.defects
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in naming.shown(name))
    assert f"{shown}: failed\n" in message.get_content().replace("\r\n", "\n")
    assert max(map(len, text.split("\n"))) < 999
    assert "\r" not in text


HEADERS = [
    *("subject", "from", "to", "date", "message-id", "auto-submitted"),
    *("content-type", "content-transfer-encoding", "mime-version"),
]


@given(st.binary(min_size=1, max_size=255))
def test_any_name(data: bytes) -> None:
    """Names are bytes without a slash."""
    name = data.replace(b"/", b"x").replace(b"\0", b"x").decode("utf-8", "surrogateescape")
    made = of_end(record(name), "/q", b"", "a@b", ANN, NOW)
    check(made.text, name)
    assert [key.lower() for key in read(of_begin(attempt(name), "a", "a@b", ANN, NOW).text)] == (
        HEADERS
    )


@given(st.text("=?utf8qbQB_-0AD:cC \n\u2028", max_size=100))
def test_names_that_look_encoded(name: str) -> None:
    """Nothing in a name is decoded by who writes the header."""
    check(of_end(record(name or "x"), "/q", b"", "a@b", ANN, NOW).text, name or "x")


ADDRESSES = st.from_regex(
    r"[A-Za-z0-9_][A-Za-z0-9!#$%&'*+/=^_`{|}~.-]{0,63}(@[A-Za-z0-9]([A-Za-z0-9.-]{0,30}[A-Za-z0-9])?)?",
    fullmatch=True,
)


@given(st.lists(ADDRESSES, min_size=1, max_size=30))
def test_any_address_that_directives_let_through(to: list[str]) -> None:
    """It is in the header once, and nothing else is."""
    assert not isinstance(keys.fields([f"mail={','.join(to)}"]), keys.Wrong)
    made = of_end(record(), "/q", b"", "a@b", to, NOW)
    head = made.text.partition("\n\n")[0]
    assert [key.lower() for key in read(made.text)] == HEADERS
    unfolded = head.replace("\n ", " ").split("\nTo: ")[1].partition("\n")[0]
    assert unfolded.replace(" ", "") == ",".join(to)


@given(st.binary(max_size=3000))
def test_any_output(output: bytes) -> None:
    """It is text of printable letters, and not much of it."""
    lines = last_lines(output)
    assert len(lines) <= writing.LINES
    assert all(line.isprintable() for line in lines)
    made = of_end(record(), "/q", output, "a@b", ANN, NOW)
    assert len(made.text) < 100_000
    content = read(made.text).get_content().replace("\r\n", "\n")
    assert content.endswith("".join(f"  {line}\n" for line in lines))


def test_a_huge_output() -> None:
    """The last lines of it, none of them a torn one; of one endless line its end."""
    huge = b"".join(b"line %06d\n" % number for number in range(200_000))
    assert last_lines(huge) == [f"line {number:06d}" for number in range(199_980, 200_000)]
    (endless,) = last_lines(b"x" * (1 << 20))
    assert endless == "x" * writing.MOST_READ
    assert last_lines(b"\xc3\xbc" * 5000 + b"\nend\n") == ["end"]


def test_outputs_of_terminals() -> None:
    """Colours are left out, and of a progress bar the last state is told."""
    assert last_lines(b"\x1b[31mred\x1b[0m\n 1%\r 2%\r100%\r\n") == ["red", "100%"]
    assert last_lines(b"a\tb\0\xff\n") == ["a       b\\x00\\xff"]
    assert last_lines(b"") == last_lines(b"\n \n") == []


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], Asked()),
        (["cpus=2"], Asked()),
        (["mail=ann"], Asked(("ann",), ("end",))),
        (["mail=ann,bob@x", "mail=ann", "mail-on=fail"], Asked(("ann", "bob@x"), ("fail",))),
        (["mail-on=begin", "mail=ann", "mail-on=end"], Asked(("ann",), ("begin", "end"))),
        (["mail=a b"], Asked()),
    ],
)
def test_what_directives_ask_for(words: list[str], expected: Asked) -> None:
    """Addresses add up, each once; without an occasion it is the end."""
    assert asked(words) == expected


@pytest.mark.parametrize("state", [*keys.MAIL_ON])
def test_occasions(state: str) -> None:
    """``fail`` is any end but ``done``, ``end`` any end."""
    wish = Asked(("ann",), (state,))
    assert wish.begins() == (state == "begin")
    assert wish.ends(State.DONE) == (state == "end")
    for other in (State.FAILED, State.CANCELLED, State.REJECTED, State.LOST):
        assert wish.ends(other) == (state in ("end", "fail"))
    assert not Asked((), ("begin", "end", "fail")).begins()
    assert not Asked((), ("begin", "end", "fail")).ends(State.FAILED)


def test_names() -> None:
    """A name is id, attempt and kind, and nothing else is one."""
    assert letter.is_name(letter.name(ID, 12, "end"))
    assert not letter.is_name(f".{ID}.1.end.part")
    assert not letter.is_name(f"{ID}.1.other")
