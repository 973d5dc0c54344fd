"""What is meta-learned of `headflow`: its head, and the flow over what the head tells."""

import torch
from torch.func import functional_call

from flowgauge.adaptation.head_adaptation import HeadData, WindowDraw, head_objective
from flowgauge.adaptation.inner_loop import Parameters, TokenDraw, TrainingTokens, loss_of
from flowgauge.domain import trace
from flowgauge.domain.seeding import seeded
from flowgauge.meta.outer_loop import meta_gradient
from flowgauge.meta.settings import MetaTraining
from flowgauge.meta.tasks import Task
from flowgauge.models.headflow.detector import FLOW, HEAD, HeadFlow


def parameters_of(detector: HeadFlow) -> Parameters:
    """Copies of what is meta-learned, by the names that `load_init` knows."""
    modules = {HEAD: detector.ensemble[0].head, FLOW: detector.flow}
    return {
        prefix + name: parameter.detach().clone()
        for prefix, module in modules.items()
        for name, parameter in module.named_parameters()
        if parameter.requires_grad
    }


class TaskLearner:
    """The gradients of one task. The detector lends its modules and statistics; its parameters stay as they are."""

    def __init__(self, detector: HeadFlow, task: Task, settings: MetaTraining, seed: int) -> None:
        self._detector = detector
        self._task = task
        self._settings = settings
        self._seed = seed
        self._module = detector.ensemble[0].head
        self._module.measure(task.support.good)

    def gradient(self, init: Parameters) -> tuple[Parameters, float, float]:
        """By all of `init`, and what the head and the flow lose on the query after their inner loops."""
        with seeded(self._seed):
            of_head, head_loss, adapted = self._head_gradient(_under(HEAD, init))
            of_flow, flow_loss = self._flow_gradient(_under(FLOW, init), adapted)
        gradient = {HEAD + n: g for n, g in of_head.items()} | {FLOW + n: g for n, g in of_flow.items()}
        return gradient, head_loss, flow_loss

    def _head_gradient(self, init: Parameters) -> tuple[Parameters, float, Parameters]:
        loop = self._settings.head
        draw = WindowDraw(self._module, HeadData(self._task.support, self._task.query), loop.batch, self._seed)
        self._module.train()
        return meta_gradient(head_objective(self._module), init, draw, loop, self._settings.order, what=trace.HEAD)

    def _flow_gradient(self, init: Parameters, head: Parameters) -> tuple[Parameters, float]:
        flow, loop = self._detector.flow, self._settings.flow
        draw = TokenDraw(self._tokens(head), min(loop.batch, flow.most_rows), loop.noise, self._seed)
        gradient, loss, _ = meta_gradient(loss_of(flow), init, draw, loop, self._settings.order, what=trace.FLOW)
        return gradient, loss

    def _tokens(self, head: Parameters) -> TrainingTokens:
        """Of the support's and of the query's good images, standardised by the support."""
        self._module.eval()
        with torch.no_grad():
            support, query = (
                functional_call(self._module, head, (training_set.good,)).flatten(2).transpose(1, 2).flatten(0, 1)
                for training_set in (self._task.support, self._task.query)
            )
        centre, spread = support.mean(dim=0), support.std(dim=0).mean()
        return TrainingTokens((support - centre) / spread, (query - centre) / spread)


def _under(prefix: str, init: Parameters) -> Parameters:
    return {name.removeprefix(prefix): value for name, value in init.items() if name.startswith(prefix)}
