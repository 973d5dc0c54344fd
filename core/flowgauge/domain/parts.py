"""Parts that several images show: one verdict for each, as a function of the verdicts on its images alone.

Time is that at which images arrived at their topic, which a replay finds again, and never that at which a worker looks:
a part is decided by the verdict that completes it, or by the first verdict on an image that arrived after its time was
over. Where no such image comes, whoever knows that none can arrive in time any more calls `expire` before it.
"""

import re
from collections import Counter, OrderedDict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from heapq import heapify, heappop, heappush
from uuid import NAMESPACE_URL, uuid5

from flowgauge.domain.lines import LineSettings
from flowgauge.domain.messages import Decision, PartSource, PartVerdict, Verdict, View

# decided parts of a partition whose late views are known as such: fewer, and a late view of a busy line makes a second
# part; more only take memory, some 300 bytes each, and time at a start
REMEMBERED = 10_000
# parts of a line that wait for views: more take memory, some 1 kB each, when every image names a part of its own; with
# fewer the parts of a long conveyor are decided before their views have come
_MOST_OPEN = 10_000
# deadlines of decided parts that stay in the heap at least: fewer, and it is made anew too often; more only take memory
_STALE = 1_024
_SEVERITY = (Decision.PASS, Decision.REVIEW, Decision.REJECT)

Key = tuple[str, str]
"""Line and subject."""


def part_decision(decisions: Sequence[Decision], expected: int, rejects: int) -> tuple[Decision, tuple[str, ...]]:
    """The decision on a part of which `expected` views were wanted and `decisions` are known, with its reasons.

    `rejects` rejected views reject it. Otherwise a view that is missing, or views for review that could make up the
    number, leave it to a person.
    """
    counts = Counter(decisions)
    rejected, reviewed, missing = counts[Decision.REJECT], counts[Decision.REVIEW], expected - len(decisions)
    named = ((rejected, "rejected"), (reviewed, "for review"), (missing, "missing"))
    reasons = tuple(f"{n} of {expected} views {'is' if n == 1 else 'are'} {what}." for n, what in named if n > 0)
    if rejected >= rejects:
        return Decision.REJECT, reasons
    if missing > 0 or rejected + reviewed >= rejects:
        return Decision.REVIEW, reasons
    return Decision.PASS, ()


@dataclass
class OpenPart:
    """A part that waits for views, by the settings of when it began; `first` is the offset of its first verdict."""

    line: str
    subject: str
    opened_at: datetime
    first: int
    settings: LineSettings
    views: dict[str, View] = field(default_factory=dict)

    @property
    def expected(self) -> int:
        return self.settings.part_views or 0

    @property
    def complete(self) -> bool:
        return len(self.views) >= self.expected

    @property
    def deadline(self) -> datetime:
        return self.opened_at + timedelta(seconds=self.settings.part_seconds)

    def add(self, verdict: Verdict) -> None:
        """Of two images of one view the worse counts, whichever came first."""
        pattern = self.settings.part_view_pattern
        found = None if pattern is None else re.search(pattern, verdict.image_id)
        name = str(verdict.verdict_id) if found is None or found[1] is None else found[1]
        known = self.views.get(name)
        if known is None or _SEVERITY.index(verdict.decision) > _SEVERITY.index(known.decision):
            self.views[name] = View(
                name=name,
                verdict_id=verdict.verdict_id,
                image_id=verdict.image_id,
                decision=verdict.decision,
                at=verdict.event_time,
            )


