"""The few drawing parts that our charts share: scales, ticks, axes, symbols. Sizes are in pixels of the view box."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import asinh, ceil, floor, log10

from flowgauge.domain.messages import Decision
from flowgauge.reports.markup import Child, Markup, join, tag
from flowgauge.reports.story import Truth
from flowgauge.reports.wording import significant


@dataclass(frozen=True)
class Scale:
    """Linear from [`low`, `high`] of the data to [`start`, `end`] of the picture; values outside stay at the rim."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        share = (value - self.low) / ((self.high - self.low) or 1.0)
        return self.start + min(max(share, 0.0), 1.0) * (self.end - self.start)

    def ticks(self, count: int = 5) -> list[float]:
        """About `count` round values within the data's range."""
        step = _round_step((self.high - self.low) or 1.0, count)
        first, last = ceil(self.low / step - 1e-9), floor(self.high / step + 1e-9)
        return [index * step for index in range(first, last + 1)]


@dataclass(frozen=True)
class BentScale(Scale):
    """Linear within about `width` of `pivot`, logarithmic far from it: asinh((value - pivot) / width).

    What is close to a threshold stays apart, however far away the farthest score lies.
    """

    pivot: float
    width: float

    def __call__(self, value: float) -> float:
        low, high = self._bent(self.low), self._bent(self.high)
        return Scale(low, high, self.start, self.end)(self._bent(value))

    def ticks(self, count: int = 5) -> list[float]:
        """The roundest values that stand at least a `count`th of the picture apart."""
        chosen: list[float] = []
        for value in self._round_values():
            if all(abs(self(value) - self(other)) * count >= abs(self.end - self.start) for other in chosen):
                chosen.append(value)
        return sorted(chosen)

    def _bent(self, value: float) -> float:
        return asinh((value - self.pivot) / self.width)

    def _round_values(self) -> list[float]:
        """Within the range, the roundest first: zero, then powers of ten, their fives, their twos."""
        powers = [10.0**exponent for exponent in range(-3, 7)]
        values = [0.0] + [sign * factor * power for factor in (1, 5, 2) for power in powers for sign in (1, -1)]
        return [value for value in values if self.low <= value <= self.high]


def covering(values: Sequence[float], start: float, end: float, margin: float = 0.06) -> Scale:
    """A scale that shows all `values`, with a margin on both sides; a single value stands in the middle."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    pad = margin * (high - low) or abs(high) * margin or margin
    return Scale(low - pad, high + pad, start, end)


def _round_step(width: float, count: int) -> float:
    raw = width / max(count, 1)
    unit = 10.0 ** floor(log10(raw))
    return min((factor * unit for factor in (1, 2, 2.5, 5, 10)), key=lambda step: abs(log10(step / raw)))


def picture(width: float, height: float, label: str, *children: Child) -> Markup:
    """An SVG that scales with its column and that a screen reader announces as `label`."""
    return tag("svg", *children, viewBox=f"0 0 {width:g} {height:g}", role="img", aria_label=label)


def text(x: float, y: float, words: str, class_: str | None = None, anchor: str | None = None) -> Markup:
    return tag("text", words, x=x, y=y, class_=class_, text_anchor=anchor)


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    return tag("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def path(points: Sequence[tuple[float, float]], class_: str) -> Markup:
    """Straight pieces through `points`."""
    patches = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return tag("polyline", points=patches, class_=class_)


def value_axis(scale: Scale, left: float, right: float, count: int = 4) -> Markup:
    """Hairlines across the plot at round values, with their numbers left of it."""
    values = scale.ticks(count)
    return join(
        *(
            join(
                line(left, scale(value), right, scale(value), "grid"),
                text(left - 8, scale(value) + 3.5, words, "tick", "end"),
            )
            for value, words in zip(values, tick_words(values), strict=True)
        )
    )


def tick_words(values: Sequence[float]) -> list[str]:
    """All with the same number of decimals, the fewest that are exact; tiny ones in scientific notation."""
    step = min((after - before for before, after in pairwise(values)), default=1.0)
    decimals = next((n for n in range(5) if abs(step * 10**n - round(step * 10**n)) < 1e-6), None)
    return [significant(value, 2) if decimals is None else f"{value + 0.0:.{decimals}f}" for value in values]


def symbols() -> Markup:
    """The shapes of the decisions, defined once in a page: a dot passes, a diamond is reviewed, a triangle rejected."""
    shapes = {
        Decision.PASS: "M0,-2.7a2.7,2.7 0 1,0 .01,0z",
        Decision.REVIEW: "M0,-4.4L3.9,0L0,4.4L-3.9,0z",
        Decision.REJECT: "M0,-4.6L4.4,3.2L-4.4,3.2z",
    }
    drawn = (tag("path", id=f"shape-{decision.value}", d=shape) for decision, shape in shapes.items())
    return tag("svg", tag("defs", *drawn), class_="symbols", width=0, height=0, aria_hidden="true")


def symbol(x: float, y: float, decision: Decision, truth: Truth, title: str | None = None, class_: str = "") -> Markup:
    """One image: shaped by decision, coloured by truth; `title` shows on hover."""
    return tag(
        "use",
        tag("title", title) if title else None,
        href=f"#shape-{decision.value}",
        x=x,
        y=y,
        class_=f"{truth.value} {class_}".strip(),
    )
