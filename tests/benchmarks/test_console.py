"""The console of a large plant: how soon a page is there, how soon a verdict shows, and what that takes."""

import random
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count, cycle
from multiprocessing import get_context
from pathlib import Path
from uuid import uuid4

import numpy as np
import psutil
import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By

from deploy.native.probes import http_answers, wait_for
from deploy.native.process import free_port
from flowgauge.adaptation.adapt import adapt
from flowgauge.app.bootstrap import open_store
from flowgauge.app.embedded import embedded
from flowgauge.cli.model import loading
from flowgauge.cli.options import Device
from flowgauge.domain.messages import VERDICTS, AlertKind, Decision, Source, Verdict
from flowgauge.domain.ports import Outgoing
from flowgauge.registry.snapshots import publish_snapshot
from flowgauge.runtime.alerts import alert
from flowgauge.runtime.backend import Store
from flowgauge.runtime.events import image_record
from flowgauge.training.snapshot import save
from tests.support.archives import MadeArchive, started_at
from tests.support.consoles import Served, Visitor, chromium, served
from tests.support.speedplant import LINE, announce, default_gauge, images, say
from tests.support.streaming import event, png, snapshot, verdict

LINES = 200
VISITORS = 10
RATE = 500  # verdicts a second
SECONDS = 60.0
FIRST_PAINT_SECONDS, UPDATE_SECONDS = 1.5, 2.0
HOUR = 3_600.0
SCORED = 128  # images of one turn; fewer, and the shared machine's other work decides
TURNS = 5
SCORING_KEEPS = 0.95
ARCHIVED = MadeArchive(1_000_000, lines=LINES, days=9, partitions=1)
PICTURES = 3_000  # more than the console keeps small, so that those it keeps are replaced
LIVE_SECONDS = 0.8  # as the pages' script
FIRST_SCREEN = 12  # pictures
# of the second half of an hour, in which nothing is left to fill but the last sparklines: with more, one
# verdict in brief (400 bytes) of a hundred could be kept for good unnoticed; with less, what the allocator gives back
# late fails it
MEBIBYTES_AN_HOUR = 5.0


class Plant:
    """Verdicts of `LINES` lines, one after the other."""

    def __init__(self, store: Store, folder: Path) -> None:
        self.store, self.folder = store, folder
        self.sent = 0
        self._chance = random.Random(0)
        for number in range(LINES):
            publish_snapshot(store, self.line(number), "fit-1", snapshot("fit-1", line=self.line(number)), None)

    @staticmethod
    def line(number: int) -> str:
        return f"line-{number % LINES:02d}"

    def keep_pictures(self) -> None:
        for number in range(PICTURES):
            self.store.objects.put(self.picture(number), png(100, number, side=128))

    @staticmethod
    def picture(number: int) -> str:
        return f"images/{Plant.line(number)}/2026-03-01/image-{number % PICTURES:04d}"

    def alert(self) -> None:
        """One on every line, as each minute with rejects brings."""
        now = self.store.clock.now()
        for number in range(LINES):
            line = self.line(number)
            self.store.log.append([alert(line, AlertKind.REJECT, f"{now}", now, "6 images were rejected.", 6)])

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
            image_uri=self.store.objects.uri(self.picture(number)),
            score=self._chance.gauss(100, 20),
            source=source,
        )


@pytest.fixture
def plant(tmp_path: Path) -> Iterator[Plant]:
    with open_store(str(tmp_path / "store")) as store:
        yield Plant(store, tmp_path / "store")


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


def test_the_memory_of_the_console_stays_flat_over_an_hour(plant: Plant) -> None:
    """Ten visitors ask what the scripts of the pages ask, at the pace of a browser."""
    ARCHIVED.write(plant.store.objects)
    plant.keep_pictures()
    for _ in range(40):
        plant.send(1_000)
    waits, memory, over = list[float](), list[tuple[float, float]](), threading.Event()
    with console(plant) as (process, port):
        visitors = [threading.Thread(target=_browses, args=(Visitor(port), n, over, waits)) for n in range(VISITORS)]
        for thread in visitors:
            thread.start()
        began, before, sent, minutes = time.monotonic(), process.cpu_times(), plant.sent, 0
        while (since := time.monotonic() - began) < HOUR:
            # what is behind is made up for step by step, as workers would
            plant.send(min(round(RATE * since) + RATE - (plant.sent - sent), 10 * RATE))
            memory.append((since, process.memory_full_info().uss / 2**20))
            if since >= 60 * minutes:
                plant.alert()
                minutes += 1
                print(f"{since:.0f} s, {memory[-1][1]:.1f} MiB, {len(waits)} answers", flush=True)  # noqa: T201
            time.sleep(max(0.0, began + since + 1 - time.monotonic()))
        took, rate = process.cpu_times(), (plant.sent - sent) / HOUR
        over.set()
        for thread in visitors:
            thread.join()
    share = (took.user - before.user + took.system - before.system) / HOUR
    at, resident = np.array(memory).T
    # at even steps: on a busy machine some minutes have more samples than others
    even = np.linspace(HOUR / 2, HOUR, 60)
    later = np.interp(even, at, resident)
    slope = float(np.polyfit(even / 3_600, later, 1)[0])
    print(  # noqa: T201
        f"\n{rate:.0f} verdicts/s; {later[0]:.0f} MiB after half of the time, {resident[-1]:.0f} at the end,"
        f" {slope:+.1f} MiB an hour between; {share:.2f} of a core; 95 % of {len(waits)} answers within"
        f" {np.quantile(waits, 0.95):.2f} s"
    )
    assert len(waits) > VISITORS * HOUR / 10, "visitors have stopped"
    assert slope < MEBIBYTES_AN_HOUR


