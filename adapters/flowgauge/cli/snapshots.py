"""`flowgauge snapshots`: the stored gauges of a line, and going back to one."""

from typing import TYPE_CHECKING, Annotated

import typer

from flowgauge.cli import options
from flowgauge.cli.output import emit, say, show
from flowgauge.domain.errors import UserError

if TYPE_CHECKING:
    from flowgauge.training.manifest import Manifest

snapshots = typer.Typer(no_args_is_help=True, help="Stored gauges: list them, look into one, go back to one.")

LineArgument = Annotated[str, typer.Argument(help="The line.")]


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
    from flowgauge.app.bootstrap import open_store
    from flowgauge.registry.snapshots import active_snapshots, announcements

    with open_store(store) as plant:
        active = {message.line: message.epoch for message in active_snapshots(plant.log).values()}
        found = [(message, message.epoch == active[message.line]) for message in announcements(plant.log, line)]
    if json:
        emit([message.model_dump(mode="json") | {"active": now} for message, now in found])
        return
    rows = ((m.line, m.epoch, m.version, m.parent, f"{m.at:%F %T}", "active" if now else "") for m, now in found)
    show(("line", "epoch", "version", "parent", "at (UTC)", ""), rows)


@snapshots.command("show")
def show_snapshot(
    line: LineArgument,
    store: options.Store,
    version: Annotated[str | None, typer.Argument(help="A version; without it, the active one.")] = None,
    json: options.Json = False,
) -> None:
    """What a snapshot was made of and how it decides; --json gives the whole manifest.

    \b
    flowgauge snapshots show press-3 --store ./plant
    """
    from flowgauge.app.bootstrap import open_store
    from flowgauge.registry.snapshots import active_snapshot, fetch_snapshot
    from flowgauge.training.snapshot import read_manifest

    with open_store(store) as plant:
        chosen = version or active_snapshot(plant.log, line).version
        facts = read_manifest(fetch_snapshot(plant.objects, line, chosen).manifest)
    emit(facts.model_dump(mode="json")) if json else _tell(facts)


def _tell(facts: "Manifest") -> None:
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
    line: LineArgument,
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
    from flowgauge.app.bootstrap import open_store
    from flowgauge.registry.snapshots import SnapshotFiles, active_snapshot, fetch_snapshot, publish_snapshot
    from flowgauge.training.snapshot import with_threshold
    from flowgauge.training.thresholds import Threshold

    def changed(limit: Threshold) -> Threshold:
        return limit.repromised(false_alarms) if false_alarms is not None else limit.moved_to(float(value or 0))

    if (value is None) == (false_alarms is None):
        raise UserError("A threshold is set by its value or by a promise.", "Give --value or --false-alarms.")
    with open_store(store) as plant:
        active = active_snapshot(plant.log, line)
        files = fetch_snapshot(plant.objects, line, active.version)
        manifest, version = with_threshold(files.manifest, changed, plant.clock.now())
        publish_snapshot(plant, line, version, SnapshotFiles(manifest, files.weights), active.version)
    say(f"Line {line} is gauged by {version}, which differs from {active.version} in its threshold alone.")


@snapshots.command()
def rollback(line: LineArgument, version: Annotated[str, typer.Argument()], store: options.Store) -> None:
    """Make a stored version the active one again; workers take it up between two batches.

    \b
    flowgauge snapshots rollback press-3 fit-3f9a1c2b7d40 --store ./plant
    """
    from flowgauge.app.bootstrap import open_store
    from flowgauge.cli.model import stored_gauge
    from flowgauge.registry.snapshots import roll_back

    with open_store(store) as plant:
        stored_gauge(plant, line, version, options.Device.CPU)  # what does not load must not become active
        roll_back(plant, line, version)
    say(f"Line {line} is gauged by {version} again.")
