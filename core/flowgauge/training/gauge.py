"""A gauge: what a worker scores with. Frozen backbone + detector + threshold + calibration."""

import math
from collections.abc import Callable, Iterator, Sequence
from time import perf_counter
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowgauge.domain.messages import Decision, Statistics
from flowgauge.domain.progress import Progress, silent
from flowgauge.models.backbones import Backbone
from flowgauge.models.detector import Detector, Scores
from flowgauge.models.prediction import Prediction
from flowgauge.training.manifest import Manifest
from flowgauge.training.thresholds import Threshold
from flowgauge.vision.augmentation import View, normalised
from flowgauge.vision.decoding import Picture
from flowgauge.vision.flat_field import FlatField
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

    def corrected(self, crops_NSSC: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """As the networks see them: under the light of the fit."""
        flat_field = self.manifest.flat_field
        return crops_NSSC if flat_field is None else flat_field.apply(crops_NSSC)

    def predict(self, pictures: Sequence[Picture]) -> list[Prediction]:
        return predict_each([(self, picture) for picture in pictures])

    def predict_each(self, items: Sequence[tuple["Gauge", Picture]]) -> list[Prediction]:
        return predict_each(items)

    def _prediction(
        self, picture: Picture, score: float, raw_map_hw: NDArray[np.float32], seconds: float
    ) -> Prediction:
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
            seconds=seconds,
        )


_SharedPass = tuple[int, Preprocessing, tuple[View, ...], tuple[int, ...]]


def _shared_pass(gauge: Gauge) -> _SharedPass:
    """Gauges of which this is equal see the same features: of one backbone, as one engine runs it."""
    return id(gauge.backbone), gauge.manifest.preprocessing, gauge.detector.views, gauge.detector.pyramid_levels


def decide(
    facts: Manifest, score: float, seen: Statistics, unclear_reasons: tuple[str, ...] = ()
) -> tuple[Decision, tuple[str, ...]]:
    """The decision, and for all but `pass` why: what the gauge has not seen the like of is never rejected alone."""
    left = facts.ranges.left_by(seen)
    if facts.fit_ranges is not None and not facts.fit_ranges.left_by(seen):
        left = ()
    left += unclear_reasons
    return (Decision.REVIEW, left) if left else decide_by_score(facts.threshold, score)


def decide_by_score(limit: Threshold, score: float) -> tuple[Decision, tuple[str, ...]]:
    """The same for an image that is like those of the calibration."""
    if not math.isfinite(score):
        return Decision.REVIEW, ("the score is no finite number",)
    if limit.low <= score <= limit.high:
        return Decision.REVIEW, (
            f"score {score:.4g} inside the threshold's interval {limit.low:.4g} to {limit.high:.4g}",
        )
    if score > limit.value:
        return Decision.REJECT, (f"score {score:.4g} above the threshold {limit.value:.4g}",)
    return Decision.PASS, ()


def predict_each(items: Sequence[tuple[Gauge, Picture]]) -> list[Prediction]:
    """Predictions of pictures by their gauges: those that share backbone and preprocessing share its passes."""
    # a picture that several gauges of one backbone are to predict goes through it once, where they correct it alike
    shared: dict[_SharedPass, dict[tuple[int, FlatField | None], list[int]]] = {}
    for index, (gauge, picture) in enumerate(items):
        seen = id(picture), gauge.manifest.flat_field
        shared.setdefault(_shared_pass(gauge), {}).setdefault(seen, []).append(index)
    predictions: dict[int, Prediction] = {}
    for by_picture in shared.values():
        for chunk in _chunks(list(by_picture.values())):
            predictions |= _predict_together(items, chunk)
    return [predictions[index] for index in range(len(items))]


def _predict_together(
    items: Sequence[tuple[Gauge, Picture]], by_picture: Sequence[Sequence[int]]
) -> dict[int, Prediction]:
    """Predictions by index in `items`, of one pass; `by_picture` holds the indices of each picture's items."""
    firsts = [items[indices[0]] for indices in by_picture]
    pictures = [gauge.seen(picture) for gauge, picture in firsts]
    crops = [
        gauge.corrected(gauge.manifest.preprocessing.crops([picture]))
        for (gauge, _), picture in zip(firsts, pictures, strict=True)
    ]
    first = firsts[0][0]
    gauges = {id(items[index][0]): items[index][0] for indices in by_picture for index in indices}
    # rows by who is to predict them: two gauges of one picture predict it in batches of one size, so that their times
    # compare
    together: dict[frozenset[int], list[int]] = {}
    for row, indices in enumerate(by_picture):
        together.setdefault(frozenset(id(items[index][0]) for index in indices), []).append(row)
    images = {key: torch.zeros(len(pictures)) for key in gauges}
    maps = {key: torch.zeros(len(pictures), *gauge.detector.grid) for key, gauge in gauges.items()}
    seconds = {key: torch.zeros(len(pictures)) for key in gauges}
    views, backbone, began = len(first.detector.views), 0.0, perf_counter()
    for view, features in _features(first, np.concatenate(crops)):
        backbone += perf_counter() - began
        for keys, rows in together.items():
            part = features if len(rows) == len(pictures) else [feature[rows] for feature in features]
            for key in keys:
                began = perf_counter()
                scores = gauges[key].score(part)
                images[key][rows] += scores.image.cpu() / views
                maps[key][rows] += view.undo(scores.maps).cpu() / views
                seconds[key][rows] += (perf_counter() - began) / len(rows)
        began = perf_counter()
    return {
        index: items[index][0]._prediction(
            pictures[row],
            float(images[key][row]),
            maps[key][row].numpy(),
            float(seconds[key][row]) + backbone / len(pictures),
        )
        for row, indices in enumerate(by_picture)
        for index in indices
        for key in [id(items[index][0])]
    }


def score_by_each(
    gauges: Sequence[Gauge], crops_NSSC: NDArray[np.uint8], progress: Progress = silent
) -> list[NDArray[np.float64]]:
    """Scores (N,) of crops (N, size, size, 3) by every one of the gauges, averaged over each detector's views (RAD
    eq. 3). Those that share backbone, preprocessing and flat field share its passes.
    """
    alike: dict[tuple[_SharedPass, FlatField | None], list[int]] = {}
    for index, gauge in enumerate(gauges):
        alike.setdefault((_shared_pass(gauge), gauge.manifest.flat_field), []).append(index)
    scores = torch.zeros(len(gauges), len(crops_NSSC))
    for indices in alike.values():
        first = gauges[indices[0]]
        for rows in _chunks(range(len(crops_NSSC))):
            progress("scoring images", rows[0], len(crops_NSSC))
            for _, features in _features(first, first.corrected(crops_NSSC[rows])):
                for index in indices:
                    own = gauges[index].score(features).image.cpu()
                    scores[index][rows] += own / len(first.detector.views)
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
