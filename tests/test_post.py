"""The rules of the letters of one daemon: each is sent, and none is in anybody's way."""

from __future__ import annotations

import errno
import itertools
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from conftest import eventually
from doubles import CRASHES, Clock, Crash, Faults, Faulty
from pmjq import job, letter, post
from pmjq.disk import Disk
from pmjq.job import Attempt, Record, Spec, Status
from pmjq.letter import Letter
from pmjq.mail import AwayError, Refused, Via
from pmjq.post import Post
from pmjq.spool import Spool
from pmjq.state import State

ID = "00000000-0000-4000-8000-{:012d}"


class Log:
    """Keeps what is logged."""

    def __init__(self) -> None:
        self.said: list[tuple[str, dict[str, Any]]] = []

    def info(self, event: str, **keys: object) -> None:
        self.said.append((event, keys))

    error = warning = info

    def the(self, event: str) -> list[dict[str, Any]]:
        """Return the keys of all lines of an event."""
        return [keys for said, keys in self.said if said == event]


class Way:
    """Takes letters, or does with them what it is told to."""

    def __init__(self) -> None:
        self.sent: list[Letter] = []
        self.tried: list[str] = []
        self.answers: dict[str, Refused] = {}
        self.away = ""
        self.broken = ""
        self.hold: threading.Event | None = None

    def send(self, letter: Letter) -> Mapping[str, Refused]:
        self.tried.append(subject(letter))
        if self.hold is not None:
            self.hold.wait(20)
        if self.away:
            raise AwayError(self.away)
        if self.broken and self.broken in subject(letter):
            raise KeyError(self.broken)
        refused = {to: self.answers[to] for to in letter.to if to in self.answers}
        taken = tuple(to for to in letter.to if to not in refused)
        if taken:
            self.sent.append(msgspec.structs.replace(letter, to=taken))
        return refused


def subject(one: Letter) -> str:
    """Return what a letter is about."""
    return one.text.partition("\n")[0].removeprefix("Subject: ")


class Bench:
    """A post at a spool, and a clock that goes on when it is told to."""

    def __init__(self, root: Path, *, via: bool = True) -> None:
        root.mkdir(exist_ok=True)
        self.root = root
        self.clock = Clock()
        self.log = Log()
        self.way = Way()
        self.spool = self.life("00000001")
        self.post = self.posted(self.way if via else None)

    def posted(self, via: Via | None) -> Post:
        """Return a daemon's letters."""
        made = Post(self.log, via, "pmjq@x", self.clock.now, self.clock.wall)
        made.look(self.spool)
        return made

    def life(self, chance: str, name: str = "a") -> Spool:
        """Return the spool as a new life sees it."""
        spool = Spool(Disk(), str(self.root), f"{name}.boot0001.{chance}")
        spool.prepare("00000000-0000-4000-8000-000000000000")
        spool.begin()
        return spool

    def end(self, number: int, *words: str, state: State = State.FAILED, send: bool = True) -> str:
        """Have a job end, and return its id."""
        attempt = attempted(number, *(words or ("mail=ann",)))
        record = recorded(attempt, state)
        self.post.ended(self.spool, [(attempt, record)])
        if send:
            self.post.send(record.id)
        return record.id

    def advance(self, seconds: float) -> None:
        """Let time pass, and have the thread see it."""
        self.clock.advance(seconds)
        with self.post._changed:
            self.post._changed.notify_all()

    def said(self, event: str, lines: int = 1) -> list[dict[str, Any]]:
        """Wait for so many lines of an event, and return them."""
        return eventually(lambda: (found := self.log.the(event))[lines - 1 :] and found)

    def idle(self) -> None:
        """Wait until nothing waits, and no thread is left."""
        eventually(lambda: not self.post.waiting and self.post._thread is None)

    @property
    def files(self) -> list[str]:
        """Return the names in the directory of the letters."""
        path = Path(self.spool.mail_path(self.spool.token))
        return sorted(os.listdir(path)) if path.exists() else []


def attempted(number: int, *words: str) -> Attempt:
    """Return an attempt."""
    moment = job.moment(1.7e9)
    return Attempt(
        id=ID.format(number),
        name=f"job{number}",
        attempt=1,
        owner="ann",
        uid=1,
        node="a",
        token="a.boot0001.00000001",
        queued=moment,
        claimed=moment,
        spec=Spec(directives=words),
    )


