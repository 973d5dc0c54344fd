"""The outer loop from its first turn to its last: seeded, and able to go on where it was interrupted."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from flowgauge.adaptation.inner_loop import Parameters
from flowgauge.meta.learners import TaskLearner
from flowgauge.meta.settings import MetaTraining, Turn
from flowgauge.meta.tasks import MetaLine, draw_task
from flowgauge.models.headflow.detector import HeadFlow


class MetaState:
    """Everything that the next turn depends on: theta, the outer optimiser, and the turns that were made."""

    def __init__(
        self, init: Parameters, turns: Sequence[Turn] = (), moments: Mapping[str, Tensor] | None = None
    ) -> None:
        """`moments` are those that the property gave after `turns`."""
        self.init = {name: value.clone() for name, value in init.items()}
        self.turns = list(turns)
        self._optimiser = torch.optim.Adam(self.init.values())
        if moments:
            for name, value in self.init.items():
                kept = {key: moments[f"{key}.{name}"].clone() for key in _MOMENTS}
                self._optimiser.state[value] = kept | {"step": torch.tensor(float(len(self.turns)))}

    @property
    def moments(self) -> dict[str, Tensor]:
        """The optimiser's; empty before the first turn."""
        kept = self._optimiser.state
        return {
            f"{key}.{name}": kept[value][key] for name, value in self.init.items() if value in kept for key in _MOMENTS
        }

    def step(self, gradient: Parameters, length: float) -> None:
        for name, value in self.init.items():
            value.grad = gradient[name]
        self._optimiser.param_groups[0]["lr"] = length
        self._optimiser.step()


_MOMENTS = ("exp_avg", "exp_avg_sq")


def meta_train(
    detector: HeadFlow,
    lines: Sequence[MetaLine],
    settings: MetaTraining,
    state: MetaState,
    after: Callable[[MetaState], None],
) -> None:
    """Turn by turn until `settings.turns` are done, in place; `after` is called at the end of each.

    Every turn draws from a stream of its own, so that one that was interrupted gives the same as one that was not.
    """
    while len(state.turns) < settings.turns:
        number = len(state.turns)
        rng = np.random.default_rng([settings.seed, number])
        line = lines[int(rng.integers(len(lines)))]
        task = draw_task(line, settings.contamination, rng)
        learner = TaskLearner(detector, task, settings, seed=int(rng.integers(2**31)))
        gradient, head_loss, flow_loss = learner.gradient(state.init)
        state.step(gradient, settings.step_length(number))
        state.turns.append(Turn(turn=number, line=line.name, head_loss=head_loss, flow_loss=flow_loss))
        after(state)
