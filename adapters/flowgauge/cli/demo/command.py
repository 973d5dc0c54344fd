"""`flowgauge demo`: a line that drifts, from the first fit to the report."""

import shlex
import webbrowser
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from flowgauge.cli import options
from flowgauge.cli.demo.driver import DemoFolder, DemoModel, perform
from flowgauge.cli.demo.scenario import Script, procedural_script, recorded_script
from flowgauge.cli.exits import Exit
from flowgauge.cli.output import emit, say, show, stderr, stdout
from flowgauge.domain.errors import SettingsError
from flowgauge.evaluation.splits import read_groups
from flowgauge.reports.figures import headline, phase_figures, rejection
from flowgauge.reports.story import Story
from flowgauge.reports.wording import auroc, percent


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
    phases: options.Phases = None,
    groups: options.Groups = None,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same story. With --phases: which of its runs.")] = 0,
    detector: options.Detector = None,
    weights: options.Weights = None,
    size: options.Size = None,
    device: options.DeviceOption = options.Device.AUTO,
    stack: Annotated[
        bool, typer.Option("--stack", help="On Kafka, Redis and S3, which the environment names, with real workers.")
    ] = False,
    lines: Annotated[int, typer.Option(min=1, max=8, help="With --stack: so many lines, at the same time.")] = 2,
    rate: Annotated[float, typer.Option(min=0.1, help="With --stack: images a second of every line.")] = 3.0,
    open_report: Annotated[bool, typer.Option("--open/--no-open", help="Show the report in a browser.")] = False,
    json: options.Json = False,
) -> None:
    """Watch a gauge keep up with a line that drifts.

    A gauge is fitted to good images; goods and defects stream; the light drifts and false alarms rise; the drift alert
    fires; the gauge is adapted to a buffer that holds defects, passes its gate and is swapped in. It all runs through
    the pipeline of `flowgauge run`, and ends with one self-contained HTML report.

    With --stack it runs on real servers (make up starts some): two scoring workers, one for what is downstream and one
    that adapts, all in processes of their own; each line gets a report.

    Exits with 1 when an image is left without a verdict.

    \b
    flowgauge demo
    flowgauge demo --material ceramic-tile --seed 3 --open
    flowgauge demo --data ./tiles --phases ./tiles/phases.json
    flowgauge demo --stack
    """
    if (data is None) != (phases is None):
        raise SettingsError(
            "Real images need both --data and --phases.", "Give both, or neither for a procedural line."
        )
    folder = DemoFolder(out)
    scripts = [script_of(material, data, phases, groups, seed + number) for number in range(lines if stack else 1)]
    folder.clear()
    played = {"material": material} if data is None else {"data": data, "phases": phases, "groups": groups}
    given = {**played, "seed": seed, "detector": detector, "weights": weights, "size": size}
    demo_model, console = DemoModel(detector, weights, size, device), stderr() if json else stdout()
    if stack:
        # the servers' clients come with an extra, which a demonstration without servers does not need
        from flowgauge.cli.demo.cluster import multi_line

        command = command_line({**given, "lines": lines, "rate": rate}, "--stack")
        stories = multi_line(scripts, folder, demo_model, rate, command, console)
    else:
        stories = [perform(scripts[0], folder, demo_model, command_line(given), console)]
    folders = [folder.of(story.line) if stack else folder for story in stories]
    if json:
        summaries = [summary(story, each) for story, each in zip(stories, folders, strict=True)]
        emit(summaries if stack else summaries[0])
    for story, each in zip(stories, folders, strict=True):
        if not json:
            conclude(story, each)
        if open_report:
            webbrowser.open(each.report.resolve().as_uri())
    missing = sum(story.counts.missing for story in stories)
    if missing:
        stderr().print(f"[bold red]{missing} images have no verdict.[/]")
        raise typer.Exit(Exit.FAILED)


def script_of(material: str, data: Path | None, phases: Path | None, groups: Path | None, seed: int) -> Script:
    """Raises `DatasetError` for what cannot be played."""
    if data is None or phases is None:
        return procedural_script(material, seed)
    return recorded_script(data, phases, seed, None if groups is None else read_groups(groups))


def command_line(given: dict[str, Any], *flags: str) -> str:
    """The command with `flags` and those options that were given a value."""
    words = [word for name, value in given.items() if value is not None for word in (f"--{name}", str(value))]
    return shlex.join(["flowgauge", "demo", *flags, *words])


def conclude(story: Story, folder: DemoFolder) -> None:
    """For people: each phase's rates without and with adapting, and where the report is."""
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
    if folder.store.is_dir():  # with --stack it is the servers', and its console was told at the start
        say(f"In a browser: flowgauge console --store {shlex.quote(str(folder.store))}, or `make console`.")


def summary(story: Story, folder: DemoFolder) -> dict[str, Any]:
    """For scripts: the key figures."""
    return {
        "headline": headline(story),
        "report": str(folder.report),
        "store": str(folder.store),
        "seed": story.seed,
        "gauge": story.gauge,
        "phases": phase_figures(story),
        "adaptations": [
            {
                "version": adaptation.report.version,
                "after_image": adaptation.index,
                "reason": adaptation.report.request.reason.value,
                "accepted": adaptation.report.accepted,
                **asdict(rejection(adaptation)),
            }
            for adaptation in story.adaptations
        ],
        "swaps": story.swaps,
        "drifts": story.drifts,
        "counts": story.counts,
    }
