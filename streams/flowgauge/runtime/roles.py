"""What a worker process may do, apart from what doing it loads, and who goes first on a busy machine."""

import os
import sys
from collections.abc import Callable
from enum import StrEnum
from threading import get_native_id

GAUGES_IN_MEMORY = 64
"""That scoring keeps: more, and a worker of many lines outgrows its memory; fewer than lines that send at a time, and
every batch loads one again.
"""

ADAPTATION_NICE = 5
"""By how much adaptation comes after scoring: it has a third of the processor time where both want the same core. With
less, verdicts come late while a line adapts. At 10 it has a tenth, and as its thread holds the interpreter's lock while
it waits for a core, nothing is left of that: beside four busy processes on one core a stand-in did 0.15 % of what it
does alone, at 5 9 %.
"""


class Role(StrEnum):
    """`downstream`: alerting, observing, archive, parts and trials. `all` has `notify` only where routes are given."""

    SCORING = "scoring"
    DOWNSTREAM = "downstream"
    ADAPTATION = "adaptation"
    NOTIFY = "notify"
    ALL = "all"


def lower_priority(nice: int) -> Callable[[], None]:
    """What a thread does when it starts, to leave the cores to others; nothing for 0, and nothing where threads have no
    priority of their own, as anywhere but on Linux.
    """
    return lambda: os.setpriority(os.PRIO_PROCESS, get_native_id(), nice) if nice and sys.platform == "linux" else None
