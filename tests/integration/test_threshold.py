"""`flowgauge threshold` and `flowgauge snapshots compare` on a line that streamed."""

from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

from flowgauge.app.bootstrap import open_store
from flowgauge.domain.messages import Decision
from flowgauge.processors.archive import archived
from flowgauge.registry.snapshots import active_snapshot, fetch_manifest
from flowgauge.services.changes import latest_changes
from flowgauge.services.snapshots import stored_gauge
from flowgauge.services.threshold import line_evidence, stored_threshold
from flowgauge.training import gauge as gauges
from flowgauge.training.snapshot import read_manifest
from flowgauge.vision import augmentation
from flowgauge.vision.augmentation import View
from flowgauge.vision.preprocessing import Preprocessing
from tests.support.plants import LINE, fitted_store, tiny_dataset
from tests.support.shell import Shell


@pytest.fixture
def store(flowgauge: Shell, tmp_path: Path) -> Path:
    """The line has scored its 12 test images, 6 of them defective; all of them are golden under other names too."""
    root, test = fitted_store(tmp_path / "store"), tiny_dataset() / "test"
    assert flowgauge("lines", "set", LINE, "policy=off", "--store", root).code == 0
    assert flowgauge("run", test, "--line", LINE, "--store", root, "--once", "--device", "cpu").code == 0
    return root


def golden(flowgauge: Shell, store: Path, *kinds: str) -> None:
    for kind in kinds:
        label = "good" if kind == "good" else "defect"
        done = flowgauge("golden", "add", LINE, tiny_dataset() / "test" / kind, "--label", label, "--store", store)
        assert done.code == 0, done.err


def test_show_tells_what_thresholds_cost_and_draws_the_scores(flowgauge: Shell, store: Path, tmp_path: Path) -> None:
    golden(flowgauge, store, "good", "scratch", "stain")
    flowgauge("lines", "set", LINE, "cost_false_alarm=1", "cost_miss=10", "defect_rate=0.1", "--store", store)
    for name, magic in (("scores.png", b"\x89PNG"), ("scores.svg", b"<svg")):
        done = flowgauge("threshold", "show", LINE, "--store", store, "--plot", tmp_path / name)
        assert done.code == 0, done.err
        assert (tmp_path / name).read_bytes().startswith(magic)
    assert "costs least" in done.out
    assert "Clopper-Pearson intervals from 6 labelled defects" in done.out
    assert flowgauge("threshold", "show", LINE, "--store", store, "--plot", tmp_path / "scores.txt").code == 2
    shown = flowgauge("threshold", "show", LINE, "1", "9", "--per-day", "5000", "--store", store, "--json").json
    active = shown["threshold"]
    assert [point["threshold"] for point in shown["points"]] == sorted([1, 9, active])
    assert (shown["labelled_good"], shown["labelled_defects"], shown["archived"]) == (6, 6, 12)
    assert (shown["images_a_day"], shown["defect_rate"]) == (5000, 0.1)
    with open_store(str(store)) as plant:
        facts = read_manifest(fetch_manifest(plant.objects, LINE, active_snapshot(plant.log, LINE).version))
        verdicts = list(archived(plant.objects, LINE))
    defects = [each for each in verdicts if not each.image_id.startswith("good")]
    for point in shown["points"]:
        missed = np.mean([each.score is not None and each.score <= point["threshold"] for each in defects])
        assert point["misses"]["mean"] == pytest.approx(missed), "the golden images are the streamed ones, scored again"
        inside = [each.score is not None and point["low"] <= each.score <= point["high"] for each in verdicts]
        assert point["review"] == pytest.approx(np.mean(inside))
    (own,) = (point for point in shown["points"] if point["threshold"] == active)
    assert (own["low"], own["high"]) == (facts.threshold.low, facts.threshold.high)
    assert own["promised"] == pytest.approx(facts.threshold.promised, abs=0.02)


