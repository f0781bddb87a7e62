"""``python -m cifarfast.augment_preview``."""

import sys

from .commands.augment_preview import main

if __name__ == "__main__":
    sys.exit(main())
