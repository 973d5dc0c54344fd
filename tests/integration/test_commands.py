"""The commands that need a gauge, from the first images of a line to a rollback."""

import json
import re
from pathlib import Path

import pytest

from flowgauge.app.bootstrap import open_store
from flowgauge.domain.messages import ADAPTATIONS, AdaptationRequest, Reason
from flowgauge.local.file_system import only_runner
from flowgauge.processors.line_monitor import Trigger
from flowgauge.synthetic.procedural import ProceduralLine
from tests.support.folders import write_dataset
from tests.support.plants import LINE, QUICK_FIT, SIDE, fitted_store, tiny_dataset
from tests.support.shell import Shell

FIT = ("--size", SIDE, "--device", "cpu", "--limit", 8, *QUICK_FIT)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return fitted_store(tmp_path / "store")


def test_a_gauge_that_was_fitted_as_by_default_tells_good_images_from_plain_defects(
    flowgauge: Shell, tmp_path: Path
) -> None:
    store, images = tmp_path / "store", sorted(tiny_dataset().glob("test/*/*.png"))
    few_and_small = ("--size", 64, "--limit", 8, "--device", "cpu")
    assert flowgauge("fit", tiny_dataset(), "--line", LINE, "--store", store, *few_and_small).code == 0
    done = flowgauge("score", LINE, *images, "--store", store, "--json")
    assert done.code == 0
    assert [each["image"] for each in done.json["images"]] == [str(image) for image in images]
    decisions = {(Path(each["image"]).parent.name, each["decision"]) for each in done.json["images"]}
    assert {("good", "pass"), ("stain", "reject")} <= decisions


def test_few_images_are_fitted_from_what_was_learned_on_other_lines(flowgauge: Shell, tmp_path: Path) -> None:
    fit = ("fit", tiny_dataset(), "--line", LINE, "--store", tmp_path / "store", "--size", 64, "--limit", 8)
    short = ("--set", "training.steps=10", "--device", "cpu", "--json")
    weights = [flowgauge(*fit, *short, *init).json["weights_sha256"] for init in ((), ("--init", "shipped"))]
    assert weights[0] == weights[1]
    assert flowgauge(*fit, *short, "--init", "random").json["weights_sha256"] != weights[0]
    wrong = flowgauge(*fit, "--set", "init_epochs=0")
    assert wrong.code == 2
    assert "init_epochs" in wrong.err


def test_a_score_is_shown_whole_where_no_terminal_is(flowgauge: Shell, store: Path) -> None:
    images = sorted(tiny_dataset().glob("test/stain/*.png"))
    shown = flowgauge("score", LINE, *images, "--store", store).out
    assert all(str(image) in shown for image in images)
    assert "above the threshold" in shown


def test_snapshots_are_listed_shown_and_rolled_back_to(flowgauge: Shell, store: Path) -> None:
    first = flowgauge("snapshots", "show", LINE, "--store", store, "--json").json
    assert (first["line"], first["images"], first["preprocessing"]["size"]) == (LINE, 24, SIDE)
    fitted = flowgauge("fit", tiny_dataset(), "--line", LINE, "--store", store, *FIT, "--json").json
    assert fitted["images"] == 8
    assert flowgauge("snapshots", "rollback", LINE, first["version"], "--store", store).code == 0
    listed = flowgauge("snapshots", "list", "--line", LINE, "--store", store, "--json").json
    assert [each["version"] for each in listed] == [first["version"], fitted["version"], first["version"]]
    assert [each["active"] for each in listed] == [False, False, True]
    shown = flowgauge("snapshots", "show", LINE, fitted["version"], "--store", store).out
    assert fitted["version"] in shown
    assert "featureflow" in shown


def test_a_rollback_to_the_active_version_says_so_and_changes_nothing(flowgauge: Shell, store: Path) -> None:
    version = flowgauge("snapshots", "show", LINE, "--store", store, "--json").json["version"]

    def listed() -> list[str]:
        asked = (("snapshots", "list", "--line", LINE), ("changes",))
        return [flowgauge(*each, "--store", store, "--json").out for each in asked]

    before = listed()
    done = flowgauge("snapshots", "rollback", LINE, version, "--store", store)
    assert (done.code, done.out) == (0, f"Line {LINE} is gauged by {version} already; nothing is changed.\n")
    assert listed() == before


def test_a_version_that_is_not_stored_is_a_mistake(flowgauge: Shell, store: Path) -> None:
    for command in (("show", LINE, "nonsense"), ("rollback", LINE, "nonsense")):
        done = flowgauge("snapshots", *command, "--store", store)
        assert done.code == 2
        assert "has no snapshot 'nonsense'" in done.err


