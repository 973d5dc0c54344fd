"""`flowgauge fit`: the first gauge of a line, or a new one that a person wants."""

from pathlib import Path
from typing import Annotated

import typer

from flowgauge.app.bootstrap import open_store
from flowgauge.cli import options
from flowgauge.cli.model import DEFAULT_FIT, FitOptions, start_at, torch_device
from flowgauge.cli.output import cell, emit, say, warn
from flowgauge.cli.person import person
from flowgauge.cli.progress import bars
from flowgauge.cli.trials import begun
from flowgauge.domain.errors import UserError
from flowgauge.services.fit import FromBuffer, FromDataset, fit_line


def fit(
    line: options.Line,
    store: options.Store,
    dataset: Annotated[
        Path | None, typer.Argument(help="A folder of good images, or a data set in the MVTec AD layout.")
    ] = None,
    from_buffer: Annotated[
        bool, typer.Option("--from-buffer", help="Learn from the line's buffered images instead of a data set.")
    ] = False,
    detector: options.Detector = None,
    fitting: FitOptions = DEFAULT_FIT,
    masks: options.Masks = None,
    groups: options.Groups = None,
    init: options.MetaInit = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Use at most so many images.")] = None,
    seed: Annotated[int, typer.Option(help="Same images, settings and seed give the same gauge.")] = 0,
    device: options.DeviceOption = options.Device.AUTO,
    json: options.Json = False,
) -> None:
    """Fit a gauge to good images and make it the active one of a line.

    Flowgauge learns what good looks like, and sets the threshold on images
    that the model did not see, so that new good parts are rejected at the rate
    of --false-alarms. The last line says how sure that is. The gauge is the line's anchor from now on:
    every adaptation starts from it. From the buffer, suspects never train.
    With up to 16 images it starts at parameters that were meta-learned on
    other lines, and takes a fraction of the time.
    multidirectional also learns from the line's labelled defects: see label.

    \b
    flowgauge fit ./good --line press-3 --store ./plant
    flowgauge fit ./mvtec/bottle --line bottles --store ./plant
    flowgauge fit ./good --line press-3 --false-alarms 0.01
    flowgauge fit --from-buffer --line press-3 --store ./plant
    """
    model = fitting.model(detector)
    settings = (model.refining() if from_buffer else model).settings()
    start = start_at(init, settings.detector)
    if (dataset is not None) == from_buffer:
        raise UserError("A gauge learns either from a data set or from the buffer.", "Give DATASET or --from-buffer.")
    if dataset is None and masks is not None:
        raise UserError("Buffered images have no masks.", "Leave --masks out.")
    source = FromBuffer(limit) if dataset is None else FromDataset(dataset, groups, masks, limit)
    with open_store(store) as plant, bars() as report:
        gauge, trial = fit_line(
            plant,
            line,
            source,
            settings,
            start=start,
            seed=seed,
            device=torch_device(device),
            by=person(),
            progress=report,
            tell=warn,
        )
    facts = gauge.manifest
    if json:
        emit(facts)
        return
    threshold = facts.threshold
    grids = ", ".join(f"{side} x {side}" for side in gauge.backbone.shape(facts.preprocessing.size).sides)
    if trial is None:
        say(f"Line {facts.line} is gauged by {facts.version} ({facts.detector.name}, {facts.images} good images).")
    else:
        say(begun(facts.line, facts.version, trial))
    say(f"Features of {facts.backbone.name} at {facts.preprocessing.size} pixels a side: {grids}.")
    say(f"Threshold {cell(threshold.value)}; for review from {cell(threshold.low)} to {cell(threshold.high)}.")
    say(f"False alarms on good images that it had not seen: {threshold.false_alarm_share:.1%}.")
    say(threshold.sentence)
