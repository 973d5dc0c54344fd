"""What people are to be told of alerts: which route tells of what, how often, as one message of how many."""

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TypeVar
from uuid import uuid4

from pydantic import BaseModel, Field

from flowgauge.domain.alert_kinds import ABOUT, DECIDED, Ending
from flowgauge.domain.messages import Alert, AlertKind, Instant
from flowgauge.domain.routes import Route, Routes
from flowgauge.runtime.alerts import alert_id

# alert windows without a sign of life after which a problem is over. Fewer, and the window's last count, which comes
# late, is taken for a new one, or a gauge for good that does not load; more, and people wait for the good news.
_SILENT_WINDOWS = 3
# alerts whose counts are known, so that one that comes again is told once: fewer, and a replay of so many windows is
# told again; more only make the stored state longer, by some 25 bytes each
_KNOWN_ALERTS = 2_000
# lines times kinds that are remembered: fewer, and a plant whose every line is in trouble hears of no end; more only
# make the stored state longer, by some 300 bytes each
_MOST_PROBLEMS = 1_000
# of an address that takes none: fewer, and an outage of minutes costs people the single messages; more, and whoever is
# back is flooded
_MOST_PENDING = 50
# of what is due at one moment, each as a message of its own. Fewer, and alerts that have nothing to do with each other
# share a message; more, and the outage of a server on which all lines depend floods people
_MOST_APART = 5
# characters of an alert's sentence; services refuse what is much longer, and less cuts sentences of ours
_LONGEST = 1_000
# hex digits of an alert's id: fewer, and two alerts are taken for one
_ID_DIGITS = 16
# proposals of a line that wait for a decision: more only make the stored state longer
_MOST_PROPOSALS = 10

OTHER_LINES = "(other lines)"
"""Stands for lines beyond those that are told of one by one."""

T = TypeVar("T")


class Phase(StrEnum):
    NEW = "new"
    REPEATED = "repeated"
    OVER = "over"


class Notice(BaseModel):
    """One thing to tell: `count` events of `kind` on `line` since `since`. `offset` is the first alert of which nobody
    would hear if this were lost; None where somebody has.
    """

    line: str
    kind: AlertKind
    phase: Phase
    since: Instant
    count: int
    message: str
    ended: str = ""
    offset: int | None = None

    def followed_by(self, later: "Notice") -> "Notice":
        """Both as one, where neither has been told."""
        counted_anew = ABOUT[self.kind].ending is Ending.NONE or self.phase is Phase.OVER
        offsets = [each.offset for each in (self, later) if each.offset is not None]
        return later.model_copy(
            update={
                "since": min(self.since, later.since),
                "count": self.count + later.count if counted_anew else max(self.count, later.count),
                "offset": min(offsets, default=None),
            }
        )


class Pending(BaseModel):
    """A message that an address has not taken yet. `held`: until the end of quiet hours, or of an outage. No `id` comes
    twice, also where the state was lost: what is on record as delivered is never another message."""

    id: str
    notices: list[Notice]
    held: bool = False


class Problem(BaseModel):
    """What is known of one kind of alert of one line. `at` is the last alert's own time, `seen_at` when it came;
    `over_at` is set while the end is remembered."""

    line: str
    kind: AlertKind
    since: Instant
    at: Instant
    seen_at: Instant
    message: str
    total: int = 0
    over_at: Instant | None = None
    ended: str = ""
    proposals: list[str] = Field(default_factory=list)

    def count(self, alert: Alert, grown: int, at: datetime) -> None:
        self.at, self.seen_at = max(self.at, alert.at), at
        self.total += grown
        self.message = alert.message[:_LONGEST]
        if alert.kind is AlertKind.ADAPTATION_PROPOSED:
            request = alert.detail.get("request")
            request_id = str(request.get("request_id")) if isinstance(request, dict) else ""
            self.proposals = [*self.proposals, request_id][-_MOST_PROPOSALS:]


class Watch(BaseModel):
    """What one route has told of a problem. `untold` events since `since` wait, the first of which came at `opened`."""

    untold: int = 0
    since: Instant | None = None
    opened: Instant | None = None
    offset: int | None = None
    notified_at: Instant | None = None

    def count(self, alert: Alert, grown: int, at: datetime, offset: int) -> None:
        self.untold += grown
        self.since = self.since or alert.at
        self.opened = self.opened or at
        self.offset = offset if self.offset is None else self.offset


class LedgerState(BaseModel):
    """All that is known of one partition of alerts up to `position`. Watches and held notices are by route and problem,
    `pending` by address."""

    topic_id: str = ""
    position: int = 0
    known: dict[str, int] = Field(default_factory=dict)
    problems: dict[str, Problem] = Field(default_factory=dict)
    watches: dict[str, dict[str, Watch]] = Field(default_factory=dict)
    held: dict[str, dict[str, Notice]] = Field(default_factory=dict)
    pending: dict[str, list[Pending]] = Field(default_factory=dict)


