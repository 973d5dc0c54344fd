"""What anomalib's detectors have in common."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowgauge.anomalib.given_features import Features
from flowgauge.domain.messages import FrozenModel
from flowgauge.domain.seeding import seeded
from flowgauge.models.detector import Detector, Embedding, FeatureShape, Progress, Scores, TrainingSet, length, select
from flowgauge.models.patch_scores import on_one_grid

_CELL = 4
"""Pixels of the image a side of a map's cell: theirs have a value per pixel, smoothed over sixteen or interpolated."""
_BATCH = 16


class BaselineDetector(Detector):
    """A model of anomalib's on features of our backbone, in half precision, of those levels that it uses.

    Image scores are their `pred_score`; maps are their `anomaly_map`, means over cells of it.
    """

    model: nn.Module

    def __init__(self, config: FrozenModel, shape: FeatureShape, levels: Sequence[int]) -> None:
        super().__init__(config, shape, (shape.size // _CELL, shape.size // _CELL))
        self.levels = tuple(levels)
        self.keys = tuple(shape.keys[level] for level in self.levels)
        with seeded(0):
            self.model = self._untrained()
        self.eval()

    @staticmethod
    def finest_first(shape: FeatureShape) -> list[int]:
        """All levels, by their strides; of those that share one, the earlier layer first."""
        return sorted(range(len(shape.strides)), key=lambda level: shape.strides[level])

    def train(self, mode: bool = True) -> Self:
        """Their models answer otherwise while they learn, which only `learn` lets them do."""
        return super().train(False)

    def embed(self, features: Sequence[Tensor]) -> Embedding:
        return {key: features[level].half() for key, level in zip(self.keys, self.levels, strict=True)}

    def patch_features(self, embedding: Embedding) -> Tensor:
        return on_one_grid([embedding[key].float() for key in self.keys], self.shape)

    def learn(self, training_set: TrainingSet, *, seed: int, progress: Progress) -> None:
        with seeded(seed):
            self.model = self._untrained().train()
            self._fit(training_set.good, progress)
        self.model.eval()

    @abstractmethod
    def _untrained(self) -> nn.Module:
        """Takes `Features`; in eval mode it answers with `pred_score` (B,) and `anomaly_map` (B, 1, size, size)."""

    @abstractmethod
    def _fit(self, good: Embedding, progress: Progress) -> None:
        """Fit `model`, which is in training mode, drawing from the global generators."""

    def _show(self, good: Embedding, progress: Progress) -> None:
        """Their models that are fitted at once keep what they are shown while they train."""
        with torch.no_grad():
            for done, _ in enumerate(self._answers(good), start=1):
                progress(f"showing {self.name} good images", min(done * _BATCH, length(good)), length(good))

    def score_embedding(self, embedding: Embedding) -> Scores:
        with torch.no_grad():
            found = [(batch.pred_score.flatten(), self._map(batch.anomaly_map)) for batch in self._answers(embedding)]
        scores, maps = zip(*found, strict=True)
        return Scores(torch.cat(scores), torch.cat(maps))

    def _map(self, anomaly_map_B1HW: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(anomaly_map_B1HW, self.grid).squeeze(1)

    def _answers(self, embedding: Embedding) -> Iterator[Any]:
        for rows in torch.split(torch.arange(length(embedding)), _BATCH):
            yield self.model(self._features(embedding, rows))

    def _features(self, embedding: Embedding, rows: Tensor) -> Features:
        return {name: tensor.float() for name, tensor in select(embedding, rows).items()}