def recorded(attempt: Attempt, state: State) -> Record:
    """Return how it ended."""
    return job.record(attempt, Status(started=1.7e9, ended=1.7e9 + 1, code=1), state, 1.7e9)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """Return a bench."""
    made = Bench(tmp_path)
    yield made
    made.post.close(5)


def test_sent(bench: Bench) -> None:
    """A letter is on disk until it is sent, and the thread goes with the last of them."""
    before = threading.active_count()
    job_id = bench.end(1, "mail=ann,bob", send=False)
    assert (bench.files, bench.way.sent) == ([f"{job_id}.1.end"], [])
    bench.post.send(job_id)
    bench.idle()
    assert [one.to for one in bench.way.sent] == [("ann", "bob")]
    assert (bench.files, threading.active_count()) == ([], before)
    assert bench.log.the("letter.sent")[0]["to"] == "ann, bob"


def test_private(bench: Bench) -> None:
    """Nobody else reads what is in it."""
    bench.end(1, send=False)
    path = bench.spool.mail_path(bench.spool.token)
    assert os.stat(path).st_mode & 0o777 == 0o700
    assert os.stat(f"{path}/{bench.files[0]}").st_mode & 0o777 == 0o600


def test_who_asks_for_none_gets_none(bench: Bench) -> None:
    """And there is no directory for it."""
    bench.end(1, "cpus=2")
    bench.end(2, "mail=ann", "mail-on=fail", state=State.DONE)
    bench.post.began(bench.spool, attempted(3, "mail=ann"), 1.7e9)
    assert not os.path.exists(bench.spool.mail_path(bench.spool.token))
    bench.post.began(bench.spool, attempted(3, "mail=ann", "mail-on=begin"), 1.7e9)
    bench.idle()
    assert [subject(one) for one in bench.way.sent] == ["started: job3 on a"]


def test_written_again_it_is_one(bench: Bench) -> None:
    """As when a job could not be moved, and that is tried again; with what a kill has left."""
    job_id = bench.end(1, send=False)
    hidden = f"{bench.spool.mail_path(bench.spool.token)}/.{job_id}.1.end.part"
    Path(hidden).write_text("torn")
    bench.end(1)
    bench.idle()
    assert len(bench.way.sent) == 1


def test_a_job_that_another_node_has(bench: Bench) -> None:
    """Nobody is told how it ended here."""
    job_id = bench.end(1, send=False)
    bench.post.void(bench.spool, job_id)
    bench.post.send(job_id)
    assert (bench.files, bench.post.waiting) == ([], 0)


def test_nobody_takes_it(bench: Bench) -> None:
    """It is tried again after growing pauses; the others go on meanwhile."""
    bench.way.answers = {"eve": Refused("451 later")}
    bench.end(1, "mail=eve")
    bench.said("letter.failed")
    bench.end(2)
    eventually(lambda: bench.way.sent)
    for seconds in (60, 120, 240):
        tried = len(bench.way.tried)
        bench.advance(seconds - 1)
        assert len(bench.way.tried) == tried
        bench.advance(1)
        eventually(lambda tried=tried: len(bench.way.tried) == tried + 1)  # type: ignore[misc]  # the default is its type
        eventually(lambda: bench.post._line.due(bench.clock.now()) is None)
    assert bench.post.trouble == "451 later"
    assert len(bench.log.the("letter.failed")) == 1
    bench.way.answers = {}
    bench.advance(480)
    bench.idle()
    assert (bench.post.trouble, bench.files) == ("", [])


def test_some_have_it(bench: Bench) -> None:
    """They do not get it again, whoever sends it; who never will is given up."""
    bench.way.answers = {"bob": Refused("451 later"), "eve": Refused("550 no", for_good=True)}
    job_id = bench.end(1, "mail=ann,bob,eve")
    bench.said("letter.failed")
    given_up = bench.log.the("letter.given_up")
    assert given_up == [{"id": job_id, "to": "eve", "reason": "550 no"}]
    left = bench.spool.read_letter(bench.files[0])
    assert left is not None
    assert left.to == ("bob",)
    bench.way.answers = {}
    bench.advance(60)
    bench.idle()
    assert [one.to for one in bench.way.sent] == [("ann",), ("bob",)]


