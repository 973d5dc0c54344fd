"""What a worker process may do, apart from what doing it loads."""

from enum import StrEnum


class Role(StrEnum):
    """`downstream` is alerting, observing and archive."""

    SCORING = "scoring"
    DOWNSTREAM = "downstream"
    ADAPTATION = "adaptation"
    ALL = "all"
