"""Who runs a command."""

import os
from getpass import getuser


def person() -> str:
    """The name that the system has for its user, or the number where it knows no name, as in many containers."""
    try:
        return getuser()
    except (KeyError, OSError):
        return f"user {os.getuid()}"
