"""Plays a demonstration: a first gauge, and a script's images through the embedded pipeline, in the line's own time."""

import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import monotonic
from uuid import NAMESPACE_URL, uuid5

from rich.console import Console

from flowgauge.adaptation.adapt import adapt
from flowgauge.adaptation.contract import AdaptationInput, AdaptationOutcome
from flowgauge.app.bootstrap import open_store
from flowgauge.app.embedded import embedded
from flowgauge.cli.demo.history import History, Introduction
from flowgauge.cli.demo.scenario import WARMUP, Act, Frame, Script
from flowgauge.cli.demo.screen import Screen
from flowgauge.cli.model import FeatureOptions, loading, torch_device
from flowgauge.cli.options import Device
from flowgauge.domain.errors import UserError
from flowgauge.domain.messages import ALERTS, VERDICTS, AdaptationRequest, Alert, Event, Reason, Verdict
from flowgauge.meta.initialization import default_start
from flowgauge.models.prediction import Predictor
from flowgauge.processors.adaptation import audits, request_adaptation
from flowgauge.registry.lines import set_line
from flowgauge.registry.snapshots import SnapshotFiles, publish_snapshot
from flowgauge.reports.demo import render
from flowgauge.reports.pages import write_page
from flowgauge.reports.story import Call, GaugeFacts, Story
from flowgauge.runtime.backend import Store
from flowgauge.runtime.events import image_record
from flowgauge.runtime.local_runner import Runner
from flowgauge.runtime.task import Step
from flowgauge.training.fit import fit
from flowgauge.training.gauge import Gauge
from flowgauge.training.snapshot import save
from flowgauge.vision.decoding import decode

# images sent before the pipeline works until it rests: with more, alerts come later than they would on a line, with
# fewer the backbone's batches are small and slow
BATCH = 16
# from one part to the next, by the line's own clock, for which nobody waits: with less a line's cool-down would outlast
# the phase
INTERVAL = timedelta(seconds=10)
START = datetime(2025, 1, 6, 6, 0, tzinfo=UTC)
MARK = ".flowgauge-demo"
MARK_TEXT = "This folder was written by `flowgauge demo`, which may replace the report, the story and the store.\n"


class DemoFolder:
    """The folder that a demonstration writes into, and what of it is its own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.store = root / "store"
        self.report = root / "report.html"
        self.story = root / "story.json"
        self.logs = root / "logs"

    def of(self, line: str) -> "DemoFolder":
        """The folder of one of several lines."""
        return DemoFolder(self.root / line)

    def clear(self) -> None:
        """Make the folder, or remove what an earlier demonstration left in it, and only that.

        Raises `UserError` for a folder that holds anything and was not made by a demonstration, which stays untouched.
        """
        if self.root.exists() and not self.root.is_dir():
            raise UserError(f"{self.root} is no folder.", "Choose another one with --out.")
        if self.root.is_dir() and any(self.root.iterdir()) and not (self.root / MARK).is_file():
            raise UserError(
                f"{self.root} is not empty and holds no earlier demonstration.", "Choose another folder with --out."
            )
        self.mark()
        of_lines = [path.parent for path in self.root.glob(f"*/{MARK}")]
        for folder in (self.store, self.logs, *of_lines):
            shutil.rmtree(folder, ignore_errors=True)
        for file in (self.report, self.story):
            file.unlink(missing_ok=True)

    def mark(self) -> None:
        """Make it a folder of ours."""
        self.root.mkdir(parents=True, exist_ok=True)
        (self.root / MARK).write_text(MARK_TEXT)

    def keep(self, story: Story) -> None:
        """Write the story and its report."""
        self.mark()
        self.story.write_text(story.model_dump_json(indent=1))
        write_page(render(story), self.report)


@dataclass(frozen=True)
class DemoModel:
    """Which model plays; None: the default."""

    detector: str | None
    weights: Path | None
    size: int | None
    device: Device

    def fitted(self, script: Script, store: Store, screen: Screen) -> tuple[Gauge, GaugeFacts]:
        """The first gauge, stored and active."""
        screen.event("fit", f"a first gauge for {script.source}, from {len(script.fit)} good images")
        start = monotonic()
        model = FeatureOptions(weights=self.weights, size=self.size).model(self.detector)
        with screen.working():
            gauge = fit(
                [decode(frame.read()) for frame in script.fit],
                line=script.line,
                settings=model.settings(),
                at=store.clock.now(),
                groups=[frame.part or frame.image_id for frame in script.fit],
                start=default_start,
                seed=script.seed,
                device=torch_device(self.device),
                progress=lambda what, done, total: screen.progress(what, done / max(total, 1)),
            )
        snapshot, manifest = save(gauge), gauge.manifest
        publish_snapshot(store, script.line, snapshot.version, SnapshotFiles(snapshot.manifest, snapshot.weights), None)
        facts = GaugeFacts(
            detector=manifest.detector.name,
            backbone=manifest.backbone.name,
            version=manifest.version,
            fitted_on=manifest.images,
            fit_seconds=monotonic() - start,
            false_alarm_share=manifest.threshold.false_alarm_share,
        )
        screen.event("gauge", f"{facts.version}, a {facts.detector}, in {facts.fit_seconds:.0f} s")
        return gauge, facts


class LineClock:
    """The line's time: it moves when a part comes, so that the same script always tells the same story."""

    def __init__(self) -> None:
        self._now = START

    def now(self) -> datetime:
        return self._now

    def advance(self) -> datetime:
        self._now += INTERVAL
        return self._now


