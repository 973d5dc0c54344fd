"""The MAML inner loop: a few gradient steps from the anchor, on the parameters of one loss.

theta' = theta - alpha * grad L_train(theta) (RAD, arXiv 2508.17789 eq. 6), here with the pull of an L2 penalty towards
the anchor. Functional throughout: the anchor's tensors are read and never written. Adaptation calls it for flows
(`refine`) and heads (`head_adaptation`), meta-training (`flowgauge.meta.outer_loop`) for the parameters that both start
from; `torch.func.grad` may differentiate through it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, TypeVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value

from flowgauge.adaptation.uncertainty import L2Rule, Uncertainty, Units
from flowgauge.domain.messages import FrozenModel
from flowgauge.domain.progress import Progress, silent
from flowgauge.domain.trace import FLOW, Step
from flowgauge.models.flows.flow import Flow

Parameters = dict[str, Tensor]
Batch = TypeVar("Batch")
Drawn = TypeVar("Drawn", covariant=True)
Loss = Callable[[Parameters, Batch], Tensor]


class StepRule(StrEnum):
    """`gradient`: steps along the gradient, in units of its length at the anchor. `adam`: along Adam's direction
    (arXiv 1412.6980), each parameter in units of its own gradients; the length grows over the first three tenths of the
    steps and then falls by a cosine. Neither depends on the loss's unit.
    """

    GRADIENT = "gradient"
    ADAM = "adam"


class InnerLoop(FrozenModel):
    """`alpha` is the length of a step: in parameter space, where the gradient is as long as those at the anchor; or of
    each parameter, at the peak of Adam's schedule. `batch` is in what the loss is taken over: tokens, as many as the
    flow may be given at once, or windows of images. `noise` is the deviation of the Gaussian noise on tokens that
    train. `warm_up`: minibatches at the anchor that give the units of losses and gradients. `moving`: beginnings of the
    names of the parameters that move, all where there are none (ANIL, arXiv 1909.09157).
    """

    rule: StepRule = StepRule.GRADIENT
    alpha: float = Field(0.05, gt=0)
    steps: int = Field(40, ge=1)
    batch: int = Field(2048, ge=1)
    noise: float = Field(0.0, ge=0)
    warm_up: int = Field(8, ge=2)
    l2: L2Rule = L2Rule()
    moving: tuple[str, ...] = ()

    def moves(self, name: str) -> bool:
        return not self.moving or name.startswith(self.moving)


class Draw(Protocol[Drawn]):
    """Seeded minibatches, for the gradient and for the validation loss."""

    def train_batch(self) -> Drawn: ...

    def validation_batch(self) -> Drawn: ...


@dataclass(frozen=True)
class TrainingTokens:
    """Tokens (n, D) for the gradient, and others for the validation loss."""

    train: Tensor
    validation: Tensor


def parameters_of(flow: Flow) -> Parameters:
    """What an adaptation may change, detached."""
    return {name: p.detach() for name, p in flow.named_parameters() if p.requires_grad}


def set_parameters(module: nn.Module, parameters: Parameters) -> None:
    """Overwrite those of `module`, in place."""
    own = dict(module.named_parameters())
    with torch.no_grad():
        for name, value in parameters.items():
            own[name].copy_(value)


def loss_of(flow: Flow) -> Callable[[Parameters, Tensor], Tensor]:
    """(parameters, tokens (n, D)) -> mean negative log-likelihood, in nats per dimension."""

    def loss(parameters: Parameters, tokens: Tensor) -> Tensor:
        z, log_det = functional_call(flow, parameters, (tokens,))
        return flow.nll_of(z, log_det).mean()

    return loss


def adapted(
    flow: Flow,
    training: TrainingTokens,
    settings: InnerLoop,
    *,
    seed: int,
    round_number: int = 0,
    progress: Progress = silent,
) -> tuple[Parameters, list[Step]]:
    """The flow's parameters after the inner loop from its own, and what was measured at each step."""
    draw = TokenDraw(training, min(settings.batch, flow.most_rows), settings.noise, seed)
    return inner_loop(
        parameters_of(flow), loss_of(flow), draw, settings, what=FLOW, round_number=round_number, progress=progress
    )


