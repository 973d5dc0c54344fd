"""What `flowgauge estimate` found, as it is written down. The field names are the keys of its JSON."""

from collections.abc import Iterator
from enum import StrEnum
from math import ceil, floor

from flowgauge.domain.messages import FrozenModel
from flowgauge.evaluation.choices import Choice, smallest_budget
from flowgauge.evaluation.estimate import Estimate, Repeat
from flowgauge.evaluation.intervals import Share
from flowgauge.evaluation.parts import NearDuplicates
from flowgauge.evaluation.replicates import Chooser


class Origin(StrEnum):
    """Who said which part an image shows. `images`: nobody, and no two images are alike."""

    FILE = "file"
    NAMES = "names"
    NEAR_DUPLICATES = "near_duplicates"
    IMAGES = "images"


class EstimateReport(FrozenModel):
    """`key` names data and settings. `estimate` is of `repeats`, which keep parts whole; where near duplicates were
    found, `duplicates_apart` is of `repeats_apart`, in which every image is a part of its own: what the near duplicates
    flatter.
    """

    dataset: str
    detector: str
    software: str
    key: str
    chooser: Chooser
    good_images: int
    defective_images: int
    parts: int
    origin: Origin
    estimate: Estimate
    duplicates_apart: Estimate | None
    near_duplicates: tuple[NearDuplicates, ...]
    repeats: tuple[Repeat, ...]
    repeats_apart: tuple[Repeat, ...] = ()

    @property
    def promise(self) -> str:
        """The one sentence to remember."""
        found = self.estimate
        return (
            f"Of 1,000 good parts expect {_counted(found.false_alarms, 1000)} false alarms; "
            f"of 100 defects expect {_counted(found.misses, 100)} misses."
        )

    def sentences(self) -> Iterator[str]:
        yield self.promise
        if self.duplicates_apart is not None:
            yield self._flattery(self.duplicates_apart)

    def _flattery(self, apart: Estimate) -> str:
        kin, groups = self.estimate, self.near_duplicates
        across = sum(group.across for group in groups)
        return (
            f"{sum(len(group.names) for group in groups)} images are near duplicates of others, in {len(groups)}"
            f" groups, of which {across} lie in both train and test. Torn apart they flatter: false alarms "
            f"{_percent(apart.false_alarm_share.mean)} for {_percent(kin.false_alarm_share.mean)}, misses "
            f"{_percent(apart.miss_share.mean)} for {_percent(kin.miss_share.mean)}, image AUROC "
            f"{apart.image_auroc.mean:.3f} for {kin.image_auroc.mean:.3f}."
        )

    def warnings(self) -> Iterator[str]:
        good_parts, defects = len(self.repeats[0].good), len(self.repeats[0].defect)
        if good_parts < defects:
            yield f"Only {good_parts} good images judge beside {defects} defects; the others are needed to train."
        if self.chooser.choice is Choice.BUDGET and self.chooser.budget < smallest_budget(good_parts):
            yield (
                f"{good_parts} good images cannot keep a budget of {self.chooser.budget:g}: "
                f"no less than {smallest_budget(good_parts):.2g} can be told by them."
            )
        if self.origin is Origin.NEAR_DUPLICATES:
            yield "Near duplicates were taken for images of one part. Say which images show one: --groups or --group."


def _counted(share: Share, of: int) -> str:
    """The whole numbers around the interval."""
    low, high = share.interval
    return f"{floor(of * low + 1e-9)} to {ceil(of * high - 1e-9)}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
