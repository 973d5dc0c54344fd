"""A member of a group on a real broker: what Faust is made to do that it does not do by itself."""

import asyncio
import os
import threading
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

import pytest
from aiokafka.consumer.fetcher import Fetcher

from flowgauge.domain.messages import IMAGES
from flowgauge.domain.ports import Outgoing, Record
from flowgauge.kafka.log import KafkaLog
from flowgauge.local import SystemClock
from flowgauge.runtime.faust_app import GroupApp, GroupSettings, run_groups
from flowgauge.runtime.group_member import Member
from flowgauge.runtime.meter import UNMETERED
from flowgauge.runtime.processor import Processor
from flowgauge.runtime.task import Partition
from flowgauge.settings.environment import kafka_settings
from tests.support.shell import Shell

_REWINDS = 5


class Reading(Processor):
    """Reads images and answers nothing."""

    name = "reading"
    inputs = (IMAGES,)

    def process(self, records: Sequence[Record]) -> list[Outgoing]:
        return []


class Rewinding(Member):
    """Asks for all from the first record on after each of its first fetches, and ends its app then."""

    asked = 0

    def __init__(self, log: KafkaLog, ended: asyncio.Event) -> None:
        super().__init__(Reading, log, SystemClock())
        self._ended = ended

    def rewinds(self) -> dict[Partition, int]:
        if self.asked == _REWINDS:
            self._ended.set()
            return {}
        self.asked += 1
        return {(IMAGES, 0): 0}


def test_a_member_seeks_in_the_thread_that_fetches(
    flowgauge: Shell, kafka_bootstrap: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From another thread a seek takes away what the fetch there holds, and the member ends with a KeyError."""
    sought, fetched = set[int](), set[int]()
    seek_to, fetched_records = Fetcher.seek_to, Fetcher.fetched_records

    def seek_seen(self: Any, *given: Any) -> None:
        sought.add(threading.get_ident())
        seek_to(self, *given)

    async def fetch_seen(self: Any, *given: Any, **named: Any) -> Any:
        fetched.add(threading.get_ident())
        return await fetched_records(self, *given, **named)

    monkeypatch.setattr(Fetcher, "seek_to", seek_seen)
    monkeypatch.setattr(Fetcher, "fetched_records", fetch_seen)
    monkeypatch.setenv("FLOWGAUGE_KAFKA_BOOTSTRAP", kafka_bootstrap)
    monkeypatch.setenv("FLOWGAUGE_TOPIC_PREFIX", f"seek-{uuid4().hex[:8]}.")
    flowgauge("topics", "create", "--partitions", 1)
    log = KafkaLog(kafka_settings(os.environ), SystemClock())
    log.append([Outgoing(IMAGES, "press-3", b"image") for _ in range(6)])
    asyncio.run(_rewound(log))
    log.close()
    assert len(fetched) == 1
    assert sought == fetched


async def _rewound(log: KafkaLog) -> None:
    """Ends once all rewinds were asked for and what they bring was read."""
    ended = asyncio.Event()
    settings = GroupSettings(
        brokers=f"kafka://{log.settings.addresses[0]}",
        prefix=log.settings.prefix,
        batch=4,
        linger_seconds=0.02,
        session_seconds=6.0,
        credentials=None,
        nice=0,
        meter=UNMETERED,
    )
    async with asyncio.timeout(60):
        await run_groups([GroupApp(Rewinding(log, ended), settings)], ended, _overdue)


def _overdue(failure: BaseException | None) -> None:
    pytest.fail(f"the member does not stop: {failure}")
