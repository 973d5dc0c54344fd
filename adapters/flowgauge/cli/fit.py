"""`flowgauge fit`: the first gauge of a line, or a new one that a person wants."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flowgauge.cli import options
from flowgauge.cli.output import cell, emit, say
from flowgauge.cli.progress import bars

if TYPE_CHECKING:
    from flowgauge.training.gauge import Gauge


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
    weights: options.Weights = None,
    backbone: options.Backbone = None,
    layers: options.Layers = None,
    size: options.Size = None,
    tiles: options.Tiles = None,
    aspect: options.AspectOption = options.Aspect.SQUASH,
    bits: options.BitsOption = None,
    masks: options.Masks = None,
    refine: options.Refine = False,
    false_alarms: options.FalseAlarms = None,
    members: options.Members = None,
    changes: options.Changes = None,
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
    multidirectional also learns from the line's labelled defects: see label.

    \b
    flowgauge fit ./good --line press-3 --store ./plant
    flowgauge fit ./mvtec/bottle --line bottles --store ./plant
    flowgauge fit ./good --line press-3 --false-alarms 0.01
    flowgauge fit --from-buffer --line press-3 --store ./plant
    """
    from flowgauge.app.bootstrap import open_store
    from flowgauge.cli.model import Model, seeing, start_at, torch_device
    from flowgauge.cli.training_data import gather, labels_for
    from flowgauge.domain.object_keys import line_name
    from flowgauge.registry.snapshots import SnapshotFiles, publish_snapshot
    from flowgauge.training.fit import fit as fit_gauge
    from flowgauge.training.snapshot import save

    settings = Model(
        detector,
        weights,
        backbone,
        size,
        aspect,
        refine or from_buffer,
        members,
        tuple(changes or ()),
        layers,
        tiles,
        false_alarms,
        bits,
    ).settings()
    start = None if init is None else start_at(init)
    with open_store(store) as plant, bars() as report:
        good = gather(
            plant,
            line_name(line),
            dataset,
            from_buffer=from_buffer,
            groups=groups,
            masks=masks,
            limit=limit,
            report=report,
        )
        gauge = fit_gauge(
            good.pictures,
            line=line,
            settings=seeing(settings, good.pictures),
            at=plant.clock.now(),
            groups=good.groups,
            init=start,
            labelled=labels_for(settings.detector, plant, line),
            seed=seed,
            device=torch_device(device),
            progress=report,
        )
        snapshot = save(gauge)
        publish_snapshot(plant, line, snapshot.version, SnapshotFiles(snapshot.manifest, snapshot.weights), None)
    emit(gauge.manifest.model_dump(mode="json")) if json else _tell(gauge)


def _tell(gauge: "Gauge") -> None:
    facts = gauge.manifest
    limit = facts.threshold
    sides = gauge.backbone.shape(facts.preprocessing.size).sides
    grids = ", ".join(f"{side} x {side}" for side in sides)
    say(f"Line {facts.line} is gauged by {facts.version} ({facts.detector.name}, {facts.images} good images).")
    say(f"Features of {facts.backbone.name} at {facts.preprocessing.size} pixels a side: {grids}.")
    say(f"Threshold {cell(limit.value)}; for review from {cell(limit.low)} to {cell(limit.high)}.")
    say(f"False alarms on good images that it had not seen: {limit.false_alarm_share:.1%}.")
    say(limit.sentence)
