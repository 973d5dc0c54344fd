"""A line drifts on Kafka, Redis and S3; its proposal is approved in a browser, the workers swap, false alarms fall."""

import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from deploy.native.probes import http_answers, wait_for
from deploy.native.process import free_port
from flowgauge.app.bootstrap import open_store
from flowgauge.cli.demo.cluster import workers
from flowgauge.cli.person import person
from flowgauge.domain.messages import VERDICTS, Decision, Verdict
from flowgauge.kafka.publisher import ImagePublisher
from flowgauge.registry.snapshots import active_snapshot
from flowgauge.runtime.roles import Role
from flowgauge.services.changes import latest_changes
from flowgauge.settings.environment import kafka_settings
from flowgauge.synthetic.procedural import DEFECTS, Condition, ProceduralLine
from tests.support.clusters import TIMEOUT_SECONDS, Cluster
from tests.support.consoles import Browser, chromium
from tests.support.folders import write_dataset
from tests.support.gauges import png
from tests.support.plants import LINE, QUICK_FIT
from tests.support.shell import Shell
from tests.support.streaming import event

SIDE = 128
FITTED, STEADY, DRIFTED, TESTING = 48, 24, 96, 24
DRIFT = 0.5  # the first gauge takes all that the line then makes for defects; less, and only some of it
RAMP = 16  # images until the line has drifted so far
# that are sent before their verdicts are waited for: with more the two partitions would run apart, and what the drift
# monitor sees of both would jump to and fro
SLICE = 8
PARTITIONS = 2


class Scene:
    """The line's camera, which sends four images to either partition in turn, and what was said of them."""

    def __init__(self, cluster: Cluster, line: ProceduralLine) -> None:
        self.cluster = cluster
        self._line = line
        self._sent = 0

    def show(self, name: str, amounts: Iterable[float], test: bool = False) -> None:
        """One part for each of `amounts`, by which the line has drifted; every eighth is defective, and every fourth in
        a `test`, which trains nothing. Returns once all of them are observed.
        """
        every = 4 if test else 8
        store = self.cluster.store
        with ImagePublisher(kafka_settings(os.environ), store.objects) as publisher:
            for amount in amounts:
                number, condition = FITTED + self._sent, Condition.drifted(amount)
                defect = self._sent % every == every - 1
                kind = DEFECTS[self._sent % len(DEFECTS)]
                sample = self._line.defect(number, kind, condition) if defect else self._line.good(number, condition)
                image_id = f"{name}-{'defect' if defect else 'good'}-{number}"
                shown = event(image_id, LINE, not test, store.clock.now())
                publisher.publish(shown, png(sample.pixels), self._sent // 4 % PARTITIONS)
                self._sent += 1
                if self._sent % SLICE == 0:
                    publisher.flush()
                    self.cluster.wait("all images", self._observed)

    def _observed(self) -> bool:
        log, numbers = self.cluster.store.log, range(PARTITIONS)
        ends = [log.end(VERDICTS, number) for number in numbers]
        return sum(ends) == self._sent and [log.position("observing", VERDICTS, number) for number in numbers] == ends

    def verdicts(self, name: str) -> list[Verdict]:
        found = (Verdict.decode(record.value) for record in self.cluster.records(VERDICTS))
        return [verdict for verdict in found if verdict.image_id.startswith(name)]


def rejected(verdicts: Iterable[Verdict], kind: str) -> float:
    """The share of rejects among the images of `kind`."""
    decisions = [each.decision for each in verdicts if f"-{kind}-" in each.image_id]
    return decisions.count(Decision.REJECT) / len(decisions)


@contextmanager
def console(store: str) -> Iterator[str]:
    """The address of `flowgauge console`, in a process of its own."""
    port = free_port()
    command = [sys.executable, "-m", "flowgauge.cli", "console", "--store", store, "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        address = f"http://127.0.0.1:{port}"
        assert wait_for(lambda: http_answers(address), TIMEOUT_SECONDS), "the console did not start"
        yield address
        assert process.poll() is None, "the console ended by itself"
    finally:
        process.terminate()
        process.wait(TIMEOUT_SECONDS)


@pytest.mark.slow
def test_a_line_that_drifts_is_adapted_by_a_click_and_its_false_alarms_fall(
    flowgauge: Shell, shared_store: str, tmp_path: Path
) -> None:
    line = ProceduralLine("brushed-metal", seed=0, size=SIDE)
    write_dataset(line, tmp_path / "data", train=FITTED, test_good=0, per_kind=0)
    assert flowgauge("topics", "create", "--partitions", PARTITIONS, "--store", shared_store).code == 0
    fit = ("fit", tmp_path / "data", "--size", SIDE, "--device", "cpu", *QUICK_FIT, "--json")
    first = flowgauge(*fit, "--line", LINE, "--store", shared_store).json["version"]
    settings = ("policy=propose", "warmup_images=24", "buffer_minimum=32")
    assert flowgauge("lines", "set", LINE, *settings, "--store", shared_store).code == 0

    roles = (Role.SCORING, Role.SCORING, Role.DOWNSTREAM, Role.ADAPTATION)
    options = ("--threads", "1", "--device", "cpu", "--cache", str(tmp_path / "cache"))
    with ExitStack() as stack:
        cluster = Cluster(shared_store, stack.enter_context(open_store(shared_store)))
        check = stack.enter_context(workers(shared_store, roles, tmp_path / "logs", *options))
        address = stack.enter_context(console(shared_store))
        cluster.wait("both workers that score", lambda: cluster.members("scoring") == 2)
        browser, scene = Browser(stack.enter_context(chromium()), address), Scene(cluster, line)

        scene.show("steady", [0.0] * STEADY)
        browser.go("/")
        browser.shows(LINE)
        scene.show("drifted", [min(number / RAMP, 1.0) * DRIFT for number in range(DRIFTED)])
        scene.show("before", [DRIFT] * TESTING, test=True)
        browser.shows("An adaptation waits for approval.")
        browser.click("Adaptations")
        browser.shows("contrast rose from")
        browser.until(lambda driver: len(driver.find_elements("css selector", ".point")) == STEADY + DRIFTED + TESTING)
        browser.accessible()
        browser.click("Approve")
        browser.shows("No adaptation waits for a person.")
        cluster.wait("the adapted gauge", lambda: active_snapshot(cluster.store.log, LINE).version != first)
        browser.go(f"/lines/{LINE}")
        browser.shows("adapted-")
        scene.show("after", [DRIFT] * TESTING, test=True)
        browser.go("/adaptations")
        browser.shows("✓ accepted")
        browser.go("/changes")
        browser.shows("approve")
        browser.check()
        check()

        before, after = scene.verdicts("before"), scene.verdicts("after")
        assert {each.gauge_version for each in before} == {first}
        (second,) = {each.gauge_version for each in after}
        assert str(second).startswith("adapted-")
        assert {each.source.partition for each in after} == {0, 1}, "each worker has swapped"
        assert rejected(scene.verdicts("steady"), "good") == 0
        assert rejected(before, "good") > 0.9
        assert rejected(after, "good") < 0.25
        assert rejected(after, "defect") > 0.5
        change = latest_changes(cluster.store, 1)[0]
        assert (change.by, change.action, change.line) == (person(), "approve", LINE)
