"""The work of `flowgauge benchmark suite`. Loads torch: imported when the command runs and not before."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

from flowgauge.cli.detector_comparison import Task, contents_digest, entrants_of, measured_alone, name_of
from flowgauge.cli.evaluation import chosen_trials
from flowgauge.cli.model import Model
from flowgauge.cli.options import Device
from flowgauge.cli.output import write_whole
from flowgauge.cli.progress import Report
from flowgauge.cli.resumption import left_in
from flowgauge.domain.errors import DatasetError, FlowgaugeError, UserError
from flowgauge.evaluation.datasets import Dataset
from flowgauge.evaluation.splits import Trial
from flowgauge.evaluation.suite import Failure, SuiteResults, SuiteRun
from flowgauge.models.registry import FROM_PIXELS
from flowgauge.training.fit import MINIMUM_IMAGES

SPLITS, GROUPS = "clean_splits.json", "groups.json"
"""A data set that holds these files is split, and its images are grouped by object, as they say."""


@dataclass(frozen=True)
class SuiteFolder:
    """One data set of the suite, with the files that its folder holds beside the images."""

    root: Path

    @property
    def name(self) -> str:
        return self.root.name

    @property
    def splits(self) -> Path | None:
        return self._beside(SPLITS)

    @property
    def groups(self) -> Path | None:
        return self._beside(GROUPS)

    def digest(self) -> str:
        return contents_digest(Dataset.open(self.root), (self.splits, self.groups))

    def trial(self, seed: int, limit: int | None) -> Trial:
        """Raises `DatasetError` unless its test images are of both kinds."""
        (trial,) = chosen_trials(self.root, self.splits, [seed], None, limit)
        if not any(entry.defective for entry in trial.test):
            raise DatasetError(
                f"{self.name} has no defects in its test images.", "Add test/<class>, or leave it out by --dataset."
            )
        if all(entry.defective for entry in trial.test):
            raise DatasetError(
                f"{self.name} has no good images among its test images.", "Add test/good, or leave it out by --dataset."
            )
        return trial

    def _beside(self, name: str) -> Path | None:
        path = self.root / name
        return path if path.is_file() else None


def datasets_in(root: Path, names: Sequence[str]) -> tuple[SuiteFolder, ...]:
    """The data sets in `root`, or those of that name. Raises `UserError` where there is none, or none of a name."""
    layout = "Each folder in it should be one in the MVTec AD layout: train/good, test/good, test/<class>."
    if not root.is_dir():
        raise UserError(f"There is no folder {root}.", f"Give a folder of data sets. {layout}")
    if (root / "train").is_dir():
        raise UserError(
            f"{root} is one data set.", f"Give the folder above it, and --dataset {root.resolve().name} for it alone."
        )
    found = {path.name: SuiteFolder(path) for path in sorted(root.iterdir()) if (path / "train").is_dir()}
    if not found:
        raise UserError(f"{root} holds no data set.", layout)
    unknown = [name for name in names if name not in found]
    if unknown:
        raise UserError(f"{root} holds no data set {unknown[0]!r}.", f"Choose from {', '.join(found)}.")
    return tuple(found[name] for name in dict.fromkeys(names)) or tuple(found.values())


def models_of(detectors: Sequence[str], changes: Sequence[str], common: Model) -> tuple[Model, ...]:
    """Each detector of that name with the common settings and its own `changes` (`glass.steps=80`); without names,
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
    models = tuple(replace(common, detector=name, changes=tuple(own[name])) for name in names)
    for model in models:
        model.settings()
    return models


def shots_of(text: str | None) -> tuple[int, ...]:
    """Ascending. Raises `UserError` for what is no list of sizes that a gauge can be fitted to."""
    if text is None:
        return ()
    try:
        sizes = sorted({int(part) for part in text.split(",")})
    except ValueError as error:
        raise UserError(f"{text!r} is no list of sizes.", "Give whole numbers: 8,16,32, say.") from error
    if sizes[0] < MINIMUM_IMAGES:
        raise UserError(
            f"{sizes[0]} images are too few to fit to.", f"Give sizes of at least {MINIMUM_IMAGES} to --shots."
        )
    return tuple(sizes)


