"""`flowgauge meta-train`: where a detector should begin, learned from many lines."""

from pathlib import Path
from typing import Annotated

import typer

from flowgauge.cli import options
from flowgauge.cli.evaluate import check_writable
from flowgauge.cli.output import cell, emit, say
from flowgauge.cli.progress import bars


def meta_train(
    out: Annotated[Path, typer.Option(help="Where the parameters go.", metavar="FILE")],
    tasks: Annotated[
        list[str] | None,
        typer.Argument(help="procedural, procedural:MATERIAL, or folders in the MVTec AD layout with masks."),
    ] = None,
    lines: Annotated[int, typer.Option(min=1, help="Procedural lines of each material.")] = 6,
    turns: Annotated[int, typer.Option(min=1, help="Turns of the outer loop, a task each.")] = 1200,
    second_order: Annotated[
        bool, typer.Option("--second-order", help="Gradients through the inner steps: slower, takes more memory.")
    ] = False,
    head_only: Annotated[
        bool, typer.Option("--head-only", help="The inner loop moves the head's last layer alone (ANIL).")
    ] = False,
    seed: Annotated[int, typer.Option(help="Same lines, settings and seed give the same parameters.")] = 0,
    weights: options.Weights = None,
    backbone: options.Backbone = None,
    size: options.Size = None,
    device: options.DeviceOption = options.Device.AUTO,
    plot: Annotated[Path | None, typer.Option(help="Draw the losses there, as an SVG.")] = None,
    json: options.Json = False,
) -> None:
    """Learn parameters from which headflow learns a new line in few steps.

    Every turn draws a line, lets the head and the flow take some steps on a
    few of its images, defects among them that nobody points out, and moves
    the start to where these steps would have led further (MAML). Interrupted,
    it goes on when it is started again with the same words.

    \b
    flowgauge meta-train procedural --out init.safetensors
    flowgauge meta-train procedural ./mvtec/bottle --out init.safetensors
    flowgauge benchmark contamination ./tiles --splits noise.json \\
        --init init.safetensors --variant full
    """
    from flowgauge.cli.meta_learning import MetaRun
    from flowgauge.cli.model import Model
    from flowgauge.meta.outer_loop import MetaTraining, Order

    for path in (out, plot):
        check_writable(path)
    settings = MetaTraining(turns=turns, seed=seed, order=Order.SECOND if second_order else Order.FIRST)
    if head_only:
        head = settings.head.model_copy(update={"moving": ("leave.", "scale", "offset")})
        settings = settings.model_copy(update={"head": head})
    model = Model("headflow", weights, backbone, size, options.Aspect.SQUASH)
    with bars() as report:
        run = MetaRun(tuple(tasks or ["procedural"]), lines, model, settings, device, report)
        init, made = run.run(out)
    if plot is not None:
        from flowgauge.reports.plots import losses_svg

        plot.write_text(losses_svg(made))
    if json:
        emit(init.card.model_dump(mode="json"))
        return
    say(f"wrote {out}: {len(init.card.lines)} lines, {turns} turns in {init.card.seconds:.0f} s")
    say(
        f"mean loss after the inner loop, last tenth: head {cell(init.card.head_loss)}, "
        f"flow {cell(init.card.flow_loss)}"
    )