def test_a_line_without_a_gauge_makes_its_first_one_from_its_buffer(flowgauge: Shell, tmp_path: Path) -> None:
    store, folder = tmp_path / "store", tiny_dataset() / "train" / "good"
    first = flowgauge("run", folder, "--line", "new", "--store", store, "--once", "--json", "--device", "cpu")
    messages = [json.loads(line) for line in first.out.splitlines()]
    assert [m["decision"] for m in messages if m["topic"] == "verdicts"] == ["review"] * 24
    reported = [m for m in messages if m["topic"] == "alerts" and m["kind"] == "no_gauge"]
    assert sum({m["alert_id"]: m["count"] for m in reported}.values()) == 24, "the last of each alert has its count"
    fitted = flowgauge("fit", "--from-buffer", "--line", "new", "--store", store, *FIT, "--json")
    assert fitted.code == 0
    (line,) = flowgauge("lines", "list", "--store", store, "--json").json
    assert (line["line"], line["gauge_version"], line["buffered"]) == ("new", fitted.json["version"], 24)


def test_a_run_tells_a_person_what_it_rejects(flowgauge: Shell, store: Path) -> None:
    done = flowgauge("run", tiny_dataset() / "test", "--line", LINE, "--store", store, "--once", "--device", "cpu")
    assert done.code == 0
    assert "reject  stain/" in done.out
    assert "12 verdicts" in done.err
    assert "0 dead letters" in done.err


def test_a_folder_that_is_missing_cannot_be_run_over(flowgauge: Shell, store: Path) -> None:
    done = flowgauge("run", "/nowhere", "--line", LINE, "--store", store, "--once")
    assert done.code == 2
    assert "/nowhere is no folder" in done.err


def test_an_adaptation_without_images_is_refused_with_its_reason(flowgauge: Shell, store: Path) -> None:
    done = flowgauge("adapt", "--line", LINE, "--store", store, "--device", "cpu", "--json")
    assert done.code == 3
    assert done.json["accepted"] is False
    assert "holds 0 images that may train" in done.json["message"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--approve", "5b6e2a70-52f0-5f1c-9f43-0d6a3b1c7e11"], "`flowgauge alerts` tells what is, with its id"),
        (["--approve", "yes"], "'yes' is no id of a request"),
        ([], "No line is named"),
    ],
)
def test_what_cannot_be_requested_or_approved_is_a_mistake(
    flowgauge: Shell, store: Path, arguments: list[str], complaint: str
) -> None:
    done = flowgauge("adapt", "--store", store, *arguments)
    assert done.code == 2
    assert complaint in done.err


def test_a_proposal_is_found_by_its_id_approved_and_then_no_longer_open(flowgauge: Shell, store: Path) -> None:
    with open_store(str(store)) as plant:
        plant.log.append([Trigger(LINE, Reason.DRIFT, "image-7", plant.clock.now(), "The light rose").proposed()])
    (proposal,) = map(json.loads, flowgauge("alerts", "--store", store, "--json").out.splitlines())
    request_id = proposal["detail"]["request"]["request_id"]
    assert f"flowgauge adapt --approve {request_id}" in proposal["message"]
    other = flowgauge("adapt", "--approve", request_id, "--line", "other", "--store", store)
    assert (other.code, f"was proposed for line {LINE}" in other.err) == (2, True)
    done = flowgauge("adapt", "--approve", request_id, "--store", store, "--device", "cpu", "--json")
    assert (done.code, done.json["accepted"], done.json["request_id"]) == (3, False, request_id)
    again = flowgauge("adapt", "--approve", request_id, "--store", store)
    assert (again.code, "approved and decided" in again.err) == (2, True)
    with open_store(str(store)) as plant:
        (record,) = plant.log.read(ADAPTATIONS, 0, 0, 9)
    request = AdaptationRequest.decode(record.value)
    assert (request.approved, request.reason) == (True, Reason.DRIFT)


def test_a_request_is_left_to_a_runner_that_is_at_work_and_its_decision_awaited(flowgauge: Shell, store: Path) -> None:
    with only_runner(store / "runner.lock"):
        done = flowgauge("adapt", "--line", LINE, "--store", store, "--device", "cpu", "--timeout", 0)
    assert (done.code, done.out) == (1, "")
    assert "carries the request out" in done.err
    assert f"Nothing was decided on line {LINE} within 0 s; the request stays." in done.err
    with open_store(str(store)) as plant:
        (record,) = plant.log.read(ADAPTATIONS, 0, 0, 9)
    assert AdaptationRequest.decode(record.value).reason is Reason.PERSON


def test_a_request_can_be_made_without_waiting(flowgauge: Shell, store: Path) -> None:
    left = flowgauge("adapt", "--line", LINE, "--store", store, "--no-wait", "--json")
    assert (left.code, left.json["line"], left.json["reason"]) == (0, LINE, "person")
    assert "`flowgauge alerts` tells" in flowgauge("adapt", "--line", LINE, "--store", store, "--no-wait").out


def test_a_request_that_another_took_the_patch_of_says_so(flowgauge: Shell, store: Path) -> None:
    first = flowgauge("adapt", "--line", LINE, "--store", store, "--no-wait", "--json").json["request_id"]
    done = flowgauge("adapt", "--line", LINE, "--store", store, "--device", "cpu", "--json")
    assert done.code == 3
    reported = [json.loads(each) for each in flowgauge("alerts", "--store", store, "--json").out.splitlines()]
    assert [each["kind"] for each in reported] == ["adaptation_coalesced", "adaptation_refused"]
    assert reported[0]["detail"]["instead"] == done.json["request_id"] != first


