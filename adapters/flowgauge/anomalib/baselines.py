"""anomalib's PatchCore and PaDiM in the noise benchmark, on the features that `headflow` keeps.

One thing differs from what they would have seen: features finer than the grid come as the means over its cells, so that
PaDiM works on this grid and not on the finest.
"""

import torch

from flowgauge.anomalib.baseline import BaselineDetector
from flowgauge.anomalib.padim import Padim, PadimConfig
from flowgauge.anomalib.patchcore import Patchcore, PatchcoreConfig
from flowgauge.evaluation.ablations import Ablation
from flowgauge.evaluation.contamination import Baseline, Predictor
from flowgauge.models.detector import Embedding, FeatureShape, TrainingSet, length


def patchcore(good: Embedding, shape: FeatureShape, seed: int) -> Predictor:
    return _fitted(Patchcore(PatchcoreConfig(), shape), good, seed)


def padim(good: Embedding, shape: FeatureShape, seed: int) -> Predictor:
    return _fitted(Padim(PadimConfig(), shape), good, seed)


BASELINES: dict[Ablation, Baseline] = {Ablation.PATCHCORE: patchcore, Ablation.PADIM: padim}


def _fitted(detector: BaselineDetector, good: Embedding, seed: int) -> Predictor:
    training_set = TrainingSet(
        good=_means(good, detector),
        image=torch.arange(length(good)),
        synthetic={},
        synthetic_image=torch.empty(0, dtype=torch.long),
        mask=torch.zeros(0, *detector.grid),
    )
    detector.learn(training_set, seed=seed, progress=lambda what, done, total: None)
    return lambda embedding: detector.score_embedding(_means(embedding, detector)).image


def _means(embedding: Embedding, detector: BaselineDetector) -> Embedding:
    """Without the maxima that stand behind the means where a level is finer than the grid."""
    return {
        key: embedding[key][:, : detector.shape.channels[level]]
        for key, level in zip(detector.keys, detector.levels, strict=True)
    }
