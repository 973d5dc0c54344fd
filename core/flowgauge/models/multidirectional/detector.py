"""`multidirectional`: a few labelled defects train which directions of the features separate defects of any kind.

The inner level shapes the embedding by good images alone, the outer level maximises the softmax confidence margin
between them and a few labelled defects (arXiv 2601.19833), and pulls towards the embedding that knows no defects. The
README says what is different from the paper.
"""

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from flowgauge.domain.errors import DatasetError
from flowgauge.domain.messages import FrozenModel
from flowgauge.models.detector import Embedding, FeatureShape, Progress, Scores, TrainingSet, length
from flowgauge.models.patch_scores import PatchDetector, highest, patches_of

# images whose patches are in memory together in single precision
_CHUNK = 32


class MultidirectionalConfig(FrozenModel):
    top: float = Field(0.03, gt=0, le=1, description="share of patches whose mean is the image's score")
    shrinkage: float = Field(0.01, gt=0, le=1, description="of good patches' covariance towards its mean variance")
    episodes: int = Field(150, ge=0, description="of the outer level; with 0 no label is needed")
    inner_steps: int = Field(2, ge=0, description="on good images, before each step on the margin")
    alpha: float = Field(0.02, gt=0, description="length of the inner steps")
    learning_rate: float = Field(1e-3, gt=0, description="of the outer steps")
    pull: float = Field(0.002, ge=0, description="L2 penalty on what labels change")
    batch: int = Field(24, ge=2, description="good images of an outer step")


class Multidirectional(PatchDetector):
    """A patch is as anomalous as it is far from the good patches' mean in the embedding: the mean square of z."""

    name = "multidirectional"
    config: MultidirectionalConfig

    def __init__(self, config: MultidirectionalConfig, shape: FeatureShape) -> None:
        super().__init__(config, shape)
        channels = sum(shape.channels)
        self.mean = nn.Buffer(torch.zeros(channels))
        self.whitening = nn.Buffer(torch.eye(channels))
        self.location = nn.Buffer(torch.zeros(()))
        self.scale = nn.Buffer(torch.ones(()))
        self.directions = nn.Parameter(torch.eye(channels))

    def learn(self, training_set: TrainingSet, *, seed: int, progress: Progress) -> None:
        """Raises `DatasetError` where labels are needed and there are none."""
        if self.config.episodes and not training_set.kinds:
            raise DatasetError(
                "multidirectional learns from labelled defects, and there are none that may train.",
                "Label some: flowgauge label VERDICT_ID defect, or flowgauge golden add LINE DIR --label defect.",
            )
        good = training_set.good
        chunks = torch.split(torch.arange(length(good)), _CHUNK)
        # one patch in five gives the covariance as well as all
        x_NC = torch.cat([patches_of(good, rows)[:, ::5].flatten(0, 1) for rows in chunks])
        self.mean.copy_(x_NC.mean(dim=0))
        # W = L^-T of the Cholesky factor L L^T = Sigma + a mean(diag Sigma) I: then x W has unit covariance
        covariance = torch.cov(x_NC.double().T)
        covariance += self.config.shrinkage * covariance.diagonal().mean() * torch.eye(len(covariance))
        lower = torch.linalg.cholesky(covariance)
        inverse = torch.linalg.solve_triangular(lower, torch.eye(len(lower), dtype=lower.dtype), upper=False)
        self.whitening.copy_(inverse.T)
        self._calibrate(good)
        outer = _Outer(self, training_set, torch.Generator().manual_seed(seed))
        for episode in range(self.config.episodes):
            outer.step()
            progress("learning from labels", episode + 1, self.config.episodes)
        with torch.no_grad():
            self.directions.copy_(outer.shaped_by_good_images())
        self._calibrate(good)

    def _calibrate(self, good: Embedding) -> None:
        """In units of the deviation of good images' scores, from their median: so that the margin has a scale."""
        chunks = torch.split(torch.arange(length(good)), _CHUNK)
        with torch.no_grad():
            parts = [self._energy(self.white(good, rows), self.directions) for rows in chunks]
        scores = torch.cat([highest(energy_BT, self.config.top) for energy_BT in parts])
        self.location.copy_(scores.median())
        self.scale.copy_(scores.std().clamp_min(1e-6))

    def white(self, embedding: Embedding, rows: Tensor | None = None) -> Tensor:
        """Standardised patches (n, T, C) of those rows, or of all: uncorrelated and of variance 1 on good images."""
        white: Tensor = (patches_of(embedding, rows) - self.mean) @ self.whitening
        return white

    def _energy(self, white_BTC: Tensor, directions_CC: Tensor) -> Tensor:
        """(B, T): abs(x V)^2 / C."""
        return (white_BTC @ directions_CC).square().mean(dim=2)

    def z_score(self, white_BTC: Tensor, directions_CC: Tensor) -> Tensor:
        """Image scores (B,) under those directions: higher is more anomalous."""
        return (highest(self._energy(white_BTC, directions_CC), self.config.top) - self.location) / self.scale

    def departure(self, embedding: Embedding) -> Tensor:
        """(C,): each standardised feature's variance, less 1, at the patches that make those images' scores."""
        with torch.no_grad():
            white_BTC = self.white(embedding)
            most = max(1, round(self.config.top * white_BTC.shape[1]))
            patches = self._energy(white_BTC, self.directions).topk(most, dim=1)[1]
            chosen = white_BTC.gather(1, patches.unsqueeze(2).expand(-1, -1, white_BTC.shape[2]))
        return chosen.square().mean(dim=(0, 1)) - 1

    def score_embedding(self, embedding: Embedding) -> Scores:
        energy_BT = self._energy(self.white(embedding), self.directions)
        maps = ((energy_BT - self.location) / self.scale).view(-1, *self.grid)
        return Scores((highest(energy_BT, self.config.top) - self.location) / self.scale, maps)


