"""What is meta-learned of `headflow`: its guide, and the flow over what the guide tells."""

import torch
from torch.func import functional_call

from flowgauge.adaptation.head_adaptation import Lessons, WindowDraw, lesson_loss
from flowgauge.adaptation.inner_loop import Parameters, Teaching, TokenDraw, loss_of
from flowgauge.domain import trace
from flowgauge.domain.seeding import seeded
from flowgauge.meta.outer_loop import meta_gradient
from flowgauge.meta.settings import MetaTraining
from flowgauge.meta.tasks import Task
from flowgauge.models.headflow.detector import FLOW, GUIDE, HeadFlow


def parameters_of(detector: HeadFlow) -> Parameters:
    """Copies of what is meta-learned, by the names that `load_init` knows."""
    modules = {GUIDE: detector.panel[0].guide, FLOW: detector.flow}
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
        self._module = detector.panel[0].guide
        self._module.measure(task.support.good)

    def gradient(self, theta: Parameters) -> tuple[Parameters, float, float]:
        """By all of `theta`, and what the guide and the flow lose on the query after their inner loops."""
        with seeded(self._seed):
            of_guide, guide_loss, adapted = self._guide_gradient(_under(GUIDE, theta))
            of_flow, flow_loss = self._flow_gradient(_under(FLOW, theta), adapted)
        gradient = {GUIDE + n: g for n, g in of_guide.items()} | {FLOW + n: g for n, g in of_flow.items()}
        return gradient, guide_loss, flow_loss

    def _guide_gradient(self, theta: Parameters) -> tuple[Parameters, float, Parameters]:
        loop = self._settings.guide
        draw = WindowDraw(self._module, Lessons(self._task.support, self._task.query), loop.batch, self._seed)
        self._module.train()
        return meta_gradient(lesson_loss(self._module), theta, draw, loop, self._settings.order, what=trace.GUIDE)

    def _flow_gradient(self, theta: Parameters, guide: Parameters) -> tuple[Parameters, float]:
        flow, loop = self._detector.flow, self._settings.flow
        draw = TokenDraw(self._tokens(guide), min(loop.batch, flow.most_rows), loop.noise, self._seed)
        gradient, loss, _ = meta_gradient(loss_of(flow), theta, draw, loop, self._settings.order, what=trace.FLOW)
        return gradient, loss

    def _tokens(self, guide: Parameters) -> Teaching:
        """Of the support's and of the query's good images, standardised by the support."""
        self._module.eval()
        with torch.no_grad():
            support, query = (
                functional_call(self._module, guide, (lesson.good,)).flatten(2).transpose(1, 2).flatten(0, 1)
                for lesson in (self._task.support, self._task.query)
            )
        centre, spread = support.mean(dim=0), support.std(dim=0).mean()
        return Teaching((support - centre) / spread, (query - centre) / spread)


def _under(prefix: str, theta: Parameters) -> Parameters:
    return {name.removeprefix(prefix): value for name, value in theta.items() if name.startswith(prefix)}
