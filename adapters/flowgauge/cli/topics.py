"""`flowgauge topics`: made and checked."""

import os
from typing import Annotated

import typer

from flowgauge.cli import options
from flowgauge.cli.exits import Exit
from flowgauge.cli.output import emit, say
from flowgauge.kafka.topics import Plan, Topics
from flowgauge.s3.objects import S3Objects
from flowgauge.settings.environment import kafka_settings, s3_settings

topics = typer.Typer(no_args_is_help=True)


@topics.command()
def create(
    partitions: Annotated[int, typer.Option(min=1, help="Of images, verdicts, dead letters and part verdicts.")] = 4,
    replication: Annotated[int, typer.Option(min=1, help="Brokers that keep each record; 3 in a plant.")] = 1,
    store: Annotated[
        str | None, typer.Option(envvar="FLOWGAUGE_STORE", help="s3://BUCKET: make the bucket too.", show_default=False)
    ] = None,
    json: options.Json = False,
) -> None:
    """Make the topics that are missing, and the partitions that verdicts and
    dead letters lack beside images; what is there stays as it is.

    FLOWGAUGE_KAFKA_BOOTSTRAP names the brokers, FLOWGAUGE_TOPIC_PREFIX what
    stands before every topic's name (flowgauge.).

    \b
    flowgauge topics create --partitions 8 --replication 3
    """
    with Topics(kafka_settings(os.environ)) as admin:
        made = admin.create(Plan(partitions, replication))
        extended = admin.extend()
    if store is not None and store.startswith("s3://"):
        S3Objects(s3_settings(os.environ), store.removeprefix("s3://")).ensure_bucket()
    if json:
        emit({"created": made, "extended": extended})
    else:
        say(f"Created {', '.join(made)}." if made else "All topics were there.")
        for topic, count in extended.items():
            say(f"{topic} has {count} partitions now, as many as images.")


@topics.command()
def check(json: options.Json = False) -> None:
    """Report topic settings that would lose data; exit code 2 if any would.

    \b
    flowgauge topics check
    """
    with Topics(kafka_settings(os.environ)) as admin:
        faults = admin.check()
    if json:
        emit({"faults": faults})
    else:
        say("\n".join(faults) if faults else "The topics are as they should be.")
    if faults:
        raise typer.Exit(Exit.MISTAKE)