class _Outer:
    def __init__(self, detector: Multidirectional, training_set: TrainingSet, generator: torch.Generator) -> None:
        self._detector = detector
        self._config = detector.config
        self._training_set = training_set
        self._generator = generator
        self._kinds = sorted(set(training_set.kinds))
        self._bias, self._sharpness = (torch.zeros((), requires_grad=True) for _ in range(2))
        self._learned = [detector.directions, self._bias, self._sharpness]
        self._optimiser = torch.optim.Adam(self._learned, lr=self._config.learning_rate)

    def step(self) -> None:
        """One episode on the softmax margin of good images and of one class of defects."""
        directions = self.shaped_by_good_images()
        good = self._logit(self._good(self._config.batch), directions)
        kind = self._kinds[int(torch.randint(len(self._kinds), (), generator=self._generator))]
        rows = torch.tensor([row for row, own in enumerate(self._training_set.kinds) if own == kind])
        defects = self._logit(self._detector.white(self._training_set.defects, rows), directions)
        loss = F.softplus(good).mean() + F.softplus(-defects).mean()
        # to first order: the gradient where good images lead is applied where they started (first-order MAML)
        gradients = torch.autograd.grad(loss, [directions, self._bias, self._sharpness])
        for parameter, gradient in zip(self._learned, gradients, strict=True):
            parameter.grad = gradient
        # d/dV of pull abs(V - I)^2: towards the embedding that knows no defects
        start = torch.eye(len(directions))
        assert self._detector.directions.grad is not None
        self._detector.directions.grad += 2 * self._config.pull * (self._detector.directions.detach() - start)
        self._optimiser.step()

    def shaped_by_good_images(self) -> Tensor:
        """(C, C): the directions after a few steps up the likelihood of good images' patches."""
        directions = self._detector.directions.detach().clone()
        for _ in range(self._config.inner_steps):
            # log p(x) = log N(x V; 0, 1) + log abs det V, so d(-log p)/dV = x^T x V / N - V^-T
            x_NC = self._good(4).flatten(0, 1)[::2]
            slope = x_NC.T @ (x_NC @ directions) / len(x_NC) - torch.linalg.inv(directions.double()).T.float()
            directions -= self._config.alpha * slope
        return directions.requires_grad_()

    def _logit(self, white_BTC: Tensor, directions: Tensor) -> Tensor:
        return self._sharpness.exp() * (self._detector.z_score(white_BTC, directions) - self._bias)

    def _good(self, images: int) -> Tensor:
        rows = torch.randint(len(self._training_set.image), (images,), generator=self._generator)
        return self._detector.white(self._training_set.good, rows)
