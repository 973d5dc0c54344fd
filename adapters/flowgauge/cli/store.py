"""`flowgauge store`: what is set for the object store as a whole."""

import os
from contextlib import closing
from typing import Annotated, NamedTuple

import typer

from flowgauge.cli import options
from flowgauge.cli.output import emit, say, show
from flowgauge.cli.person import person
from flowgauge.domain.errors import SettingsError
from flowgauge.domain.messages import Decision
from flowgauge.local import SystemClock
from flowgauge.s3.objects import S3Objects
from flowgauge.s3.retention import Lifecycle
from flowgauge.services.retention import set_retention
from flowgauge.settings.environment import s3_settings

_FOREVER = 0


class _Bucket(NamedTuple):
    """A store without topics and state, which nothing here needs: their servers may be away."""

    objects: S3Objects
    clock: SystemClock


store = typer.Typer(no_args_is_help=True)


def _days(text: str) -> int:
    """Whole days, or 0 for ever."""
    if text == "forever":
        return _FOREVER
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
    if not store.startswith("s3://"):
        raise SettingsError(
            f"{store} is no bucket.",
            "Name one with --store s3://BUCKET; in a directory, set pass_retention_days of a line.",
        )
    bucket = store.removeprefix("s3://").rstrip("/")
    settings = s3_settings(os.environ)
    given = {Decision.PASS: passes_days, Decision.REVIEW: reviews_days, Decision.REJECT: rejects_days}
    wanted = {decision: days or None for decision, days in given.items() if days is not None}
    with closing(Lifecycle(settings, bucket)) as rules, closing(S3Objects(settings, bucket)) as objects:
        if wanted:
            set_retention(_Bucket(objects, SystemClock()), rules, wanted, person())
        kept, others = rules.days(), rules.others()
    if json:
        emit({"days": {decision.value: days for decision, days in kept.items()}, "other_rules": others})
        return
    show(("verdict", "days"), ((decision.value, days or "for ever") for decision, days in kept.items()))
    if others:
        say(f"Rules of others, left as they are: {', '.join(others)}.")
