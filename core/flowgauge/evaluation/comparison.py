"""Detectors side by side on the same images, and their errors at given false-alarm rates.

Two false-alarm rates matter: the true one of the test images, at which detectors compare fairly, and the one that a
gauge promised, of which the test images tell whether it held.
"""

from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from operator import attrgetter
from statistics import fmean, stdev

import numpy as np
from pydantic import Field

from flowgauge.domain.messages import FrozenModel
from flowgauge.evaluation.metrics import Floats, Mask, errors_at
from flowgauge.evaluation.results import Run

MIB = 1 << 20

RATES = (0.01, 0.05, 0.10)
"""The false-alarm rates that are reported. A lower one cannot be told from 0 with fewer than 1 / rate good test images;
at a higher one no line would run.
"""


class PromisedRate(FrozenModel):
    """What became of a promised false-alarm rate. `threshold` was set for it on training images alone;
    `false_alarms` of `good_images` test images scored above it. Shares are in [0, 1], None without images of the kind.
    """

    threshold: float
    false_alarm_share: float | None
    miss_share: float | None
    good_images: int
    false_alarms: int


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


class Shown(FrozenModel):
    """One image of the page's gallery: its thumbnail, and the detector's heatmap of it, as JPEGs in base64."""

    name: str
    kind: str
    picture: str
    heatmap: str


class Contender(FrozenModel):
    """One detector under one seed. `peak_bytes`: the most memory that its process held, images included and libraries
    as far as they are no pages of files (a worker that starts anew holds some 400 MiB of those besides);
    `snapshot_bytes`: the fitted detector, as it is stored. `shown_images`: the same images for all detectors of a seed.
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


_OF_RUNS = (
    "image_auroc",
    "pixel_auroc",
    "aupro",
    "miss_share",
    "false_alarm_share",
    "fit_seconds",
    "images_per_second",
)
FIGURES: Mapping[str, Callable[[Contender], float | None]] = {
    **{name: attrgetter(f"run.{name}") for name in _OF_RUNS},
    "peak_mib": lambda contender: contender.peak_bytes / MIB,
    "snapshot_mib": lambda contender: contender.snapshot_bytes / MIB,
}
"""What detectors are compared by."""


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
    found = []
    for name in dict.fromkeys(contender.detector for contender in entrants):
        own = [contender for contender in entrants if contender.detector == name]
        runs = [contender.run for contender in own]
        kinds = sorted({kind for run in runs for kind in run.per_class})
        ranking = Ranking(
            detector=name,
            seeds=tuple(sorted(contender.seed for contender in own)),
            **{figure: Spread.of([of(contender) for contender in own]) for figure, of in FIGURES.items()},
            classes={k: Spread.of([r.per_class[k].image_auroc for r in runs if k in r.per_class]) for k in kinds},
        )
        found.append(ranking)
    return sorted(found, key=lambda ranking: -ranking.image_auroc.mean if ranking.image_auroc else 0.0)


def threshold_at_true_rate(good: Floats, rate: float) -> float:
    """The lowest threshold that at most the share `rate` of the scores `good` (n,), n >= 1, exceeds.

    It is the (k + 1)-th highest score, k = floor(rate * n), and never between two scores. With fewer than 1 / rate good
    images it is the highest score, and no good image alarms: the misses are then those at a lower rate, never at a
    higher one.
    """
    k = int(rate * good.size + 1e-9)
    return float(np.sort(good)[::-1][min(k, good.size - 1)])


def miss_shares(scores: Floats, defective: Mask) -> dict[str, float]:
    """The share of defects that are missed at each of `RATES`, true false-alarm rates of the same test images. `scores`
    (n,), higher is more anomalous; `defective` (n,) bool.

    This compares detectors at equal false alarms, whatever thresholds they set. No line can have it: the threshold is
    chosen on the test images. Empty unless there are images of both kinds.
    """
    good = scores[~defective]
    if not (good.size and defective.any()):
        return {}
    found = {f"{rate:g}": errors_at(threshold_at_true_rate(good, rate), scores, defective) for rate in RATES}
    return {key: errors.miss_share for key, errors in found.items() if errors.miss_share is not None}


def promised_rates(
    threshold_for: Callable[[float], float] | None, scores: Floats, defective: Mask
) -> dict[str, PromisedRate]:
    """What the test images say of each of `RATES` that the gauge promises. `threshold_for` gives the threshold of a
    promised false-alarm rate; None: the gauge promises nothing. A rate whose threshold is not finite is left out: the
    gauge had too few images to promise it.
    """
    found: dict[str, PromisedRate] = {}
    if threshold_for is None:
        return found
    for rate in RATES:
        threshold = threshold_for(rate)
        errors = errors_at(threshold, scores, defective)
        if isfinite(threshold):
            found[f"{rate:g}"] = PromisedRate(
                threshold=threshold,
                false_alarm_share=errors.false_alarm_share,
                miss_share=errors.miss_share,
                good_images=int((~defective).sum()),
                false_alarms=int((scores[~defective] > threshold).sum()),
            )
    return found
