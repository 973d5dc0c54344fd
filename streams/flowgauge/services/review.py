"""The review queue of a line: rejects and reviews, with the labels that people have given them."""

from collections.abc import Sequence
from dataclasses import dataclass

from flowgauge.domain.golden import Label
from flowgauge.domain.messages import Verdict
from flowgauge.domain.ports import Objects
from flowgauge.registry.golden_sets import Golden, GoldenIndex, golden_set


@dataclass(frozen=True)
class Item:
    """A verdict, and the golden image that was made of it; None while nobody has labelled it."""

    verdict: Verdict
    golden: Golden | None


@dataclass(frozen=True)
class Queue:
    """`items` in the order of `review_queue`'s verdicts; `kinds` are the classes of defects that the line knows."""

    items: Sequence[Item]
    kinds: Sequence[str]
    good: int
    defects: int


def review_queue(objects: Objects, line: str, verdicts: Sequence[Verdict]) -> Queue:
    """What people have said of `verdicts`, which are of `line`."""
    golden = list(golden_set(objects, line))
    index = GoldenIndex(objects, golden)
    return Queue(
        items=[Item(verdict, index.of(verdict.image_id, verdict.image_sha256)) for verdict in verdicts],
        kinds=sorted({each.kind for each in golden if each.kind}),
        good=sum(each.label is Label.GOOD for each in golden),
        defects=sum(each.label is Label.DEFECT for each in golden),
    )