@dataclass(frozen=True)
class _Step:
    """One fit of the plan."""

    folder: SuiteFolder
    model: Model
    seed: int
    shots: int | None

    @property
    def key(self) -> tuple[str, str, int, int | None]:
        return self.folder.name, name_of(self.model), self.seed, self.shots


@dataclass(frozen=True)
class Suite:
    """Every detector of `models` on every data set, under every seed, fitted to all training images and to each number
    of `shots`. A size that a data set does not exceed is left out on it: the whole training side stands for it.
    """

    folders: tuple[SuiteFolder, ...]
    models: tuple[Model, ...]
    device: Device
    limit: int | None
    shots: tuple[int, ...]
    report: Report

    def run(self, seeds: Sequence[int], out: Path | None) -> SuiteResults:
        """Writes `out` after every fit; what it holds already is not run again. What fails is noted, and the rest goes
        on. Raises the first failure where there is no result at all, and `UserError` for an `out` of other images.
        """
        plan, digests, failures = self._plan(seeds)
        digests, known = self._earlier(out, digests)
        todo = [step for step in plan if step.key not in known]
        for done, step in enumerate(todo):
            self.report("fits of the suite", done, len(todo))
            try:
                known[step.key] = self._measured(step)
            except Exception as error:  # whatever it is, hours of other fits should not be lost to it
                failures.append(_failure(step, error))
            if out is not None:
                document = {"key": self._key, "contents": digests} | SuiteResults(
                    tuple(known.values()), tuple(failures)
                ).document()
                write_whole(out, json.dumps(document, ensure_ascii=False, allow_nan=False))
        self.report("fits of the suite", len(todo), len(todo))
        if failures and not known:
            raise UserError(f"Nothing could be measured. {failures[0].dataset}: {failures[0].cause}")
        return SuiteResults(tuple(known.values()), tuple(failures))

    def _plan(self, seeds: Sequence[int]) -> tuple[list[_Step], dict[str, str], list[Failure]]:
        """All fits, all data sets under one seed before the next one; each data set's digest; what cannot be read."""
        digests: dict[str, str] = {}
        steps: list[_Step] = []
        failures: list[Failure] = []
        for seed in seeds:
            for folder in self.folders:
                try:
                    digests.setdefault(folder.name, folder.digest())
                    steps += self._steps(folder, seed)
                except DatasetError as error:
                    failures.append(Failure(dataset=folder.name, cause=str(error)))
        return steps, digests, list(dict.fromkeys(failures))

    def _steps(self, folder: SuiteFolder, seed: int) -> Iterator[_Step]:
        available = len(folder.trial(seed, self.limit).train)
        sizes = (None, *(size for size in self.shots if size < available))
        return (_Step(folder, model, seed, size) for size in sizes for model in self.models)

    def _measured(self, step: _Step) -> SuiteRun:
        folder = step.folder
        contender = measured_alone(
            Task(
                dataset=folder.root,
                splits=folder.splits,
                groups=folder.groups,
                masks=None,
                model=step.model,
                device=self.device,
                limit=self.limit,
                seed=step.seed,
                shows=False,
                shots=step.shots,
            )
        )
        return SuiteRun(dataset=folder.name, shots=step.shots, **dict(contender))

    def _earlier(
        self, out: Path | None, digests: dict[str, str]
    ) -> tuple[dict[str, str], dict[tuple[str, str, int, int | None], SuiteRun]]:
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
        model = self.models[0]
        changes = {name_of(each): each.changes for each in self.models if each.changes}
        features = (model.weights, model.backbone, model.layers, model.size, model.tiles, model.aspect)
        inputs = (version("flowgauge"), *features, self.limit, changes)
        return sha256(repr(inputs).encode()).hexdigest()


def _failure(step: _Step, error: Exception) -> Failure:
    cause = str(error) if isinstance(error, FlowgaugeError) else f"{type(error).__name__}: {error}"
    dataset, detector, seed, shots = step.key
    return Failure(dataset=dataset, detector=detector, seed=seed, shots=shots, cause=cause)
