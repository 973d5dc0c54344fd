"""What travels between the parts: JSON messages with a schema version, validated where they enter.

Additions are minor versions; readers ignore fields that they do not know. Times are RFC 3339 in UTC.
"""

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from hashlib import sha256
from typing import Annotated, Any, Self
from uuid import UUID

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field

from flowgauge.domain.object_keys import line_name

SCHEMA_VERSION = 2

IMAGES = "images"
VERDICTS = "verdicts"
ALERTS = "alerts"
ADAPTATIONS = "adaptations"
SNAPSHOTS = "snapshots"
DEAD_LETTERS = "dead-letters"
PART_VERDICTS = "part-verdicts"
SHADOW_VERDICTS = "shadow-verdicts"
TOPICS = (IMAGES, VERDICTS, ALERTS, ADAPTATIONS, SNAPSHOTS, DEAD_LETTERS, PART_VERDICTS, SHADOW_VERDICTS)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NUMBER = re.compile(r"[+-]?[0-9]{1,19}([.][0-9]{1,9})?")
# Of a number without a unit: 20e9 s is the year 2603, 20e9 ms August 1970. Smaller, and seconds of this century are
# read as milliseconds; larger, and milliseconds of the seventies are read as seconds of a far future.
_MOST_SECONDS = 20_000_000_000


def from_epoch(seconds: float) -> datetime:
    """The instant so many seconds after 1970; the first or the last one that there is for what lies beyond."""
    try:
        return _EPOCH + timedelta(seconds=seconds)
    except OverflowError:
        return (datetime.max if seconds > 0 else datetime.min).replace(tzinfo=UTC)


def _in_utc(at: datetime) -> datetime:
    """A time without a zone counts as UTC."""
    at = at.replace(tzinfo=UTC) if at.tzinfo is None else at
    try:
        return at.astimezone(UTC)
    except OverflowError as error:
        raise ValueError(f"{at.isoformat()} lies outside the years 1 to 9999 in UTC") from error


def _stamped(value: object) -> object:
    """What a camera may send as a time: a number counts seconds, milli-, micro- or nanoseconds since 1970, by its size.

    Text without a zone means UTC; a program's own time must have one, for `datetime.now()` has the machine's.
    """
    if isinstance(value, datetime) and value.tzinfo is None:
        raise ValueError("a time of a program needs its zone")
    if not isinstance(value, str) or not _NUMBER.fullmatch(value.strip()):
        return value
    seconds = Decimal(value.strip())
    while abs(seconds) > _MOST_SECONDS:
        seconds /= 1_000
    return _EPOCH + timedelta(microseconds=int(seconds * 1_000_000))


Instant = Annotated[AwareDatetime, AfterValidator(_in_utc)]
CaptureTime = Annotated[datetime, BeforeValidator(_stamped), AfterValidator(_in_utc)]
Line = Annotated[str, AfterValidator(line_name)]


class Message(BaseModel):
    """A frozen JSON message; `encode` and `decode` are each other's inverse."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    schema_version: int = Field(SCHEMA_VERSION, description="of this message's fields; readers refuse higher ones")

    def encode(self) -> bytes:
        return self.model_dump_json().encode()

    @classmethod
    def decode(cls, value: bytes) -> Self:
        return cls.model_validate_json(value)


class FrozenModel(BaseModel):
    """A piece of a message, frozen like the whole."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Decision(StrEnum):
    PASS = "pass"
    REJECT = "reject"
    REVIEW = "review"


class Source(FrozenModel):
    """Where the image's record lies: what makes a verdict the checkpoint of its partition."""

    topic: str = Field(description="the topic of images")
    partition: int = Field(description="its partition")
    offset: int = Field(description="where the image's record lies in it")
    generation: int = Field(0, description="rises whenever offsets begin anew, as in a topic that was made anew")
    topic_id: str = Field("", description="of the topic, which changes when it is made anew; empty if unknown")

    @property
    def rank(self) -> tuple[int, int]:
        """What rises from each verdict of a partition that counts to the next: generation, then offset."""
        return self.generation, self.offset


