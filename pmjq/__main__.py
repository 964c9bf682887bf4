"""The program: ``pmjq`` and ``python -m pmjq``."""

from __future__ import annotations

import signal
import sys


def main() -> int:
    """Run the command line; an interrupt while it is being loaded ends it without a traceback."""
    # Where INT is ignored, as in the background of a script, it stays so.
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if ours:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from pmjq import cli  # noqa: PLC0415  # what takes time

    if ours:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
