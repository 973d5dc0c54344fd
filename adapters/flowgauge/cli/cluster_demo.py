"""Plays scripts on a real plant: several lines at once, at the pace of a production line, with workers that others
run."""

from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from time import monotonic, sleep

from flowgauge.cli.demo_line import scheduled_request
from flowgauge.cli.script import Act, Frame, Script
from flowgauge.domain.messages import ADAPTATIONS, ALERTS, IMAGES, VERDICTS, Event
from flowgauge.domain.ports import Outgoing, Record
from flowgauge.models.prediction import Predictor
from flowgauge.processors.adaptation import audits, request_adaptation
from flowgauge.reports.story import Call
from flowgauge.runtime.backend import Store
from flowgauge.runtime.events import image_record
from flowgauge.runtime.fencing import count
from flowgauge.vision.decoding import decode

_LOOK_SECONDS = 0.5


class MultiLineDemo:
    """Each line has a partition of its own, in the order of `scripts`. `firsts` are the gauges that they begin with:
    the control scores with them. `tell` is shown verdicts and alerts as they come; `check` raises when the plant is not
    what it should be.
    """

    def __init__(
        self,
        store: Store,
        scripts: Sequence[Script],
        firsts: Mapping[str, Predictor],
        tell: Callable[[Record], None],
        check: Callable[[], None],
    ) -> None:
        self.frozen: dict[str, dict[str, Call]] = {script.line: {} for script in scripts}
        self._store = store
        self._partitions = {script.line: number for number, script in enumerate(scripts)}
        self._scripts = scripts
        self._firsts = firsts
        self._tell = tell
        self._check = check
        self._read_to: dict[tuple[str, int], int] = {}

    def play(self, rate: float, on_act: Callable[[Act], None]) -> None:
        """Send `rate` images a second of every line. Judge images come when everything before them is done."""
        for acts in zip(*(script.acts for script in self._scripts), strict=True):
            on_act(acts[0])
            decided = {script.line: len(audits(self._store, script.line)) for script in self._scripts}
            began = self._store.clock.now()
            self._stream([act.training for act in acts], rate)
            self.rest()
            for script in self._scripts:
                if script.scheduled and len(audits(self._store, script.line)) == decided[script.line]:
                    request_adaptation(self._store, scheduled_request(script.line, self._store.clock.now(), began))
            self.rest()
            self._stream([act.testing for act in acts], rate)
            self.rest()

    def rest(self) -> None:
        """Return when every image has its verdict, all verdicts were observed and all adaptations decided."""
        while not self._at_rest():
            self._check()
            self._look()
            sleep(_LOOK_SECONDS)
        self._look()

    def _at_rest(self) -> bool:
        log = self._store.log
        for number in self._partitions.values():
            end = log.end(VERDICTS, number)
            last = log.read(VERDICTS, number, max(0, end - 1), 1)
            scored = max((each.verdict.source.offset for each in count(last).counted), default=-1) + 1
            if scored < log.end(IMAGES, number) or log.position("observing", VERDICTS, number) < end:
                return False
        return log.position("adaptation", ADAPTATIONS, 0) >= log.end(ADAPTATIONS, 0)

    def _stream(self, shots: Sequence[Sequence[Frame]], rate: float) -> None:
        start = monotonic()
        for number, row in enumerate(zip_longest(*shots)):
            sleep(max(0.0, start + number / rate - monotonic()))
            for script, frame in zip(self._scripts, row, strict=True):
                if frame is not None:
                    self._send(script.line, frame)
            if number % 8 == 0:
                self._check()
                self._look()

    def _send(self, line: str, frame: Frame) -> None:
        data = frame.read()
        event = Event(
            image_id=frame.image_id,
            source=f"/lines/{line}",
            line=line,
            captured_at=self._store.clock.now(),
            subject=frame.part,
            use_for_training=frame.use_for_training,
        )
        record = image_record(event, data)
        self._store.log.append([Outgoing(IMAGES, line, record.value, record.headers, self._partitions[line])])
        first = self._firsts[line]
        (prediction,) = first.predict([decode(data)])
        self.frozen[line][frame.image_id] = Call(
            score=prediction.score, threshold=prediction.threshold, decision=prediction.decision, version=first.version
        )

    def _look(self) -> None:
        for topic, number in [(VERDICTS, each) for each in self._partitions.values()] + [(ALERTS, 0)]:
            start = self._read_to.get((topic, number), 0)
            for record in self._store.log.read(topic, number, start, 1_000):
                self._tell(record)
                self._read_to[topic, number] = record.offset + 1
