"""A data set's features, read once and kept on disk, and what benchmarks over a file of splits measure on them."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer
from safetensors.torch import load_file, save_file

from flowgauge.cli.model import Model, torch_device
from flowgauge.cli.options import Device
from flowgauge.cli.output import beside, warn
from flowgauge.domain.errors import DatasetError, UserError
from flowgauge.domain.progress import Progress
from flowgauge.evaluation.datasets import Dataset, Entry, Unreadable, picture_of, sift
from flowgauge.evaluation.feature_cache import Embedded, restored
from flowgauge.evaluation.feature_cache import embedded as embedded_now
from flowgauge.evaluation.splits import Split, groups_of, read_groups, read_splits, trial
from flowgauge.services.fit import with_bit_depth
from flowgauge.training.fit import FitSettings, embedder_for
from flowgauge.vision.pictures import Pictures

Cache = Annotated[
    Path | None,
    typer.Option(help="Folder for features, some 1 MB an image. ~/.cache/flowgauge by default.", show_default=False),
]


def opened(root: Path, masks: Path | None = None) -> Dataset:
    """The data set in `root`; what was understood of its names and what was passed over is said. Raises as
    `Dataset.open` does.
    """
    dataset = Dataset.open(root, masks)
    for note in dataset.notes:
        warn(note)
    return dataset


@dataclass(frozen=True)
class ModelOnData:
    """A model, and the data set that it is fitted to and tested on."""

    dataset: Path
    splits: Path | None
    groups: Path | None
    masks: Path | None
    model: Model
    device: Device

    @property
    def name(self) -> str:
        return self.dataset.resolve().name


@dataclass(frozen=True)
class BenchmarkData(ModelOnData):
    """The images that a file of splits names (without one all), the parts that they show, and their features, which are
    kept in the folder `cache`; None: the user's own.
    """

    cache: Path | None
    report: Progress

    @cached_property
    def splits_in_file(self) -> tuple[Split, ...]:
        return () if self.splits is None else read_splits(self.splits).splits

    def chosen(self, seeds: Sequence[int]) -> list[Split]:
        """Raises `UserError` for a seed that the file does not have."""
        found = [split for split in self.splits_in_file if split.seed in seeds]
        if missing := sorted(set(seeds) - {split.seed for split in found}):
            raise UserError(f"The splits file has no seed {missing[0]}.", "Choose --seeds from those that it has.")
        return found

    @cached_property
    def settings(self) -> FitSettings:
        return self.model.settings()

    @cached_property
    def opened(self) -> Dataset:
        return opened(self.dataset, self.masks)

    @cached_property
    def entries(self) -> list[Entry]:
        """In the order of their names."""
        sides = [(self.opened.train, self.opened.test)]
        if self.splits is not None:
            sides = [(t.train, t.test) for t in (trial(self.opened, split) for split in self.splits_in_file)]
        named = {entry.name: entry for train, test in sides for entry in (*train, *test)}
        return sorted(named.values(), key=lambda entry: entry.name)

    @cached_property
    def names(self) -> list[str]:
        return [entry.name for entry in self.entries]

    @cached_property
    def parts(self) -> dict[str, str]:
        """Each image's part; without --groups, each its own."""
        parts = self.names if self.groups is None else groups_of(self.entries, read_groups(self.groups))
        return dict(zip(self.names, parts, strict=True))

    @cached_property
    def settings_words(self) -> str:
        """Changes with everything but the images that features and fits depend on."""
        return f"{version('flowgauge')} {version('torch')} {self.settings.model_dump_json()}"

    @cached_property
    def images_sha256(self) -> str:
        """Changes with every image, its name, and what cuts its object out."""
        digest = sha256()
        for entry in self.entries:
            for path in filter(None, (entry.path, entry.outline)):
                digest.update(os.fsencode(entry.name) + sha256(path.read_bytes()).digest())
        return digest.hexdigest()

    @cached_property
    def embedded(self) -> Embedded:
        """From the cache, or made now and put there. Raises `DatasetError` for an image that cannot be read."""
        where = torch_device(self.device)
        name = sha256(f"{self.settings_words} {self.images_sha256}".encode()).hexdigest()[:32]
        stored = (self.cache or Path.home() / ".cache" / "flowgauge" / "features") / f"{name}.safetensors"
        if stored.exists():
            embedder = embedder_for(self.settings, where)
            shape = embedder.backbone.shape(embedder.preprocessing.size)
            return restored(self.names, shape, embedder.detector, load_file(stored))
        pictures = Pictures()
        for done, sample in enumerate(sift(self.entries), start=1):
            # leaving an image out, as fits to a folder do, would make another split
            if isinstance(sample, Unreadable):
                raise DatasetError(
                    f"{sample.name} cannot be read. {sample.cause}", "Mend it, or take it out of the data set."
                )
            pictures.add(sample.picture, partial(picture_of, sample.entry))
            self.report("reading images", done, len(self.entries))
        data = embedded_now(self.names, pictures, with_bit_depth(self.settings, pictures, warn), where, self.report)
        stored.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.cpu() for name, tensor in data.tensors().items()}, beside(stored))
        beside(stored).replace(stored)
        return data

    def key(self, *more: Path) -> str:
        """Changes with the images, the splits, the groups, the settings, and what those other files hold."""
        digest = sha256(self.settings_words.encode())
        for path in filter(None, (self.splits, self.groups, *more)):
            digest.update(path.read_bytes())
        digest.update(self.images_sha256.encode())
        return digest.hexdigest()
