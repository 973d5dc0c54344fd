"""anomalib's PatchCore, PaDiM and FastFlow: as detectors that are fitted, timed and stored as ours are, and as
baselines of the noise benchmark.

They get the features of our backbone where they would run one of their own. Their GLASS is not among them: it makes
synthetic anomalies on its training images anew at every step and runs a backbone over them, so features that were taken
beforehand cannot train it unless its training is written again.
"""

import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr
from functools import partial
from io import StringIO
from typing import Any, Self

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from flowgauge.domain.messages import FrozenModel
from flowgauge.domain.progress import Progress, silent
from flowgauge.domain.seeding import seeded
from flowgauge.evaluation.ablations import Ablation
from flowgauge.evaluation.contamination import Baseline, Predictor
from flowgauge.evaluation.speed import Forward
from flowgauge.models.detector import Detector, Embedding, FeatureShape, Scores, TrainingSet, length, select
from flowgauge.models.patch_scores import on_one_grid
from flowgauge.models.registry import offer

# Importing anomalib takes seconds: the package loads all that it has, and what it loads and we do not use warns.
with warnings.catch_warnings():
    warnings.filterwarnings("ignore", "Importing from timm.models.layers is deprecated", FutureWarning)
    warnings.filterwarnings("ignore", r"The anomalib\.models\.components\.dinov2 package is deprecated", FutureWarning)
    from anomalib.data import InferenceBatch
    from anomalib.models.components import KCenterGreedy
    from anomalib.models.image.efficient_ad.torch_model import EfficientAdModel
    from anomalib.models.image.fastflow.anomaly_map import AnomalyMapGenerator as FastflowMap
    from anomalib.models.image.fastflow.loss import FastflowLoss
    from anomalib.models.image.fastflow.torch_model import create_fast_flow_block
    from anomalib.models.image.padim.torch_model import PadimModel
    from anomalib.models.image.patchcore.torch_model import PatchcoreModel

# Pixels of the image a side of a map's cell. Their maps have a value per pixel, smoothed over sixteen or interpolated:
# a smaller cell stores the same value many times, a larger one hides small defects.
_CELL = 4
# Images that are scored together: more take more memory, fewer more time.
_BATCH = 16

Features = dict[str, Tensor]
"""(B, C, S, S) per level, by `FeatureShape.keys`, in single precision."""


