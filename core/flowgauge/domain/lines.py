"""What a person sets for one line: stored as JSON beside its images, read between two batches."""

import re
from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from flowgauge.domain.messages import Message, TrialRules
from flowgauge.domain.schedule import cron_expression

# A century, which stands for ever. Much longer, and a date that is counted back from today lies before the year 1, or a
# time span is longer than Python's longest; shorter, and what somebody set that long is refused.
_LONGEST_DAYS = 36_525
_LONGEST_SECONDS = _LONGEST_DAYS * 86_400
# shorter than a microsecond, and windows are no longer told apart, or have no start at all; longer, and who wants to
# hear of every alert does not
_SHORTEST_WINDOW_SECONDS = 0.001


class Policy(StrEnum):
    """Who starts an adaptation when the line has changed: nobody has to, a person has to, or there is none. With
    `shadow` nobody has to, and a gauge that is to replace the active one is tried first.
    """

    AUTO = "auto"
    SHADOW = "shadow"
    PROPOSE = "propose"
    OFF = "off"


def _view_pattern(text: str) -> str:
    try:
        groups = re.compile(text).groups
    except re.error as error:
        raise ValueError(f"{text!r} is no regular expression: {error}") from error
    if groups != 1:
        raise ValueError(f"{text!r} has {groups} groups, and one must name the view, as in -(top|side)[.]png")
    return text


class LineSettings(TrialRules, Message):
    """Frozen; `model_copy(update=...)` does not validate, so change them with `changed`."""

    # JSON has no infinity and writes null, which is another setting or none
    model_config = ConfigDict(allow_inf_nan=False)

    policy: Policy = Field(
        Policy.AUTO,
        description="who starts an adaptation when the line has changed: auto, propose (a person) or off; shadow: as"
        " auto, and whatever is to replace the gauge is tried beside it first",
    )
    deadline_seconds: float | None = Field(
        None,
        gt=0,
        le=_LONGEST_SECONDS,
        description="seconds, above 0 to a century: a verdict later than this after capture is `late`; unset: none is",
    )

    clock_tolerance_seconds: float = Field(
        86_400,
        gt=0,
        le=_LONGEST_SECONDS,
        description="seconds, above 0 to a century, from capture to arrival; beyond, the camera's clock is off",
    )
    frozen_images: int = Field(
        20, ge=0, description="so many identical, black or white images in a row raise an alert; 0: never"
    )

    buffer_size: int = Field(400, ge=1, description="images that may train, 1 or more; beyond it the oldest leave")
    buffer_minimum: int = Field(48, ge=1, description="images, 1 to buffer_size: fewer than this train nothing")
    buffer_max_age_seconds: float = Field(
        7 * 86_400,
        gt=0,
        le=_LONGEST_SECONDS,
        description="seconds, above 0 to a century, counted back from the newest capture: older images leave",
    )
    near_duplicates: int = Field(40, ge=1, description="the most near duplicates in the buffer, 1 or more")
    duplicate_distance: int = Field(
        2, ge=0, le=64, description="bits, 0 to 64: fingerprints that differ in no more of them look alike"
    )

    cool_down_seconds: float = Field(
        600, ge=0, le=_LONGEST_SECONDS, description="seconds, 0 to a century, between two adaptations of the line"
    )
    warmup_images: int = Field(64, ge=1, description="images of the changed line to see before it trains, 1 or more")
    adapt_every: int | None = Field(
        None, ge=1, description="images, 1 or more, after which to adapt without any drift; unset: never"
    )
    adapt_schedule: Annotated[str, AfterValidator(cron_expression)] | None = Field(
        None, description="when to adapt without any drift: a cron expression of five fields, in UTC; unset: never"
    )

    threshold_check_images: int = Field(
        200, ge=0, description="after so many parts a gauge's threshold is checked against the line's scores; 0: never"
    )
    cost_false_alarm: float | None = Field(
        None, ge=0, description="what a false alarm costs, in any unit that all three costs share; unset: unknown"
    )
    cost_miss: float | None = Field(None, ge=0, description="what a missed defective part costs; unset: unknown")
    cost_review: float | None = Field(None, ge=0, description="what a person's look at an image costs; unset: nothing")
    defect_rate: float | None = Field(
        None, ge=0, lt=1, description="share of defective parts, 0 to below 1, for what misses cost; unset: from labels"
    )
    alert_window_seconds: float = Field(
        60,
        ge=_SHORTEST_WINDOW_SECONDS,
        le=_LONGEST_SECONDS,
        description="seconds, 0.001 to a century: alerts of one kind within it become one with a count",
    )
    pass_retention_days: float | None = Field(
        None,
        ge=0,
        le=_LONGEST_DAYS,
        description="days, 0 to a century: images that passed are deleted after this; unset: they stay",
    )

    part_views: int | None = Field(
        None, ge=1, le=64, description="images that show one part (ce_subject), 1 to 64; unset: parts get no verdict"
    )
    part_rejects: int = Field(1, ge=1, description="rejected views that reject the part, 1 to part_views")
    part_seconds: float = Field(
        60, gt=0, le=86_400, description="seconds above 0, at most a day, after the first view: later ones are missing"
    )
    part_repeat_seconds: float = Field(
        3_600,
        gt=0,
        le=_LONGEST_SECONDS,
        description="seconds, part_seconds to a century, after which a serial is a new part, no late view",
    )
    part_view_pattern: Annotated[str, AfterValidator(_view_pattern)] | None = Field(
        None,
        description="regular expression whose one group finds the view's name in the image id: of a view that was"
        " taken twice the worse decision counts; unset: each image id is a view of its own",
    )

    @model_validator(mode="after")
    def _settings_fit(self) -> "LineSettings":
        if self.part_views is not None and self.part_rejects > self.part_views:
            raise ValueError(f"part_rejects ({self.part_rejects}) exceeds part_views ({self.part_views})")
        if self.part_repeat_seconds < self.part_seconds:
            raise ValueError(
                f"part_repeat_seconds ({self.part_repeat_seconds:g}) is less than part_seconds ({self.part_seconds:g})"
            )
        if self.buffer_minimum > self.buffer_size:
            raise ValueError(f"buffer_minimum ({self.buffer_minimum}) exceeds buffer_size ({self.buffer_size})")
        return self

    @property
    def trial_rules(self) -> TrialRules:
        """Of a trial that begins now."""
        return TrialRules.model_validate(self.model_dump())

    def changed(self, **changes: object) -> "LineSettings":
        """A copy with `changes`, validated. Raises pydantic's `ValidationError`."""
        return LineSettings.model_validate(self.model_dump() | changes)