class Statistics(FrozenModel):
    """How the image was taken, and what it looked like from afar: see `flowgauge.vision.decoding.statistics`."""

    brightness: float = Field(description="mean gray value, in [0, 1]")
    contrast: float = Field(description="standard deviation of gray values, averaged to 512 pixels a side; in [0, 0.5]")
    focus: float = Field(description="log of the variance of the Laplacian over that of the values; higher is sharper")
    fingerprint: str = Field("", description="64-bit difference hash, in hex; few different bits: images look alike")


class Region(FrozenModel):
    """A box around an anomalous region."""

    left: int = Field(description="in pixels of the original image")
    top: int = Field(description="in pixels of the original image")
    right: int = Field(description="in pixels, exclusive")
    bottom: int = Field(description="in pixels, exclusive")
    score: float = Field(description="highest anomaly score inside, standardised by the gauge's map scale")


class Verdict(Message):
    """The result for one image. `score` is higher for more anomalous; both are None while the line has no gauge."""

    verdict_id: UUID = Field(description="made of the event's source and id: the same image has the same id again")
    image_id: str = Field(description="the event's `ce_id`")
    image_sha256: str = Field(description="of the encoded bytes, in hex")
    image_uri: str | None = Field(description="where the image lies in the store; null where it is not kept")
    line: Line = Field(description="the line")
    captured_at: Instant = Field(description="when the camera took it, by the camera's clock")
    scored_at: Instant = Field(description="when it was scored, by the worker's clock")
    late: bool = Field(False, description="scored later after capture than the line's deadline_seconds")
    score: float | None = Field(description="anomaly score; higher is more anomalous; null while the line has no gauge")
    threshold: float | None = Field(description="the gauge's threshold, in the score's unit; null without a gauge")
    decision: Decision = Field(description="`pass`, `reject` or `review`")
    reasons: tuple[str, ...] = Field((), description="why it is rejected or for review, in sentences")
    gauge_version: str | None = Field(description="version of the gauge that scored it")
    detector: str | None = Field(description="name of that gauge's detector")
    regions: tuple[Region, ...] = Field((), description="boxes around what stands out, the highest score first")
    heatmap_uri: str | None = Field(None, description="where the heatmap lies in the store")
    statistics: Statistics = Field(description="how the image was taken")
    source: Source = Field(description="where the image's record lies")
    standard_score: float | None = Field(None, description="score in robust deviations above the calibration's median")
    peak: tuple[float, float] | None = Field(
        None, description="where the anomaly map is highest: x and y as shares of width and height, in [0, 1]"
    )
    use_for_training: bool = Field(True, description="False keeps the image from buffer and drift monitor")
    subject: str | None = Field(None, description="the part's serial: images of one part share folds and splits")
    arrived_at: Instant | None = Field(None, description="when the image's record was appended to its topic")
    clock_off: bool = Field(False, description="captured_at and arrived_at differ by more than clock_tolerance_seconds")
    trial_id: UUID | None = Field(None, description="the trial whose candidate decided; null: the active gauge did")

    @property
    def event_time(self) -> datetime:
        """What age, dates and drift go by: the capture, or the arrival where the camera's clock is off."""
        return self.arrived_at if self.clock_off and self.arrived_at is not None else self.captured_at


class View(FrozenModel):
    """One image of a part that several images show."""

    name: str = Field(description="what part_view_pattern finds in the image id, else the verdict's id")
    verdict_id: UUID = Field(description="of the image's verdict")
    image_id: str = Field(description="the image's id")
    decision: Decision = Field(description="of the image's verdict")
    at: Instant = Field(description="event time of the image's verdict")


