"""anomalib's PatchCore (Roth et al., arXiv 2106.08265) and PaDiM (Defard et al., arXiv 2011.08785) on our features.

The models are theirs, with their defaults and a coreset of 1 %; where they would run a backbone, they are handed what
ours saw of the same images. Two things differ from what they would have seen: features lie in half precision, and those
finer than our grid come as the means over its cells, so that PaDiM works on this grid and not on the finest.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from io import StringIO
from typing import Any

import torch
from torch import Tensor, nn

from adapters.anomalib.models import KCenterGreedy, PadimModel, PatchcoreModel
from core.detectors.base import Embedding, FeatureShape, length, select
from core.detectors.guide import key
from core.evaluation.noise import Variant
from core.evaluation.peers import Judge, Peer
from core.seeding import seeded

_CORESET = 0.01
_PADIM_FEATURES = 100
_BATCH = 16


def patchcore(good: Embedding, shape: FeatureShape, seed: int) -> Judge:
    """Of the two coarsest strides, as theirs takes the middle stages."""
    strides = sorted(shape.strides)[-2:]
    with seeded(seed), torch.inference_mode(), redirect_stderr(StringIO()):  # their bar would run across ours
        model = _Patchcore(backbone=_Stages(shape, strides), layers=[key(stride) for stride in strides])
        fitted = _Fitted(model, shape, strides)
        fitted.show(good)
        model.subsample_embedding(_CORESET)
    return fitted


def padim(good: Embedding, shape: FeatureShape, seed: int) -> Judge:
    """Of all strides, 100 of whose channels it draws.

    Batched inversion in single precision has gone wrong on several threads of MKL, once in silence: hence one.
    """
    strides = sorted(shape.strides)
    features = min(_PADIM_FEATURES, sum(shape.channels))
    with seeded(seed), torch.inference_mode(), _one_thread():
        model = PadimModel(_Stages(shape, strides), [key(stride) for stride in strides], n_features=features)
        fitted = _Fitted(model, shape, strides)
        fitted.show(good)
        model.fit()
    return fitted


PEERS: dict[Variant, Peer] = {Variant.PATCHCORE: patchcore, Variant.PADIM: padim}


class GreedyCoreset(KCenterGreedy):  # type: ignore[misc]
    """Chooses what theirs does. Distances come from one product of a matrix and a vector, squared, where theirs writes
    down every difference first, which takes a CPU several times longer.
    """

    min_distances: Tensor | None
    _squares: Tensor

    def update_distances(self, cluster_center: Tensor) -> None:
        centre = self.features[cluster_center].squeeze()
        if self.min_distances is None:
            self._squares = self.features.square().sum(dim=1)
        squared = torch.addmv(self._squares, self.features, centre, alpha=-2).add_(centre.square().sum()).unsqueeze(1)
        self.min_distances = squared if self.min_distances is None else torch.minimum(self.min_distances, squared)


class _Patchcore(PatchcoreModel):  # type: ignore[misc]
    def subsample_embedding(self, sampling_ratio: float) -> None:
        patches = torch.vstack(self.embedding_store)
        self.embedding_store.clear()
        self.memory_bank = GreedyCoreset(patches, sampling_ratio).sample_coreset()


class _Stages(nn.Module):
    """Layers as wide and as coarse as the backbone's. Models ask for these sizes once, and never run them again."""

    def __init__(self, shape: FeatureShape, strides: Sequence[int]) -> None:
        super().__init__()
        for stride in strides:
            self.add_module(key(stride), nn.Conv2d(3, _channels(shape, stride), 1, stride))

    def forward(self, images_BCHW: Tensor) -> list[Tensor]:
        return [layer(images_BCHW) for layer in self.children()]


class _Handed(nn.Module):
    """Where a model has its backbone: gives the features that were put here for the batch."""

    features: dict[str, Tensor]

    def forward(self, images_BCHW: Tensor) -> dict[str, Tensor]:
        return self.features


class _Fitted:
    """One of their models, shown embeddings in place of images. As a `Judge`, the score of each image."""

    def __init__(self, model: Any, shape: FeatureShape, strides: Sequence[int]) -> None:
        self._model, self._shape, self._strides = model, shape, strides
        model.feature_extractor = self._handed = _Handed()

    def __call__(self, embedding: Embedding) -> Tensor:
        self._model.eval()
        with torch.inference_mode():
            return torch.cat([found.pred_score.flatten() for found in self._run(embedding)])

    def show(self, good: Embedding) -> None:
        """The model keeps what it is shown while it trains."""
        self._model.train()
        for _ in self._run(good):
            pass

    def _run(self, embedding: Embedding) -> Iterator[Any]:
        for rows in torch.split(torch.arange(length(embedding)), _BATCH):
            batch = select(embedding, rows)
            self._handed.features = {key(s): self._means(batch, s).float() for s in self._strides}
            yield self._model(torch.empty(len(rows), 3, self._shape.size, self._shape.size))

    def _means(self, embedding: Embedding, stride: int) -> Tensor:
        """Without the maxima that stand behind the means where a stride is finer than the grid."""
        return embedding[key(stride)][:, : _channels(self._shape, stride)]


def _channels(shape: FeatureShape, stride: int) -> int:
    return shape.channels[shape.strides.index(stride)]


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
