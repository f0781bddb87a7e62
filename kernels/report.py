"""``python -m cifarfast.kernels.report``: see ``testing/compile_report.py``."""

import sys

from .testing.compile_report import main

if __name__ == "__main__":
    sys.exit(main())
