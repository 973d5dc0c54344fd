from pathlib import Path

import pytest
from pydantic import ValidationError

from flowgauge.domain.errors import InvalidName, SettingsError, UnreadableImage
from flowgauge.domain.golden import Label, is_hold_out
from flowgauge.domain.lines import LineSettings, Policy
from flowgauge.domain.messages import VERDICTS
from flowgauge.domain.object_keys import line_settings_object
from flowgauge.domain.ports import Outgoing
from flowgauge.registry.golden_sets import add_golden, golden_set, hold_out_pictures
from flowgauge.registry.lines import SettingsCache, line_settings, lines, set_line
from flowgauge.runtime.backend import Store
from tests.support.executors import Later
from tests.support.shell import Shell
from tests.support.streaming import LINE, SetClock, append_verdicts, fitted, opened, png, verdict


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def store(tmp_path: Path, clock: SetClock) -> Store:
    return opened(tmp_path, clock)


def test_a_line_of_which_nothing_was_set_has_the_defaults(store: Store) -> None:
    assert line_settings(store.objects, LINE) == LineSettings()


def test_what_was_set_stays_and_the_rest_does_not_change(store: Store) -> None:
    set_line(store.objects, LINE, policy="propose")
    set_line(store.objects, LINE, buffer_size=100)
    assert line_settings(store.objects, LINE) == LineSettings(policy=Policy.PROPOSE, buffer_size=100)


def test_a_damaged_line_and_a_foreign_verdict_hide_no_other_line(flowgauge: Shell, tmp_path: Path) -> None:
    with fitted(opened(tmp_path, SetClock())) as store:
        set_line(store.objects, "press-4", policy="propose")
        store.objects.put(line_settings_object(LINE), b'{"policy": "maybe"}')
        store.log.append([Outgoing(VERDICTS, "of/nobody", b"no verdict", partition=0)])
    done = flowgauge("lines", "list", "--store", tmp_path, "--json")
    found = [(each["line"], each["gauge_version"], each["policy"]) for each in done.json]
    assert found == [(LINE, "fit-1", None), ("press-4", None, "propose")]
    assert done.code == 2
    assert f"flowgauge lines set {LINE} KEY=VALUE" in done.err


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"policy": "maybe"}, "policy"),
        ({"buffer_size": 0}, "buffer_size"),
        ({"buffer_size": 10}, r"buffer_minimum \(48\) exceeds buffer_size \(10\)"),
        ({"bufer_size": 10}, "no setting bufer_size"),
        ({"adapt_schedule": "every night"}, "adapt_schedule: .* no cron expression"),
        ({"cool_down_seconds": "inf"}, "cool_down_seconds .*finite"),
        ({"cost_miss": "nan"}, "cost_miss .*finite"),
        ({"shadow_hours": "nan"}, "shadow_hours .*finite"),
        ({"deadline_seconds": 1e10}, "deadline_seconds .*3155760000"),
        ({"pass_retention_days": 1_000_000}, "pass_retention_days .*36525"),
        ({"part_repeat_seconds": 1e15}, "part_repeat_seconds .*3155760000"),
        ({"alert_window_seconds": 1e-300}, r"alert_window_seconds .*0\.001"),
    ],
)
def test_settings_that_do_not_hold_are_refused_and_nothing_is_stored(
    store: Store, changes: dict[str, object], complaint: str
) -> None:
    with pytest.raises(SettingsError, match=complaint):
        set_line(store.objects, LINE, **changes)
    assert line_settings(store.objects, LINE) == LineSettings()


def test_a_line_that_cannot_be_named_cannot_be_set(store: Store) -> None:
    with pytest.raises(InvalidName):
        set_line(store.objects, "../x", policy="off")


def test_settings_are_read_anew_after_two_seconds(store: Store, clock: SetClock) -> None:
    cache = SettingsCache(store)
    assert cache.of(LINE).policy is Policy.AUTO
    set_line(store.objects, LINE, policy="off")
    assert cache.of(LINE).policy is Policy.AUTO
    clock.advance(2)
    assert cache.of(LINE).policy is Policy.OFF


def test_settings_are_read_anew_when_the_clock_was_set_back(store: Store, clock: SetClock) -> None:
    cache = SettingsCache(store)
    cache.of(LINE)
    set_line(store.objects, LINE, policy="off")
    clock.advance(-3_600)
    assert cache.of(LINE).policy is Policy.OFF


def test_settings_that_were_damaged_by_hand_leave_the_last_that_held_in_force(store: Store, clock: SetClock) -> None:
    cache = SettingsCache(store)
    set_line(store.objects, LINE, policy="off")
    cache.of(LINE)
    store.objects.put(line_settings_object(LINE), b'{"policy": "perhaps"}')
    clock.advance(2)
    assert cache.of(LINE).policy is Policy.OFF
    with pytest.raises(SettingsError, match="policy"):
        line_settings(store.objects, LINE)


