"""openpi's own client and server, as published: one WebSocket, no broker between."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.observations import ACTIONS, Actions, Observation
from benchmarks.peers.patience import keep_trying


class _NullPolicy:
    """Answers at once. The server writes into the answer, so each gets its own dict."""

    def infer(self, observation: Observation) -> dict[str, Any]:
        return {"actions": ACTIONS}

    def reset(self) -> None:
        pass


def serve(port: int) -> None:
    """Serve the null policy."""
    from openpi_server import WebsocketPolicyServer

    WebsocketPolicyServer(_NullPolicy(), host="127.0.0.1", port=port).serve_forever()


def connect(port: int) -> Callable[[Observation], Callable[[], Actions]]:
    """Wait for the server."""
    from openpi_client.websocket_client_policy import WebsocketClientPolicy

    client = keep_trying(lambda: WebsocketClientPolicy("127.0.0.1", port))

    def prepare(observation: Observation) -> Callable[[], Actions]:
        def ask() -> Actions:
            actions: Actions = client.infer(observation)["actions"]
            return actions

        return ask

    return prepare