def test_nobody_will_ever_take_it(bench: Bench) -> None:
    """It is gone, with a line in the log, at once."""
    bench.way.answers = {"eve": Refused("550 no", for_good=True)}
    bench.end(1, "mail=eve")
    bench.idle()
    assert bench.files == []
    assert len(bench.log.the("letter.given_up")) == 1


def test_given_up_after_five_days(bench: Bench) -> None:
    """Not before."""
    bench.way.answers = {"eve": Refused("451 later")}
    bench.end(1, "mail=eve")
    bench.said("letter.failed")
    bench.advance(5 * 86400 - 10)
    eventually(lambda: len(bench.way.tried) == 2)
    eventually(lambda: bench.post._line.due(bench.clock.now()) is None)
    assert bench.files
    bench.advance(3600)
    bench.idle()
    assert bench.log.the("letter.given_up")[0]["reason"] == "451 later"
    assert bench.files == []


def test_nothing_can_be_sent(bench: Bench) -> None:
    """That is said once, tried with one letter only, and all go when it is over."""
    bench.way.away = "gone"
    for number in range(3):
        bench.end(number)
    assert bench.said("mail.failed")[0] == {"reason": "gone", "again_in": 60.0}
    assert (len(bench.way.tried), bench.post.trouble, bench.post.waiting) == (1, "gone", 3)
    bench.advance(60)
    eventually(lambda: len(bench.way.tried) == 2)
    bench.way.away = ""
    bench.advance(120)
    bench.idle()
    assert len(bench.way.sent) == 3
    assert (len(bench.log.the("mail.failed")), len(bench.log.the("mail.works_again"))) == (1, 1)


def test_given_up_while_nothing_can_be_sent(bench: Bench) -> None:
    """All that are too old, though only one was tried."""
    bench.way.away = "gone"
    for number in range(3):
        bench.end(number)
    bench.said("mail.failed")
    bench.advance(5 * 86400 + 10)
    bench.idle()
    assert len(bench.log.the("letter.given_up")) == 3
    assert bench.files == []


def test_what_nobody_thought_of(bench: Bench) -> None:
    """One letter that breaks what sends it keeps no other."""
    bench.way.broken = "job1 "
    bench.end(1)
    bench.end(2)
    eventually(lambda: bench.way.sent)
    assert bench.said("letter.failed")[0]["reason"] == "KeyError: 'job1 '"


def test_a_torn_letter(bench: Bench) -> None:
    """It is left alone, and keeps no other."""
    bench.end(1, send=False)
    path = f"{bench.spool.mail_path(bench.spool.token)}/{ID.format(9)}.1.end"
    Path(path).write_text('{"sender": "a')
    Path(path.replace(".end", ".other")).write_text("no letter")
    bench.post.look(bench.spool)
    eventually(lambda: bench.way.sent)
    assert bench.said("letter.failed")[0]["id"] == ID.format(9)
    assert os.path.exists(path)


def test_a_server_that_hangs(bench: Bench) -> None:
    """Nobody waits for it, and who parts does for that long at most."""
    bench.way.hold = threading.Event()
    for number in range(3):
        bench.end(number)
    eventually(lambda: bench.way.tried)
    bench.post.close(0.05)
    assert (bench.log.the("mail.left"), len(bench.files)) == ([{"letters": 3}], 3)
    bench.way.hold.set()
    eventually(lambda: bench.post._thread is None)


def test_close_sends_what_can_be_sent(bench: Bench) -> None:
    """What failed stays, and is not waited for."""
    bench.way.answers = {"eve": Refused("451 later")}
    bench.end(1, "mail=eve")
    bench.end(2)
    bench.post.close(20)
    assert [one.to for one in bench.way.sent] == [("ann",)]
    assert bench.post.waiting == 1
    bench.end(3)
    assert bench.post._thread is None


def test_the_next_daemon_sends_them(bench: Bench) -> None:
    """A life that buries another has its letters; what had begun to be written is gone."""
    bench.way.away = "gone"
    bench.end(1)
    bench.end(2, send=False)
    bench.said("mail.failed")
    bench.post.close(5)
    old = bench.spool
    Path(f"{old.mail_path(old.token)}/.torn.part").write_text("torn")
    bench.way.away = ""
    bench.spool = bench.life("00000002", "b")
    bench.end(3, send=False)
    bench.spool.bury(old.token)
    assert len(bench.files) == 3
    assert not os.path.exists(old.beat_path().rpartition("/")[0])
    bench.post = bench.posted(bench.way)
    bench.idle()
    assert len(bench.way.sent) == 3


