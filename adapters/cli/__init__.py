"""The door for people: `flowgauge`."""

import sys
from collections.abc import Sequence
from typing import NoReturn

from adapters.cli.app import app
from adapters.cli.exits import exit_code
from adapters.cli.output import complain
from core.errors import FlowgaugeError
from core.memory import share_one_heap


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command and exit with its code; what goes wrong on purpose becomes one sentence on stderr."""
    share_one_heap()
    try:
        app(arguments, prog_name="flowgauge")
    except FlowgaugeError as error:
        complain(error)
        sys.exit(exit_code(error))
    sys.exit(0)
