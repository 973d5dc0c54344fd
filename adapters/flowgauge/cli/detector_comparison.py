"""The work of `flowgauge benchmark detectors`. Loads torch: imported when the command runs and not before."""

import json
import multiprocessing
import os
import resource
import threading
from base64 import b64encode
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from importlib.metadata import version
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from flowgauge.cli.evaluation import chosen_trials, evaluation
from flowgauge.cli.model import Model
from flowgauge.cli.options import Device
from flowgauge.cli.output import write_whole
from flowgauge.cli.progress import Report, bars
from flowgauge.cli.resumption import left_in
from flowgauge.domain.errors import Unavailable, UserError
from flowgauge.domain.image_limits import ImageLimits, current_limits, set_limits
from flowgauge.evaluation.comparison import Contender, Ranking, Shown, standings
from flowgauge.evaluation.datasets import Dataset, Entry, Sample, evenly, sift
from flowgauge.evaluation.operating_points import PromisedRate, miss_shares, promised_rates
from flowgauge.evaluation.summary import Case
from flowgauge.models.registry import DETECTORS, FROM_LABELS
from flowgauge.training.gauge import Gauge
from flowgauge.training.snapshot import weights_of
from flowgauge.vision.decoding import Picture
from flowgauge.vision.heatmaps import heatmap_png

BASELINES = ("patchcore", "padim", "fastflow")
_SHOWN_OF_A_KIND = 2
_THUMBNAIL = 160  # pixels, the longest side


def entrants_of(names: Sequence[str]) -> list[str]:
    """Those, or all that learn from good images alone, with the baselines where they are installed.

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
            raise UserError(f"{name} is anomalib's.", "Install the extra: pip install 'flowgauge[baselines]'.")
        if name not in offered:
            raise UserError(f"There is no detector {name!r}.", f"Choose from {', '.join(offered)}.")
    return list(dict.fromkeys(names)) or offered


@dataclass(frozen=True)
class Task:
    """All that a process of its own needs to know."""

    dataset: Path
    splits: Path | None
    groups: Path | None
    masks: Path | None
    model: Model
    device: Device
    limit: int | None
    seed: int
    shows: bool
    shots: int | None = None

    @property
    def heading(self) -> str:
        shots = "" if self.shots is None else f", {self.shots} images"
        return f"{self.dataset.resolve().name}, {name_of(self.model)}, seed {self.seed}{shots}: "


@dataclass(frozen=True)
class Comparison:
    entrants: tuple[Contender, ...]

    @property
    def standings(self) -> list[Ranking]:
        return standings(self.entrants)

    def document(self, dataset: str) -> dict[str, Any]:
        return {
            "dataset": dataset,
            "detectors": [ranking.model_dump(mode="json") for ranking in self.standings],
            "contenders": [contender.model_dump(mode="json") for contender in self.entrants],
        }


@dataclass(frozen=True)
class DetectorComparison:
    """Every detector of `models` under every seed; `out` is written after each, and what it tells of is not run again.

    The wall of heatmaps is that of the first seed.
    """

    dataset: Path
    splits: Path | None
    groups: Path | None
    masks: Path | None
    models: tuple[Model, ...]
    device: Device
    limit: int | None
    report: Report

    def run(self, seeds: Sequence[int], out: Path | None) -> Comparison:
        known = {(e.detector, e.seed): e for e in self._earlier(out)}
        plan = [(model, seed) for seed in seeds for model in self.models if (name_of(model), seed) not in known]
        for done, (model, seed) in enumerate(plan):
            self.report("detectors fitted and judged", done, len(plan))
            known[name_of(model), seed] = measured_alone(self._task(model, seed, shows=seed == seeds[0]))
            if out is not None:
                found = Comparison(tuple(known.values()))
                write_whole(out, json.dumps({"key": self._key} | found.document(self.name), indent=2))
        self.report("detectors fitted and judged", len(plan), len(plan))
        return Comparison(tuple(known.values()))

    @property
    def name(self) -> str:
        return self.dataset.resolve().name

    def _task(self, model: Model, seed: int, *, shows: bool) -> Task:
        return Task(self.dataset, self.splits, self.groups, self.masks, model, self.device, self.limit, seed, shows)

    def _earlier(self, out: Path | None) -> list[Contender]:
        def read(document: dict[str, Any]) -> list[Contender]:
            return [Contender.model_validate(each, strict=False) for each in document["contenders"]]

        return left_in(out, lambda: self._key, read, "this benchmark") or []

    @cached_property
    def _key(self) -> str:
        """Changes with images' names and masks, splits, groups, and settings other than the detector."""
        model = self.models[0]
        features = (model.weights, model.backbone, model.layers, model.size, model.tiles, model.aspect)
        inputs = (version("flowgauge"), *features, self.limit)
        return contents_digest(Dataset.open(self.dataset, self.masks), (self.splits, self.groups), repr(inputs))


