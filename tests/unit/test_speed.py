"""The speed of a gauge: that the table is complete whatever is asked for, and what the page and the JSON make of it.

The clock moves by a millisecond with each look, so nothing depends on how fast the tests run.
"""

import json
from functools import partial
from itertools import count, product
from pathlib import Path

import numpy as np
import pytest
import torch

import flowgauge.cli.benchmark.speed as work
from flowgauge.domain.errors import UserError
from flowgauge.evaluation import speed, stopwatch
from flowgauge.evaluation.speed import SpeedBenchmark, camera_images, counted_flop, encoded
from flowgauge.evaluation.speed_results import (
    QUICK,
    TORCH,
    Case,
    GpuJpeg,
    ImageFormat,
    ImageSize,
    Plan,
    Quantiles,
    SpeedResults,
)
from flowgauge.evaluation.stopwatch import Stopwatch
from flowgauge.reports.speed import TABLES, render_speed
from flowgauge.training.fit import FitSettings
from flowgauge.training.gauge import Gauge
from flowgauge.training.snapshot import MANIFEST_NAME, WEIGHTS_NAME, save
from flowgauge.vision.decoding import decode
from flowgauge.vision.preprocessing import Preprocessing
from tests.support.gauges import gauge, goods
from tests.support.shell import Shell

PLAN = Plan(
    engines=(TORCH, "other"),
    sizes=(ImageSize.SMALL, ImageSize.MP_1_3),
    formats=(ImageFormat.JPEG, ImageFormat.BMP),
    lines=(3, 1),
    repeats=3,
)


BATCH = 4


def ticking() -> float:
    return next(_TICKS) / 1000


_TICKS = count()


def make(engine: str) -> Gauge:
    """Any name runs on torch."""
    return work.on_engine(gauge(), TORCH)


@pytest.fixture(scope="module")
def found() -> SpeedResults:
    """With smaller batches and fewer rounds than a person waits for: the clock shows the same times."""
    forwards = {"<other method>": lambda images: images.sum()}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(speed, "BATCH", BATCH)
        patched.setattr(stopwatch, "WARM_UPS", 1)
        return SpeedBenchmark(make, PLAN, "cpu", ticking, images=36, forwards=forwards).run()


def test_there_is_a_case_for_every_engine_size_and_format(found: SpeedResults) -> None:
    cases = [(case.engine, case.size, case.format) for case in found.cases]
    assert sorted(cases) == sorted(product(PLAN.engines, PLAN.sizes, PLAN.formats))
    for case in found.cases:
        assert case.reduction == (1 if case.size is ImageSize.SMALL else 2)
        assert case.resident_mib > 1
        assert case.device_mib is None


def test_the_engines_own_networks_are_timed_and_not_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = make(TORCH)
    compiled = plain.running_on(plain.backbone, plain.detector.score)

    def torchs(features: object) -> None:
        raise AssertionError("the engine scores by other networks")

    monkeypatch.setattr(plain.detector, "score", torchs)
    files = [encoded(pixels, ImageFormat.JPEG) for pixels in camera_images(ImageSize.SMALL)]
    case = SpeedBenchmark(make, PLAN, "cpu", ticking, images=36)._case(
        "other", compiled, ImageSize.SMALL, ImageFormat.JPEG, files
    )
    assert case.engine == "other"


def test_every_stage_takes_one_tick_of_the_clock(found: SpeedResults) -> None:
    for case in found.cases:
        stages = [value for _, value in case if isinstance(value, Quantiles)]
        assert len(stages) == 8
        for stage in stages:
            assert [stage.p50, stage.p95, stage.p99] == pytest.approx([1, 1, 1])
        assert case.predict_rate_single == pytest.approx(1000)
        assert [case.predict_rate, case.bytes_rate, case.backbone_rate] == pytest.approx([1000 * BATCH] * 3)


