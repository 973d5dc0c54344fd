"""Maximum likelihood, stopped where images that did not train stop gaining."""

import copy
from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor

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
    trained, held_out = rows.x[~rows.held_out], rows.x[rows.held_out]
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(flow.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, training.learning_rate, total_steps=training.steps)
    best, best_state, waited = float("inf"), copy.deepcopy(flow.state_dict()), 0
    for step in range(training.steps):
        batch = trained[torch.randint(len(trained), (training.batch,), generator=generator)]
        batch = batch + training.noise * torch.randn(batch.shape, generator=generator)
        optimiser.zero_grad(set_to_none=True)
        flow.nll(batch).mean().backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
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


def held_out_images(image: Tensor, share: float, seed: int) -> Tensor:
    """(N,) bool: rows of a random `share` of the images (at least one), all views of an image on one side."""
    images = torch.unique(image)
    generator = torch.Generator().manual_seed(seed)
    chosen = images[torch.randperm(len(images), generator=generator)[: max(1, round(share * len(images)))]]
    return torch.isin(image, chosen)
