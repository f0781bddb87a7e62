"""``python -m cifarfast.report``."""

import sys

from ..commands.report import main

sys.exit(main())
