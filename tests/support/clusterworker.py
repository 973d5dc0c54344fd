"""A worker of one role with light gauges, in a process of its own that a test kills. Servers by the environment.

SIGUSR1 sets its clock forward by `JUMP`, SIGUSR2 sets it right again.
"""

import argparse
import asyncio
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import perf_counter, sleep

from flowgauge.adaptation.contract import AdaptationInput, AdaptationOutcome
from flowgauge.app.bootstrap import open_store
from flowgauge.app.cluster import Pace, group_members
from flowgauge.cli.exits import exit_code
from flowgauge.cli.output import complain
from flowgauge.cli.worker import give_up
from flowgauge.domain.errors import FlowgaugeError, Unavailable
from flowgauge.models.prediction import Prediction
from flowgauge.runtime.faust_app import run_groups
from flowgauge.runtime.roles import Role
from flowgauge.vision.decoding import Picture
from tests.support.streaming import BrightnessGauge, adapt, load

JUMP = timedelta(hours=1, minutes=10)
_SLOW_SECONDS = 0.05


class JumpingClock:
    def __init__(self) -> None:
        self.ahead = timedelta()

    def now(self) -> datetime:
        return datetime.now(UTC) + self.ahead


@dataclass(frozen=True)
class SlowGauge(BrightnessGauge):
    """Takes `seconds` for a batch, as a large model would; from the beginning of one on there is a file `mark`."""

    seconds: float = 0.0
    mark: Path | None = None

    def predict_each(self, items: Sequence[tuple[BrightnessGauge, Picture]]) -> list[Prediction]:
        if self.mark is not None:
            self.mark.touch()
        sleep(self.seconds)
        return super().predict_each(items)

    def _prediction(self, picture: Picture) -> Prediction:
        """Of a version whose name begins with `slow`, each takes longer."""
        began = perf_counter()
        if self.version.startswith("slow"):
            sleep(_SLOW_SECONDS)
        return replace(super()._prediction(picture), seconds=perf_counter() - began)


@dataclass(frozen=True)
class SlowAdaptation:
    """Takes `seconds`, and tells of its progress all the while, as a real one does."""

    seconds: float

    def __call__(self, given: AdaptationInput) -> AdaptationOutcome:
        steps = int(self.seconds * 10)
        for step in range(steps):
            sleep(0.1)
            given.progress("adapting", step / steps)
        return adapt(given)


async def main(given: argparse.Namespace) -> None:
    stopping = asyncio.Event()
    clock = JumpingClock()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stopping.set)
    loop.add_signal_handler(signal.SIGUSR1, setattr, clock, "ahead", JUMP)
    loop.add_signal_handler(signal.SIGUSR2, setattr, clock, "ahead", timedelta())
    with open_store(given.uri, clock) as store:
        members = group_members(
            store,
            given.role,
            lambda *files: SlowGauge(**vars(load(*files)), seconds=given.predict_seconds, mark=given.mark),
            SlowAdaptation(given.adapt_seconds),
            pace=Pace(images=8, session_seconds=6.0, archive_rows=64),
            unavailable=report_unavailable,
        )
        await run_groups(members, stopping, give_up, given.stop_seconds)


def report_unavailable(name: str, error: Unavailable) -> None:
    print(f"{name} waits. {error}", file=sys.stderr, flush=True)  # noqa: T201  for whoever reads a failed test


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("uri")
    parser.add_argument("role", type=Role)
    parser.add_argument("--predict-seconds", type=float, default=0.0)
    parser.add_argument("--mark", type=Path)
    parser.add_argument("--adapt-seconds", type=float, default=0.0)
    # on a machine that many tests share a stop takes long; what a worker does whose servers are away is asked for
    parser.add_argument("--stop-seconds", type=float, default=60.0)
    given = parser.parse_args()
    try:
        asyncio.run(main(given))
    except FlowgaugeError as failure:  # as `flowgauge worker` ends
        complain(failure)
        sys.exit(exit_code(failure))
