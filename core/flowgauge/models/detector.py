"""The protocol of all detectors: what they are trained with, what they answer, what the adaptation may change.

Dense tensors carry their shape in the name: B images, T tokens (patches in an image), D dimensions, H x W grid.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from flowgauge.domain.errors import DatasetError
from flowgauge.domain.folds import fold_of
from flowgauge.domain.messages import FrozenModel
from flowgauge.domain.progress import Progress as Progress
from flowgauge.vision.augmentation import PLAIN, View

Embedding = dict[str, Tensor]
"""What a detector keeps of images: named tensors, each (B, ...); no image's rows depend on another image."""


def select(embedding: Embedding, index: Tensor) -> Embedding:
    return {name: tensor[index] for name, tensor in embedding.items()}


def joined(embeddings: Sequence[Embedding]) -> Embedding:
    return {name: torch.cat([embedding[name] for embedding in embeddings]) for name in embeddings[0]}


def length(embedding: Embedding) -> int:
    return len(next(iter(embedding.values())))


@dataclass(frozen=True)
class FeatureShape:
    """What a detector is given per image of `size` pixels: one (C, S, S) tensor for each level, of `channels`,
    `strides` and `sides`. Levels may share a stride, as the layers of a transformer do.

    `sides` left out are size / stride, rounded up. A transformer whose patches do not divide the size has other ones.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    size: int
    sides: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.sides:
            object.__setattr__(self, "sides", tuple(-(-self.size // stride) for stride in self.strides))

    @property
    def keys(self) -> tuple[str, ...]:
        """A name for each level: `stride8`, or `layer0_stride14`, `layer1_stride14` where levels share a stride."""
        return tuple(
            f"stride{stride}" if self.strides.count(stride) == 1 else f"layer{level}_stride{stride}"
            for level, stride in enumerate(self.strides)
        )

    @property
    def coarsest(self) -> int:
        """Which level has the largest stride; of several, the last, which is the deepest."""
        return max(range(len(self.strides)), key=lambda level: (self.strides[level], level))

    @property
    def grid(self) -> int:
        """Which level's grid detectors of patches work on: the second finest, or the only one."""
        return sorted(range(len(self.strides)), key=lambda level: self.strides[level])[:2][-1]


class TextureOverlay(FrozenModel):
    """Foreign textures that are pasted into copies of good images, instead of synthetic anomalies (GLASS)."""

    on_object: bool = Field(False, description="on what differs from the border's colour alone, where anything does")
    folder: str | None = Field(None, description="images of textures; None: surfaces of all procedural materials")


@dataclass(frozen=True)
class TrainingSet:
    """What a detector is trained with: N views of good images, M copies with synthetic anomalies, K labelled defects.

    `image` (N,) and `synthetic_image` (M,) number the image that each row shows. `mask` (M, h, w): share of each cell
    of the detector's grid that is anomalous, in [0, 1]. `parts` names what part the image of each number shows; where
    it is empty, each image shows its own. `defects` (K,) were called defective by people, `kinds` are their classes,
    "" where nobody said.
    """

    good: Embedding
    image: Tensor
    synthetic: Embedding
    synthetic_image: Tensor
    mask: Tensor
    parts: tuple[str, ...] = ()
    defects: Embedding = field(default_factory=dict)
    kinds: tuple[str, ...] = ()

    def showing(self, parts: Sequence[str]) -> "TrainingSet":
        """The same, with the part that each image shows."""
        return replace(self, parts=tuple(parts))

    def labelled(self, defects: Embedding, kinds: Sequence[str]) -> "TrainingSet":
        """The same, with labelled defects and their classes."""
        return replace(self, defects=defects, kinds=tuple(kinds))

    def part_of(self, number: int) -> str:
        return self.parts[number] if self.parts else str(number)

    def folds(self, count: int) -> Tensor:
        """The fold of each image, by its number; where `parts` names all images, it stays when some are left out."""
        images = len(self.parts) or int(self.image.max()) + 1
        return torch.from_numpy(fold_of([self.part_of(number) for number in range(images)], count))

    def plain(self) -> "TrainingSet":
        """The first view of each image, and all synthetic anomalies."""
        views = torch.arange(len(self.image)) < len(torch.unique(self.image))
        return self._of(views, torch.ones(len(self.synthetic_image), dtype=torch.bool))

    def without(self, held_out: Tensor) -> "TrainingSet":
        """Less all rows of the images whose numbers `held_out` names."""
        return self._of(~torch.isin(self.image, held_out), ~torch.isin(self.synthetic_image, held_out))

    def only(self, wanted: Tensor) -> "TrainingSet":
        """The rows of the images whose numbers `wanted` names."""
        return self._of(torch.isin(self.image, wanted), torch.isin(self.synthetic_image, wanted))

    def _of(self, good_N: Tensor, synthetic_M: Tensor) -> "TrainingSet":
        good, synthetic = good_N.nonzero().flatten(), synthetic_M.nonzero().flatten()
        return replace(
            self,
            good=select(self.good, good),
            image=self.image[good],
            synthetic=select(self.synthetic, synthetic),
            synthetic_image=self.synthetic_image[synthetic],
            mask=self.mask[synthetic],
        )


