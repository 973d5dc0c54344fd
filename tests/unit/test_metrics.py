import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage
from sklearn.metrics import roc_auc_score

from flowgauge.evaluation.intervals import auroc_replicates, interval, weighted_auroc
from flowgauge.evaluation.metrics import (
    AUPRO_LIMIT,
    Floats,
    Mask,
    PixelMetrics,
    Ramps,
    errors_at,
    image_auroc,
    pixel_metrics,
    region_weights,
)

SEEDS = range(5)

Map = NDArray[np.float32]


def measured(maps: list[Map], masks: list[Mask]) -> PixelMetrics:
    found = pixel_metrics(maps, masks)
    assert found is not None
    return found


def blobs(seed: int, images: int = 6, side: int = 24) -> tuple[list[Map], list[Mask]]:
    """Coarse maps with many ties, and masks of which one is empty and the others hold a few regions."""
    generator = np.random.default_rng(seed)
    masks = [ndimage.binary_dilation(generator.random((side, side)) > 0.985) for _ in range(images - 1)]
    masks.append(np.zeros((side, side), dtype=bool))
    maps = [np.round(generator.normal(size=(side, side)) + mask, 1).astype(np.float32) for mask in masks]
    return maps, masks


def slow_aupro(maps: list[Map], masks: list[Mask], limit: float) -> float:
    """By its words: at every threshold, the overlap of every region and the share of good pixels that are flagged."""
    labelled = [ndimage.label(mask, structure=np.ones((3, 3)))[0] for mask in masks]
    pairs = list(zip(maps, labelled, strict=True))
    regions = [scores[labels == k] for scores, labels in pairs for k in range(1, labels.max() + 1)]
    good = np.concatenate([scores[labels == 0] for scores, labels in pairs])
    thresholds = np.unique(np.concatenate([good, *regions]))[::-1]
    rates = [0.0] + [float((good >= t).mean()) for t in thresholds]
    overlaps = [0.0] + [float(np.mean([(region >= t).mean() for region in regions])) for t in thresholds]
    end = np.interp(limit, rates, overlaps)
    inside = [(x, y) for x, y in zip(rates, overlaps, strict=True) if x <= limit] + [(limit, end)]
    x, y = np.array(inside).T
    return float(((x[1:] - x[:-1]) * (y[1:] + y[:-1]) / 2).sum() / limit)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_whole_area_is_the_auroc_with_ties_counted_half(seed: int) -> None:
    generator = np.random.default_rng(seed)
    positive, negative = np.round(generator.normal(0.5, 1, 300), 1), np.round(generator.normal(0, 1, 500), 1)
    truth = roc_auc_score(np.repeat([1, 0], [300, 500]), np.concatenate([positive, negative]))
    assert Ramps.of(positive, negative).area() == pytest.approx(truth, abs=1e-12)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("limit", [0.05, AUPRO_LIMIT, 1.0])
def test_the_per_region_overlap_equals_its_slow_definition(seed: int, limit: float) -> None:
    maps, masks = blobs(seed)
    positive = np.concatenate([m[k] for m, k in zip(maps, masks, strict=True)])
    negative = np.concatenate([m[~k] for m, k in zip(maps, masks, strict=True)])
    weights = np.concatenate([region_weights(mask) for mask in masks])
    assert Ramps.of(positive, negative).area(weights, limit) == pytest.approx(slow_aupro(maps, masks, limit), abs=1e-9)


def test_pixel_metrics_are_those_two_areas() -> None:
    maps, masks = blobs(7)
    found = measured(maps, masks)
    labels, scores = np.concatenate([m.ravel() for m in masks]), np.concatenate([m.ravel() for m in maps])
    assert found.auroc == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert found.aupro == pytest.approx(slow_aupro(maps, masks, AUPRO_LIMIT), abs=1e-9)


def test_a_map_that_is_its_mask_is_perfect() -> None:
    _, masks = blobs(0)
    found = measured([mask.astype(np.float32) for mask in masks], masks)
    assert found.auroc == 1.0
    assert found.aupro == pytest.approx(1.0)


def test_a_constant_map_is_chance() -> None:
    _, masks = blobs(0)
    found = measured([np.zeros(mask.shape, np.float32) for mask in masks], masks)
    assert found.auroc == pytest.approx(0.5)
    assert found.aupro == pytest.approx(AUPRO_LIMIT / 2)


