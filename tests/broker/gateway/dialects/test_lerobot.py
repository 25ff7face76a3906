"""LeRobot's gRPC, by a client written from what is known of theirs."""

from __future__ import annotations

import os
import pickle
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest
import torch

from tests.broker.gateway.dialects.lerobot_robot import (
    RemotePolicyConfig,
    Robot,
    TimedObservation,
)
from tests.broker.gateway.site import KEYS, RunningGateway
from tests.e2e.stack import WAIT_S
from worker.policies.echo import fingerprint

NAMES = [f"joint_{number}.pos" for number in range(14)]
IMAGE = np.random.default_rng(5).integers(0, 256, (480, 640, 3), np.uint8)
FEATURES = {
    "observation.state": {"dtype": "float32", "shape": (14,), "names": NAMES},
    "observation.images.top": {"dtype": "image", "shape": (480, 640, 3), "names": ["h", "w", "c"]},
}


def setup(path: str = f"api-key:{KEYS['arm-1']}") -> RemotePolicyConfig:
    return RemotePolicyConfig("pi0", path, FEATURES, 20)


def observation(step: int, first: float = 0.0, image: Any = IMAGE, **more: Any) -> TimedObservation:
    joints = {name: np.float32(first + at) for at, name in enumerate(NAMES)}
    return TimedObservation(100.0, step, {**joints, "top": image, "task": "fold"}, **more)


def expected(first: float = 0.0) -> float:
    state = np.arange(14, dtype=np.float32) + np.float32(first)
    images = {"cam_high": np.moveaxis(IMAGE, -1, 0)}
    return float(np.float32(fingerprint({"images": images, "state": state, "prompt": "fold"})))


@pytest.fixture
def robot(dialects: RunningGateway) -> Any:
    with Robot(dialects.ports["lerobot"]) as found:
        yield found


def test_an_observation_is_answered_with_timed_actions_of_torch(robot: Robot) -> None:
    robot.call("Ready")
    robot.instruct(setup())
    robot.observe(observation(7, must_go=True))
    actions = robot.actions()
    assert [each.timestep for each in actions] == list(range(7, 27))
    assert actions[3].timestamp == pytest.approx(100.0 + 3 / 30)
    assert isinstance(actions[0].action, torch.Tensor)
    assert actions[0].action.dtype == torch.float32
    assert actions[0].action.shape == (14,)
    assert float(actions[0].action[0]) == expected()
    assert robot.actions() is None, "an observation is answered once"
    assert robot.error == ""


def test_a_tensor_as_camera_and_a_newer_observation_in_an_older_ones_place(robot: Robot) -> None:
    robot.instruct(setup())
    robot.observe(observation(1, 50.0))
    robot.observe(observation(2, 3.0, image=torch.from_numpy(IMAGE)))
    actions = robot.actions()
    assert actions[0].timestep == 2
    assert float(actions[0].action[0]) == expected(3.0)


def test_a_step_that_was_answered_is_not_answered_again_unless_it_must_be(robot: Robot) -> None:
    robot.instruct(setup())
    robot.observe(observation(4))
    assert robot.actions()
    robot.observe(observation(4))
    assert robot.actions() is None
    robot.observe(observation(4, must_go=True))
    assert robot.actions()[0].timestep == 4
    robot.call("Ready")
    robot.observe(observation(0))
    assert robot.actions()[0].timestep == 0


def with_key(name: str) -> list[tuple[str, str]]:
    return [("authorization", f"Bearer {KEYS[name]}")]


def test_a_connection_that_was_lost_goes_on_with_its_hosts_instructions(
    dialects: RunningGateway, robot: Robot
) -> None:
    robot.instruct(setup())
    robot.close()
    with Robot(dialects.ports["lerobot"], with_key("arm-1")) as again:
        again.observe(observation(0))
        assert float(again.actions()[0].action[0]) == expected()


