"""What an evaluation found. The field names are the keys of its JSON."""

from collections.abc import Iterable, Sequence
from statistics import fmean, stdev
from typing import Any, TypeVar

from pydantic import Field

from flowgauge.domain.messages import Decision, FrozenModel
from flowgauge.evaluation.bootstrap import Interval

Figure = float | None


class ClassFigures(FrozenModel):
    """One class of defects against all good test images. Shares are in [0, 1]; None where nothing can be measured."""

    image_auroc: Figure
    pixel_auroc: Figure
    aupro: Figure
    miss_share: Figure
    images: float = Field(description="how many defective images; a mean over runs")


class Figures(FrozenModel):
    """What is averaged over runs.

    `false_alarm_share` and `miss_share` are those of scores above and up to `threshold`; `promised_false_alarm_share`
    is what the gauge's threshold promises (for a rule that promises none, the held-out share), and
    `held_out_false_alarm_share` what cross-fitted training images say of it; `review_share` counts decisions of all
    test images. `backbone_images_per_second` is that of the cut backbone on the same decoded pictures, in turns with
    the gauge, and `speed_ratio` the gauge's speed over it.
    """

    image_auroc: Figure
    pixel_auroc: Figure
    aupro: Figure
    threshold: Figure
    false_alarm_share: Figure
    promised_false_alarm_share: Figure
    held_out_false_alarm_share: Figure = None
    miss_share: Figure
    review_share: Figure
    fit_seconds: Figure
    images_per_second: Figure
    backbone_images_per_second: Figure
    speed_ratio: Figure


class ImageResult(FrozenModel):
    name: str
    kind: str
    score: float
    decision: Decision


class Run(Figures):
    """One fit and its prediction. `image_auroc_interval` covers 95 %, over groups where they were given;
    `promised_interval` is the 95 % interval of the false-alarm rate that the threshold promises.

    `left_out_of_pixel_metrics` names defects without a mask, or with an empty one; they count in image metrics.
    `groups_on_both_sides` counts groups that both train and judge: above 0, the figures flatter.
    """

    seed: int
    noise: float | None
    mislabelled_share: float
    fitted_images: int
    good_images: int
    defective_images: int
    image_auroc_interval: Interval | None
    per_class: dict[str, ClassFigures]
    regions: int
    left_out_of_pixel_metrics: tuple[str, ...]
    unreadable: dict[str, str]
    promised_interval: Interval | None = None
    groups_on_both_sides: int | None
    images: tuple[ImageResult, ...]


class Evaluation(FrozenModel):
    dataset: str
    detector: str
    device: str
    runs: tuple[Run, ...] = Field(min_length=1)

    def document(self) -> dict[str, Any]:
        """JSON: the means over runs under the figures' own names, deviations as `<name>_std` where there are several
        runs, and the runs themselves under `runs`.

        The mean of intervals is wider than the interval of the mean, whose runs share test images.
        """
        head = {"dataset": self.dataset, "detector": self.detector, "device": self.device}
        spread = _deviations(self.runs) if len(self.runs) > 1 else {}
        runs = [run.model_dump(mode="json") for run in self.runs]
        return (
            head
            | _means(Figures, self.runs)
            | self._interval()
            | spread
            | {"per_class": self._per_class(), "runs": runs}
        )

    def _interval(self) -> dict[str, Interval | None]:
        intervals = [run.image_auroc_interval for run in self.runs if run.image_auroc_interval]
        ends = tuple(fmean(end) for end in zip(*intervals, strict=True))
        return {"image_auroc_interval": (ends[0], ends[1]) if ends else None}

    def _per_class(self) -> dict[str, dict[str, Figure]]:
        kinds = dict.fromkeys(kind for run in self.runs for kind in run.per_class)
        return {
            kind: _means(ClassFigures, [r.per_class[kind] for r in self.runs if kind in r.per_class]) for kind in kinds
        }


def _deviations(runs: Sequence[Figures]) -> dict[str, Figure]:
    """The sample deviation of each figure over at least two runs, as `<name>_std`."""
    columns = ((name, _present(runs, name)) for name in Figures.model_fields)
    return {f"{name}_std": stdev(values) if len(values) > 1 else None for name, values in columns}


Row = TypeVar("Row", bound=FrozenModel)


def _means(kind: type[Row], rows: Sequence[Row]) -> dict[str, Figure]:
    columns = ((name, _present(rows, name)) for name in kind.model_fields)
    return {name: fmean(values) if values else None for name, values in columns}


def _present(rows: Iterable[FrozenModel], name: str) -> list[float]:
    return [value for row in rows if (value := getattr(row, name)) is not None]
