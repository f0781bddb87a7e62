"""The progress bar of a training."""

import sys

from tqdm.auto import tqdm


def progress_bar(*, total: int, initial: int = 0, shown: bool = True) -> tqdm:
    """A bar that counts images: a widget in a notebook, a line on a terminal, and nothing where stderr is a file."""
    disable = not shown or (None if not in_notebook() else False)  # None: tqdm looks whether stderr is a terminal
    return tqdm(total=total, initial=initial, unit=" images", disable=disable)


def in_notebook() -> bool:
    """Whether this process is a notebook's kernel."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and "IPKernelApp" in shell.config
