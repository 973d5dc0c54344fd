"""Objects in one bucket of any S3 service, by plain S3 calls: put, get, list, delete."""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from hashlib import sha256
from io import BytesIO
from itertools import islice
from time import monotonic
from typing import TypeVar, cast

from minio.commonconfig import Tags
from minio.error import S3Error

from flowgauge.domain.errors import ObjectTooLarge, Unavailable
from flowgauge.s3.bucket import Breaker, Bucket
from flowgauge.s3.faults import Damaged, transient
from flowgauge.s3.settings import S3Settings

# Larger, and more is sent again when a part fails; smaller, and a snapshot takes more requests. Images go in one piece.
_PART_BYTES = 16 * 2**20
# The most that a server lists at once; fewer takes more requests.
_PAGE = 1_000
# Of UTF-8, as S3 has it: longer names are refused by the server.
_LONGEST_NAME_BYTES = 1_024
_CLIMBS = frozenset({"", ".", ".."})
# XML and HTTP have no words for these.
_UNSPEAKABLE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
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
    there. Transient faults are tried again while `settings.retry_seconds` last; a call that hangs ends with its
    socket's deadline after that. Once a call has given up, those of the next 5 seconds fail at once (see `Breaker`;
    `now` is its clock). Tags are left out for a service that knows none. The constructor touches no network.
    """

    def __init__(self, settings: S3Settings, bucket: str, now: Callable[[], float] = monotonic) -> None:
        self._bucket = Bucket(settings, bucket)
        self._client = self._bucket.client
        self._scheme = f"s3://{bucket}/"
        self._breaker = Breaker(now)
        self._takes_tags = True

    def ensure_bucket(self) -> None:
        """Create the bucket unless it is there; for setups, as workers' keys seldom may."""

        def make() -> None:
            if self._client.bucket_exists(self._bucket.name):
                return
            try:
                self._client.make_bucket(self._bucket.name)
            except S3Error as error:
                # Another was quicker.
                if error.code not in _BUCKET_IS_THERE:
                    raise

        self._ask(make)

    def put(self, name: str, data: bytes, tags: Mapping[str, str] | None = None) -> str:
        _check(name)
        metadata: dict[str, str | list[str] | tuple[str]] = {_DIGEST: sha256(data).hexdigest()}
        made = Tags(for_object=True)
        made.update(tags or {})

        def send() -> None:
            tagged = bool(made) and self._takes_tags
            try:
                self._client.put_object(
                    self._bucket.name,
                    name,
                    BytesIO(data),
                    len(data),
                    metadata=metadata,
                    tags=made if tagged else None,
                    part_size=_PART_BYTES,
                    # One part after the other: threads that a failed put leaves behind would go on sending.
                    num_parallel_uploads=1,
                )
            except S3Error as error:
                if not tagged or error.code not in _NO_TAGS:
                    raise
                # An object without tags is worth more than none.
                self._takes_tags = False
                send()

        self._ask(send, name)
        return self.uri(name)

    def get(self, name: str, at_most: int | None = None) -> bytes:
        _check(name)

        def whole() -> bytes:
            response = self._client.get_object(self._bucket.name, name)
            size = int(response.headers.get("Content-Length", 0))
            if at_most is not None and size > at_most:
                response.close()  # and with it the connection: what was announced is on its way
                raise ObjectTooLarge(f"{name} has {size} bytes.", f"At most {at_most} are read.")
            # A body shorter than its announced length is a fault of the connection, raised here.
            data = response.read()
            digest = response.headers.get(f"x-amz-meta-{_DIGEST}")
            if digest is not None and digest != sha256(data).hexdigest():
                raise Damaged(f"the bytes of {name} do not match their SHA-256")
            return data

        return self._ask(whole, name)

    def size(self, name: str) -> int:
        _check(name)
        found = self._ask(lambda: self._client.stat_object(self._bucket.name, name), name)
        return found.size or 0

    def get_range(self, name: str, start: int, length: int) -> bytes:
        """Without the comparison with the object's SHA-256, which is of the whole."""
        _check(name)
        if length == 0:
            return b""
        return self._ask(lambda: self._client.get_object(self._bucket.name, name, start, length).read(), name)

    def exists(self, name: str) -> bool:
        _check(name)

        def touch() -> None:
            try:
                # One byte of it: unlike HEAD, an answer to this can tell a missing bucket from a missing object.
                self._client.get_object(self._bucket.name, name, length=1).read()
            except S3Error as error:
                # An empty object has no first byte, but is there.
                if error.code != "InvalidRange":
                    raise

        try:
            self._ask(touch, name)
        except KeyError:
            return False
        return True

    def names(self, prefix: str) -> Iterator[str]:
        """Page by page as they are taken, so `Unavailable` may come between; what is no name of ours is left out."""

        def page(after: str | None) -> list[str]:
            found = self._client.list_objects(self._bucket.name, prefix, recursive=True, start_after=after)
            return [cast(str, each.object_name) for each in islice(found, _PAGE)]

        names = self._ask(partial(page, None))
        while names:
            yield from filter(_is_name, names)
            names = self._ask(partial(page, names[-1])) if len(names) == _PAGE else []

    def delete(self, name: str) -> None:
        _check(name)
        with suppress(KeyError):
            self._ask(lambda: self._client.remove_object(self._bucket.name, name), name)

    def uri(self, name: str) -> str:
        return self._scheme + name

    def name(self, uri: str) -> str:
        name = uri.removeprefix(self._scheme)
        if name == uri:
            raise KeyError(uri)
        _check(name)
        return name

    def close(self) -> None:
        self._bucket.close()

    def _ask(self, attempt: Callable[[], T], name: str | None = None) -> T:
        """Raises `KeyError` where the server says that the object `name` is not there or cannot be."""
        try:
            with self._breaker.call(lambda error: transient(error.__cause__)) as trial:
                return self._bucket.ask(attempt, once=trial)
        except Unavailable as error:
            fault = error.__cause__
            if name is not None and isinstance(fault, S3Error) and fault.code in _NOT_THERE | _NO_NAME:
                raise KeyError(name) from fault
            raise


def _is_name(name: str) -> bool:
    if not name.strip() or _CLIMBS & set(name.split("/")) or _UNSPEAKABLE.search(name):
        return False
    return len(name.encode()) <= _LONGEST_NAME_BYTES


def _check(name: str) -> None:
    if not _is_name(name):
        raise KeyError(name)
