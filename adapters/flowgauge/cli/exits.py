"""Exit codes: what a script may rely on."""

from enum import IntEnum

from flowgauge.domain.errors import FlowgaugeError, SnapshotInvalid, UnreadableImage, UserError


class Exit(IntEnum):
    FINE = 0
    FAILED = 1
    MISTAKE = 2
    REFUSED = 3
    INVALID_SNAPSHOT = 4
    NOT_REPRODUCED = 5


EPILOG = (
    "Exit codes: 0 fine; 1 something outside failed (disk, store, an unexpected fault); 2 a mistake to mend, or an "
    "image that cannot be read; 3 the gate refused an adaptation; 4 a stored snapshot must not be loaded; 5 an "
    "audit found a verdict that does not reproduce."
)


def exit_code(error: FlowgaugeError) -> Exit:
    match error:
        case UserError() | UnreadableImage():
            return Exit.MISTAKE
        case SnapshotInvalid():
            return Exit.INVALID_SNAPSHOT
        case _:
            return Exit.FAILED