def test_a_life_with_letters_is_not_removed(bench: Bench) -> None:
    """As a daemon removes its own that has nothing left."""
    bench.end(1, send=False)
    bench.spool.bury(bench.spool.token)
    assert len(bench.files) == 1
    other = bench.life("00000002")
    other.bury(bench.spool.token)
    assert other.letters() == [f"{ID.format(1)}.1.end"]


def test_letters_that_cannot_be_moved(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The life is buried but for them, and once more later."""
    bench.end(1, send=False)
    other = bench.life("00000002")
    with monkeypatch.context() as patch:
        real = Disk.rename

        def rename(self: Disk, source: str, target: str) -> None:
            if "/mail" in target:
                raise OSError(errno.ENOSPC, "No space left on device")
            real(self, source, target)

        patch.setattr(Disk, "rename", rename)
        assert other.bury(bench.spool.token) == []
    assert other.letters() == []
    assert other.bury(bench.spool.token) == []
    assert len(other.letters()) == 1
    assert bench.spool.token not in other.tokens()


def test_a_new_life_of_the_same_daemon(bench: Bench) -> None:
    """It goes on with what the one before had."""
    bench.way.away = "gone"
    bench.end(1)
    bench.said("mail.failed")
    bench.way.away = ""
    old, bench.spool = bench.spool, bench.life("00000002")
    bench.spool.bury(old.token)
    bench.post.look(bench.spool)
    bench.idle()
    assert len(bench.way.sent) == 1


def test_a_full_disk(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be written is told of, and the rest is written."""
    real = Disk.create

    def create(self: Disk, files: list[tuple[str, bytes, int]]) -> None:
        for path, _, _ in files:
            if ID.format(1) in path:
                raise OSError(errno.ENOSPC, "No space left on device", path)
        real(self, files)

    monkeypatch.setattr(Disk, "create", create)
    ends = [attempted(number, "mail=ann") for number in (1, 2)]
    bench.post.ended(bench.spool, [(one, recorded(one, State.FAILED)) for one in ends])
    told = bench.log.the("letter.unwritten")
    assert told == [{"id": ID.format(1), "reason": "No space left on device"}]
    assert bench.files == [f"{ID.format(2)}.1.end"]


def test_sent_and_not_to_be_removed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a disk that has become read-only: it is not sent again and again."""
    with monkeypatch.context() as patch:

        def unlink(self: Disk, path: str) -> None:
            raise OSError(errno.EROFS, "Read-only file system", path)

        bench.end(1, send=False)
        patch.setattr(Disk, "unlink", unlink)
        bench.post.send(ID.format(1))
        bench.said("letter.failed")
    bench.advance(60)
    bench.idle()
    assert (len(bench.way.sent), bench.files) == (1, [])


def test_no_way(tmp_path: Path) -> None:
    """That is said once, and nothing is written; what others have left stays."""
    bench = Bench(tmp_path)
    bench.end(1, send=False)
    bench.post = bench.posted(None)
    bench.end(2)
    bench.end(3)
    assert [one["reason"] for one in bench.log.the("mail.missing")] == [post.UNSENT]
    assert (bench.post.waiting, len(bench.files), bench.post.trouble) == (1, 1, post.UNSENT)
    bench.post.close(5)


def test_the_output(bench: Bench, tmp_path: Path) -> None:
    """The end of a long one, and nothing of what is no file."""
    attempt = attempted(1, "mail=ann")
    record = recorded(attempt, State.FAILED)
    out = Path(bench.spool.out_path(record))
    out.parent.mkdir()
    out.write_bytes(b"x" * 50_000 + b"\nlast words\n")
    bench.post.ended(bench.spool, [(attempt, record)])
    found = bench.spool.read_letter(bench.files[0])
    assert found is not None
    assert found.text.endswith("\n  last words\n")
    secret = tmp_path / "secret"
    secret.write_text("not for you\n")
    odd: list[Callable[[], object]] = [
        *(lambda: os.mkfifo(out), lambda: out.symlink_to(secret), out.mkdir, lambda: None)
    ]
    for put in odd:
        bench.spool.remove(str(out))
        put()
        bench.post.ended(bench.spool, [(attempt, record)])
        found = bench.spool.read_letter(bench.files[0])
        assert found is not None
        assert "The last lines" not in found.text


@pytest.mark.parametrize(
    ("text", "state", "to"),
    [
        ("#!/bin/sh\n#PMJQ mail=ann cpus=none\n", State.REJECTED, ("ann",)),
        ("#!/bin/sh\n#PMJQ mail=ann after=x\n", State.CANCELLED, ("ann",)),
        ("#!/bin/sh\n#PMJQ mail=ann mail-on=begin cpus=none\n", State.REJECTED, None),
        ("#!/bin/sh\n#PMJQ mail=@ cpus=none\necho mail=ann\n", State.REJECTED, None),
    ],
)
def test_what_is_refused(bench: Bench, text: str, state: State, to: tuple[str] | None) -> None:
    """It is asked for letters, whatever else is wrong with what it asks for."""
    attempt = attempted(1)
    Path(f"{bench.spool.own}/node/{bench.spool.token}/run/{attempt.id}").write_text(text)
    bench.post.ended(bench.spool, [(attempt, job.record(attempt, Status(), state, 1.7e9))])
    found = bench.spool.read_letter(letter.name(attempt.id, 1, "end"))
    assert (found and found.to) == to


class Closed(Way):
    """Is never asked: the daemon ends before."""

    def send(self, letter: Letter) -> Mapping[str, Refused]:
        raise AssertionError


def ending(bench: Bench, spool: Spool) -> Record:
    """Have a job end as the daemon does, at a spool that may be anything."""
    attempt = attempted(1, "mail=ann")
    record = recorded(attempt, State.FAILED)
    bench.post.ended(spool, [(attempt, record)])
    spool.end(record)
    return record


def test_killed_at_any_time_while_it_is_written(tmp_path: Path) -> None:
    """A job that has ended has its letter, and only one; what is torn is none."""
    kills = 0
    for how in CRASHES:
        for number in itertools.count(1):
            bench = Bench(tmp_path / f"{how}{number}".replace(" ", ""))
            bench.post = Post(bench.log, Closed(), "pmjq@x", bench.clock.now, bench.clock.wall)
            attempt = attempted(1, "mail=ann")
            bench.spool.prepare_claim(attempt)
            run = Path(f"{bench.spool.own}/node/{bench.spool.token}/run/{attempt.id}")
            run.write_text("#!/bin/sh\n")
            faults = Faults(at=number, how=how)
            faulty = Spool(Faulty(Disk(), faults), str(bench.root), bench.spool.token)
            try:
                record = ending(bench, faulty)
            except Crash:
                kills += 1
                record = recorded(attempt, State.FAILED)
            else:
                if not faults.hit:
                    break
            heir = bench.life("00000002")
            heir.bury(bench.spool.token)
            if os.path.exists(heir.ended_path(record)):
                assert heir.letters() == [f"{attempt.id}.1.end"], faults
            else:
                assert heir.running() == [attempt.id], faults
            for name in heir.letters():
                assert heir.read_letter(name) is not None
            left = Path(heir.mail_path(heir.token))
            assert not left.exists() or os.listdir(left) == heir.letters(), faults
    assert kills > 20


def test_killed_at_any_time_while_they_are_taken_over(tmp_path: Path) -> None:
    """The next one who buries has all letters, each once."""
    kills = 0
    for mine, how in itertools.product((False, True), CRASHES):
        for number in itertools.count(1):
            bench = Bench(tmp_path / f"{mine}{how}{number}".replace(" ", ""))
            for one in (1, 2):
                bench.end(one, send=False)
            dead, heir = bench.spool, bench.life("00000002")
            if mine:
                bench.spool = heir
                bench.end(3, send=False)
            faults = Faults(at=number, how=how)
            faulty = Spool(Faulty(Disk(), faults), str(bench.root), heir.token)
            try:
                faulty.bury(dead.token)
            except Crash:
                kills += 1
            if not faults.hit:
                break
            last = bench.life("00000003")
            for token in (heir.token, dead.token):
                last.bury(token)
            expected = [f"{ID.format(one)}.1.end" for one in ((1, 2, 3) if mine else (1, 2))]
            assert sorted(last.letters()) == expected, faults
            assert last.tokens() == [last.token], faults
    assert kills > 60
