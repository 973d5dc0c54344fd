"""The first gauge of a line, or a new one that a person wants: good images are read, fitted to, and published."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from flowgauge.domain.errors import DatasetError, UnreadableImage
from flowgauge.domain.messages import Expected, Trial
from flowgauge.domain.object_keys import line_name
from flowgauge.domain.ports import Buffered
from flowgauge.evaluation.datasets import Dataset, Unreadable, evenly, picture_of, require_enough, sift
from flowgauge.evaluation.splits import groups_of, read_groups
from flowgauge.meta.initialization import default_start
from flowgauge.models.detector import Progress
from flowgauge.models.registry import FROM_LABELS
from flowgauge.registry.golden_sets import training_defects
from flowgauge.registry.snapshots import SnapshotFiles, active_snapshots, store_snapshot
from flowgauge.registry.trials import introduce, require_no_trial
from flowgauge.runtime.backend import Store
from flowgauge.services.changes import recorded
from flowgauge.training.fit import FitSettings, Start, fit
from flowgauge.training.gauge import Gauge
from flowgauge.training.snapshot import save
from flowgauge.vision.decoding import Picture, Reduction, SixteenBit, decode, whole
from flowgauge.vision.pictures import Pictures

Tell = Callable[[str], None]
"""Takes a warning: a sentence or two for a person."""

# Of mean and deviation, in [0, 1]: 8 of 255 levels. With more, dark-field images would be warned of; with less, 12 bits
# in a 16-bit file, which reach 16 levels, would not.
_BLACK = 0.03


@dataclass(frozen=True)
class FromDataset:
    """At most `limit` good images of a data set. `groups` is a file that says which part each image shows, `masks` a
    folder of masks that cut the objects out.
    """

    folder: Path
    groups: Path | None = None
    masks: Path | None = None
    limit: int | None = None

    def read(self, progress: Progress, tell: Tell, reduction: Reduction = whole) -> "Good":
        """What cannot be read is told and left out."""
        dataset = Dataset.open(self.folder, self.masks)
        for note in dataset.notes:
            tell(note)
        entries = evenly(dataset.train, self.limit)
        pictures, kept = Pictures(), []
        for done, result in enumerate(sift(entries, reduction), start=1):
            progress("reading images", done, len(entries))
            if isinstance(result, Unreadable):
                tell(f"{result.name} is left out. {result.cause}")
            else:
                pictures.add(result.picture, partial(picture_of, result.entry, reduction))
                kept.append(result.entry)
        require_enough(len(kept), dataset.root)
        return Good(pictures, None if self.groups is None else groups_of(kept, read_groups(self.groups)))


@dataclass(frozen=True)
class FromBuffer:
    """The newest `limit` images of the line's buffer; images of one part are one group."""

    limit: int | None = None

    def read(self, store: Store, line: str, tell: Tell, reduction: Reduction = whole) -> "Good":
        """What is no longer stored, or cannot be read, is told and left out."""

        def picture(entry: Buffered) -> Picture:
            return decode(store.objects.get(store.objects.name(entry.image_uri)), reduction)

        pictures, kept = Pictures(), []
        for entry in store.state.buffer(line)[-(self.limit or 0) :]:
            try:
                pictures.add(picture(entry), partial(picture, entry))
            except KeyError:
                tell(f"{entry.image_id} is left out: its image is no longer stored.")
            except UnreadableImage as error:
                tell(f"{entry.image_id} is left out. {error}")
            else:
                kept.append(entry)
        if not kept:
            raise DatasetError(
                f"The buffer of line {line} holds no images.", f"Stream some: flowgauge run FOLDER --line {line}"
            )
        require_enough(len(kept), f"The buffer of line {line}")
        return Good(pictures, [entry.subject or entry.image_id for entry in kept])


@dataclass(frozen=True, eq=False)
class Good:
    """Pictures in the order of capture; `groups` names the part that each shows, None where nobody said."""

    pictures: Pictures
    groups: list[str] | None


def fit_line(
    store: Store,
    line: str,
    source: FromDataset | FromBuffer,
    settings: FitSettings,
    *,
    start: Start = default_start,
    seed: int = 0,
    device: str = "cpu",
    by: str,
    progress: Progress,
    tell: Tell,
) -> tuple[Gauge, Trial | None]:
    """Fit a gauge to the good images of `source`, and to the line's labelled defects where the detector learns from
    them; store it and make it the active one, as the person `by` wants, or begin its trial where the line's policy is
    `shadow`. It is the anchor of what is adapted from it.

    Raises `DatasetError` for too few images, `SettingsError` for a `start` of another detector or backbone, and
    `UserError` where another trial is under way.
    """
    line = line_name(line)
    require_no_trial(store, line)
    reduction = settings.preprocessing.reduction
    if isinstance(source, FromBuffer):
        good = source.read(store, line, tell, reduction)
    else:
        good = source.read(progress, tell, reduction)
    defects = training_defects(store.objects, line, partial(decode, reduction=reduction))
    gauge = fit(
        good.pictures,
        line=line,
        settings=with_bit_depth(settings, good.pictures, tell),
        at=store.clock.now(),
        groups=good.groups,
        start=start,
        labelled=defects if settings.detector in FROM_LABELS else [],
        seed=seed,
        device=device,
        progress=progress,
    )
    snapshot = save(gauge)
    files = SnapshotFiles(snapshot.manifest, snapshot.weights)
    store_snapshot(store.objects, line, snapshot.version, files)
    active = active_snapshots(store.log).get(line)
    before = {} if active is None else {"version": active.version}
    after = {"version": snapshot.version, "detector": settings.detector, "images": gauge.manifest.images}
    with recorded(store, by, "fit", line, snapshot.version, before, after):
        trial = introduce(store, line, snapshot.version, files.sha256, None, by, Expected.SAME)
    return gauge, trial


def with_bit_depth(settings: FitSettings, pictures: Pictures, tell: Tell) -> FitSettings:
    """`settings` with the rule for 16-bit files that a person gave, or that the training images show; it is told, and
    so is when the images are all but black. Decodes nothing.
    """
    preprocessing = settings.preprocessing
    lightest, lightest_deep, peak = 0.0, 0.0, None
    for statistics, brightest in pictures.seen:
        light = max(statistics.brightness, statistics.contrast)
        if brightest is None:
            lightest = max(lightest, light)
        else:
            lightest_deep = max(lightest_deep, light * SixteenBit.FULL_RANGE.white)
            peak = max(brightest, peak or 0)
    if peak is not None:
        given = preprocessing.sixteen_bit
        rule = given or SixteenBit.holding(peak)
        message = f"16-bit files are read as {rule}, 0 to {rule.white}; the brightest training value is {peak}."
        if given is None:
            tell(f"{message} If the camera has more bits than its images show, give --bits.")
        elif peak > rule.white:
            tell(f"{message} What is brighter is clipped: these images need {SixteenBit.holding(peak)}; check --bits.")
        preprocessing = preprocessing.model_copy(update={"sixteen_bit": rule})
        lightest = max(lightest, lightest_deep / rule.white)
    if lightest < _BLACK:
        tell("All training images are nearly black. Check the exposure, the lens cap and --bits.")
    return settings.model_copy(update={"preprocessing": preprocessing})
