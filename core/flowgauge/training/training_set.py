"""From pictures to what a detector is trained with: views of good images, and copies with synthetic anomalies."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from flowgauge.domain.even_spacing import evenly_spaced
from flowgauge.models.backbones import Backbone
from flowgauge.models.detector import Detector, Embedding, Progress, TextureOverlay, TrainingSet, joined
from flowgauge.synthetic.anomalies import KINDS, draw_anomaly, draw_anomaly_on
from flowgauge.synthetic.texture_overlay import paste, textures_of
from flowgauge.training.symmetry import symmetries
from flowgauge.vision.augmentation import PLAIN, View, normalised
from flowgauge.vision.decoding import Picture
from flowgauge.vision.preprocessing import Preprocessing, shown

Crops = NDArray[np.uint8]

_BATCH = 16
# Images of a snapshot by which engines are checked: each takes 200 kB at 256 pixels. With fewer, what an engine's
# rounding does to rarer parts goes unseen.
_PROBES = 8
# Images up to which those under a symmetry train too. More take memory for little: a view of a thousand takes 240 MB at
# 256 pixels. With fewer, fits to a part of a data set of 1,344 images that is embedded once would lack them.
_MIRRORED_AT_MOST = 1500


def probes_of(crops: Crops) -> Crops:
    """A few of those that trained, from the first to the last."""
    return np.take(crops, evenly_spaced(len(crops), _PROBES), axis=0)


@dataclass(frozen=True)
class Embedder:
    """Runs crops through the frozen backbone and keeps what `detector` keeps of them."""

    backbone: Backbone
    preprocessing: Preprocessing
    detector: Detector

    def measured(self, pictures: Collection[Picture]) -> "Embedder":
        """With the preprocessing that has measured `pictures`. Raises `DatasetError` where it cannot."""
        return replace(self, preprocessing=self.preprocessing.measured(pictures))

    def embed(self, crops: Crops, progress: Progress, view: View = PLAIN, what: str = "") -> Embedding:
        """(N, size, size, 3) -> the embedding of that view of each, on the CPU."""
        found: Embedding = {}
        self._embed_into(found, slice(0, len(crops)), crops, progress, view, what)
        return found

    def _embed_into(
        self, found: Embedding, rows: slice, crops: Crops, progress: Progress, view: View, what: str, views: int = 1
    ) -> None:
        """Put the embedding of that view of each where it stays, in `rows` of `found`, whose tensors are made for so
        many `views` where they are not there yet: parts that are joined in the end are in memory twice.
        """
        for start in range(0, len(crops), _BATCH):
            images = normalised(self.preprocessing, crops[start : start + _BATCH], view)
            with torch.inference_mode():
                embedding = self.detector.embed(self.backbone(images, self.detector.pyramid_levels))
            for name, tensor in embedding.items():
                if name not in found:
                    found[name] = torch.empty(views * len(crops), *tensor.shape[1:], dtype=tensor.dtype)
                found[name][rows][start : start + len(tensor)] = tensor
            progress(what or "reading features", min(start + _BATCH, len(crops)), len(crops))

    def training_set(
        self, crops: Crops, *, seed: int, progress: Progress, parts: Sequence[str] | None = None
    ) -> TrainingSet:
        """Views, then copies with synthetic anomalies, of all crops (N, size, size, 3); rows are ordered by view, and
        within a view by image. `parts` names what each shows, in the order of capture (default: each its own).
        """
        parts = [str(number) for number in range(len(crops))] if parts is None else parts
        views = self.detector.training_views(len(crops))
        further = [view for view in self.detector.symmetric_views if view not in views]
        if further and len(crops) <= _MIRRORED_AT_MOST:
            views += symmetries(further, partial(self._patch_features, crops, progress), parts)
        good: Embedding = {}
        for number, view in enumerate(views):
            rows, what = slice(number * len(crops), (number + 1) * len(crops)), f"view {number + 1} of {len(views)}"
            self._embed_into(good, rows, crops, progress, view, f"reading features, {what}", len(views))
        image = torch.arange(len(crops))
        synthetic, masks = self._copies(crops, seed, progress)
        return TrainingSet(
            good=good,
            image=image.repeat(len(views)),
            synthetic=synthetic,
            synthetic_image=image.repeat(self.detector.anomalies_per_image),
            mask=masks,
            parts=tuple(parts),
        )

    def _patch_features(self, crops: Crops, progress: Progress, view: View, numbers: NDArray[np.intp]) -> Tensor:
        return self.detector.patch_features(self.embed(crops[numbers], progress, view, "looking for symmetries"))

    def _copies(self, crops: Crops, seed: int, progress: Progress) -> tuple[Embedding, Tensor]:
        copies = self.detector.anomalies_per_image
        found = [
            self.synthetic(crops, seed + copy, progress, f"synthetic anomalies, {copy + 1} of {copies}")
            for copy in range(copies)
        ]
        if not found:
            return {}, torch.zeros(0, *self.detector.grid)
        return joined([embedding for embedding, _ in found]), torch.cat([mask for _, mask in found])

    def synthetic(self, crops: Crops, seed: int, progress: Progress, what: str) -> tuple[Embedding, Tensor]:
        """A copy of each crop with a synthetic anomaly, as an embedding, and the masks (N, h, w) on the grid."""
        overlay, cut = self.detector.overlay, self.preprocessing.blackens
        copies = varied(crops, seed)
        if overlay is None:
            anomalous, masks = add_anomalies(copies, seed, cut=cut)
        else:
            on_object = overlay.on_object or cut
            anomalous, masks = paste_all(copies, overlay.model_copy(update={"on_object": on_object}), seed)
        return self.embed(anomalous, progress, what=what), on_grid(masks, self.detector.grid)


Masks = NDArray[np.bool_]


def add_anomalies(crops: Crops, seed: int, *, cut: bool) -> tuple[Crops, Masks]:
    """One defect on each crop (N, size, size, 3), all kinds in turn, and the masks (N, size, size) of where; where
    objects are `cut` out, on the object alone.
    """
    rng = np.random.default_rng(seed)
    kinds = [KINDS[rank % len(KINDS)] for rank in rng.permutation(len(crops))]
    synthetic = [
        draw_anomaly_on(crop, shown(crop), kind, rng) if cut else draw_anomaly(crop, kind, rng)
        for crop, kind in zip(crops, kinds, strict=True)
    ]
    return np.stack([each.pixels for each in synthetic]), np.stack([each.mask for each in synthetic])


def paste_all(crops: Crops, overlay: TextureOverlay, seed: int) -> tuple[Crops, Masks]:
    """The same with one texture on each crop."""
    rng, textures = np.random.default_rng(seed), textures_of(overlay.folder, crops.shape[1])
    overlaid = [paste(crop, textures, rng, on_object=overlay.on_object) for crop in crops]
    return np.stack([each.pixels for each in overlaid]), np.stack([each.mask for each in overlaid])


def varied(crops: Crops, seed: int) -> Crops:
    """Another view of each: mirrored, upside down, and under somewhat another light."""
    rng, seen = np.random.default_rng(seed), []
    for crop in crops:
        gain, gamma = np.exp(rng.normal(0, (0.2, 0.15)))
        turns, flip = int(rng.choice([0, 2])), bool(rng.random() < 0.5)
        image = torch.from_numpy(crop[None]).permute(0, 3, 1, 2).float().div(255)
        view = View(turns=turns, flip=flip, gain=float(gain), gamma=float(gamma))
        seen.append(view.apply(image).mul(255).round().byte().permute(0, 2, 3, 1).numpy())
    return np.concatenate(seen)


def on_grid(masks_NHW: Masks, grid: tuple[int, int]) -> Tensor:
    """(N, h, w): the share of each cell that the mask covers, in [0, 1]."""
    return F.adaptive_avg_pool2d(torch.from_numpy(masks_NHW).float().unsqueeze(1), grid).squeeze(1)


def rows_of_view(training_images: int, detector: Detector, view: View) -> slice:
    """Where the rows of `view` lie in a training set of so many images."""
    position = detector.training_views(training_images).index(view)
    return slice(position * training_images, (position + 1) * training_images)
