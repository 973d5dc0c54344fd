"""`flowgauge benchmark detectors`: which method holds on a line; each is measured in a process of its own."""

import multiprocessing
import os
import resource
import threading
from base64 import b64encode
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from flowgauge.cli import options
from flowgauge.cli.evaluate import Limit, Seeds, Task, numbers_in
from flowgauge.cli.model import DEFAULT_FEATURES, FeatureOptions, Model
from flowgauge.cli.progress import bars
from flowgauge.cli.results import OutAfterFits, check_writable, conclude, items_left_in, write_results
from flowgauge.domain.errors import Unavailable, UserError, install
from flowgauge.domain.image_limits import ImageLimits, current_limits, set_limits
from flowgauge.domain.progress import Progress, reported
from flowgauge.evaluation.comparison import Contender, Shown, miss_shares, promised_rates, standings
from flowgauge.evaluation.datasets import Dataset, Sample, evenly, sift
from flowgauge.evaluation.evaluate import Case
from flowgauge.models.registry import DETECTORS, FROM_LABELS
from flowgauge.reports.comparisons import render_comparison
from flowgauge.reports.pages import write_page
from flowgauge.training.gauge import Gauge
from flowgauge.training.snapshot import weights_of
from flowgauge.vision.decoding import decode
from flowgauge.vision.encoding import thumbnail
from flowgauge.vision.heatmaps import heatmap_png

BASELINES = ("patchcore", "padim", "fastflow")
# forks of a process that has imported what all fits need: torch and timm alone take seconds of each new process
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload([__name__])
# images of each class in the wall of heatmaps: one shows no spread, more make the page of many detectors unwieldy
SHOWN_OF_A_KIND = 2
# pixels of the longest side of an image in the wall: fewer hide small defects, twice as many take four times the bytes
THUMBNAIL = 160


def detectors(
    dataset: options.DatasetArgument,
    detector: Annotated[
        list[str] | None,
        typer.Option(
            help="One to compare; may be repeated. All that learn from good images alone, and patchcore, padim and"
            " fastflow where anomalib is installed.",
            show_default=False,
        ),
    ] = None,
    splits: options.Splits = None,
    seeds: Seeds = "0",
    features: FeatureOptions = DEFAULT_FEATURES,
    masks: options.Masks = None,
    groups: options.Groups = None,
    limit: Limit = None,
    device: options.DeviceOption = options.Device.AUTO,
    json: OutAfterFits = None,
    html: Annotated[Path | None, typer.Option(help="Write a page there: figures, ROC curves, heatmaps.")] = None,
) -> None:
    """Compare detectors on the same images: which method holds on this line?

    \b
    flowgauge benchmark detectors ./mvtec/bottle --html bottle.html
    flowgauge benchmark detectors ./tiles --splits splits.json \\
        --groups groups.json --seeds 0,1,2 --json tiles.json --html tiles.html

    Each is fitted and tested in a process of its own: accuracy of images and
    pixels, by class too; misses and false alarms at its own threshold; seconds
    to fit, images a second, memory, and the size of its snapshot. Baselines are
    anomalib's, on the same backbone; they come with the extra named baselines.
    """
    check_writable(json, html)
    models = tuple(features.model(name) for name in entrants_of(detector or []))
    with bars() as report:
        task = FitTask(dataset, splits, groups, masks, models[0], device, limit)
        work = DetectorComparison(task, models, report)
        contenders = work.run(numbers_in(seeds), json)
    if html is not None:
        write_page(render_comparison(task.name, contenders), html)
    columns = ("image_auroc", "pixel_auroc", "aupro", "fit_seconds", "images_per_second", "peak_mib", "snapshot_mib")
    rows = []
    for ranking in standings(contenders):
        spreads = (getattr(ranking, column) for column in columns)
        rows.append((ranking.detector, *(spread and spread.mean for spread in spreads)))
    conclude(work.document(contenders), (json, html), ("detector", *columns), rows)


def entrants_of(names: Sequence[str]) -> list[str]:
    """Those, or all that train on good images alone, with the baselines where they are installed.

    Raises `UserError` for one that there is not, or that needs labels.
    """
    baselines = BASELINES if find_spec("anomalib") else ()
    offered = [*(name for name in DETECTORS if name not in FROM_LABELS), *baselines]
    for name in names:
        if name in FROM_LABELS:
            raise UserError(
                f"{name} learns from labels, which this has not.", "Run flowgauge benchmark leave-one-class-out."
            )
        if name in BASELINES and name not in offered:
            raise UserError(f"{name} is anomalib's.", install("baselines"))
        if name not in offered:
            raise UserError(f"There is no detector {name!r}.", f"Choose from {', '.join(offered)}.")
    return list(dict.fromkeys(names)) or offered


