"""Maximum likelihood, stopped where images that did not train stop gaining."""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor, nn

from flowgauge.domain.messages import FrozenModel
from flowgauge.models.detector import Progress
from flowgauge.models.flows.flow import Flow


class Training(FrozenModel):
    """AdamW on batches of rows, in one cycle of the learning rate."""

    steps: int = Field(600, ge=1, description="of the optimiser, at most")
    batch: int = Field(256, ge=2, description="rows of a step")
    learning_rate: float = Field(1e-3, gt=0, description="the highest of the cycle")
    weight_decay: float = Field(1e-4, ge=0)
    noise: float = Field(0.0, ge=0, description="deviation of Gaussian noise on the inputs: more, a smoother density")
    check_every: int = Field(25, ge=1, description="steps after which the held-out rows' likelihood is measured")
    patience: int = Field(4, ge=1, description="checks without a better likelihood after which the best state is taken")


@dataclass(frozen=True)
class Rows:
    """`x` (N, D) and which rows are held out, (N,) bool."""

    x: Tensor
    held_out: Tensor


def maximise_likelihood(flow: Flow, rows: Rows, training: Training, *, seed: int, progress: Progress) -> None:
    """Fit `flow` to `rows` in place. Deterministic for a seed on one machine."""
    # numbers of the rows that train, and no copy of these: they are hundreds of megabytes
    trained, held_out = (~rows.held_out).nonzero().flatten(), rows.x[rows.held_out]
    generator = torch.Generator().manual_seed(seed)
    descend = one_cycle(flow, training.learning_rate, training.weight_decay, training.steps)
    best, best_state, waited = float("inf"), copy.deepcopy(flow.state_dict()), 0
    for step in range(training.steps):
        batch = rows.x[trained[torch.randint(len(trained), (training.batch,), generator=generator)]]
        batch = batch + training.noise * torch.randn(batch.shape, generator=generator)
        descend(flow.nll(batch).mean())
        progress("fitting the flow", step + 1, training.steps)
        if (step + 1) % training.check_every == 0:
            with torch.no_grad():
                loss = float(flow.nll(held_out).mean())
            waited = 0 if loss < best else waited + 1
            if loss < best:
                best, best_state = loss, copy.deepcopy(flow.state_dict())
            if waited >= training.patience:
                break
    flow.load_state_dict(best_state)
    flow.zero_grad(set_to_none=True)


def one_cycle(
    net: nn.Module, learning_rate: float, weight_decay: float, steps: int, rising: float = 0.3
) -> Callable[[Tensor], None]:
    """One step of AdamW down a loss, to be called `steps` times: the learning rate rises to `learning_rate` over the
    share `rising` of them, and falls to nothing over the rest (one cycle, arXiv 1708.07120).
    """
    optimiser = torch.optim.AdamW(net.parameters(), lr=learning_rate, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, learning_rate, total_steps=steps, pct_start=rising)

    def descend(loss: Tensor) -> None:
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()

    return descend


def held_out_images(image: Tensor, share: float, seed: int) -> Tensor:
    """(N,) bool: rows of a random `share` of the images (at least one), all views of an image on one side."""
    images = torch.unique(image)
    generator = torch.Generator().manual_seed(seed)
    chosen = images[torch.randperm(len(images), generator=generator)[: max(1, round(share * len(images)))]]
    return torch.isin(image, chosen)
