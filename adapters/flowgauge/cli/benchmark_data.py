"""What the benchmarks over a file of splits stand on: its images, their parts and their features."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path

from flowgauge.cli.features import Features
from flowgauge.cli.model import Model, torch_device
from flowgauge.cli.opened import opened
from flowgauge.cli.options import Device
from flowgauge.cli.progress import Report
from flowgauge.domain.errors import UserError
from flowgauge.evaluation.datasets import Entry
from flowgauge.evaluation.splits import Split, groups_of, read_groups, read_splits, trial
from flowgauge.training.fit import FitSettings


@dataclass(frozen=True)
class BenchmarkData:
    dataset: Path
    splits: Path
    groups: Path | None
    masks: Path | None
    model: Model
    device: Device
    cache: Path | None
    report: Report

    def chosen(self, seeds: Sequence[int]) -> list[Split]:
        """Raises `UserError` for a seed that the file does not have."""
        found = [split for split in read_splits(self.splits).splits if split.seed in seeds]
        if missing := sorted(set(seeds) - {split.seed for split in found}):
            raise UserError(f"The splits file has no seed {missing[0]}.", "Choose --seeds from those that it has.")
        return found

    @cached_property
    def settings(self) -> FitSettings:
        return self.model.settings()

    @cached_property
    def entries(self) -> list[Entry]:
        """All images that some split names, in order."""
        found = opened(self.dataset, self.masks)
        trials = [trial(found, split) for split in read_splits(self.splits).splits]
        return sorted({e.name: e for t in trials for e in (*t.train, *t.test)}.values(), key=lambda entry: entry.name)

    @cached_property
    def parts(self) -> dict[str, str]:
        """Each image's part; without --groups, each its own."""
        names = [entry.name for entry in self.entries]
        parts = names if self.groups is None else groups_of(self.entries, read_groups(self.groups))
        return dict(zip(names, parts, strict=True))

    @cached_property
    def features(self) -> Features:
        return Features(self.entries, self.settings, torch_device(self.device), self.cache, self.report)

    def key(self, *more: Path) -> str:
        """Changes with the images, the splits, the groups, the settings, and what those other files hold."""
        digest = sha256(self.features.settings_words.encode())
        for path in (self.splits, *([self.groups] if self.groups else []), *more):
            digest.update(path.read_bytes())
        digest.update(self.features.images_sha256.encode())
        return digest.hexdigest()
