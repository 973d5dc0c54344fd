"""`flowgauge benchmark leave-one-class-out`: what labels are worth on classes of defects that nobody has labelled."""

from collections.abc import Iterator, Sequence
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
    splits: Annotated[Path, options.SplitsFile],
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
        work = LeaveOneClassOut(BenchmarkData(dataset, splits, groups, masks, model, device, cache, report), labels)
        cells = work.run(numbers_in(seeds), json)
    found = gain(cells, work.data.parts)
    rows = rows_of(found, cells)
    document = {
        "gain": found,
        "by_class": [row._asdict() for row in rows],
    } | work.document(cells)
    if json is not None:
        write_whole(json, as_json(document))
    conclude(
        document, [json], ("class", "without labels", "with labels", "gain", "overlap"), rows, sentences(found, rows)
    )


class Row(NamedTuple):
    """Of one class, means over the seeds: image AUROC, what labels add to it, and `LeftOutClass.overlap`."""

    kind: str
    without: float
    with_labels: float
    gain: float
    overlap: float


def rows_of(found: Gain, cells: Sequence[LeftOutClass]) -> list[Row]:
    """One per class, the largest gain first."""
    rows = []
    for kind, by in found.by_class.items():
        own = [cell for cell in cells if cell.kind == kind]
        with_labels, without = (fmean(values) for values in zip(*(cell.auroc for cell in own), strict=True))
        rows.append(Row(kind, without, with_labels, by, fmean(cell.overlap for cell in own)))
    return sorted(rows, key=lambda row: -row.gain)


def sentences(found: Gain, rows: Sequence[Row]) -> Iterator[str]:
    """Where it loses, and why."""
    low, high = found.interval
    yield (
        f"On classes that nobody has labelled, labels add {found.mean:+.3f} to image AUROC on average"
        f" (95 % of resampled parts: {low:+.3f} to {high:+.3f})."
    )
    for row in (row for row in rows if row.gain < 0):
        rank = 1 + sum(other.overlap > row.overlap for other in rows)
        yield (
            f"It loses on {row.kind} ({row.without:.3f} to {row.with_labels:.3f}): the features in which {row.kind}"
            f" stands out overlap by {row.overlap:.2f} with those of the labelled classes, number {rank} of"
            f" {len(rows)}."
        )


@dataclass(frozen=True)
class LeaveOneClassOut:
    data: BenchmarkData
    labels: int

    def run(self, seeds: Sequence[int], out: Path | None) -> list[LeftOutClass]:
        """Fit what has no cell in `out` yet, which is written after each fit. Returns all its cells in order."""
        earlier = items_left_in(out, lambda: self._key, LeftOutClass, "cells")
        known = {(cell.seed, cell.kind): cell for cell in earlier}
        for split in self.data.chosen(seeds):
            features = self.data.embedded
            classes = LeftOutClasses(features, split, self.data.parts, self.data.settings, self.labels)
            for done, kind in enumerate(classes.kinds):
                self.data.report(f"seed {split.seed}: leaving out {kind}", done, len(classes.kinds))
                if (split.seed, kind) not in known:
                    known[split.seed, kind] = classes.left_out(kind)
                    write_results(out, self.document(list(known.values())))
        return [known[case] for case in sorted(known)]

    def document(self, cells: Sequence[LeftOutClass]) -> dict[str, Any]:
        return {"key": self._key, "labels": self.labels, "cells": cells}

    @cached_property
    def _key(self) -> str:
        return f"{self.data.key()} {self.labels} labels"
