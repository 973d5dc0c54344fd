"""All checks of a data set, before a gauge is fitted to it and after."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from flowgauge.datachecks.background import background_check
from flowgauge.datachecks.camera import exposure_check, sizes_check
from flowgauge.datachecks.duplicates import duplicates_check, repeats
from flowgauge.datachecks.focus import focus_check
from flowgauge.datachecks.image_statistics import ImageStatistics, image_statistics
from flowgauge.datachecks.issue import Check, Finding, Named
from flowgauge.datachecks.model_checks import positions_check, turned_check
from flowgauge.datachecks.orientation import orientation_check
from flowgauge.datachecks.sample_size import enough_check
from flowgauge.datachecks.silhouette import silhouette, silhouette_check
from flowgauge.datachecks.suspects import suspects_check
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
    """Every check in turn; `gauge` adds those of what it makes of the images, and `groups` only judges the near
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
    after: tuple[Callable[[ImageStatistics, Gauge, Progress], Check], ...] = (turned_check, positions_check)
    checks += [check(seen, gauge, progress) for check in after if gauge is not None]
    return Examination(seen, tuple(checks))


def _readable_check(seen: ImageStatistics) -> Check:
    question = "Can every image be read?"
    figures = {"images": len(seen.looks), "unreadable": len(seen.unreadable)}
    if not seen.unreadable:
        return Check(name="readable", question=question, figures=figures)
    finding = Finding(
        title="Images that cannot be read",
        seen=f"{len(seen.unreadable)} files are no images that can be decoded; the other checks leave them out.",
        why="They train nothing and judge nothing, and what else was lost with them nobody knows.",
        remedy="Copy or capture them again, or remove them.",
        figures={"unreadable": len(seen.unreadable)},
        images=tuple(Named(name=one.name, words=one.cause) for one in seen.unreadable),
    )
    return Check(name="readable", question=question, figures=figures, findings=(finding,))