def folds_of_rows(training_set: TrainingSet, folds: int) -> list[Tensor]:
    """The rows of `good` by fold; all rows of one part are in the same. Raises `DatasetError` for too few parts."""
    parts = [training_set.part_of(number) for number in training_set.image.tolist()]
    if folds > 1 and len(set(parts)) < 2 * folds:
        raise DatasetError(
            f"{len(set(parts))} parts are too few for {folds} members.", "Give images of more parts, or fewer members."
        )
    fold = torch.from_numpy(fold_of(parts, folds))
    return [(fold == number).nonzero().flatten() for number in range(folds)]


@dataclass(frozen=True)
class Scores:
    """`image` (B,): higher is more anomalous; `maps` (B, h, w): the same for each patch."""

    image: Tensor
    maps: Tensor


class Detector(nn.Module, ABC):
    """Scores images and their patches from the features of a frozen backbone.

    Its state is its `state_dict`: all of it, so that loading it into a detector of the same configuration gives
    bit-identical scores. `learn` may be called once. Scores have no bounds (negative log-likelihoods, logits,
    reconstruction errors, or sums of such terms on their calibrated scales): higher is more anomalous.
    """

    name: ClassVar[str]
    anomalies_per_image: int = 0
    """How many copies with synthetic anomalies of each good image `learn` is given."""
    overlay: TextureOverlay | None = None
    """What is on those copies: pasted textures; None: synthetic anomalies."""
    views: tuple[View, ...] = (PLAIN,)
    """The views over which scores are averaged (RAD eq. 3)."""
    symmetric_views: tuple[View, ...] = ()
    """Views that train too where the line's good images look alike under them (`training.symmetry`)."""
    pyramid_levels: tuple[int, ...] = (0,)
    """How often the image is halved before the backbone sees it: features of (0, 1) are of the whole and the half."""

    def __init__(self, config: FrozenModel, shape: FeatureShape, grid: tuple[int, int]) -> None:
        """`grid`: (h, w) of the maps."""
        super().__init__()
        self.config = config
        self.shape = shape
        self.grid = grid

    @abstractmethod
    def embed(self, features: Sequence[Tensor]) -> Embedding:
        """One (B, C_s, H_s, W_s) tensor per halving and stride, all strides of the first halving first -> what this
        detector keeps of them, by rules without parameters.
        """

    def patch_features(self, embedding: Embedding) -> Tensor:
        """(B, C, h, w): the backbone's features of each patch, by which images are compared with one another."""
        # of the coarsest level, where an embedding has them by level: finer ones depend on the texture's phase
        return embedding[self.shape.keys[self.shape.coarsest]]

    @abstractmethod
    def learn(self, training_set: TrainingSet, *, seed: int, progress: Progress) -> None:
        """Fit everything. Same training set and seed, same state."""

    @abstractmethod
    def score_embedding(self, embedding: Embedding) -> Scores:
        """Image scores and maps. An image's row does not depend on the other rows."""

    def score(self, features: Sequence[Tensor]) -> Scores:
        """The same straight from the backbone's features."""
        return self.score_embedding(self.embed(features))

    def training_views(self, images: int) -> tuple[View, ...]:
        """What `learn` is given of each of so many good images: the plain view first, and all of `views` among them."""
        return self.views

    def load_init(self, parameters: Mapping[str, Tensor]) -> None:
        """Start learning from those, by the names that meta-training gives them. Raises `ValueError` for others."""
        raise ValueError(f"{self.name} has no parameters that are meta-learned")


class CrossFitted(Detector):
    """Cross-fits itself in `learn`: it needs no other detectors for the scores that set its threshold."""

    @abstractmethod
    def held_out_scores(self, training_set: TrainingSet) -> Scores:
        """Scores of the plain view of each of the training set's images, by parameters that the image did not train."""
