"""``python -m cifarfast.kernels.tune``: see ``tuning/command.py``."""

import sys

from .tuning.command import main

if __name__ == "__main__":
    sys.exit(main())
