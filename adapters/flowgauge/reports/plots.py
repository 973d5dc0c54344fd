"""What `--plot` writes: a whole SVG file, on white."""

from collections.abc import Sequence

import numpy as np
from matplotlib.ticker import PercentFormatter

from flowgauge.evaluation.contamination import Curve
from flowgauge.meta.outer_loop import Turn
from flowgauge.meta.search import Choice
from flowgauge.reports.charts import chart, cover, look

_POINTS = 120  # of a curve of losses: more show the noise of single turns, fewer hide a short rise


def curves_svg(curves: Sequence[Curve]) -> str:
    """Image AUROC against the share of defects among the images that trained, one curve per variant.

    Bars span one deviation over seeds to both sides; no points, no curve.
    """
    label = "image AUROC against the share of defective training images, for each variant"
    with chart(720, 420, label, alone=True) as drawn:
        axes = drawn.figure.subplots()
        drawn.figure.suptitle("image AUROC as more of the training images are defective", x=0.02, y=0.96, ha="left")
        ends: list[float] = []
        for rank, curve in enumerate(curves):
            points = curve.curve
            shares, means = [p.noise for p in points], [p.image_auroc_mean for p in points]
            spreads = [p.image_auroc_std or 0.0 for p in points]
            last = f"{means[-1]:.3f}".removeprefix("0")
            (line,) = axes.plot(shares, means, label=f"{curve.variant.value} {last}", **look(rank))
            drawn.mark(line, "curve")
            (dots,) = axes.plot(shares, means, "o", color=look(rank)["color"], markeredgewidth=0)
            titles = (f"{curve.variant.value} at {100 * p.noise:.0f} %: {p.image_auroc_mean:.3f}" for p in points)
            drawn.mark(dots, "points", *titles)
            if any(spreads):
                axes.errorbar(shares, means, spreads, fmt="none", ecolor=look(rank)["color"], elinewidth=1)
            ends += [mean + sign * spread for mean, spread in zip(means, spreads, strict=True) for sign in (1, -1)]
        cover(axes, ends)
        axes.set_xticks(sorted({point.noise for curve in curves for point in curve.curve}))
        axes.xaxis.set_major_formatter(PercentFormatter(1, 0, " %"))
        axes.set_xlabel("defective among the images that train")
        if curves:
            # in the order in which the curves end, the highest first
            handles, words = axes.get_legend_handles_labels()
            order = sorted(range(len(curves)), key=lambda rank: -curves[rank].curve[-1].image_auroc_mean)
            drawn.figure.legend(
                [handles[rank] for rank in order], [words[rank] for rank in order], loc="outside right upper"
            )
    return drawn.markup


def losses_svg(turns: Sequence[Turn]) -> str:
    """What the outer loop's queries lost, turn by turn: the head above, where there is one, the flow below.

    Each point is the mean over a hundred and twentieth of the turns, or one turn.
    """
    groups = np.array_split(np.arange(len(turns)), min(_POINTS, len(turns)))
    with chart(720, 420, "losses of the outer loop, turn by turn", alone=True) as drawn:
        panels = {"flow: nats per dimension on the query after the inner loop": [turn.flow_loss for turn in turns]}
        heads = [turn.head_loss for turn in turns if turn.head_loss is not None]
        if heads:
            panels = {"head: cross-entropy on the query after the inner loop": heads} | panels
        grid = drawn.figure.subplots(len(panels), 1, squeeze=False)[:, 0]
        for axes, (title, losses) in zip(grid, panels.items(), strict=True):
            means = [float(np.mean([losses[turn] for turn in group])) for group in groups]
            (line,) = axes.plot([float(group.mean()) for group in groups], means, linewidth=2)
            drawn.mark(line, "curve")
            cover(axes, means)
            axes.set_title(title, fontweight="normal")
            axes.set(xlim=(0, max(len(turns) - 1, 1)), xticks=[])
        grid[-1].set_xlabel("turns of the outer loop")
    return drawn.markup


def search_svg(choices: Sequence[Choice], worst: Sequence[float]) -> str:
    """How good each choice was, in their order and against each of its numbers; `worst` is each choice's image AUROC
    where it is worst. The defaults are red."""
    panels: dict[str, Sequence[float]] = {
        "worst image AUROC, and the best so far": list(range(len(choices))),
        "alpha": [choice.alpha for choice in choices],
        "beta": [choice.beta for choice in choices],
        "k": [choice.k for choice in choices],
    }
    with chart(720, 560, "worst image AUROC of each choice of alpha, beta and k", alone=True) as drawn:
        for number, (axes, (title, values)) in enumerate(
            zip(drawn.figure.subplots(2, 2).flat, panels.items(), strict=True)
        ):
            if number == 0:
                axes.plot(values, np.maximum.accumulate(worst), linewidth=2, color="C0")
            else:
                axes.set_xscale("log")
            for class_, part, colour, size in (("choice", slice(1, None), "C2", 7.2), ("first", slice(1), "C1", 9)):
                (dots,) = axes.plot(values[part], worst[part], "o", color=colour, markersize=size, markeredgewidth=0)
                dots.set_alpha(0.65 if class_ == "choice" else None)
                drawn.mark(dots, class_)
            low, high = min(values), max(values)
            axes.set_xticks([low] if low == high else [low, high], [f"{end:.3g}" for end in sorted({low, high})])
            axes.set_xticks([], minor=True)
            axes.set_title(title, fontweight="normal")
            cover(axes, worst)
    return drawn.markup
