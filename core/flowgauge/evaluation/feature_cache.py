"""A data set as a detector sees it: every image embedded once, for many fits to parts of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from flowgauge.models.detector import Detector, Embedding, FeatureShape, Lesson, Progress, select
from flowgauge.training.fit import FitSettings, embedder_for
from flowgauge.vision.decoding import Picture

_GOOD, _PAINTED, _MASK = "good", "painted", "mask"


@dataclass(frozen=True)
class Embedded:
    """`lesson` holds the views and paintings of all images, whose `names` are in the order of its numbers.

    Paintings are drawn once for the whole data set, where `fit` draws them for the images that it is given.
    """

    names: tuple[str, ...]
    shape: FeatureShape
    lesson: Lesson

    @cached_property
    def _number(self) -> Mapping[str, int]:
        return {name: number for number, name in enumerate(self.names)}

    def numbers(self, names: Sequence[str]) -> Tensor:
        return torch.tensor([self._number[name] for name in names], dtype=torch.long)

    def part(self, names: Sequence[str]) -> Lesson:
        """The lesson of those images alone, numbered in the order given."""
        wanted = self.numbers(names)
        views, copies = (self._rows(numbers, wanted) for numbers in (self.lesson.image, self.lesson.painted_image))
        own = torch.arange(len(wanted))
        return Lesson(
            good=select(self.lesson.good, views),
            image=own.repeat(len(views) // max(1, len(own))),
            painted=select(self.lesson.painted, copies),
            painted_image=own.repeat(len(copies) // max(1, len(own))),
            mask=self.lesson.mask[copies],
        )

    def plain(self, names: Sequence[str], view: int = 0) -> Embedding:
        """The embedding of one view of each of those images."""
        return select(self.lesson.good, self.numbers(names) + view * len(self.names))

    def tensors(self) -> dict[str, Tensor]:
        """All that `restored` needs beside the names and the shape."""
        good = {f"{_GOOD}.{name}": tensor for name, tensor in self.lesson.good.items()}
        painted = {f"{_PAINTED}.{name}": tensor for name, tensor in self.lesson.painted.items()}
        return {name: tensor.contiguous() for name, tensor in (good | painted | {_MASK: self.lesson.mask}).items()}

    def _rows(self, numbers: Tensor, wanted: Tensor) -> Tensor:
        """Rows of a lesson whose blocks each hold all images in order."""
        blocks = len(numbers) // len(self.names)
        return torch.cat([wanted + block * len(self.names) for block in range(blocks)] or [wanted[:0]])


def embedded(
    names: Sequence[str], pictures: Sequence[Picture], settings: FitSettings, device: str, progress: Progress
) -> Embedded:
    """Run all pictures, and painted copies of them, through the frozen backbone."""
    embedder = embedder_for(settings, device).measured(pictures)
    shape = embedder.backbone.shape(embedder.preprocessing.size)
    lesson = embedder.lesson(embedder.preprocessing.squares(pictures), seed=0, progress=progress)
    return Embedded(tuple(names), shape, lesson)


def restored(names: Sequence[str], shape: FeatureShape, detector: Detector, tensors: Mapping[str, Tensor]) -> Embedded:
    """What `tensors` were taken of."""

    def under(prefix: str) -> Embedding:
        return {name.partition(".")[2]: tensor for name, tensor in tensors.items() if name.startswith(f"{prefix}.")}

    image = torch.arange(len(names))
    lesson = Lesson(
        good=under(_GOOD),
        image=image.repeat(len(detector.training_views(len(names)))),
        painted=under(_PAINTED),
        painted_image=image.repeat(detector.paintings),
        mask=tensors[_MASK],
    )
    return Embedded(tuple(names), shape, lesson)
