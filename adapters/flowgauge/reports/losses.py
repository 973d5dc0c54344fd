"""What the outer loop's queries lost, turn by turn: the head above, the flow below."""

from collections.abc import Sequence

from flowgauge.meta.outer_loop import Turn
from flowgauge.reports.markup import Markup, tag
from flowgauge.reports.svg import Scale, covering, path, text, value_axis

WIDTH, CHART, LEFT, RIGHT = 720.0, 190.0, 64.0, 700.0
_POINTS = 120

_STYLE = """
text { font: 13px system-ui, sans-serif; fill: #1f2937 }
.tick { fill: #6b7280; font-size: 12px }
.grid { stroke: #e5e7eb; stroke-width: 1 }
polyline { fill: none; stroke: #0b6e4f; stroke-width: 2 }
"""


def losses_svg(turns: Sequence[Turn]) -> str:
    """A whole SVG file. Each point is the mean over a hundred and twentieth of the turns, or one turn."""
    groups = _groups(turns)
    height = 2 * CHART + 40
    body = tag(
        "svg",
        tag("style", Markup(_STYLE)),
        tag("rect", width=WIDTH, height=height, fill="#ffffff"),
        *_chart("head: cross-entropy on the query after the inner loop", groups, [t.head_loss for t in turns], 0.0),
        *_chart("flow: nats per dimension", groups, [t.flow_loss for t in turns], CHART),
        text((LEFT + RIGHT) / 2, height - 8, "turns of the outer loop", "tick", "middle"),
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {WIDTH:g} {height:g}",
        role="img",
        aria_label="losses of the outer loop, turn by turn",
    )
    return f"{body}\n".replace("<svg", f'<svg width="{WIDTH:g}"', 1)


def _groups(turns: Sequence[Turn]) -> list[range]:
    count = min(_POINTS, len(turns))
    return [range(rank * len(turns) // count, (rank + 1) * len(turns) // count) for rank in range(count)]


def _chart(title: str, groups: Sequence[range], losses: Sequence[float], top: float) -> list[Markup]:
    means = [sum(losses[turn] for turn in group) / len(group) for group in groups]
    across = Scale(0.0, float(max(len(losses) - 1, 1)), LEFT, RIGHT)
    up = covering(means, top + CHART - 14, top + 40)
    points = [(across((group.start + group.stop - 1) / 2), up(mean)) for group, mean in zip(groups, means, strict=True)]
    return [text(16, top + 24, title), value_axis(up, LEFT, RIGHT), path(points, "curve")]
