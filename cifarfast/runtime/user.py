"""The name of the user, which libraries ask for."""

import getpass
import os


def name_user() -> None:
    """Name a user without a name, as in a container: torch.compile and torch's counter of FLOPs raise KeyError."""
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["LOGNAME"] = f"uid{os.getuid()}"
