"""`headflow`: a flow over embedded tokens, one for every patch of the image (see the README).

The head (`flowgauge.models.headflow.head`) keeps what tells defects from good surfaces; a flow of coupling blocks gives
the likelihood of each patch. The image's score is that of its most anomalous patches, and a share of how unlikely its
pooled features are.
"""

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any, Self, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from flowgauge.domain.messages import FrozenModel
from flowgauge.domain.progress import labelled
from flowgauge.domain.seeding import seeded
from flowgauge.models.adaptable import Adaptable
from flowgauge.models.detector import (
    Embedding,
    FeatureShape,
    Progress,
    Scores,
    TrainingSet,
    folds_of_rows,
    length,
    select,
)
from flowgauge.models.flows.coupling import CouplingFlow
from flowgauge.models.flows.training import Rows, Training, held_out_images, maximise_likelihood
from flowgauge.models.headflow.head import Head, HeadConfig, fit_head
from flowgauge.models.headflow.pooled import PooledConfig, PooledDensity, pooled
from flowgauge.models.patch_scores import highest, lower_spread, nhwc, pyramid, smoothed

# what the names of meta-learned parameters begin with
HEAD = "head."
POOLED = "pooled"
# images that pass a head at once: more take memory for its hidden layers, fewer gain none
_BATCH = 64


class HeadFlowConfig(FrozenModel):
    members: int = Field(1, ge=1, le=10, description="heads, each trained without some folds of the parts")
    held_out_folds: int = Field(1, ge=1, description="of as many folds as members, that do not train a member")
    aggregate_fraction: float = Field(
        1.0, gt=0, le=1, description="a patch's score is the mean of the highest ceil(aggregate_fraction x members)"
    )
    head: HeadConfig = HeadConfig()
    blocks: int = Field(2, ge=1, description="coupling blocks of the flow")
    hidden: int = Field(32, ge=1, description="hidden units of each block's network")
    clamp: float = Field(0.3, gt=0, description="bound on the logarithm of a coupling's scales")
    top: float = Field(0.01, gt=0, le=1, description="share of patches whose mean is the image's score")
    near: float = Field(0.7, ge=0, description="deviation in patches of the Gaussian that outlines small defects")
    far: float = Field(5.0, ge=0, description="deviation in patches of the Gaussian that fills what is spread out")
    far_weight: float = Field(0.7, ge=0, description="of the coarse Gaussian beside the fine one")
    # the noise lies on tokens of mean deviation 1, and keeps the flow from whitening away the head's sense of distance
    training: Training = Training(steps=600, batch=2048, learning_rate=2e-3, noise=3.0, check_every=50)
    tokens_per_image: int = Field(340, ge=1, description="patches of each image that train the flow, at most")
    anomalies_per_image: int = Field(2, ge=1, description="copies of each image with a synthetic anomaly")
    pooled: PooledConfig = PooledConfig()
    pooled_weight: float = Field(1.0, ge=0, description="of the pooled term; both terms are in spreads of good images")

    @model_validator(mode="after")
    def _some_folds_train(self) -> Self:
        if self.held_out_folds > max(1, self.members - 1):
            raise ValueError(f"without {self.held_out_folds} of {self.members} folds nothing is left to train a member")
        return self


def ensemble_options(members: int) -> dict[str, Any]:
    """The configuration of an ensemble of so many members, where it differs from that of a single one (decision 12)."""
    if members == 1:
        return {"members": 1}
    # the maximum over several densities separates worse than the mean over several heads, so the pooled term weighs
    # less
    if members < 4:
        return {"members": members, "pooled_weight": 0.4}
    # each member does without some two fifths of the folds, so that defects that recur on a part have not trained it
    return {"members": members, "held_out_folds": round(0.4 * members), "aggregate_fraction": 0.5, "pooled_weight": 0.5}


