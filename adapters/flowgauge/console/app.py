"""The console's web application: routes, who may take them, and the headers that every answer has."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus
from secrets import token_urlsafe
from typing import Any

from anyio import CapacityLimiter, to_thread
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from flowgauge.console import actions, pages
from flowgauge.console.access import COOKIE
from flowgauge.console.plant import Console
from flowgauge.console.views import failed, protected, wants_json
from flowgauge.domain.errors import FlowgaugeError, Unavailable

log = logging.getLogger(__name__)

Handler = Callable[[Request], Response]

# between two looks at the topics: less asks the brokers for nothing, more shows a verdict later than two seconds
_REFRESH_SECONDS = 0.25
# between two looks at how far the groups of workers are behind, which takes a call for each group and partition
_LAG_SECONDS = 5.0
# requests at once that decode images, read the archive or run a gauge, some hundred MB each: fewer keep galleries
# waiting, more take memory and processors from scoring
_WORKING = 3
# sign-ins at once, of which each takes 64 MiB: fewer keep people waiting, more only guessers
_SIGNING_IN = 2
# bytes of a form; what a person types is far shorter, and more would be kept in memory before it is refused
_LONGEST_FORM = 64 * 1024


def application(console: Console) -> Starlette:
    """Serves `console`; while it runs, the store's topics are followed beside it."""

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        await run_in_threadpool(console.catch_up)
        following = [
            asyncio.create_task(_again_and_again(console.refresh, _REFRESH_SECONDS)),
            asyncio.create_task(_again_and_again(console.look_at_lag, _LAG_SECONDS)),
        ]
        yield
        for task in following:
            task.cancel()

    async def guarded(request: Request, call: Callable[[Request], Awaitable[Response]]) -> Response:
        token = request.cookies.get(COOKIE)
        request.state.token = token or token_urlsafe(32)
        try:
            console.access.check_host(request)
            console.access.check_way(request)
            if request.method == "POST":
                await _check_form(console, request)
            answer = await call(request)
        except HTTPException as error:
            answer = await run_in_threadpool(failed, request, error)
        if not token and COOKIE not in answer.headers.get("set-cookie", ""):
            console.access.give(request.state.token, answer)
        return protected(answer)

    working, signing_in = CapacityLimiter(_WORKING), CapacityLimiter(_SIGNING_IN)

    def work(call: Handler) -> Callable[[Request], Awaitable[Response]]:
        return _limited(call, working)

    made = Starlette(
        routes=[
            Route("/", pages.plant),
            Route("/live", pages.plant_live),
            Route("/sign-in", pages.sign_in, methods=["GET"]),
            Route("/sign-in", _limited(actions.sign_in, signing_in), methods=["POST"]),
            Route("/sign-out", actions.sign_out, methods=["POST"]),
            Route("/adaptations", pages.adaptations),
            Route("/adaptations/live", pages.adaptations_live),
            Route("/adaptations/{request_id:uuid}/approve", actions.approve, methods=["POST"]),
            Route("/adaptations/{request_id:uuid}/refuse", actions.refuse, methods=["POST"]),
            Route("/dead-letters", work(pages.dead_letters)),
            Route("/dead-letters/{partition:int}/{offset:int}/preview", work(pages.dead_letter_preview)),
            Route("/dead-letters/replay", actions.replay, methods=["POST"]),
            Route("/changes", pages.changes),
            Route("/verdicts/{verdict_id:uuid}", work(pages.verdict)),
            Route("/verdicts/{verdict_id:uuid}/image", work(pages.image)),
            Route("/verdicts/{verdict_id:uuid}/heatmap", work(pages.heatmap)),
            Route("/verdicts/{verdict_id:uuid}/predict", work(actions.predict), methods=["POST"]),
            Route("/verdicts/{verdict_id:uuid}/label", work(actions.label), methods=["POST"]),
            Route("/lines/{line}", pages.line),
            Route("/lines/{line}/live", pages.line_live),
            Route("/lines/{line}/samples", work(pages.samples)),
            Route("/lines/{line}/review", pages.review),
            Route("/lines/{line}/adapt", actions.adapt, methods=["POST"]),
            Route("/lines/{line}/adaptations", pages.adaptations_of_line),
            Route("/lines/{line}/adaptations/{version}", work(pages.adaptation)),
            Route("/lines/{line}/adaptations/{version}/suspects/{number:int}", work(pages.suspect)),
            Route("/lines/{line}/gauges", pages.gauges),
            Route("/lines/{line}/roll-back", work(actions.roll_back), methods=["POST"]),
            Route("/lines/{line}/trials", work(pages.trials)),
            Route("/lines/{line}/trials/{trial_id:uuid}/changed/{verdict_id:uuid}", work(pages.changed)),
            Route("/lines/{line}/trials/start", work(actions.start_trial), methods=["POST"]),
            Route("/lines/{line}/trials/stop", work(actions.stop_trial), methods=["POST"]),
            Route("/lines/{line}/trials/promote", work(actions.promote), methods=["POST"]),
            Route("/lines/{line}/threshold", work(pages.threshold), methods=["GET"]),
            Route("/lines/{line}/threshold", work(actions.set_threshold), methods=["POST"]),
            Route("/lines/{line}/threshold/price", work(pages.price)),
            Route("/lines/{line}/threshold/score", work(actions.score_labelled), methods=["POST"]),
            Route("/lines/{line}/compare", pages.comparison, methods=["GET"]),
            Route("/lines/{line}/compare", work(actions.compare), methods=["POST"]),
            Route("/lines/{line}/settings", pages.settings, methods=["GET"]),
            Route("/lines/{line}/settings", actions.set_settings, methods=["POST"]),
            Mount("/static", StaticFiles(packages=[("flowgauge.console", "static")])),
        ],
        middleware=[Middleware(GZipMiddleware, minimum_size=1_000), Middleware(BaseHTTPMiddleware, dispatch=guarded)],
        exception_handlers={HTTPException: _failed, FlowgaugeError: _refused, Exception: _broke},
        lifespan=lifespan,
    )
    made.state.console = console
    return made


