"""Detectors by others in the noise benchmark: fitted to the same images and features as ours, and judged alike."""

from collections.abc import Callable

from torch import Tensor

from flowgauge.evaluation.contamination import Cell, Variant, auroc_of, judged
from flowgauge.evaluation.feature_cache import Embedded
from flowgauge.evaluation.splits import Split
from flowgauge.models.detector import Embedding, FeatureShape

BASELINES = frozenset({Variant.PATCHCORE, Variant.PADIM})

Predictor = Callable[[Embedding], Tensor]
"""Scores (B,) of images: higher is more anomalous, and no image's depends on another's."""

Baseline = Callable[[Embedding, FeatureShape, int], Predictor]
"""Fits to the plain views of images, which are all taken for good, with a seed. Same images and seed, same scores."""


def baseline_fit(
    data: Embedded, split: Split, variant: Variant, baseline: Baseline, clock: Callable[[], float]
) -> Cell:
    """Fit to all training images of `split` and judge its test images. `clock` gives seconds."""
    begun = clock()
    predictor = baseline(data.plain(split.train), data.shape, split.seed)
    seconds = clock() - begun
    scores = predictor(data.plain(judged(split))).double().numpy()
    return Cell(
        variant=variant,
        noise=split.noise,
        seed=split.seed,
        members=1,
        image_auroc=auroc_of(scores, split),
        kept_good_share=1.0,
        kept_mislabelled_share=1.0 if split.mislabelled else None,
        fit_seconds=seconds,
    )
