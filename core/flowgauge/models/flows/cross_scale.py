"""A normalizing flow over feature maps of several scales at once (CS-Flow, arXiv 2110.02855 s.3.2).

N rows, D dimensions of a row, C channels of every scale, S x S patches of one scale.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowgauge.domain.seeding import seeded
from flowgauge.models.flows.flow import Flow
from flowgauge.models.patch_scores import highest, to_grid

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
