"""The demonstration on real servers, with workers in processes of their own."""

from pathlib import Path

import pytest

from flowgauge.reports.story import Story
from tests.integration.test_demo import SIDE, TESTING, TRAINING, recorded
from tests.support.servers import S3Address, plant_variables
from tests.support.shell import Shell

__all__ = ["recorded"]


@pytest.mark.slow
def test_a_line_on_a_real_plant_drifts_is_adapted_to_and_every_image_is_tested(
    flowgauge: Shell,
    recorded: Path,
    tmp_path: Path,
    kafka_bootstrap: str,
    redis_url: str,
    s3_address: S3Address,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for variable, value in plant_variables(kafka_bootstrap, redis_url, s3_address).items():
        monkeypatch.setenv(variable, value)
    out = tmp_path / "demo"
    real = ("--stack", "--lines", 1, "--rate", 10, "--data", recorded, "--phases", recorded / "phases.json")
    outcome = flowgauge("demo", *real, "--out", out, "--size", SIDE, "--device", "cpu", "--json")
    assert outcome.code == 0, outcome.err
    (summary,) = outcome.json
    sent = TRAINING + TESTING
    assert summary["counts"] == {"sent": sent, "verdicts": sent, "missing": 0, "dead_letters": 0}
    assert len(summary["adaptations"]) == 1
    (folder,) = (path.parent for path in out.glob("*/story.json"))
    assert (folder / "report.html").stat().st_size > 10_000
    story = Story.model_validate_json((folder / "story.json").read_bytes())
    (adaptation,) = story.adaptations
    expected = {adaptation.report.version} if adaptation.report.accepted else {story.gauge.version}
    assert {point.adapted.version for point in story.points if not point.use_for_training} == expected
    assert all(point.frozen.score == pytest.approx(point.adapted.score, rel=1e-4) for point in story.points[:8])
    assert sorted(path.name for path in (out / "logs").iterdir()) == [
        "1-scoring.log",
        "2-scoring.log",
        "3-downstream.log",
        "4-adaptation.log",
    ]
