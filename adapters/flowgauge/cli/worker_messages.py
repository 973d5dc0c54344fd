"""What a running pipeline shows: alerts and rejects as they come, and a count of everything else."""

from collections import Counter

from rich.status import Status

from flowgauge.cli.output import emit_line, say, warn
from flowgauge.domain.dead_letters import REASON
from flowgauge.domain.errors import Unavailable
from flowgauge.domain.messages import ALERTS, DEAD_LETTERS, VERDICTS, Alert, AlertKind, Decision, Verdict
from flowgauge.domain.ports import Outgoing
from flowgauge.runtime.task import Step


class Teller:
    """Called by the runner's threads with what has become durable. With `as_json`, verdicts and alerts go to stdout
    as one JSON object per line, and nothing else does.
    """

    def __init__(self, status: Status, *, as_json: bool) -> None:
        self._status = status
        self._tell = _tell_json if as_json else _tell_person
        self.counts: Counter[str] = Counter()

    def step(self, step: Step) -> None:
        for outgoing in step.outgoing:
            self._count(outgoing)
            self._tell(outgoing)
        self._status.update(self.summary())

    def unavailable(self, name: str, error: Unavailable) -> None:
        warn(f"{name} waits. {error}")

    def summary(self) -> str:
        """One sentence: how many verdicts of which kind, and how many dead letters."""
        parts = ", ".join(f"{self.counts[decision]} {decision.value}" for decision in Decision)
        verdicts = sum(self.counts[decision] for decision in Decision)
        return f"{verdicts} verdicts ({parts}), {self.counts[DEAD_LETTERS]} dead letters"

    def _count(self, outgoing: Outgoing) -> None:
        if outgoing.topic == VERDICTS:
            self.counts[Verdict.decode(outgoing.value).decision] += 1
        elif outgoing.topic == DEAD_LETTERS:
            self.counts[DEAD_LETTERS] += 1


def _tell_json(outgoing: Outgoing) -> None:
    if outgoing.topic == VERDICTS:
        emit_line({"topic": VERDICTS} | Verdict.decode(outgoing.value).model_dump(mode="json"))
    elif outgoing.topic == ALERTS:
        emit_line({"topic": ALERTS} | Alert.decode(outgoing.value).model_dump(mode="json"))


def _tell_person(outgoing: Outgoing) -> None:
    if outgoing.topic == VERDICTS:
        verdict = Verdict.decode(outgoing.value)
        if verdict.decision is Decision.REJECT:
            say(f"{verdict.line}  reject  {verdict.image_id}  {'; '.join(verdict.reasons)}")
    elif outgoing.topic == ALERTS:
        alert = Alert.decode(outgoing.value)
        if alert.kind is not AlertKind.REJECT:
            say(f"{alert.line}  {alert.kind.value}  {alert.message}")
    elif outgoing.topic == DEAD_LETTERS:
        say(f"{outgoing.key}  dead letter  {outgoing.headers.get('ce_id', '')}  {outgoing.headers.get(REASON, '')}")
