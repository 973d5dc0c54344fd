"""An object store that is away, slow, full or wrong: said in one sentence, tried again where that may help."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from random import Random
from socket import create_server
from time import monotonic
from uuid import uuid4

import pytest
from minio import Minio
from pydantic import SecretStr, ValidationError

from flowgauge.domain.errors import SettingsError, StoreFull, Unavailable
from flowgauge.s3.objects import S3Objects
from flowgauge.s3.settings import S3Settings
from tests.support.servers import S3Address
from tests.support.sockets import HOST, refusing, serving

SECRET = "s3cr3t-w0rd"
IMPATIENT = {"answer_seconds": 0.2, "retry_seconds": 0.3}

CALLS: dict[str, Callable[[S3Objects], object]] = {
    "ensure_bucket": lambda objects: objects.ensure_bucket(),
    "put": lambda objects: objects.put("a/b", b"bytes"),
    "get": lambda objects: objects.get("a/b"),
    "exists": lambda objects: objects.exists("a/b"),
    "names": lambda objects: list(objects.names("a")),
    "delete": lambda objects: objects.delete("a/b"),
}
every_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
with_a_bucket = pytest.mark.parametrize("call", list(CALLS.values())[1:], ids=list(CALLS)[1:])
Call = Callable[[S3Objects], object]


@pytest.fixture(params=["s3_address", "second_s3_address"])
def address(request: pytest.FixtureRequest) -> S3Address:
    found: S3Address = request.getfixturevalue(request.param)
    return found


def raw(address: S3Address) -> Minio:
    """The library's own client, to look and to harm."""
    host = address.endpoint.partition("://")[2]
    return Minio(host, address.access_key, address.secret_key, secure=False, region="us-east-1")


def keys(address: S3Address, **changes: object) -> S3Settings:
    facts = {"endpoint": address.endpoint, "access_key": address.access_key, "secret_key": address.secret_key}
    return S3Settings.model_validate(facts | {"retry_seconds": 1} | changes)


def bucket() -> str:
    return f"faults-{uuid4().hex}"


@pytest.fixture
def objects(address: S3Address) -> Iterator[S3Objects]:
    with closing(S3Objects(keys(address), bucket())) as objects:
        objects.ensure_bucket()
        yield objects


def at(port: int, **changes: object) -> closing[S3Objects]:
    address = S3Address(f"http://127.0.0.1:{port}", "key", SECRET)
    return closing(S3Objects(keys(address, **changes), "bucket"))


def named_bucket(objects: S3Objects) -> str:
    return objects.uri("").split("/")[2]


@dataclass
class Answer:
    """What a scripted server says; `length` is what it announces, if that is not what it sends."""

    status: int = 200
    body: bytes = b"bytes"
    length: int | None = None
    headers: dict[str, str] = field(default_factory=dict)


def refusal(status: int, code: str) -> Answer:
    body = f"<Error><Code>{code}</Code><Message>Because.</Message></Error>".encode()
    return Answer(status, body, headers={"Content-Type": "application/xml"})


@contextmanager
def scripted(answers: Sequence[Answer]) -> Iterator[tuple[int, list[Answer]]]:
    """A server that gives `answers` one after the other, the last one for ever; with its port, those given."""
    given: list[Answer] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer()

        def do_PUT(self) -> None:
            self.answer()

        def answer(self) -> None:
            answer = answers[min(len(given), len(answers) - 1)]
            given.append(answer)
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer.body) if answer.length is None else answer.length))
            self.end_headers()
            self.wfile.write(answer.body)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with serving(ThreadingHTTPServer((HOST, 0), Handler)) as port:
        yield port, given


@every_call
def test_a_store_that_is_away_is_said_within_the_timeout(call: Call) -> None:
    with refusing() as port, at(port) as objects:
        begun = monotonic()
        with pytest.raises(
            Unavailable, match=f"bucket at http://127.0.0.1:{port} cannot be used: .*refused"
        ) as reported:
            call(objects)
        assert monotonic() - begun < 4
        assert SECRET not in repr(reported.value)


