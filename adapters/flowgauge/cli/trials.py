"""`flowgauge trials`: candidates that show on the line itself what they do, before they decide."""

from typing import Annotated, Any

import typer

from flowgauge.app.bootstrap import open_existing
from flowgauge.cli import options
from flowgauge.cli.output import emit, say, show
from flowgauge.cli.person import person
from flowgauge.domain.errors import UserError
from flowgauge.domain.messages import Expected, Promotion, Stage, Trial
from flowgauge.registry.lines import lines
from flowgauge.services import trials as service
from flowgauge.services.trials import TrialView

trials = typer.Typer(no_args_is_help=True)

TrialId = Annotated[
    str, typer.Argument(metavar="TRIAL", help="The trial, as `trials list` names it: another's is refused.")
]
Why = Annotated[str, typer.Option(help="The reason, for the record.")]


@trials.command("list")
def list_trials(
    store: options.Store,
    line: options.OnlyLine = None,
    json: options.Json = False,
) -> None:
    """Trials that are under way, and those that have ended.

    \b
    flowgauge trials list --store ./plant
    """
    with open_existing(store) as plant:
        found = [view for view in service.trials_under_way(plant) if line in (None, view.line)]
        for name in lines(plant) if line is None else [line]:
            found += service.trials_ended(plant, name)
    if json:
        emit([_facts(view) for view in found])
        return
    rows = (
        (
            view.line,
            view.trial.version,
            view.active,
            view.trial.stage.value if view.report is None else view.report.outcome.value,
            view.tally.images,
            view.tally.disagreements,
            f"{view.trial.began_at:%F %T}",
            view.trial.short_id,
        )
        for view in found
    )
    show(("line", "candidate", "beside", "", "images", "decided differently", "began (UTC)", "trial"), rows)


@trials.command("show")
def show_trial(
    line: options.LineArgument,
    store: options.Store,
    trial: Annotated[
        str | None, typer.Argument(help="A trial, as `trials list` names it; without it, the last.")
    ] = None,
    json: options.Json = False,
) -> None:
    """What a trial has shown so far: decisions that differ, errors by people's labels, agreement and cost.

    \b
    flowgauge trials show press-3 --store ./plant
    """
    with open_existing(store) as plant:
        views = service.all_trials(plant, line)
        view = next((each for each in views if trial is None or str(each.trial.trial_id).startswith(trial)), None)
        if view is None:
            what = "has had no trial" if trial is None else f"has no trial {trial}"
            raise UserError(f"Line {line} {what}.", "`flowgauge trials list` shows all.")
        labels = service.labelled(plant, line, view.trial.trial_id)
    if json:
        emit(_facts(view) | {"labelled": vars(labels)} | {"tally": view.tally})
        return
    tally, agreement = view.tally, view.agreement
    images = max(1, tally.images)
    say(f"Trial {view.trial.short_id}, {view.trial.version} beside {view.active} on line {line}: {_state(view)}.")
    if view.report is not None and view.report.why:
        say(f"Why: {view.report.why}.")
    show(
        ("", view.active, view.trial.version),
        [
            ("alarms (reject or review)", tally.active_alarms, tally.candidate_alarms),
            ("alarms of that gauge alone", tally.active_alone, tally.candidate_alone),
            (f"false alarms on {labels.good} labelled good", labels.active_false_alarms, labels.candidate_false_alarms),
            (f"misses on {labels.defects} labelled defects", labels.active_misses, labels.candidate_misses),
            (
                "milliseconds an image",
                f"{1000 * tally.active_seconds / images:.1f}",
                f"{1000 * tally.candidate_seconds / images:.1f}",
            ),
        ],
    )
    if agreement is not None:
        share, (low, high) = agreement
        say(f"One decision on {share:.1%} of {tally.images} images (95 % interval {low:.1%} to {high:.1%}).")
    for bound in tally.bounds(view.trial):
        say(f"{bound.name}: {bound.message}.")
    if tally.changed:
        say("")
        rows = (
            (each.image_id, active.decision.value, active.score, candidate.decision.value, candidate.score)
            for each in tally.changed
            for active, candidate in [(each.active, each.candidate)]
        )
        show(("image", "active", "score", "candidate", "score"), rows)


