"""The record of what people change: who, when, what, and how it was before. One object each, so none is overwritten."""

from collections.abc import Iterator, Mapping
from datetime import timedelta
from itertools import islice
from typing import Any
from uuid import UUID, uuid4

from pydantic import Field, ValidationError

from flowgauge.domain.messages import Instant, Line, Message
from flowgauge.domain.object_keys import change_object, changes_folder
from flowgauge.runtime.backend import Store

# days that are looked through for the latest changes: fewer hide what was changed before a long holiday, more list
# empty folders for nothing
_DAYS = 92


class Change(Message):
    """What `by` did to `target` of `line`, with the values `before` and `after` it."""

    change_id: UUID = Field(description="of this record")
    at: Instant = Field(description="when, by the clock of the process that carried it out")
    by: str = Field(description="the person, as signed in, or the user of the system")
    action: str = Field(description="what was done: label, approve, refuse, roll back, settings, replay, and so on")
    line: Line | None = Field(None, description="the line; null where it concerns none")
    target: str = Field("", description="what it was done to: a verdict, a request, a version")
    before: dict[str, Any] = Field(default_factory=dict, description="the values before")
    after: dict[str, Any] = Field(default_factory=dict, description="the values after")


def record_change(
    store: Store,
    by: str,
    action: str,
    line: str | None = None,
    target: str = "",
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
) -> Change:
    """Store the record of a change that has been carried out."""
    change = Change(
        change_id=uuid4(),
        at=store.clock.now(),
        by=by,
        action=action,
        line=line,
        target=target,
        before=dict(before or {}),
        after=dict(after or {}),
    )
    store.objects.put(change_object(change.at, change.change_id), change.encode())
    return change


def latest_changes(store: Store, limit: int, line: str | None = None) -> list[Change]:
    """The last `limit` changes (of `line`) of the last three months, the newest first."""

    def found() -> Iterator[Change]:
        today = store.clock.now().date()
        for back in range(_DAYS):
            for name in sorted(store.objects.names(changes_folder(today - timedelta(days=back))), reverse=True):
                try:
                    change = Change.decode(store.objects.get(name))
                except (KeyError, ValidationError):
                    continue  # gone meanwhile, or damaged: the others are worth reading all the same
                if line in (None, change.line):
                    yield change

    return list(islice(found(), limit))
