import numpy as np
import pytest

from flowgauge.domain.choices import Aspect
from flowgauge.domain.errors import DatasetError
from flowgauge.training.fit import FitSettings, fit
from flowgauge.training.snapshot import save
from flowgauge.training.thresholds import Rule
from flowgauge.vision.decoding import Picture
from flowgauge.vision.preprocessing import Preprocessing
from tests.support.gauges import AT, defects, gauge, goods, settings
from tests.support.strewn import CANVAS, scene


def test_the_same_pictures_and_seed_fit_the_same_gauge() -> None:
    again = fit(goods(range(36)), line="press-3", settings=settings(), at=AT, seed=0)
    assert save(again) == save(gauge())


def test_the_version_tells_gauges_apart() -> None:
    other = fit(goods(range(16)), line="press-3", settings=settings(), at=AT, seed=1)
    assert other.version != gauge().version
    assert other.version.startswith("fit-")


def test_images_of_one_part_share_a_fold() -> None:
    """With two parts there are two folds, whatever was asked for; with one there is none."""
    pictures = goods(range(10))
    groups = ["a"] * 5 + ["b"] * 5
    fitted = fit(pictures, line="press-3", settings=settings(), at=AT, groups=groups)
    assert fitted.manifest.threshold.images == 10
    with pytest.raises(DatasetError, match="1 parts"):
        fit(pictures, line="press-3", settings=settings(), at=AT, groups=["a"] * 10)


def test_pictures_whose_object_is_unclear_do_not_train() -> None:
    pictures = [Picture(scene(part, "good", part)[0], "") for part in range(10)]
    empty = [Picture(np.full((CANVAS, CANVAS, 3), 30, np.uint8), "") for _ in range(3)]
    embedding = settings().model_copy(update={"preprocessing": Preprocessing(size=64, aspect=Aspect.MASKED_CROP)})
    fitted, without = (
        fit(each, line="press-3", settings=embedding, at=AT, groups=[str(n) for n in range(len(each))])
        for each in ([*pictures, *empty], pictures)
    )
    assert fitted.manifest.images == 10
    assert fitted.manifest.weights_sha256 == without.manifest.weights_sha256


def test_too_few_images_are_refused_with_how_many_it_takes() -> None:
    with pytest.raises(DatasetError, match="at least 8"):
        fit(goods(range(3)), line="press-3", settings=settings(), at=AT)


def test_refining_leaves_suspects_out_and_hears_the_clean_half() -> None:
    pictures = goods(range(32)) + defects(range(8), kinds=("stain", "chip"))
    refined = settings().model_copy(update={"refine": 1})
    fitted = fit(pictures, line="press-3", settings=refined, at=AT)
    assert 20 <= fitted.manifest.images < 40
    assert fitted.manifest.threshold.rule is Rule.ONE_SIDED


@pytest.mark.parametrize(
    ("detector", "own"),
    [
        ("featureflow", ("view 4 of 4", "member 2 of 2", "calibrating the flows")),
        ("headflow", ("synthetic anomalies", "fold 1 of 2")),
    ],
)
def test_progress_names_what_is_done(detector: str, own: tuple[str, ...]) -> None:
    reported: list[str] = []
    fit(
        goods(range(8)),
        line="press-3",
        settings=settings(detector),
        at=AT,
        progress=lambda what, done, total: reported.append(what),
    )
    words = " ".join(dict.fromkeys(reported))
    assert all(part in words for part in ("reading features", "fitting the flow", *own))
    assert ("fold 1 of 2" in words) == (detector == "headflow"), "featureflow cross-fits itself, by its members"
    assert ("synthetic anomalies" in words) == (detector == "headflow"), "featureflow needs no synthetic anomalies"


def test_the_default_is_featureflow_on_the_packaged_backbone() -> None:
    assert FitSettings().detector == "featureflow"
    assert FitSettings().backbone.name == "tf_efficientnet_lite0"
