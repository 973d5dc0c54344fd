"""The first gauge of a line, from good images: what a person asks for with `flowgauge fit`."""

import hashlib
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from flowgauge.domain.errors import DatasetError
from flowgauge.domain.folds import fold_of
from flowgauge.domain.malloc import give_back_freed_memory
from flowgauge.domain.messages import FrozenModel, Statistics
from flowgauge.domain.progress import labelled
from flowgauge.domain.software import software
from flowgauge.models.backbones import BackboneSpec, load_backbone
from flowgauge.models.detector import CrossFitted, Detector, FeatureShape, Progress, Scores, TrainingSet
from flowgauge.models.registry import DEFAULT, create
from flowgauge.training.gauge import Gauge
from flowgauge.training.manifest import DetectorSpec, Manifest, MapScale, Range, Ranges
from flowgauge.training.snapshot import weights_of
from flowgauge.training.thresholds import (
    FALSE_ALARMS,
    USUAL_K,
    Calibration,
    QuartileRule,
    Rule,
    Threshold,
    cut,
    outlier_limit,
)
from flowgauge.training.thresholds import Scores as FloatArray
from flowgauge.training.training_set import Crops, Embedder, probes_of, rows_of_view
from flowgauge.vision.decoding import Picture
from flowgauge.vision.flat_field import Illumination
from flowgauge.vision.pictures import Pictures
from flowgauge.vision.preprocessing import Preprocessing

MINIMUM_IMAGES = 8
"""Fewer good images leave no fold to set a threshold on."""

_COMPARED = 100
"""Images by which two detectors' scales are compared, at most: their median is sure to an eighth of a deviation."""


class FitSettings(FrozenModel):
    """How a gauge is made. `config` are options of the detector's own; `false_alarms` is the rate that the conformal
    rule promises on new good images, and `k` that of T = Q3 + k * IQR where `rule` is that one.

    With `refine` r > 0, images that nobody has called good may train: up to r times, those whose cross-fitted score
    lies above median + `clean_half_k` * (median - Q1), or above Q3 + `k` * IQR if that is the `suspect_rule`, are left
    out and the rest is fitted anew (2503.01569). The one-sided rule then also sets the threshold: scores above the
    median may be the defects', and no rate can be promised.

    The preprocessing's mean and standard deviation are always the backbone's.
    """

    detector: str = DEFAULT
    config: dict[str, Any] = Field(default_factory=dict)
    backbone: BackboneSpec = BackboneSpec()
    preprocessing: Preprocessing = Preprocessing()
    folds: int = Field(2, ge=2, le=10)
    rule: Rule = Rule.CONFORMAL
    false_alarms: float = Field(FALSE_ALARMS, gt=0, lt=0.5)
    k: float = Field(1.5, gt=0)
    refine: int = Field(0, ge=0)
    suspect_rule: QuartileRule = Rule.ONE_SIDED
    clean_half_k: float = Field(USUAL_K, gt=0)

    def threshold(self, scores: FloatArray, folds: NDArray[np.intp], groups: Sequence[str], seed: int) -> Threshold:
        """From cross-fitted scores (n,), the fold (n,) in which each image was held out and the part that it shows."""
        rule, k = self._with_k(Rule.ONE_SIDED) if self.refine else (self.rule, self.k)
        return Threshold.from_folds(
            scores, folds, rule=rule, k=k, seed=seed, false_alarms=self.false_alarms, groups=groups
        )

    @property
    def suspicion(self) -> tuple[Rule, float]:
        return self._with_k(self.suspect_rule)

    def _with_k(self, rule: Rule) -> tuple[Rule, float]:
        return rule, self.clean_half_k if rule is Rule.ONE_SIDED else self.k


class Initialization(Protocol):
    """Meta-learned parameters that training starts from: `flowgauge.meta.initialization.MetaInit`."""

    def load_into(self, detector: Detector) -> None:
        """Raises `SettingsError` for a detector of another kind."""

    def require_backbone(self, spec: BackboneSpec) -> None:
        """Raises `SettingsError` for other features than those that they were learned on."""


