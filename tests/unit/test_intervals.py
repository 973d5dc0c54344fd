import numpy as np
import pytest
from scipy import stats

from flowgauge.evaluation.choices import Choice
from flowgauge.evaluation.intervals import ShareOfImages, corrected, propagated
from tests.support.factories import Factory, coverage, simulated

SIMULATIONS = 150


def table(repeats: int, images: int, held_back: int, share: float, seed: int = 0) -> np.ndarray:
    """Each image errs whenever it judges, or never."""
    rng = np.random.default_rng(seed)
    erring = np.arange(images) < share * images
    erred = np.full((repeats, images), np.nan)
    for row in erred:
        testing = rng.permutation(images)[:held_back]
        row[testing] = erring[testing]
    return erred


def test_the_corrected_interval_is_nadeau_and_bengios() -> None:
    figures = [0.1, 0.2, 0.15, 0.05]
    low, high = corrected(figures, test_to_train=0.5)
    reach = stats.t.ppf(0.975, 3) * np.std(figures, ddof=1) * np.sqrt(1 / 4 + 0.5)
    assert (low, high) == pytest.approx((0.125 - reach, 0.125 + reach))


def test_more_repeats_shrink_the_plain_interval_without_end_but_not_ours() -> None:
    narrow = [np.subtract(*corrected([0.1, 0.3] * times)[::-1]) for times in (5, 500)]
    assert narrow[1] < 0.1 * narrow[0]
    ours = [ShareOfImages(table(k, 60, 30, 0.2), np.arange(60)).share().interval for k in (10, 1000)]
    widths = [high - low for low, high in ours]
    assert widths[1] > 0.9 * widths[0]


def test_independent_images_are_worth_what_nadeau_and_bengios_overlap_leaves() -> None:
    repeats, images, held_back = 400, 60, 30
    share = ShareOfImages(table(repeats, images, held_back, 0.2), np.arange(images)).share()
    rho = held_back / images
    assert share.effective == pytest.approx(held_back / (rho + (1 - rho) / repeats), rel=0.01)
    assert (share.images, share.parts) == (60, 60)


def test_one_repeat_of_independent_images_is_jeffreys_interval() -> None:
    erred = np.array([[1.0] * 3 + [0.0] * 997])
    low, high = ShareOfImages(erred, np.arange(1000)).share().interval
    wanted = stats.beta.ppf([0.025, 0.975], 3.5, 997.5)
    assert (low, high) == pytest.approx(wanted, rel=0.02)


def test_images_of_one_part_that_err_together_are_worth_one() -> None:
    alike = np.repeat(np.arange(40), 5)
    erred = np.repeat((np.arange(40) < 20).astype(float), 5)[None]
    assert ShareOfImages(erred, alike).share().effective == pytest.approx(40, rel=0.03)
    shuffled = np.random.default_rng(0).permutation(erred.T).T
    assert ShareOfImages(shuffled, alike).share().effective > 120


def test_no_error_among_few_parts_promises_little() -> None:
    parts = np.repeat(np.arange(10), 6)
    low, high = ShareOfImages(np.zeros((1, 60)), parts).share().interval
    assert low == 0.0
    assert high > 0.15, "ten parts, not sixty images, were judged"
    low, high = ShareOfImages(np.ones((1, 60)), parts).share().interval
    assert high == 1.0
    assert low < 0.85


def test_a_figure_of_both_shares_has_their_intervals_joined() -> None:
    alarms = ShareOfImages(table(10, 300, 60, 0.1), np.arange(300)).share()
    misses = ShareOfImages(table(10, 60, 30, 0.3), np.arange(60)).share()
    assert propagated(lambda p, q: p, alarms.mean, alarms, misses) == pytest.approx(alarms.interval)
    low, high = propagated(lambda p, q: 1 - (p + q) / 2, 1 - (alarms.mean + misses.mean) / 2, alarms, misses)
    downs = [share.interval[1] - share.mean for share in (alarms, misses)]
    ups = [share.mean - share.interval[0] for share in (alarms, misses)]
    middle = 1 - (alarms.mean + misses.mean) / 2
    assert (low, high) == pytest.approx((middle - np.linalg.norm(downs) / 2, middle + np.linalg.norm(ups) / 2))


@pytest.mark.parametrize(
    "factory",
    [Factory(100, 20, 3.0, Choice.OWN, dimensions=2), Factory(300, 60, 3.0, Choice.YOUDEN, most_images=6)],
    ids=str,
)
def test_intervals_cover_the_truth_where_plain_ones_do_not(factory: Factory) -> None:
    """The benchmark asks for 93 % in 1,000 simulations and finds 95 to 99. Of 150, an interval that covers 95 % of the
    time falls below 90 % once in 300 times; the plain one of misses, which covers 50 to 75 %, is never near.
    """
    outcomes = [simulated(factory, seed, fresh=20_000) for seed in range(SIMULATIONS)]
    alarms, misses = (
        coverage(outcomes, figure, truth)
        for figure, truth in (("false_alarm_share", "false_alarms"), ("miss_share", "misses"))
    )
    assert min(alarms["interval"].covered, misses["interval"].covered) >= 0.90
    assert max(alarms["interval"].width, misses["interval"].width) <= 2.0
    assert misses["plain_interval"].covered < 0.85
