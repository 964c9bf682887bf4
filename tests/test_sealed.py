"""What a life keeps of signed jobs, on a real disk."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from pathlib import Path

import msgspec
import pytest

from pmjq import digest, signing
from pmjq.disk import Disk
from pmjq.job import Again, Attempt, Signed, Try
from pmjq.spool import Spool
from values import attempt

UUID = "5c9f6bd2-0b0e-4b53-8f3e-07d8a1f1c0aa"
CONTENT = b"#!/bin/sh\ntrue\n"
SIGNATURE = b"-----BEGIN SSH SIGNATURE-----\n"


def _life(root: Path, name: str = "node") -> Spool:
    spool = Spool(Disk(), str(root), f"{name}.12345678.12345678")
    spool.prepare(UUID)
    spool.begin()
    return spool


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    """Return the spool of a life."""
    return _life(tmp_path)


def _signed(
    number: int = 1, name: str = "job", earlier: tuple[Try, ...] = (), file: str = ""
) -> Attempt:
    content = signing.digest(CONTENT)
    mark = signing.mark(signing.text(UUID, name, content))
    return msgspec.structs.replace(
        attempt(id=f"00000000-0000-0000-0000-{number:012}", name=file or name),
        signer="ann",
        signed=Signed(content, mark, name),
        earlier=earlier,
        uid=os.geteuid(),
    )


def _claimed(spool: Spool, one: Attempt, content: bytes = CONTENT) -> Attempt:
    """Have a life claim a signed job."""
    job = Path(spool.root, one.name)
    job.write_bytes(content)
    job.chmod(0o755)
    Path(f"{job}.sig").write_bytes(SIGNATURE)
    spool.prepare_claim(one)
    spool.keep_signature(one, SIGNATURE)
    assert spool.claim(one)
    spool.take_signature(one)
    return one


def _baton(spool: Spool, one: Attempt) -> Path:
    return Path(spool.own, "node", spool.token, "run", one.id)


def test_copy_takes_the_place_of_what_was_claimed(spool: Spool) -> None:
    """What is executed is another file, that its owner alone can use; the old one is nobody's."""
    one = _claimed(spool, _signed())
    before = os.open(_baton(spool, one), os.O_WRONLY)
    assert spool.seal(one)
    os.write(before, b"#!/bin/evil")
    os.close(before)
    stat = _baton(spool, one).stat()
    assert (stat.st_mode & 0o7777, stat.st_nlink) == (0o500, 1)
    assert _baton(spool, one).read_bytes() == CONTENT
    assert spool.seal(one)
    assert Path(spool.places(one).executable).read_bytes() == CONTENT


def test_what_was_not_verified_is_not_sealed(spool: Spool) -> None:
    """Another content is refused, one that is longer too, and a link is not followed."""
    for number, content in enumerate((CONTENT + b"\n", CONTENT[:-1], b"")):
        one = _claimed(spool, _signed(number), content)
        assert not spool.seal(one)
        assert _baton(spool, one).read_bytes() == content
    _baton(spool, one).unlink()
    (Path(spool.root) / "aim").write_bytes(CONTENT)
    _baton(spool, one).symlink_to(f"{spool.root}/aim")
    assert not spool.seal(one)


