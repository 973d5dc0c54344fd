"""What a factory will see, estimated from repeated splits. The field names are the keys of its JSON."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import StrEnum
from itertools import chain
from math import ceil, floor

import numpy as np
from pydantic import Field

from flowgauge.domain.messages import FrozenModel
from flowgauge.evaluation.choices import Choice, Chooser, Costs, smallest_budget
from flowgauge.evaluation.intervals import Interval, Share, ShareOfImages, corrected, propagated
from flowgauge.evaluation.metrics import Floats, Ramps
from flowgauge.evaluation.near_duplicates import NearDuplicates
from flowgauge.evaluation.splits import Groups

# n2 / n1 of the defects in Nadeau and Bengio's variance: half of them test, and the other half chose the threshold.
_DEFECT_TEST_TO_TRAIN = 1.0


class Repeat(FrozenModel):
    """One split, one detector, one threshold. `good` and `defect`: the scores of the test images, by name; a score
    above `threshold` is an alarm. `median` and `deviation` are those of the good images that chose the threshold: the
    detector's own scale. `idle`: good images left out, for they show parts of the halves.
    """

    seed: int
    threshold: float
    median: float
    deviation: float = Field(gt=0)
    good: dict[str, float] = Field(min_length=1)
    defect: dict[str, float] = Field(min_length=1)
    train_images: int
    idle: int
    seconds: float

    @property
    def false_alarm_share(self) -> float:
        return float(np.mean([score > self.threshold for score in self.good.values()]))

    @property
    def miss_share(self) -> float:
        return float(np.mean([score <= self.threshold for score in self.defect.values()]))

    @property
    def image_auroc(self) -> float:
        """The chance that a defect scores above a good image, in [0, 1]."""
        return Ramps.of(np.array([*self.defect.values()]), np.array([*self.good.values()])).area()

    def standardised(self, score: float) -> float:
        """In deviations of good scores from their median: comparable between repeats."""
        return (score - self.median) / self.deviation


class Figure(FrozenModel):
    """`mean` and `spread` (sample deviation) over repeats; `interval`: 95 %, for the mean over the repeats' detectors
    and thresholds on parts never seen; `plain_interval`: what a t interval would claim.
    """

    mean: float
    spread: float
    interval: Interval
    plain_interval: Interval
    corrected_interval: Interval


class Estimate(FrozenModel):
    """Shares in [0, 1]. `precision` and `f1` are as among equally many good and defective parts; `cost_per_1000` is at
    the assumed prevalence.
    """

    repeats: int
    false_alarm_share: Figure
    miss_share: Figure
    recall: Figure
    balanced_accuracy: Figure
    precision: Figure
    f1: Figure
    cost_per_1000: Figure
    image_auroc: Figure
    threshold: Figure
    false_alarms: Share
    misses: Share

    def figures(self) -> dict[str, Figure]:
        return {name: value for name, value in self if isinstance(value, Figure)}


def precision(false_alarms: float, misses: float) -> float:
    """Of alarms among equally many good and defective parts, the share that is right; 1 where there are no alarms."""
    found = 1 - misses
    return found / (found + false_alarms) if found + false_alarms else 1.0


def f1(false_alarms: float, misses: float) -> float:
    """The harmonic mean of precision and recall among equally many good and defective parts."""
    found = 1 - misses
    return 2 * found / (1 + found + false_alarms)


def estimated(repeats: Sequence[Repeat], groups: Groups, costs: Costs, good_images: int) -> Estimate:
    """From at least two repeats. `groups` names each test image's part; `good_images`: how many good ones the data set
    has that may test.
    """
    false_alarms = _share([{name: s > r.threshold for name, s in r.good.items()} for r in repeats], groups)
    misses = _share([{name: s <= r.threshold for name, s in r.defect.items()} for r in repeats], groups)

    def of_shares(
        function: Callable[[float, float], float],
        test_to_train: float = _DEFECT_TEST_TO_TRAIN,
        within: Interval = (0.0, 1.0),
    ) -> Figure:
        values = [function(repeat.false_alarm_share, repeat.miss_share) for repeat in repeats]
        ends = propagated(function, float(np.mean(values)), false_alarms, misses)
        return _figure(values, test_to_train, within, ends)

    good_tests = len(repeats[0].good)
    thresholds = [repeat.standardised(repeat.threshold) for repeat in repeats]
    return Estimate(
        repeats=len(repeats),
        false_alarm_share=of_shares(lambda p, q: p, good_tests / max(1, good_images - good_tests)),
        miss_share=of_shares(lambda p, q: q),
        recall=of_shares(lambda p, q: 1 - q),
        balanced_accuracy=of_shares(lambda p, q: 1 - (p + q) / 2),
        precision=of_shares(precision),
        f1=of_shares(f1),
        cost_per_1000=of_shares(costs.per_1000, within=(0.0, np.inf)),
        image_auroc=_figure([repeat.image_auroc for repeat in repeats], _DEFECT_TEST_TO_TRAIN, (0.0, 1.0)),
        threshold=_figure(thresholds, _DEFECT_TEST_TO_TRAIN, (-np.inf, np.inf)),
        false_alarms=false_alarms,
        misses=misses,
    )


def _share(erred: Sequence[Mapping[str, bool]], groups: Groups) -> Share:
    """`erred`: of each repeat, which test images got the wrong decision."""
    names = sorted(set(chain.from_iterable(erred)))
    table = np.array([[float(row[name]) if name in row else np.nan for name in names] for row in erred])
    numbers = np.unique([groups[name] for name in names], return_inverse=True)[1]
    return ShareOfImages(table, numbers).share()


def _figure(
    values: Sequence[float], test_to_train: float, within: Interval, interval: Interval | None = None
) -> Figure:
    """A figure that is no function of the two shares has Nadeau and Bengio's `interval`."""
    nadeau_bengio = corrected(values, test_to_train)
    clipped = [
        np.clip(ends, *within).tolist() for ends in (interval or nadeau_bengio, corrected(values), nadeau_bengio)
    ]
    return Figure(
        mean=float(np.mean(values)),
        spread=float(np.std(values, ddof=1)),
        interval=tuple(clipped[0]),
        plain_interval=tuple(clipped[1]),
        corrected_interval=tuple(clipped[2]),
    )