Start = Callable[[Detector, BackboneSpec, int], Initialization | None]
"""(untrained detector, loaded backbone, images that train) -> where training starts; None: at random."""


def at_random(detector: Detector, backbone: BackboneSpec, images: int) -> None:
    """The start of a detector that nothing was learned for."""


Labelled = tuple[Picture, str]
"""A defective image and the class of its defect, "" where nobody said."""


def fit(
    pictures: Collection[Picture],
    *,
    line: str,
    settings: FitSettings,
    at: datetime,
    groups: Sequence[str] | None = None,
    start: Start = at_random,
    labelled: Iterable[Labelled] = (),
    seed: int = 0,
    device: str = "cpu",
    progress: Progress = lambda what, done, total: None,
) -> Gauge:
    """A gauge whose threshold stands on cross-fitted scores: each image is scored by a detector that never saw it.

    `groups` names the object that each picture shows (default: each its own, copies the same), in the order of capture:
    images of one object share a fold. Learning starts where `start` says; `labelled` defects train detectors that learn
    from labels. Pictures whose object the preprocessing doubts do not train. Same pictures, settings and seed on one
    machine: same gauge. Raises `DatasetError` for too few pictures
    or labels, `SettingsError` for a theta of another detector.
    """
    named = groups is not None
    groups = list(groups) if groups is not None else [str(index) for index in range(len(pictures))]
    embedder = embedder_for(settings, device).measured(pictures)
    backbone, preprocessing = embedder.backbone, embedder.preprocessing
    crops, seen, groups = _clear(preprocessing, pictures, groups)
    if isinstance(pictures, Pictures):
        pictures.let_go()
    digests = [hashlib.sha256(crop.tobytes()).hexdigest() for crop in crops]
    _require_different(digests)
    # copies show one part: counted as many, they would promise more than is known
    groups = groups if named else digests
    folds = folds_of(groups, settings.folds)
    init = start(embedder.detector, backbone.spec, len(crops))
    if init is not None:
        init.require_backbone(backbone.spec)
    trainer = Trainer(settings, backbone.shape(preprocessing.size), seed, progress, init)
    training_set = embedder.training_set(crops, seed=seed, progress=progress, parts=groups)
    illumination = Illumination.of(crops, cut=preprocessing.blackens)
    # 200 kB an image that nobody needs while the detector learns, but for a few probe images
    probes = probes_of(crops)
    del crops
    give_back_freed_memory()
    # a crop each: labelled defects may be pictures at the camera's size, decoded one by one
    defects = [(preprocessing.resampled(picture), kind) for picture, kind in labelled]
    if defects:
        shown = np.stack([crop for crop, _ in defects])
        embedding = embedder.embed(shown, progress, what="reading labelled defects")
        training_set = training_set.labelled(embedding, [kind for _, kind in defects])
    suspects = trainer.suspects(training_set, folds)
    detector = trainer.trained(training_set.without(suspects), "all images")
    held_out = trainer.cross_fitted(training_set, folds, suspects, scale_of=detector)
    scores = held_out.image.double().numpy()
    manifest = Manifest(
        line=line,
        version=_UNNAMED,
        anchor=_UNNAMED,
        parent=None,
        created_at=at,
        software=software(),
        seed=seed,
        images=len(groups) - len(suspects),
        backbone=backbone.spec,
        preprocessing=preprocessing,
        illumination=illumination,
        detector=DetectorSpec(name=settings.detector, config=detector.config.model_dump(mode="json")),
        threshold=settings.threshold(scores, folds, groups, seed),
        calibration=Calibration.of(scores),
        map_scale=map_scale(held_out.maps),
        ranges=ranges_of(seen),
        weights_sha256=_UNNAMED,
    )
    return _named(Gauge(manifest, backbone, detector.to(device), probes))


