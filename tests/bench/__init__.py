"""Measurements of the daemon beside its peers, in one table and as JSON.

Nothing here asserts: a busy machine makes a benchmark slow, not wrong. The column ``wanted`` says
what the project promises, the reader compares. What makes the figures comparable:

- medians, since the machine is shared; the lowest and highest value stand beside each;
- rounds are interleaved: every round runs all contestants, each round in another order, and a
  ratio is taken inside a round before the median over rounds;
- the file system is flushed before each clock starts, so nobody pays for another's writes;
- what is not there (a peer, strace) is named below the table and fails nothing.

Each measurement is a function ``(Bench) -> list[Row]`` in a module of its own; ``__main__`` has
the list of them. ``running`` alone starts and stops the daemon.
"""
