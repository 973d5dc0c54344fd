"""The command line on a store that workers share, on real servers: from the first gauge to a replayed dead letter."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import Any
from uuid import uuid4

import pytest

from flowgauge.app.bootstrap import open_store
from flowgauge.console.access import Binding
from flowgauge.console.users import Role, Users
from flowgauge.domain.messages import VERDICTS, Reason, Verdict
from flowgauge.processors.line_monitor import Trigger
from flowgauge.services.changes import latest_changes
from tests.support.consoles import served
from tests.support.plants import LINE, SIDE, tiny_dataset
from tests.support.shell import Outcome, Shell

_TIMEOUT_SECONDS = 120
_IMAGES, _GOLDEN = 12, 3

Command = Callable[..., Outcome]


@pytest.fixture
def run(flowgauge: Shell, shared_store: str) -> Command:
    return lambda *arguments: flowgauge(*arguments, "--store", shared_store)


@contextmanager
def worker(store: str, folder: Path) -> Iterator[None]:
    """`flowgauge worker all` in a process of its own, ended as a supervisor would."""
    command = [sys.executable, "-m", "flowgauge.cli", "worker", "all", "--store", store, "--device", "cpu"]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
    try:
        yield
        process.terminate()
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()


def eventually(what: str, until: Callable[[], bool]) -> None:
    deadline = monotonic() + _TIMEOUT_SECONDS
    while not until():
        assert monotonic() < deadline, f"{what}: not within {_TIMEOUT_SECONDS} s"
        sleep(0.5)


def alerts(run: Command) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run("alerts", "--json").out.splitlines()]


def publish(run: Command, folder: Path) -> None:
    data = next((tiny_dataset() / "test" / "good").iterdir()).read_bytes()
    for path in sorted((tiny_dataset() / "test").rglob("*.png")):
        (folder / f"{path.parent.name}-{path.name}").write_bytes(path.read_bytes())
    (folder / "broken.png").write_bytes(data[:100])
    assert run("publish", folder, "--line", LINE).code == 0


@pytest.mark.slow
def test_every_command_does_on_a_shared_store_what_it_does_on_a_directory(
    run: Command, shared_store: str, tmp_path: Path
) -> None:
    incoming = tmp_path / "incoming"
    incoming.mkdir()
    assert run("topics", "create", "--partitions", 2).code == 0
    fitted = run("fit", tiny_dataset(), "--line", LINE, "--size", SIDE, "--device", "cpu", "--limit", 8, "--json")
    version = fitted.json["version"]
    publish(run, incoming)

    nobody = run("adapt", "--line", LINE, "--timeout", 0.5)
    assert nobody.code == 1
    assert "Is an adaptation worker alive?" in nobody.err

    with worker(shared_store, tmp_path):
        eventually("all images", lambda: run("status", "--json").json["lines"][0]["buffered"] == _IMAGES)
        _lines_snapshots_and_golden_images(run, version)
        _adaptations(run, shared_store)
        _dead_letters(run)
        _labels(run, shared_store)
        _console(run, shared_store, tmp_path)


def _lines_snapshots_and_golden_images(run: Command, version: str) -> None:
    assert run("lines", "set", LINE, "adapt_schedule=0 2 * * *", "--json").json["adapt_schedule"] == "0 2 * * *"
    (line,) = run("lines", "list", "--json").json
    assert (line["gauge_version"], line["buffered"], line["adapt_schedule"]) == (version, _IMAGES, "0 2 * * *")
    assert run("snapshots", "show", LINE, "--json").json["version"] == version
    assert "nothing is changed" in run("snapshots", "rollback", LINE, version).out
    assert run("threshold", "set", LINE, "--false-alarms", "0.1", "--yes").code == 0
    assert run("snapshots", "rollback", LINE, version).code == 0
    listed = run("snapshots", "list", "--json").json
    assert [(each["version"] == version, each["active"]) for each in listed] == [
        (True, False),
        (False, False),
        (True, True),
    ]
    assert run("golden", "add", LINE, tiny_dataset() / "test" / "stain", "--label", "defect").code == 0
    assert {each["label"] for each in run("golden", "list", LINE, "--json").json} == {"defect"}


def _adaptations(run: Command, store: str) -> None:
    """The buffer is too small for one; so the worker decides at once. What is golden never trains."""
    # else the worker, whose group may begin late, would take both requests at once, and they coalesce
    first = "the decision on what nobody waited for"
    eventually(first, lambda: "adaptation_refused" in [each["kind"] for each in alerts(run)])
    refused = run("adapt", "--line", LINE, "--json")
    assert (refused.code, refused.json["kind"]) == (3, "adaptation_refused")
    assert f"holds {_IMAGES - _GOLDEN} images that may train" in refused.json["message"]

    with open_store(store) as plant:
        proposal = Trigger(LINE, Reason.DRIFT, "image-7", plant.clock.now(), "The light rose")
        plant.log.append([proposal.proposed()])
    approve = ("adapt", "--approve", proposal.request.request_id)
    approved = run(*approve, "--no-wait", "--json")
    assert (approved.code, approved.json["reason"], approved.json["approved"]) == (0, "drift", True)
    eventually("the decision", lambda: "approved and decided" in run(*approve).err)
    kinds = [each["kind"] for each in alerts(run)]
    assert kinds.count("adaptation_refused") == 3, "one that nobody waited for, one awaited and one approved"


def _dead_letters(run: Command) -> None:
    (letter,) = run("dead-letters", "list", "--json").json
    assert (letter["image_id"], letter["topic"], letter["replayed_at"]) == ("broken.png", "images", None)
    assert run("dead-letters", "replay").code == 2
    assert run("dead-letters", "replay", "--line", LINE, "--json").json["sent"] == 1
    eventually("the second failure", lambda: len(run("dead-letters", "list", "--json").json) == 2)
    again = run("dead-letters", "replay", "--image", "broken.png", "--json").json
    assert again == {"sent": 1, "replayed_before": 1, "lost": 0}


def _labels(run: Command, store: str) -> None:
    """A verdict's id is all that an inspector needs to know."""
    with open_store(store) as plant:
        found = [r for p in range(plant.log.partitions(VERDICTS)) for r in plant.log.read(VERDICTS, p, 0, 100)]
        verdict = next(v for v in (Verdict.decode(r.value) for r in found) if v.image_id.startswith("scratch"))
    reported = run("label", verdict.verdict_id, "defect", "--class", "scratch", "--json")
    assert reported.code == 0, reported.err
    golden = {each["image_id"]: each for each in run("golden", "list", LINE, "--json").json}
    assert golden[verdict.image_id]["label"] == "defect"
    assert run("label", uuid4(), "good").code == 2