def perform(script: Script, folder: DemoFolder, demo_model: DemoModel, command: str, console: Console) -> Story:
    """Fit, stream, adapt, swap; then write `folder`'s report and story, and return the story."""
    clock = LineClock()
    with open_store(str(folder.store), clock) as store, Screen(console, len(script.shots)) as screen:
        gauge, facts = demo_model.fitted(script, store, screen)
        set_line(store.objects, script.line, warmup_images=WARMUP)

        def watched(given: AdaptationInput) -> AdaptationOutcome:
            screen.event("adaptation", f"{given.version}, from {len(given.buffered)} buffered images", "yellow")

            def progress(what: str, share: float) -> None:
                screen.progress(what, share)
                given.progress(what, share)

            with screen.working():
                return adapt(replace(given, progress=progress))

        def observe(step: Step) -> None:
            # what a step sends has become durable when it is observed
            screen.verdicts([Verdict.decode(out.value) for out in step.outgoing if out.topic == VERDICTS])
            for out in step.outgoing:
                if out.topic == ALERTS:
                    screen.alert(Alert.decode(out.value))

        runner = embedded(store, loading(demo_model.device), watched, batch=BATCH, observer=observe)
        played = EmbeddedPlay(store, clock, runner, script, gauge)
        played.play(screen.announce)
        introduction = Introduction(script, facts, played.frozen[script.line], command, gauge.manifest.software)
        story = History(store, introduction).story()
    folder.keep(story)
    return story


class Play(ABC):
    """Lines that are played at the same time. `firsts` are the gauges that they begin with: the control, adaptation
    switched off, scores with them, and `frozen` has what they say of each image, by line and id.
    """

    def __init__(self, store: Store, scripts: Sequence[Script], firsts: Mapping[str, Predictor]) -> None:
        self.frozen: dict[str, dict[str, Call]] = {script.line: {} for script in scripts}
        self._store, self._scripts, self._firsts = store, scripts, firsts

    def play(self, on_act: Callable[[Act], None]) -> None:
        """Test images are sent when their phase's buffer, and every adaptation that it led to, is done."""
        for acts in zip(*(script.acts for script in self._scripts), strict=True):
            on_act(acts[0])
            decided = [len(audits(self._store, script.line)) for script in self._scripts]
            began = self._store.clock.now()
            self.stream([act.training for act in acts])
            for script, before in zip(self._scripts, decided, strict=True):
                # never where a gate has decided: asked again on the same images, it would sooner or later agree
                if script.scheduled and len(audits(self._store, script.line)) == before:
                    request_adaptation(self._store, scheduled_request(script.line, self._store.clock.now(), began))
            self.rest()
            self.stream([act.testing for act in acts])

    @abstractmethod
    def stream(self, shots: Sequence[Sequence[Frame]]) -> None:
        """Send images of every line, and return when the pipeline rests."""

    @abstractmethod
    def rest(self) -> None:
        """Return when every image has its verdict, all verdicts were observed and all adaptations decided."""


class EmbeddedPlay(Play):
    """One line; the pipeline works in this process, batch after batch."""

    def __init__(self, store: Store, clock: LineClock, runner: Runner, script: Script, first: Predictor) -> None:
        super().__init__(store, [script], {script.line: first})
        self._clock, self._runner = clock, runner

    def rest(self) -> None:
        self._runner.run_until_idle()

    def stream(self, shots: Sequence[Sequence[Frame]]) -> None:
        ((line, first),) = self._firsts.items()
        for start in range(0, len(shots[0]), BATCH):
            batch = shots[0][start : start + BATCH]
            images = [frame.read() for frame in batch]
            events = [event_of(line, frame, self._clock.advance()) for frame in batch]
            self._store.log.append([image_record(event, data) for event, data in zip(events, images, strict=True)])
            self.frozen[line] |= calls_of(first, batch, images)
            self.rest()


def event_of(line: str, frame: Frame, captured_at: datetime) -> Event:
    return Event(
        image_id=frame.image_id,
        source=f"/lines/{line}",
        line=line,
        captured_at=captured_at,
        subject=frame.part,
        use_for_training=frame.use_for_training,
    )


def calls_of(gauge: Predictor, shots: Sequence[Frame], images: Sequence[bytes]) -> dict[str, Call]:
    """What `gauge` says of each image, by its id."""
    predictions = gauge.predict([decode(data) for data in images])
    return {
        frame.image_id: Call(
            score=prediction.score,
            threshold=prediction.threshold,
            decision=prediction.decision,
            version=gauge.version,
        )
        for frame, prediction in zip(shots, predictions, strict=True)
    }


def scheduled_request(line: str, now: datetime, since: datetime) -> AdaptationRequest:
    """An adaptation to what was captured `since`; a second one of the same time is the same."""
    return AdaptationRequest(
        request_id=uuid5(NAMESPACE_URL, f"adaptation:{line}:{Reason.SCHEDULE}:{now.isoformat()}"),
        line=line,
        reason=Reason.SCHEDULE,
        requested_at=now,
        requested_by="flowgauge demo",
        since=since,
    )
