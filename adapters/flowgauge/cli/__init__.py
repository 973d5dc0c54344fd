"""The door for people: `flowgauge`."""

import sys
from collections.abc import Sequence
from typing import NoReturn

from flowgauge.cli.app import app
from flowgauge.cli.exits import exit_code
from flowgauge.cli.output import LogFormat, complain, set_up_logging, spell_what_stdout_lacks
from flowgauge.domain.errors import FlowgaugeError
from flowgauge.domain.malloc import share_one_heap


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command and exit with its code; what goes wrong on purpose becomes one sentence on stderr."""
    share_one_heap()
    spell_what_stdout_lacks()
    set_up_logging(LogFormat.HUMAN)
    try:
        app(arguments, prog_name="flowgauge")
    except FlowgaugeError as error:
        complain(error)
        sys.exit(exit_code(error))
    sys.exit(0)