def _limited(call: Handler, limiter: CapacityLimiter) -> Callable[[Request], Awaitable[Response]]:
    """`call` in a thread of its own few: others wait without taking those that serve pages."""

    async def handler(request: Request) -> Response:
        return await to_thread.run_sync(call, request, limiter=limiter)

    return handler


async def _check_form(console: Console, request: Request) -> None:
    """Raises 413 and 403 for a form that is too large, or none of ours."""
    length = request.headers.get("content-length", "")
    if not length.isdigit() or int(length) > _LONGEST_FORM:
        raise HTTPException(413, "The form is larger than what a person types.")
    form = await request.form()
    request.state.form = {name: value for name, value in form.items() if isinstance(value, str)}
    console.access.require_same_site(request, request.state.form.get("csrf", ""))


async def _again_and_again(look: Callable[[], None], seconds: float) -> None:
    """Whatever goes wrong is logged once, and the next look is tried: a console that stands still shows a plant that is
    well."""
    reported, own = "", CapacityLimiter(1)
    while True:
        await asyncio.sleep(seconds)
        try:
            await to_thread.run_sync(look, limiter=own)
            reported = ""
        except FlowgaugeError as error:
            if str(error) != reported:
                log.warning("The console shows what it last read. %s", error)
            reported = str(error)
        except Exception as error:
            if repr(error) != reported:
                log.exception("The console shows what it last read.")
            reported = repr(error)


def _failed(request: Request, error: Any) -> Response:
    if error.status_code == HTTPStatus.UNAUTHORIZED and request.method == "GET" and not wants_json(request):
        return RedirectResponse(f"/sign-in?to={request.url.path}", HTTPStatus.SEE_OTHER)
    return failed(request, error)


def _refused(request: Request, error: Any) -> Response:
    status = HTTPStatus.SERVICE_UNAVAILABLE if isinstance(error, Unavailable) else HTTPStatus.BAD_REQUEST
    return failed(request, HTTPException(status, str(error)))


def _broke(request: Request, error: Any) -> Response:
    log.error("%s %s failed.", request.method, request.url.path, exc_info=error)
    return failed(request, HTTPException(500, "This is a fault of the console; its log says more."))
