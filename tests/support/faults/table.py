"""What faults cost, as a table of Markdown: a row for each fault, and one for the count of their flow."""

from collections.abc import Iterator, Sequence

from tests.support.faults.scene import Outcome

_HEAD = ("fault", "seed", "images", "verdicts that count", "void", "rejects told", "dead letters", "recovery, s")


def table(outcomes: Sequence[Outcome]) -> str:
    rows = [_HEAD, ("---",) * len(_HEAD), *(row for outcome in outcomes for row in _rows(outcome))]
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in rows)


def _rows(outcome: Outcome) -> Iterator[tuple[object, ...]]:
    for each in outcome.episodes:
        name = each.fault.replace("_", " ")
        yield name, outcome.seed, each.images, "", each.void, "", "", f"{each.recovery_seconds:.1f}"
    longest = max(each.recovery_seconds for each in outcome.episodes)
    counts = (outcome.images, outcome.verdicts, outcome.void, outcome.rejects_reported, outcome.dead_letters)
    yield "**together**", outcome.seed, *counts, f"{longest:.1f}"