def _clear(
    preprocessing: Preprocessing, pictures: Iterable[Picture], groups: Sequence[str]
) -> tuple[Crops, list[Statistics], list[str]]:
    """Crops (N, size, size, 3), statistics and groups of the pictures whose object the preprocessing does not doubt."""
    looked_at = ((preprocessing.crop(picture), group) for picture, group in zip(pictures, groups, strict=True))
    clear = [(crop, group) for crop, group in looked_at if not crop.unclear_reasons]
    crops = np.array([crop.pixels for crop, _ in clear])
    return crops, [crop.statistics for crop, _ in clear], [group for _, group in clear]


def embedder_for(settings: FitSettings, device: str) -> Embedder:
    """What turns pictures into what the detector of `settings` is trained with."""
    backbone = load_backbone(settings.backbone, device)
    preprocessing = settings.preprocessing.model_copy(update={"mean": backbone.spec.mean, "std": backbone.spec.std})
    detector = create(settings.detector, settings.config, backbone.shape(preprocessing.size))
    return Embedder(backbone, preprocessing, detector)


_UNNAMED = "unnamed"


def _named(gauge: Gauge) -> Gauge:
    """The version is made of what the gauge is: its line, when it was fitted, and its weights."""
    digest = hashlib.sha256(weights_of(gauge)).hexdigest()
    facts = gauge.manifest
    name = hashlib.sha256(f"{facts.line} {facts.created_at.isoformat()} {digest}".encode()).hexdigest()[:12]
    named = {"version": f"fit-{name}", "anchor": f"fit-{name}", "weights_sha256": digest}
    return Gauge(facts.model_copy(update=named), gauge.backbone, gauge.detector, gauge.probes)


def folds_of(groups: Sequence[str], wanted: int) -> NDArray[np.intp]:
    """(N,) the fold of each image, `wanted` folds where there are as many groups; one group's images share a fold.

    Raises `DatasetError` for too few images to fit to.
    """
    distinct = len(set(groups))
    if len(groups) < MINIMUM_IMAGES or distinct < 2:
        raise DatasetError(
            f"{len(groups)} good images of {distinct} parts are too few to fit a gauge.",
            f"Give at least {MINIMUM_IMAGES} images of different good parts; a hundred or more is better.",
        )
    return fold_of(groups, min(wanted, distinct))


def _require_different(digests: Sequence[str]) -> None:
    """Raises `DatasetError` where too few images differ: copies have one score, and a threshold needs a spread."""
    different = len(set(digests))
    if different < MINIMUM_IMAGES <= len(digests):
        raise DatasetError(
            f"The {len(digests)} training images show only {different} different pictures, the others are copies.",
            f"Check that the camera is not frozen, and give at least {MINIMUM_IMAGES} images of different good parts.",
        )


@dataclass(frozen=True)
class Trainer:
    """Makes detectors of one kind and trains them."""

    settings: FitSettings
    shape: FeatureShape
    seed: int
    progress: Progress
    init: Initialization | None = None

    def untrained(self) -> Detector:
        """At random parameters, or at the meta-learned initialization. Raises `SettingsError` for those of another
        detector."""
        detector = create(self.settings.detector, self.settings.config, self.shape)
        if self.init is not None:
            self.init.load_into(detector)
        return detector

    def trained(self, training_set: TrainingSet, whom: str) -> Detector:
        detector = self.untrained()
        detector.learn(training_set, seed=self.seed, progress=labelled(self.progress, whom))
        return detector.eval()

    def suspects(self, training_set: TrainingSet, folds: NDArray[np.intp]) -> Tensor:
        """The numbers of the images that should not train; all may, where nothing is to be refined."""
        suspects = torch.empty(0, dtype=torch.long)
        rule, k = self.settings.suspicion
        for _ in range(self.settings.refine):
            scores = self.cross_fitted(training_set, folds, suspects).image.double().numpy()
            # each fold has its own limit: the folds' detectors differ in scale, and no fold loses more than half
            limits = np.array([outlier_limit(scores[folds == fold], rule, k) for fold in range(int(folds.max()) + 1)])
            before, suspects = suspects, torch.from_numpy(np.flatnonzero(scores > limits[folds]))
            if torch.equal(before, suspects):
                break
        return suspects

    def cross_fitted(
        self, training_set: TrainingSet, folds: NDArray[np.intp], suspects: Tensor, scale_of: Detector | None = None
    ) -> Scores:
        """The score and map of each plain image by a detector that was trained with the other folds' images, less the
        suspects among them; on the scale of `scale_of`, which all images but the suspects trained. A detector that
        cross-fits itself gives them without others: `scale_of`, or one that is trained here.
        """
        whole = scale_of
        if whole is None and isinstance(self.untrained(), CrossFitted):
            whole = self.trained(training_set.without(suspects), "all images")
        if isinstance(whole, CrossFitted):
            return whole.held_out_scores(training_set)
        parts, order = [], []
        count = int(folds.max()) + 1
        for fold in range(count):
            held_out = torch.from_numpy(np.flatnonzero(folds == fold))
            untrained = torch.cat([held_out, suspects])
            detector = self.trained(training_set.without(untrained), f"fold {fold + 1} of {count}")
            scores = plain_scores(detector, training_set, len(folds), held_out)
            if scale_of is not None:
                scores = _on_the_scale_of(scale_of, detector, scores, training_set, _some_but(untrained, len(folds)))
            parts.append(scores)
            order.append(held_out)
        order_back = torch.argsort(torch.cat(order))
        return Scores(torch.cat([p.image for p in parts])[order_back], torch.cat([p.maps for p in parts])[order_back])


