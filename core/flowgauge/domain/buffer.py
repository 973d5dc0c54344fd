"""Which of a line's recent images stay in its buffer."""

from collections.abc import Iterable, Sequence
from datetime import datetime

from flowgauge.domain.lines import LineSettings
from flowgauge.domain.ports import Buffered


def to_evict(buffered: Sequence[Buffered], settings: LineSettings, now: datetime) -> list[str]:
    """The ids of those that must go so that the rest keeps to `settings`; `buffered` is in order of capture.

    Captures older than the maximum age before the newest go; one of the future neither stays nor is the newest. Of
    views that look alike, no newcomer has more than `near_duplicates` at its side: the oldest of them go, so that a
    standing belt neither fills the buffer nor freezes it. The rule looks at fingerprints alone: views of one product
    under fixed light look more alike than they are, which is why the default cap is a share of the buffer and not one.
    """
    if not buffered:
        return []
    possible = [e for e in buffered if (e.captured_at - now).total_seconds() <= settings.clock_tolerance_seconds]
    newest = min(now, possible[-1].captured_at) if possible else now
    age_limit = settings.buffer_max_age_seconds
    young = [entry for entry in possible if (newest - entry.captured_at).total_seconds() <= age_limit]
    kept = _capped(reversed(young), settings)
    kept_ids = {entry.image_id for entry in kept[: settings.buffer_size]}
    return [entry.image_id for entry in buffered if entry.image_id not in kept_ids]


def _capped(newest_first: Iterable[Buffered], settings: LineSettings) -> list[Buffered]:
    """Images without a fingerprint look like nothing else."""
    kept: list[Buffered] = []
    fingerprints: list[int] = []
    for entry in newest_first:
        bits = int(entry.fingerprint, 16) if entry.fingerprint else None
        if bits is None or _alike(bits, fingerprints, settings.duplicate_distance) < settings.near_duplicates:
            kept.append(entry)
            fingerprints += [] if bits is None else [bits]
    return kept


def _alike(bits: int, others: Sequence[int], distance: int) -> int:
    return sum((bits ^ other).bit_count() <= distance for other in others)
