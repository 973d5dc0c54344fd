"""`flowgauge benchmark suite`: detectors over several data sets, the table that a change to one is measured by."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import product
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from flowgauge.cli import options
from flowgauge.cli.benchmark.detectors import FitTask, conditions_of, entrants_of, measured_alone
from flowgauge.cli.evaluate import Limit, Seeds, numbers_in
from flowgauge.cli.model import (
    DEFAULT_FEATURES,
    RANDOM,
    FeatureOptions,
    Model,
    fitting_start,
    init_digest,
    torch_device,
)
from flowgauge.cli.output import say, show, warn, write_whole
from flowgauge.cli.progress import bars
from flowgauge.cli.results import check_writable, left_in
from flowgauge.domain.errors import DatasetError, FlowgaugeError, UserError
from flowgauge.domain.progress import Progress, reported
from flowgauge.evaluation.suite import Failure, SuiteResults, SuiteRun
from flowgauge.models.registry import FROM_PIXELS
from flowgauge.reports.comparisons import render_suite
from flowgauge.reports.pages import write_page
from flowgauge.training.fit import MINIMUM_IMAGES


def suite(
    folder: Annotated[
        Path, Argument(help="A folder of data sets, each in the MVTec AD layout.", metavar="DIR", show_default=False)
    ],
    detector: Annotated[
        list[str] | None,
        Option(
            help="One to compare; may be repeated. All that learn from good images alone but lamp, which reads pixels,"
            " and patchcore, padim and fastflow where anomalib is installed.",
            show_default=False,
        ),
    ] = None,
    dataset: Annotated[
        list[str] | None,
        Option(help="The name of one data set in DIR; may be repeated. All of them.", show_default=False),
    ] = None,
    seeds: Seeds = "0",
    shots: Annotated[
        str | None, Option(help="Fit to so many good images too: 8,16,32, say.", metavar="N,N", show_default=False)
    ] = None,
    features: FeatureOptions = DEFAULT_FEATURES,
    changes: Annotated[
        list[str] | None,
        Option(
            "--set",
            help="An option of one detector's own: glass.steps=80, say; may be repeated."
            " `flowgauge fit --detector glass --set help` lists them.",
            metavar="DETECTOR.NAME=VALUE",
            show_default=False,
        ),
    ] = None,
    init: options.MetaInit = None,
    limit: Limit = None,
    device: options.DeviceOption = options.Device.AUTO,
    json: Annotated[
        Path | None, Option("--json", help="Write the results there, after every fit; a second run goes on.")
    ] = None,
    html: Annotated[
        Path | None, Option(help="Write a page there: tables by data set, ranks and their critical difference.")
    ] = None,
) -> None:
    """Compare detectors over several data sets: the table that decides on a change.

    \b
    flowgauge benchmark suite ./data --seeds 0,1,2 \\
        --json suite.json --html suite.html
    flowgauge benchmark suite ./data --dataset screw --dataset capsules \\
        --detector rad --detector padim --shots 8,16,32 --json few.json

    DIR holds one folder per data set. Where that folder holds
    clean_splits.json, the entry of each seed says which images train and
    which test; otherwise train/ and test/ do under every seed, which then
    only changes the fit and the few-shot draw. Where it holds groups.json,
    images of one object stay in one fold.

    The table gives means over data sets of means over seeds; the rank is that
    by image AUROC. miss_at_5% is the share of defects missed at the threshold
    that 5 % of the good test images exceed (rounded down to whole images);
    false_alarms and misses are those at the detector's own threshold.

    --init starts every fit of one detector at meta-learned parameters, or
    all fits at random, those to few images too.

    --shots draws, by seed and spread evenly over the training images, so many
    of them; the fit to all of them is always made too. A data set that cannot
    be read or a fit that fails is told and left out. What --json holds
    already is not run again and is shown too: give it another name after a
    change of the code.
    """
    check_writable(json, html)
    models = models_of(detector or [], changes or [], features)
    if init not in (None, RANDOM):
        if len(models) > 1:
            raise UserError("--init is of one detector, and several run.", "Name it by --detector.")
        fitting_start(init, models[0].settings(), torch_device(device), MINIMUM_IMAGES)
    like = FitTask(folder, None, None, None, models[0], device, limit, init=init)
    datasets = datasets_in(like, dataset or [])
    with bars() as report:
        found = Suite(datasets, models, shots_of(shots), report).run(numbers_in(seeds), json)
    for failure in found.failures:
        warn(f"{failure.what}: {failure.cause}")
    if html is not None:
        write_page(render_suite(found), html)
    rows = [
        (
            each.detector,
            each.datasets,
            each.image_auroc,
            each.mean_rank,
            each.worst,
            each.worst_dataset,
            each.pixel_auroc,
            each.aupro,
            each.miss_share_at.get("0.05"),
            each.false_alarm_share,
            each.miss_share,
            each.fit_seconds,
        )
        for each in found.summaries
    ]
    columns = ("detector", "data sets", "image_auroc", "rank", "worst", "worst on", "pixel_auroc", "aupro")
    show((*columns, "miss_at_5%", "false_alarms", "misses", "fit_seconds"), rows)
    for path in filter(None, (json, html)):
        say(f"wrote {path}")


def datasets_in(like: FitTask, names: Sequence[str]) -> tuple[FitTask, ...]:
    """As `like`, whose data set is the folder of all, on the data sets in it, or those of that name; with the files of
    splits and groups that lie beside their images. Raises `UserError` where there is none, or none of a name.
    """
    root = like.dataset
    layout = "Each folder in it should be one in the MVTec AD layout: train/good, test/good, test/<class>."
    if not root.is_dir():
        raise UserError(f"There is no folder {root}.", f"Give a folder of data sets. {layout}")
    if (root / "train").is_dir():
        raise UserError(
            f"{root} is one data set.", f"Give the folder above it, and --dataset {root.resolve().name} for it alone."
        )
    found: dict[str, FitTask] = {}
    for path in sorted(path for path in root.iterdir() if (path / "train").is_dir()):
        splits, groups = (
            file if file.is_file() else None for file in (path / "clean_splits.json", path / "groups.json")
        )
        found[path.name] = replace(like, dataset=path, splits=splits, groups=groups)
    if not found:
        raise UserError(f"{root} holds no data set.", layout)
    unknown = [name for name in names if name not in found]
    if unknown:
        raise UserError(f"{root} holds no data set {unknown[0]!r}.", f"Choose from {', '.join(found)}.")
    return tuple(found[name] for name in dict.fromkeys(names)) or tuple(found.values())


def models_of(detectors: Sequence[str], changes: Sequence[str], features: FeatureOptions) -> tuple[Model, ...]:
    """Each detector of that name on the same features, with its own `changes` (`glass.steps=80`); without names,
    all that are offered but those that read pixels.

    Raises `UserError` for an unknown detector, a change of a detector that does not run, or wrong settings.
    """
    names = [name for name in entrants_of(detectors) if detectors or name not in FROM_PIXELS]
    own: dict[str, list[str]] = {name: [] for name in names}
    for change in changes:
        name, dot, option = change.partition(".")
        if not dot or name not in own:
            raise UserError(
                f"--set {change} names none of the detectors that run.",
                f"Write --set DETECTOR.NAME=VALUE, with one of {', '.join(names)}.",
            )
        own[name].append(option)
    models = tuple(replace(features.model(name), changes=own[name]) for name in names)
    for model in models:
        model.settings()
    return models


def shots_of(text: str | None) -> tuple[int, ...]:
    """Ascending. Raises `UserError` for what is no list of sizes that a gauge can be fitted to."""
    if text is None:
        return ()
    sizes = sorted({*numbers_in(text, "sizes", "8,16,32")})
    if sizes[0] < MINIMUM_IMAGES:
        raise UserError(
            f"{sizes[0]} images are too few to fit to.", f"Give sizes of at least {MINIMUM_IMAGES} to --shots."
        )
    return tuple(sizes)


Key = tuple[str, str, int, int | None]
"""Of one fit: data set, detector, seed, number of training images if not all."""


def key_of(fit: FitTask) -> Key:
    return fit.dataset.name, fit.model.detector, fit.seed, fit.shots


def trained_images(fit: FitTask) -> int:
    """How many there are. Raises `DatasetError` unless its test images are of both kinds."""
    (trial,) = fit.trials([fit.seed])
    name, defective = fit.dataset.name, [entry.defective for entry in trial.test]
    if not any(defective):
        raise DatasetError(
            f"{name} has no defects in its test images.", "Add test/<class>, or leave it out by --dataset."
        )
    if all(defective):
        raise DatasetError(
            f"{name} has no good images among its test images.", "Add test/good, or leave it out by --dataset."
        )
    return len(trial.train)


@dataclass(frozen=True)
class Suite:
    """Every detector of `models` on every data set, under every seed, fitted to all training images and to each number
    of `shots`. A size that a data set does not exceed is left out on it: the whole training side stands for it.
    """

    datasets: tuple[FitTask, ...]
    models: tuple[Model, ...]
    shots: tuple[int, ...]
    report: Progress

    def run(self, seeds: Sequence[int], out: Path | None) -> SuiteResults:
        """Writes `out` after every fit; what it holds already is not run again. What fails is noted, and the rest goes
        on. Raises the first failure where there is no result at all, and `UserError` for an `out` of other images.
        """
        plan, digests, failures = self._plan(seeds)
        digests, known = self._earlier(out, digests)
        todo = [fit for fit in plan if key_of(fit) not in known]
        for fit in reported(todo, "fits of the suite", self.report):
            dataset, detector, seed, shots = key_of(fit)
            try:
                known[key_of(fit)] = SuiteRun(dataset=dataset, shots=shots, **dict(measured_alone(fit)))
            # whatever it is, hours of other fits should not be lost to it
            except Exception as error:
                cause = str(error) if isinstance(error, FlowgaugeError) else f"{type(error).__name__}: {error}"
                failures.append(Failure(dataset=dataset, detector=detector, seed=seed, shots=shots, cause=cause))
            if out is not None:
                results = SuiteResults(tuple(known.values()), tuple(failures))
                document = {"key": self._key, "contents": digests} | results.document()
                write_whole(out, json.dumps(document, ensure_ascii=False, allow_nan=False))
        if failures and not known:
            raise UserError(f"Nothing could be measured. {failures[0].dataset}: {failures[0].cause}")
        return SuiteResults(tuple(known.values()), tuple(failures))

    def _plan(self, seeds: Sequence[int]) -> tuple[list[FitTask], dict[str, str], list[Failure]]:
        """All fits, all data sets under one seed before the next one; each data set's digest; what cannot be read."""
        digests: dict[str, str] = {}
        plan: list[FitTask] = []
        failures: list[Failure] = []
        for seed, dataset in product(seeds, self.datasets):
            try:
                digests.setdefault(dataset.dataset.name, dataset.digest())
                available = trained_images(replace(dataset, seed=seed))
            except DatasetError as error:
                failures.append(Failure(dataset=dataset.dataset.name, cause=str(error)))
                continue
            sizes = (None, *(size for size in self.shots if size < available))
            plan += [replace(dataset, model=model, seed=seed, shots=size) for size in sizes for model in self.models]
        return plan, digests, list(dict.fromkeys(failures))

    def _earlier(self, out: Path | None, digests: dict[str, str]) -> tuple[dict[str, str], dict[Key, SuiteRun]]:
        """The digests of all data sets, those in `out` included, and what it holds."""

        def read(document: dict[str, Any]) -> tuple[dict[str, str], list[SuiteRun]]:
            return document["contents"], [SuiteRun.model_validate(each, strict=False) for each in document["runs"]]

        theirs, runs = left_in(out, lambda: self._key, read, "benchmark suite") or ({}, [])
        for name, digest in digests.items():
            if theirs.get(name, digest) != digest:
                raise UserError(
                    f"{out} tells of other images or splits of {name}.", "Give --json another name, or remove it."
                )
        return theirs | digests, {(run.dataset, run.detector, run.seed, run.shots): run for run in runs}

    @property
    def _key(self) -> str:
        """Changes with the settings that all fits share and with those of single detectors."""
        changes = {each.detector: tuple(each.changes) for each in self.models if each.changes}
        like = self.datasets[0]
        start = () if like.init is None else (init_digest(like.init),)
        inputs = (*conditions_of(self.models[0], like.limit), changes, *start)
        return sha256(repr(inputs).encode()).hexdigest()
