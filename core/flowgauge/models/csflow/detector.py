"""`csflow`: a flow over the whole image at several scales, whose every step sees all of them (see the README).

One frozen backbone sees the image at full, half and quarter size, and cross-scale coupling blocks give the likelihood
of the three feature maps together (CS-Flow, arXiv 2110.02855). A patch is as anomalous as its latent vector is long.

N rows, D dimensions of a row, C channels of every scale, S x S patches of one scale.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from flowgauge.domain.messages import FrozenModel
from flowgauge.domain.seeding import seeded
from flowgauge.models.adaptable import Adaptable
from flowgauge.models.detector import Embedding, FeatureShape, Progress, Scores, TrainingSet, select
from flowgauge.models.flows.flow import Flow
from flowgauge.models.flows.training import Rows, Training, held_out_images, maximise_likelihood
from flowgauge.models.patch_scores import highest, lower_spread, nhwc, to_grid
from flowgauge.vision.augmentation import PLAIN, View

# The share of the parts that stop the flow and calibrate it, and train neither it nor the whitening. With fewer, a
# handful of parts sets the scale; with more, the flow lacks them.
_HELD_OUT = 0.15
# the least spread, as a share of the centre: a handful of parts that happen to score alike would blow up the scale
_LEAST_SPREAD = 0.02


Maps = list[Tensor]
"""(N, C, S, S) of every scale, channels last in memory."""


@dataclass(frozen=True)
class Scales:
    """A row holds the maps of one image, a scale with `sides` S after the other: patch by patch, all channels of each
    (channels last, which convolutions on CPUs are quickest with).
    """

    channels: int
    sides: tuple[int, ...]

    @property
    def lengths(self) -> list[int]:
        """How much of a row each scale takes."""
        return [self.channels * side**2 for side in self.sides]

    def maps(self, x_ND: Tensor) -> Maps:
        parts = torch.split(x_ND, self.lengths, dim=1)
        return [
            part.reshape(-1, side, side, self.channels).permute(0, 3, 1, 2)
            for part, side in zip(parts, self.sides, strict=True)
        ]

    def rows(self, maps: Sequence[Tensor]) -> Tensor:
        return torch.cat([x_NCSS.permute(0, 2, 3, 1).flatten(1) for x_NCSS in maps], dim=1)


class CrossScaleFlow(Flow):
    r"""x (N, D) -> z (N, D), invertible, with log abs det dz/dx (N,): each image has its own.

    Each block permutes the channels of every scale, by an order that is drawn once, and scales and shifts one half of
    them by functions of the other half, then that half by functions of the first. The functions are convolutional, and
    those of one scale see all scales.

    `clamp` bounds the logarithm of a scale, `kernel` is the side of the conditioners' first convolutions, `top` the
    share of patches whose mean is an image's score, in (0, 1]. Two flows with the same arguments have the same
    parameters.
    """

    # a row is a whole image: more cost memory and gain nothing
    most_rows = 16

    def __init__(
        self, scales: Scales, *, blocks: int, hidden: int, kernel: int, clamp: float, top: float, seed: int
    ) -> None:
        super().__init__()
        self.scales = scales
        self.dimensions = sum(scales.lengths)
        self._top = top
        with seeded(seed):
            self.blocks = nn.ModuleList(_Block(scales, hidden, kernel, clamp) for _ in range(blocks))
        self.to(memory_format=torch.channels_last)

    def forward(self, x_ND: Tensor) -> tuple[Tensor, Tensor]:
        maps, log_det_N = self.scales.maps(x_ND), x_ND.new_zeros(len(x_ND))
        for block in self.blocks:
            maps, log_det_of_block = block(maps)
            log_det_N = log_det_N + log_det_of_block
        return self.scales.rows(maps), log_det_N

    def inverse(self, z_ND: Tensor) -> Tensor:
        """x (N, D) with forward(x) = z."""
        maps = self.scales.maps(z_ND)
        for block in reversed(self.blocks):
            maps = block.inverse(maps)  # type: ignore[operator]
        return self.scales.rows(maps)

    def energies(self, z_ND: Tensor) -> Tensor:
        """(N, S, S) on the finest grid: mean square of z over channels and scales; higher is more anomalous."""
        finest, weight = max(self.scales.sides), z_ND.new_tensor(self.scales.sides)
        energies = [z_NCSS.square().mean(dim=1, keepdim=True) for z_NCSS in self.scales.maps(z_ND)]
        together = torch.cat([to_grid(energy, finest) for energy in energies], dim=1)
        # scales weigh by their sides, for a coarse patch is smeared over many fine ones
        return (together * (weight / weight.sum())[:, None, None]).sum(dim=1)

    def token_scores_of(self, z_ND: Tensor, log_det_N: Tensor) -> Tensor:
        """(N,): the mean of the highest energies."""
        # how much the flow stretches space depends on an image's light and contrast more than on its defects, so the
        # determinant trains and does not score
        return highest(self.energies(z_ND).flatten(1), self._top)


class _Block(nn.Module):
    def __init__(self, scales: Scales, hidden: int, kernel: int, clamp: float) -> None:
        super().__init__()
        self._clamp = clamp
        self._kept = scales.channels // 2
        rest = scales.channels - self._kept
        order = torch.stack([torch.randperm(scales.channels) for _ in scales.sides])
        self.order = nn.Buffer(order)
        self.order_back = nn.Buffer(order.argsort(dim=1))
        self.first = _Conditioner(self._kept, 2 * rest, len(scales.sides), hidden, kernel)
        self.second = _Conditioner(rest, 2 * self._kept, len(scales.sides), hidden, kernel)

    def forward(self, maps: Maps) -> tuple[Maps, Tensor]:
        kept, rest = self._halves([x.index_select(1, order) for x, order in zip(maps, self.order, strict=True)])
        rest, log_det_of_rest = self._moved(rest, self.first(kept))
        kept, log_det_of_kept = self._moved(kept, self.second(rest))
        return _joined(kept, rest), log_det_of_rest + log_det_of_kept

    def inverse(self, maps: Maps) -> Maps:
        kept, rest = self._halves(maps)
        kept = self._moved_back(kept, self.second(rest))
        rest = self._moved_back(rest, self.first(kept))
        return [x.index_select(1, order) for x, order in zip(_joined(kept, rest), self.order_back, strict=True)]

    def _halves(self, maps: Maps) -> tuple[Maps, Maps]:
        return [x[:, : self._kept] for x in maps], [x[:, self._kept :] for x in maps]

    def _moved(self, maps: Maps, scale_shift: Maps) -> tuple[Maps, Tensor]:
        # y = x e^s + t, log abs det dy/dx = sum of s (Real NVP, arXiv 1605.08803 eq. 7 and 8)
        moved, log_dets = [], []
        for x, (log_scale, shift) in zip(maps, map(self._affine, scale_shift), strict=True):
            moved.append(x * log_scale.exp() + shift)
            log_dets.append(log_scale.sum(dim=(1, 2, 3)))
        return moved, torch.stack(log_dets).sum(dim=0)

    def _moved_back(self, maps: Maps, scale_shift: Maps) -> Maps:
        affine = map(self._affine, scale_shift)
        return [(x - shift) * (-log_scale).exp() for x, (log_scale, shift) in zip(maps, affine, strict=True)]

    def _affine(self, parameters_NCSS: Tensor) -> tuple[Tensor, Tensor]:
        # soft clamping to (-c, c): 2 / pi * c * arctan(s / c) (CS-Flow s.3.2)
        s, shift = parameters_NCSS.chunk(2, dim=1)
        return 2 / math.pi * self._clamp * torch.atan(s / self._clamp), shift


class _Conditioner(nn.Module):
    """Two layers: each scale by itself, then all scales on the grid of each."""

    def __init__(self, inputs: int, outputs: int, scales: int, hidden: int, kernel: int) -> None:
        super().__init__()
        self.enter = nn.ModuleList(nn.Conv2d(inputs, hidden, kernel, padding=kernel // 2) for _ in range(scales))
        self.leave = nn.ModuleList(
            nn.ModuleList(nn.Conv2d(hidden, outputs, 1, bias=source == target) for source in range(scales))
            for target in range(scales)
        )
        # a coupling that begins as the identity: the first steps then fit scales before shapes
        for parameter in self.leave.parameters():
            nn.init.zeros_(parameter)

    def forward(self, maps: Maps) -> Maps:
        seen = [F.leaky_relu(layer(x), 0.1) for layer, x in zip(self.enter, maps, strict=True)]
        found = []
        for target, layers in enumerate(self.leave):
            side, terms = seen[target].shape[-1], []
            for layer, x in zip(layers, seen, strict=True):  # type: ignore[call-overload]
                # a 1 x 1 layer and the interpolation commute, and the smaller grid is the cheaper one
                terms.append(layer(to_grid(x, side)) if x.shape[-1] > side else to_grid(layer(x), side))
            found.append(torch.stack(terms).sum(dim=0))
        return found


def _joined(kept: Maps, rest: Maps) -> Maps:
    return [torch.cat(halves, dim=1) for halves in zip(kept, rest, strict=True)]


class CsFlowConfig(FrozenModel):
    pyramid_levels: tuple[int, ...] = Field((0, 1, 2), min_length=1, description="how often a scale halves the image")
    blocks: int = Field(4, ge=1, description="coupling blocks")
    hidden: int = Field(48, ge=1, description="channels of the conditioners' first layers")
    kernel: int = Field(3, ge=1, description="side of the conditioners' first convolutions")
    clamp: float = Field(2.0, gt=0, description="bound on the logarithm of a coupling's scales")
    shrinkage: float = Field(1e-3, gt=0, le=1, description="of the features' correlations towards none")
    top: float = Field(0.1, gt=0, le=1, description="share of patches whose mean square of z is the image's score")
    whitened_share: float = Field(
        0.4, ge=0, le=1, description="weight of the whitened features beside z in the maps' geometric mean; 0: z alone"
    )
    augmentations: tuple[View, ...] = Field((PLAIN, View(flip=True)), description="that train; the plain one scores")
    training: Training = Training(steps=200, batch=16, learning_rate=1e-3, noise=0.2, check_every=50, patience=2)


class CsFlow(Adaptable):
    name = "csflow"
    config: CsFlowConfig
    flow: CrossScaleFlow

    def __init__(self, config: CsFlowConfig, shape: FeatureShape) -> None:
        channels = shape.channels[shape.coarsest]
        sides = tuple(-(-shape.sides[shape.coarsest] // 2**times) for times in config.pyramid_levels)
        super().__init__(config, shape, (max(sides), max(sides)))
        self.pyramid_levels = config.pyramid_levels
        self.whiten = nn.ModuleList(_Whiten(channels, side) for side in sides)
        self.flow = CrossScaleFlow(
            Scales(channels, sides),
            blocks=config.blocks,
            hidden=config.hidden,
            kernel=config.kernel,
            clamp=config.clamp,
            top=config.top,
            seed=0,
        )
        self.centre = nn.Buffer(torch.zeros(()))
        self.spread = nn.Buffer(torch.ones(()))
        self.unit = nn.Buffer(torch.ones(()))

    def training_views(self, images: int) -> tuple[View, ...]:
        return self.config.augmentations

    def embed(self, features: Sequence[Tensor]) -> Embedding:
        """`halved<n>` (B, C, S, S): the coarsest level's features of the image as it is halved so many times."""
        coarsest = features[self.shape.coarsest :: len(self.shape.strides)]
        return {_key(times): nhwc(x.half()) for times, x in zip(self.pyramid_levels, coarsest, strict=True)}

    def patch_features(self, embedding: Embedding) -> Tensor:
        return embedding[_key(min(self.pyramid_levels))]

    def learn(self, training_set: TrainingSet, *, seed: int, progress: Progress) -> None:
        parts = [training_set.part_of(number) for number in training_set.image.tolist()]
        numbers = {part: number for number, part in enumerate(dict.fromkeys(parts))}
        held_out = held_out_images(torch.tensor([numbers[part] for part in parts]), _HELD_OUT, seed)
        self.measure(select(training_set.good, ~held_out))
        rows = Rows(self.tokens(training_set.good)[:, 0], held_out)
        maximise_likelihood(self.flow, rows, self.config.training, seed=seed, progress=progress)
        # Scores and maps count in what parts have that trained nothing: over so many dimensions flow and whitening know
        # those that did by heart, the better the fewer they were, and cross-fitting would give another scale.
        token_scores_N, maps_NSS = self._scores(rows.x[rows.held_out])
        self.centre.copy_(token_scores_N.median())
        self.spread.copy_(lower_spread(token_scores_N).clamp_min(_LEAST_SPREAD * self.centre))
        self.unit.copy_(maps_NSS.mean())

    def measure(self, good: Embedding) -> None:
        for times, whiten in zip(self.pyramid_levels, self.whiten, strict=True):
            cast(_Whiten, whiten).measure(good[_key(times)].float(), self.config.shrinkage)

    def _scores(self, x_ND: Tensor) -> tuple[Tensor, Tensor]:
        """How anomalous each row is, (N,), and where, (N, S, S)."""
        with torch.no_grad():
            z_ND, log_det_N = self.flow(x_ND)
            after, before = self.flow.energies(z_ND), self.flow.energies(x_ND)
            # the paper's maps are E(z) alone, which show what is odd but blur where: each patch of z depends on all
            # patches around it
            share = self.config.whitened_share
            return self.flow.token_scores_of(z_ND, log_det_N), after ** (1 - share) * before**share

    def tokens(self, embedding: Embedding) -> Tensor:
        """One token an image: (B, 1, D), all patches of all scales."""
        maps = [w(embedding[_key(times)].float()) for times, w in zip(self.pyramid_levels, self.whiten, strict=True)]
        return self.flow.scales.rows(maps).unsqueeze(1)

    def image_scores(self, token_scores_BT: Tensor, embedding: Embedding) -> Tensor:
        """0 for what good parts commonly have that did not train, 1 a spread above it."""
        return (token_scores_BT[:, 0] - self.centre) / self.spread

    def score_embedding(self, embedding: Embedding) -> Scores:
        token_scores_B, maps_BSS = self._scores(self.tokens(embedding)[:, 0])
        return Scores(self.image_scores(token_scores_B[:, None], embedding), maps_BSS / self.unit)


