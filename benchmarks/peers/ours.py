"""Our client, to a broker with a worker behind it: the arrays travel as they are, as bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.transport.observations import Answer, Observation
from client import ZmqPolicyClient

SURVIVES_ERRORS = True

Connect = Callable[[str, int, float], Callable[[Observation], Callable[[], Answer]]]


def connecting(**options: Any) -> Connect:
    """`connect` with a client that was made with these options."""

    def connect(
        host: str, port: int, timeout_s: float
    ) -> Callable[[Observation], Callable[[], Answer]]:
        client = ZmqPolicyClient(host, port, timeout_s=timeout_s, **options)

        def prepare(observation: Observation) -> Callable[[], Answer]:
            return lambda: client.infer(observation)

        return prepare

    return connect


# Waits for the broker; the first call waits for the worker. Emulated hosts share this machine's
# memory, as hosts of a LAN do not, so it is not used unless it is what is measured.
connect = connecting(shared_memory=False)


def split(answer: Answer, total_ms: float) -> dict[str, float]:
    """Encoding and decoding are the sums over robot and worker, the queue over broker and worker.

    What nobody owns is the network: sockets, links, and the broker's own work. The broker knows
    how long the worker had the request, and so how much of it lies behind the broker.
    """
    client, server = answer["client_timing"], answer["server_timing"]
    stages = {
        "encode": client["encode_ms"] + server["encode_ms"],
        "queue": server["queue_ms"] + server["wait_ms"],
        "decode": client["decode_ms"] + server["decode_ms"],
        "infer": server["infer_ms"],
    }
    worker = sum(server[stage] for stage in ("decode_ms", "wait_ms", "infer_ms", "encode_ms"))
    behind = server["worker_ms"] - worker
    front = total_ms - behind - sum(stages.values())
    return {**stages, "robot to broker": front, "broker to worker": behind}