def test_what_cannot_be_known_is_left_out(flowgauge: Shell, store: Path) -> None:
    shown = flowgauge("threshold", "show", LINE, "--store", store)
    assert "Misses cannot be known" in shown.out
    document = flowgauge("threshold", "show", LINE, "--store", store, "--json").json
    assert all(point["misses"] is point["cost"] is None for point in document["points"])
    assert document["defect_rate"] is None
    assert document["cheapest"] is None
    assert flowgauge("threshold", "show", "nowhere", "--store", store).code == 2
    assert flowgauge("threshold", "show", LINE, "nan", "--store", store).code == 2


def test_images_that_were_labelled_because_they_were_flagged_count_in_no_share(flowgauge: Shell, store: Path) -> None:
    with open_store(str(store)) as plant:
        flagged = [each for each in archived(plant.objects, LINE) if each.decision is not Decision.PASS]
    assert len(flagged) >= 4
    for verdict in flagged:
        label = "good" if verdict.image_id.startswith("good") else "defect"
        assert flowgauge("label", verdict.verdict_id, label, "--store", store).code == 0
    shown = flowgauge("threshold", "show", LINE, "1e6", "--store", store, "--json").json
    defects = sum(not each.image_id.startswith("good") for each in flagged)
    highest = shown["points"][-1]
    assert (shown["labelled_good"], shown["labelled_defects"]) == (0, 0)
    assert shown["flagged_before_labelling"] == len(flagged)
    assert (highest["misses"], highest["flagged"], highest["flagged_passed"]) == (None, defects, defects)
    assert shown["defect_rate"] == pytest.approx(defects / 12), "all that were flagged are labelled"


