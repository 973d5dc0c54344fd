"""The topics: made with what the rules of delivery rest on, and checked for it."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from time import monotonic, sleep
from typing import Any

from flowgauge.domain.messages import (
    ADAPTATIONS,
    ALERTS,
    DEAD_LETTERS,
    IMAGES,
    PART_VERDICTS,
    SHADOW_VERDICTS,
    SNAPSHOTS,
    TOPICS,
    VERDICTS,
)
from flowgauge.kafka.auth_probe import ensure_admitted
from flowgauge.kafka.faults import kafka_faults
from flowgauge.kafka.settings import LARGEST_DEAD_LETTER, LARGEST_MESSAGE, KafkaSettings
from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import KafkaTimeoutError, TopicAuthorizationFailedError

# Shorter fails where brokers are busy; longer keeps a person waiting for brokers that hang.
_APPEARING_SECONDS = 30
# The same for one answer.
_ANSWER_SECONDS = 15
_DAY_MS = 86_400_000
# Shorter loses images that wait for a repair over a weekend, or records that nobody has looked at yet; longer takes the
# brokers' disks. Verdicts outlive their images: a worker looks up in them what it has done.
_KEPT_MS = {
    IMAGES: 3 * _DAY_MS,
    VERDICTS: 7 * _DAY_MS,
    ALERTS: 30 * _DAY_MS,
    ADAPTATIONS: 30 * _DAY_MS,
    DEAD_LETTERS: 30 * _DAY_MS,
    PART_VERDICTS: 30 * _DAY_MS,
    SHADOW_VERDICTS: 7 * _DAY_MS,
}
_COMPANIONS = (VERDICTS, DEAD_LETTERS, PART_VERDICTS, SHADOW_VERDICTS)
_PER_LINE = (IMAGES, *_COMPANIONS)
_RETENTION, _CLEANUP, _LARGEST = "retention.ms", "cleanup.policy", "max.message.bytes"
_COMPACTED = {_CLEANUP: "compact"}
_TIME, _BROKERS_TIME = "message.timestamp.type", "LogAppendTime"


@dataclass(frozen=True)
class Plan:
    """`partitions` of images and of what comes of each; the other topics have one."""

    partitions: int = 1
    replication: int = 1


class Topics:
    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._names = {name: settings.topic(name) for name in TOPICS}
        self._admin: Any = None

    def __enter__(self) -> "Topics":
        ensure_admitted(self._settings)
        with self._faults("Describe"):
            self._admin = KafkaAdminClient(**self._settings.client_options(), request_timeout_ms=_ANSWER_SECONDS * 1000)
        return self

    def __exit__(self, *_: object) -> None:
        self._admin.close()

    def create(self, plan: Plan) -> list[str]:
        """Make those that are missing and wait until they can be used; their names. Others stay as they are."""
        with self._faults("Create"):
            there = set(self._admin.list_topics())
            missing = {}
            for name, topic in self._names.items():
                if topic in there:
                    continue
                largest = LARGEST_DEAD_LETTER if name == DEAD_LETTERS else LARGEST_MESSAGE
                expiry = {_CLEANUP: "delete", _RETENTION: str(_KEPT_MS[name])} if name in _KEPT_MS else _COMPACTED
                missing[topic] = {
                    "num_partitions": plan.partitions if name in _PER_LINE else 1,
                    "replication_factor": plan.replication,
                    "configs": {_LARGEST: str(largest), _TIME: _BROKERS_TIME} | expiry,
                }
            if missing:
                self._admin.create_topics(missing)
                self._admin.wait_for_topics(list(missing), timeout_ms=_APPEARING_SECONDS * 1000)
        return sorted(missing)

    def extend(self) -> dict[str, int]:
        """Give what comes of images every partition that they have, and wait until they can be used; how many each
        topic that lacked some has now. Nothing that is there moves: records lie by their image's partition.
        """
        names = self._names
        with self._faults("Alter"):
            counts = self._partition_counts()
            images = counts[names[IMAGES]]
            short = {names[name]: images for name in _COMPANIONS if counts[names[name]] < images}
            if short:
                self._admin.create_partitions(short)
            deadline = monotonic() + _APPEARING_SECONDS
            while any(self._partition_counts()[topic] < count for topic, count in short.items()):
                if monotonic() > deadline:
                    raise KafkaTimeoutError(f"new partitions of {', '.join(short)} did not appear")
                sleep(0.1)
        return short

    def check(self) -> list[str]:
        """One sentence, with its remedy, for everything that breaks a rule of delivery; empty when all is well."""
        with self._faults("DescribeConfigs"):
            described = self._admin.describe_topics(list(self._names.values()))
            if any(each["error_code"] == TopicAuthorizationFailedError.errno for each in described):
                raise TopicAuthorizationFailedError
            counts = {each["name"]: len(each["partitions"]) for each in described if not each["error_code"]}
            missing = [topic for topic in self._names.values() if topic not in counts]
            if missing:
                return [f"Topic {topic} is missing: run `flowgauge topics create`." for topic in missing]
            configs = {}
            for name, topic in self._names.items():
                resource = ConfigResource(ConfigResourceType.TOPIC, topic)
                answer = self._admin.describe_configs([resource], config_filter="all")
                (found,) = (by_name[topic] for by_name in answer.values() if topic in by_name)
                configs[name] = {key: str(value["value"]) for key, value in found.items()}
        images = counts[self._names[IMAGES]]
        too_few = [
            f"Images have {images} partitions and {name} {count}: what comes of an image lies in the"
            " partition of the same number. Run `flowgauge topics create`, which adds those that are missing."
            for name, count in ((name, counts[self._names[name]]) for name in _COMPANIONS)
            if count < images
        ]
        return [*too_few, *_config_faults(configs)]

    def _partition_counts(self) -> dict[str, int]:
        described = self._admin.describe_topics([self._names[name] for name in _PER_LINE])
        return {each["name"]: len(each["partitions"]) for each in described}

    def _faults(self, operation: str) -> AbstractContextManager[None]:
        return kafka_faults(self._settings, f"{operation} on the topics that begin with {self._settings.prefix}")


def _config_faults(configs: Mapping[str, Mapping[str, str]]) -> list[str]:
    faults = []
    # A negative time is for ever.
    images, verdicts = (int(configs[name][_RETENTION]) for name in (IMAGES, VERDICTS))
    if verdicts >= 0 and (images < 0 or verdicts < images):
        faults.append(
            "Verdicts are kept for a shorter time than images: a worker that finds no verdict starts over. Raise the"
            f" verdict topic's {_RETENTION}."
        )
    if configs[SNAPSHOTS][_CLEANUP] != "compact":
        faults.append(f"Snapshots would expire: set the snapshot topic's {_CLEANUP} to compact.")
    envelope = LARGEST_DEAD_LETTER - LARGEST_MESSAGE
    if int(configs[DEAD_LETTERS][_LARGEST]) < int(configs[IMAGES][_LARGEST]) + envelope:
        faults.append(
            "The largest message that images take would have no room among dead letters and hold its partition up."
            f" Let the dead-letter topic's {_LARGEST} exceed the image topic's by {envelope}."
        )
    by_clients = [name for name, config in configs.items() if config[_TIME] != _BROKERS_TIME]
    if by_clients:
        faults.append(
            f"Records of {', '.join(by_clients)} carry the time of whoever sent them: brokers refuse what a wrong clock"
            f" sends, and alerts are counted in wrong windows. Set {_TIME} to {_BROKERS_TIME}."
        )
    return faults
