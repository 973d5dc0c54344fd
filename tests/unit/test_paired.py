import numpy as np
import pytest

from flowgauge.domain.errors import UserError
from flowgauge.domain.messages import Decision
from flowgauge.evaluation.results import ImageResult, Run, paired_difference


def _run(seed: int, lift: float, names: str = "image") -> Run:
    """Scores of 60 good and 60 defective images; `lift` parts them."""
    noise = np.random.default_rng(seed).normal(0, 1, 120)
    images = tuple(
        ImageResult(
            name=f"{names}-{i}",
            kind="scratch" if i % 2 else "good",
            score=float(noise[i] + lift * (i % 2)),
            decision=Decision.PASS,
        )
        for i in range(120)
    )
    blank = dict.fromkeys(name for name, field in Run.model_fields.items() if field.is_required())
    fields = {"seed": seed, "images": images, "per_class": {}, "unreadable": {}, "left_out_of_pixel_metrics": ()}
    counts = dict.fromkeys(("mislabelled_share", "fitted_images", "good_images", "defective_images", "regions"), 0)
    return Run.model_validate(blank | counts | fields)


def test_a_better_evaluation_is_better_by_an_interval_above_zero() -> None:
    better, worse = [_run(seed, 2.0) for seed in (0, 1)], [_run(seed, 1.0) for seed in (0, 1)]
    difference = paired_difference(better, worse)
    assert difference.image_auroc_difference > 0.1
    assert 0 < difference.interval[0] < difference.image_auroc_difference < difference.interval[1]
    assert set(difference.by_seed) == {0, 1}


def test_an_evaluation_does_not_differ_from_itself() -> None:
    same = paired_difference([_run(0, 1.0)], [_run(0, 1.0)])
    assert same.image_auroc_difference == 0
    assert same.interval == (0, 0)


def test_pairing_is_sharper_than_two_intervals_apart() -> None:
    difference = paired_difference([_run(0, 1.1)], [_run(0, 1.0)])
    assert difference.interval[1] - difference.interval[0] < 0.03


def test_groups_are_drawn_whole() -> None:
    groups = {f"image-{i}": f"part-{i // 12}" for i in range(120)}
    alone = paired_difference([_run(0, 1.5)], [_run(0, 1.0)])
    together = paired_difference([_run(0, 1.5)], [_run(0, 1.0)], groups)
    assert alone.interval != together.interval


def test_other_seeds_or_other_images_are_refused() -> None:
    with pytest.raises(UserError, match="seeds"):
        paired_difference([_run(0, 1)], [_run(1, 1)])
    with pytest.raises(UserError, match="test images of seed 0"):
        paired_difference([_run(0, 1)], [_run(0, 1, names="other")])