def test_a_small_region_counts_as_much_as_a_large_one() -> None:
    mask = np.zeros((20, 20), dtype=bool)
    mask[:8, :8] = mask[15, 15] = True
    found = measured([np.where(np.arange(20)[:, None] < 8, mask, 0).astype(np.float32)], [mask])
    assert found.regions == 2
    assert found.aupro == pytest.approx((1 + AUPRO_LIMIT / 2) / 2)


def test_regions_that_touch_at_a_corner_are_one() -> None:
    weights = region_weights(np.eye(3, dtype=bool))
    assert weights == pytest.approx([1 / 3] * 3)


def test_without_a_defective_pixel_there_are_no_pixel_metrics() -> None:
    assert pixel_metrics([np.zeros((4, 4), np.float32)], [np.zeros((4, 4), bool)]) is None


def test_without_a_good_pixel_there_are_no_pixel_metrics() -> None:
    assert pixel_metrics([np.zeros((4, 4), np.float32)], [np.ones((4, 4), bool)]) is None


def test_the_order_of_the_images_changes_nothing() -> None:
    maps, masks = blobs(3)
    assert pixel_metrics(maps, masks) == pixel_metrics(maps[::-1], masks[::-1])


def test_image_auroc_needs_both_kinds() -> None:
    scores = np.array([0.0, 1.0, 2.0])
    assert image_auroc(scores, np.array([False, False, True])) == 1.0
    assert image_auroc(scores, np.zeros(3, dtype=bool)) is None


def test_a_score_at_the_threshold_is_no_alarm() -> None:
    found = errors_at(1.0, np.array([0.0, 1.0, 2.0, 1.0, 3.0]), np.array([False, False, False, True, True]))
    assert found.false_alarm_share == pytest.approx(1 / 3)
    assert found.miss_share == 0.5
    assert errors_at(1.0, np.array([0.0]), np.array([False])).miss_share is None


def overlapping(images: int = 120, seed: int = 0) -> tuple[Floats, Mask]:
    defective = np.arange(images) % 3 == 0
    return np.random.default_rng(seed).normal(defective * 1.0), defective


def test_the_interval_encloses_the_auroc() -> None:
    scores, defective = overlapping()
    low, high = interval(auroc_replicates(scores, defective))
    assert low < roc_auc_score(defective, scores) < high


def test_near_duplicates_add_nothing_once_their_groups_are_known() -> None:
    scores, defective = overlapping()
    alone = interval(auroc_replicates(scores, defective, seed=1))
    near_duplicates, groups = np.tile(scores, 6), np.tile(np.arange(scores.size).astype(str), 6)
    grouped = interval(auroc_replicates(near_duplicates, np.tile(defective, 6), list(groups), seed=1))
    naive = interval(auroc_replicates(near_duplicates, np.tile(defective, 6), seed=1))
    assert grouped == pytest.approx(alone, abs=0.02)
    assert naive[1] - naive[0] < 0.6 * (alone[1] - alone[0])


def test_resamples_keep_both_kinds_even_of_one_image_each() -> None:
    replicates = auroc_replicates(np.array([0.0, 1.0]), np.array([False, True]))
    assert np.all(replicates == 1.0)


def test_a_group_may_hold_both_kinds() -> None:
    scores, defective = np.array([0.0, 2.0, 1.0, 3.0]), np.array([False, True, False, True])
    assert np.all(auroc_replicates(scores, defective, ["a", "a", "b", "b"]) >= 0.5)


def test_two_gauges_are_compared_on_the_same_resamples() -> None:
    scores, defective = overlapping()
    better = scores + 0.5 * defective
    low, _ = interval(auroc_replicates(better, defective) - auroc_replicates(scores, defective))
    assert low > 0
    assert interval(auroc_replicates(better, defective))[0] < interval(auroc_replicates(scores, defective))[1]


@pytest.mark.parametrize("seed", SEEDS)
def test_images_that_count_several_times_weigh_so_much_in_the_auroc(seed: int) -> None:
    """Not to the last bit: scikit-learn sums trapezoids in the order of thresholds."""
    generator = np.random.default_rng(seed)
    scores, defective = np.round(generator.normal(size=300), 1), generator.random(300) < 0.4
    counts = generator.integers(0, 4, 300)
    wanted = roc_auc_score(defective, scores, sample_weight=counts)
    assert weighted_auroc(scores, defective, counts) == pytest.approx(wanted, abs=1e-12)
