"""Every detector through the whole embedded pipeline: its snapshot is published, loaded by the run, and scores."""

from pathlib import Path

import pytest

from flowgauge.app.bootstrap import open_store
from flowgauge.models.registry import DETECTORS
from flowgauge.processors.archive import archived
from flowgauge.registry.snapshots import SnapshotFiles, publish_snapshot
from flowgauge.training.snapshot import save
from tests.support.gauges import gauge, goods, line, png
from tests.support.shell import Shell


@pytest.mark.parametrize("detector", sorted(DETECTORS))
def test_a_stream_is_scored_as_the_gauge_scores_alone(flowgauge: Shell, tmp_path: Path, detector: str) -> None:
    fitted, incoming = gauge(detector), tmp_path / "incoming"
    incoming.mkdir()
    for index in range(70, 74):
        (incoming / f"{index}.png").write_bytes(png(line().good(index).pixels))
    with open_store(str(tmp_path / "store")) as plant:
        snapshot = save(fitted)
        files = SnapshotFiles(snapshot.manifest, snapshot.weights)
        publish_snapshot(plant, "press-3", snapshot.version, files, None)

    done = flowgauge("run", incoming, "--line", "press-3", "--store", tmp_path / "store", "--once", "--device", "cpu")
    assert done.code == 0, done.err
    with open_store(str(tmp_path / "store")) as plant:
        verdicts = sorted(archived(plant.objects), key=lambda verdict: verdict.image_id)
    alone = fitted.predict(goods(range(70, 74)))
    assert [verdict.detector for verdict in verdicts] == [detector] * 4
    assert [verdict.score for verdict in verdicts] == pytest.approx([j.score for j in alone], rel=1e-4)
    assert [verdict.decision for verdict in verdicts] == [prediction.decision for prediction in alone]
