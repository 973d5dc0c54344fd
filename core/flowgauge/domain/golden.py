"""The golden set: images that people have labelled. Adaptation never learns from them."""

from enum import StrEnum
from hashlib import sha256


class Label(StrEnum):
    GOOD = "good"
    DEFECT = "defect"


def is_hold_out(image_id: str) -> bool:
    """True for the hold-out half of the golden set (gates, calibration); the other half may train detectors that learn
    from labels. Decided by a hash of the id, so an image never changes sides."""
    return sha256(image_id.encode()).digest()[0] % 2 == 0
