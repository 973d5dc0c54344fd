"""`flowgauge label`: what an inspector says of a verdict's image."""

from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from flowgauge.cli import options
from flowgauge.cli.output import emit, say
from flowgauge.cli.progress import bars
from flowgauge.domain.errors import UserError
from flowgauge.domain.golden import Label

if TYPE_CHECKING:
    from flowgauge.domain.messages import Verdict
    from flowgauge.domain.ports import Objects
    from flowgauge.registry.golden_sets import Golden

Kind = Annotated[
    str, typer.Option("--class", help="The class of the defect, as your line names it: scratch, say.", metavar="NAME")
]


def label(
    verdict_id: Annotated[UUID, typer.Argument(help="The verdict's id.", metavar="VERDICT_ID")],
    label: Annotated[Label, typer.Argument(help="What the image truly shows.")],
    store: options.Store,
    kind: Kind = "",
    json: options.Json = False,
) -> None:
    """Say whether a verdict's image is good or defective, and keep it as golden.

    Half of the golden images, by a hash of their ids, judge adaptations; the
    other half may train a detector that learns from labels, when the line is
    fitted next. Labelling an image again changes its label.

    \b
    flowgauge label 6e0c5c2e-4f0f-5a39-9f3a-8a2f8d1c7b10 defect \\
        --class scratch --store ./plant
    flowgauge fit ./good --detector multidirectional \\
        --line press-3 --store ./plant
    """
    from flowgauge.app.bootstrap import open_store
    from flowgauge.registry.golden_sets import add_golden, golden_set
    from flowgauge.services.verdict_lookup import find_verdict

    check_kind(label, kind)
    with open_store(store) as plant, bars() as report:
        verdict = find_verdict(plant, verdict_id, report)
        golden = add_golden(plant.objects, verdict.line, label, verdict.image_id, _image(plant.objects, verdict), kind)
        whole = list(golden_set(plant.objects, verdict.line))
    if json:
        emit(
            _as_json(verdict, golden) | {"golden": len(whole), "may_train": sum(not each.is_hold_out for each in whole)}
        )
        return
    say(f"Image {golden.image_id} of line {verdict.line} is now golden, {_words(golden)}: it {_use(golden)}.")
    say(_holdings(verdict.line, whole))


def check_kind(label: Label, kind: str) -> None:
    """Raises `UserError` for the class of a defect that is none."""
    if kind and label is Label.GOOD:
        raise UserError("A good image has no class of defect.", "Leave --class out, or label it defect.")


def _image(objects: "Objects", verdict: "Verdict") -> bytes:
    """Raises `UserError` where it is no longer kept, or no longer what was judged."""
    from hashlib import sha256

    remedy = "Rejected, reviewed and buffered images are kept; add yours with flowgauge golden add."
    if verdict.image_uri is None:
        raise UserError(f"The image {verdict.image_id} was not kept.", remedy)
    try:
        data = objects.get(objects.name(verdict.image_uri))
    except KeyError as error:
        raise UserError(f"The image {verdict.image_id} is no longer stored.", remedy) from error
    if sha256(data).hexdigest() != verdict.image_sha256:
        raise UserError(f"{verdict.image_uri} is not the image that was judged.", "Restore the object from a copy.")
    return data


def _as_json(verdict: "Verdict", golden: "Golden") -> dict[str, object]:
    return {
        "verdict_id": str(verdict.verdict_id),
        "line": verdict.line,
        "image_id": golden.image_id,
        "label": golden.label.value,
        "class": golden.kind,
        "is_hold_out": golden.is_hold_out,
    }


def _words(golden: "Golden") -> str:
    return f"{golden.label.value} ({golden.kind})" if golden.kind else golden.label.value


def _use(golden: "Golden") -> str:
    return "judges adaptations" if golden.is_hold_out else "may train at the next fit"


def _holdings(line: str, whole: "list[Golden]") -> str:
    good = sum(each.label is Label.GOOD for each in whole)
    kinds = sorted({each.kind for each in whole if each.kind})
    classes = f" ({', '.join(kinds)})" if kinds else ""
    trains = sum(each.label is Label.DEFECT and not each.is_hold_out for each in whole)
    return f"Line {line} has {good} golden good images and {len(whole) - good} defects{classes}; {trains} may train."
