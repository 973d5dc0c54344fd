"""The wiring of a plant that many processes share: Kafka, Redis and an S3 service behind the ports.

Apart from `flowgauge.app.bootstrap`, because its libraries are an extra. What a role works with is imported for it
alone: numpy, scipy, pyarrow and Pillow would double the memory of a worker that only tells people.
"""

import os
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Event
from typing import TYPE_CHECKING, Any

from faust import SASLCredentials, SSLCredentials

from flowgauge.domain.errors import AuthorizationFailed, SettingsError, Unavailable
from flowgauge.domain.messages import IMAGES
from flowgauge.domain.ports import Clock
from flowgauge.kafka.auth_probe import ensure_admitted, tls_context
from flowgauge.kafka.faults import ensure_codecs
from flowgauge.kafka.header_names import any_names_in_groups
from flowgauge.kafka.log import KafkaLog
from flowgauge.kafka.settings import KafkaSettings
from flowgauge.processors.start_offset import ensure_companions
from flowgauge.redis.state import RedisState
from flowgauge.registry.lines import SettingsCache
from flowgauge.runtime.backend import Store
from flowgauge.runtime.faust_app import GroupApp, GroupSettings
from flowgauge.runtime.group_member import Member
from flowgauge.runtime.liveness import STALL_SECONDS, Pulse
from flowgauge.runtime.meter import UNMETERED, Meter
from flowgauge.runtime.processor import Processor
from flowgauge.runtime.roles import ADAPTATION_NICE, GAUGES_IN_MEMORY, Role, lower_priority
from flowgauge.runtime.task import Observer
from flowgauge.runtime.worker import OnUnavailable
from flowgauge.s3.objects import S3Objects
from flowgauge.settings.environment import kafka_settings, redis_url, s3_settings

if TYPE_CHECKING:
    from flowgauge.adaptation.contract import Adapt
    from flowgauge.registry.gauges import Compile, Load
    from flowgauge.registry.snapshots import SnapshotDisk

Makers = list[Callable[[], Processor]]

# decoding and storing go after the model's thread: with less they take its time, with more its next batch waits
_BESIDE_SCORING_NICE = 5
# at once, as many as the outbox hands out: with less images are stored late, more would stand idle
_UPLOADS = 4


def open_cluster(uri: str, clock: Clock) -> Store:
    """The store whose objects lie at `s3://BUCKET`; nothing is connected before it is used.

    The environment names the servers (`flowgauge.settings.environment`). Raises `SettingsError` for what is missing.
    """
    kafka = kafka_settings(os.environ)
    objects = S3Objects(s3_settings(os.environ), uri.removeprefix("s3://").rstrip("/"))
    state = RedisState(redis_url(os.environ), clock, prefix=f"{kafka.prefix}state:")
    return Store(uri, KafkaLog(kafka, clock), objects, state, clock)


@dataclass(frozen=True)
class Pace:
    """`images` are scored together at most; a batch waits `linger_seconds` at most to fill. A worker that is not heard
    of for `session_seconds` loses its partitions to the others; brokers accept 6 and more. One that gets no further for
    `stall_seconds` although records wait ends itself. The `gauges` that were used last stay in memory.
    """

    images: int = 16
    linger_seconds: float = 0.02
    session_seconds: float = 15.0
    stall_seconds: float = STALL_SECONDS
    archive_rows: int = 1_024
    gauges: int = GAUGES_IN_MEMORY


_PACE = Pace()