@every_call
def test_a_store_that_does_not_answer_is_not_waited_for_long(call: Call) -> None:
    with create_server(("127.0.0.1", 0)) as silent, at(silent.getsockname()[1], **IMPATIENT) as objects:
        begun = monotonic()
        with pytest.raises(Unavailable, match="timed out"):
            call(objects)
        assert monotonic() - begun < 4


@every_call
@pytest.mark.parametrize("wrong", ["access_key", "secret_key"])
def test_wrong_keys_are_reported_at_once_and_not_shown(address: S3Address, call: Call, wrong: str) -> None:
    patient = keys(address, retry_seconds=60, **{wrong: SECRET})
    with closing(S3Objects(patient, bucket())) as objects:
        begun = monotonic()
        with pytest.raises(Unavailable, match=r"Check the (access key|keys)") as reported:
            call(objects)
        assert monotonic() - begun < 10
        assert SECRET not in repr(reported.value) + str(reported.value.__cause__)
        assert address.secret_key not in repr(reported.value)


@with_a_bucket
def test_a_missing_bucket_is_no_missing_object(address: S3Address, call: Call) -> None:
    nowhere = S3Objects(keys(address), bucket())
    with closing(nowhere), pytest.raises(Unavailable, match="Create the bucket"):
        call(nowhere)


def test_a_bucket_is_ensured_as_often_as_one_likes(objects: S3Objects) -> None:
    objects.ensure_bucket()
    assert list(objects.names("")) == []


def test_a_plain_server_behind_a_tls_address_is_reported(address: S3Address) -> None:
    tls = keys(address, endpoint=address.endpoint.replace("http:", "https:"), retry_seconds=60)
    with closing(S3Objects(tls, bucket())) as objects, pytest.raises(Unavailable, match="Check the certificate"):
        objects.get("a")


def test_bytes_that_do_not_match_their_hash_are_reported(address: S3Address, objects: S3Objects) -> None:
    objects.put("a/b", b"bytes")
    digest = raw(address).stat_object(named_bucket(objects), "a/b").metadata["x-amz-meta-sha256"]  # type: ignore[index]
    raw(address).put_object(named_bucket(objects), "a/b", BytesIO(b"other"), 5, metadata={"sha256": digest})
    with pytest.raises(Unavailable, match=r"a/b do not match their SHA-256.*Restore the object"):
        objects.get("a/b")


def test_an_object_that_another_stored_without_a_hash_is_read(address: S3Address, objects: S3Objects) -> None:
    raw(address).put_object(named_bucket(objects), "a/b", BytesIO(b"theirs"), 6)
    assert objects.get("a/b") == b"theirs"


def test_what_is_no_name_of_ours_is_not_listed(address: S3Address, objects: S3Objects) -> None:
    raw(address).put_object(named_bucket(objects), "a/", BytesIO(b""), 0)
    objects.put("a/b", b"")
    assert list(objects.names("")) == ["a/b"]


def test_a_name_that_no_server_takes_is_a_key_error(objects: S3Objects) -> None:
    name = "a/" + "x" * 300
    assert not objects.exists(name)
    objects.delete(name)
    for call in (objects.get, lambda name: objects.put(name, b"")):
        with pytest.raises(KeyError):
            call(name)


def test_a_large_object_goes_in_parts_and_comes_back_whole(address: S3Address, objects: S3Objects) -> None:
    data = Random(0).randbytes(40 * 2**20)
    objects.put("snapshots/weights", data)
    etag = raw(address).stat_object(named_bucket(objects), "snapshots/weights").etag
    assert etag is not None
    assert etag.endswith("-3")
    assert objects.get("snapshots/weights") == data


@pytest.mark.parametrize(
    "fault",
    [
        refusal(503, "SlowDown"),
        refusal(500, "InternalError"),
        refusal(400, "RequestTimeout"),
        Answer(502, b"<html>Bad gateway</html>", headers={"Content-Type": "text/html"}),
        Answer(length=10_000),
        Answer(headers={"x-amz-meta-sha256": "00"}),
    ],
    ids=["busy", "failing", "timed-out", "proxy", "cut-short", "damaged"],
)
def test_what_may_pass_is_tried_again(fault: Answer) -> None:
    with scripted([fault, fault, Answer()]) as (port, given), at(port, retry_seconds=20) as objects:
        assert objects.get("a") == b"bytes"
    assert len(given) == 3


