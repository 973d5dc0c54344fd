"""Tasks of the outer loop: a line's images, some of them defective and called good, and others to validate on."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from flowgauge.domain.errors import DatasetError
from flowgauge.domain.messages import FrozenModel
from flowgauge.evaluation.datasets import Dataset, evenly, read
from flowgauge.models.detector import Embedding, Progress, TrainingSet, joined, select
from flowgauge.synthetic.procedural import DEFECTS, Condition, ProceduralLine
from flowgauge.training.training_set import Embedder, on_grid
from flowgauge.vision.decoding import Picture
from flowgauge.vision.preprocessing import sixteen_bit_rule

Crops = NDArray[np.uint8]

# Half of each is the support: four good images have a spread to standardise by, two defects are not one of a kind.
_FEWEST_GOOD, _FEWEST_DEFECTS = 8, 4


class LineSize(FrozenModel):
    """How many images of each line tasks are drawn from."""

    goods: int = Field(20, ge=_FEWEST_GOOD)
    defects: int = Field(10, ge=_FEWEST_DEFECTS)


@dataclass(frozen=True)
class MetaLine:
    """`training_set`: good images and copies of them with synthetic anomalies; `defects` (M, ...) with `mask` (M, h,
    w), the share of each cell that is defective.
    """

    name: str
    training_set: TrainingSet
    defects: Embedding
    mask: Tensor

    @property
    def goods(self) -> int:
        return int(self.training_set.image.max()) + 1


@dataclass(frozen=True)
class Task:
    """`support`: nobody has said which of its images are good; `query`: other good images, and other defects where a
    training set has synthetic anomalies.
    """

    support: TrainingSet
    query: TrainingSet


def procedural_line(material: str, seed: int, embedder: Embedder, size: LineSize, progress: Progress) -> MetaLine:
    """A procedural line under a condition that its seed draws: from nominal to badly drifted."""
    size_px = embedder.preprocessing.size
    line = ProceduralLine(material, seed, size_px)
    rng = np.random.default_rng([seed, len(material)])
    condition = Condition.drifted(float(rng.uniform()))
    kinds = [DEFECTS[number % len(DEFECTS)] for number in rng.permutation(max(size.defects, len(DEFECTS)))]
    samples = [line.defect(size.goods + rank, kind, condition) for rank, kind in enumerate(kinds[: size.defects])]
    masks = np.stack([_present(sample.mask) for sample in samples])
    goods = np.stack([line.good(index, condition).pixels for index in range(size.goods)])
    defects = np.stack([sample.pixels for sample in samples])
    return _embedded(f"{material} {seed}", goods, defects, masks, embedder, seed, progress)


def dataset_line(dataset: Dataset, embedder: Embedder, size: LineSize, seed: int, progress: Progress) -> MetaLine:
    """A data set of one line, in the MVTec AD layout with masks. Raises `DatasetError` where too little is there."""
    defective = evenly([entry for entry in dataset.test if entry.mask is not None], size.defects)
    goods = evenly(dataset.train, size.goods)
    if len(goods) < _FEWEST_GOOD or len(defective) < _FEWEST_DEFECTS:
        raise DatasetError(
            f"{dataset.root} has {len(goods)} good images and {len(defective)} defects with a mask: too few for tasks.",
            f"Give {_FEWEST_GOOD} good images and {_FEWEST_DEFECTS} defects with masks, or more.",
        )
    rule = sixteen_bit_rule(read(entry).picture for entry in goods)
    embedder = replace(embedder, preprocessing=embedder.preprocessing.model_copy(update={"sixteen_bit": rule}))
    resampled = embedder.preprocessing.resampled
    crops, masks = [], []
    for entry in defective:
        sample = read(entry)
        shown = np.repeat(_present(sample.mask)[:, :, None].astype(np.uint8) * 255, 3, axis=2)
        crops.append(resampled(sample.picture))
        masks.append(resampled(Picture(shown, ""))[:, :, 0] > 127)
    good = np.stack([resampled(read(entry).picture) for entry in goods])
    return _embedded(dataset.root.name, good, np.stack(crops), np.stack(masks), embedder, seed, progress)


def _present(mask: NDArray[np.bool_] | None) -> NDArray[np.bool_]:
    assert mask is not None, "defects of these sources have masks"
    return mask


def _embedded(
    name: str,
    goods: Crops,
    defects: Crops,
    masks: NDArray[np.bool_],
    embedder: Embedder,
    seed: int,
    progress: Progress,
) -> MetaLine:
    return MetaLine(
        name=name,
        training_set=embedder.training_set(goods, seed=seed, progress=progress),
        defects=embedder.embed(defects, progress),
        mask=on_grid(masks, embedder.detector.grid),
    )


def draw_task(line: MetaLine, contamination: Sequence[float], rng: np.random.Generator) -> Task:
    """Half of the line's good images and half of its defects are the support, the share of the latter drawn from
    `contamination` as far as there are enough; the other halves are the query.
    """
    goods, defects = rng.permutation(line.goods), rng.permutation(len(line.mask))
    trained, tested = np.array_split(goods, 2)
    share = float(rng.choice(np.asarray(contamination)))
    wrong = min(round(share / (1 - share) * len(trained)), len(defects) // 2)
    support, query = (line.training_set.only(torch.from_numpy(images)) for images in (trained, tested))
    first = int(support.image.max()) + 1
    held_out = torch.from_numpy(defects[len(defects) // 2 :])
    return Task(
        support=replace(
            support,
            good=joined([support.good, select(line.defects, torch.from_numpy(defects[:wrong]))]),
            image=torch.cat([support.image, first + torch.arange(wrong)]),
        ),
        query=replace(
            query,
            synthetic=select(line.defects, held_out),
            synthetic_image=torch.arange(len(held_out)),
            mask=line.mask[held_out],
        ),
    )
