"""All checks of a data set, before a gauge is fitted to it and after."""

from collections.abc import Mapping
from dataclasses import dataclass

from flowgauge.datachecks.background import background_check, positions_check, silhouette, silhouette_check
from flowgauge.datachecks.camera import exposure_check, focus_check, sizes_check
from flowgauge.datachecks.image_statistics import ImageStatistics, image_statistics
from flowgauge.datachecks.issue import Check, Finding, Named
from flowgauge.datachecks.orientation import orientation_check, turned_check
from flowgauge.datachecks.training_images import duplicates_check, enough_check, repeats, suspects_check
from flowgauge.evaluation.datasets import Dataset
from flowgauge.models.detector import Progress
from flowgauge.training.gauge import Gauge
from flowgauge.training.training_set import Embedder


@dataclass(frozen=True, eq=False)
class Examination:
    seen: ImageStatistics
    checks: tuple[Check, ...]

    @property
    def findings(self) -> tuple[Finding, ...]:
        return tuple(finding for check in self.checks for finding in check.findings)

    @property
    def problems(self) -> tuple[Finding, ...]:
        return tuple(finding for check in self.checks for finding in check.problems)


def examine(
    dataset: Dataset, embedder: Embedder, gauge: Gauge | None, groups: Mapping[str, str] | None, progress: Progress
) -> Examination:
    """Every check in turn; `gauge` adds those of what it makes of the images, and `groups` only tests the near
    duplicates found.

    Raises `DatasetError` where no training image can be read.
    """
    seen = image_statistics(dataset, embedder, progress)
    found, shape = repeats(seen, progress), silhouette(seen)
    checks = [
        _readable_check(seen),
        duplicates_check(seen, found, groups),
        enough_check(seen, found),
        suspects_check(seen, found, progress),
        sizes_check(seen),
        exposure_check(seen),
        focus_check(seen.names, seen.values("sharpness"), seen.values("sharpness")[seen.train]),
        silhouette_check(seen, shape),
        orientation_check(seen, embedder, progress),
        background_check(seen, shape),
    ]
    if gauge is not None:
        checks += [turned_check(seen, gauge, progress), positions_check(seen, gauge, progress)]
    return Examination(seen, tuple(checks))


def _readable_check(seen: ImageStatistics) -> Check:
    check = Check(
        name="readable",
        question="Can every image be read?",
        figures={"images": len(seen.looks), "unreadable": len(seen.unreadable)},
    )
    finding = Finding(
        title="Images that cannot be read",
        seen=f"{len(seen.unreadable)} files are no images that can be decoded; the other checks leave them out.",
        why="They train nothing and test nothing, and what else was lost with them nobody knows.",
        remedy="Copy or capture them again, or remove them.",
        figures={"unreadable": len(seen.unreadable)},
        images=tuple(Named(name=one.name, words=one.cause) for one in seen.unreadable),
    )
    return check.with_findings(finding) if seen.unreadable else check
