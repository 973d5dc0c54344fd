"""Uncertainty-adaptive L2 regularisation: the less the losses agree with themselves, the closer to the anchor."""

from collections import deque
from dataclasses import dataclass

import numpy as np
from pydantic import Field

from flowgauge.domain.messages import FrozenModel


class L2Rule(FrozenModel):
    """`window`: how many recent steps Sigma is taken over; lambda stays in [`lowest`, `highest`]."""

    window: int = Field(8, ge=3)
    lowest: float = Field(0.05, ge=0)
    highest: float = Field(5.0, gt=0)

    def l2(self, det_covariance: float) -> float:
        r"""lambda = lowest + (highest - lowest) * det Sigma / (1 + det Sigma).

        Grows with the uncertainty and stays between its bounds. RAD (arXiv 2508.17789 s.3.2) says that lambda grows
        with det Sigma, not how; this map reaches its middle at det Sigma = 1, which is what independent losses that
        scatter as much as in the warm-up at the anchor have.
        """
        share = det_covariance / (1 + det_covariance)
        return self.lowest + (self.highest - self.lowest) * share


@dataclass(frozen=True)
class Units:
    """Mean and deviation of the (train, validation) losses at the anchor, (2,) each: what losses are measured in."""

    mean: np.ndarray[tuple[int], np.dtype[np.float64]]
    deviation: np.ndarray[tuple[int], np.dtype[np.float64]]

    @classmethod
    def of(cls, losses: list[tuple[float, float]]) -> "Units":
        """From a warm-up of minibatches at the anchor, before the first step."""
        table = np.array(losses)
        return cls(table.mean(axis=0), np.maximum(table.std(axis=0), 1e-12 + 1e-6 * np.abs(table.mean(axis=0))))


class Uncertainty:
    """det Sigma, with Sigma the covariance of the standardised (train, validation) losses over a sliding window.

    Both losses are in units of their scatter at the anchor, so det Sigma does not depend on the losses' own units.
    0 until the window holds three steps.
    """

    def __init__(self, units: Units, window: int) -> None:
        self._units = units
        self._losses: deque[np.ndarray[tuple[int], np.dtype[np.float64]]] = deque(maxlen=window)

    def observe(self, train_loss: float, validation_loss: float) -> float:
        standard = (np.array([train_loss, validation_loss]) - self._units.mean) / self._units.deviation
        self._losses.append(standard)
        if len(self._losses) < 3:
            return 0.0
        # of losses that are not finite it is not either: the gate refuses them, and the outer loop stops there
        with np.errstate(invalid="ignore", over="ignore"):
            return max(float(np.linalg.det(np.cov(np.array(self._losses), rowvar=False))), 0.0)