def test_scoring_keeps_its_speed_beside_the_console(plant: Plant) -> None:
    """Of an embedded store, with ten visitors; console and visitors stand still while scoring is measured alone. The
    visitors share the machine too, which those of a plant do not.
    """
    store, known = plant.store, 2_000
    # scoring begins after the images that the verdicts of the other lines are on
    store.log.append([image_record(event(f"scored-{number}", LINE), b"") for number in range(known)])
    plant.send(known)
    plant.keep_pictures()
    announce(store, save(default_gauge()))
    runner, sent = embedded(store, loading(Device.CPU), adapt, []), count()

    def rate() -> float:
        """Images a second through scoring and all that follows it."""
        end = store.log.end(VERDICTS, 0) + SCORED
        now = store.clock.now()
        made = [event(f"image-{next(sent)}", LINE, at=now) for _ in range(SCORED)]
        store.log.append([image_record(each, images()[number % len(images())]) for number, each in enumerate(made)])
        began = time.monotonic()
        runner.run_until_idle()
        took = time.monotonic() - began
        assert store.log.end(VERDICTS, 0) == end
        return SCORED / took

    rate()
    with console(plant) as (process, port), visited(port) as visitors:
        beside, alone = list[float](), list[float]()
        for _ in range(TURNS):
            wait_for(lambda: http_answers(f"http://127.0.0.1:{port}/live"), 60)
            beside.append(rate())
            for each in (visitors, process):
                each.suspend()
            alone.append(rate())
            for each in (process, visitors):
                each.resume()
    shares = sorted(one / other for one, other in zip(beside, alone, strict=True))
    say(
        f"beside the console {sorted(beside)[TURNS // 2]:.1f}, alone {sorted(alone)[TURNS // 2]:.1f} images/s; ratios"
        f" {', '.join(f'{each:.3f}' for each in shares)}, in the middle {shares[TURNS // 2]:.3f}"
    )
    assert shares[TURNS // 2] >= SCORING_KEEPS


@contextmanager
def visited(port: int) -> Iterator[psutil.Process]:
    """Ten visitors in a process of their own."""
    visitors = get_context("spawn").Process(target=_visits, args=(port,), daemon=True)
    visitors.start()
    assert visitors.pid is not None
    yield psutil.Process(visitors.pid)
    visitors.kill()
    visitors.join()


def _visits(port: int) -> None:
    with ThreadPoolExecutor(VISITORS) as threads:
        for number in range(VISITORS):
            threads.submit(_browses, Visitor(port), number, threading.Event(), [])


@contextmanager
def console(plant: Plant) -> Iterator[tuple[psutil.Process, int]]:
    """In a process of its own, as people start it, and its port."""
    port = free_port()
    command = [sys.executable, "-m", "flowgauge.cli", "console", "--store", str(plant.folder), "--port", str(port)]
    with subprocess.Popen(command) as process:
        try:
            assert wait_for(lambda: http_answers(f"http://127.0.0.1:{port}/live"), 120), "the console did not start"
            yield psutil.Process(process.pid), port
        finally:
            process.terminate()


def _browses(visitor: Visitor, number: int, over: threading.Event, waits: list[float]) -> None:
    """As the pages' scripts do: the part that changes, and the pictures of its first screen that are new; what the
    chart of a line draws. Five look at the plant, five at a line, and the last opens pages and days of the archive.
    """
    line, seen, turn = f"/lines/{Plant.line(number)}", set[str](), 0
    others = cycle(
        [f"{line}/{page}" for page in ("review", "adaptations", "settings", "trials")]
        + ["/adaptations", "/changes", "/dead-letters"]
        + [f"{line}/samples?since={_day(day)}&until={_day(day + 1)}" for day in range(ARCHIVED.days)]
    )

    def get(path: str) -> str:
        began = time.monotonic()
        answer = visitor.get(path, accept="text/html")
        assert answer.status == 200, f"{path}: {answer.text}"
        waits.append(time.monotonic() - began)
        return answer.text

    while not over.wait(LIVE_SECONDS):
        text = get("/live" if number < VISITORS // 2 else f"{line}/live")
        for path in re.findall('src="(/verdicts/[^"]+)"', text)[:FIRST_SCREEN]:
            if path not in seen:
                seen.add(path)
                visitor.get(path.replace("&amp;", "&"))
        turn += 1
        if number >= VISITORS // 2 and turn % 3 == 0:
            get(f"{line}/samples")
        if number == VISITORS - 1 and turn % 10 == 0:
            get(next(others))


def _day(number: int) -> str:
    return f"{started_at(number):%Y-%m-%dT%H:%M:%SZ}"
