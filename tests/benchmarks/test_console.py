"""The console of a large plant: how soon a page is there, how soon a verdict shows, and what that takes."""

import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import psutil
import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By

from flowgauge.app.bootstrap import open_store
from flowgauge.domain.messages import VERDICTS, Decision, Source, Verdict
from flowgauge.domain.ports import Outgoing
from flowgauge.registry.snapshots import publish_snapshot
from flowgauge.runtime.backend import Store
from tests.support.consoles import Served, chromium, served
from tests.support.streaming import snapshot, verdict

LINES = 200
VISITORS = 10
RATE = 500  # verdicts a second
SECONDS = 60.0
FIRST_PAINT_SECONDS, UPDATE_SECONDS = 1.5, 2.0


class Plant:
    """Verdicts of `LINES` lines, one after the other."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.sent = 0
        self._chance = random.Random(0)
        for number in range(LINES):
            publish_snapshot(store, self.line(number), "fit-1", snapshot("fit-1", line=self.line(number)), None)

    @staticmethod
    def line(number: int) -> str:
        return f"line-{number % LINES:03d}"

    def send(self, count: int) -> None:
        now = self.store.clock.now()
        made = [self._verdict(self.sent + number) for number in range(count)]
        made = [each.model_copy(update={"captured_at": now, "scored_at": now}) for each in made]
        self.store.log.append([Outgoing(VERDICTS, each.line, each.encode(), partition=0) for each in made])
        self.sent += count

    def _verdict(self, number: int) -> Verdict:
        decision = self._chance.choices(list(Decision), [0.9, 0.05, 0.05])[0]
        source = Source(topic="images", partition=0, offset=number)
        return verdict(
            number,
            line=self.line(number),
            verdict_id=uuid4(),
            decision=decision,
            score=self._chance.gauss(100, 20),
            source=source,
        )


@pytest.fixture
def plant(tmp_path: Path) -> Iterator[Plant]:
    with open_store(str(tmp_path / "store")) as store:
        yield Plant(store)


def test_a_large_plant_is_shown_soon_and_kept_up_with(plant: Plant) -> None:
    for _ in range(40):
        plant.send(1_000)
    process, memory, waits, updates = psutil.Process(), list[float](), list[float](), list[float]()
    with served(plant.store) as site, chromium() as browser:
        browser.get(site.address)
        browser.get(site.address)  # with the server's first page made and the browser's files there
        paint = browser.execute_script(
            "return performance.getEntriesByName('first-contentful-paint')[0].startTime / 1000"
        )
        over = threading.Event()
        visitors = [threading.Thread(target=_looks, args=(site, over, waits)) for _ in range(VISITORS)]
        for thread in visitors:
            thread.start()
        began, before = time.monotonic(), process.cpu_times()
        while (now := time.monotonic()) - began < SECONDS:
            plant.send(RATE)
            if int(now - began) % 10 == 5:
                updates.append(_shown_after(plant, browser))
            memory.append(process.memory_info().rss / 2**20)
            time.sleep(max(0.0, 1 - (time.monotonic() - now)))
        took = process.cpu_times()
        over.set()
        for thread in visitors:
            thread.join()
    share = (took.user - before.user + took.system - before.system) / SECONDS
    worst, usual = max(updates), sorted(updates)[len(updates) // 2]
    late = sorted(waits)[int(0.95 * len(waits))]
    figures = (
        f"first paint {paint:.2f} s; a verdict shows after {usual:.2f} s, at most {worst:.2f}; 95 % of {len(waits)}"
        f" answers within {late:.2f} s; {share:.2f} of a core, sending included; memory {memory[0]:.0f} to"
        f" {memory[-1]:.0f} MiB"
    )
    print(f"\n{figures}")  # noqa: T201
    assert paint < FIRST_PAINT_SECONDS
    assert max(updates) < UPDATE_SECONDS


def _shown_after(plant: Plant, browser: Chrome) -> float:
    """Seconds until a line that nobody knew shows in the browser."""
    name = f"new-{plant.sent}"
    now = plant.store.clock.now()
    first = verdict(plant.sent, line=name, verdict_id=uuid4(), captured_at=now, scored_at=now)
    first = first.model_copy(update={"source": Source(topic="images", partition=0, offset=plant.sent)})
    plant.store.log.append([Outgoing(VERDICTS, name, first.encode(), partition=0)])
    plant.sent += 1
    began = time.monotonic()
    while not browser.find_elements(By.ID, f"line-{name}"):
        assert time.monotonic() - began < 60, "the line never showed"
    return time.monotonic() - began


def _looks(site: Served, over: threading.Event, waits: list[float]) -> None:
    visitor = site.visitor()
    while not over.wait(1):
        began = time.monotonic()
        assert visitor.get("/live", accept_encoding="gzip").status == 200
        waits.append(time.monotonic() - began)