@trials.command("start")
def start_trial(
    line: options.LineArgument,
    version: Annotated[str, typer.Argument(help="A stored snapshot, as `snapshots list` or an alert names it.")],
    store: options.Store,
    expect: Annotated[
        Expected, typer.Option(help="How often it should alarm beside the active gauge: what is expected is no fault.")
    ] = Expected.SAME,
    images: Annotated[
        int | None, typer.Option(min=1, help="Images to predict before it may decide any; as the line's settings say.")
    ] = None,
    hours: Annotated[
        float | None, typer.Option(min=0, max=8_760, help="Hours to predict at least; as the settings say.")
    ] = None,
    canary: Annotated[
        int | None, typer.Option(min=0, help="Images to decide as canary, 0: none; as the settings say.")
    ] = None,
    promotion: Annotated[
        Promotion | None, typer.Option(help="Who lets it take over: auto, or a person; as the settings say.")
    ] = None,
) -> None:
    """Try a stored snapshot beside the line's gauge.

    First it predicts and decides nothing; then it decides for a share of the
    images; then it takes over. It is stopped by itself where it alarms on more
    images than it may, decides too many of them differently, or takes too long.

    \b
    flowgauge trials start press-3 fit-3f9a1c2b7d40 --store ./plant
    flowgauge trials start press-3 threshold-1c2b7d403f9a --expect more --images 1000 --promotion person
    """
    given = {
        "shadow_images": images,
        "shadow_hours": hours,
        "canary_images": canary,
        "trial_promotion": promotion,
    }
    changes = {name: value for name, value in given.items() if value is not None}
    with open_existing(store) as plant:
        trial = service.start_trial(plant, line, version, person(), expect, changes)
    say(begun(line, version, trial))


@trials.command("stop")
def stop_trial(line: options.LineArgument, trial: TrialId, store: options.Store, why: Why = "") -> None:
    """End the trial of a line; its gauge stays.

    \b
    flowgauge trials stop press-3 9c1f3a2e --why "the new lot comes on Monday" --store ./plant
    """
    with open_existing(store) as plant:
        report = service.stop_trial(plant, line, trial, person(), why)
    say(f"Line {line} keeps {report.active}; {report.trial.version} is no longer on trial.")


@trials.command("promote")
def promote(line: options.LineArgument, trial: TrialId, store: options.Store, why: Why = "") -> None:
    """Let the candidate of a line's trial take over now.

    \b
    flowgauge trials promote press-3 9c1f3a2e --store ./plant
    """
    with open_existing(store) as plant:
        report = service.promote(plant, line, trial, person(), why)
    say(f"Line {line} is gauged by {report.trial.version}; `flowgauge snapshots rollback` takes it back.")


def begun(line: str, version: str, trial: Trial) -> str:
    """What a person is told of a trial that begins."""
    rules = trial.rules
    return (
        f"{version} is on trial on line {line}: it predicts {rules.shadow_share:.0%} of the images,"
        f" {rules.shadow_images} at least. `flowgauge trials show {line} {trial.short_id}` says how it does."
    )


def _state(view: TrialView) -> str:
    if view.report is not None:
        return f"{view.report.outcome} by {view.report.by}"
    rules, tally = view.trial.rules, view.tally
    if view.trial.stage is Stage.SHADOW:
        return f"in shadow, {tally.images} of {rules.shadow_images} images"
    return f"canary, {tally.decided} of {rules.canary_images} images decided"


def _facts(view: TrialView) -> dict[str, Any]:
    ended = {"outcome", "at", "by", "why"}
    counts = view.tally.model_dump(mode="json", exclude={"changed"})
    return {
        "line": view.line,
        "active": view.active,
        "trial": view.trial,
        "tally": counts,
        "agreement": view.agreement,
        "ended": None if view.report is None else view.report.model_dump(mode="json", include=ended),
    }
