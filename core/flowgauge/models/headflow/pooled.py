"""Features pooled over the whole image, and how unlikely an image's are among those of good ones.

What is spread thin over an image, such as a hairline or a tone, moves its pooled statistics more than any one patch.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from flowgauge.domain.messages import FrozenModel
from flowgauge.models.detector import Progress
from flowgauge.models.flows.coupling import CouplingFlow
from flowgauge.models.flows.training import Rows, Training, held_out_images, maximise_likelihood


def pooled(features: Sequence[Tensor]) -> Tensor:
    """(B, 3 * sum C): mean, deviation and maximum of every channel of the (B, C, H, W) features."""
    means, deviations, maxima = [], [], []
    for feature in features:
        # in three passes that go with the memory's order: `torch.std` takes six times as long on channels-last features
        x_BCHW = feature.float()
        mean = x_BCHW.mean(dim=(2, 3), keepdim=True)
        means.append(mean.flatten(1))
        deviations.append((x_BCHW - mean).square_().mean(dim=(2, 3)).sqrt())
        maxima.append(F.adaptive_max_pool2d(x_BCHW, 1).flatten(1))
    return torch.cat([*means, *deviations, *maxima], dim=1)


class PooledConfig(FrozenModel):
    """The flow of `rad`, narrower, and on one view alone."""

    blocks: int = Field(8, ge=1)
    hidden: int = Field(512, ge=1)
    clamp: float = Field(1.9, gt=0)
    training: Training = Training(steps=120, batch=64, learning_rate=1e-3, noise=0.1, check_every=20, patience=2)


class PooledDensity(nn.Module):
    """Negative log-likelihoods (B,) of pooled features (B, P), in nats per dimension (RAD, arXiv 2508.17789 s.3.1)."""

    def __init__(self, config: PooledConfig, dimensions: int) -> None:
        super().__init__()
        self._config = config
        self.centre = nn.Buffer(torch.zeros(dimensions))
        self.deviation = nn.Buffer(torch.ones(dimensions))
        self.flow = CouplingFlow(dimensions, blocks=config.blocks, hidden=config.hidden, clamp=config.clamp, seed=0)
        self.requires_grad_(False)

    def learn(self, pooled_NP: Tensor, image: Tensor, *, seed: int, progress: Progress) -> None:
        """Fit to good images, N >= 2; `image` (N,) says which rows show the same one."""
        self.centre.copy_(pooled_NP.mean(dim=0))
        self.deviation.copy_(pooled_NP.std(dim=0).clamp_min(1e-6))
        rows = Rows((pooled_NP.float() - self.centre) / self.deviation, held_out_images(image, 0.15, seed))
        self.flow.requires_grad_(True)
        maximise_likelihood(self.flow, rows, self._config.training, seed=seed, progress=progress)
        self.requires_grad_(False)

    def cross_fitted(self, pooled_NP: Tensor, image: Tensor, *, seed: int, progress: Progress) -> Tensor:
        """(N,): each image's negative log-likelihood under another density, trained by the half that it is not in."""
        # halves in the order of capture: neighbours in time, which look alike, are on one side
        later = image > image.median()
        nll = torch.empty(len(image))
        for rows in (later, ~later):
            other = PooledDensity(self._config, pooled_NP.shape[1])
            other.learn(pooled_NP[~rows], image[~rows], seed=seed, progress=progress)
            nll[rows] = other(pooled_NP[rows])
        return nll

    def realign(self, pooled_NP: Tensor) -> None:
        """Move the centre to the images' median, which holds while fewer than half of them are defects."""
        self.centre.copy_(pooled_NP.float().median(dim=0)[0])

    def forward(self, pooled_BP: Tensor) -> Tensor:
        return self.flow.nll((pooled_BP.float() - self.centre) / self.deviation)
