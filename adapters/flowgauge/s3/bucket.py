"""One bucket of an S3 service: what fails is tried again, and a service that is away is given a rest."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import uniform
from threading import Lock
from time import monotonic, sleep
from typing import TypeVar
from urllib.parse import urlsplit

from minio import Minio
from minio.helpers import check_bucket_name
from urllib3 import PoolManager
from urllib3.util import Timeout

from flowgauge.domain.backoff import waits
from flowgauge.domain.errors import SettingsError, Unavailable
from flowgauge.s3.faults import FAULTS, s3_faults, transient
from flowgauge.s3.settings import S3Settings

# Connections that are kept: fewer than the threads that ask at once, and each call beyond makes its own and drops it.
_CONNECTIONS = 16
# Seconds; longer, and a service that is back stands idle for it.
_LONGEST_WAIT = 5.0
# Seconds; shorter than any caller's pause between tries that fail, so that each of its tries is made.
_REST = 5.0

T = TypeVar("T")


class Bucket:
    """Raises `SettingsError` for names or settings that will not do. Connects at the first `ask`."""

    def __init__(self, settings: S3Settings, name: str) -> None:
        try:
            check_bucket_name(name, strict=True)
        except ValueError as error:
            remedy = "Use 3 to 63 lower-case letters, digits, dots or hyphens."
            raise SettingsError(f"{name!r} cannot name a bucket.", remedy) from error
        self.name = name
        self.address = f"The bucket {name} at {settings.endpoint}"
        self._retry_seconds = settings.retry_seconds
        # Without retries of its own: `ask` is the only loop.
        self._http = PoolManager(
            maxsize=_CONNECTIONS,
            timeout=Timeout(connect=settings.connect_seconds, read=settings.answer_seconds),
            retries=False,
            ca_certs=None if settings.ca_file is None else str(settings.ca_file),
        )
        url = urlsplit(settings.endpoint)
        try:
            self.client = Minio(
                url.netloc,
                settings.access_key,
                settings.secret_key.get_secret_value(),
                None if settings.session_token is None else settings.session_token.get_secret_value(),
                secure=url.scheme == "https",
                region=settings.region,
                http_client=self._http,
            )
        except ValueError as error:
            remedy = "Check the endpoint and the region."
            raise SettingsError(f"The settings of S3 do not fit: {error}.", remedy) from error

    def ask(self, attempt: Callable[[], T], *, once: bool = False) -> T:
        """What `attempt`, which must be repeatable, returns.

        A transient fault of it is tried again unless the next try would begin after `retry_seconds`, or it is to be
        tried only `once`. The last one is raised as `s3_faults` translates it.
        """
        deadline = monotonic() + (0 if once else self._retry_seconds)
        longest = waits(_LONGEST_WAIT)
        with s3_faults(self.address):
            while True:
                try:
                    return attempt()
                except FAULTS as fault:
                    # Random, so that many who wait do not come back as one wave.
                    pause = next(longest) * uniform(0.5, 1)
                    if not transient(fault) or monotonic() + pause > deadline:
                        raise
                sleep(pause)

    def close(self) -> None:
        self._http.clear()


class Breaker:
    """Spares callers the wait for a service that is away: open for 5 seconds after a call has given up.

    The first call after that is a trial, and while it lasts the others still find the breaker open. `now` gives seconds
    that never fall. Safe to use from several threads.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._lock = Lock()
        self._reason: Unavailable | None = None
        self._closes_at = 0.0
        self._on_trial = False

    @contextmanager
    def call(self, gave_up: Callable[[Unavailable], bool]) -> Iterator[bool]:
        """Around one call; yields whether it is a trial, which is to try only once.

        Raises what the last call gave up with while open. An `Unavailable` that comes out of the call opens it where
        `gave_up` says so; anything else shows a service that answers, and closes it.
        """
        with self._lock:
            reason = self._reason
            trial = reason is not None
            if reason is not None and (self._on_trial or self._now() < self._closes_at):
                raise type(reason)(reason.cause, reason.remedy)
            self._on_trial |= trial
        reason, answered = None, True
        try:
            yield trial
        except Exception as error:
            reason = error if isinstance(error, Unavailable) and gave_up(error) else None
            raise
        except BaseException:
            # An interrupted call tells nothing of the service.
            answered = False
            raise
        finally:
            with self._lock:
                self._on_trial &= not trial
                if reason is not None:
                    self._closes_at = self._now() + _REST
                if answered:
                    self._reason = reason
