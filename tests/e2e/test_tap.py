"""The tap of a running broker, with subscribers good and bad."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import zmq

from client import ZmqPolicyClient
from client.body import decode_body
from client.tap import ANSWER, REQUEST, Losses, Tapped, decode_tapped, topic
from client.wire import take
from scripts.local.processes import free_ports
from scripts.recording.listener import Listener, NoTap
from tests.e2e.conftest import TapSite
from tests.e2e.stack import WAIT_S, Stack, eventually

WAIT_MS = int(WAIT_S * 1e3)
Socket = zmq.Socket[bytes]


@contextmanager
def subscriber(address: str, *topics: bytes, most: int = 1000) -> Iterator[Socket]:
    context: zmq.Context[Socket] = zmq.Context()
    socket = context.socket(zmq.SUB)
    socket.setsockopt(zmq.RCVHWM, most)
    socket.setsockopt(zmq.RCVBUF, 4096)
    for each in topics or (b"",):
        socket.setsockopt(zmq.SUBSCRIBE, each)
    socket.connect(address)
    try:
        yield socket
    finally:
        context.destroy(linger=0)


def hear(socket: Socket) -> Tapped:
    assert socket.poll(WAIT_MS), "the tap says nothing"
    frames = take(socket)
    assert frames is not None
    return decode_tapped(frames)


def ask_until_heard(stack: Stack, socket: Socket) -> None:
    """A subscription takes a moment to arrive; what comes before it is not told."""
    robot = stack.client(robot="first", shared_memory=False)
    eventually(lambda: robot.infer({"x": 0}) and socket.poll(0), "the tap is heard")
    while socket.poll(200):
        take(socket)


def test_what_passes_by_is_told_whole(tapped: TapSite) -> None:
    picture = np.arange(30_000, dtype=np.uint8)
    stack = tapped.stack
    with subscriber(tapped.tap) as socket:
        ask_until_heard(stack, socket)
        robot = stack.client(robot="arm", session="a", shared_memory=False)
        answer = robot.infer({"picture": picture, "prompt": "fold"})
        asked, answered = hear(socket), hear(socket)
    assert (asked.kind, answered.kind) == (REQUEST, ANSWER)
    assert asked.id == answered.id
    assert asked.id.client.hex()[:8] == robot.id
    assert asked.topic == topic("echo", "arm")
    assert (asked.fields["session"], asked.fields["key"]) == ("a", "")
    observation = decode_body(asked.payload)
    assert np.array_equal(observation["picture"], picture)
    assert observation["prompt"] == "fold"
    assert np.array_equal(decode_body(answered.payload)["actions"], answer["actions"])
    assert answered.at >= asked.at
    assert answered.fields["timing"]["infer_ms"] == answer["server_timing"]["infer_ms"]


def test_one_policy_or_one_robot_can_be_followed_alone(stack: Stack) -> None:
    address = f"ipc://{stack.folder / 'tap'}"
    stack.broker(f"tap={address}").wait_ready()
    for name in ("echo", "other"):
        stack.worker(name).wait_ready()
    with (
        subscriber(address, topic("other"), topic("echo", "b")) as socket,
        subscriber(address) as all,
    ):
        robots = {
            (policy, name): stack.client(policy=policy, robot=name)
            for policy in ("echo", "other")
            for name in ("a", "b")
        }
        for each in robots.values():
            each.infer({"x": 0})
        eventually(lambda: robots["other", "a"].infer({"x": 0}) and socket.poll(0), "it is heard")
        eventually(lambda: robots["echo", "b"].infer({"x": 0}) and all.poll(0), "it is heard")
        while socket.poll(200):
            take(socket)
        for each in robots.values():
            each.infer({"x": 0})
        heard = {tuple(hear(socket).topic.decode().split("\0")[:2]) for _ in range(6)}
        assert heard == {("other", "a"), ("other", "b"), ("echo", "b")}
        assert not socket.poll(200)


def test_a_subscriber_that_never_reads_loses_messages_and_learns_how_many(tapped: TapSite) -> None:
    stack, broker = tapped.stack, tapped.broker
    picture = np.zeros(900_000, np.uint8)
    with subscriber(tapped.tap, most=1) as socket:
        ask_until_heard(stack, socket)
        # Numbers count within a topic, so it has to be a robot that no other test has.
        robot = stack.client(robot="unread", shared_memory=False)
        losses, last = Losses(), 0
        robot.infer({"x": 0})
        while last < 2:  # its request and its answer, behind what was told of the first
            message = hear(socket)
            if message.topic == topic("echo", "unread"):
                losses.seen(message)
                last = message.number
        before_mb = broker.resident_mb()
        for _ in range(60):  # 108 MB, there and back
            robot.infer({"picture": picture})
        assert broker.resident_mb() - before_mb < 40
        while last < 110:  # what was kept, and then what comes anew, whose number tells the rest
            if not socket.poll(500):
                robot.infer({"x": 1})
            message = hear(socket)
            losses.seen(message)
            last = message.number
        assert losses.count >= 50
        assert losses.count < last


def test_a_broker_without_listeners_tells_nothing_and_goes_on_when_they_leave(stack: Stack) -> None:
    (port,) = free_ports(1)
    address = f"tcp://127.0.0.1:{port}"
    stack.broker(f"tap={address}").wait_ready()
    stack.worker("echo").wait_ready()
    robot = stack.client(robot="arm")
    for _ in range(2):
        with subscriber(address) as socket:
            eventually(lambda: robot.infer({"x": 0}) and socket.poll(0), "the tap is heard")
            hear(socket)
    assert robot.infer({"x": 1})["actions"] is not None


def test_garbage_at_the_tap_harms_nobody(tapped: TapSite) -> None:
    stack, address = tapped.stack, tapped.tap
    robot = stack.client(robot="arm")
    with zmq.Context() as context, context.socket(zmq.XSUB) as stranger:
        stranger.linger = 0
        stranger.connect(address)
        for each in (b"", b"\0never", b"\1" + b"x" * 500, b"\1" + b"x" * 100_000, b"\7"):
            stranger.send(each)
        with subscriber(address) as socket:
            eventually(lambda: robot.infer({"x": 0}) and socket.poll(0), "the tap is heard")
    assert robot.infer({"x": 1})["actions"] is not None


def until_heard(robot: ZmqPolicyClient, listener: Listener) -> None:
    eventually(lambda: robot.infer({"x": 0}) and list(listener.take(0)), "the tap is heard")


def test_more_programs_than_may_listen_are_refused_and_let_in_when_one_leaves(
    stack: Stack,
) -> None:
    address = f"ipc://{stack.folder / 'tap'}"
    broker = stack.broker(f"tap={address}", "limits.max_tap_listeners=2")
    broker.wait_ready()
    stack.worker("echo").wait_ready()
    first, second = Listener(address, [b""]), Listener(address, [b""])
    for each in (first, second):
        each.wait(WAIT_S)
    third = Listener(address, [b""])
    with pytest.raises(NoTap, match="limits.max_tap_listeners"):
        third.wait(1.0)
    third.close()
    robot = stack.client(robot="arm")
    for each in (first, second):
        until_heard(robot, each)
    assert robot.status()["counters"]["tap refused: full"] >= 1
    first.close()

    def is_let_in() -> bool:
        fourth = Listener(address, [b""])
        try:
            fourth.wait(1.0)
        except NoTap:
            return False
        finally:
            fourth.close()
        return True

    eventually(is_let_in, "there is room again")
    until_heard(robot, second)
    second.close()
    assert broker.is_alive()


def test_a_tap_that_cannot_be_bound_is_named(stack: Stack) -> None:
    (stack.folder / "file").touch()
    broker = stack.broker(f"tap=ipc://{stack.folder / 'file'}")
    assert broker.wait(WAIT_S) == 3
    assert "cannot bind tap=ipc://" in broker.log.read_text()