class Ledger:
    """Turns the alerts of one partition into messages for addresses; asks nobody and sends nothing.

    `state` is its own from then on, and is changed in place; `changed` says whether it was since that was last set to
    False. What the state holds of routes and addresses that are no longer in `routes` is dropped.
    """

    def __init__(self, routes: Routes, state: LedgerState) -> None:
        self.state = state
        self.changed = False
        self._routes = routes.routes
        _keep(state.watches, self._routes)
        _keep(state.held, self._routes)
        _keep(state.pending, routes.addresses)

    def take(self, offset: int, at: datetime, alert: Alert) -> None:
        """Count an alert that was appended `at`. One whose id and count are known changes nothing."""
        state = self.state
        state.position = offset + 1
        self.changed = True
        grown = self._grown(alert)
        if grown == 0:
            return
        self._decide(alert, at)
        key = _key(alert.line, alert.kind)
        problem = state.problems.get(key)
        if problem is not None and problem.over_at is not None and alert.at <= problem.over_at:
            return  # the last count of a window that began before the end
        if problem is None or problem.over_at is not None:
            problem = self._begun(key, alert, at)
        problem.count(alert, grown, at)
        for name, route in self._routes.items():
            if route.takes(alert.line, alert.kind):
                watch = state.watches.setdefault(name, {}).setdefault(key, Watch())
                # a problem that was told of is told again when it is time, or over: further alerts ask for nothing
                if watch.notified_at is None or ABOUT[alert.kind].ending is Ending.NONE:
                    watch.count(alert, grown, at, offset)

    def finish(self, now: datetime, gauges: Mapping[str, datetime], window: Callable[[str], float]) -> None:
        """Find what is over. `gauges` says when each line last got one, `window` how long its alert windows are, in
        seconds. To be called when no alert waits to be counted: silence would be of our own making."""
        for problem in self.state.problems.values():
            ending, gauge = ABOUT[problem.kind].ending, gauges.get(problem.line)
            if ending is Ending.NONE or problem.over_at is not None:
                continue
            if ending is Ending.SILENCE:
                last, ended = problem.seen_at, f"it was last reported at {_shown(problem.seen_at)}"
            elif gauge is not None and gauge > problem.at:
                last, ended = max(gauge, problem.seen_at), f"the line got another gauge at {_shown(gauge)}"
            else:
                continue
            if now - last >= timedelta(seconds=_SILENT_WINDOWS * window(problem.line)):
                self._end(problem, last, ended)

    @property
    def crowded(self) -> bool:
        """Whether there are too many problems to gather alerts of each: `compose` is due now."""
        return len(self.state.problems) > _MOST_PROBLEMS

    @property
    def waits_for_gauges(self) -> bool:
        """Whether there is a problem that another gauge would end."""
        return any(
            problem.over_at is None and ABOUT[problem.kind].ending in (Ending.GAUGE, Ending.DECISION)
            for problem in self.state.problems.values()
        )

    def compose(self, now: datetime, everything: bool = False) -> None:
        """Make messages of what is due: of `everything` that is untold, digests or not, before a stop."""
        state = self.state
        hurried = everything or self.crowded
        for name, route in self._routes.items():
            quiet = route.quiet is not None and route.quiet.covers(now)
            held = list(state.held.get(name, {}).values())
            due: list[Notice] = []
            for notice in self._due(name, route, now, hurried):
                self.changed = True
                (held if route.holds_back(notice.kind, now) else due).append(notice)
            together = len(due) > _MOST_APART
            for notices in [list(_gathered(due).values())] if together else [[notice] for notice in due]:
                self._enqueue(route, notices)
            if held and not quiet:
                self._enqueue(route, held, held=True)
                self.changed = True
            state.held[name] = _gathered(held) if quiet else {}
        self._forget(now)

    def next(self, address: str) -> Pending | None:
        """The message that the address of this key is to get now."""
        return next(iter(self.state.pending.get(address, [])), None)

    def delivered(self, address: str, message_id: str) -> None:
        """Nothing for a message that is not the address's next."""
        waiting = self.state.pending.get(address, [])
        if waiting and waiting[0].id == message_id:
            del waiting[0]
            self.changed = True

    def failed(self, address: str) -> None:
        """What waits becomes one message where it is too much. To be called while none of it is on its way."""
        waiting = self.state.pending.get(address, [])
        notices = [notice for message in waiting for notice in message.notices]
        if len(waiting) > _MOST_PENDING or (len(waiting) > 1 and len(notices) > _MOST_PROBLEMS):
            waiting[:] = [Pending(id=uuid4().hex, notices=list(_gathered(notices).values()), held=True)]
            self.changed = True

    def first_offset(self) -> int | None:
        """Of the alerts that somebody has still to hear of; None where there is none."""
        state = self.state
        watched = (watch.offset for by_key in state.watches.values() for watch in by_key.values())
        held = (notice.offset for by_key in state.held.values() for notice in by_key.values())
        pending = (
            notice.offset for waiting in state.pending.values() for message in waiting for notice in message.notices
        )
        return min((offset for each in (watched, held, pending) for offset in each if offset is not None), default=None)

    def restart(self, topic_id: str) -> None:
        """The topic was made anew: offsets of the former one say nothing, what is to be told of it stays."""
        state = self.state
        state.topic_id, state.position = topic_id, 0
        notices = [notice for by_key in state.held.values() for notice in by_key.values()]
        notices += [notice for waiting in state.pending.values() for message in waiting for notice in message.notices]
        watches = [watch for by_key in state.watches.values() for watch in by_key.values()]
        untold: list[Notice | Watch] = [*notices, *watches]
        for each in untold:
            each.offset = None

    def _grown(self, alert: Alert) -> int:
        """Events that are new in `alert`: none where it is known, or older than what is known."""
        known, short = self.state.known, alert.alert_id.hex[:_ID_DIGITS]
        before = known.pop(short, 0)
        known[short] = max(before, alert.count)
        if len(known) > _KNOWN_ALERTS:
            del known[next(iter(known))]
        return max(0, alert.count - before)

    def _begun(self, key: str, alert: Alert, at: datetime) -> Problem:
        # where it was over and nobody has been told so yet, this beginning is what people must hear of
        for watches in self.state.watches.values():
            if key in watches:
                watches[key].notified_at = None
        problem = Problem(line=alert.line, kind=alert.kind, since=alert.at, at=alert.at, seen_at=at, message="")
        self.state.problems[key] = problem
        return problem

    def _decide(self, alert: Alert, at: datetime) -> None:
        """A proposal is over once the alert that says what became of it has come."""
        problem = self.state.problems.get(_key(alert.line, AlertKind.ADAPTATION_PROPOSED))
        if problem is None or problem.over_at is not None or alert.kind not in DECIDED:
            return
        decided = [each for each in problem.proposals if alert_id(alert.line, alert.kind, each) == alert.alert_id]
        problem.proposals = [each for each in problem.proposals if each not in decided]
        if decided and not problem.proposals:
            self._end(problem, max(at, problem.at), f"it was decided at {_shown(at)}")

    def _end(self, problem: Problem, at: datetime, ended: str) -> None:
        problem.over_at, problem.ended = at, ended
        self.changed = True

    def _due(self, name: str, route: Route, now: datetime, hurried: bool) -> Iterator[Notice]:
        watches = self.state.watches.get(name, {})
        for key, watch in list(watches.items()):
            problem = self.state.problems.get(key)
            if problem is None:
                del watches[key]
                continue
            event = ABOUT[problem.kind].ending is Ending.NONE
            gathered = watch.opened is not None and (
                hurried or now - watch.opened >= timedelta(seconds=route.digest_seconds)
            )
            if problem.over_at is not None:
                phase = Phase.OVER
            elif gathered:
                phase = Phase.NEW
            elif watch.notified_at is not None and route.repeat_after and now - watch.notified_at >= route.repeat_after:
                phase = Phase.REPEATED
            else:
                continue
            yield Notice(
                line=problem.line,
                kind=problem.kind,
                phase=phase,
                since=watch.since if event and watch.since else problem.since,
                count=watch.untold if event else problem.total,
                message=problem.message,
                ended=problem.ended,
                offset=watch.offset,
            )
            if event or phase is Phase.OVER:
                del watches[key]
            else:
                watches[key] = Watch(notified_at=now)

    def _enqueue(self, route: Route, notices: Sequence[Notice], held: bool = False) -> None:
        for address in route.to:
            waiting = self.state.pending.setdefault(address.key, [])
            waiting.append(Pending(id=uuid4().hex, notices=list(notices), held=held))

    def _forget(self, now: datetime) -> None:
        """Problems that nobody has to hear of any more. Ends are remembered for a day, so that counts that come late do
        not begin them anew."""
        problems = self.state.problems
        watched = {key for by_key in self.state.watches.values() for key in by_key}
        for key, problem in list(problems.items()):
            done = ABOUT[problem.kind].ending is Ending.NONE
            if key not in watched and (done or (problem.over_at and now - problem.over_at > timedelta(days=1))):
                del problems[key]
        if self.crowded:
            by_age = sorted(problems, key=lambda key: problems[key].seen_at)
            for key in by_age[: len(problems) - _MOST_PROBLEMS]:
                del problems[key]


def _keep(found: dict[str, T], names: Container[str]) -> None:
    for name in [each for each in found if each not in names]:
        del found[name]


def _gathered(notices: Iterable[Notice]) -> dict[str, Notice]:
    """One for each line and kind; what exceeds the bound, one for each kind."""
    found: dict[str, Notice] = {}
    for notice in notices:
        key = _key(notice.line, notice.kind)
        if key not in found and len(found) >= _MOST_PROBLEMS:
            key = _key(OTHER_LINES, notice.kind)
            others = found.get(key)
            count = notice.count + (0 if others is None else others.count)
            notice = notice.model_copy(update={"line": OTHER_LINES, "count": count})
            if others is not None:
                notice = others.followed_by(notice).model_copy(update={"count": count})
            found[key] = notice
        else:
            found[key] = found[key].followed_by(notice) if key in found else notice
    return found


def _key(line: str, kind: AlertKind) -> str:
    return f"{line}/{kind.value}"


def _shown(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"
