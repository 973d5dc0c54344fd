"""`flowgauge evaluate`: how good a gauge is on a data set whose answers are known."""

from pathlib import Path
from typing import Annotated, Any

import typer

from flowgauge.cli import options
from flowgauge.cli.output import as_json, emit, say, show, warn
from flowgauge.cli.progress import bars
from flowgauge.domain.errors import UserError


def evaluate(
    dataset: Annotated[Path, typer.Argument(help="A data set in the MVTec AD layout.")],
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
    init: options.MetaInit = None,
    splits: Annotated[
        Path | None, typer.Option(help="JSON: which images train and which judge, by seed and noise.", metavar="FILE")
    ] = None,
    noise: Annotated[float | None, typer.Option(help="Share of defects in training, for --splits.")] = None,
    seed: Annotated[str, typer.Option(help="One seed, or several: 0,1,2.")] = "0",
    groups: options.Groups = None,
    baseline: Annotated[
        Path | None,
        typer.Option(help="JSON of an earlier evaluation of the same test images: say by how much this one differs."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="At most so many images in training, and of each kind in the test.")
    ] = None,
    device: options.DeviceOption = options.Device.AUTO,
    json: Annotated[Path | None, typer.Option("--json", help="Write the figures there; - is stdout.")] = None,
) -> None:
    """Fit to a data set's good images, judge its test images, and say how well that went.

    \b
    flowgauge evaluate ./mvtec/bottle --json bottle.json
    flowgauge evaluate ./tiles --splits splits.json --groups groups.json \\
        --seed 0,1,2 --json tiles.json

    image_auroc comes with a 95 % bootstrap interval, over parts where
    --groups is given: images of one part are not independent. pixel_auroc
    and aupro (to a false-positive rate of 0.3) are exact, at 256 x 256.
    Several seeds give means, deviations as <key>_std, and the single runs
    under runs. --baseline tells the paired difference to an earlier result,
    with its interval over parts and seeds. Speeds are taken at batch 16, gauge and bare backbone in turns.
    """
    from flowgauge.cli.evaluation import chosen_trials, compared, earlier_runs, evaluation, tell_one_sided
    from flowgauge.cli.model import Model

    check_writable(json)
    others = None if baseline is None else earlier_runs(baseline)
    model = Model(
        detector,
        weights,
        backbone,
        size,
        aspect,
        refine,
        members,
        tuple(changes or ()),
        layers,
        tiles,
        false_alarms,
        bits,
    )
    with bars() as report:
        trials = chosen_trials(dataset, splits, seeds_of(seed), noise, limit, masks)
        tell_one_sided(trials)
        found = evaluation(dataset.resolve().name, trials, model, init, groups, device, report)
    for name, cause in {name: cause for run in found.runs for name, cause in run.unreadable.items()}.items():
        warn(f"{name} is left out. {cause}")
    document = found.document()
    if others is not None:
        document["baseline"] = compared(found, others, groups).model_dump(mode="json")
    if json is not None and str(json) == "-":
        emit(document)
        return
    if json is not None:
        json.write_text(as_json(document), encoding="utf-8")
    _tell(document)


def check_writable(json: Path | None) -> None:
    """Before the work and not after it. Raises `UserError` where the figures cannot be written."""
    if json is not None and (json.is_dir() or not json.parent.is_dir()):
        raise UserError(f"{json} is no place for a file.", "Give --json a file name in a folder that exists.")


def seeds_of(text: str) -> list[int]:
    """Raises `UserError` for what is no list of whole numbers."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise UserError(f"{text!r} is no list of seeds.", "Give whole numbers: 0 or 0,1,2, say.") from error


def _tell(document: dict[str, Any]) -> None:
    figures = (key for key, value in document.items() if isinstance(value, float) and not key.endswith("_std"))
    show(("figure", "value", "deviation"), ((key, document[key], document.get(f"{key}_std")) for key in figures))
    say("")
    _tell_false_alarms(document)
    columns = ("image_auroc", "pixel_auroc", "aupro", "miss_share", "images")
    if "baseline" in document:
        low, high = document["baseline"]["interval"]
        say(f"against the baseline: image_auroc differs by {document['baseline']['image_auroc_difference']:+.4f}")
        say(f"         (95 % of resampled parts: {low:+.4f} to {high:+.4f})\n")
    show(("class", *columns), ((kind, *(row[c] for c in columns)) for kind, row in document["per_class"].items()))


def _tell_false_alarms(document: dict[str, Any]) -> None:
    """What each run's threshold promised and what its good test images saw."""
    for run in document["runs"]:
        if run["promised_interval"] is not None and run["false_alarm_share"] is not None:
            low, high = run["promised_interval"]
            say(
                f"seed {run['seed']}: {run['promised_false_alarm_share']:.1%} false alarms promised "
                f"({low:.1%} to {high:.1%}), {run['false_alarm_share']:.1%} observed on {run['good_images']} good "
                "images."
            )
    say("")
