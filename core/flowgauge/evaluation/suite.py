"""Detectors over several data sets: means, ranks, and which ranks differ by more than chance."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from math import inf, sqrt
from statistics import fmean
from typing import Any

import numpy as np
from scipy import stats

from flowgauge.domain.messages import FrozenModel
from flowgauge.evaluation.comparison import FIGURES, Contender, Spread

SIGNIFICANCE = 0.05
"""Of the Friedman test and the critical difference. Larger finds differences that are none; smaller finds none at all
with the handful of data sets that one has.
"""


class SuiteRun(Contender):
    """One fit on one data set. `shots`: to so many good images; None: to all of the training side."""

    dataset: str
    shots: int | None


Figure = Callable[[SuiteRun], float | None]
IMAGE_AUROC: Figure = FIGURES["image_auroc"]


class Failure(FrozenModel):
    """What could not be measured, and why. `detector` None: nothing of the data set could."""

    dataset: str
    detector: str | None = None
    seed: int | None = None
    shots: int | None = None
    cause: str

    @property
    def what(self) -> str:
        """`screw, rad, seed 0, 16 images`, or the data set alone."""
        seed = None if self.seed is None else f"seed {self.seed}"
        shots = None if self.shots is None else f"{self.shots} images"
        return ", ".join(part for part in (self.dataset, self.detector, seed, shots) if part is not None)


class Ranking(FrozenModel):
    """Mean ranks of detectors over data sets (Demšar, Statistical comparisons of classifiers over multiple data sets,
    JMLR 2006), the best first. `datasets`: those on which all of them were measured.

    `friedman_p` is the chance of ranks that differ so much if all detectors were alike; None for fewer than three
    detectors or two data sets. Two mean ranks differ significantly if they are more than `critical_difference`
    (Nemenyi) apart. `groups`: the largest sets of detectors of which no two do.
    """

    datasets: tuple[str, ...]
    mean_ranks: dict[str, float]
    friedman_p: float | None
    critical_difference: float
    groups: tuple[tuple[str, ...], ...]

    @property
    def can_differ(self) -> bool:
        """Whether any result on so many data sets could have shown a difference between two detectors."""
        return self.critical_difference < len(self.mean_ranks) - 1


def ranking(values: Mapping[str, Mapping[str, float]]) -> Ranking | None:
    """`values[dataset][detector]`, higher is better. Data sets that lack one of the detectors do not count; None where
    fewer than two detectors or no data set is left.
    """
    detectors = list(dict.fromkeys(name for row in values.values() for name in row))
    complete = [name for name, row in values.items() if len(row) == len(detectors)]
    if len(detectors) < 2 or not complete:
        return None
    table_ND = np.array([[values[dataset][name] for name in detectors] for dataset in complete])
    means = stats.rankdata(-table_ND, axis=1).mean(axis=0)  # 1 for the highest; equal values share the mean of theirs
    mean_ranks = {detectors[index]: float(means[index]) for index in np.argsort(means, kind="stable")}
    friedman_p = None
    if len(detectors) > 2 and len(complete) > 1:
        # the statistic is 0 / 0 where no row has two different values
        alike = bool((table_ND == table_ND[:, :1]).all())
        friedman_p = 1.0 if alike else float(stats.friedmanchisquare(*table_ND.T).pvalue)
    difference = critical_difference(len(detectors), len(complete))
    return Ranking(
        datasets=tuple(complete),
        mean_ranks=mean_ranks,
        friedman_p=friedman_p,
        critical_difference=difference,
        groups=tuple(groups_within(mean_ranks, difference)),
    )


def critical_difference(detectors: int, datasets: int) -> float:
    """Nemenyi's, of mean ranks: CD = q / sqrt(2) * sqrt(k (k + 1) / (6 N)) for k detectors on N data sets, q the
    studentized range of k means with infinite degrees of freedom.
    """
    q = float(stats.studentized_range.ppf(1 - SIGNIFICANCE, detectors, inf))
    return q / sqrt(2) * sqrt(detectors * (detectors + 1) / (6 * datasets))


def groups_within(mean_ranks: Mapping[str, float], difference: float) -> list[tuple[str, ...]]:
    """The largest groups of at least two detectors whose mean ranks lie within `difference` of each other."""
    names = sorted(mean_ranks, key=lambda name: mean_ranks[name])
    found: list[tuple[str, ...]] = []
    for first, name in enumerate(names):
        group = tuple(n for n in names[first:] if mean_ranks[n] - mean_ranks[name] <= difference)
        if len(group) > 1 and not (found and set(group) <= set(found[-1])):
            found.append(group)
    return found


class Summary(FrozenModel):
    """One detector over all data sets on which it was fitted to all training images. A figure is the mean over data
    sets of its means over seeds; shares are in [0, 1]; None where nothing could be measured. `worst`: its lowest image
    AUROC, on `worst_dataset`. `mean_rank` counts only data sets that all detectors have.
    """

    detector: str
    datasets: int
    image_auroc: float | None
    mean_rank: float | None
    worst: float | None
    worst_dataset: str | None
    pixel_auroc: float | None
    aupro: float | None
    miss_share_at: dict[str, float | None]
    false_alarm_share: float | None
    miss_share: float | None
    fit_seconds: float | None
    images_per_second: float | None
    snapshot_mib: float | None
    peak_mib: float | None


@dataclass(frozen=True)
class SuiteResults:
    runs: tuple[SuiteRun, ...]
    failures: tuple[Failure, ...] = ()

    @cached_property
    def datasets(self) -> list[str]:
        return sorted({run.dataset for run in self.runs})

    @cached_property
    def shots(self) -> list[int]:
        return sorted({run.shots for run in self.runs if run.shots is not None})

    @cached_property
    def summaries(self) -> list[Summary]:
        """One per detector, the highest mean image AUROC first."""
        rates = dict.fromkeys(key for run in self.runs for key in run.miss_share_at)
        found = []
        for detector in dict.fromkeys(run.detector for run in self.runs):
            own = {dataset: figures[detector] for dataset, figures in self._aurocs.items() if detector in figures}
            worst = min(own, key=lambda dataset: own[dataset], default=None)
            summary = Summary(
                detector=detector,
                datasets=len(own),
                mean_rank=self.ranking.mean_ranks.get(detector) if self.ranking else None,
                worst=None if worst is None else own[worst],
                worst_dataset=worst,
                miss_share_at={rate: self.mean(detector, missed_at(rate)) for rate in rates},
                **{name: self.mean(detector, figure) for name, figure in FIGURES.items()},
            )
            found.append(summary)
        return sorted(found, key=lambda summary: -(summary.image_auroc or 0.0))

    @property
    def detectors(self) -> list[str]:
        """In the order of the summaries."""
        return [summary.detector for summary in self.summaries]

    def of(self, dataset: str, detector: str, shots: int | None = None) -> list[SuiteRun]:
        """The runs under all seeds."""
        wanted = (dataset, detector, shots)
        return [run for run in self.runs if (run.dataset, run.detector, run.shots) == wanted]

    def spread(self, dataset: str, detector: str, figure: Figure, shots: int | None = None) -> Spread | None:
        """Over seeds; None where nothing was measured."""
        return Spread.of([figure(run) for run in self.of(dataset, detector, shots)])

    def mean(self, detector: str, figure: Figure, shots: int | None = None) -> float | None:
        """Over data sets that have the figure, of the means over seeds."""
        spreads = [self.spread(dataset, detector, figure, shots) for dataset in self.datasets]
        found = [spread.mean for spread in spreads if spread is not None]
        return fmean(found) if found else None

    @cached_property
    def ranking(self) -> Ranking | None:
        """By the mean image AUROC over seeds, fitted to all training images."""
        return ranking(self._aurocs)

    def with_all_sizes(self) -> list[str]:
        """The data sets on which every detector was fitted at every size: those whose means may be compared."""
        sizes = (None, *self.shots)
        return [
            dataset
            for dataset in self.datasets
            if all(self.spread(dataset, name, IMAGE_AUROC, n) for name, n in product(self.detectors, sizes))
        ]

    def document(self) -> dict[str, Any]:
        """As JSON. `runs` hold everything, the scores of all test images included; the rest is made of them."""
        return {
            "detectors": [summary.model_dump(mode="json") for summary in self.summaries],
            "ranking": self.ranking and self.ranking.model_dump(mode="json"),
            "failures": [failure.model_dump(mode="json") for failure in self.failures],
            "runs": [run.model_dump(mode="json") for run in self.runs],
        }

    @cached_property
    def _aurocs(self) -> dict[str, dict[str, float]]:
        """By data set and detector, the mean over seeds; without what was not measured."""
        found: dict[str, dict[str, float]] = {}
        for dataset, name in product(self.datasets, dict.fromkeys(run.detector for run in self.runs)):
            spread = self.spread(dataset, name, IMAGE_AUROC)
            found.setdefault(dataset, {}).update({name: spread.mean} if spread else {})
        return found


def missed_at(rate: str) -> Figure:
    """The share of defects missed at that true false-alarm rate."""
    return lambda run: run.miss_share_at.get(rate)
