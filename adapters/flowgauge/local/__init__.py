"""The embedded default: topics and state in SQLite, objects in a directory, images from a folder."""

from datetime import UTC, datetime


class SystemClock:
    def now(self) -> datetime:
        return datetime.now(UTC)
