from functools import cache

import numpy as np
import pytest

from flowgauge.evaluation.choices import Choice, Chooser
from flowgauge.evaluation.estimate import Repeat
from flowgauge.evaluation.feature_cache import Embedded, embedded
from flowgauge.evaluation.replicates import Material, Replicates, resplit
from tests.support.gauges import defects, goods, settings

GOOD, BAD = 24, 8
NAMES = tuple([f"good/{number:02}" for number in range(GOOD)] + [f"bad/{number:02}" for number in range(BAD)])
MATERIAL = Material(np.arange(GOOD + BAD) >= GOOD, NAMES, np.zeros(GOOD + BAD, dtype=bool))


@cache
def data() -> Embedded:
    pictures = goods(range(GOOD)) + defects(range(100, 100 + BAD), kinds=("stain", "chip"))
    return embedded(NAMES, pictures, settings(), "cpu", lambda what, done, total: None)


@cache
def repeat(choice: Choice) -> Repeat:
    def silent(what: str, done: int, total: int) -> None: ...

    return Replicates(data(), MATERIAL, Chooser(choice=choice), settings(), None, lambda: 0.0, silent).repeat(3)


def test_those_test_whom_the_split_names_and_no_others() -> None:
    split, found = resplit(MATERIAL, 3), repeat(Choice.YOUDEN)
    assert list(found.good) == [NAMES[number] for number in split.test_good]
    assert list(found.defect) == [NAMES[number] for number in split.test_defect]
    assert (found.train_images, found.idle) == (len(split.train), len(split.idle)) == (16, 0)
    assert found.image_auroc > 0.5


def test_the_gauges_own_threshold_asks_no_defect() -> None:
    own, youden = repeat(Choice.OWN), repeat(Choice.YOUDEN)
    assert own.threshold != youden.threshold
    for kind in ("good", "defect"):
        assert getattr(own, kind) == pytest.approx(getattr(youden, kind)), "the same detector judges"
