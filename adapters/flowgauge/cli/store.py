"""`flowgauge store`: what is set for the object store as a whole."""

from typing import TYPE_CHECKING, Annotated

import typer

from flowgauge.cli import options
from flowgauge.cli.output import emit, say, show

if TYPE_CHECKING:
    from flowgauge.s3.settings import S3Settings

FOREVER = 0

store = typer.Typer(no_args_is_help=True, help="The plant's object store.")


def _days(text: str) -> int:
    """Whole days, or 0 for ever."""
    if text == "forever":
        return FOREVER
    if not text.isdigit() or int(text) < 1:
        raise typer.BadParameter(f"{text!r} is neither a number of days nor 'forever'.")
    return int(text)


Days = Annotated[
    int | None,
    typer.Option(
        parser=_days, metavar="DAYS", help="After which they are deleted; 'forever' keeps them.", show_default=False
    ),
]


@store.command()
def retention(
    store: Annotated[str, typer.Option(envvar="FLOWGAUGE_STORE", help="s3://BUCKET.")],
    passes_days: Days = None,
    reviews_days: Days = None,
    rejects_days: Days = None,
    json: options.Json = False,
) -> None:
    """Set, or show, how long images and heatmaps are kept, by their verdict.

    These are lifecycle rules of the bucket, which the S3 service carries out
    by itself about once a day. What is not named stays as it was set. Snapshots,
    the archive of verdicts and labelled images are never deleted, nor are rules
    of others changed. An image that may still train its line is kept: days
    below the age that the lines' buffers allow (7 by default) are refused.

    A store in a directory keeps passes as `flowgauge lines set` says.

    \b
    flowgauge store retention --store s3://flowgauge --passes-days 30 --rejects-days 365
    flowgauge store retention --store s3://flowgauge
    """
    import os
    from contextlib import closing

    from flowgauge.domain.messages import Decision
    from flowgauge.s3.retention import Lifecycle
    from flowgauge.settings.environment import s3_settings

    bucket = _bucket(store)
    settings = s3_settings(os.environ)
    given = {Decision.PASS: passes_days, Decision.REVIEW: reviews_days, Decision.REJECT: rejects_days}
    wanted = {decision: days for decision, days in given.items() if days is not None}
    with closing(Lifecycle(settings, bucket)) as lifecycle:
        kept = lifecycle.days()
        if wanted:
            _refuse_training_images(settings, bucket, [days for days in wanted.values() if days != FOREVER])
            kept |= {decision: days or None for decision, days in wanted.items()}
            lifecycle.set(kept)
            kept = lifecycle.days()
        others = lifecycle.others()
    if json:
        emit({"days": {decision.value: days for decision, days in kept.items()}, "other_rules": others})
        return
    show(("verdict", "days"), ((decision.value, days or "for ever") for decision, days in kept.items()))
    if others:
        say(f"Rules of others, left as they are: {', '.join(others)}.")


def _bucket(store: str) -> str:
    from flowgauge.domain.errors import SettingsError

    if not store.startswith("s3://"):
        raise SettingsError(
            f"{store} is no bucket.",
            "Name one with --store s3://BUCKET; in a directory, set pass_retention_days of a line.",
        )
    return store.removeprefix("s3://").rstrip("/")


def _refuse_training_images(settings: "S3Settings", bucket: str, days: list[int]) -> None:
    """Raises `SettingsError` for days below the age that a buffer of any line allows."""
    from contextlib import closing

    from flowgauge.domain.errors import SettingsError
    from flowgauge.domain.lines import LineSettings
    from flowgauge.registry.lines import line_settings
    from flowgauge.s3.objects import S3Objects

    with closing(S3Objects(settings, bucket)) as objects:
        names = [name.removeprefix("lines/").removesuffix(".json") for name in objects.names("lines/")]
        ages = {name: line_settings(objects, name).buffer_max_age_seconds for name in names}
    ages.setdefault("any line", LineSettings().buffer_max_age_seconds)
    line, longest = max(ages.items(), key=lambda each: each[1])
    if days and min(days) * 86_400 < longest:
        raise SettingsError(
            f"The buffer of {line} may hold images of the last {longest / 86_400:g} days, and {min(days)} would delete"
            " what it still needs.",
            "Give more days, or lower buffer_max_age_seconds with `flowgauge lines set`.",
        )
