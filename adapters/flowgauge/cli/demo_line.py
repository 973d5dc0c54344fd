"""Plays a script through the embedded pipeline, image by image, in the line's own time."""

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from uuid import NAMESPACE_URL, uuid5

from flowgauge.cli.script import Act, Frame, Script
from flowgauge.domain.messages import AdaptationRequest, Event, Reason
from flowgauge.models.prediction import Predictor
from flowgauge.processors.adaptation import audits, request_adaptation
from flowgauge.reports.story import Call
from flowgauge.runtime.backend import Store
from flowgauge.runtime.events import image_record
from flowgauge.runtime.local_runner import Runner
from flowgauge.vision.decoding import decode

BATCH = 16
INTERVAL = timedelta(seconds=10)
"""From one part to the next: slow enough for a line's cool-down to pass within a phase."""

_START = datetime(2025, 1, 6, 6, 0, tzinfo=UTC)


class LineClock:
    """The line's time: it moves when a part comes, so that the same script always tells the same story."""

    def __init__(self) -> None:
        self._now = _START

    def now(self) -> datetime:
        return self._now

    def advance(self) -> datetime:
        self._now += INTERVAL
        return self._now


class DemoRunner:
    """`first` is the gauge that the control scores with: adaptation switched off."""

    def __init__(self, store: Store, clock: LineClock, runner: Runner, first: Predictor) -> None:
        self._store = store
        self._clock = clock
        self._runner = runner
        self._first = first
        self.frozen: dict[str, Call] = {}

    def play(self, script: Script, on_act: Callable[[Act], None]) -> None:
        """Send every image and work the pipeline until it rests, batch after batch.

        Judge images come when their phase's buffer, and every adaptation that it led to, is done.
        """
        for act in script.acts:
            on_act(act)
            start, decided = self._clock.now(), len(audits(self._store, script.line))
            self._stream(script.line, act.training)
            if script.scheduled and len(audits(self._store, script.line)) == decided:
                # never where a gate has decided: asked again on the same images, it would sooner or later agree
                request_adaptation(self._store, scheduled_request(script.line, self._clock.now(), start))
                self._runner.run_until_idle()
            self._stream(script.line, act.testing)

    def _stream(self, line: str, shots: Sequence[Frame]) -> None:
        for batch in _batches(shots):
            self._send(line, batch)
            self._runner.run_until_idle()

    def _send(self, line: str, shots: Sequence[Frame]) -> None:
        images = [frame.read() for frame in shots]
        events = [self._event(line, frame) for frame in shots]
        self._store.log.append([image_record(event, data) for event, data in zip(events, images, strict=True)])
        predictions = self._first.predict([decode(data) for data in images])
        for frame, prediction in zip(shots, predictions, strict=True):
            self.frozen[frame.image_id] = Call(
                score=prediction.score,
                threshold=prediction.threshold,
                decision=prediction.decision,
                version=self._first.version,
            )

    def _event(self, line: str, frame: Frame) -> Event:
        return Event(
            image_id=frame.image_id,
            source=f"/lines/{line}",
            line=line,
            captured_at=self._clock.advance(),
            subject=frame.part,
            use_for_training=frame.use_for_training,
        )


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


def _batches(shots: Sequence[Frame]) -> Iterator[Sequence[Frame]]:
    return (shots[start : start + BATCH] for start in range(0, len(shots), BATCH))
