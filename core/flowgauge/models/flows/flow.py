"""What every flow of a detector does, however it is built, and a product of flows."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

HALF_LOG_TAU = 0.5 * math.log(2 * math.pi)


class Flow(nn.Module, ABC):
    """x (N, `dimensions`) -> z of the same shape, invertible, with log abs det dz/dx (N,): each row has its own."""

    dimensions: int
    most_rows: ClassVar[int] = 2**20
    """How many rows the inner loop may draw at once: where a row is a whole image, few are enough."""

    @abstractmethod
    def forward(self, x_ND: Tensor) -> tuple[Tensor, Tensor]: ...

    def nll(self, x_ND: Tensor) -> Tensor:
        """-log p(x) / D (N,), in nats per dimension: higher is more anomalous."""
        return self.nll_of(*self(x_ND))

    def nll_of(self, z_ND: Tensor, log_det_N: Tensor) -> Tensor:
        """The same from what `forward` gave."""
        # log p(x) = log N(z; 0, 1) + log abs det dz/dx (RAD, arXiv 2508.17789 eq. 1), and
        # -log N(z; 0, 1) / D = abs(z)^2 / 2 D + log(2 pi) / 2
        nll: Tensor = (0.5 * z_ND.square().sum(dim=1) - log_det_N) / self.dimensions + HALF_LOG_TAU
        return nll

    def token_scores_of(self, z_ND: Tensor, log_det_N: Tensor) -> Tensor:
        """How anomalous each row is, higher is more so: `nll_of` (N,), unless a flow scores by something else than what
        it is trained by. A product of K flows gives the K terms (N, K).
        """
        return self.nll_of(z_ND, log_det_N)


class ProductFlow(Flow):
    """x (N, sum of D_k) -> z of the same shape, log abs det dz_k/dx_k (N, K): flow k maps the k-th slice of each row.

    The flows are independent: log p(x) = sum over k of log p_k(x_k). `nll` is that of the whole row; `token_scores_of`
    keeps the K terms apart.
    """

    # each row costs K flows; 512 are also what each flow is fitted by at a time
    most_rows = 512

    def __init__(self, flows: Sequence[Flow]) -> None:
        super().__init__()
        self.flows = nn.ModuleList(flows)
        self.widths = [flow.dimensions for flow in flows]
        self.dimensions = sum(self.widths)

    @property
    def _each(self) -> list[Flow]:
        return [flow for flow in self.flows if isinstance(flow, Flow)]

    def part(self, first: int, end: int) -> "ProductFlow":
        """Flows `first` to `end` - 1, which share their parameters with these."""
        return ProductFlow(self._each[first:end])

    def forward(self, x_ND: Tensor) -> tuple[Tensor, Tensor]:
        found = [flow(x) for flow, x in zip(self.flows, torch.split(x_ND, self.widths, dim=1), strict=True)]
        return torch.cat([z for z, _ in found], dim=1), torch.stack([log_det for _, log_det in found], dim=1)

    def nll_of(self, z_ND: Tensor, log_det_NK: Tensor) -> Tensor:
        return super().nll_of(z_ND, log_det_NK.sum(dim=1))

    def token_scores_of(self, z_ND: Tensor, log_det_NK: Tensor) -> Tensor:
        """-log p_k(x_k) / D_k (N, K), in nats per dimension: higher is more anomalous."""
        energy = torch.stack([z.square().sum(dim=1) for z in torch.split(z_ND, self.widths, dim=1)], dim=1)
        return (0.5 * energy - log_det_NK) / z_ND.new_tensor(self.widths) + HALF_LOG_TAU

    def scores_of_each(self, rows: Sequence[Tensor]) -> list[Tensor]:
        """The same term by term, (B, T_k, 1) from rows (B, T_k, D_k), of which each flow may have another number."""
        return [
            flow.token_scores_of(*flow(x_BTD.flatten(0, 1))).view(*x_BTD.shape[:2], 1)
            for flow, x_BTD in zip(self._each, rows, strict=True)
        ]
