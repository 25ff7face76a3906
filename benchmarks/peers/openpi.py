"""openpi's own client and server, as published: one WebSocket, no broker between."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.peers.patience import keep_trying
from benchmarks.transport.observations import ACTIONS, Answer, Observation


class _NoopPolicy:
    """Answers at once. The server writes into the answer, so each gets its own dict."""

    def infer(self, observation: Observation) -> dict[str, Any]:
        return {"actions": ACTIONS}

    def reset(self) -> None:
        pass


def serve(host: str, port: int) -> None:
    """Serve the policy."""
    from openpi_server import WebsocketPolicyServer

    WebsocketPolicyServer(_NoopPolicy(), host=host, port=port).serve_forever()


def connect(
    host: str, port: int, timeout_s: float
) -> Callable[[Observation], Callable[[], Answer]]:
    """Wait for the server. `timeout_s` has nowhere to go: this client waits for ever."""
    from openpi_client.websocket_client_policy import WebsocketClientPolicy

    client = keep_trying(lambda: WebsocketClientPolicy(host, port))

    def prepare(observation: Observation) -> Callable[[], Answer]:
        def ask() -> Answer:
            answer: Answer = client.infer(observation)
            return answer

        return ask

    return prepare


def split(answer: Answer, total_ms: float) -> dict[str, float]:
    """It reports only the policy's own time: packing and unpacking are in the rest."""
    infer = float(answer["server_timing"]["infer_ms"])
    return {"infer": infer, "all else": total_ms - infer}
