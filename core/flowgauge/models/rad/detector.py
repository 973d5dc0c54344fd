"""`rad`: the flow of the RAD and DifferNet papers, on features pooled over the whole image (see the README).

Eight coupling blocks with networks of 2,048 units give the likelihood (RAD, arXiv 2508.17789 s.3.1); scores are
averaged over views. Maps come from the likelihood's gradient: which patches would have to change for the image to be
likelier (DifferNet, arXiv 2008.12577).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from flowgauge.domain.messages import FrozenModel
from flowgauge.models.adaptable import Adaptable
from flowgauge.models.detector import Embedding, FeatureShape, Progress, Scores, TrainingSet
from flowgauge.models.flows.coupling import CouplingFlow
from flowgauge.models.flows.training import Rows, Training, held_out_images, maximise_likelihood
from flowgauge.models.headflow.pooled import pooled
from flowgauge.vision.augmentation import PLAIN, View


class RadConfig(FrozenModel):
    blocks: int = Field(8, ge=1, description="coupling blocks")
    hidden: int = Field(2048, ge=1, description="hidden units of each block's network")
    clamp: float = Field(1.9, gt=0, description="bound on the logarithm of a coupling's scales")
    # they train, and are averaged when scoring
    views: tuple[View, ...] = (
        PLAIN,
        View(turns=2, gain=1.15),
        View(flip=True, contrast=0.85),
        View(flip=True, turns=2, gain=0.9, contrast=1.1),
    )
    training: Training = Training(steps=120, batch=128, learning_rate=1e-3, noise=0.1, check_every=20, patience=2)


class Rad(Adaptable):
    name = "rad"
    config: RadConfig
    flow: CouplingFlow

    def __init__(self, config: RadConfig, shape: FeatureShape) -> None:
        side = shape.sides[shape.coarsest]
        super().__init__(config, shape, (side, side))
        self.views = config.views
        dimensions = 3 * sum(shape.channels)
        self.mean = nn.Buffer(torch.zeros(dimensions))
        self.deviation = nn.Buffer(torch.ones(dimensions))
        self.flow = CouplingFlow(dimensions, blocks=config.blocks, hidden=config.hidden, clamp=config.clamp, seed=0)

    def embed(self, features: Sequence[Tensor]) -> Embedding:
        """`pooled` (B, 3 * sum C): mean, deviation and maximum of every channel; `local` (B, sum C, h, w): means of
        every channel over the cells of the grid, for the maps.
        """
        local = [F.adaptive_avg_pool2d(feature.float(), self.grid) for feature in features]
        return {"pooled": pooled(features), "local": torch.cat(local, dim=1).half()}

    def patch_features(self, embedding: Embedding) -> Tensor:
        return embedding["local"]

    def learn(self, training_set: TrainingSet, *, seed: int, progress: Progress) -> None:
        x = training_set.good["pooled"].float()
        self.mean.copy_(x.mean(dim=0))
        self.deviation.copy_(x.std(dim=0).clamp_min(1e-6))
        rows = Rows((x - self.mean) / self.deviation, held_out_images(training_set.image, 0.15, seed))
        maximise_likelihood(self.flow, rows, self.config.training, seed=seed, progress=progress)

    def tokens(self, embedding: Embedding) -> Tensor:
        """One token an image: (B, 1, 3 * sum C)."""
        return ((embedding["pooled"].float() - self.mean) / self.deviation).unsqueeze(1)

    def image_scores(self, nll_BT: Tensor, embedding: Embedding) -> Tensor:
        return nll_BT[:, 0]

    def score_embedding(self, embedding: Embedding) -> Scores:
        with torch.inference_mode(False), torch.enable_grad():
            x = embedding["pooled"].float().clone().requires_grad_()
            scores = self.image_scores(self.nll({"pooled": x}), embedding)
            # each image's score depends on its own row alone, so one sum gives every image its own gradient
            (gradient,) = torch.autograd.grad(scores.sum(), x)
        mean, deviation, _ = (part[:, :, None, None] for part in x.detach().chunk(3, dim=1))
        d_mean, d_deviation, d_maximum = (part[:, :, None, None] for part in gradient.chunk(3, dim=1))
        # How much each patch adds to the score, to first order (DifferNet s.3.4): the chain rule from the pooled
        # statistics to the patches, with the cells' means f standing for the features. Sum over channels of
        # abs((f - mean) (d_mean + (f - mean) / deviation d_deviation + [f is the maximum] patches d_maximum)).
        local_BCHW = embedding["local"].float()
        departure = local_BCHW - mean
        patches = local_BCHW.shape[2] * local_BCHW.shape[3]
        is_maximum = local_BCHW == local_BCHW.amax(dim=(2, 3), keepdim=True)
        slope = d_mean + departure / deviation.clamp_min(1e-6) * d_deviation + is_maximum * patches * d_maximum
        return Scores(scores.detach(), (departure * slope).abs().sum(dim=1))
