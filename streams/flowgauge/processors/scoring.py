"""Scoring: image events in, verdicts out. The verdict record is the checkpoint that everything else follows from."""

from collections import OrderedDict, defaultdict
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import replace
from datetime import datetime

from flowgauge.domain.dead_letters import GENERATION, OFFSET, TOPIC, dead_lettered
from flowgauge.domain.errors import Unavailable
from flowgauge.domain.lines import LineSettings
from flowgauge.domain.messages import DEAD_LETTERS, IMAGES, VERDICTS, AlertKind, Decision, Source, Verdict
from flowgauge.domain.object_keys import verdict_id
from flowgauge.domain.ports import Log, Outgoing, Record
from flowgauge.models.prediction import Prediction, Predictor
from flowgauge.processors.artifacts import ROOM_BYTES, Artifacts, Scored
from flowgauge.processors.deadline_monitor import DeadlineMonitor
from flowgauge.processors.decoding import Prefetch
from flowgauge.processors.start_offset import Start, ensure_partition, find_start
from flowgauge.registry.gauges import Gauges
from flowgauge.registry.line_settings import SettingsCache
from flowgauge.runtime.alerts import OncePerWindow
from flowgauge.runtime.backend import Store
from flowgauge.runtime.events import Image, Refused, opened
from flowgauge.runtime.meter import Meter, Unmetered
from flowgauge.runtime.outbox import Outbox
from flowgauge.runtime.processor import Processor

NO_GAUGE = "no gauge"
_WINDOW = 10_000  # recent events per partition among which a second delivery is noticed
_UNMETERED = Unmetered()
_PAGE = 16  # dead letters in memory at once


