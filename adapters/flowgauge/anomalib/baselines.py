"""anomalib's PatchCore and PaDiM in the noise benchmark, on the features that `headflow` keeps.

One thing differs from what they would have seen: features finer than the grid come as the means over its cells, so that
PaDiM works on this grid and not on the finest.
"""

import torch

from flowgauge.anomalib.baseline import PeerDetector
from flowgauge.anomalib.padim import Padim, PadimConfig
from flowgauge.anomalib.patchcore import Patchcore, PatchcoreConfig
from flowgauge.evaluation.baselines import Judge, Peer
from flowgauge.evaluation.contamination import Variant
from flowgauge.models.detector import Embedding, FeatureShape, Lesson, length


def patchcore(good: Embedding, shape: FeatureShape, seed: int) -> Judge:
    return _fitted(Patchcore(PatchcoreConfig(), shape), good, seed)


def padim(good: Embedding, shape: FeatureShape, seed: int) -> Judge:
    return _fitted(Padim(PadimConfig(), shape), good, seed)


PEERS: dict[Variant, Peer] = {Variant.PATCHCORE: patchcore, Variant.PADIM: padim}


def _fitted(detector: PeerDetector, good: Embedding, seed: int) -> Judge:
    lesson = Lesson(
        good=_means(good, detector),
        image=torch.arange(length(good)),
        painted={},
        painted_image=torch.empty(0, dtype=torch.long),
        mask=torch.zeros(0, *detector.grid),
    )
    detector.learn(lesson, seed=seed, progress=lambda what, done, total: None)
    return lambda embedding: detector.score_embedding(_means(embedding, detector)).image


def _means(embedding: Embedding, detector: PeerDetector) -> Embedding:
    """Without the maxima that stand behind the means where a level is finer than the grid."""
    return {
        key: embedding[key][:, : detector.shape.channels[level]]
        for key, level in zip(detector.keys, detector.levels, strict=True)
    }
