"""What a gauge that sees objects alone is trained with."""

import numpy as np

from flowgauge.domain.choices import Aspect
from flowgauge.training.training_set import add_anomalies, varied
from flowgauge.vision.decoding import Picture
from flowgauge.vision.preprocessing import Preprocessing, shown
from tests.support.strewn import scene


def crops(count: int) -> np.ndarray:
    pictures = [Picture(scene(part, "good", part)[0], "") for part in range(count)]
    return Preprocessing(size=96, aspect=Aspect.MASKED_CROP).measured(pictures).crops(pictures)


def test_what_is_shown_is_the_object_with_its_holes() -> None:
    for square in crops(3):
        covered = shown(square)
        assert 0.3 < covered.mean() < 0.9
        assert covered[48, 48], "the washer's hole"
        assert not square[~covered].any()


def test_an_all_black_crop_shows_all_there_is() -> None:
    assert shown(np.zeros((8, 8, 3), np.uint8)).all()


def test_defects_are_synthetic_on_objects_alone() -> None:
    """Those on the black ground would train, and ask, what is of no interest."""
    seen = varied(crops(8), seed=0)
    _, masks = add_anomalies(seen, seed=0, cut=True)
    assert all(not mask[~shown(square)].any() for square, mask in zip(seen, masks, strict=True))
    _, anywhere = add_anomalies(seen, seed=0, cut=False)
    assert any(mask[~shown(square)].any() for square, mask in zip(seen, anywhere, strict=True))