def _console(run: Command, store: str, folder: Path) -> None:
    """The same plant by its pages: what was done above is recorded, and a proposal is approved."""
    users = folder / "users.json"
    Users(users).add("egon", Role.ENGINEER, "a long enough sentence")
    with open_store(store) as plant, served(plant, Binding(users=users)) as site:
        visitor = site.visitor()
        assert visitor.get("/").status == 303
        assert visitor.sign_in("egon", "a long enough sentence").status == 303
        assert f'href="/lines/{LINE}"' in visitor.get("/").text
        shown = json.loads(visitor.get(f"/lines/{LINE}/samples").text)
        assert len(shown["samples"]) == _IMAGES
        flagged = site.console.overview.flagged(LINE)[0]
        assert visitor.get(f"/verdicts/{flagged.verdict_id}/image").headers["content-type"] == "image/jpeg"
        repeated = visitor.post(f"/verdicts/{flagged.verdict_id}/predict", {"gauge": "own"})
        assert "The stored score is reproduced." in repeated.text
        assert "broken.png" in visitor.get("/dead-letters").text
        proposal = Trigger(LINE, Reason.DRIFT, "image-9", plant.clock.now(), "The light fell")
        plant.log.append([proposal.proposed()])
        site.console.refresh()
        assert "The light fell" in visitor.get("/adaptations").text
        assert visitor.post(f"/adaptations/{proposal.request.request_id}/approve").status == 303
        eventually("the worker's decision", lambda: not site.console.overview.waiting())
        recorded = [(each.by, each.action) for each in latest_changes(plant, 20)]
        assert recorded[0] == ("egon", "approve")
        assert {action for _, action in recorded} == {
            "adapt",
            "approve",
            "fit",
            "golden add",
            "label",
            "replay",
            "roll back",
            "settings",
            "threshold",
        }
        visitor.get("/")
        assert visitor.post("/sign-out").status == 303
        assert visitor.get("/").status == 303
