"""A threshold comes from other detectors than the one that it is for: their scales are brought together."""

import numpy as np
import torch
from torch import Tensor

from flowgauge.domain.messages import FrozenModel
from flowgauge.models.detector import Detector, Embedding, FeatureShape, Progress, Scores, TrainingSet
from flowgauge.training.fit import FitSettings, Trainer

IMAGES = 40
SHAPE = FeatureShape(channels=(1,), strides=(1,), size=4)


class Levelled(Detector):
    """Scores are the images' only value, on a level that grows with how many images trained."""

    level: Tensor

    def __init__(self, config: FrozenModel, shape: FeatureShape) -> None:
        super().__init__(config, shape, (2, 2))
        self.register_buffer("level", torch.zeros(()))

    def embed(self, features: object) -> Embedding:
        raise NotImplementedError

    def patch_features(self, embedding: Embedding) -> Tensor:
        return embedding["value"][:, None, None, None]

    def learn(self, training_set: TrainingSet, *, seed: int, progress: Progress) -> None:
        self.level.fill_(len(training_set.image))

    def score_embedding(self, embedding: Embedding) -> Scores:
        image = embedding["value"] + self.level
        return Scores(image, image[:, None, None].expand(-1, 2, 2) / 10)


class OfLevels(Trainer):
    def untrained(self) -> Detector:
        return Levelled(FrozenModel(), SHAPE)


def training_set() -> TrainingSet:
    value = torch.randn(IMAGES, generator=torch.Generator().manual_seed(0))
    nothing = torch.zeros(0, dtype=torch.long)
    return TrainingSet({"value": value}, torch.arange(IMAGES), {}, nothing, torch.zeros(0, 2, 2))


def test_cross_fitted_scores_lie_on_the_scale_of_the_detector_that_all_images_trained() -> None:
    trainer = OfLevels(FitSettings(), SHAPE, 0, lambda what, done, total: None)
    given, folds, suspects = training_set(), np.arange(IMAGES) % 2, torch.tensor([5])
    final = trainer.trained(given.without(suspects), "all")
    own = final.score_embedding(given.good)

    found = trainer.cross_fitted(given, folds, suspects, scale_of=final)
    torch.testing.assert_close(found.image, own.image)
    torch.testing.assert_close(found.maps, own.maps)

    raw = trainer.cross_fitted(given, folds, suspects)
    assert (own.image - raw.image).min() > IMAGES / 2 - 2, "each fold was trained with half of the images"


def test_what_did_not_train_both_says_nothing_of_their_scales() -> None:
    """A suspect of any value, or one held out, moves no other score."""
    trainer = OfLevels(FitSettings(), SHAPE, 0, lambda what, done, total: None)
    given, folds, suspects = training_set(), np.arange(IMAGES) % 2, torch.arange(0, 20)
    final = trainer.trained(given.without(suspects), "all")
    before = trainer.cross_fitted(given, folds, suspects, scale_of=final).image
    given.good["value"][:20] += 1000
    after = trainer.cross_fitted(given, folds, suspects, scale_of=final).image
    torch.testing.assert_close(after[20:], before[20:])
