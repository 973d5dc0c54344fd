"""`glass`: a discriminator of good patches, trained with anomalies that nobody has seen (see the README).

Frozen features go through a trainable adaptor; a small network gives each patch one logit: low for good patches, high
for features that gradient ascent has moved off the good ones, and for pasted textures (GLASS, arXiv 2407.09359).
"""

from collections.abc import Callable
from enum import StrEnum

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from flowgauge.domain.messages import FrozenModel
from flowgauge.domain.seeding import seeded
from flowgauge.models.detector import Embedding, FeatureShape, Progress, Scores, TextureOverlay, TrainingSet, length
from flowgauge.models.flows.training import one_cycle
from flowgauge.models.patch_scores import PATCHES, PatchDetector, highest, patches_of


class Hypothesis(StrEnum):
    """Distances are measured from each good feature itself (manifold), or from the mean of all (hypersphere)."""

    MANIFOLD = "manifold"
    HYPERSPHERE = "hypersphere"


class Synthesis(FrozenModel):
    """Lengths are in units of the root mean square of good features' deviation from their mean, over all dimensions."""

    hypothesis: Hypothesis = Hypothesis.MANIFOLD
    noise: float = Field(1.5, gt=0, description="deviation of the Gaussian noise that is added first")
    ascents: int = Field(5, ge=0, description="steps of gradient ascent that follow")
    step: float = Field(0.05, gt=0, description="length of each")
    radius: float = Field(1.5, gt=0, description="r: features are kept at distances of r to 2 r")


class GlassConfig(FrozenModel):
    anomalies_per_image: int = Field(1, ge=1, description="copies of each good image with a pasted texture")
    overlay: TextureOverlay = TextureOverlay()
    hidden: int = Field(512, ge=1, description="hidden units of the discriminator")
    top: float = Field(0.03, gt=0, le=1, description="share of patches whose mean logit is the image's score")
    steps: int = Field(600, ge=1, description="of the optimiser")
    batch: int = Field(4, ge=1, description="images of a step")
    patches: int = Field(1024, ge=2, description="patches of a step that ascent moves")
    learning_rate: float = Field(1e-3, gt=0, description="the highest of the cycle")
    weight_decay: float = Field(1e-2, ge=0)
    local: float = Field(
        0.0, ge=0, description="weight of pasted textures: on real tiles they train what is foreign (decision 15)"
    )
    focus: float = Field(2.0, ge=0, description="exponent of the focal loss of patches with a pasted texture")
    synthesis: Synthesis = Synthesis()


class Glass(PatchDetector):
    name = "glass"
    config: GlassConfig

    def __init__(self, config: GlassConfig, shape: FeatureShape) -> None:
        super().__init__(config, shape)
        self.anomalies_per_image = config.anomalies_per_image if config.local else 0
        self.overlay = config.overlay
        channels = sum(shape.channels)
        self.mean = nn.Buffer(torch.zeros(channels))
        self.deviation = nn.Buffer(torch.ones(channels))
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
        # every ninth patch gives mean and deviation as well as all
        some = training_set.good[PATCHES][:, :, ::3, ::3].float()
        self.mean.copy_(some.mean(dim=(0, 2, 3)))
        self.deviation.copy_(some.std(dim=(0, 2, 3)).clamp_min(1e-6))
        config, generator = self.config, torch.Generator().manual_seed(seed)
        descend = one_cycle(self, config.learning_rate, config.weight_decay, config.steps)
        for step in range(config.steps):
            descend(self._loss(training_set, generator))
            progress("training the discriminator", step + 1, config.steps)
        self.zero_grad(set_to_none=True)

    def _loss(self, training_set: TrainingSet, generator: torch.Generator) -> Tensor:
        """Up to three branches: good patches, those that ascent has moved, and those where a texture was pasted."""
        batch = (self.config.batch,)
        rows = torch.randint(length(training_set.good), batch, generator=generator)
        good = self._adapted(training_set.good, rows).flatten(0, 1)
        chosen = torch.randint(len(good), (self.config.patches,), generator=generator)
        moved = synthesised(good[chosen].detach(), self._logits, self.config.synthesis, generator)
        # softplus(x) and softplus(-x) are the cross-entropies of the logit x with `good` and with `anomalous`
        apart = F.softplus(self._logits(good)).mean() + F.softplus(-self._logits(moved)).mean()
        if not self.config.local:
            return apart
        rows = torch.randint(length(training_set.synthetic), batch, generator=generator)
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
    """-(1 - p)^focus log p (arXiv 1708.02002): what is hard counts more. Each side by its own mean."""
    # cells that the mask half covers count for neither side
    anomalous, clean = share_N > 0.5, share_N < 0.05
    hard, easy = torch.sigmoid(-logits_N), torch.sigmoid(logits_N)
    losses = (hard**focus * F.softplus(-logits_N))[anomalous], (easy**focus * F.softplus(logits_N))[clean]
    return torch.stack([loss.mean() for loss in losses if len(loss)]).sum()


def synthesised(
    good_ND: Tensor, logits: Callable[[Tensor], Tensor], settings: Synthesis, generator: torch.Generator
) -> Tensor:
    """Global anomalies (GLASS s.3.4): (N, D) features, one from each good one, moved away by gradient ascent and kept
    at a distance. `logits` (N,) are higher for what is taken for anomalous.
    """
    centre = good_ND.mean(dim=0)
    unit = (good_ND - centre).square().sum(dim=1).mean().sqrt()
    noise = torch.randn(good_ND.shape, generator=generator) / good_ND.shape[1] ** 0.5
    moved = ascended(good_ND + settings.noise * unit * noise, logits, settings.step * float(unit), settings.ascents)
    if settings.hypothesis is Hypothesis.MANIFOLD:
        return projected(moved, good_ND, settings.radius * unit)
    distances = (good_ND - centre).norm(dim=1)
    return projected(moved, centre.expand_as(moved), distances.quantile(0.75))


def ascended(x_ND: Tensor, logits: Callable[[Tensor], Tensor], step: float, steps: int) -> Tensor:
    """Each row moved up the loss of calling it anomalous, by steps of equal length."""
    # what lies just outside the good features is what a discriminator should refuse; ascent on its own loss finds where
    # it does not yet
    x_ND = x_ND.detach()
    for _ in range(steps):
        x_ND = x_ND.requires_grad_()
        (gradient,) = torch.autograd.grad(F.softplus(-logits(x_ND)).sum(), x_ND)
        x_ND = (x_ND + step * gradient / gradient.norm(dim=1, keepdim=True).clamp_min(1e-12)).detach()
    return x_ND


def projected(x_ND: Tensor, origin_ND: Tensor, radius: Tensor) -> Tensor:
    """On the line from its origin, each row is brought to a distance of at least `radius` and at most twice that."""
    # no anomaly nearer than r, for it would be good, and none farther than 2 r, for it would train nothing
    away = x_ND - origin_ND
    distance = away.norm(dim=1, keepdim=True).clamp_min(1e-12)
    kept: Tensor = origin_ND + away / distance * distance.clamp(float(radius), 2 * float(radius))
    return kept
