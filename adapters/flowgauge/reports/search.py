"""A search: how good each choice was, in their order and against each of its numbers."""

import math
from collections.abc import Callable, Sequence

from flowgauge.meta.search import Choice
from flowgauge.reports.markup import Markup, tag
from flowgauge.reports.svg import Scale, covering, path, text, value_axis

WIDTH, HEIGHT = 720.0, 560.0
_COLUMN, _ROW = WIDTH / 2, HEIGHT / 2
_STYLE = """
text { font: 13px system-ui, sans-serif; fill: #1f2937 }
.tick { fill: #6b7280; font-size: 12px }
.grid { stroke: #e5e7eb; stroke-width: 1 }
polyline { fill: none; stroke: #0b6e4f; stroke-width: 2 }
circle { fill: #1d4ed8; fill-opacity: 0.65 }
.first { fill: #c2410c; fill-opacity: 1 }
"""

_PANELS: tuple[tuple[str, Callable[[int, Choice], float]], ...] = (
    ("worst image AUROC, and the best so far", lambda number, choice: float(number)),
    ("alpha", lambda number, choice: choice.alpha),
    ("beta", lambda number, choice: choice.beta),
    ("k", lambda number, choice: choice.k),
)


def search_svg(choices: Sequence[Choice], worst: Sequence[float]) -> str:
    """A whole SVG file; `worst` is each choice's image AUROC where it is worst. The defaults are red."""
    body = tag(
        "svg",
        tag("style", Markup(_STYLE)),
        tag("rect", width=WIDTH, height=HEIGHT, fill="#ffffff"),
        *(part for number in range(len(_PANELS)) for part in _chart(number, choices, worst)),
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {WIDTH:g} {HEIGHT:g}",
        role="img",
        aria_label="worst image AUROC of each choice of alpha, beta and k",
    )
    return f"{body}\n".replace("<svg", f'<svg width="{WIDTH:g}"', 1)


def _chart(number: int, choices: Sequence[Choice], worst: Sequence[float]) -> list[Markup]:
    title, value = _PANELS[number]
    left, top = number % 2 * _COLUMN, number // 2 * _ROW
    values = [value(rank, choice) for rank, choice in enumerate(choices)]
    across = _logarithmic(values, left) if number else _even(values, left)
    up = covering(worst, top + _ROW - 44, top + 40)
    low, high = min(values), max(values)
    return [
        text(left + 16, top + 24, title),
        value_axis(up, left + 64, left + _COLUMN - 20),
        *(
            [path([(across(x), up(y)) for x, y in zip(values, _best_so_far(worst), strict=True)], "best")]
            * (not number)
        ),
        *(_point(across(x), up(y), rank == 0) for rank, (x, y) in enumerate(zip(values, worst, strict=True))),
        text(across(low), top + _ROW - 20, f"{low:.3g}", "tick", "middle"),
        text(across(high), top + _ROW - 20, f"{high:.3g}", "tick", "middle") if high > low else Markup(""),
    ]


def _even(values: Sequence[float], left: float) -> Callable[[float], float]:
    return Scale(min(values), max(max(values), min(values) + 1), left + 76, left + _COLUMN - 32)


def _logarithmic(values: Sequence[float], left: float) -> Callable[[float], float]:
    even = _even([math.log(value) for value in values], left)
    return lambda value: even(math.log(value))


def _best_so_far(worst: Sequence[float]) -> list[float]:
    return [max(worst[: rank + 1]) for rank in range(len(worst))]


def _point(x: float, y: float, first: bool) -> Markup:
    return tag("circle", cx=x, cy=y, r=4.5, class_="first") if first else tag("circle", cx=x, cy=y, r=3.6)
