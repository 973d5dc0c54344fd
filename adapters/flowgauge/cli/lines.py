"""`flowgauge lines`: the lines of a store and how each is run."""

from typing import Annotated

import typer

from flowgauge.cli import options
from flowgauge.cli.output import emit, show
from flowgauge.domain.errors import UserError

lines = typer.Typer(no_args_is_help=True, help="Lines and their settings.")


@lines.command("list")
def list_lines(store: options.Store, json: options.Json = False) -> None:
    """Every line with its active gauge and its settings.

    \b
    flowgauge lines list --store ./plant
    """
    from flowgauge.app.bootstrap import open_store
    from flowgauge.registry.lines import line_settings
    from flowgauge.registry.lines import lines as known_lines
    from flowgauge.registry.snapshots import active_snapshots

    with open_store(store) as plant:
        active = active_snapshots(plant.log)
        names = known_lines(plant)
        versions = {name: active[name].version if name in active else None for name in names}
        settings = {name: line_settings(plant.objects, name) for name in names}
        buffered = {name: len(plant.state.buffer(name)) for name in names}
    if json:
        emit(
            [
                {"line": name, "gauge_version": versions[name], "buffered": buffered[name]}
                | settings[name].model_dump(mode="json")
                for name in names
            ]
        )
        return
    rows = ((name, versions[name], settings[name].policy.value, buffered[name]) for name in names)
    show(("line", "gauge", "policy", "buffered"), rows)


@lines.command("set")
def set_settings(
    line: Annotated[str, typer.Argument(help="The line.")],
    changes: Annotated[list[str], typer.Argument(metavar="KEY=VALUE...", help="Settings to change; KEY= unsets one.")],
    store: options.Store,
    json: options.Json = False,
) -> None:
    """Change settings of a line; a running worker takes them up by itself.

    \b
    flowgauge lines set press-3 policy=propose deadline_seconds=2 --store ./plant
    flowgauge lines set press-3 adapt_schedule="0 2 * * *" --store ./plant

    \b
    policy                   who starts an adaptation: auto, propose or off
    deadline_seconds         a verdict this long after capture is late
    clock_tolerance_seconds  a capture this far from its arrival: clock off
    frozen_images            so many of the same picture alert; 0 is never
    buffer_size              images that may train; then the oldest leave
    buffer_minimum           fewer images than this train nothing
    buffer_max_age_seconds   images older than the newest by this leave
    near_duplicates          how many views that look alike are buffered
    duplicate_distance       fingerprints so many bits apart look alike
    cool_down_seconds        no two adaptations begin closer than this
    warmup_images            images of the changed line before it trains
    adapt_every              images after which to adapt without drift
    adapt_schedule           when to adapt without drift: cron, in UTC
    threshold_check_images   parts to see before checking T; 0 is never
    alert_window_seconds     alerts of one kind within it become one
    pass_retention_days         images that passed are deleted after this
    """
    from flowgauge.app.bootstrap import open_store
    from flowgauge.domain.object_keys import line_name
    from flowgauge.registry.lines import set_line

    with open_store(store) as plant:
        settings = set_line(plant.objects, line_name(line), **dict(map(_change, changes)))
    document = settings.model_dump(mode="json", exclude={"schema_version"})
    emit(document) if json else show((f"settings of {line}", ""), document.items())


def _change(text: str) -> tuple[str, str | None]:
    key, found, value = text.partition("=")
    if not found:
        raise UserError(f"{text!r} does not say what to set.", "Write KEY=VALUE, such as policy=propose.")
    return key.strip(), value.strip() or None