class _Whiten(nn.Module):
    """(B, C, S, S), less what each patch is on average and multiplied by the channels' whitening matrix."""

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        self.centre = nn.Buffer(torch.zeros(channels, side, side))
        self.whitening = nn.Buffer(torch.eye(channels))

    def measure(self, x_NCSS: Tensor, shrinkage: float) -> None:
        """Take centre and covariance from good images."""
        # a patch shares its centre with its neighbours: products do not lie to the pixel
        self.centre.copy_(F.avg_pool2d(x_NCSS.mean(dim=0), 3, stride=1, padding=1, count_include_pad=False))
        departure_CM = (x_NCSS - self.centre).transpose(0, 1).flatten(1)
        deviation = departure_CM.square().mean(dim=1).sqrt().clamp_min(1e-6)
        standard_CM = departure_CM / deviation[:, None]
        correlation = (standard_CM @ standard_CM.T / standard_CM.shape[1]).double()
        # L^-1/2 V^T S^-1 of (1 - a) R + a I = V L V^T, with the correlations R and the channels' deviations S; without
        # the shrinkage directions in which a few images do not vary would be blown up
        shrunk = (1 - shrinkage) * correlation + shrinkage * torch.eye(len(correlation), dtype=torch.float64)
        values, vectors = torch.linalg.eigh(shrunk)
        self.whitening.copy_((vectors / values.sqrt()).T / deviation)

    def forward(self, x_BCSS: Tensor) -> Tensor:
        return F.conv2d(x_BCSS - self.centre, self.whitening[:, :, None, None])


def _key(times: int) -> str:
    return f"halved{times}"