class Scoring(Processor):
    """Writes one verdict per image, in order, to the partition of the same number.

    Starts after the highest source offset in the verdict partition, whatever was committed (see `find_start` for
    offsets that begin anew, and images and verdicts that have expired). An event that was sent
    twice is skipped and counted in `skipped`; the same id with other bytes is a dead letter, and so is everything that
    cannot be decoded. Dead letters after the last verdict are not repeated at a restart.

    `decoders` decode images beside scoring, those of the next batch too. Images and heatmaps are stored by `hands`
    beside scoring, after their verdicts; without hands, before them. What is owed is not committed, so that the next
    worker finds it.
    """

    name = "scoring"
    inputs = (IMAGES,)

    def __init__(
        self,
        store: Store,
        gauges: Gauges,
        decoders: Executor | None = None,
        hands: Executor | None = None,
        room_bytes: int = ROOM_BYTES,
        meter: Meter = _UNMETERED,
    ) -> None:
        self.skipped = 0
        self._store = store
        self._gauges = gauges
        self._prefetch = Prefetch(store.objects, decoders)
        self._hands = hands
        self._meter = meter
        self._settings = SettingsCache(store, hands)
        self.artifacts = Artifacts(store.objects, Outbox(store.clock, hands), self._remade, room_bytes)
        self._scored: list[Scored] = []
        self._once = OncePerWindow(lambda line: self._settings.of(line).alert_window_seconds)
        self._deadlines = DeadlineMonitor(store.log, self._settings, self._once)
        self._recent: dict[int, OrderedDict[str, str]] = {}
        self._dead_lettered: dict[int, set[int]] = {}
        self._starts: dict[int, Start] = {}
        self._pending_alerts: list[Outgoing] = []

    def position(self, topic: str, partition: int, committed: int) -> int:
        ensure_partition(self._store.log, partition)
        tail = [Verdict.decode(record.value) for record in _tail(self._store.log, partition)]
        start = find_start(self._store.log, partition, tail, committed, self._store.clock.now())
        self._recent[partition] = OrderedDict((str(verdict.verdict_id), verdict.image_sha256) for verdict in tail)
        self._dead_lettered[partition] = _dead_lettered_from(self._store.log, partition, start)
        self.artifacts.recover(
            verdict
            for verdict in tail
            if verdict.source.generation == start.generation and committed <= verdict.source.offset
        )
        self._starts[partition] = start
        self._pending_alerts += start.alerts
        return start.offset

    def prefetch(self, records: Sequence[Record]) -> None:
        self._prefetch.prefetch(records)

    def process(self, records: Sequence[Record]) -> list[Outgoing]:
        self._gauges.refresh()
        scored: list[Scored] = []
        dead_letters: list[Outgoing] = []
        known = dict(self._recent[records[0].partition])
        portions = self._prefetch.portions(records)
        while True:
            with self._meter.timed(self.name, "decode"):
                items = next(portions, None)
            if items is None:
                break
            images, refused = self._sifted(items, known)
            dead_letters += refused
            with self._meter.timed(self.name, "score"):
                scored += self._judged(images)
        self._scored = scored
        overdue = self._deadlines.overdue([each.record for each in scored], self._store.clock.now())
        self._remember(scored, records[0].partition)
        self.skipped += len(records) - len(scored) - len(dead_letters)
        verdicts = [_published(scored) for scored in self._scored]
        if self._hands is None:  # then it is there when the verdict is read
            self._keep_artifacts()
        return [*dead_letters, *verdicts, *self._gauges.alerts(), *self._owing(), *overdue, *self._unreported()]

    def checkpoint(self) -> None:
        self._keep_artifacts()

    def idle(self, now: datetime) -> list[Outgoing]:
        self._flush()
        return [*self._owing(), *self._unreported()]

    def flush(self) -> list[Outgoing]:
        """Raises `Unavailable` while evidence cannot be stored: the next worker finds what is owed."""
        self.artifacts.finish()
        return []

    def safe(self, topic: str, partition: int, read: int) -> int:
        first = self.artifacts.first((topic, partition))
        return read if first is None else min(read, first)

    def _sifted(self, items: Sequence[Image | Refused], known: dict[str, str]) -> tuple[list[Image], list[Outgoing]]:
        """The images to score, which become `known`, and the dead letters; the others were sent before."""
        images: list[Image] = []
        dead_letters: list[Outgoing] = []
        for item in items:
            if isinstance(item, Refused):
                dead_letters += self._letter(item)
            elif item.key not in known:
                known[item.key] = item.picture.sha256
                images.append(item)
            elif known[item.key] != item.picture.sha256:
                dead_letters += self._letter(Refused(item.record, "Another image was sent under the same id."))
        return images, dead_letters

    def _letter(self, refused: Refused) -> list[Outgoing]:
        if refused.record.offset in self._dead_lettered[refused.record.partition]:
            return []
        start = self._starts[refused.record.partition]
        return [dead_lettered(refused.record, refused.reason, start.generation)]

    def _judged(self, images: Sequence[Image]) -> list[Scored]:
        """In the order of `images`, each line's judged together."""
        gauges = {image.event.line: self._gauges.gauge(image.event.line) for image in images}
        images = [_seen_by(gauges[image.event.line], image) for image in images]
        predictions = _predictions(images, gauges)
        return [
            self._verdict(image, gauges[image.event.line], predictions.get(index)) for index, image in enumerate(images)
        ]

    def _verdict(self, image: Image, gauge: Predictor | None, prediction: Prediction | None) -> Scored:
        record, event = image.record, image.event
        now = self._store.clock.now()
        settings = self._settings.of(event.line)
        apart = abs((event.captured_at - record.at).total_seconds())
        clock_off = apart > settings.clock_tolerance_seconds
        at = record.at if clock_off else event.captured_at
        verdict = Verdict(
            verdict_id=verdict_id(event.source, event.image_id),
            image_id=event.image_id,
            image_sha256=image.picture.sha256,
            image_uri=self.artifacts.image_uri(image, at),
            line=event.line,
            captured_at=event.captured_at,
            scored_at=now,
            late=_late((now - at).total_seconds(), settings),
            score=prediction.score if prediction else None,
            threshold=prediction.threshold if prediction else None,
            decision=prediction.decision if prediction else Decision.REVIEW,
            reasons=prediction.reasons if prediction else (NO_GAUGE,),
            gauge_version=gauge.version if gauge else None,
            detector=gauge.detector_name if gauge else None,
            regions=prediction.regions if prediction else (),
            heatmap_uri=self.artifacts.heatmap_uri(image, at, prediction),
            statistics=image.picture.statistics,
            source=Source(
                topic=record.topic,
                partition=record.partition,
                offset=record.offset,
                generation=self._starts[record.partition].generation,
                topic_id=self._starts[record.partition].topic_id,
            ),
            standard_score=prediction.standard_score if prediction else None,
            peak=prediction.peak if prediction else None,
            use_for_training=event.use_for_training,
            subject=event.subject,
            arrived_at=record.at,
            clock_off=clock_off,
        )
        return Scored.of(image, verdict, prediction)

    def _remade(self, verdict: Verdict) -> Scored | None:
        """The image of a verdict of ours once more, judged if a heatmap is due; None where the log has it no longer."""
        source = verdict.source
        records = self._store.log.read(IMAGES, source.partition, source.offset, 1)
        if not records or records[0].offset != source.offset:
            return None
        image = opened(records[0], self._store.objects)
        if isinstance(image, Refused) or image.key != str(verdict.verdict_id):  # of a topic that was made anew
            return None
        gauge = self._gauge_again(verdict)
        image = _seen_by(gauge, image)
        return Scored.of(image, verdict, gauge.predict([image.picture])[0] if gauge else None)

    def _gauge_again(self, verdict: Verdict) -> Predictor | None:
        if verdict.heatmap_uri is None or verdict.gauge_version is None:
            return None
        self._gauges.refresh()
        return self._gauges.version(verdict.line, verdict.gauge_version)

    def _keep_artifacts(self) -> None:
        scored, self._scored = self._scored, []
        self.artifacts.enqueue(scored)
        self._flush()

    def _flush(self) -> None:
        self.artifacts.flush()
        self._meter.pending(self.artifacts.pending)

    def _owing(self) -> list[Outgoing]:
        """One alert per line and window while the store does not take what is owed."""
        unavailable = self.artifacts.outbox.unavailable
        if unavailable is None:
            return []
        now, message = self._store.clock.now(), _not_kept(unavailable)
        return [
            each
            for line in self.artifacts.outbox.lines
            for each in self._once.alert(line, AlertKind.STORE_UNAVAILABLE, now, message)
        ]

    def _unreported(self) -> list[Outgoing]:
        pending_alerts, self._pending_alerts = self._pending_alerts, []
        return pending_alerts

    def _remember(self, scored: Sequence[Scored], partition: int) -> None:
        recent = self._recent[partition]
        for each in scored:
            recent[str(each.verdict.verdict_id)] = each.verdict.image_sha256
        while len(recent) > _WINDOW:
            recent.popitem(last=False)


