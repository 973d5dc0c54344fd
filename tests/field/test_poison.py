"""Malformed events among good ones, on real servers: no worker ends, each good image has its verdict, and each
malformed one is a dead letter that says which header or field is wrong."""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from itertools import cycle, islice
from random import Random
from typing import Any

import numpy as np
import pytest
from kafka import KafkaProducer
from PIL import Image

from flowgauge.domain.dead_letters import OFFSET, PARTITION, REASON
from flowgauge.domain.messages import ALERTS, DEAD_LETTERS, IMAGES, VERDICTS, AlertKind
from flowgauge.domain.ports import Objects
from flowgauge.runtime.alerts import NO_LINE, alerts
from flowgauge.runtime.fencing import count
from flowgauge.runtime.roles import Role
from flowgauge.settings.environment import kafka_settings
from tests.support.clusters import LINES, PARTITIONS, Cluster, plant
from tests.support.files import bomb, encoded
from tests.support.long_runs import LONG
from tests.support.servers import S3Address, plant_variables
from tests.support.streaming import png

# every kind of malformed event at least once
GOOD, POISON = (5_000, 500) if LONG else (500, 60)
SECONDS = 900
UNKNOWN = 20  # images of a line that nobody has set up: they are for review and no dead letters
Headers = Mapping[str, bytes | None]
TIME = b"2026-03-01T06:00:00Z"


class Latin(str):
    """A header's name as a camera's program in C sends it."""

    def encode(self, encoding: str = "", errors: str = "") -> bytes:
        return super().encode("latin-1")


@dataclass(frozen=True)
class Poison:
    """`names`: what its dead letter's reason must say; `value` and `headers` are what the camera's program sends, None
    what it leaves out.
    """

    names: str
    value: bytes
    headers: Headers
    key: bytes | None = b""
    """Empty: that of a line."""


@pytest.fixture
def cluster(
    kafka_bootstrap: str, redis_url: str, s3_address: S3Address, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Cluster]:
    for name, value in plant_variables(kafka_bootstrap, redis_url, s3_address).items():
        monkeypatch.setenv(name, value)
    with plant() as cluster:
        yield cluster


def gray(number: int, side: int = 48) -> Image.Image:
    return Image.fromarray(np.random.default_rng(number).integers(80, 120, (side, side), dtype=np.uint8))


HEADERS: list[tuple[str, Headers]] = [
    ("ce_id", {"ce_id": None}),
    ("ce_id", {"ce_id": b""}),
    ("ce_id", {"ce_id": b"x" * 1025}),
    ("ce_id", {"ce_id": b"\xff" * 300_000}),
    ("ce_time", {"ce_time": b"yesterday"}),
    ("ce_time", {"ce_time": b"0001-01-01T00:00:00+01:00"}),
    ("ce_time", {"ce_time": b"9999-12-31T23:59:59-05:00"}),
    ("ce_time", {"ce_time": b"NaN"}),
    ("ce_time", {"ce_time": b"1e400"}),
    ("ce_time", {"ce_time": b"\xff\xfe\x00"}),
    ("ce_time", {"ce_time": b"2026-13-45T99:99:99Z"}),
    ("ce_usefortraining", {"ce_usefortraining": b"perhaps"}),
    ("ce_usefortraining", {"ce_usefortraining": b""}),
    ("ce_subject", {"ce_subject": b"\x01" * 3_000_000}),
    ("ce_source", {"ce_source": b"s" * 2_000_000}),
    ("ce_time", {"ce_time": b"\xff" * 3_000_000}),
    ("ce_id", {"ce_id": None, "x-trace": b"\xfe" * 3_000_000}),
]
KEYS: list[bytes | None] = [None, b" ", b"press 3/../x", b"\xff\xfe", b"p" * 65, b"\xff" * 3_000_000, "größe".encode()]


