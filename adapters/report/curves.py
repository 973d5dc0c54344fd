"""Image AUROC against the share of defects among the images that taught, one curve per variant."""

from collections.abc import Sequence

from adapters.report.markup import Markup, join, tag
from adapters.report.svg import Scale, covering, line, path, text, value_axis
from core.evaluation.noise import Curve, Point

WIDTH, HEIGHT = 720.0, 420.0
LEFT, RIGHT, TOP, BOTTOM = 64.0, WIDTH - 150.0, 48.0, HEIGHT - 52.0

_COLOURS = ("#0b6e4f", "#c2410c", "#1d4ed8", "#7c3aed", "#a16207", "#475569", "#be185d")  # told apart by lightness too
_DASHES = (None, "7 4", "2 3", "10 3 2 3", "5 2", "1 2", "12 4")
_LABEL_GAP = 17.0

_STYLE = """
text { font: 13px system-ui, sans-serif; fill: #1f2937 }
.title { font-size: 15px; font-weight: 600 }
.tick { fill: #6b7280; font-size: 12px }
.grid { stroke: #e5e7eb; stroke-width: 1 }
polyline { fill: none; stroke-width: 2.2 }
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
        text((LEFT + RIGHT) / 2, HEIGHT - 10, "defective among the images that teach", "tick", "middle"),
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
    colour = _COLOURS[rank % len(_COLOURS)]
    return tag(
        "g",
        *(_bar(point, across, up) for point in curve.curve if point.image_auroc_std is not None),
        tag("g", path(points, "curve"), stroke_dasharray=_DASHES[rank % len(_DASHES)]),
        *(_point(point, across, up, curve.variant.value, colour) for point in curve.curve),
        stroke=colour,
    )


def _bar(point: Point, across: Scale, up: Scale) -> Markup:
    low, high = _span(point)
    return line(across(point.noise), up(low), across(point.noise), up(high), "bar")


def _point(point: Point, across: Scale, up: Scale, name: str, colour: str) -> Markup:
    title = tag("title", f"{name} at {100 * point.noise:.0f} %: {point.image_auroc_mean:.3f}")
    return tag("circle", title, cx=across(point.noise), cy=up(point.image_auroc_mean), r=3.6, fill=colour)


def _labels(curves: Sequence[Curve], up: Scale) -> list[Markup]:
    """Beside each curve's end, moved apart where they would meet."""
    ends = sorted((up(curve.curve[-1].image_auroc_mean), rank) for rank, curve in enumerate(curves))
    placed, lowest = [], 0.0
    for y, rank in ends:
        lowest = max(y, lowest + _LABEL_GAP)
        placed.append(_label(curves[rank], lowest, _COLOURS[rank % len(_COLOURS)]))
    return placed


def _label(curve: Curve, y: float, colour: str) -> Markup:
    mean = f"{curve.curve[-1].image_auroc_mean:.3f}".removeprefix("0")
    return join(
        tag("circle", cx=RIGHT + 16, cy=y - 4, r=4, fill=colour), text(RIGHT + 26, y, f"{curve.variant.value} {mean}")
    )


def _span(point: Point) -> tuple[float, float]:
    spread = point.image_auroc_std or 0.0
    return point.image_auroc_mean - spread, point.image_auroc_mean + spread
