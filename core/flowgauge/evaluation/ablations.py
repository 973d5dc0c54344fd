"""What each component of fitting and of adapting is worth: one of them left out, or another in its place."""

from collections.abc import Mapping
from enum import StrEnum

from flowgauge.adaptation.adapt import AdaptSettings, LightCorrection
from flowgauge.adaptation.head_adaptation import HeadAdaptation
from flowgauge.adaptation.inner_loop import InnerLoop
from flowgauge.adaptation.refine import MemberSettings, RefinementSettings
from flowgauge.adaptation.uncertainty import L2Rule
from flowgauge.training.outliers import Rejection
from flowgauge.training.thresholds import Rule


class Ablation(StrEnum):
    """Of fitting (`contamination.VARIANTS`), of adapting (`ADAPTATIONS`), or of both.

    Adapting. `full`: all components. `no-light`: the light is not corrected. `light-and-flow`: the flow is adapted even
    where correcting the light is enough. `no-head`: the flow alone takes the inner loop. `no-l2`: nothing pulls to the
    anchor. `no-rejection`: all buffered images train. `iqr`: images are suspect above Q3 + 1.5 IQR. `replay`: what
    trained the first gauge is in every buffer too (arXiv 2605.24251 finds that hard to beat).

    Fitting. `full`: an ensemble, whose members are each trained without one fold of the parts and start from the
    meta-learned initialization; all images train. `wide-ensemble`: five members, each trained without two fifths of the
    parts. Without a component of `full`: `no-ensemble` trains one member, `no-meta` starts at random. With one that
    did not earn its place there: `one-sided` and `iqr` leave out images by scores of detectors that were fitted without
    the image in question, in two rounds.

    Fitting for comparison, one member from a random start: `plain`, all images train; `replay`, every second image
    trains only where a detector accepts it that was fitted without it to the others of that half, as a parent's
    accepted images are shown again to its successor; `clean-oracle`, those that are mislabelled do not train, which
    only a benchmark can know. Baselines, on the same features: `patchcore` and `padim`, which take all images for good.
    """

    FULL = "full"
    WIDE_ENSEMBLE = "wide-ensemble"
    NO_ENSEMBLE = "no-ensemble"
    NO_META = "no-meta"
    NO_LIGHT = "no-light"
    LIGHT_AND_FLOW = "light-and-flow"
    NO_HEAD = "no-head"
    NO_L2 = "no-l2"
    NO_REJECTION = "no-rejection"
    ONE_SIDED = "one-sided"
    IQR = "iqr"
    REPLAY = "replay"
    PLAIN = "plain"
    CLEAN_ORACLE = "clean-oracle"
    PATCHCORE = "patchcore"
    PADIM = "padim"


def _without_l2(loop: InnerLoop) -> InnerLoop:
    return loop.model_copy(update={"l2": L2Rule(lowest=0, highest=1e-12)})


def _refining(**changes: object) -> AdaptSettings:
    return AdaptSettings(refinement=RefinementSettings.model_validate(changes))


ADAPTATIONS: Mapping[Ablation, AdaptSettings] = {
    Ablation.FULL: AdaptSettings(),
    Ablation.NO_LIGHT: AdaptSettings(light=LightCorrection.OFF),
    Ablation.LIGHT_AND_FLOW: AdaptSettings(light=LightCorrection.ALWAYS),
    Ablation.NO_HEAD: _refining(head_adaptation=None),
    Ablation.NO_L2: _refining(
        head_adaptation=HeadAdaptation(inner_loop=_without_l2(HeadAdaptation().inner_loop)),
        inner_loop=_without_l2(RefinementSettings().inner_loop),
        members=MemberSettings(inner_loop=_without_l2(MemberSettings().inner_loop)),
    ),
    Ablation.NO_REJECTION: _refining(rejection=Rejection(images=False)),
    Ablation.IQR: _refining(rejection=Rejection(rule=Rule.IQR, k=1.5)),
    Ablation.REPLAY: AdaptSettings(),
}
