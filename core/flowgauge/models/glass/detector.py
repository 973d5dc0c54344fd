"""`glass`: a discriminator of good places, taught with anomalies that nobody has seen (GLASS, arXiv 2407.09359).

Frozen features go through a trainable adaptor; a small network gives each place one logit. Good places should have a
low one; features that gradient ascent has moved off the good ones, and textures pasted into images, a high one. The
sigmoid saturates, so scores and thresholds are logits.
"""

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from flowgauge.domain.messages import Part
from flowgauge.domain.seeding import seeded
from flowgauge.models.detector import Embedding, FeatureShape, Lesson, Progress, Scores, length
from flowgauge.models.glass.synthesis import Synthesis, synthesised
from flowgauge.models.patch_scores import PLACES, PlaceDetector, highest, places_of
from flowgauge.synthetic.texture_overlay import Pasting


class GlassConfig(Part):
    """`paintings` pasted copies of each good image; `top` is the share of places whose mean logit is the image's score,
    in (0, 1]. `focus` is the exponent of the focal loss (arXiv 1708.02002) of pasted places, whose branch weighs
    `local`: nothing by default, for on real tiles it teaches what is foreign rather than what is broken (decision 15).
    `places` of each batch are moved by ascent.
    """

    paintings: int = Field(1, ge=1)
    pasting: Pasting = Pasting()
    hidden: int = Field(512, ge=1)
    top: float = Field(0.03, gt=0, le=1)
    steps: int = Field(600, ge=1)
    batch: int = Field(4, ge=1)
    places: int = Field(1024, ge=2)
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(1e-2, ge=0)
    local: float = Field(0.0, ge=0)
    focus: float = Field(2.0, ge=0)
    synthesis: Synthesis = Synthesis()


class Glass(PlaceDetector):
    name = "glass"
    config: GlassConfig

    def __init__(self, config: GlassConfig, shape: FeatureShape) -> None:
        super().__init__(config, shape)
        self.paintings = config.paintings if config.local else 0
        self.pasting = config.pasting
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

    def learn(self, lesson: Lesson, *, seed: int, progress: Progress) -> None:
        self._measure(lesson.good[PLACES])
        generator = torch.Generator().manual_seed(seed)
        optimiser = torch.optim.AdamW(
            self.parameters(), lr=self.config.learning_rate, weight_decay=self.config.weight_decay
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, self.config.learning_rate, total_steps=self.config.steps
        )
        for step in range(self.config.steps):
            optimiser.zero_grad(set_to_none=True)
            self._loss(lesson, generator).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
            progress("teaching the discriminator", step + 1, self.config.steps)
        self.zero_grad(set_to_none=True)

    def _measure(self, places_BCHW: Tensor) -> None:
        every = places_BCHW[:, :, ::3, ::3].float()
        self.mean.copy_(every.mean(dim=(0, 2, 3)))
        self.deviation.copy_(every.std(dim=(0, 2, 3)).clamp_min(1e-6))

    def _loss(self, lesson: Lesson, generator: torch.Generator) -> Tensor:
        """Up to three branches: good places, those that ascent has moved, and those where a texture was pasted."""
        good = self._adapted(lesson.good, _some(length(lesson.good), self.config.batch, generator)).flatten(0, 1)
        chosen = _some(len(good), self.config.places, generator)
        moved = synthesised(good[chosen].detach(), self._logits, self.config.synthesis, generator)
        apart = F.softplus(self._logits(good)).mean() + F.softplus(-self._logits(moved)).mean()
        if not self.config.local:
            return apart
        rows = _some(length(lesson.painted), self.config.batch, generator)
        pasted = self._logits(self._adapted(lesson.painted, rows).flatten(0, 1))
        return apart + self.config.local * focal_loss(pasted, lesson.mask[rows].flatten(), self.config.focus)

    def _adapted(self, embedding: Embedding, rows: Tensor | None = None) -> Tensor:
        """(n, T, C) of those rows, or of all."""
        adapted: Tensor = self.adaptor((places_of(embedding, rows) - self.mean) / self.deviation)
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
