"""Detectors beside each other: how figures are put together, and what the page draws of them."""

import os
import re
import select
import subprocess
import sys
from base64 import b64encode
from pathlib import Path

import pytest

from flowgauge.domain.messages import Decision
from flowgauge.evaluation.comparison import MIB, Contender, Shown, Spread, standings
from flowgauge.evaluation.results import ClassFigures, ImageResult, Run
from flowgauge.reports.comparisons import render_comparison, roc

PIXEL = b64encode(b"\xff\xd8\xff a JPEG begins so").decode()
SCORES = {"good": (0.1, 0.2, 0.3, 0.6), "dent": (0.5, 0.9), "hole": (0.6,)}


def run(seed: int = 0, auroc: float | None = 0.8) -> Run:
    figures = {name: 0.5 for name in ("pixel_auroc", "aupro", "threshold", "miss_share", "false_alarm_share")}
    speeds = {"fit_seconds": 60.0, "images_per_second": 20.0, "backbone_images_per_second": 40.0, "speed_ratio": 0.5}
    images = tuple(
        ImageResult(name=f"test/{kind}/{rank}.png", kind=kind, score=score, decision=Decision.PASS)
        for kind, scores in SCORES.items()
        for rank, score in enumerate(scores)
    )
    kinds = {
        kind: ClassFigures(image_auroc=auroc, pixel_auroc=None, aupro=None, miss_share=0.5, images=len(scores))
        for kind, scores in SCORES.items()
        if kind != "good"
    }
    return Run(
        **figures,
        **speeds,
        seed=seed,
        noise=None,
        mislabelled_share=0.0,
        image_auroc=auroc,
        promised_false_alarm_share=0.05,
        review_share=0.1,
        fitted_images=30,
        good_images=4,
        defective_images=3,
        image_auroc_interval=None,
        per_class=kinds,
        regions=0,
        left_out_of_pixel_metrics=(),
        unreadable={},
        groups_on_both_sides=None,
        images=images,
    )


def contender(name: str, seed: int = 0, auroc: float | None = 0.8, shown_images: bool = False) -> Contender:
    shown = (Shown(name="test/dent/0.png", kind="dent", picture=PIXEL, heatmap=PIXEL),) if shown_images else ()
    return Contender(
        detector=name,
        seed=seed,
        run=run(seed, auroc),
        peak_bytes=512 * MIB,
        snapshot_bytes=3 * MIB // 2,
        shown_images=shown,
    )


def test_the_best_stands_first_and_figures_are_means_over_seeds() -> None:
    found = standings([contender("a", 0, 0.7), contender("b", 0, 0.8), contender("b", 1, 0.9)])
    assert [ranking.detector for ranking in found] == ["b", "a"]
    best = found[0]
    assert best.seeds == (0, 1)
    assert best.image_auroc is not None
    assert best.image_auroc.mean == pytest.approx(0.85)
    assert best.image_auroc.deviation == pytest.approx(0.1 / 2**0.5)
    assert best.snapshot_mib == Spread(mean=1.5, deviation=0.0)
    assert best.classes.keys() == {"dent", "hole"}
    assert found[1].image_auroc == Spread(mean=0.7, deviation=None)


def test_what_could_not_be_measured_is_no_number() -> None:
    (found,) = standings([contender("a", auroc=None)])
    assert found.image_auroc is None
    assert "–" in render_comparison("tiles", [contender("a", auroc=None)])


def test_a_roc_curve_goes_from_none_to_all_and_takes_ties_in_one_step() -> None:
    assert roc(run()) == [
        (0.0, 0.0),
        (0.0, pytest.approx(1 / 3)),
        (0.25, pytest.approx(2 / 3)),  # a good image and a hole share this score
        (0.25, 1.0),
        (0.5, 1.0),
        (0.75, 1.0),
        (1.0, 1.0),
    ]


def test_the_page_shows_every_detector_in_every_part() -> None:
    whole = render_comparison(
        "tiles", [contender("first", shown_images=True), contender("second", auroc=0.7, shown_images=True)]
    )
    assert len(re.findall(r'<th scope="row">first</th>', whole)) == 3
    assert len(re.findall(r'<th scope="row">second</th>', whole)) == 3
    assert whole.count('class="curve"') == 2
    assert whole.count("<img") == 3
    assert "first ranks them best" in whole


def test_the_page_has_no_gallery_without_pictures_and_escapes_names() -> None:
    whole = render_comparison("<b>tiles</b>", [contender("first")])
    assert "Wall of heatmaps" not in whole
    assert "<b>tiles" not in whole
    assert render_comparison("<b>tiles</b>", [contender("first")]) == whole


_MEASURED = """
import os, time
from concurrent.futures import ProcessPoolExecutor
from flowgauge.cli.benchmark.detectors import PROCESSES, begin
from flowgauge.domain.image_limits import ImageLimits

if __name__ == "__main__":
    with ProcessPoolExecutor(1, mp_context=PROCESSES, initializer=begin, initargs=(ImageLimits(),)) as pool:
        print(pool.submit(os.getpid).result(), flush=True)
        pool.submit(time.sleep, 600)
        time.sleep(600)
"""


def test_a_killed_command_leaves_no_process_that_measures(tmp_path: Path) -> None:
    script = tmp_path / "measuring.py"
    script.write_text(_MEASURED)
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as command:
        assert command.stdout is not None
        os.kill(int(command.stdout.readline()), 0)
        command.kill()
        ended, _, _ = select.select([command.stdout], [], [], 60)
        assert ended, "some process still holds the output open"
        assert command.stdout.read() == ""
