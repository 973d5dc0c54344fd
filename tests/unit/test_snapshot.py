import hashlib
import json

import numpy as np
import pytest
import safetensors.torch
import torch

from flowgauge.domain.errors import SnapshotCorrupt, SnapshotOfOtherSchema
from flowgauge.domain.messages import Decision, Statistics
from flowgauge.models.registry import DETECTORS
from flowgauge.training.gauge import Gauge, decide, predict_each
from flowgauge.training.manifest import Range
from flowgauge.training.snapshot import Snapshot, load, read_manifest, save, with_threshold
from tests.support.gauges import AT, defects, gauge, goods


@pytest.fixture(params=sorted(DETECTORS))
def fitted(request: pytest.FixtureRequest) -> Gauge:
    return gauge(str(request.param))


@pytest.fixture
def snapshot() -> Snapshot:
    return save(gauge())


def test_a_loaded_gauge_tests_bit_for_bit_as_the_saved_one(fitted: Gauge) -> None:
    stored = save(fitted)
    again = load(stored.manifest, stored.weights, sha256=stored.sha256)
    pictures = goods(range(40, 44)) + defects(range(40, 44))
    for ours, theirs in zip(again.predict(pictures), fitted.predict(pictures), strict=True):
        assert ours.score == theirs.score
        assert ours.decision == theirs.decision
        assert (ours.anomaly_map == theirs.anomaly_map).all()


def test_saving_a_loaded_gauge_gives_the_same_bytes(snapshot: Snapshot) -> None:
    again = save(load(snapshot.manifest, snapshot.weights))
    assert again == snapshot


def test_a_snapshot_brings_images_to_check_engines_by(fitted: Gauge) -> None:
    stored = save(fitted)
    again = load(stored.manifest, stored.weights)
    assert again.probes.shape == (8, *fitted.probes.shape[1:])
    assert len(np.unique(again.probes.reshape(8, -1), axis=0)) == 8
    np.testing.assert_array_equal(again.probes, fitted.probes)


def test_weights_without_probe_images_are_refused(snapshot: Snapshot) -> None:
    state = safetensors.torch.load(snapshot.weights)
    del state["probes"]
    weights = safetensors.torch.save(state)
    facts = json.loads(snapshot.manifest) | {"weights_sha256": hashlib.sha256(weights).hexdigest()}
    with pytest.raises(SnapshotCorrupt, match="probes"):
        load(json.dumps(facts).encode(), weights)


def test_the_manifest_names_what_a_verdict_depends_on(snapshot: Snapshot) -> None:
    facts = json.loads(snapshot.manifest)
    assert facts["backbone"]["sha256"]
    assert facts["preprocessing"]["sixteen_bit"]
    assert facts["detector"]["config"]["dimensions"] == 24
    assert facts["threshold"]["low"] <= facts["threshold"]["value"] <= facts["threshold"]["high"]
    assert facts["anchor"] == facts["version"]
    assert facts["software"].startswith("flowgauge ")


@pytest.mark.parametrize("index", [0, 100, -1])
def test_one_flipped_bit_in_the_weights_is_refused(snapshot: Snapshot, index: int) -> None:
    broken = bytearray(snapshot.weights)
    broken[index] ^= 1
    with pytest.raises(SnapshotCorrupt, match="do not match"):
        load(snapshot.manifest, bytes(broken))


def test_a_changed_manifest_is_refused_where_its_hash_is_known(snapshot: Snapshot) -> None:
    changed = snapshot.manifest.replace(b'"press-3"', b'"press-4"')
    assert changed != snapshot.manifest
    with pytest.raises(SnapshotCorrupt, match="announced"):
        load(changed, snapshot.weights, sha256=snapshot.sha256)


@pytest.mark.parametrize(
    ("schema", "remedy"), [(99, "Upgrade"), (3, "measured, have"), (2, "measured, have"), (1, "Fit the line again")]
)
def test_another_schema_is_refused_with_what_to_do(snapshot: Snapshot, schema: int, remedy: str) -> None:
    facts = json.loads(snapshot.manifest) | {"schema_version": schema}
    with pytest.raises(SnapshotOfOtherSchema, match=remedy):
        load(json.dumps(facts).encode(), snapshot.weights)


@pytest.mark.parametrize(
    "manifest", [b"", b"no json", b"[]", b"{}", b'{"schema_version": 1}', b'{"schema_version": "x"}']
)
def test_what_is_no_manifest_is_refused(manifest: bytes) -> None:
    with pytest.raises((SnapshotCorrupt, SnapshotOfOtherSchema)):
        read_manifest(manifest)


