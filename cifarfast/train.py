"""``python -m cifarfast.train``. ``cifarfast.train`` is a function; so is what an import of this name gives."""

import sys

if __name__ == "__main__":
    from .commands.train import main

    sys.exit(main())

if __name__ == "cifarfast.train":  # in a process that multiprocessing started from the command it is "__mp_main__"
    from .api import train

    sys.modules[__name__] = train  # type: ignore[assignment]
