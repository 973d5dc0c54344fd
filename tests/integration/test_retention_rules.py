"""`flowgauge store retention` on real S3 servers: rules that the service carries out by itself."""

from collections.abc import Iterator
from contextlib import closing
from uuid import uuid4

import pytest
from minio import Minio
from minio.commonconfig import ENABLED, Filter
from minio.lifecycleconfig import Expiration, LifecycleConfig, Rule

from flowgauge.domain.lines import LineSettings
from flowgauge.domain.object_keys import heatmap_object, image_object, line_settings_object
from flowgauge.s3.objects import S3Objects
from flowgauge.settings.environment import s3_settings
from tests.support.servers import S3Address
from tests.support.shell import Shell
from tests.support.streaming import LINE, START

OPTIONS = {"pass": "--passes-days", "review": "--reviews-days", "reject": "--rejects-days"}


def variables(address: S3Address) -> dict[str, str]:
    return {
        "FLOWGAUGE_S3_ENDPOINT": address.endpoint,
        "FLOWGAUGE_S3_ACCESS_KEY": address.access_key,
        "FLOWGAUGE_S3_SECRET_KEY": address.secret_key,
    }


def opened(address: S3Address, monkeypatch: pytest.MonkeyPatch) -> S3Objects:
    for name, value in variables(address).items():
        monkeypatch.setenv(name, value)
    objects = S3Objects(s3_settings(variables(address)), f"retention-{uuid4().hex}")
    objects.ensure_bucket()
    return objects


@pytest.fixture
def objects(s3_address: S3Address, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Objects]:
    with closing(opened(s3_address, monkeypatch)) as objects:
        yield objects


@pytest.fixture
def raw(s3_address: S3Address) -> Minio:
    host = s3_address.endpoint.partition("://")[2]
    return Minio(host, s3_address.access_key, s3_address.secret_key, secure=False, region="us-east-1")


def store(objects: S3Objects) -> str:
    return objects.uri("").rstrip("/")


def expires_by(raw: Minio, objects: S3Objects, name: str) -> str:
    """The rule that the service says will delete it; empty for none."""
    found = raw.stat_object(store(objects).removeprefix("s3://"), name).metadata
    return (found or {}).get("x-amz-expiration", "").rpartition("rule-id=")[2].strip('"')


def test_each_verdict_is_kept_for_its_days_and_nothing_else_expires(
    flowgauge: Shell, objects: S3Objects, raw: Minio
) -> None:
    done = flowgauge("store", "retention", "--store", store(objects), "--passes-days", 30, "--rejects-days", 365)
    assert done.code == 0
    shown = flowgauge("store", "retention", "--store", store(objects), "--json").json
    assert shown == {"days": {"pass": 30, "review": None, "reject": 365}, "other_rules": []}

    for decision in OPTIONS:
        objects.put(image_object(LINE, START, decision), b"", tags={"decision": decision})
        objects.put(heatmap_object(LINE, START, decision), b"", tags={"decision": decision})
        objects.put(f"snapshots/{LINE}/{decision}", b"", tags={"decision": decision})
    objects.put(image_object(LINE, START, "untold"), b"")
    expiring = {name: rule for name in objects.names("") if (rule := expires_by(raw, objects, name))}
    assert expiring == {
        image_object(LINE, START, "pass"): "flowgauge-images-pass",
        heatmap_object(LINE, START, "pass"): "flowgauge-heatmaps-pass",
        image_object(LINE, START, "reject"): "flowgauge-images-reject",
        heatmap_object(LINE, START, "reject"): "flowgauge-heatmaps-reject",
    }


def test_what_is_not_named_stays_and_forever_takes_a_rule_away(flowgauge: Shell, objects: S3Objects) -> None:
    for decision, days in (("pass", 30), ("review", 60), ("pass", "forever"), ("reject", 90)):
        assert flowgauge("store", "retention", "--store", store(objects), OPTIONS[decision], days).code == 0
    shown = flowgauge("store", "retention", "--store", store(objects), "--json").json
    assert shown["days"] == {"pass": None, "review": 60, "reject": 90}
    for decision in ("review", "reject"):
        flowgauge("store", "retention", "--store", store(objects), OPTIONS[decision], "forever")
    shown = flowgauge("store", "retention", "--store", store(objects))
    assert shown.out.count("for ever") == 3


def test_rules_of_others_stay_as_they_are(flowgauge: Shell, objects: S3Objects, raw: Minio) -> None:
    bucket = store(objects).removeprefix("s3://")
    theirs = Rule(ENABLED, rule_filter=Filter(prefix="exports/"), rule_id="theirs", expiration=Expiration(days=3))
    raw.set_bucket_lifecycle(bucket, LifecycleConfig([theirs]))
    for days in (30, 40, "forever"):
        done = flowgauge("store", "retention", "--store", store(objects), "--passes-days", days)
        assert "theirs" in done.out
    found = raw.get_bucket_lifecycle(bucket)
    assert found is not None
    assert [rule.rule_id for rule in found.rules] == ["theirs"]
    assert (found.rules[0].rule_filter, found.rules[0].expiration) == (theirs.rule_filter, theirs.expiration)


@pytest.mark.parametrize("option", OPTIONS.values())
def test_days_that_would_take_what_a_buffer_needs_are_refused(
    flowgauge: Shell, objects: S3Objects, option: str
) -> None:
    done = flowgauge("store", "retention", "--store", store(objects), option, 6)
    assert done.code == 2
    assert "may hold images of the last 7 days" in done.err

    patient = LineSettings(buffer_max_age_seconds=20 * 86_400)
    objects.put(line_settings_object("slow"), patient.encode())
    done = flowgauge("store", "retention", "--store", store(objects), option, 19)
    assert done.code == 2
    assert "The buffer of slow may hold images of the last 20 days" in done.err
    assert flowgauge("store", "retention", "--store", store(objects), "--json").json["days"] == dict.fromkeys(OPTIONS)
    assert flowgauge("store", "retention", "--store", store(objects), option, 20).code == 0


@pytest.mark.parametrize("days", ["0", "-1", "soon", "1.5"])
def test_days_are_whole_and_positive(flowgauge: Shell, objects: S3Objects, days: str) -> None:
    done = flowgauge("store", "retention", "--store", store(objects), f"--passes-days={days}")
    assert done.code == 2
    assert "neither a number of days nor" in done.err


def test_a_service_without_rules_is_reported(
    flowgauge: Shell, second_s3_address: S3Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(opened(second_s3_address, monkeypatch)) as objects:
        done = flowgauge("store", "retention", "--store", store(objects), "--passes-days", 30)
        assert done.code == 2
        assert "has no lifecycle rules" in done.err


def test_a_directory_has_no_such_rules(flowgauge: Shell) -> None:
    done = flowgauge("store", "retention", "--store", "./plant")
    assert done.code == 2
    assert "./plant is no bucket" in done.err
