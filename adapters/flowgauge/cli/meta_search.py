"""`flowgauge meta-search`: which alpha, beta and k to ship."""

from pathlib import Path
from typing import Annotated

import typer

from flowgauge.cli import options
from flowgauge.cli.evaluate import check_writable
from flowgauge.cli.output import say, show
from flowgauge.cli.progress import bars

_SIZE = 128
"""Images of half the default's side: a fourth of the work, and lengths of steps have no pixels in them."""


def meta_search(
    out: Annotated[Path, typer.Option(help="Write every evaluation there, as JSON; a second run goes on.")],
    evaluations: Annotated[int, typer.Option(min=1, help="Choices to compare; the defaults are the first.")] = 28,
    turns: Annotated[int, typer.Option(min=1, help="Turns of the outer loop for each choice.")] = 40,
    seed: Annotated[int, typer.Option(help="Same seed, same lines and same choices.")] = 0,
    table: Annotated[Path | None, typer.Option(help="Write the evaluations there, as Markdown.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw them there, as an SVG.")] = None,
    device: options.DeviceOption = options.Device.AUTO,
) -> None:
    """Search for the lengths of inner and outer steps, and for the limit of suspicion.

    Each choice of alpha, beta and k meta-learns for a short while on four
    procedural materials and adapts by it to lines of three others, with 0, 20
    and 50 % of defects that nobody points out. It is as good as its image
    AUROC where that is worst. Optuna's Gaussian process proposes the next one
    (pip install 'flowgauge[search]'); one takes a minute or two.

    \b
    flowgauge meta-search --out search.json --plot search.svg
    """
    from flowgauge.cli.model import Model
    from flowgauge.cli.search_run import MetaSearch, best
    from flowgauge.cli.search_run import table as markdown
    from flowgauge.meta.search import SearchSettings

    for path in (out, table, plot):
        check_writable(path)
    settings = SearchSettings(turns=turns, seed=seed)
    with bars() as report:
        found = MetaSearch(Model("headflow", None, None, _SIZE, options.Aspect.SQUASH), settings, device, report).run(
            evaluations, out
        )
    if table is not None:
        table.write_text(markdown(found, settings.levels))
    if plot is not None:
        from flowgauge.reports.plots import search_svg

        plot.write_text(search_svg([each.choice for each in found], [each.worst for each in found]))
    choices = {"best": best(found), "defaults": found[0]}
    show(
        ("", "alpha", "beta", "k", "worst_image_auroc"),
        ((name, *each.choice.model_dump().values(), each.worst) for name, each in choices.items()),
    )
    say(f"wrote {', '.join(str(path) for path in (out, table, plot) if path is not None)}")
