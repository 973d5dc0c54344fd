"""Scoring: image events in, verdicts out. The verdict record is the checkpoint that everything else follows from."""

from collections import ChainMap, OrderedDict
from collections.abc import Mapping, MutableMapping, Sequence
from concurrent.futures import Executor
from datetime import datetime

from flowgauge.domain.dead_letters import dead_lettered
from flowgauge.domain.messages import IMAGES, VERDICTS, AlertKind, Decision, Source, Verdict
from flowgauge.domain.object_keys import verdict_id
from flowgauge.domain.ports import Outgoing, Record
from flowgauge.processors.artifacts import ROOM_BYTES, Artifacts, Outbox, Scored
from flowgauge.processors.deciding import Decided, Decider
from flowgauge.processors.start_offset import WINDOW, Start, ensure_partition, find_start
from flowgauge.registry.gauges import Gauges
from flowgauge.registry.lines import SettingsCache
from flowgauge.runtime.alerts import OncePerWindow
from flowgauge.runtime.backend import Store
from flowgauge.runtime.events import Image, Prefetch, Refused, opened
from flowgauge.runtime.meter import UNMETERED, Meter
from flowgauge.runtime.processor import Processor

NO_GAUGE = "no gauge"


class Scoring(Processor):
    """Writes one verdict per image, in order, to the partition of the same number.

    Starts after the highest source offset in the verdict partition, whatever was committed (see `find_start` for
    offsets that begin anew, and images and verdicts that have expired). An event that was sent twice is skipped and
    counted in `skipped`; the same id with other bytes is a dead letter, and so is everything that cannot be decoded.
    Dead letters after the last verdict are not repeated at a restart.

    `decoders` decode images beside scoring, those of the next batch too. Images and heatmaps are stored by `uploaders`
    beside scoring, after their verdicts; without uploaders, before them. What is pending is not committed, so that the
    next worker finds it.
    """

    name = "scoring"
    inputs = (IMAGES,)
    # the images of all lines are predicted together, and lines lie in partitions of their own
    mixes_partitions = True

    def __init__(
        self,
        store: Store,
        gauges: Gauges,
        decoders: Executor | None = None,
        uploaders: Executor | None = None,
        room_bytes: int = ROOM_BYTES,
        meter: Meter = UNMETERED,
    ) -> None:
        self.skipped = 0
        self.artifacts = Artifacts(store.objects, Outbox(store.clock, uploaders), self._remade, room_bytes)
        self._store = store
        self._gauges = gauges
        self._decider = Decider(gauges, store.state)
        self._prefetch = Prefetch(store.objects, decoders, gauges.loaded)
        self._uploaders = uploaders
        self._meter = meter
        self._settings = SettingsCache(store, uploaders)
        self._once = OncePerWindow(lambda line: self._settings.of(line).alert_window_seconds)
        self._starts: dict[int, Start] = {}
        self._recent: dict[int, OrderedDict[str, str]] = {}
        self._scored: list[Scored] = []
        self._pending_alerts: list[Outgoing] = []

    def start_offset(self, topic: str, partition: int, committed: int) -> int:
        ensure_partition(self._store.log, partition)
        start, tail = find_start(self._store.log, partition, committed, self._store.clock.now())
        self._starts[partition] = start
        self._recent[partition] = OrderedDict((str(verdict.verdict_id), verdict.image_sha256) for verdict in tail)
        # What was pending was not committed, so it lies from `committed` on; storing more than that again is harmless.
        # Offsets of another generation would name other images.
        self.artifacts.recover(
            verdict
            for verdict in tail
            if verdict.source.generation == start.generation and committed <= verdict.source.offset
        )
        self._pending_alerts += start.alerts
        return start.offset

    def prefetch(self, records: Sequence[Record]) -> None:
        self._prefetch.prefetch(records)

    def process(self, records: Sequence[Record]) -> list[Outgoing]:
        # between two batches, so that all images of a batch are scored by one version of their line's gauge
        self._gauges.refresh()
        scored: list[Scored] = []
        shadow: list[Outgoing] = []
        refused: list[Refused] = []
        # of this batch, before what was known: to copy ten thousand keys for each batch takes a millisecond
        known = {
            partition: ChainMap(dict[str, str](), self._recent[partition])
            for partition in {record.partition for record in records}
        }
        # in portions that memory has room for: of a large camera's images one batch would be gigabytes
        portions, done = self._prefetch.portions(records), 0
        while done < len(records):
            with self._meter.timed(self.name, "decode"):
                items = next(portions)
            done += len(items)
            images = self._sifted(items, known, refused)
            with self._meter.timed(self.name, "score"):
                for decided in self._decider.decide(images):
                    verdict = self._verdict(decided)
                    scored.append(Scored.of(decided.image, verdict, decided.prediction))
                    if decided.beside is not None:
                        shadow.append(decided.beside.record(verdict))
        dead_letters = [
            dead_lettered(each.record, each.reason, start.generation)
            for each in refused
            if each.record.offset not in (start := self._starts[each.record.partition]).dead_lettered
        ]
        overdue = self._overdue([each.record for each in scored])
        # Nothing raises `Unavailable` from here on. Before, a batch that comes again would find its own images among
        # the recent ones and skip them as sent twice.
        self._remember(scored)
        self._scored = scored
        self.skipped += len(records) - len(scored) - len(dead_letters)
        # a verdict lies in the partition of its image's number: there it is the checkpoint of this partition alone
        verdicts = [
            Outgoing(VERDICTS, each.verdict.line, each.verdict.encode(), partition=each.record.partition)
            for each in scored
        ]
        if self._uploaders is None:  # then they are there when the verdict is read
            self.checkpoint()
        # shadow verdicts before: of an image whose verdict is there none would be made any more
        return [*dead_letters, *shadow, *verdicts, *self._gauges.alerts(), *overdue, *self._due_alerts()]

    def checkpoint(self) -> None:
        """Go on storing what verdicts name: the images of the last batch, and what is still pending."""
        scored, self._scored = self._scored, []
        self.artifacts.enqueue(scored)
        self.artifacts.flush()
        self._meter.pending(self.artifacts.pending)

    def punctuate(self, now: datetime) -> list[Outgoing]:
        self.checkpoint()
        return self._due_alerts()

    def flush(self) -> list[Outgoing]:
        """Raises `Unavailable` while something cannot be stored: the next worker finds what is pending."""
        self.artifacts.finish()
        return []

    def committable_offset(self, topic: str, partition: int, read: int) -> int:
        # the commit is what a restart finds pending uploads by; scoring itself goes on after the last verdict
        first = self.artifacts.first((topic, partition))
        return read if first is None else min(read, first)

    def _sifted(
        self, items: Sequence[Image | Refused], known: Mapping[int, MutableMapping[str, str]], refused: list[Refused]
    ) -> list[Image]:
        """The images to score, which become `known`; what cannot be scored joins `refused`, and the others were sent
        before.
        """
        images: list[Image] = []
        for item in items:
            if isinstance(item, Refused):
                refused.append(item)
            elif (of_partition := known[item.record.partition]).get(item.key) is None:
                of_partition[item.key] = item.picture.sha256
                images.append(item)
            elif of_partition[item.key] != item.picture.sha256:
                refused.append(Refused(item.record, "Another image was sent under the same id."))
        return images

    def _verdict(self, decided: Decided) -> Verdict:
        image, gauge, prediction = decided.image, decided.gauge, decided.prediction
        record, event, start = image.record, image.event, self._starts[image.record.partition]
        now = self._store.clock.now()
        settings = self._settings.of(event.line)
        # a camera's clock that contradicts the arrival steers nothing: age, folders by date and drift go by the arrival
        clock_off = abs((event.captured_at - record.at).total_seconds()) > settings.clock_tolerance_seconds
        at = record.at if clock_off else event.captured_at
        deadline = settings.deadline_seconds
        image_uri, heatmap_uri = self.artifacts.uris(image, at, prediction)
        return Verdict(
            verdict_id=verdict_id(event.source, event.image_id),
            image_id=event.image_id,
            image_sha256=image.picture.sha256,
            image_uri=image_uri,
            line=event.line,
            captured_at=event.captured_at,
            scored_at=now,
            late=deadline is not None and (now - at).total_seconds() > deadline,
            score=prediction.score if prediction else None,
            threshold=prediction.threshold if prediction else None,
            decision=prediction.decision if prediction else Decision.REVIEW,
            reasons=prediction.reasons if prediction else (NO_GAUGE,),
            gauge_version=gauge.version if gauge else None,
            trial_id=decided.trial_id,
            detector=gauge.detector_name if gauge else None,
            regions=prediction.regions if prediction else (),
            heatmap_uri=heatmap_uri,
            statistics=image.picture.statistics,
            source=Source(
                topic=record.topic,
                partition=record.partition,
                offset=record.offset,
                generation=start.generation,
                topic_id=start.topic_id,
            ),
            standard_score=prediction.standard_score if prediction else None,
            peak=prediction.peak if prediction else None,
            use_for_training=event.use_for_training,
            subject=event.subject,
            arrived_at=record.at,
            clock_off=clock_off,
        )

    def _overdue(self, records: Sequence[Record]) -> list[Outgoing]:
        """An alert per line and window of those of `records`, of each partition in order, that have waited for longer
        than their line's deadline. Raises `Unavailable`; nothing has changed then."""
        now = self._store.clock.now()
        late: dict[str, tuple[Record, float]] = {}
        for record in records:
            deadline = self._settings.of(record.key).deadline_seconds
            if deadline is not None and (now - record.at).total_seconds() > deadline:
                late.setdefault(record.key, (record, deadline))
        if not late:
            return []
        partitions = self._store.log.partitions(IMAGES)
        remedy = (
            f"Start more scoring workers: {partitions} partitions of images can keep as many busy."
            if partitions > 1
            else "Score on a faster device, or spread the lines over more partitions and workers."
        )
        last = {record.partition: record.offset for record in records}
        # all of them before the first alert counts as told
        waited_in = {record.partition for record, _ in late.values()}
        behind = {number: self._store.log.end(IMAGES, number) - last[number] - 1 for number in waited_in}
        alerts: list[Outgoing] = []
        for line, (record, deadline) in late.items():
            waited = round((now - record.at).total_seconds(), 1)
            message = (
                f"{line}: images wait {waited:g} s to be scored, longer than the line's deadline of {deadline:g} s, "
                f"and {behind[record.partition]} more wait behind. {remedy}"
            )
            detail = {"waited_seconds": waited, "deadline_seconds": deadline, "behind": behind[record.partition]}
            alerts += self._once.alert(line, AlertKind.BACKLOG, now, message, **detail)
        return alerts

    def _remember(self, scored: Sequence[Scored]) -> None:
        for each in scored:
            recent = self._recent[each.record.partition]
            recent[str(each.verdict.verdict_id)] = each.verdict.image_sha256
            if len(recent) > WINDOW:
                recent.popitem(last=False)

    def _remade(self, verdict: Verdict) -> Scored | None:
        """The image of a verdict of ours once more, scored if a heatmap is due; None where the log has it no longer."""
        source = verdict.source
        records = self._store.log.read(IMAGES, source.partition, source.offset, 1)
        if not records or records[0].offset != source.offset:
            return None
        image = opened(records[0], self._store.objects)
        if isinstance(image, Refused) or image.key != str(verdict.verdict_id):  # of a topic that was made anew
            return None
        gauge = None
        if verdict.heatmap_uri is not None and verdict.gauge_version is not None:
            # by the gauge that decided, which may not be the line's any more: its heatmap explains its decision
            self._gauges.refresh()
            gauge = self._gauges.version(verdict.line, verdict.gauge_version)
        image = image.seen_by(gauge)
        return Scored.of(image, verdict, gauge.predict([image.picture])[0] if gauge else None)

    def _due_alerts(self) -> list[Outgoing]:
        """One per line and window while the store does not take what is pending; and what a start had to tell."""
        due, self._pending_alerts = self._pending_alerts, []
        unavailable = self.artifacts.outbox.unavailable
        if unavailable is not None:
            now = self._store.clock.now()
            message = (
                f"Images are scored; they and their heatmaps are stored once that is possible again. {unavailable}"
            )
            for line in self.artifacts.outbox.lines:
                due += self._once.alert(line, AlertKind.STORE_UNAVAILABLE, now, message)
        return due