class PartSource(FrozenModel):
    """Which verdicts of the partition of the same number a part verdict rests on."""

    offset: int = Field(description="verdicts below this offset are taken into account")
    index: int = Field(description="numbers the part verdicts of one offset from 0 on")
    resume: int = Field(description="offset of the first verdict that a worker without a commit must read again")
    generation: int = Field(0, description="rises whenever offsets begin anew, as in a topic that was made anew")
    topic_id: str = Field("", description="of the topic of verdicts; empty if unknown")

    @property
    def rank(self) -> tuple[int, int, int]:
        """What rises from each part verdict of a partition that counts to the next."""
        return self.generation, self.offset, self.index


class PartVerdict(Message):
    """The result for one part of several views. One whose `source.rank` does not rise in its partition is void."""

    part_id: UUID = Field(description="made of line, subject and opened_at")
    line: Line = Field(description="the line")
    subject: str = Field(description="the part's serial, `ce_subject` of its images")
    decision: Decision = Field(description="`pass`, `reject` or `review`")
    reasons: tuple[str, ...] = Field((), description="why it is rejected or for review, in sentences")
    views: tuple[View, ...] = Field(description="those that came in time, in order of arrival")
    expected_views: int = Field(description="how many views the line's parts had when the first one came")
    opened_at: Instant = Field(description="when the image of the first view arrived")
    decided_at: Instant = Field(description="when the last view's image arrived, or its time was over")
    source: PartSource = Field(description="the verdicts that it rests on")


class AlertKind(StrEnum):
    REJECT = "reject"
    DRIFT = "drift"
    ADAPTATION_PROPOSED = "adaptation_proposed"
    ADAPTATION_REFUSED = "adaptation_refused"
    ADAPTATION_ACCEPTED = "adaptation_accepted"
    ADAPTATION_COALESCED = "adaptation_coalesced"
    SNAPSHOT_INVALID = "snapshot_invalid"
    STORE_UNAVAILABLE = "store_unavailable"
    NO_GAUGE = "no_gauge"
    DEAD_LETTER = "dead_letter"
    BACKLOG = "backlog"
    THRESHOLD_DISAGREES = "threshold_disagrees"
    OFFSETS_RESET = "offsets_reset"
    RECORDS_EXPIRED = "records_expired"
    CLOCK_OFF = "clock_off"
    FROZEN_CAMERA = "frozen_camera"
    ENGINE_REFUSED = "engine_refused"
    TRIAL_STAGE = "trial_stage"
    TRIAL_WAITS = "trial_waits"
    TRIAL_STOPPED = "trial_stopped"
    TRIAL_PROMOTED = "trial_promoted"
    LATE_VIEW = "late_view"


class Alert(Message):
    """What people should know of a line."""

    alert_id: UUID = Field(description="two alerts of one id are one; the later replaces the earlier")
    line: Line = Field(description="the line")
    at: Instant = Field(description="when it was raised")
    kind: AlertKind = Field(description="what happened: below")
    count: int = Field(1, ge=1, description="how many events it stands for")
    message: str = Field(description="one sentence for people")
    detail: dict[str, Any] = Field(default_factory=dict, description="figures and names, by kind")


class Reason(StrEnum):
    """Why an adaptation was asked for."""

    DRIFT = "drift"
    COUNT = "count"
    SCHEDULE = "schedule"
    PERSON = "person"


class AdaptationRequest(Message):
    """Asks for an adaptation of a line."""

    request_id: UUID = Field(description="by which it is approved, and told from others")
    line: Line = Field(description="the line")
    reason: Reason = Field(description="`drift`, `count`, `schedule` or `person`")
    requested_at: Instant = Field(description="when")
    requested_by: str = Field(description="who, or which worker")
    since: Instant | None = Field(None, description="images captured before train nothing: the line has changed since")
    approved: bool = Field(False, description="it was proposed, and `requested_by` approved it")

    @property
    def by_person(self) -> bool:
        return self.approved or self.reason is Reason.PERSON


