"""How pages are made: templates, what all of them are given, and how they write times and numbers."""

from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import Any
from urllib.parse import quote

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from flowgauge.console.access import Person, proof_of
from flowgauge.console.plant import Console
from flowgauge.console.users import Role
from flowgauge.domain.errors import FlowgaugeError
from flowgauge.domain.object_keys import line_name, spelled
from flowgauge.reports.pages import templates
from flowgauge.services.overview import Minute

# of a sparkline, in pixels
SPARK_WIDTH, SPARK_HEIGHT = 120, 24
# minutes of each of its points: with one, the page of two hundred lines is three times as large, and each point is two
# pixels wide
_SPARK_MINUTES = 3


# Nothing comes from another host, no script or style from within a page, and no page of another site may frame one.
# Style attributes alone are allowed: charts that matplotlib draws have them, and they can fetch nothing.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; style-src-attr 'unsafe-inline'; img-src 'self' data:;"
    " connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}


def console_of(request: Request) -> Console:
    console: Console = request.app.state.console
    return console


def line_of(request: Request) -> str:
    """Raises `InvalidName` for what names no line, before it gets into any path."""
    return line_name(str(request.path_params["line"]))


def wants_json(request: Request) -> bool:
    return "application/json" in request.headers.get("accept", "")


def entered(request: Request, role: Role = Role.VIEWER) -> tuple[Console, Person]:
    """Raises 401 and 403 for who may not be here."""
    console = console_of(request)
    return console, console.access.require(request, role)


def shown(request: Request, template: str, person: Person | None, status: int = 200, **facts: Any) -> Response:
    """The page; it knows who looks at it, and its forms prove that they are ours."""
    console = console_of(request)
    given = {
        "person": person,
        "may_label": person is not None and person.role >= Role.INSPECTOR,
        "may_decide": person is not None and person.role >= Role.ENGINEER,
        "is_open": console.access.binding.is_open,
        "by_proxy": console.access.binding.users is None,
        "proof": proof_of(request.state.token),
        "now": console.store.clock.now(),
        "path": request.url.path,
        "waiting": len(console.overview.proposals()) if person is not None else 0,
    }
    return HTMLResponse(rendered(template, **given | facts), status)


def rendered(template: str, **facts: Any) -> str:
    return _TEMPLATES.get_template(template).render(facts)


def failed(request: Request, error: HTTPException) -> Response:
    """What went wrong, in words, as JSON for a script."""
    if wants_json(request):
        return protected(JSONResponse({"message": error.detail}, error.status_code, error.headers))
    try:
        person = console_of(request).access.person(request)
    except FlowgaugeError:  # sessions cannot be looked up: the page says what is away, to whoever it is
        person = None
    answer = shown(request, "failed.html", person, error.status_code, code=error.status_code, message=error.detail)
    answer.headers.update(error.headers or {})
    return protected(answer)


def protected(answer: Response) -> Response:
    """With the headers that every answer has."""
    for name, value in _HEADERS.items():
        answer.headers[name] = value
    answer.headers.setdefault("cache-control", "no-store")
    return answer


def ago(at: datetime, now: datetime) -> str:
    """How long ago, in the largest unit that fits."""
    seconds = (now - at).total_seconds()
    for unit, length in (("day", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            count = int(seconds // length)
            return f"{count} {unit}{'s' if unit == 'day' and count > 1 else ''} ago"
    return "just now" if seconds > -60 else "in the future"


def utc(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def day_of(at: datetime) -> date:
    return at.astimezone(UTC).date()


def spark(minutes: Sequence[Minute], decision: str) -> str:
    """The path of a sparkline: images a minute where `decision` is empty, else the share of them with that decision."""
    images = _buckets([each.images for each in minutes])
    if decision:
        decided = _buckets([getattr(each, decision) for each in minutes])
        heights = [share / max(whole, 1) for share, whole in zip(decided, images, strict=True)]
    else:
        highest = max(1, *images)
        heights = [each / highest for each in images]
    step = SPARK_WIDTH / len(heights)
    points = (f"{step * (n + 0.5):.0f} {SPARK_HEIGHT - 1 - (SPARK_HEIGHT - 2) * h:.0f}" for n, h in enumerate(heights))
    return "M" + "L".join(points)


def _buckets(counts: Sequence[int]) -> list[int]:
    return [sum(counts[start : start + _SPARK_MINUTES]) for start in range(0, len(counts), _SPARK_MINUTES)]


_TEMPLATES = templates("flowgauge.console")
for each in (ago, utc, day_of, spark, spelled):
    _TEMPLATES.filters[each.__name__] = each
_TEMPLATES.filters["segment"] = lambda text: quote(text, safe="")
_TEMPLATES.globals |= {"spark_width": SPARK_WIDTH, "spark_height": SPARK_HEIGHT}
