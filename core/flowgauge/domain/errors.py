"""Every error that Flowgauge raises on purpose."""


def install(*extras: str) -> str:
    """The remedy where the library of an extra is missing: no release is on PyPI, so from the sources."""
    what = "the extra" if len(extras) == 1 else "the extras"
    return f"Install {what}, in the folder of Flowgauge's sources: pip install '.[{','.join(extras)}]'."


class FlowgaugeError(Exception):
    """`cause` says what happened, `remedy` what to do about it; `str()` gives both as sentences."""

    def __init__(self, cause: str, remedy: str = "") -> None:
        super().__init__(cause, remedy)
        self.cause = cause
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.cause} {self.remedy}".strip()


class UserError(FlowgaugeError, ValueError):
    """Something a person can mend; exit code 2 on the command line."""


class InvalidName(UserError):
    """A line, image id or version that cannot name anything."""


class DatasetError(UserError):
    """A data set that cannot train or test."""


class SettingsError(UserError):
    """A setting that does not parse or contradicts another."""


class GaugeMissing(UserError):
    """A line (or a version of it) without a snapshot."""


class StoreBusy(UserError):
    """Another runner works on the same store."""


class Conflict(UserError):
    """Somebody else was first: what was asked for was not done."""


class AuthenticationFailed(UserError):
    """A server refuses who we are: no use in trying again."""


class ArchiveDamaged(UserError):
    """A file of the archive that holds no verdicts any more."""


class UnreadableImage(FlowgaugeError):
    """Poison data: becomes a dead letter, never retried."""


class ObjectTooLarge(FlowgaugeError):
    """More bytes than whoever asked for an object would take."""


class SnapshotInvalid(FlowgaugeError):
    """A snapshot that must not be loaded."""


class SnapshotCorrupt(SnapshotInvalid):
    """A hash does not match."""


class SnapshotOfOtherSchema(SnapshotInvalid):
    """Written by a newer schema, or by one whose names are no longer known."""


class BackboneMismatch(SnapshotInvalid):
    """Made with other backbone weights than those at hand."""


class Stalled(FlowgaugeError):
    """A worker that does not get on: its supervisor starts another."""


class Unavailable(FlowgaugeError):
    """Infrastructure: back off, keep order, try again."""


class StoreFull(Unavailable):
    """No space left where objects or state are kept."""


class AuthorizationFailed(Unavailable):
    """A right is missing, which somebody may grant meanwhile."""
