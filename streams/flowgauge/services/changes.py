"""The record of what people change: who, when, what, and how it was before. One object each.

It is written before the change, and again once that is made: so none goes unrecorded, whatever fails in between.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from enum import StrEnum
from itertools import islice
from typing import Any, Protocol
from uuid import UUID, uuid4

from pydantic import Field, ValidationError

from flowgauge.domain.errors import Conflict
from flowgauge.domain.messages import Instant, Line, Message
from flowgauge.domain.object_keys import change_object, changes_folder
from flowgauge.domain.ports import Clock, Objects

# days that are looked through for the latest changes: fewer hide what was changed before a long holiday, more list
# empty folders for nothing
_DAYS = 92
# The same of days to come, for changes made by a clock that is ahead: fewer hide what was made by one that is further
# off, more list empty folders for nothing.
_DAYS_AHEAD = 7


class ChangeState(StrEnum):
    """Of a record: `begun` until the change is made, and for good where whoever made it could not say so any more;
    `refused` where somebody else was first.
    """

    BEGUN = "begun"
    DONE = "done"
    REFUSED = "refused"

    @property
    def words(self) -> str:
        """For people; nothing of a change that was made."""
        return {"begun": "not known whether it took effect", "refused": "refused: nothing was changed"}.get(self, "")


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
    state: ChangeState = Field(
        ChangeState.DONE, description="done; refused; or begun: it is not known whether it took effect"
    )


class Kept(Protocol):
    """Of a store, what records are kept in."""

    @property
    def objects(self) -> Objects: ...

    @property
    def clock(self) -> Clock: ...


@contextmanager
def recorded(
    store: Kept,
    by: str,
    action: str,
    line: str | None = None,
    target: str = "",
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
) -> Iterator[dict[str, Any]]:
    """Around a change that is made as soon as its record can be stored; whoever makes it puts into the dictionary what
    of the record is known only afterwards.

    `Conflict` is recorded as such; whatever else is raised leaves the record as begun, so check before what can be.
    """
    change = Change(
        change_id=uuid4(),
        at=store.clock.now(),
        by=by,
        action=action,
        line=line,
        target=target,
        before=dict(before or {}),
        after=dict(after or {}),
        state=ChangeState.BEGUN,
    )
    name, found = change_object(change.at, change.change_id), dict[str, Any]()
    store.objects.put(name, change.encode())
    try:
        yield found
    except Conflict as error:
        refusal = {"after": change.after | {"refused": error.cause}, "state": ChangeState.REFUSED}
        store.objects.put(name, change.model_copy(update=refusal).encode())
        raise
    store.objects.put(name, change.model_copy(update={**found, "state": ChangeState.DONE}).encode())


def latest_changes(store: Kept, limit: int, line: str | None = None) -> list[Change]:
    """The last `limit` changes (of `line`) of the last three months, the newest first."""

    def found() -> Iterator[Change]:
        today = store.clock.now().date()
        for back in range(-_DAYS_AHEAD, _DAYS):
            for name in sorted(store.objects.names(changes_folder(today - timedelta(days=back))), reverse=True):
                try:
                    change = Change.decode(store.objects.get(name))
                except (KeyError, ValidationError):
                    continue  # gone meanwhile, or damaged: the others are worth reading all the same
                if line in (None, change.line):
                    yield change

    return list(islice(found(), limit))
