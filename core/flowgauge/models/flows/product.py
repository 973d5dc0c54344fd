"""A product of independent flows: one density over rows that hold several vectors one after the other."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from flowgauge.models.flows.flow import HALF_LOG_TAU, Flow


class ProductFlow(Flow):
    """x (N, sum of D_k) -> z of the same shape, log abs det dz_k/dx_k (N, K): flow k maps the k-th slice of each row.

    log p(x) = sum over k of log p_k(x_k). `nll` is that of the whole row; `token_scores_of` keeps the K terms apart.
    """

    most_rows = 512  # each row costs K flows; 512 are also what each flow is fitted by at a time

    def __init__(self, flows: Sequence[Flow]) -> None:
        super().__init__()
        self.flows = nn.ModuleList(flows)
        self.widths = [flow.dimensions for flow in flows]
        self.dimensions = sum(self.widths)

    def part(self, first: int, end: int) -> "ProductFlow":
        """Flows `first` to `end` - 1, which share their parameters with these."""
        return ProductFlow([flow for flow in self.flows[first:end] if isinstance(flow, Flow)])

    def forward(self, x_ND: Tensor) -> tuple[Tensor, Tensor]:
        found = [flow(x) for flow, x in zip(self.flows, torch.split(x_ND, self.widths, dim=1), strict=True)]
        return torch.cat([z for z, _ in found], dim=1), torch.stack([log_det for _, log_det in found], dim=1)

    def nll_of(self, z_ND: Tensor, log_det_NK: Tensor) -> Tensor:
        return super().nll_of(z_ND, log_det_NK.sum(dim=1))

    def token_scores_of(self, z_ND: Tensor, log_det_NK: Tensor) -> Tensor:
        """-log p_k(x_k) / D_k (N, K), in nats per dimension: higher is more anomalous."""
        energy = torch.stack([z.square().sum(dim=1) for z in torch.split(z_ND, self.widths, dim=1)], dim=1)
        return (0.5 * energy - log_det_NK) / z_ND.new_tensor(self.widths) + HALF_LOG_TAU
