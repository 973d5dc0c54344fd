"""The work of `flowgauge benchmark loss-amplification`. Loads torch: imported when the command runs and not before."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from flowgauge.cli.benchmark_data import BenchmarkData
from flowgauge.cli.output import write_whole
from flowgauge.cli.progress import Report
from flowgauge.cli.resumption import left_in
from flowgauge.evaluation.loss_amplification import (
    Amplified,
    Comparison,
    LargeImages,
    OneClassDigits,
    Setting,
    comparisons,
    settings_of,
)
from flowgauge.models.lamp.training import Optimiser, Reconstructing

_Rate = Callable[[Setting], float]


class _Job(NamedTuple):
    setting: Setting
    seed: int
    work: OneClassDigits | LargeImages
    rate: _Rate


@dataclass(frozen=True)
class Amplification:
    """On digits, and on the images of `cache` where it is given."""

    cache: BenchmarkData | None
    digits: OneClassDigits
    report: Report

    def run(self, seeds: Sequence[int], out: Path | None) -> list[Amplified]:
        """All fits that `out` does not tell of already; it is written after each, with what else it told of."""
        known = {(cell.setting, cell.seed): cell for cell in self._earlier(out)}
        jobs = list(self._jobs(seeds))
        for done, (setting, seed, work, rate) in enumerate(jobs):
            self.report(_words(setting), done, len(jobs))
            if (setting, seed) not in known:
                known[setting, seed] = work.run(setting, seed, rate(setting))
                if out is not None:
                    write_whole(out, json.dumps(self.document(list(known.values())), indent=2))
        self.report("fitting and judging", len(jobs), len(jobs))
        return [known[job.setting, job.seed] for job in jobs]

    def document(self, cells: Sequence[Amplified]) -> dict[str, Any]:
        rows = [row.model_dump(mode="json") for row in comparisons(cells)]
        return {"key": self._key, "comparisons": rows, "cells": [cell.model_dump(mode="json") for cell in cells]}

    def _jobs(self, seeds: Sequence[int]) -> Iterator[_Job]:
        digits, rates = self.digits, dict[Setting, float]()

        def chosen(setting: Setting) -> float:
            if setting not in rates:
                rates[setting] = digits.best_rate(setting)
            return rates[setting]

        for setting in settings_of(digits.name, Optimiser):
            yield from (_Job(setting, seed, digits, chosen) for seed in seeds)
        if self.cache is not None:
            images = self._images(self.cache, seeds)
            for setting in settings_of(images.name, [Optimiser.ADAM]):
                yield from (_Job(setting, seed, images, _usual) for seed in seeds)

    def _images(self, cache: BenchmarkData, seeds: Sequence[int]) -> LargeImages:
        """Of several shares of defects among the images that train, the lowest."""
        splits = {split.seed: split for split in sorted(cache.chosen(seeds), key=lambda split: -split.noise)}
        return LargeImages(
            f"{cache.dataset.resolve().name}, by patches", cache.features.data, splits, cache.parts, cache.settings
        )

    def _earlier(self, out: Path | None) -> list[Amplified]:
        def read(document: dict[str, Any]) -> list[Amplified]:
            return [Amplified.model_validate(cell, strict=False) for cell in document["cells"]]

        return left_in(out, lambda: self._key, read, "this benchmark") or []

    @cached_property
    def _key(self) -> str:
        digits = f"{version('flowgauge')} digits {self.digits.steps}"
        return digits if self.cache is None else f"{digits} {self.cache.key()}"


def rows_of(found: Sequence[Comparison]) -> Iterator[tuple[object, ...]]:
    for row in found:
        base, steep = (f"{mean:.3f} ({std:.3f})" for mean, std in _sides(row))
        yield row.where, row.loss.value, row.optimiser.value, base, steep, f"{row.gain:+.3f}", _share(row)


def _sides(row: Comparison) -> tuple[tuple[float, float], tuple[float, float]]:
    return (row.base, row.base_std), (row.amplified, row.amplified_std)


def _share(row: Comparison) -> str:
    return f"{row.higher} of {row.pairs}"


def _usual(setting: Setting) -> float:
    """Adam's steps do not grow with the loss: one rate serves both sides."""
    return Reconstructing().learning_rate


def _words(setting: Setting) -> str:
    return f"{setting.where}: {setting.loss}, {setting.optimiser}{', amplified' * setting.amplified}"
