"""``python -m cifarfast.reproduce``."""

import sys

from .commands.reproduce import main

if __name__ == "__main__":
    sys.exit(main())