class Stage(StrEnum):
    """Of a trial. `shadow`: the active gauge decides all images; `canary`: the candidate decides a share of them."""

    SHADOW = "shadow"
    CANARY = "canary"


class Expected(StrEnum):
    """How often the candidate of a trial should alarm, compared with the active gauge."""

    FEWER = "fewer"
    SAME = "same"
    MORE = "more"


class Promotion(StrEnum):
    """Who makes a candidate the active gauge once its trial is over: nobody has to, or a person."""

    AUTO = "auto"
    PERSON = "person"


class TrialRules(FrozenModel):
    """How a candidate is tried; fixed when its trial begins."""

    shadow_share: float = Field(
        0.2, gt=0, le=1, description="share, above 0, of images that a candidate predicts too; 1 halves the speed"
    )
    shadow_images: int = Field(200, ge=1, description="images, 1 or more, that a candidate predicts before it decides")
    shadow_hours: float = Field(
        0, ge=0, le=8_760, description="hours, 0 to a year, that a candidate predicts before it may decide"
    )
    canary_share: float = Field(0.1, gt=0, le=1, description="share, above 0, of the images that a canary decides")
    canary_images: int = Field(100, ge=0, description="images that a canary decides before it takes over; 0: no canary")
    trial_promotion: Promotion = Field(Promotion.AUTO, description="who lets a candidate take over: auto, or a person")
    most_alarms: float = Field(
        0.3, gt=0, lt=1, description="share of alarms in (0, 1) that stops a candidate expected to alarm more or less"
    )
    most_disagreement: float = Field(
        0.1, gt=0, lt=1, description="share in (0, 1) of images decided otherwise, unexpectedly, that stops a candidate"
    )
    most_slowdown: float = Field(
        2.0, gt=1, le=1_000, description="times the active gauge's time, in (1, 1000]: more, in most passes, stops it"
    )


class Trial(FrozenModel):
    """A candidate on trial."""

    trial_id: UUID = Field(description="the same in every announcement, verdict and report of the trial")
    version: str = Field(description="of the candidate")
    uri: str = Field(description="where its snapshot lies in the store")
    sha256: str = Field(description="of its manifest, in hex")
    stage: Stage = Field(description="`shadow` or `canary`")
    began_at: Instant = Field(description="when the trial began")
    by: str = Field(description="who began it, or which worker")
    expected: Expected = Field(description="how often it should alarm beside the active gauge: `fewer`, `same`, `more`")
    rules: TrialRules = Field(description="the line's settings when the trial began")

    @property
    def short_id(self) -> str:
        """As people are told of it."""
        return str(self.trial_id)[:8]

    def draw(self, image_id: str) -> float:
        """In [0, 1), from the ids of trial and image alone: a replay draws alike."""
        return int.from_bytes(sha256(f"{self.trial_id}/{image_id}".encode()).digest()[:8]) / 2**64

    def predicts(self, image_id: str) -> bool:
        share = max(self.rules.shadow_share, self.rules.canary_share if self.stage is Stage.CANARY else 0)
        return self.draw(image_id) < share

    def decides(self, image_id: str) -> bool:
        return self.stage is Stage.CANARY and self.draw(image_id) < self.rules.canary_share


class SnapshotAnnouncement(Message):
    """Which snapshot is active, and which is on trial: the highest `epoch` of a line wins, the first in log order among
    equals. Each announcement says all of it, so that the last one of a line is enough.
    """

    line: Line = Field(description="the line")
    epoch: int = Field(description="the highest of a line wins")
    version: str = Field(description="of the gauge")
    uri: str = Field(description="where the snapshot lies in the store")
    sha256: str = Field(description="of the manifest, which names that of the weights, in hex")
    parent: str | None = Field(description="the version that it replaced")
    at: Instant = Field(description="when")
    trial: Trial | None = Field(None, description="the candidate on trial beside it; null: none is")