def test_labelled_images_are_scored_once_for_all_thresholds_of_the_gauge(
    flowgauge: Shell, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    golden(flowgauge, store, "scratch")
    with open_store(str(store)) as plant:
        assert line_evidence(plant, LINE).unscored == 3
        first = line_evidence(plant, LINE, score=lambda: stored_gauge(plant, LINE))
        made = stored_threshold(plant, LINE, "lee", false_alarms=0.2)
        assert active_snapshot(plant.log, LINE).version == made.parent, "stored, and not announced"
    assert flowgauge("threshold", "set", LINE, "--false-alarms", "0.2", "--store", store).code == 0
    with open_store(str(store)) as plant:

        def never() -> gauges.Gauge:
            raise AssertionError("the same weights give the same scores")

        again = line_evidence(plant, LINE, score=never)
    assert again.version != first.version
    assert again.known.defects.scores.tolist() == first.known.defects.scores.tolist()
    assert len(again.known.recent) == 12, "verdicts of the gauge with the same weights"


def test_a_person_s_threshold_says_who_set_it_and_what_it_implies(flowgauge: Shell, store: Path) -> None:
    before = flowgauge("snapshots", "show", LINE, "--store", store, "--json").json
    wanted = sorted(before["threshold"]["scores"])[-3]
    done = flowgauge("threshold", "set", LINE, str(wanted), "--why", "too many rejects", "--store", store)
    assert done.code == 0, done.err
    assert "too many rejects" in done.out
    after = flowgauge("snapshots", "show", LINE, "--store", store, "--json").json
    limit = after["threshold"]
    assert (after["parent"], after["anchor"]) == (before["version"], before["anchor"])
    assert (limit["rule"], limit["why"], limit["scores"]) == (
        "person",
        "too many rejects",
        before["threshold"]["scores"],
    )
    assert limit["set_by"]
    assert limit["promised"] == pytest.approx(3 / (len(limit["scores"]) + 1))
    with open_store(str(store)) as plant:
        change = latest_changes(plant, 1)[0]
    assert (change.action, change.before["version"], change.after["threshold"]) == (
        "threshold",
        before["version"],
        wanted,
    )
    moved = flowgauge("threshold", "set", LINE, str(wanted + 1), "--keep-promise", "--store", store)
    assert moved.code == 0, moved.err
    last = flowgauge("snapshots", "show", LINE, "--store", store, "--json").json["threshold"]
    assert last["promised"] == limit["promised"]
    assert last["scores"] == pytest.approx([score + 1 for score in limit["scores"]])


def test_a_threshold_that_makes_no_sense_needs_a_yes(flowgauge: Shell, store: Path) -> None:
    version = flowgauge("snapshots", "show", LINE, "--store", store, "--json").json["version"]
    for value, cause in (("nan", "no threshold"), ("1e9", "far above"), ("-1e9", "would be rejected")):
        refused = flowgauge("threshold", "set", LINE, "--store", store, "--", value)
        assert (refused.code, cause in refused.err) == (2, True), refused.err
    assert flowgauge("threshold", "set", LINE, "1", "--false-alarms", "0.1", "--store", store).code == 2
    assert flowgauge("snapshots", "show", LINE, "--store", store, "--json").json["version"] == version
    assert flowgauge("threshold", "set", LINE, "1e9", "--yes", "--store", store).code == 0


def test_two_snapshots_are_compared_on_the_same_images(
    flowgauge: Shell, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    golden(flowgauge, store, "good", "scratch")
    first = flowgauge("snapshots", "show", LINE, "--store", store, "--json").json
    flowgauge("threshold", "set", LINE, "--false-alarms", "0.4", "--store", store)
    second = flowgauge("snapshots", "show", LINE, "--store", store, "--json").json
    given = (first["version"], second["version"], "--line", LINE, "--store", store)
    passes: list[int] = []

    def normalised(preprocessing: Preprocessing, crops: np.ndarray, view: View) -> Tensor:
        passes.append(len(crops))
        return augmentation.normalised(preprocessing, crops, view)

    monkeypatch.setattr(gauges, "normalised", normalised)
    done = flowgauge("snapshots", "compare", *given, "--json")
    assert done.code == 0, done.err
    assert sum(passes) == 12, "one pass of the backbone for both gauges, and each image once though it is golden too"
    images = done.json["images"]
    assert sorted(each["label"] or "" for each in images) == [""] * 3 + ["defect"] * 3 + ["good"] * 6
    for each in images:
        assert each["scores"][0] == each["scores"][1]
    shares = done.json["shares"]
    good = [each["scores"][0] for each in images if each["label"] == "good"]
    alarms = [sum(score > side["threshold"]["value"] for score in good) for side in (first, second)]
    share = shares["false alarms, of labelled good images"]
    assert (share["first"], share["second"]) == pytest.approx((alarms[0] / 6, alarms[1] / 6))
    assert share["only_first"] == 0
    assert share["interval"][0] <= share["difference"] <= share["interval"][1]
    page_made = flowgauge("snapshots", "compare", *given, "--html", tmp_path / "compared.html")
    changed = [each for each in images if each["decisions"][0] != each["decisions"][1]]
    assert f"{len(changed)} of 12 decisions differ" in page_made.out
    page = (tmp_path / "compared.html").read_text()
    assert page.count("data:image/jpeg") == len(changed) > 0
    assert flowgauge("snapshots", "compare", "fit-none", *given[1:]).code == 2


def test_a_compared_score_is_the_verdict_s(flowgauge: Shell, store: Path) -> None:
    version = flowgauge("snapshots", "show", LINE, "--store", store, "--json").json["version"]
    done = flowgauge("snapshots", "compare", version, version, "--line", LINE, "--store", store, "--json")
    with open_store(str(store)) as plant:
        scores = {each.image_id: each.score for each in archived(plant.objects, LINE)}
    assert {each["name"]: each["scores"][0] for each in done.json["images"]} == pytest.approx(scores, abs=1e-3)
    assert all(share["difference"] == 0 for share in done.json["shares"].values())
