"""Estimates as the command line asks for them. Loads torch: imported when the command runs and not before."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from flowgauge.cli.features import Features
from flowgauge.cli.model import SHIPPED, Model, fitting_start, torch_device
from flowgauge.cli.opened import opened
from flowgauge.cli.options import Device
from flowgauge.cli.output import as_json, write_whole
from flowgauge.cli.progress import Report
from flowgauge.cli.resumption import left_in
from flowgauge.evaluation.choices import Choice, Chooser
from flowgauge.evaluation.datasets import Dataset, Entry
from flowgauge.evaluation.estimate import EstimateReport, Origin, Repeat, estimated
from flowgauge.evaluation.near_duplicates import NearDuplicates, duplicate_groups, near_duplicates_of
from flowgauge.evaluation.replicates import Material, Replicates, require_divisible
from flowgauge.evaluation.splits import Groups, groups_by_name, groups_of, read_groups
from flowgauge.meta.initialization import MetaInit
from flowgauge.training.fit import embedder_for

_Known = dict[int, Repeat]


@dataclass(frozen=True)
class Request:
    """What a person asked for, beside the model."""

    dataset: Path
    chooser: Chooser
    repeats: int
    seed: int
    groups: Path | None
    pattern: str | None
    keep_apart: bool
    init: str | None
    cache: Path | None
    masks: Path | None = None

    @property
    def seeds(self) -> range:
        return range(self.seed, self.seed + self.repeats)

    @property
    def words(self) -> str:
        """Changes with everything that a repeat depends on, but its seed, the images, their parts and the model."""
        chooser = self.chooser
        values_of: dict[Choice, Any] = {Choice.COST: chooser.costs, Choice.BUDGET: chooser.budget}
        return f"{chooser.choice} {values_of.get(chooser.choice)} {self.keep_apart}"


@dataclass(frozen=True)
class Estimation:
    request: Request
    model: Model
    device: Device
    report: Report

    def run(self, out: Path | None) -> EstimateReport:
        """All repeats that `out` does not tell of already; it is written after each."""
        named = self._named_parts
        require_divisible(self._material(named or self._single))
        kept, apart = self._earlier(out)
        near_duplicates: tuple[NearDuplicates, ...] = () if named is not None else self._near_duplicates
        groups = named or duplicate_groups(self._names, near_duplicates)
        plan = [(groups, kept, seed) for seed in self.request.seeds if seed not in kept]
        plan += [(self._single, apart, seed) for seed in self.request.seeds if near_duplicates and seed not in apart]
        for done, (parts, known, seed) in enumerate(plan):
            self.report("repeats", done, len(plan))
            known[seed] = self._repeat(parts, seed)
            if out is not None:
                write_whole(out, as_json(self._progress_document(kept, apart)))
        self.report("repeats", len(plan), len(plan))
        estimate_report = self._estimate_report(groups, kept, apart, near_duplicates)
        if out is not None:
            write_whole(out, as_json(estimate_report.model_dump(mode="json") | self._progress_document(kept, apart)))
        return estimate_report

    def _repeat(self, groups: Groups, seed: int) -> Repeat:
        material, settings = self._material(groups), self.model.settings()
        data, chooser = self._features.data, self.request.chooser
        return Replicates(data, material, chooser, settings, self._init, perf_counter, self.report).repeat(seed)

    def _estimate_report(
        self, groups: Groups, kept: _Known, apart: _Known, near_duplicates: tuple[NearDuplicates, ...]
    ) -> EstimateReport:
        material = self._material(groups)
        costs, good = self.request.chooser.costs, int((~material.defective & ~material.trains).sum())
        repeats, torn = ([known[seed] for seed in self.request.seeds if seed in known] for known in (kept, apart))
        return EstimateReport(
            dataset=self.request.dataset.resolve().name,
            detector=self.model.settings().detector,
            software=f"flowgauge {version('flowgauge')}",
            key=self._key,
            chooser=self.request.chooser,
            good_images=int((~material.defective).sum()),
            defective_images=int(material.defective.sum()),
            parts=len(set(material.groups)),
            origin=self._origin(near_duplicates),
            estimate=estimated(repeats, groups, costs, good),
            duplicates_apart=estimated(torn, self._single, costs, good) if near_duplicates else None,
            near_duplicates=near_duplicates,
            repeats=tuple(repeats),
            repeats_apart=tuple(torn) if near_duplicates else (),
        )

    def _progress_document(self, kept: _Known, apart: _Known) -> dict[str, Any]:
        """All that was ever repeated, of other seeds too."""

        def values_of(known: _Known) -> list[Any]:
            return [known[seed].model_dump(mode="json") for seed in sorted(known)]

        return {"key": self._key, "repeats": values_of(kept), "repeats_apart": values_of(apart)}

    def _earlier(self, out: Path | None) -> tuple[_Known, _Known]:
        def read(document: dict[str, Any]) -> tuple[_Known, _Known]:
            return _known(document["repeats"]), _known(document["repeats_apart"])

        return left_in(out, lambda: self._key, read, "an estimate") or ({}, {})

    def _origin(self, near_duplicates: tuple[NearDuplicates, ...]) -> Origin:
        if self.request.groups is not None:
            return Origin.FILE
        if self.request.pattern is not None:
            return Origin.NAMES
        return Origin.NEAR_DUPLICATES if near_duplicates else Origin.IMAGES

    @cached_property
    def _dataset(self) -> Dataset:
        return opened(self.request.dataset, self.request.masks)

    @cached_property
    def _entries(self) -> list[Entry]:
        return sorted((*self._dataset.train, *self._dataset.test), key=lambda entry: entry.name)

    @cached_property
    def _names(self) -> list[str]:
        return [entry.name for entry in self._entries]

    @cached_property
    def _single(self) -> Groups:
        return {name: name for name in self._names}

    @cached_property
    def _named_parts(self) -> Groups | None:
        """What the person said; None: nothing."""
        if self.request.groups is not None:
            parts = groups_of(self._entries, read_groups(self.request.groups))
            return dict(zip(self._names, parts, strict=True))
        return None if self.request.pattern is None else groups_by_name(self._names, self.request.pattern)

    def _material(self, groups: Groups) -> Material:
        trains = {entry.name for entry in self._dataset.train} if self.request.keep_apart else set()
        return Material(
            defective=np.array([entry.defective for entry in self._entries]),
            groups=tuple(groups[name] for name in self._names),
            trains=np.array([name in trains for name in self._names]),
        )

    @cached_property
    def _features(self) -> Features:
        settings, where = self.model.settings(), torch_device(self.device)
        return Features(self._entries, settings, where, self.request.cache, self.report)

    @cached_property
    def _near_duplicates(self) -> tuple[NearDuplicates, ...]:
        data = self._features.data
        detector = embedder_for(self.model.settings(), torch_device(self.device)).detector
        patch_features = detector.patch_features(data.plain(data.names)).float().numpy()
        return tuple(near_duplicates_of(data.names, patch_features, {entry.name for entry in self._dataset.train}))

    @cached_property
    def _init(self) -> MetaInit | None:
        """Raises `SettingsError` where that is of another detector or backbone."""
        if self.request.init is None:
            return None
        return fitting_start(self.request.init, self.model.settings(), torch_device(self.device))

    @cached_property
    def _key(self) -> str:
        """Changes with everything that a repeat depends on, but its seed."""
        digest = sha256(f"{self._features.settings_words} {self.request.words}".encode())
        digest.update(json.dumps(self._named_parts, sort_keys=True).encode())
        if self.request.init is not None:
            init = self.request.init
            digest.update(init.encode() if init == SHIPPED else Path(init).read_bytes())
        digest.update(self._features.images_sha256.encode())
        return digest.hexdigest()


def _known(repeats: Iterable[Any]) -> _Known:
    return {found.seed: found for found in TypeAdapter(list[Repeat]).validate_python(repeats, strict=False)}