def inner_loop(
    anchor: Parameters,
    loss: Loss[Batch],
    draw: Draw[Batch],
    settings: InnerLoop,
    *,
    what: str,
    round_number: int = 0,
    progress: Progress = silent,
) -> tuple[Parameters, list[Step]]:
    """Parameters after the steps from `anchor`, and what was measured at each; `what` is whose parameters they are.

    Units, lambda and Adam's schedule count as constants where the loop is differentiated.
    """
    differentiate = grad_and_value(loss)
    unit, units = _warm_up(loss, anchor, draw, settings)
    uncertainty = Uncertainty(units, settings.l2.window)
    adam = _Adam(settings) if settings.rule is StepRule.ADAM else None
    parameters, steps = anchor, []
    for number in range(settings.steps):
        progress(f"adapting the {what}", number, settings.steps)
        gradient, train_loss = differentiate(parameters, draw.train_batch())
        train_loss, validation_loss = float(train_loss.detach()), _value(loss, parameters, draw.validation_batch())
        determinant = uncertainty.observe(train_loss, validation_loss)
        l2 = settings.l2.l2(determinant)
        along = {name: value / unit for name, value in gradient.items() if settings.moves(name)}
        length = settings.alpha
        if adam is not None:
            along, length = adam.direction(along), adam.length(number)
        parameters = parameters | {
            name: parameters[name] - length * (step + l2 * (parameters[name] - anchor[name]))
            for name, step in along.items()
        }
        steps.append(
            Step(
                what=what,
                round=round_number,
                step=number,
                train_loss=train_loss,
                validation_loss=validation_loss,
                det_covariance=determinant,
                l2=l2,
            )
        )
    return parameters, steps


_WARMING = 0.3
"""The share of Adam's steps over which their length grows: with less, the first batches alone decide where it goes."""
_FIRST, _SECOND = 0.9, 0.999
"""The memories of Adam's moments, as Kingma and Ba chose them."""


class _Adam:
    """The moments of the gradients so far."""

    def __init__(self, settings: InnerLoop) -> None:
        self._settings = settings
        self._moments: dict[str, tuple[Tensor, Tensor]] = {}
        self._forgotten = 1.0, 1.0

    def direction(self, gradient: Parameters) -> Parameters:
        for name, g in gradient.items():
            first, second = self._moments.get(name, (torch.zeros_like(g), torch.zeros_like(g)))
            self._moments[name] = _FIRST * first + (1 - _FIRST) * g, _SECOND * second + (1 - _SECOND) * g.square()
        self._forgotten = _FIRST * self._forgotten[0], _SECOND * self._forgotten[1]
        seen = 1 - self._forgotten[0], 1 - self._forgotten[1]
        # above 0, where a root has no slope: at second order a parameter without a gradient would make all of them NaN
        return {
            name: first / seen[0] / ((second / seen[1]).clamp_min(1e-30).sqrt() + 1e-8)
            for name, (first, second) in self._moments.items()
        }

    def length(self, number: int) -> float:
        done = (number + 1) / self._settings.steps
        if done < _WARMING:
            return self._settings.alpha * done / _WARMING
        return self._settings.alpha * 0.5 * (1 + math.cos(math.pi * (done - _WARMING) / (1 - _WARMING)))


class TokenDraw:
    """Tokens at random, those that train with noise."""

    def __init__(self, training: TrainingTokens, batch: int, noise: float, seed: int) -> None:
        self._training_tokens = training
        self._batch = batch
        self._noise = noise
        self._generator = torch.Generator().manual_seed(seed)

    def train_batch(self) -> Tensor:
        tokens = self._some(self._training_tokens.train)
        return tokens + self._noise * torch.randn(tokens.shape, generator=self._generator) if self._noise else tokens

    def validation_batch(self) -> Tensor:
        return self._some(self._training_tokens.validation)

    def _some(self, tokens: Tensor) -> Tensor:
        return tokens[torch.randint(len(tokens), (self._batch,), generator=self._generator)]


def _warm_up(loss: Loss[Batch], anchor: Parameters, draw: Draw[Batch], settings: InnerLoop) -> tuple[float, Units]:
    """The gradients' root mean square length at the anchor, over what moves, and the losses' units there."""
    losses, norms = [], []
    for _ in range(settings.warm_up):
        gradient, train_loss = grad_and_value(loss)(anchor, draw.train_batch())
        moving = [g.detach() for name, g in gradient.items() if settings.moves(name)]
        norms.append(sum(float(g.square().sum()) for g in moving))
        losses.append((float(train_loss.detach()), _value(loss, anchor, draw.validation_batch())))
    return max(math.sqrt(sum(norms) / settings.warm_up), 1e-30), Units.of(losses)


def _value(loss: Loss[Batch], parameters: Parameters, batch: Batch) -> float:
    with torch.no_grad():
        return float(loss(parameters, batch).detach())
