"""A worker on the broker's host leaves TCP for a shorter way, through every life of the broker."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from client import ZmqPolicyClient
from scripts.local.processes import Process
from tests.e2e.stack import WAIT_S, Stack, eventually

MIRROR = "{_target_: tests.e2e.policies.Mirror}"
MOVED = "going on by ipc://@zmq-policy-broker-"


def addresses(worker: Process) -> list[str]:
    """The shorter ways that a worker has taken so far."""
    lines = worker.log.read_text().splitlines()
    return [line.partition("going on by ")[2] for line in lines if MOVED in line]


def _has_moved(worker: Process, times: int) -> bool:
    return len(addresses(worker)) > times


def has_tcp(worker: Process) -> bool:
    """Whether a process has a TCP connection."""
    own = {os.readlink(link) for link in Path(f"/proc/{worker.pid}/fd").iterdir()}
    rows = Path(f"/proc/{worker.pid}/net/tcp").read_text().splitlines()[1:]
    return any(f"socket:[{row.split()[9]}]" in own for row in rows)


def test_it_goes_by_the_shorter_way_and_uses_no_tcp(stack: Stack) -> None:
    stack.broker()
    worker = stack.staged("Mirror")
    worker.wait_ready()
    assert len(addresses(worker)) == 1
    eventually(lambda: not has_tcp(worker), "the first connection is closed")
    assert stack.client().infer({"tag": 1})["seen"] == {"tag": 1}


def test_it_finds_the_next_broker_by_tcp_and_moves_again(stack: Stack) -> None:
    broker = stack.broker()
    worker = stack.staged("Mirror")
    worker.wait_ready()
    client = stack.client()
    for life in range(1, 4):
        assert client.infer({"life": life})["seen"] == {"life": life}
        broker.kill()
        broker = stack.broker()
        assert client.infer({"again": life})["seen"] == {"again": life}
        eventually(partial(_has_moved, worker, life), "it has moved again")
    assert len(set(addresses(worker))) == 4


def test_a_broker_that_stops_in_order_is_followed_too(stack: Stack) -> None:
    broker = stack.broker()
    worker = stack.staged("Mirror")
    worker.wait_ready()
    client = stack.client()
    client.infer({})
    broker.terminate()
    broker.wait(WAIT_S)
    stack.broker()
    assert client.infer({"tag": 1})["seen"] == {"tag": 1}


def test_robots_and_workers_that_share_only_a_folder(stack: Stack) -> None:
    """As two containers with one volume: no port of the broker's is reached."""
    front, back = (f"ipc://{stack.folder}/{name}" for name in ("front", "back"))
    stack.broker(f"frontend={front}", f"backend={back}")
    worker = stack.worker("staged", f"broker={back}", policy=MIRROR)
    worker.wait_ready()
    assert not addresses(worker)
    with ZmqPolicyClient(front, timeout_s=WAIT_S) as client:
        assert client.infer({"tag": 1})["seen"] == {"tag": 1}