class Member(nn.Module):
    """A head and a density of pooled features that were trained together, with scales from images that did not train
    them where there are any, so that several members speak on one scale.
    """

    def __init__(self, config: HeadFlowConfig, shape: FeatureShape) -> None:
        super().__init__()
        self._config = config.head
        with seeded(0):
            self.head = Head(config.head, shape).to(memory_format=torch.channels_last)
            self.pooled = PooledDensity(config.pooled, 3 * sum(shape.channels))
        self.centre = nn.Buffer(torch.zeros(config.head.dimensions))
        self.spread = nn.Buffer(torch.ones(()))
        self.whole_centre = nn.Buffer(torch.zeros(()))
        self.whole_spread = nn.Buffer(torch.ones(()))

    def learn(self, training_set: TrainingSet, *, seed: int, progress: Progress) -> None:
        """The head, from where its parameters stand, and the pooled density."""
        fit_head(self.head, training_set, self._config, seed=seed, progress=progress)
        self.head.eval().requires_grad_(False)
        self.pooled.learn(training_set.good[POOLED], training_set.image, seed=seed, progress=progress)

    def rescale(self, good: Embedding) -> Tensor:
        """Take the tokens' scale from good images, and return their tokens (N, h * w, D)."""
        with torch.inference_mode():
            rows = torch.split(torch.arange(length(good)), _BATCH)
            embedded_NTD = torch.cat([self._embedded(select(good, some)) for some in rows]).clone()
        self.centre.copy_(embedded_NTD.mean(dim=(0, 1)))
        # one number for all dimensions: the head's distances keep their meaning
        self.spread.copy_(embedded_NTD.std(dim=(0, 1)).mean())
        return (embedded_NTD - self.centre) / self.spread

    def _embedded(self, embedding: Embedding) -> Tensor:
        patches_BTD: Tensor = self.head(embedding).flatten(2).transpose(1, 2)
        return patches_BTD

    def tokens(self, embedding: Embedding) -> Tensor:
        """(B, h * w, D), row by row of the grid."""
        return (self._embedded(embedding) - self.centre) / self.spread

    def whole(self, embedding: Embedding) -> Tensor:
        """(B,): how unlikely each image's pooled features are, 0 for a common one and 1 a spread above it."""
        # asinh is linear near the good ones and logarithmic beyond: far from what trained it, a flow's likelihood has
        # no scale
        standard = (self.pooled(embedding[POOLED]) - self.whole_centre) / self.whole_spread
        return torch.asinh(standard)


