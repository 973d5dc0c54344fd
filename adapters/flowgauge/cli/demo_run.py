"""The demonstration from script to report. Loads torch, so the command imports it when it runs and not before."""

import shlex
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Any

from rich.console import Console

from flowgauge.adaptation.adapt import adapt
from flowgauge.adaptation.contract import Adapt, AdaptationInput, AdaptationOutcome
from flowgauge.app.bootstrap import open_store
from flowgauge.app.embedded import embedded
from flowgauge.cli.demo_line import BATCH, DemoRunner, LineClock
from flowgauge.cli.demofolder import DemoFolder
from flowgauge.cli.history import History, Introduction
from flowgauge.cli.model import Model, loading, torch_device
from flowgauge.cli.options import Aspect, Device
from flowgauge.cli.recorded_script import recorded_script
from flowgauge.cli.screen import Screen
from flowgauge.cli.script import WARMUP, Act, Script, procedural_script
from flowgauge.domain.messages import ALERTS, VERDICTS, Alert, Verdict
from flowgauge.evaluation.splits import read_groups
from flowgauge.registry.lines import set_line
from flowgauge.registry.snapshots import SnapshotFiles, publish_snapshot
from flowgauge.reports.figures import phase_figures, rejection
from flowgauge.reports.headline import headline
from flowgauge.reports.page import write_report
from flowgauge.reports.story import GaugeFacts, Story
from flowgauge.runtime.backend import Store
from flowgauge.runtime.task import Step
from flowgauge.training.fit import fit
from flowgauge.training.gauge import Gauge
from flowgauge.training.snapshot import save
from flowgauge.vision.decoding import decode


@dataclass(frozen=True)
class DemoModel:
    """Which model plays; None: the default."""

    detector: str | None
    weights: Path | None
    size: int | None
    device: Device

    @property
    def model(self) -> Model:
        return Model(self.detector, self.weights, backbone=None, size=self.size, aspect=Aspect.SQUASH)


def script_of(material: str, data: Path | None, phases: Path | None, groups: Path | None, seed: int) -> Script:
    """Raises `DatasetError` for what cannot be played."""
    if data is None or phases is None:
        return procedural_script(material, seed)
    return recorded_script(data, phases, seed, None if groups is None else read_groups(groups))


def perform(script: Script, folder: DemoFolder, demo_model: DemoModel, command: str, console: Console) -> Story:
    """Fit, stream, adapt, swap; then write `folder`'s report and story, and return the story."""
    clock = LineClock()
    with open_store(str(folder.store), clock) as store, Screen(console, len(script.shots)) as screen:
        gauge, facts = fitted(script, store, demo_model, screen)
        set_line(store.objects, script.line, warmup_images=WARMUP)
        runner = embedded(
            store,
            loading(demo_model.device),
            Watch(adapt, screen),
            batch=BATCH,
            observer=lambda step: _show(step, screen),
        )
        runner_of_demo = DemoRunner(store, clock, runner, gauge)
        runner_of_demo.play(script, lambda act: announce(act, screen))
        introduction = Introduction(script, facts, runner_of_demo.frozen, command, gauge.manifest.software)
        story = History(store, introduction).story()
    keep(story, folder)
    return story


def keep(story: Story, folder: DemoFolder) -> None:
    """Write the story and its report."""
    folder.mark()
    folder.story.write_text(story.model_dump_json(indent=1))
    write_report(story, folder.report)


def fitted(script: Script, store: Store, demo_model: DemoModel, screen: Screen) -> tuple[Gauge, GaugeFacts]:
    """The first gauge, stored and active."""
    screen.event("fit", f"a first gauge for {script.source}, from {len(script.fit)} good images")
    start = monotonic()
    parts = [frame.part for frame in script.fit]
    with screen.working():
        gauge = fit(
            [decode(frame.read()) for frame in script.fit],
            line=script.line,
            settings=demo_model.model.settings(),
            at=store.clock.now(),
            groups=[part or frame.image_id for part, frame in zip(parts, script.fit, strict=True)],
            seed=script.seed,
            device=torch_device(demo_model.device),
            progress=lambda what, done, total: screen.progress(what, done / max(total, 1)),
        )
    snapshot = save(gauge)
    publish_snapshot(store, script.line, snapshot.version, SnapshotFiles(snapshot.manifest, snapshot.weights), None)
    facts = _facts(gauge, monotonic() - start)
    screen.event("gauge", f"{facts.version}, a {facts.detector}, in {facts.fit_seconds:.0f} s")
    return gauge, facts


def _facts(gauge: Gauge, seconds: float) -> GaugeFacts:
    manifest = gauge.manifest
    return GaugeFacts(
        detector=manifest.detector.name,
        backbone=manifest.backbone.name,
        version=manifest.version,
        fitted_on=manifest.images,
        fit_seconds=seconds,
        false_alarm_share=manifest.threshold.false_alarm_share,
    )


class Watch:
    """Adapts as `adapt` does, and shows how far it is."""

    def __init__(self, adapt: Adapt, screen: Screen) -> None:
        self._adapt = adapt
        self._screen = screen

    def __call__(self, given: AdaptationInput) -> AdaptationOutcome:
        self._screen.event("adaptation", f"{given.version}, from {len(given.buffered)} buffered images", "yellow")

        def progress(what: str, share: float) -> None:
            self._screen.progress(what, share)
            given.progress(what, share)

        with self._screen.working():
            return self._adapt(replace(given, progress=progress))


def announce(act: Act, screen: Screen) -> None:
    words = f"{act.phase.condition}: " if act.phase.condition else ""
    screen.event(act.phase.name, f"{words}{len(act.training)} images that may train, {len(act.testing)} that judge")


def _show(step: Step, screen: Screen) -> None:
    """What has become durable."""
    screen.verdicts([Verdict.decode(out.value) for out in step.outgoing if out.topic == VERDICTS])
    for out in step.outgoing:
        if out.topic == ALERTS:
            screen.alert(Alert.decode(out.value))


def command_line(options: dict[str, object | None], *flags: str) -> str:
    """The command with `flags` and those options that were given a value."""
    given = [word for name, value in options.items() if value is not None for word in (f"--{name}", str(value))]
    return shlex.join(["flowgauge", "demo", *flags, *given])


def summary(story: Story, folder: DemoFolder) -> dict[str, Any]:
    """The key figures, for scripts and for the last lines on the terminal."""
    return {
        "headline": headline(story),
        "report": str(folder.report),
        "store": str(folder.store),
        "seed": story.seed,
        "gauge": story.gauge.model_dump(mode="json"),
        "phases": [asdict(figures) for figures in phase_figures(story)],
        "adaptations": [
            {
                "version": adaptation.report.version,
                "after_image": adaptation.index,
                "reason": adaptation.report.request.reason.value,
                "accepted": adaptation.report.accepted,
                **asdict(rejection(adaptation)),
            }
            for adaptation in story.adaptations
        ],
        "swaps": [swap.model_dump() for swap in story.swaps],
        "drifts": [drift.model_dump() for drift in story.drifts],
        "counts": story.counts.model_dump(),
    }