def test_dead_letter_are_listed_with_where_they_lay_and_replayed(flowgauge: Shell, store: Path, tmp_path: Path) -> None:
    incoming = tmp_path / "incoming"
    incoming.mkdir()
    (incoming / "broken.png").write_bytes(b"no image")
    run = ("run", incoming, "--line", LINE, "--store", store, "--once", "--device", "cpu")
    flowgauge(*run)
    (letter,) = flowgauge("dead-letters", "list", "--store", store, "--json").json
    assert (letter["topic"], letter["partition"], letter["offset"], letter["replayed_at"]) == ("images", 0, 0, None)
    nothing = flowgauge("dead-letters", "replay", "--store", store)
    assert (nothing.code, "Nothing is chosen" in nothing.err) == (2, True)
    sent = flowgauge("dead-letters", "replay", "--line", LINE, "--image", "broken.png", "--store", store)
    assert sent.out == "1 images were sent again.\n"
    flowgauge(*run)
    assert "images/0/1" in flowgauge("dead-letters", "list", "--store", store).out
    again = flowgauge("dead-letters", "replay", "--all", "--store", store, "--json").json
    assert again == {"sent": 1, "replayed_before": 1, "lost": 0}


def test_a_person_adapts_a_line_to_its_buffer(flowgauge: Shell, store: Path, tmp_path: Path) -> None:
    write_dataset(ProceduralLine("cast-iron", seed=0, size=SIDE), tmp_path / "more", train=60, test_good=0, per_kind=0)
    assert flowgauge("lines", "set", LINE, "policy=off", "--store", store).code == 0
    streamed = flowgauge("run", tmp_path / "more", "--line", LINE, "--store", store, "--once", "--device", "cpu")
    assert streamed.code == 0
    done = flowgauge("adapt", "--line", LINE, "--store", store, "--device", "cpu", "--json")
    active = [each for each in flowgauge("snapshots", "list", "--store", store, "--json").json if each["active"]]
    assert done.code == (0 if done.json["accepted"] else 3)
    assert active[0]["version"].startswith("adapted-") == done.json["accepted"]


def test_an_evaluation_writes_its_figures(flowgauge: Shell, tmp_path: Path) -> None:
    written = tmp_path / "figures.json"
    done = flowgauge("evaluate", tiny_dataset(), *FIT, "--json", written)
    assert done.code == 0
    assert "image_auroc" in done.out
    figures = json.loads(written.read_text())
    (run,) = figures["runs"]
    assert (run["fitted_images"], run["good_images"], run["defective_images"]) == (8, 6, 6)
    assert figures["image_auroc_interval"][0] <= figures["image_auroc"] <= figures["image_auroc_interval"][1]
    assert figures["speed_ratio"] == pytest.approx(figures["images_per_second"] / figures["backbone_images_per_second"])


def test_only_headflow_has_members(flowgauge: Shell) -> None:
    done = flowgauge("evaluate", tiny_dataset(), "--detector", "rad", "--ensemble", "3")
    assert done.code == 2
    assert "--ensemble is an option of headflow" in done.err


def test_status_and_alerts_tell_what_a_run_left(flowgauge: Shell, store: Path) -> None:
    flowgauge("run", tiny_dataset() / "test", "--line", LINE, "--store", store, "--once", "--device", "cpu")

    reported = flowgauge("status", "--store", store, "--json").json
    lags = {(group["group"], group["topic"]): group["lag"] for group in reported["groups"]}
    assert lags[("scoring", "images")] == 0
    assert lags[("adaptation", "adaptations")] == 0
    (line,) = reported["lines"]
    assert (line["line"], line["epoch"], line["buffered"], line["accepted"]) == (LINE, 1, 12, None)
    assert LINE in flowgauge("status", "--store", store).out

    alerts = [json.loads(each) for each in flowgauge("alerts", "--store", store, "--json").out.splitlines()]
    assert {each["kind"] for each in alerts} >= {"reject"}
    assert flowgauge("alerts", "--store", store, "--line", "another").out == ""
    assert re.search(r"rejected, the first is (scratch|stain)/", flowgauge("alerts", "--store", store).out)


def test_a_threshold_is_promised_anew_without_a_fit(flowgauge: Shell, store: Path) -> None:
    before = flowgauge("snapshots", "show", LINE, "--store", store, "--json").json
    assert flowgauge("threshold", "set", LINE, "--store", store).code == 2
    done = flowgauge("threshold", "set", LINE, "--false-alarms", "0.2", "--store", store)
    assert "differs from" in done.out, done.err
    after = flowgauge("snapshots", "show", LINE, "--store", store, "--json").json
    assert after["parent"] == before["version"]
    assert after["weights_sha256"] == before["weights_sha256"]
    assert after["threshold"]["promised"] == 0.2
    assert "It promises 20 % false alarms" in flowgauge("snapshots", "show", LINE, "--store", store).out.replace(
        "\n", " "
    )
    assert flowgauge("snapshots", "rollback", LINE, before["version"], "--store", store).code == 0
