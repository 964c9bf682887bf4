"""The rules of a node's names and values."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pmjq.naming import NAME_MAX
from pmjq.node import Life, Machine, Reading, is_name, token
from values import QUEUED

LIFE = Life(
    name="a",
    token="a.b.c",
    machine="m",
    boot="b",
    space="pid:[1]",
    pid=7,
    start=8,
    version="0.1.0",
    began=QUEUED,
    at=QUEUED,
)


@pytest.mark.parametrize(
    "name", ["a", "A9", "node-1", "gpu_2", "a.b", "host.example.org", "a" * 63]
)
def test_names_of_nodes(name: str) -> None:
    """Host names are names of nodes, with their domain or without."""
    assert is_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        ".a",
        "a.",
        "a..b",
        "-a",
        "_a",
        "a b",
        "a/b",
        "a\n",
        "\na",
        "é",
        "a\0",
        "a" * 64,
    ],
)
def test_no_names_of_nodes(name: str) -> None:
    """What would be odd in a file name or on a line of a log names no node."""
    assert not is_name(name)


@pytest.mark.parametrize("labels", range(1, 10))
def test_every_name_makes_a_file_name(labels: int) -> None:
    """Whatever names a node fits into TOKEN.jsonl, the longest name that is made of it."""
    name = ".".join(["a" * 62] * labels)
    assert not is_name(name) or len(f"{token(name, 'b' * 36, 'c' * 32)}.jsonl") <= NAME_MAX


def test_token_is_name_boot_and_chance() -> None:
    """Eight digits of boot and chance tell two lives apart and are short enough to read."""
    assert token("a", "01234567-89ab", "89abcdef0123") == "a.01234567.89abcdef"


@given(st.from_regex(r"[a-z][a-z0-9.]{0,20}[a-z]", fullmatch=True).filter(is_name))
def test_name_is_read_off_its_token(name: str) -> None:
    """Boot and chance have no dots, so a token tells whose it is even where the name has some."""
    assert token(name, "b" * 36, "c" * 32).rsplit(".", 2) == [name, "b" * 8, "c" * 8]


def test_life_round_trips() -> None:
    """What a daemon writes into node.json is what another reads."""
    life = msgspec.structs.replace(
        LIFE, limit=4.0, slots=2, load=0.5, running=1, aside={"x": "held"}, stopping="wait"
    )
    for each in (LIFE, life):
        assert msgspec.json.decode(msgspec.json.encode(each), type=Life) == each


def test_life_says_everything() -> None:
    """Every field stands in node.json, known or not, so that a reader finds them by looking."""
    known = msgspec.json.decode(msgspec.json.encode(LIFE))
    assert set(known) == set(Life.__struct_fields__)
    assert (known["limit"], known["slots"], known["gate"], known["aside"]) == (
        None,
        None,
        "open",
        {},
    )


def test_life_is_read_strictly() -> None:
    """A node.json that lacks its pid tells of no life."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(b'{"name": "a", "token": "a.b.c"}', type=Life)


@pytest.mark.parametrize("value", [Reading(1.0, 2, 4), Machine("m", "b", "s", 1, 2), LIFE])
def test_values_do_not_change(value: msgspec.Struct) -> None:
    """A reading is replaced, never changed."""
    with pytest.raises(AttributeError):
        setattr(value, value.__struct_fields__[0], 9)