@dataclass(frozen=True)
class FitTask(Task):
    """One fit. `shows`: images with heatmaps are kept too; `shots`: so many images train, None: all."""

    seed: int = 0
    shows: bool = False
    shots: int | None = None

    def digest(self, settings: str = "") -> str:
        """Changes with images' names and masks, with what the files of splits and groups say, and with `settings`."""
        dataset, digest = Dataset.open(self.dataset, self.masks), sha256(settings.encode())
        for entry in (*dataset.train, *dataset.test):
            digest.update(os.fsencode(entry.name) + (entry.outline.read_bytes() if entry.outline else b""))
        for path in filter(None, (self.splits, self.groups)):
            digest.update(path.read_bytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class DetectorComparison:
    """`task` for every detector of `models` under every seed. The wall of heatmaps is that of the first seed."""

    task: FitTask
    models: tuple[Model, ...]
    report: Progress

    def run(self, seeds: Sequence[int], out: Path | None) -> list[Contender]:
        """Fit what is no contender in `out` yet, which is written after each fit. Returns all contenders in it."""
        earlier = items_left_in(out, lambda: self._key, Contender, "contenders")
        known = {(contender.detector, contender.seed): contender for contender in earlier}
        plan = [(model, seed) for seed in seeds for model in self.models if (model.detector, seed) not in known]
        for model, seed in reported(plan, "detectors fitted and tested", self.report):
            task = replace(self.task, model=model, seed=seed, shows=seed == seeds[0])
            known[model.detector, seed] = measured_alone(task)
            write_results(out, {"key": self._key} | self.document(list(known.values())))
        return list(known.values())

    def document(self, contenders: Sequence[Contender]) -> dict[str, Any]:
        return {"dataset": self.task.name, "detectors": standings(contenders), "contenders": contenders}

    @cached_property
    def _key(self) -> str:
        """Changes with images' names and masks, splits, groups, and settings other than the detector."""
        return self.task.digest(repr(conditions_of(self.task.model, self.task.limit)))


def conditions_of(model: Model, limit: int | None) -> tuple[object, ...]:
    """What all contenders share. By the way in which processes start, their peaks of memory count other pages."""
    features = (model.weights, model.backbone, model.layers, model.size, model.tiles, model.aspect)
    return version("flowgauge"), PROCESSES.get_start_method(), *features, limit


def measured_alone(task: FitTask) -> Contender:
    """In a new process, so that the memory it takes is its own. Raises `Unavailable` where the system ended it."""
    with ProcessPoolExecutor(1, mp_context=PROCESSES, initializer=begin, initargs=(current_limits(),)) as pool:
        try:
            return Contender.model_validate_json(pool.submit(_measured, task).result())
        except BrokenProcessPool as error:
            raise Unavailable(
                f"The process that measured {task.model.detector} was killed, most likely for want of memory.",
                "Leave the detector out, or give fewer images by --limit. What --json holds is kept.",
            ) from error


def begin(limits: ImageLimits) -> None:
    """With the parent's limits of images, and an end with it: a command that is killed would otherwise leave its
    process fitting for minutes, for nobody.
    """
    set_limits(limits)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _measured(task: FitTask) -> str:
    """A `Contender` as JSON: what crosses between processes should be plain."""
    name = task.model.detector
    if name in BASELINES:
        from flowgauge.anomalib.detectors import offer_all

        offer_all()
    trials = task.trials([task.seed])
    shots = ""
    if task.shots is not None:
        trials = [trial.by_training_size(task.shots) for trial in trials]
        shots = f", {task.shots} images"
    heading = f"{task.name}, {name}, seed {task.seed}{shots}: "
    facts: dict[str, Any] = {}

    def inspect(gauge: Gauge, cases: Sequence[Case]) -> None:
        scores = np.array([case.prediction.score for case in cases])
        defective = np.array([case.entry.defective for case in cases])
        facts["snapshot_bytes"] = len(weights_of(gauge))
        facts["miss_share_at"] = miss_shares(scores, defective)
        # only some kinds of threshold promise a false-alarm rate, and tell where they would lie for another one
        facts["promised"] = promised_rates(getattr(gauge.manifest.threshold, "at", None), scores, defective)
        facts["shown_images"] = _shown(cases) if task.shows else ()

    with bars() as report:
        found = task.evaluation(trials, lambda what, done, total: report(heading + what, done, total), inspect)
    # Linux counts the peak in KiB
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return Contender(detector=name, seed=task.seed, run=found.runs[0], peak_bytes=peak, **facts).model_dump_json()


def _shown(cases: Sequence[Case]) -> tuple[Shown, ...]:
    """A few test images of each class, spread evenly, each with its heatmap."""
    wanted = set[str]()
    for kind in {case.entry.kind for case in cases}:
        entries = [case.entry for case in cases if case.entry.kind == kind]
        wanted |= {entry.name for entry in evenly(entries, SHOWN_OF_A_KIND)}
    shown = []
    for case in (case for case in cases if case.entry.name in wanted):
        (sample,) = sift([case.entry])
        assert isinstance(sample, Sample), "it has been scored"
        prediction = case.prediction
        drawn = heatmap_png(sample.picture, prediction.anomaly_map, prediction.map_ceiling)
        picture, heatmap = (
            b64encode(thumbnail(pixels, THUMBNAIL)).decode() for pixels in (sample.picture.pixels, decode(drawn).pixels)
        )
        shown.append(Shown(name=case.entry.name, kind=case.entry.kind, picture=picture, heatmap=heatmap))
    return tuple(shown)