def test_every_number_of_lines_is_measured_and_only_further_lines_take_memory(found: SpeedResults) -> None:
    assert [(each.engine, each.lines) for each in found.lines] == [(e, n) for e in PLAN.engines for n in (1, 3)]
    for each in found.lines:
        assert each.rate == pytest.approx(1000 * BATCH)
        assert (each.resident_mib_per_line is None) is (each.lines == 1)
        assert each.device_mib_per_line is None


def test_the_lines_gauges_share_a_backbone_and_nothing_else() -> None:
    first, second = make(TORCH), make(TORCH)
    assert first.backbone is second.backbone
    assert first.detector is not second.detector
    picture = goods(range(1))
    assert first.predict(picture)[0].score == second.predict(picture)[0].score


def test_limits_are_said_for_every_engine(found: SpeedResults) -> None:
    assert [each.engine for each in found.rooflines] == list(PLAN.engines)
    for each in found.rooflines:
        assert each.tflops == pytest.approx(each.gflop_per_image * BATCH * 1000 / 1e3)
        assert each.shares == {"float32": pytest.approx(each.tflops / each.matmul_tflops["float32"])}


def test_operations_are_those_of_every_view() -> None:
    picture = goods(range(1))[0]
    once, twice = make(TORCH), make(TORCH)
    twice.detector.views *= 2
    assert counted_flop(twice, picture) == 2 * counted_flop(once, picture) > 0


def test_other_methods_stand_beside_the_gauges_own_networks(found: SpeedResults) -> None:
    assert [each.name for each in found.forwards] == ["featureflow", "<other method>"]
    assert not SpeedBenchmark(make, PLAN, "cpu", ticking, images=36)._forwards(make(TORCH))


def test_works_take_turns_after_a_warm_up() -> None:
    seen: list[str] = []
    times = Stopwatch(ticking, "cpu").in_turns({name: partial(seen.append, name) for name in "ab"}, 5)
    assert "".join(seen[-10:]) == "ab" * 5
    assert len(seen) > 10
    assert {name: len(each) for name, each in times.items()} == {"a": 5, "b": 5}


def test_quantiles_lie_between_the_times() -> None:
    found = Quantiles.of([float(time) for time in range(101)])
    assert (found.p50, found.p95, found.p99) == (50, 95, 99)


def test_the_gpus_decoder_is_measured_or_says_why_not() -> None:
    files = [encoded(pixels, ImageFormat.JPEG) for pixels in camera_images(ImageSize.SMALL)]
    found = SpeedBenchmark(make, PLAN, "cpu", ticking, images=36)._gpu_jpeg(ImageSize.SMALL, files)
    assert bool(found.reason) is (found.rate is None) is (found.rate_single is None) is not torch.cuda.is_available()


@pytest.mark.parametrize("format_", ImageFormat)
def test_files_hold_what_a_camera_of_that_size_takes(format_: ImageFormat) -> None:
    first, second = camera_images(ImageSize.MP_1_3)
    picture = decode(encoded(first, format_))
    assert picture.size == ImageSize.MP_1_3.pixels
    assert np.abs(picture.pixels.astype(int) - first).mean() < 3
    assert not np.array_equal(first, second)
    assert np.array_equal(first, camera_images(ImageSize.MP_1_3)[0])


def test_results_are_the_same_after_json(found: SpeedResults) -> None:
    text = found.model_dump_json()
    assert SpeedResults.model_validate_json(text) == found
    assert json.loads(text)["cases"][0]["latency"].keys() == {"p50", "p95", "p99"}


def test_the_page_has_every_row_and_escapes_it(found: SpeedResults) -> None:
    gpu = GpuJpeg(size=ImageSize.SMALL, reason="no <nvJPEG>")
    machine = found.machine.model_copy(update={"device": "<b>GPU</b>", "processor": "x & y"})
    page = render_speed(found.model_copy(update={"gpu_jpeg": (gpu,), "machine": machine}))
    assert page == render_speed(found.model_copy(update={"gpu_jpeg": (gpu,), "machine": machine}))
    for case in found.cases:
        assert page.count(f'<th scope="row">{case.engine}, {case.size} {case.format}</th>') == 2
    for each in found.lines:
        assert f'<th scope="row">{each.engine}, {each.lines}</th>' in page
    for table in TABLES:
        assert f"<h2>{table.title}</h2>" in page
    assert "&lt;other method&gt;" in page
    assert "no &lt;nvJPEG&gt;" in page
    assert "&lt;b&gt;GPU&lt;/b&gt;" in page
    assert "<b>" not in page
    assert "<other" not in page


