"""``python -m cifarfast.env``."""

import sys

from .commands.env import main

if __name__ == "__main__":
    sys.exit(main())
