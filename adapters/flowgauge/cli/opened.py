"""Data sets as commands open them: what was understood and what was passed over is said before the work begins."""

from pathlib import Path

from flowgauge.cli.output import warn
from flowgauge.evaluation.datasets import Dataset


def opened(root: Path, masks: Path | None = None) -> Dataset:
    """Raises `DatasetError` as `Dataset.open` does."""
    dataset = Dataset.open(root, masks)
    for note in dataset.notes:
        warn(note)
    return dataset
