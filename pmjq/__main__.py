"""``python -m pmjq``."""

import sys

from pmjq.cli import main

if __name__ == "__main__":
    sys.exit(main())
