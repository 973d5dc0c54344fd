"""The demonstration on a real plant. Loads torch and the clients, so the command imports it when it runs."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from uuid import uuid4

from rich.console import Console

from flowgauge.app.bootstrap import open_store
from flowgauge.cli.chronicle import Chronicle, Opening
from flowgauge.cli.crew import Crew
from flowgauge.cli.demofolder import DemoFolder
from flowgauge.cli.performing import Cast, announce, fitted, keep
from flowgauge.cli.screen import Screen
from flowgauge.cli.script import SETTLE, Script
from flowgauge.cli.tour import Tour
from flowgauge.domain.messages import ALERTS, Alert, Verdict
from flowgauge.domain.ports import Record
from flowgauge.kafka.topics import Plan, Topics
from flowgauge.registry.lines import set_line
from flowgauge.reports.story import Story
from flowgauge.runtime.roles import Role
from flowgauge.s3.objects import S3Objects
from flowgauge.settings.environment import kafka_settings, s3_settings

ROLES = (Role.SCORING, Role.SCORING, Role.DOWNSTREAM, Role.ADAPTATION)
_COOL_DOWN_SECONDS = 30  # a phase passes in half a minute here, where a line takes hours


def as_lines(scripts: Sequence[Script]) -> list[Script]:
    """Scripts of one material under names of their own."""
    return [replace(script, line=f"{script.line}-{number}") for number, script in enumerate(scripts, start=1)]


def tour(
    scripts: Sequence[Script], folder: DemoFolder, cast: Cast, rate: float, command: str, console: Console
) -> list[Story]:
    """Fit, publish, adapt and swap on the servers that the environment names, with topics and a bucket of its own;
    then write a report for every line."""
    images = sum(len(script.shots) for script in scripts)
    with _plant(len(scripts)) as uri, open_store(uri) as store, Screen(console, images) as screen:
        screen.event("plant", f"{uri}, topics {os.environ['FLOWGAUGE_TOPIC_PREFIX']}*")
        started = {script.line: fitted(script, store, cast, screen) for script in scripts}
        for script in scripts:
            set_line(store.objects, script.line, settle_images=SETTLE, cool_down_seconds=_COOL_DOWN_SECONDS)
        with Crew(uri, ROLES, folder.logs, "--threads", "1", "--device", cast.device.value) as crew:
            screen.event("workers", f"{len(ROLES)} of them; what they say is in {folder.logs}")
            stage = Tour(
                store,
                scripts,
                {line: gauge for line, (gauge, _) in started.items()},
                lambda record: _show(record, screen),
                crew.check,
            )
            stage.play(rate, lambda act: announce(act, screen))
        stories = []
        for script in scripts:
            gauge, facts = started[script.line]
            opening = Opening(script, facts, stage.frozen[script.line], command, gauge.manifest.software)
            stories.append(Chronicle(store, opening).story())
            keep(stories[-1], folder.of(script.line))
    return stories


@contextmanager
def _plant(partitions: int) -> Iterator[str]:
    """The address of a new bucket; while it lasts, the environment names topics that go with it."""
    name = f"demo-{uuid4().hex[:8]}"
    before = os.environ.get("FLOWGAUGE_TOPIC_PREFIX")
    os.environ["FLOWGAUGE_TOPIC_PREFIX"] = f"{name}."
    try:
        with Topics(kafka_settings(os.environ)) as topics:
            topics.create(Plan(partitions=partitions))
        S3Objects(s3_settings(os.environ), name).ensure_bucket()
        yield f"s3://{name}"
    finally:
        if before is None:
            del os.environ["FLOWGAUGE_TOPIC_PREFIX"]
        else:
            os.environ["FLOWGAUGE_TOPIC_PREFIX"] = before


def _show(record: Record, screen: Screen) -> None:
    if record.topic == ALERTS:
        screen.alert(Alert.decode(record.value))
    else:
        screen.verdicts([Verdict.decode(record.value)])
