"""The archive of a large plant: ten million verdicts of 20 lines and 30 days, asked by every shipped query on two
threads; and an audit of a thousand verdicts.
"""

import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from flowgauge.app.bootstrap import open_store
from flowgauge.domain.messages import VERDICTS
from flowgauge.runtime.backend import Store
from flowgauge.services.archive_files import archive_files, compact
from flowgauge.services.history import history
from flowgauge.services.verdict_queries import VerdictQueries, named_queries
from flowgauge.synthetic.procedural import ProceduralLine
from tests.support.archives import FIRST_DAY, MadeArchive
from tests.support.gauges import png
from tests.support.plants import LINE, SIDE, fitted_store
from tests.support.shell import Shell
from tests.support.streaming import SetClock

MADE = MadeArchive(10_000_000)
SECONDS = 3.0
AUDITED = 1_000
ROUNDS = 3  # the fastest counts: the first reads the files from disk, and another program may take a turn


def quiet(what: str, done: int, total: int) -> None:
    pass


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    clock = SetClock(datetime.combine(FIRST_DAY + timedelta(days=MADE.days), datetime.min.time(), UTC))
    with open_store(str(tmp_path_factory.mktemp("archive")), clock, MADE.partitions) as store:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "fsync", lambda descriptor: None)  # of ten thousand files made up here
            MADE.write(store.objects)
        for partition in range(MADE.partitions):
            store.log.commit("archive", VERDICTS, partition, MADE.verdicts)
        yield store


def test_ten_million_verdicts_answer_each_query_within_three_seconds(plant: Store) -> None:
    files = archive_files(plant.objects)
    size = sum(plant.objects.size(name) for name in files)
    lines = [f"{len(files)} files, {size / 1e9:.2f} GB"]
    lines.append(f"without copies: {_took(plant, 'reject-rate'):.1f} s for reject-rate")
    began = time.monotonic()
    made = compact(plant, quiet)
    copied = sum(plant.objects.size(name) for name in archive_files(plant.objects))
    lines.append(f"compacted in {time.monotonic() - began:.0f} s to {made.copies} copies, {copied / 1e9:.2f} GB")
    took = {name: min(_took(plant, name) for _ in range(ROUNDS)) for name in named_queries()}
    lines += [f"{name} {seconds:.2f} s" for name, seconds in took.items()]
    _say("\n".join(lines))
    assert max(took.values()) < SECONDS


def test_a_history_is_quick_from_copies(plant: Store) -> None:
    compact(plant, quiet)
    since = datetime.combine(FIRST_DAY, datetime.min.time(), UTC)
    for days in (1, 3, 9):
        began = time.monotonic()
        images = history(plant.objects, "line-07", since, since + timedelta(days=days), [], 3_000).images
        _say(f"history of {days} days, {images} images: {time.monotonic() - began:.2f} s")


def test_a_thousand_verdicts_reproduce(flowgauge: Shell, tmp_path: Path) -> None:
    line, incoming, store = (
        ProceduralLine("cast-iron", seed=0, size=SIDE),
        tmp_path / "in",
        fitted_store(tmp_path / "p"),
    )
    incoming.mkdir()
    for number in range(AUDITED):
        sample = line.defect(number, "scratch") if number % 20 == 0 else line.good(number)
        (incoming / f"{number:04d}.png").write_bytes(png(sample.pixels))
    assert flowgauge("run", incoming, "--line", LINE, "--store", store, "--once", "--device", "cpu").code == 0
    began = time.monotonic()
    done = flowgauge("audit", LINE, "--store", store, "--sample", AUDITED, "--device", "cpu", "--json")
    took = time.monotonic() - began
    worst = max(abs(each["difference"]) for each in done.json["findings"])
    _say(f"audit of {AUDITED} verdicts: {took:.0f} s, {AUDITED / took:.0f} a second, scores within {worst:.1g}")
    assert (done.code, done.json["outcomes"]) == (0, {"reproduced": AUDITED})


def _took(plant: Store, name: str) -> float:
    query = named_queries()[name]
    began = time.monotonic()
    with VerdictQueries(plant.objects, threads=2) as queries:
        given = {"id": "p3-001234567"} if "$id" in query.sql else None
        rows, _ = queries.ask(query.sql, given).rows(1_000)
    assert rows
    return time.monotonic() - began


def _say(words: str) -> None:
    print(f"\n{words}")  # noqa: T201
