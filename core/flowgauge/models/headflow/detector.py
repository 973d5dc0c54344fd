"""`headflow`: a flow over guided tokens, one for every place of the image (FCDD, arXiv 2007.01760; HSC, 2006.00339).

Features of several strides meet on one grid, where the guide (see `flowgauge.models.headflow.head`) keeps what tells
defects from good surfaces; a flow of coupling blocks gives the likelihood of each place. The image's score is that of
its most anomalous places, and a share of how unlikely its pooled features are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any, Self, cast

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from flowgauge.domain.messages import Part
from flowgauge.domain.seeding import seeded
from flowgauge.models.adaptable import Adaptable
from flowgauge.models.detector import Embedding, FeatureShape, Lesson, Progress, Scores, folds_of_rows, select
from flowgauge.models.flows.coupling import CouplingFlow
from flowgauge.models.flows.training import Rows, Training, held_out_images, maximise_likelihood
from flowgauge.models.headflow.head import Guide, GuideConfig, pyramid
from flowgauge.models.headflow.member import POOLED, Member, MemberConfig, lower_spread
from flowgauge.models.headflow.pooled import PooledConfig, pooled
from flowgauge.models.windows import nhwc

GUIDE, FLOW = "guide.", "flow."
"""What the names of meta-learned parameters begin with."""


class HeadFlowConfig(Part):
    """`top` is the share of places whose mean is the image's score, in (0, 1]; `noise` of the training lies on tokens
    whose mean deviation is 1, and keeps the flow from whitening away the guide's sense of distance. `pooled_weight` is
    that of the pooled features' likelihood beside the places', both in units of their own spread on good images.

    With several `members`, the parts have as many folds, and each is taught without `unseen` of them, so a defect that
    recurs on a part has not taught all of them. A place is as anomalous as those find it on average that find it most
    so, a share `heard` of them, rounded up; the whole image as the one does that finds it most so.

    Maps are the places smoothed by a Gaussian of deviation `near`, which outlines small defects, and `far_weight` times
    the same by one of deviation `far`, which fills what is spread out; in places.
    """

    members: int = Field(1, ge=1, le=10)
    unseen: int = Field(1, ge=1)
    heard: float = Field(1.0, gt=0, le=1)
    guide: GuideConfig = GuideConfig()
    blocks: int = Field(2, ge=1)
    hidden: int = Field(32, ge=1)
    clamp: float = Field(0.3, gt=0)
    top: float = Field(0.01, gt=0, le=1)
    near: float = Field(0.7, ge=0)
    far: float = Field(5.0, ge=0)
    far_weight: float = Field(0.7, ge=0)
    training: Training = Training(steps=600, batch=2048, learning_rate=2e-3, noise=3.0, check_every=50)
    tokens_per_image: int = Field(340, ge=1)
    paintings: int = Field(2, ge=1)
    pooled: PooledConfig = PooledConfig()
    pooled_weight: float = Field(1.0, ge=0)

    @model_validator(mode="after")
    def _some_folds_teach(self) -> Self:
        if self.unseen > max(1, self.members - 1):
            raise ValueError(f"without {self.unseen} of {self.members} folds nothing is left to teach a member")
        return self


def panel_options(members: int) -> dict[str, Any]:
    """The configuration of a panel of so many members, where it differs from that of a single one (decision 12).

    The pooled term weighs less: the most anomalous of several densities is a coarser judge than several guides. From
    four members on, each does without some two fifths of the folds, and half of them are heard.
    """
    if members == 1:
        return {"members": 1}
    if members < 4:
        return {"members": members, "pooled_weight": 0.4}
    return {"members": members, "unseen": round(0.4 * members), "heard": 0.5, "pooled_weight": 0.5}


class HeadFlow(Adaptable):
    name = "headflow"
    config: HeadFlowConfig

    def __init__(self, config: HeadFlowConfig, shape: FeatureShape) -> None:
        side = shape.sides[shape.grid]
        super().__init__(config, shape, (side, side))
        self.paintings = config.paintings
        self.members = nn.ModuleList(_member(config, shape) for _ in range(config.members))
        self.pooled_scale: Tensor
        self.register_buffer("pooled_scale", torch.zeros(()))
        self.flow = CouplingFlow(
            config.guide.dimensions, blocks=config.blocks, hidden=config.hidden, clamp=config.clamp, seed=0
        )

    @property
    def panel(self) -> tuple[Member, ...]:
        """Its members; all start from the same parameters."""
        return tuple(cast(Member, member) for member in self.members)

    def load_init(self, parameters: Mapping[str, Tensor]) -> None:
        """`guide.*` for every member's guide. The flow, `flow.*`, is better fitted from its own start (decision 11)."""
        guide = {name.removeprefix(GUIDE): value for name, value in parameters.items() if name.startswith(GUIDE)}
        for member in self.panel:
            _begin(member.guide, guide)

    def embed(self, features: Sequence[Tensor]) -> Embedding:
        """By `FeatureShape.keys` (B, C, H, W): every level's features, those finer than the grid brought to it; `means`
        and `pooled` (B, ...) of the whole image.
        """
        levels = {name: nhwc(feature.half()) for name, feature in pyramid(features, self.shape).items()}
        return levels | {POOLED: pooled(features)}

    def surface(self, embedding: Embedding) -> Tensor:
        """Of the coarsest level: finer ones tell the texture's phase rather than what it is."""
        return embedding[self.shape.keys[self.shape.coarsest]]

    def learn(self, lesson: Lesson, *, seed: int, progress: Progress) -> None:
        own = self._taught(lesson, seed, progress)
        rows = self._sampled(own, lesson, seed)
        maximise_likelihood(self.flow, rows, self.config.training, seed=seed, progress=progress)
        with torch.no_grad():
            places = self._highest(self.flow.nll(own.tokens.flatten(0, 1)).view(own.tokens.shape[:2]))
        self.pooled_scale.copy_(self.config.pooled_weight * lower_spread(places))

    def _taught(self, lesson: Lesson, seed: int, progress: Progress) -> "_Own":
        """Teach the members. A single one has seen all images; its pooled density is then measured cross-fitted, for
        few images leave much that none has shown.
        """
        parts = []
        for number, (member, rows) in enumerate(zip(self.panel, self._unseen(lesson), strict=True)):
            told = _numbered(progress, number, len(self.panel))
            if len(self.panel) == 1:
                member.learn(lesson, seed=seed, progress=told)
                whole = member.pooled.cross_fitted(lesson.good[POOLED], lesson.image, seed=seed, progress=told)
            else:
                member.learn(lesson.without(lesson.image[rows]), seed=seed, progress=told)
                whole = member.pooled(lesson.good[POOLED][rows])
            parts.append(_Own(rows, member.measure(select(lesson.good, rows), whole)))
        return _Own(torch.cat([part.rows for part in parts]), torch.cat([part.tokens for part in parts]))

    def _unseen(self, lesson: Lesson) -> list[Tensor]:
        """The rows on which each member is measured: all for a single one, else those that do not teach it."""
        folds = folds_of_rows(lesson, len(self.panel))
        around = folds + folds
        return [torch.cat(around[first : first + self.config.unseen]) for first in range(len(folds))]

    @property
    def guides(self) -> tuple[Guide, ...]:
        return tuple(member.guide for member in self.panel)

    def rescale(self, embedding: Embedding) -> None:
        for member in self.panel:
            member.rescale(embedding)

    def recentre(self, embedding: Embedding) -> None:
        for member in self.panel:
            member.pooled.recentre(embedding[POOLED])

    def _sampled(self, own: "_Own", lesson: Lesson, seed: int) -> Rows:
        generator = torch.Generator().manual_seed(seed)
        images, places, _ = own.tokens.shape
        few = min(self.config.tokens_per_image, places)
        chosen = torch.randperm(places, generator=generator)[:few]
        held_out = held_out_images(lesson.image[own.rows], 0.1, seed)
        teaching = torch.ones(images, few, dtype=torch.bool)
        if lesson.doubted is not None:
            teaching = ~lesson.doubted[own.rows].flatten(1)[:, chosen]
        return Rows(own.tokens[:, chosen][teaching], held_out.repeat_interleave(few)[teaching.flatten()])

    def tokens(self, embedding: Embedding) -> Tensor:
        """(B, members * h * w, D): all places as one member tells of them, then as the next does."""
        return torch.cat([member.tokens(embedding) for member in self.panel], dim=1)

    def image_scores(self, nll_BT: Tensor, embedding: Embedding) -> Tensor:
        """The mean of the most anomalous places, and the pooled term."""
        return self._highest(self._together(nll_BT)) + self._whole(embedding)

    def _together(self, nll_BT: Tensor) -> Tensor:
        """(B, h * w): each place as those members find it on average that find it most anomalous."""
        each_BMT = nll_BT.view(len(nll_BT), len(self.panel), -1)
        heard = ceil(self.config.heard * len(self.panel))
        return each_BMT.topk(heard, dim=1)[0].mean(dim=1)

    def _whole(self, embedding: Embedding) -> Tensor:
        most = torch.stack([member.whole(embedding) for member in self.panel]).amax(dim=0)
        whole: Tensor = self.pooled_scale * most
        return whole

    def _highest(self, places_BT: Tensor) -> Tensor:
        most = max(1, round(self.config.top * places_BT.shape[1]))
        return places_BT.topk(most, dim=1)[0].mean(dim=1)

    def score_embedding(self, embedding: Embedding) -> Scores:
        nll_BT = self.nll(embedding)
        places = self._together(nll_BT).view(-1, *self.grid)
        return Scores(self.image_scores(nll_BT, embedding), self._maps(places))

    def _maps(self, places_BHW: Tensor) -> Tensor:
        far = self.config.far_weight * smoothed(places_BHW, self.config.far)
        return smoothed(places_BHW, self.config.near) + far

    def score(self, features: Sequence[Tensor]) -> Scores:
        return self.score_embedding(pyramid(features, self.shape) | {POOLED: pooled(features)})


