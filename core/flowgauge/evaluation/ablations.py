"""Adaptation without one of its ingredients, or with another in its place: what each is worth."""

from enum import StrEnum

from flowgauge.adaptation.adapt import AdaptSettings
from flowgauge.adaptation.head_adaptation import Retuning
from flowgauge.adaptation.inner_loop import InnerLoop
from flowgauge.adaptation.refine import MemberSettings, RefinementSettings
from flowgauge.adaptation.uncertainty import L2Rule
from flowgauge.training.outliers import Rejection
from flowgauge.training.thresholds import Rule


class Ingredients(StrEnum):
    """`full`: all of them. `no-guide`: the flow alone takes the inner loop. `no-l2`: nothing pulls to the anchor.
    `no-rejection`: all buffered images teach, and all of their places. `image-grain`, `patch-grain`: suspect images, or
    suspect places of all images, are all that is left out. `iqr`: images are suspect above Q3 + 1.5 IQR. `replay`: what
    taught the first gauge is in every buffer too (arXiv 2605.24251 finds that hard to beat).
    """

    FULL = "full"
    NO_GUIDE = "no-guide"
    NO_L2 = "no-l2"
    NO_REJECTION = "no-rejection"
    IMAGE_GRAIN = "image-grain"
    PATCH_GRAIN = "patch-grain"
    IQR = "iqr"
    REPLAY = "replay"


def settings_of(ingredients: Ingredients) -> AdaptSettings:
    return AdaptSettings(refinement=_REFINEMENTS[ingredients])


_FREE = L2Rule(lowest=0, highest=1e-12)


def _free(loop: InnerLoop) -> InnerLoop:
    return loop.model_copy(update={"l2": _FREE})


_REFINEMENTS = {
    Ingredients.FULL: RefinementSettings(),
    Ingredients.NO_GUIDE: RefinementSettings(retuning=None),
    Ingredients.NO_L2: RefinementSettings(
        retuning=Retuning(inner_loop=_free(Retuning().inner_loop)),
        inner_loop=_free(RefinementSettings().inner_loop),
        members=MemberSettings(inner_loop=_free(MemberSettings().inner_loop)),
    ),
    Ingredients.NO_REJECTION: RefinementSettings(rejection=Rejection(images=False, patches=False)),
    Ingredients.IMAGE_GRAIN: RefinementSettings(rejection=Rejection(patches=False)),
    Ingredients.PATCH_GRAIN: RefinementSettings(rejection=Rejection(images=False)),
    Ingredients.IQR: RefinementSettings(rejection=Rejection(image_rule=Rule.IQR, image_k=1.5)),
    Ingredients.REPLAY: RefinementSettings(),
}