def test_file_that_grows_for_ever(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more is read than can be signed, however large somebody has made the file."""
    one = _claimed(spool, _signed())
    monkeypatch.setattr(digest, "MOST_SIGNED", 1 << 20)
    os.truncate(_baton(spool, one), 1 << 40)
    assert Disk().fingerprint(str(_baton(spool, one))) is not None
    assert not spool.seal(one)


def test_content_that_changes_while_it_is_copied(spool: Spool) -> None:
    """Whoever writes all the time gets nothing executed but what was signed."""
    one = _claimed(spool, _signed())
    fd = os.open(_baton(spool, one), os.O_RDWR)
    over, sealed, tries = threading.Event(), 0, 500

    def write() -> None:
        while not over.is_set():
            for text in (CONTENT.replace(b"true", b"evil"), CONTENT):
                os.pwrite(fd, text, 0)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(tries):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{spool.own}/copy")
            told = Disk().seal(str(_baton(spool, one)), f"{spool.own}/copy", (-1, -1))
            copy = Path(spool.own, "copy").read_bytes()
            # The digest is of the copy, whatever that is.
            assert told == hashlib.sha512(copy).hexdigest()
            sealed += copy == CONTENT
    finally:
        over.set()
        writer.join()
        os.close(fd)
    assert 0 <= sealed <= tries


def test_one_text_is_executed_for_one_job(spool: Spool) -> None:
    """The first attempt has it, and whoever knows that as an earlier one of its own."""
    first, other = _signed(1), _signed(2)
    assert [spool.comes_first(one) for one in (first, other, first)] == [True, False, True]
    tried = Try(id=first.id, attempt=1, node="node", state="failed")
    assert spool.comes_first(_signed(3, earlier=(tried,)))
    assert spool.comes_first(_signed(4, "another"))


def test_of_many_at_once_one_is_first(tmp_path: Path) -> None:
    """Of nodes that come at the same time exactly one has the text."""
    lives = [_life(tmp_path, f"node{number}") for number in range(8)]
    for round_ in range(50):
        assert sorted(_come(lives, f"job{round_}")) == [*[False] * (len(lives) - 1), True]


def _come(lives: list[Spool], name: str) -> list[bool]:
    """Return what lives are told that come with one text at the same time."""
    barrier = threading.Barrier(len(lives))
    told: list[bool] = []

    def come(number: int) -> None:
        one = _signed(number, name)
        barrier.wait()
        told.append(lives[number].comes_first(one))

    threads = [threading.Thread(target=come, args=(number,)) for number in range(len(lives))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return told


def test_job_that_was_not_executed_returns_unmarked(spool: Spool) -> None:
    """It may be started under its next id; its signature is beside it again."""
    one = _claimed(spool, _signed())
    assert spool.seal(one)
    assert spool.comes_first(one)
    assert os.listdir(spool.root) == [".pmjq"]
    assert spool.give_back(one) == "job"
    assert sorted(os.listdir(spool.root)) == [".pmjq", "job", "job.sig"]
    assert spool.signature("job") == SIGNATURE
    assert spool.comes_first(_signed(2))
    assert spool.again_names() == []


def test_job_that_was_executed_returns_marked(spool: Spool) -> None:
    """A copy of it is none; its next attempt knows the one before."""
    one = _claimed(spool, _signed())
    assert spool.comes_first(one)
    tried = Try(id=one.id, attempt=1, node="node", state="interrupted")
    assert spool.give_back(one, Again(2, earlier=(tried,))) == "job"
    assert not spool.comes_first(_signed(2))
    assert spool.comes_first(_signed(2, earlier=(tried,)))


@pytest.mark.parametrize("taken", ["job", "job.sig"])
def test_name_that_is_taken(spool: Spool, taken: str) -> None:
    """Where another job is coming a signed one gets a number, and is known by its old name."""
    one = _claimed(spool, _signed())
    Path(spool.root, taken).write_bytes(b"another's")
    assert spool.give_back(one) == "job.2"
    assert Path(spool.root, taken).read_bytes() == b"another's"
    assert spool.signature("job.2") == SIGNATURE
    stat = spool.stat("job.2")
    assert stat is not None
    again = spool.again("job.2", stat)
    assert again is not None
    assert (again.attempt, again.signed_as) == (1, "job")
    # The next time it has its name again, and nothing is to be known.
    os.unlink(f"{spool.root}/{taken}")
    two = _claimed_again(spool, _signed(2, file="job.2"))
    assert spool.give_back(two) == "job.2"
    assert spool.again("job.2", stat) == again


def _claimed_again(spool: Spool, one: Attempt) -> Attempt:
    spool.prepare_claim(one)
    spool.keep_signature(one, SIGNATURE)
    assert spool.claim(one)
    spool.take_signature(one)
    spool.forget(one.name)
    return one


def test_return_that_was_interrupted(spool: Spool) -> None:
    """A signature that is back already is found, and the job follows it."""
    one = _claimed(spool, _signed())
    assert spool.put_signature(one, "job")
    assert spool.put_signature(one, "job")
    assert spool.give_back(one) == "job"


def test_signature_of_the_next_job_stays(spool: Spool) -> None:
    """What has come beside the name of a job that was just claimed is not its own."""
    one = _signed()
    job = Path(spool.root, "job")
    job.write_bytes(CONTENT)
    Path(f"{job}.sig").write_bytes(b"the next")
    spool.prepare_claim(one)
    spool.keep_signature(one, SIGNATURE)
    assert spool.claim(one)
    spool.take_signature(one)
    assert spool.signature("job") == b"the next"


def test_strays(spool: Spool) -> None:
    """Only a signature counts that is old, and to which there is no job."""
    root = Path(spool.root)
    for name in ("stray.sig", "job", "job.sig"):
        (root / name).write_bytes(SIGNATURE)
    (root / "other.sig").write_bytes(b"something else")
    (root / "directory.sig").mkdir()
    assert spool.strays(3600) == []
    assert spool.strays(-3600) == [f"{spool.root}/stray.sig"]
