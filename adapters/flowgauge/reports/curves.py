"""Image AUROC against the share of defects among the images that trained, one curve per variant."""

from collections.abc import Sequence

from flowgauge.evaluation.contamination import Curve, Point
from flowgauge.reports.markup import Markup, join, tag
from flowgauge.reports.svg import Scale, covering, line, path, text, value_axis

WIDTH, HEIGHT = 720.0, 420.0
LEFT, RIGHT, TOP, BOTTOM = 64.0, WIDTH - 176.0, 48.0, HEIGHT - 52.0

_COLOURS = ("#0b6e4f", "#c2410c", "#1d4ed8", "#b45309", "#7c3aed", "#0891b2", "#be185d", "#475569", "#4d7c0f")
_DASHES = (None, "7 4", "2 3", "10 3 2 3")
"""The two numbers have no common divisor: a curve shares its colour or its dashes with others, but never both."""
_LABEL_GAP = 17.0
_SAMPLE = 26.0

_STYLE = """
text { font: 13px system-ui, sans-serif; fill: #1f2937 }
.title { font-size: 15px; font-weight: 600 }
.tick { fill: #6b7280; font-size: 12px }
.grid { stroke: #e5e7eb; stroke-width: 1 }
polyline, .sample { fill: none; stroke-width: 2.2 }
"""


def curves_svg(curves: Sequence[Curve]) -> str:
    """A whole SVG file. Bars span one deviation over seeds to both sides; no points, no curve."""
    across = Scale(0.0, max((p.noise for c in curves for p in c.curve), default=0.5) or 0.5, LEFT, RIGHT)
    up = covering([end for curve in curves for point in curve.curve for end in _span(point)], BOTTOM, TOP)
    shares = sorted({point.noise for curve in curves for point in curve.curve})
    body = tag(
        "svg",
        tag("style", Markup(_STYLE)),
        tag("rect", width=WIDTH, height=HEIGHT, fill="#ffffff"),
        text(16, 26, "image AUROC as more of the training images are defective", "title"),
        value_axis(up, LEFT, RIGHT, 6),
        *(text(across(share), BOTTOM + 20, f"{100 * share:.0f} %", "tick", "middle") for share in shares),
        text((LEFT + RIGHT) / 2, HEIGHT - 10, "defective among the images that train", "tick", "middle"),
        *(_curve(curve, rank, across, up) for rank, curve in enumerate(curves)),
        *_labels(curves, up),
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {WIDTH:g} {HEIGHT:g}",
        role="img",
        aria_label="image AUROC against the share of defective training images, for each variant",
    )
    return f"{body}\n".replace("<svg", '<svg width="720"', 1)


def _curve(curve: Curve, rank: int, across: Scale, up: Scale) -> Markup:
    points = [(across(point.noise), up(point.image_auroc_mean)) for point in curve.curve]
    colour, dashes = _look(rank)
    return tag(
        "g",
        *(_bar(point, across, up) for point in curve.curve if point.image_auroc_std is not None),
        tag("g", path(points, "curve"), stroke_dasharray=dashes),
        *(_point(point, across, up, curve.variant.value, colour) for point in curve.curve),
        stroke=colour,
    )


def _bar(point: Point, across: Scale, up: Scale) -> Markup:
    low, high = _span(point)
    return line(across(point.noise), up(low), across(point.noise), up(high), "bar")


def _point(point: Point, across: Scale, up: Scale, name: str, colour: str) -> Markup:
    title = tag("title", f"{name} at {100 * point.noise:.0f} %: {point.image_auroc_mean:.3f}")
    return tag("circle", title, cx=across(point.noise), cy=up(point.image_auroc_mean), r=3.6, fill=colour)


def _look(rank: int) -> tuple[str, str | None]:
    return _COLOURS[rank % len(_COLOURS)], _DASHES[rank % len(_DASHES)]


def _labels(curves: Sequence[Curve], up: Scale) -> list[Markup]:
    """Beside each curve's end, moved apart where they would meet."""
    ends = sorted((up(curve.curve[-1].image_auroc_mean), rank) for rank, curve in enumerate(curves))
    patches = _apart([y for y, _ in ends])
    return [_label(curves[rank], y, *_look(rank)) for y, (_, rank) in zip(patches, ends, strict=True)]


def _apart(ascending: Sequence[float]) -> list[float]:
    """The same heights, moved down where the next one above is too close, and up again where the picture would end."""
    lowered, least = [], 0.0
    for y in ascending:
        lowered.append(max(y, least))
        least = lowered[-1] + _LABEL_GAP
    end = HEIGHT - _LABEL_GAP / 2
    return [min(y, end - _LABEL_GAP * below) for y, below in zip(lowered, reversed(range(len(lowered))), strict=True)]


def _label(curve: Curve, y: float, colour: str, dashes: str | None) -> Markup:
    """With a sample of the curve's line."""
    mean = f"{curve.curve[-1].image_auroc_mean:.3f}".removeprefix("0")
    start, middle = RIGHT + 10, y - 4
    sample = line(start, middle, start + _SAMPLE, middle, "sample")
    return join(
        tag("g", sample, stroke=colour, stroke_dasharray=dashes),
        text(start + _SAMPLE + 6, y, f"{curve.variant.value} {mean}"),
    )


def _span(point: Point) -> tuple[float, float]:
    spread = point.image_auroc_std or 0.0
    return point.image_auroc_mean - spread, point.image_auroc_mean + spread