class Opinion(FrozenModel):
    """What one gauge predicts of an image."""

    version: str = Field(description="of the gauge")
    score: float = Field(description="anomaly score; higher is more anomalous")
    threshold: float = Field(description="of the gauge, in the score's unit")
    standard_score: float = Field(description="score standardised by the gauge's calibration")
    decision: Decision = Field(description="`pass`, `reject` or `review`")
    seconds: float = Field(description="that this prediction took, the shared pass through the backbone included")

    @property
    def alarm(self) -> bool:
        """Whether a person has to look."""
        return self.decision is not Decision.PASS


class ShadowVerdict(Message):
    """Two gauges on one image of a line with a trial. It decides nothing: the verdict of the image does."""

    line: Line = Field(description="the line")
    trial_id: UUID = Field(description="the trial")
    verdict_id: UUID = Field(description="of the verdict that counts")
    image_id: str = Field(description="the event's `ce_id`")
    image_sha256: str = Field(description="of the encoded bytes, in hex")
    image_uri: str | None = Field(description="where the image lies in the store")
    scored_at: Instant = Field(description="when both predicted it")
    late: bool = Field(description="later after capture than the line's deadline_seconds")
    active: Opinion = Field(description="the active gauge's")
    candidate: Opinion | None = Field(description="the candidate's; null where it failed")
    failure: str = Field("", description="why the candidate failed")
    first: bool = Field(False, description="the first of the images predicted together, whose time counts for all")
    decided: bool = Field(description="the candidate decided, as canary")
    source: Source = Field(description="where the image's record lies")


# characters: longer, and a verdict or an alert that names some outgrows its topic, which stops a worker for ever;
# shorter, and paths that cameras give as ids are refused
_LONGEST_ID = 1024
KEY = "key"
HEADERS = {
    "image_id": "ce_id",
    "source": "ce_source",
    "line": KEY,
    "captured_at": "ce_time",
    "subject": "ce_subject",
    "use_for_training": "ce_usefortraining",
}
"""Where each field of an event comes from."""


# bytes: spelling out three megabytes takes 2 s, in which a member of a group cannot say that it lives; fewer than four
# for each character that an id may have, and different ids become one
_SPELLED = 4 * _LONGEST_ID


def header_text(value: bytes) -> str:
    """The text of a header or key. Bytes that are no UTF-8 are spelled out, so that different ones stay different; of a
    value that is longer than any field may be, those beyond `_SPELLED` are left out."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value[:_SPELLED].decode(errors="backslashreplace")


class Event(FrozenModel):
    """An image event's identity, out of its CloudEvents headers."""

    image_id: str = Field(min_length=1, max_length=_LONGEST_ID)
    line: Line  # before the source, which names it where none is given
    source: str = Field(max_length=_LONGEST_ID)
    captured_at: CaptureTime
    subject: str | None = Field(None, max_length=_LONGEST_ID)
    use_for_training: bool = True

    def headers(self) -> dict[str, str]:
        """CloudEvents binary mode: one `ce_` header per attribute."""
        headers = {
            "ce_specversion": "1.0",
            "ce_type": "flowgauge.image",
            "ce_id": self.image_id,
            "ce_source": self.source,
            "ce_time": self.captured_at.isoformat(),
            "ce_usefortraining": "true" if self.use_for_training else "false",
        }
        return headers | ({"ce_subject": self.subject} if self.subject else {})

    @classmethod
    def from_headers(cls, headers: dict[str, str], key: str, arrived_at: datetime) -> Self:
        """The event that `headers` describe. Raises pydantic's `ValidationError` for headers that describe none.

        Without a time, or with an empty one, the image was captured when it arrived.
        """
        given = {field: headers[name] for field, name in HEADERS.items() if name in headers}
        captured_at = given.get("captured_at", "").strip() or arrived_at
        return cls.model_validate({"source": f"/lines/{key}", **given, "line": key, "captured_at": captured_at})
