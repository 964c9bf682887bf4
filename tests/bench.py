"""Measure the daemon: ``python tests/bench.py [--json FILE] [--quick] [NAME ...]``.

The work is in the package ``bench`` next to this file.
"""

import sys

from bench.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
