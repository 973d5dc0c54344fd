"""Drift of a line: ADWIN on scores and on image statistics, so that an alert can name its cause.

ADWIN keeps a window of recent values and cuts it where the means of the two parts differ more than chance allows
(Bifet and Gavalda, SDM 2007). Its bound assumes values of unit scale, so every signal is standardised first: scores by
the gauge's calibration, image statistics by the first `REFERENCE` values seen.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean, median, pstdev
from typing import TYPE_CHECKING, Self

from flowgauge.domain.messages import FrozenModel, Instant

if TYPE_CHECKING:
    from river.drift import ADWIN

# ADWIN's chance of a false cut: larger, and a steady line alarms; smaller, and a drift is found later
DELTA = 0.002
# images between two looks for a cut: fewer cost time and find nothing sooner that matters
CLOCK = 4
REFERENCE = 30
"""Values that must be seen before anything is decided, and that image statistics are standardised by."""

WINDOW = 600
"""Values kept per signal. When they are reached, the older half is forgotten: a drift slower than this is found by the
level of the scores, not by ADWIN."""

LEVEL = 2.5
"""A recent mean of standardised scores above this is a drift from the calibration, whenever it began. At 3, a line
that changed between two runs went unseen when a third of its scores were clipped; at 2, skewed calibrations fire."""

CLIP = 6.0
"""Standardised values beyond +-6 count as 6: one huge defect is not a drift."""

MOVED = 1.0
"""A scene changed if the median of a statistic went this many deviations: it stays where it is while defects fill less
than half of the images."""

# images whose mean is the level of the scores: fewer, and a few defects are a drift; more, and it comes late
_RECENT = 32
# a normal distribution's deviation is 1.4826 times its median absolute deviation
_MAD_TO_SIGMA = 1.4826
# cells a side into which the picture is divided to see whether peaks gather in one place
_GRID = 3
# images: a change shorter than this shows nothing of its cause
_SHORTEST = 5
# deviations by which scores must have moved to be named
_RISE = 0.5
# standard errors: below it there was no change, the level was off all along
_SURE = 4.0

SCORE = "score"


class Cause(FrozenModel):
    """A signal that moved, with its means before and after, in its own units."""

    signal: str
    before: float
    after: float

    def __str__(self) -> str:
        direction = "rose" if self.after > self.before else "fell"
        digits = 2
        while digits < 7 and f"{self.before:.{digits}g}" == f"{self.after:.{digits}g}":  # as many as tell them apart
            digits += 1
        return f"{self.signal} {direction} from {self.before:.{digits}g} to {self.after:.{digits}g}"


class Drift(FrozenModel):
    """A change that was found. `causes` are the signals that moved; empty when it has passed by the time it settled.

    `defects` is None until the change has settled. Then it is True when it looks like a wave of defects rather than a
    changed scene: the scores rose, the median of no image statistic moved, and either part of the images score as
    before, or what is anomalous sits in one place. `since` is when the first image after the change was captured.
    """

    causes: tuple[Cause, ...]
    defects: bool | None
    since: Instant | None = None

    @property
    def sentence(self) -> str:
        return ", ".join(map(str, self.causes)) or "it has passed"


class Observation(FrozenModel):
    """One image. `statistics` are by name; `peak`: where its map peaks, x and y as shares of width and height."""

    score: float
    statistics: dict[str, float]
    peak: tuple[float, float]
    at: Instant | None = None


@dataclass(frozen=True)
class Reference:
    """Where a statistic lay at first: median and robust deviation."""

    centre: float
    deviation: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        centre = median(values)
        deviation = _MAD_TO_SIGMA * median(abs(value - centre) for value in values)
        # a statistic that stood still counts in thousandths of its size
        return cls(centre, max(deviation, 1e-3 * abs(centre), 1e-6))

    def moved(self, value: float) -> bool:
        return abs(value - self.centre) > MOVED * self.deviation


class MonitorState(FrozenModel):
    """All of a monitor: restoring it and going on is the same as never having stopped.

    `seen` holds at most `WINDOW` observations and those since a drift; `fired` are the signals that drifted, `settled`
    is how many observations it waits for until that drift has settled.
    """

    seen: tuple[Observation, ...] = ()
    fired: tuple[str, ...] = ()
    settled: int = 0


NOTHING_SEEN = MonitorState()


class DriftMonitor:
    """Fed one observation per image, in order. It reports a drift twice: when it is certain, and when `warmup` more
    images have shown what has become of the line; then it starts afresh, as it does after a swap."""

    def __init__(self, state: MonitorState = NOTHING_SEEN) -> None:
        self._start()
        for observation in state.seen:
            self._fed(observation)
        self._fired, self._settled = state.fired, state.settled

    @property
    def state(self) -> MonitorState:
        return MonitorState(seen=tuple(self._seen), fired=self._fired, settled=self._settled)

    def observe(self, observation: Observation, warmup: int) -> Drift | None:
        """The drift that this observation made certain, or that has now settled, if any."""
        if len(self._seen) == WINDOW and not self._fired:
            recent = self._seen[WINDOW // 2 :]
            self._start()
            for each in recent:
                self._fed(each)
        fired = self._fed(observation)
        if not self._fired:
            if not fired:
                return None
            self._fired, self._settled = fired, len(self._seen) + warmup
        elif len(self._seen) < self._settled:
            return None
        settled = len(self._seen) >= self._settled
        drift = self._drift(settled)
        if settled:
            self._start()
        return drift

    def _start(self) -> None:
        self._seen: list[Observation] = []
        self._references: dict[str, Reference] = {}
        self._detectors: dict[str, ADWIN] = {}
        self._fired = ()
        self._settled = 0

    def _fed(self, observation: Observation) -> tuple[str, ...]:
        """The signals that drift, if any."""
        self._seen.append(observation)
        if len(self._seen) < REFERENCE:
            return ()
        new = [observation]
        if len(self._seen) == REFERENCE:
            from river.drift import ADWIN  # its imports take seconds, and scoring alone does not need them

            # the reference is complete: detectors begin with it
            new, names = self._seen, self._seen[0].statistics
            self._references = {name: Reference.of([seen.statistics[name] for seen in self._seen]) for name in names}
            self._detectors = {
                name: ADWIN(delta=DELTA, clock=CLOCK, grace_period=REFERENCE)  # type: ignore[no-untyped-call]
                for name in (SCORE, *names)
            }
        fired = []
        for name, detector in self._detectors.items():
            cuts = []
            for each in new:
                detector.update(self._standardised(name, each))  # type: ignore[no-untyped-call]
                cuts.append(bool(detector.drift_detected))
            fired += [name] if any(cuts) else []
        # ADWIN compares a line with itself: one that was off from the start has nothing to be compared with
        off_level = _mean(SCORE, self._seen[-_RECENT:]) > LEVEL
        return tuple(fired) or ((SCORE,) if off_level else ())

    def _standardised(self, name: str, observation: Observation) -> float:
        if name == SCORE:
            return _clipped(observation.score)
        reference = self._references[name]
        return _clipped((observation.statistics[name] - reference.centre) / reference.deviation)

    def _drift(self, settled: bool) -> Drift:
        found = [strongest_change([self._standardised(name, seen) for seen in self._seen]) for name in self._fired]
        # A line that was off from the start has no before: then the calibration's is meant, and of image statistics
        # nothing can be said.
        strongest = max(found, key=lambda change: change.strength)
        index = strongest.index if strongest.strength > _SURE else 0
        before, after = self._seen[:index], self._seen[index:]
        references = self._references.items() if before else ()
        scene = any(reference.moved(median(seen.statistics[name] for seen in after)) for name, reference in references)
        signals = [name for name, reference in references if reference.moved(_mean(name, after))]
        rise = _mean(SCORE, after) - _mean(SCORE, before)
        signals += [SCORE] if abs(rise) > _RISE or not (signals or settled) else []
        causes = tuple(Cause(signal=name, before=_mean(name, before), after=_mean(name, after)) for name in signals)
        # A changed scene moves all images and shows everywhere; defects move some, or show in one place. Moves all: the
        # lower quartile of the scores went at least half as far as their mean.
        moves_all = _lower_quartile(after) - _lower_quartile(before) >= rise / 2
        defects = rise > _RISE and not scene and (not moves_all or _one_location(before, after))
        return Drift(causes=causes, defects=defects if settled else None, since=after[0].at)


@dataclass(frozen=True)
class Change:
    """A series is parted before `index`; `strength` is by how many standard errors the means of the parts differ."""

    index: int
    strength: float


def strongest_change(values: Sequence[float]) -> Change:
    """Where the means of the two parts differ most, in standard errors, with at least `_SHORTEST` values on both sides.

    ADWIN itself knows only that there was a change: it cuts at the borders of its buckets, often long before it.

    >>> strongest_change([0.0] * 20 + [3.0] * 10).index
    20
    """
    total, before, best = sum(values), 0.0, Change(0, 0.0)
    deviation = pstdev(values) or 1.0
    for index, value in enumerate(values):
        left, right = index, len(values) - index
        if left >= _SHORTEST and right >= _SHORTEST:
            # the two-sample z: abs(mean_after - mean_before) / deviation * sqrt(k (n - k) / n)
            difference = abs((total - before) / right - before / left) / deviation
            strength = difference * sqrt(left * right / len(values))
            best = Change(index, strength) if strength > best.strength else best
        before += value
    return best


def _lower_quartile(observations: Sequence[Observation]) -> float:
    """Of the scores; where nothing was seen, that of a normal distribution, which the calibration is taken for."""
    scores = sorted(_clipped(observation.score) for observation in observations)
    return scores[len(scores) // 4] if scores else -0.674


def _one_location(before: Sequence[Observation], after: Sequence[Observation]) -> bool:
    """True if half of the peaks fall into one ninth of the picture, and markedly fewer did before."""
    cells_before, cells_after = (
        Counter(tuple(min(int(share * _GRID), _GRID - 1) for share in seen.peak) for seen in part)
        for part in (before, after)
    )
    cell, hits = cells_after.most_common(1)[0]
    share = hits / len(after)
    return share >= 0.5 and share - cells_before[cell] / max(len(before), 1) > 0.25


def _mean(name: str, observations: Sequence[Observation]) -> float:
    """0, the calibration's, where nothing was seen."""
    values = (_clipped(seen.score) if name == SCORE else seen.statistics[name] for seen in observations)
    return fmean(values) if observations else 0.0


def _clipped(value: float) -> float:
    return min(max(value, -CLIP), CLIP)
