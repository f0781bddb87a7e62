"""``python -m cifarfast.ensemble``."""

import sys

from .commands.ensemble import main

if __name__ == "__main__":
    sys.exit(main())
