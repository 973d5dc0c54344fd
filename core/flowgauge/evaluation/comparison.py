"""Detectors beside each other: the same images, each fitted and judged alone in a process of its own."""

from collections.abc import Sequence
from statistics import fmean, stdev

from pydantic import Field

from flowgauge.domain.messages import FrozenModel
from flowgauge.evaluation.operating_points import PromisedRate
from flowgauge.evaluation.results import ClassFigures, Run

MIB = 1 << 20


class Shown(FrozenModel):
    """One image of the wall: its thumbnail, and the detector's heatmap of it, as JPEGs in base64."""

    name: str
    kind: str
    picture: str
    heatmap: str


class Contender(FrozenModel):
    """One detector under one seed. `peak_bytes`: the most memory that its process held, libraries and images included;
    `snapshot_bytes`: what was learned, as it is stored. `shown_images`: the same images for all detectors of a seed.
    `miss_share_at`: the share of defects missed at each true false-alarm rate of the test images; `promised`: what
    became of each false-alarm rate that the gauge promised, empty where it promises none. The keys are the rates.
    """

    detector: str
    seed: int
    run: Run
    peak_bytes: int
    snapshot_bytes: int
    shown_images: tuple[Shown, ...] = ()
    miss_share_at: dict[str, float] = Field(default_factory=dict)
    promised: dict[str, PromisedRate] = Field(default_factory=dict)


class Spread(FrozenModel):
    """Over seeds. `deviation` is None for a single one."""

    mean: float
    deviation: float | None

    @classmethod
    def of(cls, values: Sequence[float | None]) -> "Spread | None":
        """Of those that are there; None where there are none."""
        found = [value for value in values if value is not None]
        if not found:
            return None
        return cls(mean=fmean(found), deviation=stdev(found) if len(found) > 1 else None)


class Ranking(FrozenModel):
    """One detector over all seeds; `classes` are image AUROC, each against all good test images."""

    detector: str
    seeds: tuple[int, ...]
    image_auroc: Spread | None
    pixel_auroc: Spread | None
    aupro: Spread | None
    miss_share: Spread | None
    false_alarm_share: Spread | None
    fit_seconds: Spread | None
    images_per_second: Spread | None
    peak_mib: Spread | None
    snapshot_mib: Spread | None
    classes: dict[str, Spread | None]


def standings(entrants: Sequence[Contender]) -> list[Ranking]:
    """One per detector, the highest image AUROC first."""
    names = dict.fromkeys(contender.detector for contender in entrants)
    found = [_ranking(name, [e for e in entrants if e.detector == name]) for name in names]
    return sorted(found, key=lambda ranking: -ranking.image_auroc.mean if ranking.image_auroc else 0.0)


def _ranking(name: str, entrants: Sequence[Contender]) -> Ranking:
    runs = [contender.run for contender in entrants]
    kinds = sorted({kind for run in runs for kind in run.per_class})
    return Ranking(
        detector=name,
        seeds=tuple(sorted(contender.seed for contender in entrants)),
        image_auroc=Spread.of([run.image_auroc for run in runs]),
        pixel_auroc=Spread.of([run.pixel_auroc for run in runs]),
        aupro=Spread.of([run.aupro for run in runs]),
        miss_share=Spread.of([run.miss_share for run in runs]),
        false_alarm_share=Spread.of([run.false_alarm_share for run in runs]),
        fit_seconds=Spread.of([run.fit_seconds for run in runs]),
        images_per_second=Spread.of([run.images_per_second for run in runs]),
        peak_mib=Spread.of([contender.peak_bytes / MIB for contender in entrants]),
        snapshot_mib=Spread.of([contender.snapshot_bytes / MIB for contender in entrants]),
        classes={kind: Spread.of([_auroc(run.per_class.get(kind)) for run in runs]) for kind in kinds},
    )


def _auroc(figures: ClassFigures | None) -> float | None:
    return None if figures is None else figures.image_auroc
