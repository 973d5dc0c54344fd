"""Adaptation without one of its ingredients, or with another in its place: what each is worth."""

from enum import StrEnum

from flowgauge.adaptation.adapt import AdaptSettings
from flowgauge.adaptation.head_adaptation import HeadAdaptation
from flowgauge.adaptation.inner_loop import InnerLoop
from flowgauge.adaptation.refine import MemberSettings, RefinementSettings
from flowgauge.adaptation.uncertainty import L2Rule
from flowgauge.training.outliers import Rejection
from flowgauge.training.thresholds import Rule


class Ablation(StrEnum):
    """`full`: all of them. `no-head`: the flow alone takes the inner loop. `no-l2`: nothing pulls to the anchor.
    `no-rejection`: all buffered images train. `iqr`: images are suspect above Q3 + 1.5 IQR. `replay`: what trained the
    first gauge is in every buffer too (arXiv 2605.24251 finds that hard to beat).
    """

    FULL = "full"
    NO_HEAD = "no-head"
    NO_L2 = "no-l2"
    NO_REJECTION = "no-rejection"
    IQR = "iqr"
    REPLAY = "replay"


def settings_of(ablation: Ablation) -> AdaptSettings:
    return AdaptSettings(refinement=_REFINEMENTS[ablation])


_FREE = L2Rule(lowest=0, highest=1e-12)


def _free(loop: InnerLoop) -> InnerLoop:
    return loop.model_copy(update={"l2": _FREE})


_REFINEMENTS = {
    Ablation.FULL: RefinementSettings(),
    Ablation.NO_HEAD: RefinementSettings(head_adaptation=None),
    Ablation.NO_L2: RefinementSettings(
        head_adaptation=HeadAdaptation(inner_loop=_free(HeadAdaptation().inner_loop)),
        inner_loop=_free(RefinementSettings().inner_loop),
        members=MemberSettings(inner_loop=_free(MemberSettings().inner_loop)),
    ),
    Ablation.NO_REJECTION: RefinementSettings(rejection=Rejection(images=False)),
    Ablation.IQR: RefinementSettings(rejection=Rejection(rule=Rule.IQR, k=1.5)),
    Ablation.REPLAY: RefinementSettings(),
}
