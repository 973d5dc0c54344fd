"""What is meta-learned of `headflow`: its guide, and the flow over what the guide tells."""

import torch
from torch import Tensor
from torch.func import functional_call

from core.adaptation.inner_loop import Parameters, loss_of
from core.detectors.base import Lesson, length
from core.detectors.guide import LessonLoss
from core.detectors.headflow import FLOW, GUIDE, HeadFlow
from core.detectors.windows import Windows
from core.meta.outer_loop import InnerSteps, meta_gradient
from core.meta.tasks import Task
from core.seeding import seeded

Batch = tuple[dict[str, Tensor], Tensor]

_TOKENS = 2048


def parameters_of(detector: HeadFlow) -> Parameters:
    """Copies of what is meta-learned, by the names that `begin_at` knows."""
    modules = {GUIDE: detector.panel[0].guide, FLOW: detector.flow}
    return {
        prefix + name: parameter.detach().clone()
        for prefix, module in modules.items()
        for name, parameter in module.named_parameters()
        if parameter.requires_grad
    }


class TaskLearner:
    """The gradients of one task. The detector lends its modules and statistics; its parameters stay as they are."""

    def __init__(self, detector: HeadFlow, task: Task, guide: InnerSteps, flow: InnerSteps, seed: int) -> None:
        self._detector = detector
        self._task = task
        self._guide, self._flow = guide, flow
        self._seed = seed
        self._module = detector.panel[0].guide
        self._loss = LessonLoss(self._module)
        self._module.measure(task.support.good)

    def gradient(self, theta: Parameters) -> tuple[Parameters, float, float]:
        """By all of `theta`, and what the guide and the flow lose on the query after their inner loops."""
        with seeded(self._seed):
            of_guide, guide_loss, adapted = self._guide_gradient(_under(GUIDE, theta))
            of_flow, flow_loss = self._flow_gradient(_under(FLOW, theta), adapted)
        gradient = {GUIDE + n: g for n, g in of_guide.items()} | {FLOW + n: g for n, g in of_flow.items()}
        return gradient, guide_loss, flow_loss

    def _guide_gradient(self, theta: Parameters) -> tuple[Parameters, float, Parameters]:
        self._module.train()
        support = self._batches(self._task.support, self._guide.steps)
        (query,) = self._batches(self._task.query, 1)
        return meta_gradient(self._lesson_loss, theta, support, query, self._guide)

    def _lesson_loss(self, parameters: Parameters, batch: Batch) -> Tensor:
        loss: Tensor = functional_call(self._loss, {GUIDE + n: p for n, p in parameters.items()}, batch)
        return loss

    def _batches(self, lesson: Lesson, count: int) -> list[Batch]:
        """Half of each shows good images, half painted or defective ones."""
        windows = Windows(lesson, self._detector.config.guide.side(lesson.mask.shape[1]), self._seed)
        good, marred, half = length(lesson.good), length(lesson.painted), self._guide.batch // 2
        return [
            windows.of(torch.cat([torch.randint(good, (half,)), good + torch.randint(marred, (half,))]))
            for _ in range(count)
        ]

    def _flow_gradient(self, theta: Parameters, guide: Parameters) -> tuple[Parameters, float]:
        taught, judged = self._tokens(guide)
        support = [_some(taught) for _ in range(self._flow.steps)]
        gradient, loss, _ = meta_gradient(loss_of(self._detector.flow), theta, support, _some(judged), self._flow)
        return gradient, loss

    def _tokens(self, guide: Parameters) -> tuple[Tensor, Tensor]:
        """Of the support's and of the query's good images, (n, D) each, standardised by the support."""
        self._module.eval()
        with torch.no_grad():
            support, query = (
                functional_call(self._module, guide, (lesson.good,)).flatten(2).transpose(1, 2).flatten(0, 1)
                for lesson in (self._task.support, self._task.query)
            )
        centre, spread = support.mean(dim=0), support.std(dim=0).mean()
        return (support - centre) / spread, (query - centre) / spread


def _under(prefix: str, theta: Parameters) -> Parameters:
    return {name.removeprefix(prefix): value for name, value in theta.items() if name.startswith(prefix)}


def _some(tokens: Tensor) -> Tensor:
    return tokens[torch.randint(len(tokens), (_TOKENS,))]
