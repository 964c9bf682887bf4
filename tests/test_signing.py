"""What is signed of a job."""

from __future__ import annotations

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from pmjq import signing
from signatures import signed_text

UUID = "12345678-1234-1234-1234-123456789abc"

NAMES = st.binary(min_size=1, max_size=40).filter(lambda name: not set(name) & set(b"/\0"))


def test_text_is_what_the_manual_says() -> None:
    """A shell makes it with printf and sha512sum."""
    content = b"#!/bin/sh\n"
    found = signing.text(UUID, "job.sh", signing.digest(content))
    assert found == signed_text(UUID, "job.sh", content)
    assert found.endswith(hashlib.sha512(content).hexdigest().encode() + b"\n")


def test_name_that_could_be_taken_for_a_line() -> None:
    """A name that is not printable is given by its bytes."""
    found = signing.text(UUID, "a\nsha512 0", "1")
    assert found.splitlines()[2:] == [b"name-hex 610a7368613531322030", b"sha512 1"]
    assert b"name-hex ff\n" in signing.text(UUID, "\udcff", "1")


@given(NAMES, NAMES)
def test_texts_of_two_names_differ(one: bytes, other: bytes) -> None:
    """No two names have one text, and each text has four lines."""
    texts = [
        signing.text(UUID, name.decode("utf-8", "surrogateescape"), "0") for name in (one, other)
    ]
    assert (texts[0] == texts[1]) == (one == other)
    assert [text.count(b"\n") for text in texts] == [4, 4]
    assert (signing.mark(texts[0]) == signing.mark(texts[1])) == (one == other)