def group_members(
    store: Store,
    role: Role,
    load: "Load",
    adapt: "Adapt",
    *,
    pace: Pace = _PACE,
    observer: Observer = lambda step: None,
    unavailable: OnUnavailable = lambda name, error: None,
    meter: Meter = UNMETERED,
    disk: "SnapshotDisk | None" = None,
    compile: "Compile | None" = None,
    notifying: Callable[[], Processor] | None = None,
) -> list[GroupApp]:
    """One member for each consumer group of `role`, on a store that `open_store` opened at a bucket. `notifying` makes
    the processor of `notify`; without it `all` goes without.

    Raises `SettingsError` for a store in a directory, which one process works on, and `AuthenticationFailed` or
    `AuthorizationFailed` where the brokers refuse us.
    """
    if not isinstance(store.log, KafkaLog):
        raise SettingsError("Workers share a store at s3://.", "For a directory, use `flowgauge run`.")
    if role is Role.NOTIFY and notifying is None:
        raise SettingsError("A worker that tells people needs routes.", "Name their file: --notify FILE.")
    settings = store.log.settings
    stopping = Event()
    adapting = Pulse()
    makers: dict[Role, Callable[[], Makers]] = {
        Role.SCORING: lambda: _scoring(store, load, disk, compile, pace.gauges, meter),
        Role.DOWNSTREAM: lambda: _downstream(store, pace.archive_rows, meter),
        Role.ADAPTATION: lambda: _adaptation(store, load, adapt, stopping, adapting),
    }
    if notifying is not None:
        makers[Role.NOTIFY] = lambda: [notifying]
    kinds = list(makers) if role is Role.ALL else [role]
    apps = [
        GroupApp(
            Member(
                make,
                store.log,
                store.clock,
                observer,
                unavailable,
                stopping,
                meter,
                adapting if kind is Role.ADAPTATION else Pulse(),
                pace.stall_seconds,
            ),
            GroupSettings(
                brokers=";".join(f"kafka://{address}" for address in settings.addresses),
                prefix=settings.prefix,
                batch=pace.images,
                linger_seconds=pace.linger_seconds,
                session_seconds=pace.session_seconds,
                credentials=_credentials(settings),
                nice=ADAPTATION_NICE if kind is Role.ADAPTATION else 0,
                meter=meter,
            ),
        )
        for kind in kinds
        for make in makers[kind]()
    ]
    _ensure_served(store.log, [app.member for app in apps])
    return apps


def _scoring(
    store: Store, load: "Load", disk: "SnapshotDisk | None", compile: "Compile | None", capacity: int, meter: Meter
) -> Makers:
    from flowgauge.processors.scoring import Scoring
    from flowgauge.registry.gauges import Gauges

    beside = lower_priority(_BESIDE_SCORING_NICE)
    compiling = ThreadPoolExecutor(1, thread_name_prefix="compile", initializer=beside)
    gauges = Gauges(store.log, store.objects, load, capacity, disk=disk, compile=compile, beside=compiling, meter=meter)
    decoding = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="decode", initializer=beside)
    storing = ThreadPoolExecutor(_UPLOADS, thread_name_prefix="store", initializer=beside)
    return [lambda: Scoring(store, gauges, decoding, storing, meter=meter)]


def _downstream(store: Store, archive_rows: int, meter: Meter) -> Makers:
    from flowgauge.processors.alerting import Alerting
    from flowgauge.processors.archive import Archive
    from flowgauge.processors.observing import Observing
    from flowgauge.processors.parts import Parts
    from flowgauge.processors.trials import Trials

    settings = SettingsCache(store)  # one for both: each asks the object store for every line every two seconds
    return [
        lambda: Alerting(store, settings),
        lambda: Observing(store, meter, settings),
        lambda: Archive(store, archive_rows),
        lambda: Parts(store),
        lambda: Trials(store),
    ]


def _adaptation(store: Store, load: "Load", adapt: "Adapt", stopping: Event, pulse: Pulse) -> Makers:
    from flowgauge.processors.adaptation import Adaptation

    owner = f"{socket.gethostname()}-{os.getpid()}"
    return [lambda: Adaptation(store, load, adapt, owner, stopping.is_set, pulse.beat)]


def _ensure_served(log: KafkaLog, members: Sequence[Member]) -> None:
    """Raises `AuthenticationFailed` or `AuthorizationFailed` where brokers refuse what a member needs, and
    `SettingsError` for codecs or partitions that are missing: Faust would wait in silence.

    Brokers that are away are left to Faust.
    """
    ensure_codecs()
    any_names_in_groups()
    ensure_admitted(log.settings)
    try:
        for member in members:
            for topic in member.inputs:
                log.position(member.name, topic, 0)
                log.read(topic, 0, max(0, log.end(topic, 0) - 1), 1)
        if any(IMAGES in member.inputs for member in members):
            ensure_companions(log)
    except AuthorizationFailed:
        raise
    except Unavailable:
        return


def _credentials(settings: KafkaSettings) -> Any:
    """Faust's form of them; None where the brokers ask for none."""
    context = tls_context(settings)
    if settings.by_password and settings.password is not None:
        return SASLCredentials(
            username=settings.username,
            password=settings.password.get_secret_value(),
            mechanism=settings.mechanism.value,
            ssl_context=context,
        )
    return None if context is None else SSLCredentials(context=context)
