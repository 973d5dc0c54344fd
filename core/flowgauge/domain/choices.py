"""What a person may choose by name, apart from the libraries that a choice loads."""

from enum import StrEnum


class Aspect(StrEnum):
    """How an image becomes a gauge's square input: see `flowgauge.vision.preprocessing`."""

    SQUASH = "squash"
    LETTERBOX = "letterbox"
    CENTRE = "centre"
    MASKED_CROP = "masked-crop"


class Engine(StrEnum):
    """What runs a gauge's networks: see `flowgauge.engines.choice`."""

    AUTO = "auto"
    TORCH = "torch"
    OPENVINO = "openvino"
    CUDAGRAPHS = "cudagraphs"
