"""Detectors by others in the noise benchmark: fitted to the same images and features as ours, and judged alike."""

from collections.abc import Callable

from torch import Tensor

from flowgauge.evaluation.contamination import Cell, Variant, auroc_of, judged
from flowgauge.evaluation.feature_cache import Embedded
from flowgauge.evaluation.splits import Split
from flowgauge.models.detector import Embedding, FeatureShape

PEERS = frozenset({Variant.PATCHCORE, Variant.PADIM})

Judge = Callable[[Embedding], Tensor]
"""Scores (B,) of images: higher is more anomalous, and no image's depends on another's."""

Peer = Callable[[Embedding, FeatureShape, int], Judge]
"""Fits to the plain views of images, which are all taken for good, with a seed. Same images and seed, same scores."""


def peer_fit(data: Embedded, split: Split, variant: Variant, peer: Peer, clock: Callable[[], float]) -> Cell:
    """Fit to all training images of `split` and judge its test images. `clock` gives seconds."""
    begun = clock()
    judge = peer(data.plain(split.train), data.shape, split.seed)
    seconds = clock() - begun
    scores = judge(data.plain(judged(split))).double().numpy()
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
