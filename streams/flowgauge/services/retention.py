"""How long images are kept: in a directory those that passed, by the line; in a bucket by its own rules."""

import logging
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from datetime import date, datetime, timedelta
from typing import Protocol

from flowgauge.domain.errors import ArchiveDamaged, SettingsError
from flowgauge.domain.lines import LineSettings
from flowgauge.domain.messages import Decision, Verdict
from flowgauge.domain.object_keys import images_folder
from flowgauge.processors.archive import archived, archived_days
from flowgauge.registry.lines import line_settings, lines_with_settings
from flowgauge.runtime.backend import Store
from flowgauge.services.changes import Kept, recorded

# between two looks: less reads the lines' settings for nothing, more keeps images an hour longer than was asked
_INTERVAL = timedelta(hours=1)
# of the mark up to which day a line is done: shorter, and a line that stood still for that long is gone through again
_TTL_SECONDS = 400 * 86_400.0
# Days before the last that was gone through are gone through again: longer, and more of the archive is read each day;
# shorter, and images stay whose verdicts are archived later than that, after a backlog or as replayed dead letters.
_LATE = timedelta(days=7)

log = logging.getLogger(__name__)


class PassRetention:
    """Deletes the images of passes that were captured before the last `pass_retention_days` of their line, day by day,
    as the archive knows them; what is in the buffer stays until it has left it. Their verdicts remain, and so does
    what a claim check names outside of the line's images: others may need it.

    The last day that was gone through is kept in the state, with the days of which images were in the buffer then; when
    that is lost, all days are gone through again.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._last: datetime | None = None
        self._limits: dict[str, date] = {}

    def tidy(self) -> None:
        now = self._store.clock.now()
        if self._last is not None and abs(now - self._last) < _INTERVAL:
            return
        self._last = now
        for line in lines_with_settings(self._store.objects):
            try:
                days = line_settings(self._store.objects, line).pass_retention_days
            except SettingsError as error:
                log.warning("%s Its images stay until then.", error)
                continue
            if days is not None:
                limit = (now - timedelta(days=days)).date()
                # days are read again, so once when another has become due, and not every hour
                if self._limits.get(line) != limit:
                    self._tidy_line(line, limit)
                    self._limits[line] = limit

    def _tidy_line(self, line: str, limit: date) -> None:
        key, objects, state = f"retention/{line}", self._store.objects, self._store.state
        stored = state.get(key)
        done, *held = [date.min] if stored is None else map(date.fromisoformat, stored.decode().split(","))
        waiting = set(held)
        again = max(done, date.min + _LATE) - _LATE
        for day in archived_days(objects):
            if day >= limit or not (day > again or day in waiting):
                continue
            try:
                whole = self._delete_passes(line, day)
            except ArchiveDamaged as error:
                log.warning("%s Images of %s stay that were captured on %s.", error, line, day)
                whole = False
            if whole:
                waiting.discard(day)
            else:
                waiting.add(day)
            done = max(done, day)
            kept = ",".join(each.isoformat() for each in (done, *sorted(waiting)))
            state.put(key, kept.encode(), _TTL_SECONDS)

    def _delete_passes(self, line: str, day: date) -> bool:
        """Whether all images of passes of that day are gone, and none is in the buffer."""
        objects, whole = self._store.objects, True
        training = {entry.image_uri for entry in self._store.state.buffer(line)}
        ours = objects.uri(images_folder(line))
        for verdict in archived(objects, line, day):
            uri = verdict.image_uri
            if verdict.decision is not Decision.PASS or uri is None or not uri.startswith(ours):
                continue
            if uri in training:
                whole = False
            else:
                objects.delete(objects.name(uri))
        return whole


class LifecycleRules(Protocol):
    """A bucket's, which its service carries out by itself."""

    def days(self) -> dict[Decision, int | None]:
        """After which images of a verdict are deleted; None: kept for ever."""

    def set(self, days: Mapping[Decision, int | None]) -> None: ...


def expired(store: Store, line: str, rules: LifecycleRules | None) -> Callable[[Verdict], bool]:
    """Whether a verdict's image is old enough to have been deleted as it is set now, by the `rules` of a bucket, or by
    the line's settings in a directory."""
    now = store.clock.now()
    if rules is not None:
        days = rules.days()

        def by_rules(verdict: Verdict) -> bool:
            kept = days[verdict.decision]
            return kept is not None and verdict.scored_at + timedelta(days=kept) <= now

        return by_rules
    passes = line_settings(store.objects, line).pass_retention_days

    def by_settings(verdict: Verdict) -> bool:
        kept = passes if verdict.decision is Decision.PASS else None
        return kept is not None and verdict.event_time.date() < (now - timedelta(days=kept)).date()

    return by_settings


def set_retention(store: Kept, rules: LifecycleRules, wanted: Mapping[Decision, int | None], by: str) -> None:
    """Set the days of the verdicts in `wanted`, None for ever, as the person `by` wants; the others stay as they are.

    Raises `SettingsError` for days below the age that a buffer of any line allows: an image there may still train.
    """
    objects = store.objects
    ages: dict[str, float] = {}
    for each in lines_with_settings(objects):
        try:
            ages[each] = line_settings(objects, each).buffer_max_age_seconds
        except SettingsError as error:  # workers that start now go by the defaults, which are among the ages
            log.warning("%s Its buffer counts as any line's until then.", error)
    ages["any line"] = LineSettings().buffer_max_age_seconds
    line, longest = max(ages.items(), key=lambda each: each[1])
    days = min((days for days in wanted.values() if days is not None), default=None)
    if days is not None and days * 86_400 < longest:
        raise SettingsError(
            f"The buffer of {line} may hold images of the last {longest / 86_400:g} days, and {days} would delete"
            " what it still needs.",
            "Give more days, or lower buffer_max_age_seconds with `flowgauge lines set`.",
        )
    before = rules.days()
    moved = {decision: days for decision, days in wanted.items() if days != before[decision]}
    old, new = ({f"{each}_days": days[each] or "for ever" for each in moved} for days in (before, moved))
    with recorded(store, by, "retention", None, "", old, new) if moved else nullcontext():
        rules.set(before | dict(wanted))