class PartTable:
    """The parts of one partition of verdicts, from offset `start` on.

    `known` are the part verdicts that count and that are written already, in order: of the offsets up to `start` they
    say which parts are decided; from there on they are followed instead of deciding anew, whatever has changed since.
    What is decided after them continues their ranks, so two workers that read the same verdicts write the same.
    """

    def __init__(self, start: int, generation: int, topic_id: str, known: Sequence[PartVerdict]) -> None:
        self._next = start
        self._generation = generation
        self._topic_id = topic_id
        self._last = (start, -1)
        self._open: dict[str, dict[str, OpenPart]] = {}
        self._deadlines: list[tuple[datetime, int, OpenPart]] = []
        self._most_deadlines = _STALE
        self._decided: OrderedDict[Key, datetime] = OrderedDict()
        self._written: deque[PartVerdict] = deque()
        for each in known:
            if each.source.generation == generation:
                self._last = each.source.offset, each.source.index
            if each.source.generation == generation and each.source.offset > start:
                self._written.append(each)
            else:
                self._remember(each)

    @property
    def first_open(self) -> int | None:
        """The offset of the first verdict on a part that is open; None without any."""
        # of each line the parts are in the order of their first verdicts
        return min((next(iter(parts.values())).first for parts in self._open.values()), default=None)

    @property
    def next_deadline(self) -> datetime | None:
        """When the first open part will be decided, at the earliest; None without any."""
        while self._deadlines and not self._is_open(self._deadlines[0][2]):
            heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else None

    def take(
        self, verdict: Verdict, offset: int, arrived_at: datetime, settings: LineSettings
    ) -> tuple[list[PartVerdict], bool]:
        """Goes on with the verdict at `offset`, which counts, on an image that arrived then, by `settings`: the parts
        that are decided, and whether its own part was decided before."""
        self._follow(offset)
        decided = self.expire(arrived_at)
        part = self._open.get(verdict.line, {}).get(verdict.subject or "")
        late = False
        if part is None and verdict.subject and settings.part_views is not None:
            opened_at = self._decided.get((verdict.line, verdict.subject))
            repeat = timedelta(seconds=settings.part_repeat_seconds)
            late = opened_at is not None and arrived_at - opened_at <= repeat
            if not late:
                decided += self._room(verdict.line, arrived_at)
                part = OpenPart(verdict.line, verdict.subject, arrived_at, offset, settings)
                self._begin(part)
        if part is not None:
            part.add(verdict)
        self._next = offset + 1
        if part is not None and part.complete and not self._written:
            decided.append(self._decide(part, arrived_at))
        return decided, late

    def expire(self, before: datetime) -> list[PartVerdict]:
        """Decide the parts whose time was over before that moment, and for which no image can arrive in time."""
        self._follow(self._next)
        decided: list[PartVerdict] = []
        while not self._written and (deadline := self.next_deadline) is not None and deadline < before:
            decided.append(self._decide(heappop(self._deadlines)[2], deadline))
        return decided

    def _follow(self, offset: int) -> None:
        """Decide as is written for the offsets up to this one."""
        while self._written and self._written[0].source.offset <= offset:
            self._remember(self._written.popleft())

    def _room(self, line: str, at: datetime) -> Iterator[PartVerdict]:
        parts = self._open.get(line, {})
        if len(parts) >= _MOST_OPEN and not self._written:
            yield self._decide(next(iter(parts.values())), at, f"More than {_MOST_OPEN} parts wait for views.")

    def _begin(self, part: OpenPart) -> None:
        self._open.setdefault(part.line, {})[part.subject] = part
        heappush(self._deadlines, (part.deadline, part.first, part))
        if len(self._deadlines) > self._most_deadlines:
            self._deadlines = [each for each in self._deadlines if self._is_open(each[2])]
            heapify(self._deadlines)
            self._most_deadlines = 2 * len(self._deadlines) + _STALE

    def _decide(self, part: OpenPart, at: datetime, also: str = "") -> PartVerdict:
        decision, reasons = part_decision(
            [view.decision for view in part.views.values()], part.expected, part.settings.part_rejects
        )
        self._close(part.line, part.subject)
        # a rank beyond the last one, also where a reader counted other verdicts than the writer of the last did
        offset = max(self._next, self._last[0])
        index = self._last[1] + 1 if offset == self._last[0] else 0
        first = self.first_open
        self._last = offset, index
        decided = PartVerdict(
            part_id=uuid5(NAMESPACE_URL, f"part:{part.line}:{part.opened_at.isoformat()}:{part.subject}"),
            line=part.line,
            subject=part.subject,
            decision=decision,
            reasons=(*reasons, also) if also else reasons,
            views=tuple(part.views.values()),
            expected_views=part.expected,
            opened_at=part.opened_at,
            decided_at=at,
            source=PartSource(
                offset=offset,
                index=index,
                resume=offset if first is None else first,
                generation=self._generation,
                topic_id=self._topic_id,
            ),
        )
        self._remember(decided)
        return decided

    def _remember(self, decided: PartVerdict) -> None:
        self._close(decided.line, decided.subject)
        key = decided.line, decided.subject
        self._decided.pop(key, None)
        self._decided[key] = decided.opened_at
        if len(self._decided) > REMEMBERED:
            self._decided.popitem(last=False)

    def _close(self, line: str, subject: str) -> None:
        parts = self._open.get(line, {})
        parts.pop(subject, None)
        if not parts:
            self._open.pop(line, None)

    def _is_open(self, part: OpenPart) -> bool:
        return self._open.get(part.line, {}).get(part.subject) is part
