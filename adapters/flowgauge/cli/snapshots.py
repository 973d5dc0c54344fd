"""`flowgauge snapshots`: the stored gauges of a line, and going back to one."""

from pathlib import Path
from typing import Annotated, Any

import typer

from flowgauge.app.bootstrap import open_existing
from flowgauge.cli import options
from flowgauge.cli.output import emit, say, show
from flowgauge.cli.person import person
from flowgauge.cli.progress import bars
from flowgauge.cli.results import check_writable
from flowgauge.domain.messages import SnapshotAnnouncement
from flowgauge.domain.object_keys import line_name
from flowgauge.registry.snapshots import active_snapshot, active_snapshots, announcements, fetch_snapshot

# what reads a manifest loads torch, which takes seconds: `list` does without, so the others import it when called
snapshots = typer.Typer(no_args_is_help=True)

_CHANGED = 20  # decisions that differ, in a terminal: more scroll the figures away


@snapshots.command("list")
def list_snapshots(
    store: options.Store,
    line: options.OnlyLine = None,
    json: options.Json = False,
) -> None:
    """Every snapshot that was ever made active, in the order in which that happened.

    \b
    flowgauge snapshots list --line press-3 --store ./plant
    """
    with open_existing(store) as plant:
        active = {message.line: message.version for message in active_snapshots(plant.log).values()}
        made_active: list[SnapshotAnnouncement] = []
        last: dict[str, SnapshotAnnouncement] = {}
        for message in announcements(plant.log, line):
            before = last.get(message.line)
            last[message.line] = message
            of_trial = before is not None and (message.trial or before.trial) and message.version == before.version
            if not of_trial:  # whose steps say of the active gauge what was said before
                made_active.append(message)
    newest = {message.line: message for message in made_active}
    found = [
        (message, message is newest[message.line] and message.version == active[message.line])
        for message in made_active
    ]
    if json:
        emit([message.model_dump(mode="json") | {"active": now} for message, now in found])
        return
    rows = ((m.line, m.epoch, m.version, m.parent, f"{m.at:%F %T}", "active" if now else "") for m, now in found)
    show(("line", "epoch", "version", "parent", "at (UTC)", ""), rows)


@snapshots.command("show")
def show_snapshot(
    line: options.LineArgument,
    store: options.Store,
    version: Annotated[str | None, typer.Argument(help="A version; without it, the active one.")] = None,
    json: options.Json = False,
) -> None:
    """What a snapshot was made of and how it decides; --json gives the whole manifest.

    \b
    flowgauge snapshots show press-3 --store ./plant
    """
    from flowgauge.training.snapshot import read_manifest

    with open_existing(store) as plant:
        chosen = version or active_snapshot(plant.log, line).version
        facts = read_manifest(fetch_snapshot(plant.objects, line, chosen).manifest)
    if json:
        emit(facts)
        return
    limit = facts.threshold
    show(
        ("", ""),
        [
            ("version", facts.version),
            ("anchor", facts.anchor),
            ("parent", facts.parent),
            ("made at", f"{facts.created_at:%F %T} UTC"),
            ("detector", facts.detector.name),
            ("backbone", f"{facts.backbone.name} ({facts.backbone.sha256[:12]})"),
            ("images", facts.images),
            ("threshold", limit.value),
            ("for review", f"{limit.low:.4g} to {limit.high:.4g}"),
            ("false alarms", f"{limit.false_alarm_share:.1%} held out"),
            ("promise", limit.sentence),
        ],
    )
    if facts.gate is not None:
        say("")
        checks = ((check.name, check.value, check.limit, check.message) for check in facts.gate.checks)
        show(("gate", "value", "limit", ""), checks)


@snapshots.command()
def compare(
    first: Annotated[str, typer.Argument(help="A version, as `snapshots list` names it.")],
    second: Annotated[str, typer.Argument(help="The version that is compared with it.")],
    line: options.Line,
    store: options.Store,
    images: Annotated[
        int | None,
        typer.Option(
            min=0, help="So many of the line's newest buffered and archived images (400).", show_default=False
        ),
    ] = None,
    days: Annotated[
        int | None,
        typer.Option(min=0, max=366, help="Days of the archive that are looked at (14).", show_default=False),
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write a report with pictures there.", metavar="FILE")] = None,
    device: options.DeviceOption = options.Device.AUTO,
    json: options.Json = False,
) -> None:
    """Two gauges on the same recent and labelled images: which decisions differ, with paired intervals.

    Scores are told in each gauge's own scale, so that gauges of any two
    detectors compare.

    \b
    flowgauge snapshots compare fit-3f9a1c2b7d40 adapted-1c0ffee2dead \\
        --line press-3 --store ./plant --html compared.html
    """
    from flowgauge.cli.model import torch_device
    from flowgauge.reports.pages import rendered, write_page
    from flowgauge.reports.snapshots import COLUMNS, facts
    from flowgauge.services.history import DAYS
    from flowgauge.services.snapshot_comparison import IMAGES, compare_snapshots

    check_writable(html, option="--html")
    with open_existing(store) as plant, bars() as report:
        found = compare_snapshots(
            plant,
            line_name(line),
            first,
            second,
            images=IMAGES if images is None else images,
            days=DAYS if days is None else days,
            device=torch_device(device),
            progress=report,
        )
    shown = facts(found)
    if html is not None:
        write_page(rendered("snapshots.html", **shown), html)
    if json:
        emit(
            {
                "line": found.line,
                "first": found.first.version,
                "second": found.second.version,
                "lost": found.lost,
                "shares": found.shares,
                "images": [
                    {
                        "name": each.name,
                        "part": each.part,
                        "label": each.label,
                        "scores": each.scores,
                        "standard_scores": each.standard,
                        "decisions": each.decisions,
                    }
                    for each in found.images
                ],
            }
        )
        return
    rows: Any = shown["rows"]
    show(
        COLUMNS, ((f"{row.name}, {row.beside}", *(f"{c.words} {c.beside}".strip() for c in row.cells)) for row in rows)
    )
    changed = found.changed
    say(
        f"\n{len(changed)} of {len(found.images)} decisions differ"
        + (f"; {found.lost} images are lost." if found.lost else ".")
    )
    show(
        ("image", "label", found.first.version, "", found.second.version, ""),
        ((e.name, e.label, e.decisions[0], e.scores[0], e.decisions[1], e.scores[1]) for e in changed[:_CHANGED]),
    )
    if len(changed) > _CHANGED:
        say(f"And {len(changed) - _CHANGED} more: see --html or --json.")


@snapshots.command()
def rollback(
    line: options.LineArgument,
    version: Annotated[str, typer.Argument(help="The version to go back to, as `snapshots list` names it.")],
    store: options.Store,
) -> None:
    """Make a stored version the active one again; workers take it up between two batches.

    \b
    flowgauge snapshots rollback press-3 fit-3f9a1c2b7d40 --store ./plant
    """
    from flowgauge.services.snapshots import roll_back

    with open_existing(store) as plant:
        moved = roll_back(plant, line, version, person())
    say(f"Line {line} is gauged by {version} {'again' if moved else 'already; nothing is changed'}.")
