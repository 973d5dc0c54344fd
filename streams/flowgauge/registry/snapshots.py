"""The snapshots topic: which gauge is active, and which were."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Protocol

from pydantic import ValidationError

from flowgauge.domain.errors import GaugeMissing, Unavailable
from flowgauge.domain.messages import SNAPSHOTS, SnapshotAnnouncement
from flowgauge.domain.object_keys import line_name, snapshot_prefix
from flowgauge.domain.ports import Log, Objects, Outgoing, Record
from flowgauge.runtime.backend import Store, records_from

# announcements of others that may come first: more never happen unless something announces without end, fewer make a
# person try again
_ATTEMPTS = 5
MANIFEST, WEIGHTS = "manifest.json", "weights.safetensors"


@dataclass(frozen=True)
class SnapshotFiles:
    """A snapshot as it is stored."""

    manifest: bytes
    weights: bytes

    @property
    def sha256(self) -> str:
        """The manifest's. The manifest names the SHA-256 of the weights, so this one covers both."""
        return sha256(self.manifest).hexdigest()


class SnapshotDisk(Protocol):
    """Snapshots that this worker has used, by the SHA-256 of their manifest, for when the object store is away."""

    def get(self, digest: str) -> tuple[bytes, bytes] | None:
        """Manifest and weights; None where they are not here."""

    def put(self, digest: str, manifest: bytes, weights: bytes) -> None: ...


def store_snapshot(objects: Objects, line: str, version: str, files: SnapshotFiles) -> None:
    """Store both objects. Repeating it changes nothing."""
    prefix = snapshot_prefix(line, version)
    # the manifest last: a snapshot that has one is whole, whenever the process ends
    objects.put(f"{prefix}/{WEIGHTS}", files.weights)
    objects.put(f"{prefix}/{MANIFEST}", files.manifest)


def fetch_snapshot(objects: Objects, line: str, version: str) -> SnapshotFiles:
    """Raises `GaugeMissing` for a version that is not stored."""
    return SnapshotFiles(*(_fetched(objects, line, version, name) for name in (MANIFEST, WEIGHTS)))


def fetch_manifest(objects: Objects, line: str, version: str) -> bytes:
    """Without the weights, which are a thousand times as large. Raises `GaugeMissing`."""
    return _fetched(objects, line, version, MANIFEST)


def _fetched(objects: Objects, line: str, version: str, name: str) -> bytes:
    try:
        return objects.get(f"{snapshot_prefix(line, version)}/{name}")
    except KeyError as error:
        raise GaugeMissing(
            f"Line {line} has no snapshot {version!r}.", f"See `flowgauge snapshots list --line {line}`."
        ) from error


def announcements(log: Log, line: str | None = None) -> Iterator[SnapshotAnnouncement]:
    """All announcements (of `line`) in log order."""
    for partition in range(log.partitions(SNAPSHOTS)):
        for _, message in announcements_since(log, partition, 0):
            if message is not None and line in (None, message.line):
                yield message


def announcements_since(log: Log, partition: int, offset: int) -> Iterator[tuple[Record, SnapshotAnnouncement | None]]:
    """The records from `offset` on, each with its announcement; None for what is none."""
    for record in records_from(log, SNAPSHOTS, partition, offset):
        try:
            yield record, SnapshotAnnouncement.decode(record.value)
        except ValidationError:
            yield record, None


def active_snapshots(log: Log) -> Mapping[str, SnapshotAnnouncement]:
    """By line: the highest epoch, the first in log order among equals."""
    active: dict[str, SnapshotAnnouncement] = {}
    for message in announcements(log):
        if message.line not in active or message.epoch > active[message.line].epoch:
            active[message.line] = message
    return active


def active_snapshot(log: Log, line: str) -> SnapshotAnnouncement:
    """Raises `GaugeMissing` for a line that never had one."""
    found = active_snapshots(log).get(line_name(line))
    if found is None:
        raise GaugeMissing(f"Line {line} has no gauge yet.", f"Make one with `flowgauge fit DATASET --line {line}`.")
    return found


def announcement(
    store: Store, line: str, version: str, sha256: str, parent: str | None, active: SnapshotAnnouncement | None
) -> SnapshotAnnouncement:
    """What makes `version` active in the place of the gauge that `active` announced, with the next epoch of its line;
    `sha256` is that of its manifest. A trial that was under way ends.
    """
    return SnapshotAnnouncement(
        line=line,
        epoch=(active.epoch if active else 0) + 1,
        version=version,
        uri=store.objects.uri(f"{snapshot_prefix(line, version)}/{MANIFEST}"),
        sha256=sha256,
        parent=parent,
        at=store.clock.now(),
    )


def as_record(message: SnapshotAnnouncement) -> Outgoing:
    """For whoever appends it."""
    return Outgoing(SNAPSHOTS, message.line, message.encode())


def announce(
    store: Store, line: str, make: Callable[[SnapshotAnnouncement | None], SnapshotAnnouncement]
) -> SnapshotAnnouncement:
    """Append what `make` makes of the line's last announcement, None where there is none, until it holds; the one that
    does. Whoever announces at the same moment takes the same epoch, of which one alone holds.

    Raises `Unavailable` where others always come first.
    """
    for _ in range(_ATTEMPTS):
        made = make(active_snapshots(store.log).get(line))
        store.log.append([as_record(made)])
        # it may be followed by another's already: to announce it again would undo what that one did later
        if holds(store.log, made):
            return made
    raise Unavailable(f"Others announce gauges of line {line} all the time.", "Try again in a moment.")


def holds(log: Log, message: SnapshotAnnouncement) -> bool:
    """Whether `message` is the first of its epoch."""
    return next((each for each in announcements(log, message.line) if each.epoch == message.epoch), None) == message


def replaced(log: Log, message: SnapshotAnnouncement) -> SnapshotAnnouncement | None:
    """The announcement of its line that held before `message`; None where there was none."""
    earlier = (each for each in announcements(log, message.line) if each.epoch < message.epoch)
    return max(earlier, key=lambda each: each.epoch, default=None)


def publish_snapshot(store: Store, line: str, version: str, files: SnapshotFiles, parent: str | None) -> None:
    """Store a snapshot and make it the active one of `line`."""
    store_snapshot(store.objects, line, version, files)
    announce(store, line, lambda active: announcement(store, line, version, files.sha256, parent, active))


def roll_back(store: Store, line: str, version: str) -> SnapshotAnnouncement:
    """Make a stored version active again, under a new epoch; its announcement. Raises `GaugeMissing`."""
    active_snapshot(store.log, line)
    sha256 = fetch_snapshot(store.objects, line, version).sha256
    return announce(
        store,
        line,
        lambda active: announcement(store, line, version, sha256, active.version if active else None, active),
    )
