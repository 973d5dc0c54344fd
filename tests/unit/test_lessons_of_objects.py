"""What a gauge that sees objects alone is taught with."""

import numpy as np

from flowgauge.training.training_set import paint_all, varied
from flowgauge.vision.decoding import Picture
from flowgauge.vision.preprocessing import Aspect, Preprocessing, shown
from tests.support.strewn import scene


def squares(count: int) -> np.ndarray:
    pictures = [Picture(scene(part, "good", part)[0], "") for part in range(count)]
    return Preprocessing(size=96, aspect=Aspect.EMBED).measured(pictures).squares(pictures)


def test_what_is_shown_is_the_object_with_its_holes() -> None:
    for square in squares(3):
        covered = shown(square)
        assert 0.3 < covered.mean() < 0.9
        assert covered[48, 48], "the washer's hole"
        assert not square[~covered].any()


def test_an_all_black_square_shows_all_there_is() -> None:
    assert shown(np.zeros((8, 8, 3), np.uint8)).all()


def test_defects_are_painted_on_objects_alone() -> None:
    """Those on the black ground would teach, and ask, what is of no interest."""
    seen = varied(squares(8), seed=0)
    painted = paint_all(seen, seed=0, cut=True)
    assert all(not mask[~shown(square)].any() for square, mask in zip(seen, painted.masks, strict=True))
    anywhere = paint_all(seen, seed=0, cut=False)
    assert any(mask[~shown(square)].any() for square, mask in zip(seen, anywhere.masks, strict=True))
