"""The demonstration on a real plant. Loads torch and the clients, so the command imports it when it runs."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from uuid import uuid4

from rich.console import Console

from flowgauge.app.bootstrap import open_store
from flowgauge.cli.cluster_demo import MultiLineDemo
from flowgauge.cli.demo_run import DemoModel, announce, fitted, keep
from flowgauge.cli.demofolder import DemoFolder
from flowgauge.cli.history import History, Introduction
from flowgauge.cli.screen import Screen
from flowgauge.cli.script import WARMUP, Script
from flowgauge.cli.worker_processes import Workers
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


def multi_line(
    scripts: Sequence[Script], folder: DemoFolder, demo_model: DemoModel, rate: float, command: str, console: Console
) -> list[Story]:
    """Fit, publish, adapt and swap on the servers that the environment names, with topics and a bucket of its own;
    then write a report for every line."""
    images = sum(len(script.shots) for script in scripts)
    with _plant(len(scripts)) as uri, open_store(uri) as store, Screen(console, images) as screen:
        screen.event("plant", f"{uri}, topics {os.environ['FLOWGAUGE_TOPIC_PREFIX']}*")
        started = {script.line: fitted(script, store, demo_model, screen) for script in scripts}
        for script in scripts:
            set_line(store.objects, script.line, warmup_images=WARMUP, cool_down_seconds=_COOL_DOWN_SECONDS)
        with Workers(uri, ROLES, folder.logs, "--threads", "1", "--device", demo_model.device.value) as workers:
            screen.event("workers", f"{len(ROLES)} of them; what they say is in {folder.logs}")
            demo_runner = MultiLineDemo(
                store,
                scripts,
                {line: gauge for line, (gauge, _) in started.items()},
                lambda record: _show(record, screen),
                workers.check,
            )
            demo_runner.play(rate, lambda act: announce(act, screen))
        stories = []
        for script in scripts:
            gauge, facts = started[script.line]
            introduction = Introduction(
                script, facts, demo_runner.frozen[script.line], command, gauge.manifest.software
            )
            stories.append(History(store, introduction).story())
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
