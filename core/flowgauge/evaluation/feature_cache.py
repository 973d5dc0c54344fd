"""A data set as a detector sees it: every image embedded once, for many fits to parts of it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from flowgauge.models.detector import Detector, Embedding, FeatureShape, Progress, TrainingSet, select
from flowgauge.training.fit import FitSettings, embedder_for
from flowgauge.vision.decoding import Picture

_GOOD, _SYNTHETIC, _MASK = "good", "synthetic", "mask"


@dataclass(frozen=True)
class Embedded:
    """`training_set` holds the views and paintings of all images, whose `names` are in the order of its numbers.

    Paintings are drawn once for the whole data set, where `fit` draws them for the images that it is given.
    """

    names: tuple[str, ...]
    shape: FeatureShape
    training_set: TrainingSet

    @cached_property
    def _number(self) -> Mapping[str, int]:
        return {name: number for number, name in enumerate(self.names)}

    def numbers(self, names: Sequence[str]) -> Tensor:
        return torch.tensor([self._number[name] for name in names], dtype=torch.long)

    def part(self, names: Sequence[str]) -> TrainingSet:
        """The training set of those images alone, numbered in the order given."""
        wanted = self.numbers(names)
        views, copies = (
            self._rows(numbers, wanted) for numbers in (self.training_set.image, self.training_set.synthetic_image)
        )
        own = torch.arange(len(wanted))
        return TrainingSet(
            good=select(self.training_set.good, views),
            image=own.repeat(len(views) // max(1, len(own))),
            synthetic=select(self.training_set.synthetic, copies),
            synthetic_image=own.repeat(len(copies) // max(1, len(own))),
            mask=self.training_set.mask[copies],
        )

    def plain(self, names: Sequence[str], view: int = 0) -> Embedding:
        """The embedding of one view of each of those images."""
        return select(self.training_set.good, self.numbers(names) + view * len(self.names))

    def tensors(self) -> dict[str, Tensor]:
        """All that `restored` needs beside the names and the shape."""
        good = {f"{_GOOD}.{name}": tensor for name, tensor in self.training_set.good.items()}
        synthetic = {f"{_SYNTHETIC}.{name}": tensor for name, tensor in self.training_set.synthetic.items()}
        return {
            name: tensor.contiguous() for name, tensor in (good | synthetic | {_MASK: self.training_set.mask}).items()
        }

    def _rows(self, numbers: Tensor, wanted: Tensor) -> Tensor:
        """Rows of a training set whose blocks each hold all images in order."""
        blocks = len(numbers) // len(self.names)
        return torch.cat([wanted + block * len(self.names) for block in range(blocks)] or [wanted[:0]])


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

    image = torch.arange(len(names))
    training_set = TrainingSet(
        good=under(_GOOD),
        image=image.repeat(len(detector.training_views(len(names)))),
        synthetic=under(_SYNTHETIC),
        synthetic_image=image.repeat(detector.anomalies_per_image),
        mask=tensors[_MASK],
    )
    return Embedded(tuple(names), shape, training_set)
