"""`patchcore`: anomalib's (Roth et al., arXiv 2106.08265), with a coreset of 1 %."""

from contextlib import redirect_stderr
from io import StringIO
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from flowgauge.anomalib.baseline import BaselineDetector
from flowgauge.anomalib.given_features import GivenFeatures, Stages
from flowgauge.anomalib.models import KCenterGreedy, PatchcoreModel
from flowgauge.domain.messages import FrozenModel
from flowgauge.models.detector import Embedding, FeatureShape, Progress


class PatchcoreConfig(FrozenModel):
    """`coreset` is the share of all places that is kept; `neighbours` of the nearest one weigh an image's score."""

    coreset: float = Field(0.01, gt=0, le=1)
    neighbours: int = Field(9, ge=1)


class Patchcore(BaselineDetector):
    """Of the two coarsest levels, as theirs takes the middle stages."""

    name = "patchcore"
    config: PatchcoreConfig

    def __init__(self, config: PatchcoreConfig, shape: FeatureShape) -> None:
        super().__init__(config, shape, self.finest_first(shape)[-2:])

    def _untrained(self) -> GivenFeatures:
        stages = Stages(self.shape, self.levels)
        return GivenFeatures(
            _Model(backbone=stages, layers=list(self.keys), num_neighbors=self.config.neighbours), self.shape.size
        )

    def _fit(self, good: Embedding, progress: Progress) -> None:
        self._show(good, progress)
        model: Any = self.model.model
        with redirect_stderr(StringIO()), torch.no_grad():  # their bar would run across ours
            model.subsample_embedding(self.config.coreset)


class GreedyCoreset(KCenterGreedy):  # type: ignore[misc]
    """Chooses what theirs does. Distances come from one product of a matrix and a vector, squared, where theirs writes
    down every difference first, which takes a CPU several times longer.
    """

    min_distances: Tensor | None
    _crops: Tensor

    def update_distances(self, cluster_center: Tensor) -> None:
        centre = self.features[cluster_center].squeeze()
        if self.min_distances is None:
            self._crops = self.features.square().sum(dim=1)
        squared = torch.addmv(self._crops, self.features, centre, alpha=-2).add_(centre.square().sum()).unsqueeze(1)
        self.min_distances = squared if self.min_distances is None else torch.minimum(self.min_distances, squared)


class _Model(PatchcoreModel):  # type: ignore[misc]
    def subsample_embedding(self, sampling_ratio: float) -> None:
        patches = torch.vstack(self.embedding_store)
        self.embedding_store.clear()
        self.memory_bank = GreedyCoreset(patches, sampling_ratio).sample_coreset()
