"""The noise benchmark as the command line asks for it. Loads torch: imported when the command runs and not before."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from time import perf_counter
from typing import Any

from pydantic import TypeAdapter

from flowgauge.cli.benchmark_data import BenchmarkData
from flowgauge.cli.model import SHIPPED, fitting_start, torch_device
from flowgauge.cli.output import write_whole
from flowgauge.cli.resumption import left_in
from flowgauge.domain.errors import UserError
from flowgauge.evaluation.ablations import Ablation
from flowgauge.evaluation.contamination import (
    BASELINES,
    Baseline,
    Cell,
    Curve,
    baseline_fit,
    contaminated_fit,
    curves,
    needs_init,
)
from flowgauge.evaluation.splits import Split
from flowgauge.meta.initialization import MetaInit
from flowgauge.models.headflow.detector import HeadFlow

_Key = tuple[Ablation, float, int]  # variant, share of defects, seed


@dataclass(frozen=True)
class NoiseResult:
    dataset: str
    detector: str
    key: str
    cells: tuple[Cell, ...]

    @property
    def curves(self) -> list[Curve]:
        return curves(self.cells)

    def document(self) -> dict[str, Any]:
        """One variant's curve stands at the top, those of several under `curves`. `key` names data and settings."""
        found = [curve.model_dump(mode="json") for curve in self.curves]
        head = {"dataset": self.dataset, "detector": self.detector, "key": self.key}
        body = found[0] if len(found) == 1 else {"curves": found}
        return head | body | {"cells": [cell.model_dump(mode="json") for cell in self.cells]}


def baselines_of(variants: Sequence[Ablation], detector: str) -> Mapping[Ablation, Baseline]:
    """Those that `variants` ask for. Raises `UserError` where there is no anomalib, or where `detector` keeps of the
    features what is no use to baselines.
    """
    wanted = [variant for variant in variants if variant in BASELINES]
    if not wanted:
        return {}
    if detector != HeadFlow.name:
        raise UserError(f"{wanted[0]} needs the features that {HeadFlow.name} keeps.", "Leave --detector out.")
    try:
        from flowgauge.anomalib.detectors import BASELINES as FOUND
    except ModuleNotFoundError as error:
        raise UserError(
            f"{wanted[0]} needs {error.name}, which is not installed.",
            "Install the extra: pip install 'flowgauge[baselines]'.",
        ) from error
    return FOUND


@dataclass(frozen=True)
class Benchmark:
    cache: BenchmarkData
    init: str

    def run(self, variants: Sequence[Ablation], seeds: Sequence[int], out: Path | None) -> NoiseResult:
        """All fits that `out` does not tell of already; it is written after each, with what else it told of."""
        start, baselines = self._start(variants), baselines_of(variants, self.cache.settings.detector)
        splits, report = self.cache.chosen(seeds), self.cache.report
        known = {(cell.variant, cell.noise, cell.seed): cell for cell in self._earlier(out)}
        plan = [(v, split) for split in splits for v in variants if (v, split.noise, split.seed) not in known]
        for done, (variant, split) in enumerate(plan):
            report("fitting and judging", done, len(plan))
            known[variant, split.noise, split.seed] = self._fitted(variant, split, start, baselines.get(variant))
            if out is not None:
                write_whole(out, json.dumps(self._result(known).document(), indent=2))
        report("fitting and judging", len(plan), len(plan))
        return self._result(known)

    def _fitted(self, variant: Ablation, split: Split, start: MetaInit | None, baseline: Baseline | None) -> Cell:
        data = self.cache.features.data
        if baseline is not None:
            return baseline_fit(data, split, variant, baseline, perf_counter)
        return contaminated_fit(data, split, self.cache.parts, variant, self.cache.settings, perf_counter, start)

    def _start(self, variants: Sequence[Ablation]) -> MetaInit | None:
        """Where variants start that start from the meta-learned initialization; None where there are none such.

        Raises `SettingsError` where that is of another detector or backbone.
        """
        if not any(needs_init(variant) for variant in variants):
            return None
        return fitting_start(self.init, self.cache.settings, torch_device(self.cache.device))

    def _result(self, known: Mapping[_Key, Cell]) -> NoiseResult:
        cells = tuple(known[case] for case in sorted(known))
        return NoiseResult(self.cache.dataset.resolve().name, self.cache.settings.detector, self._key, cells)

    def _earlier(self, out: Path | None) -> list[Cell]:
        def read(document: dict[str, Any]) -> list[Cell]:
            return TypeAdapter(list[Cell]).validate_python(document["cells"], strict=False)

        return left_in(out, lambda: self._key, read, "this benchmark") or []

    @cached_property
    def _key(self) -> str:
        """Changes with everything that a figure depends on, but the seed, the variant and the baselines' version."""
        return self.cache.key(*([] if self.init == SHIPPED else [Path(self.init)]))
