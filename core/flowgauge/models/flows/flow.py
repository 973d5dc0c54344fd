"""What every flow of a detector does, however it is built."""

import math
from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn

HALF_LOG_TAU = 0.5 * math.log(2 * math.pi)


class Flow(nn.Module, ABC):
    """x (N, `dimensions`) -> z of the same shape, invertible, with log abs det dz/dx (N,): each row has its own."""

    dimensions: int
    most_rows: ClassVar[int] = 2**20
    """How many rows the inner loop may draw at once: where a row is a whole image, few tell enough."""

    @abstractmethod
    def forward(self, x_ND: Tensor) -> tuple[Tensor, Tensor]: ...

    def nll(self, x_ND: Tensor) -> Tensor:
        """-log p(x) / D (N,), in nats per dimension: higher is more anomalous.

        log p(x) = log N(z; 0, 1) + log abs det dz/dx (RAD eq. 1).
        """
        return self.nll_of(*self(x_ND))

    def nll_of(self, z_ND: Tensor, log_det_N: Tensor) -> Tensor:
        """The same from what `forward` gave."""
        nll: Tensor = (0.5 * z_ND.square().sum(dim=1) - log_det_N) / self.dimensions + HALF_LOG_TAU
        return nll

    def token_scores_of(self, z_ND: Tensor, log_det_N: Tensor) -> Tensor:
        """How anomalous each row is, higher is more so: `nll_of` (N,), unless a flow scores by something else than what
        it is trained by. A product of K flows gives the K terms (N, K).
        """
        return self.nll_of(z_ND, log_det_N)