def plain_scores(detector: Detector, training_set: TrainingSet, images: int, wanted: Tensor) -> Scores:
    """Scores of the images `wanted`, averaged over the detector's views as it would score them on the line."""
    scores = []
    with torch.inference_mode():
        for view in detector.views:
            rows = rows_of_view(images, detector, view)
            embedding = {name: tensor[rows][wanted] for name, tensor in training_set.good.items()}
            part = detector.score_embedding(embedding)
            scores.append(Scores(part.image, view.undo(part.maps)))
    return Scores(torch.stack([s.image for s in scores]).mean(0), torch.stack([s.maps for s in scores]).mean(0))


def _some_but(left_out: Tensor, images: int) -> Tensor:
    """Numbers of at most `_COMPARED` images, spread evenly over those that are not left out."""
    numbers = np.setdiff1d(np.arange(images), left_out.numpy())
    return torch.from_numpy(numbers[:: -(-len(numbers) // _COMPARED)])


def _on_the_scale_of(
    other: Detector, detector: Detector, scores: Scores, training_set: TrainingSet, both: Tensor
) -> Scores:
    """The level of likelihoods and logits changes from one learning to the next. Images that trained both detectors,
    `both`, tell by how much.
    """
    images = int(training_set.image.max()) + 1
    own, others = (plain_scores(each, training_set, images, both) for each in (detector, other))
    return Scores(
        scores.image + others.image.median() - own.image.median(),
        scores.maps + others.maps.median() - own.maps.median(),
    )


def map_scale(maps_NHW: Tensor) -> MapScale:
    """A region begins where a map rises above T = Q3 + 1.5 IQR of the good images' maxima."""
    calibration = Calibration.of(maps_NHW.flatten().double().numpy())
    peaks = (maps_NHW.flatten(1).amax(dim=1).double().numpy() - calibration.median) / calibration.deviation
    return MapScale(calibration=calibration, level=max(cut(peaks, Rule.IQR, 1.5), 1e-3))


def ranges_of(seen: Sequence[Statistics]) -> Ranges:
    """Where the statistics lay: their quartiles widened by three times the distance between them, and a little."""
    return Ranges(
        brightness=_range([s.brightness for s in seen], slack=0.04),
        contrast=_range([s.contrast for s in seen], slack=0.02),
        focus=_range([s.focus for s in seen], slack=0.3),
    )


def _range(values: Sequence[float], slack: float) -> Range:
    q1, q3 = np.quantile(values, (0.25, 0.75))
    room = 3 * (q3 - q1) + slack
    return Range(low=float(q1 - room), high=float(q3 + room))
