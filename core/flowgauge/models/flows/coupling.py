"""Normalizing flows of FrEIA coupling blocks, with their exact likelihood."""

import warnings
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from flowgauge.domain.seeding import seeded
from flowgauge.models.flows.flow import Flow

with warnings.catch_warnings():
    # FrEIA 0.2 has LaTeX in plain docstrings, which Python warns of when it compiles them
    warnings.filterwarnings("ignore", message="invalid escape sequence")
    warnings.filterwarnings("ignore", message=".*is an invalid escape sequence")
    import FrEIA.framework as ff
    import FrEIA.modules as fm


class CouplingFlow(Flow):
    r"""x (N, D) -> z (N, D), invertible, with log abs det dz/dx (N,).

    Each block scales and shifts one half of the dimensions by functions of the other half, applies a learned
    per-dimension affine map, and permutes (Real NVP, arXiv 1605.08803; RAD, arXiv 2508.17789 s.3.1). The logarithm of a
    scale lies in [-clamp, clamp].

    Two flows with the same arguments have the same parameters.
    """

    def __init__(self, dimensions: int, *, blocks: int, hidden: int, clamp: float, seed: int) -> None:
        super().__init__()
        self.dimensions = dimensions
        with seeded(seed):  # FrEIA draws its permutations from NumPy's global generator
            self.sequence = ff.SequenceINN(dimensions)
            for _ in range(blocks):
                self.sequence.append(_Block, subnet_constructor=partial(_subnet, hidden), affine_clamping=clamp)

    def forward(self, x_ND: Tensor) -> tuple[Tensor, Tensor]:
        z: Tensor
        log_det: Tensor
        z, log_det = self.sequence(x_ND)
        return z, log_det

    def inverse(self, z_ND: Tensor) -> Tensor:
        """x (N, D) with forward(x) = z."""
        x: Tensor
        x, _ = self.sequence(z_ND, rev=True)
        return x


class _Block(fm.AllInOneBlock):  # type: ignore[misc]
    """FrEIA's block, permuting by index."""

    w_perm: Any
    w_perm_inv: Any

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        # FrEIA multiplies with a D x D permutation matrix: storing and reading it would weigh more than the networks
        self.order = nn.Buffer(self.w_perm.flatten(1).argmax(dim=1))
        self.order_back = nn.Buffer(self.w_perm_inv.flatten(1).argmax(dim=1))
        self.w_perm = self.w_perm_inv = None

    def _permute(self, x: Tensor, rev: bool = False) -> tuple[Tensor, Tensor]:
        # z = P (a x + b), log abs det = sum of log a
        scale = self.global_scale_activation(self.global_scale)
        log_det = torch.log(scale).sum()
        if rev:
            return (x.index_select(1, self.order_back) - self.global_offset) / scale, log_det
        return (x * scale + self.global_offset).index_select(1, self.order), log_det


def _subnet(hidden: int, inputs: int, outputs: int) -> nn.Module:
    last = nn.Linear(hidden, outputs)
    # a coupling that begins as the identity: the first steps then fit scales before shapes
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), last)
