"""Whether the price of a threshold is what a line then shows: false alarms and misses inside their intervals.

    pytest tests/benchmarks/test_threshold.py --benchmarks -s

Two real data sets, beside the checkout at ../shared/data. A gauge is fitted to 160 good images; half of the held-out
parts are its labelled ones, and predict for five thresholds what the other half shows. The interval is that of a
prediction: it holds the scatter of the labels and of the half that judges.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from flowgauge.evaluation.datasets import Dataset, Entry, evenly, picture_of, read
from flowgauge.evaluation.intervals import prediction_interval
from flowgauge.evaluation.operating_point import Evidence, Scored
from flowgauge.evaluation.splits import groups_of, own_trial, read_groups, read_splits, trial
from flowgauge.training.fit import FitSettings, fit
from flowgauge.training.gauge import Gauge
from flowgauge.vision.pictures import Pictures

DATA = Path(__file__).parents[3] / "shared" / "data"
IMAGES = 160
RATES = (0.2, 0.1, 0.05, 0.02, 0.01)
SEEDS = (0, 1, 2)
NOTHING = np.array([])


def sides(name: str, seed: int) -> tuple[Sequence[Entry], Sequence[Entry], dict[str, str] | None]:
    """What trains, what is held out, and the parts that the images show; None where each shows its own."""
    dataset = Dataset.open(DATA / name)
    if name == "mtd":
        split = trial(dataset, read_splits(DATA / name / "clean_splits.json").choose(seed))
        return evenly(split.train, IMAGES), split.test, dict(read_groups(DATA / name / "groups.json"))
    chosen = np.sort(np.random.default_rng(seed).permutation(len(dataset.train))[:IMAGES])
    return [dataset.train[index] for index in chosen], own_trial(dataset, seed).test, None


def gauge(entries: Sequence[Entry], parts: dict[str, str] | None, seed: int) -> Gauge:
    pictures = Pictures()
    for entry in entries:
        pictures.add(read(entry).picture, partial(picture_of, entry))
    groups = None if parts is None else groups_of(entries, parts)
    at = datetime(2026, 1, 1, tzinfo=UTC)
    return fit(pictures, line="line", settings=FitSettings(), at=at, groups=groups, seed=seed)


def halves(parts: Sequence[str], defective: np.ndarray, seed: int) -> np.ndarray:
    """True for the images (N,) whose labels are known: of the good and of the defective parts, every other one."""
    rng, known, names = np.random.default_rng(seed), set[str](), np.array(parts)
    for kind in (False, True):
        own = np.unique(names[defective == kind])
        known |= set(rng.permutation(own)[: len(own) // 2])
    return np.array([name in known for name in parts])


@pytest.mark.parametrize("name", ["mtd", "mvtec_transistor"])
def test_the_other_half_shows_what_the_price_said(name: str) -> None:
    if not (DATA / name).is_dir():
        pytest.skip(f"There is no data set at {DATA / name}.")
    torch.set_num_threads(1)
    right = total = 0
    for seed in SEEDS:
        train, test, groups = sides(name, seed)
        made = gauge(train, groups, seed)
        scores = np.array([made.predict([read(entry).picture])[0].score for entry in test])
        defective = np.array([entry.defective for entry in test])
        parts = [entry.name for entry in test] if groups is None else groups_of(test, groups)
        known = halves(parts, defective, seed)
        good, bad = (Scored.of(scores[s], list(np.array(parts)[s])) for s in (known & ~defective, known & defective))
        evidence = Evidence(made.manifest.threshold, good, bad, flagged=NOTHING, recent=NOTHING)
        for rate in RATES:
            value = made.manifest.threshold.at(rate)
            point = evidence.at(value)
            assert point.misses is not None
            for what, share, judged, erred in (
                ("false alarms", point.false_alarms, ~known & ~defective, scores > value),
                ("misses", point.misses, ~known & defective, scores <= value),
            ):
                low, high = prediction_interval(share, int(judged.sum()))
                seen = float(erred[judged].mean())
                right += low <= seen <= high
                total += 1
                shown = f"{share.mean:.1%} ({low:.1%} to {high:.1%}) of {judged.sum()}, seen {seen:.1%}"
                print(  # noqa: T201
                    f"\n| {name} seed {seed} | {value:.2f} ({rate:.0%}) | {what} | {shown} |"
                    f" {'inside' if low <= seen <= high else 'OUTSIDE'} |",
                    end="",
                )
    print(f"\n| {name} | {right} of {total} inside |")  # noqa: T201
    assert right >= 0.9 * total