def images(seed: int) -> Iterator[tuple[str, bytes]]:
    """What cannot be inspected, and what its dead letter says of it."""
    whole, jpeg = png(100, seed, side=48), encoded(gray(seed), "JPEG")
    tiff, bmp = encoded(gray(seed), "TIFF"), encoded(gray(seed), "BMP")
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 0xFF
    yield "0 bytes", b""
    yield "truncated or damaged", whole[: len(whole) // 2]
    yield "truncated or damaged", whole[:20]
    yield "truncated or damaged", jpeg[: len(jpeg) // 2]
    yield "truncated or damaged", bytes(damaged)
    yield "truncated or damaged", bmp[: len(bmp) // 2]
    yield "truncated or damaged", tiff[: len(tiff) // 2]
    yield "truncated or damaged", tiff[:4] + b"\xff" * 60
    yield "no image in a known format", Random(seed).randbytes(500)
    yield "no image in a known format", b'{"image": "' + str(seed).encode() + b'"}'
    yield "no format that is inspected", encoded(gray(seed), "GIF")
    yield "no format that is inspected", encoded(gray(seed).convert("RGB"), "WEBP")
    yield "no format that is inspected", b"%PDF-1.7 " + str(seed).encode()
    yield "several images", encoded(gray(seed), "TIFF", save_all=True, append_images=[gray(seed + 1)])
    yield "32 bits per pixel", encoded(Image.fromarray(np.full((48, 48), seed, np.float32)), "TIFF")
    yield "32 bits per pixel", encoded(Image.fromarray(np.full((48, 48), seed, np.int32)), "TIFF")
    yield "more than the limit", bomb()
    yield "only 4 x 4 pixels", png(100, seed, side=4)


def claims(seed: int, objects: Objects) -> Iterator[tuple[str, bytes, Headers]]:
    """Claim checks: (what the dead letter says, the object's bytes, headers)."""
    whole = png(100, seed, side=48)
    stored = objects.uri(f"images/claimed-{seed}.png")
    objects.put(objects.name(stored), whole)
    half = objects.uri(f"images/half-{seed}.png")
    objects.put(objects.name(half), whole[:300])
    digest, size = sha256(whole).hexdigest().encode(), str(len(whole)).encode()
    right: Headers = {"ce_dataref": stored.encode(), "ce_datasha256": digest, "ce_datasize": size}
    elsewhere = [b"", b"file:///etc/passwd", b"http://127.0.0.1/x.png", b"s3://no-bucket-of-ours/x", b"\xff\xfe"]
    outside = [
        objects.uri("images/x")[:-1].encode() + name for name in (b"none.png", b"../../x", b"", b"a//b", b"\x00")
    ]
    for reference in (*elsewhere, *outside, b"s3://" + b"x" * 20_000):
        yield "ce_dataref", b"", {**right, "ce_dataref": reference}
    yield "ce_datasha256", b"", {**right, "ce_datasha256": b"0" * 64}
    yield "ce_datasha256", b"", {**right, "ce_datasha256": None}
    yield "ce_datasize", b"", {**right, "ce_datasize": b"-1"}
    yield "ce_datasize", b"", {**right, "ce_datasize": None}
    digest = sha256(whole[:300]).hexdigest().encode()
    yield (
        "truncated or damaged",
        b"",
        {"ce_dataref": half.encode(), "ce_datasha256": digest, "ce_datasize": b"300"},
    )


def poisons(objects: Objects) -> Iterator[Poison]:
    """Without an end: every kind once, then every kind again with other bytes."""
    for round_ in cycle(range(1_000)):

        def headers(kind: str, number: int, round_: int = round_) -> Headers:
            return {"ce_id": f"bad-{kind}-{round_}-{number}".encode(), "ce_time": TIME}

        for number, (names, changed) in enumerate(HEADERS):
            yield Poison(names, png(100, number, side=48), {**headers("header", number), **changed})
        for number, key in enumerate(KEYS):
            yield Poison("key", png(100, number, side=48), headers("key", number), key)
        for number, (names, value) in enumerate(images(round_)):
            yield Poison(names, value, headers("image", number))
        for number, (names, value, claim) in enumerate(claims(round_, objects)):
            yield Poison(names, value, {**headers("claim", number), **claim})
        yield Poison("same id", png(100, 10**6 + round_, side=48), {"ce_id": b"0000", "ce_time": TIME})


def sent(cluster: Cluster, good: int, poison: int) -> dict[tuple[int, int], Poison]:
    """All, well mixed, and where each malformed one lies: partition and offset. The lines' first image comes first."""
    settings = kafka_settings(os.environ)
    producer = KafkaProducer(**settings.client_options(), acks="all", max_request_size=10 * 2**20)

    def send(key: bytes | None, value: bytes, headers: Headers, partition: int) -> Any:
        listed = [(name, text) for name, text in headers.items() if text is not None]
        return producer.send(settings.topic(IMAGES), key=key, value=value, headers=listed, partition=partition)

    def good_one(number: int) -> Callable[[], None]:
        line, image_id = number % len(LINES), f"{number // len(LINES):04d}"
        headers: Headers = {"ce_id": image_id.encode(), "ce_time": TIME, Latin("größe"): b"\xe9"}
        data = png(170 if number % 50 == 0 else 100, seed=number, side=48)
        return lambda: send(LINES[line].encode(), data, headers, line) and None

    under_way: list[tuple[Poison, Any]] = []

    def bad_one(number: int, each: Poison) -> Callable[[], None]:
        line = number % len(LINES)
        key = LINES[line].encode() if each.key == b"" else each.key
        return lambda: under_way.append((each, send(key, each.value, each.headers, line)))

    def unknown(number: int) -> Callable[[], None]:
        headers: Headers = {"ce_id": f"unknown-{number}".encode(), "ce_time": TIME}
        return lambda: send(b"press-unknown", png(100, number, side=48), headers, number % PARTITIONS) and None

    first = [good_one(number) for number in range(len(LINES))]
    others = [good_one(number) for number in range(len(LINES), good)] + [unknown(number) for number in range(UNKNOWN)]
    others += [bad_one(number, each) for number, each in enumerate(islice(poisons(cluster.store.objects), poison))]
    Random(0).shuffle(others)
    for each in (*first, *others):
        each()
    producer.flush()
    producer.close()
    return {(future.get().partition, future.get().offset): each for each, future in under_way}


def verdicts_that_count(cluster: Cluster) -> Counter[tuple[str, str]]:
    return Counter(
        (item.verdict.line, item.verdict.image_id)
        for partition in range(PARTITIONS)
        for item in count(list(cluster.of_partition(VERDICTS, partition))).counted
    )


@pytest.mark.slow
def test_malformed_events_are_dead_letters_by_name_and_all_others_are_scored_by_workers_that_go_on(
    cluster: Cluster,
) -> None:
    workers = [cluster.start(Role.ALL), cluster.start(Role.ALL)]
    malformed = sent(cluster, GOOD, POISON)
    every = Counter((LINES[number % len(LINES)], f"{number // len(LINES):04d}") for number in range(GOOD))
    every.update(("press-unknown", f"unknown-{number}") for number in range(UNKNOWN))

    def done() -> bool:
        assert [worker.poll() for worker in workers] == [None, None], "a worker has ended"
        return cluster.ends(VERDICTS) >= every.total() and cluster.ends(DEAD_LETTERS) >= len(malformed)

    cluster.wait("verdicts and dead letters", done, SECONDS)
    kinds = {AlertKind.DEAD_LETTER, AlertKind.REJECT, AlertKind.NO_GAUGE}
    cluster.wait("alerts", lambda: kinds <= {alert.kind for alert in alerts(cluster.store.log)})
    cluster.stop()
    dead_letters = cluster.records(DEAD_LETTERS)
    reasons = {(int(each.headers[PARTITION]), int(each.headers[OFFSET])): each.headers[REASON] for each in dead_letters}
    unnamed = [(each.names, reasons[at]) for at, each in malformed.items() if each.names not in reasons.get(at, "")]
    assert verdicts_that_count(cluster) == every
    assert len(dead_letters) == len(malformed) == POISON
    assert reasons.keys() == malformed.keys()
    assert not unnamed
    alerted = {alert.line for alert in alerts(cluster.store.log) if alert.kind is AlertKind.DEAD_LETTER}
    assert alerted == {*LINES, NO_LINE}
    assert all(len(record.value) < 100_000 for record in cluster.records(ALERTS))
