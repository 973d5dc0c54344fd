"""Verdicts on the views of parts, and what they must come to."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from flowgauge.domain.messages import PART_VERDICTS, Decision, PartVerdict, Source, Verdict
from flowgauge.domain.object_keys import verdict_id
from flowgauge.domain.parts import part_decision
from flowgauge.domain.ports import Log
from flowgauge.runtime.fencing import NOTHING_COUNTED, fenced
from tests.support.streaming import LINE, START, records, verdict

SECONDS, REPEAT_SECONDS = 10.0, 60.0
PARTS = {"part_views": 3, "part_seconds": SECONDS, "part_repeat_seconds": REPEAT_SECONDS}
"""Settings of a line whose parts have three views."""


def view(
    offset: int,
    subject: str | None,
    number: int = 0,
    decision: Decision = Decision.PASS,
    seconds: float = 0,
    line: str = LINE,
    partition: int = 0,
) -> Verdict:
    """The verdict on the image at `offset`, which arrived `seconds` after the start."""
    image_id = f"{subject}-{number}"
    return verdict(
        offset,
        image_id,
        line=line,
        verdict_id=verdict_id(f"/lines/{line}", image_id),
        subject=subject,
        decision=decision,
        arrived_at=START + timedelta(seconds=seconds),
        source=Source(topic="images", partition=partition, offset=offset),
    )


def part_verdicts(log: Log, partition: int = 0) -> list[PartVerdict]:
    """Those that count."""
    return [part for _, part in fenced(records(log, PART_VERDICTS, partition), NOTHING_COUNTED, PartVerdict)[0]]


@dataclass
class Wanted:
    """What a part must come to, worked out the long way."""

    subject: str
    opened_at: datetime
    views: dict[str, Decision] = field(default_factory=dict)

    @property
    def summary(self) -> tuple[str, datetime, Decision, frozenset[str]]:
        decision, _ = part_decision(list(self.views.values()), 3, 1)
        return self.subject, self.opened_at, decision, frozenset(self.views)


def summary(part: PartVerdict) -> tuple[str, datetime, Decision, frozenset[str]]:
    return part.subject, part.opened_at, part.decision, frozenset(each.image_id for each in part.views)


def wanted(
    verdicts: Sequence[Verdict], seconds: float = SECONDS, repeat_seconds: float = REPEAT_SECONDS
) -> tuple[list[Wanted], int]:
    """The parts of one line in the order in which they are decided when nothing comes after `verdicts`, with three
    views of which any may reject; and how many views are late."""
    done: list[Wanted] = []
    waiting: list[Wanted] = []
    late = 0
    for each in verdicts:
        at, subject = each.arrived_at, each.subject
        assert at is not None
        assert subject is not None
        over = [part for part in waiting if part.opened_at + timedelta(seconds=seconds) < at]
        done += over
        waiting = [part for part in waiting if part not in over]
        mine = next((part for part in waiting if part.subject == subject), None)
        before = next((part for part in reversed(done) if part.subject == subject), None)
        if mine is None and before is not None and at <= before.opened_at + timedelta(seconds=repeat_seconds):
            late += 1
            continue
        if mine is None:
            mine = Wanted(subject, at)
            waiting.append(mine)
        worse = [Decision.PASS, Decision.REVIEW, Decision.REJECT].index
        known = mine.views.get(each.image_id, Decision.PASS)
        mine.views[each.image_id] = max(known, each.decision, key=worse)
        if len(mine.views) == 3:
            waiting.remove(mine)
            done.append(mine)
    return [*done, *waiting], late
