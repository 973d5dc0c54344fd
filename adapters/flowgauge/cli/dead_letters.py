"""`flowgauge dead-letters`: messages that could not be processed, why, and a second try."""

from typing import Annotated

import typer

from flowgauge.app.bootstrap import open_existing
from flowgauge.cli import options
from flowgauge.cli.output import Column, emit, listing, say
from flowgauge.cli.person import person
from flowgauge.domain.dead_letters import REASON, origin_of
from flowgauge.domain.errors import UserError
from flowgauge.services import replay as service

dead_letters = typer.Typer(no_args_is_help=True)

Line = options.OnlyLine
Image = Annotated[
    str | None, typer.Option(help="Only those of the image with this id, or file of this name in a hot folder.")
]


@dead_letters.command("list")
def list_dead_letters(store: options.Store, line: Line = None, image: Image = None, json: options.Json = False) -> None:
    """Every kept dead letter with its reason and where it lay, the oldest first.

    \b
    flowgauge dead-letters list --line press-3 --store ./plant
    """
    found = []
    with open_existing(store) as plant:
        for letter in service.dead_letters(plant.log, service.DeadLetters(line, image)):
            origin, replayed = origin_of(letter), service.replayed_at(plant.state, letter)
            found.append(
                {
                    "line": letter.key,
                    "image_id": letter.headers.get("ce_id"),
                    "at": letter.at.isoformat(timespec="seconds"),
                    "topic": origin.topic if origin else None,
                    "partition": origin.partition if origin else None,
                    "offset": origin.offset if origin else None,
                    "replayed_at": replayed.isoformat(timespec="seconds") if replayed else None,
                    "reason": letter.headers.get(REASON),
                }
            )
    columns: dict[str, Column] = {
        "line": "line",
        "image": "image_id",
        "at (UTC)": "at",
        "topic/partition/offset": lambda each: each["topic"] and "{topic}/{partition}/{offset}".format(**each),
        "replayed (UTC)": "replayed_at",
        "reason": "reason",
    }
    listing(json, found, columns)


@dead_letters.command()
def replay(
    store: options.Store,
    line: Line = None,
    image: Image = None,
    everything: Annotated[bool, typer.Option("--all", help="Those of every line.")] = False,
    again: Annotated[bool, typer.Option("--again", help="Also those that were replayed before.")] = False,
    json: options.Json = False,
) -> None:
    """Send the images of dead letters again, once what was wrong is mended.

    They go to the partition that they came from, with the headers that they
    had. What fails again becomes a new dead letter; an image that has a
    verdict by now is skipped.

    \b
    flowgauge dead-letters replay --line press-3 --store ./plant
    flowgauge dead-letters replay --image shift-2/0411.png --store s3://flowgauge
    """
    if line is None and image is None and not everything:
        raise UserError("Nothing is chosen.", "Choose with --line, --image or both, or replay everything with --all.")
    with open_existing(store) as plant:
        wanted = service.DeadLetters(line, image)
        counts = service.replay(plant, service.dead_letters(plant.log, wanted), person(), again)
    if json:
        emit({"sent": counts.sent, "replayed_before": counts.replayed, "lost": counts.lost})
        return
    say(f"{counts.sent} images were sent again.")
    if counts.replayed:
        say(f"{counts.replayed} were replayed before and are left out; --again sends them too.")
    if counts.lost:
        say(f"{counts.lost} hold no image that could be sent: publish these anew.")
