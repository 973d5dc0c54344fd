"""`flowgauge snapshots`: the stored gauges of a line, and going back to one."""

from typing import Annotated

import typer

from flowgauge.app.bootstrap import open_store
from flowgauge.cli import options
from flowgauge.cli.output import emit, say, show
from flowgauge.cli.person import person
from flowgauge.domain.messages import SnapshotAnnouncement
from flowgauge.registry.snapshots import active_snapshot, active_snapshots, announcements, fetch_snapshot

# what reads a manifest loads torch, which takes seconds: `list` does without, so the others import it when called
snapshots = typer.Typer(no_args_is_help=True, help="Stored gauges: list them, look into one, go back to one.")


@snapshots.command("list")
def list_snapshots(
    store: options.Store,
    line: Annotated[str | None, typer.Option(help="Only this line's.")] = None,
    json: options.Json = False,
) -> None:
    """Every snapshot that was ever made active, in the order in which that happened.

    \b
    flowgauge snapshots list --line press-3 --store ./plant
    """
    with open_store(store) as plant:
        active = {message.line: message.version for message in active_snapshots(plant.log).values()}
        made_active: dict[str, list[SnapshotAnnouncement]] = {}
        for message in announcements(plant.log, line):
            before = made_active.setdefault(message.line, [])
            if not before or message.version != before[-1].version:  # and no step of a trial
                before.append(message)
    found = [
        (message, message is of_line[-1] and message.version == active[name])
        for name, of_line in made_active.items()
        for message in of_line
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

    with open_store(store) as plant:
        chosen = version or active_snapshot(plant.log, line).version
        facts = read_manifest(fetch_snapshot(plant.objects, line, chosen).manifest)
    if json:
        emit(facts.model_dump(mode="json"))
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
def threshold(
    line: options.LineArgument,
    store: options.Store,
    value: Annotated[float | None, typer.Option(help="The threshold, as an alert proposes it.")] = None,
    false_alarms: options.FalseAlarms = None,
) -> None:
    """Give a line's active gauge another threshold: a new snapshot with the same weights, and no fit.

    --value takes what an alert proposes from the line's own scores;
    --false-alarms takes another promise from the scores of the fit.
    flowgauge snapshots rollback takes it back.

    \b
    flowgauge snapshots threshold press-3 --false-alarms 0.01 --store ./plant
    flowgauge snapshots threshold press-3 --value 1.84
    """
    from flowgauge.services.snapshots import set_threshold

    with open_store(store) as plant:
        version, parent = set_threshold(plant, line, value, false_alarms, person())
    say(f"Line {line} is gauged by {version}, which differs from {parent} in its threshold alone.")


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

    with open_store(store) as plant:
        roll_back(plant, line, version, person())
    say(f"Line {line} is gauged by {version} again.")
