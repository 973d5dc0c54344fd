"""`glass`: a discriminator of good patches, trained with anomalies that nobody has seen (GLASS, arXiv 2407.09359).

Frozen features go through a trainable adaptor; a small network gives each patch one logit. Good patches should have a
low one; features that gradient ascent has moved off the good ones, and textures pasted into images, a high one. The
sigmoid saturates, so scores and thresholds are logits.
"""

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from flowgauge.domain.messages import FrozenModel
from flowgauge.domain.seeding import seeded
from flowgauge.models.detector import Embedding, FeatureShape, Progress, Scores, TrainingSet, length
from flowgauge.models.glass.synthesis import Synthesis, synthesised
from flowgauge.models.patch_scores import PATCHES, PatchDetector, highest, patches_of
from flowgauge.synthetic.texture_overlay import TextureOverlay


class GlassConfig(FrozenModel):
    """`anomalies_per_image` pasted copies of each good image; `top` is the share of patches whose mean logit is the
    image's score, in (0, 1]. `focus` is the exponent of the focal loss (arXiv 1708.02002) of pasted patches, whose
    branch weighs `local`: nothing by default, for on real tiles it trains what is foreign rather than what is broken
    (decision 15). `patches` of each batch are moved by ascent.
    """

    anomalies_per_image: int = Field(1, ge=1)
    overlay: TextureOverlay = TextureOverlay()
    hidden: int = Field(512, ge=1)
    top: float = Field(0.03, gt=0, le=1)
    steps: int = Field(600, ge=1)
    batch: int = Field(4, ge=1)
    patches: int = Field(1024, ge=2)
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(1e-2, ge=0)
    local: float = Field(0.0, ge=0)
    focus: float = Field(2.0, ge=0)
    synthesis: Synthesis = Synthesis()


class Glass(PatchDetector):
    name = "glass"
    config: GlassConfig

    def __init__(self, config: GlassConfig, shape: FeatureShape) -> None:
        super().__init__(config, shape)
        self.anomalies_per_image = config.anomalies_per_image if config.local else 0
        self.overlay = config.overlay
        channels = sum(shape.channels)
        self.mean: Tensor
        self.deviation: Tensor
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("deviation", torch.ones(channels))
        with seeded(0):
            self.adaptor = nn.Linear(channels, channels)
            nn.init.eye_(self.adaptor.weight)
            nn.init.zeros_(self.adaptor.bias)
            self.discriminator = nn.Sequential(
                nn.Linear(channels, config.hidden),
                nn.LayerNorm(config.hidden),
                nn.LeakyReLU(0.2),
                nn.Linear(config.hidden, 1),
            )

    def learn(self, training_set: TrainingSet, *, seed: int, progress: Progress) -> None:
        self._measure(training_set.good[PATCHES])
        generator = torch.Generator().manual_seed(seed)
        optimiser = torch.optim.AdamW(
            self.parameters(), lr=self.config.learning_rate, weight_decay=self.config.weight_decay
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, self.config.learning_rate, total_steps=self.config.steps
        )
        for step in range(self.config.steps):
            optimiser.zero_grad(set_to_none=True)
            self._loss(training_set, generator).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
            progress("training the discriminator", step + 1, self.config.steps)
        self.zero_grad(set_to_none=True)

    def _measure(self, patches_BCHW: Tensor) -> None:
        every = patches_BCHW[:, :, ::3, ::3].float()
        self.mean.copy_(every.mean(dim=(0, 2, 3)))
        self.deviation.copy_(every.std(dim=(0, 2, 3)).clamp_min(1e-6))

    def _loss(self, training_set: TrainingSet, generator: torch.Generator) -> Tensor:
        """Up to three branches: good patches, those that ascent has moved, and those where a texture was pasted."""
        good = self._adapted(training_set.good, _some(length(training_set.good), self.config.batch, generator)).flatten(
            0, 1
        )
        chosen = _some(len(good), self.config.patches, generator)
        moved = synthesised(good[chosen].detach(), self._logits, self.config.synthesis, generator)
        apart = F.softplus(self._logits(good)).mean() + F.softplus(-self._logits(moved)).mean()
        if not self.config.local:
            return apart
        rows = _some(length(training_set.synthetic), self.config.batch, generator)
        overlaid = self._logits(self._adapted(training_set.synthetic, rows).flatten(0, 1))
        return apart + self.config.local * focal_loss(overlaid, training_set.mask[rows].flatten(), self.config.focus)

    def _adapted(self, embedding: Embedding, rows: Tensor | None = None) -> Tensor:
        """(n, T, C) of those rows, or of all."""
        adapted: Tensor = self.adaptor((patches_of(embedding, rows) - self.mean) / self.deviation)
        return adapted

    def _logits(self, adapted: Tensor) -> Tensor:
        logits: Tensor = self.discriminator(adapted).squeeze(-1)
        return logits

    def score_embedding(self, embedding: Embedding) -> Scores:
        logits_BT = self._logits(self._adapted(embedding))
        return Scores(highest(logits_BT, self.config.top), logits_BT.view(-1, *self.grid))


def focal_loss(logits_N: Tensor, share_N: Tensor, focus: float) -> Tensor:
    """Binary cross-entropy that counts what is hard more, each side by its own mean; cells that the mask half covers
    count for neither.
    """
    anomalous, clean = share_N > 0.5, share_N < 0.05
    hard, easy = torch.sigmoid(-logits_N), torch.sigmoid(logits_N)
    losses = (hard**focus * F.softplus(-logits_N))[anomalous], (easy**focus * F.softplus(logits_N))[clean]
    return torch.stack([loss.mean() for loss in losses if len(loss)]).sum()


def _some(among: int, count: int, generator: torch.Generator) -> Tensor:
    return torch.randint(among, (count,), generator=generator)
