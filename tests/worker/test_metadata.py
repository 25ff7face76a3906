"""What a policy says about itself: every broker takes it, or the worker refuses to start."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from broker.config import BrokerConfig, Limits
from broker.shell import Shell
from client import ZmqPolicyClient
from client.body import encode_body
from client.wire import MAX_METADATA
from scripts.local.processes import free_ports
from worker.errors import WorkerError
from worker.policy import introduce
from worker.service import Service

WAIT_S = 60.0


class Policy:
    """Says about itself as many bytes as it is told to."""

    def __init__(self, size: int) -> None:
        self.metadata = {"robot": "any", "notes": "x" * size}

    def infer(self, observation: dict[str, Any]) -> dict[str, Any]:
        return {"actions": np.zeros((5, 2))}


def test_metadata_that_no_broker_would_take_are_refused() -> None:
    policy = _policy_with_metadata_of(MAX_METADATA + 1)
    with pytest.raises(WorkerError, match=f"metadata has {MAX_METADATA + 1:,} bytes"):
        introduce(policy, "p", 1, b"i" * 16)


def test_the_largest_metadata_reach_a_broker_of_small_messages() -> None:
    front, back = (f"tcp://127.0.0.1:{port}" for port in free_ports(2))
    shell = Shell(BrokerConfig(frontend=front, backend=back, limits=Limits(max_bytes=1_000)))
    policy = _policy_with_metadata_of(MAX_METADATA)
    service = Service(policy, name="p", brokers=[back], slots=1)
    threads = [threading.Thread(target=run) for run in (shell.run, service.run)]
    for thread in threads:
        thread.start()
    try:
        with ZmqPolicyClient(front, timeout_s=WAIT_S) as client:
            assert client.get_server_metadata()["notes"] == policy.metadata["notes"]
    finally:
        service.stop()
        threads[1].join(WAIT_S)
        shell.stop("the test is over")
        threads[0].join(WAIT_S)


def _policy_with_metadata_of(size: int) -> Policy:
    other = sum(map(len, encode_body(Policy(70_000).metadata, buffers=False))) - 70_000
    return Policy(size - other)
