from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowgauge.domain.schedule import cron_expression, last_tick, next_tick

MOMENTS = st.datetimes(datetime(2020, 1, 1), datetime(2040, 1, 1), timezones=st.just(UTC))
EXPRESSIONS = st.sampled_from(["0 2 * * *", "*/15 * * * *", "30 6 * * MON-FRI", "0 0 29 2 *", "* * * * *"])


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "no cron expression"),
        ("0 2 * *", "no cron expression"),
        ("0 2 * * * 30", "no cron expression"),
        ("@daily", "no cron expression"),
        ("61 2 * * *", "no cron expression"),
        ("R R * * *", "to chance"),
        ("R(1-5) 2 * * *", "to chance"),
        ("0 0 30 2 *", "never comes"),
    ],
)
def test_what_names_no_times_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        cron_expression(text)


def test_an_expression_is_kept_with_single_spaces() -> None:
    assert cron_expression("  0 2\t* *  MON-FRI ") == "0 2 * * MON-FRI"


@given(EXPRESSIONS, MOMENTS)
def test_no_tick_lies_between_the_last_and_the_next(expression: str, at: datetime) -> None:
    last, following = last_tick(expression, at), next_tick(expression, at)
    assert last <= at < following
    assert next_tick(expression, last) == following
    assert last_tick(expression, following) == following


def test_ticks_are_in_utc_whatever_the_zone_of_the_moment() -> None:
    at = datetime(2026, 3, 1, 3, 30, tzinfo=timezone(timedelta(hours=1)))
    assert last_tick("0 2 * * *", at) == datetime(2026, 3, 1, 2, 0, tzinfo=UTC)
    assert next_tick("0 2 * * *", at) == datetime(2026, 3, 2, 2, 0, tzinfo=UTC)
