"""The work of `flowgauge benchmark leave-one-class-out`. Loads torch: imported when the command runs and not before."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from flowgauge.cli.benchmark_data import BenchmarkData
from flowgauge.cli.output import write_whole
from flowgauge.cli.resumption import left_in
from flowgauge.evaluation.leave_one_class_out import Gain, LeftOutClass, LeftOutClasses, gain


class Row(NamedTuple):
    """Of one class, means over the seeds: image AUROC, what labels add to it, and `UnseenClass.overlap`."""

    kind: str
    without: float
    with_labels: float
    gain: float
    overlap: float


@dataclass(frozen=True)
class Left:
    """What came out: `gain` over `cells`."""

    gain: Gain
    cells: tuple[LeftOutClass, ...]

    @property
    def rows(self) -> list[Row]:
        """One per class, the largest gain first."""
        return sorted((self._row(kind, by) for kind, by in self.gain.by_class.items()), key=lambda row: -row.gain)

    def _row(self, kind: str, by: float) -> Row:
        cells = [cell for cell in self.cells if cell.kind == kind]
        with_labels, without = (fmean(values) for values in zip(*(cell.auroc for cell in cells), strict=True))
        return Row(kind, without, with_labels, by, fmean(cell.overlap for cell in cells))

    def sentences(self) -> list[str]:
        """Where it loses, and why."""
        low, high = self.gain.interval
        lines = [
            f"On classes that nobody has labelled, labels add {self.gain.mean:+.3f} to image AUROC on average"
            f" (95 % of resampled parts: {low:+.3f} to {high:+.3f})."
        ]
        return lines + [_loss(row, self.rows) for row in self.rows if row.gain < 0]


def _loss(row: Row, rows: Sequence[Row]) -> str:
    rank = 1 + sum(other.overlap > row.overlap for other in rows)
    return (
        f"It loses on {row.kind} ({row.without:.3f} to {row.with_labels:.3f}): the features in which {row.kind} stands"
        f" out overlap by {row.overlap:.2f} with those of the labelled classes, number {rank} of {len(rows)}."
    )


@dataclass(frozen=True)
class LeaveOneClassOut:
    cache: BenchmarkData
    labels: int

    def run(self, seeds: Sequence[int], out: Path | None) -> Left:
        """All classes and seeds that `out` does not tell of already; it is written after each, with what else it told
        of.
        """
        known = {(cell.seed, cell.kind): cell for cell in self._earlier(out)}
        for split in self.cache.chosen(seeds):
            classes = LeftOutClasses(
                self.cache.features.data, split, self.cache.parts, self.cache.settings, self.labels
            )
            for done, kind in enumerate(classes.kinds):
                self.cache.report(f"seed {split.seed}: leaving out {kind}", done, len(classes.kinds))
                if (split.seed, kind) not in known:
                    known[split.seed, kind] = classes.left_out(kind)
                    self._keep(out, list(known.values()))
        cells = tuple(known[case] for case in sorted(known))
        return Left(gain(cells, self.cache.parts), cells)

    def document(self, left: Left) -> dict[str, Any]:
        rows = [row._asdict() for row in left.rows]
        return {"gain": left.gain.model_dump(mode="json"), "by_class": rows} | self._as_json(left.cells)

    def _as_json(self, cells: Sequence[LeftOutClass]) -> dict[str, Any]:
        return {"key": self._key, "labels": self.labels, "cells": [cell.model_dump(mode="json") for cell in cells]}

    def _keep(self, out: Path | None, cells: Sequence[LeftOutClass]) -> None:
        if out is not None:
            write_whole(out, json.dumps(self._as_json(cells), indent=2))

    def _earlier(self, out: Path | None) -> list[LeftOutClass]:
        def read(document: dict[str, Any]) -> list[LeftOutClass]:
            return [LeftOutClass.model_validate(cell, strict=False) for cell in document["cells"]]

        return left_in(out, lambda: self._key, read, "this benchmark") or []

    @cached_property
    def _key(self) -> str:
        return f"{self.cache.key()} {self.labels} labels"
