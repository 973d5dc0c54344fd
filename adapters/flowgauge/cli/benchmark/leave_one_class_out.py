"""`flowgauge benchmark leave-one-class-out`: what labels are worth on classes of defects that nobody has labelled."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any, NamedTuple

import typer

from flowgauge.cli import options
from flowgauge.cli.evaluate import Seeds, numbers_in
from flowgauge.cli.features import BenchmarkData, Cache
from flowgauge.cli.model import DEFAULT_FEATURES, FeatureOptions
from flowgauge.cli.output import as_json, write_whole
from flowgauge.cli.progress import bars
from flowgauge.cli.results import OutAfterSeeds, check_writable, conclude, items_left_in, write_results
from flowgauge.evaluation.leave_one_class_out import Gain, LeftOutClass, LeftOutClasses, gain


def leave_one_class_out(
    dataset: options.DatasetArgument,
    splits: Annotated[Path, typer.Option(help="JSON: which images train and test, by seed.", metavar="FILE")],
    labels: Annotated[int, typer.Option(min=1, help="Labelled defects of the other classes.")] = 10,
    seeds: Seeds = "0,1,2",
    features: FeatureOptions = DEFAULT_FEATURES,
    masks: options.Masks = None,
    groups: options.Groups = None,
    cache: Cache = None,
    device: options.DeviceOption = options.Device.AUTO,
    json: OutAfterSeeds = None,
) -> None:
    """Leave out each class of defects, label a few of the others, and test on it.

    \b
    flowgauge benchmark leave-one-class-out ./tiles --splits splits.json \\
        --groups groups.json --json unseen.json

    What labels are worth to the detector multidirectional on defects of a
    class that nobody has labelled, against the same detector on the same
    features without labels. overlap says how much the places where the
    unseen class stands out resemble those of the labelled ones.
    """
    check_writable(json)
    model = features.model("multidirectional")
    with bars() as report:
        data = BenchmarkData(dataset, splits, groups, masks, model, device, cache, report)
        work = LeaveOneClassOut(data, labels)
        found = work.run(numbers_in(seeds), json)
    document = {
        "gain": found.gain.model_dump(mode="json"),
        "by_class": [row._asdict() for row in found.rows],
    } | work.document(found.cells)
    if json is not None:
        write_whole(json, as_json(document))
    columns = ("class", "without labels", "with labels", "gain", "overlap")
    conclude(document, [json], columns, found.rows, found.sentences())


class Row(NamedTuple):
    """Of one class, means over the seeds: image AUROC, what labels add to it, and `LeftOutClass.overlap`."""

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
        rows = []
        for kind, by in self.gain.by_class.items():
            cells = [cell for cell in self.cells if cell.kind == kind]
            with_labels, without = (fmean(values) for values in zip(*(cell.auroc for cell in cells), strict=True))
            rows.append(Row(kind, without, with_labels, by, fmean(cell.overlap for cell in cells)))
        return sorted(rows, key=lambda row: -row.gain)

    def sentences(self) -> list[str]:
        """Where it loses, and why."""
        low, high = self.gain.interval
        lines = [
            f"On classes that nobody has labelled, labels add {self.gain.mean:+.3f} to image AUROC on average"
            f" (95 % of resampled parts: {low:+.3f} to {high:+.3f})."
        ]
        rows = self.rows
        for row in (row for row in rows if row.gain < 0):
            rank = 1 + sum(other.overlap > row.overlap for other in rows)
            lines.append(
                f"It loses on {row.kind} ({row.without:.3f} to {row.with_labels:.3f}): the features in which {row.kind}"
                f" stands out overlap by {row.overlap:.2f} with those of the labelled classes, number {rank} of"
                f" {len(rows)}."
            )
        return lines


@dataclass(frozen=True)
class LeaveOneClassOut:
    data: BenchmarkData
    labels: int

    def run(self, seeds: Sequence[int], out: Path | None) -> Left:
        """Fit what has no cell in `out` yet, which is written after each fit and keeps its other cells."""
        earlier = items_left_in(out, lambda: self._key, LeftOutClass, "cells")
        known = {(cell.seed, cell.kind): cell for cell in earlier}
        for split in self.data.chosen(seeds):
            features = self.data.features.data
            classes = LeftOutClasses(features, split, self.data.parts, self.data.settings, self.labels)
            for done, kind in enumerate(classes.kinds):
                self.data.report(f"seed {split.seed}: leaving out {kind}", done, len(classes.kinds))
                if (split.seed, kind) not in known:
                    known[split.seed, kind] = classes.left_out(kind)
                    write_results(out, self.document(list(known.values())))
        cells = tuple(known[case] for case in sorted(known))
        return Left(gain(cells, self.data.parts), cells)

    def document(self, cells: Sequence[LeftOutClass]) -> dict[str, Any]:
        return {"key": self._key, "labels": self.labels, "cells": [cell.model_dump(mode="json") for cell in cells]}

    @cached_property
    def _key(self) -> str:
        return f"{self.data.key()} {self.labels} labels"