@pytest.mark.parametrize("metadata", [[], with_key("gate")], ids=["no key", "another's key"])
def test_another_user_of_that_host_gets_no_ones_identity(
    dialects: RunningGateway, robot: Robot, metadata: list[tuple[str, str]]
) -> None:
    robot.instruct(setup())
    with (
        Robot(dialects.ports["lerobot"], metadata) as stranger,
        pytest.raises(grpc.RpcError) as refused,
    ):
        stranger.observe(observation(0))
    code, _ = status(refused)
    unkeyed, instructions_first = (
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.INVALID_ARGUMENT,
    )
    assert code == (instructions_first if metadata else unkeyed)


def status(error: pytest.ExceptionInfo[Any]) -> tuple[Any, str]:
    return error.value.code(), error.value.details()


@pytest.mark.parametrize("path", ["lerobot/pi0", "api-key:a-key-that-nobody-has"])
def test_a_wrong_key_is_refused(robot: Robot, path: str) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        robot.instruct(setup(path))
    code, text = status(refused)
    assert code == grpc.StatusCode.UNAUTHENTICATED
    assert text.startswith("forbidden: ")


def test_a_key_may_come_as_metadata(robot: Robot) -> None:
    robot.instruct(setup("any"), metadata=with_key("arm-1"))
    robot.observe(observation(0))
    assert robot.actions()


def test_what_is_no_observation_has_no_actions_and_the_reason(robot: Robot) -> None:
    robot.instruct(setup())
    robot.observe(TimedObservation(0.0, 1, {"joint_0.pos": 1.0}))
    assert robot.actions() is None
    assert robot.error.startswith("bad_observation: the observation lacks joint_1.pos")
    robot.observe(observation(2))
    assert robot.actions()


class Call:
    def __reduce__(self) -> Any:
        return os.system, ("touch /tmp/never",)


@pytest.mark.parametrize(
    "data",
    [
        pickle.dumps(Call()),
        pickle.dumps(TimedObservation(0.0, 1, {"top": Call()})),
        pickle.dumps({"a": 1}),
        pickle.dumps(TimedObservation(0.0, -1, {})),
        pickle.dumps(TimedObservation("now", 1, {})),  # type: ignore[arg-type]
        b"\x80\x04",
        os.urandom(2000),
        b"not a pickle",
    ],
)
def test_a_pickle_that_calls_or_is_none_is_refused(robot: Robot, data: bytes) -> None:
    robot.instruct(setup())
    with pytest.raises(grpc.RpcError) as refused:
        robot.observe_with(data)
    assert status(refused)[0] == grpc.StatusCode.INVALID_ARGUMENT
    with pytest.raises(grpc.RpcError):
        robot.instruct_with(data)
    robot.observe(observation(3))
    assert robot.actions()


def test_100_mb_are_refused(robot: Robot) -> None:
    robot.instruct(setup())
    with pytest.raises(grpc.RpcError) as refused:
        robot.observe_with(bytes(100_000_000))
    assert status(refused)[0] == grpc.StatusCode.RESOURCE_EXHAUSTED
    with pytest.raises(grpc.RpcError) as refused:
        robot.call("SendPolicyInstructions", bytes(100_000_000))
    assert status(refused)[0] == grpc.StatusCode.RESOURCE_EXHAUSTED
    robot.observe(observation(3))
    assert robot.actions()


def test_an_unknown_method_and_garbage_bother_nobody(
    dialects: RunningGateway, robot: Robot
) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        robot.call("Kill")
    assert status(refused)[0] == grpc.StatusCode.UNIMPLEMENTED
    with pytest.raises(grpc.RpcError) as refused:
        robot.call("SendPolicyInstructions", b"\xff\xff")
    assert status(refused)[0] == grpc.StatusCode.INVALID_ARGUMENT
    address = ("127.0.0.1", dialects.ports["lerobot"])
    for data in (os.urandom(4096), b"PRI * HTTP/2.0\r\n\r\nSM"):
        with socket.create_connection(address, WAIT_S) as found:
            found.sendall(data)
            robot.call("Ready")


def test_robots_at_once_get_each_their_own(dialects: RunningGateway) -> None:
    def ask(number: int) -> bool:
        with Robot(dialects.ports["lerobot"]) as found:
            found.instruct(setup())
            found.observe(observation(number, number))
            return float(found.actions()[0].action[0]) == expected(number)

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(ask, range(8)))
