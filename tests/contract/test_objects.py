"""What every object store keeps to."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.local.objects import LocalObjects
from core.names import image_object
from core.ports import Objects
from tests.support.streaming import START

Opener = Callable[[Path], Objects]


@pytest.fixture(params=[LocalObjects], ids=["local"])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> Objects:
    return request.param(tmp_path / "objects")  # type: ignore[no-any-return]


def test_an_object_is_read_as_it_was_put(objects: Objects) -> None:
    objects.put("images/a/2026-03-01/x", b"\0bytes")
    assert objects.get("images/a/2026-03-01/x") == b"\0bytes"
    assert objects.exists("images/a/2026-03-01/x")


def test_a_second_put_replaces_the_first(objects: Objects) -> None:
    objects.put("a/b", b"old")
    objects.put("a/b", b"new")
    assert objects.get("a/b") == b"new"


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


@given(image_id=st.text(min_size=1, max_size=400))
def test_any_image_id_makes_a_name_of_four_segments(image_id: str) -> None:
    name = image_object("line", START, image_id)
    segments = name.split("/")
    assert len(segments) == 4
    assert not {"", ".", ".."} & set(segments)
    assert all(len(segment) <= 255 for segment in segments)
