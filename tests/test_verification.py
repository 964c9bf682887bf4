"""Whose a job is, as one life of a node finds out, without ssh-keygen."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from pmjq import verification
from pmjq.desk import Desk
from pmjq.directives import Refusal
from pmjq.disk import Disk
from pmjq.job import Again, Spec
from pmjq.outside import Outside
from pmjq.plan import Candidate
from pmjq.ready import Kind, Look, Rules, Standing
from pmjq.signers import Refused, UnableError
from pmjq.signing import Fault
from pmjq.spool import Spool
from pmjq.verification import Verification
from signatures import signed_text

UUID = "5c9f6bd2-0b0e-4b53-8f3e-07d8a1f1c0aa"
CONTENT = b"#!/bin/sh\ntrue\n"
ALTERED = Refused(Fault.ALTERED, "does not fit")


@dataclass
class Asked:
    """Who is asked about signatures, and what about; ``answer``: a name, a refusal or an error."""

    answer: str | Refused | OSError = "ann"
    texts: list[bytes] = field(default_factory=list)

    def trouble(self) -> str:
        return ""

    def verified(self, text: bytes, signature: bytes) -> str | Refused:
        self.texts.append(text)
        if isinstance(self.answer, OSError):
            raise self.answer
        return self.answer


@dataclass
class Logins:
    """A machine that knows ann."""

    def signer(self, name: str) -> int:
        if name != "ann":
            raise PermissionError("is no user of this machine")
        return 4711


@dataclass
class Stub:
    """The part of ``Outside`` that is asked."""

    spool: Spool
    logins: Logins | None = None
    time: float = 1000.0

    def now(self) -> float:
        return self.time


class Case:
    """One job in a spool, and its verification."""

    def __init__(self, root: Path, *, local: bool = True) -> None:
        spool = Spool(Disk(), str(root), "node.12345678.12345678", local=local)
        spool.prepare(UUID)
        spool.begin()
        self.outside, self.asked = Stub(spool), Asked()
        desk = Desk(Rules(uids=None))
        self.verification = Verification(cast("Outside", self.outside), desk, self.asked)
        self.job = root / "job"
        self.job.write_bytes(CONTENT)
        self.signature = root / "job.sig"
        self.signature.write_bytes(b"signature")

    def look(self, age: float = 0.0, **changes: Any) -> Candidate | Standing:  # noqa: ANN401  # as ``Candidate`` has it
        """Verify the job as it is now."""
        look = self.outside.spool.look("job")
        assert look is not None
        self.verification.begin(self.outside.time)
        candidate = Candidate("job", look.stat, Spec(), **changes)
        return self.verification.verified(candidate, look, age)

    def rejected(self, age: float = 0.0) -> Refusal:
        """Return why the job is rejected."""
        found = self.look(age)
        assert isinstance(found, Candidate)
        assert isinstance(found.verdict, Refusal)
        return found.verdict

    def kept(self, age: float = 0.0) -> Standing:
        """Return why the job is not run yet."""
        found = self.look(age)
        assert isinstance(found, Standing)
        return found


@pytest.fixture
def case(tmp_path: Path) -> Case:
    """Return a job in a local spool."""
    return Case(tmp_path)


def test_proof_is_of_what_was_read(case: Case) -> None:
    """Content, name and spool are what is verified, and as whom it runs is this user."""
    found = case.look()
    assert isinstance(found, Candidate)
    assert found.proof is not None
    assert case.asked.texts == [signed_text(UUID, "job", CONTENT)]
    assert (found.proof.signer, found.proof.signature) == ("ann", b"signature")
    assert found.proof.uid == Disk().user()
    assert found.proof.signed.name == "job"


def test_waiting_job_is_verified_now_and_then(case: Case) -> None:
    """Not with each look; at once when it or its signature changes."""
    for _ in range(3):
        case.look()
    assert len(case.asked.texts) == 1
    case.signature.write_bytes(b"another")
    case.look()
    case.job.write_bytes(CONTENT + b"\n")
    case.look()
    assert len(case.asked.texts) == 3
    case.outside.time += verification.REMEMBERED
    case.asked.answer = ALTERED
    assert case.kept().kind is Kind.INCOMING


@pytest.mark.parametrize(("local", "patience"), [(True, 10.0), (False, 40.0)])
def test_signature_may_come_later(tmp_path: Path, patience: float, *, local: bool) -> None:
    """A job without one is left for a while, longer where a look may show what was."""
    case = Case(tmp_path, local=local)
    case.signature.unlink()
    assert case.kept(age=1.0) == (
        Kind.INCOMING,
        "has no signature beside it yet (job.sig)",
        patience - 1.0,
    )
    assert case.rejected(age=patience).fault is Fault.UNSIGNED
    assert case.asked.texts == []


def test_what_does_not_fit_is_verified_twice(case: Case) -> None:
    """It may be replaced, and the list of signers may have been about to be written."""
    case.asked.answer = ALTERED
    assert case.kept().again == verification.PATIENCE_UNFIT
    case.outside.time += 1.0
    assert case.kept().again == verification.PATIENCE_UNFIT - 1.0
    assert len(case.asked.texts) == 1
    case.outside.time += verification.PATIENCE_UNFIT
    assert case.rejected() == Refusal("does not fit", fault=Fault.ALTERED)
    assert len(case.asked.texts) == 2


def test_what_fits_in_the_end_runs(case: Case) -> None:
    """What did not fit at first is no fault."""
    case.asked.answer = ALTERED
    case.kept()
    case.asked.answer = "ann"
    case.outside.time += verification.PATIENCE_UNFIT
    assert isinstance(case.look(), Candidate)


def test_nothing_is_rejected_that_cannot_be_verified(case: Case) -> None:
    """However long that goes on."""
    case.asked.answer = UnableError(0, "no ssh-keygen")
    for _ in range(3):
        found = case.kept(age=1e6)
        assert found.kind is Kind.DEFERRED
        assert "no ssh-keygen" in found.reason
        case.outside.time += 1000.0


def test_directives_are_those_that_were_signed(case: Case) -> None:
    """A job that another content was seen of than was read is looked at again."""
    look = case.outside.spool.look("job")
    assert look is not None
    shown = Look(look.stat, look.busy, b"#!/bin/sh\n#PMJQ env=EVIL=1\n")
    case.verification.begin(case.outside.time)
    found = case.verification.verified(Candidate("job", look.stat, Spec()), shown, 0.0)
    assert isinstance(found, Standing)
    assert (found.kind, case.asked.texts) == (Kind.INCOMING, [])


def test_name_that_it_was_signed_for(case: Case) -> None:
    """A job that returned under another name is known by its own."""
    case.look(again=Again(1, signed_as="name"))
    assert case.asked.texts == [signed_text(UUID, "name", CONTENT)]


def test_signer_who_is_no_user_here(case: Case) -> None:
    """Another node may know him: his job stays."""
    case.outside.logins = Logins()
    found = case.look()
    assert isinstance(found, Candidate)
    assert found.proof is not None
    assert found.proof.uid == 4711
    case.asked.answer = "zed"
    case.outside.time += verification.REMEMBERED
    assert case.kept().kind is Kind.DEFERRED
    assert case.kept().reason == "signed by zed: is no user of this machine"


def test_many_do_not_hold_up_the_rest(case: Case) -> None:
    """After half a second of verifying there is other work first."""
    look = case.outside.spool.look("job")
    assert look is not None
    case.verification.begin(case.outside.time)
    case.outside.time += 2 * verification.TOGETHER
    found = case.verification.verified(Candidate("job", look.stat, Spec()), look, 0.0)
    assert isinstance(found, Standing)
    assert (found.kind, found.again) == (Kind.INCOMING, verification.SOON)


def test_bad_job_needs_no_signature(case: Case) -> None:
    """What can never be run is rejected for that, and nobody is asked."""
    look = case.outside.spool.look("job")
    assert look is not None
    bad = Candidate("job", look.stat, Refusal("is bad"))
    assert case.verification.verified(bad, look, 0.0) == bad
    assert case.asked.texts == []