class BaselineDetector(Detector):
    """A model of anomalib's on features of our backbone, in half precision, of those levels that it uses.

    Image scores are their `pred_score`; maps are their `anomaly_map`, means over cells of it.
    """

    model: nn.Module

    def __init__(self, config: FrozenModel, shape: FeatureShape, coarsest: int | None = None) -> None:
        """Uses all levels, or the `coarsest` so many, by their strides; of those that share one, the earlier layer
        comes first."""
        super().__init__(config, shape, (shape.size // _CELL, shape.size // _CELL))
        finest_first = sorted(range(len(shape.strides)), key=lambda level: shape.strides[level])
        self.levels = tuple(finest_first[-coarsest:] if coarsest else finest_first)
        self.keys = tuple(shape.keys[level] for level in self.levels)
        with seeded(0):
            self.model = self.untrained()
        self.eval()

    @abstractmethod
    def untrained(self) -> nn.Module:
        """Takes `Features`; in eval mode it answers with `pred_score` (B,) and `anomaly_map` (B, 1, size, size)."""

    @abstractmethod
    def fit_model(self, good: Embedding, progress: Progress) -> None:
        """Fit `model`, which is in training mode, drawing from the global generators."""

    def train(self, mode: bool = True) -> Self:
        """Their models answer otherwise while they train, which only `learn` lets them do."""
        return super().train(False)

    def embed(self, features: Sequence[Tensor]) -> Embedding:
        return {key: features[level].half() for key, level in zip(self.keys, self.levels, strict=True)}

    def patch_features(self, embedding: Embedding) -> Tensor:
        return on_one_grid([embedding[key].float() for key in self.keys], self.shape)

    def learn(self, training_set: TrainingSet, *, seed: int, progress: Progress) -> None:
        with seeded(seed):
            self.model = self.untrained().train()
            self.fit_model(training_set.good, progress)
        self.model.eval()

    def score_embedding(self, embedding: Embedding) -> Scores:
        scores, maps = [], []
        with torch.no_grad():
            for batch in self._answers(embedding):
                scores.append(batch.pred_score.flatten())
                maps.append(F.adaptive_avg_pool2d(batch.anomaly_map, self.grid).squeeze(1))
        return Scores(torch.cat(scores), torch.cat(maps))

    def _show(self, good: Embedding, progress: Progress) -> None:
        """Models that are fitted at once keep what they are shown in training mode."""
        with torch.no_grad():
            for done, _ in enumerate(self._answers(good), start=1):
                progress(f"showing {self.name} good images", min(done * _BATCH, length(good)), length(good))

    def _answers(self, embedding: Embedding) -> Iterator[Any]:
        for rows in torch.split(torch.arange(length(embedding)), _BATCH):
            yield self.model(_features(embedding, rows))


class PatchcoreConfig(FrozenModel):
    """`coreset` is the share of all patches that is kept; `neighbours` of the nearest one weigh an image's score."""

    coreset: float = Field(0.01, gt=0, le=1)
    neighbours: int = Field(9, ge=1)


class Patchcore(BaselineDetector):
    """Roth et al., arXiv 2106.08265, with a coreset of 1 %: of the two coarsest levels, as theirs takes the middle
    stages."""

    name = "patchcore"
    config: PatchcoreConfig

    def __init__(self, config: PatchcoreConfig, shape: FeatureShape) -> None:
        super().__init__(config, shape, coarsest=2)

    def untrained(self) -> nn.Module:
        stages, keys = _Stages(self.shape, self.levels), list(self.keys)
        model = PatchcoreModel(backbone=stages, layers=keys, num_neighbors=self.config.neighbours)
        return _GivenFeatures(model, self.shape.size)

    def fit_model(self, good: Embedding, progress: Progress) -> None:
        self._show(good, progress)
        model: Any = self.model.model
        patches = torch.vstack(model.embedding_store)
        model.embedding_store.clear()
        # Their progress bar would run across ours.
        with redirect_stderr(StringIO()), torch.no_grad():
            model.memory_bank = GreedyCoreset(patches, self.config.coreset).sample_coreset()


class GreedyCoreset(KCenterGreedy):  # type: ignore[misc]
    """Chooses what theirs does. Squared distances |x|^2 - 2 x.c + |c|^2 come from one product of a matrix and a vector;
    theirs writes down every difference first, which takes a CPU several times longer.
    """

    min_distances: Tensor | None
    _squared_norms: Tensor

    def update_distances(self, cluster_center: Tensor) -> None:
        centre = self.features[cluster_center].squeeze()
        if self.min_distances is None:
            self._squared_norms = self.features.square().sum(dim=1)
        squared = (
            torch.addmv(self._squared_norms, self.features, centre, alpha=-2).add_(centre.square().sum()).unsqueeze(1)
        )
        self.min_distances = squared if self.min_distances is None else torch.minimum(self.min_distances, squared)


class PadimConfig(FrozenModel):
    """`features`: how many channels are drawn of all levels' together; all, where there are not so many."""

    features: int = Field(100, ge=1)


class Padim(BaselineDetector):
    """Defard et al., arXiv 2011.08785, with 100 features of all levels. A Gaussian for each patch of the finest one, so
    its state grows with the image."""

    name = "padim"
    config: PadimConfig

    def untrained(self) -> nn.Module:
        drawn = min(self.config.features, sum(self.shape.channels))
        model = PadimModel(_Stages(self.shape, self.levels), list(self.keys), n_features=drawn)
        return _GivenFeatures(model, self.shape.size)

    def fit_model(self, good: Embedding, progress: Progress) -> None:
        model: Any = self.model.model
        threads = torch.get_num_threads()
        # On several threads of MKL, batched inversion in single precision has gone wrong, once in silence.
        torch.set_num_threads(1)
        try:
            with torch.no_grad():
                self._show(good, progress)
                model.fit()
        finally:
            torch.set_num_threads(threads)


class FastflowConfig(FrozenModel):
    """`steps` of the flow at each level, whose networks are `hidden_ratio` times as wide as their inputs.

    Adam's settings are theirs. They stop by a validation that we have no labels for: hence a fixed number of `epochs`.
    """

    steps: int = Field(8, ge=1)
    hidden_ratio: float = Field(1.0, gt=0)
    clamp: float = Field(2.0, gt=0)
    epochs: int = Field(15, ge=1)
    batch: int = Field(32, ge=1)
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(1e-5, ge=0)


class Fastflow(BaselineDetector):
    """Yu et al., arXiv 2111.07677, of all levels, put together from anomalib's parts: their whole model takes four
    backbones by name and no other. Blocks, norms, map and loss are theirs all the same."""

    name = "fastflow"
    config: FastflowConfig

    def untrained(self) -> nn.Module:
        return _FastflowModel(self.config, self.shape, self.levels)

    def fit_model(self, good: Embedding, progress: Progress) -> None:
        config, loss = self.config, FastflowLoss()
        optimiser = torch.optim.Adam(self.model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
        for epoch in range(config.epochs):
            for rows in torch.split(torch.randperm(length(good)), config.batch):
                optimiser.zero_grad(set_to_none=True)
                loss(*self.model(_features(good, rows))).backward()
                optimiser.step()
            progress("fitting fastflow", epoch + 1, config.epochs)
        self.model.zero_grad(set_to_none=True)


class _FastflowModel(nn.Module):
    """Features -> z and log-determinants of each level in training mode, the batch's scores and maps otherwise."""

    def __init__(self, config: FastflowConfig, shape: FeatureShape, levels: Sequence[int]) -> None:
        super().__init__()
        self._keys = [shape.keys[level] for level in levels]
        sizes = [[shape.channels[level], shape.sides[level], shape.sides[level]] for level in levels]
        self.norms = nn.ModuleList([nn.LayerNorm(size) for size in sizes])
        self.blocks = nn.ModuleList(
            [
                create_fast_flow_block(
                    size,
                    conv3x3_only=False,
                    hidden_ratio=config.hidden_ratio,
                    flow_steps=config.steps,
                    clamp=config.clamp,
                )
                for size in sizes
            ]
        )
        self._map = FastflowMap(input_size=(shape.size, shape.size))

    def forward(self, features: Features) -> tuple[list[Tensor], list[Tensor]] | InferenceBatch:
        found = [
            block(norm(features[name])) for name, norm, block in zip(self._keys, self.norms, self.blocks, strict=True)
        ]
        z = [z_BCHW for z_BCHW, _ in found]
        if self.training:
            return z, [log_det_B for _, log_det_B in found]
        anomaly_map = self._map(z)
        return InferenceBatch(pred_score=anomaly_map.amax(dim=(1, 2, 3)), anomaly_map=anomaly_map)


class _Stages(nn.Module):
    """Layers as wide and as coarse as the backbone's. Models ask for these sizes once, and never run them again."""

    def __init__(self, shape: FeatureShape, levels: Sequence[int]) -> None:
        super().__init__()
        for level in levels:
            self.add_module(shape.keys[level], nn.Conv2d(3, shape.channels[level], 1, shape.strides[level]))

    def forward(self, images_BCHW: Tensor) -> list[Tensor]:
        return [layer(images_BCHW) for layer in self.children()]


class _GivenFeatures(nn.Module):
    """Features of images of `size` pixels a side -> what `model` answers to the images."""

    def __init__(self, model: Any, size: int) -> None:
        super().__init__()
        model.feature_extractor = _Extracted()
        self.model = model
        self._size = size

    def forward(self, features: Features) -> Any:
        extracted: Any = self.model.feature_extractor
        first = next(iter(features.values()))
        extracted.features = features
        try:
            return self.model(first.new_empty(len(first), 3, self._size, self._size))
        finally:
            del extracted.features


class _Extracted(nn.Module):
    """Stands where a model has its backbone, and gives the features that were put here for the batch."""

    features: Features

    def forward(self, images_BCHW: Tensor) -> Features:
        return self.features


def efficient_ad(device: str) -> Forward:
    """Batzner et al., arXiv 2303.14535, the small one, for its speed alone: it reads pixels, so it is no detector on
    features of our backbone. Its random weights take as long as trained ones.
    """
    model = EfficientAdModel().to(device).eval()

    def forward(images_BCHW: Tensor) -> Tensor:
        with torch.inference_mode():
            scores: Tensor = model(images_BCHW.to(device)).pred_score
        return scores

    return forward


def offer_all() -> None:
    """Make them known by name in this process."""
    offer(Patchcore, PatchcoreConfig)
    offer(Padim, PadimConfig)
    offer(Fastflow, FastflowConfig)


def _fitted(
    kind: Callable[[Any, FeatureShape], BaselineDetector],
    config: FrozenModel,
    good: Embedding,
    shape: FeatureShape,
    seed: int,
) -> Predictor:
    detector = kind(config, shape)

    def means(embedding: Embedding) -> Embedding:
        """Without the maxima that stand behind the means where a level is finer than the grid."""
        return {
            key: embedding[key][:, : detector.shape.channels[level]]
            for key, level in zip(detector.keys, detector.levels, strict=True)
        }

    training_set = TrainingSet(
        good=means(good),
        image=torch.arange(length(good)),
        synthetic={},
        synthetic_image=torch.empty(0, dtype=torch.long),
        mask=torch.zeros(0, *detector.grid),
    )
    detector.learn(training_set, seed=seed, progress=silent)
    return lambda embedding: detector.score_embedding(means(embedding)).image


BASELINES: dict[Ablation, Baseline] = {
    Ablation.PATCHCORE: partial(_fitted, Patchcore, PatchcoreConfig()),
    Ablation.PADIM: partial(_fitted, Padim, PadimConfig()),
}
"""In the noise benchmark, on the features that `headflow` keeps. One thing differs from what they would have seen:
features finer than the grid come as the means over its patches, so that PaDiM works on this grid and not on the finest.
"""


def _features(embedding: Embedding, rows: Tensor) -> Features:
    return {name: tensor.float() for name, tensor in select(embedding, rows).items()}
