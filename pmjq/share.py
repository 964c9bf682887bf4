"""Which entries at the head of the queue one of several nodes tries first.

If all nodes ran for the same head, all but one would lose each claim. So the head is dealt out by
the names, and each node takes its own part first, in the order of the queue. Where its own part is
used up it takes from the others', beginning at a place of its own.

Pure.
"""

from __future__ import annotations

from zlib import crc32


def dealt(names: list[str], rank: int, nodes: int) -> list[str]:
    """Return names of the head of the queue in the order in which node ``rank`` tries them.

    ``rank`` counts from 0 among ``nodes`` living nodes. Nodes that do not agree on that take from
    one another, which costs a lost claim and nothing else.
    """
    own = [name for name in names if _part(name, nodes) == rank]
    others = [name for name in names if _part(name, nodes) != rank]
    at = len(others) * rank // nodes
    return [*own, *others[at:], *others[:at]]


def _part(name: str, nodes: int) -> int:
    return crc32(name.encode("utf-8", "surrogateescape")) % nodes
