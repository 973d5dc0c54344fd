"""How long images that passed are kept; rejects and reviews stay."""

from datetime import date, datetime, timedelta

from flowgauge.domain.messages import Decision, Verdict
from flowgauge.domain.ports import Objects, State
from flowgauge.processors.archive import archived, archived_days
from flowgauge.registry.lines import line_settings
from flowgauge.runtime.backend import Store

_INTERVAL = timedelta(hours=1)
_TTL_SECONDS = 400 * 86_400.0


class PassRetention:
    """Deletes the images of passes that were captured before the last `pass_retention_days` of their line, day by day,
    as the archive knows them; what is in the buffer stays. Their verdicts remain.

    The last day that was done is kept in the state; when that is lost, the days are gone through again.
    """

    def __init__(self, store: Store) -> None:
        self._objects = store.objects
        self._state = store.state
        self._clock = store.clock
        self._last: datetime | None = None

    def tidy(self) -> None:
        now = self._clock.now()
        if self._last is None or now - self._last >= _INTERVAL:
            self._last = now
            for name in self._objects.names("lines/"):
                self._tidy_line(name.removeprefix("lines/").removesuffix(".json"), now)

    def _tidy_line(self, line: str, now: datetime) -> None:
        days = line_settings(self._objects, line).pass_retention_days
        if days is None:
            return
        limit = (now - timedelta(days=days)).date()
        done = _done(self._state, line)
        for day in archived_days(self._objects):
            if done < day < limit:
                self._delete(line, day)
                self._state.put(_key(line), day.isoformat().encode(), _TTL_SECONDS)

    def _delete(self, line: str, day: date) -> None:
        training = {entry.image_id for entry in self._state.buffer(line)}
        for verdict in archived(self._objects, line, day):
            if verdict.decision is Decision.PASS and verdict.image_id not in training:
                _forget(self._objects, verdict)


def _forget(objects: Objects, verdict: Verdict) -> None:
    if verdict.image_uri is not None:
        objects.delete(objects.name(verdict.image_uri))


def _done(state: State, line: str) -> date:
    stored = state.get(_key(line))
    return date.min if stored is None else date.fromisoformat(stored.decode())


def _key(line: str) -> str:
    return f"retention/{line}"
