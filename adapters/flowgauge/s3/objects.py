"""Objects in one bucket of any S3 service, by plain S3 calls: put, get, list, delete, presign."""

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from hashlib import sha256
from io import BytesIO
from itertools import islice
from time import monotonic
from typing import TypeVar, cast

from minio.commonconfig import Tags
from minio.error import S3Error

from flowgauge.domain.errors import Unavailable
from flowgauge.s3.circuit_breaker import Breaker
from flowgauge.s3.client import bucket_name, client, connections
from flowgauge.s3.faults import Damaged, s3_faults, transient
from flowgauge.s3.retry import with_retries
from flowgauge.s3.settings import S3Settings

_PART_BYTES = 16 * 2**20  # images go in one piece, snapshots in a few; what fails is sent again as a whole
_PAGE = 1_000  # the most that a server lists at once
_LONGEST_NAME_BYTES = 1_024
_CLIMBS = frozenset({"", ".", ".."})
_UNSPEAKABLE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")  # XML and HTTP have no words for these
_DIGEST = "sha256"
_NOT_THERE = frozenset({"NoSuchKey", "NoSuchVersion"})
_NO_NAME = frozenset(
    {"KeyTooLongError", "XMinioInvalidObjectName", "ObjectParentIsFile", "ExistingObjectIsDirectory", "InvalidURI"}
)
_NO_TAGS = frozenset({"NotImplemented", "MethodNotAllowed"})
_BUCKET_IS_THERE = frozenset({"BucketAlreadyOwnedByYou", "BucketAlreadyExists"})

T = TypeVar("T")