def standardised_scores(repeats: Sequence[Repeat]) -> tuple[Floats, Floats]:
    """Of all good test images, and of all defects, in deviations from the median of good ones."""
    good = [r.standardised(score) for r in repeats for score in r.good.values()]
    defect = [r.standardised(score) for r in repeats for score in r.defect.values()]
    return np.array(good), np.array(defect)


class Origin(StrEnum):
    """Who said which part an image shows. `images`: nobody, and no two images are alike."""

    FILE = "file"
    NAMES = "names"
    NEAR_DUPLICATES = "near_duplicates"
    IMAGES = "images"


class EstimateReport(FrozenModel):
    """What `flowgauge estimate` found, as it is written. `key` identifies data and settings. `estimate` is of
    `repeats`, which keep parts whole; where near duplicates were found, `duplicates_apart` is of `repeats_apart`, in
    which every image is a part of its own: the bias that near duplicates cause.
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
        """The one sentence to remember: the whole numbers around the intervals."""

        def counted(share: Share, of: int) -> str:
            low, high = share.interval
            return f"{floor(of * low + 1e-9)} to {ceil(of * high - 1e-9)}"

        return (
            f"Of 1,000 good parts expect {counted(self.estimate.false_alarms, 1000)} false alarms; "
            f"of 100 defects expect {counted(self.estimate.misses, 100)} misses."
        )

    def sentences(self) -> Iterator[str]:
        """The promise, and what the near duplicates would have flattered."""
        yield self.promise
        apart, kin, groups = self.duplicates_apart, self.estimate, self.near_duplicates
        if apart is None:
            return
        yield (
            f"{sum(len(group.names) for group in groups)} images are near duplicates of others, in {len(groups)}"
            f" groups, of which {sum(group.across for group in groups)} lie in both train and test. Torn apart they"
            f" flatter: false alarms {100 * apart.false_alarm_share.mean:.1f} % for"
            f" {100 * kin.false_alarm_share.mean:.1f} %, misses {100 * apart.miss_share.mean:.1f} % for"
            f" {100 * kin.miss_share.mean:.1f} %, image AUROC {apart.image_auroc.mean:.3f} for"
            f" {kin.image_auroc.mean:.3f}."
        )

    def warnings(self) -> Iterator[str]:
        good_parts, defects = len(self.repeats[0].good), len(self.repeats[0].defect)
        if good_parts < defects:
            yield f"Only {good_parts} good images test beside {defects} defects; the others are needed to train."
        if self.chooser.choice is Choice.BUDGET and self.chooser.budget < smallest_budget(good_parts):
            yield (
                f"{good_parts} good images cannot keep a budget of {self.chooser.budget:g}: "
                f"no less than {smallest_budget(good_parts):.2g} can be told by them."
            )
        if self.origin is Origin.NEAR_DUPLICATES:
            yield "Near duplicates were taken for images of one part. Say which images show one: --groups or --group."
