"""`flowgauge demo`: a line that drifts, from the first fit to the report."""

import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from adapters.cli import options
from adapters.cli.demofolder import DemoFolder
from adapters.cli.exits import Exit
from adapters.cli.output import emit, say, show, stderr, stdout
from core.errors import SettingsError

if TYPE_CHECKING:
    from adapters.report.story import Story


def demo(
    out: Annotated[Path, typer.Option(help="Where the report goes, and the store that it was read from.")] = Path(
        "demo"
    ),
    material: Annotated[
        str, typer.Option(help="What the procedural line makes: brushed-metal, ceramic-tile, leather and others.")
    ] = "brushed-metal",
    data: Annotated[
        Path | None, typer.Option(help="Real images instead: the folder that --phases refers to.", metavar="DIR")
    ] = None,
    phases: Annotated[
        Path | None, typer.Option(help="JSON: which images fit, teach and judge, phase by phase.", metavar="FILE")
    ] = None,
    groups: options.Groups = None,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same story. With --phases: which of its runs.")] = 0,
    detector: options.Detector = None,
    weights: options.Weights = None,
    size: options.Size = None,
    device: options.DeviceOption = options.Device.AUTO,
    open_report: Annotated[bool, typer.Option("--open/--no-open", help="Show the report in a browser.")] = False,
    json: options.Json = False,
) -> None:
    """Watch a gauge keep up with a line that drifts.

    A gauge is fitted to good images; goods and defects stream; the light drifts and false alarms rise; the drift alert
    fires; the gauge is re-cut from a buffer that holds defects, passes its gate and is swapped in. It all runs through
    the pipeline of `flowgauge run`, and ends with one self-contained HTML report.

    Exits with 1 when an image is left without a verdict.

    \b
    flowgauge demo
    flowgauge demo --material ceramic-tile --seed 3 --open
    flowgauge demo --data ./tiles --phases ./tiles/phases.json
    """
    from adapters.cli.performing import Cast, command_line, perform, script_of, summary

    if (data is None) != (phases is None):
        raise SettingsError(
            "Real images need both --data and --phases.", "Give both, or neither for a procedural line."
        )
    folder = DemoFolder(out)
    script = script_of(material, data, phases, groups, seed)
    folder.clear()
    played = {"material": material} if data is None else {"data": data, "phases": phases, "groups": groups}
    command = command_line({**played, "seed": seed, "detector": detector, "weights": weights, "size": size})
    story = perform(script, folder, Cast(detector, weights, size, device), command, stderr() if json else stdout())
    emit(summary(story, folder)) if json else _conclude(story, folder)
    if open_report:
        webbrowser.open(folder.report.resolve().as_uri())
    if story.counts.missing:
        stderr().print(f"[bold red]{story.counts.missing} images have no verdict.[/]")
        raise typer.Exit(Exit.FAILED)


def _conclude(story: "Story", folder: DemoFolder) -> None:
    from adapters.report.figures import phase_figures
    from adapters.report.headline import headline
    from adapters.report.wording import auroc, percent

    columns = ("phase", "false alarms off", "adapted", "misses off", "adapted", "AUROC off", "adapted")
    rows = [
        (
            phase.name,
            *(percent(rates.false_alarm) for rates in (phase.frozen, phase.adapted)),
            *(percent(rates.miss) for rates in (phase.frozen, phase.adapted)),
            *(auroc(rates.auroc) for rates in (phase.frozen, phase.adapted)),
        )
        for phase in phase_figures(story)
    ]
    show(columns, rows)
    counts = story.counts
    say(f"{counts.verdicts} verdicts for {counts.sent} images, {counts.missing} missing.")
    say(headline(story))
    say(f"Report: {folder.report}")
