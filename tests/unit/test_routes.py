"""A file of routes: what it admits, when it holds back, and what is said of a mistake."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from flowgauge.domain.alert_kinds import ABOUT, Ending, Severity
from flowgauge.domain.errors import SettingsError
from flowgauge.domain.messages import AlertKind
from flowgauge.domain.routes import Route
from flowgauge.settings.routes import read_routes
from tests.support.messages import routes_of

TO = 'to = ["memory:a"]\n'


def route(folder: Path, text: str) -> Route:
    return routes_of(folder, f"[routes.shift]\n{TO}{text}").routes["shift"]


def test_every_kind_has_a_severity_and_an_end() -> None:
    assert set(ABOUT) == set(AlertKind)


def test_a_route_takes_lines_by_pattern_and_kinds_by_name(tmp_path: Path) -> None:
    found = route(tmp_path, 'lines = ["press-*", "oven-?"]\nkinds = ["reject", "no_gauge"]')
    assert found.takes("press-3", AlertKind.REJECT)
    assert found.takes("oven-1", AlertKind.NO_GAUGE)
    assert not found.takes("oven-12", AlertKind.NO_GAUGE)
    assert not found.takes("press-3", AlertKind.DRIFT)


@pytest.mark.parametrize("lowest", Severity)
def test_a_severity_leaves_out_what_is_below_it(tmp_path: Path, lowest: Severity) -> None:
    found = route(tmp_path, f'severity = "{lowest.value}"')
    taken = {kind for kind in AlertKind if found.takes("press-3", kind)}
    assert taken == {kind for kind in AlertKind if ABOUT[kind].severity.rank >= lowest.rank}


def test_without_a_severity_routine_is_left_out_unless_it_is_named(tmp_path: Path) -> None:
    assert not route(tmp_path, "").takes("press-3", AlertKind.REJECT)
    assert route(tmp_path, 'kinds = ["reject"]').takes("press-3", AlertKind.REJECT)


def test_an_address_may_stand_in_the_environment_and_its_value_is_shown_nowhere(tmp_path: Path) -> None:
    found = routes_of(tmp_path, '[routes.shift]\nto = ["env:CHAT"]\n', CHAT="json://user:hush@example.com")
    (address,) = found.addresses.values()
    assert address.url.get_secret_value() == "json://user:hush@example.com"
    assert "hush" not in repr(found) + str(found) + found.model_dump_json()


def test_an_address_of_two_routes_is_one_address(tmp_path: Path) -> None:
    found = routes_of(tmp_path, f"[routes.a]\n{TO}[routes.b]\n{TO}")
    assert len(found.addresses) == 1


def test_a_file_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    path = tmp_path / "notify.toml"
    path.write_text(f"\ufeff[routes.shift]\n{TO}", encoding="utf-8")
    assert "shift" in read_routes(path, {}).routes


def quiet_times(found: Route, begin: datetime, hours: float) -> list[datetime]:
    """The quarters of an hour at which `found` holds back what is not critical."""
    times = [begin + timedelta(minutes=15 * number) for number in range(int(hours * 4))]
    return [at for at in times if found.holds_back(AlertKind.DRIFT, at)]


def test_quiet_hours_reach_over_midnight(tmp_path: Path) -> None:
    found = route(tmp_path, 'quiet = "22:00-06:00 UTC"')
    quiet = quiet_times(found, datetime(2026, 3, 1, 12, tzinfo=UTC), 24)
    assert quiet[0] == datetime(2026, 3, 1, 22, tzinfo=UTC)
    assert quiet[-1] == datetime(2026, 3, 2, 5, 45, tzinfo=UTC)
    assert len(quiet) == 8 * 4


def test_quiet_hours_within_a_day(tmp_path: Path) -> None:
    quiet = quiet_times(route(tmp_path, 'quiet = "12:00-13:00 UTC"'), datetime(2026, 3, 1, tzinfo=UTC), 24)
    assert [quiet[0].hour, quiet[-1].hour, len(quiet)] == [12, 12, 4]


@pytest.mark.parametrize(
    ("day", "begins", "hours"),
    [
        # clocks in Berlin go from 2 to 3 on 29 March 2026, and from 3 back to 2 on 25 October
        (datetime(2026, 3, 28, 12, tzinfo=UTC), datetime(2026, 3, 28, 21, tzinfo=UTC), 7),
        (datetime(2026, 10, 24, 12, tzinfo=UTC), datetime(2026, 10, 24, 20, tzinfo=UTC), 9),
        (datetime(2026, 6, 1, 12, tzinfo=UTC), datetime(2026, 6, 1, 20, tzinfo=UTC), 8),
    ],
)
def test_quiet_hours_follow_the_clocks_of_their_zone(
    tmp_path: Path, day: datetime, begins: datetime, hours: int
) -> None:
    quiet = quiet_times(route(tmp_path, 'quiet = "22:00-06:00 Europe/Berlin"'), day, 24)
    assert quiet[0] == begins
    assert len(quiet) == hours * 4


def test_critical_alerts_pass_quiet_hours_unless_they_must_not(tmp_path: Path) -> None:
    night = datetime(2026, 3, 1, 23, tzinfo=UTC)
    quiet = 'quiet = "22:00-06:00 UTC"\n'
    assert not route(tmp_path, quiet).holds_back(AlertKind.NO_GAUGE, night)
    assert route(tmp_path, f"{quiet}critical_passes = false").holds_back(AlertKind.NO_GAUGE, night)


MISTAKES = {
    'kinds = ["rejects"]': "route shift, kinds: Input should be 'reject'",
    'severity = "high"': "route shift, severity: Input should be 'info', 'warning' or 'critical'",
    'quiet = "22:00-06:00"': 'route shift, quiet: .*write "22:00-06:00 Europe/Berlin"',
    'quiet = "22:00-06:00 Europe/Atlantis"': "route shift, quiet: there is no time zone Europe/Atlantis.*tzdata",
    'quiet = "06:00-06:00 UTC"': "route shift, quiet: 06:00-06:00 is no span",
    'quiet = "25:00-06:00 UTC"': "route shift, quiet: ",
    'repeat_after = "soon"': "route shift, repeat_after: 'soon' is no duration",
    "repeat_after = 4": "route shift, repeat_after: it is a text with a unit",
    'repeat_after = "5s"': "route shift, repeat_after: 5s is shorter than a minute",
    "digest_seconds = -1": "route shift, digest_seconds: .*0 to 86,400",
    "lines = []": "route shift, lines: .*shell patterns",
    "digest = 5": "route shift sets digest, which is no setting.*digest_seconds",
    'kinds = ["reject"]\nseverity = "critical"': r"route shift: severity critical leaves out reject \(info\)",
}


@pytest.mark.parametrize("text", MISTAKES)
def test_a_mistake_names_the_route_and_the_remedy(tmp_path: Path, text: str) -> None:
    with pytest.raises(SettingsError, match=MISTAKES[text]) as raised:
        route(tmp_path, text)
    assert raised.value.remedy


FILES = {
    "": "routes: it is missing.*one table",
    "routes = 1": "the file, routes: ",
    "[routes.shift]\n": "route shift, to: it is missing",
    "[routes.shift]\nto = []": "route shift, to: ",
    '[routes.shift]\nto = ["env:NOWHERE"]': "route shift, to: the environment variable NOWHERE is not set",
    f'console = "plant:8080"\n[routes.shift]\n{TO}': "the file, console: .*messages link",
    f"colour = 1\n[routes.shift]\n{TO}": "the file sets colour, which is no setting",
    "[routes.shift": "is no TOML",
}


@pytest.mark.parametrize("text", FILES)
def test_a_file_that_cannot_be_is_explained(tmp_path: Path, text: str) -> None:
    with pytest.raises(SettingsError, match=FILES[text]) as raised:
        routes_of(tmp_path, text)
    assert raised.value.remedy


PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "notify.md").read_text(encoding="utf-8")


def test_the_file_on_the_page_is_one(tmp_path: Path) -> None:
    (text,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    found = routes_of(tmp_path, text, SHIFT_CHAT="json://a", PAGER="json://b")
    assert found.routes.keys() == {"shift", "on-call", "quality"}


@pytest.mark.parametrize("key", Route.model_fields)
def test_the_page_explains_every_key(key: str) -> None:
    assert f"| `{key}` |" in PAGE


@pytest.mark.parametrize("kind", AlertKind)
def test_the_page_says_how_urgent_a_kind_is_and_whether_its_end_is_sent(kind: AlertKind) -> None:
    (row,) = [line for line in PAGE.splitlines() if line.startswith("| `") and f"`{kind.value}`" in line.split("|")[1]]
    assert row.split("|")[2].strip() == ABOUT[kind].severity.value
    assert ("not told" in row or "has none" in row) == (ABOUT[kind].ending is Ending.NONE)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=re.escape(str(tmp_path / "none.toml"))):
        read_routes(tmp_path / "none.toml", {})


def test_no_mistake_shows_an_address(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as raised:
        routes_of(tmp_path, '[routes.shift]\nto = [["json://user:hush@example.com"]]\n')
    assert "hush" not in str(raised.value)
