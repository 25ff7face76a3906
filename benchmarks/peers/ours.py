"""Our client, to a broker with a worker behind it."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.transport.observations import Answer, Observation
from client import ZmqPolicyClient

GOES_ON = True


def connect(
    host: str, port: int, timeout_s: float
) -> Callable[[Observation], Callable[[], Answer]]:
    """Wait for the broker. The first call waits for the worker."""
    # Emulated hosts share this machine's memory, as hosts of a LAN do not.
    client = ZmqPolicyClient(host, port, timeout_s=timeout_s, shared_memory=False)

    def prepare(observation: Observation) -> Callable[[], Answer]:
        return lambda: client.infer(observation)

    return prepare


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
