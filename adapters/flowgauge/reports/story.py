"""What a demonstration is made of: all that its report shows, and nothing that the pipeline did not say itself."""

from enum import StrEnum

from pydantic import ConfigDict, Field

from flowgauge.domain.messages import Decision, FrozenModel
from flowgauge.domain.trace import AdaptationReport


class Truth(StrEnum):
    GOOD = "good"
    DEFECT = "defect"
    UNKNOWN = "unknown"


class StoryPart(FrozenModel):
    """A part that may hold picture bytes; in JSON they are base64."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_bytes="base64", val_json_bytes="base64")


class Call(StoryPart):
    """What one gauge said of one image. `score` is higher for more anomalous and on the scale of `threshold`."""

    score: float
    threshold: float
    decision: Decision
    version: str

    @property
    def alarm(self) -> bool:
        """Whether the score lies above the threshold: the rule of every false-alarm and miss share in the report."""
        return self.score > self.threshold


class Point(StoryPart):
    """One streamed image, in the order of capture.

    `index` counts from 0 over the whole stream, `phase` is the index of its phase. `adapted` is the verdict that the
    pipeline wrote, `frozen` what the first gauge says of the same image: the control, with adaptation switched off.
    `standard_score` is 0 at the calibration's median and 1 per robust deviation. `use_for_training` False marks a test
    image: scored, but kept from buffer and drift monitor.
    """

    index: int
    image_id: str
    phase: int
    truth: Truth
    use_for_training: bool
    adapted: Call
    frozen: Call
    standard_score: float | None = None


class Phase(StoryPart):
    """A stretch of the stream under one condition, which `condition` states in words."""

    name: str
    condition: str


class Drift(StoryPart):
    """A drift alert, seen after the image with `index`."""

    index: int
    message: str


class Adaptation(StoryPart):
    """An adaptation, asked for after the image with `index`; `report` is its audit record.

    `buffer` says what each image of the buffer truly shows, oldest first, which the pipeline itself never knows.
    """

    index: int
    report: AdaptationReport
    buffer: dict[str, Truth] = Field(default_factory=dict)


class Swap(StoryPart):
    """`index` is the first image that `version` scored."""

    index: int
    version: str


class Snapshot(StoryPart):
    """A stored gauge as the snapshots topic announced it."""

    version: str
    epoch: int
    parent: str | None
    sha256: str


class Suspect(StoryPart):
    """A buffered image that an adaptation kept from training; `picture` is a small PNG or JPEG, empty if none is kept.

    `adaptation` is the version of the candidate, `round` the last round of refinement that rejected the image.
    """

    adaptation: str
    image_id: str
    truth: Truth
    round: int
    picture: bytes = b""


class RejectedImage(StoryPart):
    """A rejected image beside the same image under its heatmap, both small PNG or JPEG files."""

    index: int
    image_id: str
    truth: Truth
    call: Call
    picture: bytes
    overlay: bytes


class Counts(StoryPart):
    """`verdicts` are those that count (one per image at most); `missing` are images sent without one."""

    sent: int
    verdicts: int
    missing: int
    dead_letters: int


class GaugeFacts(StoryPart):
    """What the line started with. `false_alarm_share` is that of held-out good images at the fit, in [0, 1]."""

    detector: str
    backbone: str
    version: str
    fitted_on: int
    fit_seconds: float
    false_alarm_share: float | None = None


class Story(StoryPart):
    """One demonstration from the first fit to the last image. `command` reproduces it."""

    line: str
    source: str
    seed: int
    command: str
    software: str
    gauge: GaugeFacts
    phases: tuple[Phase, ...]
    points: tuple[Point, ...]
    drifts: tuple[Drift, ...] = ()
    adaptations: tuple[Adaptation, ...] = ()
    swaps: tuple[Swap, ...] = ()
    snapshots: tuple[Snapshot, ...] = ()
    suspects: tuple[Suspect, ...] = ()
    rejects: tuple[RejectedImage, ...] = ()
    counts: Counts
