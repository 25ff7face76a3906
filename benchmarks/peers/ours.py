"""Our client, to a broker with a worker behind it."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.observations import Actions, Observation
from client import ZmqPolicyClient

# 16 robots that send 2.8 MB back to back wait for one worker; and it may still be loading.
_TIMEOUT_S = 60.0


def connect(port: int) -> Callable[[Observation], Callable[[], Actions]]:
    """Wait for the broker. The first question waits for the worker."""
    client = ZmqPolicyClient("127.0.0.1", port, timeout_s=_TIMEOUT_S)

    def prepare(observation: Observation) -> Callable[[], Actions]:
        def ask() -> Actions:
            actions: Actions = client.infer(observation)["actions"]
            return actions

        return ask

    return prepare
