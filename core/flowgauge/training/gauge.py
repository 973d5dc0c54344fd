"""A gauge: what a worker scores with. Frozen backbone + detector + threshold + calibration."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowgauge.domain.messages import Decision, Statistics
from flowgauge.models.backbones import Backbone
from flowgauge.models.detector import Detector, Scores
from flowgauge.models.prediction import Prediction
from flowgauge.training.manifest import Manifest
from flowgauge.training.thresholds import Threshold
from flowgauge.vision.augmentation import View, normalised
from flowgauge.vision.decoding import Picture
from flowgauge.vision.heatmaps import regions
from flowgauge.vision.preprocessing import Crop, Preprocessing

Item = TypeVar("Item")

Scorer = Callable[[Sequence[Tensor]], Scores]
"""Features of B images, one (B, C, h, w) tensor for each halving and stride, to their scores."""

BATCH = 16
"""Images per pass through the backbone, at most: more gains no speed on CPUs and costs memory. A power of two."""


class Gauge:
    """Immutable once made: an adaptation makes another one."""

    def __init__(
        self,
        manifest: Manifest,
        backbone: Backbone,
        detector: Detector,
        probes: NDArray[np.uint8],
        score: Scorer | None = None,
    ) -> None:
        """`probes` (P, size, size, 3): crops of good images, by which another engine shows that it scores alike.
        `score` stands in for the detector's own.
        """
        self.manifest = manifest
        self.backbone = backbone
        self.detector = detector.eval()
        self.probes = probes
        self.score = score or detector.score

    def running_on(self, backbone: Backbone, score: Scorer) -> "Gauge":
        """The same gauge with its networks compiled."""
        return Gauge(self.manifest, backbone, self.detector, self.probes, score)

    @property
    def line(self) -> str:
        return self.manifest.line

    @property
    def version(self) -> str:
        return self.manifest.version

    @property
    def detector_name(self) -> str:
        return self.manifest.detector.name

    def seen(self, picture: Picture) -> Picture:
        return self.manifest.preprocessing.seen(picture)

    def crop(self, picture: Picture) -> Crop:
        return self.manifest.preprocessing.crop(picture)

    def predict(self, pictures: Sequence[Picture]) -> list[Prediction]:
        """One prediction per picture, in order; a picture's prediction does not depend on its neighbours."""
        return predict_each([(self, picture) for picture in pictures])

    def predict_each(self, items: Sequence[tuple["Gauge", Picture]]) -> list[Prediction]:
        """The same of pictures and their own gauges."""
        return predict_each(items)

    def _prediction(self, picture: Picture, score: float, raw_map_hw: NDArray[np.float32]) -> Prediction:
        facts = self.manifest
        standard_map = (raw_map_hw - facts.map_scale.calibration.median) / facts.map_scale.calibration.deviation
        whole = facts.preprocessing.restore(standard_map.astype(np.float32), picture)
        row, column = np.unravel_index(int(whole.argmax()), whole.shape)
        decision, reasons = decide(facts, score, picture.statistics, facts.preprocessing.unclear_reasons(picture))
        return Prediction(
            score=score,
            standard_score=facts.calibration.standardise(score),
            threshold=facts.threshold.value,
            decision=decision,
            reasons=reasons,
            regions=regions(whole, facts.map_scale.level, picture.size),
            anomaly_map=whole,
            map_ceiling=facts.map_scale.level,
            peak=((float(column) + 0.5) / whole.shape[1], (float(row) + 0.5) / whole.shape[0]),
        )


_SharedPass = tuple[int, Preprocessing, tuple[View, ...], tuple[int, ...]]


def _shared_pass(gauge: Gauge) -> _SharedPass:
    """Gauges of which this is equal see the same features: of one backbone, as one engine runs it."""
    return id(gauge.backbone), gauge.manifest.preprocessing, gauge.detector.views, gauge.detector.pyramid_levels


def decide(
    facts: Manifest, score: float, seen: Statistics, unclear_reasons: tuple[str, ...] = ()
) -> tuple[Decision, tuple[str, ...]]:
    """The decision, and for all but `pass` why: what the gauge has not seen the like of is never rejected alone."""
    left = facts.ranges.left_by(seen) + unclear_reasons
    return (Decision.REVIEW, left) if left else decide_by_score(facts.threshold, score)


