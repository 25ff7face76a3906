"""The page's files and its streams of events (server-sent events, WHATWG HTML 9.2)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from broker.gateway.feed import WATCHED_S, History
from broker.gateway.feeds import Feeds, Told, shown
from broker.gateway.gateway import Gateway
from broker.gateway.guard import Guard
from broker.gateway.tap_watch import follow, look, topics_of
from broker.gateway.view import view
from client.errors import BY_CODE, PolicyError

FOLDER = Path(__file__).parent / "page"
_FILES = {"page.js", "brokers.js", "charts.js", "robot.js", "rows.js", "teams.js", "page.css"}
_LOOK_S = 0.5
_NOT_HERE = (
    "Nothing is kept of this robot: it asks the broker directly, and what it sends passes the "
    "gateway by. With the broker's tap (its setting tap, and the gateway's) it is shown too."
)
_HEADERS = {
    # Nothing is fetched from elsewhere, and no other site may frame the page.
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
_STREAM = {**_HEADERS, "Cache-Control": "no-store", "X-Accel-Buffering": "no"}


def page_routes(gateway: Gateway, feeds: Feeds, guard: Guard) -> list[Route]:
    """The page itself, which tells nothing, and the streams, for those who may look."""

    async def index(_: Request) -> Response:
        return FileResponse(FOLDER / "index.html", headers=_HEADERS)

    async def file(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in _FILES:
            return PlainTextResponse("no such file\n", status_code=404)
        return FileResponse(FOLDER / name, headers=_HEADERS)

    async def events(request: Request) -> Response:
        stream = _status_events(gateway, feeds, request.query_params.get("broker"))
        return StreamingResponse(stream, media_type="text/event-stream", headers=_STREAM)

    async def robot_events(request: Request) -> Response:
        stream = _robot_events(gateway, feeds, request.path_params["id"])
        return StreamingResponse(stream, media_type="text/event-stream", headers=_STREAM)

    return [
        Route("/", index),
        Route("/page/{name}", file),
        Route("/events", guard.guarded(events)),
        Route("/robots/{id}/events", guard.guarded(robot_events)),
    ]


def brokers(told: Sequence[Told], this: Told) -> list[dict[str, Any]]:
    """All brokers for people: which one is shown, and what ails the others."""
    return [
        {"address": each.broker, "is_shown": each is this, "trouble": each.trouble} for each in told
    ]


async def _status_events(gateway: Gateway, feeds: Feeds, chosen: str | None) -> AsyncIterator[str]:
    """The status each second, for as long as somebody looks, of the broker that was chosen."""
    sent_at, sent_of = 0.0, ""
    while True:
        told = await feeds.told()
        this = shown(told, chosen)
        history = feeds.by_broker[this.broker].history
        if this.broker != sent_of:
            sent_at, sent_of = 0.0, this.broker
        points = [point for point in history.points if point["at"] > sent_at]
        sent_at = points[-1]["at"] if points else sent_at
        yield _event(
            "status",
            {
                "at": time.time(),
                "trouble": this.trouble,
                "points": points,
                "errors": _errors(history, gateway),
                "gateway": gateway.status(),
                "brokers": brokers(told, this),
                "broker": {
                    key: value
                    for key, value in this.status.items()
                    if key not in ("errors", "buckets_ms", "latency_ms")
                },
            },
        )
        await asyncio.sleep(WATCHED_S)


async def _robot_events(gateway: Gateway, feeds: Feeds, id: str) -> AsyncIterator[str]:
    shown_at = -1.0
    while True:
        session = gateway.session(id)
        if session is None:
            async for event in _tapped_events(gateway.config.tap, feeds, id):
                yield event
            return
        session.watch()
        seen = session.seen
        if seen is not None and seen.at > shown_at:
            shown_at = seen.at
            shown = await asyncio.to_thread(view, seen.observation, seen.actions)
            yield _event("view", {"at": seen.at, **shown})
        await asyncio.sleep(_LOOK_S)


async def _tapped_events(tap: str | None, feeds: Feeds, id: str) -> AsyncIterator[str]:
    """A robot that asks the broker directly; the tap is left when nobody looks any more."""
    told = await feeds.told() if tap is not None else []
    topics = next(filter(None, (topics_of(each.status, id) for each in told)), [])
    if tap is None or not topics:
        yield _event("note", {"text": _NOT_HERE})
        return
    try:
        async with contextlib.aclosing(follow(tap, id, topics, _LOOK_S)) as exchanges:
            async for asked, answer in exchanges:
                seen = await asyncio.to_thread(look, asked, answer)
                shown = await asyncio.to_thread(view, seen.observation, seen.actions)
                yield _event("view", {"at": seen.at, **shown})
    except PolicyError as error:
        yield _event("note", {"text": f"The tap at {tap} cannot be followed: {error}"})


def _errors(history: History, gateway: Gateway) -> list[dict[str, Any]]:
    """The latest errors that robots were told, by the broker or here, the newest last."""
    found = sorted([*history.errors, *gateway.refusals], key=lambda error: error["at"])
    return [_explained(error) for error in found]


def _explained(error: dict[str, Any]) -> dict[str, Any]:
    """An error with what its code means; its message says what to do."""
    cls = BY_CODE.get(error["code"])
    meaning = "" if cls is None else (cls.__doc__ or "").partition("\n")[0]
    return {**error, "meaning": meaning}


def _event(name: str, data: dict[str, Any]) -> str:
    return f"event: {name}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n"
