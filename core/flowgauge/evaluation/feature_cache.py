"""A data set as a detector sees it: every image embedded once, for many fits to parts of it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowgauge.domain.progress import Progress
from flowgauge.models.detector import Detector, Embedding, FeatureShape, TrainingSet, length, select
from flowgauge.training.fit import FitSettings, embedder_for, plain_scores
from flowgauge.vision.decoding import Picture

_GOOD, _SYNTHETIC, _MASK = "good", "synthetic", "mask"


@dataclass(frozen=True)
class Embedded:
    """`training_set` holds the views of all images, and their copies with synthetic anomalies; `names` are in the order
    of its numbers.

    Anomalies are drawn once for the whole data set, where `fit` draws them for the images that it is given.
    """

    names: tuple[str, ...]
    shape: FeatureShape
    training_set: TrainingSet

    @cached_property
    def _number(self) -> Mapping[str, int]:
        return {name: number for number, name in enumerate(self.names)}

    def part(self, names: Sequence[str]) -> TrainingSet:
        """The training set of those images alone, numbered in the order given."""
        wanted, count = torch.tensor([self._number[name] for name in names], dtype=torch.long), len(self.names)
        # a training set is made of blocks, each with all images in order: one for each view, or each copy
        views, copies = (
            torch.cat([wanted + start for start in range(0, len(rows), count)] or [wanted[:0]])
            for rows in (self.training_set.image, self.training_set.synthetic_image)
        )
        own = torch.arange(len(wanted))
        return TrainingSet(
            good=select(self.training_set.good, views),
            image=own.repeat(len(views) // max(1, len(own))),
            synthetic=select(self.training_set.synthetic, copies),
            synthetic_image=own.repeat(len(copies) // max(1, len(own))),
            mask=self.training_set.mask[copies],
        )

    def plain(self, names: Sequence[str]) -> Embedding:
        """The embedding of those images as they are, the first view."""
        return select(self.training_set.good, torch.tensor([self._number[name] for name in names], dtype=torch.long))

    def scores(self, detector: Detector, names: Sequence[str]) -> NDArray[np.float64]:
        """(n,) of those images, as the detector would score them on the line; higher is more anomalous."""
        found = plain_scores(detector, self.part(names), len(names), torch.arange(len(names)))
        return np.asarray(found.image.double().numpy())

    def tensors(self) -> dict[str, Tensor]:
        """All that `restored` needs beside the names and the shape."""
        good = {f"{_GOOD}.{name}": tensor for name, tensor in self.training_set.good.items()}
        synthetic = {f"{_SYNTHETIC}.{name}": tensor for name, tensor in self.training_set.synthetic.items()}
        everything = good | synthetic | {_MASK: self.training_set.mask}
        return {name: tensor.contiguous() for name, tensor in everything.items()}


def embedded(
    names: Sequence[str], pictures: Collection[Picture], settings: FitSettings, device: str, progress: Progress
) -> Embedded:
    """Run all pictures, and copies of them with synthetic anomalies, through the frozen backbone."""
    embedder = embedder_for(settings, device).measured(pictures)
    shape = embedder.backbone.shape(embedder.preprocessing.size)
    training_set = embedder.training_set(embedder.preprocessing.crops(pictures), seed=0, progress=progress)
    return Embedded(tuple(names), shape, training_set)


def restored(names: Sequence[str], shape: FeatureShape, detector: Detector, tensors: Mapping[str, Tensor]) -> Embedded:
    """What `tensors` were taken of."""

    def under(prefix: str) -> Embedding:
        return {name.partition(".")[2]: tensor for name, tensor in tensors.items() if name.startswith(f"{prefix}.")}

    image, good = torch.arange(len(names)), under(_GOOD)
    training_set = TrainingSet(
        good=good,
        image=image.repeat(length(good) // len(names)),
        synthetic=under(_SYNTHETIC),
        synthetic_image=image.repeat(detector.anomalies_per_image),
        mask=tensors[_MASK],
    )
    return Embedded(tuple(names), shape, training_set)
