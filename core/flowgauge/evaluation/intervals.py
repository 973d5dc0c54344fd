"""Confidence intervals: bootstrap over groups of images, exact binomial, and figures of repeated splits.

**Bootstrap.** Images of one part are not independent, so whole groups are resampled.

**Repeated splits.** K repeats are not K experiments: they draw training and test images from the same N, so their
errors correlate by about rho = n2 / (n1 + n2), where n2 of n1 + n2 images test (Nadeau and Bengio, Inference for the
generalization error, Machine Learning 2003). The mean of K figures with deviation s varies by
sigma^2 (rho + (1 - rho) / K), which no number of repeats brings below rho sigma^2. A plain t interval takes s^2 / K,
shrinks to nothing as K grows, and covers the truth less and less.

The corrected t interval takes s^2 (1 / K + n2 / n1) instead: `corrected`. For shares of images it is wrong at both
ends. Near 0 most repeats count no error, and s is about 0; where each repeat chooses its threshold anew, s holds that
variation too, and the interval is up to twice too wide. `ShareOfImages` therefore takes sigma^2 = p (1 - p) from the
images, and rho as it came out.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from flowgauge.domain.messages import FrozenModel
from flowgauge.evaluation.metrics import Floats, Mask

REPLICATES = 1000
"""Resamples of a bootstrap. With fewer, the ends of the interval depend on the seed in their second digit; more take
proportionally longer."""

COVERAGE = 0.95
_TAIL = (1 - COVERAGE) / 2

# Parts with fully correlated errors that are added to the estimate of the correlation. Without them, a handful of
# erring parts seem independent by luck, and the interval covers 91 % instead of 97; with many more, every data set is
# worth only its number of parts.
_PRIOR_PARTS = 2.0

Interval = tuple[float, float]


def auroc_replicates(
    scores: Floats, defective: Mask, groups: Sequence[str] | None = None, *, seed: int = 0
) -> NDArray[np.float64]:
    """(REPLICATES,) image AUROC, in [0, 1], on resamples of the groups (of the images where `groups` is None).

    `scores` (N,), higher is more anomalous; `defective` (N,) bool with at least one image of each kind. Groups of good
    images, of defective images, and of both are resampled separately, so each resample keeps both kinds. The same
    `groups`, `defective` and `seed` give the same resamples: differences of two gauges' replicates are paired.
    """
    _, members = np.unique(np.arange(defective.size) if groups is None else np.asarray(groups), return_inverse=True)
    has_good, has_defect = (np.bincount(members, weights=side) > 0 for side in (~defective, defective))
    strata = has_good.astype(np.intp) + 2 * has_defect.astype(np.intp)
    generator = np.random.default_rng(seed)
    return np.array([weighted_auroc(scores, defective, draw(generator, strata)[members]) for _ in range(REPLICATES)])


def weighted_auroc(scores: Floats, defective: Mask, counts: NDArray[np.intp]) -> float:
    """Image AUROC in [0, 1] of images that count `counts` (N,) times each; at least one of each kind must."""
    # roc_auc_score gives the same with counts as weights (to 1e-12: another order of sums), and takes 60 times as long
    _, ranks = np.unique(scores, return_inverse=True)
    good = np.bincount(ranks, weights=counts * ~defective)
    bad = np.bincount(ranks, weights=counts * defective)
    return float(bad @ (np.cumsum(good) - good / 2) / (bad.sum() * good.sum()))


def draw(generator: np.random.Generator, strata: NDArray[np.intp]) -> NDArray[np.intp]:
    """(G,) how often each group is drawn; from each stratum as many are drawn as it has. `strata` (G,)."""
    counts = np.zeros(strata.size, dtype=np.intp)
    for stratum in np.unique(strata):
        members = np.flatnonzero(strata == stratum)
        np.add.at(counts, generator.choice(members, members.size), 1)
    return counts


def interval(replicates: Floats) -> Interval:
    """The percentile interval: the central `COVERAGE` of the replicates."""
    low, high = np.quantile(replicates, (_TAIL, 1 - _TAIL))
    return float(low), float(high)


def binomial_interval(count: float, images: float) -> Interval:
    """The 95 % interval in [0, 1] of a share, `count` of `images` > 0 (Clopper and Pearson 1934): never too narrow for
    independent images. `count` may be a mean over seeds, which `scipy.stats.binomtest` does not take.
    """
    low = float(stats.beta.ppf(_TAIL, count, images - count + 1)) if count > 0 else 0.0
    high = float(stats.beta.ppf(1 - _TAIL, count + 1, images - count)) if count < images else 1.0
    return low, high


# Further parts beyond which a count is treated as its share: its own scatter, 1 / sqrt(n), is then below a hundredth of
# the rate at any n of a line that labels; fewer would show, more take milliseconds each
_MOST_NEW = 20_000


def exact_share(erred: Mask, groups: NDArray[np.intp]) -> "Share":
    """The share of images (N,), N >= 1, that erred, with Clopper and Pearson's interval; `groups` (N,) numbers their
    parts.

    Where several images show one part, the interval is that of the effective number of images, less what few parts
    tell of their own variance (Korn and Graubard, Survey Methodology 1998).
    """
    mean, images = float(erred.mean()), int(erred.size)
    _, part = np.unique(groups, return_inverse=True)
    parts = int(part.max()) + 1
    effective = float(images)
    if parts == 1:
        effective = 1.0
    elif parts < images:
        found = ShareOfImages(erred[None].astype(np.float64), part).share()
        few = float(special.stdtrit(images - 1, 1 - _TAIL) / special.stdtrit(parts - 1, 1 - _TAIL))
        effective = min(found.effective * few**2, images)
    interval = binomial_interval(mean * effective, effective)
    return Share(mean=mean, interval=interval, images=images, parts=parts, effective=effective)


def prediction_interval(share: "Share", new: int) -> Interval:
    """The 95 % prediction interval, in [0, 1], of the share among `new` >= 1 further images of parts grouped alike.

    It holds both that `share` is an estimate and that the further images are a sample. Its ends are quantiles of
    beta-binomials with the Beta distributions whose quantiles Clopper and Pearson's interval has, which is never too
    narrow for independent images (Thatcher, J. R. Stat. Soc. B 1964).
    """
    n, count = share.effective, share.mean * share.effective
    drawn = max(1, round(min(new, _MOST_NEW) * n / share.images))
    errors = np.arange(drawn + 1)
    binomials = -np.log1p(drawn) - special.betaln(drawn - errors + 1, errors + 1)

    def quantile(level: float, a: float, b: float) -> float:
        chances = np.exp(binomials + special.betaln(errors + a, drawn - errors + b) - special.betaln(a, b))
        return min(int(np.searchsorted(np.cumsum(chances), level)), drawn) / drawn

    low = quantile(_TAIL, count, n - count + 1) if count > 0 else 0.0
    high = quantile(1 - _TAIL, count + 1, n - count) if count < n else 1.0
    return low, high


class PairedShares(FrozenModel):
    """The shares of the same images for which two gauges say yes: `difference` is that of the second less the first,
    with its 95 % interval. `only_first` and `only_second` images make it; `p_value` is McNemar's exact one of no
    difference, which counts images as independent.
    """

    first: float
    second: float
    difference: float
    interval: Interval
    only_first: int
    only_second: int
    p_value: float
    images: int
    parts: int

    @classmethod
    def of(cls, first: Mask, second: Mask, parts: Sequence[str], *, seed: int = 0) -> "PairedShares":
        """`first` and `second` (N,), N >= 1, are what the gauges say; `parts` name the parts that the images show.

        Where each image shows its own part the interval is Bonett and Price's (J. Educ. Behav. Stat. 2012), which is
        not empty where no image differs; otherwise it is a bootstrap over parts, paired by image.
        """
        only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
        differ, images = only_first + only_second, int(first.size)
        _, part = np.unique(np.asarray(parts), return_inverse=True)
        number = int(part.max()) + 1
        if number == images:
            gained, lost = (only_second + 1) / (images + 2), (only_first + 1) / (images + 2)
            reach = float(special.ndtri(1 - _TAIL)) * sqrt((gained + lost - (gained - lost) ** 2) / (images + 2))
            ends = max(gained - lost - reach, -1.0), min(gained - lost + reach, 1.0)
        else:
            signed, generator = second.astype(np.float64) - first, np.random.default_rng(seed)
            strata = np.zeros(number, np.intp)
            drawn = (draw(generator, strata)[part] for _ in range(REPLICATES))
            ends = interval(np.array([counts @ signed / counts.sum() for counts in drawn]))
        return cls(
            first=float(first.mean()),
            second=float(second.mean()),
            difference=float(second.mean() - first.mean()),
            interval=ends,
            only_first=only_first,
            only_second=only_second,
            p_value=float(stats.binomtest(only_first, differ).pvalue) if differ else 1.0,
            images=images,
            parts=number,
        )


def corrected(figures: Sequence[float], test_to_train: float = 0.0) -> Interval:
    """Nadeau and Bengio's t interval for the mean of K >= 2 figures; `test_to_train` is n2 / n1.

    With 0 it is the plain t interval, which takes K repeats for K experiments and is too narrow.
    """
    mean, spread = float(np.mean(figures)), float(np.std(figures, ddof=1))
    reach = float(special.stdtrit(len(figures) - 1, 1 - _TAIL)) * spread * sqrt(1 / len(figures) + test_to_train)
    return mean - reach, mean + reach


class Share(FrozenModel):
    """A share in [0, 1] with its interval. `images` and `parts`: how many different ones were tested; `effective`: how
    many independent images carry as much information.
    """

    mean: float
    interval: Interval
    images: int
    parts: int
    effective: float


@dataclass(frozen=True)
class ShareOfImages:
    """Which images erred in which repeat. `erred` (K, N): 1 or 0, nan where the image was not tested; `groups` (N,):
    the number of the part that each image shows.

    With c_i how often image i was tested, w_i = c_i / sum c, and W_g the sum of w_i over the images of part g, the mean
    p has the variance p (1 - p) / n,

        1 / n = (1 - r) sum_i w_i^2 + r sum_g W_g^2,

    if an image's verdict is the same in each repeat (it mostly is; otherwise the interval is a little wide). r is the
    correlation of the errors of two images of one part: the moment estimate from all pairs within a repeat, as if 2
    more parts had shown r = 1. For N parts with one image each, of which m are tested at a time,
    1 / sum w_i^2 = m / (rho + (1 - rho) / K) with rho = m / N: Nadeau and Bengio's variance, per image.

    The interval is Jeffreys's, Beta(n' p + 1/2, n' (1 - p) + 1/2), which holds near 0 too, with n' = n (z / t)^2 for
    the t quantile of one degree of freedom less than parts (Korn and Graubard, Survey Methodology 1998). It ends at 0
    or 1 where no image, or every image, erred.
    """

    erred: Floats
    groups: NDArray[np.intp]

    def share(self) -> Share:
        """Requires at least two parts among those that were tested."""
        p = float(np.nanmean(self.erred, axis=1).mean())
        times = np.isfinite(self.erred).sum(axis=0)
        weights, r = times / times.sum(), self._correlation(p)
        by_image, by_part = (weights**2).sum(), (np.bincount(self.groups, weights) ** 2).sum()
        n = float(1 / ((1 - r) * by_image + r * by_part))
        parts = int(np.count_nonzero(np.bincount(self.groups, times)))
        # few parts: their own variance is uncertain, which the t quantile charges
        quantile = float(special.stdtrit(max(1, parts - 1), 1 - _TAIL))
        shrunk = n * float((special.ndtri(1 - _TAIL) / quantile) ** 2)
        a, b = shrunk * p + 0.5, shrunk * (1 - p) + 0.5
        low = 0.0 if p <= 0 else float(special.betaincinv(a, b, _TAIL))
        high = 1.0 if p >= 1 else float(special.betaincinv(a, b, 1 - _TAIL))
        return Share(mean=p, interval=(low, high), images=int(np.count_nonzero(times)), parts=parts, effective=n)

    def _correlation(self, p: float) -> float:
        """r in [0, 1]."""
        products = pairs = 0.0
        for row in self.erred:
            tested = np.isfinite(row)
            deviation, group = row[tested] - p, self.groups[tested]
            # sum of products over ordered pairs of images of one part = square of the part's sum less the squares
            products += float((np.bincount(group, deviation) ** 2).sum() - (deviation**2).sum())
            sizes = np.bincount(group)
            pairs += float((sizes * (sizes - 1)).sum())
        variance = p * (1 - p)
        found = products / (pairs * variance) if pairs and variance else 0.0
        # only parts that err, or only those that do not, bear information on r: the rarer of the two
        erring, right = (np.bincount(self.groups, np.nansum(side, axis=0)) for side in (self.erred, 1 - self.erred))
        informative = min(np.count_nonzero(erring), np.count_nonzero(right))
        return float((informative * np.clip(found, 0, 1) + _PRIOR_PARTS) / (informative + _PRIOR_PARTS))


def propagated(figure: Callable[[float, float], float], mean: float, false_alarms: Share, misses: Share) -> Interval:
    """The interval of a figure that rises, or falls, with each of two shares; `mean` is its own mean.

    Zou and Donner's recovery of variances (Statistics in Medicine 2008): the ends of each share's interval move the
    figure up or down from where both means put it, and independent moves add as squares.
    """
    centre = figure(false_alarms.mean, misses.mean)
    moves = [
        [figure(end, misses.mean) - centre for end in false_alarms.interval],
        [figure(false_alarms.mean, end) - centre for end in misses.interval],
    ]
    down = sqrt(sum(min(0.0, *ends) ** 2 for ends in moves))
    up = sqrt(sum(max(0.0, *ends) ** 2 for ends in moves))
    return mean - down, mean + up
