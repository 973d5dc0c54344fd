"""Drift on simulated lines: how soon it is found, how rarely it is imagined, and what it is taken for."""

from collections.abc import Callable
from random import Random
from statistics import median

import pytest

from flowgauge.drift.statistics import (
    REFERENCE,
    WINDOW,
    Cause,
    Drift,
    DriftMonitor,
    MonitorState,
    Observation,
    strongest_change,
)

WARMUP = 32


class Line:
    """Scores of unit deviation, with a share of `defects` 8 deviations up; light around `brightness`."""

    def __init__(self, seed: int) -> None:
        self._dice = Random(seed)

    def image(
        self,
        score: float = 0.0,
        brightness: float = 0.3,
        defects: float = 0.0,
        at: tuple[float, float] | None = None,
    ) -> Observation:
        dice = self._dice
        defective = dice.random() < defects
        return Observation(
            score=dice.gauss(score, 1) + (8 if defective else 0),
            statistics={
                "brightness": dice.gauss(brightness, 0.02),
                "contrast": dice.gauss(0.1, 0.01),
                "focus": dice.gauss(-2, 0.3),
            },
            peak=at or (dice.random(), dice.random()),
        )


Scene = Callable[[Line], Observation]


def drifts(monitor: DriftMonitor, line: Line, scene: Scene, images: int) -> list[tuple[int, Drift]]:
    """What the monitor told, each with the number of the image."""
    reported = ((number, monitor.observe(scene(line), WARMUP)) for number in range(1, images + 1))
    return [(number, drift) for number, drift in reported if drift is not None]


def found(scene: Scene, seed: int, before: int = 200) -> tuple[int, Drift]:
    """How many images into `scene` a drift was found, and what it was taken for once it had settled."""
    line, monitor = Line(seed), DriftMonitor()
    assert drifts(monitor, line, Line.image, before) == []
    (delay, first), (_, settled) = drifts(monitor, line, scene, 300)[:2]
    assert first.defects is None
    assert first.causes
    return delay, settled


def test_five_thousand_images_of_a_steady_line_raise_no_alarm() -> None:
    for seed in range(2):
        assert drifts(DriftMonitor(), Line(seed), Line.image, 5_000) == []


def test_a_steady_share_of_defects_raises_no_alarm() -> None:
    assert drifts(DriftMonitor(), Line(0), lambda line: line.image(defects=0.05), 1_000) == []


def test_a_shift_of_one_and_a_half_deviations_is_found_within_a_hundred_images() -> None:
    delays = [found(lambda line: line.image(score=1.5), seed)[0] for seed in range(8)]
    assert max(delays) <= 60
    assert median(delays) <= 30


def test_a_change_of_light_is_named_first_and_is_no_wave_of_defects() -> None:
    for seed in range(6):
        _, drift = found(lambda line: line.image(score=3, brightness=0.35), seed)
        assert [cause.signal for cause in drift.causes] == ["brightness", "score"]
        assert drift.defects is False
        assert drift.sentence.startswith("brightness rose from 0.3")


@pytest.mark.parametrize(
    ("before", "after", "shown"), [(0.3, 0.4, "0.3 to 0.4"), (0.158, 0.163, "0.158 to 0.163"), (1.0, 1.0, "1 to 1")]
)
def test_a_cause_has_as_many_digits_as_tell_before_from_after(before: float, after: float, shown: str) -> None:
    assert str(Cause(signal="focus", before=before, after=after)).endswith(f"from {shown}")


def test_light_alone_is_a_drift_though_the_scores_stay() -> None:
    _, drift = found(lambda line: line.image(brightness=0.24), 0)
    assert [cause.signal for cause in drift.causes] == ["brightness"]
    assert drift.sentence.startswith("brightness fell")


def test_a_new_texture_that_shows_on_every_image_is_no_wave_of_defects() -> None:
    assert [found(lambda line: line.image(score=3), seed)[1].defects for seed in range(6)] == [False] * 6


def test_defects_on_every_third_image_are_a_wave_of_defects() -> None:
    assert [found(lambda line: line.image(defects=0.35), seed)[1].defects for seed in range(6)] == [True] * 6


def test_a_mark_in_one_patch_on_every_image_is_a_wave_of_defects() -> None:
    marked = [found(lambda line: line.image(score=6, at=(0.1, 0.2)), seed)[1].defects for seed in range(6)]
    assert marked == [True] * 6


def test_scores_that_fall_are_no_defects() -> None:
    _, drift = found(lambda line: line.image(score=-2), 0)
    assert drift.defects is False


def test_a_line_that_was_off_from_its_first_image_drifted_from_the_calibration() -> None:
    (number, first), (_, settled) = drifts(DriftMonitor(), Line(0), lambda line: line.image(score=4), 70)
    assert number == REFERENCE
    assert first.causes[0].before == 0
    assert settled.defects is False


def test_a_change_that_has_passed_before_it_settled_has_no_causes() -> None:
    line, monitor = Line(1), DriftMonitor()
    drifts(monitor, line, Line.image, 200)
    flash = lambda line: line.image(brightness=0.5)  # noqa: E731
    [(_, first)] = drifts(monitor, line, flash, 12)
    [(_, settled)] = drifts(monitor, line, Line.image, 600)
    assert first.causes[0].signal == "brightness"
    assert not [cause for cause in settled.causes if cause.signal == "score"]
    assert settled.defects is False


def test_a_monitor_that_is_restored_goes_on_as_if_it_had_never_stopped() -> None:
    def scene(line: Line, number: int) -> Observation:
        return line.image(score=0 if number < 700 else 1.5)

    line, steady, restored = Line(5), DriftMonitor(), DriftMonitor()
    for number in range(1_000):
        image = scene(line, number)
        if number % 97 == 0 or number in (700, 720, 740):
            restored = DriftMonitor(MonitorState.model_validate_json(restored.state.model_dump_json()))
        assert steady.observe(image, WARMUP) == restored.observe(image, WARMUP)


def test_a_monitor_s_state_stays_bounded() -> None:
    monitor, line = DriftMonitor(), Line(2)
    for _ in range(3 * WINDOW):
        monitor.observe(line.image(), WARMUP)
        assert len(monitor.state.seen) <= WINDOW


@pytest.mark.parametrize(("before", "after"), [(50, 10), (10, 50), (20, 5)])
def test_the_strongest_change_is_where_it_was_made(before: int, after: int) -> None:
    assert strongest_change([0.0] * before + [1.0] * after).index == before


def test_a_series_that_stands_still_has_no_change() -> None:
    assert strongest_change([2.0] * 40).strength == 0
