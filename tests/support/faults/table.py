"""What faults cost, as a table of Markdown."""

from collections.abc import Sequence

from tests.support.faults.scene import Outcome

_HEAD = "| fault | seed | images | verdicts that count | void | rejects told | dead letters | recovery, s |"


def table(outcomes: Sequence[Outcome]) -> str:
    return "\n".join([_HEAD, "|---" * (_HEAD.count("|") - 1) + "|", *map(_row, outcomes)])


def _row(outcome: Outcome) -> str:
    faults = ", ".join(_words(fault) for fault in outcome.faults)
    recovery = ", ".join(f"{outcome.recovery_seconds[fault]:.1f}" for fault in outcome.faults)
    cells = (
        faults,
        outcome.seed,
        outcome.images,
        outcome.verdicts,
        outcome.void,
        outcome.rejects_told,
        outcome.dead_letters,
        recovery,
    )
    return "| " + " | ".join(map(str, cells)) + " |"


def _words(name: str) -> str:
    return name.replace("_", " ")
