"""The words of a message: what happened, on which line, since when, how many, and where to look."""

from typing import NamedTuple

from flowgauge.domain.alert_kinds import ABOUT, Severity
from flowgauge.processors.notices import OTHER_LINES, Notice, Pending, Phase
from flowgauge.runtime.alerts import NO_LINE

# of one message: more, and nobody reads them, or a service refuses the message; fewer only send people to the console
_LISTED = 20


class Text(NamedTuple):
    """`severity` is the highest of what is told; None where all of it is over."""

    title: str
    body: str
    severity: Severity | None


def text_of(message: Pending, console: str | None) -> Text:
    notices = message.notices
    severities = [ABOUT[notice.kind].severity for notice in notices if notice.phase is not Phase.OVER]
    severity = max(severities, key=lambda each: each.rank, default=None)
    mark = "resolved" if severity is None else severity.value
    if len(notices) == 1:
        (notice,) = notices
        title = f"[{mark}] {notice.line}: {_words(notice)}"
        body = f"{_what_happened(notice)}\n\n{_facts(notice)}\n{_link(notice.line, console)}"
    else:
        lines = len({notice.line for notice in notices})
        title = f"[{mark}] {len(notices)} alerts of {lines} line{'s' if lines > 1 else ''}"
        parts = [
            f"{notice.line}: {_words(notice)}. {_what_happened(notice)}\n{_facts(notice)}\n"
            f"{_link(notice.line, console)}".strip()
            for notice in sorted(notices, key=_urgency)[:_LISTED]
        ]
        if len(notices) > _LISTED:
            parts.append(f"And {len(notices) - _LISTED} more: `flowgauge alerts` lists them.\n{console or ''}".strip())
        body = "\n\n".join(parts)
    if message.held:
        title += ", held back until now"
    return Text(title, body.strip(), severity)


def _urgency(notice: Notice) -> tuple[bool, int, str]:
    """Sorts what is not over, and what is critical, to the front."""
    return notice.phase is Phase.OVER, -ABOUT[notice.kind].severity.rank, notice.line


def _words(notice: Notice) -> str:
    kind = notice.kind.value.replace("_", " ")
    return {Phase.NEW: kind, Phase.REPEATED: f"{kind}, goes on", Phase.OVER: f"{kind}, resolved"}[notice.phase]


def _what_happened(notice: Notice) -> str:
    return f"Over: {notice.ended}. It was: {notice.message}" if notice.phase is Phase.OVER else notice.message


def _facts(notice: Notice) -> str:
    return f"line {notice.line}, kind {notice.kind.value}, {notice.count} since {notice.since:%Y-%m-%d %H:%M:%S} UTC"


def _link(line: str, console: str | None) -> str:
    if console is None:
        return ""
    return console if line in (NO_LINE, OTHER_LINES) else f"{console}/lines/{line}"
