"""`flowgauge evaluate`: how good a gauge is on a data set whose answers are known."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import typer
from pydantic import TypeAdapter

from flowgauge.cli import options
from flowgauge.cli.features import ModelOnData, opened
from flowgauge.cli.model import DEFAULT_FIT, FitOptions, start_at, torch_device
from flowgauge.cli.output import as_json, emit, say, show, warn
from flowgauge.cli.progress import bars
from flowgauge.cli.results import check_writable
from flowgauge.domain.errors import UserError
from flowgauge.domain.progress import Progress
from flowgauge.evaluation.evaluate import Conditions, Inspect, nobody
from flowgauge.evaluation.evaluate import evaluate as evaluated
from flowgauge.evaluation.results import Evaluation, Run, paired_difference
from flowgauge.evaluation.splits import Trial, own_trial, read_groups, read_splits, trial
from flowgauge.services.fit import with_bit_depth
from flowgauge.training.fit import fit
from flowgauge.training.gauge import Gauge
from flowgauge.vision.pictures import Pictures

Seeds = Annotated[str, typer.Option(help="One seed, or several: 0,1,2.")]
Limit = Annotated[
    int | None, typer.Option(min=1, help="At most so many images in training, and of each kind in the test.")
]


def evaluate(
    dataset: options.DatasetArgument,
    detector: options.Detector = None,
    fitting: FitOptions = DEFAULT_FIT,
    masks: options.Masks = None,
    init: options.MetaInit = None,
    splits: options.Splits = None,
    noise: Annotated[float | None, typer.Option(help="Share of defects in training, for --splits.")] = None,
    seed: Seeds = "0",
    groups: options.Groups = None,
    baseline: Annotated[
        Path | None,
        typer.Option(help="JSON of an earlier evaluation of the same test images: say by how much this one differs."),
    ] = None,
    limit: Limit = None,
    device: options.DeviceOption = options.Device.AUTO,
    json: Annotated[Path | None, typer.Option("--json", help="Write the figures there; - is stdout.")] = None,
) -> None:
    """Fit to a data set's good images, score its test images, and measure how accurate that is.

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
    check_writable(json)
    others = None if baseline is None else earlier_runs(baseline)
    task = Task(dataset, splits, groups, masks, fitting.model(detector), device, limit, noise, init)
    with bars() as report:
        trials = task.trials(numbers_in(seed))
        warn_of_missing_kinds(trials)
        found = task.evaluation(trials, report)
    for name, cause in {name: cause for run in found.runs for name, cause in run.unreadable.items()}.items():
        warn(f"{name} is left out. {cause}")
    document = found.document()
    if others is not None:
        parts = None if groups is None else read_groups(groups)
        document["baseline"] = paired_difference(found.runs, others, parts)
    if json is not None and str(json) == "-":
        emit(document)
        return
    if json is not None:
        json.write_text(as_json(document), encoding="utf-8")
    print_figures(document)


def numbers_in(text: str, what: str = "seeds", such_as: str = "0 or 0,1,2") -> list[int]:
    """Raises `UserError` for what is no list of whole numbers."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise UserError(f"{text!r} is no list of {what}.", f"Give whole numbers: {such_as}, say.") from error


def earlier_runs(path: Path) -> list[Run]:
    """Raises `UserError` for what no evaluation wrote."""
    try:
        return TypeAdapter(list[Run]).validate_python(json.loads(path.read_bytes())["runs"], strict=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is no result of flowgauge evaluate ({error}).", "Make one with --json.") from error


@dataclass(frozen=True)
class Task(ModelOnData):
    """One evaluation: at most `limit` images of each kind, and where the fit starts."""

    limit: int | None
    noise: float | None = None
    init: str | None = None

    def trials(self, seeds: Sequence[int]) -> list[Trial]:
        """One per seed. Raises `DatasetError` for what is not there, and `UserError` for noise without splits."""
        dataset = opened(self.dataset, self.masks)
        if self.splits is None:
            if self.noise is not None:
                raise UserError("--noise needs --splits: the data set has no noise levels of its own.", "Give both.")
            return [own_trial(dataset, seed).limited(self.limit) for seed in seeds]
        offered = read_splits(self.splits)
        return [trial(dataset, offered.choose(seed, self.noise)).limited(self.limit) for seed in seeds]

    def evaluation(self, trials: Sequence[Trial], report: Progress, inspect: Inspect = nobody) -> Evaluation:
        """Fit and test once per trial. `inspect` is shown each gauge with its predictions."""
        settings, where = self.model.settings(), torch_device(self.device)
        start = start_at(self.init, settings.detector)

        def fitted(pictures: Pictures, parts: Sequence[str] | None, seed: int, progress: Progress) -> Gauge:
            return fit(
                pictures,
                line="evaluation",
                settings=with_bit_depth(settings, pictures, warn),
                at=datetime.now(UTC),
                groups=parts,
                start=start,
                seed=seed,
                device=where,
                progress=progress,
            )

        known = None if self.groups is None else read_groups(self.groups)
        return evaluated(self.name, trials, Conditions(fitted, perf_counter, where, known, inspect), report)


def warn_of_missing_kinds(trials: Sequence[Trial]) -> None:
    """Of figures that the test images cannot give: said before a fit of minutes."""
    kinds = {entry.defective for each in trials for entry in each.test}
    if kinds == {True}:
        warn(
            "The test holds no good images: image_auroc, its interval and false_alarm_share cannot be had. Add some to"
            " test/good."
        )
    elif kinds == {False}:
        warn(
            "The test holds no defects: image_auroc, pixel_auroc, aupro and miss_share cannot be had. Add some to"
            " test/<class>."
        )


def print_figures(document: dict[str, Any]) -> None:
    """Figures, each run's promised and observed false alarms, the difference to the baseline, and a row per class."""
    figures = (key for key, value in document.items() if isinstance(value, float) and not key.endswith("_std"))
    show(("figure", "value", "deviation"), ((key, document[key], document.get(f"{key}_std")) for key in figures))
    say("")
    for run in document["runs"]:
        if run["promised_interval"] is not None and run["false_alarm_share"] is not None:
            low, high = run["promised_interval"]
            say(
                f"seed {run['seed']}: {run['promised_false_alarm_share']:.1%} false alarms promised "
                f"({low:.1%} to {high:.1%}), {run['false_alarm_share']:.1%} observed on {run['good_images']} good "
                "images."
            )
    say("")
    if "baseline" in document:
        low, high = document["baseline"]["interval"]
        say(f"against the baseline: image_auroc differs by {document['baseline']['image_auroc_difference']:+.4f}")
        say(f"         (95 % of resampled parts: {low:+.4f} to {high:+.4f})\n")
    columns = ("image_auroc", "pixel_auroc", "aupro", "miss_share", "images")
    show(("class", *columns), ((kind, *(row[c] for c in columns)) for kind, row in document["per_class"].items()))
