"""Evaluations as the command line asks for them. Loads torch: imported when the command runs and not before."""

import json
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter

from pydantic import TypeAdapter

from flowgauge.cli.model import Model, start_at, torch_device
from flowgauge.cli.opened import opened
from flowgauge.cli.options import Device
from flowgauge.cli.output import warn
from flowgauge.cli.progress import Report
from flowgauge.domain.errors import UserError
from flowgauge.evaluation.evaluate import Conditions, Inspect, Progress, evaluate, nobody
from flowgauge.evaluation.paired import PairedDifference, paired_difference
from flowgauge.evaluation.results import Evaluation, Run
from flowgauge.evaluation.splits import Trial, own_trial, read_groups, read_splits, trial
from flowgauge.services.fit import with_bit_depth
from flowgauge.training.fit import fit
from flowgauge.training.gauge import Gauge
from flowgauge.vision.decoding import Picture


def chosen_trials(
    root: Path,
    splits: Path | None,
    seeds: Sequence[int],
    noise: float | None,
    limit: int | None,
    masks: Path | None = None,
) -> list[Trial]:
    """One trial per seed. Raises `DatasetError` for what is not there, and `UserError` for noise without splits."""
    dataset = opened(root, masks)
    if splits is None:
        if noise is not None:
            raise UserError("--noise needs --splits: the data set has no noise levels of its own.", "Give both.")
        return [own_trial(dataset, seed).limited(limit) for seed in seeds]
    offered = read_splits(splits)
    return [trial(dataset, offered.choose(seed, noise)).limited(limit) for seed in seeds]


def tell_one_sided(trials: Sequence[Trial]) -> None:
    """What the test images cannot tell is said before a fit of minutes."""
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


def earlier_runs(path: Path) -> list[Run]:
    """Raises `UserError` for what no evaluation wrote."""
    try:
        return TypeAdapter(list[Run]).validate_python(json.loads(path.read_bytes())["runs"], strict=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is no result of flowgauge evaluate ({error}).", "Make one with --json.") from error


def compared(found: Evaluation, others: Sequence[Run], groups: Path | None) -> PairedDifference:
    return paired_difference(found.runs, others, None if groups is None else read_groups(groups))


def evaluation(
    name: str,
    trials: Sequence[Trial],
    model: Model,
    init: str | None,
    groups: Path | None,
    device: Device,
    report: Report,
    inspect: Inspect = nobody,
) -> Evaluation:
    settings, where = model.settings(), torch_device(device)
    start = None if init is None else start_at(init)

    def fitted(pictures: Collection[Picture], parts: Sequence[str] | None, seed: int, progress: Progress) -> Gauge:
        return fit(
            pictures,
            line="evaluation",
            settings=with_bit_depth(settings, pictures, warn),
            at=datetime.now(UTC),
            groups=parts,
            init=start,
            seed=seed,
            device=where,
            progress=progress,
        )

    known = None if groups is None else read_groups(groups)
    return evaluate(name, trials, Conditions(fitted, perf_counter, where, known, inspect), report)
