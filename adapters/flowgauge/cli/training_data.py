"""The good images that a gauge is fitted to. Loads torch, so commands import it when they run and not before."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from flowgauge.cli.opened import opened
from flowgauge.cli.output import warn
from flowgauge.cli.progress import Report
from flowgauge.domain.errors import DatasetError, UnreadableImage, UserError
from flowgauge.domain.ports import Buffered
from flowgauge.evaluation.datasets import Dataset, Entry, Unreadable, evenly, picture_of, require_enough, sift
from flowgauge.evaluation.splits import groups_of, read_groups
from flowgauge.models.registry import FROM_LABELS
from flowgauge.registry.golden_sets import training_defects
from flowgauge.runtime.backend import Store
from flowgauge.training.fit import Labelled
from flowgauge.vision.decoding import Picture, decode
from flowgauge.vision.pictures import Pictures


@dataclass(frozen=True, eq=False)
class Good:
    """Pictures in the order of capture; `groups` names the part that each shows, None where nobody said."""

    pictures: Collection[Picture]
    groups: list[str] | None


def gather(
    store: Store,
    line: str,
    dataset: Path | None,
    *,
    from_buffer: bool,
    groups: Path | None,
    masks: Path | None,
    limit: int | None,
    report: Report,
) -> Good:
    """What a person asked to learn from. Raises `UserError` unless that is one of the two, and enough."""
    if (dataset is not None) == from_buffer:
        raise UserError("A gauge learns either from a data set or from the buffer.", "Give DATASET or --from-buffer.")
    if dataset is None:
        if masks is not None:
            raise UserError("Buffered images have no masks.", "Leave --masks out.")
        return from_line(store, line, limit)
    return from_dataset(opened(dataset, masks), groups, limit, report)


def from_dataset(dataset: Dataset, groups: Path | None, limit: int | None, report: Report) -> Good:
    """The data set's good training images; what cannot be read is named in a warning and left out."""
    entries = evenly(dataset.train, limit)
    pictures, kept = Pictures(), []
    for done, result in enumerate(sift(entries), start=1):
        report("reading images", done, len(entries))
        if isinstance(result, Unreadable):
            warn(f"{result.name} is left out. {result.cause}")
        else:
            pictures.add(result.picture, partial(picture_of, result.entry))
            kept.append(result.entry)
    require_enough(len(kept), dataset.root)
    return Good(pictures, _groups(kept, groups))


def _groups(entries: Sequence[Entry], path: Path | None) -> list[str] | None:
    return None if path is None else groups_of(entries, read_groups(path))


def from_line(store: Store, line: str, limit: int | None) -> Good:
    """The line's buffered images, the newest `limit` of them; images of one part are one group."""
    buffered = store.state.buffer(line)[-(limit or 0) :]
    pictures, kept = Pictures(), []
    for entry in buffered:
        if (picture := _picture(store, entry)) is not None:
            pictures.add(picture, partial(_stored, store, entry))
            kept.append(entry)
    if not kept:
        raise DatasetError(
            f"The buffer of line {line} holds no images.", f"Stream some: flowgauge run FOLDER --line {line}"
        )
    require_enough(len(kept), f"The buffer of line {line}")
    return Good(pictures, [entry.subject or entry.image_id for entry in kept])


def labels_for(detector: str, store: Store, line: str) -> Iterable[Labelled]:
    """The line's labelled defects that may train, for a detector that learns from them."""
    return training_defects(store.objects, line) if detector in FROM_LABELS else []


def _stored(store: Store, entry: Buffered) -> Picture:
    return decode(store.objects.get(store.objects.name(entry.image_uri)))


def _picture(store: Store, entry: Buffered) -> Picture | None:
    """None for an image that is no longer kept or readable, which is said."""
    try:
        return _stored(store, entry)
    except KeyError:
        warn(f"{entry.image_id} is left out: its image is no longer stored.")
    except UnreadableImage as error:
        warn(f"{entry.image_id} is left out. {error}")
    return None