def test_what_does_not_pass_is_not_tried_often() -> None:
    with (
        scripted([refusal(503, "SlowDown")]) as (port, given),
        at(port, retry_seconds=1) as objects,
        pytest.raises(Unavailable, match="SlowDown: Because"),
    ):
        objects.put("a", b"bytes")
    assert 2 <= len(given) <= 6


def test_a_store_that_was_waited_for_in_vain_is_left_alone_and_then_tried_once() -> None:
    now = [0.0]
    with scripted([refusal(503, "SlowDown")] * 9 + [Answer()]) as (port, given):
        address = S3Address(f"http://127.0.0.1:{port}", "key", SECRET)
        with closing(S3Objects(keys(address, retry_seconds=0.3), "bucket", lambda: now[0])) as objects:
            for seconds, asked in ((0.0, True), (4.9, False), (5.0, True), (9.9, False)):
                now[0], before = seconds, len(given)
                with pytest.raises(Unavailable, match="SlowDown: Because"):
                    objects.get("a")
                assert (len(given) > before) is asked
                assert seconds == 0.0 or len(given) - before <= 1, "a trial is made once"
            given.extend([Answer()] * 9)
            now[0] = 10
            assert objects.get("a") == b"bytes"


def test_a_service_without_tags_is_given_the_object_alone() -> None:
    with scripted([refusal(501, "NotImplemented"), Answer()]) as (port, given), at(port) as objects:
        objects.put("a", b"bytes", tags={"decision": "pass"})
        assert len(given) == 2
        objects.put("b", b"bytes", tags={"decision": "pass"})
        assert len(given) == 3


@pytest.mark.parametrize(
    "answer", [refusal(507, "XMinioStorageFull"), refusal(400, "XMinioAdminBucketQuotaExceeded")], ids=["disk", "quota"]
)
def test_a_full_store_is_reported_at_once(answer: Answer) -> None:
    with (
        scripted([answer]) as (port, given),
        at(port, retry_seconds=60) as objects,
        pytest.raises(StoreFull, match="No space is left"),
    ):
        objects.put("a", b"bytes")
    assert len(given) == 1


def test_a_server_that_speaks_no_s3_is_reported() -> None:
    page = Answer(body=b"<html><p>Hello</html>", headers={"Content-Type": "text/html"})
    with (
        scripted([page]) as (port, _),
        at(port) as objects,
        pytest.raises(Unavailable, match="Check that the endpoint is an S3 service"),
    ):
        list(objects.names(""))


def test_the_secret_key_is_never_shown() -> None:
    settings = S3Settings(endpoint="http://host:9000", access_key="key", secret_key=SecretStr(SECRET))
    assert SECRET not in repr(settings) + str(settings) + settings.model_dump_json()
    with pytest.raises(ValidationError) as reported:
        S3Settings.model_validate({"endpoint": "host", "access_key": "key", "secret_key": SECRET})
    assert SECRET not in str(reported.value)


@pytest.mark.parametrize(
    "endpoint",
    ["host:9000", "ftp://host", "https://host/path", "https://key:word@host", "https://", "https://host?a=b"],
)
def test_an_endpoint_is_the_url_of_a_server(endpoint: str) -> None:
    with pytest.raises(ValidationError, match="not the URL of a server"):
        S3Settings(endpoint=endpoint, access_key="key", secret_key=SecretStr(SECRET))


@pytest.mark.parametrize("name", ["a", "Upper", "a/b", "a_b", "", "-a"])
def test_a_bucket_has_a_name_that_every_service_takes(name: str) -> None:
    settings = S3Settings(endpoint="http://host", access_key="key", secret_key=SecretStr(SECRET))
    with pytest.raises(SettingsError, match="cannot name a bucket"):
        S3Objects(settings, name)