def test_a_prediction_does_not_depend_on_its_neighbours() -> None:
    pictures = goods(range(40, 42)) + defects(range(3))
    together = gauge().predict(pictures)
    for picture, prediction in zip(pictures, together, strict=True):
        assert gauge().predict([picture])[0].score == pytest.approx(prediction.score, rel=1e-4)


def test_gauges_of_many_lines_share_a_batch_and_keep_their_own_scores() -> None:
    pictures = goods(range(40, 44))
    pairs = [(gauge("headflow" if i % 2 else "rad"), picture) for i, picture in enumerate(pictures)]
    for (own, picture), prediction in zip(pairs, predict_each(pairs), strict=True):
        assert prediction.score == pytest.approx(own.predict([picture])[0].score, rel=1e-4)


def test_defects_score_higher_than_good_parts(fitted: Gauge) -> None:
    good = [prediction.score for prediction in fitted.predict(goods(range(40, 56)))]
    bad = [prediction.score for prediction in fitted.predict(defects(range(40, 56)))]
    wins = sum(b > g for b in bad for g in good) / len(bad) / len(good)
    assert wins > 0.75


def test_a_score_inside_the_interval_is_for_review() -> None:
    facts = gauge().manifest
    ordinary = _ordinary()
    assert decide(facts, facts.threshold.value, ordinary)[0] is Decision.REVIEW
    assert decide(facts, facts.threshold.high + 1e-6, ordinary)[0] is Decision.REJECT
    assert decide(facts, facts.threshold.low - 1e-6, ordinary) == (Decision.PASS, ())


def test_light_outside_the_calibrated_range_is_for_review_whatever_the_score() -> None:
    facts = gauge().manifest
    bright = _ordinary().model_copy(update={"brightness": facts.ranges.brightness.high + 0.01})
    decision, reasons = decide(facts, facts.threshold.high + 9, bright)
    assert decision is Decision.REVIEW
    assert reasons[0].startswith("brightness")


def test_the_light_of_the_fit_is_no_reason_for_review_where_images_are_corrected_to_it() -> None:
    facts = gauge().manifest
    low, high = facts.ranges.brightness.low - 0.4, facts.ranges.brightness.low - 0.2
    dim = facts.ranges.model_copy(update={"brightness": Range(low=low, high=high)})
    corrected = facts.model_copy(update={"ranges": dim, "fit_ranges": facts.ranges})
    good = facts.threshold.low - 1e-6
    for brightness, decision in (
        (_ordinary().brightness, Decision.PASS),
        ((low + high) / 2, Decision.PASS),
        (high + 0.1, Decision.REVIEW),  # a lamp that fails is neither
    ):
        assert decide(corrected, good, _ordinary().model_copy(update={"brightness": brightness}))[0] is decision


def _ordinary() -> Statistics:
    ranges = gauge().manifest.ranges

    def middle(bounds: Range) -> float:
        return (bounds.low + bounds.high) / 2

    return Statistics(
        brightness=middle(ranges.brightness), contrast=middle(ranges.contrast), focus=middle(ranges.focus)
    )


def test_the_peak_and_the_regions_lie_on_the_picture() -> None:
    for picture in defects(range(4)):
        prediction = gauge().predict([picture])[0]
        assert 0 <= prediction.peak[0] <= 1
        assert 0 <= prediction.peak[1] <= 1
        width, height = picture.size
        assert all(0 <= r.left < r.right <= width and 0 <= r.top < r.bottom <= height for r in prediction.regions)


def test_the_gradients_of_maps_leave_no_trace() -> None:
    assert torch.is_grad_enabled()
    gauge("rad").predict(goods(range(1)))
    assert all(p.grad is None for p in gauge("rad").detector.parameters())


def test_a_gauge_with_another_threshold_scores_the_same_and_decides_otherwise(snapshot: Snapshot) -> None:
    before = read_manifest(snapshot.manifest)
    lower = min(before.threshold.scores) - 1
    manifest, version = with_threshold(snapshot.manifest, lambda limit: limit.moved_to(lower), AT)
    changed = load(manifest, snapshot.weights)
    assert version == changed.version != before.version
    assert (changed.manifest.parent, changed.manifest.anchor) == (before.version, before.anchor)
    [ours], [theirs] = changed.predict(goods(range(40, 41))), gauge().predict(goods(range(40, 41)))
    assert ours.score == theirs.score
    assert ours.threshold == lower < theirs.threshold
