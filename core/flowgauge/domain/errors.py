"""Every error that Flowgauge raises on purpose.

FlowgaugeError
├── UserError                  something a person can mend; exit code 2 on the command line
│   ├── InvalidName            a line, image id or version that cannot name anything
│   ├── DatasetError           a data set that cannot train or test
│   ├── SettingsError          a setting that does not parse or contradicts another
│   ├── GaugeMissing           a line (or a version of it) without a snapshot
│   ├── StoreBusy              another runner works on the same store
│   ├── Refused                somebody else was first: what was asked for was not done
│   └── AuthenticationFailed   a server refuses who we are: no use in trying again
├── UnreadableImage            poison data: becomes a dead letter, never retried
├── SnapshotInvalid            a snapshot that must not be loaded
│   ├── SnapshotCorrupt        a hash does not match
│   ├── SnapshotOfOtherSchema  written by a newer schema, or by one whose names are no longer known
│   └── BackboneMismatch       made with other backbone weights than those at hand
├── Stalled                    a worker that does not get on: its supervisor starts another
└── Unavailable                infrastructure: back off, keep order, try again
    ├── StoreFull              no space left where objects or state are kept
    └── AuthorizationFailed    a right is missing, which somebody may grant meanwhile
"""


class FlowgaugeError(Exception):
    """`cause` says what happened, `remedy` what to do about it; `str()` gives both as sentences."""

    def __init__(self, cause: str, remedy: str = "") -> None:
        super().__init__(cause, remedy)
        self.cause = cause
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.cause} {self.remedy}".strip()


class UserError(FlowgaugeError, ValueError):
    pass


class InvalidName(UserError):
    pass


class DatasetError(UserError):
    pass


class SettingsError(UserError):
    pass


class GaugeMissing(UserError):
    pass


class StoreBusy(UserError):
    pass


class Refused(UserError):
    pass


class AuthenticationFailed(UserError):
    pass


class UnreadableImage(FlowgaugeError):
    pass


class ObjectTooLarge(FlowgaugeError):
    pass


class SnapshotInvalid(FlowgaugeError):
    pass


class SnapshotCorrupt(SnapshotInvalid):
    pass


class SnapshotOfOtherSchema(SnapshotInvalid):
    pass


class BackboneMismatch(SnapshotInvalid):
    pass


class Stalled(FlowgaugeError):
    pass


class Unavailable(FlowgaugeError):
    pass


class StoreFull(Unavailable):
    pass


class AuthorizationFailed(Unavailable):
    pass
