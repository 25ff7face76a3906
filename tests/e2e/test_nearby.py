"""Robots and workers on the broker's host leave TCP for a shorter way, through all its lives."""

from __future__ import annotations

import os
import resource
import socket
from functools import partial
from pathlib import Path

from client import ZmqPolicyClient
from scripts.local.processes import Process, free_ports
from tests.e2e.stack import WAIT_S, Stack, eventually

MIRROR = "{_target_: tests.e2e.policies.Mirror}"
ESTABLISHED = "01"  # as /proc/net/tcp has it
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
    assert robots_by_tcp(stack) == 1


def robots_by_tcp(stack: Stack) -> int:
    """Connections of this process to the robots' port."""
    rows = [row.split() for row in Path("/proc/self/net/tcp").read_text().splitlines()[1:]]
    robots = f":{stack.frontend:04X}"
    return sum(row[2].endswith(robots) and row[3] == ESTABLISHED for row in rows)


def test_a_robot_goes_by_the_shorter_way_through_the_lives_of_two_brokers(
    stack: Stack,
) -> None:
    broker = stack.broker()
    stack.staged("Mirror").wait_ready()
    alone = stack.client()
    nobody = f"tcp://127.0.0.1:{free_ports(1)[0]}"
    first = ZmqPolicyClient([f"tcp://127.0.0.1:{stack.frontend}", nobody], timeout_s=WAIT_S)
    for life in range(3):
        for client in (alone, first):
            assert client.infer({"life": life})["seen"] == {"life": life}
        assert robots_by_tcp(stack) == 0
        broker.kill()
        broker = stack.broker()
    first.close()


def test_robots_and_workers_leave_before_descriptors_run_out(stack: Stack) -> None:
    """A Unix socket's listener would end the broker where it finds none left."""
    broker = stack.broker()
    broker.wait_ready()
    worker = stack.staged("Mirror")
    worker.wait_ready()
    robot = stack.client()
    robot.infer({})
    assert (robots_by_tcp(stack), bool(addresses(worker))) == (0, True)
    used, descriptors = len(os.listdir(f"/proc/{broker.pid}/fd")), resource.RLIMIT_NOFILE
    soft, hard = resource.prlimit(broker.pid, descriptors)
    resource.prlimit(broker.pid, descriptors, (used + 10, hard))
    # Each is hung up on after 3 s, ten at a time: with more of them the robot would wait longer.
    crowd = [socket.create_connection(("127.0.0.1", stack.frontend)) for _ in range(15)]
    open_files = Path(f"/proc/{broker.pid}/fd")
    eventually(lambda: len(os.listdir(open_files)) >= used + 8, "hardly a descriptor is left")
    assert robot.infer({"tag": 1})["seen"] == {"tag": 1}
    assert (robots_by_tcp(stack) > 0, has_tcp(worker)) == (True, True)
    late = stack.staged("Mirror")
    late.wait_ready()
    assert not addresses(late)
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