def test_a_table_of_what_was_not_measured_is_left_out(found: SpeedResults) -> None:
    page = render_speed(found.model_copy(update={"forwards": ()}))
    assert "Beside other methods" not in page
    assert "JPEG on the GPU" not in page


def test_rows_are_as_wide_as_their_tables(found: SpeedResults) -> None:
    gpu = GpuJpeg(size=ImageSize.SMALL, rate=1.0, rate_single=1.0)
    for table in TABLES:
        rows = list(table.rows(found.model_copy(update={"gpu_jpeg": (gpu,)})))
        assert {len(row) for row in rows} == {len(table.columns)}, table.title


def test_the_quick_plan_is_a_part_of_the_whole_and_yields_to_what_is_said() -> None:
    whole = Plan()
    assert set(QUICK.sizes) < set(whole.sizes)
    assert set(QUICK.formats) < set(whole.formats)
    assert set(QUICK.lines) < set(whole.lines)
    assert work.PlanOptions(quick=True).plan() == QUICK
    asked = work.PlanOptions([TORCH, TORCH], [ImageSize.MP_12], [ImageFormat.BMP], "64,2", 7, quick=True)
    assert asked.plan() == Plan(
        engines=(TORCH,), sizes=(ImageSize.MP_12,), formats=(ImageFormat.BMP,), lines=(2, 64), repeats=7
    )


def test_baselines_without_their_library_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "find_spec", lambda name: None)
    assert work.require_baselines([]) == ()
    with pytest.raises(UserError, match="baselines"):
        work.require_baselines([work.Baseline.PADIM])


def test_inputs_that_are_too_small_for_a_baseline_are_refused() -> None:
    settings = FitSettings(preprocessing=Preprocessing(size=96))
    with pytest.raises(UserError, match="256 pixels"):
        work.baseline_forward(work.Baseline.EFFICIENT_AD, [], settings, "cpu", lambda what, done, total: None)


def test_a_stored_gauge_is_measured_as_tables_json_and_a_page(flowgauge: Shell, tmp_path: Path) -> None:
    snapshot, out, page = save(gauge()), tmp_path / "speed.json", tmp_path / "speed.html"
    (tmp_path / MANIFEST_NAME).write_bytes(snapshot.manifest)
    (tmp_path / WEIGHTS_NAME).write_bytes(snapshot.weights)
    asked = ("--image", "256px", "--format", "jpeg", "--lines", "1,2", "--repeats", "3", "--device", "cpu")
    done = flowgauge("benchmark", "speed", "--gauge", tmp_path, *asked, "--json", out, "--html", page)
    assert done.code == 0, done.err
    assert f"wrote {out}" in done.out
    assert "256px jpeg" in done.out
    found = SpeedResults.model_validate_json(out.read_bytes())
    (case,) = found.cases
    assert isinstance(case, Case)
    assert case.predict.p50 > 0
    assert [each.lines for each in found.lines] == [1, 2]
    assert found.subject.images == gauge().manifest.images
    assert page.read_text(encoding="utf-8") == render_speed(found)


def test_what_cannot_be_measured_is_said_before_the_work(flowgauge: Shell, tmp_path: Path) -> None:
    for options, said in (
        (("--engine", "magic"), "no engine 'magic'"),
        (("--lines", "a,b"), "no list of numbers"),
        (("--lines", "0,1"), "0 lines"),
        (("--gauge", tmp_path), "holds no snapshot"),
        (("--json", tmp_path / "nowhere" / "out.json"), "no place"),
        (("--html", tmp_path), "no place"),
    ):
        done = flowgauge("benchmark", "speed", *options, "--device", "cpu")
        assert done.code == 2
        assert said in done.err
