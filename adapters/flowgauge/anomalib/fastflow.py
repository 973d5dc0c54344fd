"""`fastflow`: anomalib's (Yu et al., arXiv 2111.07677), put together from its parts.

Their whole model takes four backbones by name and no other; blocks, norms, map and loss are theirs all the same.
"""

import torch
from pydantic import Field
from torch import Tensor, nn

from flowgauge.anomalib.baseline import BaselineDetector
from flowgauge.anomalib.given_features import Features
from flowgauge.anomalib.models import FastflowLoss, FastflowMap, InferenceBatch, create_fast_flow_block
from flowgauge.domain.messages import FrozenModel
from flowgauge.models.detector import Embedding, FeatureShape, Progress, length


class FastflowConfig(FrozenModel):
    """`steps` of the flow at each level, whose networks are `hidden_ratio` times as wide as their inputs.

    Adam's settings are theirs. They stop by a validation that we have no labels for: hence a fixed number of `epochs`.
    """

    steps: int = Field(8, ge=1)
    hidden_ratio: float = Field(1.0, gt=0)
    clamp: float = Field(2.0, gt=0)
    epochs: int = Field(15, ge=1)
    batch: int = Field(32, ge=1)
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(1e-5, ge=0)


class Fastflow(BaselineDetector):
    """Of all levels."""

    name = "fastflow"
    config: FastflowConfig

    def __init__(self, config: FastflowConfig, shape: FeatureShape) -> None:
        super().__init__(config, shape, self.finest_first(shape))

    def _untrained(self) -> nn.Module:
        return _Model(self.config, self.shape, self.levels)

    def _fit(self, good: Embedding, progress: Progress) -> None:
        config, loss = self.config, FastflowLoss()
        optimiser = torch.optim.Adam(self.model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
        for epoch in range(config.epochs):
            for rows in torch.split(torch.randperm(length(good)), config.batch):
                optimiser.zero_grad(set_to_none=True)
                loss(*self.model(self._features(good, rows))).backward()
                optimiser.step()
            progress("fitting fastflow", epoch + 1, config.epochs)
        self.model.zero_grad(set_to_none=True)


class _Model(nn.Module):
    """Features -> z and log-determinants of each level in training mode, the batch's scores and maps otherwise."""

    def __init__(self, config: FastflowConfig, shape: FeatureShape, levels: tuple[int, ...]) -> None:
        super().__init__()
        self._keys = [shape.keys[level] for level in levels]
        sizes = [[shape.channels[level], shape.sides[level], shape.sides[level]] for level in levels]
        self.norms = nn.ModuleList([nn.LayerNorm(size) for size in sizes])
        self.blocks = nn.ModuleList(
            [
                create_fast_flow_block(
                    size,
                    conv3x3_only=False,
                    hidden_ratio=config.hidden_ratio,
                    flow_steps=config.steps,
                    clamp=config.clamp,
                )
                for size in sizes
            ]
        )
        self._map = FastflowMap(input_size=(shape.size, shape.size))

    def forward(self, features: Features) -> tuple[list[Tensor], list[Tensor]] | InferenceBatch:
        found = [
            block(norm(features[name])) for name, norm, block in zip(self._keys, self.norms, self.blocks, strict=True)
        ]
        z = [z_BCHW for z_BCHW, _ in found]
        if self.training:
            return z, [log_det_B for _, log_det_B in found]
        anomaly_map = self._map(z)
        return InferenceBatch(pred_score=anomaly_map.amax(dim=(1, 2, 3)), anomaly_map=anomaly_map)
