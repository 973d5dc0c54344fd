"""Who stops getting on says so: by pulse, whatever hangs, and by offsets, when nothing does."""

import subprocess
import sys
from pathlib import Path
from threading import Event

import pytest

from flowgauge.domain.errors import Stalled
from flowgauge.domain.messages import IMAGES
from flowgauge.runtime.group_member import Member
from flowgauge.runtime.liveness import Progress, Pulse, watchdog
from tests.support.streaming import SetClock, opened, png, send
from tests.unit.test_group_member import PARTITION, Echo


class Seconds:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_pulse_counts_the_seconds_since_the_last_beat() -> None:
    seconds = Seconds()
    pulse = Pulse(seconds)
    seconds.now = 7
    assert pulse.silent_seconds == 7
    pulse.beat()
    assert pulse.silent_seconds == 0


def test_a_watchdog_names_the_pulse_that_fell_silent() -> None:
    seconds = Seconds()
    silent, alive = Pulse(seconds), Pulse(seconds)
    reported: list[str] = []
    barked = Event()

    def bark(name: str, silence: float) -> None:
        reported.append(f"{name} {silence:.0f}")
        barked.set()

    seconds.now = 11
    alive.beat()
    with watchdog({"alive": alive, "silent": silent}, 0.04, bark):
        seconds.now = 11.01
        assert barked.wait(30)
    assert reported == ["silent 11"]


def test_a_process_that_hangs_is_ended_with_a_word() -> None:
    hanging = (
        "from flowgauge.cli.worker import _end\n"
        "from flowgauge.runtime.liveness import Pulse, watchdog\n"
        "with watchdog({'scoring': Pulse()}, 0.1, _end):\n"
        "    while True: pass\n"
    )
    done = subprocess.run([sys.executable, "-c", hanging], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert done.stderr == "Error: scoring has shown no life for 0 s. Start the worker again.\n"


def test_progress_is_missing_only_while_records_wait_at_one_offset() -> None:
    seconds = Seconds()
    progress = Progress(60, seconds)
    observed = []
    for now, position, waiting in [
        (0, 5, 3),
        (59, 5, 3),
        (61, 6, 2),
        (120, 6, 0),
        (200, 6, 0),
        (210, 6, 9),
        (271, 6, 9),
    ]:
        seconds.now = now
        observed.append(progress.at(position, waiting))
    assert observed == [True, True, True, True, True, True, False]


@pytest.mark.parametrize(("images", "stalls"), [(3, True), (0, False)])
def test_a_member_that_is_given_nothing_although_records_wait_raises(tmp_path: Path, images: int, stalls: bool) -> None:
    clock = SetClock()
    store = opened(tmp_path, clock)
    send(store, [(str(number), png(100)) for number in range(images)])
    member = Member(lambda: Echo(store), store.log, clock, stall_seconds=0)
    member.assigned({PARTITION: 0})
    if stalls:
        with pytest.raises(Stalled, match=f"no records of {IMAGES} 0 .* 3 wait from offset 0"):
            member.punctuate()
    else:
        member.punctuate()
        assert member.pulse.silent_seconds < 60
