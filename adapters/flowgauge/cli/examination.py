"""Data checks as the command line asks for them. Loads torch: imported when the command runs and not before."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from flowgauge.cli.model import torch_device
from flowgauge.cli.opened import opened
from flowgauge.cli.options import Device
from flowgauge.cli.output import warn
from flowgauge.cli.progress import Report
from flowgauge.datachecks.examine import Examination, examine
from flowgauge.domain.errors import UserError
from flowgauge.evaluation.datasets import Dataset, Sample, sift
from flowgauge.evaluation.splits import read_groups
from flowgauge.training.fit import FitSettings, embedder_for
from flowgauge.training.gauge import Gauge
from flowgauge.training.snapshot import MANIFEST_NAME, WEIGHTS_NAME, load
from flowgauge.vision.decoding import SixteenBit
from flowgauge.vision.preprocessing import sixteen_bit_rule

SCHEMA = 1


def examination(dataset: Path, gauge: Path | None, groups: Path | None, device: Device, report: Report) -> Examination:
    """Raises `DatasetError` for what cannot be examined, `SnapshotInvalid` for a gauge that must not be loaded."""
    where = torch_device(device)
    found = opened(dataset)
    known = None if groups is None else read_groups(groups)
    fitted = None if gauge is None else _gauge(gauge, where)
    embedder = embedder_for(FitSettings(), where)
    rule = _sixteen_bit_rule(found) if fitted is None else fitted.manifest.preprocessing.sixteen_bit
    preprocessing = embedder.preprocessing.model_copy(update={"sixteen_bit": rule})
    return examine(found, replace(embedder, preprocessing=preprocessing), fitted, known, report)


def _sixteen_bit_rule(dataset: Dataset) -> SixteenBit:
    """As `fit` would guess it; said where it is not the full range."""
    rule = sixteen_bit_rule(found.picture for found in sift(dataset.train) if isinstance(found, Sample))
    if rule is not SixteenBit.FULL_RANGE:
        warn(f"16-bit files are read as {rule}, 0 to {rule.white}, which holds all values of the training images.")
    return rule


def _gauge(folder: Path, device: str) -> Gauge:
    try:
        return load((folder / MANIFEST_NAME).read_bytes(), (folder / WEIGHTS_NAME).read_bytes(), device=device)
    except OSError as error:
        raise UserError(
            f"{folder} holds no snapshot: {error.filename} cannot be read ({error.strerror}).",
            f"Give the folder that holds {MANIFEST_NAME} and {WEIGHTS_NAME}.",
        ) from error


def document(dataset: Path, found: Examination) -> dict[str, Any]:
    """`problems` counts findings that are more than notes; each check has its figures whether it found anything."""
    seen = found.seen
    return {
        "schema_version": SCHEMA,
        "dataset": dataset.resolve().name,
        "images": {
            "train": seen.trained,
            "test_good": int((~seen.train & seen.good).sum()),
            "test_defect": int((~seen.good).sum()),
            "unreadable": len(seen.unreadable),
        },
        "problems": len(found.problems),
        "checks": [check.model_dump(mode="json") for check in found.checks],
    }
