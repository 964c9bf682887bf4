"""Which entries at the head of the queue one of several nodes takes, and which it leaves for now.

If all nodes ran for the same head, all but one would lose each claim. So entries are dealt out by
their names: a node takes its own at once, and another's only after that node has had its chance,
the next one in the round first.

Pure.
"""

from __future__ import annotations

from zlib import crc32


def distance(name: str, rank: int, nodes: int) -> int:
    """Return how many of ``nodes`` living nodes come before the node of this rank with an entry.

    Nodes that do not agree on ranks take from one another, which costs a lost claim and nothing
    else.
    """
    return (rank - crc32(name.encode("utf-8", "surrogateescape"))) % nodes
