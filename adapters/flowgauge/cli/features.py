"""A data set's features, read once and kept on disk. Loads torch: imported when a command runs and not before."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

from safetensors.torch import load_file, save_file

from flowgauge.cli.model import seeing
from flowgauge.cli.output import beside
from flowgauge.cli.progress import Report
from flowgauge.domain.errors import DatasetError
from flowgauge.evaluation.datasets import Entry, Unreadable, picture_of, sift
from flowgauge.evaluation.feature_cache import Embedded, embedded, restored
from flowgauge.training.fit import FitSettings, embedder_for
from flowgauge.vision.pictures import Pictures


@dataclass(frozen=True)
class Features:
    """Of `entries`, for the detector of `settings`, on `device`. `cache` is a folder; None: the user's own."""

    entries: Sequence[Entry]
    settings: FitSettings
    device: str
    cache: Path | None
    report: Report

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
    def data(self) -> Embedded:
        """From the cache, or made now and put there. Raises `DatasetError` for an image that cannot be read."""
        name = sha256(f"{self.settings_words} {self.images_sha256}".encode()).hexdigest()[:32]
        folder = self.cache or Path.home() / ".cache" / "flowgauge" / "features"
        stored = folder / f"{name}.safetensors"
        return self._stored(stored) if stored.exists() else self._made(stored)

    @property
    def _names(self) -> list[str]:
        return [entry.name for entry in self.entries]

    def _stored(self, stored: Path) -> Embedded:
        embedder = embedder_for(self.settings, self.device)
        shape = embedder.backbone.shape(embedder.preprocessing.size)
        return restored(self._names, shape, embedder.detector, load_file(stored))

    def _made(self, stored: Path) -> Embedded:
        pictures = self._pictures()
        data = embedded(self._names, pictures, seeing(self.settings, pictures), self.device, self.report)
        stored.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.cpu() for name, tensor in data.tensors().items()}, beside(stored))
        beside(stored).replace(stored)
        return data

    def _pictures(self) -> Pictures:
        """Raises `DatasetError` for one that cannot be read: leaving it out would make another split."""
        pictures = Pictures()
        for done, sample in enumerate(sift(self.entries), start=1):
            if isinstance(sample, Unreadable):
                raise DatasetError(
                    f"{sample.name} cannot be read. {sample.cause}", "Mend it, or take it out of the data set."
                )
            pictures.add(sample.picture, partial(picture_of, sample.entry))
            self.report("reading images", done, len(self.entries))
        return pictures
