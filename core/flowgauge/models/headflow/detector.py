"""`headflow`: a flow over embedded tokens, one for every patch of the image (FCDD, arXiv 2007.01760; HSC, 2006.00339).

Features of several strides meet on one grid, where the head (see `flowgauge.models.headflow.head`) keeps what tells
defects from good surfaces; a flow of coupling blocks gives the likelihood of each patch. The image's score is that of
its most anomalous patches, and a share of how unlikely its pooled features are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any, Self, cast

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from flowgauge.domain.messages import FrozenModel
from flowgauge.domain.seeding import seeded
from flowgauge.models.adaptable import Adaptable
from flowgauge.models.detector import Embedding, FeatureShape, Progress, Scores, TrainingSet, folds_of_rows, select
from flowgauge.models.flows.coupling import CouplingFlow
from flowgauge.models.flows.training import Rows, Training, held_out_images, maximise_likelihood
from flowgauge.models.headflow.head import Head, HeadConfig, pyramid
from flowgauge.models.headflow.member import POOLED, Member, MemberConfig, lower_spread
from flowgauge.models.headflow.pooled import PooledConfig, pooled
from flowgauge.models.windows import nhwc

HEAD, FLOW = "head.", "flow."
"""What the names of meta-learned parameters begin with."""


class HeadFlowConfig(FrozenModel):
    """`top` is the share of patches whose mean is the image's score, in (0, 1]; `noise` of the training lies on tokens
    whose mean deviation is 1, and keeps the flow from whitening away the head's sense of distance. `pooled_weight` is
    that of the pooled features' likelihood beside the patches', both in units of their own spread on good images.

    With several `members`, the parts have as many folds, and each is trained without `held_out_folds` of them, so a
    defect that recurs on a part has not trained all of them. A patch is as anomalous as those find it on average that
    find it most so, a share `aggregate_fraction` of them, rounded up; the whole image as the one does that finds it
    most so.

    Maps are the patches smoothed by a Gaussian of deviation `near`, which outlines small defects, and `far_weight`
    times the same by one of deviation `far`, which fills what is spread out; in places.
    """

    members: int = Field(1, ge=1, le=10)
    held_out_folds: int = Field(1, ge=1)
    aggregate_fraction: float = Field(1.0, gt=0, le=1)
    head: HeadConfig = HeadConfig()
    blocks: int = Field(2, ge=1)
    hidden: int = Field(32, ge=1)
    clamp: float = Field(0.3, gt=0)
    top: float = Field(0.01, gt=0, le=1)
    near: float = Field(0.7, ge=0)
    far: float = Field(5.0, ge=0)
    far_weight: float = Field(0.7, ge=0)
    training: Training = Training(steps=600, batch=2048, learning_rate=2e-3, noise=3.0, check_every=50)
    tokens_per_image: int = Field(340, ge=1)
    anomalies_per_image: int = Field(2, ge=1)
    pooled: PooledConfig = PooledConfig()
    pooled_weight: float = Field(1.0, ge=0)

    @model_validator(mode="after")
    def _some_folds_train(self) -> Self:
        if self.held_out_folds > max(1, self.members - 1):
            raise ValueError(f"without {self.held_out_folds} of {self.members} folds nothing is left to train a member")
        return self


def ensemble_options(members: int) -> dict[str, Any]:
    """The configuration of an ensemble of so many members, where it differs from that of a single one (decision 12).

    The pooled term weighs less: the most anomalous of several densities is a coarser judge than several heads. From
    four members on, each does without some two fifths of the folds, and half of them are heard.
    """
    if members == 1:
        return {"members": 1}
    if members < 4:
        return {"members": members, "pooled_weight": 0.4}
    return {"members": members, "held_out_folds": round(0.4 * members), "aggregate_fraction": 0.5, "pooled_weight": 0.5}


class HeadFlow(Adaptable):
    name = "headflow"
    config: HeadFlowConfig

    def __init__(self, config: HeadFlowConfig, shape: FeatureShape) -> None:
        side = shape.sides[shape.grid]
        super().__init__(config, shape, (side, side))
        self.anomalies_per_image = config.anomalies_per_image
        self.members = nn.ModuleList(_member(config, shape) for _ in range(config.members))
        self.pooled_scale: Tensor
        self.register_buffer("pooled_scale", torch.zeros(()))
        self.flow = CouplingFlow(
            config.head.dimensions, blocks=config.blocks, hidden=config.hidden, clamp=config.clamp, seed=0
        )

    @property
    def ensemble(self) -> tuple[Member, ...]:
        """Its members; all start from the same parameters."""
        return tuple(cast(Member, member) for member in self.members)

    def load_init(self, parameters: Mapping[str, Tensor]) -> None:
        """`head.*` for every member's head. The flow, `flow.*`, is better fitted from its own start (decision 11)."""
        head = {name.removeprefix(HEAD): value for name, value in parameters.items() if name.startswith(HEAD)}
        for member in self.ensemble:
            _begin(member.head, head)

    def embed(self, features: Sequence[Tensor]) -> Embedding:
        """By `FeatureShape.keys` (B, C, H, W): every level's features, those finer than the grid brought to it; `means`
        and `pooled` (B, ...) of the whole image.
        """
        levels = {name: nhwc(feature.half()) for name, feature in pyramid(features, self.shape).items()}
        return levels | {POOLED: pooled(features)}

    def patch_features(self, embedding: Embedding) -> Tensor:
        """Of the coarsest level: finer ones tell the texture's phase rather than what it is."""
        return embedding[self.shape.keys[self.shape.coarsest]]

    def learn(self, training_set: TrainingSet, *, seed: int, progress: Progress) -> None:
        own = self._trained(training_set, seed, progress)
        rows = self._sampled(own, training_set, seed)
        maximise_likelihood(self.flow, rows, self.config.training, seed=seed, progress=progress)
        with torch.no_grad():
            patches = self._highest(self.flow.nll(own.tokens.flatten(0, 1)).view(own.tokens.shape[:2]))
        self.pooled_scale.copy_(self.config.pooled_weight * lower_spread(patches))

    def _trained(self, training_set: TrainingSet, seed: int, progress: Progress) -> "_Own":
        """Train the members. A single one has seen all images; its pooled density is then measured cross-fitted, for
        few images leave much that none has shown.
        """
        parts = []
        for number, (member, rows) in enumerate(zip(self.ensemble, self._held_out_folds(training_set), strict=True)):
            numbered = _numbered(progress, number, len(self.ensemble))
            if len(self.ensemble) == 1:
                member.learn(training_set, seed=seed, progress=numbered)
                whole = member.pooled.cross_fitted(
                    training_set.good[POOLED], training_set.image, seed=seed, progress=numbered
                )
            else:
                member.learn(training_set.without(training_set.image[rows]), seed=seed, progress=numbered)
                whole = member.pooled(training_set.good[POOLED][rows])
            parts.append(_Own(rows, member.measure(select(training_set.good, rows), whole)))
        return _Own(torch.cat([part.rows for part in parts]), torch.cat([part.tokens for part in parts]))

    def _held_out_folds(self, training_set: TrainingSet) -> list[Tensor]:
        """The rows on which each member is measured: all for a single one, else those that do not train it."""
        folds = folds_of_rows(training_set, len(self.ensemble))
        around = folds + folds
        return [torch.cat(around[first : first + self.config.held_out_folds]) for first in range(len(folds))]

    @property
    def heads(self) -> tuple[Head, ...]:
        return tuple(member.head for member in self.ensemble)

    def rescale(self, embedding: Embedding) -> None:
        for member in self.ensemble:
            member.rescale(embedding)

    def realign(self, embedding: Embedding) -> None:
        for member in self.ensemble:
            member.pooled.realign(embedding[POOLED])

    def _sampled(self, own: "_Own", training_set: TrainingSet, seed: int) -> Rows:
        generator = torch.Generator().manual_seed(seed)
        patches = own.tokens.shape[1]
        few = min(self.config.tokens_per_image, patches)
        chosen = torch.randperm(patches, generator=generator)[:few]
        held_out = held_out_images(training_set.image[own.rows], 0.1, seed)
        return Rows(own.tokens[:, chosen].flatten(0, 1), held_out.repeat_interleave(few))

    def tokens(self, embedding: Embedding) -> Tensor:
        """(B, members * h * w, D): all patches as one member tells of them, then as the next does."""
        return torch.cat([member.tokens(embedding) for member in self.ensemble], dim=1)

    def image_scores(self, nll_BT: Tensor, embedding: Embedding) -> Tensor:
        """The mean of the most anomalous patches, and the pooled term."""
        return self._highest(self._together(nll_BT)) + self._whole(embedding)

    def _together(self, nll_BT: Tensor) -> Tensor:
        """(B, h * w): each patch as those members find it on average that find it most anomalous."""
        each_BMT = nll_BT.view(len(nll_BT), len(self.ensemble), -1)
        aggregate_fraction = ceil(self.config.aggregate_fraction * len(self.ensemble))
        return each_BMT.topk(aggregate_fraction, dim=1)[0].mean(dim=1)

    def _whole(self, embedding: Embedding) -> Tensor:
        most = torch.stack([member.whole(embedding) for member in self.ensemble]).amax(dim=0)
        whole: Tensor = self.pooled_scale * most
        return whole

    def _highest(self, patches_BT: Tensor) -> Tensor:
        most = max(1, round(self.config.top * patches_BT.shape[1]))
        return patches_BT.topk(most, dim=1)[0].mean(dim=1)

    def score_embedding(self, embedding: Embedding) -> Scores:
        nll_BT = self.nll(embedding)
        patches = self._together(nll_BT).view(-1, *self.grid)
        return Scores(self.image_scores(nll_BT, embedding), self._maps(patches))

    def _maps(self, patches_BHW: Tensor) -> Tensor:
        far = self.config.far_weight * smoothed(patches_BHW, self.config.far)
        return smoothed(patches_BHW, self.config.near) + far

    def score(self, features: Sequence[Tensor]) -> Scores:
        return self.score_embedding(pyramid(features, self.shape) | {POOLED: pooled(features)})