@dataclass(frozen=True)
class _Own:
    """`rows` of a lesson and their tokens (n, T, D), each told by a member that was not taught with it, if there is
    one, and once for every such member.
    """

    rows: Tensor
    tokens: Tensor


def _member(config: HeadFlowConfig, shape: FeatureShape) -> Member:
    with seeded(0):
        return Member(MemberConfig(guide=config.guide, pooled=config.pooled), shape)


def _begin(module: nn.Module, parameters: Mapping[str, Tensor]) -> None:
    own = dict(module.named_parameters())
    if any(name not in own or own[name].shape != value.shape for name, value in parameters.items()):
        raise ValueError("these are parameters of guides of another shape")
    with torch.no_grad():
        for name, value in parameters.items():
            own[name].copy_(value)


def _numbered(progress: Progress, number: int, members: int) -> Progress:
    if members == 1:
        return progress
    return lambda what, done, total: progress(f"{what}, member {number + 1} of {members}", done, total)


def smoothed(maps_BHW: Tensor, deviation: float) -> Tensor:
    """Each map under a Gaussian of so many places; the border's values go on beyond it."""
    if deviation == 0:
        return maps_BHW
    reach = max(1, round(3 * deviation))
    offsets = torch.arange(-reach, reach + 1, device=maps_BHW.device, dtype=maps_BHW.dtype)
    kernel = torch.exp(-0.5 * (offsets / deviation) ** 2)
    kernel = kernel / kernel.sum()
    padded = F.pad(maps_BHW.unsqueeze(1), (reach,) * 4, mode="replicate")
    columns = F.conv2d(padded, kernel[None, None, :, None])
    return F.conv2d(columns, kernel[None, None, None, :]).squeeze(1)