def _seen_by(gauge: Predictor | None, image: Image) -> Image:
    """With the picture as the line's gauge sees it: statistics and heatmaps go by its rule for 16-bit files too."""
    return image if gauge is None else replace(image, picture=gauge.seen(image.picture))


def _predictions(images: Sequence[Image], gauges: dict[str, Predictor | None]) -> dict[int, Prediction]:
    """By index in `images`; images of lines without a gauge are missing."""
    of_line: defaultdict[str, list[int]] = defaultdict(list)
    for index, image in enumerate(images):
        of_line[image.event.line].append(index)
    judged: dict[int, Prediction] = {}
    for line, indices in of_line.items():
        if (gauge := gauges[line]) is not None:
            predictions = gauge.predict([images[index].picture for index in indices])
            judged.update(zip(indices, predictions, strict=True))
    return judged


def _published(scored: Scored) -> Outgoing:
    verdict = scored.verdict
    return Outgoing(VERDICTS, verdict.line, verdict.encode(), partition=verdict.source.partition)


def _late(seconds: float, settings: LineSettings) -> bool:
    return settings.deadline_seconds is not None and seconds > settings.deadline_seconds


def _not_kept(error: Unavailable) -> str:
    return f"Images are scored; they and their heatmaps are stored once that is possible again. {error}"


def _tail(log: Log, partition: int) -> list[Record]:
    return log.read(VERDICTS, partition, max(0, log.end(VERDICTS, partition) - _WINDOW), _WINDOW)


def _dead_lettered_from(log: Log, partition: int, start: Start) -> set[int]:
    """Image offsets, from `start` on, that are dead letters already. Read backwards: each may hold a large image."""
    generation = str(start.generation)
    found: set[int] = set()
    end = log.end(DEAD_LETTERS, partition)
    while end > 0:
        first = max(0, end - _PAGE)
        dead_letters = log.read(DEAD_LETTERS, partition, first, end - first)
        of_images = [letter.headers for letter in dead_letters if letter.headers.get(TOPIC) == IMAGES]
        ours = [each for each in of_images if each.get(GENERATION, "0") == generation]
        offsets = {int(each[OFFSET]) for each in ours}
        found |= {offset for offset in offsets if offset >= start.offset}
        if not dead_letters or len(ours) < len(of_images) or any(offset < start.offset for offset in offsets):
            break
        end = first
    return found