def decide_by_score(limit: Threshold, score: float) -> tuple[Decision, tuple[str, ...]]:
    """The same for an image that is like those of the calibration."""
    if limit.low <= score <= limit.high:
        return Decision.REVIEW, (
            f"score {score:.4g} inside the threshold's interval {limit.low:.4g} to {limit.high:.4g}",
        )
    if score > limit.value:
        return Decision.REJECT, (f"score {score:.4g} above the threshold {limit.value:.4g}",)
    return Decision.PASS, ()


def predict_each(items: Sequence[tuple[Gauge, Picture]]) -> list[Prediction]:
    """Predictions of pictures from many lines: gauges that share backbone and preprocessing share its passes."""
    shared: dict[_SharedPass, list[int]] = {}
    for index, (gauge, _) in enumerate(items):
        shared.setdefault(_shared_pass(gauge), []).append(index)
    items = [(gauge, gauge.seen(picture)) for gauge, picture in items]
    predictions: dict[int, Prediction] = {}
    for indices in shared.values():
        for chunk in _chunks(indices):
            predictions |= _predict_together({index: items[index] for index in chunk})
    return [predictions[index] for index in range(len(items))]


def _predict_together(items: dict[int, tuple[Gauge, Picture]]) -> dict[int, Prediction]:
    gauges = [gauge for gauge, _ in items.values()]
    pictures = [picture for _, picture in items.values()]
    crops = gauges[0].manifest.preprocessing.crops(pictures)
    images, maps = _scores_by_gauge(gauges, crops)
    return {
        index: gauge._prediction(picture, float(images[row]), maps[row].numpy())
        for row, (index, (gauge, picture)) in enumerate(items.items())
    }


def _scores_by_gauge(gauges: Sequence[Gauge], crops: NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
    first = gauges[0]
    per_gauge = {id(gauge): (gauge, [row for row, g in enumerate(gauges) if g is gauge]) for gauge in gauges}
    images, maps = torch.zeros(len(gauges)), torch.zeros(len(gauges), *first.detector.grid)
    for view, features in _features(first, crops):
        for gauge, rows in per_gauge.values():
            part = features if len(per_gauge) == 1 else [feature[rows] for feature in features]
            scores = gauge.score(part)
            images[rows] += scores.image.cpu() / len(first.detector.views)
            maps[rows] += view.undo(scores.maps).cpu() / len(first.detector.views)
    return images, maps


def score_by_each(gauges: Sequence[Gauge], crops_NSSC: NDArray[np.uint8]) -> list[NDArray[np.float64]]:
    """Scores (N,) of crops (N, size, size, 3) by every one of the gauges, averaged over each detector's views (RAD
    eq. 3). Those that share backbone and preprocessing share its passes.
    """
    alike: dict[_SharedPass, list[int]] = {}
    for index, gauge in enumerate(gauges):
        alike.setdefault(_shared_pass(gauge), []).append(index)
    found: dict[int, NDArray[np.float64]] = {}
    for indices in alike.values():
        scores = _scores_by_all([gauges[index] for index in indices], crops_NSSC)
        found |= dict(zip(indices, scores, strict=True))
    return [found[index] for index in range(len(gauges))]


def _scores_by_all(gauges: Sequence[Gauge], crops: NDArray[np.uint8]) -> list[NDArray[np.float64]]:
    first, scores = gauges[0], torch.zeros(len(gauges), len(crops))
    for rows in _chunks(range(len(crops))):
        for _, features in _features(first, crops[rows]):
            for own, gauge in zip(scores, gauges, strict=True):
                own[rows] += gauge.score(features).image.cpu() / len(first.detector.views)
    return list(scores.double().numpy())


def _features(gauge: Gauge, crops: NDArray[np.uint8]) -> Iterator[tuple[View, Sequence[Tensor]]]:
    for view in gauge.detector.views:
        images = normalised(gauge.manifest.preprocessing, crops, view)
        with torch.inference_mode():
            yield view, gauge.backbone(images, gauge.detector.pyramid_levels)


def _chunks(items: Sequence[Item]) -> Iterator[Sequence[Item]]:
    """All of `BATCH`, and the rest in powers of two: a worker meets every number of images in time, and the memory that
    a CPU's kernels take for one does not serve another (220 MiB more for all sixteen than for five of them).
    """
    start = 0
    while start < len(items):
        size = min(BATCH, 1 << (len(items) - start).bit_length() - 1)
        yield items[start : start + size]
        start += size
