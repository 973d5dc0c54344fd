"""What a running pipeline tells: alerts and rejects as they come, and a count of everything else."""

import logging
import time
from collections import Counter

from flowgauge.cli.output import emit_line, results, warn
from flowgauge.domain.dead_letters import REASON
from flowgauge.domain.errors import Unavailable
from flowgauge.domain.messages import ALERTS, DEAD_LETTERS, VERDICTS, Alert, AlertKind, Decision, Verdict
from flowgauge.domain.ports import Outgoing
from flowgauge.runtime.task import Step

log = logging.getLogger(__name__)

# between two lines that count: more often they bury what they stand between, less often nobody sees that all is well
_SUMMARY_SECONDS = 60.0


class StreamMessages:
    """Called by the runner's threads with what has become durable, which is logged. With `as_json`, verdicts and alerts
    go to stdout instead, as one JSON object per line.
    """

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._tell = {VERDICTS: self._verdict, ALERTS: self._alert, DEAD_LETTERS: self._dead_letter}
        self._summed_at = time.monotonic()
        self.counts: Counter[str] = Counter()

    def step(self, step: Step) -> None:
        read = {record.partition for record in step.records}
        for outgoing in step.outgoing:
            if outgoing.topic in self._tell:
                # what goes by its key comes of the partition that was read, where it was one
                partition = outgoing.partition if outgoing.partition is not None or len(read) != 1 else min(read)
                self._tell[outgoing.topic](outgoing, partition)
        if step.outgoing and time.monotonic() - self._summed_at >= _SUMMARY_SECONDS:
            self._summed_at = time.monotonic()
            log.info(self.summary())

    def unavailable(self, name: str, error: Unavailable) -> None:
        warn(f"{name} waits. {error}")

    def summary(self) -> str:
        """One sentence: how many verdicts of which kind, and how many dead letters."""
        parts = ", ".join(f"{self.counts[decision]} {decision.value}" for decision in Decision)
        verdicts = sum(self.counts[decision] for decision in Decision)
        return f"{verdicts} verdicts ({parts}), {self.counts[DEAD_LETTERS]} dead letters"

    def _verdict(self, outgoing: Outgoing, partition: int | None) -> None:
        verdict = Verdict.decode(outgoing.value)
        self.counts[verdict.decision] += 1
        if self._as_json:
            emit_line({"topic": VERDICTS} | verdict.model_dump(mode="json"))
        elif verdict.decision is Decision.REJECT:
            fields = {"line": verdict.line, "partition": partition, "verdict_id": str(verdict.verdict_id)}
            results.info("%s  reject  %s  %s", verdict.line, verdict.image_id, "; ".join(verdict.reasons), extra=fields)

    def _alert(self, outgoing: Outgoing, partition: int | None) -> None:
        alert = Alert.decode(outgoing.value)
        if self._as_json:
            emit_line({"topic": ALERTS} | alert.model_dump(mode="json"))
        elif alert.kind is not AlertKind.REJECT:  # the verdict was told
            fields = {"line": alert.line, "partition": partition}
            results.info("%s  %s  %s", alert.line, alert.kind.value, alert.message, extra=fields)

    def _dead_letter(self, outgoing: Outgoing, partition: int | None) -> None:
        self.counts[DEAD_LETTERS] += 1
        if not self._as_json:
            fields, headers = {"line": outgoing.key, "partition": partition}, outgoing.headers
            results.info(
                "%s  dead letter  %s  %s", outgoing.key, headers.get("ce_id", ""), headers.get(REASON, ""), extra=fields
            )