class S3Objects:
    """`uri` of an object is `s3://`, the bucket, `/` and its name. Names that would climb or are none raise `KeyError`.

    A put is whole once it has returned, and as durable as the service promises; the server checks what it got against
    a hash (SHA-256, or MD5 under TLS). A get compares with the SHA-256 that the put left beside the object, if one is
    there. Transient faults are tried again while `settings.patience_seconds` last; a call that hangs ends with its
    socket's deadline after that. Once a call has given up, those of the next 5 seconds fail at once (see `Breaker`;
    `now` is its clock). Tags are left out for a service that knows none. The constructor touches no network.
    """

    def __init__(self, settings: S3Settings, bucket: str, now: Callable[[], float] = monotonic) -> None:
        self._bucket = bucket_name(bucket)
        self._scheme = f"s3://{bucket}/"
        self._address = f"The bucket {bucket} at {settings.endpoint}"
        self._retry = settings.retry_seconds
        self._http = connections(settings)
        self._client = client(settings, self._http)
        self._breaker = Breaker(now)
        self._takes_tags = True

    def ensure_bucket(self) -> None:
        """Create the bucket unless it is there; for setups, as workers' keys seldom may."""
        self._ask(self._make_bucket)

    def put(self, name: str, data: bytes, tags: Mapping[str, str] | None = None) -> str:
        _check(name)
        digest = sha256(data).hexdigest()
        self._ask_for(name, lambda: self._send_tagged(name, data, digest, tags or {}))
        return self.uri(name)

    def get(self, name: str) -> bytes:
        _check(name)
        return self._ask_for(name, lambda: self._whole(name))

    def exists(self, name: str) -> bool:
        _check(name)
        try:
            self._ask_for(name, lambda: self._touch(name))
        except KeyError:
            return False
        return True

    def names(self, prefix: str) -> Iterator[str]:
        """Page by page as they are taken, so `Unavailable` may come between; what is no name of ours is left out."""
        page = self._page(prefix, None)
        while page:
            yield from filter(_is_name, page)
            page = self._page(prefix, page[-1]) if len(page) == _PAGE else []

    def delete(self, name: str) -> None:
        _check(name)
        try:
            self._ask_for(name, lambda: self._client.remove_object(self._bucket, name))
        except KeyError:
            return

    def presigned(self, name: str, seconds: int) -> str:
        """A URL that whoever has it may read the object by; the object need not be there.

        Raises `ValueError` unless `seconds` are 1 second to 7 days.
        """
        _check(name)
        return self._client.presigned_get_object(self._bucket, name, timedelta(seconds=seconds))

    def uri(self, name: str) -> str:
        return self._scheme + name

    def name(self, uri: str) -> str:
        name = uri.removeprefix(self._scheme)
        if name == uri:
            raise KeyError(uri)
        _check(name)
        return name

    def close(self) -> None:
        """Let go of connections."""
        self._http.clear()

    def _ask(self, attempt: Callable[[], T]) -> T:
        with self._breaker.call(_gave_up) as trial, s3_faults(self._address):
            return with_retries(attempt, 0 if trial else self._retry)

    def _ask_for(self, name: str, attempt: Callable[[], T]) -> T:
        """Raises `KeyError` where the server says that `name` is not there or cannot be."""
        try:
            return self._ask(attempt)
        except Unavailable as error:
            fault = error.__cause__
            if isinstance(fault, S3Error) and fault.code in _NOT_THERE | _NO_NAME:
                raise KeyError(name) from fault
            raise

    def _make_bucket(self) -> None:
        if self._client.bucket_exists(self._bucket):
            return
        try:
            self._client.make_bucket(self._bucket)
        except S3Error as error:  # another was quicker
            if error.code not in _BUCKET_IS_THERE:
                raise

    def _send_tagged(self, name: str, data: bytes, digest: str, tags: Mapping[str, str]) -> None:
        """An object without tags is worth more than none."""
        if tags and self._takes_tags:
            try:
                return self._send(name, data, digest, tags)
            except S3Error as error:
                if error.code not in _NO_TAGS:
                    raise
                self._takes_tags = False
        return self._send(name, data, digest, {})

    def _send(self, name: str, data: bytes, digest: str, tags: Mapping[str, str]) -> None:
        """Parts go one after the other: threads that a failed put leaves behind would go on sending."""
        self._client.put_object(
            self._bucket,
            name,
            BytesIO(data),
            len(data),
            metadata={_DIGEST: digest},
            tags=_tags(tags),
            part_size=_PART_BYTES,
            num_parallel_uploads=1,
        )

    def _whole(self, name: str) -> bytes:
        """A body shorter than its announced length is a fault of the connection, raised by `read`."""
        response = self._client.get_object(self._bucket, name)
        data = response.read()
        digest = response.headers.get(f"x-amz-meta-{_DIGEST}")
        if digest is not None and digest != sha256(data).hexdigest():
            raise Damaged(f"the bytes of {name} do not match their SHA-256")
        return data

    def _touch(self, name: str) -> None:
        """One byte of it: unlike HEAD, an answer to this can tell a missing bucket from a missing object."""
        try:
            self._client.get_object(self._bucket, name, length=1).read()
        except S3Error as error:
            if error.code != "InvalidRange":  # of an empty object, which is there
                raise

    def _page(self, prefix: str, after: str | None) -> list[str]:
        def attempt() -> list[str]:
            found = self._client.list_objects(self._bucket, prefix, recursive=True, start_after=after)
            return [cast(str, each.object_name) for each in islice(found, _PAGE)]

        return self._ask(attempt)


def _gave_up(error: Unavailable) -> bool:
    return isinstance(error.__cause__, Exception) and transient(error.__cause__)


def _tags(tags: Mapping[str, str]) -> Tags | None:
    if not tags:
        return None
    made = Tags(for_object=True)
    made.update(tags)
    return made


def _is_name(name: str) -> bool:
    if not name.strip() or _CLIMBS & set(name.split("/")) or _UNSPEAKABLE.search(name):
        return False
    return len(name.encode()) <= _LONGEST_NAME_BYTES


def _check(name: str) -> None:
    if not _is_name(name):
        raise KeyError(name)
