"""`padim`: anomalib's (Defard et al., arXiv 2011.08785), with 100 features."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pydantic import Field

from flowgauge.anomalib.baseline import BaselineDetector
from flowgauge.anomalib.given_features import GivenFeatures, Stages
from flowgauge.anomalib.models import PadimModel
from flowgauge.domain.messages import FrozenModel
from flowgauge.models.detector import Embedding, FeatureShape, Progress


class PadimConfig(FrozenModel):
    """`features`: how many channels are drawn of all levels' together; all, where there are not so many."""

    features: int = Field(100, ge=1)


class Padim(BaselineDetector):
    """Of all levels. A Gaussian for each place of the finest one, so its state grows with the image."""

    name = "padim"
    config: PadimConfig

    def __init__(self, config: PadimConfig, shape: FeatureShape) -> None:
        super().__init__(config, shape, self.finest_first(shape))

    def _untrained(self) -> GivenFeatures:
        drawn = min(self.config.features, sum(self.shape.channels))
        return GivenFeatures(
            PadimModel(Stages(self.shape, self.levels), list(self.keys), n_features=drawn), self.shape.size
        )

    def _fit(self, good: Embedding, progress: Progress) -> None:
        """On one thread: on several of MKL, batched inversion in single precision has gone wrong, once in silence."""
        model: Any = self.model.model
        with torch.no_grad(), _one_thread():
            self._show(good, progress)
            model.fit()


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