class HeadFlow(Adaptable):
    name = "headflow"
    config: HeadFlowConfig

    def __init__(self, config: HeadFlowConfig, shape: FeatureShape) -> None:
        side = shape.sides[shape.grid]
        super().__init__(config, shape, (side, side))
        self.anomalies_per_image = config.anomalies_per_image
        self.members = nn.ModuleList(Member(config, shape) for _ in range(config.members))
        self.pooled_scale = nn.Buffer(torch.zeros(()))
        self.flow = CouplingFlow(
            config.head.dimensions, blocks=config.blocks, hidden=config.hidden, clamp=config.clamp, seed=0
        )

    @property
    def ensemble(self) -> tuple[Member, ...]:
        return tuple(cast(Member, member) for member in self.members)

    @property
    def heads(self) -> tuple[Head, ...]:
        return tuple(member.head for member in self.ensemble)

    def load_init(self, parameters: Mapping[str, Tensor]) -> None:
        """`head.*` for every member's head. The flow, `flow.*`, is better fitted from its own start (decision 11)."""
        given = {name.removeprefix(HEAD): value for name, value in parameters.items() if name.startswith(HEAD)}
        for head in self.heads:
            own = dict(head.named_parameters())
            if any(name not in own or own[name].shape != value.shape for name, value in given.items()):
                raise ValueError("these are parameters of heads of another shape")
            with torch.no_grad():
                for name, value in given.items():
                    own[name].copy_(value)

    def embed(self, features: Sequence[Tensor]) -> Embedding:
        """By `FeatureShape.keys` (B, C, H, W): features, none finer than the grid; `means` and `pooled` (B, ...)."""
        levels = {name: nhwc(feature.half()) for name, feature in pyramid(features, self.shape).items()}
        return levels | {POOLED: pooled(features)}

    def learn(self, training_set: TrainingSet, *, seed: int, progress: Progress) -> None:
        rows_N, tokens_NTD = self._train_members(training_set, seed, progress)
        images, patches, _ = tokens_NTD.shape
        few = min(self.config.tokens_per_image, patches)
        chosen = torch.randperm(patches, generator=torch.Generator().manual_seed(seed))[:few]
        held_out_N = held_out_images(training_set.image[rows_N], 0.1, seed)
        rows = Rows(tokens_NTD[:, chosen].flatten(0, 1), held_out_N.repeat_interleave(few))
        maximise_likelihood(self.flow, rows, self.config.training, seed=seed, progress=progress)
        # the pooled term counts in spreads of the patch term, so that `pooled_weight` compares like with like
        with torch.no_grad():
            nll_NT = self.flow.nll(tokens_NTD.flatten(0, 1)).view(images, patches)
        self.pooled_scale.copy_(self.config.pooled_weight * lower_spread(highest(nll_NT, self.config.top)))

    def _train_members(self, training_set: TrainingSet, seed: int, progress: Progress) -> tuple[Tensor, Tensor]:
        """Rows (N,) of the training set and their tokens (N, T, D), each by a member that it did not train, once for
        every such member; by the only member, where there is no other.
        """
        folds = folds_of_rows(training_set, len(self.ensemble))
        row_parts, token_parts = [], []
        for number, member in enumerate(self.ensemble):
            if len(folds) == 1:
                rows = folds[0]
                member.learn(training_set, seed=seed, progress=progress)
                # it has seen all images, and few of them leave much of its many dimensions that none has shown
                whole = member.pooled.cross_fitted(
                    training_set.good[POOLED], training_set.image, seed=seed, progress=progress
                )
            else:
                of_member = labelled(progress, f"member {number + 1} of {len(folds)}")
                rows = torch.cat((folds + folds)[number : number + self.config.held_out_folds])
                others = training_set.without(training_set.image[rows])
                member.learn(others, seed=seed, progress=of_member)
                whole = member.pooled(training_set.good[POOLED][rows])
            row_parts.append(rows)
            member.whole_centre.copy_(whole.median())
            member.whole_spread.copy_(lower_spread(whole))
            token_parts.append(member.rescale(select(training_set.good, rows)))
        return torch.cat(row_parts), torch.cat(token_parts)

    def rescale(self, embedding: Embedding) -> None:
        for member in self.ensemble:
            member.rescale(embedding)

    def realign(self, embedding: Embedding) -> None:
        for member in self.ensemble:
            member.pooled.realign(embedding[POOLED])

    def tokens(self, embedding: Embedding) -> Tensor:
        """(B, members * h * w, D): all patches as one member embeds them, then as the next does."""
        return torch.cat([member.tokens(embedding) for member in self.ensemble], dim=1)

    def _together(self, nll_BT: Tensor) -> Tensor:
        """(B, h * w): each patch's mean over those members that find it most anomalous."""
        each_BMT = nll_BT.view(len(nll_BT), len(self.ensemble), -1)
        most = ceil(self.config.aggregate_fraction * len(self.ensemble))
        return each_BMT.topk(most, dim=1)[0].mean(dim=1)

    def image_scores(self, nll_BT: Tensor, embedding: Embedding) -> Tensor:
        """The mean of the most anomalous patches, and the pooled term of the member where it is highest."""
        whole = torch.stack([member.whole(embedding) for member in self.ensemble]).amax(dim=0)
        return highest(self._together(nll_BT), self.config.top) + self.pooled_scale * whole

    def score_embedding(self, embedding: Embedding) -> Scores:
        nll_BT = self.nll(embedding)
        patches = self._together(nll_BT).view(-1, *self.grid)
        far = self.config.far_weight * smoothed(patches, self.config.far)
        return Scores(self.image_scores(nll_BT, embedding), smoothed(patches, self.config.near) + far)

    def score(self, features: Sequence[Tensor]) -> Scores:
        # not by way of `embed`, which would round the features to half precision and back
        return self.score_embedding(pyramid(features, self.shape) | {POOLED: pooled(features)})
