"""The gateway's HTTP side: `/metrics`, `/status` and `/healthz`, and the page."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from broker.gateway.broker_metrics import BrokerMetrics
from broker.gateway.config import host_and_port
from broker.gateway.feeds import Feeds, shown
from broker.gateway.gateway import Gateway
from broker.gateway.guard import Guard
from broker.gateway.http_server import serve_app
from broker.gateway.pages import brokers, page_routes


@contextlib.asynccontextmanager
async def listen(gateway: Gateway) -> AsyncIterator[None]:
    """Serve people and Prometheus.

    Raises:
        OSError: the address cannot be bound.
    """
    host, port = host_and_port("http.listen", gateway.config.http.listen or "")
    feeds = Feeds(gateway.connect_operator, gateway.brokers)
    try:
        async with serve_app(application(gateway, feeds), host, port):
            asking = asyncio.create_task(feeds.run())
            yield
            asking.cancel()
    finally:
        feeds.close()


def application(gateway: Gateway, feeds: Feeds) -> Starlette:
    """The routes; each that tells something asks for an operator where there are Api-Keys."""
    guard = Guard(gateway.keys, insecure=gateway.config.insecure)
    broker_metrics = BrokerMetrics()
    gateway.metrics.registry.register(broker_metrics)

    async def metrics(_: Request) -> Response:
        broker_metrics.take(await feeds.told())
        return Response(generate_latest(gateway.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    async def status(request: Request) -> Response:
        told = await feeds.told()
        this = shown(told, request.query_params.get("broker"))
        content = {
            "trouble": this.trouble,
            "brokers": brokers(told, this),
            "broker": this.status,
            "gateway": gateway.status(),
        }
        return JSONResponse(content)

    async def health(_: Request) -> Response:
        return PlainTextResponse("OK\n")

    return Starlette(
        routes=[
            Route("/healthz", health),
            Route("/metrics", guard.guarded(metrics)),
            Route("/status", guard.guarded(status)),
            Route("/login", guard.log_in, methods=["POST"]),
            *page_routes(gateway, feeds, guard),
        ]
    )
