"""`flowgauge label` and `flowgauge golden`: labelled images, on which the gate tests every adaptation."""

from pathlib import Path
from typing import Annotated
from uuid import UUID

import typer

from flowgauge.app.bootstrap import open_existing, open_store
from flowgauge.cli import options
from flowgauge.cli.exits import Exit
from flowgauge.cli.output import Column, emit, listing, say, warn
from flowgauge.cli.person import person
from flowgauge.cli.progress import bars
from flowgauge.domain.golden import Label
from flowgauge.domain.object_keys import line_name
from flowgauge.registry.golden_sets import golden_set
from flowgauge.services.golden import add_folder, find_verdict, label_verdict

golden = typer.Typer(no_args_is_help=True)

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

    Half of the golden images, by a hash of their ids, test adaptations; the
    other half may train a detector that learns from labels, when the line is
    fitted next. Labelling an image again changes its label.

    \b
    flowgauge label 6e0c5c2e-4f0f-5a39-9f3a-8a2f8d1c7b10 defect \\
        --class scratch --store ./plant
    flowgauge fit ./good --detector multidirectional \\
        --line press-3 --store ./plant
    """
    with open_existing(store) as plant, bars() as report:
        found = label_verdict(plant, find_verdict(plant, verdict_id, report), label, kind, person())
    golden, whole, line = found.golden, found.golden_set, found.verdict.line
    if json:
        emit(
            {
                "verdict_id": str(verdict_id),
                "line": line,
                "image_id": golden.image_id,
                "label": golden.label.value,
                "class": golden.kind,
                "is_hold_out": golden.is_hold_out,
                "golden": len(whole),
                "may_train": sum(not each.is_hold_out for each in whole),
            }
        )
        return
    words = f"{golden.label.value} ({golden.kind})" if golden.kind else golden.label.value
    use = "tests adaptations" if golden.is_hold_out else "may train at the next fit"
    say(f"Image {golden.image_id} of line {line} is now golden, {words}: it {use}.")
    defects = [each for each in whole if each.label is Label.DEFECT]
    kinds = sorted({each.kind for each in whole if each.kind})
    classes = f" ({', '.join(kinds)})" if kinds else ""
    trains = sum(not each.is_hold_out for each in defects)
    good = len(whole) - len(defects)
    say(f"Line {line} has {good} golden good images and {len(defects)} defects{classes}; {trains} may train.")


@golden.command()
def add(
    line: options.LineArgument,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder of images.")],
    label: Annotated[Label, typer.Option(help="What they show.")],
    store: options.Store,
    kind: Kind = "",
) -> None:
    """Add a folder of labelled images to a line's golden set.

    One half of them, chosen by their names, tests; the other half may train
    detectors that learn from labels. Adaptation never learns from either.
    Adding an image again under another label or class moves it; another
    image of the same name, from another folder, is kept beside it.

    \b
    flowgauge golden add press-3 ./scratched --label defect \\
        --class scratch --store ./plant
    """
    with open_store(store) as plant:
        added = add_folder(plant, line_name(line), folder, label, kind, person(), warn)
    say(f"{added.new} images were added to the golden set of line {line} as {label.value}.")
    if added.relabelled:
        say(f"{added.relabelled} were there under another label or class, and have this one now.")
    if added.present:
        say(f"{added.present} were there already.")
    raise typer.Exit(Exit.MISTAKE if added.unreadable else Exit.FINE)


@golden.command("list")
def list_golden(line: options.LineArgument, store: options.Store, json: options.Json = False) -> None:
    """The golden set of a line, and which images of it test adaptations.

    \b
    flowgauge golden list press-3 --store ./plant
    """
    with open_existing(store) as plant:
        found = [
            {"image_id": each.image_id, "label": each.label.value, "class": each.kind, "is_hold_out": each.is_hold_out}
            for each in golden_set(plant.objects, line)
        ]
    columns: dict[str, Column] = {"image": "image_id", "label": "label", "class": "class"}
    listing(json, found, columns | {"": lambda each: "is_hold_out" if each["is_hold_out"] else ""})
