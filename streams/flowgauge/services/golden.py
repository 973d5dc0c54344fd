"""What people say of images: folders of labelled images and labels of verdicts go into a line's golden set."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from datetime import date
from hashlib import sha256
from io import BytesIO
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import unquote
from uuid import UUID

from pydantic import ValidationError

from flowgauge.domain.errors import UnreadableImage, UserError
from flowgauge.domain.golden import Label
from flowgauge.domain.image_files import image_bytes
from flowgauge.domain.messages import VERDICTS, Verdict
from flowgauge.domain.object_keys import encoded, path_text, verdicts_folder
from flowgauge.domain.ports import Log, Objects
from flowgauge.processors.archive import archived_days, read_file
from flowgauge.registry.golden_sets import Golden, GoldenIndex, add_golden, golden_set, remove_golden
from flowgauge.runtime.backend import Store, newest_first
from flowgauge.services.changes import recorded
from flowgauge.services.exclusive import exclusive

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class LabelledVerdict:
    """`golden` is the verdict's image as it lies in the line's golden set, of which `golden_set` is the whole."""

    verdict: Verdict
    golden: Golden
    golden_set: list[Golden]


@dataclass
class AddedImages:
    """Of a folder: images that are new, that had another label or class, that were there as they are, and that cannot
    be read.
    """

    new: int = 0
    relabelled: int = 0
    present: int = 0
    unreadable: int = 0


def label_verdict(store: Store, verdict: Verdict, label: Label, kind: str, by: str) -> LabelledVerdict:
    """Keep the image of a verdict as golden, as the person `by` says; labelling it again changes its label.

    Raises `UserError` where the image is no longer kept, or no longer what was scored.
    """
    _require_kind(label, kind)
    data = image_of(store.objects, verdict)
    with exclusive(store.state, f"labelling/{verdict.line}"):
        before = golden_of(store.objects, verdict)
        with _recorded(store, by, verdict, before, {"label": label.value, "class": kind}):
            golden = add_golden(store.objects, verdict.line, label, verdict.image_id, data, kind)
    return LabelledVerdict(verdict, golden, list(golden_set(store.objects, verdict.line)))


def golden_of(objects: Objects, verdict: Verdict) -> Golden | None:
    """The golden image that was made of a verdict's; None while nobody has labelled it."""
    return GoldenIndex(objects, golden_set(objects, verdict.line)).of(verdict.image_id, verdict.image_sha256)


def unlabel(store: Store, verdict: Verdict, by: str) -> None:
    """Take back what was said of a verdict's image: it leaves the golden set."""
    with exclusive(store.state, f"labelling/{verdict.line}"):
        golden = golden_of(store.objects, verdict)
        if golden is not None:
            with _recorded(store, by, verdict, golden, {}):
                remove_golden(store.objects, verdict.line, golden)


def _recorded(
    store: Store, by: str, verdict: Verdict, before: Golden | None, after: dict[str, str]
) -> AbstractContextManager[dict[str, Any]]:
    said = {} if before is None else {"label": before.label.value, "class": before.kind}
    new = after | {"decision": verdict.decision.value}
    return recorded(store, by, "label", verdict.line, str(verdict.verdict_id), said, new)


def image_of(objects: Objects, verdict: Verdict) -> bytes:
    """The encoded image that was scored. Raises `UserError` where it is gone, or is another one."""
    remedy = "Rejected, reviewed and buffered images are kept; add yours with flowgauge golden add."
    if verdict.image_uri is None:
        raise UserError(f"The image {verdict.image_id} was not kept.", remedy)
    try:
        data = objects.get(objects.name(verdict.image_uri))
    except KeyError as error:
        raise UserError(f"The image {verdict.image_id} is no longer stored.", remedy) from error
    if sha256(data).hexdigest() != verdict.image_sha256:
        raise UserError(f"{verdict.image_uri} is not the image that was scored.", "Restore the object from a copy.")
    return data


def add_folder(
    store: Store, line: str, folder: Path, label: Label, kind: str, by: str, tell: Callable[[str], None]
) -> AddedImages:
    """Add the visible files of `folder`; of those that cannot be read it is told.

    Raises `UserError` where there are none.
    """
    _require_kind(label, kind)
    files = sorted(path for path in folder.glob("*") if not path.is_dir() and not path.name.startswith("."))
    if not files:
        raise UserError(f"There are no images in {folder}.", "Give a folder that holds labelled images.")
    added, after = AddedImages(), {"label": label.value, "class": kind}
    before = {golden.key: golden.name for golden in golden_set(store.objects, line)}
    with recorded(store, by, "golden add", line, folder.name, None, after) as found:
        for path in files:
            try:
                golden = add_golden(store.objects, line, label, path_text(PurePath(path.name)), image_bytes(path), kind)
            except (UnreadableImage, OSError) as error:
                added.unreadable += 1
                tell(f"{path.name} is left out. {error}")
                continue
            if golden.key not in before:
                added.new += 1
            elif golden.name != before[golden.key]:
                added.relabelled += 1
            else:
                added.present += 1
        found["after"] = after | {"images": added.new + added.relabelled}
    return added


def _require_kind(label: Label, kind: str) -> None:
    if kind and label is Label.GOOD:
        raise UserError("A good image has no class of defect.", "Leave --class out, or label it defect.")
    if unquote(encoded(kind)) != kind:
        # it would come back from the store's names cut off
        raise UserError(
            f"{kind!r} is too long for the name of a class.", "Use at most 64 plain letters, or 20 of other scripts."
        )


def find_verdict(store: Store, verdict_id: UUID, progress: Progress, day: date | None = None) -> Verdict:
    """In the archive of its event's `day`, where that is known; else in the topic, or in the archive once the topic has
    let it go, the newest first, for that is what people ask about. Raises `UserError` where there is none.

    Void verdicts are found too: all that have one id tell of one image.
    """
    of_day = _in_archive(store.objects, verdict_id, progress, [day] if day is not None else [])
    found = next(of_day, None) or _in_topic(store.log, verdict_id)
    if found is None:
        days = archived_days(store.objects)[::-1]
        found = next(_in_archive(store.objects, verdict_id, progress, days), None)
    if found is None:
        raise UserError(
            f"There is no verdict {verdict_id} in this store.",
            "Check the id: the console, the verdicts topic and the archive tell it.",
        )
    return found


def _in_topic(log: Log, verdict_id: UUID) -> Verdict | None:
    for partition in range(log.partitions(VERDICTS)):
        for record in newest_first(log, VERDICTS, partition):
            # to decode each would take far longer
            if str(verdict_id).encode() not in record.value:
                continue
            with suppress(ValidationError):
                if (verdict := Verdict.decode(record.value)).verdict_id == verdict_id:
                    return verdict
    return None


def _in_archive(objects: Objects, verdict_id: UUID, progress: Progress, days: Sequence[date]) -> Iterator[Verdict]:
    for done, day in enumerate(days):
        progress("searching the archive", done, len(days))
        for name in objects.names(verdicts_folder(day)):
            rows = read_file(name, BytesIO(objects.get(name)), filters=[("verdict_id", "=", str(verdict_id))])
            yield from map(Verdict.model_validate, rows.to_pylist())