def contents_digest(dataset: Dataset, files: Iterable[Path | None], settings: str = "") -> str:
    """Changes with images' names and masks, with what the files of splits and groups say, and with `settings`."""
    digest = sha256(settings.encode())
    for entry in (*dataset.train, *dataset.test):
        digest.update(os.fsencode(entry.name) + (entry.outline.read_bytes() if entry.outline else b""))
    for path in files:
        digest.update(path.read_bytes() if path else b"")
    return digest.hexdigest()


def name_of(model: Model) -> str:
    assert model.detector is not None, "every entrant has a name"
    return model.detector


def measured_alone(task: Task) -> Contender:
    """In a new process, so that the memory it takes is its own. Raises `Unavailable` where the system ended it."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=_begin, initargs=(current_limits(),)) as pool:
        try:
            return Contender.model_validate_json(pool.submit(_measured, task).result())
        except BrokenProcessPool as error:
            raise Unavailable(
                f"The process that measured {name_of(task.model)} was killed, most likely for want of memory.",
                "Leave the detector out, or give fewer images by --limit. What --json holds is kept.",
            ) from error


def _begin(limits: ImageLimits) -> None:
    """With the limits of the parent, and an end with it: a command that is killed would otherwise leave its process
    fitting for minutes, for nobody."""
    set_limits(limits)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _measured(task: Task) -> str:
    """An `Contender` as JSON: what crosses between processes should be plain."""
    name = name_of(task.model)
    if name in BASELINES:
        from flowgauge.anomalib.detectors import offer_all

        offer_all()
    trials = chosen_trials(task.dataset, task.splits, [task.seed], None, task.limit, task.masks)
    if task.shots is not None:
        trials = [trial.by_training_size(task.shots) for trial in trials]
    seen = _Seen(shows=task.shows)
    with bars() as report:
        inputs = _under(task.heading, report)
        found = evaluation(
            task.dataset.name, trials, task.model, None, task.groups, task.device, inputs, inspect=seen.inspect
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return Contender(
        detector=name,
        seed=task.seed,
        run=found.runs[0],
        peak_bytes=peak,
        snapshot_bytes=seen.snapshot_bytes,
        shown_images=seen.shown_images,
        miss_share_at=seen.miss_share_at,
        promised=seen.promised,
    ).model_dump_json()


def _under(heading: str, report: Report) -> Report:
    def inputs(what: str, done: int, total: int) -> None:
        report(heading + what, done, total)

    return inputs


class _Seen:
    """What is kept of a run beside its figures."""

    snapshot_bytes: int = 0
    shown_images: tuple[Shown, ...] = ()
    miss_share_at: dict[str, float]
    promised: dict[str, PromisedRate]

    def __init__(self, *, shows: bool) -> None:
        self._shows = shows

    def inspect(self, gauge: Gauge, cases: Sequence[Case]) -> None:
        self.snapshot_bytes = len(weights_of(gauge))
        scores = np.array([case.prediction.score for case in cases])
        defective = np.array([case.entry.defective for case in cases])
        self.miss_share_at = miss_shares(scores, defective)
        self.promised = promised_rates(_promise_of(gauge), scores, defective)
        if self._shows:
            self.shown_images = tuple(_shown(case) for case in _chosen(cases))


def _promise_of(gauge: Gauge) -> Callable[[float], float] | None:
    """The threshold that keeps a promised false-alarm rate, as a function of the rate; None: it promises none."""
    return getattr(gauge.manifest.threshold, "at", None)


def _chosen(cases: Sequence[Case]) -> list[Case]:
    """A few of each kind, spread evenly."""
    kinds = dict.fromkeys(case.entry.kind for case in cases)
    wanted = {entry.name for kind in kinds for entry in evenly(_of(cases, kind), _SHOWN_OF_A_KIND)}
    return [case for case in cases if case.entry.name in wanted]


def _of(cases: Sequence[Case], kind: str) -> list[Entry]:
    return [case.entry for case in cases if case.entry.kind == kind]


def _shown(case: Case) -> Shown:
    (sample,) = sift([case.entry])
    assert isinstance(sample, Sample), "it was judged"
    prediction = case.prediction
    heat = Image.open(BytesIO(heatmap_png(sample.picture, prediction.anomaly_map, prediction.map_ceiling)))
    return Shown(name=case.entry.name, kind=case.entry.kind, picture=_jpeg(_image(sample.picture)), heatmap=_jpeg(heat))


def _image(picture: Picture) -> Image.Image:
    return Image.fromarray(picture.pixels)


def _jpeg(image: Image.Image) -> str:
    image = image.convert("RGB")
    image.thumbnail((_THUMBNAIL, _THUMBNAIL))
    file = BytesIO()
    image.save(file, "JPEG", quality=82)
    return b64encode(file.getvalue()).decode()
