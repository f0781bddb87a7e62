"""``python -m cifarfast.kernels.tune``: see ``tuner/command.py``."""

import sys

from .tuner.command import main

if __name__ == "__main__":
    sys.exit(main())
