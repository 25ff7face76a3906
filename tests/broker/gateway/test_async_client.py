"""The client in an event loop keeps what `ZmqPolicyClient` promises."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed

from broker.gateway.async_client import AsyncPolicyClient
from broker.gateway.loop_connection import LoopConnection
from broker.security import Role
from client import errors
from scripts.keys import make
from scripts.local.processes import free_ports
from tests.broker.gateway.site import Site
from tests.e2e.stack import WAIT_S, eventually
from worker.policies.echo import fingerprint

OBSERVATION = {"state": np.arange(14, dtype=np.float32), "image": np.zeros((300, 300, 3), np.uint8)}


@asynccontextmanager
async def client(port: int, policy: str = "echo") -> AsyncIterator[AsyncPolicyClient]:
    made = AsyncPolicyClient([f"tcp://127.0.0.1:{port}"], policy=policy, robot="arm", key=None)
    try:
        yield made
    finally:
        made.close()


def soon() -> float:
    return time.monotonic() + WAIT_S


async def inside(site: Site) -> None:
    """Wait until the worker of `staged` has begun."""
    folder = site.stack.folder
    await asyncio.to_thread(eventually, lambda: list(folder.glob("*.inside")), "it has begun")


Talk = Callable[[AsyncPolicyClient], Awaitable[Any]]


def run(port: int, talk: Talk, policy: str = "echo") -> Any:
    async def main() -> Any:
        async with client(port, policy) as made:
            return await talk(made)

    return asyncio.run(main())


def test_it_answers_as_the_other_client_does(shared_site: Site) -> None:
    async def talk(made: AsyncPolicyClient) -> list[dict[str, Any]]:
        assert (await made.metadata(soon()))["model"] == "echo"
        await made.reset(soon())
        return [await made.infer(OBSERVATION, soon()) for _ in range(3)]

    answers = run(shared_site.stack.frontend, talk)
    with shared_site.stack.client(policy="echo") as other:
        expected = other.infer(OBSERVATION)
    for answer in answers:
        assert np.array_equal(answer["actions"], expected["actions"])
        assert answer.keys() == expected.keys()
        assert answer["client_timing"].keys() == expected["client_timing"].keys()
        assert answer["server_timing"].keys() == expected["server_timing"].keys()


def test_calls_at_once_take_turns(shared_site: Site) -> None:
    async def talk(made: AsyncPolicyClient) -> list[dict[str, Any]]:
        asked = [made.infer({"number": number}, soon()) for number in range(20)]
        return list(await asyncio.gather(*asked))

    for number, answer in enumerate(run(shared_site.stack.frontend, talk)):
        assert answer["actions"][0, 0] == fingerprint({"number": number})


def test_one_that_is_cancelled_or_too_late_leaves_nothing_to_the_next(shared_site: Site) -> None:
    stack = shared_site.stack

    async def talk(made: AsyncPolicyClient) -> Any:
        first = asyncio.create_task(made.infer({"tag": 1}, soon()))
        await inside(shared_site)
        first.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await first
        with pytest.raises(errors.DeadlineExceeded):
            await made.infer({"tag": 2}, time.monotonic() + 0.05)
        stack.open_gate()
        return (await made.infer({"tag": 3}, soon()))["tag"]

    stack.close_gate()
    try:
        assert run(stack.frontend, talk, "staged") == 3
    finally:
        stack.open_gate()


def test_closing_ends_what_is_under_way(shared_site: Site) -> None:
    async def talk(made: AsyncPolicyClient) -> None:
        asked = [asyncio.create_task(made.infer({"tag": 1}, soon())) for _ in range(2)]
        await inside(shared_site)
        made.close()
        made.close()
        for task in asked:
            with pytest.raises(errors.ClientClosed):
                await task
        with pytest.raises(errors.ClientClosed):
            await made.reset(soon())

    shared_site.stack.close_gate()
    try:
        run(shared_site.stack.frontend, talk, "staged")
    finally:
        shared_site.stack.open_gate()


def test_nobody_there_is_told_at_the_deadline() -> None:
    (port,) = free_ports(1)

    async def talk(made: AsyncPolicyClient) -> None:
        await made.infer({}, time.monotonic() + 0.3)

    with pytest.raises(errors.BrokerUnreachable, match="no broker answers"):
        run(port, talk)


def test_something_else_there_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        async def hang_up() -> None:
            loop = asyncio.get_running_loop()
            listening.setblocking(False)
            while True:
                accepted, _ = await loop.sock_accept(listening)
                accepted.close()

        async def talk(made: AsyncPolicyClient) -> None:
            hanging_up = asyncio.create_task(hang_up())
            try:
                await made.infer({}, time.monotonic() + 1.0)
            finally:
                hanging_up.cancel()

        with pytest.raises(errors.PolicyError, match="broker"):
            run(listening.getsockname()[1], talk)


def test_an_observation_above_the_brokers_limit_is_told(shared_site: Site) -> None:
    async def talk(made: AsyncPolicyClient) -> None:
        await made.infer({"image": np.zeros(17_000_000, np.uint8)}, soon())

    with pytest.raises(errors.MessageTooLarge, match="max_bytes"):
        run(shared_site.stack.frontend, talk)


def test_the_loop_rests_while_the_broker_is_gone(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = site.stack.broker()
    site.stack.worker("echo").wait_ready()
    heard = 0
    really = LoopConnection._heard

    def counted(self: LoopConnection, socket: Any) -> None:
        nonlocal heard
        heard += 1
        really(self, socket)

    monkeypatch.setattr(LoopConnection, "_heard", counted)

    async def talk(made: AsyncPolicyClient) -> int:
        await made.infer(OBSERVATION, soon())
        broker.kill()
        before = heard
        await asyncio.sleep(0.5)  # in which it tries a few times to connect
        return heard - before

    assert 0 < run(site.stack.frontend, talk) < 200


def test_a_broker_that_dies_and_comes_back_costs_no_answer(site: Site) -> None:
    broker = site.stack.broker()
    site.stack.worker("echo").wait_ready()

    async def talk(made: AsyncPolicyClient) -> None:
        await made.infer(OBSERVATION, soon())
        for _ in range(2):
            nonlocal broker
            broker.kill()
            asked = asyncio.create_task(made.infer(OBSERVATION, soon()))
            await asyncio.sleep(0.05)
            broker = site.stack.broker()
            answer = await asked
            assert answer["actions"][0, 0] == fingerprint(OBSERVATION)

    run(site.stack.frontend, talk)


def test_a_gateway_needs_a_key_where_the_broker_has_keys(site: Site) -> None:
    folder = site.stack.folder / "keys"
    gateway_key = make(folder, "gateway", Role.operator, [])
    robot_key = make(folder, "arm", Role.robot, [])
    worker_key = make(folder, "gpu", Role.worker, [])
    site.stack.broker(f"keys={folder}")
    site.stack.worker("echo", f"key={worker_key}").wait_ready()
    keyless, robots, operators = running = [
        site.gateway("deadline_s=2"),
        site.gateway(f"key={robot_key}"),
        site.gateway(f"key={gateway_key}"),
    ]
    for each in running:
        each.process.wait_ready()
    # The broker mostly hangs up before it is heard to ask; the way out is told all the same.
    with pytest.raises(ConnectionClosed, match=r"key=FILE"):
        keyless.connect(robot=None)
    for each in (robots, operators):
        with each.connect(robot=None) as robot:
            assert robot.ask(OBSERVATION)["actions"][0, 0] == fingerprint(OBSERVATION)
    assert "Give the gateway an operator's key" in robots.get("/status", robot=None)[1]
    assert '"trouble":""' in operators.get("/status", robot=None)[1]
    assert "zmq_policy_broker_up 0.0" in robots.get("/metrics", robot=None)[1]
    assert "zmq_policy_broker_up 1.0" in operators.get("/metrics", robot=None)[1]


def test_what_happens_to_a_connection_is_read_while_no_robot_asks() -> None:
    """A monitor that nobody reads would in the end stop all sockets of the gateway."""

    async def idle() -> None:
        (port,) = free_ports(1)
        connection = LoopConnection(f"tcp://127.0.0.1:{port}")
        try:
            async with asyncio.timeout(WAIT_S):
                while connection._peer._unaccepted < 3:  # noqa: ASYNC110 - it announces nothing
                    await asyncio.sleep(0.01)
        finally:
            connection.close()

    asyncio.run(idle())
