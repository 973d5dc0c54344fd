"""A threshold comes from other detectors than the one that it is for: their scales are brought together."""

import numpy as np
import torch
from torch import Tensor

from flowgauge.domain.messages import Part
from flowgauge.models.detector import Detector, Embedding, FeatureShape, Lesson, Progress, Scores
from flowgauge.training.fit import FitSettings, Teacher

IMAGES = 40
SHAPE = FeatureShape(channels=(1,), strides=(1,), size=4)


class Levelled(Detector):
    """Scores are the images' only value, on a level that grows with how many images taught."""

    level: Tensor

    def __init__(self, config: Part, shape: FeatureShape) -> None:
        super().__init__(config, shape, (2, 2))
        self.register_buffer("level", torch.zeros(()))

    def embed(self, features: object) -> Embedding:
        raise NotImplementedError

    def surface(self, embedding: Embedding) -> Tensor:
        return embedding["value"][:, None, None, None]

    def learn(self, lesson: Lesson, *, seed: int, progress: Progress) -> None:
        self.level.fill_(len(lesson.image))

    def score_embedding(self, embedding: Embedding) -> Scores:
        image = embedding["value"] + self.level
        return Scores(image, image[:, None, None].expand(-1, 2, 2) / 10)


class OfLevels(Teacher):
    def untaught(self) -> Detector:
        return Levelled(Part(), SHAPE)


def lesson() -> Lesson:
    value = torch.randn(IMAGES, generator=torch.Generator().manual_seed(0))
    nothing = torch.zeros(0, dtype=torch.long)
    return Lesson({"value": value}, torch.arange(IMAGES), {}, nothing, torch.zeros(0, 2, 2))


def test_cross_fitted_scores_lie_on_the_scale_of_the_detector_that_all_images_taught() -> None:
    teacher = OfLevels(FitSettings(), SHAPE, 0, lambda what, done, total: None)
    given, folds, suspects = lesson(), np.arange(IMAGES) % 2, torch.tensor([5])
    final = teacher.taught(given.without(suspects), "all")
    own = final.score_embedding(given.good)

    found = teacher.cross_fitted(given, folds, suspects, scale_of=final)
    torch.testing.assert_close(found.image, own.image)
    torch.testing.assert_close(found.maps, own.maps)

    raw = teacher.cross_fitted(given, folds, suspects)
    assert (own.image - raw.image).min() > IMAGES / 2 - 2, "each fold was taught with half of the images"


def test_what_did_not_teach_both_says_nothing_of_their_scales() -> None:
    """A suspect of any value, or one held out, moves no other score."""
    teacher = OfLevels(FitSettings(), SHAPE, 0, lambda what, done, total: None)
    given, folds, suspects = lesson(), np.arange(IMAGES) % 2, torch.arange(0, 20)
    final = teacher.taught(given.without(suspects), "all")
    before = teacher.cross_fitted(given, folds, suspects, scale_of=final).image
    given.good["value"][:20] += 1000
    after = teacher.cross_fitted(given, folds, suspects, scale_of=final).image
    torch.testing.assert_close(after[20:], before[20:])
