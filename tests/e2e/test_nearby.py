"""A worker on the broker's host leaves TCP for a shorter way, through every life of the broker."""

from __future__ import annotations

import os
import resource
import socket
from functools import partial
from pathlib import Path

from client import ZmqPolicyClient
from scripts.local.processes import Process
from tests.e2e.stack import WAIT_S, Stack, eventually

MIRROR = "{_target_: tests.e2e.policies.Mirror}"
MOVED = "switching to ipc://@zmq-policy-broker-"


def addresses(worker: Process) -> list[str]:
    """The shorter ways that a worker has taken so far."""
    lines = worker.log.read_text().splitlines()
    return [line.partition("switching to ")[2] for line in lines if MOVED in line]


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


def test_it_stays_with_tcp_where_the_broker_says_so(stack: Stack) -> None:
    stack.broker("nearby=false")
    worker = stack.staged("Mirror")
    worker.wait_ready()
    assert stack.client().infer({"tag": 1})["seen"] == {"tag": 1}
    assert (addresses(worker), has_tcp(worker)) == ([], True)


def test_a_broker_short_of_descriptors_sends_nobody_to_where_the_last_one_would_end_it(
    stack: Stack,
) -> None:
    broker = stack.broker()
    broker.wait_ready()
    nearby = stack.staged("Mirror")
    nearby.wait_ready()
    used, descriptors = len(os.listdir(f"/proc/{broker.pid}/fd")), resource.RLIMIT_NOFILE
    soft, hard = resource.prlimit(broker.pid, descriptors)
    resource.prlimit(broker.pid, descriptors, (used + 10, hard))
    late = stack.staged("Mirror")
    late.wait_ready()
    assert addresses(nearby)
    assert (addresses(late), has_tcp(late)) == ([], True)
    # Each is hung up on after 3 s, ten at a time: with more of them the robot would wait longer.
    crowd = [socket.create_connection(("127.0.0.1", stack.frontend)) for _ in range(15)]
    open_files = Path(f"/proc/{broker.pid}/fd")
    eventually(lambda: len(os.listdir(open_files)) >= used + 10, "it has no descriptor left")
    nearby.kill()
    assert stack.client().infer({"tag": 1})["seen"] == {"tag": 1}
    for each in crowd:
        each.close()
    assert broker.is_alive()
    resource.prlimit(broker.pid, descriptors, (soft, hard))


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
