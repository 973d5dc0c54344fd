"""What every object store keeps to."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager
from itertools import islice
from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from flowgauge.domain.errors import ObjectTooLarge
from flowgauge.domain.object_keys import image_object
from flowgauge.domain.ports import Objects
from flowgauge.local.objects import LocalObjects
from flowgauge.s3.objects import S3Objects
from flowgauge.s3.settings import S3Settings
from tests.support.servers import S3Address
from tests.support.streaming import START


@contextmanager
def local(root: Path) -> Iterator[Objects]:
    yield LocalObjects(root / "objects")


@contextmanager
def s3(address: S3Address) -> Iterator[Objects]:
    """On a server that other tests use too, in a bucket of its own."""
    keys = S3Settings(
        endpoint=address.endpoint, access_key=address.access_key, secret_key=SecretStr(address.secret_key)
    )
    with closing(S3Objects(keys, f"contract-{uuid4().hex}")) as objects:
        objects.ensure_bucket()
        yield objects


@pytest.fixture(
    params=[(local, "tmp_path"), (s3, "s3_address"), (s3, "second_s3_address")], ids=["local", "s3", "second-s3"]
)
def objects(request: pytest.FixtureRequest) -> Iterator[Objects]:
    opener, name = request.param
    opened: AbstractContextManager[Objects] = opener(request.getfixturevalue(name))
    with opened as objects:
        yield objects


def test_an_object_is_read_as_it_was_put(objects: Objects) -> None:
    objects.put("images/a/2026-03-01/x", b"\0bytes")
    assert objects.get("images/a/2026-03-01/x") == b"\0bytes"
    assert objects.exists("images/a/2026-03-01/x")


def test_no_more_than_is_asked_for_is_read(objects: Objects) -> None:
    objects.put("a/b", b"12345")
    assert objects.get("a/b", at_most=5) == b"12345"
    with pytest.raises(ObjectTooLarge, match="5 bytes"):
        objects.get("a/b", at_most=4)
    assert objects.get("a/b") == b"12345", "the refusal left the connection in order"
    with pytest.raises(KeyError):
        objects.get("a/c", at_most=4)


def test_a_part_of_an_object_is_read_and_its_size_is_known(objects: Objects) -> None:
    objects.put("a/b", b"0123456789")
    objects.put("a/empty", b"")
    assert (objects.size("a/b"), objects.size("a/empty")) == (10, 0)
    assert [objects.get_range("a/b", start, length) for start, length in ((0, 10), (3, 2), (9, 1), (5, 0))] == [
        b"0123456789",
        b"34",
        b"9",
        b"",
    ]
    for name in ("a/c", "a"):
        with pytest.raises(KeyError):
            objects.size(name)
        with pytest.raises(KeyError):
            objects.get_range(name, 0, 1)


def test_a_second_put_replaces_the_first(objects: Objects) -> None:
    objects.put("a/b", b"old")
    objects.put("a/b", b"new")
    assert objects.get("a/b") == b"new"


def test_tags_do_not_change_what_is_read(objects: Objects) -> None:
    assert objects.put("a/b", b"bytes", tags={"decision": "pass"}) == objects.uri("a/b")
    assert objects.get("a/b") == b"bytes"
    objects.put("a/b", b"large" * 5_000_000, tags={"decision": "reject"})
    assert len(objects.get("a/b")) == 25_000_000
    assert list(objects.names("")) == ["a/b"]


def test_what_is_not_there_is_a_key_error(objects: Objects) -> None:
    objects.put("a/b", b"")
    for name in ("a", "b", "a/b/c"):
        assert not objects.exists(name)
        with pytest.raises(KeyError):
            objects.get(name)


def test_names_are_found_by_prefix_in_lexical_order(objects: Objects) -> None:
    for name in ("b/2", "a/x/2", "a/x/1", "a/y", "ab"):
        objects.put(name, b"")
    assert list(objects.names("a/")) == ["a/x/1", "a/x/2", "a/y"]
    assert list(objects.names("a")) == ["a/x/1", "a/x/2", "a/y", "ab"]
    assert list(objects.names("nowhere/")) == []


def test_a_listing_of_many_is_whole_while_what_it_named_is_deleted(objects: Objects) -> None:
    names = [f"a/{number:04d}" for number in range(1_005)]
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda name: objects.put(name, b""), names))
    assert list(islice(objects.names("a/"), 2 * len(names))) == names
    found = []
    for name in objects.names("a/"):
        objects.delete(name)
        found.append(name)
    assert found == names
    assert list(objects.names("")) == []


def test_deleting_is_repeatable(objects: Objects) -> None:
    objects.put("a/b", b"")
    objects.delete("a/b")
    objects.delete("a/b")
    assert not objects.exists("a/b")


def test_an_address_leads_back_to_its_name(objects: Objects) -> None:
    assert objects.name(objects.put("a/b", b"")) == "a/b"
    assert objects.uri("a/b") == objects.put("a/b", b"")


@pytest.mark.parametrize(
    "uri",
    ["https://elsewhere/a", "s3://other/a", "/etc/passwd", "file:///etc/passwd", "store:///../a", "store:///a/../b"],
)
def test_an_address_outside_the_store_is_a_key_error(objects: Objects, uri: str) -> None:
    with pytest.raises(KeyError):
        objects.name(uri)


@pytest.mark.parametrize("name", ["../escaped", "a/../../escaped", "/etc/escaped", "a//b", "", "."])
def test_no_name_climbs_out(objects: Objects, name: str) -> None:
    with pytest.raises(KeyError):
        objects.put(name, b"")


@pytest.mark.parametrize("tail", ["/../b", "/..", "//b", "/", "/./b", "/\0"])
def test_no_address_climbs_out(objects: Objects, tail: str) -> None:
    with pytest.raises(KeyError):
        objects.name(objects.uri("a") + tail)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(image_id=st.text(min_size=1, max_size=200))
@example("a/b")
@example("a%2Fb")
@example("..")
@example("~+ &?#=%<>;:@'\"")
def test_any_image_id_names_an_object_that_comes_back(objects: Objects, image_id: str) -> None:
    name = image_object("line", START, image_id)
    uri = objects.put(name, image_id.encode())
    assert objects.get(objects.name(uri)) == image_id.encode()
    assert list(objects.names(name)) == [name]
    objects.delete(name)
    assert not objects.exists(name)


@given(image_id=st.text(min_size=1, max_size=400))
def test_any_image_id_makes_a_name_of_four_segments(image_id: str) -> None:
    name = image_object("line", START, image_id)
    segments = name.split("/")
    assert len(segments) == 4
    assert not {"", ".", ".."} & set(segments)
    assert all(len(segment) <= 255 for segment in segments)
