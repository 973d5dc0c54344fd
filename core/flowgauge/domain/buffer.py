"""Which of a line's recent images stay in its buffer."""

from collections.abc import Sequence
from datetime import datetime

from flowgauge.domain.lines import LineSettings
from flowgauge.domain.ports import Buffered


def to_evict(buffered: Sequence[Buffered], settings: LineSettings, now: datetime) -> list[str]:
    """The ids of those that must go so that the rest keeps to `settings`; `buffered` is in order of capture.

    Captures older than the maximum age before the newest go; one of the future neither stays nor is the newest. Of
    views that look alike, no newcomer has more than `near_duplicates` at its side: the oldest of them go.
    """
    if not buffered:
        return []
    possible = [e for e in buffered if (e.captured_at - now).total_seconds() <= settings.clock_tolerance_seconds]
    newest = min(now, possible[-1].captured_at) if possible else now
    age_limit = settings.buffer_max_age_seconds
    young = [entry for entry in possible if (newest - entry.captured_at).total_seconds() <= age_limit]
    # So a standing belt neither fills the buffer nor freezes it. Fingerprints alone are compared, and views of one
    # product under fixed light look more alike than they are: the default cap is a share of the buffer and not one.
    kept: list[str] = []
    fingerprints: list[int] = []
    for entry in reversed(young):
        if entry.fingerprint:
            bits = int(entry.fingerprint, 16)
            alike = sum((bits ^ other).bit_count() <= settings.duplicate_distance for other in fingerprints)
            if alike >= settings.near_duplicates:
                continue
            fingerprints.append(bits)
        kept.append(entry.image_id)
    staying = set(kept[: settings.buffer_size])
    return [entry.image_id for entry in buffered if entry.image_id not in staying]