def test_settings_that_do_not_hold_are_logged_once_with_what_is_in_force(
    store: Store, clock: SetClock, caplog: pytest.LogCaptureFixture
) -> None:
    store.objects.put(line_settings_object(LINE), b'{"policy": "perhaps"}')
    cache = SettingsCache(store)
    for _ in range(3):
        cache.of(LINE)
        clock.advance(2)
    [said] = [record.getMessage() for record in caplog.records]
    assert f"flowgauge lines set {LINE}" in said
    assert said.endswith("Until then the defaults are in force.")
    set_line(store.objects, LINE, policy="off")
    caplog.clear()
    cache.of(LINE)
    store.objects.put(line_settings_object(LINE), b"{")
    clock.advance(2)
    assert cache.of(LINE).policy is Policy.OFF
    assert caplog.records[0].getMessage().endswith("Until then the last that did stay in force.")


DAMAGED = b'{"policy": "off", "cool_down_seconds": null, "buffer_size": 0, "deadline_seconds": 5.0}'


def test_settings_that_do_not_hold_are_set_again_and_the_rest_of_them_stays(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    store.objects.put(line_settings_object(LINE), DAMAGED)
    set_line(store.objects, LINE, cool_down_seconds=30)
    assert line_settings(store.objects, LINE) == LineSettings(
        policy=Policy.OFF, cool_down_seconds=30, deadline_seconds=5
    )
    [said] = caplog.messages
    assert "cool_down_seconds" in said
    assert "buffer_size" in said
    assert "default" in said
    set_line(store.objects, LINE, cool_down_seconds=40)
    assert len(caplog.messages) == 1, "nothing is left to say"


@pytest.mark.parametrize("stored", [b"", b"\xff", b"[]", b'{"policy": '])
def test_settings_that_are_no_json_object_begin_at_the_defaults(
    store: Store, caplog: pytest.LogCaptureFixture, stored: bytes
) -> None:
    store.objects.put(line_settings_object(LINE), stored)
    assert set_line(store.objects, LINE, buffer_size=100) == LineSettings(buffer_size=100)
    assert "do not hold" in caplog.text


def test_of_settings_that_contradict_each_other_one_has_to_be_set(store: Store) -> None:
    store.objects.put(line_settings_object(LINE), b'{"policy": "off", "buffer_minimum": 500}')
    with pytest.raises(SettingsError, match="buffer_minimum"):
        set_line(store.objects, LINE, adapt_every=50)
    set_line(store.objects, LINE, buffer_size=600)
    assert line_settings(store.objects, LINE) == LineSettings(policy=Policy.OFF, buffer_minimum=500, buffer_size=600)


def test_what_else_lies_among_settings_is_no_line(store: Store) -> None:
    set_line(store.objects, LINE, policy="off")
    for foreign in ("README", "two words.json", "old/press-3.json"):
        store.objects.put(f"lines/{foreign}", b"")
    assert lines(store) == [LINE]


def test_lines_are_those_with_a_gauge_settings_or_verdicts(store: Store) -> None:
    fitted(store, line="with-gauge")
    set_line(store.objects, "with-settings", policy="off")
    append_verdicts(store.log, [verdict(0, line="with-verdicts")])
    assert lines(store) == ["with-gauge", "with-settings", "with-verdicts"]


def test_settings_never_change_in_patch() -> None:
    with pytest.raises(ValidationError):
        LineSettings().policy = Policy.OFF  # type: ignore[misc]


def test_golden_images_are_found_by_label(store: Store) -> None:
    add_golden(store.objects, LINE, Label.GOOD, "a/1 .png", png(100))
    add_golden(store.objects, LINE, Label.DEFECT, "b.png", png(200))
    assert [(golden.image_id, golden.label) for golden in golden_set(store.objects, LINE)] == [
        ("a/1 .png", Label.GOOD),
        ("b.png", Label.DEFECT),
    ]


def test_a_golden_image_that_is_labelled_anew_has_one_label(store: Store) -> None:
    add_golden(store.objects, LINE, Label.GOOD, "a", png(100))
    add_golden(store.objects, LINE, Label.DEFECT, "a", png(100))
    assert [golden.label for golden in golden_set(store.objects, LINE)] == [Label.DEFECT]


def test_a_golden_image_that_cannot_be_read_is_refused(store: Store) -> None:
    with pytest.raises(UnreadableImage):
        add_golden(store.objects, LINE, Label.GOOD, "a", b"")
    assert list(golden_set(store.objects, LINE)) == []


def test_about_half_of_the_golden_set_tests_and_always_the_same_half(store: Store) -> None:
    ids = [f"image-{number}" for number in range(400)]
    chosen = [image_id for image_id in ids if is_hold_out(image_id)]
    assert 150 < len(chosen) < 250
    assert chosen == [image_id for image_id in ids if is_hold_out(image_id)]
    for image_id in ids[:6]:
        add_golden(store.objects, LINE, Label.GOOD, image_id, png(100))
    assert len(list(hold_out_pictures(store.objects, LINE, Label.GOOD))) == sum(map(is_hold_out, ids[:6]))


def test_one_question_for_a_line_waits_while_the_store_hangs(store: Store, clock: SetClock) -> None:
    readers = Later()
    cache = SettingsCache(store, readers)
    assert cache.of("a").deadline_seconds is None
    set_line(store.objects, "a", deadline_seconds=5)
    for _ in range(10):
        clock.advance(3)
        assert cache.of("a").deadline_seconds is None
    assert len(readers.waiting) == 1
    readers.waiting.pop()()
    assert cache.of("a").deadline_seconds == 5
    clock.advance(3)
    cache.of("a")
    assert len(readers.waiting) == 1, "and asked again"