@dataclass(frozen=True)
class _Own:
    """`rows` of a training set and their tokens (n, T, D), each told by a member that was not trained with it, if there
    is one, and once for every such member.
    """

    rows: Tensor
    tokens: Tensor


def _member(config: HeadFlowConfig, shape: FeatureShape) -> Member:
    with seeded(0):
        return Member(MemberConfig(head=config.head, pooled=config.pooled), shape)


def _begin(module: nn.Module, parameters: Mapping[str, Tensor]) -> None:
    own = dict(module.named_parameters())
    if any(name not in own or own[name].shape != value.shape for name, value in parameters.items()):
        raise ValueError("these are parameters of heads of another shape")
    with torch.no_grad():
        for name, value in parameters.items():
            own[name].copy_(value)


def _numbered(progress: Progress, number: int, members: int) -> Progress:
    if members == 1:
        return progress
    return lambda what, done, total: progress(f"{what}, member {number + 1} of {members}", done, total)


def smoothed(maps_BHW: Tensor, deviation: float) -> Tensor:
    """Each map under a Gaussian of so many patches; the border's values go on beyond it."""
    if deviation == 0:
        return maps_BHW
    reach = max(1, round(3 * deviation))
    offsets = torch.arange(-reach, reach + 1, device=maps_BHW.device, dtype=maps_BHW.dtype)
    kernel = torch.exp(-0.5 * (offsets / deviation) ** 2)
    kernel = kernel / kernel.sum()
    padded = F.pad(maps_BHW.unsqueeze(1), (reach,) * 4, mode="replicate")
    columns = F.conv2d(padded, kernel[None, None, :, None])
    return F.conv2d(columns, kernel[None, None, None, :]).squeeze(1)
