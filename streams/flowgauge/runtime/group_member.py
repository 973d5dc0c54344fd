"""A member of a consumer group: what a broker hands it of one processor's topics, and where each partition begins.

Apart from the engine that does the fetching, so that its rules can be tested without one.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial
from threading import Event
from typing import TypeVar

from flowgauge.domain.backoff import waits
from flowgauge.domain.errors import Stalled, Unavailable
from flowgauge.domain.ports import Clock, Log, Record
from flowgauge.runtime.alerts import expired_alerts, reset_alerts
from flowgauge.runtime.liveness import STALL_SECONDS, Progress, Pulse
from flowgauge.runtime.meter import UNMETERED, Meter, measured
from flowgauge.runtime.processor import Processor
from flowgauge.runtime.task import Observer, Partition, Step, StreamTask
from flowgauge.runtime.worker import OnUnavailable

T = TypeVar("T")

# a few questions to the brokers per topic each time; longer, and lag and topics that were made anew are seen late
_SAMPLE_INTERVAL = timedelta(seconds=5)


class Member:
    """All calls but `prefetch`, `committable_offset`, `probe` and `stop` come from one thread; none overlap.

    Every assignment begins with a new processor: what the last one remembered of a partition may be out of date, since
    another member may have had it in between.
    """

    def __init__(
        self,
        make: Callable[[], Processor],
        log: Log,
        clock: Clock,
        observer: Observer = lambda step: None,
        unavailable: OnUnavailable = lambda name, error: None,
        stopping: Event | None = None,
        meter: Meter = UNMETERED,
        pulse: Pulse | None = None,
        stall_seconds: float = STALL_SECONDS,
    ) -> None:
        self._make = make
        self._log = log
        self._clock = clock
        self._observer = observer
        self._unavailable = unavailable
        self._stopping = stopping or Event()
        self._meter = meter
        self.pulse = pulse or Pulse()
        self._stall_seconds = stall_seconds
        self._progress: dict[Partition, Progress] = {}
        self._sampled_at: datetime | None = None
        self._committable: Mapping[Partition, int] = {}
        self._rewinds: dict[Partition, int] = {}
        self._topic_ids: dict[str, str] = {}
        self._restarts: dict[Partition, int] = {}
        first = make()
        self.name, self.inputs = first.name, first.inputs
        self._mixes_partitions = first.mixes_partitions
        self._task = self._task_of(first)

    def assigned(self, committed: Mapping[Partition, int]) -> dict[Partition, int]:
        """Where to start each partition of a new assignment, given what the group has committed."""
        task = self._task_of(self._make())
        topic_ids = {
            topic: self._insisting(partial(self._log.topic_id, topic))
            for topic in sorted({name for name, _ in committed})
        }
        starts = {
            topic_partition: self._insisting(partial(self._start, task, topic_partition, at))
            for topic_partition, at in committed.items()
        }
        # nothing of the former assignment changes before all of the new one is known: a broker that leaves in between
        # leaves a member that is whole
        self._topic_ids = topic_ids
        self._task = task
        for topic_partition in self._committable.keys() - starts.keys():
            self._meter.lag(self.name, topic_partition, None)
        self._committable = dict(starts)
        self._rewinds = {}
        self._progress = {topic_partition: Progress(self._stall_seconds) for topic_partition in starts}
        return starts

    def prefetch(self, records: Sequence[Record]) -> None:
        """Tell the processor what `take` will be given soon. From any thread."""
        self._task.processor.prefetch([r for r in records if (r.topic, r.partition) in self._committable])

    def batches(self, records: Sequence[Record]) -> list[list[Record]]:
        """What `take` is to be given of a fetch: all of it at once where the processor takes records of several
        partitions together, else those of each partition.
        """
        return [list(records)] if self._mixes_partitions else list(by_partition(records).values())

    def take(self, records: Sequence[Record]) -> int:
        """Process what is due of `records`, those of each partition in order; how many there were.

        Returns once their results are durable. While something is `Unavailable` it tries again, until `stop`: then it
        raises it. Records of a partition that is not assigned, that were processed before, or that a fetch from before
        the last assignment left ahead of their turn, are passed over; `rewinds` tells of the latter.
        """
        self._rewinds = {}
        task = self._task
        parts = [self._due(task, each, part) for each, part in by_partition(records).items()]
        due = [record for part in parts for record in part]
        if not due:
            return 0
        done = self._insisting(lambda: task.take(due))
        # those of the other partitions follow with the next `punctuate`: asking for all of them costs a worker of many
        # partitions more than its records do
        self._publish_offsets(by_partition(due))
        self.pulse.beat()
        return done

    def _due(self, task: StreamTask, topic_partition: Partition, records: Sequence[Record]) -> Sequence[Record]:
        """Those of `records`, all of one partition, that were not processed before; none where others come first."""
        if topic_partition not in self._committable:
            return ()
        position = task.position(topic_partition, lambda: self._committable[topic_partition])
        due = [record for record in records if record.offset >= position]
        if due and due[0].offset > position:
            # compaction and transactions leave offsets without records; only what the log still holds was missed
            between = self._insisting(lambda: self._log.read(*topic_partition, position, 1))
            if not between or between[0].offset < due[0].offset:
                self._rewinds[topic_partition] = position
                return ()
        return due

    def punctuate(self) -> None:
        """To be called every second or so: what is due by now. Raises `Stalled` when records wait and none come."""
        now = self._clock.now()
        if self._committable:
            task = self._task
            self._insisting(lambda: task.deliver(lambda: task.processor.punctuate(now)))
            self._publish_offsets(self._committable)
        if self._sampled_at is None or abs(now - self._sampled_at) >= _SAMPLE_INTERVAL:
            self._sampled_at = now
            # while the log is away nothing is known, and nothing is a stall
            with suppress(Unavailable):
                # the id tells a topic that was made anew even where its offsets have passed the old position already
                anew = {topic for topic, known in self._topic_ids.items() if self._log.topic_id(topic) != known}
                bounds = self._bounds()
                if (outdated := self._outdated(anew, bounds)) is not None:
                    self._restarts = self.assigned(outdated)
                self._sample(bounds)
        self.pulse.beat()

    def probe(self) -> None:
        """Ask the log for a sign of life: while nothing comes, a refusal would else go unseen. From any thread.

        Raises what is not `Unavailable`, such as `AuthenticationFailed`.
        """
        try:
            self._log.end(self.inputs[0], 0)
        except Unavailable as error:
            self._unavailable(self.name, error)

    def flush(self) -> None:
        """Deliver what is pending. Raises `Unavailable` at the first failure: it comes again after a restart."""
        self._task.deliver(self._task.processor.flush)

    def restarts(self) -> dict[Partition, int]:
        """Where to fetch from since the last `punctuate` found that a topic holds other records; each is told once."""
        restarts, self._restarts = self._restarts, {}
        return restarts

    def rewinds(self) -> dict[Partition, int]:
        """The offsets to fetch from again, of the partitions of which the last `take` passed over what was ahead."""
        return self._rewinds

    def stop(self) -> None:
        """Have `take` and `punctuate` give up what they cannot deliver. From any thread."""
        self._stopping.set()

    def committable_offset(self, topic_partition: Partition) -> int | None:
        """Up to where a commit loses nothing; None for a partition that is not assigned. From any thread."""
        return self._committable.get(topic_partition)

    def _task_of(self, processor: Processor) -> StreamTask:
        def observer(step: Step) -> None:
            measured(self._meter, step, self._clock.now())
            self._observer(step)

        return StreamTask(processor, self._log, observer, lambda: self._meter.timed(self.name, "publish"))

    def _start(self, task: StreamTask, topic_partition: Partition, committed: int) -> int:
        """The processor's position, or the first record that is left where the log has none there any more."""
        position = task.position(topic_partition, lambda: committed)
        begin, end = self._log.begin(*topic_partition), self._log.end(*topic_partition)
        if begin <= position <= end:
            return position
        task.positions[topic_partition] = begin
        now = self._clock.now()
        if position > end:
            self._log.append(reset_alerts(*topic_partition, position, begin, end, now))
        elif committed:  # a group that has never read is behind by nothing
            self._log.append(expired_alerts(*topic_partition, committed, begin, now))
        return begin

    def _bounds(self) -> dict[Partition, tuple[int, int]]:
        """Where each partition of the topics that are assigned begins and ends."""
        topics = sorted({topic for topic, _ in self._committable})
        return {(topic, number): found for topic in topics for number, found in enumerate(self._log.bounds(topic))}

    def _outdated(
        self, anew: Collection[str], bounds: Mapping[Partition, tuple[int, int]]
    ) -> dict[Partition, int] | None:
        """What to start from where topics were made `anew`, or lost what comes next; None while all is as it was."""
        positions = self._task.positions
        there = self._committable.keys() & bounds.keys()
        if not anew and all(bounds[each][0] <= positions[each] <= bounds[each][1] for each in there):
            return None
        return {each: 0 if each[0] in anew else self._committable[each] for each in there}

    def _sample(self, bounds: Mapping[Partition, tuple[int, int]]) -> None:
        """Measure what waits. Raises `Stalled` where the log gives out records that the fetch does not bring."""
        for topic_partition in self._progress.keys() & bounds.keys():
            progress, position = self._progress[topic_partition], self._task.positions[topic_partition]
            waiting = max(0, bounds[topic_partition][1] - position)
            self._meter.lag(self.name, topic_partition, waiting)
            if not progress.at(position, waiting) and self._log.read(*topic_partition, position, 1):
                raise Stalled(
                    f"{self.name} got no records of {' '.join(map(str, topic_partition))} for"
                    f" {self._stall_seconds:.0f} s, although {waiting} wait from offset {position} on.",
                    "Start the worker again.",
                )

    def _publish_offsets(self, partitions: Iterable[Partition]) -> None:
        # one assignment of a new mapping, since the event loop reads it while this thread works
        self._committable = {**self._committable, **{each: self._task.committable_offset(each) for each in partitions}}

    def _insisting(self, work: Callable[[], T]) -> T:
        """Repeat `work` while something is away, with growing pauses. Raises `Unavailable` only once stopped."""
        seconds = waits()
        while True:
            try:
                return work()
            except Unavailable as error:
                # waiting for a server is no stall: the watchdog must not end a worker that a restart does not mend
                self.pulse.beat()
                self._meter.unavailable(self.name)
                self._unavailable(self.name, error)
                if self._stopping.wait(next(seconds)):
                    raise


def by_partition(records: Iterable[Record]) -> dict[Partition, list[Record]]:
    """In order within each partition."""
    parts: dict[Partition, list[Record]] = {}
    for record in records:
        parts.setdefault((record.topic, record.partition), []).append(record)
    return parts
