"""Schedules: cron expressions of five fields, in UTC."""

import re
from datetime import UTC, datetime, timedelta

from croniter import croniter

_COLUMN_COUNT = 5
_CHANCE = re.compile(r"(?:^|[\s,/-])[RH](?![A-Z])", re.IGNORECASE)
_ANY_DAY = datetime(2000, 1, 1, tzinfo=UTC)
_INSTANT = timedelta(microseconds=1)


def cron_expression(text: str) -> str:
    """`text` as it is kept, its five fields apart by single spaces.

    Raises `ValueError` for what is no cron expression, leaves its times to chance, or has none.
    """
    fields = text.split()
    kept = " ".join(fields)
    if len(fields) != _COLUMN_COUNT or not croniter.is_valid(kept):
        raise ValueError(f"{text!r} is no cron expression: minute, hour, day, month and weekday, such as 0 2 * * *")
    if _CHANCE.search(kept):
        raise ValueError(f"{text!r} leaves its times to chance; every worker must find the same ones")
    try:
        next_tick(kept, _ANY_DAY)
    except ValueError as error:
        raise ValueError(f"{text!r} names a day that never comes") from error
    return kept


def last_tick(expression: str, at: datetime) -> datetime:
    """The last moment, at `at` or before, that a valid `expression` names."""
    found: datetime = croniter(expression, at.astimezone(UTC) + _INSTANT).get_prev(datetime)
    return found.replace(fold=0)


def next_tick(expression: str, at: datetime) -> datetime:
    """The first moment after `at` that a valid `expression` names."""
    found: datetime = croniter(expression, at.astimezone(UTC)).get_next(datetime)
    return found.replace(fold=0)
