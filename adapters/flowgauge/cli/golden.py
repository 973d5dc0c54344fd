"""`flowgauge golden`: images that people have labelled, by which every adaptation is judged."""

from pathlib import Path, PurePath
from typing import Annotated

import typer

from flowgauge.cli import options
from flowgauge.cli.exits import Exit
from flowgauge.cli.label import Kind, check_kind
from flowgauge.cli.output import emit, say, show, warn
from flowgauge.domain.errors import UnreadableImage, UserError
from flowgauge.domain.golden import Label

golden = typer.Typer(no_args_is_help=True, help="Labelled images by which the gate judges adaptations.")


@golden.command()
def add(
    line: Annotated[str, typer.Argument(help="The line.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder of images.")],
    label: Annotated[Label, typer.Option(help="What they show.")],
    store: options.Store,
    kind: Kind = "",
) -> None:
    """Add a folder of labelled images to a line's golden set.

    One half of them, chosen by their names, judges; the other half may train
    detectors that learn from labels. Adaptation never learns from either.
    Adding an image again under another label or class moves it; another
    image of the same name, from another folder, is kept beside it.

    \b
    flowgauge golden add press-3 ./scratched --label defect \\
        --class scratch --store ./plant
    """
    from flowgauge.app.bootstrap import open_store
    from flowgauge.domain.object_keys import line_name, path_text
    from flowgauge.registry.golden_sets import add_golden

    check_kind(label, kind)
    files = _images(folder)
    with open_store(store) as plant:
        lost = 0
        for path in files:
            try:
                image_id = path_text(PurePath(path.name))
                add_golden(plant.objects, line_name(line), label, image_id, path.read_bytes(), kind)
            except (UnreadableImage, OSError) as error:
                lost += 1
                warn(f"{path.name} is left out. {error}")
    say(f"{len(files) - lost} images were added to the golden set of line {line} as {label.value}.")
    raise typer.Exit(Exit.MISTAKE if lost else Exit.FINE)


def _images(folder: Path) -> list[Path]:
    """The visible files in `folder`, by name. Raises `UserError` where there are none."""
    files = sorted(path for path in folder.glob("*") if path.is_file() and not path.name.startswith("."))
    if not files:
        raise UserError(f"There are no images in {folder}.", "Give a folder that holds labelled images.")
    return files


@golden.command("list")
def list_golden(
    line: Annotated[str, typer.Argument(help="The line.")], store: options.Store, json: options.Json = False
) -> None:
    """The golden set of a line, and which images of it judge.

    \b
    flowgauge golden list press-3 --store ./plant
    """
    from flowgauge.app.bootstrap import open_store
    from flowgauge.registry.golden_sets import golden_set

    with open_store(store) as plant:
        found = list(golden_set(plant.objects, line))
    if json:
        emit(
            [
                {
                    "image_id": each.image_id,
                    "label": each.label.value,
                    "class": each.kind,
                    "is_hold_out": each.is_hold_out,
                }
                for each in found
            ]
        )
    else:
        show(
            ("image", "label", "class", ""),
            ((each.image_id, each.label.value, each.kind, "is_hold_out" if each.is_hold_out else "") for each in found),
        )
