"""`flowgauge status`, `alerts` and `changes`: what ops people look at."""

from typing import Annotated

import typer

from flowgauge.app.bootstrap import open_existing
from flowgauge.cli import options
from flowgauge.cli.output import emit, emit_line, say, show
from flowgauge.services.changes import latest_changes
from flowgauge.services.status import group_statuses, latest_alerts, line_statuses


def status(store: options.Store, json: options.Json = False) -> None:
    """Show how far behind each group of workers is, and what each line has.

    lag counts records beyond what a group has committed: images that wait to
    be scored, verdicts that wait to be alerted, observed or archived. alerting
    and archive keep some on purpose: what a restart would read again.

    \b
    flowgauge status --store s3://flowgauge
    """
    with open_existing(store) as plant:
        groups, lines = list(group_statuses(plant)), list(line_statuses(plant))
    if json:
        emit({"groups": groups, "lines": lines})
        return
    show(("group", "topic", "lag"), ((group.group, group.topic, group.lag) for group in groups))
    say("")
    show(
        ("line", "gauge", "epoch", "active since (UTC)", "buffered", "last adaptation (UTC)", ""),
        (
            (
                line.line,
                line.version,
                line.epoch,
                line.active_since,
                line.buffered,
                line.adapted_at,
                {True: "accepted", False: "refused", None: None}[line.accepted],
            )
            for line in lines
        ),
    )


def alerts(
    store: options.Store,
    line: Annotated[str | None, typer.Option(help="Of this line only.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many of the latest are shown first.")] = 20,
    follow: Annotated[bool, typer.Option("--follow", help="Go on with new ones until Ctrl-C.")] = False,
    json: options.Json = False,
) -> None:
    """Show the latest alerts, oldest first.

    An alert may come twice: at the first reject of a minute, say, and at the
    minute's end with the whole count. Both carry one alert_id, and the later
    one replaces the earlier.

    \b
    flowgauge alerts --store s3://flowgauge --follow
    flowgauge alerts --store ./plant --line press-3 --json
    """
    with open_existing(store) as plant:
        for alert in latest_alerts(plant.log, limit, line, follow=follow):
            if json:
                emit_line(alert)
            else:
                say(f"{alert.at:%Y-%m-%d %H:%M:%S}  {alert.line}  {alert.kind.value}  {alert.message}")


def changes(
    store: options.Store,
    line: Annotated[str | None, typer.Option(help="Of this line only.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many of the latest are shown.")] = 20,
    json: options.Json = False,
) -> None:
    """Show who changed what in the last three months, oldest first.

    A change is recorded before it is made. Where whoever made it could not say
    any more that it was, it is not known whether it took effect; one that is
    under way reads the same.

    \b
    flowgauge changes --store s3://flowgauge --line press-3
    """
    with open_existing(store) as plant:
        for change in reversed(latest_changes(plant, limit, line)):
            if json:
                emit_line(change)
                continue
            state = f"  ({change.state.words})" if change.state.words else ""
            values = ", ".join(
                f"{name}: {change.before.get(name, '-')} -> {change.after.get(name, '-')}"
                for name in change.before | change.after
            )
            what = "  ".join(filter(None, (change.line, change.action, change.target, values)))
            say(f"{change.at:%Y-%m-%d %H:%M:%S}  {change.by}  {what}{state}")
