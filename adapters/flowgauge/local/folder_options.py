"""What may be chosen of a watched folder, in a module that loads nothing: the command line reads it at every start."""

from dataclasses import dataclass
from enum import StrEnum

# Shorter, and a copy over a slow share becomes a dead letter before its image; longer, and a person hears late of one
# that was broken off.
WAIT_SECONDS = 30.0


class After(StrEnum):
    KEEP = "keep"
    MOVE = "move"
    DELETE = "delete"


class Identity(StrEnum):
    """What makes two files the same image.

    Content is the default, because a name comes again each morning, and because times are what shares, copies and
    cameras with unset clocks get wrong: a file that is copied back, or whose time is set after its last byte, is no new
    image. A camera that writes one file again and again may show two parts with the same bytes: that is what `CAPTURE`
    is for. `NAME` is for plants whose names are serials.
    """

    CONTENT = "content"
    CAPTURE = "capture"
    NAME = "name"


@dataclass(frozen=True)
class FolderOptions:
    """`quiet_seconds`: how long a file must not have changed; `wait_seconds`: how long one is waited for that is
    not all there, cannot be decoded to its end, or may not be read.
    """

    quiet_seconds: float = 1.0
    wait_seconds: float = WAIT_SECONDS
    identity: Identity = Identity.CONTENT
    use_for_training: bool = True


DEFAULTS = FolderOptions()
